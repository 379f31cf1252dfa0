//! Multi-label sigmoid cross-entropy on candle tensors.

use crate::host::{FLOATS, Rows, wrap};
use crate::op::{Batch, apply};
use candle_core::{DType, Result, Tensor};
use logit_perturb::cpu::{self, BinaryCrossEntropyOutput, Pass};
use logit_perturb::{BinaryStep, BinaryTargets, GradientSemantics, Mask, Reduction, Upstream};
use std::sync::Arc;

/// The dtypes of targets.
const TARGETS: [DType; 9] =
    [DType::U8, DType::U32, DType::I16, DType::I32, DType::I64, DType::F16, DType::BF16, DType::F32, DType::F64];

/// [`logit_perturb::BinaryCrossEntropy`] for candle tensors. A clone shares the problem.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use logit_perturb_candle::{BinaryCrossEntropy, logit_perturb};
///
/// let binary_cross_entropy = BinaryCrossEntropy::new(logit_perturb::BinaryCrossEntropy::default());
/// let logits = Var::new(&[[2f32, 0.5, -1.0], [0.1, 0.2, 0.3]], &Device::Cpu)?;
/// let targets = Tensor::new(&[[1u8, 0, 0], [0, 1, 1]], &Device::Cpu)?;
/// let loss = binary_cross_entropy.forward(&logits, &targets)?;
/// let gradients = loss.backward()?;
/// println!("{loss} {}", gradients.get(&logits).unwrap());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct BinaryCrossEntropy {
    problem: Arc<logit_perturb::BinaryCrossEntropy>,
}

/// A batch for [`BinaryCrossEntropy::forward_with`], but for its logits `[N, C]`: the tensors of
/// [`logit_perturb::cpu::BinaryCrossEntropyBatch`]. They are checked by `forward_with`.
#[derive(Clone, Debug)]
#[must_use]
pub struct BinaryCrossEntropyBatch {
    targets: Tensor,
    mask: Option<Tensor>,
    weights: Option<Tensor>,
}

impl BinaryCrossEntropyBatch {
    /// Targets `[N, C]`: hard ones, 0 or 1, of an integer dtype (u8, u32, i16, i32, i64), or soft ones in `[0, 1]` of a
    /// float dtype (f16, bf16, f32, f64). In the signed and the float dtypes -1 marks an unknown entry, which counts as
    /// masked.
    pub fn new(targets: &Tensor) -> Self {
        Self { targets: targets.clone(), mask: None, weights: None }
    }

    /// Which entries are known, `[N, C]` of u8: 0 masks an entry. A masked entry contributes nothing, whatever its
    /// logit, target or weight.
    pub fn mask(mut self, mask: &Tensor) -> Self {
        self.mask = Some(mask.clone());
        self
    }

    /// Entry weights `w[N, C]` of a float dtype, each finite and `>= 0` where the entry is not masked. Default 1.
    pub fn weights(mut self, weights: &Tensor) -> Self {
        self.weights = Some(weights.clone());
        self
    }
}

impl BinaryCrossEntropy {
    /// The loss that `problem` states.
    pub fn new(problem: logit_perturb::BinaryCrossEntropy) -> Self {
        Self { problem: Arc::new(problem) }
    }

    /// What is computed.
    pub fn problem(&self) -> &logit_perturb::BinaryCrossEntropy {
        &self.problem
    }

    /// The loss for targets: [`forward_with`](Self::forward_with) without anything else.
    ///
    /// # Errors
    /// As [`forward_with`](Self::forward_with).
    pub fn forward(&self, logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
        self.forward_with(logits, BinaryCrossEntropyBatch::new(targets))
    }

    /// The loss of a batch.
    ///
    /// Shapes: logits `[N, C]` of a float dtype (f16, bf16, f32, f64), the rest as [`BinaryCrossEntropyBatch`] says;
    /// loss `[]`, or `[N]` under [`Reduction::None`], f64 for f64 logits and else f32. `N` may be 0.
    ///
    /// # Errors
    /// A tensor that is not on the CPU, or of a dtype or shape other than the above; then whatever
    /// [`logit_perturb::cpu::binary_cross_entropy`] refuses: targets (with a learner: soft ones too) or weights out of
    /// range.
    pub fn forward_with(&self, logits: &Tensor, batch: BinaryCrossEntropyBatch) -> Result<Tensor> {
        self.forward_with_output(logits, batch).map(|(loss, _)| loss)
    }

    /// The loss of a batch as [`forward_with`](Self::forward_with) gives it, and all else that this one pass has
    /// computed, in f64: losses of the rows, class statistics, the learned perturbation.
    ///
    /// # Errors
    /// As [`forward_with`](Self::forward_with).
    pub fn forward_with_output(
        &self,
        logits: &Tensor,
        batch: BinaryCrossEntropyBatch,
    ) -> Result<(Tensor, BinaryCrossEntropyOutput)> {
        let rows = Rows::new("logits", logits, &FLOATS)?;
        let like = |name, tensor: Option<Tensor>, dtypes: &[DType]| {
            tensor.map(|t| Rows::like(&rows, name, &t, dtypes)).transpose()
        };
        let targets = Rows::like(&rows, "targets", &batch.targets, &TARGETS)?;
        let inputs = Inputs {
            problem: self.problem.clone(),
            // The core reads bytes and reals in place; f64 holds every other integer that can be a target.
            targets: match targets.dtype() {
                DType::U32 | DType::I16 | DType::I32 | DType::I64 => targets.to_dtype(DType::F64)?,
                _ => targets,
            },
            mask: like("mask", batch.mask, &[DType::U8])?,
            weights: like("weights", batch.weights, &FLOATS)?,
        };
        apply(inputs, logits, &rows)
    }
}

/// A batch, checked, with its problem.
struct Inputs {
    problem: Arc<logit_perturb::BinaryCrossEntropy>,
    targets: Rows,
    mask: Option<Rows>,
    weights: Option<Rows>,
}

impl Batch for Inputs {
    type Output = BinaryCrossEntropyOutput;
    const NAME: &'static str = "binary cross-entropy";

    fn reduction(&self) -> Reduction {
        self.problem.reduction()
    }

    /// Of the learners only the one of raw steps depends on the logits.
    fn couples_rows(&self) -> bool {
        self.problem.learner().is_some_and(|learner| {
            learner.step() == BinaryStep::Raw && learner.gradient_semantics() == GradientSemantics::Through
        })
    }

    fn evaluate(&self, pass: Pass<'_>, upstream: Upstream<'_>) -> Result<Self::Output> {
        let targets = self.targets.lock();
        let mask = self.mask.as_ref().map(Rows::lock);
        let weights = self.weights.as_ref().map(Rows::lock);
        let targets = if self.targets.dtype() == DType::U8 {
            let (data, stride) = targets.bytes()?;
            BinaryTargets::U8 { data, stride }
        } else {
            BinaryTargets::Dense(targets.matrix()?)
        };
        let mut batch = cpu::BinaryCrossEntropyBatch::new(targets).upstream(upstream);
        if let Some(mask) = &mask {
            let (data, stride) = mask.bytes()?;
            batch = batch.mask(Mask::Bytes { data, stride });
        }
        if let Some(weights) = &weights {
            batch = batch.weights(weights.matrix()?);
        }
        cpu::binary_cross_entropy(&self.problem, pass, batch).map_err(wrap)
    }

    fn losses(output: &Self::Output) -> (f64, &[f64]) {
        (output.loss, &output.loss_rows)
    }
}
