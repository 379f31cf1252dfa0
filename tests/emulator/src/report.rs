//! What a launch did.

use crate::memory::{Allocation, Buffer};
use std::collections::HashMap;

/// What a launch did.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// Accesses to global memory, barriers and shuffles, of all threads.
    pub steps: u64,
    /// How often the scheduler chose a thread.
    pub switches: u64,
    /// Shared memory that a block declares itself, bytes.
    pub static_shared: u64,
    pub(crate) traffic: HashMap<usize, Traffic>,
}

impl Report {
    /// The accesses to a buffer.
    ///
    /// # Panics
    /// When the buffer is not watched.
    pub fn traffic<T>(&self, buffer: Buffer<T>) -> &Traffic {
        self.traffic.get(&buffer.index()).expect("the buffer is watched: Memory::watch")
    }
}

/// The accesses to a buffer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Traffic {
    /// How often each element was read, row by row.
    pub reads: Vec<u32>,
    /// How often each element was written.
    pub writes: Vec<u32>,
    /// Sectors of the reads.
    pub read_sectors: Sectors,
    /// Sectors of the writes.
    pub write_sectors: Sectors,
}

/// 32-byte sectors, the unit in which a GPU moves global memory. What the lanes of a warp touch by the same line in the same turn is one
/// access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sectors {
    /// Moved, all accesses together.
    pub moved: u64,
    /// The fewest that could hold as many bytes, access by access.
    pub ideal: u64,
    /// Touched at all by the launch: what it would move if each were moved once.
    pub distinct: u64,
}

impl Traffic {
    pub(crate) fn new(allocation: &Allocation, counts: [Vec<u32>; 2], moved: [u64; 2], ideal: [u64; 2]) -> Self {
        let sectors = |access: usize| Sectors {
            moved: moved[access],
            ideal: ideal[access],
            distinct: distinct_sectors(allocation, &counts[access]),
        };
        let (read_sectors, write_sectors) = (sectors(0), sectors(1));
        let [reads, writes] = counts;
        Self { reads, writes, read_sectors, write_sectors }
    }
}

fn distinct_sectors(allocation: &Allocation, counts: &[u32]) -> u64 {
    let columns = allocation.row_bytes / allocation.element_bytes;
    let mut last = None;
    let mut sectors = 0;
    for (element, _) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let (row, column) = (element / columns, element % columns);
        let address = allocation.address() + (row * allocation.stride_bytes + column * allocation.element_bytes) as u64;
        // An element never lies in two sectors; addresses ascend.
        if last.replace(address / 32) != Some(address / 32) {
            sectors += 1;
        }
    }
    sectors
}
