//! Runs a single-label combination on a backend and compares what it leaves.

use crate::choice::{Place, rows_at};
use crate::numbers::{Comparison, Typed, wide};
use crate::softmax::{Choices, Expected, Input, Target, expected};
use crate::tiny::reaches;
use libtest_mimic::Failed;
use logit_perturb::cpu::{self, CrossEntropyBatch, Pass};
use logit_perturb::kernel::Limits;
use logit_perturb::{Labels, Matrix, MatrixMut, Perturbation, Reduction};
use logit_perturb_emulator::{Batch, Beside, Emulator, Given, Operation, Options, Outcome};

/// Labels in the three types that they come in.
struct LabelTypes {
    i32s: Vec<i32>,
    u32s: Vec<u32>,
}

impl LabelTypes {
    fn new(labels: &[i64]) -> Self {
        let of = |&label: &i64| label as i32;
        Self { i32s: labels.iter().map(of).collect(), u32s: labels.iter().map(|&label| label as u32).collect() }
    }

    fn of<'a>(&'a self, target: Target, labels: &'a [i64]) -> Labels<'a> {
        match target {
            Target::I32 => Labels::I32(&self.i32s),
            Target::U32 => Labels::U32(&self.u32s),
            _ => Labels::I64(labels),
        }
    }
}

/// The label of ignored rows, which u32 cannot hold as it is.
fn ignore_index(target: Target) -> i64 {
    if target == Target::U32 { i64::from(-100i32 as u32) } else { -100 }
}

pub fn emulated(choices: Choices, seed: u64) -> Result<(), Failed> {
    let (c, limits) = reaches()[choices.reach];
    let input = Input::new(&choices, c, seed);
    let labels = LabelTypes::new(&input.labels);
    let rows = rows_at(choices.dtype, choices.layout, c);
    let beside = |data, wide| Beside { data, wide, stride: c + 2 };
    let batch = Batch {
        dtype: choices.dtype,
        soft_targets: input.soft.as_deref().map(|soft| beside(soft, choices.target == Target::SoftWide)),
        sample_weights: input.sample_weights.as_deref(),
        perturbation: input.is_per_sample(&choices).then(|| beside(&input.delta, choices.is_wide())),
        wide_matrix: choices.is_wide(),
        rows,
        gradient: choices.place.gradient(rows, c),
        split: choices.split,
        statistics: choices.statistics,
        upstream: choices.upstream.given(&input.upstream),
        divisor: (choices.reduction == 4).then(|| Given::Device(input.divisor.expect("set"))),
        limits: Limits { labels_in_block: if choices.pre_pass { 4 } else { 40 }, ..limits },
        ..Batch::new(&input.logits, c, labels.of(choices.target, &input.labels), limits)
    };
    let reduction = input.reduction(&choices);
    let mut problem = input.problem(&choices, reduction).to_builder();
    if !choices.is_soft() {
        problem = problem.ignore_index(ignore_index(choices.target));
    }
    let expected = expected(&input, &choices);
    let record = std::env::var_os("EMULATOR_RECORDS")
        .map(Into::into)
        .filter(|_| choices.layout < 3 && is_recorded(&expected, c, seed));
    let mut emulator = Emulator::new(Options { seed, exp_seed: seed, record, ..Options::default() });
    let operation = Operation::new(&mut emulator, &problem.build()?, &batch);
    // A second time, as a captured graph would: what is gathered has to be back at 0.
    let times = if choices.place == Place::Same { 1 } else { 2 };
    for _ in 0..times {
        let outcome = operation.run(&mut emulator).map_err(|faults| faults.to_string())?;
        compare(&choices, &input, &expected, &outcome)?;
    }
    Ok(())
}

/// A replay compares bits, and those of a NaN are the compiler's choice; long rows take long, and the thread sanitizer leaves no room for rows far
/// apart.
fn is_recorded(expected: &Expected, classes: usize, seed: u64) -> bool {
    let numbers = || expected.loss_rows.iter().chain(&expected.gradient).chain([&expected.loss]);
    seed.is_multiple_of(if classes <= 200 { 2 } else { 4 }) && !numbers().any(|x| x.is_nan())
}

fn compare(choices: &Choices, input: &Input, expected: &Expected, outcome: &Outcome) -> Result<(), Failed> {
    let mut comparison = Comparison::new();
    let of_batch = expected.stretch.iter().copied().fold(1.0, f64::max);
    comparison.loss("loss", 0, outcome.loss, expected.loss, of_batch);
    for i in 0..input.rows {
        comparison.loss("loss_rows", i, outcome.loss_rows[i], expected.loss_rows[i], expected.stretch[i]);
        comparison.loss("lse", i, outcome.lse[i], expected.lse[i], expected.stretch[i]);
    }
    let predictions: Vec<i64> = outcome.predictions.iter().map(|&prediction| prediction.into()).collect();
    comparison.equal("predictions", &predictions, &expected.predictions);
    for (i, &found) in outcome.gradient.iter().enumerate() {
        let far = expected.stretch[i / input.classes] > 1.0;
        comparison.gradient(choices.dtype, i, found, expected.gradient[i], expected.unit[i], far);
    }
    comparison.equal(
        "gradient's length",
        &[outcome.gradient.len()],
        &[if choices.place == Place::Forward { 0 } else { input.rows * input.classes }],
    );
    if let Some(statistics) = &outcome.statistics {
        comparison.equal("count", &statistics.count, &expected.count);
        comparison.equal("correct", &statistics.correct, &expected.correct);
        let sums = [expected.count.iter().sum::<u64>(), expected.correct.iter().sum()];
        comparison.equal("rows", &[statistics.valid_rows, statistics.correct_rows], &sums);
        for class in 0..input.classes {
            let tolerance = |x: f64| (4e-6 * x.abs() + 1e-7 * expected.count[class] as f64) * of_batch;
            for (what, found, expected) in [
                ("class loss", statistics.loss[class], expected.class_loss[class]),
                ("confidence", statistics.confidence[class], expected.confidence[class]),
            ] {
                comparison.near(what, class, found, expected, tolerance(expected));
            }
        }
    }
    comparison.finish()
}

pub fn reference(choices: Choices, seed: u64) -> Result<(), Failed> {
    let (c, _) = reaches()[choices.reach];
    let input = Input::new(&choices, c, seed);
    let n = input.rows;
    let labels = LabelTypes::new(&input.labels);
    let expected = expected(&input, &choices);
    let reduction = match input.divisor {
        Some(divisor) => Reduction::Divisor(divisor.into()),
        None => input.reduction(&choices),
    };
    let mut problem = input.problem(&choices, reduction).to_builder();
    if !choices.is_soft() {
        problem = problem.ignore_index(ignore_index(choices.target));
    }
    let (soft, upstream) = (input.soft.as_deref().map(wide), wide(&input.upstream));
    let mut batch = match &soft {
        Some(soft) => CrossEntropyBatch::soft_targets(Matrix::new(soft, n, c)?),
        None => CrossEntropyBatch::labels(labels.of(choices.target, &input.labels)),
    };
    if let Some(weights) = &input.sample_weights {
        batch = batch.sample_weights(weights);
    }
    if input.is_per_sample(&choices) {
        batch = batch.perturbation(Matrix::new(&input.delta, n, c)?);
    }
    batch = batch.upstream(match upstream.as_slice() {
        [one] => logit_perturb::Upstream::Scalar(*one),
        rows => logit_perturb::Upstream::Rows(rows),
    });
    let logits = Typed::new(choices.dtype, &input.logits);
    let mut gradient = vec![f64::INFINITY; n * c];
    let pass = Pass::Into { logits: logits.matrix(n, c)?, gradient: MatrixMut::new(&mut gradient, n, c)? };
    let output = cpu::cross_entropy(&problem.build()?, pass, batch)?;
    let mut comparison = Comparison::new();
    let tolerance = |x: f64, stretch: f64| 1e-9 * x.abs() + 1e-12 * stretch;
    let of_batch = expected.stretch.iter().copied().fold(1.0, f64::max);
    comparison.near("loss", 0, output.loss, expected.loss, tolerance(expected.loss, of_batch));
    for i in 0..n {
        let (row, lse) = (expected.loss_rows[i], expected.lse[i]);
        comparison.near("loss_rows", i, output.loss_rows[i], row, tolerance(row, expected.stretch[i]));
        comparison.near("lse", i, output.lse[i], lse, tolerance(lse, expected.stretch[i]));
    }
    comparison.equal("predictions", &output.predictions, &expected.predictions);
    for (i, &found) in gradient.iter().enumerate() {
        comparison.near("gradient", i, found, expected.gradient[i], tolerance(expected.unit[i], 0.0));
    }
    comparison.finish()
}

impl Input {
    fn is_per_sample(&self, choices: &Choices) -> bool {
        let problem = self.problem(choices, Reduction::Sum);
        *problem.perturbation() == Perturbation::PerSample
    }
}
