//! The plan of a launch: a pure function of the row length, its alignment and the device's limits. N decides the size of the grid and
//! whether the label pre-pass runs, never the regime.

use super::variant::{DType, Regime, Variant};

/// What a device allows. Tests make them tiny, so that small batches reach every regime and every loop's second turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory that a block may have without asking for more, bytes.
    pub shared_memory: u32,
    /// Shared memory that a row may take of a block which asks for it, bytes.
    pub row_shared: u32,
    /// Shared memory of a multiprocessor, bytes.
    pub multiprocessor_shared: u32,
    /// Blocks of a cluster, at most; 1 where there are no clusters.
    pub cluster: u32,
    /// Threads that may be resident on a multiprocessor.
    pub resident_threads: u32,
    /// Blocks that may be resident on a multiprocessor.
    pub resident_blocks: u32,
    /// Threads of a block, at most.
    pub block_threads: u32,
    /// Rows of which every block counts the labels by itself; above, the pre-pass does.
    pub labels_in_block: i64,
    /// Parts of a batch that are added up one by one, at most.
    pub chunks: i64,
}

/// How a kernel is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Blocks.
    pub grid: u32,
    /// Blocks of a cluster; 1 for none. `grid` is a multiple of it.
    pub cluster: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block, bytes.
    pub shared: u32,
    /// Whether blocks wait for each other, so that all of them must be resident.
    pub cooperative: bool,
}

/// What decides a plan of cross-entropy, beside the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// What logits and gradient are made of.
    pub dtype: DType,
    /// C.
    pub classes: usize,
    /// Whether every row of the logits starts on a 16-byte boundary.
    pub aligned: bool,
    /// Whether targets may be spread over classes, or classes have scales of their own.
    pub general: bool,
    /// Whether the gradient alone is wanted, from what an earlier launch saved.
    pub from_saved: bool,
}

impl Form {
    /// Aligned rows with hard labels, for loss and gradient.
    pub fn plain(dtype: DType, classes: usize) -> Self {
        Self { dtype, classes, aligned: true, general: false, from_saved: false }
    }
}

/// The plan of cross-entropy for one form and device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What is launched.
    pub variant: Variant,
    /// Threads of a block.
    pub threads: u32,
    /// Rows that a block, or a cluster, takes at a time.
    pub tile_rows: u32,
    /// Blocks of a cluster; 1 for none.
    pub cluster: u32,
    /// Dynamic shared memory of a block, bytes.
    pub shared: u32,
    /// Blocks, or clusters, that the device holds at a time.
    teams: u32,
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
/// What the driver takes of it for every block.
const RESERVED_SHARED: u32 = 1024;
const MOST_ROW_SHARED: u32 = 96 * 1024;
/// Up to here a tile of rows in shared memory serves best.
const TILE_CLASSES: usize = 64;
const TILE_THREADS: u32 = 128;
const WARP_REGIME_THREADS: u32 = 128;
const MOST_BLOCK_THREADS: u32 = 512;
const TALLY_THREADS: u32 = 256;

/// A number of rows as the plans count them. There is no memory for more than half of what 63 bits count.
pub(super) fn count_of(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX).min(i64::MAX / 2)
}

/// How many parts of this size hold `whole`.
pub(super) fn parts_of(whole: i64, size: i64) -> i64 {
    (whole + size - 1) / size
}

impl Limits {
    /// Shared memory that the kernels declare themselves, at most, bytes.
    pub const STATIC_SHARED: u32 = 3072;

    /// What a row may take where a block may ask for `most` bytes: so little that two rows are in flight on a multiprocessor that has room.
    pub const fn row_shared(most: u32) -> u32 {
        let room = most.saturating_sub(Self::STATIC_SHARED);
        if room < MOST_ROW_SHARED { room } else { MOST_ROW_SHARED }
    }

    /// What one of so many blocks on a multiprocessor may take, bytes.
    pub(super) fn part_of_shared(&self, blocks: u32) -> u32 {
        (self.multiprocessor_shared / blocks).saturating_sub(Self::STATIC_SHARED + RESERVED_SHARED)
    }

    pub(super) fn blocks(&self, threads: u32, shared: u32) -> u32 {
        let by_threads = self.resident_threads / threads;
        let by_shared = self.multiprocessor_shared.checked_div(shared).unwrap_or(u32::MAX).max(1);
        by_threads.min(by_shared).min(self.resident_blocks).max(1) * self.multiprocessors
    }

    /// As many blocks without dynamic shared memory as the device holds at a time, or as there is work for.
    pub(super) fn geometry(&self, threads: u32, work: i64) -> Geometry {
        let grid = work.clamp(1, self.blocks(threads, 0).into()) as u32;
        Geometry { grid, cluster: 1, threads, shared: 0, cooperative: false }
    }
}

impl Plan {
    /// The plan for a form.
    pub fn new(form: Form, limits: Limits) -> Self {
        let Form { dtype, classes, aligned, general, from_saved } = form;
        let plan = |regime, values, threads: u32, tile_rows, cluster, shared| Self {
            variant: Variant::CrossEntropy { dtype, regime, values, general },
            threads,
            tile_rows,
            cluster,
            shared,
            teams: (limits.blocks(threads, shared) / cluster).max(1),
            limits,
        };
        let most = limits.block_threads.min(MOST_BLOCK_THREADS) / WARP * WARP;
        let pitch = (classes | 1) as u32 * 4;
        let room = limits.shared_memory.saturating_sub(Limits::STATIC_SHARED) / pitch;
        if classes <= TILE_CLASSES && room > 0 {
            let threads = TILE_THREADS.min(most);
            let rows = room.min(threads);
            return plan(Regime::Tile, 0, threads, rows, 1, rows * pitch);
        }
        // A row that starts behind a boundary has less room in its first slot.
        let width = dtype.width();
        let slots = if aligned { classes } else { classes + width - 1 }.div_ceil(width) as u32;
        // No more threads than there are slots to take.
        let wide = slots.next_multiple_of(WARP).min(most);
        if from_saved {
            // Nothing has to be kept: a row is read as its gradient is written.
            return plan(Regime::TwoRead, 0, wide, 1, 1, 0);
        }
        for values in Variant::values(dtype, Regime::Warp) {
            if slots <= WARP * values / width as u32 {
                let threads = WARP_REGIME_THREADS.min(most);
                return plan(Regime::Warp, values, threads, threads / WARP, 1, 0);
            }
        }
        // Few numbers a thread leave room for many threads, which hide each other's waiting.
        for values in Variant::values(dtype, Regime::Block) {
            let threads = slots.div_ceil(values / width as u32).next_multiple_of(WARP);
            if threads <= most {
                return plan(Regime::Block, values, threads, 1, 1, 0);
            }
        }
        for cluster in [1, 2, 4, 8, 16].into_iter().take_while(|cluster| *cluster <= limits.cluster.max(1)) {
            // The longest rows take more bytes than 32 bits count.
            let shared = u64::from(slots.div_ceil(cluster * wide) * wide) * 16;
            if shared <= limits.row_shared.into() {
                let regime = if cluster == 1 { Regime::Shared } else { Regime::Cluster };
                return plan(regime, 0, wide, 1, cluster, shared as u32);
            }
        }
        plan(Regime::TwoRead, 0, wide, 1, 1, 0)
    }

    /// The same plan with the number of blocks, or clusters, that the driver finds resident on the device.
    #[must_use]
    pub fn resident(self, teams: u32) -> Self {
        Self { teams: teams.max(1), ..self }
    }

    /// The regime.
    pub fn regime(&self) -> Regime {
        match self.variant {
            Variant::CrossEntropy { regime, .. } => regime,
            _ => unreachable!("a plan's variant is one of cross-entropy"),
        }
    }

    /// How many tiles `rows` rows make.
    pub fn tiles(&self, rows: i64) -> i64 {
        parts_of(rows, self.tile_rows.into())
    }

    /// How many tiles are added up together, of a batch of `rows` rows: N alone decides it, so that the loss does not depend on the grid.
    pub fn chunk_tiles(&self, rows: i64) -> i64 {
        parts_of(self.tiles(rows), self.limits.chunks).max(1)
    }

    /// How many chunks `rows` rows make.
    pub fn chunks(&self, rows: i64) -> i64 {
        parts_of(self.tiles(rows), self.chunk_tiles(rows))
    }

    /// As many chunks as batches of up to `rows` rows make at most: fewer rows may be cut into more of them.
    pub fn most_chunks(&self, rows: i64) -> i64 {
        self.tiles(rows).min(self.limits.chunks)
    }

    /// How `rows` rows are launched: as many blocks as the device holds at a time, or as there are chunks.
    pub fn geometry(&self, rows: i64) -> Geometry {
        let Self { threads, shared, cluster, .. } = *self;
        let grid = self.chunks(rows).clamp(1, self.teams.into()) as u32 * cluster;
        Geometry { grid, cluster, threads, shared, cooperative: false }
    }

    /// How class statistics are put into their final form.
    pub fn statistics_geometry(&self, classes: usize) -> Geometry {
        let threads = TALLY_THREADS.min(self.limits.block_threads / WARP * WARP);
        let grid = parts_of(classes as i64, threads.into()).clamp(1, self.limits.multiprocessors.into()) as u32;
        Geometry { grid, cluster: 1, threads, shared: 0, cooperative: false }
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
        Some(TallyPlan { geometry: limits.geometry(threads, parts_of(rows, chunk)), chunk })
    }
}

impl TallyPlan {
    /// How many chunks `rows` rows make.
    pub fn chunks(&self, rows: i64) -> i64 {
        parts_of(rows, self.chunk)
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { variant, threads, tile_rows, cluster, shared, .. } = self;
        let of = if *cluster > 1 { format!(" in clusters of {cluster}") } else { String::new() };
        write!(
            f,
            "{}: {threads} threads{of}, {tile_rows} row(s) at a time, {shared} bytes of shared memory a block",
            variant.name()
        )
    }
}
