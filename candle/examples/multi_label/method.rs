//! The losses that are compared, each as a problem of `logit-perturb`.

use clap::ValueEnum;
use logit_perturb_candle::logit_perturb::{
    BinaryCrossEntropy, BinaryLearner, BinaryPerturbation, BinaryStep, Bound, ClassCounts, Focusing, Reduction, Result,
    Split,
};

/// A label that fewer of the training rows carry counts as rare.
const RARE: f64 = 0.35;

/// Which labels are rare in training.
pub fn is_rare(counts: &ClassCounts) -> Vec<bool> {
    counts.priors().into_iter().map(|frequency| frequency < RARE).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Method {
    /// Binary cross-entropy, the baseline
    Bce,
    /// Negative-tolerant regularisation (from DB-loss, Wu 2020)
    Nt,
    /// Asymmetric loss (Ridnik 2021)
    Asl,
    /// Learned perturbation of the rare labels, steps of the gradient's sign
    LplSign,
    /// Learned perturbation of the rare labels, gradient steps
    LplRaw,
}

impl Method {
    pub fn name(self) -> &'static str {
        match self {
            Method::Bce => "BCE",
            Method::Nt => "NT",
            Method::Asl => "ASL",
            Method::LplSign => "LPL, sign",
            Method::LplRaw => "LPL, raw",
        }
    }

    /// The loss for a training set with these label counts: summed over the labels, averaged over the rows.
    pub fn problem(self, counts: &ClassCounts) -> Result<BinaryCrossEntropy> {
        let loss = BinaryCrossEntropy::builder().reduction(Reduction::BatchMean);
        match self {
            Method::Bce => loss,
            Method::Nt => {
                let (kappa, negative_scale) = (1.0, 2.0);
                let bias = BinaryPerturbation::negative_tolerant(counts, kappa, negative_scale)?;
                loss.negative_scale(negative_scale).perturbation(bias)
            }
            Method::Asl => loss.focusing(Focusing { gamma_pos: 0.0, gamma_neg: 4.0, clip: 0.05 }),
            Method::LplSign => loss.learner(lpl(BinaryStep::Sign, counts, 2.0)?),
            Method::LplRaw => loss.learner(lpl(BinaryStep::Raw, counts, 5.0)?),
        }
        .build()
    }
}

/// A rare label's positives are made harder (+1) and, the opposite by default, its negatives easier (-1): both lower its logits in
/// training, which the model answers with higher ones.
fn lpl(step: BinaryStep, counts: &ClassCounts, eps: f64) -> Result<BinaryLearner> {
    let directions = is_rare(counts).into_iter().map(i8::from).collect();
    BinaryLearner::new(step, 0.1, Split::Explicit(directions), Bound::Fixed { eps })
}
