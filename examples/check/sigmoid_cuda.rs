//! Multi-label cases on a CUDA device.

use super::kernel_batch::Output;
use super::learned::{Learned, LearnedSign};
use super::sigmoid::Batch;
use logit_perturb::cuda::{
    BinaryCrossEntropyOp, BinarySetup, DeviceBinaryBatch, DeviceElement, DeviceMatrix, DeviceMatrixMut, DeviceOperand,
    DevicePass, DeviceTargets, DeviceUpstream, Kernels, LearnedSignViews,
};
use logit_perturb::cudarc::driver::{CudaStream, ValidAsZeroBits};
use logit_perturb::half::{bf16, f16};
use logit_perturb::kernel::DType;
use std::error::Error;
use std::sync::Arc;

/// Computes a batch.
pub fn run(batch: &Batch<'_>, kernels: &Kernels, stream: &Arc<CudaStream>) -> Result<Output, Box<dyn Error>> {
    match batch.dtype {
        DType::F32 => run_as(batch, kernels, stream, |x| x, |x| x),
        DType::F16 => run_as(batch, kernels, stream, f16::from_f32, f16::to_f32),
        DType::BF16 => run_as(batch, kernels, stream, bf16::from_f32, bf16::to_f32),
    }
}

fn run_as<T: DeviceElement + ValidAsZeroBits>(
    batch: &Batch<'_>,
    kernels: &Kernels,
    stream: &Arc<CudaStream>,
    narrow: fn(f32) -> T,
    wide: fn(T) -> f32,
) -> Result<Output, Box<dyn Error>> {
    let (n, c) = (batch.rows, batch.classes);
    let setup = BinarySetup::new(c, n).loss_rows();
    let setup = if batch.problem.learner().is_some() { setup.learned() } else { setup };
    let mut op = BinaryCrossEntropyOp::<T>::new(kernels, stream, batch.problem, setup)?;
    // One element more than the batch has: an allocation of none is refused.
    let upload = |data: &[f32]| stream.clone_htod(&[data, &[0.0]].concat());
    let logits: Vec<T> = batch.logits.iter().chain(&[0.0]).map(|&x| narrow(x)).collect();
    let logits = stream.clone_htod(&logits)?;
    let mut gradient = stream.clone_htod(&vec![narrow(f32::NAN); n * c + 1])?;
    let targets = upload(&batch.targets)?;
    let weights = batch.weights.as_deref().map(upload).transpose()?;
    let matrix = |data| DeviceMatrix::new(data, n, c, c).map(DeviceOperand::F32);
    let mut on_device = DeviceBinaryBatch::new(DeviceTargets::Dense(matrix(targets.slice(..n * c))?));
    if let Some(weights) = &weights {
        on_device = on_device.weights(matrix(weights.slice(..n * c))?);
    }
    let pass = DevicePass::Into {
        logits: DeviceMatrix::new(logits.slice(..n * c), n, c, c)?,
        gradient: DeviceMatrixMut::new(gradient.slice_mut(..n * c), n, c, c)?,
    };
    op.enqueue(pass, on_device.upstream(DeviceUpstream::Scalar(batch.upstream.into())))?;
    op.check()?;
    let loss_rows = op.loss_rows().ok_or("the row losses were asked for and are not there")?;
    let sign = |views: LearnedSignViews<'_>| {
        let (delta, steps) = (stream.clone_dtoh(&views.delta)?, stream.clone_dtoh(&views.steps)?);
        Ok::<_, Box<dyn Error>>(LearnedSign { delta, steps })
    };
    let learned = match op.learned() {
        None => None,
        Some(views) => Some(Learned::Signs([sign(views.positive)?, sign(views.negative)?])),
    };
    Ok(Output {
        loss: stream.clone_dtoh(&op.loss())?[0],
        loss_rows: stream.clone_dtoh(&loss_rows)?,
        gradient: stream.clone_dtoh(&gradient)?.into_iter().map(wide).collect(),
        learned,
    })
}
