//! Tensors that are views of others: read at the right place, with the gradient going back through the view.

use crate::support::{gradient, noise, numbers, shares, tensor};
use candle_core::{DType, Device, IndexOp, Tensor, Var};
use logit_perturb::Perturbation;
use logit_perturb_candle::{BinaryCrossEntropy, BinaryCrossEntropyBatch, CrossEntropy, CrossEntropyBatch};

const N: usize = 5;
const C: usize = 4;

/// Loss and gradient by way of `view` are those by way of its dense copy.
fn check(name: &str, base: (usize, usize), view: impl Fn(&Tensor) -> Tensor) {
    for dtype in [DType::BF16, DType::F32, DType::F64] {
        let base = Var::from_tensor(&tensor(&noise(1, base.0 * base.1, 3.0), base, dtype)).unwrap();
        let viewed = view(&base);
        let (n, c) = viewed.dims2().unwrap();
        let dense = viewed.force_contiguous().unwrap();
        let labels: Vec<i64> = (0..n as i64).map(|i| i % c as i64).collect();
        let labels = Tensor::new(labels, &Device::Cpu).unwrap();
        let operation = CrossEntropy::new(logit_perturb::CrossEntropy::builder().label_smoothing(0.1).build().unwrap());
        let (loss, expected) =
            (operation.forward(&viewed, &labels).unwrap(), operation.forward(&dense, &labels).unwrap());
        assert_eq!(numbers(&loss), numbers(&expected), "{name}, {dtype:?}");
        assert_eq!(gradient(&loss, &base), gradient(&expected, &base), "{name}, {dtype:?}");
        assert_eq!(gradient(&loss, &base).iter().any(|g| *g != 0.0), c > 1, "{name}, {dtype:?}");
    }
}

#[test]
fn logits_that_are_views() {
    let middle = |t: &Tensor| t.i((1..1 + N, 2..2 + C)).unwrap();
    check("narrowed both ways", (N + 2, C + 3), middle);
    check("narrowed rows", (N + 2, C), |t| t.narrow(0, 2, N).unwrap());
    check("narrowed columns", (N, C + 1), |t| t.narrow(1, 1, C).unwrap());
    check("every other row", (2 * N, C), |t| t.reshape((N, 2, C)).unwrap().i((.., 1, ..)).unwrap());
    check("every other column", (N, 2 * C), |t| t.reshape((N, C, 2)).unwrap().i((.., .., 1)).unwrap());
    check("transposed", (C, N), |t| t.t().unwrap());
    check("transposed and narrowed", (C + 1, N + 1), |t| t.t().unwrap().i((1.., 1..)).unwrap());
    check("one row for all", (1, C), |t| t.broadcast_as((N, C)).unwrap());
    check("one row", (N, C), |t| t.narrow(0, N - 1, 1).unwrap());
    check("one row out of a vector", (1, C), |t| t.get(0).unwrap().broadcast_as((1, C)).unwrap());
    check("one row out of a column", (C, 1), |t| t.t().unwrap());
    check("one row of a transposed", (C, N), |t| t.t().unwrap().narrow(0, 2, 1).unwrap());
    check("one column", (N, C), |t| t.narrow(1, 2, 1).unwrap());
    check("one column of a transposed", (C, N), |t| t.t().unwrap().narrow(1, 2, 1).unwrap());
    check("overlapping rows", (N + 1, C), |t| t.narrow(0, 1, 1).unwrap().broadcast_as((N, C)).unwrap());
}

/// The view starts behind the last number of its tensor.
#[test]
fn no_rows_of_a_matrix() {
    let base = tensor(&noise(1, N * C, 3.0), (N, C), DType::F32);
    let (logits, labels) = (base.i((N.., 2..)).unwrap(), Tensor::zeros(0, DType::I64, &Device::Cpu).unwrap());
    let loss = CrossEntropy::new(Default::default()).forward(&logits, &labels).unwrap();
    assert_eq!(numbers(&loss), [0.0]);
    let targets = logits.to_dtype(DType::U8).unwrap();
    let loss = BinaryCrossEntropy::new(Default::default()).forward(&logits, &targets).unwrap();
    assert_eq!(numbers(&loss), [0.0]);
}

/// A view that holds `values`, with other numbers all around it.
fn inside(values: &Tensor) -> Tensor {
    let (n, c) = values.dims2().unwrap();
    let other = |rows, columns| tensor(&vec![77.0; rows * columns], (rows, columns), values.dtype());
    let wide = Tensor::cat(&[&other(n, 2), values, &other(n, 1)], 1).unwrap();
    Tensor::cat(&[&other(1, c + 3), &wide, &other(1, c + 3)], 0).unwrap().i((1..1 + n, 2..2 + c)).unwrap()
}

/// The same numbers, column by column in memory.
fn by_columns(values: &Tensor) -> Tensor {
    values.t().unwrap().contiguous().unwrap().t().unwrap()
}

/// A column of a wider tensor.
fn column(values: &Tensor) -> Tensor {
    Tensor::stack(&[&values.zeros_like().unwrap(), values], 1).unwrap().i((.., 1)).unwrap()
}

#[test]
fn softmax_side_tensors_that_are_views() {
    let logits = tensor(&noise(2, N * C, 3.0), (N, C), DType::F32);
    let (soft, perturbation) =
        (tensor(&shares(3, N * C), (N, C), DType::F32), tensor(&noise(4, N * C, 1.0), (N, C), DType::BF16));
    let weights = tensor(&shares(5, N), N, DType::F32);
    let problem = logit_perturb::CrossEntropy::builder().perturbation(Perturbation::PerSample).build().unwrap();
    let operation = CrossEntropy::new(problem);
    let loss = |soft: &Tensor, weights: &Tensor, perturbation: &Tensor| {
        let batch = CrossEntropyBatch::soft_targets(soft).sample_weights(weights).perturbation(perturbation);
        numbers(&operation.forward_with(&logits, batch).unwrap())
    };
    let expected = loss(&soft, &weights, &perturbation);
    assert_eq!(loss(&inside(&soft), &column(&weights), &inside(&perturbation)), expected);
    assert_eq!(loss(&by_columns(&soft), &weights, &by_columns(&perturbation)), expected);
}

#[test]
fn labels_that_are_a_view() {
    let logits = tensor(&noise(6, N * C, 3.0), (N, C), DType::F32);
    let labels = Tensor::new(&[3i64, 1, 0, 2, 3], &Device::Cpu).unwrap();
    let operation = CrossEntropy::new(Default::default());
    let expected = numbers(&operation.forward(&logits, &labels).unwrap());
    assert_eq!(numbers(&operation.forward(&logits, &column(&labels)).unwrap()), expected);
}

#[test]
fn sigmoid_side_tensors_that_are_views() {
    let logits = tensor(&noise(7, N * C, 3.0), (N, C), DType::F32);
    let bits = |seed| {
        let values: Vec<f64> = shares(seed, N * C).iter().map(|x| x.round()).collect();
        tensor(&values, (N, C), DType::U8)
    };
    let (targets, mask, weights) = (bits(8), bits(9), tensor(&shares(10, N * C), (N, C), DType::F32));
    let operation = BinaryCrossEntropy::new(Default::default());
    let loss = |targets: &Tensor, mask: &Tensor, weights: &Tensor| {
        let batch = BinaryCrossEntropyBatch::new(targets).mask(mask).weights(weights);
        numbers(&operation.forward_with(&logits, batch).unwrap())
    };
    let expected = loss(&targets, &mask, &weights);
    assert_eq!(loss(&inside(&targets), &inside(&mask), &inside(&weights)), expected);
    assert_eq!(loss(&by_columns(&targets), &by_columns(&mask), &by_columns(&weights)), expected);
    for dtype in [DType::I64, DType::F16] {
        let targets = targets.to_dtype(dtype).unwrap();
        assert_eq!(loss(&inside(&targets), &mask, &weights), expected, "{dtype:?}");
        assert_eq!(loss(&by_columns(&targets), &mask, &weights), expected, "{dtype:?}");
    }
}
