//! Cross-entropy made ready for a bench, with or without a learner.

use super::{Bench, Inputs, Number, Result, Work};
use logit_perturb::cpu::{self, CrossEntropyBatch, Pass};
use logit_perturb::cuda::{CrossEntropyOp, DeviceLabels, DeviceMatrix, DeviceMatrixMut, DevicePass, Outputs, Setup};
use logit_perturb::cudarc::driver::{CudaSlice, CudaStream};
use logit_perturb::{CrossEntropy, Matrix, MatrixMut, Reduction};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// Rows of a batch that are compared with the reference where rows do not depend on each other.
const COMPARED: usize = 6;

pub struct Softmax<T> {
    stream: Arc<CudaStream>,
    inputs: Rc<RefCell<Inputs<T>>>,
    problem: CrossEntropy,
    op: CrossEntropyOp<T>,
    in_place: bool,
    rows: usize,
    classes: usize,
    sets: usize,
    pitch: usize,
    labels: Vec<Vec<i64>>,
    device_labels: Vec<CudaSlice<i64>>,
}

impl<T: Number> Softmax<T> {
    /// `skewed`: half of the rows have the first class.
    pub fn new(
        bench: &Bench,
        inputs: &Rc<RefCell<Inputs<T>>>,
        problem: CrossEntropy,
        (rows, classes): (usize, usize),
        in_place: bool,
        skewed: bool,
    ) -> Result<Self> {
        let (sets, pitch) = inputs.borrow().sets(rows * classes);
        let mut rng = StdRng::seed_from_u64(2);
        let mut label = |i: usize| if skewed && i.is_multiple_of(2) { 0 } else { rng.random_range(0..classes as i64) };
        let labels: Vec<Vec<i64>> = (0..sets).map(|_| (0..rows).map(&mut label).collect()).collect();
        let upload = |labels: &Vec<i64>| Ok(bench.stream.clone_htod(labels)?);
        let device_labels = labels.iter().map(upload).collect::<Result<Vec<_>>>()?;
        let setup = Setup::new(classes, rows).outputs(Outputs::default().loss_rows());
        Ok(Self {
            op: CrossEntropyOp::new(&bench.kernels, &bench.stream, &problem, setup)?,
            stream: Arc::clone(&bench.stream),
            inputs: Rc::clone(inputs),
            problem,
            in_place,
            rows,
            classes,
            sets,
            pitch,
            labels,
            device_labels,
        })
    }

    /// The reference's row losses and gradient of rows `rows` of set 0.
    fn expected(&self, rows: std::ops::Range<usize>) -> Result<(Vec<f64>, Vec<f64>)> {
        let (n, c) = (rows.len(), self.classes);
        let logits = self.inputs.borrow().host(rows.start * c..rows.end * c);
        let mut gradient = vec![0f64; n * c];
        // As a part of the whole batch.
        let problem = self.problem.clone().to_builder().reduction(Reduction::Divisor(self.rows as f64)).build()?;
        let logits = Matrix::new(&logits, n, c)?;
        let pass = Pass::Into { logits, gradient: MatrixMut::new(&mut gradient, n, c)? };
        let output = cpu::cross_entropy(&problem, pass, CrossEntropyBatch::labels(&self.labels[0][rows]))?;
        Ok((output.loss_rows, gradient))
    }
}

impl<T: Number> Work for Softmax<T> {
    fn is_right(&mut self) -> Result<bool> {
        self.restore(0)?;
        self.enqueue(0)?;
        self.op.check()?;
        let (n, c, learns) = (self.rows, self.classes, self.problem.learner().is_some());
        let found_losses = self.stream.clone_dtoh(&self.op.loss_rows().ok_or("the row losses are not there")?)?;
        let loss = f64::from(self.stream.clone_dtoh(&self.op.loss())?[0]);
        // Written so that NaN is wrong.
        let near = |found: f64, expected: f64, tolerance: f64| (found - expected).abs() <= tolerance;
        let mean = found_losses.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64;
        let mut right = near(loss, mean, 4e-6 * mean.abs() + 1e-7);
        // Under a learner rows depend on each other.
        let (parts, part_rows) = if learns { (1, n) } else { (COMPARED, 1) };
        let starts = (0..parts).map(|i| i * (n - part_rows) / (parts - 1).max(1));
        // Of bf16, the rounding of the gradient; of a learner, what the perturbation may be off by.
        let relative = if size_of::<T>() == 2 { 4e-3 } else { 0.0 };
        let absolute = if learns { 2e-5 } else { 1e-6 } / n as f64;
        for start in starts {
            let rows = start..start + part_rows;
            let (losses, gradient) = self.expected(rows.clone())?;
            let inputs = self.inputs.borrow();
            let result = if self.in_place { &inputs.logits } else { &inputs.gradient };
            let found = self.stream.clone_dtoh(&result.slice(rows.start * c..rows.end * c))?;
            right &= found.iter().zip(&gradient).all(|(x, &g)| near(x.widen(), g, relative * g.abs() + absolute));
            let tolerance = if learns { 2e-5 } else { 4e-6 };
            let each = found_losses[rows].iter().zip(&losses);
            right &= each.into_iter().all(|(&x, &loss)| near(x.into(), loss, tolerance * loss.abs() + 1e-5));
        }
        Ok(right)
    }

    fn restore(&mut self, set: usize) -> Result<()> {
        let inputs = &mut *self.inputs.borrow_mut();
        let range = set * self.pitch..set * self.pitch + self.rows * self.classes;
        if self.in_place {
            let (from, mut to) = (inputs.pristine.slice(range.clone()), inputs.logits.slice_mut(range));
            self.stream.memcpy_dtod(&from, &mut to)?;
        }
        Ok(())
    }

    fn enqueue(&mut self, set: usize) -> Result<()> {
        let inputs = &mut *self.inputs.borrow_mut();
        let (n, c, start) = (self.rows, self.classes, set * self.pitch);
        let range = start..start + n * c;
        let pass = if self.in_place {
            DevicePass::InPlace(DeviceMatrixMut::new(inputs.logits.slice_mut(range), n, c, c)?)
        } else {
            let gradient = DeviceMatrixMut::new(inputs.gradient.slice_mut(range.clone()), n, c, c)?;
            DevicePass::Into { logits: DeviceMatrix::new(inputs.pristine.slice(range), n, c, c)?, gradient }
        };
        Ok(self.op.enqueue(pass, DeviceLabels::I64(self.device_labels[set].as_view()))?)
    }

    fn sets(&self) -> usize {
        self.sets
    }

    fn moved(&self) -> Option<usize> {
        if self.problem.learner().is_some() {
            return None;
        }
        let passes = if self.op.describe()[1].contains("two_read") { 3 } else { 2 };
        Some(passes * self.rows * self.classes * size_of::<T>() + 8 * self.rows)
    }
}
