//! What is refused, and that nothing is the worse for it.

use crate::batch::{Batch, dense};
use crate::device::{Device, Placed, upload};
use libtest_mimic::Failed;
use logit_perturb::cuda::{
    self, BinaryCrossEntropyOp, BinarySetup, CrossEntropyOp, DeviceBatch, DeviceLabels, DeviceMatrix, DevicePass,
    DeviceUpstream, Kernels, Outputs, Setup,
};
use logit_perturb::{
    BinaryCrossEntropy, Bound, CrossEntropy, Error, GradientSemantics, Learner, Perturbation, Split, Step,
};
use logit_perturb_emulator::{Gradient, Rows};

/// Whether an error is of the kind expected and names what it is about.
pub fn expect<T>(result: logit_perturb::Result<T>, kind: fn(&Error) -> bool, about: &str) -> Result<(), Failed> {
    match result {
        Err(error) if kind(&error) && error.to_string().contains(about) => Ok(()),
        Err(error) => Err(format!("expected an error about {about:?}, not: {error}").into()),
        Ok(_) => Err(format!("expected an error about {about:?}").into()),
    }
}

pub fn is_shape(error: &Error) -> bool {
    matches!(error, Error::Shape { .. })
}

pub fn is_value(error: &Error) -> bool {
    matches!(error, Error::Value { .. })
}

pub fn is_conflict(error: &Error) -> bool {
    matches!(error, Error::Conflict { .. })
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
    let mut op = batch.operation::<f32>(device)?;
    let labels = upload(stream, &vec![0i64; 2 * rows])?;
    let buffer = upload(stream, &vec![0f32; 4 * rows * c])?;
    let matrix = |rows: usize, c: usize| DeviceMatrix::new(buffer.slice(..rows * c), rows, c, c);
    let gradient = |rows: usize, c: usize| Placed::new(stream, None, (rows, c), dense(c));
    let (mut longer, mut wider) = (gradient(rows + 1, c)?, gradient(rows, c + 1)?);
    let mut enqueue = |pass: logit_perturb::Result<DevicePass<'_, f32>>, count: usize, upstream: f64| {
        let upstream = DeviceUpstream::Scalar(upstream.into());
        op.enqueue(pass?, DeviceBatch::labels(DeviceLabels::I64(labels.slice(..count))).upstream(upstream))
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

    let new = |problem: &CrossEntropy, setup| CrossEntropyOp::<f32>::new(&device.kernels, stream, problem, setup);
    let plain = CrossEntropy::default();
    let shared = CrossEntropy::builder().perturbation(Perturbation::Shared(vec![0.0; c])).build()?;
    expect(new(&shared, Setup::new(c + 1, rows)), is_shape, "columns")?;
    expect(new(&plain, Setup::new(0, rows)), is_shape, "classes")?;
    expect(new(&plain, Setup::new(1 << 30, rows)), is_shape, "classes")?;
    let learner = Learner::new(Step::Raw, 0.1, Split::MeanConfidence, Bound::Fixed { eps: 1.0 })?;
    let learned = CrossEntropy::builder().learner(learner).build()?;
    let through = |learner: &Learner| learner.clone().gradient(GradientSemantics::Through);
    let through = CrossEntropy::builder().learner(through(learned.learner().expect("just set"))).build()?;
    expect(new(&through, Setup::new(c, rows)), is_unsupported, "a gradient through")?;
    let far = Learner::new(Step::Raw, 0.1, Split::MeanConfidence, Bound::Fixed { eps: 31.0 })?;
    expect(new(&CrossEntropy::builder().learner(far).build()?, Setup::new(c, rows)), is_value, "eps")?;
    expect(new(&learned, Setup::new(32_769, rows)), is_shape, "classes")?;
    expect(new(&learned, Setup::new(c, rows).running_confidence(1.0)), is_value, "momentum")?;
    expect(new(&learned, Setup::new(c, rows).outputs(Outputs::default().saved())), is_conflict, "saved")?;
    expect(new(&plain, Setup::new(c, rows).outputs(Outputs::default().learned())), is_conflict, "learned")?;
    expect(new(&plain, Setup::new(c, rows).running_confidence(0.9)), is_conflict, "running_confidence")?;
    let soft = || Setup::new(c, rows).soft_targets();
    let margin = Perturbation::TargetMargin(vec![0.0; c]);
    for (problem, about) in [
        (CrossEntropy::builder().label_smoothing(0.1), "label_smoothing"),
        (CrossEntropy::builder().ignore_index(3), "ignore_index"),
        (CrossEntropy::builder().perturbation(margin), "perturbation by class"),
    ] {
        expect(new(&problem.build()?, soft()), is_conflict, about)?;
    }
    expect(new(&plain, soft().outputs(Outputs::default().statistics())), is_conflict, "statistics")?;

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

/// More than any device has, or than 64 bits count: the error tells what for and how much, and the context stays usable.
pub fn out_of_memory() -> Result<(), Failed> {
    let device = Device::get();
    let problem = CrossEntropy::default();
    let outputs = Outputs::default().loss_rows();
    let result =
        CrossEntropyOp::<f32>::new(&device.kernels, &device.stream, &problem, Setup::new(10, 1 << 42).outputs(outputs));
    expect(result, |error| matches!(error, Error::OutOfMemory { bytes, .. } if *bytes == 1 << 44), "row outputs")?;
    // 4 bytes a row wrap around to few. What is no wrap is for the driver to refuse.
    let refused: fn(&Error) -> bool = |error| matches!(error, Error::OutOfMemory { .. } | Error::Driver { .. });
    for rows in [(1 << 62) + 1, usize::MAX] {
        for outputs in [outputs, Outputs::default(), Outputs::default().saved()] {
            let setup = Setup::new(10, rows).outputs(outputs);
            let result = CrossEntropyOp::<f32>::new(&device.kernels, &device.stream, &problem, setup);
            expect(result, refused, "")?;
        }
        let setup = BinarySetup::new(10, rows).lists();
        let problem = BinaryCrossEntropy::default();
        let result = BinaryCrossEntropyOp::<f32>::new(&device.kernels, &device.stream, &problem, setup);
        expect(result, refused, "")?;
    }
    Batch::random(9, 10, 1).run_and_compare(device).map(|_| ())
}
