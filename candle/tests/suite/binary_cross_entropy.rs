//! Multi-label cross-entropy: every option of the core, in every dtype and under every reduction.

use crate::support::{Case, agrees_under, noise, numbers, shares, tensor};
use candle_core::{DType, Device, Result, Tensor};
use logit_perturb::cpu::{self, Pass};
use logit_perturb::{
    BinaryCrossEntropy, BinaryLearner, BinaryPerturbation, BinaryStep, BinaryTargets, Bound, ClassCounts, Focusing,
    GradientSemantics, Mask, Matrix, NegativeSplit, Reduction, Split, Upstream,
};
use logit_perturb_candle::BinaryCrossEntropyBatch;

const N: usize = 8;
const C: usize = 4;
const REDUCTIONS: [Reduction; 5] =
    [Reduction::Mean, Reduction::Sum, Reduction::None, Reduction::Divisor(7.0), Reduction::BatchMean];

#[derive(Clone)]
struct Sigmoid {
    problem: BinaryCrossEntropy,
    /// Of `dtype`; the core gets them as f64, or u8.
    targets: Vec<f64>,
    dtype: DType,
    mask: Option<Vec<u8>>,
    weights: Option<Vec<f64>>,
}

/// Zeros and ones, the same for the same seed.
fn hard(seed: u64) -> Vec<f64> {
    shares(seed, N * C).iter().map(|x| f64::from(u8::from(*x < 0.4))).collect()
}

impl Sigmoid {
    fn new(problem: BinaryCrossEntropy) -> Self {
        Self { problem, targets: hard(1), dtype: DType::U8, mask: None, weights: None }
    }

    fn under(&self, reduction: Reduction) -> BinaryCrossEntropy {
        self.problem.to_builder().reduction(reduction).build().unwrap()
    }
}

impl Case for Sigmoid {
    fn shape(&self) -> (usize, usize) {
        (N, C)
    }

    fn candle(&self, logits: &Tensor, reduction: Reduction) -> Result<(Tensor, String)> {
        let mut batch = BinaryCrossEntropyBatch::new(&tensor(&self.targets, (N, C), self.dtype));
        if let Some(mask) = &self.mask {
            batch = batch.mask(&Tensor::from_slice(mask, (N, C), &Device::Cpu)?);
        }
        if let Some(weights) = &self.weights {
            batch = batch.weights(&tensor(weights, (N, C), DType::F64));
        }
        let operation = logit_perturb_candle::BinaryCrossEntropy::new(self.under(reduction));
        let (loss, output) = operation.forward_with_output(logits, batch)?;
        Ok((loss, format!("{output:?}")))
    }

    fn core(&self, pass: Pass<'_>, reduction: Reduction, upstream: Upstream<'_>) -> (f64, Vec<f64>, String) {
        let bytes: Vec<u8> = self.targets.iter().map(|&t| t as u8).collect();
        let targets = match self.dtype {
            DType::U8 => BinaryTargets::U8 { data: &bytes, stride: C },
            _ => BinaryTargets::Dense(Matrix::new(&self.targets, N, C).unwrap()),
        };
        let mut batch = cpu::BinaryCrossEntropyBatch::new(targets).upstream(upstream);
        if let Some(mask) = &self.mask {
            batch = batch.mask(Mask::Bytes { data: mask, stride: C });
        }
        if let Some(weights) = &self.weights {
            batch = batch.weights(Matrix::new(weights, N, C).unwrap());
        }
        let output = cpu::binary_cross_entropy(&self.under(reduction), pass, batch).unwrap();
        (output.loss, output.loss_rows.clone(), format!("{output:?}"))
    }
}

fn agrees(case: &Sigmoid) {
    agrees_under(case, &REDUCTIONS);
}

#[test]
fn plain() {
    agrees(&Sigmoid::new(BinaryCrossEntropy::default()));
}

#[test]
fn positive_weights_and_negative_scale() {
    let problem = BinaryCrossEntropy::builder().pos_weight([0.5, 2.0, 0.0, 7.0]).negative_scale(2.5);
    agrees(&Sigmoid::new(problem.build().unwrap()));
}

#[test]
fn focusing() {
    let focusing = Focusing { gamma_pos: 1.0, gamma_neg: 4.0, clip: 0.05 };
    agrees(&Sigmoid::new(BinaryCrossEntropy::builder().focusing(focusing).build().unwrap()));
}

#[test]
fn fixed_perturbation() {
    let perturbation =
        BinaryPerturbation::none().offset(noise(2, C, 1.0)).positive(noise(3, C, 1.0)).negative(noise(4, C, 1.0));
    agrees(&Sigmoid::new(BinaryCrossEntropy::builder().perturbation(perturbation).build().unwrap()));
}

#[test]
fn mask_and_entry_weights() {
    let mask = shares(5, N * C).iter().map(|x| if *x < 0.7 { 200 } else { 0 }).collect();
    let weights = Some(shares(6, N * C));
    agrees(&Sigmoid { mask: Some(mask), weights, ..Sigmoid::new(BinaryCrossEntropy::default()) });
}

/// Every third entry is -1, unknown.
#[test]
fn soft_and_unknown_targets() {
    let soft = shares(7, N * C).iter().enumerate().map(|(i, &t)| if i % 3 == 0 { -1.0 } else { t }).collect();
    let perturbation = BinaryPerturbation::none().positive(noise(3, C, 1.0)).negative(noise(4, C, 1.0));
    let problem = BinaryCrossEntropy::builder().perturbation(perturbation).build().unwrap();
    agrees(&Sigmoid { targets: soft, dtype: DType::F64, ..Sigmoid::new(problem) });
}

#[test]
fn nothing_known() {
    agrees(&Sigmoid { mask: Some(vec![0; N * C]), ..Sigmoid::new(BinaryCrossEntropy::default()) });
}

/// The signed dtypes and the floats know -1; all integers that candle has give the numbers of u8.
#[test]
fn targets_of_every_dtype() {
    let logits = tensor(&noise(8, N * C, 3.0), (N, C), DType::F32);
    let operation = logit_perturb_candle::BinaryCrossEntropy::new(BinaryCrossEntropy::default());
    let loss = |targets: &[f64], dtype| numbers(&operation.forward(&logits, &tensor(targets, (N, C), dtype)).unwrap());
    let known = hard(9);
    let expected = loss(&known, DType::U8);
    for dtype in [DType::U32, DType::I16, DType::I32, DType::I64, DType::F16, DType::BF16, DType::F32, DType::F64] {
        assert_eq!(loss(&known, dtype), expected, "{dtype:?}");
    }
    let unknown: Vec<f64> = known.iter().enumerate().map(|(i, &t)| if i % 5 == 0 { -1.0 } else { t }).collect();
    let expected = loss(&unknown, DType::F64);
    for dtype in [DType::I16, DType::I32, DType::I64, DType::F16, DType::BF16, DType::F32] {
        assert_eq!(loss(&unknown, dtype), expected, "{dtype:?}");
    }
}

#[test]
fn learned_perturbations() {
    let counts = ClassCounts::multi_label([300.0, 100.0, 30.0, 9.0], 1000.0).unwrap();
    let splits = [
        (Split::Rank { head: 2, counts }, Bound::LongTail { eps: 0.1, delta_head: 0.6, delta_tail: 1.0, ratio: None }),
        (Split::MeanConfidence, Bound::Fixed { eps: 0.55 }),
        (Split::Confidence { tau: 0.4 }, Bound::Confidence { eps: 0.1, delta_eps: 2.0 }),
        (Split::Explicit(vec![1, -1, 0, 1]), Bound::Explicit(vec![0.5, 0.35, 0.4, 0.0])),
    ];
    for (split, bound) in splits {
        for step in [BinaryStep::Raw, BinaryStep::Sign, BinaryStep::Exact] {
            for semantics in [GradientSemantics::Detached, GradientSemantics::Through] {
                let learner = BinaryLearner::new(step, 0.1, split.clone(), bound.clone()).unwrap().gradient(semantics);
                let learner = learner.negatives(NegativeSplit::Same, Bound::Fixed { eps: 0.25 });
                let problem = BinaryCrossEntropy::builder()
                    .perturbation(BinaryPerturbation::none().offset(noise(10, C, 1.0)))
                    .learner(learner.unwrap());
                let mask = Some((0..N * C).map(|i| u8::from(i % 7 != 0)).collect());
                agrees(&Sigmoid { mask, ..Sigmoid::new(problem.build().unwrap()) });
            }
        }
    }
}

#[test]
fn the_problem_can_be_asked_for() {
    let problem = BinaryCrossEntropy::builder().negative_scale(3.0).build().unwrap();
    assert_eq!(*logit_perturb_candle::BinaryCrossEntropy::new(problem.clone()).problem(), problem);
}
