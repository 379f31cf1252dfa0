//! Binary cross-entropy as an operation on the emulated device: what `src/cuda` does on a GPU, from the same plan, launches and parameter
//! structs.

use crate::binary_learn_operation::{LearnedBinary, LearnedBuffers};
use crate::elements::{upload, upload_operand};
use crate::emulator::Emulator;
use crate::fault::Faults;
use crate::memory::{Buffer, Layout, Memory};
use crate::operation::{Beside, Given, Gradient, Rows};
use crate::place::Place;
use crate::report::{Report, Traffic};
use bytemuck::{Pod, bytes_of};
use logit_perturb::BinaryCrossEntropy;
use logit_perturb::kernel::binary::{
    BadTargets, BinaryAddresses, BinaryLearning, BinaryPlan, BinarySequence, BinaryShape, BinaryValues,
    BinaryWorkspaceSizes, TargetErrors, TargetFormat, TargetSource,
};
use logit_perturb::kernel::{DType, Limits, Operand, Variant};

/// Multi-label targets, dense here; on the device, rows lie as far apart as is said.
#[derive(Clone, Copy, Debug)]
pub enum DeviceTargets<'a> {
    /// `[N, C]`, in f32 or the logits' type.
    Floats(Beside<'a>),
    /// `[N, C]`.
    I8(&'a [i8], Rows),
    /// `[N, C]`.
    U8(&'a [u8], Rows),
    /// `[N, ceil(C / 32)]`.
    Bits(&'a [u32], Rows),
    /// Lists of classes.
    Csr {
        /// `[N + 1]`.
        offsets: &'a [i32],
        /// The lists, one behind the other.
        indices: &'a [i32],
    },
}

/// A packed mask `[N, ceil(C / 32)]`, dense here.
#[derive(Clone, Copy, Debug)]
pub struct PackedMask<'a> {
    /// The words.
    pub words: &'a [u32],
    /// Words from row to row on the device.
    pub stride: usize,
}

/// A multi-label batch, dense in `logits`, laid out on the device as `rows` says.
#[derive(Clone, Copy, Debug)]
pub struct BinaryBatch<'a> {
    /// What logits and gradient are made of on the device.
    pub dtype: DType,
    /// `[N, C]`, without gaps; numbers that `dtype` holds.
    pub logits: &'a [f32],
    /// C.
    pub classes: usize,
    /// What the rows are compared with.
    pub targets: DeviceTargets<'a>,
    /// Which entries are known.
    pub mask: Option<PackedMask<'a>>,
    /// `[N, C]`.
    pub weights: Option<Beside<'a>>,
    /// The logits' rows on the device.
    pub rows: Rows,
    /// Where the gradient goes.
    pub gradient: Gradient,
    /// Whether class statistics are asked for.
    pub statistics: bool,
    /// The gradient of the loss.
    pub upstream: Given<'a>,
    /// In place of the problem's divisor.
    pub divisor: Option<Given<'a>>,
    /// Whether confidences are gathered in a phase of their own.
    pub data_parallel: bool,
    /// The device's limits.
    pub limits: Limits,
}

/// Class statistics, `[C]` each.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "as in kernels/binary_class_statistics.cu")]
pub struct BinaryStatistics {
    pub count: Vec<u64>,
    pub positives: Vec<f64>,
    pub loss: Vec<f64>,
}

/// What a batch left.
#[derive(Clone, Debug)]
pub struct BinaryOutcome {
    /// The reduced loss.
    pub loss: f32,
    /// `[N]`.
    pub loss_rows: Vec<f32>,
    /// `[N, C]`, without gaps; empty for the loss only.
    pub gradient: Vec<f32>,
    /// Where asked for.
    pub statistics: Option<BinaryStatistics>,
    /// What was learned, where there is a learner.
    pub learned: Option<LearnedBinary>,
    /// What the device recorded.
    pub errors: TargetErrors,
    /// Whether everything that is to be 0 between launches is.
    pub idle: bool,
    /// The plan.
    pub plan: BinaryPlan,
    /// Accesses of the main kernel to the logits.
    pub logits_traffic: Traffic,
    /// Accesses of the main kernel to the gradient, where it has a buffer of its own.
    pub gradient_traffic: Option<Traffic>,
    /// Accesses to the targets by the first kernel that reads them: of lists, to their indices.
    pub targets_traffic: Traffic,
    /// Accesses of the main kernel to the targets, where they are no lists.
    pub main_targets_traffic: Option<Traffic>,
    /// Names of the kernels launched.
    pub launches: Vec<String>,
    /// What each launch did.
    pub reports: Vec<Report>,
}

/// What must be as it was between launches.
#[derive(Clone, Copy)]
struct Scratch {
    tickets: Buffer<u32>,
    found: Buffer<BadTargets>,
    known: Buffer<u64>,
    counting: Buffer<u64>,
    sums: Buffer<u64>,
    met: Buffer<u32>,
}

impl Scratch {
    fn is_idle(&self, memory: &Memory) -> bool {
        let is_0 = |buffer| memory.download::<u64>(buffer).iter().all(|&x| x == 0);
        let small = [self.tickets, self.met].map(|buffer| memory.download(buffer).iter().all(|&x| x == 0));
        let found = memory.download(self.found)[0] == BadTargets::NONE;
        found && small == [true; 2] && is_0(self.counting) && is_0(self.sums) && memory.download(self.known)[1] == 0
    }
}

/// The operation with a batch on the device; it may run more than once, as a captured graph does.
pub struct BinaryOperation {
    sequence: BinarySequence,
    plan: BinaryPlan,
    place: Place,
    rows: usize,
    loss: Buffer<f32>,
    loss_rows: Buffer<f32>,
    statistics: Option<(Buffer<u64>, Buffer<f64>, Buffer<f64>)>,
    learned: Option<LearnedBuffers>,
    errors: Buffer<TargetErrors>,
    targets: Buffer<u8>,
    is_list: bool,
    scratch: Scratch,
}

fn read_only<T>(memory: &mut Memory, buffer: Buffer<T>) -> u64 {
    memory.read_only(buffer);
    buffer.address()
}

/// A read-only vector; one of no element has one that must not be read.
fn vector<T: Pod>(memory: &mut Memory, numbers: &[T]) -> Buffer<T> {
    let buffer = if numbers.is_empty() { memory.poisoned(1) } else { memory.upload(numbers) };
    memory.read_only(buffer);
    buffer
}

/// Read-only rows of `columns` elements.
fn matrix<T: Pod>(memory: &mut Memory, data: &[T], columns: usize, at: Rows) -> Buffer<T> {
    let layout = Layout::dense((data.len() / columns).max(1), columns).stride(at.stride).offset(at.offset);
    let buffer = if data.is_empty() { memory.poisoned_rows(layout) } else { memory.upload_rows(data, layout) };
    memory.read_only(buffer);
    buffer
}

fn class_vector(memory: &mut Memory, numbers: Option<Vec<f64>>) -> u64 {
    let single = numbers.map(|numbers| numbers.into_iter().map(|x| x as f32).collect::<Vec<_>>());
    single.map_or(0, |single| vector(memory, &single).address())
}

impl BinaryOperation {
    /// Lays a batch out in the device's memory.
    pub fn new(emulator: &mut Emulator, problem: &BinaryCrossEntropy, batch: &BinaryBatch<'_>) -> Self {
        let (dtype, c) = (batch.dtype, batch.classes);
        let rows = batch.logits.len() / c;
        let memory = &mut emulator.memory;
        let place = Place::new(memory, dtype, batch.logits, c, batch.rows, batch.gradient);
        let words = c.div_ceil(32);
        let mut list_offsets = 0;
        let dense = |format, stride| TargetSource::Dense { format, stride };
        let (targets, source) = match batch.targets {
            DeviceTargets::Floats(beside) => {
                let wide = beside.wide || dtype == DType::F32;
                let format = if wide { TargetFormat::F32 } else { TargetFormat::Element };
                let numbers = (rows > 0).then_some(beside.data);
                let layout = Layout::dense(rows.max(1), c).stride(beside.stride);
                let buffer = upload(memory, if wide { DType::F32 } else { dtype }, numbers, layout);
                memory.read_only(buffer);
                (buffer, dense(format, beside.stride))
            }
            DeviceTargets::I8(data, at) => (matrix(memory, data, c, at).bytes(), dense(TargetFormat::I8, at.stride)),
            DeviceTargets::U8(data, at) => (matrix(memory, data, c, at).bytes(), dense(TargetFormat::U8, at.stride)),
            DeviceTargets::Bits(data, at) => {
                (matrix(memory, data, words, at).bytes(), dense(TargetFormat::Bits, at.stride))
            }
            DeviceTargets::Csr { offsets, indices } => {
                list_offsets = vector(memory, offsets).address();
                (vector(memory, indices).bytes(), TargetSource::Lists { indices: indices.len() })
            }
        };
        memory.watch(targets);
        let is_list = matches!(source, TargetSource::Lists { .. });
        let perturbation = problem.perturbation();
        let part = |which: fn((f64, f64, f64)) -> f64| -> Option<Vec<f64>> {
            let numbers = problem.classes().map(|c| (0..c).map(|class| which(perturbation.at(class))).collect());
            numbers.filter(|numbers: &Vec<f64>| numbers.iter().any(|&x| x != 0.0))
        };
        let plan = BinaryPlan::new(c, dtype, problem.focusing().is_some(), batch.limits);
        let sizes = BinaryWorkspaceSizes::of(&plan, rows);
        let scratch = Scratch {
            tickets: memory.upload(&[0u32; 3]),
            found: memory.upload(&[BadTargets::NONE]),
            known: memory.upload(&[u64::MAX, 0]),
            counting: memory.upload(&vec![0u64; c]),
            sums: memory.upload(&vec![0u64; 4 * c]),
            met: memory.upload(&vec![0u32; c]),
        };
        let statistics = batch.statistics.then(|| (memory.poisoned(c), memory.poisoned(c), memory.poisoned(c)));
        let (loss, loss_rows) = (memory.poisoned(1), memory.poisoned(rows.max(1)));
        let errors = memory.upload(&[TargetErrors::default()]);
        let given = |memory: &mut Memory, given: Option<Given<'_>>| match given {
            Some(Given::Device(number)) => vector(memory, &[number]).address(),
            Some(Given::Rows(numbers)) => vector(memory, numbers).address(),
            Some(Given::Host(_)) | None => 0,
        };
        let positive = class_vector(memory, part(|(_, positive, _)| positive));
        let negative = class_vector(memory, part(|(_, _, negative)| negative));
        let learned = problem.learner().map(|learner| {
            let fixed = [positive, negative];
            LearnedBuffers::new(memory, learner, (c, dtype, batch.limits), fixed, batch.data_parallel)
        });
        let at = BinaryAddresses {
            logits: place.logits.address(),
            gradient: place.gradient_address(),
            targets: if is_list { list_offsets } else { targets.address() },
            indices: if is_list { targets.address() } else { 0 },
            mask: batch.mask.map_or(0, |mask| {
                let buffer = matrix(memory, mask.words, words, Rows { stride: mask.stride, offset: 0 });
                read_only(memory, buffer)
            }),
            weights: batch
                .weights
                .map_or_else(Operand::default, |weights| upload_operand(memory, dtype, weights, rows.max(1), c)),
            offset: class_vector(memory, part(|(offset, _, _)| offset)),
            positive,
            negative,
            pos_weight: class_vector(memory, problem.pos_weight().map(<[f64]>::to_vec)),
            upstream: given(memory, Some(batch.upstream)),
            divisor: given(memory, batch.divisor),
            loss_rows: loss_rows.address(),
            loss: loss.address(),
            class_count: statistics.map_or(0, |(count, ..): (Buffer<u64>, _, _)| count.address()),
            class_positives: statistics.map_or(0, |(_, positives, _): (_, Buffer<f64>, _)| positives.address()),
            class_loss: statistics.map_or(0, |(.., loss): (_, _, Buffer<f64>)| loss.address()),
            class_counting: scratch.counting.address(),
            class_sums: scratch.sums.address(),
            class_met: scratch.met.address(),
            partials: memory.poisoned::<f64>(sizes.partials).address(),
            decoded: if is_list { memory.poisoned::<u32>(2 * sizes.words).address() } else { 0 },
            known: scratch.known.address(),
            tickets: scratch.tickets.address(),
            found: scratch.found.address(),
            errors: errors.address(),
        };
        let shape = BinaryShape {
            rows,
            classes: c,
            logits_stride: batch.rows.stride,
            gradient_stride: place.gradient_stride(),
            targets: source,
            mask_stride: batch.mask.map_or(0, |mask| mask.stride),
            upstream_rows: matches!(batch.upstream, Given::Rows(_)),
        };
        let divisor = if let Some(Given::Host(divisor)) = batch.divisor { Some(divisor) } else { None };
        let upstream = if let Given::Host(upstream) = batch.upstream { upstream } else { f64::NAN };
        let learning = learned.as_ref().map(|LearnedBuffers { rule, plan, at, .. }| BinaryLearning { rule, plan, at });
        let values = BinaryValues { upstream, divisor };
        let sequence = BinarySequence::new(problem, &plan, learning, &at, shape, values);
        Self { sequence, plan, place, rows, loss, loss_rows, statistics, learned, errors, targets, is_list, scratch }
    }

    /// Replaces the targets, of lists their indices, as a trainer does between two replays of a graph.
    pub fn set_targets<T: Pod>(&self, emulator: &mut Emulator, targets: &[T]) {
        emulator.memory.write(self.targets, bytemuck::cast_slice(targets));
    }

    fn gathered(&self) -> (Buffer<u64>, Buffer<f64>) {
        self.learned.as_ref().and_then(|learned| learned.gathered).expect("a batch that is spread over devices")
    }

    /// The first phase of a batch that is spread over devices: how often each class and sign occurs, and the sums of its confidences, positives
    /// first.
    ///
    /// # Errors
    /// Every fault found.
    ///
    /// # Panics
    /// Where the batch is not laid out for it.
    pub fn gather(&self, emulator: &mut Emulator) -> Result<(Vec<u64>, Vec<f64>), Faults> {
        let dtype = self.plan.dtype;
        if let Some((geometry, args)) = &self.sequence.decode {
            emulator.launch(&Variant::DecodeTargets { dtype }, *geometry, bytes_of(args))?;
        }
        if let Some((geometry, args)) = self.sequence.learn.as_ref().and_then(|learn| learn.gather.as_ref()) {
            emulator.launch(&Variant::BinaryConfidences { dtype }, *geometry, bytes_of(args))?;
        }
        let (counts, sums) = self.gathered();
        Ok((emulator.memory.download(counts), emulator.memory.download(sums)))
    }

    /// What the devices' rows add up to, before the second phase.
    ///
    /// # Panics
    /// As [`gather`](Self::gather).
    pub fn set_gathered(&self, emulator: &mut Emulator, counts: &[u64], sums: &[f64]) {
        let (all_counts, all_sums) = self.gathered();
        emulator.memory.write(all_counts, counts);
        emulator.memory.write(all_sums, sums);
    }

    /// The same where nobody asked for what is learned: that part of an outcome means nothing then.
    #[must_use]
    pub fn unasked(mut self) -> Self {
        if let Some(learn) = &mut self.sequence.learn {
            let confidences = learn.confidences.as_mut().map(|(_, args)| &mut args.learner);
            let steps = learn.steps.as_mut().map(|(_, args)| &mut args.learner);
            for to in confidences.into_iter().chain(steps).flat_map(|learner| &mut learner.outputs) {
                (to.delta, to.directions, to.steps, to.confidences, to.tau) = (0, 0, 0, 0, 0);
            }
        }
        self
    }

    /// Launches what the batch takes; of one that is spread over devices, the second phase.
    ///
    /// # Errors
    /// Every fault found.
    pub fn run(&self, emulator: &mut Emulator) -> Result<BinaryOutcome, Faults> {
        let (mut reports, mut launches) = (Vec::new(), Vec::new());
        let mut launch = |variant: Variant, geometry, args: &[u8]| {
            launches.push(variant.name());
            emulator.launch(&variant, geometry, args).map(|report| reports.push(report))
        };
        let dtype = self.plan.dtype;
        let spread = self.learned.as_ref().is_some_and(|learned| learned.gathered.is_some());
        if let Some((geometry, args)) = self.sequence.decode.as_ref().filter(|_| !spread) {
            launch(Variant::DecodeTargets { dtype }, *geometry, bytes_of(args))?;
        }
        if let (Some(learned), Some(sequence)) = (&self.learned, &self.sequence.learn) {
            if let Some((geometry, args)) = &sequence.confidences {
                launch(learned.plan.confidences_variant(), *geometry, bytes_of(args))?;
            }
            if let Some((geometry, args)) = &sequence.steps {
                launch(learned.plan.steps_variant(), *geometry, bytes_of(args))?;
            }
        }
        if let Some((geometry, args)) = &self.sequence.statistics {
            launch(Variant::BinaryClassStatistics { dtype }, *geometry, bytes_of(args))?;
        }
        let (geometry, args) = &self.sequence.main;
        launch(self.plan.variant(), *geometry, bytes_of(args))?;
        let (memory, main) = (&emulator.memory, reports.len() - 1);
        let statistics = self.statistics.map(|(count, positives, loss)| BinaryStatistics {
            count: memory.download(count),
            positives: memory.download(positives),
            loss: memory.download(loss),
        });
        Ok(BinaryOutcome {
            loss: memory.download(self.loss)[0],
            loss_rows: memory.download(self.loss_rows)[..self.rows].to_vec(),
            gradient: self.place.download(memory),
            statistics,
            learned: self.learned.as_ref().map(|learned| {
                let by_learner = ["binary_confidences", "learn_binary_cross_entropy"];
                let launched = launches.iter().zip(&reports);
                let of_learner = launched.filter(|(name, _)| by_learner.iter().any(|kernel| name.starts_with(kernel)));
                let traffic = of_learner.map(|(_, report): (_, &Report)| report.traffic(self.place.logits).clone());
                learned.download(memory, traffic.collect())
            }),
            errors: memory.download(self.errors)[0],
            idle: self.scratch.is_idle(memory) && self.learned.as_ref().is_none_or(|learned| learned.is_idle(memory)),
            plan: self.plan,
            logits_traffic: reports[main].traffic(self.place.logits).clone(),
            gradient_traffic: self.place.gradient.map(|gradient| reports[main].traffic(gradient).clone()),
            targets_traffic: reports[0].traffic(self.targets).clone(),
            main_targets_traffic: (!self.is_list).then(|| reports[main].traffic(self.targets).clone()),
            launches,
            reports,
        })
    }
}
