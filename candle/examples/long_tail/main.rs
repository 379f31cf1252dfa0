//! Long-tailed classification: a small perceptron trained in candle with five losses of `logit-perturb`, on a training set in which some
//! digits are 50 or 100 times as frequent as others, and tested on a balanced one.
//!
//! `cargo run --release -p logit-perturb-candle --example long_tail -- --help`

#[path = "../common/mod.rs"]
mod common;
mod dataset;
mod experiment;
mod method;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use common::chart::{Chart, Series};
use common::report::{against, table};
use common::runs::run_all;
use common::statistics::{Summary, mean};
use dataset::{CLASSES, Name, Recipe};
use experiment::Experiment;
use method::Method;
use plotters::chart::SeriesLabelPosition;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Instant;

/// The ranks that are called head, middle and tail.
const GROUPS: [(&str, Range<usize>); 3] = [("head recall", 0..3), ("middle", 3..7), ("tail", 7..CLASSES)];

/// Printed under the table.
const NOTES: &str = "\
In %. Balanced error: 100 less the mean recall of the classes. To CE: the paired difference, and on how many seeds
it is an improvement. Head, middle, tail: the first 3, middle 4 and last 3 classes by frequency in training.";

/// Compares losses on a long-tailed training set.
#[derive(Parser)]
struct Options {
    /// Where the digits come from
    #[arg(long, value_enum, default_value_t = Name::Digits)]
    dataset: Name,
    /// The losses, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Method::value_variants().to_vec())]
    methods: Vec<Method>,
    /// How many seeds; each decides the digits' ranks, the split, the first weights and the batches
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    seeds: u64,
    /// Passes over the training set
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    epochs: u32,
    /// The chart's file [default: target/long_tail-<DATASET>.svg in the workspace]
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> Result<()> {
    // candle splits operations on 65536 numbers and more between spinning threads that the whole process shares; while the trainings fill
    // the cores, these threads spend several times longer waiting than computing.
    // SAFETY: the first statement of the program: no other thread reads the environment.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    let mut options = Options::parse();
    options.methods.sort_unstable();
    options.methods.dedup();
    let recipe = options.dataset.recipe();
    let experiment = Experiment::new(recipe, options.epochs as usize)?;
    let [first, .., last] = recipe.train_rows();
    println!(
        "{}: {} training rows, {first} to {last} a class; {} test rows, {} a class; mean ± sd, seeds: {}",
        recipe.name,
        recipe.train_rows().iter().sum::<usize>(),
        recipe.test_rows * CLASSES,
        recipe.test_rows,
        options.seeds
    );

    let start = Instant::now();
    let recalls = run_all(&options.methods, options.seeds, options.epochs, |method, rng, epoch_done| {
        experiment.run(method, rng, epoch_done)
    })?;
    print_table(&options.methods, &recalls);
    println!("trained in {:.1} s", start.elapsed().as_secs_f64());

    let default = || logit_perturb_data::workspace().join(format!("target/long_tail-{}.svg", recipe.name));
    let path = options.out.unwrap_or_else(default);
    chart(&recipe, options.seeds, &options.methods, &recalls).save(&path)?;
    println!("chart: {}", path.display());
    Ok(())
}

/// `recalls` is `[method][seed][rank]`.
fn print_table(methods: &[Method], recalls: &[Vec<[f64; CLASSES]>]) {
    let errors = |by_seed: &Vec<[f64; CLASSES]>| by_seed.iter().map(|recall| 100.0 - mean(recall)).collect();
    let errors: Vec<Vec<f64>> = recalls.iter().map(errors).collect();
    let baseline = methods.iter().position(|&method| method == Method::Ce).map(|index| errors[index].as_slice());
    let row = |((method, errors), by_seed): ((&Method, &Vec<f64>), &Vec<[f64; CLASSES]>)| {
        let mut cells = vec![method.name().to_string(), Summary::of(errors).to_string()];
        cells.push(against(baseline.filter(|_| *method != Method::Ce), errors, |difference| difference < 0.0));
        cells.extend(GROUPS.map(|(_, ranks)| {
            let of_seed = |recall: &[f64; CLASSES]| mean(&recall[ranks.clone()]);
            Summary::of(&by_seed.iter().map(of_seed).collect::<Vec<_>>()).to_string()
        }));
        cells
    };
    let mut header = vec!["method", "balanced error", "to CE (better on)"];
    header.extend(GROUPS.map(|(name, _)| name));
    println!("{}", table(&header, methods.iter().zip(&errors).zip(recalls).map(row)));
    println!("{NOTES}");
}

fn chart(recipe: &Recipe, seeds: u64, methods: &[Method], recalls: &[Vec<[f64; CLASSES]>]) -> Chart {
    let series = |(method, by_seed): (&Method, &Vec<[f64; CLASSES]>)| {
        let at = |rank: usize| mean(&by_seed.iter().map(|recall| recall[rank]).collect::<Vec<_>>());
        Series { name: method.name(), colour: *method as usize, values: (0..CLASSES).map(at).collect() }
    };
    Chart {
        title: format!(
            "{} {:.0}:1, recall on the test set by class frequency (mean, seeds: {seeds})",
            recipe.name, recipe.ratio
        ),
        x: "training rows of the class, most frequent first",
        y: "recall in %",
        categories: recipe.train_rows().iter().map(usize::to_string).collect(),
        legend: SeriesLabelPosition::LowerLeft,
        series: methods.iter().zip(recalls).map(series).collect(),
    }
}
