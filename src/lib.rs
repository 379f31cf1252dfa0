//! Cross-entropy with logit perturbation, fused: softmax or sigmoid, a fixed or a learned class-level perturbation, the loss and its
//! gradient in one pass.
//!
//! A problem is stated once, as plain data ([`CrossEntropy`], [`BinaryCrossEntropy`]); the f64 reference in [`cpu`] executes it. The
//! mathematics, corner cases and accuracy are written down in
//! [`docs/mathematics.md`](https://docs.rs/crate/logit-perturb/latest/source/docs/mathematics.md), which "SPEC" refers to throughout.
//!
//! Learned perturbation follows Li, Su, Wu, Zhang, "Logit Perturbation" (AAAI 2022; arXiv 2209.05668).
//!
//! ```
//! use logit_perturb::{Bound, ClassCounts, CrossEntropy, Learner, Matrix, MatrixMut, Perturbation, Split, Step, cpu};
//!
//! // LPL on logit adjustment: the two rarest of four classes are augmented, the others held back.
//! let counts = ClassCounts::new([400.0, 200.0, 40.0, 8.0])?;
//! let bound = Bound::LongTail { eps: 0.0, delta_head: 0.6, delta_tail: 3.0, ratio: None };
//! let loss = CrossEntropy::builder()
//!     .perturbation(Perturbation::logit_adjustment(&counts, 1.0)?)
//!     .learner(Learner::new(Step::UnitL2, 0.1, Split::Rank { head: 2, counts }, bound)?)
//!     .build()?;
//!
//! let logits = [1.2f32, 0.3, -0.4, 0.1, 0.2, 0.1, 0.5, 1.5];
//! let mut gradient = [0f32; 8];
//! let pass = cpu::Pass::Into { logits: Matrix::new(&logits, 2, 4)?, gradient: MatrixMut::new(&mut gradient, 2, 4)? };
//! let output = cpu::cross_entropy(&loss, pass, cpu::CrossEntropyBatch::labels(&[0i64, 3]))?;
//! println!("loss {}, steps {:?}", output.loss, output.learned.unwrap().steps);
//! # Ok::<(), logit_perturb::Error>(())
//! ```

mod class_counts;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod data;
mod error;
#[doc(hidden)]
pub mod kernel;
pub mod loss;
pub mod perturbation;

pub use class_counts::ClassCounts;
pub use data::{BinaryTargets, DType, Floats, FloatsMut, Labels, Mask, Matrix, MatrixMut};
pub use error::{Error, Result};
pub use loss::{BinaryCrossEntropy, CrossEntropy, Focusing, LogitScale, Reduction, Upstream};
pub use perturbation::{
    BinaryLearner, BinaryPerturbation, BinaryStep, Bound, GradientSemantics, Isda, Learner, NegativeSplit,
    Perturbation, RebalancedWeights, RunningConfidence, Split, Step,
};

#[cfg(feature = "cuda")]
pub use cudarc;
pub use half;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
