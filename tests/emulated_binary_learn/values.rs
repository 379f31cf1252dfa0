//! Every split, bound and step with every other option, so that each choice meets each of every other axis.

use crate::case::{Case, Format, rounded};
use crate::draw::{Axis, Draw, in_parts};
use crate::run::{check, explicit, hard, keeping, learning, raw};
use logit_perturb::kernel::{DType, Limits};
use logit_perturb::{
    BinaryCrossEntropy, BinaryLearner, BinaryPerturbation, BinaryStep, Bound, ClassCounts, Focusing, NegativeSplit,
    Reduction, Split,
};
use logit_perturb_emulator::{Gradient, Rows};
use rand::Rng;

const AXES: [Axis; 30] = [
    ("split", 4),
    ("bound", 3),
    ("eps", 4),
    ("ratio", 2),
    ("step", 4),
    ("alpha", 3),
    ("negatives", 5),
    ("split of negatives", 4),
    ("bound of negatives", 3),
    ("eps of negatives", 4),
    ("c", 6),
    ("n", 4),
    ("dtype", 3),
    ("format", 6),
    ("spread", 3),
    ("mask", 2),
    ("weights", 2),
    ("wide", 2),
    ("offset", 2),
    ("positive", 2),
    ("negative", 2),
    ("reduction", 5),
    ("pos_weight", 2),
    ("form", 3),
    ("statistics", 2),
    ("kept", 4),
    ("threads", 3),
    ("rows_at", 5),
    ("targets_at", 5),
    ("gradient", 3),
];

impl Draw {
    fn split(&mut self, c: usize, axis: &'static str) -> Split {
        match self.of(axis, 4) {
            0 => Split::MeanConfidence,
            1 => Split::Confidence { tau: 0.53 },
            2 => {
                let counts = ClassCounts::new(self.numbers(c, 1.0, 500.0)).unwrap();
                Split::Rank { head: self.rng.random_range(0..=c), counts }
            }
            _ => Split::Explicit((0..c).map(|_| self.rng.random_range(-1..=1)).collect()),
        }
    }

    fn bound(&mut self, c: usize, split: &Split, axis: &'static str, of_eps: &'static str) -> Bound {
        let eps = [0.3, 1.0, 2.5, 7.0][self.of(of_eps, 4)];
        match (self.of(axis, 3), split) {
            (0, _) => Bound::Fixed { eps },
            (1, Split::MeanConfidence | Split::Confidence { .. }) => {
                Bound::Confidence { eps: eps * 0.5, delta_eps: eps }
            }
            (1, Split::Rank { .. }) => Bound::LongTail {
                eps: 0.3,
                delta_head: eps * 0.5,
                delta_tail: eps,
                ratio: self.on("ratio").then(|| self.numbers(c, 0.25, 4.0)),
            },
            _ => Bound::Explicit(self.numbers(c, 0.0, eps)),
        }
    }

    fn learner(&mut self, c: usize) -> BinaryLearner {
        let split = self.split(c, "split");
        let bound = self.bound(c, &split, "bound", "eps");
        let step = [BinaryStep::Raw, BinaryStep::Raw, BinaryStep::Sign, BinaryStep::Exact][self.of("step", 4)];
        let alpha = [0.1, 0.5, 0.9][self.of("alpha", 3)];
        let learner = BinaryLearner::new(step, alpha, split.clone(), bound).unwrap();
        let negative = match self.of("negatives", 5) {
            0 => return learner,
            1 if matches!(split, Split::Rank { .. } | Split::Explicit(_)) => NegativeSplit::Opposite,
            1 | 2 => NegativeSplit::Same,
            3 => NegativeSplit::Off,
            _ => NegativeSplit::Own(self.split(c, "split of negatives")),
        };
        let of_negative = match &negative {
            NegativeSplit::Own(split) => split.clone(),
            _ => split,
        };
        let bound = self.bound(c, &of_negative, "bound of negatives", "eps of negatives");
        learner.negatives(negative, bound).unwrap()
    }

    fn case(&mut self, seed: u64) -> Case {
        let c = [1, 3, 8, 17, 40, 70][self.of("c", 6)];
        let n = [1, 9, 23, 64][self.of("n", 4)];
        let dtype = DType::ALL[self.of("dtype", 3)];
        let format = Format::ALL[self.of("format", 6)];
        let mut case = hard(dtype, format, c, n, seed);
        let spread = [0.25, 1.0, 4.0][self.of("spread", 3)];
        case.logits.iter_mut().for_each(|u| *u = rounded(dtype, f64::from(*u) * spread) as f32);
        if self.on("mask") {
            case = case.masked(seed);
        }
        if self.on("weights") {
            let wide = self.on("wide");
            case = case.weighted(wide, seed);
        }
        let mut fixed = BinaryPerturbation::none();
        if self.on("offset") {
            fixed = fixed.offset(self.numbers(c, -2.0, 2.0));
        }
        if self.on("positive") {
            fixed = fixed.positive(self.numbers(c, -2.0, 2.0));
        }
        if self.on("negative") {
            fixed = fixed.negative(self.numbers(c, -2.0, 2.0));
        }
        let reductions =
            [Reduction::Mean, Reduction::BatchMean, Reduction::Sum, Reduction::Divisor(3.5), Reduction::None];
        let learner = self.learner(c);
        let mut builder = BinaryCrossEntropy::builder().perturbation(fixed).learner(learner);
        builder = builder.reduction(reductions[self.of("reduction", 5)]);
        if self.on("pos_weight") {
            builder = builder.pos_weight(self.numbers(c, 0.25, 2.0));
        }
        builder = match self.of("form", 3) {
            0 => builder,
            1 => builder.negative_scale(2.5),
            _ => builder.focusing(Focusing { gamma_pos: 1.0, gamma_neg: 3.0, clip: 0.05 }),
        };
        case.problem = builder.build().unwrap();
        case.statistics = self.on("statistics");
        let kept = [0, 1, 10, 64][self.of("kept", 4)];
        let threads = [32, 64, 128][self.of("threads", 3)];
        case.limits = Limits { block_threads: threads, ..keeping(kept, dtype) };
        let wide = c.next_multiple_of(dtype.width());
        let places = [(c, 0), (wide, 0), (c + 1, 0), (wide + dtype.width(), 1), (c + 3, 2)]
            .map(|(stride, offset)| Rows { stride, offset });
        case.rows_at = places[self.of("rows_at", 5)];
        case.targets_at = places[self.of("targets_at", 5)];
        case.gradient = match self.of("gradient", 3) {
            0 => Gradient::None,
            1 => Gradient::InPlace,
            _ => Gradient::Into(Rows { stride: c + 5, offset: 3 }),
        };
        case
    }
}

fn agree_with_the_reference(part: u64) {
    let mut draws = Draw::cover(&AXES, part / 2, part as usize % 2, 2);
    let (mut compared, cases) = (0, draws.len());
    for (seed, draw) in &mut draws {
        let case = draw.case(*seed);
        println!("{seed}: {}, {:?}, {:?}", case.describe(), case.problem, case.limits);
        compared += usize::from(check(&case, *seed));
    }
    assert!(compared > cases * 9 / 10, "{compared} of {cases}");
    Draw::assert_all_were_asked(&AXES, draws.iter().map(|(_, draw)| draw));
}

in_parts!(every_option_with_every_other_agrees_with_the_reference: part_0 0, part_1 1, part_2 2, part_3 3);

/// The same batch in every format is the same to the bit.
#[test]
fn formats_agree_to_the_bit() {
    for dtype in DType::ALL {
        for (split, kept) in [(Split::MeanConfidence, 64), (explicit(37), 64), (explicit(37), 5)] {
            let outcomes = Format::ALL.map(|format| {
                let mut case = hard(dtype, Format::I8, 37, 30, 3).masked(4);
                case.format = format;
                (case.problem, case.limits) = (learning(raw(0.5, 4.0, split.clone())), keeping(kept, dtype));
                let outcome = case.run(7);
                let learned = outcome.learned.clone().unwrap();
                let numbers = learned.positive.delta.iter().chain(&learned.negative.delta);
                let bits: Vec<u32> = numbers.map(|x| x.to_bits()).chain([outcome.loss.to_bits()]).collect();
                bits
            });
            assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "{dtype:?}, {split:?}");
        }
    }
}

/// Long ways: many steps, large bounds, both directions, logits far out.
#[test]
fn many_steps_and_large_bounds_stay_accurate() {
    for (seed, (eps, alpha)) in [(5.0, 0.1), (30.0, 1.0), (30.0, 5.0), (12.0, 0.25)].into_iter().enumerate() {
        for (scale, kept) in [(1.0, 64), (1.0, 3), (6.0, 64), (40.0, 0)] {
            for turn in [1, -1] {
                let mut case = hard(DType::F32, Format::I8, 12, 24, seed as u64);
                case.logits.iter_mut().for_each(|u| *u *= scale);
                let split = Split::Explicit((0..12).map(|k| if k % 2 == 0 { turn } else { -turn }).collect());
                case.problem = learning(raw(alpha, eps, split));
                case.limits = keeping(kept, DType::F32);
                assert!(check(&case, seed as u64));
            }
        }
    }
}

/// More steps than anyone takes.
#[test]
fn thousands_of_steps_stay_accurate() {
    let mut case = hard(DType::F32, Format::U8, 8, 5, 1);
    case.problem = learning(raw(0.001, 3.0, explicit(8)));
    assert!(check(&case, 1));
}
