//! What logits and gradients on the device are made of.

use crate::data::Element;
use crate::kernel::DType;
use cudarc::driver::DeviceRepr;

/// An element type of logits and gradients that kernels are compiled for: f32, f16 or bf16.
pub trait DeviceElement: Element + DeviceRepr + Unpin + 'static {
    #[doc(hidden)]
    const KERNEL_DTYPE: DType;
}

impl DeviceElement for f32 {
    const KERNEL_DTYPE: DType = DType::F32;
}

impl DeviceElement for half::f16 {
    const KERNEL_DTYPE: DType = DType::F16;
}

impl DeviceElement for half::bf16 {
    const KERNEL_DTYPE: DType = DType::BF16;
}
