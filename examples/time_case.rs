//! Times the reference on a case file (SPEC 7), a run whenever it is told to, so that another process can take turns with it: `benches/peers`
//! does. `time_case FROM TO` copies the case FROM to TO with the reference's results as expectations, then reads lines from standard input and
//! answers each with the microseconds that loss and gradient took. Gradients have the logits' type, f32.

use anyhow::{Context, Result, bail, ensure};
use logit_perturb::cpu::{BinaryCrossEntropyBatch, CrossEntropyBatch, Pass, binary_cross_entropy, cross_entropy};
use logit_perturb::{BinaryTargets, Matrix, MatrixMut};
use logit_perturb_cases::{Case, Problem, evaluate_cpu, write};
use std::io::{BufRead, stdin};
use std::path::Path;
use std::time::Instant;

/// The batch of a case in the types that a trainer has it in.
struct Batch {
    problem: Problem,
    shape: (usize, usize),
    logits: Vec<f32>,
    labels: Vec<i64>,
    targets: Vec<i8>,
    gradient: Vec<f32>,
}

impl Batch {
    fn new(case: &Case) -> Self {
        let (_, logits) = case.logits();
        let targets = case.input("targets").unwrap_or_default();
        Self {
            problem: case.problem.clone(),
            shape: (case.rows, case.classes),
            logits: logits.iter().map(|&u| u as f32).collect(),
            labels: case.labels().unwrap_or_default().to_vec(),
            targets: targets.iter().map(|&t| t as i8).collect(),
            gradient: vec![0.0; logits.len()],
        }
    }

    fn run(&mut self) -> Result<f64> {
        let (n, c) = self.shape;
        let logits = Matrix::new(&self.logits, n, c)?;
        let pass = Pass::Into { logits, gradient: MatrixMut::new(&mut self.gradient, n, c)? };
        Ok(match &self.problem {
            Problem::Softmax(problem) => cross_entropy(problem, pass, CrossEntropyBatch::labels(&self.labels))?.loss,
            Problem::Sigmoid(problem) => {
                let targets = BinaryTargets::I8 { data: &self.targets, stride: c };
                binary_cross_entropy(problem, pass, BinaryCrossEntropyBatch::new(targets))?.loss
            }
        })
    }
}

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [from, to] = arguments.as_slice() else { bail!("usage: time_case FROM TO") };
    let case = Case::read(Path::new(from)).with_context(|| format!("cannot read {from}"))?;
    let results = evaluate_cpu(&case)?;
    write(Path::new(from), Path::new(to), &results)?;
    let mut batch = Batch::new(&case);
    // What is timed is what the expectations are of.
    batch.run()?;
    let expected = results.tensors["grad"].to_f64();
    let same = batch.gradient.iter().zip(&expected).all(|(found, expected)| *found == *expected as f32);
    ensure!(same, "the run that is timed gives another gradient than the case's");
    println!("ready");
    for line in stdin().lock().lines() {
        line?;
        let start = Instant::now();
        std::hint::black_box(batch.run()?);
        println!("{:.3}", start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(())
}
