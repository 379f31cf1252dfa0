//! What is refused, and that nothing is the worse for it.

use crate::batch::{Batch, dense};
use crate::device::{Device, Placed, upload};
use libtest_mimic::Failed;
use logit_perturb::cuda::{self, CrossEntropyOp, DeviceLabels, DeviceMatrix, DevicePass, Kernels, Outputs};
use logit_perturb::{CrossEntropy, Error, Perturbation};
use logit_perturb_emulator::{Gradient, Rows};

/// Whether an error is of the kind expected and names what it is about.
fn expect<T>(result: logit_perturb::Result<T>, kind: fn(&Error) -> bool, about: &str) -> Result<(), Failed> {
    match result {
        Err(error) if kind(&error) && error.to_string().contains(about) => Ok(()),
        Err(error) => Err(format!("expected an error about {about:?}, not: {error}").into()),
        Ok(_) => Err(format!("expected an error about {about:?}").into()),
    }
}

fn is_shape(error: &Error) -> bool {
    matches!(error, Error::Shape { .. })
}

fn is_value(error: &Error) -> bool {
    matches!(error, Error::Value { .. })
}

fn is_unsupported(error: &Error) -> bool {
    matches!(error, Error::Unsupported { .. })
}

/// Everything that can be seen to be wrong before a launch is an error there, and the operation and its context work on.
pub fn before_launch() -> Result<(), Failed> {
    let device = Device::get();
    let stream = &device.stream;
    let (rows, c) = (9, 10);
    let batch = Batch::random(rows, c, 1);
    let mut op = device.operation(&batch.problem, c, rows)?;
    let labels = upload(stream, &vec![0i64; 2 * rows])?;
    let buffer = upload(stream, &vec![0f32; 4 * rows * c])?;
    let matrix = |rows: usize, c: usize| DeviceMatrix::new(buffer.slice(..rows * c), rows, c, c);
    let gradient = |rows: usize, c: usize| Placed::new(stream, None, (rows, c), dense(c));
    let (mut longer, mut wider) = (gradient(rows + 1, c)?, gradient(rows, c + 1)?);
    let mut enqueue = |pass: logit_perturb::Result<DevicePass<'_, f32>>, count: usize, upstream: f64| {
        op.enqueue(pass?, DeviceLabels::I64(labels.slice(..count)), upstream)
    };
    let forward = |rows: usize, c: usize| matrix(rows, c).map(DevicePass::Forward);
    expect(enqueue(forward(rows, c + 1), rows, 1.0), is_shape, "columns")?;
    expect(enqueue(forward(rows, c - 1), rows, 1.0), is_shape, "columns")?;
    expect(enqueue(forward(rows, c), rows + 1, 1.0), is_shape, "labels")?;
    expect(enqueue(forward(rows, c), rows - 1, 1.0), is_shape, "labels")?;
    expect(enqueue(forward(rows + 1, c), rows + 1, 1.0), is_shape, "at most the 9 prepared")?;
    expect(enqueue(forward(rows, c), rows, f64::NAN), is_value, "upstream")?;
    expect(enqueue(forward(rows, c), rows, f64::INFINITY), is_value, "upstream")?;
    for (other, about) in [(&mut longer, "rows"), (&mut wider, "columns")] {
        let pass = matrix(rows, c).and_then(|logits| Ok(DevicePass::Into { logits, gradient: other.view_mut()? }));
        expect(enqueue(pass, rows, 1.0), is_shape, about)?;
    }
    for (length, rows, c, stride, about) in [
        (90, 9, 10, 9, "row stride"),
        (89, 9, 10, 10, "length"),
        (90, 9, 10, usize::MAX, "length"),
        (90, 9, 0, 0, "columns"),
    ] {
        expect(DeviceMatrix::new(buffer.slice(..length), rows, c, stride), is_shape, about)?;
    }

    let new = |problem: &CrossEntropy, classes: usize| {
        CrossEntropyOp::new(&device.kernels, stream, problem, classes, rows, Outputs::default())
    };
    let shared = CrossEntropy::builder().perturbation(Perturbation::Shared(vec![0.0; c])).build()?;
    expect(new(&shared, c + 1), is_shape, "columns")?;
    expect(new(&CrossEntropy::default(), 0), is_shape, "classes")?;
    for (problem, about) in [
        (CrossEntropy::builder().label_smoothing(0.1), "label smoothing"),
        (CrossEntropy::builder().z_loss(0.1), "z-loss"),
        (CrossEntropy::builder().class_weights(vec![1.0; c]), "class weights"),
        (CrossEntropy::builder().class_scale(vec![2.0; c]), "a scale per class"),
        (CrossEntropy::builder().perturbation(Perturbation::PerSample), "perturbation"),
    ] {
        expect(new(&problem.build()?, c), is_unsupported, about)?;
    }

    // Nothing of all that was launched or recorded.
    op.check()?;
    for place in [Gradient::InPlace, Gradient::Into(Rows { stride: c + 1, offset: 1 })] {
        batch.compare(&batch.run(device, &mut op, dense(c), place)?)?;
    }
    Ok(())
}

pub fn devices_are_named() -> Result<(), Failed> {
    let devices = cuda::devices()?;
    for device in &devices {
        println!("{device:?}");
        if device.name.is_empty() || device.memory < 1 << 28 || device.compute_capability.0 < 5 {
            return Err(format!("{device:?}").into());
        }
    }
    expect(Kernels::open(devices.len()), |error| matches!(error, Error::Driver { .. }), "opening the device")
}

/// More than any device has: the error tells what for and how much, and the context stays usable.
pub fn out_of_memory() -> Result<(), Failed> {
    let device = Device::get();
    let problem = CrossEntropy::default();
    let outputs = Outputs::default().loss_rows();
    let result = CrossEntropyOp::new(&device.kernels, &device.stream, &problem, 10, 1 << 42, outputs);
    expect(result, |error| matches!(error, Error::OutOfMemory { bytes, .. } if *bytes == 1 << 44), "row outputs")?;
    Batch::random(9, 10, 1).run_and_compare(device).map(|_| ())
}
