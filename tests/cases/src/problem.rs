//! The metadata key `problem` of a case file (SPEC 7): its JSON, and the problem that it and the tensors state.

use crate::case::Tensors;
use crate::{CaseError, Problem};
use logit_perturb::loss::Focusing;
use logit_perturb::{
    BinaryCrossEntropy, BinaryLearner, BinaryPerturbation, BinaryStep, Bound, ClassCounts, CrossEntropy,
    GradientSemantics, Learner, NegativeSplit, Perturbation, Reduction, Split, Step,
};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Header {
    Softmax {
        #[serde(default = "mean")]
        reduction: String,
        divisor: Option<f64>,
        #[serde(default = "one")]
        scale: f64,
        #[serde(default)]
        label_smoothing: f64,
        #[serde(default)]
        z_loss: f64,
        ignore_index: Option<i64>,
        perturbation: Option<Form>,
        learned: Option<Learned>,
    },
    Sigmoid {
        #[serde(default = "mean")]
        reduction: String,
        divisor: Option<f64>,
        #[serde(default = "one")]
        negative_scale: f64,
        focusing: Option<JsonFocusing>,
        learned: Option<BinaryLearned>,
    },
}

fn mean() -> String {
    "mean".to_owned()
}

fn one() -> f64 {
    1.0
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Form {
    Shared,
    TargetMargin,
    ClassMatrix,
    PerSample,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JsonFocusing {
    gamma_pos: f64,
    gamma_neg: f64,
    clip: f64,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Gradient {
    #[default]
    Detached,
    Through,
}

impl From<Gradient> for GradientSemantics {
    fn from(gradient: Gradient) -> Self {
        match gradient {
            Gradient::Detached => GradientSemantics::Detached,
            Gradient::Through => GradientSemantics::Through,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Learned {
    alpha: f64,
    step: JsonStep,
    split: JsonSplit,
    bound: JsonBound,
    #[serde(default)]
    gradient: Gradient,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum JsonStep {
    Raw,
    #[serde(rename = "unit_l2")]
    UnitL2,
}

#[derive(Deserialize)]
#[serde(tag = "by", rename_all = "snake_case", deny_unknown_fields)]
enum JsonSplit {
    MeanConfidence {},
    Confidence { tau: f64 },
    Rank { head: usize },
    Explicit {},
}

#[derive(Deserialize)]
#[serde(tag = "form", rename_all = "snake_case", deny_unknown_fields)]
enum JsonBound {
    Fixed { eps: f64 },
    Confidence { eps: f64, delta_eps: f64 },
    LongTail { eps: f64, delta_head: f64, delta_tail: f64 },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BinaryLearned {
    alpha: f64,
    step: JsonBinaryStep,
    #[serde(default)]
    gradient: Gradient,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum JsonBinaryStep {
    Raw,
    Sign,
    Exact,
}

fn reduction(name: &str, divisor: Option<f64>) -> Result<Reduction, CaseError> {
    let invalid = |message: String| CaseError::Json(serde::de::Error::custom(message));
    match (name, divisor) {
        ("divisor", Some(divisor)) => Ok(Reduction::Divisor(divisor)),
        ("divisor", None) => Err(invalid("reduction `divisor` needs the key `divisor`".to_owned())),
        (_, Some(_)) => Err(invalid(format!("key `divisor` does not go with reduction `{name}`"))),
        ("mean", None) => Ok(Reduction::Mean),
        ("sum", None) => Ok(Reduction::Sum),
        ("none", None) => Ok(Reduction::None),
        ("batch_mean", None) => Ok(Reduction::BatchMean),
        _ => Err(invalid(format!("reduction `{name}`, must be mean, sum, none, divisor or batch_mean"))),
    }
}

impl Learned {
    fn build(self, tensors: &Tensors, classes: usize) -> Result<Learner, CaseError> {
        let step = match self.step {
            JsonStep::Raw => Step::Raw,
            JsonStep::UnitL2 => Step::UnitL2,
        };
        let split = match self.split {
            JsonSplit::MeanConfidence {} => Split::MeanConfidence,
            JsonSplit::Confidence { tau } => Split::Confidence { tau },
            JsonSplit::Rank { head } => {
                Split::Rank { head, counts: ClassCounts::new(tensors.floats("class_counts", &[classes])?)? }
            }
            JsonSplit::Explicit {} => Split::Explicit(tensors.directions("direction", classes)?),
        };
        let bound = match self.bound {
            JsonBound::Fixed { eps } => Bound::Fixed { eps },
            JsonBound::Confidence { eps, delta_eps } => Bound::Confidence { eps, delta_eps },
            JsonBound::LongTail { eps, delta_head, delta_tail } => {
                let ratio = tensors.optional_floats("ratio", &[classes])?;
                Bound::LongTail { eps, delta_head, delta_tail, ratio }
            }
        };
        Ok(Learner::new(step, self.alpha, split, bound)?.gradient(self.gradient.into()))
    }
}

impl BinaryLearned {
    fn build(self, tensors: &Tensors, classes: usize) -> Result<BinaryLearner, CaseError> {
        let step = match self.step {
            JsonBinaryStep::Raw => BinaryStep::Raw,
            JsonBinaryStep::Sign => BinaryStep::Sign,
            JsonBinaryStep::Exact => BinaryStep::Exact,
        };
        let split = |name| Ok::<_, CaseError>(Split::Explicit(tensors.directions(name, classes)?));
        let bound = |name| Ok::<_, CaseError>(Bound::Explicit(tensors.floats(name, &[classes])?));
        let learner = BinaryLearner::new(step, self.alpha, split("direction_pos")?, bound("bound_pos")?)?;
        let learner = learner.negatives(NegativeSplit::Own(split("direction_neg")?), bound("bound_neg")?)?;
        Ok(learner.gradient(self.gradient.into()))
    }
}

impl Header {
    /// The inputs that only some problems read, where this one does not: they would be left out silently. Class counts are not among them: a
    /// dump may carry them along.
    pub(crate) fn unused(&self) -> Vec<&'static str> {
        let all = ["ratio", "direction", "direction_pos", "direction_neg", "bound_pos", "bound_neg", "perturbation"];
        let used: &[&str] = match self {
            Header::Softmax { learned: Some(learned), .. } => match (&learned.split, &learned.bound) {
                (_, JsonBound::LongTail { .. }) => &["ratio"],
                (JsonSplit::Explicit {}, _) => &["direction"],
                _ => &[],
            },
            Header::Sigmoid { learned: Some(_), .. } => &all[2..6],
            _ => &[],
        };
        let form = matches!(self, Header::Softmax { perturbation: Some(_), .. });
        all.into_iter().filter(|name| !(used.contains(name) || form && *name == "perturbation")).collect()
    }

    /// The problem that the header and the tensors of a batch `[rows, classes]` state.
    pub(crate) fn build(self, tensors: &Tensors, rows: usize, classes: usize) -> Result<Problem, CaseError> {
        let vector = |name: &str| tensors.optional_floats(name, &[classes]);
        match self {
            Header::Softmax {
                reduction: name,
                divisor,
                scale,
                label_smoothing,
                z_loss,
                ignore_index,
                perturbation,
                learned,
            } => {
                let mut problem = CrossEntropy::builder()
                    .reduction(reduction(&name, divisor)?)
                    .label_smoothing(label_smoothing)
                    .z_loss(z_loss);
                if let Some(label) = ignore_index {
                    problem = problem.ignore_index(label);
                }
                if let Some(scales) = vector("class_scale")? {
                    if scale != 1.0 {
                        return Err(CaseError::tensor("class_scale", "and key `scale` exclude each other"));
                    }
                    problem = problem.class_scale(scales);
                } else {
                    problem = problem.scale(scale);
                }
                if let Some(weights) = vector("class_weights")? {
                    problem = problem.class_weights(weights);
                }
                if let Some(form) = perturbation {
                    let read = |shape: &[usize]| tensors.floats("perturbation", shape);
                    problem = problem.perturbation(match form {
                        Form::Shared => Perturbation::Shared(read(&[classes])?),
                        Form::TargetMargin => Perturbation::TargetMargin(read(&[classes])?),
                        Form::ClassMatrix => Perturbation::ClassMatrix(read(&[classes, classes])?),
                        Form::PerSample => {
                            read(&[rows, classes])?;
                            Perturbation::PerSample
                        }
                    });
                }
                if let Some(learned) = learned {
                    problem = problem.learner(learned.build(tensors, classes)?);
                }
                Ok(Problem::Softmax(problem.build()?))
            }
            Header::Sigmoid { reduction: name, divisor, negative_scale, focusing, learned } => {
                let mut fixed = BinaryPerturbation::none();
                if let Some(offset) = vector("offset")? {
                    fixed = fixed.offset(offset);
                }
                if let Some(positive) = vector("delta_pos")? {
                    fixed = fixed.positive(positive);
                }
                if let Some(negative) = vector("delta_neg")? {
                    fixed = fixed.negative(negative);
                }
                let mut problem = BinaryCrossEntropy::builder()
                    .reduction(reduction(&name, divisor)?)
                    .negative_scale(negative_scale)
                    .perturbation(fixed);
                if let Some(weights) = vector("pos_weight")? {
                    problem = problem.pos_weight(weights);
                }
                if let Some(JsonFocusing { gamma_pos, gamma_neg, clip }) = focusing {
                    problem = problem.focusing(Focusing { gamma_pos, gamma_neg, clip });
                }
                if let Some(learned) = learned {
                    problem = problem.learner(learned.build(tensors, classes)?);
                }
                Ok(Problem::Sigmoid(problem.build()?))
            }
        }
    }
}
