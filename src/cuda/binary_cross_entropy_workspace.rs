//! What binary cross-entropy is set up for, and the device memory that it owns.

use super::binary_learned::{BinaryLearned, BinaryLearnedMemory};
use super::cross_entropy_workspace::Allocator;
use super::kernels::{allocation, driver};
use super::operand::Guards;
use crate::error::{Error, Result, check};
use crate::kernel::binary::{
    BadTargets, BinaryAddresses, BinaryLearnAddresses, BinaryPlan, BinaryWorkspaceSizes, TargetErrors,
};
use crate::loss::BinaryCrossEntropy;
use cudarc::driver::{CudaSlice, CudaStream, CudaView, DevicePtr, sys};
use std::sync::Arc;

/// What an operation is prepared for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct BinarySetup {
    pub(super) classes: usize,
    pub(super) max_rows: usize,
    pub(super) loss_rows: bool,
    pub(super) statistics: bool,
    pub(super) lists: bool,
    pub(super) learned: bool,
    pub(super) data_parallel: bool,
}

impl BinarySetup {
    /// Batches of up to `max_rows` rows of `classes` logits with targets in any format but lists, and the loss alone.
    pub fn new(classes: usize, max_rows: usize) -> Self {
        Self {
            classes,
            max_rows,
            loss_rows: false,
            statistics: false,
            lists: false,
            learned: false,
            data_parallel: false,
        }
    }

    /// Asks for the row losses, `[N]`.
    pub fn loss_rows(self) -> Self {
        Self { loss_rows: true, ..self }
    }

    /// Asks for class statistics, `[C]` each; one more kernel a batch, which reads the logits once more.
    pub fn statistics(self) -> Self {
        Self { statistics: true, ..self }
    }

    /// Takes targets as [lists of classes](super::DeviceTargets::Csr) too; a quarter of a byte of workspace an entry.
    pub fn lists(self) -> Self {
        Self { lists: true, ..self }
    }

    /// Asks for what a learner did, `[C]` a class and sign.
    pub fn learned(self) -> Self {
        Self { learned: true, ..self }
    }

    /// For a learner on batches that are spread over devices: each batch begins with
    /// [`enqueue_confidences`](super::BinaryCrossEntropyOp::enqueue_confidences), and what that leaves is added up over the devices before
    /// [`enqueue`](super::BinaryCrossEntropyOp::enqueue). Confidences, directions, bounds and `tau` are then those of the whole batch; each
    /// device's steps follow the mean gradient of its own entries, so delta differs from device to device, and is 0 where one has no entry.
    pub fn data_parallel(self) -> Self {
        Self { data_parallel: true, ..self }
    }

    pub(super) fn check(&self, problem: &BinaryCrossEntropy) -> Result<()> {
        if self.classes == 0 || self.classes > i32::MAX as usize / 2 {
            return Err(Error::shape("classes", "length", self.classes, "between 1 and 2^30"));
        }
        problem.classes().map_or(Ok(()), |expected| check::length("logits' columns", self.classes, expected))
    }
}

/// Class statistics on the device, `[C]` each, over the entries that are not masked.
#[derive(Debug)]
#[non_exhaustive]
pub struct BinaryClassStatisticsViews<'a> {
    /// Entries of each class.
    pub count: CudaView<'a, u64>,
    /// Sums of targets: the number of positives where targets are hard.
    pub positives: CudaView<'a, f64>,
    /// Sums of weighted losses; infinite where a part of the batch adds 2^35 or more.
    pub loss: CudaView<'a, f64>,
}

#[derive(Debug)]
pub(super) struct BinaryStatistics {
    count: CudaSlice<u64>,
    positives: CudaSlice<f64>,
    loss: CudaSlice<f64>,
}

impl BinaryStatistics {
    pub(super) fn views(&self) -> BinaryClassStatisticsViews<'_> {
        BinaryClassStatisticsViews {
            count: self.count.as_view(),
            positives: self.positives.as_view(),
            loss: self.loss.as_view(),
        }
    }
}

/// The operation's device memory.
#[derive(Debug)]
pub(super) struct BinaryWorkspace {
    pub(super) loss: CudaSlice<f32>,
    pub(super) loss_rows: Option<CudaSlice<f32>>,
    pub(super) statistics: Option<BinaryStatistics>,
    pub(super) learned: Option<BinaryLearnedMemory>,
    errors: CudaSlice<u8>,
    /// Everything else: what only this operation's stream touches. Addresses are looked up once.
    _own: Vec<CudaSlice<u8>>,
    addresses: BinaryAddresses,
}

impl BinaryWorkspace {
    pub(super) fn new(
        stream: &Arc<CudaStream>,
        problem: &BinaryCrossEntropy,
        setup: &BinarySetup,
        plan: &BinaryPlan,
        learned: Option<&BinaryLearned>,
    ) -> Result<Self> {
        let mut memory = Allocator::new(stream);
        let (c, rows) = (setup.classes, setup.max_rows.max(1));
        let sizes = BinaryWorkspaceSizes::of(plan, rows);
        let statistics = match setup.statistics {
            false => None,
            true => Some(BinaryStatistics {
                count: memory.zeros("class statistics", c)?,
                positives: memory.zeros("class statistics", c)?,
                loss: memory.zeros("class statistics", c)?,
            }),
        };
        let loss = memory.zeros::<f32>("the loss", 1)?;
        let loss_rows = memory.zeros_if::<f32>(setup.loss_rows, rows)?;
        let errors = memory.zeros::<u8>("the workspace", size_of::<TargetErrors>())?;
        let perturbation = problem.perturbation();
        let mut part = |what: fn((f64, f64, f64)) -> f64| {
            let numbers: Vec<f64> = match problem.classes() {
                Some(c) => (0..c).map(|class| what(perturbation.at(class))).collect(),
                None => Vec::new(),
            };
            // One that is 0 throughout need not be read.
            memory.upload("the perturbation", numbers.iter().any(|x| *x != 0.0).then_some(&numbers))
        };
        let (offset, positive, negative) = (part(|parts| parts.0)?, part(|parts| parts.1)?, part(|parts| parts.2)?);
        let learned = match learned {
            None => None,
            Some(learned) => Some(BinaryLearnedMemory::new(&mut memory, learned, setup, [positive, negative])?),
        };
        let of_statistics = statistics.as_ref().map(|buffers| {
            let address = |sums: &CudaSlice<f64>| sums.device_ptr(stream).0;
            (buffers.count.device_ptr(stream).0, address(&buffers.positives), address(&buffers.loss))
        });
        let (class_count, class_positives, class_loss) = of_statistics.unwrap_or_default();
        let mut counters = |per_class: usize| if setup.statistics { memory.own::<u32>(per_class * c) } else { Ok(0) };
        let (class_counting, class_sums, class_met) = (counters(2)?, counters(8)?, counters(1)?);
        let found = bytemuck::bytes_of(&BadTargets::NONE);
        let found = stream.clone_htod(found).map_err(|error| allocation("the workspace", found.len(), error))?;
        let addresses = BinaryAddresses {
            offset,
            positive,
            negative,
            pos_weight: memory.upload("the weights of positives", problem.pos_weight())?,
            loss_rows: loss_rows.as_ref().map_or(0, |rows| rows.device_ptr(stream).0),
            loss: loss.device_ptr(stream).0,
            class_count,
            class_positives,
            class_loss,
            class_counting,
            class_sums,
            class_met,
            partials: memory.own::<f64>(sizes.partials)?,
            decoded: if setup.lists { memory.own::<u32>(sizes.words.saturating_mul(2))? } else { 0 },
            known: memory.own::<u64>(2)?,
            tickets: memory.own::<u32>(3)?,
            found: memory.keep(found),
            errors: errors.device_ptr(stream).0,
            ..BinaryAddresses::default()
        };
        Ok(Self { loss, loss_rows, statistics, learned, errors, _own: memory.into_own(), addresses })
    }

    /// The addresses for one enqueue; the guards record that the results were written.
    pub(super) fn addresses<'a>(
        workspace: &'a mut Arc<Self>,
        guards: &mut Guards<'a>,
    ) -> (BinaryAddresses, BinaryLearnAddresses) {
        let addresses = workspace.addresses;
        let learned = workspace.learned.as_ref().map(|learned| learned.addresses).unwrap_or_default();
        // A workspace that a graph shares is one that nothing tracks.
        if let Some(workspace) = Arc::get_mut(workspace) {
            guards.write(&mut workspace.loss);
            if let Some(rows) = &mut workspace.loss_rows {
                guards.write(rows);
            }
            if let Some(BinaryStatistics { count, positives, loss }) = &mut workspace.statistics {
                guards.write(count);
                guards.write(positives);
                guards.write(loss);
            }
            if let Some(learned) = &mut workspace.learned {
                learned.guard(guards);
            }
        }
        (addresses, learned)
    }

    /// Waits for the stream; what the device recorded, which is cleared.
    pub(super) fn take_errors(&self, stream: &Arc<CudaStream>) -> Result<TargetErrors> {
        let failed = |error| driver("reading the error word", error);
        let errors = stream.clone_dtoh(&self.errors).map_err(failed)?;
        let errors: TargetErrors = bytemuck::pod_read_unaligned(&errors);
        if errors.bad != 0 {
            let (pointer, _guard) = self.errors.device_ptr(stream);
            // SAFETY: the errors are this many bytes of the operation's own memory.
            unsafe { sys::cuMemsetD8Async(pointer, 0, size_of::<TargetErrors>(), stream.cu_stream()) }
                .result()
                .map_err(|error| driver("clearing the error word", error))?;
        }
        Ok(errors)
    }
}
