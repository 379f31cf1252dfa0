//! Softmax cross-entropy: every option of the core, in every dtype and under every reduction.

use crate::support::{Case, agrees_under, noise, numbers, shares, tensor};
use candle_core::{DType, Device, Result, Tensor, Var};
use logit_perturb::cpu::{self, Pass};
use logit_perturb::{
    Bound, ClassCounts, CrossEntropy, GradientSemantics, Learner, Matrix, Perturbation, Reduction, RunningConfidence,
    Split, Step, Upstream,
};
use logit_perturb_candle::CrossEntropyBatch;

const N: usize = 11;
const C: usize = 5;
const REDUCTIONS: [Reduction; 4] = [Reduction::Mean, Reduction::Sum, Reduction::None, Reduction::Divisor(7.0)];

/// Every class, one of them often, and two ignored rows.
const LABELS: [i64; N] = [0, 1, -100, 2, 0, 4, 3, 0, -100, 1, 2];

#[derive(Clone)]
struct Softmax {
    problem: CrossEntropy,
    labels: Vec<i64>,
    soft_targets: Option<Vec<f64>>,
    sample_weights: Option<Vec<f64>>,
    perturbation: Option<Vec<f64>>,
    running: Option<RunningConfidence>,
}

impl Softmax {
    fn new(problem: CrossEntropy) -> Self {
        let labels = LABELS.to_vec();
        Self { problem, labels, soft_targets: None, sample_weights: None, perturbation: None, running: None }
    }

    fn under(&self, reduction: Reduction) -> CrossEntropy {
        self.problem.to_builder().reduction(reduction).build().unwrap()
    }
}

impl Case for Softmax {
    fn shape(&self) -> (usize, usize) {
        (self.labels.len(), self.problem.classes().unwrap_or(C))
    }

    fn candle(&self, logits: &Tensor, reduction: Reduction) -> Result<(Tensor, String)> {
        let shape = self.shape();
        let labels = Tensor::new(self.labels.as_slice(), &Device::Cpu)?;
        let mut running = self.running.clone();
        let mut batch = match &self.soft_targets {
            None => CrossEntropyBatch::labels(&labels),
            Some(targets) => CrossEntropyBatch::soft_targets(&tensor(targets, shape, DType::F64)),
        };
        if let Some(weights) = &self.sample_weights {
            batch = batch.sample_weights(&tensor(weights, shape.0, DType::F64));
        }
        if let Some(perturbation) = &self.perturbation {
            batch = batch.perturbation(&tensor(perturbation, shape, DType::F64));
        }
        if let Some(running) = &mut running {
            batch = batch.running_confidence(running);
        }
        let operation = logit_perturb_candle::CrossEntropy::new(self.under(reduction));
        let (loss, output) = operation.forward_with_output(logits, batch)?;
        Ok((loss, format!("{output:?} {running:?}")))
    }

    fn core(&self, pass: Pass<'_>, reduction: Reduction, upstream: Upstream<'_>) -> (f64, Vec<f64>, String) {
        let (n, c) = self.shape();
        let mut running = self.running.clone();
        let mut batch = match &self.soft_targets {
            None => cpu::CrossEntropyBatch::labels(&self.labels),
            Some(targets) => cpu::CrossEntropyBatch::soft_targets(Matrix::new(targets, n, c).unwrap()),
        };
        if let Some(weights) = &self.sample_weights {
            batch = batch.sample_weights(weights);
        }
        if let Some(perturbation) = &self.perturbation {
            batch = batch.perturbation(Matrix::new(perturbation, n, c).unwrap());
        }
        if let Some(running) = &mut running {
            batch = batch.running_confidence(running);
        }
        let output = cpu::cross_entropy(&self.under(reduction), pass, batch.upstream(upstream)).unwrap();
        (output.loss, output.loss_rows.clone(), format!("{output:?} {running:?}"))
    }
}

fn agrees(case: &Softmax) {
    agrees_under(case, &REDUCTIONS);
}

#[test]
fn plain() {
    agrees(&Softmax::new(CrossEntropy::default()));
}

#[test]
fn scales() {
    agrees(&Softmax::new(CrossEntropy::builder().scale(2.7).build().unwrap()));
    agrees(&Softmax::new(CrossEntropy::builder().class_scale([0.3, 1.0, 2.0, 0.7, 1.9]).build().unwrap()));
}

#[test]
fn smoothing_weights_and_z_loss() {
    let problem = CrossEntropy::builder()
        .label_smoothing(0.13)
        .z_loss(0.017)
        .class_weights([0.5, 1.0, 0.0, 2.0, 1.7])
        .build()
        .unwrap();
    agrees(&Softmax { sample_weights: Some(shares(1, N)), ..Softmax::new(problem) });
}

#[test]
fn fixed_perturbations() {
    let masked = vec![0.4, -1.0, 0.2, 0.1, f64::NEG_INFINITY];
    let forms = [
        Perturbation::Shared(noise(2, C, 1.0)),
        Perturbation::TargetMargin(noise(3, C, 1.0)),
        Perturbation::ClassMatrix(noise(4, C * C, 1.0)),
        Perturbation::Shared(masked),
    ];
    for form in forms {
        agrees(&Softmax::new(CrossEntropy::builder().perturbation(form).build().unwrap()));
    }
}

#[test]
fn perturbation_per_sample() {
    let problem = CrossEntropy::builder().perturbation(Perturbation::PerSample).build().unwrap();
    agrees(&Softmax { perturbation: Some(noise(5, N * C, 1.0)), ..Softmax::new(problem) });
}

#[test]
fn soft_targets() {
    let problem = CrossEntropy::builder().class_weights([0.5, 1.0, 1.5, 2.0, 1.7]).z_loss(0.01).build().unwrap();
    let (soft_targets, sample_weights) = (Some(shares(6, N * C)), Some(shares(7, N)));
    agrees(&Softmax { soft_targets, sample_weights, ..Softmax::new(problem) });
}

#[test]
fn another_ignore_index() {
    let labels = LABELS.map(|label| if label == -100 { 255 } else { label }).to_vec();
    agrees(&Softmax { labels, ..Softmax::new(CrossEntropy::builder().ignore_index(255).build().unwrap()) });
}

#[test]
fn every_row_ignored() {
    agrees(&Softmax { labels: vec![-100; 3], ..Softmax::new(CrossEntropy::default()) });
}

fn learned(step: Step, split: Split, bound: Bound, semantics: GradientSemantics) -> CrossEntropy {
    let learner = Learner::new(step, 0.1, split, bound).unwrap().gradient(semantics);
    CrossEntropy::builder()
        .perturbation(Perturbation::Shared(noise(8, C, 1.0)))
        .label_smoothing(0.1)
        .learner(learner)
        .build()
        .unwrap()
}

#[test]
fn learned_perturbations() {
    let counts = ClassCounts::new([500.0, 200.0, 70.0, 20.0, 9.0]).unwrap();
    let splits = [
        (Split::MeanConfidence, Bound::Fixed { eps: 0.45 }),
        (Split::Confidence { tau: 0.4 }, Bound::Confidence { eps: 0.1, delta_eps: 1.0 }),
        (Split::Rank { head: 2, counts }, Bound::LongTail { eps: 0.1, delta_head: 0.6, delta_tail: 1.0, ratio: None }),
        (Split::Explicit(vec![1, -1, 0, 1, -1]), Bound::Explicit(vec![0.5, 0.3, 0.4, 0.0, 0.9])),
    ];
    for (split, bound) in splits {
        for step in [Step::Raw, Step::UnitL2] {
            for semantics in [GradientSemantics::Detached, GradientSemantics::Through] {
                agrees(&Softmax::new(learned(step, split.clone(), bound.clone(), semantics)));
            }
        }
    }
}

/// The bound depends on the running confidences, so that a backward pass that saw those after the batch would take
/// other steps.
#[test]
fn running_confidences() {
    let bound = Bound::Confidence { eps: 0.0, delta_eps: 5.0 };
    for semantics in [GradientSemantics::Detached, GradientSemantics::Through] {
        let problem = learned(Step::UnitL2, Split::Confidence { tau: 0.5 }, bound.clone(), semantics);
        let mut case =
            Softmax { running: Some(RunningConfidence::new(C, 0.3).unwrap()), ..Softmax::new(problem.clone()) };
        agrees(&case);
        let logits = noise(9, N * C, 4.0);
        let batch =
            cpu::CrossEntropyBatch::labels(&case.labels).running_confidence(case.running.as_mut().expect("just set"));
        cpu::cross_entropy(&problem, Matrix::new(&logits, N, C).unwrap(), batch).unwrap();
        agrees(&case);
    }
}

#[test]
fn running_confidences_move_once_a_forward_pass() {
    let bound = Bound::Fixed { eps: 0.3 };
    for semantics in [GradientSemantics::Detached, GradientSemantics::Through] {
        let problem = learned(Step::Raw, Split::MeanConfidence, bound.clone(), semantics)
            .to_builder()
            .reduction(Reduction::None)
            .build()
            .unwrap();
        let labels = Tensor::new(&LABELS, &Device::Cpu).unwrap();
        let operation = logit_perturb_candle::CrossEntropy::new(problem.clone());
        let mut running = RunningConfidence::new(C, 0.9).unwrap();
        let mut expected = running.clone();
        for seed in [10, 11] {
            let values = noise(seed, N * C, 3.0);
            let logits = Var::from_tensor(&tensor(&values, (N, C), DType::F64)).unwrap();
            let batch = CrossEntropyBatch::labels(&labels).running_confidence(&mut running);
            let loss = operation.forward_with(&logits, batch).unwrap();
            loss.backward().unwrap();
            loss.backward().unwrap();
            let batch = cpu::CrossEntropyBatch::labels(&LABELS).running_confidence(&mut expected);
            cpu::cross_entropy(&problem, Matrix::new(&values, N, C).unwrap(), batch).unwrap();
            assert_eq!(running, expected);
        }
    }
}

/// Wide enough for roundings that go wrong once in some ten thousand times.
#[test]
fn halves_are_rounded_once_in_wide_batches() {
    let labels: Vec<i64> = (0..96).map(|i| i * 17 % 1000).collect();
    let problem = CrossEntropy::builder().class_scale(shares(11, 1000).iter().map(|s| s + 0.5).collect::<Vec<_>>());
    let case = Softmax { labels, ..Softmax::new(problem.build().unwrap()) };
    agrees_under(&case, &[Reduction::Sum, Reduction::None]);
}

#[test]
fn labels_of_every_integer_dtype() {
    let labels = Tensor::new(&[0i64, 2, 1, 4], &Device::Cpu).unwrap();
    let logits = tensor(&noise(12, 4 * C, 3.0), (4, C), DType::F32);
    let operation = logit_perturb_candle::CrossEntropy::new(CrossEntropy::default());
    let expected = numbers(&operation.forward(&logits, &labels).unwrap());
    for dtype in [DType::U8, DType::U32, DType::I16, DType::I32] {
        let labels = labels.to_dtype(dtype).unwrap();
        assert_eq!(numbers(&operation.forward(&logits, &labels).unwrap()), expected, "{dtype:?}");
    }
}

/// 255 is what a u8 makes of -1: it stays 255 when it widens.
#[test]
fn labels_widen_without_a_sign() {
    let logits = tensor(&noise(13, 2 * C, 3.0), (2, C), DType::F32);
    let problem = CrossEntropy::builder().ignore_index(255).build().unwrap();
    let operation = logit_perturb_candle::CrossEntropy::new(problem);
    let labels = Tensor::new(&[1u8, 255], &Device::Cpu).unwrap();
    let (_, output) = operation.forward_with_output(&logits, CrossEntropyBatch::labels(&labels)).unwrap();
    assert_eq!((output.valid, output.loss_rows[1]), (1, 0.0));
}

#[test]
fn side_tensors_of_every_float_dtype() {
    let problem = CrossEntropy::builder().perturbation(Perturbation::PerSample).build().unwrap();
    let operation = logit_perturb_candle::CrossEntropy::new(problem);
    let logits = tensor(&noise(14, 3 * C, 3.0), (3, C), DType::F32);
    // Eighths: exact in all four dtypes.
    let eighths = |len: usize| -> Vec<f64> { (0..len).map(|i| (i % 7) as f64 / 8.0).collect() };
    let loss = |dtype: DType| {
        let batch = CrossEntropyBatch::soft_targets(&tensor(&eighths(3 * C), (3, C), dtype))
            .sample_weights(&tensor(&eighths(3), 3, dtype))
            .perturbation(&tensor(&eighths(3 * C), (3, C), dtype));
        numbers(&operation.forward_with(&logits, batch).unwrap())
    };
    let expected = loss(DType::F64);
    for dtype in [DType::F16, DType::BF16, DType::F32] {
        assert_eq!(loss(dtype), expected, "{dtype:?}");
    }
}

#[test]
fn the_problem_can_be_asked_for() {
    let problem = CrossEntropy::builder().scale(3.0).build().unwrap();
    assert_eq!(*logit_perturb_candle::CrossEntropy::new(problem.clone()).problem(), problem);
}
