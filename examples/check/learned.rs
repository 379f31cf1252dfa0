//! What a learner did, as the kernels leave it and as expectations name it.

use logit_perturb_cases::Tensor;
use logit_perturb_emulator::{LearnOutcome, LearnedBinary};
use std::collections::BTreeMap;

/// What was learned.
pub enum Learned {
    /// By cross-entropy.
    Classes(LearnedClasses),
    /// By binary cross-entropy, positives first.
    Signs([LearnedSign; 2]),
}

/// What was learned for P classes.
pub struct LearnedClasses {
    pub classes: Vec<i32>,
    /// `[P, C]`.
    pub delta: Vec<f32>,
    pub direction: Vec<i32>,
    pub steps: Vec<u32>,
    pub confidence: Vec<f64>,
    pub tau: f64,
}

/// What was learned for a sign, `[C]`.
pub struct LearnedSign {
    pub delta: Vec<f32>,
    pub steps: Vec<u32>,
}

impl Learned {
    pub fn of_emulated_signs(LearnedBinary { positive, negative, .. }: LearnedBinary) -> Self {
        Self::Signs([positive, negative].map(|sign| LearnedSign { delta: sign.delta, steps: sign.steps }))
    }

    /// The tensors under the names of the expectations.
    pub fn put_into(self, tensors: &mut BTreeMap<&'static str, Tensor>, classes: usize) {
        let signs = match self {
            Self::Classes(learned) => return learned.put_into(tensors, classes),
            Self::Signs(signs) => signs,
        };
        for (sign, (delta, steps)) in signs.into_iter().zip([("delta_pos", "steps_pos"), ("delta_neg", "steps_neg")]) {
            tensors.insert(delta, Tensor::float([classes], sign.delta.into_iter().map(f64::from).collect()));
            tensors.insert(steps, Tensor::int([classes], sign.steps));
        }
    }
}

impl LearnedClasses {
    pub fn of_emulated(outcome: LearnOutcome) -> Self {
        let LearnOutcome { classes, delta, directions, steps, confidences, tau, .. } = outcome;
        Self { classes, delta, direction: directions, steps, confidence: confidences, tau }
    }

    fn put_into(self, tensors: &mut BTreeMap<&'static str, Tensor>, classes: usize) {
        let p = self.classes.len();
        tensors.insert("classes", Tensor::int([p], self.classes));
        tensors.insert("delta", Tensor::float([p, classes], self.delta.into_iter().map(f64::from).collect()));
        tensors.insert("steps", Tensor::int([p], self.steps));
        tensors.insert("direction", Tensor::int([p], self.direction));
        tensors.insert("confidence", Tensor::float([p], self.confidence));
        tensors.insert("tau", Tensor::float([1], vec![self.tau]));
    }
}
