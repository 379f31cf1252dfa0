//! Class statistics in the emulated device's memory.

use crate::memory::{Buffer, Memory};
use logit_perturb::kernel::{ClassSums, StatisticsAddresses};

/// Class statistics, `[C]` each.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "as in kernels/class_statistics.cu")]
pub struct Statistics {
    pub count: Vec<u64>,
    pub correct: Vec<u64>,
    pub loss: Vec<f64>,
    pub confidence: Vec<f64>,
    pub valid_rows: u64,
    pub correct_rows: u64,
}

/// Where they are left.
#[derive(Clone, Copy)]
pub(crate) struct StatisticsBuffers {
    pub(crate) count: Buffer<u64>,
    correct: Buffer<u64>,
    loss: Buffer<f64>,
    pub(crate) confidence: Buffer<f64>,
    rows: Buffer<u64>,
}

impl StatisticsBuffers {
    pub(crate) fn new(memory: &mut Memory, classes: usize) -> Self {
        Self {
            count: memory.poisoned(classes),
            correct: memory.poisoned(classes),
            loss: memory.poisoned(classes),
            confidence: memory.poisoned(classes),
            rows: memory.poisoned(2),
        }
    }

    pub(crate) fn addresses(&self, memory: &mut Memory, classes: usize) -> StatisticsAddresses {
        StatisticsAddresses {
            sums: memory.upload(&vec![ClassSums::default(); classes]).address(),
            count: self.count.address(),
            correct: self.correct.address(),
            loss: self.loss.address(),
            confidence: self.confidence.address(),
            rows: self.rows.address(),
            gathered: memory.upload(&[0u64; 2]).address(),
        }
    }

    pub(crate) fn download(&self, memory: &Memory) -> Statistics {
        let rows = memory.download(self.rows);
        Statistics {
            count: memory.download(self.count),
            correct: memory.download(self.correct),
            loss: memory.download(self.loss),
            confidence: memory.download(self.confidence),
            valid_rows: rows[0],
            correct_rows: rows[1],
        }
    }
}
