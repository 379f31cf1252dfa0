//! What the integration tests share: batches in plain numbers, evaluated by the crate and, for comparison, by the formulas of the
//! SPEC written out naively. Nothing here takes its numbers from the crate.

pub mod sigmoid;
pub mod softmax;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::ops::Range;

/// `len` numbers drawn evenly from `range`, the same for the same seed.
pub fn uniform(seed: u64, len: usize, range: Range<f64>) -> Vec<f64> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(range.clone())).collect()
}

/// Asserts that two lists agree within `tolerance * max(1, |expected|)`; NaN equals NaN, and infinities themselves.
#[track_caller]
pub fn assert_close(what: &str, actual: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}: length");
    for (i, (&a, &e)) in actual.iter().zip(expected).enumerate() {
        let same = a == e || (a.is_nan() && e.is_nan());
        let near = (a - e).abs() <= tolerance * e.abs().max(1.0);
        assert!(same || near, "{what}[{i}]: {a:e}, expected {e:e}, difference {:e}", a - e);
    }
}

/// `K = floor(eps / alpha * (1 + 1e-6))`, at most 10,000.
pub fn steps(eps: f64, alpha: f64) -> u32 {
    ((eps / alpha * (1.0 + 1e-6)).floor() as u32).min(10_000)
}

/// Numbers that decide how far and which way each class is pushed.
pub struct Plan {
    pub direction: Vec<i8>,
    pub bound: Vec<f64>,
    pub tau: f64,
}

/// Directions and bounds of SPEC 3 for confidences `q`, NaN for the absent.
pub fn plan(split: &logit_perturb::Split, bound: &logit_perturb::Bound, q: &[f64]) -> Plan {
    use logit_perturb::{Bound, Split};
    let present: Vec<f64> = q.iter().copied().filter(|q| q.is_finite()).collect();
    let tau = match split {
        Split::MeanConfidence => present.iter().sum::<f64>() / present.len() as f64,
        Split::Confidence { tau } => *tau,
        _ => f64::NAN,
    };
    // How many classes come before class c.
    let rank = |n: &[f64], c: usize| (0..n.len()).filter(|&j| n[j] > n[c] || (n[j] == n[c] && j < c)).count();
    let direction = |c: usize| match split {
        Split::Rank { head, counts } => {
            if rank(counts.counts(), c) < *head {
                -1
            } else {
                1
            }
        }
        Split::Explicit(direction) => direction[c],
        _ if (tau - q[c]).abs() <= 1e-6 || !q[c].is_finite() => 0,
        _ => (tau - q[c]).signum() as i8,
    };
    let bound = |c: usize| match (bound, split) {
        (Bound::Fixed { eps }, _) => *eps,
        (Bound::Confidence { eps, delta_eps }, _) => eps + delta_eps * (tau - q[c]).abs(),
        (Bound::LongTail { eps, delta_head, delta_tail, ratio }, Split::Rank { head, counts }) => {
            let n = counts.counts();
            let r = ratio.as_deref().unwrap_or(n);
            let with_rank = |k: usize| r[(0..n.len()).find(|&c| rank(n, c) == k).expect("ranks are a permutation")];
            if rank(n, c) < *head {
                eps + delta_head * r[c] / with_rank(0)
            } else {
                eps + delta_tail * with_rank(n.len() - 1) / r[c]
            }
        }
        (Bound::Explicit(bound), _) => bound[c],
        _ => unreachable!("refused when the learner is built"),
    };
    let classes = 0..q.len();
    Plan { direction: classes.clone().map(direction).collect(), bound: classes.map(bound).collect(), tau }
}
