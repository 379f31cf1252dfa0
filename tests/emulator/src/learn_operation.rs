//! Cross-entropy under a learned perturbation as an operation on the emulated device: what `src/cuda` does on a GPU, from the same plan,
//! launches and parameter structs.

use crate::emulator::Emulator;
use crate::fault::Faults;
use crate::memory::Buffer;
use crate::operation::{Batch, Laid, Outcome, is_aligned};
use crate::report::Report;
use bytemuck::bytes_of;
use logit_perturb::CrossEntropy;
use logit_perturb::kernel::{
    ClassSums, Group, GroupList, LearnAddresses, LearnForm, LearnPlan, LearnSequence, LearnWorkspaceSizes, Rule,
    Variant, is_general,
};

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
    /// Lays a batch out in the device's memory. `running` is the momentum of running confidences and what they are, NaN for a class never
    /// seen.
    ///
    /// # Panics
    /// Without a learner.
    pub fn new(
        emulator: &mut Emulator,
        problem: &CrossEntropy,
        batch: &Batch<'_>,
        running: Option<(f64, &[f64])>,
    ) -> Self {
        let learner = problem.learner().expect("a problem with a learner");
        let c = batch.classes;
        let rows = batch.logits.len() / c;
        let general = is_general(problem, false);
        let form = LearnForm { dtype: batch.dtype, classes: c, aligned: is_aligned(batch), general };
        let plan = LearnPlan::new(form, batch.limits);
        let sizes = LearnWorkspaceSizes::of([&plan], rows);
        let laid = Laid::new(emulator, problem, batch, sizes.plain);
        let memory = &mut emulator.memory;
        let rule = Rule::new(learner);
        let outputs = Outputs {
            classes: memory.poisoned(sizes.groups),
            present: memory.poisoned(1),
            tau: memory.poisoned(1),
            delta: memory.poisoned(sizes.groups * c),
            directions: memory.poisoned(sizes.groups),
            steps: memory.poisoned(sizes.groups),
            confidences: memory.poisoned(sizes.groups),
            running: running.map(|(_, values)| memory.upload(values)),
        };
        let own = LearnAddresses {
            order: memory.poisoned::<u32>(rows.max(1)).address(),
            found: memory.upload(&vec![0u64; c + 1]).address(),
            groups: memory.poisoned::<Group>(sizes.groups).address(),
            list: memory.poisoned::<GroupList>(1).address(),
            sums: if rule.mean { memory.upload(&vec![ClassSums::default(); c]).address() } else { 0 },
            scratch: if sizes.scratch > 0 { memory.poisoned::<f32>(sizes.scratch).address() } else { 0 },
            directions: rule.directions.as_ref().map_or(0, |directions| memory.upload(directions).address()),
            steps: rule.steps.as_ref().map_or(0, |steps| memory.upload(steps).address()),
            running: outputs.running.map_or(0, |buffer| buffer.address()),
            classes: outputs.classes.address(),
            present: outputs.present.address(),
            tau: outputs.tau.address(),
            delta: outputs.delta.address(),
            directions_taken: outputs.directions.address(),
            steps_taken: outputs.steps.address(),
            confidences: outputs.confidences.address(),
        };
        let momentum = running.map_or(0.0, |(momentum, _)| momentum);
        let sequence = LearnSequence::new(
            problem,
            (learner, &rule),
            &plan,
            &laid.addresses,
            &own,
            momentum,
            laid.shape,
            laid.values,
        );
        Self { laid, plan, sequence, outputs }
    }

    /// Replaces the labels, as a trainer does between two replays of a graph.
    pub fn set_labels(&self, emulator: &mut Emulator, labels: &[i64]) {
        self.laid.set_labels(emulator, labels);
    }

    /// Launches what the batch takes.
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
