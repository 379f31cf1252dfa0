//! What a batch brings, as borrowed host memory: dense matrices of any dtype and row stride, labels, multi-label
//! targets. The problem descriptions ([`crate::loss`], [`crate::perturbation`]) stand on these; devices do not.

mod labels;
mod matrix;
mod targets;

pub use labels::Labels;
pub(crate) use matrix::MOST_COLUMNS;
#[cfg(feature = "cuda")]
pub(crate) use matrix::check_layout;
pub use matrix::{DType, Element, Floats, FloatsMut, Matrix, MatrixMut};
pub use targets::{BinaryTargets, Mask};
