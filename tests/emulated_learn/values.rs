//! Every split, bound and step with every other option, so that each choice meets each of every other axis.

use crate::common::softmax::Case;
use crate::draw::{Axis, Draw, in_parts};
use crate::run::{Device, check, nearest, run, single, tiles_of, tiles_of_blocks};
use logit_perturb::kernel::{DType, Limits};
use logit_perturb::{Bound, ClassCounts, Learner, Perturbation, Reduction, Split, Step};
use logit_perturb_emulator::{Gradient, Options, Rows};
use rand::Rng;

const AXES: [Axis; 26] = [
    ("plan", 11),
    ("eps", 4),
    ("ratio", 2),
    ("step", 2),
    ("alpha", 3),
    ("on device", 3),
    ("c", 7),
    ("dtype", 3),
    ("spread", 2),
    ("classes", 3),
    ("ignored", 2),
    ("wide", 2),
    ("form", 5),
    ("smoothing", 2),
    ("z", 2),
    ("class_weights", 2),
    ("sample_weights", 2),
    ("reduction", 4),
    ("tile", 4),
    ("threads", 2),
    ("tally", 2),
    ("layout", 3),
    ("place", 4),
    ("statistics", 2),
    ("resident", 2),
    ("store_buffer", 2),
];

/// Splits with the bounds that go with them.
const PLANS: [(usize, usize); 11] =
    [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 3), (3, 0), (3, 1)];

impl Draw {
    fn learner(&mut self, c: usize, on_device: usize) -> Learner {
        let (split, bound) = PLANS[self.of("plan", PLANS.len())];
        let counts = ClassCounts::new(self.numbers(c, 125.0, 500.0)).unwrap();
        let split = match split {
            0 => Split::MeanConfidence,
            1 => Split::Confidence { tau: 0.21 },
            2 => Split::Rank { head: self.rng.random_range(0..=c), counts },
            _ => Split::Explicit((0..c).map(|_| self.rng.random_range(-1..=1)).collect()),
        };
        // Of f32, where they are to come from the device.
        let given = |x: f64| if on_device == 0 { x } else { f64::from(x as f32) };
        let eps = given([0.3, 1.0, 2.5, 7.0][self.of("eps", 4)]);
        let bound = match bound {
            0 => Bound::Fixed { eps },
            1 => Bound::Explicit(self.numbers(c, 0.0, eps)),
            2 => Bound::Confidence { eps: eps * 0.5, delta_eps: eps },
            _ => Bound::LongTail {
                eps: 0.3,
                delta_head: eps * 0.5,
                delta_tail: eps,
                // No bound over 30: tails are pushed up to four times as far.
                ratio: self.on("ratio").then(|| self.numbers(c, 0.5, 2.0)),
            },
        };
        let step = if self.on("step") { Step::UnitL2 } else { Step::Raw };
        Learner::new(step, given([0.1, 0.5, 0.9][self.of("alpha", 3)]), split, bound).unwrap()
    }

    fn case(&mut self, c: usize, dtype: DType, on_device: usize) -> (Case, bool) {
        let n = match c {
            ..=10 => 23,
            11..300 => 13,
            _ => 7,
        };
        let spread = [1.0, 8.0][self.of("spread", 2)];
        let logits = self.numbers(n * c, -spread, spread).into_iter().map(|x| nearest(dtype, x)).collect();
        // Some classes have many rows, others few or none.
        let few = c.min([2, 5, c][self.of("classes", 3)]);
        let mut labels: Vec<i64> = (0..n).map(|_| self.rng.random_range(0..few as i64)).collect();
        if self.on("ignored") {
            (labels[2], labels[n - 1]) = (-100, -100);
        }
        let mut case = Case::new(c, logits, labels);
        let wide = self.on("wide");
        let narrow = |numbers: Vec<f64>| -> Vec<f64> {
            numbers.into_iter().map(|x| if wide { x } else { nearest(dtype, x) }).collect()
        };
        case.form = match self.of("form", 5) {
            0 => Perturbation::None,
            1 => Perturbation::Shared(self.numbers(c, -2.0, 2.0)),
            2 => Perturbation::TargetMargin(self.numbers(c, -2.0, 2.0)),
            3 => Perturbation::ClassMatrix(narrow(self.numbers(c * c, -2.0, 2.0))),
            _ => {
                case.per_sample = narrow(self.numbers(n * c, -2.0, 2.0));
                Perturbation::PerSample
            }
        };
        case.smoothing = if self.on("smoothing") { 0.125 } else { 0.0 };
        case.z = if self.on("z") { 0.015_625 } else { 0.0 };
        let mut weights = self.numbers(c, 0.25, 2.0);
        // Of two classes, one alone would have all the weight of a smoothed target: what p nears then is subtracted from it, in every kernel.
        weights[c / 2] = if c == 2 && case.smoothing != 0.0 { 0.5 } else { 0.0 };
        case.class_weights = self.on("class_weights").then_some(weights);
        let mut weights = self.numbers(n, 0.25, 2.0);
        // A row of which the z-loss alone is left has |lse| as the unit of its tolerance, which no f32 holds to where it nears 0.
        weights[n / 2] = if case.z == 0.0 { 0.0 } else { 0.5 };
        case.sample_weights = self.on("sample_weights").then_some(weights);
        case.reduction =
            [Reduction::Mean, Reduction::Sum, Reduction::Divisor(3.5), Reduction::None][self.of("reduction", 4)];
        case.upstream = match case.reduction {
            Reduction::None => self.numbers(n, -2.0, 2.0),
            _ => vec![-1.5],
        };
        case.learner = Some(self.learner(c, on_device));
        (case, wide)
    }
}

fn rows(layout: usize, c: usize, dtype: DType) -> Rows {
    let width = dtype.width();
    match layout {
        0 => Rows { stride: c.next_multiple_of(width), offset: 0 },
        1 => Rows { stride: c.next_multiple_of(width), offset: 3 },
        _ => Rows { stride: c + 1, offset: 0 },
    }
}

fn agree_with_the_reference(part: u64) {
    let mut draws = Draw::cover(&AXES, part / 2, part as usize % 2, 2);
    let (mut compared, cases) = (0, draws.len());
    for (seed, draw) in &mut draws {
        let c = [1, 2, 10, 33, 70, 130, 300][draw.of("c", 7)];
        let dtype = DType::ALL[draw.of("dtype", 3)];
        let on_device = draw.of("on device", 3);
        let (case, wide) = draw.case(c, dtype, on_device);
        let learner = case.learner.as_ref().unwrap();
        let limits = tiles_of_blocks([0, 1, 3, 30][draw.of("tile", 4)], c, [32, 128][draw.of("threads", 2)]);
        let limits = Limits { labels_in_block: [4, 40][draw.of("tally", 2)], ..limits };
        let at = rows(draw.of("layout", 3), c, dtype);
        let device = Device {
            dtype,
            rows: at,
            gradient: match draw.of("place", 4) {
                0 => Gradient::None,
                1 => Gradient::InPlace,
                2 => Gradient::Into(at),
                _ => Gradient::Into(Rows { stride: c + 5, offset: 1 }),
            },
            wide,
            statistics: draw.on("statistics"),
            alpha: (on_device > 0).then_some(learner.alpha() as f32),
            eps: match learner.bound() {
                Bound::Fixed { eps } | Bound::Confidence { eps, .. } if on_device > 1 => Some(vec![*eps as f32]),
                Bound::Explicit(bounds) if on_device > 1 => Some(single(bounds)),
                _ => None,
            },
            options: Options {
                seed: *seed,
                exp_seed: *seed,
                resident_blocks: [1, 64][draw.of("resident", 2)],
                store_buffer: draw.on("store_buffer"),
                ..Options::default()
            },
            ..Device::new(c, limits)
        };
        println!("{seed}: {case:?}, {device:?}");
        compared += usize::from(check(&case, &device));
    }
    assert!(compared > cases * 9 / 10, "{compared} of {cases}");
    Draw::assert_all_were_asked(&AXES, draws.iter().map(|(_, draw)| draw));
}

in_parts!(every_option_with_every_other_agrees_with_the_reference: part_0 0, part_1 1, part_2 2, part_3 3);

/// Long ways: many steps, large bounds, both directions.
#[test]
fn many_steps_and_large_bounds_stay_accurate() {
    for (seed, (eps, alpha)) in [(5.0, 0.1), (30.0, 1.0), (30.0, 5.0), (12.0, 0.25)].into_iter().enumerate() {
        for step in [Step::Raw, Step::UnitL2] {
            for (c, tile) in [(12, 30), (12, 2), (40, 30), (40, 0)] {
                let mut draw = Draw::new(seed as u64);
                let logits = draw.numbers(8 * c, -6.0, 6.0);
                let labels = (0..8).map(|i| i % 3).collect();
                let split = Split::Explicit((0..c).map(|k| if k % 2 == 0 { 1 } else { -1 }).collect());
                let mut case = Case::new(c, logits, labels);
                case.learner = Some(Learner::new(step, alpha, split, Bound::Fixed { eps }).unwrap());
                assert!(check(&case, &Device::new(c, tiles_of(tile, c))));
            }
        }
    }
}

/// SPEC 3: K is at most 10,000.
#[test]
fn steps_end_at_ten_thousand() {
    let mut case = Case::new(3, vec![1.0, 0.5, -0.5, 0.25, -1.0, 0.75], vec![0, 2]);
    let split = Split::Explicit(vec![1; 3]);
    case.learner = Some(Learner::new(Step::Raw, 1e-5, split, Bound::Fixed { eps: 3.0 }).unwrap());
    let outcome = run(&case, &Device::new(3, tiles_of(2, 3)));
    assert_eq!(outcome.steps, [10_000, 10_000]);
}
