//! The exponential, written so that loops over it vectorise: the learner calls one per class, column and step.

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
    let shifted = clamped * std::f64::consts::LOG2_E + SHIFT;
    let k = shifted - SHIFT;
    // |r| <= ln(2) / 2, where the series to r^13 is exact to 2^-57.
    let r = (clamped - k * LN2_HIGH) - k * LN2_LOW;
    let mut series = 0.0;
    for coefficient in TAYLOR {
        series = series * r + coefficient;
    }
    let mantissa = 1.0 + (r + r * r * series);
    let scaled = f64::from_bits(mantissa.to_bits().wrapping_add(shifted.to_bits() << 52));
    if x < -708.0 { 0.0 } else { scaled }
}

#[cfg(test)]
mod tests {
    use super::exp;

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
}
