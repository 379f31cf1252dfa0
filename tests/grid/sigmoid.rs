//! Multi-label combinations: what each choice makes of a batch, and SPEC 4 and 5 written out over it, without a learner. Nothing here takes a
//! number from the crate.

use crate::choice::{DIVISOR, Place, Upstream, choice};
use crate::numbers::{Numbers, round, times, wide};
use crate::pairwise::Axis;
use logit_perturb::kernel::DType;
use logit_perturb::{BinaryCrossEntropy, BinaryPerturbation, Focusing, Reduction};

pub const AXES: [Axis; 17] = [
    ("dtype", 3),
    ("reach", REACHES.len()),
    ("format", 6),
    ("mask", 2),
    ("unknown", 2),
    ("weights", 3),
    ("pos_weight", 2),
    ("offset", 2),
    ("positive", 2),
    ("negative", 2),
    ("curve", 4),
    ("reduction", 6),
    ("upstream", 5),
    ("place", 4),
    ("layout", 4),
    ("statistics", 2),
    ("content", 7),
];

/// Rows and classes. The limits that go with them are the device's business.
pub const REACHES: [(usize, usize); 10] =
    [(40, 1), (1100, 3), (19, 10), (170, 40), (19, 100), (19, 200), (9, 520), (9, 1100), (9, 2100), (11, 2100)];

/// A combination by the names of its choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choices {
    pub dtype: DType,
    pub reach: usize,
    pub format: Format,
    pub mask: bool,
    /// Whether some targets are -1.
    pub unknown: bool,
    pub weights: Weights,
    pub pos_weight: bool,
    pub offset: bool,
    pub positive: bool,
    pub negative: bool,
    pub curve: Curve,
    pub reduction: usize,
    pub upstream: Upstream,
    pub place: Place,
    pub layout: usize,
    pub statistics: bool,
    pub content: Content,
}

choice!(Format: F32, Element, I8, U8, Bits, Csr);
choice!(Weights: None, Wide, Narrow);
choice!(Curve: Plain, Scaled, Focal, Asymmetric);
choice!(Content: Plain, Confident, Far, Infinite, Hidden, Broken, Masked);

impl Format {
    fn is_soft(self) -> bool {
        matches!(self, Self::F32 | Self::Element)
    }
}

impl Choices {
    pub fn of(choices: &[usize]) -> Self {
        let on = |index: usize| choices[index] == 1;
        Self {
            dtype: DType::ALL[choices[0]],
            reach: choices[1],
            format: Format::ALL[choices[2]],
            mask: on(3),
            unknown: on(4),
            weights: Weights::ALL[choices[5]],
            pos_weight: on(6),
            offset: on(7),
            positive: on(8),
            negative: on(9),
            curve: Curve::ALL[choices[10]],
            reduction: choices[11],
            upstream: Upstream::ALL[choices[12]],
            place: Place::ALL[choices[13]],
            layout: choices[14],
            statistics: on(15),
            content: Content::ALL[choices[16]],
        }
    }

    /// Whether the choices go together: not every format has -1, rows of upstream need a loss a row, and what is hidden needs a place.
    pub fn fits(&self) -> bool {
        let unknown = self.unknown && !(self.format.is_soft() || self.format == Format::I8);
        let rows = self.upstream == Upstream::Rows && self.reduction != 2;
        let hidden = matches!(self.content, Content::Hidden | Content::Masked) && !(self.mask || self.unknown);
        // What f32 cannot tell from 0, an infinite upstream gradient makes 0 or infinite.
        let infinite = self.upstream == Upstream::Infinite && self.content == Content::Far;
        !(unknown || rows || hidden || infinite)
    }

    pub fn name(&self) -> String {
        let Self { dtype, reach, format, weights, curve, reduction, upstream, place, layout, content, .. } = self;
        let flags = [
            ("mask", self.mask),
            ("unknown", self.unknown),
            ("pos_weight", self.pos_weight),
            ("offset", self.offset),
            ("positive", self.positive),
            ("negative", self.negative),
            ("statistics", self.statistics),
        ];
        let flags: Vec<&str> = flags.into_iter().filter(|(_, on)| *on).map(|(name, _)| name).collect();
        let reduction = ["mean", "sum", "none", "batch_mean", "divisor", "device_divisor"][*reduction];
        format!(
            "{} reach{reach} {format:?} weights{weights:?} {curve:?} {reduction} {upstream:?} {place:?} layout{layout} {content:?} {}",
            dtype.name(),
            flags.join(" ")
        )
    }
}

/// A batch in plain numbers, each of which the device's type holds.
pub struct Input {
    pub rows: usize,
    pub classes: usize,
    pub logits: Vec<f32>,
    /// -1 where unknown; under the mask, anything.
    pub targets: Vec<f32>,
    pub mask: Option<Vec<bool>>,
    pub weights: Option<Vec<f32>>,
    /// `[C]` each.
    pub pos_weight: Option<Vec<f32>>,
    pub offset: Option<Vec<f32>>,
    pub positive: Option<Vec<f32>>,
    pub negative: Option<Vec<f32>>,
    /// lam, and both exponents and the margin of focusing.
    pub negative_scale: f32,
    pub focusing: Option<[f32; 3]>,
    pub divisor: Option<f32>,
    pub upstream: Vec<f32>,
}

impl Input {
    pub fn new(choices: &Choices, seed: u64) -> Self {
        let (rows, c) = REACHES[choices.reach];
        let len = rows * c;
        let mut numbers = Numbers::new(seed);
        let soft = choices.format.is_soft();
        let logits = numbers.uniform(len, -8.0, 8.0);
        let mut targets = numbers.uniform(len, 0.0, 1.0);
        for (i, t) in targets.iter_mut().enumerate() {
            *t = match numbers.below(4) {
                _ if choices.unknown && (i % 7 == 3 || choices.content == Content::Masked) => -1.0,
                0 => 1.0,
                1 => 0.0,
                _ if soft => *t,
                _ => t.round(),
            };
        }
        if choices.format == Format::Element {
            targets = round(choices.dtype, targets);
        }
        let everything = choices.content == Content::Masked;
        let mask = choices.mask.then(|| (0..len).map(|_| !everything && numbers.below(4) != 0).collect());
        let weights = numbers.weights(len);
        let mut of_class = |on: bool| on.then(|| numbers.uniform(c, -2.0, 2.0));
        let mut input = Self {
            rows,
            classes: c,
            logits,
            targets,
            mask,
            weights: match choices.weights {
                Weights::None => None,
                Weights::Wide => Some(weights),
                Weights::Narrow => Some(round(choices.dtype, weights)),
            },
            offset: of_class(choices.offset),
            positive: of_class(choices.positive),
            negative: of_class(choices.negative),
            pos_weight: choices.pos_weight.then(|| numbers.weights(c)),
            // No short binary fractions: what lies halfway between two numbers is rounded by the last bit of f64.
            negative_scale: if choices.curve == Curve::Scaled { 2.3 } else { 1.0 },
            focusing: match choices.curve {
                Curve::Plain | Curve::Scaled => None,
                Curve::Focal => Some([1.7, 2.3, 0.0]),
                Curve::Asymmetric => Some([0.0, 3.7, 0.053]),
            },
            divisor: (choices.reduction >= 4).then_some(DIVISOR),
            upstream: choices.upstream.numbers(&mut numbers, rows),
        };
        input.fill(choices);
        input.logits = round(choices.dtype, input.logits);
        input
    }

    /// What the batch holds beside numbers of size 1.
    fn fill(&mut self, choices: &Choices) {
        const INF: f32 = f32::INFINITY;
        for i in 0..self.logits.len() {
            let (row, column, t) = (i / self.classes, i % self.classes, self.targets[i]);
            let is_known = self.is_known(i);
            let x = &mut self.logits[i];
            match (choices.content, row % 4) {
                (Content::Confident, _) => *x = *x * 0.125 + if t >= 0.5 { 14.0 } else { -14.0 },
                (Content::Far, _) => *x *= 1250.0,
                // Of both signs, whatever the target; and of the sign that costs nothing.
                (Content::Infinite, 1) if column % 3 == 0 => *x = if column % 2 == 0 { INF } else { -INF },
                (Content::Infinite, 3) if column % 5 == 0 => *x = if t == 1.0 { INF } else { -INF },
                (Content::Hidden, _) if !is_known => {
                    *x = [f32::NAN, INF, -INF][i % 3];
                    if let Some(weights) = &mut self.weights {
                        weights[i] = f32::NAN;
                    }
                    // Out of range, but not looked at.
                    if self.mask.as_ref().is_some_and(|mask| !mask[i]) {
                        self.targets[i] = if choices.format.is_soft() { f32::NAN } else { 7.0 };
                    }
                }
                (Content::Broken, 1) if column % 5 == 0 => *x = f32::NAN,
                // A weight of 0 takes no NaN out.
                (Content::Broken, 2) if self.weights.as_ref().is_some_and(|weights| weights[i] == 0.0) => *x = f32::NAN,
                _ => {}
            }
        }
    }

    fn is_known(&self, i: usize) -> bool {
        self.mask.as_ref().is_none_or(|mask| mask[i]) && self.targets[i] != -1.0
    }

    pub fn problem(&self, reduction: Reduction) -> BinaryCrossEntropy {
        let mut fixed = BinaryPerturbation::none();
        if let Some(offset) = &self.offset {
            fixed = fixed.offset(wide(offset));
        }
        if let Some(positive) = &self.positive {
            fixed = fixed.positive(wide(positive));
        }
        if let Some(negative) = &self.negative {
            fixed = fixed.negative(wide(negative));
        }
        let mut builder = BinaryCrossEntropy::builder()
            .negative_scale(self.negative_scale.into())
            .reduction(reduction)
            .perturbation(fixed);
        if let Some(weights) = &self.pos_weight {
            builder = builder.pos_weight(wide(weights));
        }
        if let Some([gamma_pos, gamma_neg, clip]) = self.focusing.map(|focusing| focusing.map(f64::from)) {
            builder = builder.focusing(Focusing { gamma_pos, gamma_neg, clip });
        }
        builder.build().expect("the options are in range")
    }

    /// Loss and slope at `v` of a positive and of a negative, of weight 1.
    fn curves(&self, v: f64) -> [(f64, f64); 2] {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
        let (p, q) = (sigmoid(v), sigmoid(-v));
        let Some([gamma_pos, gamma_neg, clip]) = self.focusing.map(|focusing| focusing.map(f64::from)) else {
            let lam = f64::from(self.negative_scale);
            return [(softplus(-v), -q), (softplus(lam * v) / lam, sigmoid(lam * v))];
        };
        let up = q.powf(gamma_pos);
        let positive = (times(up, softplus(-v)), -up * (gamma_pos * times(p, softplus(-v)) + q));
        let pm = p - clip;
        if pm <= 0.0 {
            return [positive, (0.0, 0.0)];
        }
        // 1 - pm would cancel without a margin, and q / (1 - pm) is 1 then.
        let (log, of_log) = if clip == 0.0 { (softplus(v), 1.0) } else { (-(q + clip).ln(), q / (q + clip)) };
        let down = pm.powf(gamma_neg);
        [positive, (down * log, down * p * (gamma_neg * times(q, log) / pm + of_log))]
    }
}

/// Everything that a batch has to leave, and the unit of each entry's gradient tolerance.
pub struct Expected {
    pub loss: f64,
    pub loss_rows: Vec<f64>,
    pub gradient: Vec<f64>,
    /// `a` of SPEC 6, a row.
    pub stretch: Vec<f64>,
    /// `G` of SPEC 6, an entry.
    pub unit: Vec<f64>,
    pub count: Vec<u64>,
    pub positives: Vec<f64>,
    pub class_loss: Vec<f64>,
}

pub fn expected(input: &Input, choices: &Choices) -> Expected {
    let (n, c) = (input.rows, input.classes);
    let known: Vec<usize> = (0..n * c).filter(|&i| input.is_known(i)).collect();
    let z = match choices.reduction {
        0 => known.len() as f64,
        1 | 2 => 1.0,
        3 => n as f64,
        _ => f64::from(DIVISOR),
    };
    let mut all = Expected {
        loss: 0.0,
        loss_rows: vec![0.0; n],
        gradient: vec![0.0; n * c],
        stretch: vec![1.0; n],
        unit: vec![0.0; n * c],
        count: vec![0; c],
        positives: vec![0.0; c],
        class_loss: vec![0.0; c],
    };
    let or = |numbers: &Option<Vec<f32>>, at: usize, other: f64| numbers.as_ref().map_or(other, |x| f64::from(x[at]));
    for i in known {
        let (row, class, t) = (i / c, i % c, f64::from(input.targets[i]));
        let (dpos, dneg) = (or(&input.positive, class, 0.0), or(&input.negative, class, 0.0));
        let v = f64::from(input.logits[i]) + or(&input.offset, class, 0.0) + t * dpos + (1.0 - t) * dneg;
        let (w, p) = (or(&input.weights, i, 1.0), or(&input.pos_weight, class, 1.0));
        let [(up, up_slope), (down, down_slope)] = input.curves(v);
        let both = |up: f64, down: f64| times(w, times(p * t, up) + times(1.0 - t, down));
        let (loss, slope) = if v.is_nan() { (v, v) } else { (both(up, down), both(up_slope, down_slope)) };
        let factor = f64::from(input.upstream[row % input.upstream.len()]) / z;
        all.loss_rows[row] += loss;
        all.gradient[i] = times(slope, factor);
        all.unit[i] =
            factor.abs() * w * (1.0 + p * t) * input.focusing.map_or(1.0, |[a, b, _]| a.max(b).max(1.0).into());
        if v.is_finite() {
            all.stretch[row] = all.stretch[row].max(v.abs() / 50.0);
        }
        all.count[class] += 1;
        all.positives[class] += t;
        all.class_loss[class] += loss;
    }
    all.unit.iter_mut().enumerate().for_each(|(i, unit)| *unit *= all.stretch[i / c]);
    let sum: f64 = all.loss_rows.iter().sum();
    all.loss = if sum == 0.0 { 0.0 } else { sum / z };
    all
}
