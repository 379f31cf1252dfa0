//! Softmax cross-entropy as data: every option of SPEC 1, with a perturbation of SPEC 2 and a learner of SPEC 3.

use super::Reduction;
use crate::error::{Error, Result, check};
use crate::perturbation::{Learner, Perturbation};

/// The logit scale `s` of `v = s * (u + delta)`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum LogitScale {
    /// One number, finite and > 0: an inverse temperature.
    Uniform(f64),
    /// One number a class, `[C]`, each finite and > 0: CDT, VS-loss.
    PerClass(Vec<f64>),
}

impl Default for LogitScale {
    fn default() -> Self {
        LogitScale::Uniform(1.0)
    }
}

impl LogitScale {
    /// `s_c`.
    ///
    /// # Panics
    /// When the scale is per class and `class` is not below C.
    pub fn at(&self, class: usize) -> f64 {
        match self {
            LogitScale::Uniform(scale) => *scale,
            LogitScale::PerClass(scales) => scales[class],
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
struct Options {
    scale: Option<f64>,
    class_scale: Option<Vec<f64>>,
    label_smoothing: f64,
    z_loss: f64,
    class_weights: Option<Vec<f64>>,
    ignore_index: Option<i64>,
    reduction: Reduction,
    perturbation: Perturbation,
    learner: Option<Learner>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            scale: None,
            class_scale: None,
            label_smoothing: 0.0,
            z_loss: 0.0,
            class_weights: None,
            ignore_index: None,
            reduction: Reduction::Mean,
            perturbation: Perturbation::None,
            learner: None,
        }
    }
}

/// Softmax cross-entropy over perturbed logits `v = s * (u + delta)`, validated.
///
/// Shapes: logits `[N, C]`, labels `[N]` or soft targets `[N, C]`; loss `[]`, or `[N]` under [`Reduction::None`]. What changes
/// from batch to batch (labels, sample weights, per-sample perturbations, upstream gradient) comes with the batch.
///
/// ```
/// use logit_perturb::{ClassCounts, CrossEntropy, Perturbation};
/// let counts = ClassCounts::new([500.0, 100.0, 20.0])?;
/// let loss = CrossEntropy::builder()
///     .label_smoothing(0.1)
///     .perturbation(Perturbation::logit_adjustment(&counts, 1.0)?)
///     .build()?;
/// assert_eq!(loss.classes(), Some(3));
/// # Ok::<(), logit_perturb::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "Options", into = "Options")
)]
pub struct CrossEntropy {
    options: Options,
    scale: LogitScale,
    classes: Option<usize>,
}

/// Collects the options of a [`CrossEntropy`]; [`build`](Self::build) validates them.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct CrossEntropyBuilder(Options);

impl CrossEntropyBuilder {
    /// Logit scale `s`, one number, finite and > 0. Default 1. Excludes [`class_scale`](Self::class_scale).
    pub fn scale(mut self, scale: f64) -> Self {
        self.0.scale = Some(scale);
        self
    }

    /// Logit scale `s[C]`, one number a class, each finite and > 0. Excludes [`scale`](Self::scale).
    pub fn class_scale(mut self, scale: impl Into<Vec<f64>>) -> Self {
        self.0.class_scale = Some(scale.into());
        self
    }

    /// Label smoothing `a` in `[0, 1)`: targets `(1 - a) * onehot + a / C`. Default 0.
    pub fn label_smoothing(mut self, smoothing: f64) -> Self {
        self.0.label_smoothing = smoothing;
        self
    }

    /// Coefficient `z >= 0` of `lse^2`, added to every row's loss. Default 0.
    pub fn z_loss(mut self, coefficient: f64) -> Self {
        self.0.z_loss = coefficient;
        self
    }

    /// Class weights `w[C]`, each `>= 0`, with PyTorch's meaning. Default 1.
    pub fn class_weights(mut self, weights: impl Into<Vec<f64>>) -> Self {
        self.0.class_weights = Some(weights.into());
        self
    }

    /// The label of rows that count for nothing. Default -100. Once set, soft targets are an error: they have no labels.
    pub fn ignore_index(mut self, label: i64) -> Self {
        self.0.ignore_index = Some(label);
        self
    }

    /// How row losses become one number. Default [`Reduction::Mean`].
    pub fn reduction(mut self, reduction: Reduction) -> Self {
        self.0.reduction = reduction;
        self
    }

    /// The fixed perturbation of the logits. Default [`Perturbation::None`].
    pub fn perturbation(mut self, perturbation: Perturbation) -> Self {
        self.0.perturbation = perturbation;
        self
    }

    /// Learns a class-level perturbation in every batch, on top of the fixed one (LPL).
    pub fn learner(mut self, learner: Learner) -> Self {
        self.0.learner = Some(learner);
        self
    }

    /// Validates.
    ///
    /// # Errors
    /// - [`Error::Value`]: a number outside the range its setter names.
    /// - [`Error::Shape`]: two per-class vectors of different lengths.
    /// - [`Error::Conflict`]: a scale beside a scale per class; a learner with a scale other than 1; [`Reduction::BatchMean`], which is for
    ///   binary cross-entropy.
    pub fn build(self) -> Result<CrossEntropy> {
        CrossEntropy::try_from(self.0)
    }
}

impl TryFrom<Options> for CrossEntropy {
    type Error = Error;

    fn try_from(options: Options) -> Result<Self> {
        let mut lengths = vec![("class_weights", options.class_weights.as_ref().map(Vec::len))];
        let scale = match (options.scale, &options.class_scale) {
            (Some(_), Some(_)) => {
                return Err(Error::conflict("class_scale", "with a scale", "it already holds one number a class"));
            }
            (scale, None) => {
                let scale = scale.unwrap_or(1.0);
                check::positive("scale", scale)?;
                LogitScale::Uniform(scale)
            }
            (None, Some(scales)) => {
                check::each_positive("class_scale", scales)?;
                lengths.push(("class_scale", Some(scales.len())));
                LogitScale::PerClass(scales.clone())
            }
        };
        let a = options.label_smoothing;
        check::one("label_smoothing", a, (0.0..1.0).contains(&a), "in [0, 1)")?;
        check::non_negative("z_loss", options.z_loss)?;
        if let Some(weights) = &options.class_weights {
            check::each_non_negative("class_weights", weights)?;
        }
        options.reduction.check()?;
        if options.reduction == Reduction::BatchMean {
            return Err(Error::conflict(
                "reduction = batch mean",
                "with softmax cross-entropy",
                "it divides by all rows, ignored ones too; use Divisor for that",
            ));
        }
        options.perturbation.check()?;
        lengths.push(("perturbation", options.perturbation.classes()));
        if let Some(learner) = &options.learner {
            if scale != LogitScale::Uniform(1.0) {
                let reason = "a learned perturbation is defined for scale 1";
                return Err(Error::conflict("learner", "with a logit scale", reason));
            }
            lengths.extend(learner.lengths());
        }
        let classes = check::classes(&lengths)?;
        Ok(Self { options, scale, classes })
    }
}

impl From<CrossEntropy> for Options {
    fn from(problem: CrossEntropy) -> Self {
        problem.options
    }
}

impl CrossEntropy {
    /// Starts from plain mean cross-entropy.
    pub fn builder() -> CrossEntropyBuilder {
        CrossEntropyBuilder::default()
    }

    /// Starts from these options, to change some.
    pub fn to_builder(&self) -> CrossEntropyBuilder {
        CrossEntropyBuilder(self.options.clone())
    }

    /// The number of classes that the per-class vectors fix; `None` when there is no such vector.
    pub fn classes(&self) -> Option<usize> {
        self.classes
    }

    /// Logit scale `s`.
    pub fn scale(&self) -> &LogitScale {
        &self.scale
    }

    /// Label smoothing `a`.
    pub fn label_smoothing(&self) -> f64 {
        self.options.label_smoothing
    }

    /// z-loss coefficient `z`.
    pub fn z_loss(&self) -> f64 {
        self.options.z_loss
    }

    /// Class weights `w`, where given.
    pub fn class_weights(&self) -> Option<&[f64]> {
        self.options.class_weights.as_deref()
    }

    /// The label of ignored rows.
    pub fn ignore_index(&self) -> i64 {
        self.options.ignore_index.unwrap_or(-100)
    }

    /// Whether an ignored label was asked for, beyond the default.
    pub(crate) fn has_ignore_index(&self) -> bool {
        self.options.ignore_index.is_some()
    }

    /// How row losses become one number.
    pub fn reduction(&self) -> Reduction {
        self.options.reduction
    }

    /// The fixed perturbation.
    pub fn perturbation(&self) -> &Perturbation {
        &self.options.perturbation
    }

    /// The learner, where one is set.
    pub fn learner(&self) -> Option<&Learner> {
        self.options.learner.as_ref()
    }

    /// A typed error where an option needs hard labels.
    pub(crate) fn check_soft_targets(&self) -> Result<()> {
        let clash = |argument| Error::conflict(argument, "with soft targets", "it needs hard labels");
        if self.label_smoothing() != 0.0 {
            return Err(clash("label_smoothing"));
        }
        if self.has_ignore_index() {
            return Err(clash("ignore_index"));
        }
        if self.perturbation().needs_labels() {
            return Err(clash("perturbation by class"));
        }
        if self.learner().is_some() {
            return Err(clash("learner"));
        }
        Ok(())
    }
}
