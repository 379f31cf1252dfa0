//! Cross-entropy as an operation on the emulated device: what `src/cuda` does on a GPU, from the same plan, launches and parameter structs.

use crate::emulator::Emulator;
use crate::fault::Faults;
use crate::memory::{Buffer, Layout};
use crate::report::{Report, Traffic};
use bytemuck::bytes_of;
use logit_perturb::kernel::{Addresses, ErrorWord, LabelType, Limits, Plan, Sequence, Shape, Variant, WorkspaceSizes};
use logit_perturb::{CrossEntropy, Labels, Perturbation};

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

/// A batch of f32 logits, dense in `logits`, laid out on the device as `rows` says.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// `[N, C]`, without gaps.
    pub logits: &'a [f32],
    /// C.
    pub classes: usize,
    /// `[N]`.
    pub labels: Labels<'a>,
    /// The logits' rows on the device.
    pub rows: Rows,
    /// Where the gradient goes.
    pub gradient: Gradient,
    /// The gradient of the loss.
    pub upstream: f64,
    /// The device's limits.
    pub limits: Limits,
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
    /// `[N, C]`, without gaps; empty for the loss only.
    pub gradient: Vec<f32>,
    /// What the device recorded.
    pub error: ErrorWord,
    /// The plan.
    pub plan: Plan,
    /// Accesses to the logits, over all launches of the last run.
    pub logits_traffic: Traffic,
    /// Accesses to the gradient, where it has a buffer of its own.
    pub gradient_traffic: Option<Traffic>,
    /// What each launch did.
    pub reports: Vec<Report>,
}

/// The operation with a batch on the device; it may run more than once, as a captured graph does.
pub struct Operation {
    sequence: Sequence,
    plan: Plan,
    logits: Buffer<f32>,
    gradient: Option<Buffer<f32>>,
    in_place: bool,
    rows: usize,
    outputs: [Buffer<f32>; 3],
    error: Buffer<u64>,
    labels: DeviceLabels,
}

#[derive(Clone, Copy)]
enum DeviceLabels {
    I32(Buffer<i32>),
    I64(Buffer<i64>),
    U32(Buffer<u32>),
}

impl Operation {
    /// Lays a batch out in the device's memory.
    pub fn new(emulator: &mut Emulator, problem: &CrossEntropy, batch: &Batch<'_>) -> Self {
        let rows = batch.labels.len();
        let memory = &mut emulator.memory;
        let layout =
            |rows_at: Rows| Layout::dense(rows.max(1), batch.classes).stride(rows_at.stride).offset(rows_at.offset);
        let logits = match rows {
            0 => memory.poisoned_rows(layout(batch.rows)),
            _ => memory.upload_rows(batch.logits, layout(batch.rows)),
        };
        memory.watch(logits);
        let gradient = match batch.gradient {
            Gradient::Into(rows_at) => Some(memory.poisoned_rows::<f32>(layout(rows_at))),
            Gradient::None | Gradient::InPlace => None,
        };
        if let Some(gradient) = gradient {
            memory.watch(gradient);
        }
        if batch.gradient != Gradient::InPlace {
            memory.read_only(logits);
        }
        let row_indices = 0..rows.max(1);
        let label = |row: usize| if rows == 0 { 0 } else { batch.labels.get(row) };
        let (labels, label_data, label_type) = match batch.labels {
            Labels::I32(_) => {
                let buffer = memory.upload(&row_indices.map(|row| label(row) as i32).collect::<Vec<_>>());
                (DeviceLabels::I32(buffer), buffer.address(), LabelType::I32)
            }
            Labels::U32(_) => {
                let buffer = memory.upload(&row_indices.map(|row| label(row) as u32).collect::<Vec<_>>());
                (DeviceLabels::U32(buffer), buffer.address(), LabelType::U32)
            }
            _ => {
                let buffer = memory.upload(&row_indices.map(label).collect::<Vec<_>>());
                (DeviceLabels::I64(buffer), buffer.address(), LabelType::I64)
            }
        };
        let delta = match problem.perturbation() {
            Perturbation::Shared(delta) => {
                memory.upload(&delta.iter().map(|&x| x as f32).collect::<Vec<_>>()).address()
            }
            _ => 0,
        };
        let aligned = logits.address().is_multiple_of(16) && batch.rows.stride.is_multiple_of(4);
        let plan = Plan::new(batch.classes, aligned, batch.gradient != Gradient::None, batch.limits);
        let sizes = WorkspaceSizes::of([&plan], rows);
        let outputs = [rows.max(1), rows.max(1), 1].map(|length| memory.poisoned::<f32>(length));
        let error = memory.upload(&[0u64; 3]);
        let addresses = Addresses {
            logits: logits.address(),
            gradient: match batch.gradient {
                Gradient::None => 0,
                Gradient::InPlace => logits.address(),
                Gradient::Into(_) => gradient.expect("made above").address(),
            },
            labels: label_data,
            delta,
            loss_rows: outputs[0].address(),
            lse: outputs[1].address(),
            loss: outputs[2].address(),
            partials: memory.poisoned::<f64>(sizes.partials).address(),
            tallies: memory.poisoned::<u64>(3 * sizes.chunks).address(),
            valid_rows: memory.poisoned::<u64>(1).address(),
            tickets: memory.upload(&[0u32; 2]).address(),
            error: error.address(),
        };
        let gradient_stride = match batch.gradient {
            Gradient::Into(rows_at) => rows_at.stride,
            Gradient::None | Gradient::InPlace => batch.rows.stride,
        };
        let shape =
            Shape { rows, classes: batch.classes, logits_stride: batch.rows.stride, gradient_stride, label_type };
        let sequence = Sequence::new(problem, &plan, &addresses, shape, batch.upstream);
        let in_place = batch.gradient == Gradient::InPlace;
        Self { sequence, plan, logits, gradient, in_place, rows, outputs, error, labels }
    }

    /// Replaces the labels, as a trainer does between two replays of a graph.
    pub fn set_labels(&self, emulator: &mut Emulator, labels: &[i64]) {
        match self.labels {
            DeviceLabels::I32(buffer) => {
                emulator.memory.write(buffer, &labels.iter().map(|&label| label as i32).collect::<Vec<_>>());
            }
            DeviceLabels::I64(buffer) => emulator.memory.write(buffer, labels),
            DeviceLabels::U32(buffer) => {
                emulator.memory.write(buffer, &labels.iter().map(|&label| label as u32).collect::<Vec<_>>());
            }
        }
    }

    /// Launches what the batch takes.
    ///
    /// # Errors
    /// Every fault found.
    pub fn run(&self, emulator: &mut Emulator) -> Result<Outcome, Faults> {
        let mut reports = Vec::new();
        if let Some((geometry, args)) = &self.sequence.tally {
            reports.push(emulator.launch(&Variant::Tally, *geometry, bytes_of(args))?);
        }
        let (geometry, args) = &self.sequence.main;
        let report = emulator.launch(&self.plan.variant, *geometry, bytes_of(args))?;
        let memory = &emulator.memory;
        let gradient = if self.in_place { Some(self.logits) } else { self.gradient };
        let [loss_rows, lse, loss] = self.outputs.map(|buffer| memory.download(buffer));
        let outcome = Outcome {
            loss: loss[0],
            loss_rows: loss_rows[..self.rows].to_vec(),
            lse: lse[..self.rows].to_vec(),
            gradient: gradient.map_or_else(Vec::new, |gradient| memory.download(gradient)),
            error: bytemuck::pod_read_unaligned(bytemuck::cast_slice(&memory.download(self.error))),
            plan: self.plan,
            logits_traffic: report.traffic(self.logits).clone(),
            gradient_traffic: self.gradient.map(|gradient| report.traffic(gradient).clone()),
            reports: Vec::new(),
        };
        reports.push(report);
        Ok(Outcome { reports, ..outcome })
    }
}
