//! What a learner did, as the kernels leave it and as expectations name it.

use logit_perturb_cases::Tensor;
use logit_perturb_emulator::LearnOutcome;
use std::collections::BTreeMap;

/// What was learned for P classes.
pub struct Learned {
    pub classes: Vec<i32>,
    /// `[P, C]`.
    pub delta: Vec<f32>,
    pub direction: Vec<i32>,
    pub steps: Vec<u32>,
    pub confidence: Vec<f64>,
    pub tau: f64,
}

impl Learned {
    pub fn of_emulated(outcome: LearnOutcome) -> Self {
        let LearnOutcome { classes, delta, directions, steps, confidences, tau, .. } = outcome;
        Self { classes, delta, direction: directions, steps, confidence: confidences, tau }
    }

    /// The tensors under the names of the expectations.
    pub fn put_into(self, tensors: &mut BTreeMap<&'static str, Tensor>, classes: usize) {
        let p = self.classes.len();
        tensors.insert("classes", Tensor::int([p], self.classes));
        tensors.insert("delta", Tensor::float([p, classes], self.delta.into_iter().map(f64::from).collect()));
        tensors.insert("steps", Tensor::int([p], self.steps));
        tensors.insert("direction", Tensor::int([p], self.direction));
        tensors.insert("confidence", Tensor::float([p], self.confidence));
        tensors.insert("tau", Tensor::float([1], vec![self.tau]));
    }
}
