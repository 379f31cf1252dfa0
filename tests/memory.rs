//! How a batch lies in memory must not matter: dtypes, row strides, in place or not, label types, target and mask formats all give the
//! same bits, and nothing outside the matrix is written.

mod common;
#[path = "common/strategies.rs"]
mod strategies;

use common::{assert_close, sigmoid, softmax};
use half::{bf16, f16};
use logit_perturb::cpu::{self, BinaryCrossEntropyBatch, CrossEntropyBatch, Pass};
use logit_perturb::{
    BinaryTargets, Error, Floats, FloatsMut, GradientSemantics, Labels, Mask, Matrix, MatrixMut, Perturbation, Upstream,
};
use proptest::prelude::*;

/// A floating-point type with its own rounding, by comparison of neighbours.
trait Element: Copy + Default + PartialEq + std::fmt::Debug {
    fn floats(data: &[Self]) -> Floats<'_>;
    fn floats_mut(data: &mut [Self]) -> FloatsMut<'_>;
    fn widen(self) -> f64;
    /// The nearest number, ties to even.
    fn nearest(value: f64) -> Self;
}

macro_rules! half_element {
    ($type:ty) => {
        impl Element for $type {
            fn floats(data: &[Self]) -> Floats<'_> {
                data.into()
            }
            fn floats_mut(data: &mut [Self]) -> FloatsMut<'_> {
                data.into()
            }
            fn widen(self) -> f64 {
                self.to_f64()
            }
            fn nearest(value: f64) -> Self {
                // `half` rounds f64 by way of its upper bits, which can be one off.
                let guess = <$type>::from_f64(value.abs()).to_bits();
                let distance = |bits: u16| (<$type>::from_bits(bits).to_f64() - value.abs()).abs();
                let order = |a: &u16, b: &u16| distance(*a).total_cmp(&distance(*b)).then((a & 1).cmp(&(b & 1)));
                let bits = (guess.saturating_sub(1)..=guess + 1).min_by(order).expect("three candidates");
                let magnitude = <$type>::from_bits(bits);
                if value.is_sign_negative() { -magnitude } else { magnitude }
            }
        }
    };
}
half_element!(f16);
half_element!(bf16);

macro_rules! element {
    ($type:ty) => {
        impl Element for $type {
            fn floats(data: &[Self]) -> Floats<'_> {
                data.into()
            }
            fn floats_mut(data: &mut [Self]) -> FloatsMut<'_> {
                data.into()
            }
            fn widen(self) -> f64 {
                self.into()
            }
            fn nearest(value: f64) -> Self {
                value as $type
            }
        }
    };
}
element!(f32);
element!(f64);

/// What fills the gaps between rows.
const CANARY: f64 = -7.25;

/// `values`, `gap` canaries behind each row and `gap` more behind the last.
fn spread<T: Element>(values: &[f64], columns: usize, gap: usize) -> Vec<T> {
    let row = |row: &[f64]| -> Vec<T> { row.iter().copied().chain(vec![CANARY; gap]).map(T::nearest).collect() };
    values.chunks(columns).flat_map(row).chain(vec![T::nearest(CANARY); gap]).collect()
}

/// The two losses, behind one call.
enum Case {
    Softmax(softmax::Case),
    Sigmoid(sigmoid::Case),
}

impl Case {
    fn logits(&mut self) -> (&mut Vec<f64>, usize) {
        match self {
            Case::Softmax(case) => (&mut case.logits, case.columns),
            Case::Sigmoid(case) => (&mut case.logits, case.columns),
        }
    }

    /// Everything but the gradient, to the bit.
    fn run(&self, pass: Pass<'_>) -> String {
        match self {
            Case::Softmax(case) => format!("{:?}", cpu::cross_entropy(&case.problem(), pass, case.batch())),
            Case::Sigmoid(case) => format!("{:?}", cpu::binary_cross_entropy(&case.problem(), pass, case.batch())),
        }
    }

    /// Output and gradient from dense f64 logits, after a comparison with the formulas.
    fn reference(&self) -> (String, Vec<f64>) {
        let (output, gradient) = match self {
            Case::Softmax(case) => (format!("{:?}", Ok::<_, Error>(case.check())), case.run().1),
            Case::Sigmoid(case) => (format!("{:?}", Ok::<_, Error>(case.check())), case.run().1),
        };
        (output, gradient)
    }
}

/// Logits in `L`, gradient in `G`, any strides: the output of their f64 values, its gradient rounded once, and the gaps as they were.
#[track_caller]
fn assert_memory_does_not_matter<L: Element, G: Element>(mut case: Case, gaps: (usize, usize)) {
    let (logits, columns) = case.logits();
    let rows = logits.len() / columns;
    logits.iter_mut().for_each(|u| *u = L::nearest(*u).widen());
    let mut memory: Vec<L> = spread(logits, columns, gaps.0);
    let (expected, gradient) = case.reference();

    let forward = Matrix::strided(L::floats(&memory), rows, columns, columns + gaps.0).expect("fits");
    assert_eq!(case.run(Pass::Forward(forward)), expected, "forward");

    let mut into: Vec<G> = spread(&vec![1e3; rows * columns], columns, gaps.1);
    let gradient_view = MatrixMut::strided(G::floats_mut(&mut into), rows, columns, columns + gaps.1).expect("fits");
    assert_eq!(case.run(Pass::Into { logits: forward, gradient: gradient_view }), expected, "into another buffer");
    assert_eq!(into, spread::<G>(&gradient, columns, gaps.1), "gradient in another buffer");

    let in_place = MatrixMut::strided(L::floats_mut(&mut memory), rows, columns, columns + gaps.0).expect("fits");
    assert_eq!(case.run(Pass::InPlace(in_place)), expected, "in place");
    assert_eq!(memory, spread::<L>(&gradient, columns, gaps.0), "gradient in place");
}

fn any_case() -> impl Strategy<Value = Case> {
    prop_oneof![
        (prop_oneof![strategies::softmax(true), strategies::softmax(false)], any::<bool>()).prop_map(
            |(mut case, through)| {
                if through {
                    case.learner = case.learner.map(|learner| learner.gradient(GradientSemantics::Through));
                }
                Case::Softmax(case)
            }
        ),
        prop_oneof![strategies::sigmoid(1..7, true), strategies::sigmoid(1..7, false)].prop_map(Case::Sigmoid),
    ]
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Case::Softmax(case) => case.fmt(f),
            Case::Sigmoid(case) => case.fmt(f),
        }
    }
}

/// Packs booleans as the bit formats do, with `gap` words of ones behind each row and ones past the last column.
fn pack(entries: &[bool], columns: usize, gap: usize) -> Vec<u32> {
    let word = |bits: &[bool]| {
        let past = u32::MAX.checked_shl(bits.len() as u32).unwrap_or(0);
        bits.iter().enumerate().fold(past, |word, (at, &bit)| word | u32::from(bit) << at)
    };
    entries
        .chunks(columns)
        .flat_map(|row| row.chunks(32).map(word).chain(vec![u32::MAX; gap]).collect::<Vec<_>>())
        .collect()
}

/// `values` with `gap` copies of `filler` behind each row.
fn gapped<T: Copy>(values: &[T], columns: usize, gap: usize, filler: T) -> Vec<T> {
    values.chunks(columns).flat_map(|row| row.iter().copied().chain(vec![filler; gap]).collect::<Vec<_>>()).collect()
}

fn binary_run(case: &sigmoid::Case, targets: BinaryTargets<'_>, mask: Option<Mask<'_>>) -> String {
    let (n, c) = (case.rows(), case.columns);
    let mut gradient = vec![f64::INFINITY; n * c];
    let pass = Pass::Into {
        logits: Matrix::new(&case.logits, n, c).expect("N x C"),
        gradient: MatrixMut::new(&mut gradient, n, c).expect("N x C"),
    };
    let mut batch = BinaryCrossEntropyBatch::new(targets).upstream(match case.upstream.as_slice() {
        [one] => Upstream::Scalar(*one),
        rows => Upstream::Rows(rows),
    });
    if let Some(weights) = &case.weights {
        batch = batch.weights(Matrix::new(weights, n, c).expect("N x C"));
    }
    if let Some(mask) = mask {
        batch = batch.mask(mask);
    }
    let output = cpu::binary_cross_entropy(&case.problem(), pass, batch).expect("a valid batch");
    format!("{output:?} {gradient:?}")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn dtype_stride_and_place_do_not_matter(case in any_case(), gaps in (0..4usize, 0..4usize), dtypes in 0..6u8) {
        match dtypes {
            0 => assert_memory_does_not_matter::<f64, f32>(case, gaps),
            1 => assert_memory_does_not_matter::<f32, f64>(case, gaps),
            2 => assert_memory_does_not_matter::<f16, f16>(case, gaps),
            3 => assert_memory_does_not_matter::<bf16, f32>(case, gaps),
            4 => assert_memory_does_not_matter::<f32, bf16>(case, gaps),
            _ => assert_memory_does_not_matter::<f64, f16>(case, gaps),
        }
    }

    #[test]
    fn label_types_do_not_matter(mut case in strategies::softmax(false)) {
        case.soft = None;
        // Unsigned labels have no -100.
        case.labels.iter_mut().filter(|y| **y < 0).for_each(|y| *y = 100);
        case.ignore_index = 100;
        let expected = format!("{:?}", case.check());
        let signed: Vec<i32> = case.labels.iter().map(|&y| y as i32).collect();
        let unsigned: Vec<u32> = case.labels.iter().map(|&y| y as u32).collect();
        let (n, c) = (case.rows(), case.columns);
        for labels in [Labels::from(&signed), Labels::from(&unsigned), Labels::from(&case.labels)] {
            let mut batch = CrossEntropyBatch::labels(labels);
            if let Some(weights) = &case.sample_weights {
                batch = batch.sample_weights(weights);
            }
            if case.form == Perturbation::PerSample {
                batch = batch.perturbation(Matrix::new(&case.per_sample, n, c).expect("N x C"));
            }
            let logits = Matrix::new(&case.logits, n, c).expect("N x C");
            let output = cpu::cross_entropy(&case.problem(), logits, batch).expect("a valid batch");
            prop_assert_eq!(format!("{output:?}"), expected.clone());
        }
    }

    #[test]
    fn target_and_mask_formats_do_not_matter(mut case in strategies::sigmoid(1..70, true), gap in 0..3usize, seed: u64) {
        let (n, c) = (case.rows(), case.columns);
        // Where an entry is unknown, first the mask says so.
        let known: Vec<bool> = (0..n * c).map(|at| case.is_known(at / c, at % c)).collect();
        let hard: Vec<bool> = case.targets.iter().map(|&t| t == 1.0).collect();
        case.targets = hard.iter().map(|&t| f64::from(u8::from(t))).collect();
        case.mask = Some(known.iter().map(|&known| u8::from(known)).collect());
        case.check();
        let (output, gradient) = case.run();
        let expected = format!("{output:?} {gradient:?}");

        let bytes = gapped(&known.iter().map(|&known| if known { 1 + (seed % 255) as u8 } else { 0 }).collect::<Vec<_>>(), c, gap, 9);
        let words = pack(&known, c, gap);
        let word_stride = c.div_ceil(32) + gap;
        let masks = [Mask::Bytes { data: &bytes, stride: c + gap }, Mask::Bits { words: &words, stride: word_stride }];

        let f16s: Vec<f16> = spread(&case.targets, c, gap);
        let bf16s: Vec<bf16> = spread(&case.targets, c, gap);
        let f32s: Vec<f32> = spread(&case.targets, c, gap);
        let dense = |floats| BinaryTargets::Dense(Matrix::strided(floats, n, c, c + gap).expect("fits"));
        let i8s = gapped(&hard.iter().map(|&t| i8::from(t)).collect::<Vec<_>>(), c, gap, 77);
        let u8s = gapped(&hard.iter().map(|&t| u8::from(t)).collect::<Vec<_>>(), c, gap, 77);
        let packed = pack(&hard, c, gap);
        let positives = |row: &[bool]| (0..c).rev().filter(|&k| row[k]).map(|k| k as i32).collect::<Vec<i32>>();
        // Every index twice and out of order, behind indices that belong to no row.
        let lists: Vec<Vec<i32>> = hard.chunks(c).map(|row| [positives(row), positives(row)].concat()).collect();
        let mut offsets = vec![1i32];
        lists.iter().for_each(|list| offsets.push(offsets.last().expect("not empty") + list.len() as i32));
        let indices: Vec<i32> = [vec![-5], lists.concat(), vec![999]].concat();
        let formats = [
            dense(f16::floats(&f16s)),
            dense(bf16::floats(&bf16s)),
            dense(f32::floats(&f32s)),
            BinaryTargets::I8 { data: &i8s, stride: c + gap },
            BinaryTargets::U8 { data: &u8s, stride: c + gap },
            BinaryTargets::Bits { words: &packed, stride: word_stride },
            BinaryTargets::Csr { offsets: &offsets, indices: &indices },
        ];
        for targets in formats {
            for mask in masks {
                prop_assert_eq!(binary_run(&case, targets, Some(mask)), expected.clone());
            }
        }

        // Then a target of -1 does.
        let signed: Vec<i8> = hard.iter().zip(&known).map(|(&t, &known)| if known { i8::from(t) } else { -1 }).collect();
        let floats: Vec<bf16> = signed.iter().map(|&t| bf16::from_f32(t.into())).collect();
        for targets in [
            BinaryTargets::I8 { data: &signed, stride: c },
            BinaryTargets::Dense(Matrix::new(&floats, n, c).expect("N x C")),
        ] {
            prop_assert_eq!(binary_run(&case, targets, None), expected.clone());
        }
    }

    #[test]
    fn weights_soft_targets_and_perturbations_may_be_halves(mut case in strategies::softmax(false), seed: u64) {
        let (n, c) = (case.rows(), case.columns);
        let draw = |salt: u64, len: usize| -> Vec<f16> {
            common::uniform(seed ^ salt, len, 0.0..2.0).into_iter().map(f16::nearest).collect()
        };
        let (weights, soft, perturbation) = (draw(1, n), draw(2, n * c), draw(3, n * c));
        let widened = |halves: &[f16]| -> Vec<f64> { halves.iter().map(|x| x.widen()).collect() };
        (case.form, case.smoothing) = (Perturbation::PerSample, 0.0);
        case.sample_weights = Some(widened(&weights));
        (case.soft, case.per_sample) = (Some(widened(&soft)), widened(&perturbation));
        let expected = case.check();
        let batch = CrossEntropyBatch::soft_targets(Matrix::new(&soft, n, c).expect("N x C"))
            .sample_weights(&weights)
            .perturbation(Matrix::new(&perturbation, n, c).expect("N x C"));
        let logits = Matrix::new(&case.logits, n, c).expect("N x C");
        let output = cpu::cross_entropy(&case.problem(), logits, batch).expect("a valid batch");
        assert_close("loss_rows", &output.loss_rows, &expected.loss_rows, 0.0);
    }
}

/// With two classes at logit 0 the gradient is -g / 2 and g / 2: the upstream gradient sets it at will.
#[track_caller]
fn assert_rounded_once<T: Element>(value: f64) {
    let mut case = softmax::Case::new(2, vec![0.0; 2], vec![1]);
    case.upstream = vec![2.0 * value];
    let mut gradient = [T::default(); 2];
    let pass = Pass::Into {
        logits: Matrix::new(&case.logits, 1, 2).expect("1 x 2"),
        gradient: MatrixMut::new(T::floats_mut(&mut gradient), 1, 2).expect("1 x 2"),
    };
    cpu::cross_entropy(&case.problem(), pass, case.batch()).expect("a valid batch");
    assert_eq!(gradient, [T::nearest(value), T::nearest(-value)], "{value:e}");
}

#[test]
fn halves_that_rounding_twice_would_get_wrong_are_rounded_once() {
    // Beside a tie by less than f32 can hold, and the tie itself.
    let values = |ulp: f64| {
        let away = 2f64.powi(-40);
        [1.0 + ulp / 2.0 + away, 1.0 + 1.5 * ulp - away, 1.0 + ulp / 2.0, 1.0 + 1.5 * ulp]
    };
    values(2f64.powi(-10)).into_iter().for_each(assert_rounded_once::<f16>);
    values(2f64.powi(-7)).into_iter().for_each(assert_rounded_once::<bf16>);
}
