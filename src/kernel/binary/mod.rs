//! Binary cross-entropy's kernels as data: parameter structs, the plan, and the launches of a batch.

mod args;
mod learn;
mod plan;
mod sequence;

pub use args::{
    AllowedTargets, BadTargets, BinaryClassStatisticsArgs, BinaryCrossEntropyArgs, BinaryTerms, DecodeArgs,
    TargetErrors, TargetFormat, Targets,
};
pub use learn::{
    BinaryConfidencesArgs, BinaryLearnAddresses, BinaryLearnPlan, BinaryLearnSequence, BinaryLearnWorkspaceSizes,
    BinaryLearnerArgs, BinaryRule, LearnBinaryArgs, SignAddresses, SignGroup, SignOutputs, SignRule,
};
pub use plan::{BinaryPlan, DecodePlan, StatisticsPlan};
pub use sequence::{
    BinaryAddresses, BinaryLearning, BinarySequence, BinaryShape, BinaryValues, BinaryWorkspaceSizes, TargetSource,
    check_binary_supported,
};
