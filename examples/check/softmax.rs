//! Cross-entropy cases as the kernels take them, and on the emulated device.

use super::kernel_batch::{Output, logits, refused, single};
use super::learned::{Learned, LearnedClasses};
use logit_perturb::kernel::{DType, Limits, check_supported};
use logit_perturb::{CrossEntropy, Labels, Perturbation};
use logit_perturb_cases::Case;
use logit_perturb_emulator::{
    Beside, Emulator, Given, Gradient, LearnInputs, LearnOperation, Operation, Options, Rows,
};

/// A batch that the kernels take.
pub struct Batch<'a> {
    pub problem: &'a CrossEntropy,
    pub dtype: DType,
    pub rows: usize,
    pub classes: usize,
    /// Numbers that `dtype` holds.
    pub logits: Vec<f32>,
    /// Empty where targets are soft.
    pub labels: &'a [i64],
    pub soft_targets: Option<Vec<f32>>,
    pub sample_weights: Option<Vec<f32>>,
    /// Of a perturbation per sample.
    pub perturbation: Option<Vec<f32>>,
    pub upstream: f64,
}

impl<'a> Batch<'a> {
    /// The batch of a case, or what about it the kernels do not have.
    pub fn new(case: &'a Case, problem: &'a CrossEntropy) -> Result<Self, String> {
        check_supported(problem).map_err(refused)?;
        let (dtype, logits) = logits(case)?;
        let input = |name| case.input(name).map(|data| single(&data));
        Ok(Self {
            problem,
            dtype,
            rows: case.rows,
            classes: case.classes,
            logits,
            labels: case.labels().unwrap_or_default(),
            soft_targets: input("soft_targets"),
            sample_weights: input("sample_weights"),
            // Other forms are the problem's own.
            perturbation: input("perturbation").filter(|_| *problem.perturbation() == Perturbation::PerSample),
            upstream: case.upstream,
        })
    }

    /// Computes it on the emulated device.
    pub fn run_emulated(&self, limits: Limits) -> Result<Output, String> {
        let mut emulator = Emulator::new(Options::default());
        let rows = Rows { stride: self.classes, offset: 0 };
        let on_device = logit_perturb_emulator::Batch {
            dtype: self.dtype,
            soft_targets: self.beside(&self.soft_targets),
            sample_weights: self.sample_weights.as_deref(),
            perturbation: self.beside(&self.perturbation),
            gradient: Gradient::Into(rows),
            upstream: Given::Host(self.upstream),
            ..logit_perturb_emulator::Batch::new(&self.logits, self.classes, Labels::I64(self.labels), limits)
        };
        let (outcome, learned) = if self.problem.learner().is_some() {
            let operation = LearnOperation::new(&mut emulator, self.problem, &on_device, LearnInputs::default());
            let outcome = operation.run(&mut emulator).map_err(|faults| faults.to_string())?;
            (outcome.outcome.clone(), Some(Learned::Classes(LearnedClasses::of_emulated(outcome))))
        } else {
            let operation = Operation::new(&mut emulator, self.problem, &on_device);
            (operation.run(&mut emulator).map_err(|faults| faults.to_string())?, None)
        };
        Ok(Output { loss: outcome.loss, loss_rows: outcome.loss_rows, gradient: outcome.gradient, learned })
    }

    fn beside<'b>(&self, data: &'b Option<Vec<f32>>) -> Option<Beside<'b>> {
        data.as_ref().map(|data| Beside { data, wide: true, stride: self.classes })
    }
}
