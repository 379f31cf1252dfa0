//! What the learner's kernels are called with, as in `kernels/`, byte for byte.

use crate::kernel::args::{CrossEntropyArgs, DevicePointer, Labels};
use bytemuck::{Pod, Zeroable};

/// The rows of one class in the order by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/groups.cuh")]
pub struct Group {
    pub label: i32,
    pub first: u32,
    pub count: u32,
    pub padding: u32,
    pub confidence: f64,
    pub deciding: f64,
}

/// What the groups of a batch have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/groups.cuh")]
pub struct GroupList {
    pub present: u32,
    pub ignored: u32,
    pub tau: f64,
}

/// Parameters of the kernel that puts rows in order by class.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/group_rows.cu")]
pub struct GroupArgs {
    pub labels: Labels,
    pub rows: i64,
    pub order: DevicePointer,
    pub found: DevicePointer,
    pub groups: DevicePointer,
    pub list: DevicePointer,
    pub sums: DevicePointer,
    pub running: DevicePointer,
    pub classes: DevicePointer,
    pub present: DevicePointer,
    pub tau_out: DevicePointer,
    pub ticket: DevicePointer,
    pub momentum: f64,
    pub tau: f64,
}

/// Parameters of the learner with its loss.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/learn_tile.cuh")]
pub struct LearnArgs {
    pub outer: CrossEntropyArgs,
    pub order: DevicePointer,
    pub groups: DevicePointer,
    pub list: DevicePointer,
    pub scratch: DevicePointer,
    pub directions: DevicePointer,
    pub steps: DevicePointer,
    pub running: DevicePointer,
    pub delta: DevicePointer,
    pub directions_taken: DevicePointer,
    pub steps_taken: DevicePointer,
    pub confidences: DevicePointer,
    pub momentum: f64,
    pub alpha: f64,
    pub eps: f64,
    pub delta_eps: f64,
    pub same_steps: u32,
    pub bound_by_confidence: i32,
    pub unit_l2: i32,
    pub confidences_known: i32,
    pub tile_rows: i32,
    pub padding: i32,
}

const _: () = assert!(size_of::<Group>() == 32);
const _: () = assert!(size_of::<GroupList>() == 16);
const _: () = assert!(size_of::<GroupArgs>() == 128);
const _: () = assert!(size_of::<LearnArgs>() == 456);
