//! Multi-label sigmoid cross-entropy in f64, in the order of SPEC 4; what is learned comes from `learn_binary_cross_entropy`.

use super::batch::BinaryCrossEntropyBatch;
use super::learn_binary_cross_entropy::{BinaryLearned, LearnedBinaryPerturbation, learn};
use super::pass::{Pass, times_upstream, upstream_at};
use crate::data::Matrix;
use crate::error::{Error, Result};
use crate::loss::{BinaryCrossEntropy, Focusing, Reduction};
use crate::perturbation::sigmoid;
use rayon::prelude::*;

/// Everything that SPEC 4 names about a batch.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BinaryCrossEntropyOutput {
    /// The reduced loss; under [`Reduction::None`] the plain sum of [`loss_rows`](Self::loss_rows).
    pub loss: f64,
    /// `row_i`, `[N]`, not divided by anything.
    pub loss_rows: Vec<f64>,
    /// Entries that are not masked.
    pub unmasked: usize,
    /// Per class over its unmasked entries.
    pub per_class: BinaryClassStatistics,
    /// What the learner did, where there is one.
    pub learned: Option<LearnedBinaryPerturbation>,
}

/// Sums over the unmasked entries of each class, each `[C]`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BinaryClassStatistics {
    /// Entries.
    pub count: Vec<usize>,
    /// Targets: the number of positives where targets are hard.
    pub positives: Vec<f64>,
    /// Weighted losses `w * l`.
    pub loss: Vec<f64>,
}

/// Loss, gradient and statistics of a multi-label batch: SPEC 4 in f64. What a learner does here follows this project's equations, not the
/// paper's.
///
/// Shapes: logits, targets and gradient `[N, C]`; the rest as [`BinaryCrossEntropyBatch`] and [`BinaryCrossEntropyOutput`] say. The gradient
/// is of the reduced loss (under [`Reduction::None`]: of each row's loss) times the upstream gradient, and every element of it is written.
///
/// ```
/// use logit_perturb::{BinaryCrossEntropy, BinaryTargets, Matrix, cpu};
/// let logits = [2.0f32, -1.0, 0.5, 0.0];
/// let targets = BinaryTargets::I8 { data: &[1, 0, -1, 0], stride: 2 };
/// let logits = Matrix::new(&logits, 2, 2)?;
/// let batch = cpu::BinaryCrossEntropyBatch::new(targets);
/// let output = cpu::binary_cross_entropy(&BinaryCrossEntropy::default(), logits, batch)?;
/// assert_eq!(output.unmasked, 3);
/// # Ok::<(), logit_perturb::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] where shapes disagree, [`Error::Target`] for targets out of range (with a learner: for soft ones too), [`Error::Value`]
/// for entry weights out of range, [`Error::Conflict`] for an upstream gradient a row under a reduction. Nothing is written then.
pub fn binary_cross_entropy<'a>(
    problem: &BinaryCrossEntropy,
    pass: impl Into<Pass<'a>>,
    batch: BinaryCrossEntropyBatch<'_>,
) -> Result<BinaryCrossEntropyOutput> {
    let pass = pass.into();
    let (n, c) = pass.check(problem.classes(), problem.reduction(), batch.upstream)?;
    let entries = Entries::decode(problem, &batch, n, c)?;
    let unmasked = entries.known.iter().filter(|known| **known).count();
    let divisor = match problem.reduction() {
        // Of nothing, the sum is 0 and so is the mean.
        Reduction::Mean => unmasked.max(1) as f64,
        Reduction::BatchMean => n.max(1) as f64,
        Reduction::Divisor(d) => d,
        _ => 1.0,
    };
    let learned = problem.learner().map(|learner| learn(learner, problem.perturbation(), pass.logits(), &entries));
    let evaluate = |i: usize, u: &[f64], gradient: Option<&mut [f64]>| {
        let factor = upstream_at(batch.upstream, i) / divisor;
        evaluate_row(problem, &entries, learned.as_ref(), i, u, gradient.map(|gradient| (gradient, factor)))
    };
    let through = match &learned {
        Some(learned) if learned.is_through() && pass.wants_gradient() => {
            let logits = pass.logits();
            let gradients = (0..n).into_par_iter().map(|i| {
                let (mut u, mut h) = (vec![0.0; c], vec![0.0; c]);
                logits.read_row(i, &mut u);
                evaluate(i, &u, Some(&mut h));
                h
            });
            Some(learned.through(logits, &entries, &gradients.collect::<Vec<_>>()))
        }
        _ => None,
    };
    let rows: Vec<Vec<f64>> = pass.map_rows(|i, u, mut gradient| {
        let losses = evaluate(i, u, gradient.as_deref_mut());
        if let (Some(through), Some(gradient)) = (&through, gradient) {
            gradient.iter_mut().enumerate().for_each(|(class, g)| *g += through[class][i]);
        }
        losses
    });
    let loss_rows: Vec<f64> = rows.iter().map(|losses| losses.iter().sum()).collect();
    let total: f64 = loss_rows.iter().sum();
    let mut per_class = BinaryClassStatistics { count: vec![0; c], positives: vec![0.0; c], loss: vec![0.0; c] };
    for (i, losses) in rows.iter().enumerate() {
        for (class, loss) in losses.iter().enumerate() {
            per_class.count[class] += usize::from(entries.known[i * c + class]);
            per_class.positives[class] += entries.targets[i * c + class];
            per_class.loss[class] += loss;
        }
    }
    Ok(BinaryCrossEntropyOutput {
        // The sum of nothing is -0.
        loss: 0.0 + total / divisor,
        loss_rows,
        unmasked,
        per_class,
        learned: learned.map(BinaryLearned::into_output),
    })
}

/// The batch's targets, mask and weights, decoded to `[N, C]` and validated.
pub(super) struct Entries {
    pub(super) columns: usize,
    /// 0 where masked.
    pub(super) targets: Vec<f64>,
    pub(super) known: Vec<bool>,
    weights: Option<Vec<f64>>,
}

impl Entries {
    fn decode(problem: &BinaryCrossEntropy, batch: &BinaryCrossEntropyBatch<'_>, n: usize, c: usize) -> Result<Self> {
        batch.targets.check_shape(n, c)?;
        batch.mask.map_or(Ok(()), |mask| mask.check_shape(n, c))?;
        let mut targets = vec![0.0; n * c];
        let mut known = vec![true; n * c];
        let hard = problem.learner().is_some();
        let rows = targets.par_chunks_mut(c).zip(known.par_chunks_mut(c)).enumerate();
        first_error(rows.map(|(row, (targets, known))| {
            batch.targets.read_row(row, batch.mask, targets, known)?;
            match targets.iter().position(|t| hard && *t != 0.0 && *t != 1.0) {
                None => Ok(()),
                Some(class) => Err(Error::Target {
                    row,
                    problem: format!("class {class} is {}, must be 0 or 1 with a learner", targets[class]),
                }),
            }
        }))?;
        let weights = batch.weights.map(|weights| decode_weights(weights, &known, n, c)).transpose()?;
        Ok(Self { columns: c, targets, known, weights })
    }
}

fn decode_weights(matrix: Matrix<'_>, known: &[bool], n: usize, c: usize) -> Result<Vec<f64>> {
    matrix.check_shape("weights", n, c)?;
    let mut weights = vec![0.0; n * c];
    let rows = weights.par_chunks_mut(c).zip(known.par_chunks(c)).enumerate();
    first_error(rows.map(|(row, (weights, known))| {
        matrix.read_row(row, weights);
        for (class, (w, known)) in weights.iter().zip(known).enumerate() {
            if *known && !(w.is_finite() && *w >= 0.0) {
                return Err(Error::value(format!("weights[{row}, {class}]"), w, "finite and >= 0"));
            }
        }
        Ok(())
    }))?;
    Ok(weights)
}

/// The first error by row, whatever the threads did first.
fn first_error(rows: impl IndexedParallelIterator<Item = Result<()>>) -> Result<()> {
    let errors: Vec<Result<()>> = rows.collect();
    errors.into_iter().find(Result::is_err).unwrap_or(Ok(()))
}

/// The weighted losses of row `i`; the gradient, multiplied by its factor, where asked for.
fn evaluate_row(
    problem: &BinaryCrossEntropy,
    entries: &Entries,
    learned: Option<&BinaryLearned>,
    i: usize,
    u: &[f64],
    mut gradient: Option<(&mut [f64], f64)>,
) -> Vec<f64> {
    let at = |class: usize| {
        let index = i * entries.columns + class;
        if !entries.known[index] {
            return (0.0, 0.0);
        }
        let t = entries.targets[index];
        let (beta, dpos, dneg) = problem.perturbation().at(class);
        let (delta_pos, delta_neg) = learned.map_or((0.0, 0.0), |learned| learned.delta(class));
        let mut v = u[class] + beta;
        // A part with share 0 does not enter: a learned delta can be NaN.
        if t > 0.0 {
            v += t * (dpos + delta_pos);
        }
        if t < 1.0 {
            v += (1.0 - t) * (dneg + delta_neg);
        }
        let weight = entries.weights.as_ref().map_or(1.0, |w| w[index]);
        if v.is_nan() || weight == 0.0 {
            let nothing = if v.is_nan() { f64::NAN } else { 0.0 };
            return (nothing, nothing);
        }
        let positive = (problem.pos_weight().map_or(1.0, |p| p[class]) * t, positive_loss(v, problem.focusing()));
        let negative = (1.0 - t, negative_loss(v, problem.negative_scale(), problem.focusing()));
        // A share of 0 takes its loss out, an infinite one included.
        let sum = [positive, negative]
            .iter()
            .filter(|(share, _)| *share != 0.0)
            .fold((0.0, 0.0), |sum, (share, term)| (sum.0 + share * term.0, sum.1 + share * term.1));
        (weight * sum.0, weight * sum.1)
    };
    let mut losses = vec![0.0; entries.columns];
    for (class, loss) in losses.iter_mut().enumerate() {
        let (l, derivative) = at(class);
        *loss = l;
        if let Some((gradient, factor)) = &mut gradient {
            gradient[class] = times_upstream(derivative, *factor);
        }
    }
    losses
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// Loss and derivative of a positive: `(1 - p)^gamma_pos * softplus(-v)`.
fn positive_loss(v: f64, focusing: Option<Focusing>) -> (f64, f64) {
    let gamma = focusing.map_or(0.0, |focusing| focusing.gamma_pos);
    let (p, q, loss) = (sigmoid(v), sigmoid(-v), softplus(-v));
    let weight = q.powf(gamma);
    // p * loss tends to 0 as v -> -inf, where p is 0 and the loss infinite.
    let p_loss = if p == 0.0 { 0.0 } else { p * loss };
    (weight * loss, -weight * (gamma * p_loss + q))
}

/// Loss and derivative of a negative: `softplus(lam * v) / lam`, or `pm^gamma_neg * -ln(1 - pm)` with `pm = max(p - clip, 0)`.
fn negative_loss(v: f64, scale: f64, focusing: Option<Focusing>) -> (f64, f64) {
    let Some(Focusing { gamma_neg: gamma, clip, .. }) = focusing else {
        return (softplus(scale * v) / scale, sigmoid(scale * v));
    };
    let (p, q) = (sigmoid(v), sigmoid(-v));
    let pm = (p - clip).max(0.0);
    if pm == 0.0 {
        return (0.0, 0.0);
    }
    // -ln(1 - pm): from q = 1 - p where pm is large, from pm where it is small.
    let log = match clip {
        0.0 => softplus(v),
        _ if pm > 0.5 => -(q + clip).ln(),
        _ => -(-pm).ln_1p(),
    };
    // p * q / (1 - pm), and q * log, whose limit is 0 as v -> inf.
    let slope = if clip == 0.0 { p } else { p * q / (q + clip) };
    let q_log = if q == 0.0 { 0.0 } else { q * log };
    let weight = pm.powf(gamma);
    (weight * log, weight * (gamma * p * q_log / pm + slope))
}
