//! One softmax row, without cancellation (SPEC 1).

use super::vector::{self, sum_but};

/// The softmax of a row `v`: `exp(v - max)` goes to a buffer, the rest is here.
pub(super) struct Softmax {
    max: f64,
    /// `ln(sum exp(v - max))`, by way of the sum over all but the largest.
    ln_sum: f64,
    sum: f64,
}

impl Softmax {
    /// `largest` is v's. `None` when the row has no softmax: NaN or +inf in it, or all -inf.
    pub(super) fn of(v: &[f64], largest: Option<(usize, f64)>, exps: &mut [f64]) -> Option<Self> {
        let (arg, max) = largest.filter(|(_, max)| max.is_finite())?;
        vector::exps(v, max, exps);
        let others = sum_but(exps, arg);
        Some(Self { max, ln_sum: others.ln_1p(), sum: 1.0 + others })
    }

    /// `lse = ln sum exp(v)`.
    pub(super) fn lse(&self) -> f64 {
        self.max + self.ln_sum
    }

    /// `lse - v_c`, exact where `v_c` is the largest.
    pub(super) fn cross_entropy(&self, v_c: f64) -> f64 {
        (self.max - v_c) + self.ln_sum
    }

    /// `1 / sum exp(v - max)`: turns the buffer's numbers into probabilities.
    pub(super) fn normaliser(&self) -> f64 {
        1.0 / self.sum
    }
}
