//! What the benches of the GPU share: the device, times between events with L2 flushed or warm, inputs in turns, the byte model beside the
//! bandwidth of a copy measured in the same process, and rows of the CSV layout that `benches/peers/README.md` describes.
//!
//! A bench takes part of a point's name as filter; without `--bench` its results are checked and nothing is timed. Without a device it says so
//! and ends.

#![allow(dead_code, reason = "each bench uses a part")]

mod rows;
pub mod softmax;

use criterion::{BenchmarkId, Criterion, Throughput};
use logit_perturb::cuda::{self, DeviceElement, Kernels};
use logit_perturb::cudarc::driver::{CudaGraph, CudaSlice, CudaStream, sys};
use logit_perturb::half::bf16;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rows::Rows;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Bytes of the logits of a large batch, and of the copy that shares are shares of.
const LARGE_BYTES: usize = 1 << 28;
/// Batches of random numbers that runs take in turns, memory permitting.
const SETS: usize = 4;
const COPIES: usize = 30;
/// Events recorded before the host waits for them.
const AT_A_TIME: usize = 64;
/// Random numbers before they repeat, which no row length divides.
const PERIOD: usize = 1_000_003;

/// C of large batches.
pub const LARGE: [usize; 11] = [10, 100, 256, 1000, 1024, 4096, 10_000, 32_768, 50_257, 128_256, 262_144];
/// N and C of small ones.
pub const SMALL: [(usize, usize); 4] = [(128, 10), (128, 100), (1024, 100), (1024, 1000)];

/// Rows of a large batch.
pub fn large_rows<T>(classes: usize) -> usize {
    LARGE_BYTES / size_of::<T>() / classes
}

/// An element type of the benches.
pub trait Number: DeviceElement {
    /// As in the column `dtype`.
    const NAME: &'static str;
}

impl Number for f32 {
    const NAME: &'static str = "f32";
}

impl Number for bf16 {
    const NAME: &'static str = "bf16";
}

/// What is measured.
pub struct Point {
    pub what: &'static str,
    pub variant: String,
    pub dtype: &'static str,
    pub rows: usize,
    pub classes: usize,
    /// Whether it is measured with L2 warm too, as a call and as a captured graph.
    pub small: bool,
    /// Bytes that must move.
    pub bytes: Option<usize>,
}

impl Point {
    fn shape(&self) -> String {
        format!("{}x{}", self.rows, self.classes)
    }

    fn name(&self) -> String {
        format!("{} {} {} {}", self.what, self.variant, self.dtype, self.shape())
    }
}

/// A point made ready. Runs take the sets of inputs in turns.
pub trait Work {
    /// Whether a run agrees with the f64 reference.
    fn is_right(&mut self) -> Result<bool>;
    /// What undoes a run, outside of its time.
    fn restore(&mut self, set: usize) -> Result<()>;
    fn enqueue(&mut self, set: usize) -> Result<()>;
    fn sets(&self) -> usize;
    /// Bytes that this way of computing moves, where it is known.
    fn moved(&self) -> Option<usize>;
}

/// Random logits of one type, with room for as many gradients.
pub struct Inputs<T> {
    /// Repeats every [`PERIOD`].
    numbers: Vec<T>,
    pub pristine: CudaSlice<T>,
    pub logits: CudaSlice<T>,
    pub gradient: CudaSlice<T>,
}

impl<T: Number> Inputs<T> {
    /// Normal numbers with a deviation of 3.
    pub fn new(bench: &Bench) -> Result<Self> {
        let mut rng = StdRng::seed_from_u64(1);
        let mut normal = || {
            let (radius, angle): (f64, f64) = (rng.random_range(f64::MIN_POSITIVE..1.0), rng.random_range(0.0..1.0));
            3.0 * (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
        };
        let numbers: Vec<T> = (0..PERIOD).map(|_| T::round(normal())).collect();
        let count = 2 * LARGE_BYTES / size_of::<T>();
        let all: Vec<T> = numbers.iter().copied().cycle().take(count).collect();
        let pristine = bench.stream.clone_htod(&all)?;
        // SAFETY: written by `restore` or by a run before anything reads them.
        let (logits, gradient) = unsafe { (bench.stream.alloc(count)?, bench.stream.alloc(count)?) };
        Ok(Self { numbers, pristine, logits, gradient })
    }

    /// The host's copy of some of the numbers, widened.
    pub fn host(&self, range: std::ops::Range<usize>) -> Vec<f64> {
        range.map(|i| self.numbers[i % PERIOD].widen()).collect()
    }

    /// How many batches of `size` numbers there are, and where the next one starts: on a 16-byte boundary.
    pub fn sets(&self, size: usize) -> (usize, usize) {
        let pitch = size.next_multiple_of(16);
        ((self.pristine.len() / pitch).clamp(1, SETS), pitch)
    }
}

/// The device, and where results go.
pub struct Bench {
    pub kernels: Arc<Kernels>,
    pub stream: Arc<CudaStream>,
    flush: CudaSlice<u8>,
    rows: Rows,
    filter: String,
    timed: bool,
    criterion: Criterion,
    end: Instant,
    right: bool,
}

impl Bench {
    /// Runs a bench in at most about so many seconds.
    pub fn run(seconds: u64, body: impl FnOnce(&mut Self) -> Result<()>) -> ExitCode {
        if let Err(error) = cuda::devices() {
            println!("nothing is measured on a GPU: {error}");
            return ExitCode::SUCCESS;
        }
        let result = Self::open(seconds).and_then(|mut bench| {
            bench.measure_copy()?;
            body(&mut bench)?;
            bench.criterion.final_summary();
            Ok(bench.right)
        });
        match result {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        }
    }

    fn open(seconds: u64) -> Result<Self> {
        let kernels = Kernels::open(0)?;
        let context = kernels.context();
        // SAFETY: all that is timed is on one stream.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream()?;
        let l2 = context.attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?.unsigned_abs() as usize;
        let mut arguments = std::env::args().skip(1);
        let criterion = Criterion::default()
            .warm_up_time(Duration::from_millis(30))
            .measurement_time(Duration::from_millis(150))
            .sample_size(10)
            .nresamples(1000);
        Ok(Self {
            flush: stream.alloc_zeros(LARGE_BYTES.max(2 * l2))?,
            rows: Rows::open(&cuda::devices()?[0].name)?,
            timed: std::env::args().any(|argument| argument == "--bench"),
            filter: arguments.find(|argument| !argument.starts_with('-')).unwrap_or_default(),
            criterion,
            end: Instant::now() + Duration::from_secs(seconds),
            right: true,
            kernels,
            stream,
        })
    }

    /// The best copy of as many bytes as a large batch has.
    fn measure_copy(&mut self) -> Result<()> {
        if !self.timed {
            return Ok(());
        }
        let Self { stream, flush, .. } = self;
        let (from, mut to) = (stream.alloc_zeros::<u8>(LARGE_BYTES)?, stream.alloc_zeros::<u8>(LARGE_BYTES)?);
        let flushed = |_| Ok(stream.memset_zeros(flush)?);
        let times = times(stream, COPIES, flushed, |_| Ok(stream.memcpy_dtod(&from, &mut to)?))?;
        let best = times.into_iter().fold(f64::INFINITY, f64::min);
        self.rows.copied(LARGE_BYTES, best)
    }

    /// Checks a point and times it, by criterion and as a row each.
    pub fn measure(&mut self, point: &Point, prepare: impl FnOnce(&Self) -> Result<Box<dyn Work>>) -> Result<()> {
        if !point.name().contains(&self.filter) {
            return Ok(());
        }
        if Instant::now() > self.end {
            return self.rows.word(point, "not reached");
        }
        match self.check_and_time(point, prepare) {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.right = false;
                self.rows.word(point, "wrong result")
            }
            Err(error) => {
                eprintln!("{}: {error}", point.name());
                self.right = false;
                let out_of_memory = matches!(error.downcast_ref(), Some(logit_perturb::Error::OutOfMemory { .. }));
                self.rows.word(point, if out_of_memory { "out of memory" } else { "failed" })
            }
        }
    }

    fn check_and_time(&mut self, point: &Point, prepare: impl FnOnce(&Self) -> Result<Box<dyn Work>>) -> Result<bool> {
        let mut work = prepare(self)?;
        if !work.is_right()? {
            return Ok(false);
        }
        if !self.timed {
            return Ok(true);
        }
        let (sets, moved) = (work.sets(), work.moved());
        let work = std::cell::RefCell::new(work);
        let restore = |run: usize| work.borrow_mut().restore(run % sets);
        let enqueue = |run: usize| work.borrow_mut().enqueue(run % sets);
        self.time(point, "", moved, true, restore, enqueue)?;
        if point.small {
            self.time(point, " warm", moved, false, restore, enqueue)?;
            let graphs = (0..sets).map(|set| self.capture(|| enqueue(set))).collect::<Result<Vec<_>>>()?;
            self.rows.launches(point, nodes(&graphs[0])?)?;
            self.time(point, " graph warm", moved, false, restore, |run| Ok(graphs[run % sets].launch()?))?;
        }
        Ok(true)
    }

    fn capture(&self, work: impl FnOnce() -> Result<()>) -> Result<CudaGraph> {
        self.stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL)?;
        let captured = work();
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        captured?;
        Ok(graph?.ok_or("the capture gave no graph")?)
    }

    fn time(
        &mut self,
        point: &Point,
        addition: &str,
        moved: Option<usize>,
        flushed: bool,
        restore: impl Fn(usize) -> Result<()>,
        enqueue: impl Fn(usize) -> Result<()>,
    ) -> Result<()> {
        let Self { stream, flush, criterion, .. } = self;
        let (mut all, mut failure) = (Vec::new(), None);
        let mut group = criterion.benchmark_group(point.what);
        group.throughput(Throughput::Bytes(point.bytes.unwrap_or_default() as u64));
        let id = BenchmarkId::new(format!("{}{addition} {}", point.variant, point.dtype), point.shape());
        group.bench_function(id, |bencher| {
            bencher.iter_custom(|runs| {
                let before = |run| {
                    restore(run)?;
                    if flushed {
                        stream.memset_zeros(flush)?;
                    }
                    Ok(())
                };
                match times(stream, runs as usize, before, &enqueue) {
                    Ok(found) => all.extend(found),
                    Err(error) => failure = Some(error),
                }
                let sum = all[all.len().saturating_sub(runs as usize)..].iter().sum::<f64>();
                // Criterion takes no time for a mistake.
                Duration::from_secs_f64(sum.max(1e-3) * 1e-6)
            });
        });
        group.finish();
        match failure {
            Some(error) => Err(error),
            None => self.rows.times(point, addition, moved, all),
        }
    }

    /// The host's time for one call, with the device idle at first. The driver takes as many without waiting for the first.
    pub fn measure_host(&mut self, point: &Point, mut call: impl FnMut() -> Result<()>) -> Result<()> {
        if !self.timed || !point.name().contains(&self.filter) {
            return Ok(());
        }
        let Self { stream, criterion, .. } = self;
        let (mut all, mut failure) = (Vec::new(), None);
        let mut group = criterion.benchmark_group(point.what);
        group.bench_function(
            BenchmarkId::new(format!("{} {}", point.variant, point.dtype), point.shape()),
            |bencher| {
                bencher.iter_custom(|runs| {
                    let mut sum = Duration::ZERO;
                    let mut timed = || -> Result<()> {
                        for start in (0..runs).step_by(AT_A_TIME) {
                            let calls = (runs - start).min(AT_A_TIME as u64);
                            stream.synchronize()?;
                            let start = Instant::now();
                            (0..calls).try_for_each(|_| call())?;
                            let took = start.elapsed();
                            all.push(took.as_secs_f64() * 1e6 / calls as f64);
                            sum += took;
                        }
                        Ok(())
                    };
                    failure = timed().err().or(failure.take());
                    sum.max(Duration::from_nanos(1))
                });
            },
        );
        group.finish();
        match failure {
            Some(error) => Err(error),
            None => self.rows.times(point, "", None, all),
        }
    }
}

/// Microseconds of each run between two events; `before` is outside of the time. Both are told the number of the run.
fn times(
    stream: &Arc<CudaStream>,
    runs: usize,
    mut before: impl FnMut(usize) -> Result<()>,
    mut run: impl FnMut(usize) -> Result<()>,
) -> Result<Vec<f64>> {
    let event = || stream.context().new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT));
    let events = (0..runs.min(AT_A_TIME)).map(|_| Ok((event()?, event()?))).collect::<Result<Vec<_>>>()?;
    let mut all = Vec::with_capacity(runs);
    while all.len() < runs {
        let start_run = all.len();
        let used = &events[..events.len().min(runs - start_run)];
        for (i, (start, end)) in used.iter().enumerate() {
            before(start_run + i)?;
            start.record(stream)?;
            run(start_run + i)?;
            end.record(stream)?;
        }
        stream.synchronize()?;
        for (start, end) in used {
            all.push(f64::from(start.elapsed_ms(end)?) * 1e3);
        }
    }
    Ok(all)
}

/// Launches that a captured call consists of.
fn nodes(graph: &CudaGraph) -> Result<usize> {
    let mut count = 0;
    // SAFETY: the graph lives; without room for nodes the driver gives their number alone.
    unsafe { sys::cuGraphGetNodes(graph.cu_graph(), std::ptr::null_mut(), &mut count) }.result()?;
    Ok(count)
}
