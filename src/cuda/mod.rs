//! The CUDA backend. The driver is loaded at run time: without one, everything here is a typed error and nothing panics.

mod availability;
mod batch;
mod binary_cross_entropy;
mod binary_cross_entropy_batch;
mod binary_cross_entropy_workspace;
mod binary_learned;
mod compile;
mod cross_entropy;
mod cross_entropy_batch;
mod cross_entropy_workspace;
mod element;
mod kernels;
mod launch;
mod learned;
mod nvrtc;
mod operand;

pub use availability::{Device, devices, is_available};
pub use batch::{DeviceLabels, DeviceMatrix, DeviceMatrixMut, DevicePass};
pub use binary_cross_entropy::BinaryCrossEntropyOp;
pub use binary_cross_entropy_batch::{DeviceBinaryBatch, DeviceTargets};
pub use binary_cross_entropy_workspace::{BinaryClassStatisticsViews, BinarySetup};
pub use binary_learned::{BinaryLearnedViews, LearnedSignViews};
#[doc(hidden)]
pub use compile::{Compilation, DeviceCode, compiler_version};
pub use cross_entropy::CrossEntropyOp;
pub use cross_entropy_batch::{DeviceBatch, DeviceUpstream};
pub use cross_entropy_workspace::{CapturedWorkspace, ClassStatisticsViews, Outputs, Setup};
pub use element::DeviceElement;
pub use kernels::Kernels;
pub use learned::{ClassConfidencesMut, LearnedViews};
pub use operand::{DeviceOperand, DeviceScalar};
