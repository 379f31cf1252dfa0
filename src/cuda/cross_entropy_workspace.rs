//! What cross-entropy is set up for, and the device memory that it owns.

use super::kernels::{allocation, driver};
use super::learned::{Learned, LearnedMemory, check_setup};
use super::operand::Guards;
use crate::error::{Error, Result, check};
use crate::kernel::{
    Addresses, ClassSums, LearnErrorWord, Operand, StatisticsAddresses, Tally, Totals, Weights, WorkspaceSizes,
};
use crate::loss::{CrossEntropy, LogitScale};
use crate::perturbation::Perturbation;
use bytemuck::Pod;
use cudarc::driver::{CudaFunction, CudaSlice, CudaStream, CudaView, DevicePtr, DeviceRepr, ValidAsZeroBits, sys};
use std::any::Any;
use std::sync::Arc;

/// What an operation leaves on the device beside the loss and the gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outputs {
    /// The row losses, `[N]`.
    pub loss_rows: bool,
    /// The rows' `lse`, `[N]`.
    pub lse: bool,
    /// The rows' predictions, `[N]`.
    pub predictions: bool,
    /// Per class its rows, right predictions, losses and confidences, `[C]` each; one more small kernel a batch.
    pub statistics: bool,
    /// What [`enqueue_backward`](super::CrossEntropyOp::enqueue_backward) needs, 16 bytes a row.
    pub saved: bool,
    /// What a [learner](crate::Learner) did: [`LearnedViews`](super::LearnedViews).
    pub learned: bool,
}

impl Outputs {
    /// Asks for the row losses.
    #[must_use]
    pub fn loss_rows(self) -> Self {
        Self { loss_rows: true, ..self }
    }

    /// Asks for the rows' `lse`.
    #[must_use]
    pub fn lse(self) -> Self {
        Self { lse: true, ..self }
    }

    /// Asks for the rows' predictions.
    #[must_use]
    pub fn predictions(self) -> Self {
        Self { predictions: true, ..self }
    }

    /// Asks for class statistics.
    #[must_use]
    pub fn statistics(self) -> Self {
        Self { statistics: true, ..self }
    }

    /// Asks for what a backward pass of its own needs.
    #[must_use]
    pub fn saved(self) -> Self {
        Self { saved: true, ..self }
    }

    /// Asks for what the learner did.
    #[must_use]
    pub fn learned(self) -> Self {
        Self { learned: true, ..self }
    }
}

/// What an operation is prepared for.
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use]
pub struct Setup {
    pub(super) classes: usize,
    pub(super) max_rows: usize,
    pub(super) outputs: Outputs,
    pub(super) soft_targets: bool,
    /// Of running confidences, where there are any.
    pub(super) momentum: Option<f64>,
    pub(super) data_parallel: bool,
}

impl Setup {
    /// Batches of up to `max_rows` rows of `classes` logits with hard labels, and the loss alone.
    pub fn new(classes: usize, max_rows: usize) -> Self {
        Self {
            classes,
            max_rows,
            outputs: Outputs::default(),
            soft_targets: false,
            momentum: None,
            data_parallel: false,
        }
    }

    /// What is left on the device beside loss and gradient.
    pub fn outputs(self, outputs: Outputs) -> Self {
        Self { outputs, ..self }
    }

    /// Soft targets in place of labels.
    pub fn soft_targets(self) -> Self {
        Self { soft_targets: true, ..self }
    }

    /// Running mean confidences of the classes in place of the batch's own, kept on the device from batch to batch and unseen at first (SPEC 3):
    /// for a learner. `momentum` is the `mu` of [`RunningConfidence`](crate::RunningConfidence), in `[0, 1)`.
    pub fn running_confidence(self, momentum: f64) -> Self {
        Self { momentum: Some(momentum), ..self }
    }

    /// For a learner on batches that are spread over devices: each batch begins with
    /// [`enqueue_confidences`](super::CrossEntropyOp::enqueue_confidences), and what that leaves is added up over the devices before
    /// [`enqueue`](super::CrossEntropyOp::enqueue). Confidences, directions, bounds and `tau` are then those of the whole batch; each device's
    /// steps follow the mean gradient of its own rows, so delta differs from device to device.
    pub fn data_parallel(self) -> Self {
        Self { data_parallel: true, ..self }
    }

    pub(super) fn check(&self, problem: &CrossEntropy) -> Result<()> {
        check_setup(problem, self)?;
        if self.classes == 0 || self.classes > i32::MAX as usize / 2 {
            return Err(Error::shape("classes", "length", self.classes, "between 1 and 2^30"));
        }
        if let Some(expected) = problem.classes() {
            check::length("logits' columns", self.classes, expected)?;
        }
        if self.soft_targets && self.outputs.statistics {
            return Err(Error::conflict("statistics", "with soft targets", "they are per label"));
        }
        if self.soft_targets { problem.check_soft_targets() } else { Ok(()) }
    }

    /// A typed error unless a batch has the kind of target that was set up.
    pub(super) fn check_target(&self, soft: bool) -> Result<()> {
        match (soft, self.soft_targets) {
            (true, false) => {
                Err(Error::conflict("soft_targets", "with this operation", "set it up with Setup::soft_targets"))
            }
            (false, true) => Err(Error::conflict("labels", "with this operation", "it was set up for soft targets")),
            _ => Ok(()),
        }
    }
}

/// Class statistics on the device, `[C]` each but `rows`.
#[derive(Debug)]
#[non_exhaustive]
pub struct ClassStatisticsViews<'a> {
    /// Valid rows of each class.
    pub count: CudaView<'a, u64>,
    /// Those predicted right.
    pub correct: CudaView<'a, u64>,
    /// Sums of row losses.
    pub loss: CudaView<'a, f64>,
    /// Sums of the perturbed probability of the label.
    pub confidence: CudaView<'a, f64>,
    /// `[2]`: valid rows of all classes, and those predicted right.
    pub rows: CudaView<'a, u64>,
}

impl Statistics {
    pub(super) fn new(memory: &Allocator<'_>, classes: usize) -> Result<Self> {
        Ok(Self {
            count: memory.zeros("class statistics", classes)?,
            correct: memory.zeros("class statistics", classes)?,
            loss: memory.zeros("class statistics", classes)?,
            confidence: memory.zeros("class statistics", classes)?,
            rows: memory.zeros("class statistics", 2)?,
        })
    }

    /// Where the numbers go that the sums of `classes` classes are turned into.
    pub(super) fn addresses(&self, memory: &mut Allocator<'_>, classes: usize) -> Result<StatisticsAddresses> {
        let stream = memory.stream;
        Ok(StatisticsAddresses {
            sums: memory.own::<ClassSums>(classes)?,
            count: self.count.device_ptr(stream).0,
            correct: self.correct.device_ptr(stream).0,
            loss: self.loss.device_ptr(stream).0,
            confidence: self.confidence.device_ptr(stream).0,
            rows: self.rows.device_ptr(stream).0,
            gathered: memory.own::<u64>(2)?,
        })
    }

    /// Records that the numbers were written.
    pub(super) fn guard<'a>(&'a mut self, guards: &mut Guards<'a>) {
        let Self { count, correct, loss, confidence, rows } = self;
        for counts in [count, correct, rows] {
            guards.write(counts);
        }
        for sums in [loss, confidence] {
            guards.write(sums);
        }
    }
}

impl<'a> ClassStatisticsViews<'a> {
    pub(super) fn of(buffers: &'a Statistics) -> Self {
        Self {
            count: buffers.count.as_view(),
            correct: buffers.correct.as_view(),
            loss: buffers.loss.as_view(),
            confidence: buffers.confidence.as_view(),
            rows: buffers.rows.as_view(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Statistics {
    pub(super) count: CudaSlice<u64>,
    correct: CudaSlice<u64>,
    loss: CudaSlice<f64>,
    pub(super) confidence: CudaSlice<f64>,
    rows: CudaSlice<u64>,
}

/// What a user may read, and so what event tracking has to know of.
#[derive(Debug)]
pub(super) struct Results {
    pub(super) loss: CudaSlice<f32>,
    pub(super) loss_rows: Option<CudaSlice<f32>>,
    pub(super) lse: Option<CudaSlice<f32>>,
    pub(super) predictions: Option<CudaSlice<i32>>,
    pub(super) statistics: Option<Statistics>,
}

/// The operation's device memory.
#[derive(Debug)]
pub(super) struct Workspace {
    pub(super) results: Results,
    pub(super) learned: Option<LearnedMemory>,
    error: CudaSlice<u8>,
    /// Everything else: what only this operation's stream touches. Addresses are looked up once.
    _own: Vec<CudaSlice<u8>>,
    addresses: Addresses,
}

/// The addresses of a workspace, for a launch of one kind.
#[derive(Clone, Copy)]
pub(super) struct OwnAddresses(Addresses);

impl std::ops::Deref for OwnAddresses {
    type Target = Addresses;

    fn deref(&self) -> &Addresses {
        &self.0
    }
}

impl OwnAddresses {
    /// For loss and gradient, or for the loss and what is saved.
    pub(super) fn for_forward(&self) -> Addresses {
        Addresses { from_saved: 0, ..self.0 }
    }

    /// For the gradient alone: what the loss left stays as it is.
    pub(super) fn for_backward(&self) -> Addresses {
        Addresses {
            from_saved: self.0.saved,
            saved: 0,
            loss: 0,
            loss_rows: 0,
            lse: 0,
            predictions: 0,
            statistics: StatisticsAddresses::default(),
            ..self.0
        }
    }
}

/// How many bytes `len` numbers are: cudarc does not notice where they are more than can be counted.
fn bytes_of<T>(what: &'static str, len: usize) -> Result<usize> {
    len.checked_mul(size_of::<T>()).ok_or(Error::OutOfMemory { what, bytes: usize::MAX })
}

/// Allocates, and knows what for when that fails.
pub(super) struct Allocator<'a> {
    pub(super) stream: &'a Arc<CudaStream>,
    own: Vec<CudaSlice<u8>>,
}

impl<'a> Allocator<'a> {
    pub(super) fn new(stream: &'a Arc<CudaStream>) -> Self {
        Self { stream, own: Vec::new() }
    }

    /// What the workspace is to keep.
    pub(super) fn into_own(self) -> Vec<CudaSlice<u8>> {
        self.own
    }

    pub(super) fn zeros<T: DeviceRepr + ValidAsZeroBits>(
        &self,
        what: &'static str,
        len: usize,
    ) -> Result<CudaSlice<T>> {
        let bytes = bytes_of::<T>(what, len)?;
        self.stream.alloc_zeros(len).map_err(|error| allocation(what, bytes, error))
    }

    pub(super) fn zeros_if<T: DeviceRepr + ValidAsZeroBits>(
        &self,
        wanted: bool,
        len: usize,
    ) -> Result<Option<CudaSlice<T>>> {
        if wanted { self.zeros("row outputs", len).map(Some) } else { Ok(None) }
    }

    /// The address of memory that is 0; 0 for none, which the driver refuses to allocate.
    pub(super) fn own<T>(&mut self, len: usize) -> Result<u64> {
        if len == 0 {
            return Ok(0);
        }
        let what = "the workspace";
        let slice = self.zeros::<u8>(what, bytes_of::<T>(what, len)?)?;
        Ok(self.keep(slice))
    }

    /// The address of a copy in f32, 0 for none.
    pub(super) fn upload(&mut self, what: &'static str, numbers: Option<&[f64]>) -> Result<u64> {
        let Some(numbers) = numbers else { return Ok(0) };
        let single: Vec<f32> = numbers.iter().map(|&x| x as f32).collect();
        self.upload_bytes(what, Some(&single))
    }

    /// The address of a copy, 0 for none.
    pub(super) fn upload_bytes<T: Pod>(&mut self, what: &'static str, numbers: Option<&[T]>) -> Result<u64> {
        let Some(numbers) = numbers else { return Ok(0) };
        let bytes: &[u8] = bytemuck::cast_slice(numbers);
        let slice = self.stream.clone_htod(bytes).map_err(|error| allocation(what, bytes.len(), error))?;
        Ok(self.keep(slice))
    }

    pub(super) fn keep(&mut self, slice: CudaSlice<u8>) -> u64 {
        // Of this stream alone: the guard may go at once.
        let address = slice.device_ptr(self.stream).0;
        self.own.push(slice);
        address
    }
}

impl Workspace {
    pub(super) fn new(
        stream: &Arc<CudaStream>,
        problem: &CrossEntropy,
        setup: &Setup,
        sizes: WorkspaceSizes,
        learned: Option<&Learned>,
    ) -> Result<Self> {
        let mut memory = Allocator::new(stream);
        let (c, rows, outputs) = (setup.classes, setup.max_rows.max(1), setup.outputs);
        let (shared, margins) = match problem.perturbation() {
            Perturbation::Shared(d) => (Some((d, 0)), None),
            Perturbation::ClassMatrix(d) => (Some((d, c)), None),
            Perturbation::TargetMargin(m) => (None, Some(m.as_slice())),
            _ => (None, None),
        };
        let delta = match shared {
            None => Operand::default(),
            Some((d, stride)) => {
                let data = memory.upload("the perturbation", Some(d))?;
                Operand { data, stride: stride as i64, wide: 1, padding: 0 }
            }
        };
        let scales = match problem.scale() {
            LogitScale::PerClass(scales) => Some(scales.as_slice()),
            LogitScale::Uniform(_) => None,
        };
        let statistics = match outputs.statistics {
            false => None,
            true => Some(Statistics::new(&memory, c)?),
        };
        let results = Results {
            loss: memory.zeros("the loss", 1)?,
            loss_rows: memory.zeros_if(outputs.loss_rows, rows)?,
            lse: memory.zeros_if(outputs.lse, rows)?,
            predictions: memory.zeros_if(outputs.predictions, rows)?,
            statistics,
        };
        let error = memory.zeros("the workspace", size_of::<LearnErrorWord>())?;
        let learned = match learned {
            None => None,
            Some(learned) => Some(LearnedMemory::new(&mut memory, learned, setup, error.device_ptr(stream).0)?),
        };
        let address = |slice: &CudaSlice<f32>| slice.device_ptr(stream).0;
        let of_statistics = match &results.statistics {
            None => StatisticsAddresses::default(),
            Some(buffers) => buffers.addresses(&mut memory, c)?,
        };
        let addresses = Addresses {
            delta,
            margins: memory.upload("the margins", margins)?,
            scales: memory.upload("the scales", scales)?,
            weights: Weights { classes: memory.upload("the class weights", problem.class_weights())?, samples: 0 },
            saved: memory.own::<[f32; 4]>(if outputs.saved { rows } else { 0 })?,
            loss_rows: results.loss_rows.as_ref().map_or(0, address),
            lse: results.lse.as_ref().map_or(0, address),
            predictions: results.predictions.as_ref().map_or(0, |slice| slice.device_ptr(stream).0),
            statistics: of_statistics,
            loss: address(&results.loss),
            partials: memory.own::<f64>(sizes.partials)?,
            tallies: memory.own::<Tally>(sizes.chunks)?,
            totals: memory.own::<Totals>(1)?,
            tickets: memory.own::<u32>(3)?,
            error: error.device_ptr(stream).0,
            ..Addresses::default()
        };
        Ok(Self { results, learned, error, _own: memory.into_own(), addresses })
    }

    /// The addresses for one enqueue; the guards record that the results were written.
    pub(super) fn addresses<'a>(workspace: &'a mut Arc<Self>, guards: &mut Guards<'a>) -> OwnAddresses {
        let addresses = workspace.addresses;
        // A workspace that a graph shares is one that nothing tracks.
        if let Some(workspace) = Arc::get_mut(workspace) {
            if let Some(learned) = &mut workspace.learned {
                learned.guard(guards);
            }
            let Results { loss, loss_rows, lse, predictions, statistics } = &mut workspace.results;
            guards.write(loss);
            for rows in [loss_rows, lse].into_iter().flatten() {
                guards.write(rows);
            }
            if let Some(rows) = predictions {
                guards.write(rows);
            }
            if let Some(statistics) = statistics {
                statistics.guard(guards);
            }
        }
        OwnAddresses(addresses)
    }

    /// Waits for the stream; what the device recorded, which is cleared.
    pub(super) fn take_error(&self, stream: &Arc<CudaStream>) -> Result<LearnErrorWord> {
        let failed = |error| driver("reading the error word", error);
        let word = stream.clone_dtoh(&self.error).map_err(failed)?;
        let word: LearnErrorWord = bytemuck::pod_read_unaligned(&word);
        if word != LearnErrorWord::default() {
            let (pointer, _guard) = self.error.device_ptr(stream);
            // SAFETY: the error word is this many bytes of the operation's own memory.
            unsafe { sys::cuMemsetD8Async(pointer, 0, size_of::<LearnErrorWord>(), stream.cu_stream()) }
                .result()
                .map_err(|error| driver("clearing the error word", error))?;
        }
        Ok(word)
    }
}

/// Keeps an operation's device memory and kernels alive for a captured graph; keep it as long as the graph may run.
#[derive(Clone, Debug)]
pub struct CapturedWorkspace {
    _workspace: Arc<dyn Any + Send + Sync>,
    _functions: Vec<CudaFunction>,
}

impl CapturedWorkspace {
    pub(super) fn new<Workspace: Any + Send + Sync>(workspace: Arc<Workspace>, functions: Vec<CudaFunction>) -> Self {
        Self { _workspace: workspace, _functions: functions }
    }
}
