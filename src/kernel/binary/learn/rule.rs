//! What of a multi-label learner host data alone decides, in f64, and what the kernels cannot do.

use crate::error::{Error, Result};
use crate::kernel::learn::MOST_EPS;
use crate::loss::BinaryCrossEntropy;
use crate::perturbation::{BinaryLearner, BinaryStep, Bound, GradientSemantics, NegativeSplit, Split};

/// Directions, bounds and thresholds of a sign as far as the host knows them (SPEC 4).
#[derive(Clone, Debug, PartialEq)]
pub struct HostRule {
    /// -1, 0 or 1 a class; `None` where the confidences decide.
    pub directions: Option<Vec<i32>>,
    /// The bound of each class, where they differ.
    pub bounds: Option<Vec<f64>>,
    /// The bound where they do not, or its constant part.
    pub eps: f64,
    /// What a confidence's distance from tau adds to it.
    pub delta_eps: f64,
    /// `tau` where it is given, else NaN.
    pub tau: f64,
    /// Whether `tau` is the mean of the confidences.
    pub mean: bool,
    /// Whether all directions are 0.
    pub off: bool,
}

/// The rules of both signs, positives first.
#[derive(Clone, Debug, PartialEq)]
pub struct BinaryRule {
    /// Of positives and of negatives.
    pub signs: [HostRule; 2],
    /// Step size.
    pub alpha: f64,
    /// How a class and sign moves.
    pub step: BinaryStep,
}

impl HostRule {
    fn new(split: &Split, bound: &Bound, turn: i32) -> Self {
        let by_confidence = matches!(split, Split::MeanConfidence | Split::Confidence { .. });
        let directions = (!by_confidence)
            .then(|| split.directions(&[]).0.into_iter().map(|direction| turn * i32::from(direction)).collect());
        let rule = Self {
            directions,
            bounds: None,
            eps: 0.0,
            delta_eps: 0.0,
            tau: if let Split::Confidence { tau } = split { *tau } else { f64::NAN },
            mean: *split == Split::MeanConfidence,
            off: turn == 0,
        };
        match bound {
            Bound::Fixed { eps } => Self { eps: *eps, ..rule },
            Bound::Confidence { eps, delta_eps } => Self { eps: *eps, delta_eps: *delta_eps, ..rule },
            bound => Self { bounds: Some(bound.bounds(split, &[], f64::NAN)), ..rule },
        }
    }
}

/// The negatives' split and what their directions are multiplied by.
fn negative_split(learner: &BinaryLearner) -> (&Split, i32) {
    match learner.negative().0 {
        NegativeSplit::Own(split) => (split, 1),
        NegativeSplit::Same => (learner.positive().0, 1),
        NegativeSplit::Opposite => (learner.positive().0, -1),
        NegativeSplit::Off => (learner.positive().0, 0),
    }
}

impl BinaryRule {
    /// The rule of a learner.
    pub fn new(learner: &BinaryLearner) -> Self {
        let (split, bound) = learner.positive();
        let (negative, turn) = negative_split(learner);
        let signs = [HostRule::new(split, bound, 1), HostRule::new(negative, learner.negative().1, turn)];
        Self { signs, alpha: learner.alpha(), step: learner.step() }
    }

    /// The step, as `kernels/binary_learner.cuh` numbers it.
    pub(super) fn step_number(&self) -> i32 {
        match self.step {
            BinaryStep::Raw => 0,
            BinaryStep::Sign => 1,
            BinaryStep::Exact => 2,
        }
    }

    /// Whether the confidences are computed by a launch of their own: where their mean decides, and where delta has a closed form.
    pub fn needs_confidences(&self) -> bool {
        self.step != BinaryStep::Raw || self.signs.iter().any(|sign| sign.mean)
    }
}

/// A typed error for a learner that the kernels do not have: raw steps to differentiate through, or with a bound that may exceed 30.
pub(in super::super) fn check_binary_learner(problem: &BinaryCrossEntropy) -> Result<()> {
    let Some(learner) = problem.learner() else { return Ok(()) };
    if learner.step() != BinaryStep::Raw {
        return Ok(());
    }
    if learner.gradient_semantics() == GradientSemantics::Through {
        return Err(Error::Unsupported { what: "a gradient through the learner's steps".to_owned(), backend: "CUDA" });
    }
    let check = |argument: String, eps: f64| {
        if eps <= MOST_EPS {
            return Ok(());
        }
        Err(Error::value(argument, eps, format!("at most {MOST_EPS} with raw steps on a GPU")))
    };
    let (negative, turn) = negative_split(learner);
    let (split, bound) = learner.positive();
    let signs = [("positives", split, bound, true), ("negatives", negative, learner.negative().1, turn != 0)];
    for (sign, split, bound, _) in signs.into_iter().filter(|(.., moves)| *moves) {
        match bound {
            Bound::Fixed { eps } => check(format!("{sign}' eps"), *eps)?,
            Bound::Confidence { eps, delta_eps } => {
                // As far as a confidence, in [0, 1], can lie from tau.
                let farthest = match split {
                    Split::Confidence { tau } => tau.abs().max((1.0 - tau).abs()),
                    _ => 1.0,
                };
                check(format!("{sign}' eps + delta_eps * {farthest}"), eps + delta_eps * farthest)?;
            }
            bound => {
                for (class, eps) in bound.bounds(split, &[], f64::NAN).into_iter().enumerate() {
                    check(format!("{sign}' bound[{class}]"), eps)?;
                }
            }
        }
    }
    Ok(())
}
