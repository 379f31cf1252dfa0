//! What one enqueue of binary cross-entropy takes beside its logits; the twin of
//! [`cpu::BinaryCrossEntropyBatch`](crate::cpu::BinaryCrossEntropyBatch).

use super::batch::{DeviceMatrix, check_context};
use super::cross_entropy_batch::{DeviceUpstream, check_divisor, check_upstream};
use super::element::DeviceElement;
use super::operand::{DeviceOperand, DeviceScalar, Guards, check_vector};
use crate::error::{Error, Result};
use crate::kernel::DType;
use crate::kernel::binary::{TargetFormat, TargetSource};
use crate::loss::BinaryCrossEntropy;
use cudarc::driver::{CudaContext, CudaView};

/// Multi-label targets `[N, C]` on the device, each in `[0, 1]`; the twin of [`BinaryTargets`](crate::BinaryTargets). In the signed and the
/// float formats -1 marks an unknown entry, which counts as masked. All formats give the same numbers.
#[derive(Debug)]
#[non_exhaustive]
pub enum DeviceTargets<'a, T> {
    /// Soft or hard targets, in f32 or in the logits' type.
    Dense(DeviceOperand<'a, T>),
    /// Hard targets 0, 1 or -1 (unknown).
    I8(DeviceMatrix<'a, i8>),
    /// Hard targets 0 or 1.
    U8(DeviceMatrix<'a, u8>),
    /// Hard targets as packed bits `[N, ceil(C / 32)]`: bit `c % 32` of word `c / 32` of a row. Bits past C are ignored.
    Bits(DeviceMatrix<'a, u32>),
    /// The positive classes of each row as a list, for an operation [set up](super::BinarySetup::lists) for them: row `i` has
    /// `indices[offsets[i]..offsets[i + 1]]`. Duplicates count once.
    Csr {
        /// `N + 1` ascending positions in `indices`.
        offsets: CudaView<'a, i32>,
        /// Class indices, each in `0..C`; at most 2^31 - 1 of them.
        indices: CudaView<'a, i32>,
    },
}

/// A batch for [`BinaryCrossEntropyOp::enqueue`](super::BinaryCrossEntropyOp::enqueue), but for its logits. Everything is on the device but
/// numbers that the host gives; what is on the device is not checked before the launch, targets excepted, which the launch checks. In a captured
/// graph, only what is on the device can change from replay to replay.
#[derive(Debug)]
#[must_use]
pub struct DeviceBinaryBatch<'a, T> {
    pub(super) targets: DeviceTargets<'a, T>,
    pub(super) mask: Option<DeviceMatrix<'a, u32>>,
    pub(super) weights: Option<DeviceOperand<'a, T>>,
    pub(super) divisor: Option<DeviceScalar<'a>>,
    pub(super) upstream: DeviceUpstream<'a>,
    pub(super) vectors: ClassVectors<'a>,
}

/// Numbers of the classes, `[C]` each, in place of the problem's.
#[derive(Debug, Default)]
pub(super) struct ClassVectors<'a> {
    pub(super) pos_weight: Option<CudaView<'a, f32>>,
    pub(super) offset: Option<CudaView<'a, f32>>,
    pub(super) positive: Option<CudaView<'a, f32>>,
    pub(super) negative: Option<CudaView<'a, f32>>,
}

impl<'a, T> From<DeviceTargets<'a, T>> for DeviceBinaryBatch<'a, T> {
    fn from(targets: DeviceTargets<'a, T>) -> Self {
        Self::new(targets)
    }
}

impl<'a, T> DeviceBinaryBatch<'a, T> {
    /// Targets `[N, C]` in any of the formats.
    pub fn new(targets: DeviceTargets<'a, T>) -> Self {
        let upstream = DeviceUpstream::Scalar(DeviceScalar::Host(1.0));
        Self { targets, mask: None, weights: None, divisor: None, upstream, vectors: ClassVectors::default() }
    }

    /// Which entries are known, as packed bits `[N, ceil(C / 32)]`: 0 masks an entry. An entry is masked where the mask or a target of -1 says
    /// so; a masked entry's logit, target and weight may be anything.
    pub fn mask(mut self, bits: DeviceMatrix<'a, u32>) -> Self {
        self.mask = Some(bits);
        self
    }

    /// Entry weights `w[N, C]`, each finite and `>= 0` where the entry is not masked. Default 1.
    pub fn weights(mut self, weights: DeviceOperand<'a, T>) -> Self {
        self.weights = Some(weights);
        self
    }

    /// The weights of positives `P[C]`, each finite and `>= 0`, in place of the problem's.
    pub fn pos_weight(mut self, weights: CudaView<'a, f32>) -> Self {
        self.vectors.pos_weight = Some(weights);
        self
    }

    /// `beta[C]` in place of that of the problem's perturbation.
    pub fn offset(mut self, beta: CudaView<'a, f32>) -> Self {
        self.vectors.offset = Some(beta);
        self
    }

    /// `dpos[C]` in place of that of the problem's perturbation; a learned one adds to it.
    pub fn positive(mut self, dpos: CudaView<'a, f32>) -> Self {
        self.vectors.positive = Some(dpos);
        self
    }

    /// `dneg[C]` in place of that of the problem's perturbation; a learned one adds to it.
    pub fn negative(mut self, dneg: CudaView<'a, f32>) -> Self {
        self.vectors.negative = Some(dneg);
        self
    }

    /// The divisor in place of the one of [`Reduction::Divisor`](crate::Reduction::Divisor), finite and > 0.
    pub fn divisor(mut self, divisor: impl Into<DeviceScalar<'a>>) -> Self {
        self.divisor = Some(divisor.into());
        self
    }

    /// The upstream gradient `g`. Default 1.
    pub fn upstream(mut self, upstream: DeviceUpstream<'a>) -> Self {
        self.upstream = upstream;
        self
    }
}

impl<'a, T: DeviceElement> DeviceTargets<'a, T> {
    fn check(&self, n: usize, c: usize, context: &CudaContext) -> Result<()> {
        let name = "targets";
        match self {
            DeviceTargets::Dense(operand) => operand.check(name, n, c, context),
            DeviceTargets::I8(matrix) => matrix.check(name, n, c, context),
            DeviceTargets::U8(matrix) => matrix.check(name, n, c, context),
            DeviceTargets::Bits(matrix) => matrix.check(name, n, c.div_ceil(32), context),
            DeviceTargets::Csr { offsets, indices } => {
                if indices.len() > i32::MAX as usize {
                    return Err(Error::shape("targets.indices", "length", indices.len(), "at most 2^31 - 1"));
                }
                check_vector("targets.offsets", offsets, n + 1, context)?;
                check_context("targets.indices", indices, context)
            }
        }
    }

    /// Addresses of the targets (of lists, their offsets) and of lists' indices, and what they are.
    pub(super) fn hold<'g>(&'g self, guards: &mut Guards<'g>) -> (u64, u64, TargetSource) {
        let dense = |format, stride| TargetSource::Dense { format, stride };
        match self {
            DeviceTargets::Dense(DeviceOperand::F32(matrix)) => {
                (guards.read(&matrix.data), 0, dense(TargetFormat::F32, matrix.stride))
            }
            DeviceTargets::Dense(DeviceOperand::Same(matrix)) => {
                let is_single = T::KERNEL_DTYPE == DType::F32;
                let format = if is_single { TargetFormat::F32 } else { TargetFormat::Element };
                (guards.read(&matrix.data), 0, dense(format, matrix.stride))
            }
            DeviceTargets::I8(matrix) => (guards.read(&matrix.data), 0, dense(TargetFormat::I8, matrix.stride)),
            DeviceTargets::U8(matrix) => (guards.read(&matrix.data), 0, dense(TargetFormat::U8, matrix.stride)),
            DeviceTargets::Bits(matrix) => (guards.read(&matrix.data), 0, dense(TargetFormat::Bits, matrix.stride)),
            DeviceTargets::Csr { offsets, indices } => {
                let source = TargetSource::Lists { indices: indices.len() };
                (guards.read(offsets), guards.read(indices), source)
            }
        }
    }

    /// Whether -1 stands for unknown.
    pub(super) fn has_unknown(&self) -> bool {
        matches!(self, DeviceTargets::Dense(_) | DeviceTargets::I8(_))
    }
}

impl<T: DeviceElement> DeviceBinaryBatch<'_, T> {
    /// A typed error unless everything agrees with the problem and the shape of the logits.
    pub(super) fn check(
        &self,
        problem: &BinaryCrossEntropy,
        (n, c): (usize, usize),
        context: &CudaContext,
    ) -> Result<()> {
        self.targets.check(n, c, context)?;
        if let Some(mask) = &self.mask {
            mask.check("mask", n, c.div_ceil(32), context)?;
        }
        if let Some(weights) = &self.weights {
            weights.check("weights", n, c, context)?;
        }
        let ClassVectors { pos_weight, offset, positive, negative } = &self.vectors;
        let names = [("pos_weight", pos_weight), ("offset", offset), ("positive", positive), ("negative", negative)];
        for (name, vector) in names {
            if let Some(vector) = vector {
                check_vector(name, vector, c, context)?;
            }
        }
        check_divisor(self.divisor.as_ref(), problem.reduction(), context)?;
        check_upstream(&self.upstream, problem.reduction(), n, context)
    }
}
