//! What a batch brings beside its logits and may be wrong: a typed error by name, before anything is launched.

use crate::batch::{Batch, dense};
use crate::device::{Device, Placed, download, upload};
use crate::errors::{expect, is_conflict, is_shape, is_value};
use libtest_mimic::Failed;
use logit_perturb::cuda::{
    BinaryCrossEntropyOp, BinarySetup, CrossEntropyOp, DeviceBatch, DeviceBinaryBatch, DeviceLabels, DeviceMatrix,
    DeviceMatrixMut, DeviceOperand, DevicePass, DeviceScalar, DeviceTargets, DeviceUpstream, Setup,
};
use logit_perturb::loss::BinaryCrossEntropyBuilder;
use logit_perturb::{
    BinaryCrossEntropy, BinaryLearner, BinaryPerturbation, BinaryStep, Bound, CrossEntropy, Error, Perturbation,
    Reduction, Split,
};
use logit_perturb_emulator::Gradient;

type Op = CrossEntropyOp<f32>;
type Kind = fn(&Error) -> bool;

pub fn of_a_batch() -> Result<(), Failed> {
    let device = Device::get();
    let stream = &device.stream;
    let (rows, c) = (9, 10);
    let good = Batch::random(rows, c, 1);
    let logits = Placed::<f32>::new(stream, Some(&good.logits), (rows, c), dense(c))?;
    let labels = upload(stream, &good.labels)?;
    let numbers = upload(stream, &vec![0.5f32; 4 * rows * c])?;
    let list = |length| numbers.slice(..length);
    let matrix =
        |rows: usize, c: usize| DeviceMatrix::new(numbers.slice(..rows * c), rows, c, c).map(DeviceOperand::<f32>::F32);
    let batch = || DeviceBatch::labels(DeviceLabels::I64(labels.slice(..rows)));
    let operation = |form, reduction, setup: Setup| -> Result<Op, Failed> {
        let problem = CrossEntropy::builder().perturbation(form).reduction(reduction).build()?;
        device.operation(&problem, setup)
    };
    let setup = Setup::new(c, rows);
    let refuse = |op: &mut Op, batch: DeviceBatch<'_, f32>, kind: Kind, about: &str| {
        expect(op.enqueue(DevicePass::Forward(logits.view()?), batch), kind, about)
    };

    let plain = &mut operation(Perturbation::None, Reduction::Mean, setup)?;
    refuse(plain, batch().sample_weights(list(rows + 1)), is_shape, "sample_weights")?;
    refuse(plain, batch().class_weights(list(c - 1)), is_shape, "class_weights")?;
    refuse(plain, batch().perturbation(list(c)), is_conflict, "another form")?;
    refuse(plain, batch().perturbation_matrix(matrix(rows, c)?), is_conflict, "another form")?;
    refuse(plain, DeviceBatch::soft_targets(matrix(rows, c)?), is_conflict, "Setup::soft_targets")?;
    refuse(plain, batch().divisor(2.0), is_conflict, "Reduction::Divisor")?;
    refuse(plain, batch().divisor(DeviceScalar::Device(list(1))), is_conflict, "Reduction::Divisor")?;
    let upstream = |scalar| batch().upstream(DeviceUpstream::Scalar(scalar));
    refuse(plain, upstream(f64::NAN.into()), is_value, "upstream")?;
    refuse(plain, upstream(DeviceScalar::Device(list(2))), is_shape, "upstream")?;
    refuse(plain, batch().upstream(DeviceUpstream::Rows(list(rows))), is_conflict, "Reduction::None")?;

    let soft = &mut operation(Perturbation::None, Reduction::Mean, setup.soft_targets())?;
    refuse(soft, batch(), is_conflict, "set up for soft targets")?;
    refuse(soft, DeviceBatch::soft_targets(matrix(rows - 1, c)?), is_shape, "soft_targets")?;
    refuse(soft, DeviceBatch::soft_targets(matrix(rows, c + 1)?), is_shape, "soft_targets")?;

    let each = &mut operation(Perturbation::None, Reduction::None, setup)?;
    refuse(each, batch().upstream(DeviceUpstream::Rows(list(rows - 1))), is_shape, "upstream")?;

    let divided = &mut operation(Perturbation::None, Reduction::Divisor(2.0), setup)?;
    for value in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        refuse(divided, batch().divisor(value), is_value, "divisor")?;
    }
    refuse(divided, batch().divisor(DeviceScalar::Device(list(2))), is_shape, "divisor")?;

    let shared = &mut operation(Perturbation::Shared(vec![0.0; c]), Reduction::Mean, setup)?;
    refuse(shared, batch().perturbation(list(c + 1)), is_shape, "perturbation")?;
    refuse(shared, batch().perturbation_matrix(matrix(c, c)?), is_conflict, "another form")?;
    let margin = &mut operation(Perturbation::TargetMargin(vec![0.0; c]), Reduction::Mean, setup)?;
    refuse(margin, batch().perturbation(list(c - 1)), is_shape, "perturbation")?;
    let by_class = &mut operation(Perturbation::ClassMatrix(vec![0.0; c * c]), Reduction::Mean, setup)?;
    refuse(by_class, batch().perturbation(list(c)), is_conflict, "another form")?;
    refuse(by_class, batch().perturbation_matrix(matrix(rows, c)?), is_shape, "perturbation")?;
    let by_sample = &mut operation(Perturbation::PerSample, Reduction::Mean, setup)?;
    refuse(by_sample, batch(), is_conflict, "must bring d[N, C]")?;
    refuse(by_sample, batch().perturbation_matrix(matrix(c, c)?), is_shape, "perturbation")?;

    // Nothing of all that was launched or recorded, and the operations work on.
    for op in [plain, soft, each, divided, shared, margin, by_class, by_sample] {
        op.check()?;
        if crate::device::download(stream, &op.loss())?[0].to_bits() != 0 {
            return Err("something was launched".into());
        }
    }
    let mut op = good.operation::<f32>(device)?;
    good.compare(&good.run(device, &mut op, dense(c), Gradient::InPlace)?)
}

/// Multi-label numbers of the classes from the batch are what they would be from the problem; a learned perturbation adds to them.
pub fn class_vectors_of_a_batch() -> Result<(), Failed> {
    let device = Device::get();
    let stream = &device.stream;
    let (n, c) = (33, 40);
    let numbers = |from: f64| -> Vec<f64> { (0..c).map(|k| from + k as f64 / 64.0).collect() };
    let (pos_weight, beta, dpos, dneg) = (numbers(0.5), numbers(-0.25), numbers(0.125), numbers(-0.5));
    let learner =
        || BinaryLearner::new(BinaryStep::Raw, 0.25, Split::Confidence { tau: 0.4 }, Bound::Fixed { eps: 1.0 });
    let vectors = BinaryPerturbation::none().offset(beta.clone()).positive(dpos.clone()).negative(dneg.clone());
    let given = BinaryCrossEntropy::builder().pos_weight(pos_weight.clone()).perturbation(vectors);
    let single = |numbers: &[f64]| stream.clone_htod(&numbers.iter().map(|&x| x as f32).collect::<Vec<_>>());
    let [pos_weight, beta, dpos, dneg] = [single(&pos_weight)?, single(&beta)?, single(&dpos)?, single(&dneg)?];
    let logits = stream.clone_htod(&(0..n * c).map(|i| (i * 37 % 101) as f32 / 16.0 - 3.0).collect::<Vec<f32>>())?;
    let targets = stream.clone_htod(&(0..n * c).map(|i| i8::from(i % 3 == 0)).collect::<Vec<i8>>())?;
    for learns in [false, true] {
        let problem = |builder: BinaryCrossEntropyBuilder| match learns {
            true => builder.learner(learner()?).build(),
            false => builder.build(),
        };
        let mut found = Vec::new();
        for from_batch in [false, true] {
            let builder = if from_batch { BinaryCrossEntropy::builder() } else { given.clone() };
            let setup = BinarySetup::new(c, n).loss_rows();
            let mut op = BinaryCrossEntropyOp::<f32>::new(&device.kernels, stream, &problem(builder)?, setup)?;
            let mut batch = DeviceBinaryBatch::new(DeviceTargets::I8(DeviceMatrix::new(targets.as_view(), n, c, c)?));
            if from_batch {
                batch = batch.pos_weight(pos_weight.as_view()).offset(beta.as_view());
                batch = batch.positive(dpos.as_view()).negative(dneg.as_view());
            }
            let mut gradient = logits.clone();
            let pass = DevicePass::InPlace(DeviceMatrixMut::new(gradient.as_view_mut(), n, c, c)?);
            op.enqueue(pass, batch)?;
            op.check()?;
            let rows = op.loss_rows().ok_or("row losses were asked for")?;
            let bits = |numbers: Vec<f32>| numbers.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            found.push((bits(download(stream, &rows)?), bits(download(stream, &gradient)?)));
        }
        if found[0] != found[1] {
            return Err(format!("learning: {learns}: not the same bits").into());
        }
    }
    Ok(())
}
