//! What both examples share: the model and its training, the runs over seeds, and how results are shown.

pub mod chart;
pub mod model;
pub mod report;
pub mod runs;
pub mod sgd;
pub mod statistics;
pub mod training;
