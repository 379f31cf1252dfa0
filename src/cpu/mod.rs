//! The reference: every number of SPEC.md in f64 on the CPU, line by line, parallel over rows and classes with the same bits for any
//! number of threads. It is what the GPU is checked against, and what runs where there is none.

mod batch;
mod binary_cross_entropy;
mod cross_entropy;
mod exp;
mod learn_binary_cross_entropy;
mod learn_cross_entropy;
mod pass;
mod softmax;
mod vector;

pub use batch::{BinaryCrossEntropyBatch, CrossEntropyBatch, Target};
pub use binary_cross_entropy::{BinaryClassStatistics, BinaryCrossEntropyOutput, binary_cross_entropy};
pub use cross_entropy::{ClassStatistics, CrossEntropyOutput, cross_entropy};
pub use learn_binary_cross_entropy::{LearnedBinaryPerturbation, LearnedSign};
pub use learn_cross_entropy::LearnedPerturbation;
pub use pass::Pass;
