//! The CUDA kernels on the emulated device as a backend of the `check` example.

use super::Backend;
use super::kernel_batch::KernelBatch;
use logit_perturb::kernel::Limits;
use logit_perturb_cases::{Case, Precision, Results};

/// The emulated device, a new one a case.
pub struct Emulated;

/// A device small enough that a case of 64 rows takes several tiles a block, and several chunks.
const LIMITS: Limits = Limits {
    multiprocessors: 2,
    shared_memory: 4096,
    row_shared: 4096,
    multiprocessor_shared: 8192,
    cluster: 2,
    resident_threads: 128,
    resident_blocks: 1,
    block_threads: 128,
    labels_in_block: 40,
    chunks: 4,
};

impl Backend for Emulated {
    fn name(&self) -> &'static str {
        "emulated"
    }

    fn precision(&self) -> Precision {
        Precision::F32
    }

    fn uncovered(&self, case: &Case) -> Option<String> {
        KernelBatch::new(case).err()
    }

    fn evaluate(&mut self, case: &Case, reference: &Results) -> Result<Results, String> {
        let batch = KernelBatch::new(case)?;
        Ok(batch.results(case, batch.run_emulated(LIMITS)?, reference))
    }
}
