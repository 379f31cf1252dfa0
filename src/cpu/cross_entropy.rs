//! Softmax cross-entropy in f64, in the order of SPEC 1 and 2; what is learned comes from `learn_cross_entropy` (SPEC 3).

use super::batch::{CrossEntropyBatch, Target};
use super::learn_cross_entropy::{Learned, LearnedPerturbation, learn};
use super::pass::{Pass, times_upstream, upstream_at};
use super::softmax::Softmax;
use super::vector::{largest, sum_but, update};
use crate::data::Matrix;
use crate::error::{Error, Result, check};
use crate::loss::{CrossEntropy, LogitScale, Reduction, Upstream};
use crate::perturbation::Perturbation;
use rayon::prelude::*;

/// Everything that SPEC 1 and 3 name about a batch.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CrossEntropyOutput {
    /// The reduced loss; under [`Reduction::None`] the plain sum of [`loss_rows`](Self::loss_rows).
    pub loss: f64,
    /// `row_i = ce_i + z * lse_i^2`, `[N]`, not divided by anything; 0 where ignored.
    pub loss_rows: Vec<f64>,
    /// `lse_i`, `[N]`; 0 where ignored.
    pub lse: Vec<f64>,
    /// `[N]`: the largest UNPERTURBED logit's class, lowest index on ties; -1 where ignored, and for a row with NaN or all -inf.
    pub predictions: Vec<i64>,
    /// Rows that are not ignored.
    pub valid: usize,
    /// Valid rows whose prediction is the label; 0 with soft targets.
    pub correct: usize,
    /// Per class over its valid rows; `None` with soft targets.
    pub per_class: Option<ClassStatistics>,
    /// What the learner did, where there is one.
    pub learned: Option<LearnedPerturbation>,
}

/// Sums over the valid rows of each class, each `[C]`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ClassStatistics {
    /// Rows.
    pub count: Vec<usize>,
    /// Row losses.
    pub loss: Vec<f64>,
    /// Perturbed probabilities `p_y` of the label.
    pub confidence: Vec<f64>,
    /// Rows predicted right.
    pub correct: Vec<usize>,
}

/// Loss, gradient and statistics of a batch: SPEC 1 to 3 in f64.
///
/// Shapes: logits and gradient `[N, C]`; the rest as [`CrossEntropyBatch`] and [`CrossEntropyOutput`] say. The gradient is of the reduced
/// loss (under [`Reduction::None`]: of each row's loss) times the upstream gradient, and every element of it is written.
///
/// ```
/// use logit_perturb::{CrossEntropy, MatrixMut, cpu};
/// let mut logits = [2.0f32, 0.5, -1.0, 0.1, 0.2, 0.3];
/// let pass = cpu::Pass::InPlace(MatrixMut::new(&mut logits, 2, 3)?);
/// let output = cpu::cross_entropy(&CrossEntropy::default(), pass, cpu::CrossEntropyBatch::labels(&[0i64, -100]))?;
/// assert_eq!(output.valid, 1);
/// assert_eq!(logits[3..], [0.0; 3]); // the ignored row's gradient
/// # Ok::<(), logit_perturb::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] where shapes disagree, [`Error::Label`] for labels out of range, [`Error::Value`] for weights or soft targets out of
/// range, [`Error::Conflict`] for soft targets with an option that needs labels, or a per-sample perturbation that is missing or not
/// asked for. Nothing is written then.
pub fn cross_entropy<'a>(
    problem: &CrossEntropy,
    pass: impl Into<Pass<'a>>,
    batch: CrossEntropyBatch<'_>,
) -> Result<CrossEntropyOutput> {
    let pass = pass.into();
    let shape = pass.check(problem.classes(), problem.reduction(), batch.upstream)?;
    match problem.learner() {
        None => evaluate(problem, pass, batch, shape),
        // Waits for the pool once, not in each of the learner's loops.
        Some(_) => rayon::scope(|_| evaluate(problem, pass, batch, shape)),
    }
}

fn evaluate(
    problem: &CrossEntropy,
    pass: Pass<'_>,
    batch: CrossEntropyBatch<'_>,
    (n, c): (usize, usize),
) -> Result<CrossEntropyOutput> {
    let rows = Rows::new(problem, &batch, n, c)?;
    let learned = match (problem.learner(), &rows.target) {
        (Some(learner), Targets::Hard(labels)) => {
            let logits = pass.logits();
            if let Some(running) = &batch.running {
                check::length("running_confidence", running.values().len(), c)?;
            }
            let read = |i: usize, u: &mut [f64]| {
                logits.read_row(i, u);
                rows.add_fixed(i, u);
            };
            Some(learn(learner, labels, c, &read, batch.running, pass.wants_gradient()))
        }
        (None, _) if batch.running.is_some() => {
            return Err(Error::conflict("running_confidence", "without a learner", "nothing would use it"));
        }
        _ => None,
    };
    let rows = Rows { learned: learned.as_ref(), ..rows };
    let through = match &learned {
        Some(learned) if learned.is_through() && pass.wants_gradient() => {
            let logits = pass.logits();
            Some(learned.through(c, &|i: usize, v: &mut [f64], h: &mut [f64]| {
                let mut u = vec![0.0; c];
                logits.read_row(i, &mut u);
                v.copy_from_slice(&u);
                rows.add_fixed(i, v);
                rows.evaluate(i, &u, Some(h), &mut Buffers::new(c));
            }))
        }
        _ => None,
    };
    let wanted = pass.wants_gradient();
    let blocks = pass.fold_rows(
        || (Vec::new(), Buffers::new(c)),
        |(results, buffers), i, u, gradient| {
            results.push(rows.evaluate(i, u, wanted.then_some(&mut *gradient), buffers));
            if let Some(through) = &through {
                gradient.iter_mut().zip(through.row(i)).for_each(|(g, extra)| *g += extra);
            }
        },
    );
    Ok(rows.reduce(&blocks.concat(), learned.as_ref()))
}

enum Targets<'a> {
    /// The class of each row, `None` where ignored.
    Hard(Vec<Option<usize>>),
    Soft(Matrix<'a>),
}

/// What one row gives.
#[derive(Clone, Copy)]
struct Row {
    ce: f64,
    lse: f64,
    prediction: i64,
    /// The perturbed probability of the label.
    confidence: f64,
}

/// What a row is evaluated in, `[C]` each: `v`, `exp(v - max)` and, unless all is the label's, `t * w`.
struct Buffers {
    v: Vec<f64>,
    exps: Vec<f64>,
    tw: Vec<f64>,
}

impl Buffers {
    fn new(c: usize) -> Self {
        Self { v: vec![0.0; c], exps: vec![0.0; c], tw: Vec::new() }
    }
}

/// The batch, validated, with its divisors: evaluates row by row.
struct Rows<'a> {
    problem: &'a CrossEntropy,
    columns: usize,
    target: Targets<'a>,
    omega: Vec<f64>,
    per_sample: Option<Matrix<'a>>,
    upstream: Upstream<'a>,
    /// Z and V of SPEC 1.
    divisors: (f64, f64),
    learned: Option<&'a Learned>,
}

impl<'a> Rows<'a> {
    fn new(problem: &'a CrossEntropy, batch: &CrossEntropyBatch<'a>, n: usize, c: usize) -> Result<Self> {
        let target = match batch.target {
            Target::Labels(labels) => {
                check::length("labels", labels.len(), n)?;
                Targets::Hard(labels.classes(c, problem.ignore_index())?)
            }
            Target::Soft(targets) => {
                check_soft(problem, targets, n, c)?;
                Targets::Soft(targets)
            }
        };
        let omega: Vec<f64> = match batch.sample_weights {
            None => vec![1.0; n],
            Some(weights) => {
                check::length("sample_weights", weights.len(), n)?;
                (0..n).map(|i| weights.get(i)).collect()
            }
        };
        let valid = |i: usize| !matches!(&target, Targets::Hard(labels) if labels[i].is_none());
        if let Some(i) = (0..n).find(|&i| valid(i) && !(omega[i].is_finite() && omega[i] >= 0.0)) {
            return Err(Error::value(format!("sample_weights[{i}]"), omega[i], "finite and >= 0"));
        }
        let per_sample = match (problem.perturbation(), batch.perturbation) {
            (Perturbation::PerSample, None) => {
                return Err(Error::conflict(
                    "perturbation = per sample",
                    "without its matrix",
                    "the batch must bring d[N, C]",
                ));
            }
            (Perturbation::PerSample, Some(matrix)) => {
                matrix.check_shape("perturbation", n, c)?;
                let bad = |&(i, k): &(usize, usize)| !matrix.get(i, k).is_finite();
                let places = |i: usize| (0..c).map(move |k| (i, k)).find(bad);
                if let Some((i, k)) = (0..n).into_par_iter().filter(|&i| valid(i)).find_map_first(places) {
                    return Err(Error::value(format!("perturbation[{i}, {k}]"), matrix.get(i, k), "finite"));
                }
                Some(matrix)
            }
            (_, Some(_)) => {
                return Err(Error::conflict(
                    "perturbation of the batch",
                    "with this problem",
                    "the problem's perturbation is not per sample",
                ));
            }
            (_, None) => None,
        };
        let divisors = match problem.reduction() {
            Reduction::Divisor(d) => (d, d),
            Reduction::Mean => {
                let weight = |i: usize| match &target {
                    Targets::Soft(_) => omega[i],
                    Targets::Hard(labels) => {
                        omega[i] * problem.class_weights().map_or(1.0, |w| w[labels[i].unwrap_or(0)])
                    }
                };
                let rows = || (0..n).filter(|&i| valid(i));
                (rows().map(weight).sum(), rows().count() as f64)
            }
            _ => (1.0, 1.0),
        };
        let upstream = batch.upstream;
        Ok(Self { problem, columns: c, target, omega, per_sample, upstream, divisors, learned: None })
    }

    fn label(&self, i: usize) -> Option<usize> {
        match &self.target {
            Targets::Hard(labels) => labels[i],
            Targets::Soft(_) => None,
        }
    }

    fn is_valid(&self, i: usize) -> bool {
        matches!(self.target, Targets::Soft(_)) || self.label(i).is_some()
    }

    /// Adds the fixed perturbation of row `i` to `u`.
    fn add_fixed(&self, i: usize, u: &mut [f64]) {
        let add = |u: &mut [f64], d: &[f64]| update(u, d, |u, d| u + d);
        match (self.problem.perturbation(), self.label(i)) {
            (Perturbation::Shared(d), _) => add(u, d),
            (Perturbation::TargetMargin(m), Some(y)) => u[y] -= m[y],
            (Perturbation::ClassMatrix(matrix), Some(y)) => add(u, &matrix[y * self.columns..][..self.columns]),
            _ => {}
        }
        if let Some(matrix) = self.per_sample {
            u.iter_mut().enumerate().for_each(|(c, u)| *u += matrix.get(i, c));
        }
    }

    /// Whether a `v` may differ from its `u`.
    fn is_perturbed(&self) -> bool {
        !matches!(self.problem.perturbation(), Perturbation::None)
            || self.learned.is_some()
            || !matches!(self.problem.scale(), LogitScale::Uniform(1.0))
    }

    /// `v_i = s * (u_i + delta_i)`.
    fn perturb(&self, i: usize, u: &[f64], v: &mut [f64]) {
        v.copy_from_slice(u);
        self.add_fixed(i, v);
        if let (Some(learned), Some(y)) = (self.learned, self.label(i)) {
            update(v, learned.delta(y), |v, delta| v + delta);
        }
        match self.problem.scale() {
            LogitScale::Uniform(s) => v.iter_mut().for_each(|v| *v *= s),
            LogitScale::PerClass(s) => update(v, s, |v, s| v * s),
        }
    }

    fn class_weight(&self, c: usize) -> f64 {
        self.problem.class_weights().map_or(1.0, |w| w[c])
    }

    /// `t_ic * w_c` of every class.
    fn weighted_targets(&self, i: usize, tw: &mut [f64]) {
        match (&self.target, self.label(i)) {
            (Targets::Soft(targets), _) => targets.read_row(i, tw),
            (Targets::Hard(_), label) => {
                let a = self.problem.label_smoothing();
                tw.fill(a / self.columns as f64);
                tw[label.expect("evaluated for valid rows only")] += 1.0 - a;
            }
        }
        tw.iter_mut().enumerate().for_each(|(c, t)| *t *= self.class_weight(c));
    }

    /// Row `i` of SPEC 1 and, where asked for, its gradient.
    fn evaluate(&self, i: usize, u: &[f64], gradient: Option<&mut [f64]>, buffers: &mut Buffers) -> Row {
        if !self.is_valid(i) {
            if let Some(gradient) = gradient {
                gradient.fill(0.0);
            }
            return Row { ce: 0.0, lse: 0.0, prediction: -1, confidence: 0.0 };
        }
        let largest_u = largest(u);
        let prediction = largest_u.map_or(-1, |(class, _)| class as i64);
        let Buffers { v, exps, tw } = buffers;
        let (v, largest_v) = if self.is_perturbed() {
            self.perturb(i, u, v);
            (&v[..], largest(v))
        } else {
            (u, largest_u)
        };
        let Some(softmax) = Softmax::of(v, largest_v, exps) else {
            if let Some(gradient) = gradient {
                gradient.fill(f64::NAN);
            }
            return Row { ce: f64::NAN, lse: f64::NAN, prediction, confidence: f64::NAN };
        };
        let hard = self.label(i).filter(|_| self.problem.label_smoothing() == 0.0);
        // A weight of 0 takes its term out, an infinite one included.
        let term = |weight: f64, c: usize| if weight == 0.0 { 0.0 } else { weight * softmax.cross_entropy(v[c]) };
        let sum = match hard {
            Some(y) => term(self.class_weight(y), y),
            None => {
                tw.resize(self.columns, 0.0);
                self.weighted_targets(i, tw);
                tw.iter().enumerate().map(|(c, &weight)| term(weight, c)).sum()
            }
        };
        let ce = if self.omega[i] == 0.0 { 0.0 } else { self.omega[i] * sum };
        let normaliser = softmax.normaliser();
        if let Some(gradient) = gradient {
            // The derivative of the weighted cross-entropy by v.
            match hard {
                Some(y) => {
                    let weight = self.class_weight(y) * normaliser;
                    update(gradient, exps, |_, e| e * weight);
                    gradient[y] = -(sum_but(exps, y) * weight);
                }
                None => {
                    let total = tw.iter().sum::<f64>() * normaliser;
                    gradient.iter_mut().zip(&*exps).zip(&*tw).for_each(|((g, e), tw)| *g = e * total - tw);
                }
            }
            let g = upstream_at(self.upstream, i);
            let (z, v) = self.divisors;
            let ce_factor = if z == 0.0 { 0.0 } else { self.omega[i] / z };
            let z_factor = 2.0 * self.problem.z_loss() * softmax.lse() / v * normaliser;
            let by_u = |ce: f64, e: f64, s: f64| times_upstream(s * (ce_factor * ce + z_factor * e), g);
            match self.problem.scale() {
                LogitScale::Uniform(s) => update(gradient, exps, |g, e| by_u(g, e, *s)),
                LogitScale::PerClass(s) => {
                    gradient.iter_mut().zip(&*exps).zip(s).for_each(|((g, e), s)| *g = by_u(*g, *e, *s));
                }
            }
        }
        let confidence = self.label(i).map_or(0.0, |y| exps[y] * normaliser);
        Row { ce, lse: softmax.lse(), prediction, confidence }
    }

    /// The sums over the batch, in row order.
    fn reduce(&self, rows: &[Row], learned: Option<&Learned>) -> CrossEntropyOutput {
        let z = self.problem.z_loss();
        let z_term = |row: &Row| if z == 0.0 { 0.0 } else { z * row.lse * row.lse };
        let ce: f64 = rows.iter().map(|row| row.ce).sum();
        let squares: f64 = rows.iter().map(z_term).sum();
        let valid = (0..rows.len()).filter(|&i| self.is_valid(i)).count();
        let by = |sum: f64, divisor: f64| match divisor {
            // Every weight is zero: the sum counts for nothing, unless a row is NaN.
            0.0 if sum.is_nan() => f64::NAN,
            0.0 => 0.0,
            _ => sum / divisor,
        };
        let loss_rows: Vec<f64> = rows.iter().map(|row| row.ce + z_term(row)).collect();
        let per_class = match &self.target {
            Targets::Soft(_) => None,
            Targets::Hard(labels) => {
                let c = self.columns;
                let mut sums = ClassStatistics {
                    count: vec![0; c],
                    loss: vec![0.0; c],
                    confidence: vec![0.0; c],
                    correct: vec![0; c],
                };
                for (i, (row, label)) in rows.iter().zip(labels).enumerate() {
                    if let Some(y) = *label {
                        sums.count[y] += 1;
                        sums.loss[y] += loss_rows[i];
                        sums.confidence[y] += row.confidence;
                        sums.correct[y] += usize::from(row.prediction == y as i64);
                    }
                }
                Some(sums)
            }
        };
        CrossEntropyOutput {
            // The sum of nothing is -0.
            loss: 0.0 + by(ce, self.divisors.0) + by(squares, self.divisors.1),
            loss_rows,
            lse: rows.iter().map(|row| row.lse).collect(),
            predictions: rows.iter().map(|row| row.prediction).collect(),
            valid,
            correct: per_class.as_ref().map_or(0, |sums| sums.correct.iter().sum()),
            per_class,
            learned: learned.map(Learned::output),
        }
    }
}

/// Soft targets exclude whatever needs a label, and are finite and not negative.
fn check_soft(problem: &CrossEntropy, targets: Matrix<'_>, n: usize, c: usize) -> Result<()> {
    problem.check_soft_targets()?;
    targets.check_shape("soft_targets", n, c)?;
    let bad =
        |i: usize| (0..c).map(|k| (i, k)).find(|&(i, k)| !(targets.get(i, k).is_finite() && targets.get(i, k) >= 0.0));
    match (0..n).into_par_iter().find_map_first(bad) {
        None => Ok(()),
        Some((i, k)) => Err(Error::value(format!("soft_targets[{i}, {k}]"), targets.get(i, k), "finite and >= 0")),
    }
}
