//! What is moved how often, in which order sums are taken, and what does not matter; plans; what is refused.

use crate::case::{Case, Format, bits};
use crate::devices::device;
use crate::run::{check, explicit, hard, keeping, learning, raw};
use logit_perturb::kernel::binary::{BinaryLearnPlan, BinaryRule, check_binary_supported};
use logit_perturb::kernel::{DType, Limits};
use logit_perturb::{BinaryLearner, BinaryStep, Bound, ClassCounts, GradientSemantics, NegativeSplit, Split};
use logit_perturb_emulator::{BinaryOutcome, Gradient, Options, Rows};

fn all_bits(outcome: &BinaryOutcome) -> Vec<u64> {
    let learned = outcome.learned.as_ref().unwrap();
    let of_signs = [&learned.positive, &learned.negative].into_iter().flat_map(|sign| {
        let numbers = sign.delta.iter().map(|x| u64::from(x.to_bits()));
        let wide = sign.confidences.iter().chain([&sign.tau]).map(|x| x.to_bits());
        numbers.chain(wide).chain(sign.steps.iter().map(|&k| k.into())).collect::<Vec<_>>()
    });
    bits(outcome).into_iter().chain(of_signs).collect()
}

/// A logit is read once where its row is kept, else once and for every step of its class; once more where the mean of the confidences
/// decides, and only then where delta has a closed form. What the learner does not need to read, it does not.
#[test]
fn logits_move_as_often_as_they_must() {
    for dtype in [DType::F32, DType::BF16] {
        for c in [5, 16, 37] {
            for split in [Split::MeanConfidence, Split::Confidence { tau: 0.6 }, explicit(c)] {
                for (step, kept) in [
                    (BinaryStep::Raw, 64),
                    (BinaryStep::Raw, 7),
                    (BinaryStep::Raw, 0),
                    (BinaryStep::Sign, 0),
                    (BinaryStep::Exact, 0),
                ] {
                    let n = 21;
                    let mean = split == Split::MeanConfidence;
                    let mut case = hard(dtype, Format::I8, c, n, 1);
                    let learner = BinaryLearner::new(
                        step,
                        0.25,
                        split.clone(),
                        Bound::Explicit((0..c).map(|k| 0.3 * (k % 4) as f64).collect()),
                    );
                    (case.problem, case.limits) = (learning(learner.unwrap()), keeping(kept, dtype));
                    case.rows_at = Rows { stride: c + 3, offset: 1 };
                    let outcome = case.run(2);
                    let learned = outcome.learned.unwrap();
                    let raw = step == BinaryStep::Raw;
                    assert_eq!(learned.logits_traffic.len(), 1 + usize::from(mean && raw));
                    for index in 0..n * c {
                        let (row, class) = (index / c, index % c);
                        let steps = learned.positive.steps[class].max(learned.negative.steps[class]);
                        let expected = match raw {
                            true if row < kept as usize => 1 + u32::from(mean),
                            true => 1 + steps,
                            false => 1,
                        };
                        let found: u32 = learned.logits_traffic.iter().map(|traffic| traffic.reads[index]).sum();
                        assert_eq!(
                            found, expected,
                            "{dtype:?}, {c} classes, {step:?}, {kept} kept, row {row}, class {class}"
                        );
                    }
                    assert!(outcome.logits_traffic.reads.iter().all(|&reads| reads == 1));
                    assert!(outcome.gradient_traffic.unwrap().writes.iter().all(|&writes| writes == 1));
                }
            }
        }
    }
}

/// The same bits for every order of threads and blocks, whatever the grid.
#[test]
fn results_do_not_depend_on_the_schedule() {
    for (c, kept) in [(6, 64), (37, 64), (37, 4), (70, 0)] {
        for split in [Split::MeanConfidence, Split::Confidence { tau: 0.6 }] {
            for step in [BinaryStep::Raw, BinaryStep::Sign] {
                let learner =
                    BinaryLearner::new(step, 0.5, split.clone(), Bound::Confidence { eps: 0.7, delta_eps: 1.0 });
                let mut case = hard(DType::F32, Format::U8, c, 40, 3).masked(4);
                (case.problem, case.gradient, case.statistics) = (learning(learner.unwrap()), Gradient::InPlace, true);
                let run = |seed: u64, multiprocessors: u32| {
                    let limits = Limits { multiprocessors, ..keeping(kept, DType::F32) };
                    let resident_blocks = [1, 2, 64][seed as usize % 3];
                    let store_buffer = seed.is_multiple_of(2);
                    let options = Options { seed, resident_blocks, store_buffer, ..Options::default() };
                    all_bits(&Case { limits, ..case.clone() }.run_with(options))
                };
                let expected = run(0, 1);
                for seed in 1..16 {
                    assert_eq!(run(seed, 1 + seed as u32 % 6), expected, "{c} classes, {kept} kept, seed {seed}");
                }
            }
        }
    }
}

/// A block whose strips take no step and many steps in turn, with nothing to wait for in the first: warps that are ahead do not meddle with the
/// others.
#[test]
fn strips_that_take_no_step_end_alone() {
    let (c, n) = (64, 12);
    let mut case = hard(DType::F32, Format::I8, c, n, 8);
    case.targets.iter_mut().enumerate().filter(|(index, _)| index / 8 % 2 == 0).for_each(|(_, t)| *t = -1.0);
    case.problem = learning(raw(0.25, 2.0, Split::MeanConfidence));
    case.limits = Limits { multiprocessors: 1, ..keeping(64, DType::F32) };
    for seed in 0..40 {
        assert!(check(&case, seed));
    }
}

/// Which rows are kept is where numbers lie, not what they are.
#[test]
fn what_is_kept_does_not_show() {
    for dtype in DType::ALL {
        let run = |kept: u32| {
            let mut case = hard(dtype, Format::Bits, 21, 50, 5);
            (case.problem, case.limits) = (learning(raw(0.25, 2.0, explicit(21))), keeping(kept, dtype));
            let outcome = case.run_with(Options::default());
            assert_eq!(outcome.learned.as_ref().unwrap().plan.kept, kept);
            all_bits(&outcome)
        };
        let expected = run(0);
        assert!([1, 2, 17, 49, 50, 64].into_iter().all(|kept| run(kept) == expected));
    }
}

/// Given tau, what a class learns does not depend on the others.
#[test]
fn a_class_does_not_depend_on_the_others() {
    let mut case = hard(DType::F32, Format::I8, 20, 30, 6);
    case.problem = learning(raw(0.25, 2.0, Split::Confidence { tau: 0.6 }));
    let all = case.run(1).learned.unwrap();
    case.logits.iter_mut().enumerate().filter(|(i, _)| i % 20 != 9).for_each(|(_, u)| *u = -*u);
    case.targets.iter_mut().enumerate().filter(|(i, _)| i % 20 > 9).for_each(|(_, t)| *t = 0.0);
    let alone = case.run(1).learned.unwrap();
    for (all, alone) in [(&all.positive, &alone.positive), (&all.negative, &alone.negative)] {
        assert_eq!(all.delta[9].to_bits(), alone.delta[9].to_bits());
        assert!(all.delta[9] != 0.0);
    }
}

/// Rows far apart: offsets need 64 bits.
#[test]
fn rows_beyond_two_to_the_31_elements_are_found() {
    for (split, kept) in [(Split::MeanConfidence, 64), (explicit(9), 64), (explicit(9), 1)] {
        let mut case = hard(DType::F32, Format::I8, 9, 4, 7);
        (case.problem, case.limits) = (learning(raw(0.25, 1.0, split)), keeping(kept, DType::F32));
        case.rows_at = Rows { stride: 1 << 31, offset: 0 };
        for gradient in [Gradient::InPlace, Gradient::Into(case.rows_at)] {
            case.gradient = gradient;
            assert!(check(&case, 1));
        }
    }
}

/// A strip is a sector wide; fewer rows take less shared memory, and no plan asks for more than there is.
#[test]
fn plans_keep_what_fits_on_chip() {
    let h200 = device("sm_90");
    for (dtype, columns, kept) in [(DType::F32, 8, 2944), (DType::F16, 16, 1408), (DType::BF16, 16, 1408)] {
        for classes in [1, 80, 10_000, 1 << 30] {
            let plan = BinaryLearnPlan::new(classes, dtype, h200);
            assert_eq!((plan.columns, plan.kept, plan.threads), (columns, kept, 512));
            for rows in [0, 1, 1000, 1 << 40] {
                let steps = plan.steps(rows);
                assert!(steps.shared <= h200.row_shared && steps.grid >= 1);
                assert!(i64::from(steps.grid) <= (classes as i64 + 7) / i64::from(columns).min(8));
                assert_eq!(i64::from(plan.kept(rows)), rows.min(kept.into()));
                assert!(plan.confidences(rows).geometry.grid >= 1);
            }
        }
    }
    let none = BinaryLearnPlan::new(80, DType::F32, Limits { row_shared: 0, ..h200 });
    assert_eq!(none.kept, 0);
}

/// The confidences have a launch of their own where their mean decides or delta has a closed form, and only there.
#[test]
fn rules_follow_from_host_data() {
    let raw = |split: Split| raw(0.1, 0.3, split);
    for (learner, expected) in [
        (raw(Split::MeanConfidence), true),
        (raw(Split::Confidence { tau: 0.5 }), false),
        (raw(explicit(3)), false),
        (
            raw(explicit(3)).negatives(NegativeSplit::Own(Split::MeanConfidence), Bound::Fixed { eps: 1.0 }).unwrap(),
            true,
        ),
        (BinaryLearner::new(BinaryStep::Exact, 0.1, explicit(3), Bound::Fixed { eps: 1.0 }).unwrap(), true),
    ] {
        assert_eq!(BinaryRule::new(&learner).needs_confidences(), expected, "{learner:?}");
    }
    let counts = ClassCounts::new([2.0, 8.0, 1.0]).unwrap();
    let rule = BinaryRule::new(&raw(Split::Rank { head: 1, counts }));
    assert_eq!(rule.signs[0].directions.as_deref(), Some([1, -1, 1].as_slice()));
    assert_eq!(rule.signs[1].directions.as_deref(), Some([-1, 1, -1].as_slice()));
}

/// What the kernels do not have is a typed error that names the argument, its value and what is allowed.
#[test]
fn learners_out_of_range_are_refused() {
    let refused = |learner: BinaryLearner| check_binary_supported(&learning(learner)).err().map(|e| e.to_string());
    let fixed = |step, eps| BinaryLearner::new(step, 0.1, explicit(3), Bound::Fixed { eps }).unwrap();
    let through = |step| fixed(step, 1.0).gradient(GradientSemantics::Through);
    let message = "a gradient through the learner's steps is not supported by the CUDA backend";
    assert_eq!(refused(through(BinaryStep::Raw)).as_deref(), Some(message));
    assert_eq!(refused(through(BinaryStep::Sign)), None);
    assert_eq!(refused(through(BinaryStep::Exact)), None);
    assert_eq!(refused(fixed(BinaryStep::Raw, 30.0)), None);
    assert_eq!(refused(fixed(BinaryStep::Exact, 31.0)), None);
    let message = "`positives' eps` is 30.5, must be at most 30 with raw steps on a GPU";
    assert_eq!(refused(fixed(BinaryStep::Raw, 30.5)).as_deref(), Some(message));
    let tau = Split::Confidence { tau: -0.5 };
    let learner = BinaryLearner::new(BinaryStep::Raw, 0.1, tau, Bound::Confidence { eps: 10.0, delta_eps: 20.0 });
    let message = "`positives' eps + delta_eps * 1.5` is 40, must be at most 30 with raw steps on a GPU";
    assert_eq!(refused(learner.unwrap()).as_deref(), Some(message));
    let bounds = Bound::Explicit(vec![1.0, 30.0, 31.0]);
    let learner = fixed(BinaryStep::Raw, 1.0).negatives(NegativeSplit::Same, bounds.clone()).unwrap();
    let message = "`negatives' bound[2]` is 31, must be at most 30 with raw steps on a GPU";
    assert_eq!(refused(learner).as_deref(), Some(message));
    assert_eq!(refused(fixed(BinaryStep::Raw, 1.0).negatives(NegativeSplit::Off, bounds).unwrap()), None);
}
