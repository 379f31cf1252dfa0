//! Batches for property tests: shapes and options shrink, the numbers follow from a seed.

use crate::common::{sigmoid, softmax, uniform};
use logit_perturb::{
    BinaryLearner, BinaryStep, Bound, ClassCounts, Focusing, GradientSemantics, Learner, NegativeSplit, Perturbation,
    Reduction, Split, Step,
};
use proptest::prelude::*;
use std::ops::Range;

/// Which split and bound, of those that go together.
fn plans() -> impl Strategy<Value = (u8, u8)> {
    prop_oneof![(0..4u8, 0..2u8), (2..4u8, 2..3u8), (1..2u8, 3..4u8)]
}

fn split_and_bound((split, bound): (u8, u8), columns: usize, seed: u64) -> (Split, Bound) {
    let counts = ClassCounts::new(uniform(seed ^ 1, columns, 1.0..500.0)).expect("positive counts");
    let direction = uniform(seed ^ 2, columns, -1.5..1.5).iter().map(|x| x.round() as i8).collect();
    let split = match split {
        0 => Split::Explicit(direction),
        1 => Split::Rank { head: seed as usize % (columns + 1), counts },
        2 => Split::MeanConfidence,
        _ => Split::Confidence { tau: 0.4 },
    };
    let eps = uniform(seed ^ 3, columns, 0.0..3.0);
    let bound = match bound {
        0 => Bound::Fixed { eps: eps[0] },
        1 => Bound::Explicit(eps),
        2 => Bound::Confidence { eps: eps[0], delta_eps: 2.0 },
        _ => Bound::LongTail {
            eps: eps[0],
            delta_head: 0.5,
            delta_tail: 1.5,
            ratio: seed.is_multiple_of(2).then_some(eps.iter().map(|e| e + 1.0).collect()),
        },
    };
    (split, bound)
}

fn reduction(kind: u8, seed: u64, rows: usize) -> (Reduction, Vec<f64>) {
    let upstream = |len| uniform(seed ^ 4, len, -2.0..3.0);
    match kind {
        0 => (Reduction::Mean, upstream(1)),
        1 => (Reduction::Sum, upstream(1)),
        2 => (Reduction::Divisor(7.5), upstream(1)),
        _ => (Reduction::None, upstream(rows)),
    }
}

/// Any single-label problem; with a learner, or without.
pub fn softmax(learned: bool) -> impl Strategy<Value = softmax::Case> {
    let numbers =
        (any::<u64>(), prop_oneof![Just(1.0), Just(6.0), Just(20.0)], prop_oneof![Just(0.07), Just(0.5), Just(1.0)]);
    (1..10usize, 1..7usize, numbers, any::<[bool; 8]>(), 0..5u8, 0..4u8, plans()).prop_map(
        move |(n, c, (seed, spread, alpha), options, form, kind, plan)| {
            let [smoothing, z, class_weights, sample_weights, unit, scale, class_scale, soft] = options;
            let draw = |salt: u64, len: usize, range: Range<f64>| uniform(seed ^ (salt << 8), len, range);
            // One row in C + 1 is ignored.
            let labels = draw(1, n, -1.0..c as f64).iter().map(|&x| if x < 0.0 { -100 } else { x as i64 }).collect();
            let mut case = softmax::Case::new(c, draw(2, n * c, -spread..spread), labels);
            case.form = match form {
                0 => Perturbation::None,
                1 => Perturbation::Shared(draw(3, c, -1.0..1.0)),
                2 => Perturbation::TargetMargin(draw(3, c, -1.0..1.0)),
                3 => Perturbation::ClassMatrix(draw(3, c * c, -1.0..1.0)),
                _ => Perturbation::PerSample,
            };
            case.per_sample = draw(4, n * c, -1.0..1.0);
            case.smoothing = if smoothing { 0.15 } else { 0.0 };
            case.z = if z { 0.2 } else { 0.0 };
            case.class_weights = class_weights.then(|| draw(5, c, 0.1..3.0));
            case.sample_weights = sample_weights.then(|| draw(6, n, 0.0..2.0));
            (case.reduction, case.upstream) = reduction(kind, seed, n);
            if learned {
                let (split, bound) = split_and_bound(plan, c, seed);
                let step = if unit { Step::UnitL2 } else { Step::Raw };
                case.learner = Some(Learner::new(step, alpha, split, bound).expect("in range"));
            } else {
                if scale {
                    case.scale = draw(7, if class_scale { c } else { 1 }, 0.3..2.5);
                }
                if soft && matches!(form, 0 | 1 | 4) {
                    (case.soft, case.smoothing) = (Some(draw(8, n * c, 0.0..0.8)), 0.0);
                }
            }
            case
        },
    )
}

/// Any multi-label problem without focusing; with a learner and hard targets, or with soft ones. A seventh of the targets is unknown.
pub fn sigmoid(columns: Range<usize>, learned: bool) -> impl Strategy<Value = sigmoid::Case> {
    let steps = prop_oneof![Just(BinaryStep::Raw), Just(BinaryStep::Sign), Just(BinaryStep::Exact)];
    let numbers = (any::<u64>(), prop_oneof![Just(0.07), Just(0.5), Just(2.0)], 0..5u8);
    (1..8usize, columns, numbers, any::<[bool; 8]>(), 0..5u8, plans(), steps).prop_map(
        move |(n, c, (seed, alpha, negatives), options, kind, plan, step)| {
            let [mask, weights, pos_weight, scale, offset, positive, negative, focusing] = options;
            let draw = |salt: u64, len: usize, range: Range<f64>| uniform(seed ^ (salt << 8), len, range);
            let target = |&x: &f64| match x {
                x if x < 0.0 => -1.0,
                x if learned => f64::from(u8::from(x > 0.6)),
                x => x,
            };
            let targets = draw(1, n * c, -0.16..1.0).iter().map(target).collect();
            let mut case = sigmoid::Case::new(c, draw(2, n * c, -6.0..6.0), targets);
            case.mask = mask.then(|| draw(3, n * c, -0.5..3.0).iter().map(|x| x.max(0.0).ceil() as u8).collect());
            case.weights = weights.then(|| draw(4, n * c, 0.0..2.0));
            case.pos_weight = pos_weight.then(|| draw(5, c, 0.0..4.0));
            case.offset = offset.then(|| draw(6, c, -1.0..1.0));
            case.positive = positive.then(|| draw(7, c, -1.0..1.0));
            case.negative = negative.then(|| draw(8, c, -1.0..1.0));
            (case.reduction, case.upstream) = match kind {
                4 => (Reduction::BatchMean, vec![1.5]),
                kind => reduction(kind, seed, n),
            };
            if focusing {
                case.focusing = Some(Focusing { gamma_pos: 1.5, gamma_neg: 3.0, clip: if scale { 0.05 } else { 0.0 } });
            } else if scale {
                case.negative_scale = 2.5;
            }
            if learned {
                let (split, bound) = split_and_bound(plan, c, seed);
                let own = split_and_bound((0, 1), c, !seed);
                let mut learner = BinaryLearner::new(step, alpha, split, bound.clone()).expect("in range");
                let how = match negatives {
                    0 => Some((NegativeSplit::Same, bound)),
                    1 => Some((NegativeSplit::Off, bound)),
                    2 => Some((NegativeSplit::Own(own.0), own.1)),
                    _ => None,
                };
                if let Some((split, bound)) = how {
                    learner = learner.negatives(split, bound).expect("in range");
                }
                let through =
                    if seed.is_multiple_of(3) { GradientSemantics::Through } else { GradientSemantics::Detached };
                case.learner = Some(learner.gradient(through));
            }
            case
        },
    )
}
