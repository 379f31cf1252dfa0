//! The single-label learner's kernels as data: their parameter structs, plan and launches, and what of a learner the host settles.

mod args;
mod plan;
mod rule;
mod sequence;

pub use args::{Group, GroupArgs, GroupList, LearnArgs, LearnErrorWord};
pub use plan::{LearnForm, LearnPlan};
pub use rule::{MOST_EPS, MOST_LEARNED_CLASSES, Rule, check_shared_bound};
pub(super) use rule::{check_bounds, check_learner};
pub use sequence::{ConfidenceSequence, LearnAddresses, LearnSequence, LearnValues, LearnWorkspaceSizes};
