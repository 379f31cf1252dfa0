//! The same bits on every run, whatever the number of threads: both losses, all outputs, with classes that are larger than one task.

mod common;

use common::{sigmoid, softmax, uniform};
use logit_perturb::cpu::{BinaryCrossEntropyBatch, CrossEntropyBatch, Pass, binary_cross_entropy, cross_entropy};
use logit_perturb::{
    BinaryCrossEntropy, BinaryLearner, BinaryStep, BinaryTargets, Bound, CrossEntropy, GradientSemantics, Isda,
    Learner, Matrix, MatrixMut, Perturbation, Split, Step,
};
use rayon::ThreadPoolBuilder;

/// Runs with 1, 2, 3 and 7 threads, twice each, and asserts that everything is equal to the bit.
#[track_caller]
fn assert_same_for_any_pool(run: impl Fn() -> (String, Vec<f64>) + Sync) {
    let bits =
        |(output, gradient): (String, Vec<f64>)| (output, gradient.iter().map(|g| g.to_bits()).collect::<Vec<_>>());
    let (output, gradient) = bits(run());
    for threads in [1, 2, 3, 7, 1, 2, 3, 7] {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        let (other, others) = bits(pool.install(&run));
        // Not assert_eq: a difference would print megabytes.
        assert!(output == other, "outputs differ with {threads} threads");
        assert!(gradient == others, "gradients differ with {threads} threads");
    }
}

/// `{:?}` writes every f64 in full.
fn softmax_run(case: &softmax::Case) -> (String, Vec<f64>) {
    let (output, gradient) = case.run();
    (format!("{output:?}"), gradient)
}

fn binary_run(case: &sigmoid::Case) -> (String, Vec<f64>) {
    let (output, gradient) = case.run();
    (format!("{output:?}"), gradient)
}

#[test]
fn softmax_without_a_learner() {
    let (n, c) = (700, 37);
    let labels = uniform(1, n, -1.0..c as f64).iter().map(|&x| if x < 0.0 { -100 } else { x as i64 }).collect();
    let mut case = softmax::Case::new(c, uniform(2, n * c, -8.0..8.0), labels);
    (case.smoothing, case.z) = (0.1, 0.01);
    (case.class_weights, case.sample_weights) = (Some(uniform(3, c, 0.0..2.0)), Some(uniform(4, n, 0.0..2.0)));
    case.form = Perturbation::ClassMatrix(uniform(5, c * c, -1.0..1.0));
    case.check();
    assert_same_for_any_pool(|| softmax_run(&case));
}

#[test]
fn batches_of_long_rows() {
    // More rows than there are blocks at most, each of more columns than half a block has entries.
    let (n, c) = (300, 1100);
    let labels = (0..n as i64).map(|i| if i % 7 == 3 { -100 } else { i % 11 }).collect();
    let mut softmax = softmax::Case::new(c, uniform(14, n * c, -8.0..8.0), labels);
    softmax.check();
    assert_same_for_any_pool(|| softmax_run(&softmax));
    softmax.form = Perturbation::Shared(uniform(15, c, -2.0..2.0));
    softmax.check();
    assert_same_for_any_pool(|| softmax_run(&softmax));
    let targets = uniform(16, n * c, -0.5..1.0).iter().map(|t| t.max(0.0)).collect();
    let sigmoid = sigmoid::Case::new(c, uniform(17, n * c, -5.0..5.0), targets);
    sigmoid.check();
    assert_same_for_any_pool(|| binary_run(&sigmoid));
}

/// In place, elsewhere and without a gradient, over many blocks of rows: one result.
#[test]
fn passes_differ_in_nothing_but_the_place() {
    let (n, c, stride) = (300, 60, 63);
    let logits = uniform(18, n * stride, -5.0..5.0);
    let labels: Vec<i64> = (0..n as i64).map(|i| i % 11).collect();
    let targets: Vec<i8> = (0..n * c).map(|i| i8::from(i % 7 == 0)).collect();
    let softmax = CrossEntropy::default();
    let sigmoid = BinaryCrossEntropy::default();
    let of_labels = |pass: Pass<'_>| {
        format!("{:?}", cross_entropy(&softmax, pass, CrossEntropyBatch::labels(&labels)).expect("a valid batch"))
    };
    let of_targets = |pass: Pass<'_>| {
        let batch = BinaryCrossEntropyBatch::new(BinaryTargets::I8 { data: &targets, stride: c });
        format!("{:?}", binary_cross_entropy(&sigmoid, pass, batch).expect("a valid batch"))
    };
    let evaluate: [&dyn Fn(Pass<'_>) -> String; 2] = [&of_labels, &of_targets];
    for run in evaluate {
        let matrix = Matrix::strided(&logits, n, c, stride).expect("rows with gaps");
        let (mut dense, mut same) = (vec![f64::INFINITY; n * c], logits.clone());
        let gradient = MatrixMut::new(&mut dense, n, c).expect("N x C");
        let elsewhere = run(Pass::Into { logits: matrix, gradient });
        let in_place = run(Pass::InPlace(MatrixMut::strided(&mut same, n, c, stride).expect("rows with gaps")));
        assert!(run(Pass::Forward(matrix)) == elsewhere && in_place == elsewhere, "outputs differ");
        for ((found, before), expected) in same.chunks(stride).zip(logits.chunks(stride)).zip(dense.chunks(c)) {
            assert_eq!(found[..c], *expected);
            assert_eq!(found[c..], before[c..], "a gap was written to");
        }
    }
}

#[test]
fn softmax_with_classes_of_several_tasks() {
    // 450 rows of 193 columns in class 0: more than the 65536 numbers that one task takes. A few others stay small.
    let (n, c) = (460, 193);
    let labels: Vec<i64> = (0..n as i64).map(|i| if i % 46 == 7 { i % 5 } else { 0 }).collect();
    assert!(labels.iter().filter(|&&y| y == 0).count() * c > 65536);
    for (step, alpha, semantics) in
        [(Step::UnitL2, 0.2, GradientSemantics::Detached), (Step::Raw, 0.2, GradientSemantics::Through)]
    {
        let learner = Learner::new(step, alpha, Split::MeanConfidence, Bound::Confidence { eps: 0.8, delta_eps: 0.5 });
        let mut case = softmax::Case::new(c, uniform(6, n * c, -3.0..3.0), labels.clone());
        case.learner = Some(learner.expect("in range").gradient(semantics));
        let learned = case.check().learned.expect("a learner is set");
        assert!(learned.steps[0] > 1, "nothing is learned");
        assert_same_for_any_pool(|| softmax_run(&case));
    }
}

#[test]
fn softmax_perturbed_so_far_that_the_exponentials_are_taken_anew() {
    let (n, c) = (700, 101);
    let bound = Bound::Fixed { eps: 300.0 };
    let learner = Learner::new(Step::UnitL2, 20.0, Split::Explicit(vec![1; 101]), bound).expect("in range");
    let mut case = softmax::Case::new(c, uniform(7, n * c, -3.0..3.0), vec![0; n]);
    case.learner = Some(learner);
    let learned = case.check().learned.expect("a learner is set");
    assert!(learned.delta.iter().any(|d| d.abs() > 30.0), "the perturbation stays near");
    assert_same_for_any_pool(|| softmax_run(&case));
}

#[test]
fn sigmoid_with_and_without_a_learner() {
    let (n, c) = (600, 23);
    let targets = uniform(8, n * c, -0.3..1.0).iter().map(|t| t.ceil() - f64::from(u8::from(*t < -0.2))).collect();
    let mut case = sigmoid::Case::new(c, uniform(9, n * c, -5.0..5.0), targets);
    (case.pos_weight, case.weights) = (Some(uniform(10, c, 0.0..3.0)), Some(uniform(11, n * c, 0.0..2.0)));
    case.check();
    assert_same_for_any_pool(|| binary_run(&case));
    let learner = BinaryLearner::new(BinaryStep::Raw, 0.3, Split::MeanConfidence, Bound::Fixed { eps: 2.0 });
    for semantics in [GradientSemantics::Detached, GradientSemantics::Through] {
        case.learner = Some(learner.clone().expect("in range").gradient(semantics));
        case.check();
        assert_same_for_any_pool(|| binary_run(&case));
    }
}

#[test]
fn isda_matrices() {
    let (c, d) = (40, 30);
    let features = uniform(12, 200 * d, -1.0..1.0);
    let labels: Vec<i64> = (0..200).map(|i| i % c as i64).collect();
    let weights = uniform(13, c * d, -1.0..1.0);
    assert_same_for_any_pool(|| {
        let mut isda = Isda::new(c, d).expect("a size");
        isda.update(Matrix::new(&features, 200, d).expect("N x D"), &labels, -100).expect("a valid batch");
        let matrix = isda.perturbation(Matrix::new(&weights, c, d).expect("C x D"), 0.5).expect("in range");
        (
            format!("{isda:?}"),
            match matrix {
                Perturbation::ClassMatrix(matrix) => matrix,
                other => panic!("{other:?} is no class matrix"),
            },
        )
    });
}
