//! The f64 reference as a backend of the `check` example.

use super::Backend;
use logit_perturb_cases::{Case, Precision, Results};

/// The reference, which computes everything.
pub struct Cpu;

impl Backend for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn precision(&self) -> Precision {
        Precision::F64
    }

    fn uncovered(&self, _: &Case) -> Option<String> {
        None
    }

    fn evaluate(&mut self, _: &Case, reference: &Results) -> Result<Results, String> {
        Ok(reference.clone())
    }
}
