//! The learner of cross-entropy on the device: its kernels, its memory, and what it leaves.

use super::cross_entropy_workspace::{Allocator, Setup, Statistics};
use super::kernels::{Kernels, allocation, resident_blocks};
use super::launch::launch;
use super::operand::Guards;
use crate::error::{Error, Result, check};
use crate::kernel::{
    Addresses, ClassSums, ConfidenceSequence, DType, Group, GroupList, LearnAddresses, LearnErrorWord, LearnForm,
    LearnPlan, LearnSequence, LearnValues, LearnWorkspaceSizes, MOST_LEARNED_CLASSES, Plan, Rule, Shape,
    StatisticsAddresses, Values, Variant,
};
use crate::loss::CrossEntropy;
use cudarc::driver::{CudaFunction, CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr};

/// The learner's kernels for rows of one alignment.
#[derive(Debug)]
struct Prepared {
    plan: LearnPlan,
    function: CudaFunction,
}

/// What the learner of an operation launches. Its memory is part of the workspace.
#[derive(Debug)]
pub(super) struct Learned {
    rule: Rule,
    momentum: f64,
    /// By whether rows are aligned.
    prepared: [Prepared; 2],
    groups: CudaFunction,
    /// Where the batch is spread over devices.
    statistics: Option<CudaFunction>,
}

/// A typed error unless the learner can be set up like this.
pub(super) fn check_setup(problem: &CrossEntropy, setup: &Setup) -> Result<()> {
    if problem.learner().is_none() {
        let clash = |argument| Err(Error::conflict(argument, "without a learner", "nothing is learned"));
        return match (setup.outputs.learned, setup.momentum, setup.data_parallel) {
            (true, ..) => clash("Outputs::learned"),
            (_, Some(_), _) => clash("running_confidence"),
            (.., true) => clash("data_parallel"),
            _ => Ok(()),
        };
    }
    if setup.classes > MOST_LEARNED_CLASSES {
        let allowed = format!("at most {MOST_LEARNED_CLASSES} with a learner");
        return Err(Error::shape("classes", "length", setup.classes, allowed));
    }
    if setup.max_rows > u32::MAX as usize {
        return Err(Error::shape("logits", "rows", setup.max_rows, format!("at most {} with a learner", u32::MAX)));
    }
    if setup.outputs.saved {
        return Err(Error::conflict("Outputs::saved", "with a learner", "loss and gradient come from one launch"));
    }
    match setup.momentum {
        Some(momentum) => check::one("momentum", momentum, (0.0..1.0).contains(&momentum), "in [0, 1)"),
        None => Ok(()),
    }
}

impl Learned {
    /// The learner of a problem that has one. `plain`: the plans of cross-entropy without it.
    pub(super) fn new(
        kernels: &Kernels,
        problem: &CrossEntropy,
        setup: &Setup,
        dtype: DType,
        plain: [Plan; 2],
    ) -> Result<Option<Self>> {
        let Some(learner) = problem.learner() else { return Ok(None) };
        let limits = kernels.limits();
        let prepare = |plain: Plan, aligned: bool| {
            let form = LearnForm { dtype, classes: setup.classes, aligned };
            let plan = LearnPlan::new(form, limits).with_plain(plain);
            let function = kernels.function(plan.variant)?;
            let geometry = plan.geometry(setup.max_rows as i64);
            let blocks = resident_blocks(&function, geometry.threads, geometry.shared)?;
            Ok(Prepared { plan: plan.resident(blocks * limits.multiprocessors), function })
        };
        let prepared = [prepare(plain[0], false)?, prepare(plain[1], true)?];
        let groups = kernels.function(Variant::GroupRows)?;
        let statistics = match setup.data_parallel {
            true => Some(kernels.function(Variant::ClassStatistics)?),
            false => None,
        };
        let momentum = setup.momentum.unwrap_or_default();
        Ok(Some(Self { rule: Rule::new(learner.split(), learner.bound()), momentum, prepared, groups, statistics }))
    }

    pub(super) fn sizes(&self, max_rows: usize) -> LearnWorkspaceSizes {
        LearnWorkspaceSizes::of(self.prepared.iter().map(|prepared| &prepared.plan), max_rows)
    }

    pub(super) fn functions(&self) -> impl Iterator<Item = &CudaFunction> {
        self.prepared.iter().map(|prepared| &prepared.function).chain([&self.groups]).chain(&self.statistics)
    }

    /// Enqueues a batch. `aligned`: whether its rows start on 16-byte boundaries; `plain`, `tally` and `statistics`: the kernels of cross-entropy without a learner.
    ///
    /// # Safety
    /// The addresses are of device memory for `shape` and, in the workspace, of the sizes that [`sizes`](Self::sizes) tells for at least as many
    /// rows, alive and not used otherwise until the stream has run the kernels.
    #[allow(clippy::too_many_arguments, reason = "each is a struct or a kernel of its own")]
    pub(super) unsafe fn enqueue(
        &self,
        stream: &CudaStream,
        problem: &CrossEntropy,
        aligned: bool,
        (plain, tally, statistics): (&CudaFunction, &CudaFunction, Option<&CudaFunction>),
        at: &Addresses,
        own: &LearnAddresses,
        learn_values: LearnValues,
        shape: Shape,
        values: Values,
    ) -> Result<()> {
        let Some(learner) = problem.learner() else { return Ok(()) };
        let Prepared { plan, function } = &self.prepared[usize::from(aligned)];
        let learn_values = LearnValues { momentum: self.momentum, ..learn_values };
        let sequence = LearnSequence::new(problem, (learner, &self.rule), plan, at, own, learn_values, shape, values);
        // SAFETY: each kernel takes the struct that the sequence made for it; the rest is the caller's promise.
        unsafe {
            if let Some((geometry, args)) = &sequence.tally {
                launch(stream, tally, *geometry, args)?;
            }
            if let Some((geometry, args)) = &sequence.confidences {
                launch(stream, plain, *geometry, args)?;
            }
            launch(stream, &self.groups, sequence.groups.0, &sequence.groups.1)?;
            launch(stream, function, sequence.main.0, &sequence.main.1)?;
            if let (Some(function), Some((geometry, args))) = (statistics, &sequence.statistics) {
                launch(stream, function, *geometry, args)?;
            }
        }
        Ok(())
    }

    /// Enqueues what gathers the classes' confidences, where the batch is spread over devices.
    ///
    /// # Safety
    /// As [`enqueue`](Self::enqueue); `gathered` is of numbers of `shape.classes` classes.
    #[allow(clippy::too_many_arguments, reason = "each is a struct or a kernel of its own")]
    pub(super) unsafe fn enqueue_confidences(
        &self,
        stream: &CudaStream,
        problem: &CrossEntropy,
        aligned: bool,
        plain: &CudaFunction,
        at: &Addresses,
        gathered: StatisticsAddresses,
        shape: Shape,
        values: Values,
    ) -> Result<()> {
        let plan = &self.prepared[usize::from(aligned)].plan;
        let ConfidenceSequence { confidences, statistics } =
            ConfidenceSequence::new(problem, plan, at, gathered, shape, values);
        // SAFETY: each kernel takes the struct that the sequence made for it; the rest is the caller's promise.
        unsafe {
            launch(stream, plain, confidences.0, &confidences.1)?;
            match &self.statistics {
                Some(function) => launch(stream, function, statistics.0, &statistics.1),
                None => Ok(()),
            }
        }
    }
}

/// What a device's rows add up to by class, on the device: what the devices' are to be added up to.
#[derive(Debug)]
#[non_exhaustive]
pub struct ClassConfidencesMut<'a> {
    /// How often each class occurs, `[C]`; of binary cross-entropy how often as a positive and then as a negative, `[2, C]`.
    pub count: CudaViewMut<'a, u64>,
    /// The sums of `softmax(u_i)_c` over the rows of each class, `[C]`; of binary cross-entropy those of `sigmoid(u)` over its positives and
    /// then of `1 - sigmoid(u)` over its negatives, `[2, C]`.
    pub sum: CudaViewMut<'a, f64>,
}

/// A typed error for `call` where an operation is not set up for batches over several devices; `setup` is how it would be.
pub(super) fn check_data_parallel(data_parallel: bool, call: &'static str, setup: &'static str) -> Result<()> {
    if data_parallel { Ok(()) } else { Err(Error::conflict(call, "with this operation", setup)) }
}

/// Gathered confidences to be changed: there are none where a graph shares the workspace.
pub(super) fn unshared(found: Option<ClassConfidencesMut<'_>>) -> Result<ClassConfidencesMut<'_>> {
    let reason = "the graph may run while the numbers change: ask before it is shared";
    found.ok_or_else(|| Error::conflict("class_confidences_mut", "with a captured workspace", reason))
}

/// What was learned from the last batch, on the device: P classes of it, at most `min(N, C)`. Of longer views the first P entries are set.
#[derive(Debug)]
#[non_exhaustive]
pub struct LearnedViews<'a> {
    /// P, `[1]`.
    pub count: CudaView<'a, u32>,
    /// The classes with a valid row, ascending, `[P]`.
    pub classes: CudaView<'a, i32>,
    /// `delta_c`, row-major `[P, C]`; NaN for a class whose confidence is not finite [Alg. 1, Eq. 11, 12].
    pub delta: CudaView<'a, f32>,
    /// -1, 0 or 1 [Eq. 9, 10], `[P]`.
    pub direction: CudaView<'a, i32>,
    /// Steps taken, `[P]`.
    pub steps: CudaView<'a, u32>,
    /// The confidences that decided, the batch's or the running ones, `[P]`; NaN where the batch's is not finite.
    pub confidence: CudaView<'a, f64>,
    /// The threshold of the split, `[1]`; NaN where it has none.
    pub tau: CudaView<'a, f64>,
}

/// What a user may read of the learner's memory.
#[derive(Debug)]
struct Outputs {
    count: CudaSlice<u32>,
    classes: CudaSlice<i32>,
    delta: CudaSlice<f32>,
    direction: CudaSlice<i32>,
    steps: CudaSlice<u32>,
    confidence: CudaSlice<f64>,
    tau: CudaSlice<f64>,
}

/// The learner's part of an operation's memory.
#[derive(Debug)]
pub(super) struct LearnedMemory {
    outputs: Option<Outputs>,
    running: Option<CudaSlice<f64>>,
    gathered: Option<Statistics>,
    pub(super) gathered_at: StatisticsAddresses,
    pub(super) addresses: LearnAddresses,
}

impl LearnedMemory {
    /// `errors`: the address of a [`LearnErrorWord`].
    pub(super) fn new(memory: &mut Allocator<'_>, learned: &Learned, setup: &Setup, errors: u64) -> Result<Self> {
        let (c, rows) = (setup.classes, setup.max_rows.max(1));
        let sizes = learned.sizes(rows);
        let groups = sizes.groups;
        let what = "what is learned";
        let outputs = match setup.outputs.learned {
            false => None,
            true => Some(Outputs {
                count: memory.zeros(what, 1)?,
                classes: memory.zeros(what, groups)?,
                delta: memory.zeros(what, groups * c)?,
                direction: memory.zeros(what, groups)?,
                steps: memory.zeros(what, groups)?,
                confidence: memory.zeros(what, groups)?,
                tau: memory.zeros(what, 1)?,
            }),
        };
        let running = match setup.momentum {
            None => None,
            Some(_) => {
                let unseen = vec![f64::NAN; c];
                let failed = |error| allocation("running confidences", c * size_of::<f64>(), error);
                Some(memory.stream.clone_htod(&unseen).map_err(failed)?)
            }
        };
        let gathered = if setup.data_parallel { Some(Statistics::new(memory, c)?) } else { None };
        let gathered_at = match &gathered {
            None => StatisticsAddresses::default(),
            Some(gathered) => gathered.addresses(memory, c)?,
        };
        let stream = memory.stream;
        let mut addresses = LearnAddresses {
            order: memory.own::<u32>(rows)?,
            found: memory.own::<u64>(c + 1)?,
            groups: memory.own::<Group>(groups)?,
            list: memory.own::<GroupList>(1)?,
            by_team: memory.own::<u32>(groups)?,
            sums: if learned.rule.mean && gathered.is_none() { memory.own::<ClassSums>(c)? } else { 0 },
            counts: gathered_at.count,
            confidence_sums: gathered_at.confidence,
            gang_sums: memory.own::<f32>(sizes.gang_rows * c)?,
            gang_numbers: memory.own::<f64>(sizes.gang_rows)?,
            bad_bound: errors + std::mem::offset_of!(LearnErrorWord, bad_bound) as u64,
            scratch: memory.own::<f32>(sizes.scratch)?,
            directions: memory.upload_bytes("directions", learned.rule.directions.as_deref())?,
            bounds: memory.upload_bytes("bounds", learned.rule.bounds.as_deref())?,
            running: running.as_ref().map_or(0, |slice| slice.device_ptr(stream).0),
            ..LearnAddresses::default()
        };
        if let Some(Outputs { count, classes, delta, direction, steps, confidence, tau }) = &outputs {
            addresses.present = count.device_ptr(stream).0;
            addresses.classes = classes.device_ptr(stream).0;
            addresses.delta = delta.device_ptr(stream).0;
            addresses.directions_taken = direction.device_ptr(stream).0;
            addresses.steps_taken = steps.device_ptr(stream).0;
            addresses.confidences = confidence.device_ptr(stream).0;
            addresses.tau = tau.device_ptr(stream).0;
        }
        Ok(Self { outputs, running, gathered, gathered_at, addresses })
    }

    /// Records that everything here was written.
    pub(super) fn guard<'a>(&'a mut self, guards: &mut Guards<'a>) {
        if let Some(Outputs { count, classes, delta, direction, steps, confidence, tau }) = &mut self.outputs {
            guards.write(delta);
            for numbers in [count, steps] {
                guards.write(numbers);
            }
            for numbers in [classes, direction] {
                guards.write(numbers);
            }
            for numbers in [confidence, tau] {
                guards.write(numbers);
            }
        }
        if let Some(running) = &mut self.running {
            guards.write(running);
        }
        if let Some(gathered) = &mut self.gathered {
            gathered.guard(guards);
        }
    }

    pub(super) fn views(&self) -> Option<LearnedViews<'_>> {
        self.outputs.as_ref().map(|outputs| LearnedViews {
            count: outputs.count.as_view(),
            classes: outputs.classes.as_view(),
            delta: outputs.delta.as_view(),
            direction: outputs.direction.as_view(),
            steps: outputs.steps.as_view(),
            confidence: outputs.confidence.as_view(),
            tau: outputs.tau.as_view(),
        })
    }

    pub(super) fn class_confidences(&mut self) -> Option<ClassConfidencesMut<'_>> {
        let gathered = self.gathered.as_mut()?;
        Some(ClassConfidencesMut { count: gathered.count.as_view_mut(), sum: gathered.confidence.as_view_mut() })
    }

    pub(super) fn running(&self) -> Option<CudaView<'_, f64>> {
        self.running.as_ref().map(CudaSlice::as_view)
    }
}
