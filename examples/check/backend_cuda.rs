//! A CUDA device as a backend of the `check` example.

use super::kernel_batch::KernelBatch;
use super::{Backend, sigmoid_cuda, softmax_cuda};
use logit_perturb::cuda::Kernels;
use logit_perturb::cudarc::driver::CudaStream;
use logit_perturb_cases::{Case, Precision, Results};
use std::sync::Arc;

/// The first CUDA device.
pub struct Cuda {
    kernels: Arc<Kernels>,
    stream: Arc<CudaStream>,
}

impl Cuda {
    /// Opens the device.
    pub fn open() -> logit_perturb::Result<Self> {
        let kernels = Kernels::open(0)?;
        let stream = kernels.context().default_stream();
        Ok(Self { kernels, stream })
    }
}

impl Backend for Cuda {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn precision(&self) -> Precision {
        Precision::F32
    }

    fn uncovered(&self, case: &Case) -> Option<String> {
        KernelBatch::new(case).err()
    }

    fn evaluate(&mut self, case: &Case, reference: &Results) -> Result<Results, String> {
        let batch = KernelBatch::new(case)?;
        let output = match &batch {
            KernelBatch::Softmax(batch) => softmax_cuda::run(batch, &self.kernels, &self.stream),
            KernelBatch::Sigmoid(batch) => sigmoid_cuda::run(batch, &self.kernels, &self.stream),
        };
        Ok(batch.results(case, output.map_err(|error| error.to_string())?, reference))
    }
}
