//! The learner of binary cross-entropy on the device: its kernels, its memory, and what it leaves.

use super::binary_cross_entropy_workspace::BinarySetup;
use super::cross_entropy_workspace::Allocator;
use super::kernels::{Kernels, resident_blocks};
use super::launch::launch;
use super::learned::ClassConfidencesMut;
use super::operand::Guards;
use crate::error::{Error, Result};
use crate::kernel::binary::{
    BinaryLearnAddresses, BinaryLearnPlan, BinaryLearnSequence, BinaryLearnWorkspaceSizes, BinaryRule, SignAddresses,
    SignGroup, SignOutputs,
};
use crate::kernel::{DType, Rule};
use crate::loss::BinaryCrossEntropy;
use crate::perturbation::BinaryStep;
use cudarc::driver::{CudaFunction, CudaSlice, CudaStream, CudaView, DevicePtr};

/// What the learner of an operation launches. Its memory is part of the workspace.
#[derive(Debug)]
pub(super) struct BinaryLearned {
    pub(super) rule: BinaryRule,
    pub(super) plan: BinaryLearnPlan,
    confidences: Option<CudaFunction>,
    steps: Option<CudaFunction>,
}

/// A typed error unless the learner can be set up like this.
pub(super) fn check_setup(problem: &BinaryCrossEntropy, setup: &BinarySetup) -> Result<()> {
    let clash = |argument| Err(Error::conflict(argument, "without a learner", "nothing is learned"));
    match (problem.learner(), setup.learned, setup.data_parallel) {
        (None, true, _) => clash("BinarySetup::learned"),
        (None, _, true) => clash("BinarySetup::data_parallel"),
        _ => Ok(()),
    }
}

impl BinaryLearned {
    /// The learner of a problem that has one.
    pub(super) fn new(
        kernels: &Kernels,
        problem: &BinaryCrossEntropy,
        setup: &BinarySetup,
        dtype: DType,
    ) -> Result<Option<Self>> {
        let Some(learner) = problem.learner() else { return Ok(None) };
        let rule = BinaryRule::new(learner);
        let mut plan = BinaryLearnPlan::new(setup.classes, dtype, kernels.limits());
        let needs_confidences = rule.needs_confidences() || setup.data_parallel;
        let confidences = needs_confidences.then(|| kernels.function(plan.confidences_variant())).transpose()?;
        let steps = match rule.step {
            BinaryStep::Raw => {
                let function = kernels.function(plan.steps_variant())?;
                let geometry = plan.steps(setup.max_rows as i64);
                plan = plan.resident(resident_blocks(&function, geometry.threads, geometry.shared)?);
                Some(function)
            }
            _ => None,
        };
        Ok(Some(Self { rule, plan, confidences, steps }))
    }

    pub(super) fn functions(&self) -> impl Iterator<Item = &CudaFunction> {
        self.confidences.iter().chain(&self.steps)
    }

    /// Enqueues what gathers the confidences, where the batch is spread over devices.
    ///
    /// # Safety
    /// As [`enqueue`](Self::enqueue).
    pub(super) unsafe fn gather(&self, stream: &CudaStream, sequence: &BinaryLearnSequence) -> Result<()> {
        match (&self.confidences, &sequence.gather) {
            // SAFETY: the kernel takes the struct that the sequence made for it; the rest is the caller's promise.
            (Some(function), Some((geometry, args))) => unsafe { launch(stream, function, *geometry, args) },
            _ => Ok(()),
        }
    }

    /// Enqueues what a batch learns by.
    ///
    /// # Safety
    /// The addresses in the sequence are of device memory for its shape and of the sizes that this learner's plan tells, alive and not used
    /// otherwise until the stream has run the kernels.
    pub(super) unsafe fn enqueue(&self, stream: &CudaStream, sequence: &BinaryLearnSequence) -> Result<()> {
        // SAFETY: each kernel takes the struct that the sequence made for it; the rest is the caller's promise.
        unsafe {
            if let (Some(function), Some((geometry, args))) = (&self.confidences, &sequence.confidences) {
                launch(stream, function, *geometry, args)?;
            }
            if let (Some(function), Some((geometry, args))) = (&self.steps, &sequence.steps) {
                launch(stream, function, *geometry, args)?;
            }
        }
        Ok(())
    }
}

/// What was learned from the last batch, on the device.
#[derive(Debug)]
#[non_exhaustive]
pub struct BinaryLearnedViews<'a> {
    /// On entries with target 1.
    pub positive: LearnedSignViews<'a>,
    /// On entries with target 0.
    pub negative: LearnedSignViews<'a>,
}

/// What was learned for one sign; `[C]` each, but for tau.
#[derive(Debug)]
#[non_exhaustive]
pub struct LearnedSignViews<'a> {
    /// `delta_c`, without the fixed perturbation; 0 for an empty group, NaN for one whose confidence is not finite.
    pub delta: CudaView<'a, f32>,
    /// -1, 0 or 1; an empty group may have one, and takes no step.
    pub direction: CudaView<'a, i32>,
    /// Steps taken; 0 for an empty group. [`BinaryStep::Exact`] takes none.
    pub steps: CudaView<'a, u32>,
    /// Mean of `sigmoid(u)` over positives, of `1 - sigmoid(u)` over negatives; NaN for an empty group.
    pub confidence: CudaView<'a, f64>,
    /// The threshold of the split, `[1]`; NaN where it has none.
    pub tau: CudaView<'a, f64>,
}

/// What a user may read of a sign.
#[derive(Debug)]
struct Sign {
    delta: CudaSlice<f32>,
    direction: CudaSlice<i32>,
    steps: CudaSlice<u32>,
    confidence: CudaSlice<f64>,
    tau: CudaSlice<f64>,
}

impl Sign {
    fn new(memory: &Allocator<'_>, classes: usize) -> Result<Self> {
        let what = "what is learned";
        Ok(Self {
            delta: memory.zeros(what, classes)?,
            direction: memory.zeros(what, classes)?,
            steps: memory.zeros(what, classes)?,
            confidence: memory.zeros(what, classes)?,
            tau: memory.zeros(what, 1)?,
        })
    }

    fn addresses(&self, stream: &CudaStream) -> SignOutputs {
        SignOutputs {
            delta: self.delta.device_ptr(stream).0,
            directions: self.direction.device_ptr(stream).0,
            steps: self.steps.device_ptr(stream).0,
            confidences: self.confidence.device_ptr(stream).0,
            tau: self.tau.device_ptr(stream).0,
            ..SignOutputs::default()
        }
    }

    fn guard<'a>(&'a mut self, guards: &mut Guards<'a>) {
        guards.write(&mut self.delta);
        guards.write(&mut self.direction);
        guards.write(&mut self.steps);
        guards.write(&mut self.confidence);
        guards.write(&mut self.tau);
    }

    fn views(&self) -> LearnedSignViews<'_> {
        LearnedSignViews {
            delta: self.delta.as_view(),
            direction: self.direction.as_view(),
            steps: self.steps.as_view(),
            confidence: self.confidence.as_view(),
            tau: self.tau.as_view(),
        }
    }
}

/// What the devices' rows add up to, `[2, C]` each.
#[derive(Debug)]
struct Gathered {
    count: CudaSlice<u64>,
    confidence: CudaSlice<f64>,
}

/// The learner's part of an operation's memory.
#[derive(Debug)]
pub(super) struct BinaryLearnedMemory {
    /// Positives first, where asked for.
    outputs: Option<[Sign; 2]>,
    /// Where batches are spread over devices.
    gathered: Option<Gathered>,
    pub(super) addresses: BinaryLearnAddresses,
}

impl BinaryLearnedMemory {
    /// `fixed`: addresses of the fixed perturbations of positives and negatives.
    pub(super) fn new(
        memory: &mut Allocator<'_>,
        learned: &BinaryLearned,
        setup: &BinarySetup,
        fixed: [u64; 2],
    ) -> Result<Self> {
        let classes = setup.classes;
        let outputs = match setup.learned {
            true => Some([Sign::new(memory, classes)?, Sign::new(memory, classes)?]),
            false => None,
        };
        let mut sign = |which: usize| {
            let Rule { directions, bounds, .. } = &learned.rule.signs[which];
            let of_user = outputs.as_ref().map(|signs| signs[which].addresses(memory.stream)).unwrap_or_default();
            Ok::<_, Error>(SignAddresses {
                directions: memory.upload_bytes("directions", directions.as_deref())?,
                bounds: memory.upload_bytes("bounds", bounds.as_deref())?,
                outputs: SignOutputs { fixed: fixed[which], perturbation: memory.own::<f32>(classes)?, ..of_user },
            })
        };
        let signs = [sign(0)?, sign(1)?];
        let groups = BinaryLearnWorkspaceSizes::of(&learned.rule, classes, setup.data_parallel).groups;
        let what = "gathered confidences";
        let gathered = match setup.data_parallel {
            true => Some(Gathered { count: memory.zeros(what, groups)?, confidence: memory.zeros(what, groups)? }),
            false => None,
        };
        let stream = memory.stream;
        let addresses = BinaryLearnAddresses {
            signs,
            counting: memory.own::<u64>(groups)?,
            sums: memory.own::<[u64; 2]>(groups)?,
            met: memory.own::<u32>(groups)?,
            groups: memory.own::<SignGroup>(groups)?,
            taus: memory.own::<f64>(2)?,
            counts: gathered.as_ref().map_or(0, |gathered| gathered.count.device_ptr(stream).0),
            confidence_sums: gathered.as_ref().map_or(0, |gathered| gathered.confidence.device_ptr(stream).0),
            ticket: memory.own::<u32>(1)?,
        };
        Ok(Self { outputs, gathered, addresses })
    }

    /// Records that everything here was written.
    pub(super) fn guard<'a>(&'a mut self, guards: &mut Guards<'a>) {
        for sign in self.outputs.iter_mut().flatten() {
            sign.guard(guards);
        }
        if let Some(Gathered { count, confidence }) = &mut self.gathered {
            guards.write(count);
            guards.write(confidence);
        }
    }

    pub(super) fn class_confidences(&mut self) -> Option<ClassConfidencesMut<'_>> {
        let Gathered { count, confidence } = self.gathered.as_mut()?;
        Some(ClassConfidencesMut { count: count.as_view_mut(), sum: confidence.as_view_mut() })
    }

    pub(super) fn views(&self) -> Option<BinaryLearnedViews<'_>> {
        let [positive, negative] = self.outputs.as_ref()?;
        Some(BinaryLearnedViews { positive: positive.views(), negative: negative.views() })
    }
}
