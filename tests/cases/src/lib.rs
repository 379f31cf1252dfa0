//! Case files: a batch, its problem and its expected numbers in one safetensors file (SPEC 7). Read here, evaluated by a backend, compared
//! at the tolerances of SPEC 6 and 7. The golden tests and the `check` example stand on this.

mod case;
mod compare;
mod evaluate;
mod problem;
mod scale;
mod tensor;
mod write;

pub use case::{Case, Problem};
pub use compare::{Comparison, Precision, Report, compare};
pub use evaluate::{Results, evaluate_cpu};
pub use tensor::{Tensor, Values};
pub use write::write;

/// Why a file is no case.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaseError {
    /// The file cannot be read or written.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Not a safetensors file.
    #[error("not a safetensors file: {0}")]
    SafeTensors(#[from] safetensors::SafeTensorError),
    /// The metadata has no key `problem`.
    #[error("the file's metadata has no key `problem`")]
    NoProblem,
    /// The `problem` is not what SPEC 7 describes.
    #[error("metadata key `problem`: {0}")]
    Json(#[from] serde_json::Error),
    /// A tensor is missing, has another type or shape, or a name that no case has.
    #[error("tensor `{name}` {problem}")]
    Tensor {
        /// The tensor's name.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The numbers do not make a problem or a batch.
    #[error(transparent)]
    Problem(#[from] logit_perturb::Error),
}

impl CaseError {
    fn tensor(name: &str, problem: impl Into<String>) -> Self {
        Self::Tensor { name: name.to_owned(), problem: problem.into() }
    }
}
