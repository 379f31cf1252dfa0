//! A batch in plain numbers, run on the emulated device, and the f64 reference over it.

use logit_perturb::cpu::{self, CrossEntropyBatch, Pass};
use logit_perturb::kernel::Limits;
use logit_perturb::{CrossEntropy, Labels, Matrix, MatrixMut, Perturbation, Reduction, Upstream};
use logit_perturb_emulator::{Batch, Beside, Emulator, Given, Gradient, Operation, Options, Outcome, Rows};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Hard labels and f32 logits.
pub struct Case {
    pub classes: usize,
    pub logits: Vec<f32>,
    pub labels: Vec<i64>,
    pub problem: CrossEntropy,
    pub rows: Rows,
    pub gradient: Gradient,
    pub sample_weights: Option<Vec<f32>>,
    pub upstream: f64,
    pub limits: Limits,
}

impl Case {
    pub fn random((classes, limits): (usize, Limits), rows: usize, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let logits = (0..rows * classes).map(|_| rng.random_range(-8.0..8.0)).collect();
        let labels = (0..rows).map(|_| rng.random_range(0..classes as i64)).collect();
        let at = Rows { stride: classes, offset: 0 };
        Self {
            classes,
            logits,
            labels,
            problem: CrossEntropy::default(),
            rows: at,
            gradient: Gradient::Into(at),
            sample_weights: None,
            upstream: 1.0,
            limits,
        }
    }

    pub fn batch<'a>(&'a self, labels: Labels<'a>) -> Batch<'a> {
        Batch {
            rows: self.rows,
            gradient: self.gradient,
            sample_weights: self.sample_weights.as_deref(),
            upstream: Given::Host(self.upstream),
            ..Batch::new(&self.logits, self.classes, labels, self.limits)
        }
    }

    pub fn run_as(&self, options: Options, labels: Labels<'_>) -> Outcome {
        let mut emulator = Emulator::new(options);
        let batch = self.batch(labels);
        let operation = Operation::new(&mut emulator, &self.problem, &batch);
        operation.run(&mut emulator).unwrap_or_else(|faults| panic!("{} classes: {faults:?}", self.classes))
    }

    pub fn run(&self, seed: u64) -> Outcome {
        self.run_as(Options { seed, ..Options::default() }, Labels::I64(&self.labels))
    }

    /// The outcome under soft targets, `[N, C]`.
    pub fn run_soft(&self, targets: &[f32]) -> Outcome {
        let soft = Beside { data: targets, wide: true, stride: self.classes };
        let batch = Batch { soft_targets: Some(soft), ..self.batch(Labels::I64(&self.labels)) };
        let mut emulator = Emulator::new(Options::default());
        Operation::new(&mut emulator, &self.problem, &batch).run(&mut emulator).unwrap()
    }

    /// Compares an outcome with the reference; `labels` as the reference is to see them.
    pub fn compare(&self, outcome: &Outcome, labels: &[i64]) {
        let (n, c) = (labels.len(), self.classes);
        let what = format!("{n} x {c}, {:?}, {:?}, {}", self.rows, self.gradient, outcome.plan);
        let mut gradient = vec![0.0f64; n * c];
        let logits = Matrix::new(&self.logits, n, c).unwrap();
        let pass = Pass::Into { logits, gradient: MatrixMut::new(&mut gradient, n, c).unwrap() };
        let upstream = Upstream::Scalar(self.upstream);
        let mut batch = CrossEntropyBatch::labels(labels).upstream(upstream);
        if let Some(weights) = &self.sample_weights {
            batch = batch.sample_weights(weights.as_slice());
        }
        let expected = cpu::cross_entropy(&self.problem, pass, batch).unwrap();
        let scale = self.problem.scale().at(0);
        let delta = |k: usize| match self.problem.perturbation() {
            Perturbation::Shared(delta) => delta[k],
            _ => 0.0,
        };
        let v = |i: usize, k: usize| scale * (f64::from(self.logits[i * c + k]) + delta(k));
        let stretch = |i: usize| (0..c).map(|k| v(i, k).abs()).filter(|v| v.is_finite()).fold(50.0, f64::max) / 50.0;
        let divisor = match self.problem.reduction() {
            Reduction::Mean => expected.valid as f64,
            Reduction::Divisor(divisor) => divisor,
            _ => 1.0,
        };
        let near = |name: &str, i: usize, actual: f32, expected: f64, tolerance: f64| {
            let actual = f64::from(actual);
            let same = actual == expected || actual.is_nan() && expected.is_nan();
            assert!(
                same || (actual - expected).abs() <= tolerance,
                "{what}: {name} [{i}] {actual}, expected {expected}"
            );
        };
        let loss_tolerance = |x: f64, a: f64| (4e-6 * x.abs() + 1e-7) * a;
        let a = (0..n).map(stretch).fold(1.0, f64::max);
        near("loss", 0, outcome.loss, expected.loss, loss_tolerance(expected.loss, a));
        for i in 0..n {
            near(
                "loss_rows",
                i,
                outcome.loss_rows[i],
                expected.loss_rows[i],
                loss_tolerance(expected.loss_rows[i], stretch(i)),
            );
            near("lse", i, outcome.lse[i], expected.lse[i], loss_tolerance(expected.lse[i], stretch(i)));
        }
        for (i, &actual) in outcome.gradient.iter().enumerate() {
            let tolerance = 1e-6 * self.upstream.abs() * stretch(i / c) * scale / divisor;
            near("gradient", i, actual, gradient[i], tolerance);
        }
    }

    /// A row whose label leads by 40: gradient and loss are the sum of the others, to f32's relative accuracy.
    #[track_caller]
    pub fn check_confident_row((c, limits): (usize, Limits), problem: CrossEntropy) {
        let mut case = Self { problem, ..Self::random((c, limits), 1, 3) };
        case.logits.iter_mut().for_each(|x| *x = x.clamp(-1.0, 1.0));
        (case.logits[5], case.labels[0]) = (40.0, 5);
        let outcome = case.run(1);
        let others: f64 = (0..c).filter(|&k| k != 5).map(|k| (f64::from(case.logits[k]) - 40.0).exp()).sum();
        let relative = |actual: f32, expected: f64| (f64::from(actual) / expected - 1.0).abs();
        assert!(relative(outcome.gradient[5], -others) < 3e-5, "{c}: {} for {others}", outcome.gradient[5]);
        assert!(relative(outcome.loss_rows[0], others) < 3e-5, "{c}: {} for {others}", outcome.loss_rows[0]);
    }
}
