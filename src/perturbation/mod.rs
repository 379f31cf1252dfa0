//! Perturbations of the logits as plain data: the fixed forms with their constructors, and the learners.

mod binary;
mod fixed;
mod isda;
mod learned;
mod running_confidence;

pub use binary::{BinaryPerturbation, RebalancedWeights};
pub use fixed::Perturbation;
pub use isda::Isda;
pub use learned::{
    BinaryLearner, BinaryStep, Bound, GradientSemantics, Learner, MAX_STEPS, NegativeSplit, Split, Step,
};
pub use running_confidence::RunningConfidence;

pub(crate) use binary::sigmoid;
pub(crate) use learned::steps;
