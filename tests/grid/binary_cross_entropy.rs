//! Runs a multi-label combination on a backend and compares what it leaves.

use crate::choice::{DIVISOR, Place, rows_at};
use crate::numbers::{Comparison, Typed, wide};
use crate::sigmoid::{Choices, Expected, Format, Input, REACHES, Weights, expected};
use crate::tiny::TINY;
use libtest_mimic::Failed;
use logit_perturb::cpu::{self, BinaryCrossEntropyBatch, Pass};
use logit_perturb::kernel::binary::{BinaryPlan, TargetErrors};
use logit_perturb::kernel::{DType, Limits};
use logit_perturb::{BinaryTargets, Mask, MatrixMut, Reduction};
use logit_perturb_emulator::{
    Beside, BinaryBatch, BinaryOperation, BinaryOutcome, DeviceTargets, Emulator, Given, Options, PackedMask, Rows,
};

/// Eight tiles at most, so that warps and blocks take several, of several rows.
const FEW: Limits = Limits { chunks: 1, ..TINY };
/// The same with blocks of one warp: rows that would belong to a block stay with it.
const NARROW: Limits = Limits { block_threads: 32, ..FEW };
/// More tiles than a block has threads.
const MANY: Limits = Limits { chunks: 20, ..NARROW };

/// The limits of every row length, and the threads that then share a row of f32.
const TEAMS: [(u32, Limits); REACHES.len()] =
    [(1, FEW), (1, MANY), (2, FEW), (4, NARROW), (8, FEW), (16, FEW), (32, FEW), (64, FEW), (128, FEW), (32, NARROW)];

fn limits(reach: usize) -> Limits {
    let (team, limits) = TEAMS[reach];
    let plan = BinaryPlan::new(REACHES[reach].1, DType::F32, false, limits);
    assert_eq!(plan.team, team, "{plan}");
    limits
}

/// The targets and the mask in the formats that need not be `[N, C]`.
struct Formats {
    bytes: Vec<i8>,
    unsigned: Vec<u8>,
    bits: Vec<u32>,
    offsets: Vec<i32>,
    indices: Vec<i32>,
    mask: Option<Vec<u32>>,
}

impl Formats {
    fn new(input: &Input) -> Self {
        let rows = || input.targets.chunks(input.classes);
        let (mut offsets, mut indices) = (vec![0], Vec::new());
        for row in rows() {
            let positive = || row.iter().enumerate().filter(|(_, t)| **t == 1.0).map(|(class, _)| class as i32);
            // Out of order, some of them twice.
            indices.extend(positive().rev().chain(positive().take(3)));
            offsets.push(indices.len() as i32);
        }
        Self {
            bytes: input.targets.iter().map(|&t| t as i8).collect(),
            unsigned: input.targets.iter().map(|&t| t as u8).collect(),
            bits: rows().flat_map(|row| packed(&row.iter().map(|&t| t == 1.0).collect::<Vec<_>>())).collect(),
            offsets,
            indices,
            mask: input.mask.as_ref().map(|mask| mask.chunks(input.classes).flat_map(packed).collect()),
        }
    }

    fn on_device<'a>(&'a self, input: &'a Input, choices: &Choices) -> DeviceTargets<'a> {
        // Byte and word offsets that are no multiple of what is loaded at once.
        let at =
            |columns: usize| Rows { offset: choices.layout % 3, ..rows_at(choices.dtype, choices.layout, columns) };
        let (row, words) = (at(input.classes), at(input.classes.div_ceil(32)));
        let floats = |wide| DeviceTargets::Floats(Beside { data: &input.targets, wide, stride: row.stride });
        match choices.format {
            Format::F32 => floats(true),
            Format::Element => floats(false),
            Format::I8 => DeviceTargets::I8(&self.bytes, row),
            Format::U8 => DeviceTargets::U8(&self.unsigned, row),
            Format::Bits => DeviceTargets::Bits(&self.bits, words),
            Format::Csr => DeviceTargets::Csr { offsets: &self.offsets, indices: &self.indices },
        }
    }
}

/// A row's bits; what lies past C is set.
fn packed(row: &[bool]) -> Vec<u32> {
    let word = |bits: &[bool]| (0..32).fold(0, |word, k| word | u32::from(bits.get(k) != Some(&false)) << k);
    row.chunks(32).map(word).collect()
}

fn reduction(choices: &Choices) -> Reduction {
    match choices.reduction {
        0 => Reduction::Mean,
        1 => Reduction::Sum,
        2 => Reduction::None,
        3 => Reduction::BatchMean,
        4 => Reduction::Divisor(DIVISOR.into()),
        // What the device holds takes its place.
        _ => Reduction::Divisor(1.0),
    }
}

pub fn emulated(choices: Choices, seed: u64) -> Result<(), Failed> {
    let input = Input::new(&choices, seed);
    let (c, formats) = (input.classes, Formats::new(&input));
    let rows = rows_at(choices.dtype, choices.layout, c);
    let batch = BinaryBatch {
        dtype: choices.dtype,
        logits: &input.logits,
        classes: c,
        targets: formats.on_device(&input, &choices),
        mask: formats.mask.as_deref().map(|words| PackedMask {
            words,
            stride: if choices.layout == 3 { rows.stride } else { c.div_ceil(32) + choices.layout },
        }),
        weights: input.weights.as_deref().map(|data| Beside {
            data,
            wide: choices.weights == Weights::Wide,
            stride: if choices.layout == 3 { rows.stride } else { c + 2 },
        }),
        rows,
        gradient: choices.place.gradient(rows, c),
        statistics: choices.statistics,
        upstream: choices.upstream.given(&input.upstream),
        divisor: (choices.reduction == 5).then_some(Given::Device(DIVISOR)),
        data_parallel: false,
        limits: limits(choices.reach),
    };
    let expected = expected(&input, &choices);
    let record = std::env::var_os("EMULATOR_RECORDS")
        .map(Into::into)
        .filter(|_| choices.layout < 3 && is_recorded(&expected, c, seed));
    let mut emulator = Emulator::new(Options { seed, exp_seed: seed, record, ..Options::default() });
    let operation = BinaryOperation::new(&mut emulator, &input.problem(reduction(&choices)), &batch);
    // A second time, as a captured graph would: what is gathered has to be back at 0.
    let times = if choices.place == Place::Same { 1 } else { 2 };
    for _ in 0..times {
        let outcome = operation.run(&mut emulator).map_err(|faults| faults.to_string())?;
        compare(&choices, &input, &expected, &outcome)?;
    }
    Ok(())
}

/// A replay compares bits, and those of a NaN are the compiler's choice; long rows take long.
fn is_recorded(expected: &Expected, classes: usize, seed: u64) -> bool {
    let numbers = || expected.loss_rows.iter().chain(&expected.gradient).chain(&expected.class_loss);
    seed.is_multiple_of(if classes <= 200 { 2 } else { 4 }) && !numbers().chain([&expected.loss]).any(|x| x.is_nan())
}

fn compare(choices: &Choices, input: &Input, expected: &Expected, outcome: &BinaryOutcome) -> Result<(), Failed> {
    let mut comparison = Comparison::new();
    let of_batch = expected.stretch.iter().copied().fold(1.0, f64::max);
    comparison.loss("loss", 0, outcome.loss, expected.loss, of_batch);
    for i in 0..input.rows {
        comparison.loss("loss_rows", i, outcome.loss_rows[i], expected.loss_rows[i], expected.stretch[i]);
    }
    for (i, &found) in outcome.gradient.iter().enumerate() {
        let far = expected.stretch[i / input.classes] > 1.0;
        comparison.gradient(choices.dtype, i, found, expected.gradient[i], expected.unit[i], far);
    }
    comparison.equal(
        "gradient's length",
        &[outcome.gradient.len()],
        &[if choices.place == Place::Forward { 0 } else { input.rows * input.classes }],
    );
    comparison.equal("errors", &[outcome.errors], &[TargetErrors::default()]);
    comparison.equal("idle", &[outcome.idle], &[true]);
    comparison.equal("statistics", &[outcome.statistics.is_some()], &[choices.statistics]);
    if let Some(statistics) = &outcome.statistics {
        comparison.equal("count", &statistics.count, &expected.count);
        for class in 0..input.classes {
            for (what, found, expected, stretch) in [
                ("positives", statistics.positives[class], expected.positives[class], 1.0),
                ("class loss", statistics.loss[class], expected.class_loss[class], of_batch),
            ] {
                comparison.near(what, class, found, expected, (4e-6 * expected.abs() + 1e-7) * stretch);
            }
        }
    }
    comparison.finish()
}

pub fn reference(choices: Choices, seed: u64) -> Result<(), Failed> {
    let input = Input::new(&choices, seed);
    let (n, c, formats) = (input.rows, input.classes, Formats::new(&input));
    let expected = expected(&input, &choices);
    let words = c.div_ceil(32);
    let (logits, upstream) = (Typed::new(choices.dtype, &input.logits), wide(&input.upstream));
    let in_type = |wide: bool| if wide { DType::F32 } else { choices.dtype };
    let floats = Typed::new(in_type(choices.format == Format::F32), &input.targets);
    let weights = input.weights.as_ref().map(|data| Typed::new(in_type(choices.weights == Weights::Wide), data));
    let mut batch = BinaryCrossEntropyBatch::new(match choices.format {
        Format::F32 | Format::Element => BinaryTargets::Dense(floats.matrix(n, c)?),
        Format::I8 => BinaryTargets::I8 { data: &formats.bytes, stride: c },
        Format::U8 => BinaryTargets::U8 { data: &formats.unsigned, stride: c },
        Format::Bits => BinaryTargets::Bits { words: &formats.bits, stride: words },
        Format::Csr => BinaryTargets::Csr { offsets: &formats.offsets, indices: &formats.indices },
    });
    if let Some(mask) = &formats.mask {
        batch = batch.mask(Mask::Bits { words: mask, stride: words });
    }
    if let Some(weights) = &weights {
        batch = batch.weights(weights.matrix(n, c)?);
    }
    batch = batch.upstream(match upstream.as_slice() {
        [one] => logit_perturb::Upstream::Scalar(*one),
        rows => logit_perturb::Upstream::Rows(rows),
    });
    let mut gradient = vec![f64::INFINITY; n * c];
    let pass = Pass::Into { logits: logits.matrix(n, c)?, gradient: MatrixMut::new(&mut gradient, n, c)? };
    let reduction = input.divisor.map_or_else(|| reduction(&choices), |divisor| Reduction::Divisor(divisor.into()));
    let output = cpu::binary_cross_entropy(&input.problem(reduction), pass, batch)?;
    let mut comparison = Comparison::new();
    let tolerance = |x: f64, stretch: f64| 1e-9 * x.abs() + 1e-12 * stretch;
    let of_batch = expected.stretch.iter().copied().fold(1.0, f64::max);
    comparison.near("loss", 0, output.loss, expected.loss, tolerance(expected.loss, of_batch));
    for (i, &row) in expected.loss_rows.iter().enumerate() {
        comparison.near("loss_rows", i, output.loss_rows[i], row, tolerance(row, expected.stretch[i]));
    }
    for (i, &found) in gradient.iter().enumerate() {
        comparison.near("gradient", i, found, expected.gradient[i], tolerance(expected.unit[i], 0.0));
    }
    let count: Vec<u64> = output.per_class.count.iter().map(|&count| count as u64).collect();
    comparison.equal("count", &count, &expected.count);
    comparison.equal("unmasked", &[output.unmasked as u64], &[count.iter().sum()]);
    for class in 0..c {
        for (what, found, expected) in [
            ("positives", output.per_class.positives[class], expected.positives[class]),
            ("class loss", output.per_class.loss[class], expected.class_loss[class]),
        ] {
            comparison.near(what, class, found, expected, tolerance(expected, of_batch));
        }
    }
    comparison.finish()
}
