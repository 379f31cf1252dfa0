//! Rows and batches at the edges of what the formulas say: weights of 0, nothing to divide by, rows whose label is nearly certain.

use crate::case::Case;
use crate::tiny::{TINY, reaches};
use logit_perturb::kernel::{DType, Limits, Regime};
use logit_perturb::{CrossEntropy, Labels, Perturbation, Reduction};
use logit_perturb_emulator::{Batch, Emulator, Operation, Options};

/// A weight of 0 takes a row's loss out, an infinite one included, but no NaN.
#[test]
fn weights_of_0_take_everything_out_but_nan() {
    for (c, limits) in reaches() {
        for reduction in [Reduction::Mean, Reduction::Sum] {
            let mut case = Case::random((c, limits), 6, 31);
            case.labels = vec![0, 1, 2, 0, 1, 2];
            // Rows 0 and 3 of a class without weight, rows 1 and 4 without weights of their own.
            let weights: Vec<f64> = (0..c).map(|k| f64::from(u8::from(k != 0))).collect();
            case.problem = CrossEntropy::builder().class_weights(weights).reduction(reduction).build().unwrap();
            case.sample_weights = Some(vec![1.0, 0.0, 0.5, 1.0, 0.0, 2.0]);
            for row in [0, 1] {
                case.logits[row * c + case.labels[row] as usize] = f32::NEG_INFINITY;
            }
            case.compare(&case.run(1), &case.labels);
            for row in [3, 4] {
                case.logits[row * c + 3] = f32::NAN;
                let outcome = case.run(2);
                assert!(outcome.loss_rows[row].is_nan(), "{}", outcome.plan);
                case.compare(&outcome, &case.labels);
            }
        }
    }
}

/// Nothing to divide by: a loss and gradients of 0, unless a row is NaN.
#[test]
fn batches_without_weight_have_loss_0() {
    for (c, limits) in reaches() {
        let mut case = Case::random((c, limits), 5, 32);
        case.sample_weights = Some(vec![0.0; 5]);
        let outcome = case.run(1);
        assert_eq!(outcome.loss, 0.0, "{}", outcome.plan);
        assert!(outcome.gradient.iter().all(|&g| g == 0.0), "{}", outcome.plan);
        case.compare(&outcome, &case.labels);
        case.logits[2 * c + 1] = f32::NAN;
        let outcome = case.run(2);
        assert!(outcome.loss.is_nan(), "{}", outcome.plan);
        case.compare(&outcome, &case.labels);
    }
}

/// The penalty of lse, at the weight 1, and where no row counts.
#[test]
fn z_losses_of_weight_1_and_of_no_row_agree_with_the_reference() {
    for (c, limits) in reaches() {
        let mut case = Case::random((c, limits), 5, 33);
        // An lse of about 1: what is penalised is no larger than the rest.
        case.logits.iter_mut().for_each(|u| *u = *u / 8.0 + 1.0 - (c as f32).ln());
        case.problem = CrossEntropy::builder().z_loss(1.0).build().unwrap();
        case.compare(&case.run(1), &case.labels);
        case.labels.fill(-100);
        let outcome = case.run(2);
        assert_eq!(outcome.loss.to_bits(), 0f32.to_bits(), "{}", outcome.plan);
        case.compare(&outcome, &case.labels);
    }
}

/// Scales of the classes are for variants that know targets on all classes; of hard labels they keep the accuracy of the plain ones.
#[test]
fn confident_rows_keep_their_gradient_under_class_scales() {
    for at in reaches() {
        Case::check_confident_row(at, CrossEntropy::builder().class_scale(vec![1.0; at.0]).build().unwrap());
    }
}

/// The prediction is the largest logit, however little is between them; of zeros, whatever their sign, the first.
#[test]
fn predictions_tell_the_smallest_difference() {
    for (c, limits) in reaches() {
        let mut case = Case::random((c, limits), 4, 34);
        case.logits.fill(-1.0);
        (case.logits[3], case.logits[7]) = (1e-30, 2e-30);
        (case.logits[c + 2], case.logits[c + 6]) = (-2e-30, -1e-30);
        (case.logits[2 * c + 4], case.logits[2 * c + 8]) = (-0.0, 0.0);
        (case.logits[3 * c + 1], case.logits[3 * c + 9]) = (1e30, 1.000_001e30);
        assert_eq!(case.run(1).predictions, [7, 6, 4, 9], "{c} classes");
    }
}

/// Of a tile's elements a thread has more on their way than it loads at a time.
#[test]
fn tiles_of_many_elements_a_thread_are_copied_whole() {
    let limits = Limits { block_threads: 32, shared_memory: 16 << 10, ..TINY };
    for c in [9, 10, 33, 60] {
        let case = Case::random((c, limits), 40, 35);
        let outcome = case.run(1);
        assert_eq!((outcome.plan.regime(), outcome.plan.tile_rows), (Regime::Tile, 32), "{}", outcome.plan);
        case.compare(&outcome, &case.labels);
        assert!(outcome.logits_traffic.reads.iter().all(|&reads| reads == 1));
    }
}

/// A margin is the label's alone, before the scale.
#[test]
fn margins_of_the_label_agree_with_the_reference() {
    for (c, limits) in reaches() {
        let mut case = Case::random((c, limits), 6, 36);
        case.labels = vec![0, 1, 2, 3, -100, 4];
        // 1 among them, which is no special margin.
        let margins = (0..c).map(|k| if k % 2 == 0 { 1.0 } else { f64::from((k as f32 * 0.7).cos() * 2.0) }).collect();
        let problem = CrossEntropy::builder().scale(1.5).perturbation(Perturbation::TargetMargin(margins));
        case.problem = problem.build().unwrap();
        case.compare(&case.run(1), &case.labels);
    }
}

/// A class's sum of losses holds terms below 2^35, and is infinite beyond; what is not finite is gone with its batch.
#[test]
fn sums_of_classes_tell_what_they_do_not_hold() {
    for (c, limits) in reaches() {
        let large = (1u64 << 35) as f32;
        let mut case = Case::random((c, limits), 4, 37);
        case.labels = vec![1, 2, 3, 4];
        // Of one class alone besides, so that the losses are these numbers.
        for (row, loss) in [large, large.next_down(), 4.0, f32::NAN].into_iter().enumerate() {
            case.logits[row * c..][..c].fill(f32::NEG_INFINITY);
            (case.logits[row * c], case.logits[row * c + row + 1]) = (0.0, -loss);
        }
        let batch = Batch { statistics: true, ..case.batch(Labels::I64(&case.labels)) };
        let mut emulator = Emulator::new(Options::default());
        let operation = Operation::new(&mut emulator, &case.problem, &batch);
        let outcome = operation.run(&mut emulator).unwrap();
        let found = outcome.statistics.unwrap();
        assert_eq!(found.loss[1..3], [f64::INFINITY, f64::from(large.next_down())], "{}", outcome.plan);
        assert!((found.loss[3] - (4.0 + (-4f64).exp().ln_1p())).abs() < 1e-5, "{}: {}", outcome.plan, found.loss[3]);
        assert!(found.loss[4].is_nan() && found.confidence[4].is_nan(), "{}", outcome.plan);
        operation.set_labels(&mut emulator, &[0, 0, 0, -100]);
        let found = operation.run(&mut emulator).unwrap().statistics.unwrap();
        assert_eq!((&found.loss[1..5], &found.confidence[1..5]), ([0.0; 4].as_slice(), [0.0; 4].as_slice()));
        assert!(found.loss[0] < 0.1 && found.confidence[0] > 2.9, "{}: {found:?}", outcome.plan);
    }
}

/// A gradient in bfloat16 is the nearest one, of two equally near the even one.
#[test]
fn gradients_are_rounded_to_nearest_even() {
    let ulp = 1.0 / 128.0;
    for (exact, rounded) in
        [(1.0 + ulp / 2.0, 1.0), (1.0 + 1.5 * ulp, 1.0 + 2.0 * ulp), (1.0 + 1.49 * ulp, 1.0 + ulp), (1.51, 1.507_812_5)]
    {
        let mut case = Case::random((2, TINY), 1, 38);
        (case.logits, case.labels, case.upstream) = (vec![0.5, 0.5], vec![0], 2.0 * exact);
        case.problem = CrossEntropy::builder().class_scale(vec![1.0; 2]).reduction(Reduction::Sum).build().unwrap();
        let batch = Batch { dtype: DType::BF16, ..case.batch(Labels::I64(&case.labels)) };
        let mut emulator = Emulator::new(Options::default());
        let outcome = Operation::new(&mut emulator, &case.problem, &batch).run(&mut emulator).unwrap();
        assert_eq!(
            outcome.gradient.iter().map(|&g| f64::from(g)).collect::<Vec<_>>(),
            [-rounded, rounded],
            "of {exact}"
        );
    }
}
