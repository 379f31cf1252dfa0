//! What a batch leaves beside loss and gradient: predictions, class statistics, and what a backward pass of its own needs.

use crate::batch::{Batch, Beside, Given, OnDevice, Outcome, dense, row_outputs, uniform};
use crate::corners::LABELS_IN_BLOCK;
use crate::device::{Device, Placed, Tested};
use libtest_mimic::Failed;
use logit_perturb::cuda::{CrossEntropyOp, DevicePass, Outputs};
use logit_perturb::half::{bf16, f16};
use logit_perturb::{CrossEntropy, Error, Perturbation, Reduction};
use logit_perturb_emulator::{Gradient, Rows};

/// A length of each regime.
const LENGTHS: [usize; 5] = [10, 100, 700, 20_003, 40_000];

/// The lowest of equal logits, whatever the perturbation; none where ignored, NaN or all -inf.
pub fn predictions() -> Result<(), Failed> {
    predictions_in::<f32>()?;
    predictions_in::<f16>()?;
    predictions_in::<bf16>()
}

fn predictions_in<T: Tested>() -> Result<(), Failed> {
    let device = Device::get();
    for (seed, c) in (0..).zip(LENGTHS) {
        let delta = uniform(seed, c, -9.0..9.0).iter().map(|&x| x.into()).collect();
        let problem = CrossEntropy::builder().perturbation(Perturbation::Shared(delta)).build()?;
        let mut batch = Batch { problem, ..Batch::random_in::<T>(8, c, seed) };
        let (first, last) = (c / 3, c - 1);
        let mut row = |i: usize, values: &[(usize, f32)]| {
            values.iter().for_each(|&(at, value)| batch.logits[i * c + at] = value);
        };
        row(0, &[(last, 20.0), (first, 20.0)]);
        row(1, &[(0, -0.0), (first, 20.0), (last, 20.0)]);
        row(2, &[(last, f32::NAN)]);
        row(3, &[(first, f32::INFINITY), (last, f32::INFINITY)]);
        batch.logits[4 * c..5 * c].fill(f32::NEG_INFINITY);
        batch.logits[5 * c..6 * c].fill(f32::NEG_INFINITY);
        batch.logits[6 * c - 1] = -20.0;
        // Zeros of either sign are equal.
        batch.logits[6 * c..7 * c].fill(0.0);
        batch.logits[6 * c] = -0.0;
        batch.labels[7] = -100;
        let outcome = batch.check::<T>(device)?;
        let expected = [first as i32, first as i32, -1, first as i32, -1, last as i32, 0, -1];
        if outcome.predictions[..8] != expected {
            return Err(
                format!("{}, {c} classes: {:?}, expected {expected:?}", T::NAME, &outcome.predictions[..8]).into()
            );
        }
    }
    Ok(())
}

/// Twice in a row, with other labels the second time: the sums start from 0 again. And the same bits over and over.
pub fn class_statistics() -> Result<(), Failed> {
    class_statistics_in::<f32>()?;
    class_statistics_in::<f16>()?;
    class_statistics_in::<bf16>()
}

fn class_statistics_in<T: Tested>() -> Result<(), Failed> {
    let device = Device::get();
    for (seed, (rows, c)) in (0..).zip([(500, 10), (3000, 3), (300, 100), (40, 700), (20, 20_003), (9, 40_000)]) {
        let mut batch = Batch::random_in::<T>(rows, c, seed);
        // Few classes, so that some are met often and most never; some right predictions and some bad labels.
        for (i, label) in batch.labels.iter_mut().enumerate() {
            *label = (*label % 5).min(c as i64 - 1);
            if i % 3 == 0 {
                batch.logits[i * c + *label as usize] = 9.0;
            }
            if i % 7 == 3 {
                *label = -100;
            }
        }
        batch.problem = CrossEntropy::builder().z_loss(1e-3).build()?;
        let setup = batch.setup().outputs(row_outputs().statistics());
        let mut op = device.operation::<T>(&batch.problem, setup)?;
        let mut first = None;
        for turn in 0..6 {
            let mut batch = batch.clone();
            if turn == 2 {
                batch.labels.iter_mut().filter(|label| **label >= 0).for_each(|label| *label = 0);
            }
            let outcome = batch.run(device, &mut op, dense(c), Gradient::InPlace)?;
            batch.compare(&outcome).map_err(|error| {
                format!("{}, {c} classes, turn {turn}: {}", T::NAME, error.message().unwrap_or_default())
            })?;
            if outcome.statistics.is_none() {
                return Err("the class statistics are not there".into());
            }
            if turn == 2 {
                continue;
            }
            match &first {
                None => first = Some(outcome.statistics),
                Some(first) if *first == outcome.statistics => {}
                Some(_) => return Err(format!("{c} classes: other sums of the same batch").into()),
            }
        }
        op.check()?;
    }
    Ok(())
}

/// Loss first, then the gradient from what it saved, with an upstream gradient that is known only then.
fn split<T: Tested>(batch: &Batch, at: Rows, place: Gradient, outputs: Outputs) -> Result<Outcome, Failed> {
    let device = Device::get();
    let (stream, shape) = (&device.stream, (batch.rows(), batch.classes));
    let mut op = device.operation::<T>(&batch.problem, batch.setup().outputs(outputs.saved()))?;
    let early = Batch { upstream: Given::Host(77.0), ..batch.clone() };
    // What the batch before saved is gone.
    let other = Batch { labels: batch.labels.iter().map(|_| 0).collect(), ..early.clone() };
    other.run(device, &mut op, at, Gradient::Into(at))?;
    let loss = early.run(device, &mut op, at, Gradient::None)?;
    let beside = OnDevice::<T>::new(stream, batch)?;
    let mut logits = Placed::<T>::new(stream, Some(&batch.logits), shape, at)?;
    let gradient = match place {
        Gradient::InPlace => {
            op.enqueue_backward(DevicePass::InPlace(logits.view_mut()?), beside.batch()?)?;
            logits.download(stream)?
        }
        _ => {
            let mut gradient = Placed::<T>::new(stream, None, shape, at)?;
            let pass = DevicePass::Into { logits: logits.view()?, gradient: gradient.view_mut()? };
            op.enqueue_backward(pass, beside.batch()?)?;
            gradient.download(stream)?
        }
    };
    // What the loss left is as it was.
    let after = batch.results(stream, &op)?;
    if after.bits() != (Outcome { gradient: Vec::new(), ..loss }).bits() {
        return Err("the backward pass changed a result".into());
    }
    op.check()?;
    Ok(Outcome { gradient, ..after })
}

pub fn backward_from_saved() -> Result<(), Failed> {
    backward_in::<f32>()?;
    backward_in::<f16>()?;
    backward_in::<bf16>()
}

fn backward_in<T: Tested>() -> Result<(), Failed> {
    for (seed, c) in (0..).step_by(10).zip(LENGTHS) {
        let builder = || CrossEntropy::builder().z_loss(1e-3);
        let scales = uniform(seed, c, 0.5..2.0).iter().map(|&x| x.into()).collect::<Vec<f64>>();
        let mut soft = Batch { problem: builder().build()?, ..Batch::random_in::<T>(7, c, seed) };
        soft.soft_targets = Some(Beside::random::<T>(seed + 1, soft.rows() * c, false, false));
        let problems =
            [builder(), builder().class_scale(scales).label_smoothing(0.1), builder().reduction(Reduction::None)];
        let mut batches = vec![soft];
        for problem in problems {
            let mut batch = Batch { problem: problem.build()?, ..Batch::random_in::<T>(7, c, seed) };
            batch.labels[3] = -100;
            batch.upstream = Given::Device(-2.5);
            batches.push(batch);
        }
        for (i, batch) in batches.iter().enumerate() {
            let at = Rows { stride: c + i, offset: i };
            for place in [Gradient::InPlace, Gradient::Into(at)] {
                let found = split::<T>(batch, at, place, row_outputs())?;
                batch.compare(&found)?;
                // Only roundings of the same numbers may lie between it and the fused gradient.
                let mut op = batch.operation::<T>(Device::get())?;
                let fused = batch.run(Device::get(), &mut op, at, place)?;
                if fused.loss != found.loss || fused.loss_rows != found.loss_rows {
                    return Err(format!("{}, {c} classes: saving changed the loss", T::NAME).into());
                }
                let largest = fused.gradient.iter().fold(0f32, |largest, x| largest.max(x.abs()));
                // One step of a half type, of its smallest numbers too.
                let (relative, least) = if size_of::<T>() == 4 { (1e-5, 0.0) } else { (1e-2, 1e-7) };
                let near = |(a, b): (&f32, &f32)| (a - b).abs() <= relative * b.abs() + 1e-6 * largest + least;
                if !found.gradient.iter().zip(&fused.gradient).all(near) {
                    return Err(format!("{}, {c} classes, {place:?}: not the fused gradient", T::NAME).into());
                }
            }
        }
    }
    // So many labels that Mean's divisor needs the pre-pass in both launches; and the statistics of the loss stay.
    let mut many = Batch::random(LABELS_IN_BLOCK + 5, 10, 3);
    many.labels.iter_mut().step_by(5).for_each(|label| *label = -100);
    let many = Batch { logits: crate::batch::rounded::<T>(&many.logits), ..many };
    many.compare(&split::<T>(&many, dense(10), Gradient::Into(dense(10)), row_outputs().statistics())?)
}

fn expect_conflict(result: logit_perturb::Result<()>, about: &str) -> Result<(), Failed> {
    match result {
        Err(error @ Error::Conflict { .. }) if error.to_string().contains(about) => Ok(()),
        other => Err(format!("expected a conflict about {about:?}, not {other:?}").into()),
    }
}

/// A backward pass of what was not saved, or was saved of another shape.
pub fn backward_without_saved() -> Result<(), Failed> {
    let device = Device::get();
    let stream = &device.stream;
    let (batch, c) = (Batch::random(9, 10, 1), 10);
    let beside = OnDevice::<f32>::new(stream, &batch)?;
    let fewer = batch.part(0, 8);
    let beside_fewer = OnDevice::<f32>::new(stream, &fewer)?;
    let mut logits = Placed::<f32>::new(stream, Some(&batch.logits), (9, c), dense(c))?;
    let mut part = Placed::<f32>::new(stream, Some(&fewer.logits), (8, c), dense(c))?;
    let mut plain = batch.operation::<f32>(device)?;
    plain.enqueue(DevicePass::Forward(logits.view()?), beside.batch()?)?;
    let result = plain.enqueue_backward(DevicePass::InPlace(logits.view_mut()?), beside.batch()?);
    expect_conflict(result, "set it up with Outputs::saved")?;
    let mut op: CrossEntropyOp<f32> = device.operation(&batch.problem, batch.setup().outputs(row_outputs().saved()))?;
    let result = op.enqueue_backward(DevicePass::InPlace(logits.view_mut()?), beside.batch()?);
    expect_conflict(result, "nothing has been saved yet")?;
    op.enqueue(DevicePass::Forward(logits.view()?), beside.batch()?)?;
    expect_conflict(op.enqueue_backward(DevicePass::Forward(logits.view()?), beside.batch()?), "the gradient")?;
    match op.enqueue_backward(DevicePass::InPlace(part.view_mut()?), beside_fewer.batch()?) {
        Err(Error::Shape { actual: 8, .. }) => {}
        other => return Err(format!("expected an error about 8 rows, not {other:?}").into()),
    }
    op.enqueue_backward(DevicePass::InPlace(logits.view_mut()?), beside.batch()?)?;
    let outcome = Outcome { gradient: logits.download(stream)?, ..batch.results(stream, &op)? };
    batch.compare(&outcome)
}
