//! A batch with a learner on the emulated device, and what has to come of it.

use crate::case::{Case, Format, Numbers, TINY};
use logit_perturb::cpu::{self, BinaryCrossEntropyBatch, BinaryCrossEntropyOutput, LearnedSign, Pass};
use logit_perturb::kernel::{DType, Limits};
use logit_perturb::{
    BinaryCrossEntropy, BinaryLearner, BinaryPerturbation, BinaryStep, Bound, Mask, Matrix, NegativeSplit, Reduction,
    Split,
};
use logit_perturb_emulator::{BinaryOutcome, LearnedBinarySign, Options};
use std::ops::Range;

/// Limits under which so many rows of a strip are kept.
pub fn keeping(rows: u32, dtype: DType) -> Limits {
    let columns = 32 / dtype.bytes() as u32;
    Limits { row_shared: 4 * 4 * columns * 8 + rows * 4 * columns, ..TINY }
}

/// Hard targets, a tenth of them unknown.
pub fn hard(dtype: DType, format: Format, classes: usize, rows: usize, seed: u64) -> Case {
    let mut case = Case::random(dtype, format, classes, rows, seed);
    case.targets.iter_mut().filter(|t| **t > 0.0).for_each(|t| *t = if *t < 0.55 { 0.0 } else { 1.0 });
    case
}

/// The reference's words on a batch.
pub fn reference(case: &Case) -> BinaryCrossEntropyOutput {
    let (n, c) = (case.rows(), case.classes);
    let bytes: Option<Vec<u8>> = case.mask.as_ref().map(|mask| mask.iter().map(|&known| known.into()).collect());
    let mut batch = BinaryCrossEntropyBatch::new(Matrix::new(&case.targets, n, c).unwrap());
    if let Some(data) = &bytes {
        batch = batch.mask(Mask::Bytes { data, stride: c });
    }
    if let Some(weights) = &case.weights {
        batch = batch.weights(Matrix::new(weights, n, c).unwrap());
    }
    cpu::binary_cross_entropy(&case.problem, Pass::Forward(Matrix::new(&case.logits, n, c).unwrap()), batch).unwrap()
}

pub fn learner(case: &Case) -> &BinaryLearner {
    case.problem.learner().expect("a learner")
}

/// The same problem with another perturbation and no learner.
fn with_perturbation(problem: &BinaryCrossEntropy, perturbation: BinaryPerturbation) -> BinaryCrossEntropy {
    let mut builder = BinaryCrossEntropy::builder()
        .perturbation(perturbation)
        .reduction(problem.reduction())
        .negative_scale(problem.negative_scale());
    if let Some(weights) = problem.pos_weight() {
        builder = builder.pos_weight(weights);
    }
    if let Some(focusing) = problem.focusing() {
        builder = builder.focusing(focusing);
    }
    builder.build().unwrap()
}

/// The batch with what was learned as a fixed perturbation.
pub fn with_learned(case: &Case, output: &BinaryCrossEntropyOutput) -> Case {
    let (learned, c) = (output.learned.as_ref().unwrap(), case.classes);
    let fixed = |class: usize| match case.problem.classes() {
        Some(_) => case.problem.perturbation().at(class),
        None => (0.0, 0.0, 0.0),
    };
    let perturbation = BinaryPerturbation::none()
        .offset((0..c).map(|k| fixed(k).0).collect::<Vec<_>>())
        .positive((0..c).map(|k| fixed(k).1 + learned.positive.delta[k]).collect::<Vec<_>>())
        .negative((0..c).map(|k| fixed(k).2 + learned.negative.delta[k]).collect::<Vec<_>>());
    Case { problem: with_perturbation(&case.problem, perturbation), ..case.clone() }
}

pub fn near(what: &str, at: usize, found: f64, expected: f64, tolerance: f64) {
    let same = found == expected || found.is_nan() && expected.is_nan();
    let near = found.is_finite() && expected.is_finite() && (found - expected).abs() <= tolerance;
    assert!(same || near, "{what}[{at}] is {found:e}, expected {expected:e} within {tolerance:e}");
}

fn by_confidence(bound: &Bound) -> bool {
    matches!(bound, Bound::Confidence { .. })
}

/// Whether rounding decides how many steps there are (SPEC 6).
pub fn is_open(case: &Case, output: &BinaryCrossEntropyOutput) -> bool {
    let (learner, learned) = (learner(case), output.learned.as_ref().unwrap());
    let signs = [(learner.positive().1, &learned.positive), (learner.negative().1, &learned.negative)];
    signs.into_iter().filter(|(bound, _)| by_confidence(bound)).any(|(_, sign)| {
        let quotients = sign.bound.iter().map(|eps| eps / learner.alpha());
        quotients.filter(|x| x.is_finite()).any(|x| (x - x.round()).abs() < 1e-3)
    })
}

pub fn compare_sign(what: &str, learner: &BinaryLearner, found: &LearnedBinarySign, expected: &LearnedSign) {
    let directions: Vec<i8> = found.directions.iter().map(|&direction| direction as i8).collect();
    assert_eq!(directions, expected.direction, "{what}, confidences {:?}, tau {}", expected.confidence, expected.tau);
    assert_eq!(found.steps, expected.steps, "{what}, bounds {:?}", expected.bound);
    near("tau", 0, found.tau, expected.tau, 4e-6 * expected.tau.abs() + 1e-7);
    for (k, &q) in expected.confidence.iter().enumerate() {
        near(&format!("{what} confidence"), k, found.confidences[k], q, 4e-6 * q.abs() + 1e-7);
        let eps = expected.bound[k];
        // A bound by confidence is as exact as the confidence.
        let tolerance = 1e-5 * if eps > 5.0 { eps / 5.0 } else { 1.0 };
        near(&format!("{what} delta"), k, found.delta[k].into(), expected.delta[k], tolerance);
        if learner.step() == BinaryStep::Raw && found.delta[k].is_finite() && eps.is_finite() {
            assert!(f64::from(found.delta[k].abs()) <= eps * (1.0 + 2e-6), "{what} delta[{k}] is beyond {eps}");
        }
    }
}

/// Compares all that a batch left. `false` where the batch leaves the number of steps open.
pub fn compare(case: &Case, outcome: &BinaryOutcome) -> bool {
    assert!(outcome.idle, "{}: the scratch is not as it was", case.describe());
    let (output, learner) = (reference(case), learner(case));
    if is_open(case, &output) {
        return false;
    }
    let (expected, found) = (output.learned.as_ref().unwrap(), outcome.learned.as_ref().expect("a learner"));
    compare_sign("positive", learner, &found.positive, &expected.positive);
    compare_sign("negative", learner, &found.negative, &expected.negative);
    let deltas = expected.positive.delta.iter().chain(&expected.negative.delta);
    if deltas.clone().all(|delta| delta.is_finite()) {
        with_learned(case, &output).compare_numbers(&Numbers::from(outcome));
    }
    true
}

/// Runs a case and compares all that it leaves.
pub fn check(case: &Case, seed: u64) -> bool {
    let record = std::env::var_os("EMULATOR_RECORDS").map(Into::into).filter(|_| is_recorded(case, seed));
    compare(case, &case.run_with(Options { seed, exp_seed: seed, record, ..Options::default() }))
}

/// A replay compares bits, and those of a NaN, as an empty group's confidence is, are the compiler's choice.
fn is_recorded(case: &Case, seed: u64) -> bool {
    let learned = reference(case).learned.expect("a learner");
    let mut confidences = learned.positive.confidence.iter().chain(&learned.negative.confidence);
    seed.is_multiple_of(4) && confidences.all(|q| q.is_finite())
}

/// A problem that learns and does nothing else.
pub fn learning(learner: BinaryLearner) -> BinaryCrossEntropy {
    BinaryCrossEntropy::builder().learner(learner).build().unwrap()
}

/// Both signs of class `k` pushed by `k % 3 - 1` and against it.
pub fn explicit(classes: usize) -> Split {
    Split::Explicit((0..classes).map(|k| (k % 3) as i8 - 1).collect())
}

pub fn raw(alpha: f64, eps: f64, split: Split) -> BinaryLearner {
    BinaryLearner::new(BinaryStep::Raw, alpha, split, Bound::Fixed { eps }).unwrap()
}

pub fn off(learner: BinaryLearner, eps: f64) -> BinaryLearner {
    learner.negatives(NegativeSplit::Off, Bound::Fixed { eps }).unwrap()
}

/// A batch, and the parts of it that two devices have; some classes and signs have entries in one alone, one in none.
pub fn shards(format: Format, c: usize, step: BinaryStep, split: Split, reduction: Reduction) -> (Case, [Case; 2]) {
    let (n, at) = (40, 15);
    let mut whole = hard(DType::F32, format, c, n, 9).masked(5);
    let known = whole.mask.as_mut().unwrap();
    for (i, k) in (0..n).flat_map(|i| (0..c).map(move |k| (i, k))) {
        let positive = whole.targets[i * c + k] == 1.0;
        known[i * c + k] &= match k {
            0 => i < at,
            1 => i >= at,
            2 => positive == (i < at),
            3 => positive,
            _ => true,
        };
    }
    let bound = match split {
        Split::Explicit(_) => Bound::Fixed { eps: 1.0 },
        _ => Bound::Confidence { eps: 0.3, delta_eps: 2.0 },
    };
    let learner = BinaryLearner::new(step, 0.13, split, bound).unwrap();
    whole.problem = BinaryCrossEntropy::builder().learner(learner).reduction(reduction).build().unwrap();
    let part = |rows: Range<usize>| {
        let entries = rows.start * c..rows.end * c;
        Case {
            logits: whole.logits[entries.clone()].to_vec(),
            targets: whole.targets[entries.clone()].to_vec(),
            mask: whole.mask.as_ref().map(|known| known[entries].to_vec()),
            data_parallel: true,
            ..whole.clone()
        }
    };
    let parts = [part(0..at), part(at..n)];
    (whole, parts)
}

/// How often each class and sign occurs in a batch, positives first.
pub fn occurrences(case: &Case) -> Vec<u64> {
    let c = case.classes;
    let count = |target: f32, k: usize| {
        (0..case.rows()).map(|i| i * c + k).filter(|&i| case.targets[i] == target && case.is_known(i)).count() as u64
    };
    [1.0, 0.0].into_iter().flat_map(|target| (0..c).map(move |k| (target, k))).map(|(t, k)| count(t, k)).collect()
}

/// Compares what a device left that has a part of a batch: confidences, directions and bounds are those of the whole, steps follow its own rows.
pub fn compare_shard(whole: &Case, part: &Case, found: [&LearnedBinarySign; 2], numbers: &Numbers) {
    let output = reference(whole);
    assert!(!is_open(whole, &output), "another batch is needed");
    let of_whole = output.learned.unwrap();
    let plan = |sign: &LearnedSign| {
        let bounds = sign.bound.iter().map(|eps| if eps.is_finite() { *eps } else { 0.0 }).collect();
        (Split::Explicit(sign.direction.clone()), Bound::Explicit(bounds))
    };
    let (learner, [positive, negative]) = (learner(whole), [&of_whole.positive, &of_whole.negative].map(plan));
    let steps = BinaryLearner::new(learner.step(), learner.alpha(), positive.0, positive.1).unwrap();
    let steps = steps.negatives(NegativeSplit::Own(negative.0), negative.1).unwrap();
    let problem = BinaryCrossEntropy::builder().learner(steps).reduction(part.problem.reduction()).build().unwrap();
    let part = Case { problem, data_parallel: false, ..part.clone() };
    let output = reference(&part);
    let of_part = output.learned.as_ref().unwrap();
    let signs =
        [("positive", &of_whole.positive, &of_part.positive), ("negative", &of_whole.negative, &of_part.negative)];
    for ((name, of_whole, of_part), found) in signs.into_iter().zip(found) {
        let mut expected = of_whole.clone();
        (expected.delta, expected.steps) = (of_part.delta.clone(), of_part.steps.clone());
        compare_sign(name, learner, found, &expected);
    }
    with_learned(&part, &output).compare_numbers(numbers);
}
