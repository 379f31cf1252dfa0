//! Loops over rows of numbers, each compiled for several widths of vectors, of which the widest that the processor has is taken. Whatever it
//! is, a sum runs in the same number of lanes, so that its bits are the same on every processor.

use super::exp::exp;
use multiversion::multiversion;

/// Running results of a fold over a row: two vectors even of the widest, since one would wait for itself.
const LANES: usize = 16;
/// Numbers compared together in a search: enough to vectorise, few enough to stop early.
const SEARCHED: usize = 64;

#[inline(always)]
fn fold(mut lanes: [f64; LANES], f: impl Fn(f64, f64) -> f64) -> f64 {
    let mut half = LANES / 2;
    while half > 0 {
        for k in 0..half {
            lanes[k] = f(lanes[k], lanes[k + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// The sum.
#[multiversion(targets = "simd")]
pub(super) fn sum(x: &[f64]) -> f64 {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += x);
    }
    lanes.iter_mut().zip(rest).for_each(|(sum, x)| *sum += x);
    fold(lanes, |a, b| a + b)
}

/// The sum of all numbers but `skip`'s.
pub(super) fn sum_but(x: &[f64], skip: usize) -> f64 {
    sum(&x[..skip]) + sum(&x[skip + 1..])
}

/// The dot product.
#[multiversion(targets = "simd")]
pub(super) fn dot(x: &[f64], y: &[f64]) -> f64 {
    let mut lanes = [0.0; LANES];
    let ((xs, x), (ys, y)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (xs, ys) in xs.iter().zip(ys) {
        lanes.iter_mut().zip(xs).zip(ys).for_each(|((sum, x), y)| *sum = x.mul_add(*y, *sum));
    }
    lanes.iter_mut().zip(x).zip(y).for_each(|((sum, x), y)| *sum = x.mul_add(*y, *sum));
    fold(lanes, |a, b| a + b)
}

/// The largest number and its first place; `None` where one is NaN, or all are -inf.
#[multiversion(targets = "simd")]
pub(super) fn largest(x: &[f64]) -> Option<(usize, f64)> {
    // NaN stays, once it is there.
    let larger = |max: f64, x: f64| if x > max || x.is_nan() { x } else { max };
    let mut lanes = [f64::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(max, x)| *max = larger(*max, *x));
    }
    lanes.iter_mut().zip(rest).for_each(|(max, x)| *max = larger(*max, *x));
    let max = fold(lanes, larger);
    if max.is_nan() || max == f64::NEG_INFINITY {
        return None;
    }
    let holds = |part: &[f64]| part.iter().fold(false, |found, x| found | (*x == max));
    let start = SEARCHED * x.chunks(SEARCHED).position(holds)?;
    Some((start + x[start..].iter().position(|x| *x == max)?, max))
}

/// `f(x, y)` in the place of each `x`; of a small `f`, which is to be inlined.
#[multiversion(targets = "simd")]
pub(super) fn update(x: &mut [f64], y: &[f64], f: impl Fn(f64, f64) -> f64) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x = f(*x, *y));
}

/// `exp(x - shift)` of each.
#[multiversion(targets = "simd")]
pub(super) fn exps(x: &[f64], shift: f64, out: &mut [f64]) {
    out.iter_mut().zip(x).for_each(|(e, x)| *e = exp(x - shift));
}

/// `exp(x - y)` of each, and whether a difference is further from 0 than `far`.
#[multiversion(targets = "simd")]
pub(super) fn exps_of_differences(x: &[f64], y: &[f64], far: f64, out: &mut [f64]) -> bool {
    // Not `any`, which would look at one after the other.
    out.iter_mut().zip(x).zip(y).fold(false, |found, ((e, x), y)| {
        *e = exp(x - y);
        found | ((x - y).abs() > far)
    })
}

#[cfg(test)]
mod tests {
    use super::{LANES, dot, largest, sum, sum_but};

    /// Around one and two turns of the lanes, and around one and two turns of the search.
    const LENGTHS: [usize; 13] = [1, 2, 7, LANES - 1, LANES, LANES + 1, 2 * LANES - 1, 2 * LANES, 33, 63, 64, 65, 129];

    #[test]
    fn every_number_counts_once() {
        for len in LENGTHS {
            for place in 0..len {
                let mut x = vec![0.0; len];
                x[place] = 3.0;
                assert_eq!(sum(&x), 3.0, "number {place} of {len}");
                assert_eq!(sum_but(&x, place), 0.0, "all but number {place} of {len}");
                let y: Vec<f64> = (0..len).map(|i| i as f64 + 1.0).collect();
                assert_eq!(dot(&x, &y), 3.0 * (place as f64 + 1.0), "number {place} of {len}");
            }
        }
    }

    #[test]
    fn the_largest_is_the_first_of_its_equals_and_nan_spoils_it_anywhere() {
        for len in LENGTHS {
            for place in 0..len {
                let mut x = vec![-2.0; len];
                x[place] = -1.0;
                assert_eq!(largest(&x), Some((place, -1.0)), "number {place} of {len}");
                x[len - 1] = -1.0;
                assert_eq!(largest(&x), Some((place, -1.0)), "numbers {place} and the last of {len}");
                x[place] = f64::NAN;
                assert_eq!(largest(&x), None, "NaN as number {place} of {len}");
            }
            assert_eq!(largest(&vec![f64::NEG_INFINITY; len]), None, "{len} times -inf");
        }
    }
}
