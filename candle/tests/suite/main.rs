//! Candle tensors in, the core's numbers out: every option in every dtype, the graph, layouts, errors.

mod binary_cross_entropy;
mod cross_entropy;
mod errors;
mod graph;
mod layouts;
mod support;
