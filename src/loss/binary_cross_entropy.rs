//! Sigmoid (binary) cross-entropy as data: every option of SPEC 4.

use super::Reduction;
use crate::error::{Error, Result, check};
use crate::perturbation::{BinaryLearner, BinaryPerturbation};

/// Focusing weights of the focal loss (`clip` 0) and of the asymmetric loss (Ridnik 2021): positives are weighted by
/// `(1 - p)^gamma_pos`, negatives by `pm^gamma_neg` with `pm = max(p - clip, 0)` in place of `p`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
pub struct Focusing {
    /// Exponent of the positives, `>= 0`.
    pub gamma_pos: f64,
    /// Exponent of the negatives, `>= 0`.
    pub gamma_neg: f64,
    /// Probability margin of the negatives, in `[0, 1)`.
    pub clip: f64,
}

#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
struct Options {
    pos_weight: Option<Vec<f64>>,
    negative_scale: f64,
    focusing: Option<Focusing>,
    reduction: Reduction,
    perturbation: BinaryPerturbation,
    learner: Option<BinaryLearner>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pos_weight: None,
            negative_scale: 1.0,
            focusing: None,
            reduction: Reduction::Mean,
            perturbation: BinaryPerturbation::default(),
            learner: None,
        }
    }
}

/// Multi-label sigmoid cross-entropy over perturbed logits
/// `v = u + beta + t * (dpos + delta^+) + (1 - t) * (dneg + delta^-)`, validated.
///
/// Shapes: logits and targets `[N, C]`; loss `[]`, or `[N]` under [`Reduction::None`]. Targets, mask, entry weights and upstream
/// gradient come with the batch.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "Options", into = "Options")
)]
pub struct BinaryCrossEntropy {
    options: Options,
    classes: Option<usize>,
}

/// Collects the options of a [`BinaryCrossEntropy`]; [`build`](Self::build) validates them.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct BinaryCrossEntropyBuilder(Options);

impl BinaryCrossEntropyBuilder {
    /// Weight `P[C] >= 0` of the positives' loss. Default 1.
    pub fn pos_weight(mut self, weights: impl Into<Vec<f64>>) -> Self {
        self.0.pos_weight = Some(weights.into());
        self
    }

    /// Negative scale `lam > 0` of negative-tolerant regularisation (DB-loss, Wu 2020). Default 1.
    pub fn negative_scale(mut self, scale: f64) -> Self {
        self.0.negative_scale = scale;
        self
    }

    /// Focal or asymmetric loss; excludes a negative scale other than 1.
    pub fn focusing(mut self, focusing: Focusing) -> Self {
        self.0.focusing = Some(focusing);
        self
    }

    /// How row losses become one number. Default [`Reduction::Mean`]: by unmasked entries.
    pub fn reduction(mut self, reduction: Reduction) -> Self {
        self.0.reduction = reduction;
        self
    }

    /// The fixed perturbation of the logits. Default none.
    pub fn perturbation(mut self, perturbation: BinaryPerturbation) -> Self {
        self.0.perturbation = perturbation;
        self
    }

    /// Learns a perturbation of every class and sign in every batch, on top of the fixed one.
    pub fn learner(mut self, learner: BinaryLearner) -> Self {
        self.0.learner = Some(learner);
        self
    }

    /// Validates.
    ///
    /// # Errors
    /// - [`Error::Value`]: a number outside the range its setter names.
    /// - [`Error::Shape`]: two per-class vectors of different lengths.
    /// - [`Error::Conflict`]: focusing together with a negative scale.
    pub fn build(self) -> Result<BinaryCrossEntropy> {
        BinaryCrossEntropy::try_from(self.0)
    }
}

impl TryFrom<Options> for BinaryCrossEntropy {
    type Error = Error;

    fn try_from(options: Options) -> Result<Self> {
        if let Some(weights) = &options.pos_weight {
            check::each_non_negative("pos_weight", weights)?;
        }
        check::positive("negative_scale", options.negative_scale)?;
        if let Some(Focusing { gamma_pos, gamma_neg, clip }) = options.focusing {
            check::non_negative("gamma_pos", gamma_pos)?;
            check::non_negative("gamma_neg", gamma_neg)?;
            check::one("clip", clip, (0.0..1.0).contains(&clip), "in [0, 1)")?;
            if options.negative_scale != 1.0 {
                return Err(Error::conflict("focusing", "with a negative scale", "both reshape the negatives' loss"));
            }
        }
        options.reduction.check()?;
        options.perturbation.check()?;
        let mut lengths = vec![("pos_weight", options.pos_weight.as_ref().map(Vec::len))];
        lengths.extend(options.perturbation.lengths());
        if let Some(learner) = &options.learner {
            lengths.extend(learner.lengths());
        }
        let classes = check::classes(&lengths)?;
        Ok(Self { options, classes })
    }
}

impl From<BinaryCrossEntropy> for Options {
    fn from(problem: BinaryCrossEntropy) -> Self {
        problem.options
    }
}

impl BinaryCrossEntropy {
    /// Starts from plain mean binary cross-entropy.
    pub fn builder() -> BinaryCrossEntropyBuilder {
        BinaryCrossEntropyBuilder::default()
    }

    /// Starts from these options, to change some.
    pub fn to_builder(&self) -> BinaryCrossEntropyBuilder {
        BinaryCrossEntropyBuilder(self.options.clone())
    }

    /// The number of classes that the per-class vectors fix; `None` when there is no such vector.
    pub fn classes(&self) -> Option<usize> {
        self.classes
    }

    /// Weights `P` of the positives, where given.
    pub fn pos_weight(&self) -> Option<&[f64]> {
        self.options.pos_weight.as_deref()
    }

    /// Negative scale `lam`.
    pub fn negative_scale(&self) -> f64 {
        self.options.negative_scale
    }

    /// Focusing, where set.
    pub fn focusing(&self) -> Option<Focusing> {
        self.options.focusing
    }

    /// How row losses become one number.
    pub fn reduction(&self) -> Reduction {
        self.options.reduction
    }

    /// The fixed perturbation.
    pub fn perturbation(&self) -> &BinaryPerturbation {
        &self.options.perturbation
    }

    /// The learner, where one is set.
    pub fn learner(&self) -> Option<&BinaryLearner> {
        self.options.learner.as_ref()
    }
}
