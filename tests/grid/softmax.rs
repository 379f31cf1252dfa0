//! Single-label combinations: what each choice makes of a batch, and SPEC 1, 2 and 5 written out over it. Nothing here takes a number from
//! the crate.

use crate::choice::{DIVISOR, Place, Upstream, choice};
use crate::numbers::{Numbers, round, times, wide};
use crate::pairwise::Axis;
use logit_perturb::kernel::DType;
use logit_perturb::{CrossEntropy, Perturbation, Reduction};

pub const AXES: [Axis; 16] = [
    ("dtype", 3),
    ("reach", 10),
    ("form", 8),
    ("scale", 3),
    ("target", 6),
    ("class_weights", 2),
    ("sample_weights", 2),
    ("z_loss", 2),
    ("reduction", 5),
    ("upstream", 5),
    ("place", 4),
    ("layout", 4),
    ("split", 2),
    ("statistics", 2),
    ("content", 6),
    ("tally", 2),
];

/// A combination by the names of its choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choices {
    pub dtype: DType,
    pub reach: usize,
    pub form: Form,
    pub scale: usize,
    pub target: Target,
    pub class_weights: bool,
    pub sample_weights: bool,
    pub z_loss: bool,
    pub reduction: usize,
    pub upstream: Upstream,
    pub place: Place,
    pub layout: usize,
    pub split: bool,
    pub statistics: bool,
    pub content: Content,
    pub pre_pass: bool,
}

choice!(Form: None, Shared, Masking, Margin, MatrixWide, MatrixNarrow, SampleWide, SampleNarrow);
choice!(Target: I32, I64, U32, Smoothed, SoftWide, SoftNarrow);
choice!(Content: Plain, Confident, Far, Holes, Broken, Ignored);

impl Choices {
    pub fn of(choices: &[usize]) -> Self {
        let on = |index: usize| choices[index] == 1;
        Self {
            dtype: DType::ALL[choices[0]],
            reach: choices[1],
            form: Form::ALL[choices[2]],
            scale: choices[3],
            target: Target::ALL[choices[4]],
            class_weights: on(5),
            sample_weights: on(6),
            z_loss: on(7),
            reduction: choices[8],
            upstream: Upstream::ALL[choices[9]],
            place: Place::ALL[choices[10]],
            layout: choices[11],
            split: on(12),
            statistics: on(13),
            content: Content::ALL[choices[14]],
            pre_pass: on(15),
        }
    }

    pub fn is_soft(&self) -> bool {
        matches!(self.target, Target::SoftWide | Target::SoftNarrow)
    }

    pub fn is_wide(&self) -> bool {
        !matches!(self.form, Form::MatrixNarrow | Form::SampleNarrow)
    }

    /// Whether the choices go together: soft targets know no label, rows of upstream no reduced loss, and a pass without a gradient has none
    /// to split off.
    pub fn fits(&self) -> bool {
        let of_label = matches!(self.form, Form::Margin | Form::MatrixWide | Form::MatrixNarrow);
        let soft = self.is_soft() && (of_label || self.statistics || self.content == Content::Ignored);
        let rows = self.upstream == Upstream::Rows && self.reduction != 2;
        let split = self.split && self.place == Place::Forward;
        // What rounding decides to be 0 or not, an infinite upstream gradient makes 0 or infinite.
        let spread = self.is_soft() || self.target == Target::Smoothed;
        let infinite = self.upstream == Upstream::Infinite && (spread || self.content == Content::Far);
        !(soft || rows || split || infinite)
    }

    pub fn name(&self) -> String {
        let Self { dtype, reach, form, scale, target, reduction, upstream, place, layout, content, .. } = self;
        let flags = [
            ("class_weights", self.class_weights),
            ("sample_weights", self.sample_weights),
            ("z_loss", self.z_loss),
            ("split", self.split),
            ("statistics", self.statistics),
            ("pre_pass", self.pre_pass),
        ];
        let flags: Vec<&str> = flags.into_iter().filter(|(_, on)| *on).map(|(name, _)| name).collect();
        let reduction = ["mean", "sum", "none", "divisor", "device_divisor"][*reduction];
        format!(
            "{} reach{reach} {form:?} scale{scale} {target:?} {reduction} {upstream:?} {place:?} layout{layout} {content:?} {}",
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
    pub labels: Vec<i64>,
    pub soft: Option<Vec<f32>>,
    /// `[C]`, `[C, C]` or `[N, C]`, as the form says.
    pub delta: Vec<f32>,
    /// One, or one a class.
    pub scale: Vec<f32>,
    pub smoothing: f32,
    pub z: f32,
    pub class_weights: Option<Vec<f32>>,
    pub sample_weights: Option<Vec<f32>>,
    pub divisor: Option<f32>,
    pub upstream: Vec<f32>,
}

const IGNORED: i64 = -100;

impl Input {
    pub fn new(choices: &Choices, classes: usize, seed: u64) -> Self {
        let (c, dtype) = (classes, choices.dtype);
        let rows = if c <= 64 { 19 } else { 9 };
        let mut numbers = Numbers::new(seed);
        let mut logits = numbers.uniform(rows * c, -8.0, 8.0);
        let mut labels: Vec<i64> = (0..rows).map(|_| numbers.below(c) as i64).collect();
        (labels[2], labels[rows - 1]) = (IGNORED, IGNORED);
        fill(choices.content, &mut logits, &mut labels, c);
        let narrow = |numbers: Vec<f32>, wide: bool| if wide { numbers } else { round(dtype, numbers) };
        let mut delta = match choices.form {
            Form::None => Vec::new(),
            Form::Shared | Form::Masking | Form::Margin => numbers.uniform(c, -2.0, 2.0),
            Form::MatrixWide | Form::MatrixNarrow => narrow(numbers.uniform(c * c, -2.0, 2.0), choices.is_wide()),
            Form::SampleWide | Form::SampleNarrow => narrow(numbers.uniform(rows * c, -2.0, 2.0), choices.is_wide()),
        };
        if choices.form == Form::Masking {
            delta.iter_mut().step_by(5).for_each(|delta| *delta = f32::NEG_INFINITY);
        }
        let soft = choices.is_soft().then(|| {
            let mut targets = numbers.weights(rows * c);
            targets.iter_mut().for_each(|t| *t /= c as f32);
            narrow(targets, choices.target == Target::SoftWide)
        });
        Self {
            rows,
            classes,
            logits: round(dtype, logits),
            labels,
            soft,
            delta,
            scale: match choices.scale {
                0 => vec![1.0],
                // No short binary fraction: what lies halfway between two numbers is rounded by the last bit of f64.
                1 => vec![1.234_567_9],
                _ => numbers.uniform(c, 0.5, 2.0),
            },
            smoothing: if choices.target == Target::Smoothed { 0.125 } else { 0.0 },
            z: if choices.z_loss { 0.015_625 } else { 0.0 },
            class_weights: choices.class_weights.then(|| numbers.weights(c)),
            sample_weights: choices.sample_weights.then(|| numbers.weights(rows)),
            divisor: (choices.reduction >= 3).then_some(DIVISOR),
            upstream: choices.upstream.numbers(&mut numbers, rows),
        }
    }

    pub fn reduction(&self, choices: &Choices) -> Reduction {
        match choices.reduction {
            0 => Reduction::Mean,
            1 => Reduction::Sum,
            2 => Reduction::None,
            3 => Reduction::Divisor(f64::from(DIVISOR)),
            // What the device holds takes its place.
            _ => Reduction::Divisor(1.0),
        }
    }

    pub fn problem(&self, choices: &Choices, reduction: Reduction) -> CrossEntropy {
        let mut builder = CrossEntropy::builder()
            .label_smoothing(self.smoothing.into())
            .z_loss(self.z.into())
            .reduction(reduction)
            .perturbation(match choices.form {
                Form::None => Perturbation::None,
                Form::Shared | Form::Masking => Perturbation::Shared(wide(&self.delta)),
                Form::Margin => Perturbation::TargetMargin(wide(&self.delta)),
                Form::MatrixWide | Form::MatrixNarrow => Perturbation::ClassMatrix(wide(&self.delta)),
                Form::SampleWide | Form::SampleNarrow => Perturbation::PerSample,
            });
        builder = match self.scale.as_slice() {
            [one] => builder.scale((*one).into()),
            many => builder.class_scale(wide(many)),
        };
        if let Some(weights) = &self.class_weights {
            builder = builder.class_weights(wide(weights));
        }
        builder.build().expect("the options are in range")
    }
}

/// What the logits hold beside numbers of size 1.
fn fill(content: Content, logits: &mut [f32], labels: &mut [i64], c: usize) {
    const INF: f32 = f32::INFINITY;
    let label = |labels: &[i64], row: usize| usize::try_from(labels[row]).unwrap_or(0);
    match content {
        Content::Plain => {}
        Content::Confident => {
            logits.iter_mut().for_each(|x| *x *= 0.125);
            for row in 0..labels.len() {
                logits[row * c + label(labels, row)] = 30.0;
            }
        }
        Content::Far => logits.iter_mut().for_each(|x| *x *= 1250.0),
        Content::Holes => {
            // Runs that cover the share of a thread, a warp and a block of a cluster; all but the label; the label itself.
            logits[c / 3..c].fill(-INF);
            labels[0] = 0;
            logits[c..c + c / 2].fill(-INF);
            labels[1] = c as i64 - 1;
            let kept = label(labels, 3);
            let x = logits[3 * c + kept];
            logits[3 * c..4 * c].fill(-INF);
            logits[3 * c + kept] = x;
            let own = label(labels, 4);
            logits[4 * c + own] = -INF;
        }
        Content::Broken => {
            let at = |row: usize, column: usize| row * c + column;
            logits[at(0, c / 2)] = f32::NAN;
            logits[at(1, c - 1)] = INF;
            logits[at(2, 0)..at(3, 0)].fill(f32::NAN);
            logits[at(3, 0)..at(4, 0)].fill(-INF);
            let own = label(labels, 5);
            logits[at(5, own)] = f32::NAN;
            // NaN where a thread finds no number.
            logits[at(6, 0)..at(7, 0)].fill(-INF);
            (logits[at(6, 1)], logits[at(6, c - 2)]) = (f32::NAN, 0.5);
        }
        Content::Ignored => labels.fill(IGNORED),
    }
}

/// Everything that a batch has to leave, and the unit of each row's gradient tolerance.
pub struct Expected {
    pub loss: f64,
    pub loss_rows: Vec<f64>,
    pub lse: Vec<f64>,
    pub predictions: Vec<i64>,
    pub gradient: Vec<f64>,
    /// `a` of SPEC 6, a row.
    pub stretch: Vec<f64>,
    /// `G` of SPEC 6, an element.
    pub unit: Vec<f64>,
    pub count: Vec<u64>,
    pub correct: Vec<u64>,
    pub class_loss: Vec<f64>,
    pub confidence: Vec<f64>,
}

pub fn expected(input: &Input, choices: &Choices) -> Expected {
    let (n, c) = (input.rows, input.classes);
    let class = |i: usize| (!choices.is_soft() && input.labels[i] != IGNORED).then(|| input.labels[i] as usize);
    let valid = |i: usize| choices.is_soft() || class(i).is_some();
    let w = |k: usize| input.class_weights.as_ref().map_or(1.0, |w| f64::from(w[k]));
    let omega = |i: usize| input.sample_weights.as_ref().map_or(1.0, |w| f64::from(w[i]));
    let weight = |i: usize| omega(i) * class(i).map_or(1.0, w);
    let rows = || (0..n).filter(|&i| valid(i));
    let (z_ce, z_lse) = match choices.reduction {
        0 => (rows().map(weight).sum(), rows().count() as f64),
        1 | 2 => (1.0, 1.0),
        _ => (f64::from(DIVISOR), f64::from(DIVISOR)),
    };
    let (z, a) = (f64::from(input.z), f64::from(input.smoothing));
    let mut all = Expected {
        loss: 0.0,
        loss_rows: vec![0.0; n],
        lse: vec![0.0; n],
        predictions: vec![-1; n],
        gradient: vec![0.0; n * c],
        stretch: vec![1.0; n],
        unit: vec![0.0; n * c],
        count: vec![0; c],
        correct: vec![0; c],
        class_loss: vec![0.0; c],
        confidence: vec![0.0; c],
    };
    for i in rows() {
        let y = class(i);
        let u = |k: usize| f64::from(input.logits[i * c + k]);
        let s = |k: usize| f64::from(input.scale[k % input.scale.len()]);
        let delta = |k: usize| match choices.form {
            Form::None => 0.0,
            Form::Shared | Form::Masking => f64::from(input.delta[k]),
            Form::Margin if y == Some(k) => -f64::from(input.delta[k]),
            Form::Margin => 0.0,
            Form::MatrixWide | Form::MatrixNarrow => f64::from(input.delta[y.expect("hard labels") * c + k]),
            Form::SampleWide | Form::SampleNarrow => f64::from(input.delta[i * c + k]),
        };
        let v: Vec<f64> = (0..c).map(|k| s(k) * (u(k) + delta(k))).collect();
        let max = v.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let exps: Vec<f64> = v.iter().map(|v| (v - max).exp()).collect();
        let sum: f64 = exps.iter().sum();
        let lse = max + sum.ln();
        let broken = v.iter().any(|v| v.is_nan()) || !max.is_finite();
        let t = |k: usize| match (&input.soft, y) {
            (Some(soft), _) => f64::from(soft[i * c + k]),
            (None, y) => a / c as f64 + if y == Some(k) { 1.0 - a } else { 0.0 },
        };
        let terms: f64 = (0..c).map(|k| times(t(k) * w(k), lse - v[k])).sum();
        let ce = if broken { f64::NAN } else { times(omega(i), terms) };
        let of_z = if z == 0.0 { 0.0 } else { z * lse * lse };
        let share = |x: f64| if z_ce == 0.0 && !x.is_nan() { 0.0 } else { x / z_ce };
        all.loss += share(ce) + of_z / z_lse;
        (all.loss_rows[i], all.lse[i]) = (ce + of_z, if broken { f64::NAN } else { lse });
        let largest = (0..c).map(u).fold(f64::NEG_INFINITY, f64::max);
        let nan = (0..c).any(|k| u(k).is_nan());
        if !nan && largest > f64::NEG_INFINITY {
            all.predictions[i] = (0..c).find(|&k| u(k) == largest).expect("a largest logit") as i64;
        }
        all.stretch[i] = v.iter().filter(|v| v.is_finite()).fold(50.0, |a: f64, v| a.max(v.abs())) / 50.0;
        let g = f64::from(input.upstream[i % input.upstream.len()]);
        let total: f64 = (0..c).map(|k| t(k) * w(k)).sum();
        let others: f64 = (0..c).filter(|&k| y != Some(k)).map(|k| exps[k]).sum();
        let (most_w, sum_t) = ((0..c).map(w).fold(0.0, f64::max), (0..c).map(t).sum::<f64>());
        for (k, exp) in exps.iter().enumerate() {
            let p = exp / sum;
            // Of a hard label, without cancellation.
            let ce = match y {
                Some(y) if k == y && a == 0.0 => -others / sum * w(y),
                Some(y) if a == 0.0 => p * w(y),
                _ => p * total - t(k) * w(k),
            };
            let share = if z_ce == 0.0 { 0.0 } else { omega(i) * ce / z_ce };
            let by_u = s(k) * (share + if z == 0.0 { 0.0 } else { 2.0 * z * lse * p / z_lse });
            all.gradient[i * c + k] = if broken { f64::NAN } else { times(by_u, g) };
            let of_ce = if z_ce == 0.0 { 0.0 } else { omega(i) * most_w * sum_t.max(1.0) / z_ce };
            let of_lse = 2.0 * z * lse.abs() / z_lse;
            all.unit[i * c + k] = g.abs() * all.stretch[i] * s(k) * (of_ce + of_lse);
        }
        if let Some(y) = y {
            all.count[y] += 1;
            all.correct[y] += u64::from(all.predictions[i] == y as i64);
            all.class_loss[y] += all.loss_rows[i];
            all.confidence[y] += if broken { f64::NAN } else { exps[y] / sum };
        }
    }
    if choices.reduction == 2 {
        all.loss = all.loss_rows.iter().sum();
    }
    all
}
