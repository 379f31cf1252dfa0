//! The CUDA backend. The driver is loaded at run time: without one, everything here is a typed error and nothing panics.

mod availability;
mod batch;
mod compile;
mod cross_entropy;
mod kernels;
mod launch;
mod nvrtc;

pub use availability::{Device, devices, is_available};
pub use batch::{DeviceLabels, DeviceMatrix, DeviceMatrixMut, DevicePass};
#[doc(hidden)]
pub use compile::{Compilation, DeviceCode, compiler_version};
pub use cross_entropy::{CapturedWorkspace, CrossEntropyOp, Outputs};
pub use kernels::Kernels;
