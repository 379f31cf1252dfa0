//! Gradients against differences of the loss, in f64: every loss term, every perturbation form, every learner, both gradient
//! semantics. Every case is also compared with the SPEC's formulas, so the loss that is differentiated is the right one.

mod common;

use common::{sigmoid, softmax, uniform};
use logit_perturb::cpu;
use logit_perturb::{
    BinaryLearner, BinaryStep, Bound, ClassCounts, Focusing, GradientSemantics, Learner, Matrix, NegativeSplit,
    Perturbation, Reduction, Split, Step,
};

/// The step of the five-point stencil: its truncation error is `H^4 / 30 = 3e-14` times the fifth derivative, its rounding error some
/// `1e-15 / H = 1e-12` times the loss.
const H: f64 = 1e-3;

/// Per unit of the loss or of the slope, whichever is larger: ten times the rounding error, or a fifth derivative of 300.
const TOLERANCE: f64 = 1e-11;

/// Steps of length alpha divide by the gradient's norm, which multiplies the fifth derivative by its fifth power.
const TOLERANCE_THROUGH: f64 = 1e-9;

/// The loss that the gradient is of: the reduced one, or the sum of the rows, each times its upstream gradient.
fn objective(loss: f64, rows: &[f64], reduction: Reduction, upstream: &[f64]) -> f64 {
    match reduction {
        Reduction::None => rows.iter().enumerate().map(|(i, row)| upstream[i % upstream.len()] * row).sum(),
        _ => upstream[0] * loss,
    }
}

/// Asserts that `gradient` is the derivative of `f` at `u`.
#[track_caller]
fn assert_derivative(what: &str, u: &[f64], gradient: &[f64], tolerance: f64, f: impl Fn(&[f64]) -> f64) {
    let size = f(u).abs().max(1.0);
    for k in 0..u.len() {
        let at = |steps: f64| {
            let mut moved = u.to_vec();
            moved[k] += steps * H;
            f(&moved)
        };
        let slope = (8.0 * (at(1.0) - at(-1.0)) - (at(2.0) - at(-2.0))) / (12.0 * H);
        let error = (gradient[k] - slope).abs();
        assert!(
            error <= tolerance * slope.abs().max(size),
            "{what}: gradient[{k}] = {:e}, slope {slope:e}, off by {error:e}",
            gradient[k]
        );
    }
}

const N: usize = 7;
const C: usize = 5;

fn base() -> softmax::Case {
    // Class 2 is absent, class 3 has three rows.
    softmax::Case::new(C, uniform(1, N * C, -2.0..2.0), vec![0, 3, 1, -100, 3, 4, 3])
}

type Change<T> = (&'static str, fn(&mut T));

/// Loss terms and reductions that go with everything.
const OPTIONS: [Change<softmax::Case>; 9] = [
    ("plain", |_| {}),
    ("smoothing", |case| case.smoothing = 0.2),
    ("class weights", |case| case.class_weights = Some(vec![0.5, 2.0, 1.5, 0.7, 0.0])),
    ("sample weights", |case| case.sample_weights = Some(vec![0.3, 1.5, 0.0, 1.0, 2.0, 0.8, 1.1])),
    ("z-loss", |case| case.z = 0.3),
    ("ignore index", |case| {
        case.ignore_index = 3;
        case.labels[3] = 2;
    }),
    ("sum", |case| (case.reduction, case.upstream) = (Reduction::Sum, vec![-0.7])),
    ("divisor", |case| (case.reduction, case.z, case.upstream) = (Reduction::Divisor(2.5), 0.1, vec![3.0])),
    ("none, upstream a row", |case| {
        (case.reduction, case.z, case.upstream) = (Reduction::None, 0.2, uniform(2, N, -1.0..2.0))
    }),
];

fn everything(case: &mut softmax::Case) {
    for (_, option) in &OPTIONS[1..5] {
        option(case);
    }
    case.upstream = vec![1.7];
}

const SCALES: [Change<softmax::Case>; 3] = [
    ("scale 1", |_| {}),
    ("scale", |case| case.scale = vec![2.5]),
    ("class scale", |case| case.scale = vec![0.5, 1.5, 2.0, 0.8, 1.2]),
];

const FORMS: [Change<softmax::Case>; 5] = [
    ("no perturbation", |_| {}),
    ("shared", |case| case.form = Perturbation::Shared(uniform(3, C, -1.0..1.0))),
    ("target margin", |case| case.form = Perturbation::TargetMargin(uniform(4, C, 0.0..1.0))),
    ("class matrix", |case| case.form = Perturbation::ClassMatrix(uniform(5, C * C, -1.0..1.0))),
    ("per sample", |case| {
        case.form = Perturbation::PerSample;
        case.per_sample = uniform(6, N * C, -1.0..1.0);
    }),
];

fn differentiate(what: &str, case: &softmax::Case, gradient: &[f64], tolerance: f64) {
    let problem = case.problem();
    assert_derivative(what, &case.logits, gradient, tolerance, |u| {
        let logits = Matrix::new(u, case.rows(), case.columns).expect("N x C");
        let output = cpu::cross_entropy(&problem, logits, case.batch()).expect("a valid batch");
        objective(output.loss, &output.loss_rows, case.reduction, &case.upstream)
    });
}

#[test]
fn softmax_gradients_are_slopes_under_every_option_form_and_scale() {
    let options = OPTIONS.iter().copied().chain([("everything", everything as fn(&mut softmax::Case))]);
    for (option_name, option) in options {
        for (form_name, form) in FORMS {
            for (scale_name, scale) in SCALES {
                let mut case = base();
                [option, form, scale].iter().for_each(|change| change(&mut case));
                case.check();
                let what = format!("{option_name}, {form_name}, {scale_name}");
                differentiate(&what, &case, &case.run().1, TOLERANCE);
            }
        }
    }
}

#[test]
fn soft_target_gradients_are_slopes() {
    // Smoothing and an ignored index go with labels alone.
    let options = OPTIONS.iter().filter(|(name, _)| !["smoothing", "ignore index"].contains(name));
    for (option_name, option) in options {
        for (form_name, form) in FORMS.iter().filter(|(name, _)| !["target margin", "class matrix"].contains(name)) {
            for (scale_name, scale) in SCALES {
                let mut case = base();
                [*option, *form, scale].iter().for_each(|change| change(&mut case));
                // Rows sum to anything; the last expects nothing at all.
                let mut soft = uniform(7, N * C, 0.0..0.8);
                soft[(N - 1) * C..].fill(0.0);
                case.soft = Some(soft);
                case.check();
                let what = format!("soft targets, {option_name}, {form_name}, {scale_name}");
                differentiate(&what, &case, &case.run().1, TOLERANCE);
            }
        }
    }
}

fn rank() -> Split {
    let counts = ClassCounts::new([500.0, 100.0, 60.0, 20.0, 5.0]).expect("counts");
    Split::Rank { head: 2, counts }
}

/// Step, size, split and bound, such that some classes are raised and some lowered in several steps.
fn learners() -> Vec<(&'static str, Learner)> {
    let long_tail = Bound::LongTail { eps: 0.2, delta_head: 0.4, delta_tail: 0.9, ratio: None };
    let explicit = Split::Explicit(vec![1, -1, 1, 0, 1]);
    let bounds = Bound::Explicit(vec![0.5, 0.9, 0.3, 0.7, 1.1]);
    [
        ("raw, mean confidence", Step::Raw, 0.5, Split::MeanConfidence, Bound::Fixed { eps: 2.0 }),
        (
            "raw, confidence",
            Step::Raw,
            0.3,
            Split::Confidence { tau: 0.3 },
            Bound::Confidence { eps: 0.65, delta_eps: 1.0 },
        ),
        ("raw, explicit", Step::Raw, 0.25, explicit.clone(), bounds.clone()),
        ("unit, rank, long tail", Step::UnitL2, 0.1, rank(), long_tail),
        ("unit, explicit", Step::UnitL2, 0.2, explicit, bounds),
    ]
    .map(|(name, step, alpha, split, bound)| (name, Learner::new(step, alpha, split, bound).expect("in range")))
    .into()
}

/// The learner on the forms and options that go with scale 1: each form under everything, each option on one form.
fn learned_cases(learner: &Learner) -> Vec<(String, softmax::Case)> {
    let on_forms = FORMS.iter().map(|form| (*form, ("everything", everything as fn(&mut softmax::Case))));
    let under_options = OPTIONS.iter().map(|option| (FORMS[1], *option));
    on_forms
        .chain(under_options)
        .map(|((form_name, form), (option_name, option))| {
            let mut case = base();
            form(&mut case);
            option(&mut case);
            case.learner = Some(learner.clone());
            (format!("{form_name}, {option_name}"), case)
        })
        .collect()
}

/// The problem with its learned perturbation as a fixed one on top of the fixed one that it has.
fn frozen(case: &softmax::Case) -> softmax::Case {
    let (output, _) = case.run();
    let learned = output.learned.expect("a learner is set");
    let mut fixed = softmax::Case { learner: None, ..case.clone() };
    let delta = |y: usize, k: usize| match learned.classes.iter().position(|&class| class == y) {
        Some(place) => learned.delta[place * C + k],
        None => 0.0,
    };
    let margin = |m: &[f64], y: usize, k: usize| if k == y { -m[y] } else { 0.0 };
    if case.form == Perturbation::PerSample {
        for i in 0..N {
            if let Some(y) = case.class(i) {
                (0..C).for_each(|k| fixed.per_sample[i * C + k] += delta(y, k));
            }
        }
        return fixed;
    }
    let entry = |y: usize, k: usize| {
        delta(y, k)
            + match &case.form {
                Perturbation::Shared(d) => d[k],
                Perturbation::TargetMargin(m) => margin(m, y, k),
                Perturbation::ClassMatrix(d) => d[y * C + k],
                _ => 0.0,
            }
    };
    fixed.form = Perturbation::ClassMatrix((0..C * C).map(|at| entry(at / C, at % C)).collect());
    fixed
}

#[test]
fn detached_gradients_are_slopes_with_the_learned_perturbation_held() {
    for (name, learner) in learners() {
        for (what, case) in learned_cases(&learner) {
            let steps = case.check().learned.expect("a learner is set").steps;
            assert!(steps.iter().any(|&k| k > 1), "{name}: nothing is learned, steps {steps:?}");
            differentiate(&format!("{name}, {what}"), &frozen(&case), &case.run().1, TOLERANCE);
        }
    }
}

#[test]
fn through_gradients_are_slopes_with_the_perturbation_learned_anew() {
    for (name, learner) in learners() {
        for (what, case) in learned_cases(&learner.gradient(GradientSemantics::Through)) {
            case.check();
            let gradient = case.run().1;
            differentiate(&format!("{name}, {what}"), &case, &gradient, TOLERANCE_THROUGH);
            let held = frozen(&case).run().1;
            let most = gradient.iter().zip(&held).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(most > 1e-5, "{name}, {what}: the two semantics differ by {most:e} only, the test proves nothing");
        }
    }
}

const BINARY_OPTIONS: [Change<sigmoid::Case>; 9] = [
    ("plain", |_| {}),
    ("mask", |case| case.mask = Some((0..N * C).map(|at| u8::from(at % 4 != 1)).collect())),
    ("pos_weight", |case| case.pos_weight = Some(vec![2.0, 0.5, 1.0, 0.0, 3.0])),
    ("weights", |case| case.weights = Some(uniform(12, N * C, 0.0..2.0))),
    ("unknown", |case| {
        case.targets[3] = -1.0;
        case.targets[11] = -1.0;
    }),
    ("sum", |case| (case.reduction, case.upstream) = (Reduction::Sum, vec![-0.7])),
    ("batch mean", |case| (case.reduction, case.upstream) = (Reduction::BatchMean, vec![1.3])),
    ("divisor", |case| (case.reduction, case.upstream) = (Reduction::Divisor(2.5), vec![3.0])),
    ("none, upstream a row", |case| (case.reduction, case.upstream) = (Reduction::None, uniform(2, N, -1.0..2.0))),
];

const BINARY_FORMS: [Change<sigmoid::Case>; 3] = [
    ("no perturbation", |_| {}),
    ("offset", |case| case.offset = Some(uniform(13, C, -1.0..1.0))),
    ("offset and both signs", |case| {
        case.offset = Some(uniform(13, C, -1.0..1.0));
        case.positive = Some(uniform(14, C, -1.0..1.0));
        case.negative = Some(uniform(15, C, -1.0..1.0));
    }),
];

fn binary_everything(case: &mut sigmoid::Case) {
    for (_, option) in &BINARY_OPTIONS[1..5] {
        option(case);
    }
}

const NEGATIVES: [Change<sigmoid::Case>; 5] = [
    ("lam 1", |_| {}),
    ("negative scale", |case| case.negative_scale = 2.5),
    ("focal", |case| case.focusing = Some(Focusing { gamma_pos: 2.0, gamma_neg: 2.0, clip: 0.0 })),
    ("asymmetric", |case| case.focusing = Some(Focusing { gamma_pos: 1.0, gamma_neg: 4.0, clip: 0.05 })),
    ("large clip", |case| case.focusing = Some(Focusing { gamma_pos: 0.0, gamma_neg: 1.0, clip: 0.3 })),
];

fn binary_base(hard: bool) -> sigmoid::Case {
    let mut targets = uniform(9, N * C, 0.0..1.0);
    if hard {
        targets.iter_mut().for_each(|t| *t = f64::from(u8::from(*t > 0.6)));
    } else {
        (targets[0], targets[6]) = (1.0, 0.0);
    }
    sigmoid::Case::new(C, uniform(10, N * C, -3.0..3.0), targets)
}

fn differentiate_binary(what: &str, case: &sigmoid::Case, gradient: &[f64], tolerance: f64) {
    let problem = case.problem();
    assert_derivative(what, &case.logits, gradient, tolerance, |u| {
        let logits = Matrix::new(u, case.rows(), case.columns).expect("N x C");
        let output = cpu::binary_cross_entropy(&problem, logits, case.batch()).expect("a valid batch");
        objective(output.loss, &output.loss_rows, case.reduction, &case.upstream)
    });
}

#[test]
fn sigmoid_gradients_are_slopes_under_every_option() {
    let options = BINARY_OPTIONS.iter().copied().chain([("everything", binary_everything as fn(&mut sigmoid::Case))]);
    for (option_name, option) in options {
        for (form_name, form) in BINARY_FORMS {
            for (negatives_name, negatives) in NEGATIVES {
                let mut case = binary_base(false);
                [option, form, negatives].iter().for_each(|change| change(&mut case));
                case.check();
                let what = format!("{option_name}, {form_name}, {negatives_name}");
                differentiate_binary(&what, &case, &case.run().1, TOLERANCE);
            }
        }
    }
}

fn binary_learners(step: BinaryStep) -> [(&'static str, BinaryLearner); 4] {
    let eps = Bound::Fixed { eps: 1.5 };
    let tail = Bound::LongTail { eps: 0.5, delta_head: 0.4, delta_tail: 0.9, ratio: None };
    let spread = Bound::Confidence { eps: 0.75, delta_eps: 1.0 };
    let explicit = Split::Explicit(vec![1, -1, 1, 0, 1]);
    let new = |split, bound| BinaryLearner::new(step, 0.4, split, bound).expect("in range");
    let own = NegativeSplit::Own(Split::Explicit(vec![-1, 1, 0, 1, 1]));
    let bounds = Bound::Explicit(vec![0.5, 0.9, 1.3, 0.7, 1.1]);
    [
        ("rank, opposite", new(rank(), tail)),
        ("mean confidence, same", new(Split::MeanConfidence, spread)),
        (
            "explicit, off",
            new(explicit.clone(), eps.clone()).negatives(NegativeSplit::Off, eps.clone()).expect("in range"),
        ),
        ("explicit, own", new(explicit, eps).negatives(own, bounds).expect("in range")),
    ]
}

/// The problem with its learned perturbation as a fixed one.
fn binary_frozen(case: &sigmoid::Case) -> sigmoid::Case {
    let learned = case.run().0.learned.expect("a learner is set");
    let add = |part: &Option<Vec<f64>>, delta: &[f64]| {
        Some(delta.iter().enumerate().map(|(k, d)| d + part.as_ref().map_or(0.0, |part| part[k])).collect())
    };
    let positive = add(&case.positive, &learned.positive.delta);
    let negative = add(&case.negative, &learned.negative.delta);
    sigmoid::Case { learner: None, positive, negative, ..case.clone() }
}

fn learned_binary_cases(learner: &BinaryLearner) -> Vec<(String, sigmoid::Case)> {
    let on_forms = BINARY_FORMS.iter().map(|form| (*form, ("everything", binary_everything as fn(&mut sigmoid::Case))));
    let under_options = BINARY_OPTIONS.iter().map(|option| (BINARY_FORMS[2], *option));
    on_forms
        .chain(under_options)
        .flat_map(|((form_name, form), (option_name, option))| {
            NEGATIVES[..4].iter().map(move |(negatives_name, negatives)| {
                let mut case = binary_base(true);
                [form, option, *negatives].iter().for_each(|change| change(&mut case));
                (format!("{form_name}, {option_name}, {negatives_name}"), case)
            })
        })
        .map(|(what, case)| (what, sigmoid::Case { learner: Some(learner.clone()), ..case }))
        .collect()
}

#[test]
fn detached_sigmoid_gradients_are_slopes_with_the_learned_perturbation_held() {
    // Sign and Exact do not depend on the logits: `Through` is the same for them.
    let kinds = [
        (BinaryStep::Raw, GradientSemantics::Detached),
        (BinaryStep::Sign, GradientSemantics::Through),
        (BinaryStep::Exact, GradientSemantics::Through),
    ];
    for (step, semantics) in kinds {
        for (name, learner) in binary_learners(step) {
            for (what, case) in learned_binary_cases(&learner.gradient(semantics)) {
                case.check();
                let what = format!("{step:?}, {name}, {what}");
                differentiate_binary(&what, &binary_frozen(&case), &case.run().1, TOLERANCE);
            }
        }
    }
}

#[test]
fn through_sigmoid_gradients_are_slopes_with_the_perturbation_learned_anew() {
    for (name, learner) in binary_learners(BinaryStep::Raw) {
        for (what, case) in learned_binary_cases(&learner.gradient(GradientSemantics::Through)) {
            case.check();
            let gradient = case.run().1;
            differentiate_binary(&format!("{name}, {what}"), &case, &gradient, TOLERANCE);
            let held = binary_frozen(&case).run().1;
            let most = gradient.iter().zip(&held).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(most > 1e-5, "{name}, {what}: the two semantics differ by {most:e} only, the test proves nothing");
        }
    }
}
