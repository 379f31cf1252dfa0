//! [`logit_perturb`]'s losses as candle operations: candle tensors in, a loss tensor out.
#![doc = include_str!("../README.md")]
//!
//! # Numbers
//! Loss and gradient are the f64 reference's, [`logit_perturb::cpu`]. Logits are f16, bf16, f32 or f64. The loss is f64
//! for f64 logits and f32 for all others; the gradient has the dtype of the logits and is rounded once, after the
//! upstream gradient has been multiplied in.
//!
//! # Gradient
//! Where the logits take part in a graph, forward computes the gradient along with the loss and keeps it for backward:
//! `8 * N * C` bytes for as long as the graph lives. Learning runs once, in forward. The one exception is a learner
//! with [`GradientSemantics::Through`](logit_perturb::GradientSemantics::Through) under
//! [`Reduction::None`](logit_perturb::Reduction::None): there every row's upstream gradient reaches the other rows of
//! its class, and backward evaluates the batch again. Where no gradient is wanted none is computed.
//!
//! Only the logits have a gradient; targets, weights, masks and perturbations are constants. The gradient is itself a
//! constant: second-order gradients are not supported.
//!
//! An entry whose gradient is 0, such as those of an ignored row, stays 0 whatever the upstream gradient, be it
//! infinite or NaN.
//!
//! # Layouts
//! Tensors `[N, C]` are read in place when their columns lie side by side and their rows do not overlap (a column
//! stride of 1 and a row stride of at least C: dense tensors, and views narrowed along either dimension). Others, such
//! as transposed and broadcast ones, are copied first.
//!
//! # Errors
//! Every function returns `candle_core::Error`, with [`logit_perturb::Error`]'s message where a shape, a dtype, a
//! device or a value is wrong: the argument, what it was and what is allowed. Nothing panics.

mod binary_cross_entropy;
mod cross_entropy;
mod host;
mod op;

pub use binary_cross_entropy::{BinaryCrossEntropy, BinaryCrossEntropyBatch};
pub use cross_entropy::{CrossEntropy, CrossEntropyBatch};
pub use logit_perturb;
