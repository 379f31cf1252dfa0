//! The two losses as plain data: what is to be computed, validated once. The CPU and the GPU take the same value.

mod binary_cross_entropy;
mod cross_entropy;

pub use binary_cross_entropy::{BinaryCrossEntropy, BinaryCrossEntropyBuilder, Focusing};
pub use cross_entropy::{CrossEntropy, CrossEntropyBuilder, LogitScale};

use crate::error::{Result, check};

/// How the row losses become one number.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Reduction {
    /// The weighted mean. Cross-entropy: divided by the sum of `omega_i * w_{y_i}` over the valid rows (soft targets: of
    /// `omega_i`), its z-loss by the number of valid rows. Binary cross-entropy: divided by the number of unmasked entries.
    #[default]
    Mean,
    /// The sum.
    Sum,
    /// One loss a row, `[N]`.
    None,
    /// The sum divided by a given number, finite and > 0: the global count of gradient accumulation or data parallelism.
    Divisor(f64),
    /// Binary cross-entropy only: the sum divided by the number of rows N.
    BatchMean,
}

impl Reduction {
    fn check(self) -> Result<()> {
        match self {
            Reduction::Divisor(divisor) => check::positive("divisor", divisor),
            _ => Ok(()),
        }
    }
}

/// What the upstream gradient `g` of the loss is.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Upstream<'a> {
    /// One number for the whole batch; 1 by default.
    Scalar(f64),
    /// One number a row, `[N]`: only under [`Reduction::None`].
    Rows(&'a [f64]),
}

impl Default for Upstream<'_> {
    fn default() -> Self {
        Upstream::Scalar(1.0)
    }
}
