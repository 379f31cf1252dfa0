//! A batch on the emulated device, and what has to come of it.

use crate::common::softmax::Case;
use crate::tiny::TINY;
use logit_perturb::cpu::{self, CrossEntropyOutput, Pass};
use logit_perturb::half::{bf16, f16};
use logit_perturb::kernel::{DType, LearnForm, LearnPlan, Limits};
use logit_perturb::{Bound, Labels, Learner, Matrix, Perturbation, Reduction, RunningConfidence, Step};
use logit_perturb_emulator::{
    Batch, Beside, Emulator, Given, Gradient, LearnInputs, LearnOperation, LearnOutcome, Options, Rows,
};

/// Limits under which a tile holds so many rows on chip; 0 for none, so that a class's arrays lie in global memory.
pub fn tiles_of(rows: u32, classes: usize) -> Limits {
    tiles_of_blocks(rows, classes, TINY.block_threads)
}

/// The same with blocks of at most so many threads.
pub fn tiles_of_blocks(rows: u32, classes: usize, block_threads: u32) -> Limits {
    let limits = |multiprocessor_shared| Limits { multiprocessor_shared, block_threads, ..TINY };
    let plan = |shared| LearnPlan::new(LearnForm { dtype: DType::F32, classes, aligned: true }, limits(shared));
    // The variant of a device that has enough.
    let fits = |shared: &u32| plan(*shared).variant == plan(1 << 22).variant && plan(*shared).tile_rows == rows;
    // A block has a part of it, and a row more takes more than that part of 8 bytes.
    let shared = if rows == 0 { Some(0) } else { (0..1 << 22).step_by(8).find(fits) };
    limits(shared.expect("threads for all columns"))
}

/// The number of a type that lies nearest.
pub fn nearest(dtype: DType, x: f64) -> f64 {
    match dtype {
        DType::F32 => f64::from(x as f32),
        DType::F16 => f16::from_f64(x).to_f64(),
        DType::BF16 => bf16::from_f64(x).to_f64(),
    }
}

/// How a case is laid out on the device.
#[derive(Clone, Debug)]
pub struct Device {
    pub dtype: DType,
    pub limits: Limits,
    pub rows: Rows,
    pub gradient: Gradient,
    pub wide: bool,
    pub statistics: bool,
    pub data_parallel: bool,
    pub running: Option<(f64, Vec<f64>)>,
    pub alpha: Option<f32>,
    pub eps: Option<Vec<f32>>,
    pub options: Options,
}

impl Device {
    pub fn new(columns: usize, limits: Limits) -> Self {
        let at = Rows { stride: columns, offset: 0 };
        Self {
            dtype: DType::F32,
            limits,
            rows: at,
            gradient: Gradient::Into(at),
            wide: true,
            statistics: true,
            data_parallel: false,
            running: None,
            alpha: None,
            eps: None,
            options: Options::default(),
        }
    }
}

pub fn single(numbers: &[f64]) -> Vec<f32> {
    numbers.iter().map(|&x| x as f32).collect()
}

/// Lays a case out and hands its operation over.
pub fn with_operation<R>(case: &Case, device: &Device, run: impl FnOnce(&mut Emulator, &LearnOperation) -> R) -> R {
    let mut emulator = Emulator::new(device.options.clone());
    let operation = lay_out(&mut emulator, case, device);
    run(&mut emulator, &operation)
}

/// Lays a case out beside others.
pub fn lay_out(emulator: &mut Emulator, case: &Case, device: &Device) -> LearnOperation {
    let logits = single(&case.logits);
    let (weights, per_sample) = (case.sample_weights.as_deref().map(single), single(&case.per_sample));
    let upstream = single(&case.upstream);
    let batch = Batch {
        dtype: device.dtype,
        sample_weights: weights.as_deref(),
        perturbation: (case.form == Perturbation::PerSample).then_some(Beside {
            data: &per_sample,
            wide: device.wide,
            stride: case.columns + 1,
        }),
        wide_matrix: device.wide,
        rows: device.rows,
        gradient: device.gradient,
        statistics: device.statistics,
        upstream: match upstream.as_slice() {
            [one] => Given::Device(*one),
            rows => Given::Rows(rows),
        },
        ..Batch::new(&logits, case.columns, Labels::I64(&case.labels), device.limits)
    };
    let running = device.running.as_ref().map(|(momentum, values)| (*momentum, values.as_slice()));
    let eps = device.eps.as_deref().map(|eps| match eps {
        [one] => Given::Device(*one),
        by_class => Given::Rows(by_class),
    });
    let inputs =
        LearnInputs { running, alpha: device.alpha.map(Given::Device), eps, data_parallel: device.data_parallel };
    LearnOperation::new(emulator, &case.problem(), &batch, inputs)
}

pub fn run(case: &Case, device: &Device) -> LearnOutcome {
    with_operation(case, device, |emulator, operation| {
        operation.run(emulator).unwrap_or_else(|faults| panic!("{device:?}: {faults}"))
    })
}

/// The reference's output with running confidences.
pub fn with_running(case: &Case, running: &mut RunningConfidence) -> CrossEntropyOutput {
    let logits = Matrix::new(&case.logits, case.rows(), case.columns).expect("N x C");
    let batch = case.batch().running_confidence(running);
    cpu::cross_entropy(&case.problem(), Pass::Forward(logits), batch).expect("a valid batch")
}

fn near(what: &str, at: usize, found: f64, expected: f64, tolerance: f64) {
    let same = found == expected || found.is_nan() && expected.is_nan();
    let near = found.is_finite() && expected.is_finite() && (found - expected).abs() <= tolerance;
    assert!(same || near, "{what}[{at}] is {found:e}, expected {expected:e} within {tolerance:e}");
}

/// Whether a bound by confidence leaves open how many steps there are: rounding decides near an integer (SPEC 6).
fn is_open(learner: &Learner, bounds: &[f64]) -> bool {
    matches!(learner.bound(), Bound::Confidence { .. })
        && bounds.iter().any(|eps| {
            let quotient = eps / learner.alpha();
            (quotient - quotient.round()).abs() < 1e-3
        })
}

/// Runs a case and compares all that it leaves. `false` where the case leaves the number of steps open.
pub fn check(case: &Case, device: &Device) -> bool {
    let outcome = run(case, device);
    compare(case, device, &outcome)
}

pub fn compare(case: &Case, device: &Device, outcome: &LearnOutcome) -> bool {
    let (n, c) = (case.rows(), case.columns);
    let learner = case.learner.as_ref().expect("a learner");
    // The reference agrees with the evaluation that shares nothing with it.
    if case.logits.iter().all(|x| x.is_finite()) {
        case.check();
    }
    let (expected, gradient) = case.run();
    let learned = expected.learned.as_ref().expect("a learner");
    if is_open(learner, &learned.bound) {
        return false;
    }
    let classes: Vec<usize> = outcome.classes.iter().map(|&class| class as usize).collect();
    assert_eq!(classes, learned.classes);
    let directions: Vec<i8> = outcome.directions.iter().map(|&direction| direction as i8).collect();
    assert_eq!(directions, learned.direction, "confidences {:?}, tau {}", learned.confidence, learned.tau);
    assert_eq!(outcome.steps, learned.steps, "bounds {:?}", learned.bound);
    near("tau", 0, outcome.tau, learned.tau, 4e-6 * learned.tau.abs() + 1e-7);
    for (place, delta) in outcome.delta.chunks(c).enumerate() {
        let q = learned.confidence[place];
        let tolerance = 1e-5 * (learned.bound[place] / 5.0).max(1.0);
        near("confidence", place, outcome.confidences[place], q, 4e-6 * q.abs() + 1e-7);
        for (k, &delta) in delta.iter().enumerate() {
            near("delta", place * c + k, delta.into(), learned.delta[place * c + k], tolerance);
        }
        let (size, allowed) = match learner.step() {
            Step::UnitL2 => (delta.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt(), learned.bound[place]),
            _ => (delta.iter().map(|&x| f64::from(x).abs()).fold(0.0, f64::max), learned.bound[place]),
        };
        assert!(
            size.is_nan() || size <= allowed * (1.0 + 2e-6),
            "delta of class {} is {size} long, bound {allowed}",
            classes[place]
        );
    }
    let delta = |i: usize, k: usize| {
        let place = case.class(i).and_then(|y| learned.classes.iter().position(|&class| class == y));
        place.map_or(0.0, |place| learned.delta[place * c + k])
    };
    let largest = |i: usize| {
        let v = case.fixed_logits(i).into_iter().enumerate().map(|(k, u)| (u + delta(i, k)).abs());
        v.filter(|v| v.is_finite()).fold(0.0, f64::max)
    };
    let stretch = |i: usize| largest(i).max(50.0) / 50.0;
    let of_batch = (0..n).map(stretch).fold(1.0, f64::max);
    let found = &outcome.outcome;
    let loss_tolerance = |x: f64, a: f64| (4e-6 * x.abs() + 1e-7) * a;
    near("loss", 0, found.loss.into(), expected.loss, loss_tolerance(expected.loss, of_batch));
    let omega = |i: usize| case.sample_weights.as_ref().map_or(1.0, |w| w[i]);
    let w = |k: usize| case.class_weights.as_ref().map_or(1.0, |w| w[k]);
    let valid = || (0..n).filter(|&i| case.is_valid(i));
    let (z_ce, z_lse) = match case.reduction {
        Reduction::Mean => {
            (valid().map(|i| omega(i) * w(case.class(i).expect("valid"))).sum::<f64>(), valid().count() as f64)
        }
        Reduction::Divisor(divisor) => (divisor, divisor),
        _ => (1.0, 1.0),
    };
    let most_w = (0..c).map(w).fold(0.0, f64::max);
    let (mut above, mut off) = (0, 0);
    for i in 0..n {
        let (row, lse) = (expected.loss_rows[i], expected.lse[i]);
        // Beside the tolerance of a loss, what rounding v = u + delta to f32 takes: lse may be near 0 where v is not.
        let rounding = largest(i) * 2f64.powi(-23);
        near("lse", i, found.lse[i].into(), lse, loss_tolerance(lse, stretch(i)) + rounding);
        near("loss_rows", i, found.loss_rows[i].into(), row, loss_tolerance(row, stretch(i)));
        assert_eq!(i64::from(found.predictions[i]), expected.predictions[i], "prediction of row {i}");
        let share = if z_ce == 0.0 { 0.0 } else { omega(i) * most_w / z_ce };
        let g = case.upstream[i % case.upstream.len()].abs();
        let unit = g * stretch(i) * (share + if case.z == 0.0 { 0.0 } else { 2.0 * case.z * lse.abs() / z_lse });
        for k in 0..if found.gradient.is_empty() { 0 } else { c } {
            let (x, exact) = (f64::from(found.gradient[i * c + k]), gradient[i * c + k]);
            if device.dtype == DType::F32 {
                near("gradient", i * c + k, x, exact, 1e-6 * unit);
                continue;
            }
            let rounded = nearest(device.dtype, exact);
            let (digits, least) = if device.dtype == DType::F16 { (10, -14) } else { (7, -126) };
            let exponent = if exact == 0.0 { least } else { (exact.abs().log2().floor() as i32).max(least) };
            near("gradient", i * c + k, x, rounded, (1e-6 * unit).max(2f64.powi(exponent - digits)));
            above += usize::from(exact.abs() > 1e-6 * unit);
            off += usize::from(exact.abs() > 1e-6 * unit && x != rounded);
        }
    }
    // Of few numbers, half a percent is none.
    assert!(off <= 2 || off as f64 <= 0.005 * above as f64, "{off} of {above} gradients are not the nearest number");
    assert_eq!(found.gradient.is_empty(), device.gradient == Gradient::None);
    if let Some(statistics) = &found.statistics {
        let per_class = expected.per_class.as_ref().expect("hard labels");
        let counts = |counts: &[u64]| counts.iter().map(|&count| count as usize).collect::<Vec<_>>();
        assert_eq!(counts(&statistics.count), per_class.count);
        assert_eq!(counts(&statistics.correct), per_class.correct);
        for k in 0..c {
            let tolerance = |x: f64| (4e-6 * x.abs() + 1e-7 * per_class.count[k] as f64) * of_batch;
            let (loss, confidence) = (per_class.loss[k], per_class.confidence[k]);
            near("class loss", k, statistics.loss[k], loss, tolerance(loss));
            near("class confidence", k, statistics.confidence[k], confidence, tolerance(confidence));
        }
    }
    true
}
