//! The plan of a launch: a pure function of the row length, its alignment and the device's limits. N decides the size of the grid and
//! whether the label pre-pass runs, never the regime.

use super::variant::{Regime, Variant};

/// What a device allows. Tests make them tiny, so that small batches reach every regime and every loop's second turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory that a block may have without asking for more, bytes.
    pub shared_memory: u32,
    /// Threads that may be resident on a multiprocessor.
    pub resident_threads: u32,
    /// Blocks that may be resident on a multiprocessor.
    pub resident_blocks: u32,
    /// Threads of a block, at most.
    pub block_threads: u32,
    /// Rows of which every block counts the labels by itself; above, the pre-pass does.
    pub labels_in_block: i64,
}

/// How a kernel is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Blocks.
    pub grid: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block, bytes.
    pub shared: u32,
}

/// The plan of cross-entropy for one row length, alignment and device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What is launched.
    pub variant: Variant,
    /// Threads of a block.
    pub threads: u32,
    /// Rows that a block takes at a time.
    pub tile_rows: u32,
    /// Dynamic shared memory of a block, bytes.
    pub shared: u32,
    limits: Limits,
}

/// The plan of the label pre-pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TallyPlan {
    /// How it is launched.
    pub geometry: Geometry,
    /// Rows that one block tallies in turn.
    pub chunk: i64,
}

const WARP: u32 = 32;
/// Shared memory that the kernels declare themselves, rounded up.
const STATIC_SHARED: u32 = 2048;
/// Up to here a tile of rows in shared memory serves best.
const TILE_CLASSES: usize = 64;
const TILE_THREADS: u32 = 128;
const WARP_REGIME_THREADS: u32 = 128;
const MOST_BLOCK_THREADS: u32 = 512;
const TALLY_THREADS: u32 = 256;

/// How many tiles of `tile` rows hold `rows` rows.
fn tiles_of(rows: i64, tile: i64) -> i64 {
    (rows + tile - 1) / tile
}

impl Limits {
    fn blocks(&self, threads: u32, shared: u32) -> u32 {
        let by_threads = self.resident_threads / threads;
        // A multiprocessor has about four times what a block gets unasked.
        let by_shared = (4 * self.shared_memory).checked_div(shared).unwrap_or(u32::MAX).max(1);
        by_threads.min(by_shared).min(self.resident_blocks).max(1) * self.multiprocessors
    }
}

impl Plan {
    /// The plan for rows of `classes` f32 logits. `aligned`: every row of the logits starts on a 16-byte boundary.
    pub fn new(classes: usize, aligned: bool, fused: bool, limits: Limits) -> Self {
        let plan = |regime, values, threads: u32, tile_rows, shared| Self {
            variant: Variant::CrossEntropy { regime, values, fused },
            threads,
            tile_rows,
            shared,
            limits,
        };
        let most = limits.block_threads.min(MOST_BLOCK_THREADS) / WARP * WARP;
        let pitch = (classes | 1) as u32 * 4;
        let room = limits.shared_memory.saturating_sub(STATIC_SHARED) / pitch;
        if classes <= TILE_CLASSES && room > 0 {
            let threads = TILE_THREADS.min(most);
            let rows = room.min(threads);
            return plan(Regime::Tile, 0, threads, rows, rows * pitch);
        }
        // A row that starts behind a boundary has up to three numbers less room in its first slot.
        let slots = if aligned { classes } else { classes + 3 }.div_ceil(4) as u32;
        for values in Variant::values(Regime::Warp) {
            if slots <= WARP * values / 4 {
                let threads = WARP_REGIME_THREADS.min(most);
                return plan(Regime::Warp, values, threads, threads / WARP, 0);
            }
        }
        // Few numbers a thread leave room for many threads, which hide each other's waiting.
        for values in Variant::values(Regime::Block) {
            let threads = slots.div_ceil(values / 4).next_multiple_of(WARP);
            if threads <= most {
                return plan(Regime::Block, values, threads, 1, 0);
            }
        }
        plan(Regime::TwoRead, 0, most, 1, 0)
    }

    /// The same plan with the number of blocks that the driver finds resident on a multiprocessor.
    #[must_use]
    pub fn resident(mut self, blocks: u32) -> Self {
        self.limits.resident_blocks = blocks.max(1);
        self
    }

    /// The regime.
    pub fn regime(&self) -> Regime {
        match self.variant {
            Variant::CrossEntropy { regime, .. } => regime,
            Variant::Tally => unreachable!("a plan's variant is one of cross-entropy"),
        }
    }

    /// How many tiles `rows` rows make.
    pub fn tiles(&self, rows: i64) -> i64 {
        tiles_of(rows, self.tile_rows.into())
    }

    /// How `rows` rows are launched: as many blocks as the device holds at a time, or as there are tiles.
    pub fn geometry(&self, rows: i64) -> Geometry {
        let most = self.limits.blocks(self.threads, self.shared);
        let grid = self.tiles(rows).clamp(1, most.into()) as u32;
        Geometry { grid, threads: self.threads, shared: self.shared }
    }

    /// The label pre-pass, where `rows` rows need one.
    pub fn tally(&self, rows: i64) -> Option<TallyPlan> {
        let limits = &self.limits;
        if rows <= limits.labels_in_block {
            return None;
        }
        let threads = TALLY_THREADS.min(limits.block_threads / WARP * WARP);
        // At most half of what a block counts by itself, so that there are chunks to share out.
        let chunk = (i64::from(threads) * 16).min((limits.labels_in_block / 2).max(1));
        let grid = tiles_of(rows, chunk).min(limits.blocks(threads, 0).into()) as u32;
        Some(TallyPlan { geometry: Geometry { grid, threads, shared: 0 }, chunk })
    }
}

impl TallyPlan {
    /// How many chunks `rows` rows make.
    pub fn chunks(&self, rows: i64) -> i64 {
        tiles_of(rows, self.chunk)
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { variant, threads, tile_rows, shared, .. } = self;
        write!(f, "{}: {threads} threads, {tile_rows} row(s) a block, {shared} bytes of shared memory", variant.name())
    }
}
