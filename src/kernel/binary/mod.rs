//! Binary cross-entropy's kernels as data: parameter structs, the plan, and the launches of a batch.

mod args;
mod plan;
mod sequence;

pub use args::{
    BadTargets, BinaryClassStatisticsArgs, BinaryCrossEntropyArgs, BinaryTerms, DecodeArgs, TargetErrors, TargetFormat,
    Targets,
};
pub use plan::{BinaryPlan, DecodePlan, StatisticsPlan};
pub use sequence::{
    BinaryAddresses, BinarySequence, BinaryShape, BinaryValues, BinaryWorkspaceSizes, TargetSource,
    check_binary_supported,
};
