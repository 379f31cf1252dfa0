//! Rows from the files that criterion leaves of `benches/cpu.rs`: medians, for benchmarks named WHAT/VARIANT/NxC.

use crate::row::Row;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::fs::{File, read_dir};
use std::path::Path;

#[derive(Deserialize)]
struct Benchmark {
    group_id: String,
    function_id: Option<String>,
    value_str: Option<String>,
    throughput: Option<Throughput>,
}

#[derive(Deserialize)]
struct Throughput {
    #[serde(rename = "Bytes")]
    bytes: Option<u64>,
}

#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    /// Nanoseconds.
    point_estimate: f64,
}

/// What the CPU benches measure.
const GROUPS: [&str; 3] = ["cross_entropy", "binary_cross_entropy", "learner"];

pub fn read(folder: &Path) -> Result<Vec<Row>> {
    let host = std::env::var("LOGIT_PERTURB_HOST").context("LOGIT_PERTURB_HOST says whose results these are")?;
    let host: Vec<&str> = host.split(',').collect();
    let [device, driver, cuda, date, commit] = host.as_slice() else { anyhow::bail!("it has five columns") };
    let mut rows = Vec::new();
    for group in GROUPS.map(|group| folder.join(group)).into_iter().filter(|group| group.exists()) {
        for variant in read_dir(group)? {
            for size in read_dir(variant?.path())? {
                let new = size?.path().join("new");
                if !new.exists() {
                    continue;
                }
                let benchmark: Benchmark = serde_json::from_reader(File::open(new.join("benchmark.json"))?)?;
                let estimates: Estimates = serde_json::from_reader(File::open(new.join("estimates.json"))?)?;
                let Benchmark { group_id, function_id: Some(variant), value_str: Some(shape), throughput } = benchmark
                else {
                    continue;
                };
                let (n, c) = shape.split_once('x').context("a benchmark's value is NxC")?;
                rows.push(Row {
                    device: (*device).to_owned(),
                    driver: (*driver).to_owned(),
                    cuda: (*cuda).to_owned(),
                    date: (*date).to_owned(),
                    commit: (*commit).to_owned(),
                    what: group_id,
                    variant,
                    dtype: "f32".to_owned(),
                    n: Some(n.parse()?),
                    c: Some(c.parse()?),
                    bytes: throughput.and_then(|throughput| throughput.bytes),
                    us: format!("{:.3}", estimates.median.point_estimate / 1e3),
                    share_of_copy: None,
                    peer: String::new(),
                    ratio: None,
                });
            }
        }
    }
    Ok(rows)
}
