//! What the learner's kernels are called with, as in `kernels/`, byte for byte.

use crate::kernel::args::{CrossEntropyArgs, DevicePointer, ErrorWord, Labels};
use bytemuck::{Pod, Zeroable};

/// The rows of one class in the order by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
#[allow(missing_docs, reason = "as in kernels/groups.cuh")]
pub struct Group {
    pub label: i32,
    pub first: u32,
    pub count: u32,
    pub arrived: u32,
    pub gang_row: u32,
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
    pub gangs: u32,
    pub blocks: u32,
    pub gang_rows: u32,
    pub taken: u32,
}

/// Errors found on the device, where there may be a learner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct LearnErrorWord {
    /// Those of the labels.
    pub labels: ErrorWord,
    /// 0, or of the first class with a bound out of its range: C less the class in the high half, the bound in the low one.
    pub bad_bound: u64,
}

impl LearnErrorWord {
    /// The first class whose step size or bound was out of its range, and the bound.
    pub fn bad_bound(&self, classes: usize) -> Option<(usize, f32)> {
        let below = (self.bad_bound >> 32) as usize;
        (below != 0).then(|| (classes - below, f32::from_bits(self.bad_bound as u32)))
    }
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
    pub by_team: DevicePointer,
    pub sums: DevicePointer,
    pub counts: DevicePointer,
    pub confidence_sums: DevicePointer,
    pub running: DevicePointer,
    pub classes: DevicePointer,
    pub present: DevicePointer,
    pub tau_out: DevicePointer,
    pub ticket: DevicePointer,
    pub momentum: f64,
    pub tau: f64,
    pub mean: i32,
    pub tile_rows: i32,
    pub warp_rows: i32,
    pub padding: i32,
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
    pub by_team: DevicePointer,
    pub scratch: DevicePointer,
    pub gang_sums: DevicePointer,
    pub gang_numbers: DevicePointer,
    pub directions: DevicePointer,
    pub bounds: DevicePointer,
    pub alpha_at: DevicePointer,
    pub eps_at: DevicePointer,
    pub bad_bound: DevicePointer,
    pub running: DevicePointer,
    pub delta: DevicePointer,
    pub directions_taken: DevicePointer,
    pub steps_taken: DevicePointer,
    pub confidences: DevicePointer,
    pub momentum: f64,
    pub alpha: f64,
    pub eps: f64,
    pub delta_eps: f64,
    pub eps_by_class: i32,
    pub unit_l2: i32,
    pub confidences_known: i32,
    pub tile_rows: i32,
    pub warp_rows: i32,
    pub column_rows: i32,
}

const _: () = assert!(size_of::<Group>() == 40);
const _: () = assert!(size_of::<GroupList>() == 32);
const _: () = assert!(size_of::<GroupArgs>() == 168);
const _: () = assert!(size_of::<LearnArgs>() == 504);
