//! What must hold for every batch: symmetries, bounds, agreement with the naive formulas, and that what is ignored or masked is absent.

mod common;
#[path = "common/strategies.rs"]
mod strategies;

use common::{assert_close, sigmoid, softmax, steps, uniform};
use logit_perturb::cpu::{CrossEntropyOutput, LearnedSign};
use logit_perturb::{BinaryStep, Bound, ClassCounts, GradientSemantics, Learner, Perturbation, Reduction, Split, Step};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// A permutation of `0..len`.
fn permutation(len: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    order.shuffle(&mut StdRng::seed_from_u64(seed));
    order
}

/// Rows of `width` numbers in another order, or only some of them.
fn take<T: Clone>(values: &[T], width: usize, rows: &[usize]) -> Vec<T> {
    rows.iter().flat_map(|&row| values[row * width..][..width].to_vec()).collect()
}

/// `take`, but one number for all stays one.
fn take_unless_one(values: &[f64], rows: &[usize]) -> Vec<f64> {
    if values.len() == 1 { values.to_vec() } else { take(values, 1, rows) }
}

fn with_rows(case: &softmax::Case, rows: &[usize]) -> softmax::Case {
    let c = case.columns;
    softmax::Case {
        logits: take(&case.logits, c, rows),
        labels: take(&case.labels, 1, rows),
        soft: case.soft.as_ref().map(|soft| take(soft, c, rows)),
        sample_weights: case.sample_weights.as_ref().map(|w| take(w, 1, rows)),
        per_sample: take(&case.per_sample, c, rows),
        upstream: take_unless_one(&case.upstream, rows),
        ..case.clone()
    }
}

fn with_binary_rows(case: &sigmoid::Case, rows: &[usize]) -> sigmoid::Case {
    let c = case.columns;
    sigmoid::Case {
        logits: take(&case.logits, c, rows),
        targets: take(&case.targets, c, rows),
        mask: case.mask.as_ref().map(|mask| take(mask, c, rows)),
        weights: case.weights.as_ref().map(|w| take(w, c, rows)),
        upstream: take_unless_one(&case.upstream, rows),
        ..case.clone()
    }
}

fn permuted_split(split: &Split, order: &[usize]) -> Split {
    match split {
        Split::Explicit(direction) => Split::Explicit(take(direction, 1, order)),
        Split::Rank { head, counts } => {
            Split::Rank { head: *head, counts: ClassCounts::new(take(counts.counts(), 1, order)).expect("counts") }
        }
        other => other.clone(),
    }
}

fn permuted_bound(bound: &Bound, order: &[usize]) -> Bound {
    match bound {
        Bound::Explicit(eps) => Bound::Explicit(take(eps, 1, order)),
        Bound::LongTail { eps, delta_head, delta_tail, ratio: Some(ratio) } => {
            let ratio = Some(take(ratio, 1, order));
            Bound::LongTail { eps: *eps, delta_head: *delta_head, delta_tail: *delta_tail, ratio }
        }
        other => other.clone(),
    }
}

/// The columns in another order: class `k` of the result is class `order[k]` of the case.
fn with_classes(case: &softmax::Case, order: &[usize]) -> softmax::Case {
    let c = case.columns;
    let columns = |values: &[f64]| -> Vec<f64> { values.chunks(c).flat_map(|row| take(row, 1, order)).collect() };
    let place = |&y: &i64| order.iter().position(|&old| old as i64 == y).map_or(y, |new| new as i64);
    softmax::Case {
        logits: columns(&case.logits),
        labels: case.labels.iter().map(place).collect(),
        soft: case.soft.as_ref().map(|soft| columns(soft)),
        scale: take_unless_one(&case.scale, &order[..case.scale.len()]),
        class_weights: case.class_weights.as_ref().map(|w| columns(w)),
        form: match &case.form {
            Perturbation::Shared(d) => Perturbation::Shared(columns(d)),
            Perturbation::TargetMargin(m) => Perturbation::TargetMargin(columns(m)),
            Perturbation::ClassMatrix(d) => Perturbation::ClassMatrix(take(&columns(d), c, order)),
            other => other.clone(),
        },
        per_sample: columns(&case.per_sample),
        learner: case.learner.as_ref().map(|l| {
            let (split, bound) = (permuted_split(l.split(), order), permuted_bound(l.bound(), order));
            Learner::new(l.step(), l.alpha(), split, bound).expect("in range").gradient(l.gradient_semantics())
        }),
        ..case.clone()
    }
}

/// `delta` of every class, `[C, C]`, 0 where absent.
fn all_deltas(output: &CrossEntropyOutput, c: usize) -> Vec<f64> {
    let mut delta = vec![0.0; c * c];
    if let Some(learned) = &output.learned {
        for (&class, row) in learned.classes.iter().zip(learned.delta.chunks(c)) {
            delta[class * c..][..c].copy_from_slice(row);
        }
    }
    delta
}

/// Equal to the bit, NaN included, as `{:?}` writes every f64 in full.
#[track_caller]
fn assert_identical(a: &impl std::fmt::Debug, b: &impl std::fmt::Debug) {
    assert_eq!(format!("{a:?}"), format!("{b:?}"));
}

/// Either semantics: `Through` must keep the symmetries too. It divides by the norm of gradients that vanish in saturated rows, where
/// smoothing does not let the loss's gradient vanish with them: such rows would need wider tolerances.
fn with_semantics(mut case: softmax::Case, through: bool) -> softmax::Case {
    if through {
        case.logits.iter_mut().for_each(|u| *u = u.clamp(-6.0, 6.0));
        case.learner = case.learner.map(|learner| learner.gradient(GradientSemantics::Through));
    }
    case
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn single_label_problems_follow_the_formulas(case in strategies::softmax(false)) {
        case.check();
    }

    #[test]
    fn learned_problems_follow_the_naive_loop(case in strategies::softmax(true)) {
        case.check();
    }

    #[test]
    fn multi_label_problems_follow_the_formulas(case in prop_oneof![strategies::sigmoid(1..7, false), strategies::sigmoid(1..7, true)]) {
        case.check();
    }

    #[test]
    fn adding_a_number_to_a_row_changes_nothing(
        learned in strategies::softmax(true), plain in strategies::softmax(false), through: bool, seed: u64,
    ) {
        for mut case in [with_semantics(learned, through), plain] {
            case.z = 0.0;
            case.scale.truncate(1);
            let (before, gradient) = case.run();
            let shift = uniform(seed, case.rows(), -20.0..20.0);
            case.logits.iter_mut().enumerate().for_each(|(at, u)| *u += shift[at / case.columns]);
            let (after, shifted) = case.run();
            assert_close("loss_rows", &after.loss_rows, &before.loss_rows, 1e-10);
            assert_close("gradient", &shifted, &gradient, 1e-10);
            assert_close("delta", &all_deltas(&after, case.columns), &all_deltas(&before, case.columns), 1e-10);
        }
    }

    #[test]
    fn rows_may_come_in_any_order(
        learned in strategies::softmax(true), plain in strategies::softmax(false), through: bool, seed: u64,
    ) {
        for case in [with_semantics(learned, through), plain] {
            let order = permutation(case.rows(), seed);
            let ((before, gradient), (after, permuted)) = (case.run(), with_rows(&case, &order).run());
            assert_close("loss", &[after.loss], &[before.loss], 1e-11);
            assert_close("loss_rows", &after.loss_rows, &take(&before.loss_rows, 1, &order), 1e-11);
            assert_eq!(after.predictions, take(&before.predictions, 1, &order));
            assert_close("gradient", &permuted, &take(&gradient, case.columns, &order), 1e-11);
            assert_close("delta", &all_deltas(&after, case.columns), &all_deltas(&before, case.columns), 1e-11);
        }
    }

    #[test]
    fn classes_may_come_in_any_order(
        learned in strategies::softmax(true), plain in strategies::softmax(false), through: bool, seed: u64,
    ) {
        for case in [with_semantics(learned, through), plain] {
            let c = case.columns;
            let order = permutation(c, seed);
            let ((before, gradient), (after, permuted)) = (case.run(), with_classes(&case, &order).run());
            let columns = |values: &[f64]| -> Vec<f64> { values.chunks(c).flat_map(|row| take(row, 1, &order)).collect() };
            assert_close("loss", &[after.loss], &[before.loss], 1e-11);
            assert_close("gradient", &permuted, &columns(&gradient), 1e-11);
            let expected = take(&columns(&all_deltas(&before, c)), c, &order);
            assert_close("delta", &all_deltas(&after, c), &expected, 1e-11);
        }
    }

    #[test]
    fn binary_rows_may_come_in_any_order(case in strategies::sigmoid(1..7, true), seed: u64) {
        let order = permutation(case.rows(), seed);
        let ((before, gradient), (after, permuted)) = (case.run(), with_binary_rows(&case, &order).run());
        assert_close("loss_rows", &after.loss_rows, &take(&before.loss_rows, 1, &order), 1e-11);
        assert_close("gradient", &permuted, &take(&gradient, case.columns, &order), 1e-11);
    }

    #[test]
    fn learned_perturbations_stay_within_their_bounds(case in strategies::softmax(true)) {
        let learned = case.run().0.learned.expect("a learner is set");
        for (delta, eps) in learned.delta.chunks(case.columns).zip(&learned.bound) {
            let size = match case.learner.as_ref().expect("a learner is set").step() {
                Step::UnitL2 => delta.iter().map(|d| d * d).sum::<f64>().sqrt(),
                _ => delta.iter().fold(0.0, |most: f64, d| most.max(d.abs())),
            };
            prop_assert!(size <= eps * (1.0 + 2e-6), "{size} exceeds {eps}");
        }
    }

    /// No step overshoots: the loss is convex, and downhill every row's target logit only gains on the others.
    #[test]
    fn maximising_raises_and_minimising_lowers_each_row(mut case in strategies::softmax(true)) {
        (case.smoothing, case.z, case.class_weights, case.sample_weights) = (0.0, 0.0, None, None);
        let learned = case.run().0.learned.expect("a learner is set");
        let before = softmax::Case { learner: None, ..case.clone() }.run().0.per_class.expect("labels");
        let after = case.run().0.per_class.expect("labels");
        for (at, &class) in learned.classes.iter().enumerate() {
            let gain = after.loss[class] - before.loss[class];
            // What saturated rows gain falls below rounding.
            let rounding = 1e-12 * (1.0 + before.loss[class]);
            prop_assert!(gain * f64::from(learned.direction[at]) >= -rounding, "class {class} gains {gain}");
            let moves = learned.steps[at] > 0 && case.columns > 1 && (1e-3..10.0).contains(&before.loss[class]);
            prop_assert!(!moves || gain != 0.0, "class {class} does not move");
            prop_assert!(moves || learned.steps[at] > 0 || gain == 0.0, "class {class} gains {gain} without a step");
        }
    }

    #[test]
    fn binary_steps_are_ordered_raw_within_sign_within_exact(case in strategies::sigmoid(1..7, true)) {
        let learned = case.run().0.learned.expect("a learner is set");
        let learner = case.learner.as_ref().expect("a learner is set");
        for (LearnedSign { delta, direction, bound, steps: taken, confidence, .. }, positive) in
            [(learned.positive, true), (learned.negative, false)]
        {
            for c in 0..case.columns {
                let push = f64::from(direction[c]) * if positive { -1.0 } else { 1.0 };
                let sign_bound = learner.alpha() * f64::from(steps(bound[c], learner.alpha()));
                let delta = delta[c];
                if !confidence[c].is_finite() || push == 0.0 {
                    prop_assert_eq!((delta, taken[c]), (0.0, 0));
                    continue;
                }
                match learner.step() {
                    BinaryStep::Exact => prop_assert_eq!((delta, taken[c]), (push * bound[c], 0)),
                    BinaryStep::Sign => assert_close("sign", &[delta], &[push * sign_bound], 1e-15),
                    _ => prop_assert!(delta * push >= 0.0 && delta.abs() <= sign_bound * (1.0 + 1e-15)),
                }
                prop_assert!(delta.abs() <= bound[c] * (1.0 + 2e-6));
            }
        }
    }

    #[test]
    fn ignored_rows_are_absent(case in prop_oneof![strategies::softmax(true), strategies::softmax(false)], through: bool) {
        let case = with_semantics(softmax::Case { soft: None, ..case }, through);
        let c = case.columns;
        let valid: Vec<usize> = (0..case.rows()).filter(|&i| case.is_valid(i)).collect();
        let ((with, gradient), (without, short)) = (case.run(), with_rows(&case, &valid).run());
        // An empty sum is -0; adding 0 makes it 0.
        prop_assert_eq!((with.loss + 0.0).to_bits(), (without.loss + 0.0).to_bits());
        assert_identical(&take(&gradient, c, &valid), &short);
        assert_identical(&with.learned, &without.learned);
        assert_identical(&with.per_class, &without.per_class);
        for i in (0..case.rows()).filter(|i| !valid.contains(i)) {
            prop_assert_eq!((with.loss_rows[i], with.lse[i], with.predictions[i]), (0.0, 0.0, -1));
            prop_assert_eq!(&gradient[i * c..][..c], &vec![0.0; c][..]);
        }
    }

    #[test]
    fn masked_rows_are_absent(case in strategies::sigmoid(1..7, true), seed: u64, by_mask: bool) {
        let mut case = case;
        if case.reduction == Reduction::BatchMean {
            case.reduction = Reduction::Mean;
        }
        let (n, c) = (case.rows(), case.columns);
        let kept: Vec<usize> = (0..n).filter(|i| seed >> i & 1 == 1).collect();
        let mut mask = case.mask.take().unwrap_or_else(|| vec![1; n * c]);
        for i in (0..n).filter(|i| !kept.contains(i)) {
            if by_mask {
                mask[i * c..][..c].fill(0);
            } else {
                case.targets[i * c..][..c].fill(-1.0);
            }
        }
        case.mask = Some(mask);
        let ((with, gradient), (without, short)) = (case.run(), with_binary_rows(&case, &kept).run());
        // An empty sum is -0; adding 0 makes it 0.
        prop_assert_eq!((with.loss + 0.0).to_bits(), (without.loss + 0.0).to_bits());
        assert_identical(&take(&gradient, c, &kept), &short);
        assert_identical(&(&with.learned, &with.per_class), &(&without.learned, &without.per_class));
    }

    #[test]
    fn masked_columns_do_not_matter(case in strategies::sigmoid(2..7, true), column in 0..2usize, seed: u64) {
        let mut case = case;
        let (n, c) = (case.rows(), case.columns);
        (0..n).for_each(|i| case.targets[i * c + column] = -1.0);
        let before = case.run();
        let numbers = uniform(seed, n, -9.0..9.0);
        (0..n).for_each(|i| case.logits[i * c + column] = numbers[i]);
        assert_identical(&case.run(), &before);
        prop_assert!((0..n).all(|i| before.1[i * c + column] == 0.0));
    }

    #[test]
    fn nan_and_infinity_in_ignored_rows_change_nothing(
        case in prop_oneof![strategies::softmax(true), strategies::softmax(false)], through: bool, seed: u64,
    ) {
        let case = with_semantics(softmax::Case { soft: None, ..case }, through);
        let (before, c) = (case.run(), case.columns);
        let mut spoilt = case.clone();
        let junk = |at: usize| [f64::NAN, f64::INFINITY, f64::NEG_INFINITY][(at + seed as usize % 3) % 3];
        for i in (0..case.rows()).filter(|&i| !case.is_valid(i)) {
            for at in i * c..(i + 1) * c {
                (spoilt.logits[at], spoilt.per_sample[at]) = (junk(at), junk(at + 1));
            }
            spoilt.sample_weights.iter_mut().for_each(|w| w[i] = junk(i));
            if spoilt.upstream.len() > 1 {
                spoilt.upstream[i] = junk(i);
            }
        }
        assert_identical(&spoilt.run(), &before);
    }

    #[test]
    fn nan_and_infinity_in_masked_entries_change_nothing(
        case in prop_oneof![strategies::sigmoid(1..7, true), strategies::sigmoid(1..7, false)], seed: u64,
    ) {
        let before = case.run();
        let mut spoilt = case.clone();
        let junk = |at: usize| [f64::NAN, f64::INFINITY, f64::NEG_INFINITY][(at + seed as usize % 3) % 3];
        for at in 0..case.logits.len() {
            if !case.is_known(at / case.columns, at % case.columns) {
                spoilt.logits[at] = junk(at);
                spoilt.weights.iter_mut().for_each(|w| w[at] = junk(at + 1));
                // A target of -1 is what masks; one behind the mask is not looked at.
                if case.mask.as_ref().is_some_and(|mask| mask[at] == 0) {
                    spoilt.targets[at] = junk(at + 2);
                }
            }
        }
        assert_identical(&spoilt.run(), &before);
    }

    /// With scale 1, loss and gradient of a row do not depend on the others but through the divisor.
    #[test]
    fn rows_stand_alone_under_no_reduction(mut case in strategies::softmax(false), seed: u64) {
        case.reduction = Reduction::None;
        case.upstream.truncate(1);
        let i = seed as usize % case.rows();
        let ((all, gradient), (one, alone)) = (case.run(), with_rows(&case, &[i]).run());
        prop_assert_eq!(all.loss_rows[i].to_bits(), one.loss_rows[0].to_bits());
        assert_identical(&take(&gradient, case.columns, &[i]), &alone);
    }
}
