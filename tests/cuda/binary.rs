//! Binary cross-entropy on the device, against an evaluation that shares no code with the crate.

#[allow(dead_code, reason = "what runs on the emulated device is not needed here")]
#[path = "../emulated_binary/case.rs"]
pub(crate) mod case;

use crate::device::Device;
use case::{Case, Format, Numbers, dense};
use libtest_mimic::Failed;
use logit_perturb::cuda::{
    BinaryCrossEntropyOp, BinarySetup, DeviceBinaryBatch, DeviceElement, DeviceMatrix, DeviceMatrixMut, DeviceOperand,
    DevicePass, DeviceScalar, DeviceTargets, DeviceUpstream,
};
use logit_perturb::cudarc::driver::{CudaGraph, CudaSlice, CudaStream, DeviceRepr, sys};
use logit_perturb::half::{bf16, f16};
use logit_perturb::kernel::DType;
use logit_perturb::{BinaryCrossEntropy, BinaryPerturbation, Error, Focusing, Reduction};
use logit_perturb_emulator::{BinaryStatistics, Gradient, Rows};
use std::sync::Arc;

/// Teams of every size, and rows that belong to a block.
const LENGTHS: [usize; 11] = [1, 3, 8, 33, 64, 100, 300, 1000, 1100, 2100, 20_003];

/// What logits are made of.
pub(crate) trait Number: DeviceElement + Copy + PartialEq {
    fn of(x: f32) -> Self;
    fn wide(self) -> f32;
}

impl Number for f32 {
    fn of(x: f32) -> Self {
        x
    }
    fn wide(self) -> f32 {
        self
    }
}

impl Number for f16 {
    fn of(x: f32) -> Self {
        Self::from_f32(x)
    }
    fn wide(self) -> f32 {
        self.to_f32()
    }
}

impl Number for bf16 {
    fn of(x: f32) -> Self {
        Self::from_f32(x)
    }
    fn wide(self) -> f32 {
        self.to_f32()
    }
}

/// Rows inside a larger buffer that holds `filler` everywhere else.
struct Placed<T> {
    buffer: CudaSlice<T>,
    rows: usize,
    columns: usize,
    at: Rows,
}

impl<T: DeviceRepr + Copy + PartialEq> Placed<T> {
    fn new(stream: &Arc<CudaStream>, dense: &[T], columns: usize, at: Rows, filler: T) -> Result<Self, Failed> {
        let rows = dense.len() / columns;
        let mut data = vec![filler; at.offset + rows * at.stride + 8];
        for (i, row) in dense.chunks_exact(columns).enumerate() {
            data[at.offset + i * at.stride..][..columns].copy_from_slice(row);
        }
        Ok(Self { buffer: stream.clone_htod(&data)?, rows, columns, at })
    }

    fn range(&self) -> std::ops::Range<usize> {
        let length = if self.rows == 0 { 0 } else { (self.rows - 1) * self.at.stride + self.columns };
        self.at.offset..self.at.offset + length
    }

    fn view(&self) -> logit_perturb::Result<DeviceMatrix<'_, T>> {
        DeviceMatrix::new(self.buffer.slice(self.range()), self.rows, self.columns, self.at.stride)
    }

    fn view_mut(&mut self) -> logit_perturb::Result<DeviceMatrixMut<'_, T>> {
        let (rows, columns, stride, range) = (self.rows, self.columns, self.at.stride, self.range());
        DeviceMatrixMut::new(self.buffer.slice_mut(range), rows, columns, stride)
    }

    /// The rows without gaps, once everything else is found as it was.
    fn download(&self, stream: &Arc<CudaStream>, filler: impl Fn(&T) -> bool) -> Result<Vec<T>, Failed> {
        let all = stream.clone_dtoh(&self.buffer)?;
        stream.synchronize()?;
        let mut dense = Vec::new();
        for (i, x) in all.iter().enumerate() {
            let place = i.checked_sub(self.at.offset).map(|i| (i / self.at.stride, i % self.at.stride));
            if place.is_some_and(|(row, column)| row < self.rows && column < self.columns) {
                dense.push(*x);
            } else if !filler(x) {
                return Err(format!("element {i} is in no row and was written, {:?}", self.at).into());
            }
        }
        Ok(dense)
    }
}

/// A batch's targets on the device.
enum Targets<T> {
    Single(Placed<f32>),
    Same(Placed<T>),
    I8(Placed<i8>),
    U8(Placed<u8>),
    Bits(Placed<u32>),
    Csr(CudaSlice<i32>, CudaSlice<i32>, usize, usize),
}

/// A batch on the device, but for its logits and its gradient.
struct Beside<T> {
    targets: Targets<T>,
    mask: Option<Placed<u32>>,
    weights: Option<Placed<f32>>,
    upstream: CudaSlice<f32>,
    rows: usize,
}

impl<T: Number> Beside<T> {
    fn new(stream: &Arc<CudaStream>, case: &Case) -> Result<Self, Failed> {
        let (c, at) = (case.classes, case.targets_at);
        let words = c.div_ceil(32);
        let packed = |bits: &[u32]| Placed::new(stream, bits, words, Rows { stride: words + 1, offset: 1 }, u32::MAX);
        let numbers = case.targets.iter();
        let targets = match case.format {
            Format::F32 => Targets::Single(Placed::new(stream, &case.targets, c, at, 9.0)?),
            Format::Same => {
                let narrow: Vec<T> = numbers.map(|&t| T::of(t)).collect();
                Targets::Same(Placed::new(stream, &narrow, c, at, T::of(9.0))?)
            }
            Format::I8 => {
                let bytes: Vec<i8> = numbers.map(|&t| t as i8).collect();
                Targets::I8(Placed::new(stream, &bytes, c, at, 9)?)
            }
            Format::U8 => {
                let bytes: Vec<u8> = numbers.map(|&t| t as u8).collect();
                Targets::U8(Placed::new(stream, &bytes, c, at, 9)?)
            }
            Format::Bits => Targets::Bits(packed(&case.packed(|index| case.targets[index] == 1.0))?),
            Format::Csr => {
                let (offsets, indices) = case.lists();
                let lengths = (offsets.len(), indices.len());
                // One element more: an allocation of none is refused.
                let upload = |list: Vec<i32>| stream.clone_htod(&[list.as_slice(), &[-9]].concat());
                Targets::Csr(upload(offsets)?, upload(indices)?, lengths.0, lengths.1)
            }
        };
        let weights = case.weights.as_deref().map(|data| Placed::new(stream, data, c, dense(c), f32::NAN));
        Ok(Self {
            targets,
            mask: case.mask_words().map(|bits| packed(&bits)).transpose()?,
            weights: weights.transpose()?,
            upstream: stream.clone_htod(&case.upstream)?,
            rows: case.rows(),
        })
    }

    fn batch(&self, case: &Case) -> logit_perturb::Result<DeviceBinaryBatch<'_, T>> {
        let mut batch = DeviceBinaryBatch::new(match &self.targets {
            Targets::Single(data) => DeviceTargets::Dense(DeviceOperand::F32(data.view()?)),
            Targets::Same(data) => DeviceTargets::Dense(DeviceOperand::Same(data.view()?)),
            Targets::I8(data) => DeviceTargets::I8(data.view()?),
            Targets::U8(data) => DeviceTargets::U8(data.view()?),
            Targets::Bits(data) => DeviceTargets::Bits(data.view()?),
            Targets::Csr(offsets, indices, rows, count) => {
                DeviceTargets::Csr { offsets: offsets.slice(..*rows), indices: indices.slice(..*count) }
            }
        });
        if let Some(mask) = &self.mask {
            batch = batch.mask(mask.view()?);
        }
        if let Some(weights) = &self.weights {
            batch = batch.weights(DeviceOperand::F32(weights.view()?));
        }
        Ok(batch.upstream(match case.upstream.len() {
            1 if !case.device_upstream => DeviceUpstream::Scalar(f64::from(case.upstream[0]).into()),
            1 => DeviceUpstream::Scalar(DeviceScalar::Device(self.upstream.slice(..1))),
            _ => DeviceUpstream::Rows(self.upstream.slice(..self.rows)),
        }))
    }
}

pub(crate) fn operation<T: Number>(device: &Device, case: &Case) -> Result<BinaryCrossEntropyOp<T>, Failed> {
    let mut setup = BinarySetup::new(case.classes, case.rows()).loss_rows().lists();
    if case.statistics {
        setup = setup.statistics();
    }
    if case.problem.learner().is_some() {
        setup = setup.learned();
    }
    if case.data_parallel {
        setup = setup.data_parallel();
    }
    Ok(BinaryCrossEntropyOp::new(&device.kernels, &device.stream, &case.problem, setup)?)
}

/// What an operation left of its last batch.
fn numbers<T: Number>(
    stream: &Arc<CudaStream>,
    op: &BinaryCrossEntropyOp<T>,
    case: &Case,
    gradient: Vec<T>,
) -> Result<Numbers, Failed> {
    let mut loss_rows = stream.clone_dtoh(&op.loss_rows().ok_or("no row losses")?)?;
    loss_rows.truncate(case.rows());
    let statistics = op.class_statistics().map(|views| {
        let (count, positives, loss) =
            (stream.clone_dtoh(&views.count)?, stream.clone_dtoh(&views.positives)?, stream.clone_dtoh(&views.loss)?);
        Ok::<_, Failed>(BinaryStatistics { count, positives, loss })
    });
    Ok(Numbers {
        loss: stream.clone_dtoh(&op.loss())?[0],
        loss_rows,
        gradient: gradient.into_iter().map(T::wide).collect(),
        statistics: statistics.transpose()?,
    })
}

/// The first phase of a device's part of a batch.
pub(crate) fn gather(device: &Device, op: &mut BinaryCrossEntropyOp<f32>, case: &Case) -> Result<(), Failed> {
    let stream = &device.stream;
    let logits = Placed::new(stream, &case.logits, case.classes, case.rows_at, -77.0)?;
    let beside = Beside::<f32>::new(stream, case)?;
    Ok(op.enqueue_confidences(logits.view()?, beside.batch(case)?)?)
}

/// Runs a case through an operation.
pub(crate) fn run_through<T: Number>(
    device: &Device,
    op: &mut BinaryCrossEntropyOp<T>,
    case: &Case,
) -> Result<Numbers, Failed> {
    let stream = &device.stream;
    let (c, canary) = (case.classes, T::of(-77.0));
    let narrow: Vec<T> = case.logits.iter().map(|&x| T::of(x)).collect();
    let mut logits = Placed::new(stream, &narrow, c, case.rows_at, canary)?;
    let mut into = match case.gradient {
        Gradient::Into(at) => Some(Placed::new(stream, &vec![canary; narrow.len()], c, at, canary)?),
        Gradient::None | Gradient::InPlace => None,
    };
    let beside = Beside::<T>::new(stream, case)?;
    let pass = match (&mut into, case.gradient) {
        (Some(gradient), _) => DevicePass::Into { logits: logits.view()?, gradient: gradient.view_mut()? },
        (None, Gradient::InPlace) => DevicePass::InPlace(logits.view_mut()?),
        (None, _) => DevicePass::Forward(logits.view()?),
    };
    op.enqueue(pass, beside.batch(case)?)?;
    let is_canary = |x: &T| *x == canary;
    let now = logits.download(stream, is_canary)?;
    let gradient = match &into {
        Some(gradient) => gradient.download(stream, is_canary)?,
        None if case.gradient == Gradient::InPlace => now,
        None => Vec::new(),
    };
    numbers(stream, op, case, gradient)
}

fn run_as<T: Number>(case: &Case) -> Result<Numbers, Failed> {
    let device = Device::get();
    let mut op = operation::<T>(device, case)?;
    let numbers = run_through(device, &mut op, case)?;
    op.check()?;
    Ok(numbers)
}

fn check(case: &Case) -> Result<Numbers, Failed> {
    let numbers = match case.dtype {
        DType::F32 => run_as::<f32>(case),
        DType::F16 => run_as::<f16>(case),
        DType::BF16 => run_as::<bf16>(case),
    }?;
    case.compare_numbers(&numbers);
    Ok(numbers)
}

/// Every format, row length, place and alignment.
pub fn formats_and_places() -> Result<(), Failed> {
    for dtype in DType::ALL {
        for (i, c) in LENGTHS.into_iter().enumerate() {
            for (f, format) in Format::ALL.into_iter().enumerate() {
                let at =
                    [dense(c), Rows { stride: c + 3, offset: 2 }, Rows { stride: c.next_multiple_of(8), offset: 0 }];
                let rows_at = at[(i + f) % 3];
                let mut case = Case::random(dtype, format, c, if c > 10_000 { 3 } else { 40 }, (i + f) as u64);
                if f % 2 == i % 2 {
                    case = case.masked(1).weighted(true, 2);
                }
                (case.rows_at, case.targets_at, case.statistics) = (rows_at, at[i % 3], f % 3 == 0);
                for gradient in [Gradient::None, Gradient::InPlace, Gradient::Into(at[f % 3])] {
                    case.gradient = gradient;
                    check(&case)?;
                }
            }
        }
    }
    Ok(())
}

pub fn options() -> Result<(), Failed> {
    let reductions = [Reduction::Mean, Reduction::Sum, Reduction::None, Reduction::BatchMean, Reduction::Divisor(7.5)];
    let forms = [
        (2.5, None),
        (1.0, Some(Focusing { gamma_pos: 1.5, gamma_neg: 3.0, clip: 0.0 })),
        (1.0, Some(Focusing { gamma_pos: 0.0, gamma_neg: 4.0, clip: 0.05 })),
    ];
    for (i, reduction) in reductions.into_iter().enumerate() {
        for (scale, focusing) in forms {
            for format in [Format::Same, Format::Bits] {
                let c = 100;
                let vector = |f: f64| -> Vec<f64> { (0..c).map(|k| f64::from((k as f64 * f).sin() as f32)).collect() };
                let fixed = BinaryPerturbation::none().offset(vector(0.37)).positive(vector(0.7)).negative(vector(0.5));
                let mut builder = BinaryCrossEntropy::builder().perturbation(fixed).reduction(reduction);
                builder = builder.pos_weight(vector(0.9).iter().map(|x| x.max(0.0)).collect::<Vec<_>>());
                builder = match focusing {
                    Some(focusing) => builder.focusing(focusing),
                    None => builder.negative_scale(scale),
                };
                let mut case = Case::random(DType::ALL[i % 3], format, c, 9, i as u64).masked(3).weighted(true, 4);
                (case.problem, case.statistics) = (builder.build()?, true);
                check(&case)?;
                (case.upstream, case.device_upstream) = (vec![-2.5], true);
                check(&case)?;
                if reduction == Reduction::None {
                    case.upstream = (0..9).map(|row| row as f32 - 3.0).collect();
                    check(&case)?;
                }
            }
        }
    }
    Ok(())
}

/// What is not finite stays in its entry and row; no row, one class, nothing known.
pub fn corners() -> Result<(), Failed> {
    for format in Format::ALL {
        for c in [1, 37, 1100] {
            for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e4] {
                let mut case = Case::random(DType::F32, format, c, 6, 7).weighted(true, 7);
                case.logits[c..2 * c].iter_mut().step_by(3).for_each(|x| *x = value);
                case.statistics = true;
                check(&case)?;
            }
            let mut nothing = Case::random(DType::F32, format, c, 5, 1);
            nothing.mask = Some(vec![false; 5 * c]);
            nothing.logits.fill(f32::NAN);
            check(&nothing)?;
            let mut empty = Case::random(DType::F32, format, c, 0, 1);
            (empty.statistics, empty.gradient) = (true, Gradient::InPlace);
            check(&empty)?;
        }
    }
    Ok(())
}

pub(crate) fn expect_bad<T: Number>(
    op: &mut BinaryCrossEntropyOp<T>,
    expected: Option<(usize, &str)>,
) -> Result<(), Failed> {
    match (op.check(), expected) {
        (Ok(()), None) => Ok(()),
        (Err(Error::Target { row, problem }), Some((at, words))) if row == at && problem.contains(words) => Ok(()),
        (found, expected) => Err(format!("{found:?}, expected {expected:?}").into()),
    }
}

/// A bad target counts as masked, and is kept until it is asked for.
pub fn bad_targets() -> Result<(), Failed> {
    let device = Device::get();
    for format in [Format::F32, Format::I8, Format::U8] {
        for c in [5, 300, 1100] {
            let mut case = Case::random(DType::F32, format, c, 30, 5);
            case.targets.iter_mut().for_each(|t| *t = t.max(0.0));
            let good = case.clone();
            (case.targets[29 * c], case.targets[2 * c + 3]) = (7.0, 9.0);
            let mut op = operation::<f32>(device, &case)?;
            for _ in 0..2 {
                case.compare_numbers(&run_through(device, &mut op, &case)?);
                good.compare_numbers(&run_through(device, &mut op, &good)?);
                expect_bad(&mut op, Some((2, "class 3 is 9, must be in [0, 1]")))?;
                expect_bad(&mut op, None)?;
            }
        }
    }
    Ok(())
}

fn capture(stream: &Arc<CudaStream>, work: impl FnOnce() -> logit_perturb::Result<()>) -> Result<CudaGraph, Failed> {
    stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL)?;
    let done = work();
    // Ended whatever came of the work: an open capture would refuse what the other tests do.
    let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0));
    done?;
    graph?.ok_or_else(|| "the capture gave no graph".into())
}

/// A captured batch whose targets change between replays, after its operation is gone.
pub fn graphs() -> Result<(), Failed> {
    let Device { kernels, stream } = &Device::untracked()?;
    for c in [5, 300, 1100] {
        let mut case = Case::random(DType::F32, Format::I8, c, 20, 3).masked(3);
        let logits = stream.clone_htod(&case.logits)?;
        let mut gradient = stream.clone_htod(&vec![f32::NAN; 20 * c])?;
        let Beside { mut targets, mask, weights, upstream, rows } = Beside::<f32>::new(stream, &case)?;
        let (graph, _held) = {
            let setup = BinarySetup::new(c, 20).statistics();
            let mut op = BinaryCrossEntropyOp::<f32>::new(kernels, stream, &case.problem, setup)?;
            let beside = Beside { targets, mask, weights, upstream, rows };
            let pass = DevicePass::Into {
                logits: DeviceMatrix::new(logits.as_view(), 20, c, c)?,
                gradient: DeviceMatrixMut::new(gradient.as_view_mut(), 20, c, c)?,
            };
            let graph = capture(stream, || op.enqueue(pass, beside.batch(&case)?))?;
            targets = beside.targets;
            // The mask lives as long as the graph.
            (graph, (op.captured_workspace(), beside.mask))
        };
        let Targets::I8(on_device) = &mut targets else { return Err("the targets are bytes".into()) };
        for seed in 4..7 {
            graph.launch()?;
            let found = Numbers { gradient: stream.clone_dtoh(&gradient)?, ..Numbers::default() };
            let expected = case.expected();
            for (i, (&found, expected)) in found.gradient.iter().zip(expected.gradient).enumerate() {
                if (f64::from(found) - expected).abs() > 1e-6 {
                    return Err(format!("{c} classes: gradient [{i}] {found}, expected {expected}").into());
                }
            }
            case.targets = Case::random(DType::F32, Format::I8, c, 20, seed).targets;
            let bytes: Vec<i8> = case.targets.iter().map(|&t| t as i8).collect();
            let range = on_device.range();
            stream.memcpy_htod(&bytes, &mut on_device.buffer.slice_mut(range))?;
        }
    }
    Ok(())
}

/// What can be seen to be wrong before a launch is an error there, and the operation works on.
pub fn errors() -> Result<(), Failed> {
    let device = Device::get();
    let stream = &device.stream;
    let case = Case::random(DType::F32, Format::I8, 40, 9, 1);
    let setup = BinarySetup::new(40, 9).loss_rows();
    let mut op = BinaryCrossEntropyOp::<f32>::new(&device.kernels, stream, &case.problem, setup)?;
    let floats = stream.clone_htod(&vec![0f32; 2000])?;
    let bytes = stream.clone_htod(&vec![0i8; 2000])?;
    let words = stream.clone_htod(&vec![0u32; 2000])?;
    let list = stream.clone_htod(&vec![0i32; 2000])?;
    let floats = |rows: usize, c: usize| DeviceMatrix::new(floats.slice(..rows * c), rows, c, c);
    let bits = |rows: usize, c: usize| DeviceMatrix::new(words.slice(..rows * c), rows, c, c);
    let good = || {
        DeviceMatrix::new(bytes.slice(..360), 9, 40, 40).map(|matrix| DeviceBinaryBatch::new(DeviceTargets::I8(matrix)))
    };
    let weights = |rows, c| floats(rows, c).map(DeviceOperand::F32);
    let rows = stream.clone_htod(&[1f32; 9])?;
    let csr = |rows: usize| DeviceTargets::Csr { offsets: list.slice(..rows + 1), indices: list.slice(..5) };
    let cases: [(DeviceMatrix<'_, f32>, DeviceBinaryBatch<'_, f32>, &str); 14] = [
        (floats(9, 41)?, good()?, "columns"),
        (floats(10, 40)?, good()?, "at most the 9 prepared"),
        (floats(8, 40)?, good()?, "targets"),
        (floats(9, 40)?, good()?.mask(bits(9, 3)?), "mask"),
        (floats(9, 40)?, good()?.weights(weights(9, 39)?), "weights"),
        (floats(9, 40)?, DeviceTargets::Bits(bits(9, 40)?).into(), "targets"),
        (floats(9, 40)?, csr(9).into(), "lists"),
        (floats(9, 40)?, good()?.divisor(2.0), "divisor"),
        (floats(9, 40)?, good()?.upstream(DeviceUpstream::Scalar(f64::NAN.into())), "upstream"),
        (floats(9, 40)?, good()?.upstream(DeviceUpstream::Rows(rows.as_view())), "upstream a row"),
        (floats(9, 40)?, good()?.pos_weight(rows.as_view()), "pos_weight"),
        (floats(9, 40)?, good()?.offset(rows.as_view()), "offset"),
        (floats(9, 40)?, good()?.positive(rows.as_view()), "positive"),
        (floats(9, 40)?, good()?.negative(rows.as_view()), "negative"),
    ];
    for (logits, batch, about) in cases {
        match op.enqueue(DevicePass::Forward(logits), batch) {
            Err(error) if error.to_string().contains(about) => {}
            other => return Err(format!("{other:?}, expected an error about {about}").into()),
        }
    }
    op.check()?;
    case.compare_numbers(&run_through(device, &mut op, &case)?);
    Ok(())
}
