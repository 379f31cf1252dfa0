//! Cross-entropy on a stream: prepared once, enqueued per batch.

use super::batch::{DeviceLabels, DevicePass};
use super::kernels::{Kernels, allocation, driver};
use super::launch::launch;
use crate::error::{Error, Result, check};
use crate::kernel::{Addresses, ErrorWord, LabelType, Plan, Sequence, Shape, Variant, WorkspaceSizes, check_supported};
use crate::loss::CrossEntropy;
use crate::perturbation::Perturbation;
use cudarc::driver::{
    CudaFunction, CudaSlice, CudaStream, CudaView, DevicePtr, DevicePtrMut, DeviceRepr, ValidAsZeroBits,
};
use cudarc::driver::{SyncOnDrop, sys};
use std::sync::Arc;

/// What an operation leaves on the device beside the loss and the gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outputs {
    /// The row losses, `[N]`.
    pub loss_rows: bool,
    /// The rows' `lse`, `[N]`.
    pub lse: bool,
}

impl Outputs {
    /// Asks for the row losses.
    #[must_use]
    pub fn loss_rows(mut self) -> Self {
        self.loss_rows = true;
        self
    }

    /// Asks for the rows' `lse`.
    #[must_use]
    pub fn lse(mut self) -> Self {
        self.lse = true;
        self
    }
}

/// The operation's device memory. A captured graph holds it by a [`CapturedWorkspace`].
#[derive(Debug)]
struct Workspace {
    /// `delta` of a shared perturbation, `[C]`.
    delta: Option<CudaSlice<f32>>,
    loss: CudaSlice<f32>,
    loss_rows: Option<CudaSlice<f32>>,
    lse: Option<CudaSlice<f32>>,
    partials: CudaSlice<f64>,
    /// Three numbers a chunk of the label pre-pass.
    tallies: CudaSlice<u64>,
    valid_rows: CudaSlice<u64>,
    /// Of the main kernel and of the pre-pass.
    tickets: CudaSlice<u32>,
    /// An [`ErrorWord`].
    error: CudaSlice<u64>,
}

/// Keeps an operation's device memory and kernels alive for a captured graph; keep it as long as the graph may run.
#[derive(Clone, Debug)]
pub struct CapturedWorkspace {
    _workspace: Arc<Workspace>,
    _functions: [CudaFunction; 5],
}

/// A plan with its kernel.
#[derive(Debug)]
struct Prepared {
    plan: Plan,
    function: CudaFunction,
}

/// Cross-entropy prepared for one stream, number of classes and greatest batch. `Send`, not `Sync`: it owns its workspace.
///
/// Supported so far: f32 logits; no perturbation or a shared one; a uniform scale; `Mean`, `Sum`, `None` and `Divisor`.
#[derive(Debug)]
pub struct CrossEntropyOp {
    stream: Arc<CudaStream>,
    problem: CrossEntropy,
    classes: usize,
    max_rows: usize,
    /// By whether the gradient is wanted and whether rows are aligned.
    fused: [Prepared; 2],
    forward: [Prepared; 2],
    tally: CudaFunction,
    workspace: Arc<Workspace>,
}

impl CrossEntropyOp {
    /// Compiles or loads the kernels and allocates the workspace; the only step that may take long.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an option that the kernels do not have; [`Error::Shape`] where the problem has another number of classes;
    /// the errors of compiling; [`Error::OutOfMemory`].
    pub fn new(
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
        problem: &CrossEntropy,
        classes: usize,
        max_rows: usize,
        outputs: Outputs,
    ) -> Result<Self> {
        check_supported(problem)?;
        if classes == 0 || classes > i32::MAX as usize / 2 {
            return Err(Error::shape("classes", "length", classes, "between 1 and 2^30"));
        }
        if let Some(expected) = problem.classes() {
            check::length("logits' columns", classes, expected)?;
        }
        bind(stream)?;
        let prepare = |fused: bool, aligned: bool| {
            let plan = Plan::new(classes, aligned, fused, kernels.limits());
            let function = kernels.function(plan.variant)?;
            let resident = function
                .occupancy_max_active_blocks_per_multiprocessor(plan.threads, plan.shared as usize, None)
                .map_err(|error| driver("asking for a kernel's occupancy", error))?;
            Ok::<_, Error>(Prepared { plan: plan.resident(resident), function })
        };
        let fused = [prepare(true, false)?, prepare(true, true)?];
        let forward = [prepare(false, false)?, prepare(false, true)?];
        let rows = max_rows.max(1);
        let sizes = WorkspaceSizes::of(fused.iter().chain(&forward).map(|prepared| &prepared.plan), rows);
        let delta = match problem.perturbation() {
            Perturbation::Shared(delta) => {
                let single: Vec<f32> = delta.iter().map(|&x| x as f32).collect();
                Some(stream.clone_htod(&single).map_err(|error| allocation("the perturbation", 4 * classes, error))?)
            }
            _ => None,
        };
        let per_row = |wanted: bool| if wanted { zeros(stream, "row outputs", rows).map(Some) } else { Ok(None) };
        let workspace = Workspace {
            delta,
            loss: zeros(stream, "the loss", 1)?,
            loss_rows: per_row(outputs.loss_rows)?,
            lse: per_row(outputs.lse)?,
            partials: zeros(stream, "the workspace", sizes.partials)?,
            tallies: zeros(stream, "the workspace", 3 * sizes.chunks)?,
            valid_rows: zeros(stream, "the workspace", 1)?,
            tickets: zeros(stream, "the workspace", 2)?,
            error: zeros(stream, "the workspace", 3)?,
        };
        Ok(Self {
            stream: Arc::clone(stream),
            problem: problem.clone(),
            classes,
            max_rows,
            fused,
            forward,
            tally: kernels.function(Variant::Tally)?,
            workspace: Arc::new(workspace),
        })
    }

    /// Enqueues a batch on the operation's stream: one kernel, or two where the batch has more labels than a block counts by itself. Nothing
    /// is allocated and nothing waited for. `upstream` is the gradient of the loss, 1 for a loss that is the end.
    ///
    /// # Errors
    /// [`Error::Shape`] where shapes disagree or the batch exceeds what was prepared; [`Error::Value`] for an upstream gradient that is not
    /// finite; [`Error::Conflict`] for memory of another context, and while cudarc's event tracking would break a capture, or would not see who uses a captured workspace.
    pub fn enqueue(&mut self, mut pass: DevicePass<'_, f32>, labels: DeviceLabels<'_>, upstream: f64) -> Result<()> {
        let (rows, columns) = pass.shape()?;
        check::length("logits' columns", columns, self.classes)?;
        check::length("labels", labels.len(), rows)?;
        check::finite("upstream", upstream)?;
        pass.check_context(self.stream.context())?;
        labels.check_context(self.stream.context())?;
        if rows > self.max_rows {
            return Err(Error::shape("logits", "rows", rows, format!("at most the {} prepared", self.max_rows)));
        }
        // The operation may have been sent to a thread that has not used CUDA before.
        bind(&self.stream)?;
        self.check_tracking()?;
        let stream = &self.stream;
        let workspace = Results::of(&mut self.workspace, stream);
        let (label_data, label_type, _labels) = label_pointer(&labels, stream);
        let (logits, logits_stride, gradient, gradient_stride, _guards) = match &mut pass {
            DevicePass::Forward(logits) => {
                let (pointer, guard) = logits.data.device_ptr(stream);
                (pointer, logits.stride, 0, 0, [Some(guard), None])
            }
            DevicePass::Into { logits, gradient } => {
                let (from, read) = logits.data.device_ptr(stream);
                let (to, written) = gradient.data.device_ptr_mut(stream);
                (from, logits.stride, to, gradient.stride, [Some(read), Some(written)])
            }
            DevicePass::InPlace(matrix) => {
                let (pointer, guard) = matrix.data.device_ptr_mut(stream);
                (pointer, matrix.stride, pointer, matrix.stride, [Some(guard), None])
            }
        };
        let aligned = logits % 16 == 0 && logits_stride % 4 == 0;
        let prepared = &(if gradient == 0 { &self.forward } else { &self.fused })[usize::from(aligned)];
        let addresses = Addresses { logits, gradient, labels: label_data, ..workspace.addresses };
        let shape = Shape { rows, classes: self.classes, logits_stride, gradient_stride, label_type };
        let sequence = Sequence::new(&self.problem, &prepared.plan, &addresses, shape, upstream);
        if let Some((geometry, args)) = &sequence.tally {
            // SAFETY: `tally` takes TallyArgs; the workspace was sized for `max_rows` rows and the labels are as many as the rows.
            unsafe { launch(stream, &self.tally, *geometry, args)? };
        }
        let (geometry, args) = &sequence.main;
        // SAFETY: `cross_entropy` takes CrossEntropyArgs; the matrices were checked to hold `rows` rows of `classes` at their strides, the
        // gradient is borrowed mutably, and the workspace was sized for `max_rows` rows under every plan.
        unsafe { launch(stream, &prepared.function, *geometry, args) }
    }

    /// The reduced loss of the last batch, `[1]`; under [`Reduction::None`](crate::Reduction::None) the sum of the rows.
    pub fn loss(&self) -> CudaView<'_, f32> {
        self.workspace.loss.as_view()
    }

    /// The row losses of the last batch, `[max_rows]` of which the first N are set, where asked for.
    pub fn loss_rows(&self) -> Option<CudaView<'_, f32>> {
        self.workspace.loss_rows.as_ref().map(CudaSlice::as_view)
    }

    /// The rows' `lse` in the last batch, as [`loss_rows`](Self::loss_rows).
    pub fn lse(&self) -> Option<CudaView<'_, f32>> {
        self.workspace.lse.as_ref().map(CudaSlice::as_view)
    }

    /// Waits for the stream, and turns what the device recorded since the last check into an error. The record is cleared.
    ///
    /// # Errors
    /// [`Error::Label`] for labels out of range, [`Error::Driver`] where the driver reports a failure.
    pub fn check(&mut self) -> Result<()> {
        let failed = |error| driver("reading the error word", error);
        let word = self.stream.clone_dtoh(&self.workspace.error).map_err(failed)?;
        let word: ErrorWord = bytemuck::pod_read_unaligned(bytemuck::cast_slice(&word));
        if word.bad_labels == 0 {
            return Ok(());
        }
        self.clear_errors()?;
        Err(Error::Label {
            row: word.first_row as usize,
            label: word.first_label,
            classes: self.classes,
            count: word.bad_labels as usize,
        })
    }

    /// What keeps workspace and kernels alive for a graph that captured this operation's launches.
    pub fn captured_workspace(&self) -> CapturedWorkspace {
        let ([a, b], [c, d]) = (&self.fused, &self.forward);
        let functions = [&a.function, &b.function, &c.function, &d.function, &self.tally];
        CapturedWorkspace { _workspace: Arc::clone(&self.workspace), _functions: functions.map(Clone::clone) }
    }

    /// The plans in words: without and with aligned rows.
    pub fn describe(&self) -> [String; 2] {
        self.fused.each_ref().map(|prepared| prepared.plan.to_string())
    }

    fn clear_errors(&self) -> Result<()> {
        let (pointer, _guard) = self.workspace.error.device_ptr(&self.stream);
        // SAFETY: the error word is three u64 of this operation's own memory.
        unsafe { sys::cuMemsetD8Async(pointer, 0, size_of::<ErrorWord>(), self.stream.cu_stream()) }
            .result()
            .map_err(|error| driver("clearing the error word", error))
    }

    /// cudarc's event tracking records events on other streams' behalf, which a capture refuses; and it cannot follow a workspace that a graph
    /// shares.
    fn check_tracking(&mut self) -> Result<()> {
        if !self.stream.context().is_managing_stream_synchronization() {
            return Ok(());
        }
        let capturing =
            self.stream.capture_status().map_err(|error| driver("asking the stream whether it captures", error))?;
        let shared = Arc::get_mut(&mut self.workspace).is_none();
        if shared || capturing != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE {
            return Err(Error::Conflict {
                argument: "event tracking of cudarc",
                context: "with graph capture",
                reason: "switch it off with `CudaContext::disable_event_tracking` before the buffers are allocated",
            });
        }
        Ok(())
    }
}

/// The workspace's addresses for one enqueue. The guards record, when dropped, that the results were written.
struct Results<'a> {
    addresses: Addresses,
    _guards: [Option<SyncOnDrop<'a>>; 3],
}

impl<'a> Results<'a> {
    fn of(workspace: &'a mut Arc<Workspace>, stream: &'a CudaStream) -> Self {
        // What only this stream touches needs no tracking: the guard may go at once.
        fn own<T>(slice: &CudaSlice<T>, stream: &CudaStream) -> u64 {
            slice.device_ptr(stream).0
        }
        let addresses = Addresses {
            delta: workspace.delta.as_ref().map_or(0, |delta| own(delta, stream)),
            loss: own(&workspace.loss, stream),
            loss_rows: workspace.loss_rows.as_ref().map_or(0, |rows| own(rows, stream)),
            lse: workspace.lse.as_ref().map_or(0, |lse| own(lse, stream)),
            partials: own(&workspace.partials, stream),
            tallies: own(&workspace.tallies, stream),
            valid_rows: own(&workspace.valid_rows, stream),
            tickets: own(&workspace.tickets, stream),
            error: own(&workspace.error, stream),
            ..Addresses::default()
        };
        // A workspace that a graph shares is one that nothing tracks.
        let guards = match Arc::get_mut(workspace) {
            None => [None, None, None],
            Some(workspace) => [
                Some(workspace.loss.device_ptr_mut(stream).1),
                workspace.loss_rows.as_mut().map(|rows| rows.device_ptr_mut(stream).1),
                workspace.lse.as_mut().map(|lse| lse.device_ptr_mut(stream).1),
            ],
        };
        Self { addresses, _guards: guards }
    }
}

fn label_pointer<'a>(labels: &'a DeviceLabels<'_>, stream: &'a CudaStream) -> (u64, LabelType, SyncOnDrop<'a>) {
    let ((pointer, guard), label_type) = match labels {
        DeviceLabels::I32(labels) => (labels.device_ptr(stream), LabelType::I32),
        DeviceLabels::I64(labels) => (labels.device_ptr(stream), LabelType::I64),
        DeviceLabels::U32(labels) => (labels.device_ptr(stream), LabelType::U32),
    };
    (pointer, label_type, guard)
}

/// Makes the stream's context the one that the driver uses in this thread.
fn bind(stream: &CudaStream) -> Result<()> {
    stream.context().bind_to_thread().map_err(|error| driver("making the context current", error))
}

fn zeros<T: DeviceRepr + ValidAsZeroBits>(
    stream: &Arc<CudaStream>,
    what: &'static str,
    len: usize,
) -> Result<CudaSlice<T>> {
    stream.alloc_zeros(len).map_err(|error| allocation(what, len * size_of::<T>(), error))
}
