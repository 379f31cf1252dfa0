//! The plan of the multi-label learner's launches: a pure function of the row length, the element type and the device's limits. N decides the
//! size of the grid and how many rows of a strip are kept, never the order of a sum.

use super::super::plan::{BinaryPlan, StatisticsPlan};
use crate::kernel::plan::{Geometry, Limits, parts_of};
use crate::kernel::variant::{DType, Variant};

/// The plan of the multi-label learner for one row length, element type and device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BinaryLearnPlan {
    /// What logits are made of.
    pub dtype: DType,
    /// Threads of a block that steps.
    pub threads: u32,
    /// Columns of a strip: a sector of memory.
    pub columns: u32,
    /// Rows of a strip for which shared memory has room; 0 where each step reads the logits again.
    pub kept: u32,
    classes: usize,
    limits: Limits,
    confidences: BinaryPlan,
}

const WARP: u32 = 32;
/// One block's strip is all that steps on a multiprocessor where classes are few: threads hide each other's waiting.
const MOST_THREADS: u32 = 512;
const SECTOR: u32 = 32;

impl BinaryLearnPlan {
    /// The plan for rows of `classes` logits.
    pub fn new(classes: usize, dtype: DType, limits: Limits) -> Self {
        let threads = limits.block_threads.min(MOST_THREADS) / WARP * WARP;
        let columns = SECTOR / dtype.bytes() as u32;
        let confidences = BinaryPlan::new(classes, dtype, false, limits);
        let plan = Self { dtype, threads, columns, kept: 0, classes, limits, confidences };
        Self { kept: limits.row_shared.saturating_sub(plan.shared(0)) / plan.row(), ..plan }
    }

    /// The same plan with the number of blocks that the driver finds resident on a multiprocessor.
    #[must_use]
    pub fn resident(mut self, blocks: u32) -> Self {
        self.limits.resident_blocks = blocks.max(1);
        self
    }

    /// The variant of the confidences.
    pub fn confidences_variant(&self) -> Variant {
        Variant::BinaryConfidences { dtype: self.dtype }
    }

    /// The variant of the raw steps.
    pub fn steps_variant(&self) -> Variant {
        Variant::LearnBinaryCrossEntropy { dtype: self.dtype }
    }

    /// Bytes that a kept row of a strip takes.
    fn row(&self) -> u32 {
        4 * self.columns
    }

    /// Rows of a strip that are kept, of `rows`.
    pub fn kept(&self, rows: i64) -> u32 {
        rows.min(self.kept.into()) as u32
    }

    /// Shared memory of a block that keeps so many rows, bytes: the sums of a pair of numbers over warps, twice, and the rows.
    fn shared(&self, kept: u32) -> u32 {
        4 * (self.threads / WARP) * self.columns * 8 + kept * self.row()
    }

    /// How the confidences of `rows` rows are computed.
    pub fn confidences(&self, rows: i64) -> StatisticsPlan {
        self.confidences.statistics(rows)
    }

    /// How the raw steps of `rows` rows are launched.
    pub fn steps(&self, rows: i64) -> Geometry {
        let shared = self.shared(self.kept(rows));
        let strips = parts_of(self.classes as i64, self.columns.into());
        let grid = strips.clamp(1, self.limits.blocks(self.threads, shared).into()) as u32;
        Geometry { grid, cluster: 1, threads: self.threads, shared, cooperative: false }
    }
}
