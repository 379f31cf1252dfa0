//! Softmax cross-entropy on candle tensors.

use crate::host::{FLOATS, Rows, vector, wrap};
use crate::op::{Batch, apply};
use candle_core::{DType, Result, Tensor};
use logit_perturb::cpu::{self, CrossEntropyOutput, Pass};
use logit_perturb::{GradientSemantics, Reduction, RunningConfidence, Upstream};
use std::sync::Arc;

/// The integer dtypes, all of which widen to i64.
const INTEGERS: [DType; 5] = [DType::U8, DType::U32, DType::I16, DType::I32, DType::I64];

/// [`logit_perturb::CrossEntropy`] for candle tensors. A clone shares the problem.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use logit_perturb_candle::{CrossEntropy, logit_perturb};
///
/// let cross_entropy = CrossEntropy::new(logit_perturb::CrossEntropy::builder().label_smoothing(0.1).build()?);
/// let logits = Var::new(&[[2f32, 0.5, -1.0], [0.1, 0.2, 0.3]], &Device::Cpu)?;
/// let labels = Tensor::new(&[0u32, 2], &Device::Cpu)?;
/// let loss = cross_entropy.forward(&logits, &labels)?;
/// let gradients = loss.backward()?;
/// println!("{loss} {}", gradients.get(&logits).unwrap());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    problem: Arc<logit_perturb::CrossEntropy>,
}

/// A batch for [`CrossEntropy::forward_with`], but for its logits `[N, C]`: the tensors of
/// [`logit_perturb::cpu::CrossEntropyBatch`]. They are checked by `forward_with`.
#[derive(Debug)]
#[must_use]
pub struct CrossEntropyBatch<'a> {
    target: Target<Tensor, Tensor>,
    sample_weights: Option<Tensor>,
    perturbation: Option<Tensor>,
    running: Option<&'a mut RunningConfidence>,
}

#[derive(Debug)]
enum Target<L, S> {
    Labels(L),
    Soft(S),
}

impl<'a> CrossEntropyBatch<'a> {
    fn new(target: Target<Tensor, Tensor>) -> Self {
        Self { target, sample_weights: None, perturbation: None, running: None }
    }

    /// Hard labels `[N]` of an integer dtype (u8, u32, i16, i32, i64), which widen to i64. A row whose label is the
    /// problem's `ignore_index` counts for nothing.
    pub fn labels(labels: &Tensor) -> Self {
        Self::new(Target::Labels(labels.clone()))
    }

    /// Soft targets `[N, C]` of a float dtype (f16, bf16, f32, f64), each finite and `>= 0`. Label smoothing,
    /// perturbations that depend on the label and a learner exclude them.
    pub fn soft_targets(targets: &Tensor) -> Self {
        Self::new(Target::Soft(targets.clone()))
    }

    /// Sample weights `omega[N]` of a float dtype, each finite and `>= 0`. Default 1.
    pub fn sample_weights(mut self, weights: &Tensor) -> Self {
        self.sample_weights = Some(weights.clone());
        self
    }

    /// The perturbations `d[N, C]`, of a float dtype, that
    /// [`Perturbation::PerSample`](logit_perturb::Perturbation::PerSample) asks for.
    pub fn perturbation(mut self, perturbation: &Tensor) -> Self {
        self.perturbation = Some(perturbation.clone());
        self
    }

    /// Uses running confidences in place of the batch's own, and takes the batch's in: once, when the forward call
    /// succeeds. Backward does not touch them.
    pub fn running_confidence(mut self, running: &'a mut RunningConfidence) -> Self {
        self.running = Some(running);
        self
    }
}

impl CrossEntropy {
    /// The loss that `problem` states.
    pub fn new(problem: logit_perturb::CrossEntropy) -> Self {
        Self { problem: Arc::new(problem) }
    }

    /// What is computed.
    pub fn problem(&self) -> &logit_perturb::CrossEntropy {
        &self.problem
    }

    /// The loss for hard labels: [`forward_with`](Self::forward_with) without anything else.
    ///
    /// # Errors
    /// As [`forward_with`](Self::forward_with).
    pub fn forward(&self, logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
        self.forward_with(logits, CrossEntropyBatch::labels(labels))
    }

    /// The loss of a batch.
    ///
    /// Shapes: logits `[N, C]` of a float dtype (f16, bf16, f32, f64), the rest as [`CrossEntropyBatch`] says; loss
    /// `[]`, or `[N]` under [`Reduction::None`], f64 for f64 logits and else f32. `N` may be 0.
    ///
    /// # Errors
    /// A tensor that is not on the CPU, or of a dtype or shape other than the above; then whatever
    /// [`logit_perturb::cpu::cross_entropy`] refuses: labels, weights or soft targets out of range, options that
    /// exclude each other. Running confidences are untouched then.
    pub fn forward_with(&self, logits: &Tensor, batch: CrossEntropyBatch<'_>) -> Result<Tensor> {
        self.forward_with_output(logits, batch).map(|(loss, _)| loss)
    }

    /// The loss of a batch as [`forward_with`](Self::forward_with) gives it, and all else that this one pass has
    /// computed, in f64: losses, log-sum-exps and predictions of the rows, class statistics, the learned perturbation.
    ///
    /// # Errors
    /// As [`forward_with`](Self::forward_with).
    pub fn forward_with_output(
        &self,
        logits: &Tensor,
        batch: CrossEntropyBatch<'_>,
    ) -> Result<(Tensor, CrossEntropyOutput)> {
        let rows = Rows::new("logits", logits, &FLOATS)?;
        let like = |name, tensor: Option<Tensor>| tensor.map(|t| Rows::like(&rows, name, &t, &FLOATS)).transpose();
        let inputs = Inputs {
            problem: self.problem.clone(),
            target: match batch.target {
                Target::Labels(labels) => Target::Labels(vector("labels", &labels, &INTEGERS)?),
                Target::Soft(targets) => Target::Soft(Rows::like(&rows, "soft_targets", &targets, &FLOATS)?),
            },
            sample_weights: batch.sample_weights.map(|w| vector("sample_weights", &w, &FLOATS)).transpose()?,
            perturbation: like("perturbation", batch.perturbation)?,
            running: batch.running.as_deref().cloned(),
        };
        let (loss, (output, after)) = apply(inputs, logits, &rows)?;
        if let (Some(running), Some(after)) = (batch.running, after) {
            *running = after;
        }
        Ok((loss, output))
    }
}

/// A batch, checked, with its problem.
struct Inputs {
    problem: Arc<logit_perturb::CrossEntropy>,
    target: Target<Vec<i64>, Rows>,
    sample_weights: Option<Vec<f64>>,
    perturbation: Option<Rows>,
    /// The running confidences before this batch: a second evaluation must find what the first one found.
    running: Option<RunningConfidence>,
}

impl Batch for Inputs {
    type Output = (CrossEntropyOutput, Option<RunningConfidence>);
    const NAME: &'static str = "cross-entropy";

    fn reduction(&self) -> Reduction {
        self.problem.reduction()
    }

    fn couples_rows(&self) -> bool {
        self.problem.learner().is_some_and(|learner| learner.gradient_semantics() == GradientSemantics::Through)
    }

    fn evaluate(&self, pass: Pass<'_>, upstream: Upstream<'_>) -> Result<Self::Output> {
        let perturbation = self.perturbation.as_ref().map(Rows::lock);
        let mut running = self.running.clone();
        let soft;
        let mut batch = match &self.target {
            Target::Labels(labels) => cpu::CrossEntropyBatch::labels(labels),
            Target::Soft(targets) => {
                soft = targets.lock();
                cpu::CrossEntropyBatch::soft_targets(soft.matrix()?)
            }
        };
        if let Some(weights) = &self.sample_weights {
            batch = batch.sample_weights(weights);
        }
        if let Some(perturbation) = &perturbation {
            batch = batch.perturbation(perturbation.matrix()?);
        }
        if let Some(running) = &mut running {
            batch = batch.running_confidence(running);
        }
        let output = cpu::cross_entropy(&self.problem, pass, batch.upstream(upstream)).map_err(wrap)?;
        Ok((output, running))
    }

    fn losses(output: &Self::Output) -> (f64, &[f64]) {
        (output.0.loss, &output.0.loss_rows)
    }
}
