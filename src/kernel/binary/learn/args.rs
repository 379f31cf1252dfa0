//! What the kernels of the multi-label learner are called with: the same structs as in `kernels/`, byte for byte. The sizes are asserted on
//! both sides.

use super::super::args::Targets;
use crate::kernel::args::DevicePointer;
use bytemuck::{Pod, Zeroable};

/// Which classes of a sign are pushed which way, and how far.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/binary_learner.cuh")]
pub struct SignRule {
    pub directions: DevicePointer,
    pub bounds: DevicePointer,
    pub tau: f64,
    pub eps: f64,
    pub delta_eps: f64,
    pub mean: i32,
    pub off: i32,
}

/// Where what is learned for a sign goes.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/binary_learner.cuh")]
pub struct SignOutputs {
    pub fixed: DevicePointer,
    pub perturbation: DevicePointer,
    pub delta: DevicePointer,
    pub directions: DevicePointer,
    pub steps: DevicePointer,
    pub confidences: DevicePointer,
    pub tau: DevicePointer,
}

/// A learner; positives first.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/binary_learner.cuh")]
pub struct BinaryLearnerArgs {
    pub rules: [SignRule; 2],
    pub outputs: [SignOutputs; 2],
    pub offset: DevicePointer,
    pub alpha: f64,
    pub step: i32,
    pub padding: i32,
}

/// The entries of a class and sign.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/binary_learner.cuh")]
pub struct SignGroup {
    pub count: f64,
    pub confidence: f64,
}

/// Parameters of the confidences.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/binary_confidences.cu")]
pub struct BinaryConfidencesArgs {
    pub logits: DevicePointer,
    pub targets: Targets,
    pub learner: BinaryLearnerArgs,
    pub counting: DevicePointer,
    pub sums: DevicePointer,
    pub met: DevicePointer,
    pub groups: DevicePointer,
    pub taus: DevicePointer,
    pub counts: DevicePointer,
    pub confidence_sums: DevicePointer,
    pub ticket: DevicePointer,
    pub rows: i64,
    pub logits_stride: i64,
    pub chunk: i32,
    pub columns: i32,
    pub gathers: i32,
    pub padding: i32,
}

/// Parameters of the raw steps.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/learn_binary_cross_entropy.cu")]
pub struct LearnBinaryArgs {
    pub logits: DevicePointer,
    pub targets: Targets,
    pub learner: BinaryLearnerArgs,
    pub groups: DevicePointer,
    pub taus: DevicePointer,
    pub rows: i64,
    pub logits_stride: i64,
    pub kept: i32,
    pub columns: i32,
}

const _: () = assert!(size_of::<SignRule>() == 48);
const _: () = assert!(size_of::<SignOutputs>() == 56);
const _: () = assert!(size_of::<BinaryLearnerArgs>() == 232);
const _: () = assert!(size_of::<SignGroup>() == 16);
const _: () = assert!(size_of::<BinaryConfidencesArgs>() == 376);
const _: () = assert!(size_of::<LearnBinaryArgs>() == 320);
