//! Cross-entropy as an operation on the emulated device: what `src/cuda` does on a GPU, from the same plan, launches and parameter structs.

use crate::elements::upload_operand;
use crate::emulator::Emulator;
use crate::fault::Faults;
use crate::memory::Buffer;
use crate::place::Place;
use crate::report::{Report, Traffic};
use crate::statistics::{Statistics, StatisticsBuffers};
use bytemuck::bytes_of;
use logit_perturb::kernel::{
    Addresses, DType, ErrorWord, Form, LabelType, LearnErrorWord, Limits, Plan, Saved, Sequence, Shape,
    StatisticsAddresses, Tally, Totals, Values, Variant, Weights, WorkspaceSizes, is_general,
};
use logit_perturb::{CrossEntropy, Labels, LogitScale, Perturbation};

/// Where rows lie: elements from one to the next, and how far the first lies behind a 16-byte boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Elements from one row's start to the next one's.
    pub stride: usize,
    /// Elements before the first row.
    pub offset: usize,
}

/// Where the gradient goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gradient {
    /// The loss only.
    None,
    /// In place of the logits.
    InPlace,
    /// Into a buffer of its own.
    Into(Rows),
}

/// Numbers beside the logits, dense: in f32, or rounded to the logits' type. On the device, rows lie `stride` elements apart.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Beside<'a> {
    pub data: &'a [f32],
    pub wide: bool,
    pub stride: usize,
}

/// Where a number comes from.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Given<'a> {
    Host(f64),
    Device(f32),
    /// One a row, on the device.
    Rows(&'a [f32]),
}

/// A batch, dense in `logits`, laid out on the device as `rows` says.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// What logits and gradient are made of on the device.
    pub dtype: DType,
    /// `[N, C]`, without gaps; numbers that `dtype` holds.
    pub logits: &'a [f32],
    /// C.
    pub classes: usize,
    /// `[N]`; not looked at where there are soft targets.
    pub labels: Labels<'a>,
    /// `[N, C]`.
    pub soft_targets: Option<Beside<'a>>,
    /// `[N]`.
    pub sample_weights: Option<&'a [f32]>,
    /// `[N, C]`, of a perturbation per sample.
    pub perturbation: Option<Beside<'a>>,
    /// Whether a class matrix is in f32 on the device.
    pub wide_matrix: bool,
    /// The logits' rows on the device.
    pub rows: Rows,
    /// Where the gradient goes.
    pub gradient: Gradient,
    /// Loss first, and the gradient in a launch of its own from what the first saved.
    pub split: bool,
    /// Whether class statistics are asked for.
    pub statistics: bool,
    /// The gradient of the loss.
    pub upstream: Given<'a>,
    /// In place of the problem's divisor.
    pub divisor: Option<Given<'a>>,
    /// The device's limits.
    pub limits: Limits,
}

impl<'a> Batch<'a> {
    /// f32 logits without gaps and hard labels; the gradient in place.
    pub fn new(logits: &'a [f32], classes: usize, labels: Labels<'a>, limits: Limits) -> Self {
        Self {
            dtype: DType::F32,
            logits,
            classes,
            labels,
            soft_targets: None,
            sample_weights: None,
            perturbation: None,
            wide_matrix: true,
            rows: Rows { stride: classes, offset: 0 },
            gradient: Gradient::InPlace,
            split: false,
            statistics: false,
            upstream: Given::Host(1.0),
            divisor: None,
            limits,
        }
    }
}

/// What a batch left.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The reduced loss.
    pub loss: f32,
    /// `[N]`.
    pub loss_rows: Vec<f32>,
    /// `[N]`.
    pub lse: Vec<f32>,
    /// `[N]`.
    pub predictions: Vec<i32>,
    /// Where asked for.
    pub statistics: Option<Statistics>,
    /// `[N, C]`, without gaps; empty for the loss only.
    pub gradient: Vec<f32>,
    /// What the device recorded.
    pub error: ErrorWord,
    /// The first class whose bound, or whose step size, was out of its range, and the bound.
    pub bad_bound: Option<(usize, f32)>,
    /// The plan of the launch that reads the logits first.
    pub plan: Plan,
    /// Accesses to the logits by that launch.
    pub logits_traffic: Traffic,
    /// Accesses to the gradient, where it has a buffer of its own.
    pub gradient_traffic: Option<Traffic>,
    /// Accesses to the logits by the launch of the gradient, where it has one.
    pub split_traffic: Option<Traffic>,
    /// What each launch did.
    pub reports: Vec<Report>,
}

/// The operation with a batch on the device; it may run more than once, as a captured graph does.
pub struct Operation {
    /// One sequence, or that of the loss and that of the gradient.
    sequences: Vec<(Plan, Sequence)>,
    laid: Laid,
}

/// A batch in the device's memory, and where everything is.
pub(crate) struct Laid {
    pub(crate) addresses: Addresses,
    pub(crate) shape: Shape,
    pub(crate) values: Values,
    pub(crate) place: Place,
    outputs: Outputs,
    labels: DeviceLabels,
}

#[derive(Clone, Copy)]
struct Outputs {
    loss: Buffer<f32>,
    loss_rows: Buffer<f32>,
    lse: Buffer<f32>,
    predictions: Buffer<i32>,
    error: Buffer<LearnErrorWord>,
    statistics: Option<StatisticsBuffers>,
}

#[derive(Clone, Copy)]
enum DeviceLabels {
    None,
    I32(Buffer<i32>),
    I64(Buffer<i64>),
    U32(Buffer<u32>),
}

fn to_f32(numbers: &[f64]) -> Vec<f32> {
    numbers.iter().map(|&x| x as f32).collect()
}

/// Whether every row of the logits starts on a 16-byte boundary: buffers themselves do.
pub(crate) fn is_aligned(batch: &Batch<'_>) -> bool {
    let width = batch.dtype.width();
    batch.rows.offset.is_multiple_of(width) && batch.rows.stride.is_multiple_of(width)
}

impl Operation {
    /// Lays a batch out in the device's memory.
    pub fn new(emulator: &mut Emulator, problem: &CrossEntropy, batch: &Batch<'_>) -> Self {
        let general = is_general(problem, batch.soft_targets.is_some());
        let form =
            Form { dtype: batch.dtype, classes: batch.classes, aligned: is_aligned(batch), general, from_saved: false };
        let plan = Plan::new(form, batch.limits);
        let rows = batch.logits.len() / batch.classes;
        let laid = Laid::new(emulator, problem, batch, WorkspaceSizes::of([&plan], rows));
        let at = laid.addresses;
        let sequence = |plan: Plan, at: Addresses| (plan, Sequence::new(problem, &plan, &at, laid.shape, laid.values));
        let sequences = if batch.split {
            let saved = emulator.memory.poisoned::<Saved>(rows.max(1)).address();
            let backward = Plan::new(Form { from_saved: true, ..form }, batch.limits);
            let of_gradient = Addresses {
                from_saved: saved,
                loss: 0,
                loss_rows: 0,
                lse: 0,
                predictions: 0,
                statistics: StatisticsAddresses::default(),
                ..at
            };
            vec![sequence(plan, Addresses { gradient: 0, saved, ..at }), sequence(backward, of_gradient)]
        } else {
            vec![sequence(plan, at)]
        };
        Self { sequences, laid }
    }

    /// Replaces the labels, as a trainer does between two replays of a graph.
    pub fn set_labels(&self, emulator: &mut Emulator, labels: &[i64]) {
        self.laid.set_labels(emulator, labels);
    }

    /// Launches what the batch takes.
    ///
    /// # Errors
    /// Every fault found.
    pub fn run(&self, emulator: &mut Emulator) -> Result<Outcome, Faults> {
        let mut reports = Vec::new();
        let mut mains = Vec::new();
        for (plan, sequence) in &self.sequences {
            if let Some((geometry, args)) = &sequence.tally {
                reports.push(emulator.launch(&Variant::Tally, *geometry, bytes_of(args))?);
            }
            let (geometry, args) = &sequence.main;
            mains.push(reports.len());
            reports.push(emulator.launch(&plan.variant, *geometry, bytes_of(args))?);
            if let Some((geometry, args)) = &sequence.statistics {
                reports.push(emulator.launch(&Variant::ClassStatistics, *geometry, bytes_of(args))?);
            }
        }
        let (first, last) = (&reports[mains[0]], &reports[mains[mains.len() - 1]]);
        let Place { logits, gradient, .. } = self.laid.place;
        let split_traffic = (mains.len() > 1).then(|| last.traffic(logits).clone());
        let (logits_traffic, gradient_traffic) =
            (first.traffic(logits).clone(), gradient.map(|gradient| last.traffic(gradient).clone()));
        let outcome = self.laid.outcome(&emulator.memory, self.sequences[0].0, logits_traffic, gradient_traffic);
        Ok(Outcome { split_traffic, reports, ..outcome })
    }
}

impl Laid {
    /// Lays a batch out, with a workspace of these sizes.
    pub(crate) fn new(
        emulator: &mut Emulator,
        problem: &CrossEntropy,
        batch: &Batch<'_>,
        sizes: WorkspaceSizes,
    ) -> Self {
        let (dtype, c) = (batch.dtype, batch.classes);
        let rows = batch.logits.len() / c;
        let memory = &mut emulator.memory;
        let place = Place::new(memory, dtype, batch.logits, c, batch.rows, batch.gradient);
        let (labels, label_data, label_type) = Self::upload_labels(emulator, batch, rows);
        let memory = &mut emulator.memory;
        let vector = |memory: &mut crate::Memory, numbers: Option<Vec<f32>>| {
            numbers.map_or(0, |numbers| {
                let buffer = memory.upload(&numbers);
                memory.read_only(buffer);
                buffer.address()
            })
        };
        let beside = |memory: &mut crate::Memory, beside: Option<Beside<'_>>, rows: usize| {
            beside.map_or_else(Default::default, |beside| upload_operand(memory, dtype, beside, rows, c))
        };
        let (mut margins, delta) = match problem.perturbation() {
            Perturbation::Shared(delta) => {
                let delta = to_f32(delta);
                (None, beside(memory, Some(Beside { data: &delta, wide: true, stride: 0 }), 1))
            }
            Perturbation::ClassMatrix(matrix) => {
                let matrix = to_f32(matrix);
                (None, beside(memory, Some(Beside { data: &matrix, wide: batch.wide_matrix, stride: c }), c))
            }
            Perturbation::TargetMargin(margins) => (Some(to_f32(margins)), Default::default()),
            _ => (None, beside(memory, batch.perturbation, rows.max(1))),
        };
        let scales = match problem.scale() {
            LogitScale::PerClass(scales) => Some(to_f32(scales)),
            _ => None,
        };
        let statistics = batch.statistics.then(|| StatisticsBuffers::new(memory, c));
        let outputs = Outputs {
            loss: memory.poisoned(1),
            loss_rows: memory.poisoned(rows.max(1)),
            lse: memory.poisoned(rows.max(1)),
            predictions: memory.poisoned(rows.max(1)),
            error: memory.upload(&[LearnErrorWord::default()]),
            statistics,
        };
        let (upstream, upstreams) = match batch.upstream {
            Given::Host(value) => (value, None),
            Given::Device(value) => (f64::NAN, Some(vec![value])),
            Given::Rows(values) => (f64::NAN, Some(values.to_vec())),
        };
        let (divisor, divisor_at) = match batch.divisor {
            Some(Given::Host(value)) => (Some(value), None),
            Some(Given::Device(value)) => (Some(f64::NAN), Some(vec![value])),
            _ => (None, None),
        };
        let addresses = Addresses {
            logits: place.logits.address(),
            gradient: place.gradient_address(),
            labels: label_data,
            targets: beside(memory, batch.soft_targets, rows.max(1)),
            delta,
            margins: vector(memory, margins.take()),
            scales: vector(memory, scales),
            weights: Weights {
                classes: vector(memory, problem.class_weights().map(to_f32)),
                samples: vector(memory, batch.sample_weights.filter(|_| rows > 0).map(<[f32]>::to_vec)),
            },
            upstreams: vector(memory, upstreams.filter(|upstreams| !upstreams.is_empty())),
            divisor_at: vector(memory, divisor_at),
            loss_rows: outputs.loss_rows.address(),
            lse: outputs.lse.address(),
            predictions: outputs.predictions.address(),
            loss: outputs.loss.address(),
            statistics: statistics.map_or_else(Default::default, |buffers| buffers.addresses(memory, c)),
            partials: memory.poisoned::<f64>(sizes.partials).address(),
            tallies: memory.poisoned::<Tally>(sizes.chunks).address(),
            totals: memory.poisoned::<Totals>(1).address(),
            tickets: memory.upload(&[0u32; 3]).address(),
            error: outputs.error.address(),
            ..Addresses::default()
        };
        let shape = Shape {
            rows,
            classes: c,
            logits_stride: batch.rows.stride,
            gradient_stride: place.gradient_stride(),
            label_type,
        };
        let values = Values { upstream, upstream_by_row: matches!(batch.upstream, Given::Rows(_)), divisor };
        Self { addresses, shape, values, place, outputs, labels }
    }

    fn upload_labels(emulator: &mut Emulator, batch: &Batch<'_>, rows: usize) -> (DeviceLabels, u64, LabelType) {
        let memory = &mut emulator.memory;
        if batch.soft_targets.is_some() {
            return (DeviceLabels::None, 0, LabelType::I64);
        }
        assert_eq!(batch.labels.len(), rows, "a label a row");
        let indices = 0..rows.max(1);
        let label = |row: usize| if rows == 0 { 0 } else { batch.labels.get(row) };
        match batch.labels {
            Labels::I32(_) => {
                let buffer = memory.upload(&indices.map(|row| label(row) as i32).collect::<Vec<_>>());
                (DeviceLabels::I32(buffer), buffer.address(), LabelType::I32)
            }
            Labels::U32(_) => {
                let buffer = memory.upload(&indices.map(|row| label(row) as u32).collect::<Vec<_>>());
                (DeviceLabels::U32(buffer), buffer.address(), LabelType::U32)
            }
            _ => {
                let buffer = memory.upload(&indices.map(label).collect::<Vec<_>>());
                (DeviceLabels::I64(buffer), buffer.address(), LabelType::I64)
            }
        }
    }

    pub(crate) fn set_labels(&self, emulator: &mut Emulator, labels: &[i64]) {
        let memory = &mut emulator.memory;
        match self.labels {
            DeviceLabels::None => panic!("targets are soft"),
            DeviceLabels::I32(buffer) => {
                memory.write(buffer, &labels.iter().map(|&label| label as i32).collect::<Vec<_>>());
            }
            DeviceLabels::I64(buffer) => memory.write(buffer, labels),
            DeviceLabels::U32(buffer) => {
                memory.write(buffer, &labels.iter().map(|&label| label as u32).collect::<Vec<_>>());
            }
        }
    }

    /// What launches left.
    pub(crate) fn outcome(
        &self,
        memory: &crate::Memory,
        plan: Plan,
        logits_traffic: Traffic,
        gradient_traffic: Option<Traffic>,
    ) -> Outcome {
        let per_row = |buffer| memory.download::<f32>(buffer)[..self.shape.rows].to_vec();
        let outputs = &self.outputs;
        let statistics = outputs.statistics.map(|buffers| buffers.download(memory));
        Outcome {
            loss: memory.download(outputs.loss)[0],
            loss_rows: per_row(outputs.loss_rows),
            lse: per_row(outputs.lse),
            predictions: memory.download(outputs.predictions)[..self.shape.rows].to_vec(),
            statistics,
            gradient: self.place.download(memory),
            error: memory.download(outputs.error)[0].labels,
            bad_bound: memory.download(outputs.error)[0].bad_bound(self.shape.classes),
            plan,
            logits_traffic,
            gradient_traffic,
            split_traffic: None,
            reports: Vec::new(),
        }
    }
}
