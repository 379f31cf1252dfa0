//! Corner cases of SPEC 5: what is not finite, empty, ignored, or no label.

use crate::batch::{Batch, Outcome, dense, row_outputs};
use crate::device::Device;
use libtest_mimic::Failed;
use logit_perturb::cuda::{CrossEntropyOp, Setup};
use logit_perturb::{Error, Reduction};
use logit_perturb_emulator::{Gradient, Rows};

/// Rows that a block counts the labels of by itself; above, the pre-pass does.
pub const LABELS_IN_BLOCK: usize = 16_384;

/// What is not finite stays in its row; -inf is a masked class.
pub fn not_finite() -> Result<(), Failed> {
    const INF: f32 = f32::INFINITY;
    for c in [10, 65, 130, 700, 20_003] {
        for (value, at) in [(f32::NAN, 3), (f32::NAN, 0), (INF, 3), (-INF, 3), (-INF, 0), (1e4, 2), (-1e4, 0)] {
            let mut batch = Batch::random(6, c, 11);
            batch.labels = vec![0, 1, 2, 3, 4, 0];
            // Row 3 has it at its label or beside it; the ignored row 4 has it everywhere.
            batch.logits[3 * c + at] = value;
            batch.labels[4] = -100;
            batch.logits[4 * c..5 * c].fill(f32::NAN);
            batch.run_and_compare(Device::get())?;
        }
        let mut masked = Batch::random(3, c, 12);
        masked.labels = vec![0, 1, 1];
        // A run of -inf that covers whole threads and warps, a whole row, and all but the label.
        masked.logits[c / 3..c].fill(-INF);
        masked.logits[c..3 * c].fill(-INF);
        masked.logits[2 * c + 1] = 0.5;
        masked.run_and_compare(Device::get())?;
    }
    Ok(())
}

pub fn empty_and_ignored() -> Result<(), Failed> {
    let device = Device::get();
    for c in [1, 10, 100, 700, 20_003] {
        for place in [Gradient::None, Gradient::InPlace, Gradient::Into(dense(c))] {
            for rows in [0, 5] {
                let mut batch = Batch::random(rows, c, 1);
                batch.labels.fill(-100);
                let mut op = device.operation::<f32>(&batch.problem, Setup::new(c, 5).outputs(row_outputs()))?;
                let outcome = batch.run(device, &mut op, dense(c), place)?;
                let lists = [&outcome.loss, &outcome.loss_rows, &outcome.lse, &outcome.gradient];
                let ignored = outcome.predictions.iter().all(|&prediction| prediction == -1);
                if lists.into_iter().flatten().any(|x| x.to_bits() != 0) || !ignored {
                    return Err(format!("{rows} x {c}, {place:?}: {outcome:?}").into());
                }
            }
        }
    }
    // One class has no loss.
    let outcome = Batch::random(40, 1, 2).run_and_compare(device)?;
    match outcome.loss[0] == 0.0 && outcome.gradient.iter().all(|&g| g == 0.0) {
        true => Ok(()),
        false => Err(format!("one class: {outcome:?}").into()),
    }
}

/// Asks for the error of the bad labels since it was last asked for.
pub fn expect_bad(op: &mut CrossEntropyOp<f32>, expected: Option<(usize, i64, usize)>) -> Result<(), Failed> {
    let found = match op.check() {
        Ok(()) => None,
        Err(Error::Label { row, label, count, .. }) => Some((row, label, count)),
        Err(other) => return Err(other.to_string().into()),
    };
    match found == expected {
        true => Ok(()),
        false => Err(format!("row, first bad label and how many: {found:?}, expected {expected:?}").into()),
    }
}

/// A bad label's row counts as ignored. How many there are, and the first with its label, is kept until it is asked for, and then cleared.
pub fn bad_labels() -> Result<(), Failed> {
    let device = Device::get();
    for c in [10, 100, 700, 20_003] {
        let mut batch = Batch::random(9, c, 5);
        let good = batch.clone();
        (batch.labels[2], batch.labels[7]) = (c as i64, -7);
        let mut later = good.clone();
        later.labels[0] = i64::MIN;
        let mut op = batch.operation::<f32>(device)?;
        let run = |batch: &Batch, op: &mut CrossEntropyOp<f32>| {
            let at = Rows { stride: c + 1, offset: 1 };
            batch.compare(&batch.run(device, op, at, Gradient::Into(at))?)
        };
        run(&batch, &mut op)?;
        expect_bad(&mut op, Some((2, c as i64, 2)))?;
        expect_bad(&mut op, None)?;
        // Two batches with bad labels and one without before the next question: the first keeps its place.
        run(&batch, &mut op)?;
        run(&later, &mut op)?;
        run(&good, &mut op)?;
        expect_bad(&mut op, Some((2, c as i64, 3)))?;
        run(&later, &mut op)?;
        expect_bad(&mut op, Some((0, i64::MIN, 1)))?;
        run(&good, &mut op)?;
        expect_bad(&mut op, None)?;
    }
    Ok(())
}

/// One row more than a block counts by itself, and several chunks of the pre-pass; bad labels in the first and the last of them.
pub fn label_pre_pass() -> Result<(), Failed> {
    let device = Device::get();
    for rows in [LABELS_IN_BLOCK, LABELS_IN_BLOCK + 1, 3 * LABELS_IN_BLOCK + 77] {
        for reduction in [Reduction::Mean, Reduction::Sum] {
            let problem = logit_perturb::CrossEntropy::builder().reduction(reduction).build()?;
            let mut batch = Batch { problem, ..Batch::random(rows, 3, 8) };
            batch.labels.iter_mut().step_by(3).for_each(|label| *label = -100);
            let mut op = batch.operation::<f32>(device)?;
            let run = |batch: &Batch, op: &mut CrossEntropyOp<f32>| -> Result<Outcome, Failed> {
                let outcome = batch.run(device, op, dense(3), Gradient::Into(dense(3)))?;
                batch.compare(&outcome)?;
                Ok(outcome)
            };
            run(&batch, &mut op)?;
            expect_bad(&mut op, None)?;
            (batch.labels[1], batch.labels[rows - 1]) = (3, -1);
            run(&batch, &mut op)?;
            expect_bad(&mut op, Some((1, 3, 2)))?;
            batch.labels[1] = -100;
            run(&batch, &mut op)?;
            expect_bad(&mut op, Some((rows - 1, -1, 1)))?;
            batch.labels.fill(-100);
            let outcome = run(&batch, &mut op)?;
            if outcome.loss.iter().chain(&outcome.gradient).any(|x| x.to_bits() != 0) {
                return Err(format!("{rows} ignored rows have a loss of {:?}", outcome.loss).into());
            }
        }
    }
    Ok(())
}
