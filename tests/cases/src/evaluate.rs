//! Evaluates a case on the CPU reference; the results carry the names of the expectations.

use crate::{Case, CaseError, Problem, Tensor};
use logit_perturb::cpu::{self, BinaryCrossEntropyBatch, CrossEntropyBatch, CrossEntropyOutput, Pass};
use logit_perturb::{BinaryStep, Matrix, MatrixMut, Perturbation, Reduction, Upstream};
use std::collections::BTreeMap;

/// What a backend computed, by the names of the expectations without `expect.`.
#[derive(Clone, Debug)]
pub struct Results {
    /// The tensors: floating-point ones as f64.
    pub tensors: BTreeMap<&'static str, Tensor>,
    /// All of cross-entropy's numbers, with those that are no expectation of a file; `None` for sigmoid.
    pub cross_entropy: Option<CrossEntropyOutput>,
    /// What the tolerances need beside them.
    pub(crate) scale: crate::scale::Scale,
}

impl Results {
    /// What another backend computed for the same case.
    #[must_use]
    pub fn with_tensors(&self, tensors: BTreeMap<&'static str, Tensor>) -> Self {
        Self { tensors, ..self.clone() }
    }
}

/// Evaluates a case with the f64 reference.
///
/// # Errors
/// [`CaseError`] where the batch does not fit the problem.
pub fn evaluate_cpu(case: &Case) -> Result<Results, CaseError> {
    let (n, c) = (case.rows, case.classes);
    let logits = case.inputs.floats("logits", &[n, c])?;
    let mut gradient = vec![0.0; n * c];
    let pass = Pass::Into { logits: Matrix::new(&logits, n, c)?, gradient: MatrixMut::new(&mut gradient, n, c)? };
    let mut tensors = BTreeMap::new();
    let (loss, loss_rows, reduction);
    let mut cross_entropy = None;
    let mut scale;
    let upstream = match &case.upstream_rows {
        None => Upstream::Scalar(case.upstream),
        Some(rows) => Upstream::Rows(rows),
    };
    match &case.problem {
        Problem::Softmax(problem) => {
            let labels = if case.inputs.has("labels") { Some(case.inputs.ints("labels", &[n])?) } else { None };
            let soft = case.inputs.optional_floats("soft_targets", &[n, c])?;
            let omega = case.inputs.optional_floats("sample_weights", &[n])?;
            let per_sample = match problem.perturbation() {
                Perturbation::PerSample => Some(case.inputs.floats("perturbation", &[n, c])?),
                _ => None,
            };
            let mut batch = match (&labels, &soft) {
                (Some(labels), None) => CrossEntropyBatch::labels(labels),
                (None, Some(soft)) => CrossEntropyBatch::soft_targets(Matrix::new(soft, n, c)?),
                _ => return Err(CaseError::tensor("labels", "or `soft_targets` must be there, one of them")),
            }
            .upstream(upstream);
            if let Some(omega) = &omega {
                batch = batch.sample_weights(omega);
            }
            if let Some(per_sample) = &per_sample {
                batch = batch.perturbation(Matrix::new(per_sample, n, c)?);
            }
            let output = cpu::cross_entropy(problem, pass, batch)?;
            if let Some(learned) = &output.learned {
                let p = learned.classes.len();
                tensors.insert("classes", Tensor::int([p], learned.classes.iter().map(|&class| class as i64)));
                tensors.insert("delta", Tensor::float([p, c], learned.delta.clone()));
                tensors.insert("steps", Tensor::int([p], learned.steps.iter().copied()));
                tensors.insert("direction", Tensor::int([p], learned.direction.iter().copied()));
                tensors.insert("confidence", Tensor::float([p], learned.confidence.clone()));
                tensors.insert("tau", Tensor::float([1], vec![learned.tau]));
            }
            scale = crate::scale::softmax(problem, &logits, labels.as_deref(), soft, omega, per_sample, &output);
            (loss, loss_rows, reduction) = (output.loss, output.loss_rows.clone(), problem.reduction());
            cross_entropy = Some(output);
        }
        Problem::Sigmoid(problem) => {
            let targets = case.inputs.floats("targets", &[n, c])?;
            let weights = case.inputs.optional_floats("weights", &[n, c])?;
            let mut batch = BinaryCrossEntropyBatch::new(Matrix::new(&targets, n, c)?).upstream(upstream);
            if let Some(weights) = &weights {
                batch = batch.weights(Matrix::new(weights, n, c)?);
            }
            let output = cpu::binary_cross_entropy(problem, pass, batch)?;
            if let Some(learned) = &output.learned {
                for (name, steps, sign) in
                    [("delta_pos", "steps_pos", &learned.positive), ("delta_neg", "steps_neg", &learned.negative)]
                {
                    tensors.insert(name, Tensor::float([c], sign.delta.clone()));
                    if problem.learner().is_some_and(|learner| learner.step() != BinaryStep::Exact) {
                        tensors.insert(steps, Tensor::int([c], sign.steps.iter().copied()));
                    }
                }
            }
            scale = crate::scale::sigmoid(problem, &logits, &targets, weights, &output);
            (loss, loss_rows, reduction) = (output.loss, output.loss_rows, problem.reduction());
        }
    }
    let upstream_of = |row: usize| case.upstream_rows.as_ref().map_or(case.upstream, |rows| rows[row]);
    scale.gradient.iter_mut().enumerate().for_each(|(i, g)| *g *= upstream_of(i / c).abs());
    if reduction != Reduction::None {
        tensors.insert("loss", Tensor::float([1], vec![loss]));
    }
    tensors.insert("loss_rows", Tensor::float([n], loss_rows));
    tensors.insert("grad", Tensor::float([n, c], gradient));
    Ok(Results { tensors, cross_entropy, scale })
}
