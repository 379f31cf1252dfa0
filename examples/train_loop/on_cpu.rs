//! The loop on the CPU path: the same problem, the reference's loss.

use crate::digits::{BATCH, CLASSES, FEATURES, first_weights};
use crate::{RATE, Trainer};
use logit_perturb::cpu::{CrossEntropyBatch, Pass, cross_entropy};
use logit_perturb::{CrossEntropy, MatrixMut};

/// Weights in host memory.
pub struct Cpu {
    problem: CrossEntropy,
    weights: Vec<f32>,
}

impl Cpu {
    /// With the first weights.
    pub fn new(problem: CrossEntropy) -> Self {
        Self { problem, weights: first_weights() }
    }
}

impl Trainer for Cpu {
    fn epoch(&mut self, features: &[f32], labels: &[i32]) -> anyhow::Result<f32> {
        let mut loss = 0.0;
        for (features, labels) in features.chunks(BATCH * FEATURES).zip(labels.chunks(BATCH)) {
            let mut logits = vec![0.0; BATCH * CLASSES];
            for (features, logits) in features.chunks(FEATURES).zip(logits.chunks_mut(CLASSES)) {
                for (x, weights) in features.iter().zip(self.weights.chunks(CLASSES)) {
                    logits.iter_mut().zip(weights).for_each(|(logit, w)| *logit += x * w);
                }
            }
            let pass = Pass::InPlace(MatrixMut::new(&mut logits, BATCH, CLASSES)?);
            loss = cross_entropy(&self.problem, pass, CrossEntropyBatch::labels(labels))?.loss as f32;
            let gradient = logits;
            for (features, gradient) in features.chunks(FEATURES).zip(gradient.chunks(CLASSES)) {
                for (x, weights) in features.iter().zip(self.weights.chunks_mut(CLASSES)) {
                    weights.iter_mut().zip(gradient).for_each(|(w, g)| *w -= RATE * x * g);
                }
            }
        }
        Ok(loss)
    }

    fn weights(&self) -> anyhow::Result<Vec<f32>> {
        Ok(self.weights.clone())
    }
}
