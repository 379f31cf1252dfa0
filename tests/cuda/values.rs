//! Numbers and bits: every regime against the f64 reference, and what must not change them.

use crate::batch::{Batch, Given, Outcome, dense};
use crate::device::{Device, Placed, Tested, poison, upload};
use libtest_mimic::Failed;
use logit_perturb::cuda::{DeviceLabels, DevicePass};
use logit_perturb::half::{bf16, f16};
use logit_perturb::{CrossEntropy, Perturbation, Reduction};
use logit_perturb_emulator::{Gradient, Rows};

/// Row lengths at and beside multiples of the vector and of the warp, in every regime that every device has: up to 64 classes a tile, up to
/// some 512 a warp, up to about 16,384 a block, beyond that shared memory.
const LENGTHS: [usize; 18] =
    [1, 3, 10, 33, 64, 65, 127, 130, 512, 700, 1021, 1030, 4096, 4200, 10_007, 16_384, 16_390, 20_003];

/// Runs these lengths, with rows so far apart and so far behind a boundary as `layouts` says of each; what the plans were.
fn lengths_agree<T: Tested>(
    lengths: &[usize],
    layouts: impl Fn(usize) -> Vec<(usize, usize)>,
    places: impl Fn(usize, Rows) -> Vec<Gradient>,
) -> Result<String, Failed> {
    let device = Device::get();
    let mut plans = String::new();
    for (seed, &c) in lengths.iter().enumerate() {
        let rows = if c > 1000 { 3 } else { 11 };
        let mut batch = Batch::random_in::<T>(rows, c, seed as u64);
        batch.labels[1] = -100;
        let mut op = batch.operation::<T>(device)?;
        plans.extend(op.describe());
        for (stride, offset) in layouts(c) {
            let at = Rows { stride, offset };
            for place in places(c, at) {
                let outcome = batch.run(device, &mut op, at, place)?;
                batch.compare(&outcome).map_err(|error| {
                    format!(
                        "{}, {at:?}, {place:?}, {:?}: {}",
                        T::NAME,
                        op.describe(),
                        error.message().unwrap_or_default()
                    )
                })?;
            }
        }
        op.check()?;
    }
    Ok(plans)
}

fn all_planned(plans: &str, regimes: &[&str]) -> Result<(), Failed> {
    match regimes.iter().find(|regime| !plans.contains(&format!("_{regime}"))) {
        None => Ok(()),
        Some(regime) => Err(format!("no length was planned as {regime}").into()),
    }
}

pub fn every_regime_alignment_and_place() -> Result<(), Failed> {
    let layouts = |c: usize| {
        let even = c.next_multiple_of(4);
        vec![(c, 0), (even, 0), (c + 1, 0), (even + 4, 1), (c + 3, 2)]
    };
    let places = |c, at| {
        let apart = Gradient::Into(Rows { stride: c + 5, offset: 3 });
        vec![Gradient::None, Gradient::InPlace, Gradient::Into(at), apart]
    };
    let plans = lengths_agree::<f32>(&LENGTHS, layouts, places)?;
    all_planned(&plans, &["tile", "warp", "block", "shared"])
}

/// Half types: slots of 8, and rows that start in the middle of one.
pub fn half_types() -> Result<(), Failed> {
    let layouts = |c: usize| vec![(c, 0), (c.next_multiple_of(8), 0), (c + 1, 5)];
    let places = |c, at| vec![Gradient::InPlace, Gradient::Into(at), Gradient::Into(Rows { stride: c + 3, offset: 1 })];
    let of_f16 = lengths_agree::<f16>(&LENGTHS, layouts, places)?;
    let of_bf16 = lengths_agree::<bf16>(&LENGTHS, layouts, places)?;
    all_planned(&of_f16, &["f16_tile", "f16_warp", "f16_block", "f16_shared"])?;
    all_planned(&of_bf16, &["bf16_tile", "bf16_warp", "bf16_block", "bf16_shared"])
}

/// Rows too long for one block's memory: in that of a cluster, of all sizes, and beyond that read twice.
pub fn long_rows() -> Result<(), Failed> {
    const LENGTHS: [usize; 7] = [32_768, 50_257, 65_536, 131_072, 262_144, 400_003, 800_003];
    let layouts = |c: usize| vec![(c, 0), (c + 1, 3)];
    let places = |_, at| vec![Gradient::InPlace, Gradient::Into(at)];
    for plans in [
        lengths_agree::<f32>(&LENGTHS, layouts, places)?,
        lengths_agree::<f16>(&LENGTHS, layouts, places)?,
        lengths_agree::<bf16>(&LENGTHS, layouts, places)?,
    ] {
        all_planned(&plans, &["two_read"])?;
        // Only devices from sm_90 on have clusters.
        if logit_perturb::cuda::devices()?[0].compute_capability.0 >= 9 {
            all_planned(&plans, &["cluster"])?;
            if let Some(size) = [2, 4, 8].iter().find(|size| !plans.contains(&format!("in clusters of {size}"))) {
                return Err(format!("no length was planned for clusters of {size}").into());
            }
        }
    }
    Ok(())
}

pub fn reductions_and_perturbations() -> Result<(), Failed> {
    let reductions = [Reduction::Mean, Reduction::Sum, Reduction::None, Reduction::Divisor(7.5)];
    for c in [10, 100, 700, 20_003] {
        for (seed, reduction) in reductions.into_iter().enumerate() {
            let delta = (0..c).map(|k| f64::from(((k as f64 * 0.37).sin() * 2.0) as f32)).collect();
            let shared = CrossEntropy::builder().perturbation(Perturbation::Shared(delta)).scale(1.5);
            for problem in [CrossEntropy::builder(), shared] {
                let problem = problem.reduction(reduction).build()?;
                let mut batch = Batch { problem, upstream: Given::Host(-2.5), ..Batch::random(7, c, seed as u64) };
                batch.labels[3] = -100;
                batch.run_and_compare(Device::get())?;
            }
        }
    }
    Ok(())
}

/// Labels of each type give the same bits, and each type has its own bits for `ignore_index`.
pub fn label_types() -> Result<(), Failed> {
    let device = Device::get();
    let stream = &device.stream;
    for c in [10, 100, 700, 20_003] {
        for ignore in [3, -100] {
            let problem = CrossEntropy::builder().ignore_index(ignore).build()?;
            let mut batch = Batch { problem, ..Batch::random(9, c, 5) };
            batch.labels[4] = 3;
            let expected = batch.run_and_compare(device)?;
            let narrow = upload(stream, &batch.labels.iter().map(|&label| label as i32).collect::<Vec<_>>())?;
            let unsigned = upload(stream, &batch.labels.iter().map(|&label| label as u32).collect::<Vec<_>>())?;
            for labels in [DeviceLabels::I32(narrow.slice(..9)), DeviceLabels::U32(unsigned.slice(..9))] {
                let mut op = batch.operation::<f32>(device)?;
                let mut logits = Placed::<f32>::new(stream, Some(&batch.logits), (9, c), dense(c))?;
                poison(stream, &op)?;
                let what = format!("{c} classes, {labels:?}");
                op.enqueue(DevicePass::InPlace(logits.view_mut()?), labels)?;
                op.check()?;
                let found = Outcome { gradient: logits.download(stream)?, ..batch.results(stream, &op)? };
                same(&what, &found.bits(), &expected.bits())?;
            }
        }
    }
    Ok(())
}

/// More rows than the device holds at a time, so that blocks take several tiles; and the label pre-pass.
pub fn many_tiles() -> Result<(), Failed> {
    let shapes = [(200_000, 10), (20_000, 100), (9000, 256), (2000, 1000), (300, 10_000), (200, 16_384), (300, 20_003)];
    for (seed, (rows, c)) in shapes.into_iter().enumerate() {
        let mut batch = Batch::random(rows, c, seed as u64);
        batch.labels.iter_mut().step_by(7).for_each(|label| *label = -100);
        batch.run_and_compare(Device::get())?;
    }
    Ok(())
}

/// The gradient at a label whose probability is nearly 1 is minus the sum of the others, to f32's relative accuracy.
pub fn confident_rows() -> Result<(), Failed> {
    for c in [10, 100, 700, 20_003] {
        let mut batch = Batch::random(1, c, 3);
        batch.logits.iter_mut().for_each(|x| *x = x.clamp(-1.0, 1.0));
        (batch.logits[5], batch.labels[0]) = (40.0, 5);
        let outcome = batch.run_and_compare(Device::get())?;
        let others: f64 = (0..c).filter(|&k| k != 5).map(|k| (f64::from(batch.logits[k]) - 40.0).exp()).sum();
        for (found, expected) in [(outcome.gradient[5], -others), (outcome.loss_rows[0], others)] {
            if (f64::from(found) / expected - 1.0).abs() >= 3e-5 {
                return Err(format!("{c} classes: {found}, expected {expected}").into());
            }
        }
    }
    Ok(())
}

fn same(what: &str, found: &[u32], expected: &[u32]) -> Result<(), Failed> {
    match found == expected {
        true => Ok(()),
        false => Err(format!("{what}: other bits").into()),
    }
}

pub fn repeated_runs() -> Result<(), Failed> {
    let device = Device::get();
    for (rows, c) in [(30_000, 10), (3000, 100), (900, 700), (200, 20_003)] {
        let batch = Batch::random(rows, c, 9);
        let mut op = batch.operation::<f32>(device)?;
        let expected = batch.run(device, &mut op, dense(c), Gradient::Into(dense(c)))?.bits();
        for _ in 0..20 {
            let found = batch.run(device, &mut op, dense(c), Gradient::Into(dense(c)))?;
            same(&format!("{rows} x {c}"), &found.bits(), &expected)?;
        }
    }
    Ok(())
}

pub fn in_place_equals_into() -> Result<(), Failed> {
    let device = Device::get();
    for (rows, c) in [(30_000, 10), (301, 101), (90, 700), (20, 20_003)] {
        let batch = Batch::random(rows, c, 9);
        let mut op = batch.operation::<f32>(device)?;
        for at in [dense(c), Rows { stride: c + 3, offset: 2 }] {
            let into = batch.run(device, &mut op, at, Gradient::Into(at))?;
            let in_place = batch.run(device, &mut op, at, Gradient::InPlace)?;
            same(&format!("{rows} x {c}, {at:?}"), &in_place.bits(), &into.bits())?;
        }
    }
    Ok(())
}

/// The number of rows decides the grid and which block takes a row: neither is to be seen in a row's numbers.
pub fn rows_do_not_depend_on_the_grid() -> Result<(), Failed> {
    let device = Device::get();
    for (rows, c) in [(40_000, 12), (6000, 100), (4000, 700), (600, 20_004)] {
        let problem = CrossEntropy::builder().reduction(Reduction::Sum).build()?;
        let whole = Batch { problem, ..Batch::random(rows, c, 4) };
        let all = whole.run_and_compare(device)?;
        for (from, to) in [(0, 1), (rows / 2, rows / 2 + 5), (rows - 3, rows)] {
            let part = whole.part(from, to).run_and_compare(device)?;
            let bits = |data: &[f32]| data.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            let what = format!("rows {from}..{to} of {rows} x {c}");
            same(&what, &bits(&part.gradient), &bits(&all.gradient[from * c..to * c]))?;
            same(&what, &bits(&part.loss_rows), &bits(&all.loss_rows[from..to]))?;
        }
    }
    Ok(())
}
