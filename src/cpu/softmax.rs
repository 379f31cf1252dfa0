//! One softmax row, without cancellation (SPEC 1).

use super::exp::exp;

/// The softmax of a row `v`: `exp(v - max)` goes to a buffer, the rest is here.
pub(super) struct Softmax {
    max: f64,
    /// `ln(sum exp(v - max))`, by way of the sum over all but the largest.
    ln_sum: f64,
    sum: f64,
}

impl Softmax {
    /// `None` when the row has no softmax: NaN or +inf in it, or all -inf.
    pub(super) fn of(v: &[f64], exps: &mut [f64]) -> Option<Self> {
        let (mut arg, mut max) = (0, f64::NEG_INFINITY);
        let mut nan = false;
        for (c, &x) in v.iter().enumerate() {
            nan |= x.is_nan();
            if x > max {
                (arg, max) = (c, x);
            }
        }
        if nan || max.is_infinite() {
            return None;
        }
        for (e, x) in exps.iter_mut().zip(v) {
            *e = exp(x - max);
        }
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

/// The sum of all numbers but `skip`'s.
pub(super) fn sum_but(values: &[f64], skip: usize) -> f64 {
    values[..skip].iter().chain(&values[skip + 1..]).fold(0.0, |sum, x| sum + x)
}

/// The largest logit's class, lowest index on ties; -1 for a row with NaN or all -inf.
pub(super) fn prediction(u: &[f64]) -> i64 {
    let mut best = (-1, f64::NEG_INFINITY);
    for (c, &x) in u.iter().enumerate() {
        if x.is_nan() {
            return -1;
        }
        if x > best.1 {
            best = (c as i64, x);
        }
    }
    best.0
}
