//! The CUDA kernels on the emulated device as a backend of the `check` example.

use super::{Backend, KernelOutput, kernel_batch, kernel_results};
use logit_perturb::Labels;
use logit_perturb::kernel::Limits;
use logit_perturb_cases::{Case, Precision, Results};
use logit_perturb_emulator::{Batch, Emulator, Gradient, Operation, Options, Rows};

/// The emulated device, a new one a case.
pub struct Emulated;

/// A device small enough that a case of 64 rows takes several tiles a block.
const LIMITS: Limits = Limits {
    multiprocessors: 2,
    shared_memory: 4096,
    resident_threads: 128,
    resident_blocks: 1,
    block_threads: 128,
    labels_in_block: 40,
};

impl Backend for Emulated {
    fn name(&self) -> &'static str {
        "emulated"
    }

    fn precision(&self) -> Precision {
        Precision::F32
    }

    fn uncovered(&self, case: &Case) -> Option<String> {
        kernel_batch(case).err()
    }

    fn evaluate(&mut self, case: &Case, reference: &Results) -> Result<Results, String> {
        let batch = kernel_batch(case)?;
        let mut emulator = Emulator::new(Options::default());
        let rows = Rows { stride: case.classes, offset: 0 };
        let on_device = Batch {
            logits: &batch.logits,
            classes: case.classes,
            labels: Labels::I64(batch.labels),
            rows,
            gradient: Gradient::Into(rows),
            upstream: case.upstream,
            limits: LIMITS,
        };
        let operation = Operation::new(&mut emulator, batch.problem, &on_device);
        let outcome = operation.run(&mut emulator).map_err(|faults| faults.to_string())?;
        // An operation's device memory has a row even where the batch has none.
        let mut gradient = outcome.gradient;
        gradient.truncate(case.rows * case.classes);
        let output = KernelOutput { loss: outcome.loss, loss_rows: outcome.loss_rows, gradient };
        Ok(kernel_results(case, reference, &batch, output))
    }
}
