//! What real devices say of themselves: tests and benchmarks plan for them without one.

use logit_perturb::kernel::Limits;

/// Multiprocessors, threads, blocks and KB of shared memory of a multiprocessor, KB of a block that asks for them, blocks of a cluster: as the
/// CUDA programming guide tabulates them.
pub const DEVICES: [(&str, Limits); 7] = [
    ("sm_75", limits(40, 1024, 16, 64, 64, 1)),
    ("sm_80", limits(108, 2048, 32, 164, 163, 1)),
    ("sm_86", limits(84, 1536, 16, 100, 99, 1)),
    ("sm_89", limits(128, 1536, 24, 100, 99, 1)),
    ("sm_90", limits(132, 2048, 32, 228, 227, 16)),
    ("sm_100", limits(148, 2048, 32, 228, 227, 16)),
    ("sm_120", limits(170, 1536, 24, 100, 99, 8)),
];

/// The limits of an architecture's largest device.
pub fn device(architecture: &str) -> Limits {
    let found = DEVICES.into_iter().find(|(name, _)| *name == architecture);
    found.unwrap_or_else(|| panic!("{architecture} is not in the table")).1
}

const fn limits(
    multiprocessors: u32,
    resident_threads: u32,
    resident_blocks: u32,
    multiprocessor_shared: u32,
    most_shared: u32,
    cluster: u32,
) -> Limits {
    Limits {
        multiprocessors,
        shared_memory: 48 * 1024,
        row_shared: Limits::row_shared(most_shared * 1024),
        multiprocessor_shared: multiprocessor_shared * 1024,
        cluster,
        resident_threads,
        resident_blocks,
        block_threads: 1024,
        labels_in_block: 16_384,
        chunks: 4096,
    }
}
