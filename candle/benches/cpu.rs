//! The candle adapter on the CPU: a loss forward and backward, beside candle's own. Groups and names as in the core's `benches/cpu.rs`.

use candle_core::{Device, Result, Tensor, Var};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use logit_perturb_candle::logit_perturb::{self, Bound, Learner, Split, Step};
use logit_perturb_candle::{BinaryCrossEntropy, CrossEntropy};
use std::time::Duration;

/// Times `loss` and its gradient for logits of this shape.
fn time(
    criterion: &mut Criterion,
    (what, variant): (&str, &str),
    (n, c): (usize, usize),
    loss: impl Fn(&Tensor, &Tensor) -> Result<Tensor>,
    targets: &Tensor,
) {
    let logits = Var::randn(0f32, 3f32, (n, c), &Device::Cpu).expect("the shape is right");
    let mut group = criterion.benchmark_group(what);
    group.throughput(Throughput::Bytes((8 * n * c + 8 * n) as u64));
    group.bench_function(BenchmarkId::new(variant, format!("{n}x{c}")), |bencher| {
        bencher.iter(|| loss(&logits, targets).and_then(|loss| loss.backward()).expect("the batch fits"));
    });
    group.finish();
}

fn losses(criterion: &mut Criterion) {
    let random = |high: usize, shape: &[usize]| {
        Tensor::rand(0f32, high as f32, shape, &Device::Cpu).and_then(|x| x.floor()).expect("the shape is right")
    };
    let integers = |x: Tensor, dtype| x.to_dtype(dtype).expect("whole numbers");
    let cross_entropy = CrossEntropy::new(logit_perturb::CrossEntropy::default());
    let learner = Learner::new(Step::UnitL2, 0.1, Split::MeanConfidence, Bound::Fixed { eps: 4.0 });
    let learned = logit_perturb::CrossEntropy::builder().learner(learner.expect("the numbers are in range"));
    let learned = CrossEntropy::new(learned.build().expect("nothing conflicts"));
    for (n, c) in [(128, 100), (1024, 1000)] {
        let labels = integers(random(c, &[n]), candle_core::DType::I64);
        time(criterion, ("cross_entropy", "candle adapter"), (n, c), |u, y| cross_entropy.forward(u, y), &labels);
        time(criterion, ("cross_entropy", "candle's own"), (n, c), candle_nn::loss::cross_entropy, &labels);
        time(criterion, ("learner", "candle adapter"), (n, c), |u, y| learned.forward(u, y), &labels);
    }
    let (n, c) = (1024, 80);
    let bce = BinaryCrossEntropy::new(logit_perturb::BinaryCrossEntropy::default());
    let targets = random(2, &[n, c]);
    time(criterion, ("binary_cross_entropy", "candle adapter"), (n, c), |u, t| bce.forward(u, t), &targets);
    let own = candle_nn::loss::binary_cross_entropy_with_logit;
    time(criterion, ("binary_cross_entropy", "candle's own"), (n, c), own, &targets);
}

criterion_group! {
    name = cpu;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20);
    targets = losses
}
criterion_main!(cpu);
