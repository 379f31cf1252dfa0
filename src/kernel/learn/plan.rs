//! The plan of the learner's launches: a pure function of the row length, the form of the problem and the device's limits.

use crate::kernel::plan::{Form, Geometry, Limits, Plan, parts_of};
use crate::kernel::variant::{DType, Variant};

/// What decides the learner's plan, beside the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LearnForm {
    /// What logits and gradient are made of.
    pub dtype: DType,
    /// C.
    pub classes: usize,
    /// Whether every row of the logits starts on a 16-byte boundary.
    pub aligned: bool,
    /// Whether targets may be smoothed.
    pub general: bool,
}

/// The plan of a learned perturbation for one form and device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LearnPlan {
    /// That of cross-entropy without the learner: it gathers confidences, and its labels and statistics are the learner's.
    pub plain: Plan,
    /// What is launched.
    pub variant: Variant,
    /// Threads of a block.
    pub threads: u32,
    /// Rows that a tile holds at most: a class with more has a gang of blocks.
    pub tile_rows: u32,
    /// Rows that a warp's part of the shared memory holds at most: a class with more has a block. 0 where it holds none.
    pub warp_rows: u32,
    classes: usize,
    /// Blocks that the device holds at a time.
    blocks: u32,
    limits: Limits,
}

const WARP: u32 = 32;
const FEWEST_THREADS: u32 = 128;
const GROUP_THREADS: u32 = 256;
/// Rows that a warp places together: PLACED of `kernels/group_rows.cu`.
const PLACED: i64 = 4;
/// `TileRow` and `Part` of `kernels/learn_tile.cuh`, bytes.
const TILE_ROW: u32 = 40;
const PART: u32 = 32;
/// More rows gain nothing: the columns' loop over them is long enough.
const MOST_TILE_ROWS: u32 = 1024;
/// Rows of a tile in global memory: few, so that the blocks' tiles stay in the second-level cache.
const GLOBAL_TILE_ROWS: u32 = 8;
/// More rows gain nothing from a warp of their own: a block has more hands than barriers to wait at.
const MOST_WARP_ROWS: u32 = 8;
/// Arrays of a class beside its rows: w, delta and g.
const ARRAYS: u32 = 3;

impl LearnPlan {
    /// Threads of a block at most, as in `kernels/learn_cross_entropy.cu`: a tile leaves room for two blocks on a multiprocessor, and a step has
    /// more barriers than work.
    pub const MOST_THREADS: u32 = 256;

    /// The plan for a form.
    pub fn new(form: LearnForm, limits: Limits) -> Self {
        let LearnForm { dtype, classes, aligned, general } = form;
        let most = limits.block_threads.min(Self::MOST_THREADS) / WARP * WARP;
        let threads = (classes as u32).next_multiple_of(WARP).clamp(FEWEST_THREADS.min(most), most);
        let row = classes as u32 * 4;
        let per_row = row + TILE_ROW + PART;
        // A part a warp at least.
        let room = limits.row_shared.saturating_sub(ARRAYS * row + PART * threads / WARP);
        let on_chip = room >= per_row;
        let tile_rows = if on_chip { (room / per_row).min(MOST_TILE_ROWS) } else { GLOBAL_TILE_ROWS };
        let plain = Plan::new(Form { dtype, classes, aligned, general: false, from_saved: false }, limits);
        let variant = Variant::LearnCrossEntropy { dtype, general: general || !on_chip, on_chip };
        // Of what the block may have, every warp takes the same part.
        let warp_room = (limits.row_shared / (threads / WARP) / 8 * 8).saturating_sub(ARRAYS * row);
        let warp_rows = if on_chip { (warp_room / per_row).min(MOST_WARP_ROWS).min(tile_rows) } else { 0 };
        let plan = Self { plain, variant, threads, tile_rows, warp_rows, classes, blocks: 1, limits };
        Self { blocks: limits.blocks(threads, plan.shared(tile_rows)), ..plan }
    }

    /// The same plan with the number of blocks that the driver finds resident on the device.
    #[must_use]
    pub fn resident(self, blocks: u32) -> Self {
        Self { blocks: blocks.max(1), ..self }
    }

    /// The same plan with another for cross-entropy.
    #[must_use]
    pub fn with_plain(self, plain: Plan) -> Self {
        Self { plain, ..self }
    }

    /// Whether a class's arrays are in shared memory.
    pub fn is_on_chip(&self) -> bool {
        matches!(self.variant, Variant::LearnCrossEntropy { on_chip: true, .. })
    }

    /// Rows of a tile for batches of `rows` rows; where fewer would do, all of a class's are in one tile either way.
    pub fn tile_rows(&self, rows: i64) -> u32 {
        i64::from(self.tile_rows).min(rows).max(1) as u32
    }

    /// Rows of a warp's tile, as [`tile_rows`](Self::tile_rows).
    pub fn warp_rows(&self, rows: i64) -> u32 {
        i64::from(self.warp_rows).min(rows) as u32
    }

    /// Shared memory for tiles of so many rows, or for as many smaller ones as there are warps, bytes.
    fn shared(&self, tile_rows: u32) -> u32 {
        let warps = self.threads / WARP;
        let floats = |rows| if self.is_on_chip() { (ARRAYS + rows) * self.classes as u32 * 4 } else { 0 };
        let of_block = TILE_ROW * tile_rows + PART * tile_rows.max(warps) + floats(tile_rows);
        let warp_rows = self.warp_rows.min(tile_rows);
        let of_warp = ((TILE_ROW + PART) * warp_rows + floats(warp_rows)).next_multiple_of(8);
        of_block.max(if warp_rows > 0 { warps * of_warp } else { 0 })
    }

    /// Rows of numbers that gangs of blocks need at most: one a tile and one a gang.
    pub(super) fn most_gang_rows(&self, rows: usize) -> usize {
        let (tile, largest) = (self.tile_rows as usize, rows);
        // Each class of a gang has at least a row more than a tile, and one tile that is not full.
        if largest <= tile { 0 } else { rows / tile + 2 * (rows / (tile + 1)) }
    }

    /// Floats of global memory that a block works in.
    pub(super) fn scratch_floats(&self, rows: i64) -> usize {
        if self.is_on_chip() { 0 } else { (ARRAYS + self.tile_rows(rows)) as usize * self.classes }
    }

    /// How `rows` rows are learned from: as many blocks as the device holds, or as there may be classes and ignored rows.
    pub fn geometry(&self, rows: i64) -> Geometry {
        let grid = rows.clamp(1, self.blocks.into()) as u32;
        let shared = self.shared(self.tile_rows(rows));
        // Only then may a class have more rows than a tile.
        let cooperative = rows > i64::from(self.tile_rows);
        Geometry { grid, cluster: 1, threads: self.threads, shared, cooperative }
    }

    /// How `rows` rows are put in order by class.
    pub fn group_geometry(&self, rows: i64) -> Geometry {
        let threads = GROUP_THREADS.min(self.limits.block_threads / WARP * WARP);
        self.limits.geometry(threads, parts_of(rows, PLACED * i64::from(threads / WARP)))
    }

    /// Groups that `rows` rows make at most.
    pub fn most_groups(&self, rows: usize) -> usize {
        rows.min(self.classes).max(1)
    }
}
