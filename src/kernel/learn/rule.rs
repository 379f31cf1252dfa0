//! What of a learner host data alone decides, in f64, and what the kernels cannot do.

use crate::error::{Error, Result};
use crate::loss::CrossEntropy;
use crate::perturbation::{Bound, GradientSemantics, Learner, Split};

/// The most classes that the kernels learn a perturbation for.
pub const MOST_LEARNED_CLASSES: usize = 32_768;

/// The largest bound under which `exp(delta)` and `exp(u - max)` have products that f32 holds to full accuracy.
pub const MOST_EPS: f64 = 30.0;

/// Where a bound of a learner of one label a row is limited.
const PLACE: &str = "on a GPU";

/// Directions, bounds and thresholds as far as the host knows them (SPEC 3; of a sign, SPEC 4).
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
    /// The rule of a split and the bound that goes with it.
    pub fn new(split: &Split, bound: &Bound) -> Self {
        let by_confidence = matches!(split, Split::MeanConfidence | Split::Confidence { .. });
        let directions = || split.directions(&[]).0.into_iter().map(i32::from).collect();
        let rule = Self {
            directions: (!by_confidence).then(directions),
            bounds: None,
            eps: 0.0,
            delta_eps: 0.0,
            mean: *split == Split::MeanConfidence,
            tau: if let Split::Confidence { tau } = split { *tau } else { f64::NAN },
        };
        match bound {
            Bound::Fixed { eps } => Self { eps: *eps, ..rule },
            Bound::Confidence { eps, delta_eps } => Self { eps: *eps, delta_eps: *delta_eps, ..rule },
            bound => Self { bounds: Some(bound.bounds(split, &[], f64::NAN)), ..rule },
        }
    }

    /// The same with the directions that are given turned round.
    pub fn opposite(mut self) -> Self {
        self.directions.iter_mut().flatten().for_each(|direction| *direction = -*direction);
        self
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
    check_bounds(learner.split(), learner.bound(), "", PLACE)
}

/// A typed error for an `eps` of all classes under which a bound may exceed 30.
///
/// # Errors
/// [`Error::Value`].
pub fn check_shared_bound(learner: &Learner, eps: f64) -> Result<()> {
    let bound = match learner.bound() {
        Bound::Confidence { delta_eps, .. } => Bound::Confidence { eps, delta_eps: *delta_eps },
        _ => Bound::Fixed { eps },
    };
    check_bounds(learner.split(), &bound, "", PLACE)
}

/// A typed error for a bound that may exceed 30; `whose` is what the names of its parts begin with, `place` where they may not.
pub(in super::super) fn check_bounds(split: &Split, bound: &Bound, whose: &str, place: &str) -> Result<()> {
    let check = |part: String, eps: f64| {
        if eps <= MOST_EPS {
            return Ok(());
        }
        Err(Error::value(format!("{whose}{part}"), eps, format!("at most {MOST_EPS} {place}")))
    };
    match bound {
        Bound::Fixed { eps } => check("eps".to_owned(), *eps),
        Bound::Confidence { eps, delta_eps } => {
            // As far as a confidence, in [0, 1], can lie from tau.
            let farthest = match split {
                Split::Confidence { tau } => tau.abs().max((1.0 - tau).abs()),
                _ => 1.0,
            };
            check(format!("eps + delta_eps * {farthest}"), eps + delta_eps * farthest)
        }
        bound => {
            let bounds = bound.bounds(split, &[], f64::NAN);
            bounds.into_iter().enumerate().try_for_each(|(class, eps)| check(format!("bound[{class}]"), eps))
        }
    }
}
