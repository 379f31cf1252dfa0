//! The plan of the learner's launches: a pure function of the row length, the form of the problem and the device's limits.

use crate::kernel::plan::{Form, Geometry, Limits, Plan, parts_of};
use crate::kernel::variant::{DType, LEARN_VALUES, Variant};

/// What decides the learner's plan, beside the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LearnForm {
    /// What logits and gradient are made of.
    pub dtype: DType,
    /// C.
    pub classes: usize,
    /// Whether every row of the logits starts on a 16-byte boundary.
    pub aligned: bool,
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
    /// Rows that a warp's part of the shared memory holds at most: a class with more has a block. 0 where it holds none, or has too few lanes for
    /// the columns.
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
/// With fewer rows a block had better more of the shared memory than another beside it.
const FEW_ROWS: u32 = 6;
/// Rows of a class that a team takes by columns at most: `kernels/learn_group.cuh`.
const MOST_COLUMN_ROWS: u32 = 16;
/// Arrays of a class beside its rows: `kernels/learn_tile.cuh`.
const ARRAYS: u32 = 2;
/// Of every array and row, bytes.
const ALIGNMENT: u32 = 16;

/// Floats from one array or row to the next: `kernels/learn_tile.cuh`.
fn pitch(classes: usize) -> u32 {
    (classes as u32).next_multiple_of(ALIGNMENT / 4)
}

impl LearnPlan {
    /// Threads of a block at most, as in `kernels/learn_cross_entropy.cu`: in however many blocks, a multiprocessor has registers for as many.
    pub fn most_threads(values: u32) -> u32 {
        if values == LEARN_VALUES[0] { 512 } else { 256 }
    }

    /// Shared memory that a block may ask for, bytes.
    pub fn most_shared(values: u32, limits: Limits) -> u32 {
        if values > 0 { limits.part_of_shared(1) } else { 0 }
    }

    /// The plan for a form.
    pub fn new(form: LearnForm, limits: Limits) -> Self {
        let LearnForm { dtype, classes, aligned } = form;
        let plain = Plan::new(Form { dtype, classes, aligned, general: false, from_saved: false }, limits);
        let row = pitch(classes) * 4;
        let per_row = row + TILE_ROW + PART;
        let with_values = |values: u32| {
            let (resident, most) = (Self::most_threads(values), limits.block_threads / WARP * WARP);
            let owners = (classes as u32).div_ceil(values).next_multiple_of(WARP).max(FEWEST_THREADS.min(most));
            // No more than one four of columns a thread.
            let useful = (classes as u32).div_ceil(4).next_multiple_of(WARP).max(owners);
            // As many blocks as there are registers for, or fewer with more of the shared memory each.
            let of_blocks = |blocks: u32| {
                let threads = useful.min(resident / blocks / WARP * WARP).min(most);
                let shared = limits.part_of_shared(blocks);
                // A part a warp at least.
                let room = shared.saturating_sub(ALIGNMENT + ARRAYS * row + PART * threads / WARP);
                (threads, shared, (room / per_row).min(MOST_TILE_ROWS))
            };
            let blocks = std::iter::successors(Some(resident / owners), |blocks| Some(blocks / 2));
            let mut plans = blocks.take_while(|blocks| *blocks > 0 && owners <= most).map(of_blocks);
            let roomy = plans.clone().find(|(.., tile_rows)| *tile_rows >= FEW_ROWS);
            let (threads, shared, tile_rows) = roomy.or_else(|| plans.by_ref().last())?;
            if tile_rows == 0 {
                return None;
            }
            // Every warp takes the same part, if its lanes can own all columns.
            let warp_room = (shared / (threads / WARP)).saturating_sub(ALIGNMENT + ARRAYS * row);
            let has_lanes = classes as u32 <= WARP * values;
            let warp_rows = if has_lanes { (warp_room / per_row).min(MOST_COLUMN_ROWS).min(tile_rows) } else { 0 };
            Some((values, threads, tile_rows, warp_rows))
        };
        let in_global = || {
            let most = limits.block_threads.min(Self::most_threads(0)) / WARP * WARP;
            (0, (classes as u32).next_multiple_of(WARP).clamp(FEWEST_THREADS.min(most), most), GLOBAL_TILE_ROWS, 0)
        };
        let (values, threads, tile_rows, warp_rows) =
            LEARN_VALUES.into_iter().find_map(with_values).unwrap_or_else(in_global);
        let variant = Variant::LearnCrossEntropy { dtype, values };
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
        matches!(self.variant, Variant::LearnCrossEntropy { values: 1.., .. })
    }

    /// Rows up to which a block's threads have columns of their own in all rows of a class. With more, each warp has rows of its own: it meets
    /// the others more often, and adds up less.
    pub fn column_rows(&self) -> u32 {
        if self.is_on_chip() { (4 * self.threads / WARP).min(MOST_COLUMN_ROWS) } else { 0 }
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
        let floats = |rows| if self.is_on_chip() { (ARRAYS + rows) * pitch(self.classes) * 4 } else { 0 };
        let before = |bytes: u32| bytes.next_multiple_of(ALIGNMENT);
        let of_block = before(TILE_ROW * tile_rows + PART * tile_rows.max(warps)) + floats(tile_rows);
        let warp_rows = self.warp_rows.min(tile_rows);
        let of_warp = before((TILE_ROW + PART) * warp_rows) + floats(warp_rows);
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
        if self.is_on_chip() { 0 } else { ((ARRAYS + self.tile_rows(rows)) * pitch(self.classes)) as usize }
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
