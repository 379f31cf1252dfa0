//! The kernels as data, without a GPU: their sources, the variants they are compiled in, their parameter structs, and the plan that picks a
//! variant and a geometry. Public for the emulator and the tests, but no part of the stable API.

mod args;
mod plan;
mod sequence;
mod variant;

pub use args::{CrossEntropyArgs, DevicePointer, ErrorWord, LabelType, Labels, Perturbation, Tally, TallyArgs};
pub use plan::{Geometry, Limits, Plan, TallyPlan};
pub use sequence::{Addresses, Sequence, Shape, WorkspaceSizes, check_supported};
pub use variant::{Regime, SOURCES, Variant};
