//! Every option of the problem and of the batch against the f64 reference, in every element type and a row length of each regime.

use crate::batch::{Batch, Beside, Given, rounded, uniform, wide};
use crate::device::{Device, Tested};
use libtest_mimic::Failed;
use logit_perturb::half::{bf16, f16};
use logit_perturb::loss::CrossEntropyBuilder;
use logit_perturb::{CrossEntropy, Perturbation, Reduction};

/// A tile, a warp, a block and shared memory.
const LENGTHS: [usize; 4] = [10, 100, 700, 20_003];
/// A class matrix of more has too many numbers.
const MATRIX_LENGTHS: [usize; 3] = [10, 100, 700];

fn in_every_type(
    f32s: fn() -> Result<(), Failed>,
    f16s: fn() -> Result<(), Failed>,
    bf16s: fn() -> Result<(), Failed>,
) -> Result<(), Failed> {
    let named = |name: &str, test: fn() -> Result<(), Failed>| {
        test().map_err(|error| Failed::from(format!("{name}: {}", error.message().unwrap_or_default())))
    };
    named(f32::NAME, f32s)?;
    named(f16::NAME, f16s)?;
    named(bf16::NAME, bf16s)
}

/// A batch with an ignored row.
fn batch<T: Tested>(classes: usize, seed: u64, problem: CrossEntropyBuilder) -> Result<Batch, Failed> {
    let mut batch = Batch { problem: problem.build()?, ..Batch::random_in::<T>(7, classes, seed) };
    batch.labels[3] = -100;
    Ok(batch)
}

fn check<T: Tested>(batch: &Batch) -> Result<(), Failed> {
    batch.check::<T>(Device::get()).map(|_| ())
}

/// Real numbers that f32 holds, as everything that the reference shares with the device.
fn reals(seed: u64, count: usize, range: std::ops::Range<f32>) -> Vec<f64> {
    wide(&uniform(seed, count, range))
}

pub fn forms() -> Result<(), Failed> {
    in_every_type(forms_in::<f32>, forms_in::<f16>, forms_in::<bf16>)
}

/// From the problem, from the device in its place, and one a sample.
fn forms_in<T: Tested>() -> Result<(), Failed> {
    for (seed, c) in (0..).step_by(10).zip(LENGTHS) {
        let with = |form| batch::<T>(c, seed, CrossEntropy::builder().scale(1.5).perturbation(form));
        let vector = uniform(seed + 1, c, -2.0..2.0);
        let (shared, margin) = (Perturbation::Shared(reals(seed + 2, c, -2.0..2.0)), reals(seed + 3, c, -1.0..2.0));
        for form in [shared, Perturbation::TargetMargin(margin)] {
            let batch = with(form)?;
            check::<T>(&batch)?;
            check::<T>(&Batch { vector: Some(vector.clone()), ..batch })?;
        }
        let batch = with(Perturbation::PerSample)?;
        for wide in [true, false] {
            let matrix = Some(Beside::random::<T>(seed + 4, batch.rows() * c, true, wide));
            check::<T>(&Batch { matrix, ..batch.clone() })?;
        }
    }
    for (seed, c) in (0..).step_by(10).zip(MATRIX_LENGTHS) {
        let of_problem = Perturbation::ClassMatrix(reals(seed, c * c, -1.0..1.0));
        let batch = batch::<T>(c, seed, CrossEntropy::builder().perturbation(of_problem))?;
        check::<T>(&batch)?;
        for wide in [true, false] {
            let matrix = Some(Beside::random::<T>(seed + 5, c * c, true, wide));
            check::<T>(&Batch { matrix, ..batch.clone() })?;
        }
    }
    Ok(())
}

pub fn targets_and_weights() -> Result<(), Failed> {
    in_every_type(targets_and_weights_in::<f32>, targets_and_weights_in::<f16>, targets_and_weights_in::<bf16>)
}

/// Scales, smoothing, weights and z-loss: each alone, all together, and beside soft targets.
fn targets_and_weights_in<T: Tested>() -> Result<(), Failed> {
    for (seed, c) in (0..).step_by(10).zip(LENGTHS) {
        let builder = CrossEntropy::builder;
        let (scales, weights) = (reals(seed + 1, c, 0.5..2.0), reals(seed + 2, c, 0.0..2.0));
        let all =
            builder().class_scale(scales.clone()).label_smoothing(0.1).z_loss(1e-3).class_weights(weights.clone());
        let shared = Perturbation::Shared(reals(seed + 3, c, -2.0..2.0));
        for reduction in [Reduction::Mean, Reduction::None] {
            for problem in [
                builder().class_scale(scales.clone()),
                builder().label_smoothing(0.1),
                builder().z_loss(1e-2),
                builder().class_weights(weights.clone()),
                all.clone().perturbation(shared.clone()),
            ] {
                check::<T>(&batch::<T>(c, seed, problem.reduction(reduction))?)?;
            }
            let mut weighted = batch::<T>(c, seed, all.clone().reduction(reduction))?;
            let mut omega = uniform(seed + 4, weighted.rows(), 0.0..2.0);
            omega[1] = 0.0;
            weighted.sample_weights = Some(omega.clone());
            check::<T>(&weighted)?;
            // In place of the problem's.
            weighted.class_weights = Some(uniform(seed + 5, c, 0.0..3.0));
            check::<T>(&weighted)?;

            for wide in [true, false] {
                let problem = builder().reduction(reduction).class_weights(weights.clone()).z_loss(1e-3);
                let mut soft = batch::<T>(c, seed, problem.perturbation(shared.clone()))?;
                soft.soft_targets = Some(Beside::random::<T>(seed + 6, soft.rows() * c, false, wide));
                if let Some(targets) = &mut soft.soft_targets {
                    // Rows that sum to about 1, and one that is no target at all.
                    let of_row: Vec<f32> = targets.data.iter().map(|x| 2.0 * x / c as f32).collect();
                    targets.data = rounded::<T>(&of_row);
                    targets.data[c..2 * c].fill(0.0);
                }
                check::<T>(&soft)?;
                check::<T>(&Batch { sample_weights: Some(omega.clone()), ..soft })?;
            }
        }
    }
    Ok(())
}

/// Where the divisor and the upstream gradient come from.
pub fn divisors_and_upstreams() -> Result<(), Failed> {
    for (seed, c) in (0..).step_by(10).zip(LENGTHS) {
        let with = |reduction| batch::<f32>(c, seed, CrossEntropy::builder().reduction(reduction).z_loss(1e-2));
        let divided = with(Reduction::Divisor(3.0))?;
        for divisor in [None, Some(Given::Host(7.5)), Some(Given::Device(0.25))] {
            for upstream in [Given::Host(-2.5), Given::Device(3.5), Given::Device(0.0)] {
                check::<f32>(&Batch { divisor: divisor.clone(), upstream, ..divided.clone() })?;
            }
        }
        let rows = with(Reduction::None)?;
        let each = Given::Rows(uniform(seed + 1, rows.rows(), -3.0..3.0));
        for upstream in [each, Given::Device(-1.5), Given::Host(4.0)] {
            check::<f32>(&Batch { upstream, ..rows.clone() })?;
        }
        check::<f32>(&Batch { upstream: Given::Device(1.5), ..with(Reduction::Mean)? })?;
    }
    Ok(())
}

/// Everything that one batch can bring.
pub fn everything_at_once() -> Result<(), Failed> {
    in_every_type(everything_in::<f32>, everything_in::<f16>, everything_in::<bf16>)
}

fn everything_in<T: Tested>() -> Result<(), Failed> {
    for (seed, c) in (0..).step_by(10).zip(LENGTHS) {
        let problem = CrossEntropy::builder()
            .reduction(Reduction::Divisor(1.0))
            .perturbation(Perturbation::PerSample)
            .class_scale(reals(seed, c, 0.5..2.0))
            .class_weights(vec![1.0; c])
            .label_smoothing(0.2)
            .z_loss(1e-3);
        let mut batch = batch::<T>(c, seed, problem)?;
        let n = batch.rows();
        batch.matrix = Some(Beside::random::<T>(seed + 1, n * c, true, false));
        batch.sample_weights = Some(uniform(seed + 2, n, 0.0..2.0));
        batch.class_weights = Some(uniform(seed + 3, c, 0.0..2.0));
        batch.divisor = Some(Given::Device(11.0));
        batch.upstream = Given::Device(-2.0);
        // With all outputs there are, so that no enqueue uses more buffers.
        let outputs = crate::batch::row_outputs().statistics().saved();
        let mut op = Device::get().operation::<T>(&batch.problem, batch.setup().outputs(outputs))?;
        let at = logit_perturb_emulator::Rows { stride: c + 1, offset: 1 };
        let outcome = batch.run(Device::get(), &mut op, at, logit_perturb_emulator::Gradient::Into(at))?;
        op.check()?;
        batch.compare(&outcome)?;
    }
    Ok(())
}
