//! The corner cases of SPEC 5 without a learner, against numbers worked out by hand; `learned_corner_cases.rs` has the rest.

mod common;

use common::{assert_close, sigmoid, softmax, uniform};
use logit_perturb::cpu::{self, BinaryCrossEntropyBatch, CrossEntropyBatch, Pass};
use logit_perturb::{
    BinaryCrossEntropy, BinaryTargets, CrossEntropy, Focusing, MatrixMut, Perturbation, Reduction, Upstream,
};

const INF: f64 = f64::INFINITY;
const NAN: f64 = f64::NAN;

const REDUCTIONS: [Reduction; 4] = [Reduction::Mean, Reduction::Sum, Reduction::None, Reduction::Divisor(3.0)];

#[track_caller]
fn assert_same_bits(what: &str, a: &[f64], b: &[f64]) {
    let bits = |x: &[f64]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(a), bits(b), "{what}: {a:?} is not {b:?}");
}

#[test]
fn a_batch_without_rows_has_loss_zero() {
    for reduction in REDUCTIONS {
        let case = softmax::Case { reduction, z: 0.1, ..softmax::Case::new(3, vec![], vec![]) };
        let output = case.check();
        assert_eq!((output.loss, output.valid), (0.0, 0));
        assert_eq!(output.per_class.expect("labels").count, [0; 3]);
        assert_eq!(softmax::Case { soft: Some(vec![]), ..case }.check().loss, 0.0);
    }
    for reduction in REDUCTIONS.into_iter().chain([Reduction::BatchMean]) {
        let output = sigmoid::Case { reduction, ..sigmoid::Case::new(3, vec![], vec![]) }.check();
        assert_eq!((output.loss, output.unmasked), (0.0, 0));
    }
}

#[test]
fn a_batch_of_ignored_rows_has_loss_and_gradient_zero() {
    for reduction in REDUCTIONS {
        let case = softmax::Case {
            reduction,
            z: 0.1,
            smoothing: 0.1,
            ..softmax::Case::new(2, vec![NAN, 1.0, 2.0, 3.0], vec![-100; 2])
        };
        let (output, gradient) = case.run();
        assert_eq!((output.loss, output.valid, output.correct), (0.0, 0, 0));
        assert_eq!((output.loss_rows, output.lse, output.predictions), (vec![0.0; 2], vec![0.0; 2], vec![-1; 2]));
        assert_eq!(gradient, [0.0; 4]);
    }
    for reduction in REDUCTIONS.into_iter().chain([Reduction::BatchMean]) {
        let (output, gradient) =
            sigmoid::Case { reduction, ..sigmoid::Case::new(2, vec![NAN, 1.0], vec![-1.0; 2]) }.run();
        assert_eq!((output.loss, output.unmasked, gradient), (0.0, 0, vec![0.0; 2]));
    }
}

#[test]
fn one_class_costs_nothing_but_its_z_loss() {
    let mut case = softmax::Case::new(1, vec![3.0, -7.0], vec![0, 0]);
    let (output, gradient) = case.run();
    assert_eq!((output.loss, output.lse, gradient), (0.0, vec![3.0, -7.0], vec![0.0; 2]));
    case.z = 0.5;
    let (output, gradient) = case.run();
    assert_eq!((output.loss, gradient), (0.5 * (9.0 + 49.0) / 2.0, vec![0.5 * 3.0, 0.5 * -7.0]));
}

#[test]
fn ignore_index_may_be_a_class() {
    let mut case = softmax::Case::new(2, vec![1.0, 2.0, 3.0, 4.0], vec![1, 0]);
    case.ignore_index = 1;
    assert_eq!(case.check().valid, 1);
}

#[test]
fn masked_classes_have_probability_zero() {
    // Only where such a class has weight is the loss infinite: (logits, label, smoothing, class weights, loss is infinite).
    let m = -INF;
    let table = [
        (vec![m, 1.0, 2.0], 1, 0.0, None, false),
        (vec![1.0, m, m], 0, 0.0, None, false),
        (vec![m, m, 2.0], 0, 0.0, None, true),
        (vec![m, 1.0, 2.0], 1, 0.1, None, true),
        (vec![m, 1.0, 2.0], 1, 0.1, Some(vec![0.0, 1.0, 2.0]), false),
        (vec![m, 1.0, 2.0], 0, 0.0, Some(vec![0.0, 1.0, 2.0]), false),
        (vec![m, 1.0, 2.0], 0, 0.0, Some(vec![0.5, 1.0, 2.0]), true),
    ];
    for (logits, label, smoothing, class_weights, infinite) in table {
        for reduction in REDUCTIONS {
            // A row beside it keeps the divisor above 0.
            let both = [logits.as_slice(), &[0.1, 0.2, 0.3]].concat();
            let case = softmax::Case { smoothing, reduction, z: 0.1, ..softmax::Case::new(3, both, vec![label, 2]) };
            let case = softmax::Case { class_weights: class_weights.clone(), upstream: vec![-2.0], ..case };
            let (output, (_, gradient)) = (case.check(), case.run());
            assert_eq!(output.loss_rows[0].is_infinite(), infinite, "{logits:?}");
            assert!(output.loss_rows[1].is_finite() && gradient.iter().all(|g| g.is_finite()), "{gradient:?}");
        }
    }
    // -g * s_y * omega * w_y / Z at the masked label, the others as ever.
    let mut case = softmax::Case::new(2, vec![-INF, 0.0], vec![0]);
    (case.scale, case.reduction, case.upstream) = (vec![3.0, 1.0], Reduction::Divisor(4.0), vec![2.0]);
    (case.sample_weights, case.class_weights) = (Some(vec![5.0]), Some(vec![0.5, 9.0]));
    assert_eq!(case.run().1, [-2.0 * 3.0 * 5.0 * 0.5 / 4.0, 2.0 * 1.0 * 5.0 * 0.5 / 4.0]);
}

#[test]
fn minus_infinity_in_a_shared_perturbation_masks_the_class() {
    let mut case = softmax::Case::new(3, uniform(1, 12, -2.0..2.0), vec![0, 2, 0, 2]);
    let mut masked = case.clone();
    case.form = Perturbation::Shared(vec![0.0, -INF, 0.0]);
    (0..4).for_each(|i| masked.logits[i * 3 + 1] = -INF);
    let ((output, gradient), (expected, same)) = (case.run(), masked.run());
    assert_same_bits("loss rows", &output.loss_rows, &expected.loss_rows);
    assert_same_bits("gradient", &gradient, &same);
    assert!(gradient.chunks(3).all(|row| row[1] == 0.0));
}

#[test]
fn rows_without_a_softmax_are_nan_and_alone_in_it() {
    let table = [
        (vec![0.0, NAN, 1.0], -1),
        (vec![0.0, INF, 1.0], 1),
        (vec![INF, 0.0, INF], 0),
        (vec![-INF; 3], -1),
        (vec![NAN, INF, -INF], -1),
    ];
    for (row, prediction) in table {
        for (reduction, omega) in REDUCTIONS.into_iter().flat_map(|r| [(r, 1.0), (r, 0.0)]) {
            // A weight of 0 does not hide it.
            let mut case = softmax::Case::new(3, uniform(2, 9, -2.0..2.0), vec![2, 1, 0]);
            (case.reduction, case.sample_weights, case.z) = (reduction, Some(vec![1.0, omega, 0.5]), 0.1);
            let (healthy, before) = case.run();
            case.logits[3..6].copy_from_slice(&row);
            let (output, gradient) = case.run();
            assert!(output.loss.is_nan() && output.loss_rows[1].is_nan(), "{row:?}");
            assert!(gradient[3..6].iter().all(|g| g.is_nan()), "{row:?}: {gradient:?}");
            assert_eq!(output.predictions[1], prediction, "{row:?}");
            for i in [0, 2] {
                assert_same_bits("row", &[output.loss_rows[i], output.lse[i]], &[healthy.loss_rows[i], healthy.lse[i]]);
                assert_same_bits("gradient", &gradient[i * 3..][..3], &before[i * 3..][..3]);
            }
        }
    }
}

#[test]
fn infinite_terms_without_weight_are_zero() {
    let case = softmax::Case::new(2, vec![-INF, 0.0, 1.0, 2.0], vec![0, 1]);
    let by_sample = softmax::Case { sample_weights: Some(vec![0.0, 1.0]), ..case.clone() };
    let by_class = softmax::Case { class_weights: Some(vec![0.0, 1.0]), ..case };
    for case in [by_sample, by_class] {
        let (output, gradient) = case.run();
        assert_eq!((output.loss_rows[0], &gradient[..2]), (0.0, &[0.0, 0.0][..]));
        assert!(output.loss > 0.0 && output.loss.is_finite());
    }
}

#[test]
fn weights_that_are_all_zero_leave_the_z_loss() {
    let mut case = softmax::Case::new(3, vec![0.0, 1.0, 2.0, -INF, 0.5, 0.5], vec![1, 0]);
    case.sample_weights = Some(vec![0.0; 2]);
    let by_sample = case.clone();
    case.sample_weights = None;
    // The labels' weights are zero, that of a smoothed class is not: its loss is not, but Z is.
    case.class_weights = Some(vec![0.0, 0.0, 1.0]);
    let by_class = case.clone();
    let smoothed = softmax::Case { smoothing: 0.3, ..case };
    for case in [by_sample, by_class, smoothed] {
        let (output, gradient) = case.run();
        assert_eq!((output.loss, gradient), (0.0, vec![0.0; 6]));
        let with_z = softmax::Case { z: 0.25, ..case };
        let expected = 0.25 * (output.lse[0].powi(2) + output.lse[1].powi(2)) / 2.0;
        assert_close("loss", &[with_z.check().loss], &[expected], 1e-15);
        assert!(with_z.run().1.iter().filter(|g| **g != 0.0).count() == 5, "all but the masked class");
    }
}

#[test]
fn weights_that_are_all_zero_do_not_hide_a_row_without_a_softmax() {
    let mut case = softmax::Case::new(2, vec![0.0, 1.0, NAN, 0.0], vec![1, 0]);
    case.sample_weights = Some(vec![0.0; 2]);
    let (output, gradient) = case.run();
    assert!(output.loss.is_nan() && output.loss_rows[1].is_nan() && gradient[2..].iter().all(|g| g.is_nan()));
    assert_eq!((output.loss_rows[0], &gradient[..2]), (0.0, &[0.0; 2][..]));
}

#[test]
fn logits_of_ten_thousand_stay_finite() {
    let b = 1e4;
    for label in 0..4 {
        let mut case = softmax::Case::new(4, vec![b, -b, 0.0, b - 1.0, -b, -b, -b, -b], vec![label, 3 - label]);
        case.scale = vec![2.0];
        let (output, (_, gradient)) = (case.check(), case.run());
        assert!(output.loss.is_finite() && gradient.iter().all(|g| g.is_finite()));
    }
    let soft = softmax::Case { soft: Some(vec![0.2, 0.3, 0.1]), ..softmax::Case::new(3, vec![b, -b, 0.0], vec![]) };
    assert_eq!(soft.run().0.loss, 0.3 * 2.0 * b + 0.1 * b);
}

#[test]
fn confident_rows_keep_every_digit_of_loss_and_gradient() {
    for lead in [2.0, 14.0, 20.0, 36.5, 40.0, 100.0, 600.0] {
        let mut case = softmax::Case::new(4, vec![-0.5, lead, 0.0, -1.0], vec![1]);
        (case.sample_weights, case.reduction, case.upstream) = (Some(vec![1.5]), Reduction::Sum, vec![-3.0]);
        let (output, gradient) = case.run();
        let exps = [(-0.5 - lead).exp(), (-lead).exp(), (-1.0 - lead).exp()];
        let others: f64 = exps.iter().sum();
        let relative = |a: f64, e: f64| ((a - e) / e).abs();
        assert!(relative(output.loss, 1.5 * others.ln_1p()) < 1e-14, "lead {lead}: loss {:e}", output.loss);
        let p = exps.map(|e| e / (1.0 + others));
        for (k, p) in [0, 2, 3].into_iter().zip(p) {
            assert!(relative(gradient[k], -4.5 * p) < 1e-12, "lead {lead}: {gradient:?}");
        }
        let sum = gradient[0] + gradient[2] + gradient[3];
        assert!(sum != 0.0 && relative(gradient[1], -sum) < 1e-12, "lead {lead}: {gradient:?}");
    }
}

#[test]
fn predictions_are_of_the_unperturbed_logits_lowest_index_first() {
    let mut case = softmax::Case::new(3, vec![1.0, 2.0, 2.0, 0.0, 0.0, 0.0, -INF, -INF, -1.0], vec![1, 2, 2]);
    case.form = Perturbation::Shared(vec![100.0, 0.0, -100.0]);
    let output = case.check();
    assert_eq!((output.predictions, output.correct), (vec![1, 0, 2], 2));
}

#[test]
fn a_divisor_replaces_every_count() {
    let mut case = softmax::Case::new(2, uniform(4, 8, -1.0..1.0), vec![0, 1, -100, 1]);
    (case.z, case.class_weights, case.sample_weights) = (0.3, Some(vec![2.0, 5.0]), Some(vec![1.0, 0.0, 3.0, 7.0]));
    (case.reduction, case.upstream) = (Reduction::Sum, vec![2.0]);
    let (sum, gradient) = case.run();
    case.reduction = Reduction::Divisor(16.0);
    let (divided, sixteenth) = case.run();
    // A power of two divides without rounding.
    assert_same_bits("loss", &[divided.loss], &[sum.loss / 16.0]);
    assert_close("gradient", &sixteenth, &gradient.iter().map(|g| g / 16.0).collect::<Vec<_>>(), 1e-16);
}

#[test]
fn without_a_reduction_the_loss_is_the_plain_sum_and_each_row_has_its_own_upstream_gradient() {
    let mut case = softmax::Case::new(2, vec![0.0; 6], vec![0, 1, -100]);
    (case.reduction, case.upstream, case.sample_weights) =
        (Reduction::None, vec![1.0, -4.0, 8.0], Some(vec![1.0, 2.0, 3.0]));
    let (output, gradient) = case.run();
    assert_close("loss", &[output.loss], &[3.0 * 2f64.ln()], 1e-15);
    assert_eq!(gradient, [-0.5, 0.5, -4.0, 4.0, 0.0, 0.0]);
}

/// The limits of one entry's loss and derivative at `u = -inf` and `u = +inf`, target 1 and 0, weights left out.
fn limits(u: f64, t: f64, focusing: Option<Focusing>) -> (f64, f64) {
    match (t == 1.0, u > 0.0, focusing) {
        (true, true, _) | (false, false, _) => (0.0, 0.0),
        (true, false, _) => (INF, -1.0),
        (false, true, Some(Focusing { clip, gamma_neg, .. })) if clip > 0.0 => {
            ((1.0 - clip).powf(gamma_neg) * -clip.ln(), 0.0)
        }
        (false, true, _) => (INF, 1.0),
    }
}

const FOCUSING: [Option<Focusing>; 5] = [
    None,
    Some(Focusing { gamma_pos: 2.0, gamma_neg: 2.0, clip: 0.0 }),
    Some(Focusing { gamma_pos: 1.0, gamma_neg: 4.0, clip: 0.05 }),
    Some(Focusing { gamma_pos: 0.0, gamma_neg: 0.0, clip: 0.0 }),
    Some(Focusing { gamma_pos: 0.0, gamma_neg: 0.5, clip: 0.6 }),
];

#[test]
fn infinite_sigmoid_logits_give_the_limits_under_every_option() {
    for focusing in FOCUSING {
        for (u, t) in [(INF, 1.0), (-INF, 1.0), (INF, 0.0), (-INF, 0.0)] {
            for (weight, pos_weight) in [(1.0, 1.0), (2.0, 3.0), (0.0, 1.0), (2.0, 0.0)] {
                let mut case = sigmoid::Case::new(2, vec![u, 0.5], vec![t, 1.0]);
                (case.focusing, case.weights) = (focusing, Some(vec![weight, 1.0]));
                (case.pos_weight, case.reduction) = (Some(vec![pos_weight, 1.0]), Reduction::Sum);
                case.negative_scale = if focusing.is_none() { 2.5 } else { 1.0 };
                let factor = weight * if t == 1.0 { pos_weight } else { 1.0 };
                let (loss, derivative) = limits(u, t, focusing);
                let (output, gradient) = case.run();
                let expected = if factor == 0.0 { 0.0 } else { factor * loss };
                assert_close("loss", &[output.per_class.loss[0]], &[expected], 1e-15);
                assert_close("gradient", &gradient[..1], &[factor * derivative], 1e-15);
                assert!(gradient[1].is_finite() && output.per_class.loss[1].is_finite());
                // What is large but finite is near the limit, and finite.
                case.logits[0] = u.clamp(-1e4, 1e4);
                let (output, gradient) = case.run();
                let expected = if factor == 0.0 { 0.0 } else { factor * loss.min(1e4) };
                assert_close("finite loss", &[output.per_class.loss[0]], &[expected], 1e-15);
                assert_close("finite gradient", &gradient[..1], &[factor * derivative], 1e-15);
            }
        }
    }
    // Half a target has both losses.
    for (u, derivative) in [(INF, 0.5), (-INF, -0.5 * 3.0)] {
        let case = sigmoid::Case { pos_weight: Some(vec![3.0]), ..sigmoid::Case::new(1, vec![u], vec![0.5]) };
        let (output, gradient) = case.run();
        assert_eq!((output.loss, gradient), (INF, vec![derivative]));
    }
}

#[test]
fn a_nan_logit_spoils_its_own_gradient_and_row_alone() {
    for (focusing, weight) in FOCUSING.into_iter().flat_map(|f| [(f, 1.0), (f, 0.0)]) {
        // A weight of 0 does not hide it.
        let mut case = sigmoid::Case::new(2, vec![0.5, -0.5, 1.0, 2.0], vec![1.0, 0.0, 0.0, 0.7]);
        (case.focusing, case.weights) = (focusing, Some(vec![1.0, weight, 1.0, 1.0]));
        let (healthy, before) = case.run();
        case.logits[1] = NAN;
        let (output, gradient) = case.run();
        assert!(gradient[1].is_nan() && output.loss_rows[0].is_nan() && output.loss.is_nan());
        assert_same_bits("row", &output.loss_rows[1..], &healthy.loss_rows[1..]);
        assert_same_bits("gradient", &[gradient[0], gradient[2], gradient[3]], &[before[0], before[2], before[3]]);
    }
}

#[test]
fn sigmoid_divisors_count_entries_rows_or_nothing() {
    // Every unmasked entry costs ln 2.
    let table = [
        (Reduction::Mean, 3.0),
        (Reduction::BatchMean, 2.0),
        (Reduction::Sum, 1.0),
        (Reduction::Divisor(7.0), 7.0),
        (Reduction::None, 1.0),
    ];
    for (reduction, divisor) in table {
        let case = sigmoid::Case { reduction, ..sigmoid::Case::new(2, vec![0.0; 4], vec![1.0, 0.0, -1.0, 0.3]) };
        let (output, gradient) = case.run();
        assert_close("loss", &[output.loss], &[3.0 * 2f64.ln() / divisor], 1e-15);
        assert_close("gradient", &gradient, &[-0.5 / divisor, 0.5 / divisor, 0.0, 0.2 / divisor], 1e-15);
        assert_eq!((output.per_class.count, output.per_class.positives), (vec![1, 2], vec![1.0, 0.3]));
    }
}

#[test]
fn focusing_keeps_its_digits_where_probabilities_vanish() {
    let table = [
        // t, v, (gamma_pos, gamma_neg), loss, gradient: p = e^v or 1 - p = e^-v, and -ln(1 - p) = p, far below rounding from 1.
        (0.0, -40.0, (2.0, 2.0), (-120f64).exp(), 3.0 * (-120f64).exp()),
        (0.0, -40.0, (2.0, 0.0), (-40f64).exp(), (-40f64).exp()),
        (1.0, 40.0, (2.0, 2.0), (-120f64).exp(), -3.0 * (-120f64).exp()),
        (1.0, 40.0, (0.0, 2.0), (-40f64).exp(), -(-40f64).exp()),
        // The other end: the weight is 1, the loss linear.
        (0.0, 40.0, (2.0, 2.0), 40.0, 1.0),
        (1.0, -40.0, (2.0, 2.0), 40.0, -1.0),
    ];
    for (t, v, (gamma_pos, gamma_neg), loss, slope) in table {
        let focusing = Some(Focusing { gamma_pos, gamma_neg, clip: 0.0 });
        let (output, gradient) = sigmoid::Case { focusing, ..sigmoid::Case::new(1, vec![v], vec![t]) }.run();
        // (1 - p)^gamma = 1 - gamma p is off by 1e-17, exp(40) by 40 roundings.
        assert!((output.loss / loss - 1.0).abs() < 1e-13, "t {t}, v {v}: loss {:e}", output.loss);
        assert!((gradient[0] / slope - 1.0).abs() < 1e-13, "t {t}, v {v}: gradient {:e}", gradient[0]);
    }
}

#[test]
fn clipped_negatives_cost_nothing() {
    let at = |p: f64| (p / (1.0 - p)).ln();
    for gamma_neg in [0.0, 0.5, 1.0, 4.0] {
        let focusing = Some(Focusing { gamma_pos: 0.0, gamma_neg, clip: 0.2 });
        let below = sigmoid::Case { focusing, ..sigmoid::Case::new(2, vec![at(0.19), -INF], vec![0.0; 2]) };
        assert_eq!((below.run().0.loss, below.run().1), (0.0, vec![0.0; 2]), "gamma {gamma_neg}");
        let above = sigmoid::Case { reduction: Reduction::Sum, ..below };
        let above = sigmoid::Case { logits: vec![at(0.21), at(0.7)], ..above };
        above.check();
        let loss = |pm: f64| pm.powf(gamma_neg) * -(1.0 - pm).ln();
        assert_close("loss", &[above.run().0.loss], &[loss(0.01) + loss(0.5)], 1e-13);
    }
    // With a tiny clip, 1 - pm = q + clip would cancel: q = 1 - p is some 1e-11.
    let clip = 1e-12;
    let focusing = Some(Focusing { gamma_pos: 0.0, gamma_neg: 2.0, clip });
    let (output, gradient) = sigmoid::Case { focusing, ..sigmoid::Case::new(1, vec![25.0], vec![0.0]) }.run();
    let q = (-25f64).exp();
    assert_close("loss", &[output.loss], &[-(q + clip).ln()], 1e-10);
    assert_close("gradient", &gradient, &[q / (q + clip) - 2.0 * q * (q + clip).ln()], 1e-10);
    // A hair above the clip, pm to the power below 1 has a steep slope: gamma pm^(gamma - 1) p q pm, and p q pm^gamma / (1 - pm).
    let focusing = Some(Focusing { gamma_pos: 0.0, gamma_neg: 0.5, clip: 0.2 });
    let pm = 1e-9;
    let (_, gradient) = sigmoid::Case { focusing, ..sigmoid::Case::new(1, vec![at(0.2 + pm)], vec![0.0]) }.run();
    assert_close("gradient", &gradient, &[1.5 * pm.sqrt() * 0.2 * 0.8], 1e-11);
}

/// What a mask, a weight of 0 or a masked class took out stays out under any upstream gradient.
#[test]
fn no_upstream_gradient_reaches_what_is_taken_out() {
    let none = CrossEntropy::builder().reduction(Reduction::None).build().expect("in range");
    let mut logits = [1.0, -INF, 2.0, 0.5, 1.0, 1.5, 3.0, 2.0, 1.0];
    let pass = Pass::InPlace(MatrixMut::new(&mut logits, 3, 3).expect("3 x 3"));
    let batch = CrossEntropyBatch::labels(&[0i64, -100, 1]).sample_weights(&[1.0, 1.0, 0.0]);
    cpu::cross_entropy(&none, pass, batch.upstream(Upstream::Rows(&[INF, NAN, INF]))).expect("a valid batch");
    assert_eq!(logits, [-INF, 0.0, INF, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);

    let none = BinaryCrossEntropy::builder().reduction(Reduction::None).build().expect("in range");
    let mut logits = [0.5, 1.0, -INF];
    let pass = Pass::InPlace(MatrixMut::new(&mut logits, 1, 3).expect("1 x 3"));
    let targets = BinaryTargets::I8 { data: &[-1, 1, 0], stride: 3 };
    let batch = BinaryCrossEntropyBatch::new(targets).upstream(Upstream::Rows(&[INF]));
    cpu::binary_cross_entropy(&none, pass, batch).expect("a valid batch");
    assert_eq!(logits, [0.0, -INF, 0.0]);
}
