//! The kernels as data, without a GPU: their sources, the variants they are compiled in, their parameter structs, and the plan that picks a
//! variant and a geometry. Public for the emulator and the tests, but no part of the stable API.

mod args;
pub mod binary;
mod learn;
mod plan;
mod sequence;
mod variant;

pub use args::{
    ClassStatisticsArgs, ClassSums, CrossEntropyArgs, DeltaRow, DevicePointer, ErrorWord, LabelType, Labels, Operand,
    Perturbation, Saved, Tally, TallyArgs, Totals, Weights,
};
pub use learn::{
    ConfidenceSequence, Group, GroupArgs, GroupList, LearnAddresses, LearnArgs, LearnErrorWord, LearnForm, LearnPlan,
    LearnSequence, LearnValues, LearnWorkspaceSizes, MOST_EPS, MOST_LEARNED_CLASSES, Rule, check_shared_bound,
};
pub use plan::{Form, Geometry, Limits, Plan, TallyPlan};
pub use sequence::{
    Addresses, Sequence, Shape, StatisticsAddresses, Values, WorkspaceSizes, check_supported, is_general,
};
pub use variant::{DType, Regime, SOURCES, Variant};
