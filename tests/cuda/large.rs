//! Offsets that need 64 bits. These take about 10 GB of device memory and are ignored where there is less.

use crate::batch::{Batch, Outcome};
use crate::device::{Device, download, upload};
use libtest_mimic::{Completion, Failed};
use logit_perturb::cuda::{CrossEntropyOp, DeviceLabels, DeviceMatrixMut, DevicePass, Setup};
use logit_perturb::{CrossEntropy, Reduction};

/// A number of elements that 32 bits with a sign do not hold.
const MANY: usize = 1 << 31;
const CLASSES: [usize; 4] = [10, 100, 1030, 20_004];
const SPARE: usize = 1 << 30;

/// Why the test cannot run, where the device has less memory free than it takes.
fn too_little_memory(device: &Device, bytes: usize) -> Result<Option<Completion>, Failed> {
    // What earlier tests freed is back only then.
    device.stream.synchronize()?;
    let (free, _) = device.kernels.context().mem_get_info()?;
    let reason = || format!("not enough memory: {free} bytes are free, {} are needed", bytes + SPARE);
    Ok((free < bytes + SPARE).then(|| Completion::ignored_with(reason())))
}

/// The second row starts behind 2^31 elements.
pub fn rows_far_apart() -> Result<Completion, Failed> {
    let device = Device::get();
    let stream = &device.stream;
    let stride = MANY + 4;
    let length = stride + CLASSES[CLASSES.len() - 1];
    if let Some(ignored) = too_little_memory(device, 4 * length)? {
        return Ok(ignored);
    }
    // SAFETY: only the rows are read, after they were written.
    let mut buffer = unsafe { stream.alloc::<f32>(length) }?;
    for c in CLASSES {
        let batch = Batch::random(2, c, 7);
        let mut op = batch.operation::<f32>(device)?;
        let labels = upload(stream, &batch.labels)?;
        for (start, row) in [0, stride].into_iter().zip(batch.logits.chunks_exact(c)) {
            stream.memcpy_htod(row, &mut buffer.slice_mut(start..start + c))?;
        }
        let matrix = DeviceMatrixMut::new(buffer.as_view_mut(), 2, c, stride)?;
        op.enqueue(DevicePass::InPlace(matrix), DeviceLabels::I64(labels.slice(..2)))?;
        let rows = [0, stride].map(|start| download(stream, &buffer.slice(start..start + c)));
        let gradient = rows.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
        batch.compare(&Outcome { gradient, ..batch.results(stream, &op)? })?;
    }
    Ok(Completion::Completed)
}

/// More than 2^31 elements without gaps, all zero: every row is as the reference has it for one.
pub fn more_elements() -> Result<Completion, Failed> {
    let device = Device::get();
    let stream = &device.stream;
    let rows_of = |c: usize| MANY / c + 1000;
    let length = CLASSES.into_iter().map(|c| rows_of(c) * c).max().unwrap_or(0);
    // Of the shortest rows there are the most: their labels, and their tiles' sums, which are fewer.
    if let Some(ignored) = too_little_memory(device, 4 * length + 8 * rows_of(CLASSES[0]))? {
        return Ok(ignored);
    }
    let mut buffer = stream.alloc_zeros::<f32>(length)?;
    let labels = stream.alloc_zeros::<i32>(rows_of(CLASSES[0]))?;
    let problem = CrossEntropy::builder().reduction(Reduction::Sum).build()?;
    for c in CLASSES {
        let rows = rows_of(c);
        stream.memset_zeros(&mut buffer)?;
        let mut op = CrossEntropyOp::new(&device.kernels, stream, &problem, Setup::new(c, rows))?;
        let matrix = DeviceMatrixMut::new(buffer.slice_mut(..rows * c), rows, c, c)?;
        op.enqueue(DevicePass::InPlace(matrix), DeviceLabels::I32(labels.slice(..rows)))?;
        let one = Batch { problem: problem.clone(), logits: vec![0.0; c], labels: vec![0], ..Batch::random(1, c, 0) };
        // Whatever the order in which ones are added up, the bits are the same.
        let one = one.run_and_compare(device)?;
        for row in [0, 1, MANY / c - 1, MANY / c, MANY / c + 1, rows - 1] {
            let found = download(stream, &buffer.slice(row * c..(row + 1) * c))?;
            if found != one.gradient {
                return Err(format!("row {row} of {rows} x {c} differs from a row alone").into());
            }
        }
        let (loss, expected) = (f64::from(download(stream, &op.loss())?[0]), rows as f64 * (c as f64).ln());
        if (loss - expected).abs() > 4e-6 * expected {
            return Err(format!("{rows} x {c}: the loss is {loss}, expected {expected}").into());
        }
    }
    Ok(Completion::Completed)
}
