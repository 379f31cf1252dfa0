//! Batches: run on the device, compared with the f64 reference at the accuracy of SPEC 6.

use crate::device::{Device, Placed, download, poison, upload, written};
use libtest_mimic::Failed;
use logit_perturb::CrossEntropy;
use logit_perturb::cuda::{CrossEntropyOp, DeviceLabels, DevicePass};
use logit_perturb::cudarc::driver::CudaStream;
use logit_perturb_cases::{Case, Precision, Tensor, compare, evaluate_cpu};
use logit_perturb_emulator::{Gradient, Rows};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A batch on the host, its rows without gaps.
#[derive(Clone)]
pub struct Batch {
    pub problem: CrossEntropy,
    pub classes: usize,
    pub logits: Vec<f32>,
    pub labels: Vec<i64>,
    pub upstream: f64,
}

/// What a batch gave; lists are empty where they were not asked for.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub loss: Vec<f32>,
    pub loss_rows: Vec<f32>,
    pub lse: Vec<f32>,
    pub gradient: Vec<f32>,
}

/// Rows without gaps.
pub fn dense(classes: usize) -> Rows {
    Rows { stride: classes, offset: 0 }
}

impl Batch {
    pub fn random(rows: usize, classes: usize, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let logits = (0..rows * classes).map(|_| rng.random_range(-8.0..8.0)).collect();
        let labels = (0..rows).map(|_| rng.random_range(0..classes as i64)).collect();
        Self { problem: CrossEntropy::default(), classes, logits, labels, upstream: 1.0 }
    }

    pub fn rows(&self) -> usize {
        self.labels.len()
    }

    /// The rows `from..to` as a batch.
    pub fn part(&self, from: usize, to: usize) -> Self {
        let logits = self.logits[from * self.classes..to * self.classes].to_vec();
        Self { logits, labels: self.labels[from..to].to_vec(), ..self.clone() }
    }

    /// Runs the batch with rows as `at` says, through an operation whose results were poisoned. Nothing but results is written.
    pub fn run(&self, device: &Device, op: &mut CrossEntropyOp, at: Rows, place: Gradient) -> Result<Outcome, Failed> {
        let (stream, shape) = (&device.stream, (self.rows(), self.classes));
        poison(stream, op)?;
        let labels = upload(stream, &self.labels)?;
        let mut logits = Placed::new(stream, Some(&self.logits), shape, at)?;
        let mut target = match place {
            Gradient::Into(at) => Some(Placed::new(stream, None, shape, at)?),
            Gradient::None | Gradient::InPlace => None,
        };
        let pass = match (&mut target, place) {
            (Some(gradient), _) => DevicePass::Into { logits: logits.view()?, gradient: gradient.view_mut()? },
            (None, Gradient::InPlace) => DevicePass::InPlace(logits.view_mut()?),
            (None, _) => DevicePass::Forward(logits.view()?),
        };
        op.enqueue(pass, DeviceLabels::I64(labels.slice(..self.rows())), self.upstream)?;
        let now = logits.download(stream)?;
        let unchanged = || now.iter().zip(&self.logits).all(|(a, b)| a.to_bits() == b.to_bits());
        let gradient = match target {
            _ if place == Gradient::InPlace => now,
            _ if !unchanged() => return Err("the logits were changed".into()),
            Some(gradient) => gradient.download(stream)?,
            None => Vec::new(),
        };
        Ok(Outcome { gradient, ..self.results(stream, op)? })
    }

    /// The results in the operation's memory, each of them written.
    pub fn results(&self, stream: &Arc<CudaStream>, op: &CrossEntropyOp) -> Result<Outcome, Failed> {
        let rows = |view: Option<_>| {
            let view = view.ok_or("the operation lacks an output that it was made with")?;
            let mut data = download(stream, &view)?;
            data.truncate(self.rows());
            Ok::<_, Failed>(data)
        };
        let loss = download(stream, &op.loss())?;
        let (loss_rows, lse) = (rows(op.loss_rows())?, rows(op.lse())?);
        for (what, data) in [("loss", &loss), ("loss_rows", &loss_rows), ("lse", &lse)] {
            written(what, data)?;
        }
        Ok(Outcome { loss, loss_rows, lse, gradient: Vec::new() })
    }

    /// Compares what is there of an outcome with the reference, which sees bad labels as ignored.
    pub fn compare(&self, outcome: &Outcome) -> Result<(), Failed> {
        let valid = |label: &i64| (0..self.classes as i64).contains(label);
        let ignore = self.problem.ignore_index();
        let labels: Vec<i64> = self.labels.iter().map(|label| if valid(label) { *label } else { ignore }).collect();
        let mut case = Case::cross_entropy(self.problem.clone(), self.classes, &self.logits, &labels);
        case.upstream = self.upstream;
        let mut reference = evaluate_cpu(&case)?;
        let (n, c) = (self.rows(), self.classes);
        let shape = |shape: &[usize], data: &[f32]| Tensor::float(shape, data.iter().map(|&x| x.into()).collect());
        let tensors = BTreeMap::from([
            ("loss", shape(&[1], &outcome.loss)),
            ("loss_rows", shape(&[n], &outcome.loss_rows)),
            ("lse", shape(&[n], &outcome.lse)),
            ("grad", shape(&[n, c], &outcome.gradient)),
        ]);
        let lse = std::mem::take(&mut reference.lse);
        reference.tensors.insert("lse", Tensor::float([n], lse));
        // Under no reduction there is no expected loss; lists that were not asked for are empty.
        let there = |name: &str| match name {
            "loss" => !outcome.loss.is_empty(),
            "loss_rows" => !outcome.loss_rows.is_empty(),
            "lse" => !outcome.lse.is_empty(),
            _ => !outcome.gradient.is_empty(),
        };
        let expected = reference.tensors.iter().filter(|(name, _)| there(name));
        case.expected = expected.map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect();
        let report = compare(&case, &reference.with_tensors(tensors), Precision::F32);
        if report.passed() {
            return Ok(());
        }
        let failures =
            report.comparisons.iter().filter_map(|one| Some(format!("{} {}", one.name, one.failure.as_ref()?)));
        Err(format!("{n} x {c}: {}", failures.collect::<Vec<_>>().join("; ")).into())
    }

    /// Runs the batch through an operation of its own, rows without gaps, and compares.
    pub fn run_and_compare(&self, device: &Device) -> Result<Outcome, Failed> {
        let mut op = device.operation(&self.problem, self.classes, self.rows())?;
        let outcome = self.run(device, &mut op, dense(self.classes), Gradient::Into(dense(self.classes)))?;
        self.compare(&outcome)?;
        Ok(outcome)
    }
}

impl Outcome {
    /// The bits of all numbers.
    pub fn bits(&self) -> Vec<u32> {
        let lists = [&self.loss, &self.loss_rows, &self.lse, &self.gradient];
        lists.into_iter().flatten().map(|x| x.to_bits()).collect()
    }
}
