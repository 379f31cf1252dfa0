//! The multi-label learner's kernels as data: parameter structs, the plan, what the host decides, and the launches of a batch.

mod args;
mod plan;
mod rule;
mod sequence;

pub use args::{BinaryConfidencesArgs, BinaryLearnerArgs, LearnBinaryArgs, SignGroup, SignOutputs, SignRule};
pub use plan::BinaryLearnPlan;
pub use rule::BinaryRule;
pub(super) use rule::check_binary_learner;
pub(super) use sequence::Seen;
pub use sequence::{BinaryLearnAddresses, BinaryLearnSequence, BinaryLearnWorkspaceSizes, SignAddresses};
