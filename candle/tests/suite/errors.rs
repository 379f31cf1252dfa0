//! Bad input is an error that names the argument, what it was and what is allowed.

use crate::support::{noise, tensor};
use candle_core::{DType, Device, Result, Tensor};
use logit_perturb::{BinaryLearner, BinaryStep, Bound, Learner, Perturbation, RunningConfidence, Split, Step};
use logit_perturb_candle::{BinaryCrossEntropy, BinaryCrossEntropyBatch, CrossEntropy, CrossEntropyBatch};

const N: usize = 3;
const C: usize = 4;

#[track_caller]
fn refuses<T>(result: Result<T>, message: &str) {
    match result {
        Ok(_) => panic!("went through instead of: {message}"),
        Err(error) => assert_eq!(error.to_string().lines().next().unwrap(), message),
    }
}

fn floats(shape: impl Into<candle_core::Shape>) -> Tensor {
    let shape = shape.into();
    tensor(&vec![0.25; shape.elem_count()], shape, DType::F32)
}

fn logits() -> Tensor {
    tensor(&noise(1, N * C, 3.0), (N, C), DType::F32)
}

fn labels() -> Tensor {
    Tensor::new(&[0i64, 3, 1], &Device::Cpu).unwrap()
}

fn plain() -> CrossEntropy {
    CrossEntropy::new(Default::default())
}

#[test]
fn logits_of_another_rank_dtype_or_width() {
    let forward = |logits: &Tensor| plain().forward(logits, &labels());
    refuses(forward(&floats((N, C, 1))), "`logits` has rank 3, must be 2, [N, C]");
    refuses(forward(&floats(N)), "`logits` has rank 1, must be 2, [N, C]");
    refuses(forward(&floats((N, 0))), "`logits` has columns 0, must be at least 1");
    let integers = logits().to_dtype(DType::I64).unwrap();
    refuses(forward(&integers), "`logits.dtype` is I64, must be one of f16, bf16, f32, f64");
    let eighths = logits().to_dtype(DType::F8E4M3).unwrap();
    refuses(forward(&eighths), "`logits.dtype` is F8E4M3, must be one of f16, bf16, f32, f64");
    let problem = logit_perturb::CrossEntropy::builder().class_weights([1.0; 3]).build().unwrap();
    refuses(CrossEntropy::new(problem).forward(&logits(), &labels()), "`logits` has columns 4, must be 3");
}

#[test]
fn labels_that_do_not_fit() {
    let forward = |labels: &Tensor| plain().forward(&logits(), labels);
    let column = labels().reshape((N, 1)).unwrap();
    refuses(forward(&column), "`labels` has rank 2, must be 1, [N]");
    let real = labels().to_dtype(DType::F32).unwrap();
    refuses(forward(&real), "`labels.dtype` is F32, must be one of u8, u32, i16, i32, i64");
    refuses(forward(&labels().narrow(0, 0, 2).unwrap()), "`labels` has length 2, must be 3");
    let out_of_range = Tensor::new(&[0i64, 4, -1], &Device::Cpu).unwrap();
    let message = "label 4 in row 1 is neither in 0..4 nor ignore_index; 2 such row(s) in the batch";
    refuses(forward(&out_of_range), message);
}

#[test]
fn soft_targets_that_do_not_fit() {
    let forward = |targets: &Tensor| plain().forward_with(&logits(), CrossEntropyBatch::soft_targets(targets));
    refuses(forward(&floats((N + 1, C))), "`soft_targets` has rows 4, must be 3");
    refuses(forward(&floats((N, C + 1))), "`soft_targets` has columns 5, must be 4");
    refuses(forward(&floats(N * C)), "`soft_targets` has rank 1, must be 2, [N, C]");
    let bytes = floats((N, C)).to_dtype(DType::U8).unwrap();
    refuses(forward(&bytes), "`soft_targets.dtype` is U8, must be one of f16, bf16, f32, f64");
    let negative = floats((N, C)).neg().unwrap();
    refuses(forward(&negative), "`soft_targets[0, 0]` is -0.25, must be finite and >= 0");
    let problem = logit_perturb::CrossEntropy::builder().label_smoothing(0.1).build().unwrap();
    let batch = CrossEntropyBatch::soft_targets(&floats((N, C)));
    let message = "`label_smoothing` cannot be used with soft targets: it needs hard labels";
    refuses(CrossEntropy::new(problem).forward_with(&logits(), batch), message);
}

#[test]
fn sample_weights_that_do_not_fit() {
    let forward = |weights: &Tensor| {
        plain().forward_with(&logits(), CrossEntropyBatch::labels(&labels()).sample_weights(weights))
    };
    refuses(forward(&floats((N, 1))), "`sample_weights` has rank 2, must be 1, [N]");
    refuses(forward(&floats(N - 1)), "`sample_weights` has length 2, must be 3");
    refuses(forward(&labels()), "`sample_weights.dtype` is I64, must be one of f16, bf16, f32, f64");
    refuses(forward(&floats(N).neg().unwrap()), "`sample_weights[0]` is -0.25, must be finite and >= 0");
}

#[test]
fn perturbations_that_do_not_fit() {
    let problem = logit_perturb::CrossEntropy::builder().perturbation(Perturbation::PerSample).build().unwrap();
    let per_sample = CrossEntropy::new(problem);
    let forward = |operation: &CrossEntropy, perturbation: &Tensor| {
        operation.forward_with(&logits(), CrossEntropyBatch::labels(&labels()).perturbation(perturbation))
    };
    refuses(forward(&per_sample, &floats((N, C + 1))), "`perturbation` has columns 5, must be 4");
    refuses(forward(&per_sample, &floats((1, C))), "`perturbation` has rows 1, must be 3");
    refuses(forward(&per_sample, &floats(C)), "`perturbation` has rank 1, must be 2, [N, C]");
    let bytes = floats((N, C)).to_dtype(DType::U8).unwrap();
    refuses(forward(&per_sample, &bytes), "`perturbation.dtype` is U8, must be one of f16, bf16, f32, f64");
    let message = "`perturbation = per sample` cannot be used without its matrix: the batch must bring d[N, C]";
    refuses(per_sample.forward(&logits(), &labels()), message);
    let message =
        "`perturbation of the batch` cannot be used with this problem: the problem's perturbation is not per sample";
    refuses(forward(&plain(), &floats((N, C))), message);
}

#[test]
fn running_confidences_that_do_not_fit_or_fail() {
    let (split, bound) = (Split::MeanConfidence, Bound::Fixed { eps: 0.3 });
    let learner = Learner::new(Step::UnitL2, 0.1, split, bound).unwrap();
    let learned = CrossEntropy::new(logit_perturb::CrossEntropy::builder().learner(learner).build().unwrap());
    let forward = |operation: &CrossEntropy, labels: &Tensor, running: &mut RunningConfidence| {
        operation.forward_with(&logits(), CrossEntropyBatch::labels(labels).running_confidence(running))
    };
    let mut running = RunningConfidence::new(C, 0.9).unwrap();
    let message = "`running_confidence` cannot be used without a learner: nothing would use it";
    refuses(forward(&plain(), &labels(), &mut running), message);
    let mut wide = RunningConfidence::new(C + 1, 0.9).unwrap();
    refuses(forward(&learned, &labels(), &mut wide), "`running_confidence` has length 5, must be 4");
    refuses(forward(&learned, &labels().narrow(0, 0, 2).unwrap(), &mut running), "`labels` has length 2, must be 3");
    assert_eq!(running.values(), [None; C]);
}

#[test]
fn targets_that_do_not_fit() {
    let forward = |targets: &Tensor| BinaryCrossEntropy::new(Default::default()).forward(&logits(), targets);
    for dtype in [DType::U8, DType::I64, DType::F32] {
        let ones = |shape: (usize, usize)| Tensor::ones(shape, dtype, &Device::Cpu).unwrap();
        refuses(forward(&ones((N, C + 1))), "`targets` has columns 5, must be 4");
        refuses(forward(&ones((N + 1, C))), "`targets` has rows 4, must be 3");
        refuses(forward(&ones((N, C)).flatten_all().unwrap()), "`targets` has rank 1, must be 2, [N, C]");
    }
    let eighths = floats((N, C)).to_dtype(DType::F8E4M3).unwrap();
    let message = "`targets.dtype` is F8E4M3, must be one of u8, u32, i16, i32, i64, f16, bf16, f32, f64";
    refuses(forward(&eighths), message);
    let two = |dtype| (Tensor::ones((N, C), dtype, &Device::Cpu).unwrap() * 2.0).unwrap();
    refuses(forward(&two(DType::U8)), "target of row 0: class 0 is 2, must be in [0, 1]");
    refuses(forward(&two(DType::I64)), "target of row 0: class 0 is 2, must be in [0, 1] or -1 (unknown)");
    let learner =
        BinaryLearner::new(BinaryStep::Sign, 0.1, Split::Explicit(vec![1; C]), Bound::Fixed { eps: 0.3 }).unwrap();
    let problem = logit_perturb::BinaryCrossEntropy::builder().learner(learner).build().unwrap();
    let message = "target of row 0: class 0 is 0.25, must be 0 or 1 with a learner";
    refuses(BinaryCrossEntropy::new(problem).forward(&logits(), &floats((N, C))), message);
}

#[test]
fn masks_and_entry_weights_that_do_not_fit() {
    let forward = |change: &dyn Fn(BinaryCrossEntropyBatch) -> BinaryCrossEntropyBatch| {
        let batch = change(BinaryCrossEntropyBatch::new(&floats((N, C))));
        BinaryCrossEntropy::new(Default::default()).forward_with(&logits(), batch)
    };
    let bytes = |shape: (usize, usize)| Tensor::ones(shape, DType::U8, &Device::Cpu).unwrap();
    refuses(forward(&|batch| batch.mask(&bytes((N, C + 1)))), "`mask` has columns 5, must be 4");
    refuses(forward(&|batch| batch.mask(&bytes((N + 1, C)))), "`mask` has rows 4, must be 3");
    refuses(forward(&|batch| batch.mask(&floats((N, C)))), "`mask.dtype` is F32, must be one of u8");
    refuses(forward(&|batch| batch.weights(&floats((N, C + 1)))), "`weights` has columns 5, must be 4");
    refuses(forward(&|batch| batch.weights(&floats((1, C)))), "`weights` has rows 1, must be 3");
    let message = "`weights.dtype` is U8, must be one of f16, bf16, f32, f64";
    refuses(forward(&|batch| batch.weights(&bytes((N, C)))), message);
    let negative = floats((N, C)).neg().unwrap();
    refuses(forward(&|batch| batch.weights(&negative)), "`weights[0, 0]` is -0.25, must be finite and >= 0");
}
