//! Cross-entropy cases on a CUDA device.

use super::kernel_batch::Output;
use super::learned::{Learned, LearnedClasses};
use super::softmax::Batch;
use logit_perturb::cuda::{
    CrossEntropyOp, DeviceBatch, DeviceElement, DeviceLabels, DeviceMatrix, DeviceMatrixMut, DeviceOperand, DevicePass,
    DeviceUpstream, Kernels, Outputs, Setup,
};
use logit_perturb::cudarc::driver::{CudaSlice, CudaStream};
use logit_perturb::half::{bf16, f16};
use logit_perturb::kernel::DType;
use std::error::Error;
use std::sync::Arc;

/// Computes a batch.
pub fn run(batch: &Batch<'_>, kernels: &Kernels, stream: &Arc<CudaStream>) -> Result<Output, Box<dyn Error>> {
    match batch.dtype {
        DType::F32 => run_as::<f32>(batch, kernels, stream),
        DType::F16 => run_as::<f16>(batch, kernels, stream),
        DType::BF16 => run_as::<bf16>(batch, kernels, stream),
    }
}

fn dense<T>(data: &CudaSlice<T>, rows: usize, columns: usize) -> logit_perturb::Result<DeviceMatrix<'_, T>> {
    DeviceMatrix::new(data.slice(..rows * columns), rows, columns, columns)
}

fn run_as<T: DeviceElement>(
    batch: &Batch<'_>,
    kernels: &Kernels,
    stream: &Arc<CudaStream>,
) -> Result<Output, Box<dyn Error>> {
    let (n, c) = (batch.rows, batch.classes);
    let outputs = Outputs::default().loss_rows();
    let outputs = if batch.problem.learner().is_some() { outputs.learned() } else { outputs };
    let mut setup = Setup::new(c, n).outputs(outputs);
    if batch.soft_targets.is_some() {
        setup = setup.soft_targets();
    }
    let mut op = CrossEntropyOp::<T>::new(kernels, stream, batch.problem, setup)?;
    // One element more than the batch has: an allocation of none is refused.
    let upload = |data: &[f32]| stream.clone_htod(&[data, &[0.0]].concat());
    let upload_if = |data: &Option<Vec<f32>>| data.as_deref().map(upload).transpose();
    let numbers: Vec<T> = batch.logits.iter().chain(&[0.0]).map(|&x| T::round(x.into())).collect();
    let logits = stream.clone_htod(&numbers)?;
    let mut gradient = stream.clone_htod(&vec![T::round(f64::NAN); n * c + 1])?;
    let labels = stream.clone_htod(&[batch.labels, &[0]].concat())?;
    let soft_targets = upload_if(&batch.soft_targets)?;
    let weights = upload_if(&batch.sample_weights)?;
    let perturbation = upload_if(&batch.perturbation)?;
    let mut on_device = match &soft_targets {
        Some(targets) => DeviceBatch::soft_targets(DeviceOperand::F32(dense(targets, n, c)?)),
        None => DeviceBatch::labels(DeviceLabels::I64(labels.slice(..n))),
    };
    if let Some(weights) = &weights {
        on_device = on_device.sample_weights(weights.slice(..n));
    }
    if let Some(perturbation) = &perturbation {
        on_device = on_device.perturbation_matrix(DeviceOperand::F32(dense(perturbation, n, c)?));
    }
    let pass = DevicePass::Into {
        logits: dense(&logits, n, c)?,
        gradient: DeviceMatrixMut::new(gradient.slice_mut(..n * c), n, c, c)?,
    };
    op.enqueue(pass, on_device.upstream(DeviceUpstream::Scalar(batch.upstream.into())))?;
    op.check()?;
    let loss_rows = op.loss_rows().ok_or("the row losses were asked for and are not there")?;
    let gradient = stream.clone_dtoh(&gradient)?;
    let learned = match op.learned() {
        None => None,
        Some(views) => {
            let p = stream.clone_dtoh(&views.count)?[0] as usize;
            let mut learned = LearnedClasses {
                classes: stream.clone_dtoh(&views.classes)?,
                delta: stream.clone_dtoh(&views.delta)?,
                direction: stream.clone_dtoh(&views.direction)?,
                steps: stream.clone_dtoh(&views.steps)?,
                confidence: stream.clone_dtoh(&views.confidence)?,
                tau: stream.clone_dtoh(&views.tau)?[0],
            };
            learned.classes.truncate(p);
            learned.delta.truncate(p * c);
            learned.direction.truncate(p);
            learned.steps.truncate(p);
            learned.confidence.truncate(p);
            Some(Learned::Classes(learned))
        }
    };
    Ok(Output {
        learned,
        loss: stream.clone_dtoh(&op.loss())?[0],
        loss_rows: stream.clone_dtoh(&loss_rows.slice(..n))?,
        gradient: gradient[..n * c].iter().map(|x| x.widen() as f32).collect(),
    })
}
