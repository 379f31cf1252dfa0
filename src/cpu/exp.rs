//! The exponential and the logarithm, written so that loops over them vectorise: the learner calls one per class, column and step, the losses
//! one per entry. Products are added without a rounding between: one instruction on x86-64-v3 and AArch64; elsewhere a slow library
//! call, which gives the same bits.

/// `exp(x)` for `x <= 709`, -inf included, to 2 units in the last place; below -708, where results would be subnormal, exactly 0.
#[inline(always)]
pub(super) fn exp(x: f64) -> f64 {
    // Adding it rounds to an integer, which then stands in the lowest bits.
    const SHIFT: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52
    // ln 2 in two parts; the first has so many zero bits that its products with exponents are exact.
    const LN2_HIGH: f64 = 6.931_471_803_691_238e-1;
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    /// 1 / k! from k = 13 down to 2.
    const TAYLOR: [f64; 12] = [
        1.0 / 6_227_020_800.0,
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
    ];
    let clamped = if x < -708.0 { -708.0 } else { x };
    let shifted = clamped.mul_add(std::f64::consts::LOG2_E, SHIFT);
    let k = shifted - SHIFT;
    // |r| <= ln(2) / 2, where the series to r^13 is exact to 2^-57.
    let r = k.mul_add(-LN2_LOW, k.mul_add(-LN2_HIGH, clamped));
    let mut series = 0.0_f64;
    for coefficient in TAYLOR {
        series = series.mul_add(r, coefficient);
    }
    let mantissa = 1.0 + (r * r).mul_add(series, r);
    let scaled = f64::from_bits(mantissa.to_bits().wrapping_add(shifted.to_bits() << 52));
    if x < -708.0 { 0.0 } else { scaled }
}

/// `ln(1 + x)` for `0 <= x <= 1`, to 2 units in the last place.
#[inline(always)]
pub(super) fn ln_1p(x: f64) -> f64 {
    /// 1 / (2 k + 1) from k = 10 down to 1.
    const ATANH: [f64; 10] = [
        1.0 / 21.0,
        1.0 / 19.0,
        1.0 / 17.0,
        1.0 / 15.0,
        1.0 / 13.0,
        1.0 / 11.0,
        1.0 / 9.0,
        1.0 / 7.0,
        1.0 / 5.0,
        1.0 / 3.0,
    ];
    // ln(1 + x) = 2 atanh(x / (2 + x)); from sqrt(2) on, of half of 1 + x. Either way |s| <= 0.172, where the series to s^21 is exact to 2^-57.
    let halved = x > std::f64::consts::SQRT_2 - 1.0;
    // Chosen before the division, of which there is then one.
    let (above, below) = if halved { (x - 1.0, x + 3.0) } else { (x, 2.0 + x) };
    let s = above / below;
    let square = s * s;
    let mut series = 0.0_f64;
    for coefficient in ATANH {
        series = series.mul_add(square, coefficient);
    }
    let ln = 2.0 * s.mul_add(square * series, s);
    if halved { ln + std::f64::consts::LN_2 } else { ln }
}

#[cfg(test)]
mod tests {
    use super::{exp, ln_1p};

    #[test]
    fn agrees_with_the_standard_library() {
        for i in -708_000..=709_000 {
            let x = f64::from(i) * 1e-3 + 1e-5 * f64::from(i % 97);
            if (-708.0..=709.0).contains(&x) {
                let error = (exp(x) - x.exp()).abs() / x.exp();
                assert!(error <= 2.0 * f64::EPSILON, "exp({x}) is off by {error:e}");
            }
        }
        assert_eq!([exp(0.0), exp(-708.1), exp(f64::NEG_INFINITY)], [1.0, 0.0, 0.0]);
    }
    #[test]
    fn the_logarithm_agrees_with_the_standard_library() {
        for i in 0..=1_000_000 {
            for x in [f64::from(i) * 1e-6, (f64::from(i) * -7e-4).exp()] {
                let error = (ln_1p(x) - x.ln_1p()).abs();
                assert!(error <= 2.0 * f64::EPSILON * x.ln_1p(), "ln_1p({x}) is off by {error:e}");
            }
        }
    }
}
