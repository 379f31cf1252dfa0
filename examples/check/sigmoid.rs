//! Multi-label cases as the kernels take them, and on the emulated device.

use super::kernel_batch::{Output, logits, refused, single};
use super::learned::Learned;
use logit_perturb::BinaryCrossEntropy;
use logit_perturb::kernel::binary::check_binary_supported;
use logit_perturb::kernel::{DType, Limits};
use logit_perturb_cases::Case;
use logit_perturb_emulator::{
    Beside, BinaryBatch, BinaryOperation, DeviceTargets, Emulator, Given, Gradient, Options, Rows,
};

/// A batch that the kernels take.
pub struct Batch<'a> {
    pub problem: &'a BinaryCrossEntropy,
    pub dtype: DType,
    pub rows: usize,
    pub classes: usize,
    /// Numbers that `dtype` holds.
    pub logits: Vec<f32>,
    /// -1 where unknown.
    pub targets: Vec<f32>,
    /// Of the entries.
    pub weights: Option<Vec<f32>>,
    pub upstream: f64,
}

impl<'a> Batch<'a> {
    /// The batch of a case, or what about it the kernels do not have.
    pub fn new(case: &'a Case, problem: &'a BinaryCrossEntropy) -> Result<Self, String> {
        check_binary_supported(problem).map_err(refused)?;
        let (dtype, logits) = logits(case)?;
        Ok(Self {
            problem,
            dtype,
            rows: case.rows,
            classes: case.classes,
            logits,
            targets: single(&case.input("targets").ok_or("no targets")?),
            weights: case.input("weights").map(|weights| single(&weights)),
            upstream: case.upstream,
        })
    }

    /// Computes it on the emulated device.
    pub fn run_emulated(&self, limits: Limits) -> Result<Output, String> {
        let mut emulator = Emulator::new(Options::default());
        let rows = Rows { stride: self.classes, offset: 0 };
        let beside = |data| Beside { data, wide: true, stride: self.classes };
        let on_device = BinaryBatch {
            dtype: self.dtype,
            logits: &self.logits,
            classes: self.classes,
            targets: DeviceTargets::Floats(beside(&self.targets)),
            mask: None,
            weights: self.weights.as_deref().map(beside),
            rows,
            gradient: Gradient::Into(rows),
            statistics: false,
            upstream: Given::Host(self.upstream),
            divisor: None,
            data_parallel: false,
            limits,
        };
        let operation = BinaryOperation::new(&mut emulator, self.problem, &on_device);
        let outcome = operation.run(&mut emulator).map_err(|faults| faults.to_string())?;
        let learned = outcome.learned.map(Learned::of_emulated_signs);
        Ok(Output { loss: outcome.loss, loss_rows: outcome.loss_rows, gradient: outcome.gradient, learned })
    }
}
