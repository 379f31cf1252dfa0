//! Multi-label sigmoid cross-entropy in f64, in the order of SPEC 4; what is learned comes from `learn_binary_cross_entropy`.

use super::batch::BinaryCrossEntropyBatch;
use super::exp::{exp, ln_1p};
use super::learn_binary_cross_entropy::{BinaryLearned, LearnedBinaryPerturbation, learn};
use super::pass::{Pass, times_upstream, upstream_at};
use super::vector::sum;
use crate::data::Matrix;
use crate::error::{Error, Result};
use crate::loss::{BinaryCrossEntropy, Focusing, Reduction};
use crate::perturbation::sigmoid;
use multiversion::multiversion;
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
    let shape = pass.check(problem.classes(), problem.reduction(), batch.upstream)?;
    // Waits for the pool once, not in each of the loops.
    rayon::scope(|_| evaluate(problem, pass, batch, shape))
}

fn evaluate(
    problem: &BinaryCrossEntropy,
    pass: Pass<'_>,
    batch: BinaryCrossEntropyBatch<'_>,
    (n, c): (usize, usize),
) -> Result<BinaryCrossEntropyOutput> {
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
    let columns = Columns::new(problem, learned.as_ref(), c);
    let evaluate = |i: usize, u: &[f64], gradient: &mut [f64], sums: &mut Sums, losses: &mut [f64]| {
        let factor = upstream_at(batch.upstream, i) / divisor;
        columns.evaluate(problem, &entries.row(i), u, (gradient, factor), sums, losses);
    };
    let through = match &learned {
        Some(learned) if learned.is_through() && pass.wants_gradient() => {
            let logits = pass.logits();
            let gradients = (0..n).into_par_iter().map(|i| {
                let (mut u, mut h) = (vec![0.0; c], vec![0.0; c]);
                logits.read_row(i, &mut u);
                evaluate(i, &u, &mut h, &mut Sums::new(c), &mut vec![0.0; c]);
                h
            });
            Some(learned.through(logits, &entries, &gradients.collect::<Vec<_>>()))
        }
        _ => None,
    };
    let blocks = pass.fold_rows(
        || (Sums::new(c), vec![0.0; c]),
        |(sums, losses), i, u, gradient| {
            evaluate(i, u, gradient, sums, losses);
            if let Some(through) = &through {
                gradient.iter_mut().zip(through).for_each(|(g, through)| *g += through[i]);
            }
        },
    );
    let Sums { loss_rows, per_class } = Sums::of(c, blocks);
    let total: f64 = loss_rows.iter().sum();
    Ok(BinaryCrossEntropyOutput {
        // The sum of nothing is -0.
        loss: 0.0 + total / divisor,
        loss_rows,
        unmasked,
        per_class,
        learned: learned.map(BinaryLearned::into_output),
    })
}

/// What rows add up to: the losses of each, and by class.
struct Sums {
    loss_rows: Vec<f64>,
    per_class: BinaryClassStatistics,
}

impl Sums {
    fn new(c: usize) -> Self {
        let per_class = BinaryClassStatistics { count: vec![0; c], positives: vec![0.0; c], loss: vec![0.0; c] };
        Self { loss_rows: Vec::new(), per_class }
    }

    fn of(c: usize, blocks: Vec<Self>) -> Self {
        blocks.into_iter().fold(Self::new(c), |mut sums, block| {
            let (to, from) = (&mut sums.per_class, &block.per_class);
            to.count.iter_mut().zip(&from.count).for_each(|(sum, count)| *sum += count);
            to.positives.iter_mut().zip(&from.positives).for_each(|(sum, positives)| *sum += positives);
            to.loss.iter_mut().zip(&from.loss).for_each(|(sum, loss)| *sum += loss);
            sums.loss_rows.extend(block.loss_rows);
            sums
        })
    }
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
            if hard && let Some(class) = targets.iter().position(|t| *t != 0.0 && *t != 1.0) {
                let problem = format!("class {class} is {}, must be 0 or 1 with a learner", targets[class]);
                return Err(Error::Target { row, problem });
            }
            Ok(())
        }))?;
        let weights = batch.weights.map(|weights| decode_weights(weights, &known, n, c)).transpose()?;
        Ok(Self { columns: c, targets, known, weights })
    }

    fn row(&self, i: usize) -> Row<'_> {
        let row = i * self.columns..(i + 1) * self.columns;
        Row {
            targets: &self.targets[row.clone()],
            known: &self.known[row.clone()],
            weights: self.weights.as_ref().map(|weights| &weights[row]),
        }
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
    rows.find_map_first(Result::err).map_or(Ok(()), Err)
}

/// What the entries of a column share, `[C]` each.
struct Columns {
    /// Added to the logit: always, in proportion to the target, in proportion to 1 - target.
    offset: Vec<f64>,
    positive: Vec<f64>,
    negative: Vec<f64>,
    pos_weight: Vec<f64>,
    /// The weights of a row's entries where none are given.
    ones: Vec<f64>,
}

/// Loss and derivative.
type Term = (f64, f64);

impl Columns {
    fn new(problem: &BinaryCrossEntropy, learned: Option<&BinaryLearned>, c: usize) -> Self {
        let (zeros, ones) = (vec![0.0; c], vec![1.0; c]);
        let pos_weight = problem.pos_weight().map_or_else(|| ones.clone(), <[f64]>::to_vec);
        let mut columns = Self { offset: zeros.clone(), positive: zeros.clone(), negative: zeros, pos_weight, ones };
        for class in 0..c {
            let (beta, dpos, dneg) = problem.perturbation().at(class);
            let (delta_pos, delta_neg) = learned.map_or((0.0, 0.0), |learned| learned.delta(class));
            columns.offset[class] = beta;
            columns.positive[class] = dpos + delta_pos;
            columns.negative[class] = dneg + delta_neg;
        }
        columns
    }

    /// Evaluates a row: its weighted losses, its gradient, multiplied by a factor, and what it adds to the sums.
    fn evaluate(
        &self,
        problem: &BinaryCrossEntropy,
        row: &Row<'_>,
        u: &[f64],
        gradient: (&mut [f64], f64),
        sums: &mut Sums,
        losses: &mut [f64],
    ) {
        let per_class = &mut sums.per_class;
        match (problem.focusing(), problem.negative_scale()) {
            (Some(focusing), _) => evaluate_row(self, row, u, losses, gradient, per_class, Focused(focusing)),
            (None, 1.0) => evaluate_row(self, row, u, losses, gradient, per_class, Logistic),
            (None, scale) => evaluate_row(self, row, u, losses, gradient, per_class, Scaled(scale)),
        }
        sums.loss_rows.push(sum(losses));
    }
}

/// What a row brings besides its logits, `[C]` each.
struct Row<'a> {
    targets: &'a [f64],
    known: &'a [bool],
    weights: Option<&'a [f64]>,
}

#[multiversion(targets = "simd")]
fn evaluate_row(
    columns: &Columns,
    row: &Row<'_>,
    u: &[f64],
    losses: &mut [f64],
    (gradient, factor): (&mut [f64], f64),
    sums: &mut BinaryClassStatistics,
    terms: impl Terms,
) {
    // All of one length, which leaves no bounds to check.
    let c = u.len();
    let (targets, known, weights) = (&row.targets[..c], &row.known[..c], &row.weights.unwrap_or(&columns.ones)[..c]);
    let (offset, positive, negative) = (&columns.offset[..c], &columns.positive[..c], &columns.negative[..c]);
    let (pos_weight, losses, gradient) = (&columns.pos_weight[..c], &mut losses[..c], &mut gradient[..c]);
    let (count, positives, loss) = (&mut sums.count[..c], &mut sums.positives[..c], &mut sums.loss[..c]);
    // A share of 0 takes out what it is of, which can be infinite or NaN.
    let part = |share: f64, x: f64| if share == 0.0 { 0.0 } else { share * x };
    for class in 0..c {
        let t = targets[class];
        let v = u[class] + offset[class] + part(t, positive[class]) + part(1.0 - t, negative[class]);
        let (of_positive, of_negative) = terms.at(v);
        let share = pos_weight[class] * t;
        let weighted = |of_positive: f64, of_negative: f64| {
            let sum = part(share, of_positive) + part(1.0 - t, of_negative);
            let weighted = if v.is_nan() { f64::NAN } else { part(weights[class], sum) };
            if known[class] { weighted } else { 0.0 }
        };
        losses[class] = weighted(of_positive.0, of_negative.0);
        gradient[class] = times_upstream(weighted(of_positive.1, of_negative.1), factor);
        count[class] += usize::from(known[class]);
        positives[class] += t;
        loss[class] += losses[class];
    }
}

/// How losses follow from v. A trait, whose methods are inlined where a closure's body would not be.
trait Terms {
    /// A positive's and a negative's.
    fn at(&self, v: f64) -> (Term, Term);
}

/// `softplus(-v)`, `softplus(v)`.
struct Logistic;

impl Terms for Logistic {
    #[inline(always)]
    fn at(&self, v: f64) -> (Term, Term) {
        let e = exp(-v.abs());
        let (ln, larger) = (ln_1p(e), 1.0 / (1.0 + e));
        let smaller = e * larger;
        let (p, q) = if v >= 0.0 { (larger, smaller) } else { (smaller, larger) };
        let (above, below) = if v >= 0.0 { (v, 0.0) } else { (0.0, -v) };
        ((below + ln, -q), (above + ln, p))
    }
}

/// `softplus(-v)`, `softplus(scale * v) / scale`.
struct Scaled(f64);

impl Terms for Scaled {
    #[inline(always)]
    fn at(&self, v: f64) -> (Term, Term) {
        let (loss, derivative) = Logistic.at(self.0 * v).1;
        (Logistic.at(v).0, (loss / self.0, derivative))
    }
}

/// The focal and the asymmetric loss.
struct Focused(Focusing);

impl Terms for Focused {
    fn at(&self, v: f64) -> (Term, Term) {
        (positive_loss(v, self.0), negative_loss(v, self.0))
    }
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// Of a focused positive: `(1 - p)^gamma_pos * softplus(-v)`.
fn positive_loss(v: f64, focusing: Focusing) -> Term {
    let gamma = focusing.gamma_pos;
    let (p, q, loss) = (sigmoid(v), sigmoid(-v), softplus(-v));
    let weight = q.powf(gamma);
    // p * loss tends to 0 as v -> -inf, where p is 0 and the loss infinite.
    let p_loss = if p == 0.0 { 0.0 } else { p * loss };
    (weight * loss, -weight * (gamma * p_loss + q))
}

/// Of a focused negative: `pm^gamma_neg * -ln(1 - pm)` with `pm = max(p - clip, 0)`.
fn negative_loss(v: f64, Focusing { gamma_neg: gamma, clip, .. }: Focusing) -> Term {
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
