//! The constructors of fixed perturbations, class statistics and ISDA against numbers worked out by hand, and the problems' way through
//! serde.

use logit_perturb::{
    BinaryCrossEntropy, BinaryPerturbation, BinaryTargets, ClassCounts, CrossEntropy, Isda, LogitScale, Mask, Matrix,
    Perturbation, RebalancedWeights, cpu,
};

#[track_caller]
fn assert_close(what: &str, actual: &[f64], expected: &[f64]) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (a, e) in actual.iter().zip(expected) {
        assert!((a - e).abs() <= 1e-14 * e.abs().max(1.0), "{what}: {actual:?}, expected {expected:?}");
    }
}

/// 625, 256 and 16 have fourth roots 5, 4 and 2.
fn counts() -> ClassCounts {
    ClassCounts::new([256.0, 16.0, 625.0]).expect("counts")
}

/// The three parts of a multi-label perturbation, read off the loss: with logit 0 and target t, `softplus(-v)` for t = 1 and
/// `softplus(v)` for t = 0 give v back.
fn binary_parts(perturbation: BinaryPerturbation, classes: usize) -> [Vec<f64>; 2] {
    let problem = BinaryCrossEntropy::builder().perturbation(perturbation).build().expect("in range");
    [1.0, 0.0].map(|t| {
        let (logits, targets) = (vec![0.0; classes], vec![t; classes]);
        let view = |data| Matrix::new(data, 1, classes).expect("1 x C");
        let batch = cpu::BinaryCrossEntropyBatch::new(view(&targets));
        let loss = cpu::binary_cross_entropy(&problem, view(&logits), batch).expect("a valid batch").per_class.loss;
        let sign = 1.0 - 2.0 * t;
        loss.iter().map(|l| sign * l.exp_m1().ln()).collect()
    })
}

#[test]
fn priors_and_ranks() {
    let counts = ClassCounts::new([2.0, 5.0, 0.0, 5.0]).expect("counts");
    assert_close("priors", &counts.priors(), &[2.0 / 12.0, 5.0 / 12.0, 0.0, 5.0 / 12.0]);
    assert_eq!((counts.samples(), counts.classes(), counts.counts()), (12.0, 4, &[2.0, 5.0, 0.0, 5.0][..]));
    assert_eq!((counts.by_frequency(), counts.ranks()), (vec![1, 3, 0, 2], vec![2, 0, 3, 1]));
    let multi = ClassCounts::multi_label([2.0, 5.0, 8.0], 8.0).expect("counts");
    assert_close("priors", &multi.priors(), &[0.25, 0.625, 1.0]);
    let labels = ClassCounts::from_labels([2, 0, 2, 2], 4).expect("counts");
    assert_eq!((labels.counts(), labels.samples()), (&[1.0, 0.0, 3.0, 0.0][..], 4.0));
}

#[test]
fn logit_adjustment_is_the_log_prior() {
    let total = 897.0f64;
    let log_priors = [(256.0 / total).ln(), (16.0 / total).ln(), (625.0 / total).ln()];
    for lambda in [1.0, 1.5, -0.5] {
        let Perturbation::Shared(d) = Perturbation::logit_adjustment(&counts(), lambda).expect("in range") else {
            panic!("a shared form")
        };
        assert_close("logit adjustment", &d, &log_priors.map(|p| lambda * p));
    }
    assert_eq!(Perturbation::balanced_softmax(&counts()), Perturbation::logit_adjustment(&counts(), 1.0));
}

#[test]
fn ldam_margins_go_with_the_inverse_fourth_root() {
    let Perturbation::TargetMargin(m) = Perturbation::ldam(&counts(), 0.5).expect("in range") else {
        panic!("a target margin")
    };
    assert_close("margins", &m, &[0.5 * 2.0 / 4.0, 0.5, 0.5 * 2.0 / 5.0]);
    let counts = ClassCounts::multi_label([256.0, 16.0], 1000.0).expect("counts");
    let [on_positives, on_negatives] = binary_parts(BinaryPerturbation::ldam(&counts, 0.5).expect("in range"), 2);
    assert_close("positives", &on_positives, &[-0.25, -0.5]);
    assert_close("negatives", &on_negatives, &[0.0, 0.0]);
}

#[test]
fn vector_scaling_divides_its_offset_by_the_scale() {
    let (scale, Perturbation::Shared(offset)) = Perturbation::vector_scaling(&counts(), 0.25, 2.0).expect("in range")
    else {
        panic!("a shared form")
    };
    assert_close("scale", &scale, &[4.0 / 5.0, 2.0 / 5.0, 1.0]);
    let iota = |n: f64| 2.0 * (n / 897.0).ln();
    assert_close("offset", &offset, &[iota(256.0) / 0.8, iota(16.0) / 0.4, iota(625.0)]);
    let (_, cdt) = Perturbation::vector_scaling(&counts(), 0.25, 0.0).expect("in range");
    assert_eq!(cdt, Perturbation::Shared(vec![0.0; 3]));
    // v = s u + iota, as the loss sees it.
    let problem = CrossEntropy::builder().class_scale(scale.clone()).perturbation(Perturbation::Shared(offset)).build();
    let problem = problem.expect("in range");
    assert_eq!(problem.scale(), &LogitScale::PerClass(scale));
    let u = [1.0, -2.0, 0.5];
    let logits = Matrix::new(&u, 1, 3).expect("1 x 3");
    let lse = cpu::cross_entropy(&problem, logits, cpu::CrossEntropyBatch::labels(&[0i64])).expect("a valid batch").lse;
    let v = [0.8 * u[0] + iota(256.0), 0.4 * u[1] + iota(16.0), u[2] + iota(625.0)];
    assert_close("lse", &lse, &[v.iter().map(|v| v.exp()).sum::<f64>().ln()]);
}

#[test]
fn multi_label_adjustments_are_log_odds() {
    let counts = ClassCounts::multi_label([200.0, 20.0, 900.0], 1000.0).expect("counts");
    let log_odds = [(0.2f64 / 0.8).ln(), (0.02f64 / 0.98).ln(), 9f64.ln()];
    for parts in binary_parts(BinaryPerturbation::logit_adjustment(&counts, 1.5).expect("in range"), 3) {
        assert_close("logit adjustment", &parts, &log_odds.map(|x| 1.5 * x));
    }
    // -(kappa / lam) ln(n_total / n_c - 1): the same odds, shrunk.
    for parts in binary_parts(BinaryPerturbation::negative_tolerant(&counts, 0.05, 2.0).expect("in range"), 3) {
        assert_close("negative tolerant", &parts, &log_odds.map(|x| 0.025 * x));
    }
    let three = BinaryPerturbation::none().offset([0.5, 0.25]).positive([0.125, -1.0]).negative([-2.0, 0.75]);
    let [on_positives, on_negatives] = binary_parts(three, 2);
    assert_close("positives", &on_positives, &[0.625, -0.75]);
    assert_close("negatives", &on_negatives, &[-1.5, 1.0]);
}

#[test]
fn rebalanced_weights_compare_a_class_with_the_rows_positives() {
    let counts = ClassCounts::multi_label([10.0, 20.0, 40.0], 100.0).expect("counts");
    let (alpha, beta, mu) = (0.1, 10.0, 0.3);
    let weights = RebalancedWeights::new(&counts, alpha, beta, mu).expect("in range");
    let w = |r: f64| alpha + 1.0 / (1.0 + (-beta * (r - mu)).exp());
    // One positive (1/40) and one unknown; two (1/10 + 1/20 = 0.15); none; all (0.175).
    let targets: [i8; 12] = [-1, 0, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1];
    let rows =
        [[4.0, 2.0, 1.0], [2.0 / 3.0, 1.0 / 3.0, 1.0 / 6.0], [f64::INFINITY; 3], [4.0 / 7.0, 2.0 / 7.0, 1.0 / 7.0]];
    let expected: Vec<f64> = rows.iter().flatten().map(|&r| w(r)).collect();
    let signed = BinaryTargets::I8 { data: &targets, stride: 3 };
    assert_close("weights", &weights.weights(4, signed, None).expect("valid targets"), &expected);
    let lists = BinaryTargets::Csr { offsets: &[0, 1, 3, 3, 6], indices: &[2, 0, 1, 2, 1, 0] };
    assert_close("lists", &weights.weights(4, lists, None).expect("valid targets"), &expected);
    // Half a target is no positive.
    let soft = [1.0, 0.5, 0.0];
    let soft = BinaryTargets::Dense(Matrix::new(&soft, 1, 3).expect("1 x 3"));
    assert_close("soft", &weights.weights(1, soft, None).expect("valid targets"), &[w(1.0), w(0.5), w(0.25)]);
    // Without the first class, row 0 has 1/20 alone.
    let mask = Mask::Bytes { data: &[0, 1, 1], stride: 3 };
    let row = BinaryTargets::U8 { data: &[1, 1, 0], stride: 3 };
    let masked = weights.weights(1, row, Some(mask)).expect("valid targets");
    assert_close("masked", &masked[1..], &[w(1.0), w(0.5)]);
    // A beta of 0 takes the ratio out, in a row without positives too.
    let flat = RebalancedWeights::new(&counts, alpha, 0.0, mu).expect("in range");
    let row = BinaryTargets::U8 { data: &[0, 0, 0], stride: 3 };
    assert_close("flat", &flat.weights(1, row, None).expect("valid targets"), &[0.6; 3]);
}

#[test]
fn isda_statistics_over_batches_are_those_of_all_rows() {
    let (c, d) = (3, 2);
    // Class 2 never comes, class 1 not in the second batch; one row is ignored.
    let rows: [(i64, [f64; 2]); 9] = [
        (0, [1.0, -2.0]),
        (1, [0.5, 4.0]),
        (0, [3.0, 1.0]),
        (0, [-1.0, 0.25]),
        (-1, [100.0, 100.0]),
        (0, [2.0, 2.5]),
        (1, [-3.0, 0.0]),
        (0, [0.75, -1.0]),
        (1, [1.5, 1.0]),
    ];
    let mut isda = Isda::new(c, d).expect("a size");
    for batch in [&rows[..3], &rows[3..6], &rows[6..]] {
        let features: Vec<f64> = batch.iter().flat_map(|(_, x)| *x).collect();
        let labels: Vec<i64> = batch.iter().map(|(y, _)| *y).collect();
        isda.update(Matrix::new(&features, 3, d).expect("3 x 2"), &labels, -1).expect("a valid batch");
    }
    let (mut means, mut variances) = (vec![], vec![]);
    for (class, k) in (0..c as i64).flat_map(|class| (0..d).map(move |k| (class, k))) {
        let x: Vec<f64> = rows.iter().filter(|(y, _)| *y == class).map(|(_, x)| x[k]).collect();
        let n = x.len().max(1) as f64;
        let mean = x.iter().sum::<f64>() / n;
        means.push(mean);
        variances.push(x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n);
    }
    assert_close("means", isda.mean(), &means);
    assert_close("variances", isda.variance(), &variances);
}

#[test]
fn the_isda_matrix_weighs_squared_differences_with_the_labels_variance() {
    let mut isda = Isda::new(2, 2).expect("a size");
    // Variances: class 0 (1, 4), class 1 (9, 0).
    let features = [1.0, 2.0, -1.0, -2.0, 3.0, 5.0, -3.0, 5.0];
    isda.update(Matrix::new(&features, 4, 2).expect("4 x 2"), &[0i64, 0, 1, 1], -100).expect("a valid batch");
    let weights = [0.5, 1.0, 2.5, -2.0];
    let Ok(Perturbation::ClassMatrix(matrix)) = isda.perturbation(Matrix::new(&weights, 2, 2).expect("2 x 2"), 0.5)
    else {
        panic!("a class matrix")
    };
    // Squared differences of the weights: (4, 9).
    assert_close("matrix", &matrix, &[0.0, 0.25 * (4.0 + 36.0), 0.25 * 36.0, 0.0]);
}

#[cfg(feature = "serde")]
mod serialised {
    use logit_perturb::*;
    use serde::{Serialize, de::DeserializeOwned};

    #[track_caller]
    fn round_trip<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T) {
        let text = serde_json::to_string(value).expect("serialisable");
        assert_eq!(&serde_json::from_str::<T>(&text).expect("what was written can be read"), value, "{text}");
    }

    fn counts() -> ClassCounts {
        ClassCounts::multi_label([30.0, 20.0, 5.0], 40.0).expect("counts")
    }

    fn splits_and_bounds() -> Vec<(Split, Bound)> {
        let rank = || Split::Rank { head: 1, counts: counts() };
        let tail = |ratio| Bound::LongTail { eps: 0.1, delta_head: 0.2, delta_tail: 0.3, ratio };
        vec![
            (Split::MeanConfidence, Bound::Fixed { eps: 0.5 }),
            (Split::Confidence { tau: 0.25 }, Bound::Confidence { eps: 0.1, delta_eps: 2.0 }),
            (rank(), tail(None)),
            (rank(), tail(Some(vec![0.5, 0.25, 0.125]))),
            (Split::Explicit(vec![-1, 0, 1]), Bound::Explicit(vec![0.0, 1.0, 2.0])),
        ]
    }

    #[test]
    fn every_problem_survives_a_round_trip() {
        round_trip(&counts());
        round_trip(&CrossEntropy::default());
        round_trip(&BinaryCrossEntropy::default());
        let builder = || CrossEntropy::builder().label_smoothing(0.1).z_loss(1e-4).ignore_index(7);
        for (perturbation, reduction) in [
            (Perturbation::None, Reduction::Mean),
            (Perturbation::Shared(vec![0.5, -1.0, 0.1]), Reduction::Sum),
            (Perturbation::TargetMargin(vec![0.5, 1.0, 0.1]), Reduction::None),
            (Perturbation::ClassMatrix(vec![0.3; 9]), Reduction::Divisor(12.5)),
            (Perturbation::PerSample, Reduction::Mean),
        ] {
            let problem = builder().perturbation(perturbation).reduction(reduction);
            round_trip(&problem.clone().scale(30.0).build().expect("in range"));
            round_trip(&problem.class_scale([1.0, 2.0, 3.0]).class_weights([0.0, 1.0, 2.0]).build().expect("in range"));
        }
        for (split, bound) in splits_and_bounds() {
            for step in [Step::Raw, Step::UnitL2] {
                let learner = Learner::new(step, 0.1, split.clone(), bound.clone()).expect("in range");
                let learner = learner.gradient(GradientSemantics::Through);
                round_trip(&learner);
                round_trip(&CrossEntropy::builder().learner(learner).build().expect("in range"));
            }
        }
        let fixed = BinaryPerturbation::none().offset([0.1, 0.2, 0.3]).positive([1.0; 3]).negative([2.0; 3]);
        let focusing = Focusing { gamma_pos: 1.0, gamma_neg: 4.0, clip: 0.05 };
        let builder =
            BinaryCrossEntropy::builder().perturbation(fixed).pos_weight([2.0; 3]).reduction(Reduction::BatchMean);
        round_trip(&builder.clone().focusing(focusing).build().expect("in range"));
        for (split, bound) in splits_and_bounds() {
            for step in [BinaryStep::Raw, BinaryStep::Sign, BinaryStep::Exact] {
                let learner = BinaryLearner::new(step, 0.1, split.clone(), bound.clone()).expect("in range");
                round_trip(&learner);
                let own = NegativeSplit::Own(split.clone());
                let learner = learner.negatives(own, bound.clone()).expect("in range");
                round_trip(&builder.clone().negative_scale(2.0).learner(learner).build().expect("in range"));
            }
        }
        round_trip(&RunningConfidence::new(3, 0.9).expect("in range"));
    }

    #[test]
    fn absent_keys_take_the_defaults() {
        let problem: CrossEntropy = serde_json::from_str(r#"{"label_smoothing": 0.25}"#).expect("valid");
        assert_eq!(problem, CrossEntropy::builder().label_smoothing(0.25).build().expect("in range"));
        let problem: BinaryCrossEntropy = serde_json::from_str(r#"{"negative_scale": 2.0}"#).expect("valid");
        assert_eq!(problem, BinaryCrossEntropy::builder().negative_scale(2.0).build().expect("in range"));
    }

    #[track_caller]
    fn refused<T: DeserializeOwned + std::fmt::Debug>(text: &str, reason: &str) {
        let error = serde_json::from_str::<T>(text).expect_err(text).to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }

    #[test]
    fn problems_out_of_range_are_not_read() {
        refused::<CrossEntropy>(r#"{"label_smoothing": 1.0}"#, "`label_smoothing` is 1");
        refused::<CrossEntropy>(r#"{"z_loss": -1.0}"#, "`z_loss` is -1");
        refused::<CrossEntropy>(r#"{"scale": 0.0}"#, "`scale` is 0");
        refused::<CrossEntropy>(r#"{"scale": 2.0, "class_scale": [1.0]}"#, "with a scale");
        let isda = |mean: &str| {
            format!(r#"{{"classes": 1, "features": 2, "mean": {mean}, "variance": [0.0, 1.0], "count": [3.0]}}"#)
        };
        assert!(serde_json::from_str::<Isda>(&isda("[1.0, 2.0]")).is_ok());
        refused::<Isda>(&isda("[1.0]"), "`mean` has length 1");
        refused::<CrossEntropy>(r#"{"class_weights": [1.0, -2.0]}"#, "`class_weights[1]` is -2");
        refused::<CrossEntropy>(r#"{"perturbation": {"class_matrix": [1.0, 2.0]}}"#, "`perturbation` has length 2");
        refused::<CrossEntropy>(r#"{"reduction": "batch_mean"}"#, "batch mean");
        refused::<CrossEntropy>(r#"{"reduction": {"divisor": 0.0}}"#, "`divisor` is 0");
        refused::<CrossEntropy>(r#"{"label_smoothin": 0.1}"#, "unknown field");
        refused::<BinaryCrossEntropy>(r#"{"negative_scale": 0.0}"#, "`negative_scale` is 0");
        refused::<BinaryCrossEntropy>(r#"{"focusing": {"clip": 1.0}}"#, "`clip` is 1");
        refused::<BinaryCrossEntropy>(r#"{"focusing": {"gamma_pos": 1.0}, "negative_scale": 2.0}"#, "negative scale");
        refused::<BinaryCrossEntropy>(r#"{"perturbation": {"offset": []}}"#, "`perturbation.offset` has length 0");
        refused::<ClassCounts>(r#"{"counts": [], "samples": 1.0}"#, "`counts` has length 0");
        refused::<ClassCounts>(r#"{"counts": [-1.0, 2.0], "samples": 1.0}"#, "`counts[0]` is -1");
        refused::<ClassCounts>(r#"{"counts": [1.0, 2.0], "samples": 0.0}"#, "is 0");
        let learner = |rest: &str| format!(r#"{{"step": "raw", {rest}}}"#);
        refused::<Learner>(
            &learner(r#""alpha": 0.0, "split": "mean_confidence", "bound": {"fixed": {"eps": 1.0}}"#),
            "`alpha` is 0",
        );
        let clash =
            r#""alpha": 1.0, "split": {"explicit": [1]}, "bound": {"confidence": {"eps": 1.0, "delta_eps": 1.0}}"#;
        refused::<Learner>(&learner(clash), "confidence");
        refused::<Learner>(
            &learner(r#""alpha": 1.0, "split": {"explicit": [2]}, "bound": {"fixed": {"eps": 1.0}}"#),
            "`direction[0]` is 2",
        );
        let pairs = |negative: &str| {
            let positive = r#"["mean_confidence", {"fixed": {"eps": 1.0}}]"#;
            learner(&format!(
                r#""alpha": 1.0, "positive": {positive}, "negative": [{negative}, {{"fixed": {{"eps": 1.0}}}}]"#
            ))
        };
        assert!(serde_json::from_str::<BinaryLearner>(&pairs(r#""same""#)).is_ok());
        refused::<BinaryLearner>(&pairs(r#""opposite""#), "confidence");
        refused::<BinaryLearner>(&pairs(r#"{"own": {"explicit": [-2]}}"#), "`direction[0]` is -2");
    }

    /// What the constructors refuse is not to come in by this door.
    #[test]
    fn counts_above_the_number_of_samples_are_not_read() {
        refused::<ClassCounts>(r#"{"counts": [5.0, 2.0], "samples": 4.0}"#, "`counts[0]` is 5");
    }

    #[test]
    fn running_confidences_out_of_range_are_not_read() {
        refused::<RunningConfidence>(r#"{"momentum": 1.5, "values": [null]}"#, "`momentum` is 1.5");
        refused::<RunningConfidence>(r#"{"momentum": 0.9, "values": []}"#, "length 0");
        refused::<RunningConfidence>(r#"{"momentum": 0.9, "values": [-3.0]}"#, "-3");
    }
}
