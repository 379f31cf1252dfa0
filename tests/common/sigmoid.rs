//! A multi-label batch in plain numbers, and SPEC 4 written out over it.

use super::{Plan, assert_close, plan, steps};
use logit_perturb::cpu::{self, BinaryCrossEntropyBatch, BinaryCrossEntropyOutput, Pass};
use logit_perturb::{
    BinaryCrossEntropy, BinaryLearner, BinaryPerturbation, BinaryStep, Focusing, Mask, Matrix, MatrixMut,
    NegativeSplit, Reduction, Upstream,
};

/// Logits, targets and every option of the problem.
#[derive(Clone, Debug)]
pub struct Case {
    pub columns: usize,
    pub logits: Vec<f64>,
    /// -1 where unknown.
    pub targets: Vec<f64>,
    /// 0 where unknown.
    pub mask: Option<Vec<u8>>,
    pub weights: Option<Vec<f64>>,
    pub pos_weight: Option<Vec<f64>>,
    pub negative_scale: f64,
    pub focusing: Option<Focusing>,
    pub reduction: Reduction,
    pub offset: Option<Vec<f64>>,
    pub positive: Option<Vec<f64>>,
    pub negative: Option<Vec<f64>>,
    pub learner: Option<BinaryLearner>,
    /// One number, or one a row.
    pub upstream: Vec<f64>,
}

/// What a learner does to one sign; empty groups have delta 0 and steps 0.
pub struct Learned {
    pub q: Vec<f64>,
    pub plan: Plan,
    pub steps: Vec<u32>,
    pub delta: Vec<f64>,
}

fn at(part: &Option<Vec<f64>>, class: usize) -> f64 {
    part.as_ref().map_or(0.0, |part| part[class])
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn softplus(x: f64) -> f64 {
    x.exp().ln_1p()
}

impl Case {
    /// Plain mean binary cross-entropy.
    pub fn new(columns: usize, logits: Vec<f64>, targets: Vec<f64>) -> Self {
        Self {
            columns,
            logits,
            targets,
            mask: None,
            weights: None,
            pos_weight: None,
            negative_scale: 1.0,
            focusing: None,
            reduction: Reduction::Mean,
            offset: None,
            positive: None,
            negative: None,
            learner: None,
            upstream: vec![1.0],
        }
    }

    pub fn rows(&self) -> usize {
        self.logits.len() / self.columns
    }

    pub fn problem(&self) -> BinaryCrossEntropy {
        let mut fixed = BinaryPerturbation::none();
        if let Some(offset) = &self.offset {
            fixed = fixed.offset(offset.clone());
        }
        if let Some(positive) = &self.positive {
            fixed = fixed.positive(positive.clone());
        }
        if let Some(negative) = &self.negative {
            fixed = fixed.negative(negative.clone());
        }
        let mut builder = BinaryCrossEntropy::builder()
            .negative_scale(self.negative_scale)
            .reduction(self.reduction)
            .perturbation(fixed);
        if let Some(weights) = &self.pos_weight {
            builder = builder.pos_weight(weights.clone());
        }
        if let Some(focusing) = self.focusing {
            builder = builder.focusing(focusing);
        }
        if let Some(learner) = &self.learner {
            builder = builder.learner(learner.clone());
        }
        builder.build().expect("the options are in range")
    }

    pub fn batch(&self) -> BinaryCrossEntropyBatch<'_> {
        let (n, c) = (self.rows(), self.columns);
        let mut batch = BinaryCrossEntropyBatch::new(Matrix::new(&self.targets, n, c).expect("N x C"));
        if let Some(data) = &self.mask {
            batch = batch.mask(Mask::Bytes { data, stride: c });
        }
        if let Some(weights) = &self.weights {
            batch = batch.weights(Matrix::new(weights, n, c).expect("N x C"));
        }
        batch.upstream(match self.upstream.as_slice() {
            [one] => Upstream::Scalar(*one),
            rows => Upstream::Rows(rows),
        })
    }

    /// The crate's output and gradient.
    pub fn run(&self) -> (BinaryCrossEntropyOutput, Vec<f64>) {
        let (n, c) = (self.rows(), self.columns);
        // Every element is to be written: what is left of this would show.
        let mut gradient = vec![f64::INFINITY; n * c];
        let pass = Pass::Into {
            logits: Matrix::new(&self.logits, n, c).expect("N x C"),
            gradient: MatrixMut::new(&mut gradient, n, c).expect("N x C"),
        };
        let output = cpu::binary_cross_entropy(&self.problem(), pass, self.batch()).expect("a valid batch");
        (output, gradient)
    }

    pub fn is_known(&self, i: usize, class: usize) -> bool {
        let index = i * self.columns + class;
        self.targets[index] != -1.0 && self.mask.as_ref().is_none_or(|mask| mask[index] != 0)
    }

    /// SPEC 4's learner, for the entries with target `sign`.
    pub fn learn(&self, sign: f64) -> Option<Learned> {
        let learner = self.learner.as_ref()?;
        let c = self.columns;
        let group = |class: usize| -> Vec<f64> {
            let fixed = at(&self.offset, class) + at(if sign == 1.0 { &self.positive } else { &self.negative }, class);
            let belongs = |i: &usize| self.is_known(*i, class) && self.targets[i * c + class] == sign;
            (0..self.rows()).filter(belongs).map(|i| self.logits[i * c + class] + fixed).collect()
        };
        let truth = |u: &f64| if sign == 1.0 { sigmoid(*u) } else { 1.0 - sigmoid(*u) };
        let mean = |u: Vec<f64>| u.iter().map(truth).sum::<f64>() / u.len() as f64;
        let q: Vec<f64> = (0..c).map(|class| mean(group(class))).collect();
        let (split, bound) = learner.positive();
        let plan = match learner.negative() {
            _ if sign == 1.0 => plan(split, bound, &q),
            (NegativeSplit::Own(own), bound) => plan(own, bound, &q),
            (how, bound) => {
                let same = plan(split, bound, &q);
                let turn = |d: &i8| match how {
                    NegativeSplit::Opposite => -d,
                    NegativeSplit::Off => 0,
                    _ => *d,
                };
                Plan { direction: same.direction.iter().map(turn).collect(), ..same }
            }
        };
        let (mut delta, mut taken) = (vec![0.0; c], vec![0; c]);
        for class in 0..c {
            let u = group(class);
            if u.is_empty() || plan.direction[class] == 0 {
                continue;
            }
            let k = steps(plan.bound[class], learner.alpha());
            let direction = f64::from(plan.direction[class]);
            let closed = if sign == 1.0 { -direction } else { direction };
            match learner.step() {
                BinaryStep::Exact => delta[class] = closed * plan.bound[class],
                BinaryStep::Sign => (delta[class], taken[class]) = (closed * learner.alpha() * f64::from(k), k),
                _ => {
                    taken[class] = k;
                    for _ in 0..k {
                        let g = u.iter().map(|u| sigmoid(u + delta[class]) - sign).sum::<f64>() / u.len() as f64;
                        delta[class] += direction * learner.alpha() * g;
                    }
                }
            }
        }
        Some(Learned { q, plan, steps: taken, delta })
    }

    /// Runs the crate and compares every output with SPEC 4. The gradients of focusing and of `Through` are left to the finite
    /// differences.
    #[track_caller]
    pub fn check(&self) -> BinaryCrossEntropyOutput {
        let (output, gradient) = self.run();
        let (n, c) = (self.rows(), self.columns);
        let (positive, negative) = (self.learn(1.0), self.learn(0.0));
        let entries = || (0..n).flat_map(|i| (0..c).map(move |class| (i, class)));
        let unmasked = entries().filter(|&(i, class)| self.is_known(i, class)).count();
        let divisor = match self.reduction {
            Reduction::Mean => unmasked.max(1) as f64,
            Reduction::BatchMean => n.max(1) as f64,
            Reduction::Divisor(d) => d,
            _ => 1.0,
        };
        let (mut rows, mut expected) = (vec![0.0; n], vec![0.0; n * c]);
        let (mut count, mut positives, mut class_loss) = (vec![0; c], vec![0.0; c], vec![0.0; c]);
        for (i, class) in entries().filter(|&(i, class)| self.is_known(i, class)) {
            let index = i * c + class;
            let t = self.targets[index];
            let learned = |part: &Option<Learned>| part.as_ref().map_or(0.0, |part| part.delta[class]);
            let dpos = at(&self.positive, class) + learned(&positive);
            let dneg = at(&self.negative, class) + learned(&negative);
            let v = self.logits[index] + at(&self.offset, class) + t * dpos + (1.0 - t) * dneg;
            let weight = self.pos_weight.as_ref().map_or(1.0, |w| w[class]);
            let p = sigmoid(v);
            let (l, derivative) = match self.focusing {
                None => {
                    let lam = self.negative_scale;
                    let l = weight * t * softplus(-v) + (1.0 - t) * softplus(lam * v) / lam;
                    (l, -weight * t * sigmoid(-v) + (1.0 - t) * sigmoid(lam * v))
                }
                Some(Focusing { gamma_pos, gamma_neg, clip }) => {
                    let pm = (p - clip).max(0.0);
                    let positive = weight * t * (1.0 - p).powf(gamma_pos) * softplus(-v);
                    // softplus(v) = -ln(1 - p), where 1 - p would cancel.
                    let log = if clip == 0.0 { softplus(v) } else { -(1.0 - pm).ln() };
                    (positive + (1.0 - t) * pm.powf(gamma_neg) * log, f64::NAN)
                }
            };
            let w = self.weights.as_ref().map_or(1.0, |w| w[index]);
            rows[i] += w * l;
            expected[index] = self.upstream[i % self.upstream.len()] * w * derivative / divisor;
            count[class] += 1;
            positives[class] += t;
            class_loss[class] += w * l;
        }
        // Sums of a few terms of size 1, each exact to some 1e-15; a learner's steps multiply that.
        let tolerance = if self.learner.is_some() { 1e-11 } else { 1e-12 };
        assert_close("loss", &[output.loss], &[rows.iter().sum::<f64>() / divisor], tolerance);
        assert_close("loss_rows", &output.loss_rows, &rows, tolerance);
        assert_eq!(output.unmasked, unmasked);
        assert_eq!(output.per_class.count, count);
        assert_close("per_class.positives", &output.per_class.positives, &positives, tolerance);
        assert_close("per_class.loss", &output.per_class.loss, &class_loss, tolerance);
        if self.focusing.is_none() && !self.is_through() {
            assert_close("gradient", &gradient, &expected, tolerance);
        }
        let pairs = output.learned.iter().flat_map(|both| [&both.positive, &both.negative]).zip([&positive, &negative]);
        for (actual, learned) in pairs {
            let learned = learned.as_ref().expect("a learner is set");
            assert_close("delta", &actual.delta, &learned.delta, tolerance);
            assert_close("bound", &actual.bound, &learned.plan.bound, tolerance);
            assert_close("confidence", &actual.confidence, &learned.q, tolerance);
            assert_close("tau", &[actual.tau], &[learned.plan.tau], tolerance);
            assert_eq!((&actual.direction, &actual.steps), (&learned.plan.direction, &learned.steps));
        }
        assert_eq!(output.learned.is_some(), self.learner.is_some());
        output
    }

    /// Whether the gradient goes through learned steps.
    pub fn is_through(&self) -> bool {
        let through = |learner: &BinaryLearner| {
            learner.gradient_semantics() == logit_perturb::GradientSemantics::Through
                && learner.step() == BinaryStep::Raw
        };
        self.learner.as_ref().is_some_and(through)
    }
}
