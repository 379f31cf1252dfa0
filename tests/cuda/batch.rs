//! Batches: run on the device, compared with the f64 reference at the accuracy of SPEC 6.

use crate::device::{Device, Placed, Tested, download, poison, upload, written};
use libtest_mimic::Failed;
use logit_perturb::cuda::{
    CrossEntropyOp, DeviceBatch, DeviceLabels, DeviceOperand, DevicePass, DeviceScalar, DeviceUpstream, Outputs, Setup,
};
use logit_perturb::cudarc::driver::{CudaSlice, CudaStream};
use logit_perturb::{CrossEntropy, Perturbation, Reduction};
use logit_perturb_cases::{Case, Precision, Problem, Tensor, Values, compare, evaluate_cpu};
use logit_perturb_emulator::{Gradient, Rows, Statistics};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Numbers that a batch brings beside its logits: in f32 on the device, or in the logits' type.
#[derive(Clone)]
pub struct Beside {
    pub data: Vec<f32>,
    pub wide: bool,
}

/// A number that the host gives, or that lies on the device.
#[derive(Clone)]
pub enum Given {
    Host(f64),
    Device(f32),
    /// One a row, on the device.
    Rows(Vec<f32>),
}

/// A batch on the host, its rows without gaps.
#[derive(Clone)]
pub struct Batch {
    pub problem: CrossEntropy,
    pub classes: usize,
    pub logits: Vec<f32>,
    pub labels: Vec<i64>,
    /// In place of the labels.
    pub soft_targets: Option<Beside>,
    pub sample_weights: Option<Vec<f32>>,
    /// In place of the problem's.
    pub class_weights: Option<Vec<f32>>,
    /// The same: the vector of a shared perturbation or of margins.
    pub vector: Option<Vec<f32>>,
    /// The same: a class matrix. Or the perturbation per sample.
    pub matrix: Option<Beside>,
    /// The same.
    pub divisor: Option<Given>,
    pub upstream: Given,
}

/// What a batch gave; lists are empty where they were not asked for.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub loss: Vec<f32>,
    pub loss_rows: Vec<f32>,
    pub lse: Vec<f32>,
    pub predictions: Vec<i32>,
    pub statistics: Option<Statistics>,
    pub gradient: Vec<f32>,
    /// The gradient's type, where it is not f32.
    pub half: Option<logit_perturb::DType>,
}

/// Rows without gaps.
pub fn dense(classes: usize) -> Rows {
    Rows { stride: classes, offset: 0 }
}

/// All outputs that a row has.
pub fn row_outputs() -> Outputs {
    Outputs::default().loss_rows().lse().predictions()
}

pub fn uniform(seed: u64, count: usize, range: std::ops::Range<f32>) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..count).map(|_| rng.random_range(range.clone())).collect()
}

/// The nearest numbers of a type.
pub fn rounded<T: Tested>(data: &[f32]) -> Vec<f32> {
    data.iter().map(|&x| T::round(x.into()).widen() as f32).collect()
}

pub fn wide(data: &[f32]) -> Vec<f64> {
    data.iter().map(|&x| x.into()).collect()
}

impl Beside {
    /// Between -1 and 1, or between 0 and 1; all of them numbers of `T`.
    pub fn random<T: Tested>(seed: u64, count: usize, signed: bool, wide: bool) -> Self {
        let data = uniform(seed, count, if signed { -1.0..1.0 } else { 0.0..1.0 });
        Self { data: rounded::<T>(&data), wide }
    }
}

enum Operand<T> {
    Wide(Placed<f32>),
    Same(Placed<T>),
}

impl<T: Tested> Operand<T> {
    /// Rows that start off the boundaries, with canaries between them.
    fn new(stream: &Arc<CudaStream>, beside: &Beside, shape: (usize, usize)) -> Result<Self, Failed> {
        let at = Rows { stride: shape.1 + 3, offset: 1 };
        Ok(match beside.wide {
            true => Operand::Wide(Placed::new(stream, Some(&beside.data), shape, at)?),
            false => Operand::Same(Placed::new(stream, Some(&beside.data), shape, at)?),
        })
    }

    fn view(&self) -> logit_perturb::Result<DeviceOperand<'_, T>> {
        Ok(match self {
            Operand::Wide(matrix) => DeviceOperand::F32(matrix.view()?),
            Operand::Same(matrix) => DeviceOperand::Same(matrix.view()?),
        })
    }
}

/// What a batch brings beside its logits, on the device.
pub struct OnDevice<T> {
    rows: usize,
    classes: usize,
    pub labels: CudaSlice<i64>,
    soft_targets: Option<Operand<T>>,
    sample_weights: Option<CudaSlice<f32>>,
    class_weights: Option<CudaSlice<f32>>,
    vector: Option<CudaSlice<f32>>,
    matrix: Option<Operand<T>>,
    /// Where it comes from there.
    pub divisor: Option<CudaSlice<f32>>,
    divisor_value: Option<f64>,
    pub upstream: Option<CudaSlice<f32>>,
    upstream_value: f64,
    upstream_by_row: bool,
}

impl<T: Tested> OnDevice<T> {
    pub fn new(stream: &Arc<CudaStream>, batch: &Batch) -> Result<Self, Failed> {
        let (n, c) = (batch.rows(), batch.classes);
        let list = |data: &Option<Vec<f32>>| data.as_deref().map(|data| upload(stream, data)).transpose();
        let matrix_rows = match batch.problem.perturbation() {
            Perturbation::ClassMatrix(_) => c,
            _ => n,
        };
        let operand = |beside: &Option<Beside>, rows| {
            beside.as_ref().map(|beside| Operand::new(stream, beside, (rows, c))).transpose()
        };
        let given = |given: Option<&Given>| match given {
            None => (None, None),
            Some(Given::Host(value)) => (Some(*value), None),
            Some(Given::Device(value)) => (None, Some(vec![*value])),
            Some(Given::Rows(values)) => (None, Some(values.clone())),
        };
        let ((divisor_value, divisor), (upstream_value, upstream)) =
            (given(batch.divisor.as_ref()), given(Some(&batch.upstream)));
        Ok(Self {
            rows: n,
            classes: c,
            labels: upload(stream, &batch.labels)?,
            soft_targets: operand(&batch.soft_targets, n)?,
            sample_weights: list(&batch.sample_weights)?,
            class_weights: list(&batch.class_weights)?,
            vector: list(&batch.vector)?,
            matrix: operand(&batch.matrix, matrix_rows)?,
            divisor: list(&divisor)?,
            divisor_value,
            upstream: list(&upstream)?,
            upstream_value: upstream_value.unwrap_or(f64::NAN),
            upstream_by_row: matches!(batch.upstream, Given::Rows(_)),
        })
    }

    pub fn batch(&self) -> logit_perturb::Result<DeviceBatch<'_, T>> {
        let (n, c) = (self.rows, self.classes);
        let mut batch = match &self.soft_targets {
            None => DeviceBatch::labels(DeviceLabels::I64(self.labels.slice(..n))),
            Some(targets) => DeviceBatch::soft_targets(targets.view()?),
        };
        if let Some(weights) = &self.sample_weights {
            batch = batch.sample_weights(weights.slice(..n));
        }
        if let Some(weights) = &self.class_weights {
            batch = batch.class_weights(weights.slice(..c));
        }
        if let Some(vector) = &self.vector {
            batch = batch.perturbation(vector.slice(..c));
        }
        if let Some(matrix) = &self.matrix {
            batch = batch.perturbation_matrix(matrix.view()?);
        }
        match (self.divisor_value, &self.divisor) {
            (Some(value), _) => batch = batch.divisor(value),
            (None, Some(divisor)) => batch = batch.divisor(DeviceScalar::Device(divisor.slice(..1))),
            (None, None) => {}
        }
        Ok(batch.upstream(match &self.upstream {
            None => DeviceUpstream::Scalar(self.upstream_value.into()),
            Some(upstream) if self.upstream_by_row => DeviceUpstream::Rows(upstream.slice(..n)),
            Some(upstream) => DeviceUpstream::Scalar(DeviceScalar::Device(upstream.slice(..1))),
        }))
    }
}

impl Batch {
    pub fn random(rows: usize, classes: usize, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let logits = (0..rows * classes).map(|_| rng.random_range(-8.0..8.0)).collect();
        let labels = (0..rows).map(|_| rng.random_range(0..classes as i64)).collect();
        Self {
            problem: CrossEntropy::default(),
            classes,
            logits,
            labels,
            soft_targets: None,
            sample_weights: None,
            class_weights: None,
            vector: None,
            matrix: None,
            divisor: None,
            upstream: Given::Host(1.0),
        }
    }

    /// Logits that `T` holds, and where that is a half type rows enough for a share of its numbers to mean something.
    pub fn random_in<T: Tested>(rows: usize, classes: usize, seed: u64) -> Self {
        let rows = if size_of::<T>() == 4 { rows } else { rows.max(3000usize.div_ceil(classes)) };
        let mut batch = Self::random(rows, classes, seed);
        batch.logits = rounded::<T>(&batch.logits);
        batch
    }

    pub fn rows(&self) -> usize {
        self.labels.len()
    }

    /// The rows `from..to` as a batch, of a batch without anything else a row.
    pub fn part(&self, from: usize, to: usize) -> Self {
        let logits = self.logits[from * self.classes..to * self.classes].to_vec();
        Self { logits, labels: self.labels[from..to].to_vec(), ..self.clone() }
    }

    /// For this batch, with all outputs that a row has.
    pub fn setup(&self) -> Setup {
        let setup = Setup::new(self.classes, self.rows()).outputs(row_outputs());
        if self.soft_targets.is_some() { setup.soft_targets() } else { setup }
    }

    /// An operation for this batch.
    pub fn operation<T: Tested>(&self, device: &Device) -> Result<CrossEntropyOp<T>, Failed> {
        device.operation(&self.problem, self.setup())
    }

    /// Runs the batch with rows as `at` says, through an operation whose results were poisoned. Nothing but results is written.
    pub fn run<T: Tested>(
        &self,
        device: &Device,
        op: &mut CrossEntropyOp<T>,
        at: Rows,
        place: Gradient,
    ) -> Result<Outcome, Failed> {
        let (stream, shape) = (&device.stream, (self.rows(), self.classes));
        poison(stream, op)?;
        let beside = OnDevice::new(stream, self)?;
        let mut logits = Placed::<T>::new(stream, Some(&self.logits), shape, at)?;
        let mut target = match place {
            Gradient::Into(at) => Some(Placed::new(stream, None, shape, at)?),
            Gradient::None | Gradient::InPlace => None,
        };
        let pass = match (&mut target, place) {
            (Some(gradient), _) => DevicePass::Into { logits: logits.view()?, gradient: gradient.view_mut()? },
            (None, Gradient::InPlace) => DevicePass::InPlace(logits.view_mut()?),
            (None, _) => DevicePass::Forward(logits.view()?),
        };
        op.enqueue(pass, beside.batch()?)?;
        let now = logits.download(stream)?;
        let unchanged =
            || now.iter().zip(&self.logits).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan());
        let gradient = match target {
            _ if place == Gradient::InPlace => now,
            _ if !unchanged() => return Err("the logits were changed".into()),
            Some(gradient) => gradient.download(stream)?,
            None => Vec::new(),
        };
        Ok(Outcome { gradient, ..self.results(stream, op)? })
    }

    /// The results in the operation's memory, each of them written.
    pub fn results<T: Tested>(&self, stream: &Arc<CudaStream>, op: &CrossEntropyOp<T>) -> Result<Outcome, Failed> {
        let n = self.rows();
        let rows = |view: Option<_>| view.map_or(Ok(Vec::new()), |view| download(stream, &view));
        let mut outcome = Outcome {
            loss: download(stream, &op.loss())?,
            loss_rows: rows(op.loss_rows())?,
            lse: rows(op.lse())?,
            predictions: op.predictions().map_or(Ok(Vec::new()), |view| download(stream, &view))?,
            statistics: None,
            gradient: Vec::new(),
            half: (size_of::<T>() == 2).then_some(T::DTYPE),
        };
        outcome.loss_rows.truncate(n);
        outcome.lse.truncate(n);
        outcome.predictions.truncate(n);
        for (what, data) in [("loss", &outcome.loss), ("loss_rows", &outcome.loss_rows), ("lse", &outcome.lse)] {
            written(what, data)?;
        }
        written("predictions", &outcome.predictions)?;
        if let Some(views) = op.class_statistics() {
            let (count, correct) = (download(stream, &views.count)?, download(stream, &views.correct)?);
            let (loss, confidence) = (download(stream, &views.loss)?, download(stream, &views.confidence)?);
            let rows = download(stream, &views.rows)?;
            for (what, data) in [("count", &count), ("correct", &correct), ("rows", &rows)] {
                written(what, data)?;
            }
            for (what, data) in [("class loss", &loss), ("class confidence", &confidence)] {
                written(what, data)?;
            }
            let (valid_rows, correct_rows) = (rows[0], rows[1]);
            outcome.statistics = Some(Statistics { count, correct, loss, confidence, valid_rows, correct_rows });
        }
        Ok(outcome)
    }

    /// The batch as the reference takes it, which sees bad labels as ignored, and what the batch brings in place of the problem's as the
    /// problem's own.
    fn case(&self) -> Result<Case, Failed> {
        let (n, c) = (self.rows(), self.classes);
        let mut problem = self.problem.to_builder();
        if let Some(weights) = &self.class_weights {
            problem = problem.class_weights(wide(weights));
        }
        problem = match (self.problem.perturbation(), &self.vector, &self.matrix) {
            (Perturbation::Shared(_), Some(vector), _) => problem.perturbation(Perturbation::Shared(wide(vector))),
            (Perturbation::TargetMargin(_), Some(vector), _) => {
                problem.perturbation(Perturbation::TargetMargin(wide(vector)))
            }
            (Perturbation::ClassMatrix(_), _, Some(matrix)) => {
                problem.perturbation(Perturbation::ClassMatrix(wide(&matrix.data)))
            }
            _ => problem,
        };
        match &self.divisor {
            Some(Given::Host(value)) => problem = problem.reduction(Reduction::Divisor(*value)),
            Some(Given::Device(value)) => problem = problem.reduction(Reduction::Divisor((*value).into())),
            _ => {}
        }
        let mut case = Case::new(Problem::Softmax(problem.build()?), (n, c), wide(&self.logits));
        let matrix = |beside: &Beside| Tensor::float([n, c], wide(&beside.data));
        case = match &self.soft_targets {
            Some(targets) => case.with_input("soft_targets", matrix(targets)),
            None => {
                let valid = |label: &i64| (0..c as i64).contains(label);
                let ignore = self.problem.ignore_index();
                let labels = self.labels.iter().map(|label| if valid(label) { *label } else { ignore });
                case.with_input("labels", Tensor::int([n], labels))
            }
        };
        if let Some(weights) = &self.sample_weights {
            case = case.with_input("sample_weights", Tensor::float([n], wide(weights)));
        }
        if let (Perturbation::PerSample, Some(perturbation)) = (self.problem.perturbation(), &self.matrix) {
            case = case.with_input("perturbation", matrix(perturbation));
        }
        match &self.upstream {
            Given::Host(value) => case.upstream = *value,
            Given::Device(value) => case.upstream = (*value).into(),
            Given::Rows(values) => case.upstream_rows = Some(wide(values)),
        }
        Ok(case)
    }

    /// Compares what is there of an outcome with the reference.
    pub fn compare(&self, outcome: &Outcome) -> Result<(), Failed> {
        let mut case = self.case()?;
        let mut reference = evaluate_cpu(&case)?;
        let (n, c) = (self.rows(), self.classes);
        let output = reference.cross_entropy.clone().ok_or("the reference lacks its numbers")?;
        reference.tensors.insert("lse", Tensor::float([n], output.lse));
        reference.tensors.insert("predictions", Tensor::int([n], output.predictions));
        let float = |shape: &[usize], data: &[f32]| Tensor::float(shape, wide(data));
        let mut tensors = BTreeMap::from([
            ("loss", float(&[1], &outcome.loss)),
            ("loss_rows", float(&[n], &outcome.loss_rows)),
            ("lse", float(&[n], &outcome.lse)),
            ("predictions", Tensor::int([n], outcome.predictions.iter().copied())),
            ("grad", float(&[n, c], &outcome.gradient)),
        ]);
        if let (Some(half), Some(gradient)) = (outcome.half, tensors.get_mut("grad")) {
            gradient.values = Values::Float(half, wide(&outcome.gradient));
        }
        // Under no reduction there is no expected loss; lists that were not asked for are empty.
        let there = |name: &str| match name {
            "loss" => !outcome.loss.is_empty(),
            "loss_rows" => !outcome.loss_rows.is_empty(),
            "lse" => !outcome.lse.is_empty(),
            "predictions" => !outcome.predictions.is_empty(),
            _ => !outcome.gradient.is_empty(),
        };
        let expected = reference.tensors.iter().filter(|(name, _)| there(name));
        case.expected = expected.map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect();
        let report = compare(&case, &reference.with_tensors(tensors), Precision::F32);
        if !report.passed() {
            let failures =
                report.comparisons.iter().filter_map(|one| Some(format!("{} {}", one.name, one.failure.as_ref()?)));
            return Err(format!("{n} x {c}: {}", failures.collect::<Vec<_>>().join("; ")).into());
        }
        match (&outcome.statistics, output.per_class) {
            (None, _) => Ok(()),
            (Some(found), Some(expected)) => compare_statistics(found, &expected, output.valid, output.correct),
            (Some(_), None) => Err("class statistics of soft targets".into()),
        }
    }

    /// Runs the batch through an operation of its own in this type, rows without gaps, and compares.
    pub fn check<T: Tested>(&self, device: &Device) -> Result<Outcome, Failed> {
        let mut op = self.operation::<T>(device)?;
        let outcome = self.run(device, &mut op, dense(self.classes), Gradient::Into(dense(self.classes)))?;
        op.check()?;
        self.compare(&outcome)?;
        Ok(outcome)
    }

    /// The same in f32.
    pub fn run_and_compare(&self, device: &Device) -> Result<Outcome, Failed> {
        self.check::<f32>(device)
    }
}

/// Counts exactly; sums of row losses and of probabilities as SPEC 6 has a loss, where no logit is beyond 50.
fn compare_statistics(
    found: &Statistics,
    expected: &logit_perturb::cpu::ClassStatistics,
    valid: usize,
    correct: usize,
) -> Result<(), Failed> {
    let counts = |data: &[usize]| data.iter().map(|&n| n as u64).collect::<Vec<_>>();
    if found.count != counts(&expected.count) || found.correct != counts(&expected.correct) {
        return Err(format!("class counts {:?}, right {:?}, expected {expected:?}", found.count, found.correct).into());
    }
    if (found.valid_rows, found.correct_rows) != (valid as u64, correct as u64) {
        return Err(format!("{found:?}: expected {valid} valid rows, {correct} right").into());
    }
    let sums = [("loss", &found.loss, &expected.loss), ("confidence", &found.confidence, &expected.confidence)];
    for (what, found, expected) in sums {
        for (class, (&found, &expected)) in found.iter().zip(expected).enumerate() {
            let same = found == expected || found.is_nan() && expected.is_nan();
            let near = (found - expected).abs() <= 4e-6 * expected.abs() + 1e-7;
            if !same && !near {
                return Err(format!("{what} of class {class}: {found}, expected {expected}").into());
            }
        }
    }
    Ok(())
}

impl Outcome {
    /// The bits of all numbers.
    pub fn bits(&self) -> Vec<u32> {
        let lists = [&self.loss, &self.loss_rows, &self.lse, &self.gradient];
        let floats = lists.into_iter().flatten().map(|x| x.to_bits());
        floats.chain(self.predictions.iter().map(|x| x.cast_unsigned())).collect()
    }
}
