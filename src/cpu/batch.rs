//! What comes with each batch besides the logits.

use crate::data::{BinaryTargets, Floats, Labels, Mask, Matrix};
use crate::loss::Upstream;
use crate::perturbation::RunningConfidence;

/// What a softmax row should predict.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Target<'a> {
    /// A class label a row, `[N]`.
    Labels(Labels<'a>),
    /// Soft targets `[N, C]`: any finite numbers `>= 0`; rows need not sum to 1.
    Soft(Matrix<'a>),
}

/// A batch for [`cross_entropy`](super::cross_entropy), but for its logits.
#[derive(Debug)]
#[must_use]
pub struct CrossEntropyBatch<'a> {
    pub(super) target: Target<'a>,
    pub(super) sample_weights: Option<Floats<'a>>,
    pub(super) perturbation: Option<Matrix<'a>>,
    pub(super) upstream: Upstream<'a>,
    pub(super) running: Option<&'a mut RunningConfidence>,
}

impl<'a> CrossEntropyBatch<'a> {
    fn new(target: Target<'a>) -> Self {
        Self { target, sample_weights: None, perturbation: None, upstream: Upstream::default(), running: None }
    }

    /// Hard labels `[N]`.
    pub fn labels(labels: impl Into<Labels<'a>>) -> Self {
        Self::new(Target::Labels(labels.into()))
    }

    /// Soft targets `[N, C]`. Label smoothing, perturbations that depend on the label and a learner exclude them.
    pub fn soft_targets(targets: Matrix<'a>) -> Self {
        Self::new(Target::Soft(targets))
    }

    /// Sample weights `omega[N]`, each finite and `>= 0`. Default 1.
    pub fn sample_weights(mut self, weights: impl Into<Floats<'a>>) -> Self {
        self.sample_weights = Some(weights.into());
        self
    }

    /// The perturbations `d[N, C]` that [`Perturbation::PerSample`](crate::Perturbation::PerSample) asks for.
    pub fn perturbation(mut self, perturbation: Matrix<'a>) -> Self {
        self.perturbation = Some(perturbation);
        self
    }

    /// The upstream gradient `g`. Default 1.
    pub fn upstream(mut self, upstream: Upstream<'a>) -> Self {
        self.upstream = upstream;
        self
    }

    /// Uses running confidences in place of the batch's own, and takes the batch's in. They change only when the call succeeds.
    pub fn running_confidence(mut self, running: &'a mut RunningConfidence) -> Self {
        self.running = Some(running);
        self
    }
}

/// A batch for [`binary_cross_entropy`](super::binary_cross_entropy), but for its logits.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct BinaryCrossEntropyBatch<'a> {
    pub(super) targets: BinaryTargets<'a>,
    pub(super) mask: Option<Mask<'a>>,
    pub(super) weights: Option<Matrix<'a>>,
    pub(super) upstream: Upstream<'a>,
}

impl<'a> BinaryCrossEntropyBatch<'a> {
    /// Targets `[N, C]` in any of the formats.
    pub fn new(targets: impl Into<BinaryTargets<'a>>) -> Self {
        Self { targets: targets.into(), mask: None, weights: None, upstream: Upstream::default() }
    }

    /// Which entries are known. An entry is masked where the mask or a target of -1 says so.
    pub fn mask(mut self, mask: Mask<'a>) -> Self {
        self.mask = Some(mask);
        self
    }

    /// Entry weights `w[N, C]`, each finite and `>= 0` where the entry is not masked. Default 1.
    pub fn weights(mut self, weights: Matrix<'a>) -> Self {
        self.weights = Some(weights);
        self
    }

    /// The upstream gradient `g`. Default 1.
    pub fn upstream(mut self, upstream: Upstream<'a>) -> Self {
        self.upstream = upstream;
        self
    }
}
