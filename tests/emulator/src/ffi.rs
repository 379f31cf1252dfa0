//! The runtime's side of a launch: the same layouts as in `cpp/launch.hpp`.

use std::ffi::{c_char, c_uint, c_void};

#[repr(C)]
pub(crate) struct Region {
    pub base: u64,
    pub rows: u64,
    pub row_bytes: u64,
    pub stride_bytes: u64,
    pub writable: u32,
    pub element_bytes: u32,
    pub reads: *mut u32,
    pub writes: *mut u32,
    pub sectors: [u64; 2],
    pub ideal_sectors: [u64; 2],
}

#[repr(C)]
pub(crate) struct Options {
    pub seed: u64,
    pub exp_seed: u64,
    pub most_steps: u64,
    pub exp_ulps: u32,
    pub resident_blocks: u32,
    pub store_buffer: u32,
    pub padding: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Fault {
    pub file: *const c_char,
    pub line: u32,
    pub kind: u32,
    pub block: u32,
    pub thread: u32,
    pub text: [c_char; 200],
}

pub(crate) const MOST_FAULTS: usize = 16;

#[repr(C)]
pub(crate) struct Outcome {
    pub steps: u64,
    pub switches: u64,
    pub static_shared: u64,
    pub faults: u64,
    pub fault: [Fault; MOST_FAULTS],
}

#[repr(C)]
pub(crate) struct Kernel {
    pub name: *const c_char,
    pub entry: extern "C" fn(*const c_void),
    pub args_bytes: *const c_uint,
}

#[repr(C)]
pub(crate) struct Geometry {
    pub grid: u32,
    pub cluster: u32,
    pub threads: u32,
    pub shared: u32,
}

unsafe extern "C" {
    pub(crate) fn emulator_kernel(name: *const c_char, length: usize) -> *const Kernel;
    pub(crate) fn emulator_launch(
        kernel: *const Kernel,
        args: *const c_void,
        geometry: Geometry,
        options: *const Options,
        regions: *mut Region,
        region_count: usize,
        outcome: *mut Outcome,
    );
}
