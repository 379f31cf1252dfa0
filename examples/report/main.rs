//! Joins measurements into one file for each device and draws its charts:
//!
//!     cargo run --release --example report -- [--criterion target/criterion] [--out benches/results] ROWS.csv...
//!
//! Rows come from files of the layout that `benches/peers/README.md` describes, the benches' and the peers' alike, and from criterion's own files
//! of the CPU benches, to which `LOGIT_PERTURB_HOST` gives the first five columns. A row replaces an earlier one of the same device, point and
//! peer: a device's file can be given again with what is new. A chart without data is not drawn. `--predictions` prints instead what the kernels'
//! plans let one expect of devices.

mod chart;
mod charts;
mod criterion;
#[path = "../../tests/common/devices.rs"]
mod devices;
mod predictions;
mod row;

use anyhow::{Context, Result};
use clap::Parser;
use row::Row;
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Parser)]
#[command(name = "report", about = "Joins measurements and draws charts of them")]
struct Options {
    /// Criterion's folder, with results of the CPU benches.
    #[arg(long)]
    criterion: Option<PathBuf>,
    /// Where results and charts go.
    #[arg(long, default_value = "benches/results")]
    out: PathBuf,
    /// Prints what is predicted of devices, the table of docs/performance.md, and nothing else.
    #[arg(long)]
    predictions: bool,
    /// Files of rows.
    rows: Vec<PathBuf>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if options.predictions {
        return predictions::print();
    }
    let mut rows = Vec::new();
    for path in &options.rows {
        rows.extend(row::read(path).with_context(|| format!("cannot read {}", path.display()))?);
    }
    if let Some(folder) = &options.criterion {
        rows.extend(criterion::read(folder).with_context(|| format!("cannot read {}", folder.display()))?);
    }
    let mut devices: BTreeMap<String, BTreeMap<_, Row>> = BTreeMap::new();
    for row in rows {
        devices.entry(row.device.clone()).or_default().insert(row.key(), row);
    }
    std::fs::create_dir_all(&options.out)?;
    for (device, rows) in devices {
        let name: String = device.to_lowercase().split_whitespace().collect::<Vec<_>>().join("-");
        let rows: Vec<Row> = rows.into_values().collect();
        row::write(&options.out.join(format!("{name}.csv")), &rows)?;
        for path in charts::draw(&device, &rows, &options.out.join(name))? {
            println!("{}", path.display());
        }
    }
    Ok(())
}
