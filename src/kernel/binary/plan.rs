//! The plan of binary cross-entropy: a pure function of the row length, the element type and the device's limits. N decides the size of the
//! grid and of the tiles, never what becomes of a row.

use super::super::plan::{Geometry, Limits, parts_of};
use super::super::variant::{DType, Variant};

const WARP: usize = 32;
/// Slots that a thread takes of a row, about. Enough that short rows leave few lanes idle.
const TURNS: usize = 4;
/// Rows of more slots than this belong to a block.
const WARP_SLOTS: usize = 256;
/// Slots that a thread of such a block takes, about, and its threads.
const BLOCK_TURNS: usize = 8;
const BLOCK_THREADS: std::ops::RangeInclusive<usize> = 64..=512;
/// Threads of a block whose warps have rows of their own.
const WARP_REGIME_THREADS: u32 = 128;
/// Tiles of warps for each part that a block would take.
const CHUNK_TILES: i64 = 8;
const DECODE_THREADS: u32 = 256;
/// Slots, or words, that a block of the pre-pass takes at a time, about.
const DECODE_SLOTS: i64 = 4096;
const STATISTICS_THREADS: u32 = 128;
/// Rows that a thread of the statistics adds up before it shares the sum.
const STATISTICS_ROWS: i64 = 64;

/// The plan of binary cross-entropy for one row length, element type and device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BinaryPlan {
    /// What logits and gradient are made of.
    pub dtype: DType,
    /// Whether the focal or the asymmetric loss is asked for.
    pub focusing: bool,
    /// C.
    pub classes: usize,
    /// Threads that share a row: a power of two up to a warp, or the block.
    pub team: u32,
    /// Threads of a block.
    pub threads: u32,
    limits: Limits,
}

/// The plan of the pre-pass over targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodePlan {
    /// How it is launched.
    pub geometry: Geometry,
    /// Rows that a block takes at a time.
    pub chunk: i32,
}

/// The plan of the class statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatisticsPlan {
    /// How they are launched.
    pub geometry: Geometry,
    /// Rows that a thread takes at a time.
    pub chunk: i32,
    /// Columns that a block takes at a time, a power of two.
    pub columns: i32,
}

/// The greatest power of two that a block may have as threads, up to `wanted`, itself one.
fn threads_of(limits: &Limits, wanted: u32) -> u32 {
    let most = limits.block_threads.max(WARP as u32);
    wanted.min(1 << most.ilog2())
}

impl BinaryPlan {
    /// The plan for rows of `classes` logits.
    pub fn new(classes: usize, dtype: DType, focusing: bool, limits: Limits) -> Self {
        let slots = classes.div_ceil(dtype.width());
        let of_block = slots.div_ceil(BLOCK_TURNS).next_power_of_two();
        let of_block = threads_of(&limits, of_block.clamp(*BLOCK_THREADS.start(), *BLOCK_THREADS.end()) as u32);
        let (team, threads) = if slots > WARP_SLOTS && of_block > WARP as u32 {
            (of_block, of_block)
        } else {
            // Two lanes at least, where there are two slots: together they fill a sector of memory.
            let lanes = slots.div_ceil(TURNS).max(slots.min(2)).next_power_of_two().min(WARP);
            (lanes as u32, threads_of(&limits, WARP_REGIME_THREADS))
        };
        Self { dtype, focusing, classes, team, threads, limits }
    }

    /// The same plan with the number of blocks of the main kernel that the driver finds resident on a multiprocessor.
    #[must_use]
    pub fn resident(mut self, blocks: u32) -> Self {
        self.limits.resident_blocks = blocks.max(1);
        self
    }

    /// The main kernel's variant.
    pub fn variant(&self) -> Variant {
        Variant::BinaryCrossEntropy { dtype: self.dtype, focusing: self.focusing }
    }

    /// Whether a row belongs to a block.
    pub fn is_by_block(&self) -> bool {
        self.team > WARP as u32
    }

    /// Rows that a warp, or a block that has a row to itself, takes at a time.
    fn rows_at_a_time(&self) -> i64 {
        if self.is_by_block() { 1 } else { (WARP as u32 / self.team).into() }
    }

    /// Rows of a tile, whose losses become one partial sum.
    pub fn tile_rows(&self, rows: i64) -> i64 {
        let turns = parts_of(rows, self.rows_at_a_time());
        self.rows_at_a_time() * parts_of(turns, self.most_tiles()).max(1)
    }

    /// How many tiles `rows` rows make: few enough for one block to add their sums up, and several for every warp that a device holds.
    pub fn tiles(&self, rows: i64) -> i64 {
        parts_of(rows, self.tile_rows(rows))
    }

    /// How many tiles up to `rows` rows make at most.
    pub fn most_partials(&self, rows: i64) -> usize {
        parts_of(rows, self.rows_at_a_time()).clamp(1, self.most_tiles()) as usize
    }

    fn most_tiles(&self) -> i64 {
        CHUNK_TILES * self.limits.chunks.max(1)
    }

    /// How `rows` rows are launched.
    pub fn geometry(&self, rows: i64) -> Geometry {
        let side_by_side = if self.is_by_block() { 1 } else { self.threads / WARP as u32 };
        self.limits.geometry(self.threads, parts_of(self.tiles(rows), side_by_side.into()))
    }

    /// The pre-pass over the targets of `rows` rows. Its counts are whole numbers, so that the chunks may follow the device.
    pub fn decode(&self, rows: i64) -> DecodePlan {
        let threads = threads_of(&self.limits, DECODE_THREADS);
        let most = self.limits.geometry(threads, i64::MAX).grid;
        let slots = self.classes.div_ceil(self.dtype.width()) as i64;
        let chunk = parts_of(rows, most.into()).clamp(1, (DECODE_SLOTS / slots).clamp(1, threads.into()));
        DecodePlan { geometry: self.limits.geometry(threads, parts_of(rows, chunk)), chunk: chunk as i32 }
    }

    /// The class statistics of `rows` rows.
    pub fn statistics(&self, rows: i64) -> StatisticsPlan {
        let threads = threads_of(&self.limits, STATISTICS_THREADS);
        let columns = self.classes.next_power_of_two().min(threads as usize) as i64;
        let tile_rows = STATISTICS_ROWS * (i64::from(threads) / columns);
        let tiles = parts_of(rows, tile_rows) * parts_of(self.classes as i64, columns);
        StatisticsPlan {
            geometry: self.limits.geometry(threads, tiles),
            chunk: STATISTICS_ROWS as i32,
            columns: columns as i32,
        }
    }
}

impl std::fmt::Display for BinaryPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} threads, {} a row", self.variant().name(), self.threads, self.team)
    }
}
