//! Learned class-level perturbation (LPL) as data: which classes are pushed which way, how far, and in what steps.
//!
//! Single label: Li, Su, Wu, Zhang, "Logit Perturbation" (AAAI 2022; journal version arXiv 2209.05668), whose equation numbers
//! are quoted. Multi label: the same idea carried over to the sigmoid; its equations are this project's (SPEC 4).

use crate::class_counts::ClassCounts;
use crate::error::{Error, Result, check};

/// The most steps that are taken in one batch, whatever bound and step size ask for.
pub const MAX_STEPS: u32 = 10_000;

/// Confidences within this of `tau` count as equal to it: rounding must not decide a tie.
const TIE: f64 = 1e-6;

/// Which classes are augmented: direction +1 maximises a class's loss, -1 minimises it, 0 leaves it alone [Eq. 9, 10];
/// for a [`BinaryLearner`] the same by sign, which is this project's extension.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Split {
    /// `sign(tau - q_c)` with `tau` the mean of `q_c` over the classes present in the batch.
    MeanConfidence,
    /// `sign(tau - q_c)` with `tau` given.
    Confidence {
        /// The threshold, finite.
        tau: f64,
    },
    /// The `head` most frequent classes are minimised, the others maximised. Ranks come from the training set's counts.
    Rank {
        /// How many classes are head, `0..=C`.
        head: usize,
        /// Class frequencies of the training set.
        counts: ClassCounts,
    },
    /// `direction[C]`, each -1, 0 or 1: from a meta-learner, for one.
    Explicit(Vec<i8>),
}

/// How far a class may be pushed: `eps_c` [Eq. 13, 14]; for a [`BinaryLearner`] by sign, which is this project's extension.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Bound {
    /// `eps` for all.
    Fixed {
        /// `eps >= 0`.
        eps: f64,
    },
    /// `eps + delta_eps * |tau - q_c|`; needs a confidence split.
    Confidence {
        /// `eps >= 0`.
        eps: f64,
        /// `delta_eps >= 0`.
        delta_eps: f64,
    },
    /// `eps + delta_head * r_c / r_first` for the head classes, `eps + delta_tail * r_last / r_c` for the others, first and last by
    /// rank over all classes; needs [`Split::Rank`].
    LongTail {
        /// `eps >= 0`.
        eps: f64,
        /// `delta_head >= 0`.
        delta_head: f64,
        /// `delta_tail >= 0`.
        delta_tail: f64,
        /// `r[C]`, each > 0, such as running confidences; `None`: the class counts, then all > 0.
        ratio: Option<Vec<f64>>,
    },
    /// `eps[C]`, each `>= 0`.
    Explicit(Vec<f64>),
}

/// What one projected-gradient step of the single-label learner adds, before the factor `direction * alpha` [Alg. 1, Eq. 11, 12].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Step {
    /// The gradient `g` itself.
    Raw,
    /// `g / max(||g||_2, 1e-12)`: raw gradients vanish as the confidence nears 1, so this is what works in practice.
    UnitL2,
}

/// How the multi-label learner moves a class and sign, `G` being its unmasked entries and `K = floor(eps / alpha)`. These equations are this
/// project's, not the paper's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum BinaryStep {
    /// K times `delta += direction * alpha * mean over G of (sigmoid(u + delta) - t)`.
    Raw,
    /// The same with the gradient's sign, in closed form: `-direction * alpha * K` on positives, `+direction * alpha * K` on negatives.
    Sign,
    /// The bound itself: `-direction * eps` on positives, `+direction * eps` on negatives.
    Exact,
}

/// What the backward pass sees of a learned perturbation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum GradientSemantics {
    /// A constant, as in the authors' code for balanced data.
    #[default]
    Detached,
    /// The steps too are differentiated, as in the authors' long-tail scripts; directions, bounds and step counts are constants.
    Through,
}

impl Split {
    fn uses_confidence(&self) -> bool {
        matches!(self, Split::MeanConfidence | Split::Confidence { .. })
    }

    fn check(&self) -> Result<()> {
        match self {
            Split::MeanConfidence => Ok(()),
            Split::Confidence { tau } => check::finite("tau", *tau),
            Split::Rank { head, counts } if *head > counts.classes() => {
                Err(Error::value("head", head, format!("in 0..={}, the number of classes", counts.classes())))
            }
            Split::Rank { .. } => Ok(()),
            Split::Explicit(direction) => check::direction("direction", direction),
        }
    }

    fn length(&self) -> (&'static str, Option<usize>) {
        match self {
            Split::MeanConfidence | Split::Confidence { .. } => ("split", None),
            Split::Rank { counts, .. } => ("counts", Some(counts.classes())),
            Split::Explicit(direction) => ("direction", Some(direction.len())),
        }
    }

    /// The direction of every class, and the `tau` that decided (NaN where none did). `confidence` is NaN for classes that are
    /// absent or not finite: they enter no mean and have direction 0 under the confidence splits.
    pub(crate) fn directions(&self, confidence: &[f64]) -> (Vec<i8>, f64) {
        let by = |tau: f64| {
            let one = |&q: &f64| match tau - q {
                gap if gap.abs() <= TIE => 0,
                gap if gap > 0.0 => 1,
                gap if gap < 0.0 => -1,
                _ => 0,
            };
            (confidence.iter().map(one).collect(), tau)
        };
        match self {
            Split::MeanConfidence => {
                let known: Vec<f64> = confidence.iter().copied().filter(|q| q.is_finite()).collect();
                by(known.iter().sum::<f64>() / known.len() as f64)
            }
            Split::Confidence { tau } => by(*tau),
            Split::Rank { head, counts } => {
                let direction = |rank: usize| if rank < *head { -1 } else { 1 };
                (counts.ranks().into_iter().map(direction).collect(), f64::NAN)
            }
            Split::Explicit(direction) => (direction.clone(), f64::NAN),
        }
    }
}

impl Bound {
    /// Checks the numbers, and that the bound goes with the split.
    fn check(&self, split: &Split) -> Result<()> {
        let conflict = |argument, reason| Err(Error::conflict(argument, "with this split", reason));
        match self {
            Bound::Fixed { eps } => check::non_negative("eps", *eps),
            Bound::Confidence { eps, delta_eps } => {
                check::non_negative("eps", *eps)?;
                check::non_negative("delta_eps", *delta_eps)?;
                if split.uses_confidence() {
                    Ok(())
                } else {
                    conflict("bound = confidence", "it needs a confidence split")
                }
            }
            Bound::LongTail { eps, delta_head, delta_tail, ratio } => {
                check::non_negative("eps", *eps)?;
                check::non_negative("delta_head", *delta_head)?;
                check::non_negative("delta_tail", *delta_tail)?;
                let Split::Rank { counts, .. } = split else {
                    return conflict("bound = long tail", "it needs the rank split");
                };
                match ratio {
                    Some(ratio) => {
                        check::each_positive("ratio", ratio)?;
                        check::length("ratio", ratio.len(), counts.classes())
                    }
                    None => counts.check_positive(),
                }
            }
            Bound::Explicit(bounds) => check::each_non_negative("bound", bounds),
        }
    }

    fn length(&self) -> (&'static str, Option<usize>) {
        match self {
            Bound::Explicit(bounds) => ("bound", Some(bounds.len())),
            Bound::LongTail { ratio, .. } => ("ratio", ratio.as_ref().map(Vec::len)),
            _ => ("bound", None),
        }
    }

    /// `eps_c` of every class.
    pub(crate) fn bounds(&self, split: &Split, confidence: &[f64], tau: f64) -> Vec<f64> {
        match self {
            Bound::Fixed { eps } => vec![*eps; confidence.len()],
            Bound::Confidence { eps, delta_eps } => {
                confidence.iter().map(|q| eps + delta_eps * (tau - q).abs()).collect()
            }
            Bound::LongTail { eps, delta_head, delta_tail, ratio } => {
                let Split::Rank { head, counts } = split else { unreachable!("checked when the learner was built") };
                let order = counts.by_frequency();
                let r = ratio.as_deref().unwrap_or(counts.counts());
                let (first, last) = (r[order[0]], r[order[order.len() - 1]]);
                let mut bounds = vec![0.0; r.len()];
                for (rank, class) in order.into_iter().enumerate() {
                    bounds[class] = if rank < *head {
                        eps + delta_head * r[class] / first
                    } else {
                        eps + delta_tail * last / r[class]
                    };
                }
                bounds
            }
            Bound::Explicit(bounds) => bounds.clone(),
        }
    }
}

/// Checks the numbers of a rule, and that its parts go together.
fn check_rule(alpha: f64, split: &Split, bound: &Bound) -> Result<()> {
    check::positive("alpha", alpha)?;
    split.check()?;
    bound.check(split)?;
    check::classes(&[split.length(), bound.length()]).map(|_| ())
}

/// `K = floor(eps / alpha * (1 + 1e-6))`, at most [`MAX_STEPS`]; a bare floor would make 0.3 / 0.1 two.
pub(crate) fn steps(eps: f64, alpha: f64) -> u32 {
    // A bound that is NaN gives no step: the comparison and the conversion take it to 0.
    let quotient = (eps / alpha * (1.0 + 1e-6)).floor();
    if quotient > f64::from(MAX_STEPS) { MAX_STEPS } else { quotient as u32 }
}

/// The single-label learner, LPL [Alg. 1, Eq. 11, 12]: per class present in the batch, `K_c = floor(eps_c / alpha)` steps
/// `delta_c += direction_c * alpha * step(g_c)` from `delta_c = 0`, `g_c` being the mean gradient of the class's rows.
///
/// ```
/// use logit_perturb::{Bound, ClassCounts, CrossEntropy, Learner, Split, Step};
/// let counts = ClassCounts::new([500.0, 100.0, 20.0])?;
/// let learner = Learner::new(
///     Step::UnitL2,
///     0.1,
///     Split::Rank { head: 1, counts },
///     Bound::LongTail { eps: 0.0, delta_head: 2.4, delta_tail: 4.0, ratio: None },
/// )?;
/// let loss = CrossEntropy::builder().learner(learner).build()?;
/// # Ok::<(), logit_perturb::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(try_from = "LearnerFields"))]
pub struct Learner {
    step: Step,
    alpha: f64,
    split: Split,
    bound: Bound,
    gradient: GradientSemantics,
}

#[cfg(feature = "serde")]
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct LearnerFields {
    step: Step,
    alpha: f64,
    split: Split,
    bound: Bound,
    #[serde(default)]
    gradient: GradientSemantics,
}

#[cfg(feature = "serde")]
impl TryFrom<LearnerFields> for Learner {
    type Error = Error;
    fn try_from(fields: LearnerFields) -> Result<Self> {
        Ok(Self::new(fields.step, fields.alpha, fields.split, fields.bound)?.gradient(fields.gradient))
    }
}

impl Learner {
    /// A learner with step size `alpha`, detached.
    ///
    /// # Errors
    /// [`Error::Value`]: `alpha` not finite and > 0; a number of split or bound out of its range. [`Error::Conflict`]: a bound that
    /// does not go with the split.
    pub fn new(step: Step, alpha: f64, split: Split, bound: Bound) -> Result<Self> {
        check_rule(alpha, &split, &bound)?;
        Ok(Self { step, alpha, split, bound, gradient: GradientSemantics::Detached })
    }

    /// Sets what the backward pass sees of the perturbation.
    #[must_use]
    pub fn gradient(mut self, semantics: GradientSemantics) -> Self {
        self.gradient = semantics;
        self
    }

    /// What one step adds.
    pub fn step(&self) -> Step {
        self.step
    }

    /// Step size.
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// Which classes are pushed which way.
    pub fn split(&self) -> &Split {
        &self.split
    }

    /// How far.
    pub fn bound(&self) -> &Bound {
        &self.bound
    }

    /// What the backward pass sees.
    pub fn gradient_semantics(&self) -> GradientSemantics {
        self.gradient
    }

    pub(crate) fn lengths(&self) -> [(&'static str, Option<usize>); 2] {
        [self.split.length(), self.bound.length()]
    }
}

/// How the negatives' directions of a [`BinaryLearner`] come about (this project's, not the paper's).
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum NegativeSplit {
    /// Minus the positives' directions; goes with [`Split::Rank`] and [`Split::Explicit`].
    Opposite,
    /// The positives' split, applied to the negatives' own confidences.
    Same,
    /// Direction 0.
    Off,
    /// A split of their own.
    Own(Split),
}

/// The multi-label learner (this project's extension of LPL to the sigmoid): every class and sign has a scalar perturbation.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(try_from = "BinaryLearnerFields"))]
pub struct BinaryLearner {
    step: BinaryStep,
    alpha: f64,
    positive: (Split, Bound),
    negative: (NegativeSplit, Bound),
    gradient: GradientSemantics,
}

#[cfg(feature = "serde")]
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct BinaryLearnerFields {
    step: BinaryStep,
    alpha: f64,
    positive: (Split, Bound),
    negative: (NegativeSplit, Bound),
    #[serde(default)]
    gradient: GradientSemantics,
}

#[cfg(feature = "serde")]
impl TryFrom<BinaryLearnerFields> for BinaryLearner {
    type Error = Error;
    fn try_from(fields: BinaryLearnerFields) -> Result<Self> {
        let (split, bound) = fields.positive;
        Self::new(fields.step, fields.alpha, split, bound)?
            .negatives(fields.negative.0, fields.negative.1)
            .map(|learner| learner.gradient(fields.gradient))
    }
}

impl BinaryLearner {
    /// A learner with step size `alpha`, detached. `split` and `bound` are the positives'; the negatives have the same bound and, under
    /// [`Split::Rank`] and [`Split::Explicit`], the opposite directions, under the confidence splits the same rule on their own
    /// confidences. [`negatives`](Self::negatives) says otherwise.
    ///
    /// # Errors
    /// As [`Learner::new`].
    pub fn new(step: BinaryStep, alpha: f64, split: Split, bound: Bound) -> Result<Self> {
        check_rule(alpha, &split, &bound)?;
        let negative = if split.uses_confidence() { NegativeSplit::Same } else { NegativeSplit::Opposite };
        let gradient = GradientSemantics::Detached;
        Ok(Self { step, alpha, negative: (negative, bound.clone()), positive: (split, bound), gradient })
    }

    /// Sets split and bound of the negatives.
    ///
    /// # Errors
    /// [`Error::Value`] as [`Learner::new`]. [`Error::Conflict`]: a bound that does not go with the split, or
    /// [`NegativeSplit::Opposite`] to a confidence split.
    pub fn negatives(mut self, split: NegativeSplit, bound: Bound) -> Result<Self> {
        if split == NegativeSplit::Opposite && self.positive.0.uses_confidence() {
            let reason = "each sign's own confidences decide";
            return Err(Error::conflict("negatives = opposite", "with a confidence split", reason));
        }
        if let NegativeSplit::Own(own) = &split {
            own.check()?;
        }
        self.negative = (split, bound);
        self.negative.1.check(self.negative_split())?;
        check::classes(&self.lengths())?;
        Ok(self)
    }

    /// Sets what the backward pass sees of the perturbation; it matters for [`BinaryStep::Raw`] alone.
    #[must_use]
    pub fn gradient(mut self, semantics: GradientSemantics) -> Self {
        self.gradient = semantics;
        self
    }

    /// How a class and sign moves.
    pub fn step(&self) -> BinaryStep {
        self.step
    }

    /// Step size.
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// Split and bound of the positives.
    pub fn positive(&self) -> (&Split, &Bound) {
        (&self.positive.0, &self.positive.1)
    }

    /// Split and bound of the negatives.
    pub fn negative(&self) -> (&NegativeSplit, &Bound) {
        (&self.negative.0, &self.negative.1)
    }

    /// What the backward pass sees.
    pub fn gradient_semantics(&self) -> GradientSemantics {
        self.gradient
    }

    /// The rule behind the negatives' directions, before they are turned round or switched off.
    fn negative_split(&self) -> &Split {
        match &self.negative.0 {
            NegativeSplit::Own(split) => split,
            _ => &self.positive.0,
        }
    }

    /// Directions, bounds and `tau` of the positives.
    pub(crate) fn positive_plan(&self, confidence: &[f64]) -> (Vec<i8>, Vec<f64>, f64) {
        let (split, bound) = &self.positive;
        let (direction, tau) = split.directions(confidence);
        (direction, bound.bounds(split, confidence, tau), tau)
    }

    /// Directions, bounds and `tau` of the negatives.
    pub(crate) fn negative_plan(&self, confidence: &[f64]) -> (Vec<i8>, Vec<f64>, f64) {
        let split = self.negative_split();
        let (mut direction, tau) = split.directions(confidence);
        match self.negative.0 {
            NegativeSplit::Opposite => direction.iter_mut().for_each(|d| *d = -*d),
            NegativeSplit::Off => direction.fill(0),
            NegativeSplit::Same | NegativeSplit::Own(_) => {}
        }
        (direction, self.negative.1.bounds(split, confidence, tau), tau)
    }

    pub(crate) fn lengths(&self) -> [(&'static str, Option<usize>); 4] {
        let negative = self.negative_split();
        [self.positive.0.length(), self.positive.1.length(), negative.length(), self.negative.1.length()]
    }
}
