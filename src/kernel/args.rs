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

/// Numbers beside the logits: `[C]`, `[C, C]` or `[N, C]`.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/elements.cuh")]
pub struct Operand {
    pub data: DevicePointer,
    pub stride: i64,
    pub wide: i32,
    pub padding: i32,
}

/// Which row of a perturbation a sample takes, as `kernels/perturbation.cuh` numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum DeltaRow {
    /// The only one.
    Shared = 0,
    /// That of its label.
    OfLabel = 1,
    /// Its own.
    OfRow = 2,
}

/// A fixed perturbation and the scale of the logits.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/perturbation.cuh")]
pub struct Perturbation {
    pub delta: Operand,
    pub margins: DevicePointer,
    pub scales: DevicePointer,
    pub delta_row: i32,
    pub scale: f32,
}

/// Weights of classes and of samples.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/labels.cuh")]
pub struct Weights {
    pub classes: DevicePointer,
    pub samples: DevicePointer,
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

/// What the rows of a batch add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/labels.cuh")]
pub struct Totals {
    pub valid: u64,
    pub weight: f64,
}

/// What a chunk of labels adds up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/labels.cuh")]
pub struct Tally {
    pub totals: Totals,
    pub bad: u64,
    pub first_bad: u64,
}

/// Parameters of the label pre-pass.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/tally_labels.cu")]
pub struct TallyArgs {
    pub labels: Labels,
    pub weights: Weights,
    pub rows: i64,
    pub chunk: i64,
    pub partials: DevicePointer,
    pub totals: DevicePointer,
    pub ticket: DevicePointer,
    pub error: DevicePointer,
}

/// What a row leaves for a backward pass of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C, align(16))]
#[allow(missing_docs, reason = "as in kernels/softmax.cuh")]
pub struct Saved {
    pub max: f32,
    pub others: f32,
    pub label_v: f32,
    pub total: f32,
}

/// What the rows of a class add up to, in fixed point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/softmax.cuh")]
pub struct ClassSums {
    pub loss: [u64; 2],
    pub confidence: [u64; 2],
    pub counts: u64,
    pub met_loss: u32,
    pub met_confidence: u32,
}

/// Parameters of cross-entropy.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/softmax.cuh")]
pub struct CrossEntropyArgs {
    pub logits: DevicePointer,
    pub gradient: DevicePointer,
    pub perturbation: Perturbation,
    pub labels: Labels,
    pub targets: Operand,
    pub weights: Weights,
    pub upstreams: DevicePointer,
    pub divisor_at: DevicePointer,
    pub from_saved: DevicePointer,
    pub saved: DevicePointer,
    pub loss_rows: DevicePointer,
    pub lse: DevicePointer,
    pub predictions: DevicePointer,
    pub statistics: DevicePointer,
    pub loss: DevicePointer,
    pub partials: DevicePointer,
    pub totals: DevicePointer,
    pub ticket: DevicePointer,
    pub error: DevicePointer,
    pub rows: i64,
    pub logits_stride: i64,
    pub gradient_stride: i64,
    pub tiles: i64,
    pub chunks: i64,
    pub chunk_tiles: i64,
    pub tile_rows: i32,
    pub mean: i32,
    pub divisor: f32,
    pub upstream: f32,
    pub upstream_by_row: i32,
    pub label_smoothing: f32,
    pub z_loss: f32,
    pub padding: i32,
}

/// Parameters of the class statistics.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/class_statistics.cu")]
pub struct ClassStatisticsArgs {
    pub sums: DevicePointer,
    pub count: DevicePointer,
    pub correct: DevicePointer,
    pub loss: DevicePointer,
    pub confidence: DevicePointer,
    pub rows: DevicePointer,
    pub gathered: DevicePointer,
    pub ticket: DevicePointer,
    pub classes: i64,
}

const _: () = assert!(size_of::<TallyArgs>() == 88);
const _: () = assert!(size_of::<CrossEntropyArgs>() == 312);
const _: () = assert!(size_of::<ClassStatisticsArgs>() == 72);
const _: () = assert!(size_of::<ClassSums>() == 48);
