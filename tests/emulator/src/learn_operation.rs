//! Cross-entropy under a learned perturbation as an operation on the emulated device: what `src/cuda` does on a GPU, from the same plan,
//! launches and parameter structs.

use crate::emulator::Emulator;
use crate::fault::Faults;
use crate::memory::{Buffer, Memory};
use crate::operation::{Batch, Given, Laid, Outcome, is_aligned};
use crate::report::Report;
use crate::statistics::StatisticsBuffers;
use bytemuck::bytes_of;
use logit_perturb::CrossEntropy;
use logit_perturb::kernel::{
    ClassSums, ConfidenceSequence, Group, GroupList, LearnAddresses, LearnErrorWord, LearnForm, LearnPlan,
    LearnSequence, LearnValues, LearnWorkspaceSizes, Rule, Variant,
};

/// What a batch brings to a learner.
#[derive(Clone, Copy, Debug, Default)]
pub struct LearnInputs<'a> {
    /// The momentum of running confidences and what they are, NaN for a class never seen.
    pub running: Option<(f64, &'a [f64])>,
    /// In place of the learner's step size.
    pub alpha: Option<Given<'a>>,
    /// In place of the learner's bound: of all classes, or, as rows, one a class.
    pub eps: Option<Given<'a>>,
    /// Whether confidences are gathered in a phase of their own.
    pub data_parallel: bool,
}

/// What a batch left: the outcome of the loss, and what was learned, P classes of it.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "as in kernels/learn_tile.cuh")]
pub struct LearnOutcome {
    /// Its traffic is that of all launches together for the logits, and its plan that of the confidences.
    pub outcome: Outcome,
    pub plan: LearnPlan,
    pub classes: Vec<i32>,
    /// `[P, C]`.
    pub delta: Vec<f32>,
    pub directions: Vec<i32>,
    pub steps: Vec<u32>,
    pub confidences: Vec<f64>,
    pub tau: f64,
    /// `[C]`, where there is one.
    pub running: Vec<f64>,
}

/// The operation with a batch on the device; it may run more than once, as a captured graph does.
pub struct LearnOperation {
    laid: Laid,
    plan: LearnPlan,
    sequence: LearnSequence,
    outputs: Outputs,
    phase: Option<Phase>,
}

/// The first phase of a batch that is spread over devices.
struct Phase {
    sequence: ConfidenceSequence,
    buffers: StatisticsBuffers,
}

#[derive(Clone, Copy)]
struct Outputs {
    classes: Buffer<i32>,
    present: Buffer<u32>,
    tau: Buffer<f64>,
    delta: Buffer<f32>,
    directions: Buffer<i32>,
    steps: Buffer<u32>,
    confidences: Buffer<f64>,
    running: Option<Buffer<f64>>,
}

impl LearnOperation {
    /// Lays a batch out in the device's memory.
    ///
    /// # Panics
    /// Without a learner.
    pub fn new(emulator: &mut Emulator, problem: &CrossEntropy, batch: &Batch<'_>, inputs: LearnInputs<'_>) -> Self {
        let learner = problem.learner().expect("a problem with a learner");
        let c = batch.classes;
        let rows = batch.logits.len() / c;
        let form = LearnForm { dtype: batch.dtype, classes: c, aligned: is_aligned(batch) };
        let plan = LearnPlan::new(form, batch.limits);
        let sizes = LearnWorkspaceSizes::of([&plan], rows);
        let laid = Laid::new(emulator, problem, batch, sizes.plain);
        let memory = &mut emulator.memory;
        let rule = Rule::new(learner.split(), learner.bound());
        let outputs = Outputs {
            classes: memory.poisoned(sizes.groups),
            present: memory.poisoned(1),
            tau: memory.poisoned(1),
            delta: memory.poisoned(sizes.groups * c),
            directions: memory.poisoned(sizes.groups),
            steps: memory.poisoned(sizes.groups),
            confidences: memory.poisoned(sizes.groups),
            running: inputs.running.map(|(_, values)| memory.upload(values)),
        };
        let gathered = inputs.data_parallel.then(|| StatisticsBuffers::new(memory, c));
        let gathered_at = gathered.map(|buffers| buffers.addresses(memory, c)).unwrap_or_default();
        let given = |memory: &mut Memory, given: Option<Given<'_>>| match given {
            None => (None, 0),
            Some(Given::Host(value)) => (Some(value), 0),
            Some(Given::Device(value)) => (None, memory.upload(&[value]).address()),
            Some(Given::Rows(values)) => (None, memory.upload(values).address()),
        };
        let (alpha, alpha_at) = given(memory, inputs.alpha);
        let (eps, eps_at) = given(memory, inputs.eps);
        let floats = |memory: &mut Memory, len: usize| if len > 0 { memory.poisoned::<f32>(len).address() } else { 0 };
        let own = LearnAddresses {
            order: memory.poisoned::<u32>(rows.max(1)).address(),
            found: memory.upload(&vec![0u64; c + 1]).address(),
            groups: memory.poisoned::<Group>(sizes.groups).address(),
            list: memory.poisoned::<GroupList>(1).address(),
            by_team: memory.poisoned::<u32>(sizes.groups).address(),
            sums: match rule.mean && gathered.is_none() {
                true => memory.upload(&vec![ClassSums::default(); c]).address(),
                false => 0,
            },
            counts: gathered_at.count,
            confidence_sums: gathered_at.confidence,
            scratch: floats(memory, sizes.scratch),
            gang_sums: floats(memory, sizes.gang_rows * c),
            gang_numbers: memory.poisoned::<f64>(sizes.gang_rows.max(1)).address(),
            directions: rule.directions.as_ref().map_or(0, |directions| memory.upload(directions).address()),
            bounds: rule.bounds.as_ref().map_or(0, |bounds| memory.upload(bounds).address()),
            alpha_at,
            eps_at,
            bad_bound: laid.addresses.error + std::mem::offset_of!(LearnErrorWord, bad_bound) as u64,
            running: outputs.running.map_or(0, |buffer| buffer.address()),
            classes: outputs.classes.address(),
            present: outputs.present.address(),
            tau: outputs.tau.address(),
            delta: outputs.delta.address(),
            directions_taken: outputs.directions.address(),
            steps_taken: outputs.steps.address(),
            confidences: outputs.confidences.address(),
        };
        let values = LearnValues {
            momentum: inputs.running.map_or(0.0, |(momentum, _)| momentum),
            alpha,
            eps,
            eps_by_class: matches!(inputs.eps, Some(Given::Rows(_))),
        };
        let sequence = LearnSequence::new(
            problem,
            (learner, &rule),
            &plan,
            &laid.addresses,
            &own,
            values,
            laid.shape,
            laid.values,
        );
        let phase = gathered.map(|buffers| Phase {
            sequence: ConfidenceSequence::new(problem, &plan, &laid.addresses, gathered_at, laid.shape, laid.values),
            buffers,
        });
        Self { laid, plan, sequence, outputs, phase }
    }

    /// The same where nobody asked for what is learned: those parts of an outcome mean nothing then.
    #[must_use]
    pub fn unasked(mut self) -> Self {
        let (groups, main) = (&mut self.sequence.groups.1, &mut self.sequence.main.1);
        (groups.classes, groups.present, groups.tau_out) = (0, 0, 0);
        (main.delta, main.directions_taken, main.steps_taken, main.confidences) = (0, 0, 0, 0);
        self
    }

    /// Replaces the labels, as a trainer does between two replays of a graph.
    pub fn set_labels(&self, emulator: &mut Emulator, labels: &[i64]) {
        self.laid.set_labels(emulator, labels);
    }

    /// The first phase of a batch that is spread over devices: how often each class occurs, and the sums of the confidences.
    ///
    /// # Errors
    /// Every fault found.
    ///
    /// # Panics
    /// Where the batch is not laid out for it.
    pub fn gather(&self, emulator: &mut Emulator) -> Result<(Vec<u64>, Vec<f64>), Faults> {
        let Phase { sequence, buffers } = self.phase.as_ref().expect("a batch that is spread over devices");
        let ConfidenceSequence { confidences, statistics } = sequence;
        emulator.launch(&self.plan.plain.variant, confidences.0, bytes_of(&confidences.1))?;
        emulator.launch(&Variant::ClassStatistics, statistics.0, bytes_of(&statistics.1))?;
        let found = buffers.download(&emulator.memory);
        Ok((found.count, found.confidence))
    }

    /// What the devices' rows add up to, before the second phase.
    ///
    /// # Panics
    /// As [`gather`](Self::gather).
    pub fn set_gathered(&self, emulator: &mut Emulator, counts: &[u64], sums: &[f64]) {
        let Phase { buffers, .. } = self.phase.as_ref().expect("a batch that is spread over devices");
        emulator.memory.write(buffers.count, counts);
        emulator.memory.write(buffers.confidence, sums);
    }

    /// Launches what the batch takes; of one that is spread over devices, the second phase.
    ///
    /// # Errors
    /// Every fault found.
    pub fn run(&self, emulator: &mut Emulator) -> Result<LearnOutcome, Faults> {
        let LearnSequence { tally, confidences, groups, main, statistics } = &self.sequence;
        let mut reports: Vec<Report> = Vec::new();
        if let Some((geometry, args)) = tally {
            reports.push(emulator.launch(&Variant::Tally, *geometry, bytes_of(args))?);
        }
        if let Some((geometry, args)) = confidences {
            reports.push(emulator.launch(&self.plan.plain.variant, *geometry, bytes_of(args))?);
        }
        reports.push(emulator.launch(&Variant::GroupRows, groups.0, bytes_of(&groups.1))?);
        reports.push(emulator.launch(&self.plan.variant, main.0, bytes_of(&main.1))?);
        if let Some((geometry, args)) = statistics {
            reports.push(emulator.launch(&Variant::ClassStatistics, *geometry, bytes_of(args))?);
        }
        let sum = |buffer: Buffer<u8>| {
            let mut all = reports[0].traffic(buffer).clone();
            for report in &reports[1..] {
                let traffic = report.traffic(buffer);
                all.reads.iter_mut().zip(&traffic.reads).for_each(|(all, reads)| *all += reads);
                all.writes.iter_mut().zip(&traffic.writes).for_each(|(all, writes)| *all += writes);
            }
            all
        };
        let memory = &emulator.memory;
        let gradient = self.laid.place.gradient.map(sum);
        let outcome = self.laid.outcome(memory, self.plan.plain, sum(self.laid.place.logits), gradient);
        let outputs = &self.outputs;
        let present = memory.download(outputs.present)[0] as usize;
        fn first<T: Copy>(mut all: Vec<T>, count: usize) -> Vec<T> {
            all.truncate(count);
            all
        }
        Ok(LearnOutcome {
            outcome: Outcome { reports, ..outcome },
            plan: self.plan,
            classes: first(memory.download(outputs.classes), present),
            delta: first(memory.download(outputs.delta), present * self.laid.shape.classes),
            directions: first(memory.download(outputs.directions), present),
            steps: first(memory.download(outputs.steps), present),
            confidences: first(memory.download(outputs.confidences), present),
            tau: memory.download(outputs.tau)[0],
            running: outputs.running.map_or_else(Vec::new, |buffer| memory.download(buffer)),
        })
    }
}
