//! The single-label learner (LPL) in f64, in the order of SPEC 3: confidences, directions, bounds, steps, then the projected-gradient
//! steps of each class, in the factored form `softmax(u + delta) = E * w / (E . w)` with `E = exp(u - max u)` and `w = exp(delta)`.

use super::softmax::Softmax;
use super::vector::{dot, exps, exps_of_differences, largest, sum_but, update};
use crate::perturbation::{GradientSemantics, Learner, RunningConfidence, Step, steps};
use rayon::prelude::*;

/// What the single-label learner did, for the P classes present in the batch [Alg. 1].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LearnedPerturbation {
    /// The classes with a valid row, ascending, `[P]`.
    pub classes: Vec<usize>,
    /// `delta_c` [Eq. 11, 12], row-major `[P, C]`; NaN for a class whose confidence is not finite.
    pub delta: Vec<f64>,
    /// -1, 0 or 1 [Eq. 9, 10], `[P]`.
    pub direction: Vec<i8>,
    /// `eps_c` [Eq. 13, 14], `[P]`.
    pub bound: Vec<f64>,
    /// Steps taken, `[P]`.
    pub steps: Vec<u32>,
    /// The confidences that decided, `[P]`: the batch's, or the running ones where the batch brings them; NaN where this batch's is not
    /// finite, and so is the bound where it depends on it.
    pub confidence: Vec<f64>,
    /// Mean confidences `q_c` in this batch, `[P]`.
    pub batch_confidence: Vec<f64>,
    /// The threshold of the split; NaN where the split has none.
    pub tau: f64,
}

/// Reads row `i` of the logits, fixed perturbation included.
pub(super) trait ReadRow: Fn(usize, &mut [f64]) + Sync {}
impl<F: Fn(usize, &mut [f64]) + Sync> ReadRow for F {}

/// One class of the batch.
struct Class {
    class: usize,
    rows: Vec<usize>,
    batch_confidence: f64,
    confidence: f64,
    direction: i8,
    bound: f64,
    steps: u32,
    delta: Vec<f64>,
    /// `delta` before each step, kept for `Through` alone.
    trajectory: Vec<Vec<f64>>,
}

/// The learned perturbation with what its backward pass needs.
pub(super) struct Learned {
    learner: Learner,
    columns: usize,
    tau: f64,
    classes: Vec<Class>,
    /// Class to place in `classes`.
    place: Vec<Option<usize>>,
}

/// Runs the learner over the batch. `labels` are the classes of the rows, `None` where ignored. What a gradient through the steps needs is
/// kept where one is wanted.
pub(super) fn learn(
    learner: &Learner,
    labels: &[Option<usize>],
    columns: usize,
    read: &impl ReadRow,
    running: Option<&mut RunningConfidence>,
    wants_gradient: bool,
) -> Learned {
    let mut rows_of = vec![Vec::new(); columns];
    for (row, label) in labels.iter().enumerate() {
        if let Some(class) = *label {
            rows_of[class].push(row);
        }
    }
    let q = confidences(labels, &rows_of, columns, read);
    let used = running.map_or_else(|| q.clone(), |running| running.use_then_update(&q));
    let (direction, tau) = learner.split().directions(&used);
    let bound = learner.bound().bounds(learner.split(), &used, tau);
    let present = rows_of.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty());
    let mut classes: Vec<Class> = present
        .map(|(c, rows)| {
            let steps = if direction[c] == 0 { 0 } else { steps(bound[c], learner.alpha()) };
            Class {
                class: c,
                rows,
                batch_confidence: q[c],
                confidence: used[c],
                direction: direction[c],
                bound: bound[c],
                steps,
                delta: vec![if q[c].is_finite() { 0.0 } else { f64::NAN }; columns],
                trajectory: Vec::new(),
            }
        })
        .collect();
    classes.par_iter_mut().filter(|class| class.batch_confidence.is_finite()).for_each(|class| {
        class.descend(learner, read, wants_gradient);
    });
    let mut place = vec![None; columns];
    for (index, class) in classes.iter().enumerate() {
        place[class.class] = Some(index);
    }
    Learned { learner: learner.clone(), columns, tau, classes, place }
}

/// `q_c`, the mean confidence in the true class; NaN for absent classes, and where a row has no softmax.
fn confidences(labels: &[Option<usize>], rows_of: &[Vec<usize>], columns: usize, read: &impl ReadRow) -> Vec<f64> {
    let scratch = || (vec![0.0; columns], vec![0.0; columns]);
    let of_row = |(u, exps): &mut (Vec<f64>, Vec<f64>), i: usize| {
        let class = labels[i]?;
        read(i, u);
        let softmax = Softmax::of(u, largest(u), exps)?;
        Some(exps[class] * softmax.normaliser())
    };
    let by_row: Vec<Option<f64>> = (0..labels.len()).into_par_iter().map_init(scratch, of_row).collect();
    let mean = |rows: &Vec<usize>| {
        let sum: f64 = rows.iter().map(|&i| by_row[i].unwrap_or(f64::NAN)).sum();
        sum / rows.len() as f64
    };
    rows_of.iter().map(mean).collect()
}

/// `E` may be used for as long as `delta` is this near to where `E` was taken: beyond, products of `E` and `w` lose what matters.
const FACTORED_RANGE: f64 = 30.0;

/// Rows times columns that are worth a task of their own.
const CHUNK: usize = 1 << 16;

/// `E_i = exp(u_i + base - max)` of some rows of a class, the target column apart.
struct Factored {
    e: Vec<f64>,
    target: Vec<f64>,
}

impl Factored {
    fn of(rows: &[usize], class: usize, base: &[f64], read: &impl ReadRow) -> Self {
        let columns = base.len();
        let mut e = vec![0.0; rows.len() * columns];
        let mut target = vec![0.0; rows.len()];
        let mut u = vec![0.0; columns];
        for ((&row, e), target) in rows.iter().zip(e.chunks_mut(columns)).zip(&mut target) {
            read(row, &mut u);
            update(&mut u, base, |u, base| u + base);
            exps(&u, largest(&u).map_or(f64::NAN, |(_, max)| max), e);
            // With the target column out, its gradient is the sum of the others and never cancels.
            *target = std::mem::take(&mut e[class]);
        }
        Self { e, target }
    }

    /// Adds the rows' gradients to `g`, but for the factor `w_j` of column j. Returns the sum of what the target column gets.
    fn add_gradients(&self, class: usize, w: &[f64], g: &mut [f64]) -> f64 {
        let mut others_sum = 0.0;
        for (e, target) in self.e.chunks(w.len()).zip(&self.target) {
            let others = dot(e, w);
            let inverse = 1.0 / (others + target * w[class]);
            others_sum += others * inverse;
            update(g, e, |g, e| e.mul_add(inverse, g));
        }
        others_sum
    }
}

impl Class {
    /// The projected-gradient steps [Alg. 1, Eq. 11, 12].
    fn descend(&mut self, learner: &Learner, read: &impl ReadRow, wants_gradient: bool) {
        if self.steps == 0 {
            return;
        }
        let (class, columns, share) = (self.class, self.delta.len(), 1.0 / self.rows.len() as f64);
        // Fixed by sizes alone, so that the sums are the same for any number of threads.
        let chunk = (CHUNK / columns).max(1);
        let parts = |base: &[f64]| -> Vec<Factored> {
            self.rows.par_chunks(chunk).map(|rows| Factored::of(rows, class, base, read)).collect()
        };
        let mut base = self.delta.clone();
        let mut factored = parts(&base);
        let (mut w, mut g) = (vec![0.0; columns], vec![0.0; columns]);
        for _ in 0..self.steps {
            if wants_gradient && learner.gradient_semantics() == GradientSemantics::Through {
                self.trajectory.push(self.delta.clone());
            }
            if exps_of_differences(&self.delta, &base, FACTORED_RANGE, &mut w) {
                base.copy_from_slice(&self.delta);
                factored = parts(&base);
                w.fill(1.0);
            }
            let target = match factored.as_slice() {
                [one] => {
                    g.fill(0.0);
                    one.add_gradients(class, &w, &mut g)
                }
                many => sum_in_order(many, class, &w, &mut g),
            };
            update(&mut g, &w, |g, w| g * w * share);
            g[class] = -target * share;
            let factor = f64::from(self.direction) * learner.alpha() / norm_of_step(learner.step(), &g);
            update(&mut self.delta, &g, |delta, g| g.mul_add(factor, delta));
        }
    }
}

/// What `Step` divides the gradient by.
fn norm_of_step(step: Step, g: &[f64]) -> f64 {
    match step {
        Step::Raw => 1.0,
        Step::UnitL2 => dot(g, g).sqrt().max(1e-12),
    }
}

fn sum_in_order(parts: &[Factored], class: usize, w: &[f64], g: &mut [f64]) -> f64 {
    let one = |part: &Factored| {
        let mut g = vec![0.0; w.len()];
        let target = part.add_gradients(class, w, &mut g);
        (g, target)
    };
    let results: Vec<(Vec<f64>, f64)> = parts.par_iter().map(one).collect();
    g.fill(0.0);
    results.iter().for_each(|(part, _)| update(g, part, |g, part| g + part));
    results.iter().map(|(_, target)| target).sum()
}

/// What `Through` adds to each row's gradient: nothing (an empty slice) where the row is ignored.
pub(super) struct Through(Vec<Vec<f64>>);

impl Through {
    /// What is added to row `i`.
    pub(super) fn row(&self, i: usize) -> &[f64] {
        self.0.get(i).map_or(&[], Vec::as_slice)
    }
}

impl Learned {
    /// The perturbation of a class that is present.
    pub(super) fn delta(&self, class: usize) -> &[f64] {
        let index = self.place[class].expect("a class with a valid row is present");
        &self.classes[index].delta
    }

    pub(super) fn is_through(&self) -> bool {
        self.learner.gradient_semantics() == GradientSemantics::Through
    }

    /// Differentiates through the steps. `row(i, u, h)` gives row `i`'s logits (fixed perturbation included) and the gradient of the
    /// loss by its perturbed logits.
    ///
    /// With `J_i = diag(p_i) - p_i p_i^T` at `delta^k`: the adjoint of `g` is `direction * alpha * step'(g)^T` applied to the adjoint of
    /// `delta^(k+1)`; `J_i` times it, over `N_c`, goes to `u_i` and, summed, to the adjoint of `delta^k`.
    pub(super) fn through(&self, columns: usize, row: &(impl Fn(usize, &mut [f64], &mut [f64]) + Sync)) -> Through {
        let of_class = |class: &Class| class.through(&self.learner, columns, row);
        let by_class: Vec<Vec<Vec<f64>>> = self.classes.par_iter().map(of_class).collect();
        let count = self.classes.iter().flat_map(|class| &class.rows).max().map_or(0, |row| row + 1);
        let mut rows = vec![Vec::new(); count];
        for (class, gradients) in self.classes.iter().zip(by_class) {
            for (&i, gradient) in class.rows.iter().zip(gradients) {
                rows[i] = gradient;
            }
        }
        Through(rows)
    }

    pub(super) fn output(&self) -> LearnedPerturbation {
        let each = || self.classes.iter();
        let mut delta = Vec::with_capacity(self.classes.len() * self.columns);
        each().for_each(|class| delta.extend_from_slice(&class.delta));
        LearnedPerturbation {
            classes: each().map(|class| class.class).collect(),
            delta,
            direction: each().map(|class| class.direction).collect(),
            bound: each().map(|class| class.bound).collect(),
            steps: each().map(|class| class.steps).collect(),
            confidence: each().map(|class| class.confidence).collect(),
            batch_confidence: each().map(|class| class.batch_confidence).collect(),
            tau: self.tau,
        }
    }
}

impl Class {
    fn through(
        &self,
        learner: &Learner,
        columns: usize,
        row: &(impl Fn(usize, &mut [f64], &mut [f64]) + Sync),
    ) -> Vec<Vec<f64>> {
        let n = self.rows.len() as f64;
        let mut u = vec![vec![0.0; columns]; self.rows.len()];
        let mut extra = u.clone();
        let mut adjoint = vec![0.0; columns];
        let mut h = vec![0.0; columns];
        for (&i, u) in self.rows.iter().zip(&mut u) {
            row(i, u, &mut h);
            adjoint.iter_mut().zip(&h).for_each(|(adjoint, h)| *adjoint += h);
        }
        let mut p = vec![vec![0.0; columns]; self.rows.len()];
        let mut v = vec![0.0; columns];
        for delta in self.trajectory.iter().rev() {
            let mut g = vec![0.0; columns];
            for (u, p) in u.iter().zip(&mut p) {
                v.iter_mut().zip(u).zip(delta).for_each(|((v, u), delta)| *v = u + delta);
                // Logits near the end of f64 can overflow with their perturbation.
                let Some(softmax) = Softmax::of(&v, largest(&v), p) else {
                    return vec![vec![f64::NAN; columns]; self.rows.len()];
                };
                p.iter_mut().for_each(|p| *p *= softmax.normaliser());
                let others = sum_but(p, self.class);
                for (c, (g, p)) in g.iter_mut().zip(&*p).enumerate() {
                    *g += if c == self.class { -others } else { *p } / n;
                }
            }
            let norm = norm_of_step(learner.step(), &g);
            let along =
                if learner.step() == Step::UnitL2 && norm > 1e-12 { dot(&g, &adjoint) / (norm * norm) } else { 0.0 };
            let factor = f64::from(self.direction) * learner.alpha() / norm;
            let of_g: Vec<f64> = adjoint.iter().zip(&g).map(|(adjoint, g)| factor * (adjoint - along * g)).collect();
            // J_i does not see a shift of all columns: relative to the target's, nothing cancels where p nears 1.
            let of_target = of_g[self.class];
            let of_g: Vec<f64> = of_g.iter().map(|of_g| of_g - of_target).collect();
            for (p, extra) in p.iter().zip(&mut extra) {
                let mean = dot(p, &of_g);
                for (((p, of_g), extra), adjoint) in p.iter().zip(&of_g).zip(extra).zip(&mut adjoint) {
                    let gradient = p * (of_g - mean) / n;
                    *extra += gradient;
                    *adjoint += gradient;
                }
            }
        }
        extra
    }
}
