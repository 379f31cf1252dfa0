//! Corner cases of SPEC 5.

use crate::case::{Case, Format, Numbers};
use crate::run::{check, compare, explicit, hard, keeping, learning, off, raw};
use logit_perturb::kernel::DType;
use logit_perturb::kernel::binary::{AllowedTargets, TargetErrors};
use logit_perturb::{BinaryLearner, BinaryStep, Bound, NegativeSplit, Split};
use logit_perturb_emulator::{Emulator, Gradient, Options};

const STEPS: [BinaryStep; 3] = [BinaryStep::Raw, BinaryStep::Sign, BinaryStep::Exact];

/// Learners of every step by split, and strips kept and not.
fn learners(classes: usize) -> Vec<(BinaryLearner, u32)> {
    let splits = || [Split::MeanConfidence, Split::Confidence { tau: 0.6 }, explicit(classes)];
    let of =
        |(step, split): (BinaryStep, Split)| BinaryLearner::new(step, 0.25, split, Bound::Fixed { eps: 2.0 }).unwrap();
    let all = STEPS.into_iter().flat_map(|step| splits().map(|split| (step, split))).map(of);
    all.flat_map(|learner| [(learner.clone(), 64), (learner, 2)]).collect()
}

#[test]
fn batches_of_no_row_learn_nothing() {
    for format in Format::ALL {
        for (learner, kept) in learners(19) {
            let mut case = hard(DType::F32, format, 19, 0, 1);
            (case.problem, case.limits) = (learning(learner), keeping(kept, DType::F32));
            assert!(check(&case, 2));
        }
    }
}

/// Classes without positives, without negatives, without either; batches without any known entry.
#[test]
fn empty_groups_stay_where_they_are() {
    for (learner, kept) in learners(11) {
        for all in [false, true] {
            let mut case = hard(DType::F32, Format::I8, 11, 9, 3);
            for (index, t) in case.targets.iter_mut().enumerate() {
                match index % 11 {
                    _ if all => *t = -1.0,
                    1 => *t = 0.0,
                    2 => *t = 1.0,
                    3 => *t = -1.0,
                    _ => {}
                }
            }
            (case.problem, case.limits) = (learning(learner.clone()), keeping(kept, DType::F32));
            let outcome = case.run(4);
            assert!(compare(&case, &outcome));
            let learned = outcome.learned.unwrap();
            for (sign, class) in [(&learned.positive, 1), (&learned.negative, 2), (&learned.positive, 3)] {
                assert_eq!((sign.delta[class].to_bits(), sign.steps[class]), (0, 0));
            }
        }
    }
}

/// A NaN spoils its column's group, in delta, loss and gradient; where it is not known it is nothing. Infinite logits have a confidence.
#[test]
fn what_is_not_finite_spoils_its_group_alone() {
    for (learner, kept) in learners(20) {
        for (value, row) in [(f32::NAN, 1), (f32::NAN, 7), (f32::INFINITY, 2), (f32::NEG_INFINITY, 8)] {
            let mut case = hard(DType::F32, Format::I8, 20, 10, 5);
            case.statistics = true;
            let hit = [(3, 1.0), (4, 0.0), (5, -1.0)];
            for (class, t) in hit {
                (case.logits[row * 20 + class], case.targets[row * 20 + class]) = (value, t);
            }
            (case.problem, case.limits) = (learning(learner.clone()), keeping(kept, DType::F32));
            let outcome = case.run(6);
            assert!(compare(&case, &outcome));
            let learned = outcome.learned.as_ref().unwrap();
            let (loss, rows, gradient) = case.reference();
            let same = |found: f32, expected: f64| {
                let (found, near) = (f64::from(found), 1e-5 * expected.abs().max(1.0));
                let both_nan = found.is_nan() && expected.is_nan();
                assert!(found == expected || both_nan || (found - expected).abs() <= near);
            };
            same(outcome.loss, loss);
            outcome.loss_rows.iter().zip(rows).for_each(|(&found, expected)| same(found, expected));
            outcome.gradient.iter().zip(gradient).for_each(|(&found, expected)| same(found, expected));
            for (class, _) in hit {
                let spoilt = |sign: usize| value.is_nan() && class == 3 + sign;
                assert_eq!(learned.positive.delta[class].is_nan(), spoilt(0), "class {class}");
                assert_eq!(learned.negative.delta[class].is_nan(), spoilt(1), "class {class}");
            }
            let nan_classes = outcome.statistics.unwrap().loss.iter().filter(|loss| loss.is_nan()).count();
            assert_eq!(nan_classes, if value.is_nan() { 2 } else { 0 });
        }
    }
}

/// Logits that saturate: no overflow, and delta moves where the loss has a slope.
#[test]
fn logits_far_out_stay_exact() {
    for eps in [2.0, 30.0] {
        for kept in [64, 3] {
            let mut case = hard(DType::F32, Format::U8, 9, 12, 7);
            let far = [1e4, -1e4, 88.0, -88.0, 104.0, -104.0, 60.0, -60.0, 0.0];
            for (index, u) in case.logits.iter_mut().enumerate() {
                *u = far[(index / 9 + index % 9) % 9];
            }
            (case.problem, case.limits) = (learning(raw(eps / 8.0, eps, explicit(9))), keeping(kept, DType::F32));
            assert!(check(&case, 8));
        }
    }
}

/// Confidences that are tau have no direction, and a bound below alpha no step.
#[test]
fn ties_and_short_bounds_take_no_step() {
    for step in STEPS {
        let mut case = hard(DType::F32, Format::U8, 10, 8, 9);
        case.logits.fill(0.5);
        let learner = BinaryLearner::new(step, 0.25, Split::MeanConfidence, Bound::Fixed { eps: 2.0 }).unwrap();
        case.problem = learning(learner);
        let outcome = case.run(1);
        assert!(compare(&case, &outcome));
        assert!(outcome.learned.unwrap().positive.directions.iter().all(|&direction| direction == 0));
        let learner = BinaryLearner::new(step, 0.25, explicit(10), Bound::Fixed { eps: 0.2 }).unwrap();
        case.problem = learning(learner);
        assert!(check(&case, 2));
    }
}

/// Negatives that are off have a threshold and no direction.
#[test]
fn negatives_may_be_off() {
    for split in [Split::MeanConfidence, Split::Confidence { tau: 0.5 }, explicit(12)] {
        for kept in [64, 1] {
            let mut case = hard(DType::BF16, Format::I8, 12, 20, 10);
            (case.problem, case.limits) =
                (learning(off(raw(0.25, 1.0, split.clone()), 1.0)), keeping(kept, DType::BF16));
            let outcome = case.run(3);
            assert!(compare(&case, &outcome));
            let negative = outcome.learned.unwrap().negative;
            assert!(negative.directions.iter().all(|&d| d == 0) && negative.delta.iter().all(|&d| d == 0.0));
        }
    }
    let mixed = raw(0.25, 1.0, explicit(12))
        .negatives(NegativeSplit::Own(Split::MeanConfidence), Bound::Confidence { eps: 0.3, delta_eps: 1.1 });
    let mut case = hard(DType::F32, Format::Bits, 12, 20, 11);
    case.problem = learning(mixed.unwrap());
    check(&case, 4);
}

/// A target between 0 and 1 counts as masked, and the first of them is recorded: with a learner it is none.
#[test]
fn soft_targets_are_recorded_and_masked() {
    for format in [Format::F32, Format::Same, Format::I8, Format::U8] {
        for dtype in DType::ALL {
            for (learner, kept) in learners(13) {
                let mut case = hard(dtype, format, 13, 6, 12);
                let bad = if format.is_soft() { 0.25 } else { 3.0 };
                case.targets[13 + 4] = bad;
                case.targets[3 * 13 + 1] = bad;
                (case.problem, case.limits) = (learning(learner), keeping(kept, dtype));
                let outcome = case.run(5);
                let found = TargetErrors { bad: 2, row: 1, column: 4, value: bad.into(), end: 0 };
                assert_eq!(outcome.errors, found);
                if format.is_soft() {
                    let problem = outcome.errors.problem(13, AllowedTargets { unknown: true, hard: true }).unwrap();
                    let expected =
                        "class 4 is 0.25, must be 0 or 1 or -1 (unknown) with a learner; 2 such target(s) in all";
                    assert_eq!(problem, expected);
                }
                let mut masked = case.clone();
                masked.targets[13 + 4] = -1.0;
                masked.targets[3 * 13 + 1] = -1.0;
                masked.format = Format::I8;
                assert!(compare(&masked, &outcome));
            }
        }
    }
}

/// A captured graph replays: the second batch finds nothing of the first.
#[test]
fn a_second_batch_finds_the_workspace_as_the_first() {
    for (learner, kept) in learners(21) {
        let mut case: Case = hard(DType::F32, Format::U8, 21, 17, 13);
        case.targets.iter_mut().for_each(|t| *t = t.max(0.0));
        (case.problem, case.limits, case.gradient) =
            (learning(learner), keeping(kept, DType::F32), Gradient::Into(case.rows_at));
        let mut emulator = Emulator::new(Options::default());
        let operation = case.operation(&mut emulator, None);
        operation.run(&mut emulator).unwrap();
        case.targets.reverse();
        let bytes: Vec<u8> = case.targets.iter().map(|&t| t as u8).collect();
        operation.set_targets(&mut emulator, &bytes);
        let outcome = operation.run(&mut emulator).unwrap();
        assert!(compare(&case, &outcome));
        assert_eq!(Numbers::from(&outcome).loss.to_bits(), case.run(1).loss.to_bits());
    }
}

/// Where nobody asked for what is learned, loss and gradient are the same and nothing else is written.
#[test]
fn what_is_learned_may_stay_unasked_for() {
    for (learner, kept) in learners(19) {
        let mut case = hard(DType::F32, Format::I8, 19, 20, 6);
        (case.problem, case.limits) = (learning(learner), keeping(kept, DType::F32));
        let asked = case.run(3);
        let mut emulator = Emulator::new(Options { seed: 3, exp_seed: 3, ..Options::default() });
        let unasked = case.operation(&mut emulator, None).unasked().run(&mut emulator).unwrap();
        assert_eq!((unasked.loss, &unasked.gradient), (asked.loss, &asked.gradient));
    }
}
