//! Cases as the kernels take them, of either loss.

use super::learned::Learned;
use super::{sigmoid, softmax};
use logit_perturb::kernel::{DType, Limits};
use logit_perturb::{Error, Reduction};
use logit_perturb_cases::{Case, Problem, Results, Tensor, Values};
use std::collections::BTreeMap;

/// A batch that the kernels take: reals in f32, logits in their own type.
pub enum KernelBatch<'a> {
    Softmax(softmax::Batch<'a>),
    Sigmoid(sigmoid::Batch<'a>),
}

/// What the kernels gave for it.
pub struct Output {
    pub loss: f32,
    pub loss_rows: Vec<f32>,
    pub gradient: Vec<f32>,
    /// Where there is a learner.
    pub learned: Option<Learned>,
}

impl<'a> KernelBatch<'a> {
    /// The batch of a case, or what about it the kernels do not have.
    pub fn new(case: &'a Case) -> Result<Self, String> {
        match &case.problem {
            Problem::Softmax(problem) => softmax::Batch::new(case, problem).map(Self::Softmax),
            Problem::Sigmoid(problem) => sigmoid::Batch::new(case, problem).map(Self::Sigmoid),
        }
    }

    /// Computes it on an emulated device of its own.
    pub fn run_emulated(&self, limits: Limits) -> Result<Output, String> {
        match self {
            Self::Softmax(batch) => batch.run_emulated(limits),
            Self::Sigmoid(batch) => batch.run_emulated(limits),
        }
    }

    fn dtype(&self) -> DType {
        match self {
            Self::Softmax(batch) => batch.dtype,
            Self::Sigmoid(batch) => batch.dtype,
        }
    }

    fn reduction(&self) -> Reduction {
        match self {
            Self::Softmax(batch) => batch.problem.reduction(),
            Self::Sigmoid(batch) => batch.problem.reduction(),
        }
    }

    /// The output under the names of the expectations. `reference` is what the f64 reference computed.
    pub fn results(&self, case: &Case, output: Output, reference: &Results) -> Results {
        let (n, c) = (case.rows, case.classes);
        // Device memory has an element even where the batch has none.
        let wide = |data: Vec<f32>, len: usize| data.into_iter().take(len).map(f64::from).collect::<Vec<_>>();
        let of = match self.dtype() {
            DType::F32 => logit_perturb::DType::F32,
            DType::F16 => logit_perturb::DType::F16,
            DType::BF16 => logit_perturb::DType::BF16,
        };
        let gradient = Values::Float(of, wide(output.gradient, n * c));
        let mut tensors = BTreeMap::from([
            ("loss_rows", Tensor::float([n], wide(output.loss_rows, n))),
            ("grad", Tensor { shape: vec![n, c], values: gradient }),
        ]);
        if self.reduction() != Reduction::None {
            tensors.insert("loss", Tensor::float([1], vec![output.loss.into()]));
        }
        if let Some(learned) = output.learned {
            learned.put_into(&mut tensors, c);
        }
        reference.with_tensors(tensors)
    }
}

/// The option that a problem is refused for.
pub fn refused(error: Error) -> String {
    match error {
        Error::Unsupported { what, .. } => what,
        other => other.to_string(),
    }
}

/// The type that the kernels know the logits by, and the logits.
pub fn logits(case: &Case) -> Result<(DType, Vec<f32>), String> {
    let (dtype, logits) = case.logits();
    let dtype = match dtype {
        logit_perturb::DType::F32 => DType::F32,
        logit_perturb::DType::F16 => DType::F16,
        logit_perturb::DType::BF16 => DType::BF16,
        other => return Err(format!("{other:?} logits").to_lowercase()),
    };
    Ok((dtype, single(logits)))
}

/// In the kernels' type.
pub fn single(data: &[f64]) -> Vec<f32> {
    data.iter().map(|&x| x as f32).collect()
}
