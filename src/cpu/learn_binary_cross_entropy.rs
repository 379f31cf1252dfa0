//! The multi-label learner in f64, in the order of SPEC 4: for every class and sign a scalar perturbation.

use super::binary_cross_entropy::Entries;
use crate::data::Matrix;
use crate::perturbation::{BinaryLearner, BinaryPerturbation, BinaryStep, GradientSemantics, sigmoid, steps};
use rayon::prelude::*;

/// What the multi-label learner did. Its equations are this project's, an extension of LPL, and are not in the paper.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LearnedBinaryPerturbation {
    /// On entries with target 1.
    pub positive: LearnedSign,
    /// On entries with target 0.
    pub negative: LearnedSign,
}

/// What the learner did to one sign, each `[C]`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LearnedSign {
    /// `delta_c`; 0 for an empty group, NaN for one whose confidence is not finite.
    pub delta: Vec<f64>,
    /// -1, 0 or 1; an empty group may have one, and takes no step.
    pub direction: Vec<i8>,
    /// `eps_c`; NaN for an empty group where it depends on the confidence.
    pub bound: Vec<f64>,
    /// Steps taken; 0 for an empty group. [`BinaryStep::Exact`] takes none.
    pub steps: Vec<u32>,
    /// Mean of `sigmoid(u)` over positives, of `1 - sigmoid(u)` over negatives; NaN for an empty group.
    pub confidence: Vec<f64>,
    /// The threshold of the split; NaN where the split has none.
    pub tau: f64,
}

/// The entries of one class and sign: their rows, and their logits with the fixed perturbation.
struct Group {
    rows: Vec<usize>,
    u: Vec<f64>,
}

/// The learned perturbation with what its backward pass needs.
pub(super) struct BinaryLearned {
    learner: BinaryLearner,
    output: LearnedBinaryPerturbation,
    groups: Vec<[Group; 2]>,
}

/// Positives first, as everywhere here.
const TARGETS: [f64; 2] = [1.0, 0.0];

/// Runs the learner over the batch; the targets are hard.
pub(super) fn learn(
    learner: &BinaryLearner,
    fixed: &BinaryPerturbation,
    logits: Matrix<'_>,
    entries: &Entries,
) -> BinaryLearned {
    let group = |class: usize| {
        let (beta, dpos, dneg) = fixed.at(class);
        TARGETS.map(|target| {
            let belongs = |&i: &usize| {
                let index = i * entries.columns + class;
                entries.known[index] && entries.targets[index] == target
            };
            let rows: Vec<usize> = (0..logits.rows()).filter(belongs).collect();
            let shift = beta + if target == 1.0 { dpos } else { dneg };
            let u = rows.iter().map(|&i| logits.get(i, class) + shift).collect();
            Group { rows, u }
        })
    };
    let groups: Vec<[Group; 2]> = (0..entries.columns).into_par_iter().map(group).collect();
    let confidence = |sign: usize| -> Vec<f64> {
        let of = |u: f64| if sign == 0 { sigmoid(u) } else { sigmoid(-u) };
        let mean = |group: &Group| group.u.iter().map(|&u| of(u)).sum::<f64>() / group.u.len() as f64;
        groups.iter().map(|pair| mean(&pair[sign])).collect()
    };
    let sign = |sign: usize| {
        let confidence = confidence(sign);
        let (direction, bound, tau) =
            if sign == 0 { learner.positive_plan(&confidence) } else { learner.negative_plan(&confidence) };
        let one = |class: usize| {
            let group = &groups[class][sign];
            if group.u.is_empty() || direction[class] == 0 {
                let spoilt = !group.u.is_empty() && !confidence[class].is_finite();
                return (if spoilt { f64::NAN } else { 0.0 }, 0);
            }
            let steps = steps(bound[class], learner.alpha());
            let taken = if learner.step() == BinaryStep::Exact { 0 } else { steps };
            if !confidence[class].is_finite() {
                return (f64::NAN, taken);
            }
            let direction = f64::from(direction[class]);
            let towards = if sign == 0 { -direction } else { direction };
            let delta = match learner.step() {
                BinaryStep::Raw => trajectory(group, TARGETS[sign], direction * learner.alpha(), steps)[steps as usize],
                BinaryStep::Sign => towards * learner.alpha() * f64::from(steps),
                BinaryStep::Exact => towards * bound[class],
            };
            (delta, taken)
        };
        let (delta, steps) = (0..entries.columns).into_par_iter().map(one).unzip();
        LearnedSign { delta, direction, bound, steps, confidence, tau }
    };
    let output = LearnedBinaryPerturbation { positive: sign(0), negative: sign(1) };
    BinaryLearned { learner: learner.clone(), output, groups }
}

/// `delta` before each gradient step and after the last: `delta += factor * mean(sigmoid(u + delta) - t)`.
fn trajectory(group: &Group, target: f64, factor: f64, steps: u32) -> Vec<f64> {
    let mut delta = 0.0;
    let mut path = vec![delta];
    for _ in 0..steps {
        // For positives, sigmoid - 1 without the cancellation.
        let residual = |u: f64| if target == 1.0 { -sigmoid(-(u + delta)) } else { sigmoid(u + delta) };
        let sum: f64 = group.u.iter().map(|&u| residual(u)).sum();
        delta += factor * sum / group.u.len() as f64;
        path.push(delta);
    }
    path
}

impl BinaryLearned {
    /// `(delta^+_c, delta^-_c)`.
    pub(super) fn delta(&self, class: usize) -> (f64, f64) {
        (self.output.positive.delta[class], self.output.negative.delta[class])
    }

    /// Whether the steps are to be differentiated; those of Sign and Exact do not depend on the logits.
    pub(super) fn is_through(&self) -> bool {
        self.learner.gradient_semantics() == GradientSemantics::Through && self.learner.step() == BinaryStep::Raw
    }

    pub(super) fn into_output(self) -> LearnedBinaryPerturbation {
        self.output
    }

    /// What differentiating through the steps adds to the gradient, by class and row. `gradients` are those by the perturbed logits.
    ///
    /// With `s_i` the sigmoid's slope at `delta^k`: `factor * s_i / |G|` times the adjoint of `delta^(k+1)` goes to `u_i` and, summed,
    /// to the adjoint of `delta^k`.
    pub(super) fn through(&self, logits: Matrix<'_>, entries: &Entries, gradients: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let of_class = |class: usize| {
            let mut extra = vec![0.0; logits.rows()];
            for (sign, (group, learned)) in
                self.groups[class].iter().zip([&self.output.positive, &self.output.negative]).enumerate()
            {
                if learned.steps[class] == 0 || !learned.delta[class].is_finite() {
                    continue;
                }
                let factor = f64::from(learned.direction[class]) * self.learner.alpha();
                let path = trajectory(group, TARGETS[sign], factor, learned.steps[class]);
                let mut adjoint: f64 = group.rows.iter().map(|&i| gradients[i][class]).sum();
                for delta in path[..path.len() - 1].iter().rev() {
                    let mut sum = 0.0;
                    for (&i, u) in group.rows.iter().zip(&group.u) {
                        let slope = sigmoid(u + delta) * sigmoid(-(u + delta));
                        let gradient = factor * slope / group.u.len() as f64 * adjoint;
                        extra[i] += gradient;
                        sum += gradient;
                    }
                    adjoint += sum;
                }
            }
            extra
        };
        (0..entries.columns).into_par_iter().map(of_class).collect()
    }
}
