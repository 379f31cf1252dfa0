//! What of a learner host data alone decides, in f64, and what the kernels cannot do.

use crate::error::{Error, Result};
use crate::loss::CrossEntropy;
use crate::perturbation::{Bound, GradientSemantics, Learner, Split};

/// The most classes that the kernels learn a perturbation for.
pub const MOST_LEARNED_CLASSES: usize = 32_768;

/// The largest bound under which `exp(delta)` and `exp(u - max)` have products that f32 holds to full accuracy.
pub const MOST_EPS: f64 = 30.0;

/// Directions, bounds and thresholds as far as the host knows them (SPEC 3).
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// -1, 0 or 1 a class; `None` where the confidences decide.
    pub directions: Option<Vec<i32>>,
    /// The bound of each class where they differ.
    pub bounds: Option<Vec<f64>>,
    /// The bound of every class where they do not.
    pub eps: f64,
    /// What a bound by confidence adds; 0 for every other.
    pub delta_eps: f64,
    /// Whether `tau` is the mean of the confidences.
    pub mean: bool,
    /// `tau` where it is given, else NaN.
    pub tau: f64,
}

impl Rule {
    /// The rule of a learner.
    pub fn new(learner: &Learner) -> Self {
        let split = learner.split();
        let (mean, tau) = match split {
            Split::MeanConfidence => (true, f64::NAN),
            Split::Confidence { tau } => (false, *tau),
            _ => (false, f64::NAN),
        };
        let directions = match split {
            Split::MeanConfidence | Split::Confidence { .. } => None,
            _ => Some(split.directions(&[]).0.into_iter().map(i32::from).collect()),
        };
        let rule = Self { directions, bounds: None, eps: 0.0, delta_eps: 0.0, mean, tau };
        match learner.bound() {
            Bound::Fixed { eps } => Self { eps: *eps, ..rule },
            Bound::Confidence { eps, delta_eps } => Self { eps: *eps, delta_eps: *delta_eps, ..rule },
            bound => Self { bounds: Some(bound.bounds(split, &[], f64::NAN)), ..rule },
        }
    }
}

/// A typed error for a learner that the kernels do not have: `Through`, and a bound that may exceed 30.
///
/// # Errors
/// [`Error::Unsupported`], [`Error::Value`].
pub fn check_learner(problem: &CrossEntropy) -> Result<()> {
    let Some(learner) = problem.learner() else { return Ok(()) };
    if learner.gradient_semantics() == GradientSemantics::Through {
        return Err(Error::Unsupported { what: "a gradient through the learner's steps".to_owned(), backend: "CUDA" });
    }
    match learner.bound() {
        Bound::Fixed { eps } | Bound::Confidence { eps, .. } => check_shared_bound(learner, *eps),
        bound => {
            let bounds = bound.bounds(learner.split(), &[], f64::NAN);
            bounds.into_iter().enumerate().try_for_each(|(class, eps)| check_bound(format!("bound[{class}]"), eps))
        }
    }
}

fn check_bound(argument: String, eps: f64) -> Result<()> {
    if eps <= MOST_EPS { Ok(()) } else { Err(Error::value(argument, eps, format!("at most {MOST_EPS} on a GPU"))) }
}

/// A typed error for an `eps` of all classes under which a bound may exceed 30.
///
/// # Errors
/// [`Error::Value`].
pub fn check_shared_bound(learner: &Learner, eps: f64) -> Result<()> {
    let Bound::Confidence { delta_eps, .. } = learner.bound() else { return check_bound("eps".to_owned(), eps) };
    // As far as a confidence, in [0, 1], can lie from tau.
    let farthest = match learner.split() {
        Split::Confidence { tau } => tau.abs().max((1.0 - tau).abs()),
        _ => 1.0,
    };
    check_bound(format!("eps + delta_eps * {farthest}"), eps + delta_eps * farthest)
}
