//! The single-label learner: every team that may have a class, numbers from the device, graphs, and batches over several devices.

use crate::device::{Device, download, upload};
use crate::graphs::capture;
use libtest_mimic::Failed;
use logit_perturb::cpu::{self, CrossEntropyBatch, Pass};
use logit_perturb::cuda::{
    CrossEntropyOp, DeviceBatch, DeviceLabels, DeviceMatrix, DeviceMatrixMut, DevicePass, Outputs, Setup,
};
use logit_perturb::cudarc::driver::CudaSlice;
use logit_perturb::{Bound, CrossEntropy, Error, Labels, Learner, Matrix, Reduction, Split, Step};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Half of the rows in class 0, some ignored, the others spread over all classes.
fn batch(n: usize, c: usize, seed: u64) -> (Vec<f32>, Vec<i64>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let logits = (0..n * c).map(|_| rng.random_range(-4.0f32..4.0)).collect();
    let label = |i: usize| match i % 7 {
        3 => -100,
        0 | 2 | 4 => 0,
        _ => (i * 31 % c) as i64,
    };
    (logits, (0..n).map(label).collect())
}

fn problem(split: Split, bound: Bound, reduction: Reduction) -> logit_perturb::Result<CrossEntropy> {
    CrossEntropy::builder().learner(Learner::new(Step::UnitL2, 0.25, split, bound)?).reduction(reduction).build()
}

/// What a batch leaves: loss, gradient, delta, steps, confidences and tau.
type Found = (Vec<f32>, Vec<f32>, Vec<f32>, Vec<u32>, Vec<f64>, Vec<f64>);

fn read(device: &Device, op: &CrossEntropyOp<f32>, gradient: &CudaSlice<f32>, c: usize) -> Result<Found, Failed> {
    let stream = &device.stream;
    let learned = op.learned().ok_or("what was learned was asked for")?;
    let count = download(stream, &learned.count)?[0] as usize;
    let mut delta = download(stream, &learned.delta)?;
    delta.truncate(count * c);
    let mut steps = download(stream, &learned.steps)?;
    steps.truncate(count);
    let mut confidence = download(stream, &learned.confidence)?;
    confidence.truncate(count);
    let tau = download(stream, &learned.tau)?;
    Ok((download(stream, &op.loss())?, download(stream, gradient)?, delta, steps, confidence, tau))
}

fn near(what: &str, found: &[f64], expected: &[f64], tolerance: f64) -> Result<(), Failed> {
    if found.len() != expected.len() {
        return Err(format!("{} numbers of {what}, expected {}", found.len(), expected.len()).into());
    }
    let far = found.iter().zip(expected).position(|(a, b)| (a - b).abs() > tolerance || a.is_nan() != b.is_nan());
    match far {
        None => Ok(()),
        Some(i) => Err(format!("{what}[{i}] is {}, expected {} within {tolerance:e}", found[i], expected[i]).into()),
    }
}

fn wide(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|&x| x.into()).collect()
}

/// Classes that a warp, a block and a gang of blocks have, by columns and by rows, in shared and in global memory, against the f64 reference;
/// twice, to the same bits.
pub fn every_team() -> Result<(), Failed> {
    let device = Device::get();
    let shapes = [(128, 100), (1024, 100), (700, 1000), (60, 4096), (40, 10_000), (40, 20_003), (3, 10)];
    for ((n, c), step) in shapes.into_iter().flat_map(|shape| [(shape, Step::UnitL2), (shape, Step::Raw)]) {
        for split in [Split::MeanConfidence, Split::Confidence { tau: 0.01 }, Split::Explicit(vec![1; c])] {
            let (logits, labels) = batch(n, c, n as u64);
            let learner = Learner::new(step, 0.25, split, Bound::Fixed { eps: 2.5 })?;
            let problem = CrossEntropy::builder().learner(learner).build()?;
            let mut exact = vec![0.0; n * c];
            let gradient = logit_perturb::MatrixMut::new(&mut exact, n, c)?;
            let pass = Pass::Into { logits: Matrix::new(&logits, n, c)?, gradient };
            let expected = cpu::cross_entropy(&problem, pass, CrossEntropyBatch::labels(Labels::I64(&labels)))?;
            let learned = expected.learned.as_ref().ok_or("the reference learns")?;
            let setup = Setup::new(c, n).outputs(Outputs::default().learned());
            let mut op = device.operation::<f32>(&problem, setup)?;
            let of_device = upload(&device.stream, &labels)?;
            let mut first = None;
            for _ in 0..2 {
                let mut data = upload(&device.stream, &logits)?;
                let pass = DevicePass::InPlace(DeviceMatrixMut::new(data.slice_mut(..n * c), n, c, c)?);
                op.enqueue(pass, DeviceLabels::I64(of_device.slice(..n)))?;
                op.check()?;
                let found = read(device, &op, &data, c)?;
                let bits = |found: &Found| -> Vec<u32> {
                    [&found.0, &found.1, &found.2].into_iter().flatten().map(|x| x.to_bits()).collect()
                };
                if first.get_or_insert_with(|| bits(&found)) != &bits(&found) {
                    return Err(format!("{n} x {c}: not the same bits").into());
                }
                let (loss, gradient, delta, steps, confidence, tau) = found;
                near("loss", &wide(&loss), &[expected.loss], 4e-6 * expected.loss + 1e-7)?;
                near("gradient", &wide(&gradient[..n * c]), &exact, 1e-6 / n as f64 * 2.0)?;
                near("delta", &wide(&delta), &learned.delta, 1e-5)?;
                near("confidence", &confidence, &learned.confidence, 1e-6)?;
                near("tau", &tau, &[learned.tau], 1e-6)?;
                if steps != learned.steps {
                    return Err(format!("{n} x {c}: steps {steps:?}, expected {:?}", learned.steps).into());
                }
            }
        }
    }
    Ok(())
}

/// A captured batch takes the step size and the bound that lie on the device when it is replayed; one out of its range is reported.
pub fn graphs_take_new_bounds() -> Result<(), Failed> {
    let device = Device::get();
    let stream = &device.stream;
    let (n, c) = (300, 40);
    let (logits, labels) = batch(n, c, 5);
    let problem = problem(Split::Explicit(vec![1; c]), Bound::Fixed { eps: 1.0 }, Reduction::Sum)?;
    let setup = Setup::new(c, n).outputs(Outputs::default().learned());
    let mut op = device.operation::<f32>(&problem, setup)?;
    let (data, labels) = (upload(stream, &logits)?, upload(stream, &labels)?);
    let mut gradient = upload(stream, &logits)?;
    let (mut alpha, mut eps) = (stream.clone_htod(&[0.25f32])?, stream.clone_htod(&[1.0f32])?);
    let graph = capture(stream, || {
        let pass = DevicePass::Into {
            logits: DeviceMatrix::new(data.slice(..n * c), n, c, c)?,
            gradient: DeviceMatrixMut::new(gradient.slice_mut(..n * c), n, c, c)?,
        };
        use logit_perturb::cuda::DeviceScalar::Device as At;
        let batch = DeviceBatch::labels(DeviceLabels::I64(labels.slice(..n)));
        op.enqueue(pass, batch.alpha(At(alpha.as_view())).eps(At(eps.as_view())))
    })?;
    for (a, e, k) in [(0.25, 1.0, 4), (0.1, 0.3, 3), (0.5, 0.25, 0), (0.25, 31.0, 0), (0.25, 30.0, 120)] {
        stream.memcpy_htod(&[a], &mut alpha)?;
        stream.memcpy_htod(&[e], &mut eps)?;
        graph.launch()?;
        let (.., steps, _, _) = read(device, &op, &gradient, c)?;
        if steps.iter().any(|&found| found != k) {
            return Err(format!("alpha {a}, eps {e}: steps {steps:?}, expected {k}").into());
        }
        match (op.check(), e > 30.0) {
            (Ok(()), false) | (Err(Error::Value { .. }), true) => {}
            (found, _) => return Err(format!("alpha {a}, eps {e}: {found:?}").into()),
        }
    }
    Ok(())
}

/// Two operations with half of a batch each: what they gather is added up between the phases, and every class has the confidence, direction and
/// steps that it has in the whole.
pub fn shards() -> Result<(), Failed> {
    let device = Device::get();
    let stream = &device.stream;
    let (n, c) = (256, 30);
    let (logits, labels) = batch(n, c, 7);
    let bound = Bound::Confidence { eps: 0.3, delta_eps: 1.0 };
    let problem = problem(Split::MeanConfidence, bound, Reduction::Divisor(n as f64))?;
    let whole = cpu::cross_entropy(
        &problem,
        Pass::Forward(Matrix::new(&logits, n, c)?),
        CrossEntropyBatch::labels(Labels::I64(&labels)),
    )?;
    let learned = whole.learned.ok_or("the reference learns")?;
    let setup = Setup::new(c, n).outputs(Outputs::default().learned()).data_parallel();
    let mut ops = [device.operation::<f32>(&problem, setup)?, device.operation::<f32>(&problem, setup)?];
    let half = n / 2;
    let data = [upload(stream, &logits[..half * c])?, upload(stream, &logits[half * c..])?];
    let labels = [upload(stream, &labels[..half])?, upload(stream, &labels[half..])?];
    let rows = |k: usize| DeviceMatrix::new(data[k].slice(..half * c), half, c, c);
    let of_shard = |k: usize| DeviceLabels::I64(labels[k].slice(..half));
    if !matches!(ops[0].enqueue(DevicePass::Forward(rows(0)?), of_shard(0)), Err(Error::Conflict { .. })) {
        return Err("a batch without confidences is refused".into());
    }
    let (mut counts, mut sums) = (vec![0u64; c], vec![0.0f64; c]);
    for (k, op) in ops.iter_mut().enumerate() {
        op.enqueue_confidences(rows(k)?, of_shard(k))?;
        let views = op.class_confidences_mut()?;
        download(stream, &views.count)?.iter().zip(&mut counts).for_each(|(x, sum)| *sum += x);
        download(stream, &views.sum)?.iter().zip(&mut sums).for_each(|(x, sum)| *sum += x);
    }
    for (k, op) in ops.iter_mut().enumerate() {
        let mut views = op.class_confidences_mut()?;
        stream.memcpy_htod(&counts, &mut views.count)?;
        stream.memcpy_htod(&sums, &mut views.sum)?;
        op.enqueue(DevicePass::Forward(rows(k)?), of_shard(k))?;
        op.check()?;
        let found = op.learned().ok_or("what was learned was asked for")?;
        near("tau", &download(stream, &found.tau)?, &[learned.tau], 1e-6)?;
        let count = download(stream, &found.count)?[0] as usize;
        let (classes, steps) = (download(stream, &found.classes)?, download(stream, &found.steps)?);
        for (class, steps) in classes.into_iter().zip(steps).take(count) {
            let place = learned.classes.iter().position(|&other| other == class as usize);
            let expected = place.map(|place| learned.steps[place]).ok_or("a class of the batch")?;
            if steps != expected {
                return Err(format!("class {class}: {steps} steps, expected {expected}").into());
            }
        }
    }
    Ok(())
}
