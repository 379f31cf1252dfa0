//! A CUDA device as a backend of the `check` example.

use super::{Backend, KernelOutput, kernel_batch, kernel_results};
use logit_perturb::cuda::{CrossEntropyOp, DeviceLabels, DeviceMatrix, DeviceMatrixMut, DevicePass, Kernels, Outputs};
use logit_perturb::cudarc::driver::CudaStream;
use logit_perturb_cases::{Case, Precision, Results};
use std::error::Error;
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

    fn run(&self, case: &Case, reference: &Results) -> Result<Results, Box<dyn Error>> {
        let batch = kernel_batch(case)?;
        let (n, c, stream) = (case.rows, case.classes, &self.stream);
        let outputs = Outputs::default().loss_rows();
        let mut op = CrossEntropyOp::new(&self.kernels, stream, batch.problem, c, n, outputs)?;
        // One element more than the batch has: an allocation of none is refused.
        let logits = stream.clone_htod(&[batch.logits.as_slice(), &[0.0]].concat())?;
        let labels = stream.clone_htod(&[batch.labels, &[0]].concat())?;
        let mut gradient = stream.clone_htod(&vec![f32::NAN; n * c + 1])?;
        let pass = DevicePass::Into {
            logits: DeviceMatrix::new(logits.slice(..n * c), n, c, c)?,
            gradient: DeviceMatrixMut::new(gradient.slice_mut(..n * c), n, c, c)?,
        };
        op.enqueue(pass, DeviceLabels::I64(labels.slice(..n)), case.upstream)?;
        op.check()?;
        let loss_rows = op.loss_rows().ok_or("the row losses were asked for and are not there")?;
        let mut output = KernelOutput {
            loss: stream.clone_dtoh(&op.loss())?[0],
            loss_rows: stream.clone_dtoh(&loss_rows)?,
            gradient: stream.clone_dtoh(&gradient)?,
        };
        output.loss_rows.truncate(n);
        output.gradient.truncate(n * c);
        Ok(kernel_results(case, reference, &batch, output))
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
        kernel_batch(case).err()
    }

    fn evaluate(&mut self, case: &Case, reference: &Results) -> Result<Results, String> {
        self.run(case, reference).map_err(|error| error.to_string())
    }
}
