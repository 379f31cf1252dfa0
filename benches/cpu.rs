//! The f64 reference on the CPU. Times are of loss and gradient together; `benches/peers` compares them with PyTorch's, `candle/benches` has the
//! candle adapter's. Groups and names are `WHAT/VARIANT/NxC`, which `examples/report` reads.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use logit_perturb::cpu::{BinaryCrossEntropyBatch, CrossEntropyBatch, Pass, binary_cross_entropy, cross_entropy};
use logit_perturb::{
    BinaryCrossEntropy, BinaryTargets, Bound, CrossEntropy, Learner, Matrix, MatrixMut, Perturbation, Split, Step,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::hint::black_box;
use std::time::Duration;

/// A batch of random logits, labels and targets.
struct Batch {
    n: usize,
    c: usize,
    logits: Vec<f32>,
    labels: Vec<i64>,
    targets: Vec<i8>,
    gradient: Vec<f32>,
}

impl Batch {
    fn new(n: usize, c: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(1);
        let logits = (0..n * c).map(|_| rng.random_range(-6.0..6.0)).collect();
        let labels = (0..n).map(|_| rng.random_range(0..c as i64)).collect();
        let targets = (0..n * c).map(|_| i8::from(rng.random_bool(0.05))).collect();
        Self { n, c, logits, labels, targets, gradient: vec![0.0; n * c] }
    }

    fn pass(&mut self) -> (Pass<'_>, &[i64], &[i8]) {
        let logits = Matrix::new(&self.logits, self.n, self.c).expect("the shape is right");
        let gradient = MatrixMut::new(&mut self.gradient, self.n, self.c).expect("the shape is right");
        (Pass::Into { logits, gradient }, &self.labels, &self.targets)
    }

    fn shape(&self) -> String {
        format!("{}x{}", self.n, self.c)
    }

    /// Bytes of logits, gradient and labels.
    fn throughput(&self) -> Throughput {
        Throughput::Bytes((8 * self.n * self.c + 8 * self.n) as u64)
    }
}

/// Times cross-entropy, learned perturbation included.
fn softmax(criterion: &mut Criterion, what: &str, variant: &str, problem: &CrossEntropy, (n, c): (usize, usize)) {
    let mut batch = Batch::new(n, c);
    let mut group = criterion.benchmark_group(what);
    group.throughput(batch.throughput());
    group.bench_function(BenchmarkId::new(variant, batch.shape()), |bencher| {
        bencher.iter(|| {
            let (pass, labels, _) = batch.pass();
            black_box(cross_entropy(problem, pass, CrossEntropyBatch::labels(labels)))
        });
    });
    group.finish();
}

/// LPL with 40 steps for every class present, on both sides of the mean confidence.
fn learner(criterion: &mut Criterion) {
    for (variant, step) in [("uniform", Step::UnitL2), ("uniform, raw", Step::Raw)] {
        let learner = Learner::new(step, 0.1, Split::MeanConfidence, Bound::Fixed { eps: 4.0 });
        let learner = learner.expect("the numbers are in range");
        let problem = CrossEntropy::builder().learner(learner).build().expect("nothing conflicts");
        for shape in [(128, 10), (128, 100), (1024, 100), (1024, 1000)] {
            softmax(criterion, "learner", variant, &problem, shape);
        }
    }
}

fn losses(criterion: &mut Criterion) {
    for shape in [(128, 10), (128, 100), (1024, 100), (1024, 1000), (4096, 1000)] {
        softmax(criterion, "cross_entropy", "plain", &CrossEntropy::default(), shape);
    }
    for c in [100, 1000] {
        let vector: Vec<f64> = (0..c).map(|class| -(class as f64) / c as f64).collect();
        let matrix = vector.iter().copied().cycle().take(c * c).collect();
        for (variant, form) in
            [("shared", Perturbation::Shared(vector)), ("class_matrix", Perturbation::ClassMatrix(matrix))]
        {
            let problem = CrossEntropy::builder().perturbation(form).build().expect("nothing conflicts");
            softmax(criterion, "cross_entropy", variant, &problem, (1024, c));
        }
    }
    for (n, c) in [(128, 100), (1024, 80)] {
        let mut batch = Batch::new(n, c);
        let problem = BinaryCrossEntropy::default();
        let mut group = criterion.benchmark_group("binary_cross_entropy");
        group.throughput(batch.throughput());
        group.bench_function(BenchmarkId::new("plain", batch.shape()), |bencher| {
            bencher.iter(|| {
                let (pass, _, data) = batch.pass();
                let targets = BinaryTargets::I8 { data, stride: c };
                black_box(binary_cross_entropy(&problem, pass, BinaryCrossEntropyBatch::new(targets)))
            });
        });
        group.finish();
    }
}

criterion_group! {
    name = cpu;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20);
    targets = learner, losses
}
criterion_main!(cpu);
