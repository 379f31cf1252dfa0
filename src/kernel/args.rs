//! What a kernel is called with: the same structs as in `kernels/`, byte for byte. The sizes are asserted on both sides.

use bytemuck::{Pod, Zeroable};

/// An address in device memory, 0 for none.
pub type DevicePointer = u64;

/// How labels are stored, as `kernels/labels.cuh` numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
#[allow(missing_docs, reason = "the names say it")]
pub enum LabelType {
    I32 = 0,
    I64 = 1,
    U32 = 2,
}

/// Class labels of a batch.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/labels.cuh")]
pub struct Labels {
    pub data: DevicePointer,
    pub ignore_index: i64,
    pub label_type: i32,
    pub classes: i32,
}

/// A fixed perturbation.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/perturbation.cuh")]
pub struct Perturbation {
    pub delta: DevicePointer,
    pub scale: f32,
    pub padding: u32,
}

/// Errors found on the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/labels.cuh")]
pub struct ErrorWord {
    pub bad_labels: u64,
    pub first_row: u64,
    pub first_label: i64,
}

/// What a chunk of labels adds up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/labels.cuh")]
pub struct Tally {
    pub valid: u64,
    pub bad: u64,
    pub first_bad: u64,
}

/// Parameters of the label pre-pass.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/tally_labels.cu")]
pub struct TallyArgs {
    pub labels: Labels,
    pub rows: i64,
    pub chunk: i64,
    pub partials: DevicePointer,
    pub valid_rows: DevicePointer,
    pub ticket: DevicePointer,
    pub error: DevicePointer,
}

/// Parameters of cross-entropy.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/cross_entropy.cu")]
pub struct CrossEntropyArgs {
    pub logits: DevicePointer,
    pub gradient: DevicePointer,
    pub perturbation: Perturbation,
    pub labels: Labels,
    pub loss_rows: DevicePointer,
    pub lse: DevicePointer,
    pub loss: DevicePointer,
    pub partials: DevicePointer,
    pub valid_rows: DevicePointer,
    pub ticket: DevicePointer,
    pub error: DevicePointer,
    pub rows: i64,
    pub logits_stride: i64,
    pub gradient_stride: i64,
    pub tile_rows: i32,
    pub mean: i32,
    pub divisor: f32,
    pub upstream: f32,
}

const _: () = assert!(size_of::<TallyArgs>() == 72);
const _: () = assert!(size_of::<CrossEntropyArgs>() == 152);
