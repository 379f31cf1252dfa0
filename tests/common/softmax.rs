//! A single-label batch in plain numbers, and SPEC 1 to 3 written out over it.

use super::{Plan, assert_close, plan, steps};
use logit_perturb::cpu::{self, CrossEntropyBatch, CrossEntropyOutput, Pass};
use logit_perturb::{
    CrossEntropy, GradientSemantics, Learner, Matrix, MatrixMut, Perturbation, Reduction, Step, Upstream,
};

/// Logits, targets and every option of the problem.
#[derive(Clone, Debug)]
pub struct Case {
    pub columns: usize,
    pub logits: Vec<f64>,
    pub labels: Vec<i64>,
    /// Replaces the labels.
    pub soft: Option<Vec<f64>>,
    /// One number, or one a class.
    pub scale: Vec<f64>,
    pub smoothing: f64,
    pub z: f64,
    pub class_weights: Option<Vec<f64>>,
    pub sample_weights: Option<Vec<f64>>,
    pub ignore_index: i64,
    pub reduction: Reduction,
    pub form: Perturbation,
    pub per_sample: Vec<f64>,
    pub learner: Option<Learner>,
    /// One number, or one a row.
    pub upstream: Vec<f64>,
}

/// What a learner does, by the naive loop; rows of absent classes are zero.
pub struct Learned {
    pub q: Vec<f64>,
    pub plan: Plan,
    pub steps: Vec<u32>,
    /// `[C, C]`.
    pub delta: Vec<f64>,
}

/// `lse` and the probabilities of a row.
pub fn softmax(v: &[f64]) -> (f64, Vec<f64>) {
    let max = v.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = v.iter().map(|x| (x - max).exp()).sum();
    (max + sum.ln(), v.iter().map(|x| (x - max).exp() / sum).collect())
}

impl Case {
    /// Plain mean cross-entropy.
    pub fn new(columns: usize, logits: Vec<f64>, labels: Vec<i64>) -> Self {
        Self {
            columns,
            logits,
            labels,
            soft: None,
            scale: vec![1.0],
            smoothing: 0.0,
            z: 0.0,
            class_weights: None,
            sample_weights: None,
            ignore_index: -100,
            reduction: Reduction::Mean,
            form: Perturbation::None,
            per_sample: Vec::new(),
            learner: None,
            upstream: vec![1.0],
        }
    }

    pub fn rows(&self) -> usize {
        self.logits.len() / self.columns
    }

    pub fn problem(&self) -> CrossEntropy {
        let mut builder = CrossEntropy::builder()
            .label_smoothing(self.smoothing)
            .z_loss(self.z)
            .reduction(self.reduction)
            .perturbation(self.form.clone());
        builder = match self.scale.as_slice() {
            [one] => builder.scale(*one),
            many => builder.class_scale(many),
        };
        if self.soft.is_none() {
            builder = builder.ignore_index(self.ignore_index);
        }
        if let Some(weights) = &self.class_weights {
            builder = builder.class_weights(weights.clone());
        }
        if let Some(learner) = &self.learner {
            builder = builder.learner(learner.clone());
        }
        builder.build().expect("the options are in range")
    }

    pub fn batch(&self) -> CrossEntropyBatch<'_> {
        let (n, c) = (self.rows(), self.columns);
        let mut batch = match &self.soft {
            Some(soft) => CrossEntropyBatch::soft_targets(Matrix::new(soft, n, c).expect("N x C")),
            None => CrossEntropyBatch::labels(&self.labels),
        };
        if let Some(weights) = &self.sample_weights {
            batch = batch.sample_weights(weights);
        }
        if self.form == Perturbation::PerSample {
            batch = batch.perturbation(Matrix::new(&self.per_sample, n, c).expect("N x C"));
        }
        batch.upstream(match self.upstream.as_slice() {
            [one] => Upstream::Scalar(*one),
            rows => Upstream::Rows(rows),
        })
    }

    /// The crate's output and gradient.
    pub fn run(&self) -> (CrossEntropyOutput, Vec<f64>) {
        let (n, c) = (self.rows(), self.columns);
        // Every element is to be written: what is left of this would show.
        let mut gradient = vec![f64::INFINITY; n * c];
        let pass = Pass::Into {
            logits: Matrix::new(&self.logits, n, c).expect("N x C"),
            gradient: MatrixMut::new(&mut gradient, n, c).expect("N x C"),
        };
        let output = cpu::cross_entropy(&self.problem(), pass, self.batch()).expect("a valid batch");
        (output, gradient)
    }

    /// The class of row `i`, where it has one.
    pub fn class(&self, i: usize) -> Option<usize> {
        (self.soft.is_none() && self.labels[i] != self.ignore_index).then(|| self.labels[i] as usize)
    }

    pub fn is_valid(&self, i: usize) -> bool {
        self.soft.is_some() || self.class(i).is_some()
    }

    /// `u_i` plus the fixed perturbation.
    pub fn fixed_logits(&self, i: usize) -> Vec<f64> {
        let c = self.columns;
        let delta = |k: usize| match (&self.form, self.class(i)) {
            (Perturbation::Shared(d), _) => d[k],
            (Perturbation::TargetMargin(m), Some(y)) if y == k => -m[y],
            (Perturbation::ClassMatrix(d), Some(y)) => d[y * c + k],
            (Perturbation::PerSample, _) => self.per_sample[i * c + k],
            _ => 0.0,
        };
        (0..c).map(|k| self.logits[i * c + k] + delta(k)).collect()
    }

    /// SPEC 3 with one softmax per row and step.
    pub fn learn(&self) -> Option<Learned> {
        let learner = self.learner.as_ref()?;
        let c = self.columns;
        let rows_of = |class: usize| -> Vec<Vec<f64>> {
            (0..self.rows()).filter(|&i| self.class(i) == Some(class)).map(|i| self.fixed_logits(i)).collect()
        };
        let mean =
            |rows: &[Vec<f64>], class: usize| rows.iter().map(|u| softmax(u).1[class]).sum::<f64>() / rows.len() as f64;
        let q: Vec<f64> = (0..c).map(|class| mean(&rows_of(class), class)).collect();
        let plan = plan(learner.split(), learner.bound(), &q);
        let mut delta = vec![0.0; c * c];
        let mut taken = vec![0; c];
        for class in 0..c {
            let rows = rows_of(class);
            if rows.is_empty() || plan.direction[class] == 0 {
                continue;
            }
            taken[class] = steps(plan.bound[class], learner.alpha());
            let delta = &mut delta[class * c..][..c];
            for _ in 0..taken[class] {
                let mut g = vec![0.0; c];
                for u in &rows {
                    let perturbed: Vec<f64> = u.iter().zip(&*delta).map(|(u, d)| u + d).collect();
                    let p = softmax(&perturbed).1;
                    let others: f64 = (0..c).filter(|&k| k != class).map(|k| p[k]).sum();
                    (0..c).for_each(|k| g[k] += if k == class { -others } else { p[k] } / rows.len() as f64);
                }
                let norm = match learner.step() {
                    Step::UnitL2 => g.iter().map(|g| g * g).sum::<f64>().sqrt().max(1e-12),
                    _ => 1.0,
                };
                let factor = f64::from(plan.direction[class]) * learner.alpha() / norm;
                delta.iter_mut().zip(&g).for_each(|(delta, g)| *delta += factor * g);
            }
        }
        Some(Learned { q, plan, steps: taken, delta })
    }

    /// `(Z, V)`.
    fn divisors(&self) -> (f64, f64) {
        let omega = |i: usize| self.sample_weights.as_ref().map_or(1.0, |w| w[i]);
        let valid = || (0..self.rows()).filter(|&i| self.is_valid(i));
        let weight = |i: usize| match (&self.class_weights, self.class(i)) {
            (Some(w), Some(y)) => omega(i) * w[y],
            _ => omega(i),
        };
        match self.reduction {
            Reduction::Mean => (valid().map(weight).sum(), valid().count() as f64),
            Reduction::Divisor(d) => (d, d),
            _ => (1.0, 1.0),
        }
    }

    /// Runs the crate and compares every output with SPEC 1 to 3. The gradient of `Through` is left to the finite differences.
    #[track_caller]
    pub fn check(&self) -> CrossEntropyOutput {
        let (output, gradient) = self.run();
        let (n, c) = (self.rows(), self.columns);
        let learned = self.learn();
        let (z_ce, z_lse) = self.divisors();
        let (mut loss, mut rows, mut lses, mut expected) = (0.0, vec![0.0; n], vec![0.0; n], vec![0.0; n * c]);
        let mut predictions = vec![-1; n];
        let (mut count, mut class_loss, mut confidence, mut correct) =
            (vec![0; c], vec![0.0; c], vec![0.0; c], vec![0; c]);
        for i in (0..n).filter(|&i| self.is_valid(i)) {
            let y = self.class(i);
            let mut v = self.fixed_logits(i);
            if let (Some(learned), Some(y)) = (&learned, y) {
                (0..c).for_each(|k| v[k] += learned.delta[y * c + k]);
            }
            let s = |k: usize| self.scale[k % self.scale.len()];
            (0..c).for_each(|k| v[k] *= s(k));
            let (lse, p) = softmax(&v);
            let a = self.smoothing;
            let tw = |k: usize| {
                let hard = if y == Some(k) { 1.0 - a } else { 0.0 } + a / c as f64;
                let t = self.soft.as_ref().map_or(hard, |soft| soft[i * c + k]);
                t * self.class_weights.as_ref().map_or(1.0, |w| w[k])
            };
            let omega = self.sample_weights.as_ref().map_or(1.0, |w| w[i]);
            // 0 times infinity is 0.
            let ce = (0..c).filter(|&k| omega * tw(k) != 0.0).map(|k| omega * tw(k) * (lse - v[k])).sum::<f64>();
            let share = |x: f64| if z_ce == 0.0 { 0.0 } else { x / z_ce };
            loss += share(ce) + self.z * lse * lse / z_lse;
            (rows[i], lses[i]) = (ce + self.z * lse * lse, lse);
            let largest = self.logits[i * c..][..c].iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let first = (0..c).find(|&k| self.logits[i * c + k] == largest).expect("a largest logit");
            predictions[i] = first as i64;
            let g = self.upstream[i % self.upstream.len()];
            let total: f64 = (0..c).map(tw).sum();
            for k in 0..c {
                let ce = share(omega * (p[k] * total - tw(k)));
                expected[i * c + k] = g * s(k) * (ce + 2.0 * self.z * lse * p[k] / z_lse);
            }
            if let Some(y) = y {
                count[y] += 1;
                class_loss[y] += rows[i];
                confidence[y] += p[y];
                correct[y] += usize::from(first == y);
            }
        }
        let summed = if self.reduction == Reduction::None { rows.iter().sum() } else { loss };
        // Sums of a few terms of size 1, each exact to some 1e-15; a learner's steps multiply that.
        let tolerance = if learned.is_some() { 1e-11 } else { 1e-12 };
        assert_close("loss", &[output.loss], &[summed], tolerance);
        assert_close("loss_rows", &output.loss_rows, &rows, tolerance);
        assert_close("lse", &output.lse, &lses, tolerance);
        assert_eq!(output.predictions, predictions);
        assert_eq!(output.valid, (0..n).filter(|&i| self.is_valid(i)).count());
        assert_eq!(output.per_class.is_some(), self.soft.is_none());
        if let Some(per_class) = &output.per_class {
            assert_eq!(per_class.count, count);
            assert_close("per_class.loss", &per_class.loss, &class_loss, tolerance);
            assert_close("per_class.confidence", &per_class.confidence, &confidence, tolerance);
            assert_eq!(per_class.correct, correct);
            assert_eq!(output.correct, correct.iter().sum::<usize>());
        }
        let detached = |learner: &Learner| learner.gradient_semantics() == GradientSemantics::Detached;
        if self.learner.as_ref().is_none_or(detached) {
            assert_close("gradient", &gradient, &expected, tolerance);
        }
        assert_eq!(output.learned.is_some(), learned.is_some());
        if let (Some(actual), Some(learned)) = (&output.learned, &learned) {
            let present: Vec<usize> = (0..c).filter(|&class| count[class] > 0).collect();
            assert_eq!(actual.classes, present);
            let of = |all: &[f64]| -> Vec<f64> { present.iter().map(|&class| all[class]).collect() };
            let delta: Vec<f64> = present.iter().flat_map(|&y| learned.delta[y * c..][..c].to_vec()).collect();
            assert_close("delta", &actual.delta, &delta, tolerance);
            assert_close("bound", &actual.bound, &of(&learned.plan.bound), tolerance);
            assert_close("confidence", &actual.confidence, &of(&learned.q), tolerance);
            assert_close("batch_confidence", &actual.batch_confidence, &of(&learned.q), tolerance);
            assert_close("tau", &[actual.tau], &[learned.plan.tau], tolerance);
            let decided: Vec<(i8, u32)> = actual.direction.iter().copied().zip(actual.steps.iter().copied()).collect();
            let expected: Vec<(i8, u32)> =
                present.iter().map(|&y| (learned.plan.direction[y], learned.steps[y])).collect();
            assert_eq!(decided, expected, "directions and steps");
        }
        output
    }
}
