//! What of a multi-label learner host data alone decides, in f64, and what the kernels cannot do.

use crate::error::{Error, Result};
use crate::kernel::learn::{Rule, check_bounds};
use crate::loss::BinaryCrossEntropy;
use crate::perturbation::{BinaryLearner, BinaryStep, GradientSemantics, NegativeSplit, Split};

/// The rules of both signs, positives first.
#[derive(Clone, Debug, PartialEq)]
pub struct BinaryRule {
    /// Of positives and of negatives.
    pub signs: [Rule; 2],
    /// Whether a sign's classes move at all.
    pub moves: [bool; 2],
    /// Step size.
    pub alpha: f64,
    /// How a class and sign moves.
    pub step: BinaryStep,
}

/// The split that the negatives' directions are made from, and whether they move.
fn negative_split(learner: &BinaryLearner) -> (&Split, bool) {
    match learner.negative().0 {
        NegativeSplit::Own(split) => (split, true),
        NegativeSplit::Same | NegativeSplit::Opposite => (learner.positive().0, true),
        NegativeSplit::Off => (learner.positive().0, false),
    }
}

impl BinaryRule {
    /// The rule of a learner.
    pub fn new(learner: &BinaryLearner) -> Self {
        let (split, bound) = learner.positive();
        let (negative, negatives_move) = negative_split(learner);
        let negatives = Rule::new(negative, learner.negative().1);
        let negatives = if *learner.negative().0 == NegativeSplit::Opposite { negatives.opposite() } else { negatives };
        let signs = [Rule::new(split, bound), negatives];
        Self { signs, moves: [true, negatives_move], alpha: learner.alpha(), step: learner.step() }
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
    let place = "with raw steps on a GPU";
    let (split, bound) = learner.positive();
    check_bounds(split, bound, "positives' ", place)?;
    match negative_split(learner) {
        (split, true) => check_bounds(split, learner.negative().1, "negatives' ", place),
        (_, false) => Ok(()),
    }
}
