//! What a batch costs the host: the parameters of its launches, which needs no GPU, and a whole enqueue, which does. Neither may allocate.

mod device;
#[path = "../tests/common/devices.rs"]
#[allow(dead_code, reason = "one device is enough here")]
mod devices;

use criterion::{BenchmarkId, Criterion};
use device::softmax::Softmax;
use device::{Bench, Inputs, Point, Result, SMALL, Work};
use devices::device as limits_of;
use logit_perturb::kernel::{
    Addresses, DType, Form, LabelType, LearnAddresses, LearnForm, LearnPlan, LearnSequence, LearnValues, Plan, Rule,
    Sequence, Shape, Values,
};
use logit_perturb::{Bound, CrossEntropy, Learner, Split, Step};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::RefCell;
use std::hint::black_box;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const SECONDS: u64 = 20;
const CALLS: usize = 100;
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, counted.
struct Counting;

// SAFETY: the system's allocator does all the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Whether calls allocate nothing.
fn is_free_of_allocations(name: &str, mut call: impl FnMut() -> Result<()>) -> Result<bool> {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    (0..CALLS).try_for_each(|_| call())?;
    let count = ALLOCATIONS.load(Ordering::Relaxed) - before;
    println!("{name}: {count} allocations in {CALLS} calls");
    Ok(count == 0)
}

fn learner() -> Result<Learner> {
    Ok(Learner::new(Step::UnitL2, 0.1, Split::MeanConfidence, Bound::Fixed { eps: 4.0 })?)
}

fn problems() -> Result<[(&'static str, CrossEntropy); 2]> {
    let learned = CrossEntropy::builder().learner(learner()?).build()?;
    Ok([("cross_entropy", CrossEntropy::default()), ("learner", learned)])
}

/// The parameters of 1024 x 1000.
fn parameters() -> Result<bool> {
    let (rows, classes) = (1024, 1000);
    let shape = Shape { rows, classes, logits_stride: classes, gradient_stride: classes, label_type: LabelType::I64 };
    let limits = limits_of("sm_90");
    let plan = Plan::new(Form::plain(DType::F32, classes), limits);
    let learn_form = LearnForm { dtype: DType::F32, classes, aligned: true };
    let learn_plan = LearnPlan::new(learn_form, limits);
    let (at, own) = (Addresses::default(), LearnAddresses::default());
    let [(_, plain), (_, learned)] = problems()?;
    let learner = learner()?;
    let rule = Rule::new(learner.split(), learner.bound());
    let cross_entropy = || black_box(Sequence::new(&plain, &plan, &at, shape, Values::default()));
    let learn = || {
        let learner = (&learner, &rule);
        black_box(LearnSequence::new(
            &learned,
            learner,
            &learn_plan,
            &at,
            &own,
            LearnValues::default(),
            shape,
            Values::default(),
        ))
    };
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500))
        .sample_size(20)
        .configure_from_args();
    let mut group = criterion.benchmark_group("parameters");
    group.bench_function(BenchmarkId::new("cross_entropy", "1024x1000"), |bencher| bencher.iter(cross_entropy));
    group.bench_function(BenchmarkId::new("learner", "1024x1000"), |bencher| bencher.iter(learn));
    group.finish();
    let free = is_free_of_allocations("parameters of cross-entropy", || {
        cross_entropy();
        Ok(())
    })?;
    Ok(free
        & is_free_of_allocations("parameters of the learner", || {
            learn();
            Ok(())
        })?)
}

fn enqueues(bench: &mut Bench) -> Result<()> {
    let inputs = Rc::new(RefCell::new(Inputs::<f32>::new(bench)?));
    for (variant, problem) in problems()? {
        for (rows, classes) in SMALL {
            let point = Point {
                what: "enqueue",
                variant: variant.to_owned(),
                dtype: "f32",
                rows,
                classes,
                small: true,
                bytes: None,
            };
            let mut work = Softmax::new(bench, &inputs, problem.clone(), (rows, classes), false, false)?;
            work.enqueue(0)?;
            if !is_free_of_allocations(&format!("enqueue of {variant}, {rows}x{classes}"), || work.enqueue(0))? {
                return Err("an enqueue allocates".into());
            }
            bench.measure_host(&point, || work.enqueue(0))?;
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    match parameters() {
        Ok(true) => Bench::run(SECONDS, enqueues),
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
