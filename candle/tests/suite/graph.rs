//! The losses as part of candle's graph: chain rule against finite differences, reuse, inference, empty batches.

use crate::support::{close, gradient, noise, numbers, tensor};
use candle_core::{DType, Device, Tensor, Var};
use logit_perturb::{
    BinaryLearner, BinaryStep, Bound, GradientSemantics, Learner, Perturbation, Reduction, Split, Step,
};
use logit_perturb_candle::{BinaryCrossEntropy, BinaryCrossEntropyBatch, CrossEntropy, CrossEntropyBatch};

const N: usize = 6;
const C: usize = 4;
const LABELS: [i64; N] = [0, 1, 3, -100, 2, 0];

fn labels() -> Tensor {
    Tensor::new(&LABELS, &Device::Cpu).unwrap()
}

fn logits(dtype: DType) -> Var {
    Var::from_tensor(&tensor(&noise(1, N * C, 3.0), (N, C), dtype)).unwrap()
}

fn plain(reduction: Reduction) -> CrossEntropy {
    CrossEntropy::new(logit_perturb::CrossEntropy::builder().reduction(reduction).build().unwrap())
}

/// The gradient of a linear layer's weights, `loss(features W)`, is what central differences in f64 say.
fn check_linear(loss: impl Fn(&Tensor) -> Tensor, context: &str) {
    let features = tensor(&noise(2, N * 3, 1.0), (N, 3), DType::F64);
    let values = noise(3, 3 * C, 1.0);
    let weight = Var::from_tensor(&tensor(&values, (3, C), DType::F64)).unwrap();
    let of = |weight: &Tensor| loss(&features.matmul(weight).unwrap());
    let step = 1e-5;
    let at = |index: usize, by: f64| {
        let mut values = values.clone();
        values[index] += by;
        numbers(&of(&tensor(&values, (3, C), DType::F64)))[0]
    };
    let differences: Vec<f64> = (0..3 * C).map(|i| (at(i, step) - at(i, -step)) / (2.0 * step)).collect();
    let got = gradient(&of(&weight), &weight);
    assert!(got.iter().any(|g| g.abs() > 1e-2), "{context}: there is something to compare");
    close(&got, &differences, 1e-8, context);
}

#[test]
fn a_linear_layer_under_softmax() {
    let builder = || {
        let perturbation = Perturbation::ClassMatrix(noise(4, C * C, 1.0));
        logit_perturb::CrossEntropy::builder().label_smoothing(0.1).z_loss(0.02).perturbation(perturbation)
    };
    let learner = |semantics| {
        let (split, bound) = (Split::Explicit(vec![1, -1, 1, 1]), Bound::Fixed { eps: 0.8 });
        Learner::new(Step::UnitL2, 0.2, split, bound).unwrap().gradient(semantics)
    };
    let factors = tensor(&noise(5, N, 2.0), N, DType::F64);
    for reduction in [Reduction::Mean, Reduction::None] {
        for problem in [builder(), builder().learner(learner(GradientSemantics::Through))] {
            let operation = CrossEntropy::new(problem.reduction(reduction).build().unwrap());
            check_linear(
                |logits| {
                    let loss = operation.forward(logits, &labels()).unwrap();
                    loss.broadcast_mul(&factors).unwrap().sum_all().unwrap()
                },
                &format!("{reduction:?}, learner: {}", operation.problem().learner().is_some()),
            );
        }
    }
}

#[test]
fn a_linear_layer_under_sigmoids() {
    let targets = Tensor::from_iter((0..N * C).map(|i| u8::from(i % 3 == 0)), &Device::Cpu).unwrap();
    let targets = targets.reshape((N, C)).unwrap();
    let (split, bound) = (Split::Explicit(vec![1, -1, 1, 1]), Bound::Fixed { eps: 0.8 });
    let learner = BinaryLearner::new(BinaryStep::Raw, 0.2, split, bound).unwrap().gradient(GradientSemantics::Through);
    let factors = tensor(&noise(5, N, 2.0), N, DType::F64);
    let builder = || logit_perturb::BinaryCrossEntropy::builder().pos_weight([0.5, 1.0, 2.0, 3.0]);
    for reduction in [Reduction::Mean, Reduction::None] {
        for problem in [builder(), builder().learner(learner.clone())] {
            let operation = BinaryCrossEntropy::new(problem.reduction(reduction).build().unwrap());
            check_linear(
                |logits| {
                    let loss = operation.forward(logits, &targets).unwrap();
                    loss.broadcast_mul(&factors).unwrap().sum_all().unwrap()
                },
                &format!("{reduction:?}, learner: {}", operation.problem().learner().is_some()),
            );
        }
    }
}

#[test]
fn backward_can_be_called_twice() {
    let logits = logits(DType::F32);
    let loss = plain(Reduction::Mean).forward(&logits, &labels()).unwrap();
    let first = gradient(&loss, &logits);
    assert!(first.iter().any(|g| *g != 0.0));
    assert_eq!(gradient(&loss, &logits), first);
}

/// Two losses of the same logits, one of them squared: `L^2 + B / 2` has the gradient `2 L dL + dB / 2`.
#[test]
fn losses_are_operands_like_others() {
    let logits = logits(DType::F64);
    let targets = tensor(&[1.0; N * C], (N, C), DType::U8);
    let softmax = plain(Reduction::Mean).forward(&logits, &labels()).unwrap();
    let binary = BinaryCrossEntropy::new(logit_perturb::BinaryCrossEntropy::default());
    let binary = binary.forward(&logits, &targets).unwrap();
    let sum = ((&softmax * &softmax).unwrap() + (&binary * 0.5).unwrap()).unwrap();
    let value = numbers(&softmax)[0];
    let parts = gradient(&softmax, &logits).into_iter().zip(gradient(&binary, &logits));
    let expected: Vec<f64> = parts.map(|(s, b)| 2.0 * value * s + 0.5 * b).collect();
    close(&gradient(&sum, &logits), &expected, 1e-15, "sum of two losses");
}

/// Several rows' upstream gradients come out of one sum; those of single rows out of a selection.
#[test]
fn one_row_of_the_losses() {
    let logits = logits(DType::F32);
    let loss = plain(Reduction::None).forward(&logits, &labels()).unwrap();
    let all = gradient(&loss, &logits);
    let one = gradient(&loss.get(2).unwrap(), &logits);
    assert_eq!(one[2 * C..3 * C], all[2 * C..3 * C]);
    assert!(one[..2 * C].iter().chain(&one[3 * C..]).all(|g| *g == 0.0));
    assert!(all[..C].iter().all(|g| *g != 0.0));
}

/// A row that is ignored gets no gradient, even where what follows the loss has none at 0.
#[test]
fn no_upstream_gradient_reaches_an_ignored_row() {
    let logits = logits(DType::F32);
    let loss = plain(Reduction::None).forward(&logits, &labels()).unwrap();
    let got = gradient(&loss.log().unwrap().sum_all().unwrap(), &logits);
    assert_eq!(got[3 * C..4 * C], [0.0; C]);
    assert!(got.iter().all(|g| g.is_finite()));
}

#[test]
fn inference_gives_the_same_loss_without_a_graph() {
    for reduction in [Reduction::Mean, Reduction::None] {
        let logits = logits(DType::BF16);
        let operation = plain(reduction);
        let tracked = operation.forward(&logits, &labels()).unwrap();
        let untracked = operation.forward(&logits.as_detached_tensor(), &labels()).unwrap();
        assert_eq!(numbers(&untracked), numbers(&tracked));
        assert!(tracked.track_op());
        assert!(!untracked.track_op());
    }
}

/// Only the logits have a gradient.
#[test]
fn side_tensors_are_constants() {
    let logits = logits(DType::F32);
    let soft = Var::from_tensor(&tensor(&[0.25; N * C], (N, C), DType::F32)).unwrap();
    let batch = CrossEntropyBatch::soft_targets(&soft);
    let gradients = plain(Reduction::Mean).forward_with(&logits, batch).unwrap().backward().unwrap();
    assert!(gradients.get(&logits).is_some());
    assert!(gradients.get(&soft).is_none());
}

#[test]
fn a_batch_of_no_rows() {
    let none = Var::from_tensor(&tensor(&[], (0, C), DType::F32)).unwrap();
    let labels = Tensor::from_slice::<_, i64>(&[], 0, &Device::Cpu).unwrap();
    let targets = tensor(&[], (0, C), DType::U8);
    let rows = logit_perturb::BinaryCrossEntropy::builder().reduction(Reduction::None).build().unwrap();
    let losses = [
        (plain(Reduction::Mean).forward(&none, &labels).unwrap(), 1),
        (plain(Reduction::None).forward(&none, &labels).unwrap(), 0),
        (BinaryCrossEntropy::new(Default::default()).forward(&none, &targets).unwrap(), 1),
        (BinaryCrossEntropy::new(rows).forward_with(&none, BinaryCrossEntropyBatch::new(&targets)).unwrap(), 0),
    ];
    for (loss, len) in losses {
        assert_eq!(numbers(&loss), vec![0.0; len]);
        assert!(gradient(&loss, &none).is_empty());
    }
}
