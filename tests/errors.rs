//! Every mistake a user can make is a typed error that names the argument, its value and what is allowed.
//! Here: problems, constructors and views; `batch_errors.rs` has the batches.

#[path = "common/refused.rs"]
mod refused;

use logit_perturb::*;
use refused::Kind::{Conflict, Shape, Target, Value};
use refused::refused;

const NAN: f64 = f64::NAN;
const INF: f64 = f64::INFINITY;

fn counts(n: &[f64]) -> ClassCounts {
    ClassCounts::new(n.to_vec()).expect("counts")
}

fn learner(split: Split, bound: Bound) -> Learner {
    Learner::new(Step::Raw, 0.1, split, bound).expect("in range")
}

const FIXED: Bound = Bound::Fixed { eps: 1.0 };

fn matrix(data: &[f64], columns: usize) -> Matrix<'_> {
    Matrix::new(data, data.len() / columns, columns).expect("N x C")
}

#[test]
fn cross_entropy_options() {
    let builder = CrossEntropy::builder;
    for (scale, text) in [(0.0, "0"), (-1.0, "-1"), (NAN, "NaN"), (INF, "inf")] {
        refused(builder().scale(scale).build(), Value, &format!("`scale` is {text}, must be finite and > 0"));
        let message = format!("`class_scale[1]` is {text}, must be finite and > 0");
        refused(builder().class_scale([1.0, scale]).build(), Value, &message);
        let message = format!("`divisor` is {text}, must be finite and > 0");
        refused(builder().reduction(Reduction::Divisor(scale)).build(), Value, &message);
        refused(BinaryCrossEntropy::builder().reduction(Reduction::Divisor(scale)).build(), Value, &message);
    }
    for (a, text) in [(1.0, "1"), (-0.1, "-0.1"), (NAN, "NaN")] {
        let message = format!("`label_smoothing` is {text}, must be in [0, 1)");
        refused(builder().label_smoothing(a).build(), Value, &message);
    }
    for (x, text) in [(-0.5, "-0.5"), (NAN, "NaN"), (INF, "inf")] {
        refused(builder().z_loss(x).build(), Value, &format!("`z_loss` is {text}, must be finite and >= 0"));
        let message = format!("`class_weights[0]` is {text}, must be finite and >= 0");
        refused(builder().class_weights([x, 1.0]).build(), Value, &message);
    }
    let batch_mean = "`reduction = batch mean` cannot be used with softmax cross-entropy: it divides by all rows, ignored ones too; use Divisor for that";
    refused(builder().reduction(Reduction::BatchMean).build(), Conflict, batch_mean);
    let scaled = "`learner` cannot be used with a logit scale: a learned perturbation is defined for scale 1";
    let with_learner = || builder().learner(learner(Split::MeanConfidence, FIXED));
    refused(with_learner().scale(2.0).build(), Conflict, scaled);
    refused(with_learner().class_scale([1.0, 2.0]).build(), Conflict, scaled);
    assert!(with_learner().scale(1.0).build().is_ok());
    let both = "`class_scale` cannot be used with a scale: it already holds one number a class";
    refused(CrossEntropy::builder().scale(30.0).class_scale([1.0, 2.0]).build(), Conflict, both);
}

#[test]
fn perturbations_that_are_not_numbers_of_the_right_count() {
    let build = |perturbation| CrossEntropy::builder().perturbation(perturbation).build();
    let shared = "`perturbation[1]` is NaN, must be finite, or -inf to mask the class";
    refused(build(Perturbation::Shared(vec![0.0, NAN])), Value, shared);
    let infinite = "`perturbation[0]` is inf, must be finite, or -inf to mask the class";
    refused(build(Perturbation::Shared(vec![INF])), Value, infinite);
    assert!(build(Perturbation::Shared(vec![-INF, 0.0])).is_ok());
    refused(build(Perturbation::TargetMargin(vec![-INF])), Value, "`perturbation[0]` is -inf, must be finite");
    refused(
        build(Perturbation::ClassMatrix(vec![0.0, 0.0, NAN, 0.0])),
        Value,
        "`perturbation[2]` is NaN, must be finite",
    );
    let not_square = "`perturbation` has length 5, must be C * C for a class matrix";
    refused(build(Perturbation::ClassMatrix(vec![0.0; 5])), Shape, not_square);
    refused(build(Perturbation::Shared(vec![])), Shape, "`perturbation` has length 0, must be at least 1");
    let build = |perturbation| BinaryCrossEntropy::builder().perturbation(perturbation).build();
    let none = BinaryPerturbation::none;
    refused(build(none().offset([1.0, NAN])), Value, "`perturbation.offset[1]` is NaN, must be finite");
    refused(build(none().positive([-INF])), Value, "`perturbation.positive[0]` is -inf, must be finite");
    refused(build(none().negative([INF])), Value, "`perturbation.negative[0]` is inf, must be finite");
    let lengths = "`perturbation.negative` has length 3, must be 2, as `perturbation.offset`";
    refused(build(none().offset([0.0; 2]).negative([0.0; 3])), Shape, lengths);
}

#[test]
fn vectors_of_different_lengths() {
    let weights = || CrossEntropy::builder().class_weights([1.0; 3]);
    let message = |name: &str, length: usize| format!("`{name}` has length {length}, must be 3, as `class_weights`");
    refused(weights().class_scale([1.0; 2]).build(), Shape, &message("class_scale", 2));
    refused(weights().perturbation(Perturbation::Shared(vec![0.0; 4])).build(), Shape, &message("perturbation", 4));
    refused(
        weights().perturbation(Perturbation::ClassMatrix(vec![0.0; 4])).build(),
        Shape,
        &message("perturbation", 2),
    );
    let explicit = learner(Split::Explicit(vec![1; 2]), FIXED);
    refused(weights().learner(explicit).build(), Shape, &message("direction", 2));
    let bounds = learner(Split::MeanConfidence, Bound::Explicit(vec![1.0; 4]));
    refused(weights().learner(bounds).build(), Shape, &message("bound", 4));
    let rank = learner(Split::Rank { head: 0, counts: counts(&[1.0; 2]) }, FIXED);
    refused(weights().learner(rank).build(), Shape, &message("counts", 2));
    refused(
        CrossEntropy::builder().class_weights([]).build(),
        Shape,
        "`class_weights` has length 0, must be at least 1",
    );
    let binary = BinaryLearner::new(BinaryStep::Raw, 0.1, Split::Explicit(vec![1; 2]), FIXED).expect("in range");
    let problem = BinaryCrossEntropy::builder().pos_weight([1.0; 3]).learner(binary);
    refused(problem.build(), Shape, "`direction` has length 2, must be 3, as `pos_weight`");
}

#[test]
fn binary_cross_entropy_options() {
    let builder = BinaryCrossEntropy::builder;
    refused(builder().pos_weight([1.0, -1.0]).build(), Value, "`pos_weight[1]` is -1, must be finite and >= 0");
    for (lam, text) in [(0.0, "0"), (-2.0, "-2"), (NAN, "NaN"), (INF, "inf")] {
        let message = format!("`negative_scale` is {text}, must be finite and > 0");
        refused(builder().negative_scale(lam).build(), Value, &message);
    }
    let focusing = |gamma_pos, gamma_neg, clip| builder().focusing(Focusing { gamma_pos, gamma_neg, clip });
    refused(focusing(-1.0, 0.0, 0.0).build(), Value, "`gamma_pos` is -1, must be finite and >= 0");
    refused(focusing(0.0, INF, 0.0).build(), Value, "`gamma_neg` is inf, must be finite and >= 0");
    for (clip, text) in [(1.0, "1"), (-0.05, "-0.05"), (NAN, "NaN")] {
        refused(focusing(1.0, 1.0, clip).build(), Value, &format!("`clip` is {text}, must be in [0, 1)"));
    }
    let both = "`focusing` cannot be used with a negative scale: both reshape the negatives' loss";
    refused(focusing(1.0, 1.0, 0.0).negative_scale(2.0).build(), Conflict, both);
    assert!(focusing(1.0, 1.0, 0.0).negative_scale(1.0).build().is_ok());
}

#[test]
fn class_counts() {
    refused(ClassCounts::new([]), Shape, "`counts` has length 0, must be at least 1");
    for (n, text) in [(-1.0, "-1"), (NAN, "NaN")] {
        let message = format!("`counts[1]` is {text}, must be finite and >= 0");
        refused(ClassCounts::new([3.0, n]), Value, &message);
    }
    refused(ClassCounts::new([0.0, 0.0]), Value, "`samples` is 0, must be finite and > 0");
    let above = "`counts[1]` is 5, must be at most the number of samples";
    refused(ClassCounts::multi_label([4.0, 5.0], 4.0), Value, above);
    refused(ClassCounts::multi_label([4.0], INF), Value, "`samples` is inf, must be finite and > 0");
    refused(ClassCounts::from_labels([0, 1, 3], 3), Value, "`labels[2]` is 3, must be in 0..3");
    refused(ClassCounts::from_labels([], 0), Shape, "`counts` has length 0, must be at least 1");
}

#[test]
fn constructors_of_perturbations() {
    let (zero, fine) = (counts(&[3.0, 0.0]), counts(&[3.0, 1.0]));
    let positive = "`counts[1]` is 0, must be finite and > 0";
    refused(Perturbation::logit_adjustment(&zero, 1.0), Value, positive);
    refused(Perturbation::balanced_softmax(&zero), Value, positive);
    refused(Perturbation::ldam(&zero, 0.5), Value, positive);
    refused(Perturbation::vector_scaling(&zero, 0.5, 1.0), Value, positive);
    refused(Perturbation::logit_adjustment(&fine, NAN), Value, "`lambda` is NaN, must be finite");
    refused(Perturbation::ldam(&fine, INF), Value, "`max_margin` is inf, must be finite");
    refused(Perturbation::vector_scaling(&fine, NAN, 1.0), Value, "`gamma` is NaN, must be finite");
    refused(Perturbation::vector_scaling(&fine, 1.0, INF), Value, "`tau` is inf, must be finite");
    let everywhere = ClassCounts::multi_label([4.0, 2.0], 4.0).expect("counts");
    for (counts, message) in [
        (&everywhere, "`counts[0]` is 4, must be above 0 and below the number of samples"),
        (&zero, "`counts[0]` is 3, must be above 0 and below the number of samples"),
    ] {
        refused(BinaryPerturbation::logit_adjustment(counts, 1.0), Value, message);
        refused(BinaryPerturbation::negative_tolerant(counts, 0.05, 2.0), Value, message);
        refused(BinaryPerturbation::ldam(counts, 0.5), Value, message);
        refused(RebalancedWeights::new(counts, 0.1, 10.0, 0.2), Value, message);
    }
    refused(BinaryPerturbation::logit_adjustment(&fine, NAN), Value, "`lambda` is NaN, must be finite");
    refused(BinaryPerturbation::negative_tolerant(&fine, NAN, 2.0), Value, "`kappa` is NaN, must be finite");
    let scale = "`negative_scale` is 0, must be finite and > 0";
    refused(BinaryPerturbation::negative_tolerant(&fine, 0.05, 0.0), Value, scale);
    refused(BinaryPerturbation::ldam(&fine, NAN), Value, "`max_margin` is NaN, must be finite");
    refused(RebalancedWeights::new(&fine, -0.1, 1.0, 0.0), Value, "`alpha` is -0.1, must be finite and >= 0");
    refused(RebalancedWeights::new(&fine, 0.1, INF, 0.0), Value, "`beta` is inf, must be finite and >= 0");
    refused(RebalancedWeights::new(&fine, 0.1, 1.0, NAN), Value, "`mu` is NaN, must be finite");
    let weights = RebalancedWeights::new(&fine, 0.1, 1.0, 0.2).expect("in range");
    let bad = BinaryTargets::U8 { data: &[0, 1, 0, 2], stride: 2 };
    refused(weights.weights(2, bad, None), Target, "target of row 1: class 1 is 2, must be in [0, 1]");
    let targets = BinaryTargets::U8 { data: &[0, 1], stride: 2 };
    let short = "`targets` has length 2, must be at least (rows - 1) * stride + columns = (2 - 1) * 2 + 2";
    refused(weights.weights(2, targets, None), Shape, short);
    let mask = Some(Mask::Bits { words: &[], stride: 1 });
    let short = "`mask` has length 0, must be at least (rows - 1) * stride + columns = (1 - 1) * 1 + 1";
    refused(weights.weights(1, targets, mask), Shape, short);
}

#[test]
fn learners() {
    let new = |alpha, split, bound| Learner::new(Step::UnitL2, alpha, split, bound);
    let binary = |alpha, split, bound| BinaryLearner::new(BinaryStep::Raw, alpha, split, bound);
    let rank = || Split::Rank { head: 1, counts: counts(&[3.0, 1.0]) };
    let tail = |eps, delta_head, delta_tail, ratio| Bound::LongTail { eps, delta_head, delta_tail, ratio };
    let table = [
        (0.0, Split::MeanConfidence, FIXED, "`alpha` is 0, must be finite and > 0"),
        (NAN, Split::MeanConfidence, FIXED, "`alpha` is NaN, must be finite and > 0"),
        (INF, Split::MeanConfidence, FIXED, "`alpha` is inf, must be finite and > 0"),
        (0.1, Split::Confidence { tau: NAN }, FIXED, "`tau` is NaN, must be finite"),
        (
            0.1,
            Split::Rank { head: 3, counts: counts(&[3.0, 1.0]) },
            FIXED,
            "`head` is 3, must be in 0..=2, the number of classes",
        ),
        (0.1, Split::Explicit(vec![0, 2]), FIXED, "`direction[1]` is 2, must be -1, 0 or 1"),
        (0.1, Split::Explicit(vec![-128]), FIXED, "`direction[0]` is -128, must be -1, 0 or 1"),
        (0.1, Split::MeanConfidence, Bound::Fixed { eps: -1.0 }, "`eps` is -1, must be finite and >= 0"),
        (0.1, Split::MeanConfidence, Bound::Fixed { eps: INF }, "`eps` is inf, must be finite and >= 0"),
        (
            0.1,
            Split::MeanConfidence,
            Bound::Confidence { eps: NAN, delta_eps: 1.0 },
            "`eps` is NaN, must be finite and >= 0",
        ),
        (
            0.1,
            Split::MeanConfidence,
            Bound::Confidence { eps: 1.0, delta_eps: -1.0 },
            "`delta_eps` is -1, must be finite and >= 0",
        ),
        (0.1, rank(), tail(-1.0, 1.0, 1.0, None), "`eps` is -1, must be finite and >= 0"),
        (0.1, rank(), tail(1.0, -1.0, 1.0, None), "`delta_head` is -1, must be finite and >= 0"),
        (0.1, rank(), tail(1.0, 1.0, NAN, None), "`delta_tail` is NaN, must be finite and >= 0"),
        (0.1, rank(), tail(1.0, 1.0, 1.0, Some(vec![1.0, 0.0])), "`ratio[1]` is 0, must be finite and > 0"),
        (0.1, Split::MeanConfidence, Bound::Explicit(vec![1.0, -1.0]), "`bound[1]` is -1, must be finite and >= 0"),
    ];
    for (alpha, split, bound, message) in table {
        refused(new(alpha, split.clone(), bound.clone()), Value, message);
        refused(binary(alpha, split.clone(), bound.clone()), Value, message);
        if alpha == 0.1 {
            let own = binary(0.1, Split::MeanConfidence, FIXED)
                .expect("in range")
                .negatives(NegativeSplit::Own(split), bound);
            refused(own, Value, message);
        }
    }
    let zero = Split::Rank { head: 1, counts: counts(&[3.0, 0.0]) };
    refused(new(0.1, zero, tail(0.1, 1.0, 1.0, None)), Value, "`counts[1]` is 0, must be finite and > 0");
    let confidence = || Bound::Confidence { eps: 1.0, delta_eps: 1.0 };
    let needs_confidence = "`bound = confidence` cannot be used with this split: it needs a confidence split";
    let needs_rank = "`bound = long tail` cannot be used with this split: it needs the rank split";
    for (split, bound, message) in [
        (rank(), confidence(), needs_confidence),
        (Split::Explicit(vec![1]), confidence(), needs_confidence),
        (Split::MeanConfidence, tail(1.0, 1.0, 1.0, None), needs_rank),
        (Split::Explicit(vec![1]), tail(1.0, 1.0, 1.0, None), needs_rank),
    ] {
        refused(new(0.1, split.clone(), bound.clone()), Conflict, message);
        refused(binary(0.1, split, bound), Conflict, message);
    }
    refused(new(0.1, rank(), tail(1.0, 1.0, 1.0, Some(vec![1.0; 3]))), Shape, "`ratio` has length 3, must be 2");
    let lengths = "`bound` has length 3, must be 2, as `counts`";
    refused(new(0.1, rank(), Bound::Explicit(vec![1.0; 3])), Shape, lengths);
    let ranked = || binary(0.1, rank(), FIXED).expect("in range");
    refused(ranked().negatives(NegativeSplit::Same, Bound::Explicit(vec![1.0; 3])), Shape, lengths);
    refused(ranked().negatives(NegativeSplit::Off, confidence()), Conflict, needs_confidence);
    let opposite = "`negatives = opposite` cannot be used with a confidence split: each sign's own confidences decide";
    let by_confidence = binary(0.1, Split::MeanConfidence, FIXED).expect("in range");
    refused(by_confidence.negatives(NegativeSplit::Opposite, FIXED), Conflict, opposite);
    for (momentum, text) in [(1.0, "1"), (-0.1, "-0.1"), (NAN, "NaN")] {
        refused(RunningConfidence::new(2, momentum), Value, &format!("`momentum` is {text}, must be in [0, 1)"));
    }
    let size = |n: usize| format!("`classes` has length {n}, must be at least 1 and at most 2147483647");
    refused(RunningConfidence::new(0, 0.9), Shape, &size(0));
    refused(RunningConfidence::new(usize::MAX, 0.9), Shape, &size(usize::MAX));
}

#[test]
fn isda() {
    refused(Isda::new(0, 2), Shape, "`classes` has length 0, must be at least 1");
    refused(Isda::new(2, 0), Shape, "`features` has length 0, must be at least 1");
    let fresh = Isda::new(2, 2).expect("a size");
    let mut isda = fresh.clone();
    let features = [1.0, 2.0, 3.0, 4.0];
    refused(isda.update(matrix(&features, 4), &[0i64], -1), Shape, "`features` has columns 4, must be 2");
    refused(isda.update(matrix(&features, 2), &[0i64], -1), Shape, "`features` has rows 2, must be 1");
    let label = "label 2 in row 1 is neither in 0..2 nor ignore_index; 1 such row(s) in the batch";
    refused(isda.update(matrix(&features, 2), &[0i64, 2], -1), refused::Kind::Label, label);
    let spoilt = [1.0, 2.0, 3.0, NAN];
    refused(isda.update(matrix(&spoilt, 2), &[0i64, 1], -1), Value, "`features[1, 1]` is NaN, must be finite");
    assert_eq!(isda, fresh, "nothing is taken in");
    assert!(isda.update(matrix(&spoilt, 2), &[0i64, -1], -1).is_ok(), "an ignored row is not looked at");
    refused(isda.perturbation(matrix(&features, 2), -1.0), Value, "`lambda` is -1, must be finite and >= 0");
    refused(isda.perturbation(matrix(&features, 4), 1.0), Shape, "`weights` has rows 1, must be 2");
}

#[test]
fn views_that_do_not_fit() {
    let mut data = [0f32; 10];
    let dense = "`matrix` has length 10, must be 3 rows * 3 columns";
    refused(Matrix::new(&data, 3, 3), Shape, dense);
    refused(MatrixMut::new(&mut data, 3, 3), Shape, dense);
    let wide = format!("`matrix` has columns {}, must be at least 1 and at most 2147483647", usize::MAX);
    refused(Matrix::new(&data[..0], 0, usize::MAX), Shape, &wide);
    refused(Matrix::new(&data[..0], 5, 0), Shape, "`matrix` has columns 0, must be at least 1 and at most 2147483647");
    let stride = "`matrix` has row stride 2, must be at least the 3 columns";
    refused(Matrix::strided(&data, 2, 3, 2), Shape, stride);
    refused(MatrixMut::strided(&mut data, 2, 3, 2), Shape, stride);
    let short = "`matrix` has length 10, must be at least (rows - 1) * stride + columns = (3 - 1) * 4 + 3";
    refused(Matrix::strided(&data, 3, 3, 4), Shape, short);
    refused(MatrixMut::strided(&mut data, 3, 3, 4), Shape, short);
    assert!(Matrix::strided(&data, usize::MAX, 3, usize::MAX).is_err(), "no overflow");
    assert!(Matrix::new(&data, usize::MAX, usize::MAX).is_err(), "no overflow");
    assert!(Matrix::strided(&data, 3, 2, 4).is_ok(), "the last row needs no gap");
}
