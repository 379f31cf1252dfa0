//! The magnitudes that the tolerances of SPEC 6 are stated in: `max |v|` of each row, and `G` of each gradient element.

use logit_perturb::cpu::{BinaryCrossEntropyOutput, CrossEntropyOutput};
use logit_perturb::{BinaryCrossEntropy, CrossEntropy, Perturbation, Reduction};

/// Magnitudes of a batch `[N, C]`.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    /// The largest finite `|v|` of each row.
    pub(crate) row: Vec<f64>,
    /// `G / a`, `[N, C]`.
    pub(crate) gradient: Vec<f64>,
    /// The bounds of a learner: of the classes present, or of the positives and then the negatives; none without one.
    pub(crate) bounds: Vec<f64>,
    /// The bounds divided by alpha where they depend on confidences, else empty: f32 may take a step more or less near an integer.
    pub(crate) step_quotients: Vec<f64>,
}

impl Scale {
    /// `eps` of element `i` of the expectation `delta`, `delta_pos` or `delta_neg`.
    pub(crate) fn bound(&self, name: &str, i: usize, columns: usize) -> f64 {
        let place = match name {
            "delta" => i / columns,
            "delta_neg" => columns + i,
            _ => i,
        };
        self.bounds.get(place).copied().filter(|bound| bound.is_finite()).unwrap_or(0.0)
    }

    /// The largest finite `|v|` of the batch.
    pub(crate) fn batch(&self) -> f64 {
        self.row.iter().copied().fold(0.0, f64::max)
    }
}

fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.map(f64::abs).filter(|x| x.is_finite()).fold(0.0, f64::max)
}

pub(crate) fn softmax(
    problem: &CrossEntropy,
    logits: &[f64],
    labels: Option<&[i64]>,
    soft: Option<Vec<f64>>,
    omega: Option<Vec<f64>>,
    per_sample: Option<Vec<f64>>,
    output: &CrossEntropyOutput,
) -> Scale {
    let n = output.lse.len();
    let c = logits.len().checked_div(n).unwrap_or(0);
    let learned = output.learned.as_ref();
    let omega = |i: usize| omega.as_ref().map_or(1.0, |omega| omega[i]);
    let weight = |class: usize| problem.class_weights().map_or(1.0, |w| w[class]);
    let label = |i: usize| labels.map(|labels| labels[i]).filter(|&label| label != problem.ignore_index());
    let class = |i: usize| label(i).map(|label| label as usize);
    let valid = |i: usize| labels.is_none() || label(i).is_some();
    let v = |i: usize, k: usize| {
        let fixed = match (problem.perturbation(), class(i)) {
            (Perturbation::Shared(d), _) => d[k],
            (Perturbation::TargetMargin(m), Some(y)) if y == k => -m[y],
            (Perturbation::ClassMatrix(matrix), Some(y)) => matrix[y * c + k],
            _ => per_sample.as_ref().map_or(0.0, |d| d[i * c + k]),
        };
        let place =
            learned.zip(class(i)).and_then(|(learned, y)| Some((learned, learned.classes.binary_search(&y).ok()?)));
        let delta = place.map_or(0.0, |(learned, place)| learned.delta[place * c + k]);
        problem.scale().at(k) * (logits[i * c + k] + fixed + delta)
    };
    let row: Vec<f64> = (0..n).map(|i| largest((0..c).map(|k| v(i, k)))).collect();
    let rows = || (0..n).filter(|&i| valid(i));
    let (z, valid_rows) = match problem.reduction() {
        Reduction::Mean => (rows().map(|i| omega(i) * class(i).map_or(1.0, weight)).sum(), rows().count() as f64),
        Reduction::Divisor(d) => (d, d),
        _ => (1.0, 1.0),
    };
    let heaviest = (0..c).map(weight).fold(0.0, f64::max);
    let element = |i: usize, k: usize| {
        if !valid(i) {
            return 0.0;
        }
        let targets = soft.as_ref().map_or(1.0, |soft| soft[i * c..][..c].iter().sum());
        let ce = if z == 0.0 { 0.0 } else { omega(i) * heaviest * f64::max(1.0, targets) / z };
        problem.scale().at(k) * (ce + 2.0 * problem.z_loss() * output.lse[i].abs() / valid_rows)
    };
    let gradient = (0..n).flat_map(|i| (0..c).map(move |k| (i, k))).map(|(i, k)| element(i, k)).collect();
    let bounds = learned.map_or_else(Vec::new, |learned| learned.bound.clone());
    let step_quotients = match (problem.learner(), learned) {
        (Some(learner), Some(learned)) if matches!(learner.bound(), logit_perturb::Bound::Confidence { .. }) => {
            learned.bound.iter().map(|bound| bound / learner.alpha()).collect()
        }
        _ => Vec::new(),
    };
    Scale { row, gradient, bounds, step_quotients }
}

pub(crate) fn sigmoid(
    problem: &BinaryCrossEntropy,
    logits: &[f64],
    targets: &[f64],
    weights: Option<Vec<f64>>,
    output: &BinaryCrossEntropyOutput,
) -> Scale {
    let n = output.loss_rows.len();
    let c = logits.len().checked_div(n).unwrap_or(0);
    let learned = output.learned.as_ref();
    let v = |i: usize, k: usize| {
        let (t, (beta, dpos, dneg)) = (targets[i * c + k], problem.perturbation().at(k));
        let delta = learned.map_or((0.0, 0.0), |learned| (learned.positive.delta[k], learned.negative.delta[k]));
        logits[i * c + k] + beta + t * (dpos + delta.0) + (1.0 - t) * (dneg + delta.1)
    };
    let row = (0..n).map(|i| largest((0..c).filter(|k| targets[i * c + k] != -1.0).map(|k| v(i, k)))).collect();
    let z = match problem.reduction() {
        Reduction::Mean => output.unmasked.max(1) as f64,
        Reduction::BatchMean => n.max(1) as f64,
        Reduction::Divisor(d) => d,
        _ => 1.0,
    };
    let gamma = problem.focusing().map_or(1.0, |focusing| f64::max(1.0, focusing.gamma_pos.max(focusing.gamma_neg)));
    let element = |index: usize| {
        let (t, k) = (targets[index], index % c);
        if t == -1.0 {
            return 0.0;
        }
        let weight = weights.as_ref().map_or(1.0, |weights| weights[index]);
        weight * (1.0 + problem.pos_weight().map_or(1.0, |p| p[k]) * t) * gamma / z
    };
    let bounds = learned.map_or_else(Vec::new, |learned| [&*learned.positive.bound, &*learned.negative.bound].concat());
    Scale { row, gradient: (0..n * c).map(element).collect(), bounds, step_quotients: Vec::new() }
}
