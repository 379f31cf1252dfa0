//! The loop on a CUDA device: two matrix products by cuBLAS and our loss between them, captured once, replayed for every batch.

use crate::digits::{BATCH, CLASSES, FEATURES, first_weights};
use crate::{RATE, Trainer};
use anyhow::{Context, ensure};
use cudarc::cublas::{CudaBlas, Gemm, GemmConfig, sys::cublasOperation_t};
use cudarc::driver::{CudaGraph, CudaSlice, CudaStream, sys};
use logit_perturb::CrossEntropy;
use logit_perturb::cuda::{
    CapturedWorkspace, CrossEntropyOp, DeviceLabels, DeviceMatrixMut, DevicePass, Kernels, Setup,
};
use logit_perturb::cudarc;
use std::sync::Arc;

/// Weights, one batch and one step's graph on the device.
pub struct Gpu {
    stream: Arc<CudaStream>,
    step: CudaGraph,
    weights: CudaSlice<f32>,
    features: CudaSlice<f32>,
    labels: CudaSlice<i32>,
    operation: CrossEntropyOp<f32>,
    // What the graph uses lives as long as it may run.
    _workspace: CapturedWorkspace,
    _logits: CudaSlice<f32>,
    _blas: CudaBlas,
}

impl Gpu {
    /// Allocates, prepares the loss and captures the step.
    pub fn new(kernels: &Kernels, problem: &CrossEntropy) -> anyhow::Result<Self> {
        // SAFETY: asks only whether the library can be loaded.
        ensure!(unsafe { cudarc::cublas::sys::is_culib_present() }, "the cuBLAS library cannot be loaded");
        // SAFETY: one stream does all the work here, so there is nothing for events to order; a capture refuses them.
        unsafe { kernels.context().disable_event_tracking() };
        let stream = kernels.context().new_stream()?;
        let blas = CudaBlas::new(stream.clone())?;
        let mut weights = stream.clone_htod(&first_weights())?;
        let features = stream.alloc_zeros::<f32>(BATCH * FEATURES)?;
        let labels = stream.alloc_zeros::<i32>(BATCH)?;
        let mut logits = stream.alloc_zeros::<f32>(BATCH * CLASSES)?;
        let mut operation = CrossEntropyOp::new(kernels, &stream, problem, Setup::new(CLASSES, BATCH))?;

        // cuBLAS allocates on its first product: that one is not captured.
        multiply(&blas, &features, &weights, &mut logits)?;
        stream.synchronize()?;
        stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL)?;
        multiply(&blas, &features, &weights, &mut logits)?;
        let matrix = DeviceMatrixMut::new(logits.as_view_mut(), BATCH, CLASSES, CLASSES)?;
        operation.enqueue(DevicePass::InPlace(matrix), DeviceLabels::I32(labels.as_view()))?;
        descend(&blas, &features, &logits, &mut weights)?;
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let step = stream.end_capture(flags)?.context("the step was not captured")?;

        let workspace = operation.captured_workspace();
        Ok(Self {
            stream,
            step,
            weights,
            features,
            labels,
            operation,
            _workspace: workspace,
            _logits: logits,
            _blas: blas,
        })
    }
}

/// logits = features * weights. cuBLAS is column-major: it sees the transposes of these row-major matrices.
fn multiply(
    blas: &CudaBlas,
    features: &CudaSlice<f32>,
    weights: &CudaSlice<f32>,
    logits: &mut CudaSlice<f32>,
) -> anyhow::Result<()> {
    let config = GemmConfig {
        transa: cublasOperation_t::CUBLAS_OP_N,
        transb: cublasOperation_t::CUBLAS_OP_N,
        m: CLASSES as i32,
        n: BATCH as i32,
        k: FEATURES as i32,
        alpha: 1.0,
        lda: CLASSES as i32,
        ldb: FEATURES as i32,
        beta: 0.0,
        ldc: CLASSES as i32,
    };
    // SAFETY: the sizes are those of the buffers.
    unsafe { blas.gemm(config, weights, features, logits) }.map_err(Into::into)
}

/// weights -= RATE * features^T * gradient.
fn descend(
    blas: &CudaBlas,
    features: &CudaSlice<f32>,
    gradient: &CudaSlice<f32>,
    weights: &mut CudaSlice<f32>,
) -> anyhow::Result<()> {
    let config = GemmConfig {
        transa: cublasOperation_t::CUBLAS_OP_N,
        transb: cublasOperation_t::CUBLAS_OP_T,
        m: CLASSES as i32,
        n: FEATURES as i32,
        k: BATCH as i32,
        alpha: -RATE,
        lda: CLASSES as i32,
        ldb: FEATURES as i32,
        beta: 1.0,
        ldc: CLASSES as i32,
    };
    // SAFETY: the sizes are those of the buffers.
    unsafe { blas.gemm(config, gradient, features, weights) }.map_err(Into::into)
}

impl Trainer for Gpu {
    fn epoch(&mut self, features: &[f32], labels: &[i32]) -> anyhow::Result<f32> {
        let (all_features, all_labels) = (self.stream.clone_htod(features)?, self.stream.clone_htod(labels)?);
        for step in 0..labels.len() / BATCH {
            let (rows, numbers) =
                (step * BATCH..(step + 1) * BATCH, step * BATCH * FEATURES..(step + 1) * BATCH * FEATURES);
            self.stream.memcpy_dtod(&all_features.slice(numbers), &mut self.features)?;
            self.stream.memcpy_dtod(&all_labels.slice(rows), &mut self.labels)?;
            self.step.launch()?;
        }
        // The only wait of the epoch, and where a bad label would be reported.
        self.operation.check()?;
        Ok(self.stream.clone_dtoh(&self.operation.loss())?[0])
    }

    fn weights(&self) -> anyhow::Result<Vec<f32>> {
        Ok(self.stream.clone_dtoh(&self.weights)?)
    }
}
