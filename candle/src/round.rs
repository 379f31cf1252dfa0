//! From f64 to the dtype of the logits, rounded once.

use candle_core::WithDType;
use logit_perturb::half::{bf16, f16};

/// A dtype that logits and their gradient may have.
pub(crate) trait Round: WithDType {
    /// Rounds to nearest, ties to even.
    fn round(value: f64) -> Self;
}

impl Round for f64 {
    fn round(value: f64) -> Self {
        value
    }
}

impl Round for f32 {
    fn round(value: f64) -> Self {
        value as f32
    }
}

impl Round for f16 {
    fn round(value: f64) -> Self {
        f16::from_f32(round_to_odd(value))
    }
}

impl Round for bf16 {
    fn round(value: f64) -> Self {
        bf16::from_f32(round_to_odd(value))
    }
}

/// f64 to f32, rounding to odd: rounding the result to a type of at most 22 bits is then the correct rounding of the f64 value.
/// Rounding to nearest twice is not, nor is `half`'s own conversion from f64, which drops the low 32 bits first.
fn round_to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    let back = f64::from(nearest);
    if back == value || !nearest.is_finite() || nearest.to_bits() & 1 == 1 {
        return nearest;
    }
    // The value lies between `nearest`, which is even, and the neighbour on its side, which is odd.
    let away_from_zero = (back < value) == (value > 0.0);
    f32::from_bits(if away_from_zero { nearest.to_bits() + 1 } else { nearest.to_bits() - 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The nearest of all finite numbers of a 16-bit type, ties to even.
    fn nearest_by_search(value: f64, finite: impl Iterator<Item = (u16, f64)>) -> u16 {
        let distance = |x: f64| (x - value).abs();
        let order =
            |a: &(u16, f64), b: &(u16, f64)| distance(a.1).total_cmp(&distance(b.1)).then((a.0 & 1).cmp(&(b.0 & 1)));
        finite.min_by(order).expect("there are finite numbers").0
    }

    /// Ties of f16 and of bf16, and what lies nearer to one than f32 can tell, on both sides; subnormals; the plain.
    #[test]
    fn halves_are_rounded_once() {
        let mut values = vec![0.0, 0.1, 65504.0, 3.1e-8, 5.9e-8 + 1e-17, 1e-7, 1e-41, 1e-50];
        for tie in [1.0 + 2f64.powi(-11), 1.0 + 3.0 * 2f64.powi(-11), 1.0 + 2f64.powi(-8), 1.0 + 3.0 * 2f64.powi(-8)] {
            values.extend([
                tie,
                tie + 2f64.powi(-50),
                tie - 2f64.powi(-50),
                tie + 2f64.powi(-26),
                tie - 2f64.powi(-26),
            ]);
        }
        for value in values.iter().flat_map(|&x| [x, -x]) {
            let sign = if value.is_sign_negative() { 0x8000 } else { 0 };
            let halves = (0..0x7c00u16).map(|bits| (bits | sign, f16::from_bits(bits | sign).to_f64()));
            assert_eq!(<f16 as Round>::round(value).to_bits(), nearest_by_search(value, halves), "f16 of {value:e}");
            let brains = (0..0x7f80u16).map(|bits| (bits | sign, bf16::from_bits(bits | sign).to_f64()));
            assert_eq!(<bf16 as Round>::round(value).to_bits(), nearest_by_search(value, brains), "bf16 of {value:e}");
        }
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        assert!(<f16 as Round>::round(f64::NAN).is_nan());
        assert!(<bf16 as Round>::round(f64::NAN).is_nan());
        assert_eq!(<f16 as Round>::round(1e9), f16::INFINITY);
        assert_eq!(<bf16 as Round>::round(f64::NEG_INFINITY), bf16::NEG_INFINITY);
    }
}
