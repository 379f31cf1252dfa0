//! Binary cross-entropy on a stream: prepared once, enqueued per batch.

use super::batch::{DeviceMatrix, DevicePass};
use super::binary_cross_entropy_batch::{ClassVectors, DeviceBinaryBatch, DeviceTargets};
use super::binary_cross_entropy_workspace::{BinaryClassStatisticsViews, BinarySetup, BinaryWorkspace};
use super::binary_learned::{BinaryLearned, BinaryLearnedMemory, BinaryLearnedViews, check_setup};
use super::cross_entropy_workspace::CapturedWorkspace;
use super::element::DeviceElement;
use super::kernels::{Kernels, bind, check_tracking, resident_blocks};
use super::launch::launch;
use super::learned::{ClassConfidencesMut, check_data_parallel, unshared};
use super::operand::Guards;
use crate::error::{Error, Result, check};
use crate::kernel::Variant;
use crate::kernel::binary::{
    AllowedTargets, BinaryAddresses, BinaryLearning, BinaryPlan, BinarySequence, BinaryShape, BinaryValues,
    check_binary_supported,
};
use crate::loss::BinaryCrossEntropy;
use cudarc::driver::{CudaFunction, CudaSlice, CudaStream, CudaView};
use std::marker::PhantomData;
use std::sync::Arc;

const DATA_PARALLEL: &str = "set it up with BinarySetup::data_parallel";

/// What of a batch is launched.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// What the devices that share it exchange.
    Confidences,
    /// All, or the rest.
    Loss,
}

/// Binary cross-entropy prepared for one stream, element type, number of classes and greatest batch. `Send`, not `Sync`: it owns its
/// workspace.
///
/// `T` is what logits and gradient are made of: f32, [`half::f16`] or [`half::bf16`]. Sums and results are f32. Every option of
/// [`BinaryCrossEntropy`] is there but a gradient [through](crate::GradientSemantics::Through) a learner's raw steps.
#[derive(Debug)]
pub struct BinaryCrossEntropyOp<T> {
    stream: Arc<CudaStream>,
    problem: BinaryCrossEntropy,
    setup: BinarySetup,
    plan: BinaryPlan,
    main: CudaFunction,
    decode: CudaFunction,
    statistics: Option<CudaFunction>,
    learned: Option<BinaryLearned>,
    workspace: Arc<BinaryWorkspace>,
    /// Whether -1 was a target that the last batch could have.
    has_unknown: bool,
    /// Rows of which confidences were gathered that no batch has used yet.
    gathered_rows: Option<usize>,
    element: PhantomData<fn() -> T>,
}

impl<T: DeviceElement> BinaryCrossEntropyOp<T> {
    /// Compiles or loads the kernels and allocates the workspace; the only step that may take long.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a gradient through raw steps; [`Error::Value`] for a bound of raw steps that may exceed 30; [`Error::Shape`]
    /// where the problem has another number of classes; [`Error::Conflict`] for a stream of another context, and for what needs a learner; the
    /// errors of compiling; [`Error::OutOfMemory`].
    pub fn new(
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
        problem: &BinaryCrossEntropy,
        setup: BinarySetup,
    ) -> Result<Self> {
        check_binary_supported(problem)?;
        setup.check(problem)?;
        check_setup(problem, &setup)?;
        kernels.bind(stream)?;
        let dtype = T::KERNEL_DTYPE;
        let plan = BinaryPlan::new(setup.classes, dtype, problem.focusing().is_some(), kernels.limits());
        let main = kernels.function(plan.variant())?;
        let plan = plan.resident(resident_blocks(&main, plan.threads, 0)?);
        let statistics = match setup.statistics {
            true => Some(kernels.function(Variant::BinaryClassStatistics { dtype })?),
            false => None,
        };
        let learned = BinaryLearned::new(kernels, problem, &setup, dtype)?;
        let workspace = Arc::new(BinaryWorkspace::new(stream, problem, &setup, &plan, learned.as_ref())?);
        Ok(Self {
            stream: Arc::clone(stream),
            problem: problem.clone(),
            setup,
            plan,
            main,
            decode: kernels.function(Variant::DecodeTargets { dtype })?,
            statistics,
            learned,
            workspace,
            has_unknown: true,
            gathered_rows: None,
            element: PhantomData,
        })
    }

    /// Enqueues a batch on the operation's stream: one kernel; one more before it for lists of classes, and under
    /// [`Reduction::Mean`](crate::Reduction::Mean) wherever an entry may be masked; one for class statistics; one or two for a learner. Nothing is allocated
    /// and nothing waited for.
    ///
    /// # Errors
    /// [`Error::Shape`] where shapes disagree or the batch exceeds what was prepared; [`Error::Value`] for a number of the host outside its
    /// range; [`Error::Conflict`] for what the problem or the setup excludes, for memory of another context, and while cudarc's event
    /// tracking would break a capture, or would not see who uses a captured workspace.
    pub fn enqueue<'a>(&mut self, pass: DevicePass<'_, T>, batch: impl Into<DeviceBinaryBatch<'a, T>>) -> Result<()> {
        if self.setup.data_parallel {
            let Some(gathered) = self.gathered_rows else {
                let reason = "each batch begins with BinaryCrossEntropyOp::enqueue_confidences";
                return Err(Error::conflict("enqueue", "without confidences of the batch", reason));
            };
            let rows = pass.shape()?.0;
            if rows != gathered {
                return Err(Error::shape("logits", "rows", rows, format!("the {gathered} of enqueue_confidences")));
            }
        }
        self.run(pass, &batch.into(), Phase::Loss)?;
        self.gathered_rows = None;
        Ok(())
    }

    /// Enqueues what comes before a batch that is [spread over devices](BinarySetup::data_parallel): how often each class is a positive and a
    /// negative in this device's rows, and the sums of their confidences; for lists of classes and under
    /// [`Reduction::Mean`](crate::Reduction::Mean), the kernel that comes before a batch. Add the sums up over the devices, on this operation's stream, and
    /// [`enqueue`](Self::enqueue) the same batch. Nothing is allocated and nothing waited for.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue); [`Error::Conflict`] where the operation is not set up for it.
    pub fn enqueue_confidences<'a>(
        &mut self,
        logits: DeviceMatrix<'_, T>,
        batch: impl Into<DeviceBinaryBatch<'a, T>>,
    ) -> Result<()> {
        check_data_parallel(self.setup.data_parallel, "enqueue_confidences", DATA_PARALLEL)?;
        self.gathered_rows = None;
        let rows = logits.rows;
        self.run(DevicePass::Forward(logits), &batch.into(), Phase::Confidences)?;
        self.gathered_rows = Some(rows);
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
        unshared(learned.and_then(BinaryLearnedMemory::class_confidences))
    }

    /// Checks and launches.
    fn run(&mut self, mut pass: DevicePass<'_, T>, batch: &DeviceBinaryBatch<'_, T>, phase: Phase) -> Result<()> {
        let (rows, columns) = pass.shape()?;
        check::length("logits' columns", columns, self.setup.classes)?;
        pass.check_context(self.stream.context())?;
        if rows > self.setup.max_rows {
            let allowed = format!("at most the {} prepared", self.setup.max_rows);
            return Err(Error::shape("logits", "rows", rows, allowed));
        }
        batch.check(&self.problem, (rows, columns), self.stream.context())?;
        if matches!(batch.targets, DeviceTargets::Csr { .. }) && !self.setup.lists {
            return Err(Error::conflict(
                "targets as lists",
                "with this operation",
                "set it up with BinarySetup::lists",
            ));
        }
        // The operation may have been sent to a thread that has not used CUDA before.
        bind(&self.stream)?;
        check_tracking(&self.stream, Arc::get_mut(&mut self.workspace).is_none())?;
        let stream = &self.stream;
        self.has_unknown = batch.targets.has_unknown();
        let mut guards = Guards::new(stream);
        let (own, mut own_learned) = BinaryWorkspace::addresses(&mut self.workspace, &mut guards);
        let at = guards.pass(&mut pass);
        let (targets, indices, source) = batch.targets.hold(&mut guards);
        let (upstream, device_upstream) = batch.upstream.hold(&mut guards);
        let upstream_rows = batch.upstream.is_by_row();
        let (divisor, device_divisor) = guards.scalar(batch.divisor.as_ref());
        let (mask, mask_stride) = match &batch.mask {
            None => (0, 0),
            Some(mask) => (guards.read(&mask.data), mask.stride),
        };
        let ClassVectors { pos_weight, offset, positive, negative } = &batch.vectors;
        let (positive, negative) =
            (guards.read_or(own.positive, positive.as_ref()), guards.read_or(own.negative, negative.as_ref()));
        for (sign, fixed) in own_learned.signs.iter_mut().zip([positive, negative]) {
            sign.outputs.fixed = fixed;
        }
        let addresses = BinaryAddresses {
            pos_weight: guards.read_or(own.pos_weight, pos_weight.as_ref()),
            offset: guards.read_or(own.offset, offset.as_ref()),
            positive,
            negative,
            logits: at.logits,
            gradient: at.gradient,
            targets,
            indices,
            mask,
            weights: guards.operand(batch.weights.as_ref()),
            upstream: device_upstream,
            divisor: device_divisor,
            ..own
        };
        let shape = BinaryShape {
            rows,
            classes: columns,
            logits_stride: at.logits_stride,
            gradient_stride: at.gradient_stride,
            targets: source,
            mask_stride,
            upstream_rows,
        };
        let values = BinaryValues { upstream, divisor };
        let learning = self.learned.as_ref().map(|BinaryLearned { rule, plan, .. }| BinaryLearning {
            rule,
            plan,
            at: &own_learned,
        });
        let sequence = BinarySequence::new(&self.problem, &self.plan, learning, &addresses, shape, values);
        let spread = self.setup.data_parallel;
        if let Some((geometry, args)) = sequence.decode.as_ref().filter(|_| !spread || phase == Phase::Confidences) {
            // SAFETY: `decode_targets` takes DecodeArgs; targets and mask were checked to hold `rows` rows at their strides; the workspace was
            // sized for `max_rows` rows, with room for decoded lists where there are lists.
            unsafe { launch(stream, &self.decode, *geometry, args)? };
        }
        if let (Some(learned), Some(sequence)) = (&self.learned, &sequence.learn) {
            // SAFETY: logits, targets and mask were checked as above; the learner's memory was made for its plan and `classes`.
            unsafe {
                if phase == Phase::Confidences {
                    return learned.gather(stream, sequence);
                }
                learned.enqueue(stream, sequence)?;
            }
        }
        if let (Some(function), Some((geometry, args))) = (&self.statistics, &sequence.statistics) {
            // SAFETY: `binary_class_statistics` takes BinaryClassStatisticsArgs; the matrices were checked as above; the workspace holds
            // `classes` sums and as many results.
            unsafe { launch(stream, function, *geometry, args)? };
        }
        let (geometry, args) = &sequence.main;
        // SAFETY: `binary_cross_entropy` takes BinaryCrossEntropyArgs; the matrices were checked to hold `rows` rows of `classes` at their
        // strides and the vectors to be as long; the gradient is borrowed mutably; the workspace was sized for `max_rows` rows.
        unsafe { launch(stream, &self.main, *geometry, args)? };
        Ok(())
    }

    /// The reduced loss of the last batch, `[1]`; under [`Reduction::None`](crate::Reduction::None) the sum of the rows.
    pub fn loss(&self) -> CudaView<'_, f32> {
        self.workspace.loss.as_view()
    }

    /// The row losses of the last batch, `[max_rows]` of which the first N are set, where asked for.
    pub fn loss_rows(&self) -> Option<CudaView<'_, f32>> {
        self.workspace.loss_rows.as_ref().map(CudaSlice::as_view)
    }

    /// The class statistics of the last batch, where asked for.
    pub fn class_statistics(&self) -> Option<BinaryClassStatisticsViews<'_>> {
        self.workspace.statistics.as_ref().map(|statistics| statistics.views())
    }

    /// What was learned from the last batch, where asked for.
    pub fn learned(&self) -> Option<BinaryLearnedViews<'_>> {
        self.workspace.learned.as_ref().and_then(|learned| learned.views())
    }

    /// Waits for the stream, and turns what the device recorded since the last check into an error. The record is cleared.
    ///
    /// # Errors
    /// [`Error::Target`] for targets out of range, with the first of them by row and class and how many there are; [`Error::Driver`] where the
    /// driver reports a failure.
    pub fn check(&mut self) -> Result<()> {
        let errors = self.workspace.take_errors(&self.stream)?;
        let allowed = AllowedTargets { unknown: self.has_unknown, hard: self.learned.is_some() };
        match errors.problem(self.setup.classes, allowed) {
            None => Ok(()),
            Some(problem) => Err(Error::Target { row: errors.row as usize, problem }),
        }
    }

    /// What keeps workspace and kernels alive for a graph that captured this operation's launches.
    pub fn captured_workspace(&self) -> CapturedWorkspace {
        let functions = [&self.main, &self.decode].into_iter().chain(&self.statistics);
        let functions = functions.chain(self.learned.iter().flat_map(BinaryLearned::functions)).cloned().collect();
        CapturedWorkspace::new(Arc::clone(&self.workspace), functions)
    }

    /// The plan in words.
    pub fn describe(&self) -> String {
        self.plan.to_string()
    }
}
