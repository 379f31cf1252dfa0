//! Batches that do not fit are typed errors that name the argument, its value and what is allowed; nothing is written then, and no
//! input whatever panics. `errors.rs` has problems and constructors.

#[path = "common/refused.rs"]
mod refused;

use half::f16;
use logit_perturb::cpu::{self, BinaryCrossEntropyBatch, CrossEntropyBatch, Pass};
use logit_perturb::*;
use proptest::prelude::*;
use refused::Kind::{self, Conflict, Label, Shape, Target, Value};
use refused::refused;

const NAN: f64 = f64::NAN;
const INF: f64 = f64::INFINITY;

const FIXED: Bound = Bound::Fixed { eps: 1.0 };

fn learner(split: Split, bound: Bound) -> Learner {
    Learner::new(Step::Raw, 0.1, split, bound).expect("in range")
}

fn matrix(data: &[f64], columns: usize) -> Matrix<'_> {
    Matrix::new(data, data.len() / columns, columns).expect("N x C")
}

/// Runs in place and asserts that the error leaves the buffer as it was.
#[track_caller]
fn refused_in_place(problem: &CrossEntropy, batch: CrossEntropyBatch<'_>, kind: Kind, message: &str) {
    let mut buffer = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    let pass = Pass::InPlace(MatrixMut::new(&mut buffer, 3, 2).expect("3 x 2"));
    refused(cpu::cross_entropy(problem, pass, batch), kind, message);
    assert_eq!(buffer, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "{message}");
}

#[test]
fn single_label_batches_that_do_not_fit() {
    let plain = CrossEntropy::default();
    let labels = || CrossEntropyBatch::labels(&[0i64, 1, 0]);
    for (labels, first, row, count) in
        [([0, 2, -100], 2, 1, 1), ([-1, 0, 5], -1, 0, 2), ([i64::MIN, i64::MAX, -99], i64::MIN, 0, 3)]
    {
        let message =
            format!("label {first} in row {row} is neither in 0..2 nor ignore_index; {count} such row(s) in the batch");
        refused_in_place(&plain, CrossEntropyBatch::labels(&labels), Label, &message);
        let error = cpu::cross_entropy(&plain, matrix(&[0.0; 6], 2), CrossEntropyBatch::labels(&labels));
        assert_eq!(error, Err(Error::Label { row, label: first, classes: 2, count }));
    }
    let ignoring = CrossEntropy::builder().ignore_index(5).build().expect("in range");
    let no_longer = "label -100 in row 2 is neither in 0..2 nor ignore_index; 1 such row(s) in the batch";
    refused_in_place(&ignoring, CrossEntropyBatch::labels(&[0i64, 5, -100]), Label, no_longer);
    let unsigned = "label 4294967295 in row 1 is neither in 0..2 nor ignore_index; 1 such row(s) in the batch";
    refused_in_place(&plain, CrossEntropyBatch::labels(&[0u32, u32::MAX, 1]), Label, unsigned);
    refused_in_place(&plain, CrossEntropyBatch::labels(&[0i64]), Shape, "`labels` has length 1, must be 3");
    refused_in_place(&plain, labels().sample_weights(&[1.0]), Shape, "`sample_weights` has length 1, must be 3");
    for (w, text) in [(-1.0, "-1"), (NAN, "NaN"), (INF, "inf")] {
        let message = format!("`sample_weights[2]` is {text}, must be finite and >= 0");
        refused_in_place(&plain, labels().sample_weights(&[1.0, 0.0, w]), Value, &message);
    }
    let per_row = "`upstream gradient per row` cannot be used with a reduced loss: a reduced loss is one number, and so is its gradient";
    refused_in_place(&plain, labels().upstream(Upstream::Rows(&[1.0; 3])), Conflict, per_row);
    let none = CrossEntropy::builder().reduction(Reduction::None).build().expect("in range");
    let short = "`upstream` has length 2, must be 3";
    refused_in_place(&none, labels().upstream(Upstream::Rows(&[1.0; 2])), Shape, short);
    let three = CrossEntropy::builder().class_weights([1.0; 3]).build().expect("in range");
    refused_in_place(&three, labels(), Shape, "`logits` has columns 2, must be 3");

    let per_sample = CrossEntropy::builder().perturbation(Perturbation::PerSample).build().expect("in range");
    let missing = "`perturbation = per sample` cannot be used without its matrix: the batch must bring d[N, C]";
    refused_in_place(&per_sample, labels(), Conflict, missing);
    let four = [0.0; 4];
    let shape = "`perturbation` has rows 2, must be 3";
    refused_in_place(&per_sample, labels().perturbation(matrix(&four, 2)), Shape, shape);
    let spoilt = [0.0, 0.0, 0.0, NAN, 0.0, 0.0];
    let finite = "`perturbation[1, 1]` is NaN, must be finite";
    refused_in_place(&per_sample, labels().perturbation(matrix(&spoilt, 2)), Value, finite);
    let unasked =
        "`perturbation of the batch` cannot be used with this problem: the problem's perturbation is not per sample";
    refused_in_place(&plain, labels().perturbation(matrix(&four, 2)), Conflict, unasked);

    let mut running = RunningConfidence::new(5, 0.9).expect("in range");
    let useless = "`running_confidence` cannot be used without a learner: nothing would use it";
    refused_in_place(&plain, labels().running_confidence(&mut running), Conflict, useless);
    let learning = CrossEntropy::builder().learner(learner(Split::MeanConfidence, FIXED)).build().expect("in range");
    let length = "`running_confidence` has length 5, must be 2";
    refused_in_place(&learning, labels().running_confidence(&mut running), Shape, length);

    let logits = [0.0; 6];
    let mut gradient = [7.0; 4];
    let into = Pass::Into { logits: matrix(&logits, 2), gradient: MatrixMut::new(&mut gradient, 2, 2).expect("2 x 2") };
    refused(cpu::cross_entropy(&plain, into, labels()), Shape, "`gradient` has rows 2, must be 3");
    assert_eq!(gradient, [7.0; 4]);
}

#[test]
fn soft_targets_with_what_needs_labels() {
    let soft = [0.5; 6];
    let batch = || CrossEntropyBatch::soft_targets(matrix(&soft, 2));
    let build = |builder: loss::CrossEntropyBuilder| builder.build().expect("in range");
    let builder = CrossEntropy::builder;
    let message = |argument: &str| format!("`{argument}` cannot be used with soft targets: it needs hard labels");
    for (problem, argument) in [
        (build(builder().label_smoothing(0.1)), "label_smoothing"),
        (build(builder().ignore_index(1)), "ignore_index"),
        (build(builder().perturbation(Perturbation::TargetMargin(vec![0.0; 2]))), "perturbation by class"),
        (build(builder().perturbation(Perturbation::ClassMatrix(vec![0.0; 4]))), "perturbation by class"),
        (build(builder().learner(learner(Split::MeanConfidence, FIXED))), "learner"),
    ] {
        refused_in_place(&problem, batch(), Conflict, &message(argument));
    }
    let plain = CrossEntropy::default();
    let shape = "`soft_targets` has rows 2, must be 3";
    refused_in_place(&plain, CrossEntropyBatch::soft_targets(matrix(&soft[..4], 2)), Shape, shape);
    for (t, text) in [(-0.5, "-0.5"), (NAN, "NaN"), (INF, "inf")] {
        let mut spoilt = soft;
        (spoilt[3], spoilt[5]) = (t, t);
        let message = format!("`soft_targets[1, 1]` is {text}, must be finite and >= 0");
        refused_in_place(&plain, CrossEntropyBatch::soft_targets(matrix(&spoilt, 2)), Value, &message);
    }
}

/// Runs in place and asserts that the error leaves the buffer as it was.
#[track_caller]
fn binary_refused(problem: &BinaryCrossEntropy, batch: BinaryCrossEntropyBatch<'_>, kind: Kind, message: &str) {
    let mut buffer = [1.0, 2.0, 3.0, 4.0];
    let pass = Pass::InPlace(MatrixMut::new(&mut buffer, 2, 2).expect("2 x 2"));
    refused(cpu::binary_cross_entropy(problem, pass, batch), kind, message);
    assert_eq!(buffer, [1.0, 2.0, 3.0, 4.0], "{message}");
}

#[test]
fn multi_label_targets_that_do_not_fit() {
    let plain = BinaryCrossEntropy::default();
    let check = |targets: BinaryTargets<'_>, kind, message: &str| {
        binary_refused(&plain, BinaryCrossEntropyBatch::new(targets), kind, message);
    };
    let short = |length: usize, stride: usize, columns: usize| {
        format!(
            "`targets` has length {length}, must be at least (rows - 1) * stride + columns = (2 - 1) * {stride} + {columns}"
        )
    };
    check(BinaryTargets::I8 { data: &[0; 3], stride: 2 }, Shape, &short(3, 2, 2));
    check(BinaryTargets::U8 { data: &[0; 4], stride: 3 }, Shape, &short(4, 3, 2));
    check(BinaryTargets::Bits { words: &[0; 1], stride: 1 }, Shape, &short(1, 1, 1));
    let stride = "`targets` has row stride 1, must be at least the 2 columns";
    check(BinaryTargets::I8 { data: &[0; 4], stride: 1 }, Shape, stride);
    check(BinaryTargets::Dense(matrix(&[0.0; 2], 2)), Shape, "`targets` has rows 1, must be 2");
    check(BinaryTargets::Dense(matrix(&[0.0; 6], 3)), Shape, "`targets` has columns 3, must be 2");
    let csr = |offsets, indices| BinaryTargets::Csr { offsets, indices };
    check(csr(&[0, 0], &[]), Shape, "`targets.offsets` has length 2, must be rows + 1 = 2 + 1");
    check(csr(&[0, 2, 1], &[0, 1]), Target, "target of row 1: offsets 2..1, must ascend within 0..=2");
    check(csr(&[-1, 0, 1], &[0]), Target, "target of row 0: offsets -1..0, must ascend within 0..=1");
    check(csr(&[0, 1, 3], &[0, 1]), Target, "target of row 1: offsets 1..3, must ascend within 0..=2");
    check(csr(&[0, 1, 2], &[0, 2]), Target, "target of row 1: class index 2, must be in 0..2");
    check(csr(&[0, 1, 1], &[-1]), Target, "target of row 0: class index -1, must be in 0..2");
    check(
        BinaryTargets::U8 { data: &[0, 1, 1, 255], stride: 2 },
        Target,
        "target of row 1: class 1 is 255, must be in [0, 1]",
    );
    let signed = "target of row 0: class 1 is -2, must be in [0, 1] or -1 (unknown)";
    check(BinaryTargets::I8 { data: &[0, -2, 3, 1], stride: 2 }, Target, signed);
    for (t, text) in [(1.5, "1.5"), (-0.5, "-0.5"), (NAN, "NaN"), (INF, "inf")] {
        let message = format!("target of row 1: class 0 is {text}, must be in [0, 1] or -1 (unknown)");
        check(BinaryTargets::Dense(matrix(&[0.0, -1.0, t, t], 2)), Target, &message);
    }
}

#[test]
fn multi_label_batches_that_do_not_fit() {
    let plain = BinaryCrossEntropy::default();
    let targets = [0.0, 1.0, 1.0, 0.0];
    let batch = || BinaryCrossEntropyBatch::new(matrix(&targets, 2));
    let short = "`mask` has length 3, must be at least (rows - 1) * stride + columns = (2 - 1) * 2 + 2";
    binary_refused(&plain, batch().mask(Mask::Bytes { data: &[1; 3], stride: 2 }), Shape, short);
    let stride = "`mask` has row stride 0, must be at least the 1 columns";
    binary_refused(&plain, batch().mask(Mask::Bits { words: &[1; 3], stride: 0 }), Shape, stride);
    binary_refused(&plain, batch().weights(matrix(&targets, 1)), Shape, "`weights` has rows 4, must be 2");
    for (w, text) in [(-1.0, "-1"), (NAN, "NaN"), (INF, "inf")] {
        let weights = [1.0, 0.0, w, w];
        let message = format!("`weights[1, 0]` is {text}, must be finite and >= 0");
        binary_refused(&plain, batch().weights(matrix(&weights, 2)), Value, &message);
    }
    let per_row = "`upstream gradient per row` cannot be used with a reduced loss: a reduced loss is one number, and so is its gradient";
    binary_refused(&plain, batch().upstream(Upstream::Rows(&[1.0; 2])), Conflict, per_row);
    let none = BinaryCrossEntropy::builder().reduction(Reduction::None).build().expect("in range");
    binary_refused(&none, batch().upstream(Upstream::Rows(&[1.0])), Shape, "`upstream` has length 1, must be 2");
    let three = BinaryCrossEntropy::builder().pos_weight([1.0; 3]).build().expect("in range");
    binary_refused(&three, batch(), Shape, "`logits` has columns 2, must be 3");
    let learner = BinaryLearner::new(BinaryStep::Exact, 0.1, Split::MeanConfidence, FIXED).expect("in range");
    let learning = BinaryCrossEntropy::builder().learner(learner).build().expect("in range");
    let soft = [0.0, 1.0, 0.25, 0.0];
    let hard = "target of row 1: class 0 is 0.25, must be 0 or 1 with a learner";
    binary_refused(&learning, BinaryCrossEntropyBatch::new(matrix(&soft, 2)), Target, hard);
    let unknown = Mask::Bytes { data: &[1, 1, 0, 1], stride: 2 };
    let masked = BinaryCrossEntropyBatch::new(matrix(&soft, 2)).mask(unknown);
    assert!(
        cpu::binary_cross_entropy(&learning, matrix(&targets, 2), masked).is_ok(),
        "a masked target is not looked at"
    );
}

/// Any number, the odd ones often.
fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => -3.0..3.0,
        2 => prop::sample::select(vec![0.0, 1.0, -1.0, NAN, INF, -INF, 1e4, -1e300, 5e-324]),
        1 => any::<f64>(),
    ]
}

fn numbers() -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec(number(), 0..13)
}

/// Rows, columns and row stride, which mostly go together.
fn shape() -> impl Strategy<Value = (usize, usize, usize)> {
    let rows = prop_oneof![9 => 0..4usize, 1 => Just(usize::MAX)];
    let stride = prop_oneof![9 => Just(None), 1 => (0..5usize).prop_map(Some), 1 => Just(Some(usize::MAX))];
    (rows, prop_oneof![9 => 1..5usize, 1 => Just(0)], stride, 0..3usize)
        .prop_map(|(rows, columns, stride, gap)| (rows, columns, stride.unwrap_or(columns + gap)))
}

/// `values`, repeated or cut to `len` where the test wants lengths that fit: with lengths at random, few batches would get far.
fn fitted<T: Copy>(fits: bool, values: &[T], len: usize) -> Vec<T> {
    if fits && len < 100 { values.iter().copied().cycle().take(len).collect() } else { values.to_vec() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes back, an error or numbers: a panic fails the test, and so does an error after something was written.
    #[test]
    fn single_label_garbage_never_panics(
        (data, shape, labels) in (numbers(), shape(), prop::collection::vec(-2..5i64, 0..4)),
        (vector, matrix_data, other_shape) in (numbers(), numbers(), shape()),
        options in any::<[bool; 8]>(),
        (number, form, split, fits) in (number(), 0..5u8, 0..4u8, prop::bool::weighted(0.8)),
    ) {
        let [weights, learn, soft, omega, extra, running, through, per_row] = options;
        let (rows, columns, stride) = shape;
        let other_shape = if fits { (rows, columns, columns) } else { other_shape };
        let data = fitted(fits, &data, rows.saturating_mul(stride));
        let labels = fitted(fits, &labels, rows);
        let matrix_data = fitted(fits, &matrix_data, rows.saturating_mul(columns));
        let per_class = fitted(fits, &vector, if form == 3 { columns * columns } else { columns });
        let vector = fitted(fits, &vector, rows);
        let mut builder = CrossEntropy::builder().ignore_index(4).z_loss(number.abs()).perturbation(match form {
            0 => Perturbation::None,
            1 => Perturbation::Shared(per_class.clone()),
            2 => Perturbation::TargetMargin(per_class.clone()),
            3 => Perturbation::ClassMatrix(per_class.clone()),
            _ => Perturbation::PerSample,
        });
        if weights {
            builder = builder.class_weights(per_class.clone()).label_smoothing(0.1);
        }
        if per_row {
            builder = builder.reduction(Reduction::None);
        }
        if learn {
            let split = match split {
                0 => Split::MeanConfidence,
                1 => Split::Confidence { tau: number },
                2 => Split::Explicit(labels.iter().map(|&y| y as i8).collect()),
                _ => match ClassCounts::new(per_class.clone()) {
                    Ok(counts) => Split::Rank { head: 1, counts },
                    Err(_) => Split::MeanConfidence,
                },
            };
            let step = if weights { Step::Raw } else { Step::UnitL2 };
            let semantics = if through { GradientSemantics::Through } else { GradientSemantics::Detached };
            match Learner::new(step, 0.5, split, Bound::Fixed { eps: 2.0 }) {
                Ok(learner) => builder = builder.learner(learner.gradient(semantics)),
                Err(_) => return Ok(()),
            }
        }
        let Ok(problem) = builder.build() else { return Ok(()) };
        let mut logits = data.clone();
        let Ok(pass) = MatrixMut::strided(&mut logits, rows, columns, stride).map(Pass::InPlace) else { return Ok(()) };
        let mut batch = match Matrix::strided(&matrix_data, other_shape.0, other_shape.1, other_shape.2) {
            Ok(targets) if soft => CrossEntropyBatch::soft_targets(targets),
            Ok(perturbation) if extra => CrossEntropyBatch::labels(&labels).perturbation(perturbation),
            _ => CrossEntropyBatch::labels(&labels),
        };
        let mut confidences = RunningConfidence::new(columns.max(1), 0.9).expect("in range");
        if running {
            batch = batch.running_confidence(&mut confidences);
        }
        if omega {
            batch = batch.sample_weights(&vector);
        }
        if per_row {
            batch = batch.upstream(Upstream::Rows(&vector));
        }
        let failed = cpu::cross_entropy(&problem, pass, batch).is_err();
        let bits = |x: &[f64]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        prop_assert!(!failed || bits(&logits) == bits(&data), "written before the error");
    }

    #[test]
    fn multi_label_garbage_never_panics(
        (data, shape, bytes) in (numbers(), shape(), prop::collection::vec(prop_oneof![3 => 0..2i8, 1 => any::<i8>()], 0..13)),
        (words, offsets) in (prop::collection::vec(any::<u32>(), 0..5), prop::collection::vec(prop_oneof![9 => 0..4i32, 1 => any::<i32>()], 0..6)),
        (matrix_data, stride, vector) in (numbers(), 0..5usize, numbers()),
        options in any::<[bool; 6]>(),
        (format, kind, gamma, fits) in (0..5u8, 0..3u8, number(), prop::bool::weighted(0.8)),
    ) {
        let (rows, columns, row_stride) = shape;
        let data = fitted(fits, &data, rows.saturating_mul(row_stride));
        let stride = if fits { columns } else { stride };
        let bytes = fitted(fits, &bytes, rows.saturating_mul(columns));
        let words = fitted(fits, &words, rows.saturating_mul(columns));
        let matrix_data = fitted(fits, &matrix_data, rows.saturating_mul(columns));
        let offsets = fitted(fits, &offsets, rows.saturating_add(1));
        let vector = fitted(fits, &vector, rows);
        let [masked, weighted, learn, through, focusing, per_row] = options;
        let mut builder = BinaryCrossEntropy::builder().perturbation(BinaryPerturbation::none().offset(vec![gamma; columns]));
        if focusing {
            builder = builder.focusing(Focusing { gamma_pos: gamma.abs(), gamma_neg: gamma.abs(), clip: 0.05 });
        }
        if per_row {
            builder = builder.reduction(Reduction::None);
        }
        if learn {
            let step = [BinaryStep::Raw, BinaryStep::Sign, BinaryStep::Exact][kind as usize];
            let semantics = if through { GradientSemantics::Through } else { GradientSemantics::Detached };
            let learner = BinaryLearner::new(step, 0.5, Split::MeanConfidence, Bound::Fixed { eps: 2.0 }).expect("in range");
            builder = builder.learner(learner.gradient(semantics));
        }
        let Ok(problem) = builder.build() else { return Ok(()) };
        let halves: Vec<f16> = data.iter().map(|&x| f16::from_f64(x)).collect();
        let mut logits = halves.clone();
        let Ok(pass) = MatrixMut::strided(&mut logits, rows, columns, row_stride).map(Pass::InPlace) else { return Ok(()) };
        let unsigned: Vec<u8> = bytes.iter().map(|&b| b as u8).collect();
        let dense = Matrix::strided(&matrix_data, rows, columns, stride);
        let targets = match (format, dense.clone()) {
            (0, Ok(dense)) => BinaryTargets::Dense(dense),
            (1, _) => BinaryTargets::U8 { data: &unsigned, stride },
            (2, _) => BinaryTargets::Bits { words: &words, stride },
            (3, _) => BinaryTargets::Csr { offsets: &offsets, indices: &offsets },
            _ => BinaryTargets::I8 { data: &bytes, stride },
        };
        let mut batch = BinaryCrossEntropyBatch::new(targets);
        if masked {
            batch = batch.mask(Mask::Bits { words: &words, stride });
        }
        if let (true, Ok(weights)) = (weighted, dense) {
            batch = batch.weights(weights);
        }
        if per_row {
            batch = batch.upstream(Upstream::Rows(&vector));
        }
        let failed = cpu::binary_cross_entropy(&problem, pass, batch).is_err();
        let bits = |x: &[f16]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        prop_assert!(!failed || bits(&logits) == bits(&halves), "written before the error");
    }
}
