//! What one enqueue of cross-entropy takes beside its logits; the twin of [`cpu::CrossEntropyBatch`](crate::cpu::CrossEntropyBatch).

use super::batch::DeviceLabels;
use super::element::DeviceElement;
use super::operand::{DeviceOperand, DeviceScalar, Guards, check_vector};
use crate::error::{Error, Result, check};
use crate::kernel::check_shared_bound;
use crate::loss::{CrossEntropy, Reduction};
use crate::perturbation::{Bound, Learner, Perturbation};
use cudarc::driver::{CudaContext, CudaView};

/// What a row is compared with.
#[derive(Debug)]
pub(super) enum DeviceTarget<'a, T> {
    Labels(DeviceLabels<'a>),
    Soft(DeviceOperand<'a, T>),
}

/// The gradient of the loss.
#[derive(Debug)]
#[non_exhaustive]
pub enum DeviceUpstream<'a> {
    /// One number.
    Scalar(DeviceScalar<'a>),
    /// One a row, `[N]`, for [`Reduction::None`].
    Rows(CudaView<'a, f32>),
}

impl DeviceUpstream<'_> {
    /// The host's number, 1 where it is on the device, and the address there.
    pub(super) fn hold<'g>(&'g self, guards: &mut Guards<'g>) -> (f64, u64) {
        match self {
            DeviceUpstream::Scalar(scalar) => {
                let (value, address) = guards.scalar(Some(scalar));
                (value.unwrap_or(1.0), address)
            }
            DeviceUpstream::Rows(view) => (1.0, guards.read(view)),
        }
    }

    /// Whether there is one a row.
    pub(super) fn is_by_row(&self) -> bool {
        matches!(self, DeviceUpstream::Rows(_))
    }
}

/// A perturbation in place of the one that the problem holds, of the same form.
#[derive(Debug)]
pub(super) enum DevicePerturbation<'a, T> {
    Vector(CudaView<'a, f32>),
    Matrix(DeviceOperand<'a, T>),
}

/// Bounds in place of the learner's.
#[derive(Debug)]
pub(super) enum DeviceBound<'a> {
    Shared(DeviceScalar<'a>),
    ByClass(CudaView<'a, f32>),
}

/// A batch for [`CrossEntropyOp::enqueue`](super::CrossEntropyOp::enqueue), but for its logits. Everything is on the device but numbers that
/// the host gives; what is on the device is not checked before the launch, labels excepted. In a captured graph, only what is on the device
/// can change from replay to replay.
#[derive(Debug)]
#[must_use]
pub struct DeviceBatch<'a, T> {
    pub(super) target: DeviceTarget<'a, T>,
    pub(super) sample_weights: Option<CudaView<'a, f32>>,
    pub(super) class_weights: Option<CudaView<'a, f32>>,
    pub(super) perturbation: Option<DevicePerturbation<'a, T>>,
    pub(super) divisor: Option<DeviceScalar<'a>>,
    pub(super) upstream: DeviceUpstream<'a>,
    pub(super) alpha: Option<DeviceScalar<'a>>,
    pub(super) bound: Option<DeviceBound<'a>>,
}

impl<'a, T> From<DeviceLabels<'a>> for DeviceBatch<'a, T> {
    fn from(labels: DeviceLabels<'a>) -> Self {
        Self::labels(labels)
    }
}

impl<'a, T> DeviceBatch<'a, T> {
    fn new(target: DeviceTarget<'a, T>) -> Self {
        Self {
            target,
            sample_weights: None,
            class_weights: None,
            perturbation: None,
            divisor: None,
            upstream: DeviceUpstream::Scalar(DeviceScalar::Host(1.0)),
            alpha: None,
            bound: None,
        }
    }

    /// Hard labels `[N]`.
    pub fn labels(labels: DeviceLabels<'a>) -> Self {
        Self::new(DeviceTarget::Labels(labels))
    }

    /// Soft targets `[N, C]`, for an operation [set up](super::Setup::soft_targets) for them.
    pub fn soft_targets(targets: DeviceOperand<'a, T>) -> Self {
        Self::new(DeviceTarget::Soft(targets))
    }

    /// Sample weights `omega[N]`, each finite and `>= 0`. Default 1.
    pub fn sample_weights(mut self, weights: CudaView<'a, f32>) -> Self {
        self.sample_weights = Some(weights);
        self
    }

    /// Class weights `w[C]` in place of the problem's.
    pub fn class_weights(mut self, weights: CudaView<'a, f32>) -> Self {
        self.class_weights = Some(weights);
        self
    }

    /// A vector `[C]` in place of the problem's: the `d` of a shared perturbation, or the margins of a target margin.
    pub fn perturbation(mut self, vector: CudaView<'a, f32>) -> Self {
        self.perturbation = Some(DevicePerturbation::Vector(vector));
        self
    }

    /// The `d[N, C]` of a perturbation per sample, or a class matrix `[C, C]` in place of the problem's.
    pub fn perturbation_matrix(mut self, matrix: DeviceOperand<'a, T>) -> Self {
        self.perturbation = Some(DevicePerturbation::Matrix(matrix));
        self
    }

    /// The divisor in place of the one of [`Reduction::Divisor`], finite and > 0.
    pub fn divisor(mut self, divisor: impl Into<DeviceScalar<'a>>) -> Self {
        self.divisor = Some(divisor.into());
        self
    }

    /// The learner's step size in place of the one it was built with, finite and > 0. On the device, what is out of its range switches
    /// learning off and is [reported](super::CrossEntropyOp::check).
    pub fn alpha(mut self, alpha: impl Into<DeviceScalar<'a>>) -> Self {
        self.alpha = Some(alpha.into());
        self
    }

    /// The `eps` of a learner's [`Bound::Fixed`](crate::Bound::Fixed) or [`Bound::Confidence`](crate::Bound::Confidence) in place of the one it was built with, finite, `>= 0` and under
    /// which no bound exceeds 30. On the device, a class whose bound is out of its range is not learned for, and the first such is
    /// [reported](super::CrossEntropyOp::check).
    pub fn eps(mut self, eps: impl Into<DeviceScalar<'a>>) -> Self {
        self.bound = Some(DeviceBound::Shared(eps.into()));
        self
    }

    /// `eps_c`, `[C]`, in place of those that the learner's bound gives, [`Bound::Confidence`](crate::Bound::Confidence) adding to them as it does to its own; of a class
    /// out of its range as [`eps`](Self::eps).
    pub fn bounds(mut self, eps: CudaView<'a, f32>) -> Self {
        self.bound = Some(DeviceBound::ByClass(eps));
        self
    }

    /// The upstream gradient `g`. Default 1.
    pub fn upstream(mut self, upstream: DeviceUpstream<'a>) -> Self {
        self.upstream = upstream;
        self
    }
}

impl<T: DeviceElement> DeviceBatch<'_, T> {
    /// A typed error unless everything agrees with the problem and the shape of the logits.
    pub(super) fn check(&self, problem: &CrossEntropy, (n, c): (usize, usize), context: &CudaContext) -> Result<()> {
        match &self.target {
            DeviceTarget::Labels(labels) => {
                check::length("labels", labels.len(), n)?;
                labels.check_context(context)?;
            }
            DeviceTarget::Soft(targets) => targets.check("soft_targets", n, c, context)?,
        }
        if let Some(weights) = &self.sample_weights {
            check_vector("sample_weights", weights, n, context)?;
        }
        if let Some(weights) = &self.class_weights {
            check_vector("class_weights", weights, c, context)?;
        }
        let clash = |context, reason| Err(Error::conflict("perturbation of the batch", context, reason));
        match (problem.perturbation(), &self.perturbation) {
            (Perturbation::PerSample, None) => {
                clash("with a perturbation per sample", "the batch must bring d[N, C]")?;
            }
            (_, None) => {}
            (Perturbation::Shared(_) | Perturbation::TargetMargin(_), Some(DevicePerturbation::Vector(vector))) => {
                check_vector("perturbation", vector, c, context)?;
            }
            (Perturbation::ClassMatrix(_), Some(DevicePerturbation::Matrix(matrix))) => {
                matrix.check("perturbation", c, c, context)?;
            }
            (Perturbation::PerSample, Some(DevicePerturbation::Matrix(matrix))) => {
                matrix.check("perturbation", n, c, context)?;
            }
            _ => clash("with this problem", "the problem's perturbation is of another form")?,
        }
        self.check_learner(problem.learner(), c, context)?;
        check_divisor(self.divisor.as_ref(), problem.reduction(), context)?;
        check_upstream(&self.upstream, problem.reduction(), n, context)
    }
}

impl<T> DeviceBatch<'_, T> {
    /// Step size and bounds need a learner, and a range where the host gives them.
    fn check_learner(&self, learner: Option<&Learner>, c: usize, context: &CudaContext) -> Result<()> {
        let Some(learner) = learner else {
            let clash = |argument| Err(Error::conflict(argument, "without a learner", "nothing is learned"));
            return match (&self.alpha, &self.bound) {
                (Some(_), _) => clash("alpha"),
                (_, Some(_)) => clash("eps"),
                _ => Ok(()),
            };
        };
        match &self.alpha {
            None => {}
            Some(DeviceScalar::Host(alpha)) => check::positive("alpha", *alpha)?,
            Some(DeviceScalar::Device(view)) => check_vector("alpha", view, 1, context)?,
        }
        match &self.bound {
            Some(DeviceBound::Shared(_)) if matches!(learner.bound(), Bound::LongTail { .. } | Bound::Explicit(_)) => {
                Err(Error::conflict("eps", "with a bound a class", "DeviceBatch::bounds takes the bounds' place"))
            }
            Some(DeviceBound::Shared(DeviceScalar::Host(eps))) => {
                check::non_negative("eps", *eps)?;
                check_shared_bound(learner, *eps)
            }
            Some(DeviceBound::Shared(DeviceScalar::Device(view))) => check_vector("eps", view, 1, context),
            Some(DeviceBound::ByClass(view)) => check_vector("bounds", view, c, context),
            None => Ok(()),
        }
    }
}

/// A divisor needs the reduction that divides by it, and a range where the host gives it.
pub(super) fn check_divisor(
    divisor: Option<&DeviceScalar<'_>>,
    reduction: Reduction,
    context: &CudaContext,
) -> Result<()> {
    match divisor {
        None => Ok(()),
        Some(_) if !matches!(reduction, Reduction::Divisor(_)) => {
            Err(Error::conflict("divisor", "with this reduction", "only Reduction::Divisor divides by it"))
        }
        Some(DeviceScalar::Host(value)) => check::positive("divisor", *value),
        Some(DeviceScalar::Device(view)) => check_vector("divisor", view, 1, context),
    }
}

/// An upstream gradient a row needs row losses.
pub(super) fn check_upstream(
    upstream: &DeviceUpstream<'_>,
    reduction: Reduction,
    rows: usize,
    context: &CudaContext,
) -> Result<()> {
    match upstream {
        DeviceUpstream::Scalar(DeviceScalar::Host(value)) => check::finite("upstream", *value),
        DeviceUpstream::Scalar(DeviceScalar::Device(view)) => check_vector("upstream", view, 1, context),
        DeviceUpstream::Rows(_) if reduction != Reduction::None => {
            Err(Error::conflict("upstream a row", "with this reduction", "only Reduction::None has row losses"))
        }
        DeviceUpstream::Rows(view) => check_vector("upstream", view, rows, context),
    }
}
