//! The f64 reference on the CPU: the learned perturbation (LPL), and the losses it goes with. Times are of loss and gradient together.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use logit_perturb::cpu::{BinaryCrossEntropyBatch, CrossEntropyBatch, Pass, binary_cross_entropy, cross_entropy};
use logit_perturb::{BinaryCrossEntropy, BinaryTargets, Bound, CrossEntropy, Learner, Matrix, MatrixMut, Split, Step};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::hint::black_box;

/// A batch of random logits and labels.
struct Batch {
    n: usize,
    c: usize,
    logits: Vec<f32>,
    labels: Vec<i64>,
    gradient: Vec<f32>,
}

impl Batch {
    fn new(n: usize, c: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(1);
        let logits = (0..n * c).map(|_| rng.random_range(-4.0..4.0)).collect();
        let labels = (0..n).map(|_| rng.random_range(0..c as i64)).collect();
        Self { n, c, logits, labels, gradient: vec![0.0; n * c] }
    }

    fn pass(&mut self) -> (Pass<'_>, &[i64]) {
        let logits = Matrix::new(&self.logits, self.n, self.c).expect("the shape is right");
        let gradient = MatrixMut::new(&mut self.gradient, self.n, self.c).expect("the shape is right");
        (Pass::Into { logits, gradient }, &self.labels)
    }
}

/// LPL with 40 steps for every class present, on both sides of the mean confidence.
fn lpl(step: Step) -> CrossEntropy {
    let learner = Learner::new(step, 0.1, Split::MeanConfidence, Bound::Fixed { eps: 4.0 });
    CrossEntropy::builder().learner(learner.expect("the numbers are in range")).build().expect("nothing conflicts")
}

fn learner(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lpl_40_steps");
    for (n, c) in [(128, 10), (128, 100), (1024, 1000)] {
        let mut batch = Batch::new(n, c);
        group.throughput(Throughput::Elements((n * c) as u64));
        for (name, step) in [("raw", Step::Raw), ("unit_l2", Step::UnitL2)] {
            let problem = lpl(step);
            group.bench_function(BenchmarkId::new(name, format!("{n}x{c}")), |bencher| {
                bencher.iter(|| {
                    let (pass, labels) = batch.pass();
                    black_box(cross_entropy(&problem, pass, CrossEntropyBatch::labels(labels)))
                });
            });
        }
    }
    group.finish();
}

fn losses(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("loss_and_gradient");
    for (n, c) in [(128, 10), (4096, 1000)] {
        let mut batch = Batch::new(n, c);
        let problem = CrossEntropy::default();
        group.throughput(Throughput::Elements((n * c) as u64));
        group.bench_function(BenchmarkId::new("cross_entropy", format!("{n}x{c}")), |bencher| {
            bencher.iter(|| {
                let (pass, labels) = batch.pass();
                black_box(cross_entropy(&problem, pass, CrossEntropyBatch::labels(labels)))
            });
        });
    }
    let (n, c) = (1024, 80);
    let mut batch = Batch::new(n, c);
    let problem = BinaryCrossEntropy::default();
    let mut rng = StdRng::seed_from_u64(2);
    let targets: Vec<i8> = (0..n * c).map(|_| i8::from(rng.random_bool(0.05))).collect();
    group.throughput(Throughput::Elements((n * c) as u64));
    group.bench_function(BenchmarkId::new("binary_cross_entropy", format!("{n}x{c}")), |bencher| {
        bencher.iter(|| {
            let targets = BinaryTargets::I8 { data: &targets, stride: c };
            black_box(binary_cross_entropy(&problem, batch.pass().0, BinaryCrossEntropyBatch::new(targets)))
        });
    });
    group.finish();
}

criterion_group! {
    name = cpu;
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_secs(2))
        .sample_size(20);
    targets = learner, losses
}
criterion_main!(cpu);
