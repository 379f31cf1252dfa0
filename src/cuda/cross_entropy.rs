//! Cross-entropy on a stream: prepared once, enqueued per batch.

use super::batch::{DeviceMatrix, DevicePass};
use super::cross_entropy_batch::{DeviceBatch, DeviceBound, DevicePerturbation, DeviceTarget};
use super::cross_entropy_workspace::{CapturedWorkspace, ClassStatisticsViews, Setup, Workspace};
use super::element::DeviceElement;
use super::kernels::{Kernels, bind, check_tracking, resident_blocks};
use super::launch::{active_clusters, launch};
use super::learned::{ClassConfidencesMut, Learned, LearnedMemory, LearnedViews, check_data_parallel, unshared};
use super::operand::Guards;
use crate::error::{Error, Result, check};
use crate::kernel::{
    Addresses, Form, LabelType, LearnAddresses, LearnValues, MOST_EPS, Operand, Plan, Regime, Sequence, Shape, Values,
    Variant, Weights, WorkspaceSizes, check_supported, is_general,
};
use crate::loss::CrossEntropy;
use cudarc::driver::{CudaFunction, CudaSlice, CudaStream, CudaView};
use std::marker::PhantomData;
use std::sync::Arc;

/// A plan with its kernel.
#[derive(Debug)]
struct Prepared {
    plan: Plan,
    function: CudaFunction,
}

const DATA_PARALLEL: &str = "set it up with Setup::data_parallel";

/// Cross-entropy prepared for one stream, element type, number of classes and greatest batch. `Send`, not `Sync`: it owns its workspace.
///
/// `T` is what logits and gradient are made of: f32, [`half::f16`] or [`half::bf16`]. Sums and results are f32. Every option of
/// [`CrossEntropy`] is there but a gradient [through](crate::GradientSemantics::Through) a learner's steps.
///
/// ```no_run
/// use logit_perturb::cuda::{CrossEntropyOp, DeviceLabels, DeviceMatrixMut, DevicePass, Kernels, Outputs, Setup};
/// use logit_perturb::{ClassCounts, CrossEntropy, Perturbation};
///
/// let counts = ClassCounts::new([400.0, 200.0, 40.0, 8.0])?;
/// let problem = CrossEntropy::builder().perturbation(Perturbation::logit_adjustment(&counts, 1.0)?).build()?;
/// let kernels = Kernels::open(0)?;
/// let stream = kernels.context().default_stream();
/// let setup = Setup::new(4, 256).outputs(Outputs::default().predictions());
/// let mut op = CrossEntropyOp::<f32>::new(&kernels, &stream, &problem, setup)?;
///
/// let mut logits = stream.clone_htod(&[1.2f32, 0.3, -0.4, 0.1, 0.2, 0.1, 0.5, 1.5])?;
/// let labels = stream.clone_htod(&[0i64, 3])?;
/// // The gradient takes the logits' place; nothing is waited for.
/// let pass = DevicePass::InPlace(DeviceMatrixMut::new(logits.as_view_mut(), 2, 4, 4)?);
/// op.enqueue(pass, DeviceLabels::I64(labels.as_view()))?;
/// op.check()?;
/// println!("loss {:?}, gradient {:?}", stream.clone_dtoh(&op.loss())?, stream.clone_dtoh(&logits)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct CrossEntropyOp<T> {
    stream: Arc<CudaStream>,
    problem: CrossEntropy,
    setup: Setup,
    /// By whether rows are aligned.
    main: [Prepared; 2],
    /// The same for the gradient from what was saved, where asked for.
    backward: Option<[Prepared; 2]>,
    tally: CudaFunction,
    statistics: Option<CudaFunction>,
    learned: Option<Learned>,
    workspace: Arc<Workspace>,
    /// Rows of the last batch, of which something may be saved.
    last_rows: Option<usize>,
    /// Whether the confidences of the batch to come were enqueued.
    has_confidences: bool,
    element: PhantomData<fn() -> T>,
}

impl<T: DeviceElement> CrossEntropyOp<T> {
    /// Compiles or loads the kernels and allocates the workspace; the only step that may take long.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an option that the kernels do not have; [`Error::Shape`] where the problem has another number of classes, or
    /// more than 32,768 and a learner; [`Error::Value`] for a learner's bound that may exceed 30; [`Error::Conflict`] for options that exclude
    /// soft targets, where those are set up, and for what needs or excludes a learner, and for a stream of another context; the errors of compiling; [`Error::OutOfMemory`].
    pub fn new(kernels: &Kernels, stream: &Arc<CudaStream>, problem: &CrossEntropy, setup: Setup) -> Result<Self> {
        check_supported(problem)?;
        setup.check(problem)?;
        kernels.bind(stream)?;
        // Under a learner this is where confidences come from, which know nothing of smoothing.
        let general = problem.learner().is_none() && is_general(problem, setup.soft_targets);
        let prepare = |from_saved: bool, aligned: bool| {
            let form = Form { dtype: T::KERNEL_DTYPE, classes: setup.classes, aligned, general, from_saved };
            prepare(kernels, form)
        };
        let main = [prepare(false, false)?, prepare(false, true)?];
        let backward = match setup.outputs.saved {
            true => Some([prepare(true, false)?, prepare(true, true)?]),
            false => None,
        };
        let plans = main.iter().chain(backward.iter().flatten()).map(|prepared| &prepared.plan);
        let max_rows = setup.max_rows.max(1);
        let learned =
            Learned::new(kernels, problem, &setup, T::KERNEL_DTYPE, main.each_ref().map(|prepared| prepared.plan))?;
        let sizes = match &learned {
            None => WorkspaceSizes::of(plans, max_rows),
            Some(learned) => learned.sizes(max_rows).plain,
        };
        let workspace = Arc::new(Workspace::new(stream, problem, &setup, sizes, learned.as_ref())?);
        let statistics = match setup.outputs.statistics {
            true => Some(kernels.function(Variant::ClassStatistics)?),
            false => None,
        };
        Ok(Self {
            stream: Arc::clone(stream),
            problem: problem.clone(),
            setup,
            main,
            backward,
            tally: kernels.function(Variant::Tally)?,
            statistics,
            learned,
            workspace,
            last_rows: None,
            has_confidences: false,
            element: PhantomData,
        })
    }

    /// Enqueues a batch on the operation's stream: one kernel, a second where the batch has more labels than a block counts by itself, a third
    /// where class statistics are asked for; under a learner one more for the order of
    /// the rows, and one for the confidences where their mean decides. Nothing is allocated and nothing waited for.
    ///
    /// # Errors
    /// [`Error::Shape`] where shapes disagree or the batch exceeds what was prepared; [`Error::Value`] for a number of the host outside its
    /// range; [`Error::Conflict`] for what the problem or the setup excludes, for memory of another context, and while cudarc's event
    /// tracking would break a capture, or would not see who uses a captured workspace.
    pub fn enqueue<'a>(&mut self, pass: DevicePass<'_, T>, batch: impl Into<DeviceBatch<'a, T>>) -> Result<()> {
        if self.setup.data_parallel && !self.has_confidences {
            let reason = "each batch begins with CrossEntropyOp::enqueue_confidences";
            return Err(Error::conflict("enqueue", "without confidences of the batch", reason));
        }
        let rows = self.run(pass, &batch.into(), Launches::All)?;
        self.last_rows = Some(rows);
        self.has_confidences = false;
        Ok(())
    }

    /// Enqueues what comes before a batch that is [spread over devices](Setup::data_parallel): how often each class occurs in this device's
    /// rows, and the sums of their confidences. Add these up over the devices, on this operation's stream, and
    /// [`enqueue`](Self::enqueue) the same rows. Nothing is allocated and nothing waited for.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue); [`Error::Conflict`] where the operation is not set up for it.
    pub fn enqueue_confidences<'a>(
        &mut self,
        logits: DeviceMatrix<'_, T>,
        batch: impl Into<DeviceBatch<'a, T>>,
    ) -> Result<()> {
        check_data_parallel(self.setup.data_parallel, "enqueue_confidences", DATA_PARALLEL)?;
        self.run(DevicePass::Forward(logits), &batch.into(), Launches::Confidences)?;
        self.has_confidences = true;
        Ok(())
    }

    /// What [`enqueue_confidences`](Self::enqueue_confidences) left, to be added up over the devices in place.
    ///
    /// # Errors
    /// [`Error::Conflict`] where the operation is not set up for it, and where a captured graph shares the workspace: call it as the graph is
    /// captured, before [`captured_workspace`](Self::captured_workspace).
    pub fn class_confidences_mut(&mut self) -> Result<ClassConfidencesMut<'_>> {
        check_data_parallel(self.setup.data_parallel, "class_confidences_mut", DATA_PARALLEL)?;
        let workspace = Arc::get_mut(&mut self.workspace);
        let learned = workspace.and_then(|workspace| workspace.learned.as_mut());
        unshared(learned.and_then(LearnedMemory::class_confidences))
    }

    /// Enqueues the gradient of the last batch, from what its [`enqueue`](Self::enqueue) saved: logits, labels and the rest as they were then,
    /// the upstream gradient as it is known now. Loss, rows and statistics stay as they are.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue); [`Error::Conflict`] where nothing was [asked to be saved](super::Outputs::saved) or enqueued, or where the
    /// pass has no gradient; [`Error::Shape`] for another number of rows.
    pub fn enqueue_backward<'a>(
        &mut self,
        pass: DevicePass<'_, T>,
        batch: impl Into<DeviceBatch<'a, T>>,
    ) -> Result<()> {
        let clash = |context, reason| Err(Error::conflict("backward", context, reason));
        if matches!(pass, DevicePass::Forward(_)) {
            return clash("in a forward pass", "it writes the gradient and nothing else");
        }
        match (self.backward.is_some(), self.last_rows) {
            (false, _) => clash("with this operation", "set it up with Outputs::saved"),
            (true, None) => clash("before a batch", "nothing has been saved yet"),
            (true, Some(rows)) => {
                let (found, _) = pass.shape()?;
                if found != rows {
                    return Err(Error::shape("logits", "rows", found, format!("the {rows} of the last batch")));
                }
                self.run(pass, &batch.into(), Launches::Backward).map(|_| ())
            }
        }
    }

    /// Checks and launches; the number of rows.
    fn run(&mut self, mut pass: DevicePass<'_, T>, batch: &DeviceBatch<'_, T>, launches: Launches) -> Result<usize> {
        let from_saved = launches == Launches::Backward;
        let (rows, columns) = pass.shape()?;
        check::length("logits' columns", columns, self.setup.classes)?;
        pass.check_context(self.stream.context())?;
        batch.check(&self.problem, (rows, columns), self.stream.context())?;
        if rows > self.setup.max_rows {
            let allowed = format!("at most the {} prepared", self.setup.max_rows);
            return Err(Error::shape("logits", "rows", rows, allowed));
        }
        self.setup.check_target(matches!(batch.target, DeviceTarget::Soft(_)))?;
        // The operation may have been sent to a thread that has not used CUDA before.
        bind(&self.stream)?;
        check_tracking(&self.stream, Arc::get_mut(&mut self.workspace).is_none())?;
        let stream = &self.stream;
        let mut guards = Guards::new(stream);
        let of_learner = self.workspace.learned.as_ref().map(|learned| (learned.addresses, learned.gathered_at));
        let own = Workspace::addresses(&mut self.workspace, &mut guards);
        let at = guards.pass(&mut pass);
        let (labels, label_type, targets) = match &batch.target {
            DeviceTarget::Labels(labels) => {
                let (address, label_type) = guards.labels(labels);
                (address, label_type, Operand::default())
            }
            DeviceTarget::Soft(targets) => (0, LabelType::I64, guards.operand(Some(targets))),
        };
        let (mut delta, mut margins) = (own.delta, own.margins);
        match &batch.perturbation {
            None => {}
            Some(DevicePerturbation::Vector(vector)) if margins != 0 => margins = guards.read(vector),
            Some(DevicePerturbation::Vector(vector)) => delta.data = guards.read(vector),
            Some(DevicePerturbation::Matrix(matrix)) => delta = guards.operand(Some(matrix)),
        }
        let (upstream, upstreams) = batch.upstream.hold(&mut guards);
        let upstream_by_row = batch.upstream.is_by_row();
        let (divisor, divisor_at) = guards.scalar(batch.divisor.as_ref());
        let classes = guards.read_or(own.weights.classes, batch.class_weights.as_ref());
        let addresses = Addresses {
            logits: at.logits,
            gradient: at.gradient,
            labels,
            targets,
            delta,
            margins,
            weights: Weights { classes, samples: guards.read_or(0, batch.sample_weights.as_ref()) },
            upstreams,
            divisor_at,
            ..if from_saved { own.for_backward() } else { own.for_forward() }
        };
        let aligned = at.logits.is_multiple_of(16) && at.logits_stride.is_multiple_of(T::KERNEL_DTYPE.width());
        let prepared = match &self.backward {
            Some(backward) if from_saved => &backward[usize::from(aligned)],
            _ => &self.main[usize::from(aligned)],
        };
        let shape = Shape {
            rows,
            classes: self.setup.classes,
            logits_stride: at.logits_stride,
            gradient_stride: at.gradient_stride,
            label_type,
        };
        let values = Values { upstream, upstream_by_row, divisor };
        if let (Some(learned), Some((own, gathered))) = (&self.learned, of_learner) {
            let (problem, function) = (&self.problem, &prepared.function);
            if launches == Launches::Confidences {
                // SAFETY: as below; the sums and what they become are of `classes` classes.
                unsafe {
                    learned
                        .enqueue_confidences(stream, problem, aligned, function, &addresses, gathered, shape, values)?;
                }
                return Ok(rows);
            }
            let kernels = (function, &self.tally, self.statistics.as_ref());
            let (alpha, alpha_at) = guards.scalar(batch.alpha.as_ref());
            let (eps, eps_at, eps_by_class) = match &batch.bound {
                None => (None, 0, false),
                Some(DeviceBound::Shared(eps)) => {
                    let (eps, address) = guards.scalar(Some(eps));
                    (eps, address, false)
                }
                Some(DeviceBound::ByClass(bounds)) => (None, guards.read(bounds), true),
            };
            let own = LearnAddresses { alpha_at, eps_at, ..own };
            let learn_values = LearnValues { alpha, eps, eps_by_class, ..LearnValues::default() };
            // SAFETY: as below; the learner's memory was sized for `max_rows` rows under both plans.
            unsafe {
                learned.enqueue(stream, problem, aligned, kernels, &addresses, &own, learn_values, shape, values)?
            };
            return Ok(rows);
        }
        let sequence = Sequence::new(&self.problem, &prepared.plan, &addresses, shape, values);
        if let Some((geometry, args)) = &sequence.tally {
            // SAFETY: `tally` takes TallyArgs; the workspace was sized for `max_rows` rows; labels and weights are as many as the rows and
            // classes.
            unsafe { launch(stream, &self.tally, *geometry, args)? };
        }
        let (geometry, args) = &sequence.main;
        // SAFETY: `cross_entropy` takes CrossEntropyArgs; the matrices were checked to hold `rows` rows of `classes` at their strides and the
        // vectors to be as long; the gradient is borrowed mutably; the workspace was sized for `max_rows` rows under every plan.
        unsafe { launch(stream, &prepared.function, *geometry, args)? };
        if let (Some(function), Some((geometry, args))) = (&self.statistics, &sequence.statistics) {
            // SAFETY: `class_statistics` takes ClassStatisticsArgs; the workspace holds `classes` sums and as many results.
            unsafe { launch(stream, function, *geometry, args)? };
        }
        Ok(rows)
    }

    /// The reduced loss of the last batch, `[1]`; under [`Reduction::None`](crate::Reduction::None) the sum of the rows.
    pub fn loss(&self) -> CudaView<'_, f32> {
        self.workspace.results.loss.as_view()
    }

    /// The row losses of the last batch, `[max_rows]` of which the first N are set, where asked for.
    pub fn loss_rows(&self) -> Option<CudaView<'_, f32>> {
        self.workspace.results.loss_rows.as_ref().map(CudaSlice::as_view)
    }

    /// The rows' `lse` in the last batch, as [`loss_rows`](Self::loss_rows).
    pub fn lse(&self) -> Option<CudaView<'_, f32>> {
        self.workspace.results.lse.as_ref().map(CudaSlice::as_view)
    }

    /// The rows' predictions in the last batch, as [`loss_rows`](Self::loss_rows): the class of the largest UNPERTURBED logit, the lowest on
    /// ties; -1 where ignored, and for a row with NaN or all -inf.
    pub fn predictions(&self) -> Option<CudaView<'_, i32>> {
        self.workspace.results.predictions.as_ref().map(CudaSlice::as_view)
    }

    /// The class statistics of the last batch, where asked for.
    pub fn class_statistics(&self) -> Option<ClassStatisticsViews<'_>> {
        self.workspace.results.statistics.as_ref().map(ClassStatisticsViews::of)
    }

    /// What the learner did in the last batch, where asked for.
    pub fn learned(&self) -> Option<LearnedViews<'_>> {
        self.workspace.learned.as_ref()?.views()
    }

    /// The running confidences, `[C]`, NaN for a class never seen; where they were set up.
    pub fn running_confidence(&self) -> Option<CudaView<'_, f64>> {
        self.workspace.learned.as_ref()?.running()
    }

    /// Waits for the stream, and turns what the device recorded since the last check into an error. The record is cleared.
    ///
    /// # Errors
    /// [`Error::Label`] for labels out of range; else [`Error::Value`] for the first class whose bound on the device, or whose step size, was out
    /// of its range; [`Error::Driver`] where the driver reports a failure.
    pub fn check(&mut self) -> Result<()> {
        let found = self.workspace.take_error(&self.stream)?;
        let word = found.labels;
        if word.bad_labels == 0 {
            return match found.bad_bound(self.setup.classes) {
                None => Ok(()),
                Some((class, eps)) => Err(Error::value(
                    format!("bound[{class}]"),
                    eps,
                    format!("in 0..={MOST_EPS}, with alpha finite and > 0, on a GPU"),
                )),
            };
        }
        Err(Error::Label {
            row: word.first_row as usize,
            label: word.first_label,
            classes: self.setup.classes,
            count: word.bad_labels as usize,
        })
    }

    /// What keeps workspace and kernels alive for a graph that captured this operation's launches.
    pub fn captured_workspace(&self) -> CapturedWorkspace {
        let prepared = self.main.iter().chain(self.backward.iter().flatten()).map(|prepared| &prepared.function);
        let learned = self.learned.iter().flat_map(Learned::functions);
        let functions = prepared.chain([&self.tally]).chain(&self.statistics).chain(learned).cloned().collect();
        CapturedWorkspace::new(Arc::clone(&self.workspace), functions)
    }

    /// The plans in words: without and with aligned rows.
    pub fn describe(&self) -> [String; 2] {
        self.main.each_ref().map(|prepared| prepared.plan.to_string())
    }
}

/// What an enqueue launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Launches {
    /// The loss and what goes with it.
    All,
    /// The gradient from what was saved.
    Backward,
    /// What gathers the classes' confidences.
    Confidences,
}

/// A form's plan and kernel, with as many blocks as the device finds resident. Where it holds no cluster of the size that a row asks for, the
/// row is read twice.
fn prepare(kernels: &Kernels, form: Form) -> Result<Prepared> {
    let mut limits = kernels.limits();
    loop {
        let plan = Plan::new(form, limits);
        let function = kernels.function(plan.variant)?;
        let resident = if plan.regime() == Regime::Cluster {
            active_clusters(&function, plan.geometry(i64::MAX / 2))?
        } else {
            resident_blocks(&function, plan.threads, plan.shared)? * limits.multiprocessors
        };
        if resident > 0 {
            return Ok(Prepared { plan: plan.resident(resident), function });
        }
        limits.cluster = plan.cluster / 2;
    }
}
