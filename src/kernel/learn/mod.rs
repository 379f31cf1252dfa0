//! The single-label learner's kernels as data: their parameter structs, plan and launches, and what of a learner the host settles.

mod args;
mod plan;
mod rule;
mod sequence;

pub use args::{Group, GroupArgs, GroupList, LearnArgs};
pub use plan::{LearnForm, LearnPlan};
pub(super) use rule::check_learner;
pub use rule::{MOST_LEARNED_CLASSES, Rule};
pub use sequence::{LearnAddresses, LearnSequence, LearnWorkspaceSizes};
