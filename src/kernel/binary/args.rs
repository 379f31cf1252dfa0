//! What the kernels of binary cross-entropy are called with: the same structs as in `kernels/`, byte for byte. The sizes are asserted on both
//! sides.

use super::super::args::{DevicePointer, Operand};
use bytemuck::{Pod, Zeroable};

/// How targets are stored, as `kernels/targets.cuh` numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
#[allow(missing_docs, reason = "the names say it")]
pub enum TargetFormat {
    F32 = 0,
    /// The logits' type, where that is not f32.
    Element = 1,
    I8 = 2,
    U8 = 3,
    Bits = 4,
    /// 0, 1 or -1 in f32: what a learner takes of [`Self::F32`].
    HardF32 = 5,
    /// The same in the logits' type.
    HardElement = 6,
}

impl TargetFormat {
    /// The format where a learner wants each target to be 0 or 1.
    pub(super) fn hard(self) -> Self {
        match self {
            Self::F32 => Self::HardF32,
            Self::Element => Self::HardElement,
            other => other,
        }
    }
}

/// Which targets a batch may have, beside 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllowedTargets {
    /// -1, for unknown.
    pub unknown: bool,
    /// Only those, since a learner wants hard targets.
    pub hard: bool,
}

/// Targets of a batch.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/targets.cuh")]
pub struct Targets {
    pub data: DevicePointer,
    pub mask: DevicePointer,
    pub stride: i64,
    pub mask_stride: i64,
    pub format: i32,
    pub classes: i32,
}

/// What an entry's loss is made of besides its logit and its target.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/sigmoid.cuh")]
pub struct BinaryTerms {
    pub offset: DevicePointer,
    pub positive: DevicePointer,
    pub negative: DevicePointer,
    pub pos_weight: DevicePointer,
    pub weights: Operand,
    pub negative_scale: f32,
    pub inverse_scale: f32,
    pub gamma_pos: f32,
    pub gamma_neg: f32,
    pub clip: f32,
    pub one_minus_clip: f32,
    pub edge: f32,
    pub edge_rest: f32,
}

/// Targets out of range, found on the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/targets.cuh")]
pub struct TargetErrors {
    pub bad: u64,
    pub row: u64,
    pub column: i64,
    pub value: f64,
    pub end: i64,
}

impl TargetErrors {
    /// What is wrong, in words, without the row; `None` where nothing is.
    pub fn problem(&self, classes: usize, allowed: AllowedTargets) -> Option<String> {
        let Self { bad, column, value, end, .. } = *self;
        let first = match column {
            _ if bad == 0 => return None,
            -1 => format!("class index {value}, must be in 0..{classes}"),
            -2 => format!("offsets {value}..{end}, must ascend within the indices"),
            _ => {
                let (range, learner) = if allowed.hard { ("0 or 1", " with a learner") } else { ("in [0, 1]", "") };
                let unknown = if allowed.unknown { " or -1 (unknown)" } else { "" };
                format!("class {column} is {value}, must be {range}{unknown}{learner}")
            }
        };
        Some(format!("{first}; {bad} such target(s) in all"))
    }
}

/// What one launch found out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/targets.cuh")]
pub struct BadTargets {
    pub count: u64,
    pub first: u64,
}

impl BadTargets {
    /// As it is between launches.
    pub const NONE: Self = Self { count: 0, first: u64::MAX };
}

/// Parameters of the pre-pass over targets.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/decode_targets.cu")]
pub struct DecodeArgs {
    pub targets: Targets,
    pub indices: DevicePointer,
    pub index_count: i64,
    pub bits: DevicePointer,
    pub mask: DevicePointer,
    pub rows: i64,
    pub counting: DevicePointer,
    pub known: DevicePointer,
    pub found: DevicePointer,
    pub ticket: DevicePointer,
    pub errors: DevicePointer,
    pub chunk: i32,
    pub lists: i32,
}

/// Parameters of binary cross-entropy.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/binary_cross_entropy.cu")]
pub struct BinaryCrossEntropyArgs {
    pub logits: DevicePointer,
    pub gradient: DevicePointer,
    pub targets: Targets,
    pub terms: BinaryTerms,
    pub loss_rows: DevicePointer,
    pub loss: DevicePointer,
    pub partials: DevicePointer,
    pub known: DevicePointer,
    pub device_divisor: DevicePointer,
    pub device_upstream: DevicePointer,
    pub ticket: DevicePointer,
    pub found: DevicePointer,
    pub errors: DevicePointer,
    pub rows: i64,
    pub logits_stride: i64,
    pub gradient_stride: i64,
    pub tile_rows: i32,
    pub team: i32,
    pub upstream_stride: i32,
    pub plain: i32,
    pub divisor: f32,
    pub upstream: f32,
}

/// Parameters of the class statistics.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/binary_class_statistics.cu")]
pub struct BinaryClassStatisticsArgs {
    pub logits: DevicePointer,
    pub targets: Targets,
    pub terms: BinaryTerms,
    pub counting: DevicePointer,
    pub positives_sum: DevicePointer,
    pub loss_sum: DevicePointer,
    pub met: DevicePointer,
    pub count: DevicePointer,
    pub positives: DevicePointer,
    pub loss: DevicePointer,
    pub ticket: DevicePointer,
    pub rows: i64,
    pub logits_stride: i64,
    pub chunk: i32,
    pub columns: i32,
    pub focusing: i32,
    pub padding: i32,
}

const _: () = assert!(size_of::<BinaryTerms>() == 88);
const _: () = assert!(size_of::<DecodeArgs>() == 128);
const _: () = assert!(size_of::<BinaryCrossEntropyArgs>() == 264);
const _: () = assert!(size_of::<BinaryClassStatisticsArgs>() == 232);
