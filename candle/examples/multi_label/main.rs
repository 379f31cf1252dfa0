//! Multi-label classification: a small perceptron trained in candle on the yeast data with five losses of `logit-perturb`.
//!
//! `cargo run --release -p logit-perturb-candle --example multi_label -- --help`

#[path = "../common/mod.rs"]
mod common;
mod experiment;
mod method;
mod metrics;
mod yeast;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use common::chart::{Chart, Series};
use common::report::{against, table};
use common::runs::run_all;
use common::statistics::{Summary, mean};
use experiment::{Experiment, Scores};
use method::Method;
use plotters::chart::SeriesLabelPosition;
use std::path::PathBuf;
use std::time::Instant;
use yeast::Yeast;

/// One number of a training.
type Score = fn(&Scores) -> f64;

/// The numbers that are reported of every method.
const SCORES: [(&str, Score); 3] = [
    ("macro mAP", |scores| scores.mean_average_precision),
    ("macro F1", Scores::macro_f1),
    ("rare labels' F1", Scores::rare_f1),
];

/// Printed under the table.
const NOTES: &str = "\
In %, on the test rows. mAP: the mean over labels of average precision, the sum over distinct scores of precision
times recall gained. F1 at probability 0.5. Rare: carried by less than 35 % of the training rows. To BCE: the paired
difference, and on how many seeds it is an improvement. More F1 at the same mAP is a moved threshold, not a better
ranking.";

/// Compares losses on multi-label data.
#[derive(Parser)]
struct Options {
    /// The losses, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Method::value_variants().to_vec())]
    methods: Vec<Method>,
    /// How many seeds; each decides the split, the first weights and the batches
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    seeds: u64,
    /// Passes over the training set
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    epochs: u32,
    /// The chart's file [default: target/multi_label-yeast.svg in the workspace]
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> Result<()> {
    let mut options = Options::parse();
    options.methods.sort_unstable();
    options.methods.dedup();
    let experiment = Experiment::new(options.epochs as usize)?;
    let (rows, features, labels) = experiment.yeast.shape();
    println!("yeast: {rows} rows, {features} features, {labels} labels; mean ± sd, seeds: {}", options.seeds);

    let start = Instant::now();
    let scores = run_all(&options.methods, options.seeds, options.epochs, |method, rng, epoch_done| {
        experiment.run(method, rng, epoch_done)
    })?;
    print_table(&options.methods, &scores);
    println!("trained in {:.1} s", start.elapsed().as_secs_f64());

    let path = options.out.unwrap_or_else(|| logit_perturb_data::workspace().join("target/multi_label-yeast.svg"));
    chart(&experiment.yeast, options.seeds, &options.methods, &scores).save(&path)?;
    println!("chart: {}", path.display());
    Ok(())
}

/// `scores` is `[method][seed]`.
fn print_table(methods: &[Method], scores: &[Vec<Scores>]) {
    let of = |by_seed: &[Scores], score: Score| by_seed.iter().map(score).collect::<Vec<_>>();
    let baseline = methods.iter().position(|&method| method == Method::Bce);
    let row = |(method, by_seed): (&Method, &Vec<Scores>)| {
        let mut cells = vec![method.name().to_string()];
        for (_, score) in SCORES {
            let values = of(by_seed, score);
            let baseline = baseline.filter(|_| *method != Method::Bce).map(|index| of(&scores[index], score));
            cells.push(Summary::of(&values).to_string());
            cells.push(against(baseline.as_deref(), &values, |difference| difference > 0.0));
        }
        cells
    };
    let mut header = vec!["method"];
    header.extend(SCORES.iter().flat_map(|(name, _)| [name, "to BCE (better on)"]));
    println!("{}", table(&header, methods.iter().zip(scores).map(row)));
    println!("{NOTES}");
}

fn chart(yeast: &Yeast, seeds: u64, methods: &[Method], scores: &[Vec<Scores>]) -> Chart {
    let (rows, ..) = yeast.shape();
    let counts = yeast.counts(0..rows);
    let mut labels: Vec<usize> = (0..counts.len()).collect();
    labels.sort_by(|&a, &b| counts[b].total_cmp(&counts[a]));
    let series = |(method, by_seed): (&Method, &Vec<Scores>)| {
        let of_label = |&label: &usize| mean(&by_seed.iter().map(|scores| scores.f1[label]).collect::<Vec<_>>());
        Series { name: method.name(), colour: *method as usize, values: labels.iter().map(of_label).collect() }
    };
    Chart {
        title: format!("yeast, F1 at probability 0.5 on the test set by label frequency (mean, seeds: {seeds})"),
        x: "share of all rows that carry the label, most frequent first",
        y: "F1 in %",
        categories: labels.iter().map(|&label| format!("{:.0} %", 100.0 * counts[label] / rows as f64)).collect(),
        legend: SeriesLabelPosition::UpperRight,
        series: methods.iter().zip(scores).map(series).collect(),
    }
}
