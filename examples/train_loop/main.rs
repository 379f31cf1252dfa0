//! The training loop that a trainer's author copies: a linear classifier of handwritten digits, its logits by cuBLAS, our loss in place, the
//! step captured in a graph and replayed, the results read once an epoch. Raw cudarc, no framework.
//!
//! `cargo run --release --example train_loop`. Without a CUDA device it says so and runs the same loop on the CPU.

mod digits;
mod on_cpu;
#[cfg(feature = "cuda")]
mod on_gpu;

use digits::{BATCH, CLASSES, Digits, FEATURES};
use logit_perturb::{ClassCounts, CrossEntropy, Perturbation};

/// Passes over the training set.
const EPOCHS: usize = 20;
/// Step size of plain gradient descent.
const RATE: f32 = 0.5;

/// Where the parameters live and a step is run.
trait Trainer {
    /// Trains on an epoch's batches, features `[steps * BATCH, FEATURES]` and labels; returns the loss of the last batch.
    fn epoch(&mut self, features: &[f32], labels: &[i32]) -> anyhow::Result<f32>;

    /// The weights `[FEATURES, CLASSES]`.
    fn weights(&self) -> anyhow::Result<Vec<f32>>;
}

fn trainer(problem: CrossEntropy) -> anyhow::Result<Box<dyn Trainer>> {
    #[cfg(feature = "cuda")]
    match logit_perturb::cuda::Kernels::open(0) {
        Ok(kernels) => return Ok(Box::new(on_gpu::Gpu::new(&kernels, &problem)?)),
        Err(reason) => println!("{reason}"),
    }
    println!("the same loop on the CPU:");
    Ok(Box::new(on_cpu::Cpu::new(problem)))
}

fn main() -> anyhow::Result<()> {
    let digits = Digits::read()?;
    // Logit adjustment, the fixed perturbation that the kernels have; the digits are nearly balanced, so it changes little here.
    let counts = ClassCounts::from_labels(digits.train.labels.iter().map(|&label| label as usize), CLASSES)?;
    let problem = CrossEntropy::builder().perturbation(Perturbation::logit_adjustment(&counts, 1.0)?).build()?;
    let mut trainer = trainer(problem)?;
    for epoch in 1..=EPOCHS {
        let (features, labels) = digits.train.shuffled(epoch as u64);
        let loss = trainer.epoch(&features, &labels)?;
        let accuracy = digits.test.accuracy(&trainer.weights()?);
        println!("epoch {epoch:2}: loss {loss:.4}, test accuracy {:.1} %", 100.0 * accuracy);
    }
    println!("{} batches of {BATCH} x {FEATURES} an epoch", digits.train.labels.len() / BATCH);
    Ok(())
}
