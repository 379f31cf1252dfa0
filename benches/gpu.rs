//! Cross-entropy's loss and gradient on a CUDA device, as rows of the CSV layout that `benches/peers/README.md` describes. Without a device it
//! says so and ends.
//!
//! `cargo bench --bench gpu -- [FILTER]`: FILTER is a part of `VARIANT NxC`. Not by criterion: ratios to the peers need the peers' rule, the
//! median of so many runs between events, each with L2 flushed. Without `--bench` results are checked and nothing is timed.

use logit_perturb::cpu::{self, CrossEntropyBatch, Pass};
use logit_perturb::cuda::{
    self, CrossEntropyOp, DeviceLabels, DeviceMatrix, DeviceMatrixMut, DevicePass, Kernels, Outputs, Setup,
};
use logit_perturb::cudarc::driver::{CudaSlice, CudaStream, sys};
use logit_perturb::{CrossEntropy, Matrix, MatrixMut, Perturbation, Reduction};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Elements of a large batch, 2^28 bytes.
const ELEMENTS: usize = 1 << 26;
const LARGE: [usize; 14] = [10, 32, 64, 100, 256, 1000, 1024, 1536, 4096, 10_000, 16_384, 32_768, 50_257, 128_256];
const SMALL: [(usize, usize); 4] = [(128, 10), (128, 100), (1024, 100), (1024, 1000)];

const RUNS: usize = 50;
const RUNS_BEFORE: usize = 3;
/// Enqueues that the host is timed over; the driver takes as many without waiting for the first.
const ENQUEUES: usize = 100;
/// Points not begun by then are not reached.
const TIME: Duration = Duration::from_secs(300);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What is computed, and where the gradient goes.
#[derive(Clone, Copy)]
struct Point {
    shared: bool,
    in_place: bool,
    rows: usize,
    classes: usize,
    small: bool,
}

impl Point {
    fn variant(&self) -> String {
        let form = if self.shared { "shared" } else { "plain" };
        let place = if self.in_place { " in place" } else { "" };
        format!("{form}{place}")
    }

    /// Logits read, gradient written, labels and perturbation read: each once.
    fn bytes(&self) -> usize {
        let perturbation = if self.shared { 4 * self.classes } else { 0 };
        2 * 4 * self.rows * self.classes + 8 * self.rows + perturbation
    }

    fn problem(&self, reduction: Reduction) -> logit_perturb::Result<CrossEntropy> {
        let builder = CrossEntropy::builder().reduction(reduction);
        if !self.shared {
            return builder.build();
        }
        // As logit adjustment of a long tail has it: counts fall to a hundredth.
        let share = |class: usize| 100f64.powf(-(class as f64) / self.classes as f64);
        let total: f64 = (0..self.classes).map(share).sum();
        builder.perturbation(Perturbation::Shared((0..self.classes).map(|c| (share(c) / total).ln()).collect())).build()
    }
}

fn points() -> impl Iterator<Item = Point> {
    let large = LARGE.into_iter().map(|classes| (ELEMENTS / classes, classes, false));
    let shapes = SMALL.into_iter().map(|(rows, classes)| (rows, classes, true)).chain(large);
    shapes.flat_map(|(rows, classes, small)| {
        let forms = [(false, false), (false, true), (true, false), (true, true)];
        forms.map(|(shared, in_place)| Point { shared, in_place, rows, classes, small })
    })
}

/// The device, its buffers, and where results go.
struct Bench {
    kernels: Arc<Kernels>,
    stream: Arc<CudaStream>,
    host: Vec<f32>,
    pristine: CudaSlice<f32>,
    logits: CudaSlice<f32>,
    gradient: CudaSlice<f32>,
    flush: CudaSlice<u8>,
    rows: Rows,
}

/// Writes results: to standard output in words, and to the file that `LOGIT_PERTURB_CSV` names.
struct Rows {
    host: String,
    file: Option<std::fs::File>,
    /// Bytes a microsecond of the best copy; 0 where it is not known.
    copy_rate: f64,
}

impl Rows {
    fn open() -> Result<Self> {
        let host = std::env::var("LOGIT_PERTURB_HOST").ok().filter(|host| !host.is_empty());
        let host = match host {
            Some(host) => host,
            // The device alone; who else should know driver, date and commit sets the variable.
            None => format!("{},,,,", cuda::devices()?[0].name),
        };
        let open = |path| std::fs::OpenOptions::new().create(true).append(true).open(path);
        let file = std::env::var_os("LOGIT_PERTURB_CSV").map(open).transpose()?;
        let copy_rate = std::env::var("LOGIT_PERTURB_COPY").ok().and_then(|rate| rate.parse().ok()).unwrap_or(0.0);
        Ok(Self { host, file, copy_rate })
    }

    fn write(
        &mut self,
        what: &str,
        variant: &str,
        shape: [String; 3],
        bytes: Option<usize>,
        us: &Outcome,
    ) -> Result<()> {
        let [dtype, n, c] = &shape;
        let share = match (us, bytes) {
            (Outcome::Microseconds(us), Some(bytes)) if self.copy_rate > 0.0 => {
                format!("{:.3}", bytes as f64 / us / self.copy_rate)
            }
            _ => String::new(),
        };
        let bytes = bytes.map_or_else(String::new, |bytes| bytes.to_string());
        let us = match us {
            Outcome::Microseconds(us) => format!("{us:.3}"),
            Outcome::Word(word) => (*word).to_owned(),
        };
        println!("{what} {variant} {dtype} {n}x{c}: {us} us, share of copy {share}");
        if let Some(file) = &mut self.file {
            writeln!(file, "{},{what},{variant},{dtype},{n},{c},{bytes},{us},{share},,", self.host)?;
        }
        Ok(())
    }

    fn point(&mut self, what: &str, point: &Point, addition: &str, us: Outcome) -> Result<()> {
        let shape = ["f32".to_owned(), point.rows.to_string(), point.classes.to_string()];
        let bytes = (what == "cross_entropy").then(|| point.bytes());
        self.write(what, &format!("{}{addition}", point.variant()), shape, bytes, &us)
    }
}

/// A time, or why there is none.
enum Outcome {
    Microseconds(f64),
    Word(&'static str),
}

fn median(mut times: Vec<f64>) -> Outcome {
    times.sort_by(f64::total_cmp);
    Outcome::Microseconds(times[times.len() / 2])
}

/// Microseconds of each run between two events; `before` runs outside of the time.
fn times(
    stream: &Arc<CudaStream>,
    runs: usize,
    mut before: impl FnMut() -> Result<()>,
    mut run: impl FnMut() -> Result<()>,
) -> Result<Vec<f64>> {
    let event = || stream.context().new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT));
    let events = (0..runs).map(|_| Ok((event()?, event()?))).collect::<Result<Vec<_>>>()?;
    stream.synchronize()?;
    for (start, end) in &events {
        before()?;
        start.record(stream)?;
        run()?;
        end.record(stream)?;
    }
    stream.synchronize()?;
    events.iter().map(|(start, end)| Ok(f64::from(start.elapsed_ms(end)?) * 1e3)).collect()
}

impl Bench {
    fn open() -> Result<Self> {
        let kernels = Kernels::open(0)?;
        let context = kernels.context();
        // SAFETY: all that is timed is on one stream.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream()?;
        let l2 = context.attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?.unsigned_abs() as usize;
        // Normal with a deviation of 3, repeated with a period that no row length divides.
        let mut rng = StdRng::seed_from_u64(1);
        let mut normal = || {
            let (radius, angle): (f64, f64) = (rng.random_range(f64::MIN_POSITIVE..1.0), rng.random_range(0.0..1.0));
            (3.0 * (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()) as f32
        };
        let numbers: Vec<f32> = (0..1_000_003).map(|_| normal()).collect();
        let host: Vec<f32> = numbers.iter().copied().cycle().take(ELEMENTS).collect();
        let pristine = stream.clone_htod(&host)?;
        Ok(Self {
            logits: stream.alloc_zeros(ELEMENTS)?,
            gradient: stream.alloc_zeros(ELEMENTS)?,
            flush: stream.alloc_zeros((4 * ELEMENTS).max(2 * l2))?,
            rows: Rows::open()?,
            kernels,
            stream,
            host,
            pristine,
        })
    }

    /// Measures the copy that shares are shares of, unless it was told.
    fn copy(&mut self) -> Result<()> {
        if self.rows.copy_rate > 0.0 {
            return Ok(());
        }
        let Self { stream, pristine, gradient, flush, .. } = self;
        let flushed = || Ok(stream.memset_zeros(flush)?);
        let times = times(stream, RUNS, flushed, || Ok(stream.memcpy_dtod(pristine, gradient)?))?;
        let best = times.into_iter().fold(f64::INFINITY, f64::min);
        let bytes = 2 * 4 * ELEMENTS;
        self.rows.copy_rate = bytes as f64 / best;
        let shape = [String::new(), (bytes / 2).to_string(), String::new()];
        self.rows.write("copy", "cuMemcpyDtoDAsync", shape, Some(bytes), &Outcome::Microseconds(best))
    }

    /// Checks a point and, where it is to be `timed`, times it; whether it was right.
    fn measure(&mut self, point: &Point, timed: bool) -> Result<bool> {
        let (n, c) = (point.rows, point.classes);
        let mut rng = StdRng::seed_from_u64(2);
        let labels: Vec<i64> = (0..n).map(|_| rng.random_range(0..c as i64)).collect();
        let device_labels = self.stream.clone_htod(&labels)?;
        if !self.is_right(point, &labels, &device_labels)? {
            self.rows.point("cross_entropy", point, "", Outcome::Word("wrong result"))?;
            return Ok(false);
        }
        if !timed {
            return Ok(true);
        }
        let problem = point.problem(Reduction::Mean)?;
        let mut op = CrossEntropyOp::new(&self.kernels, &self.stream, &problem, Setup::new(c, n))?;
        let Self { stream, pristine, logits, gradient, flush, rows, .. } = self;
        stream.memcpy_dtod(&pristine.slice(..n * c), &mut logits.slice_mut(..n * c))?;
        // Several closures use the buffers in turn.
        let logits = std::cell::RefCell::new(logits);
        let restore = || {
            let mut logits = logits.borrow_mut();
            Ok(stream.memcpy_dtod(&pristine.slice(..n * c), &mut logits.slice_mut(..n * c))?)
        };
        let mut run = || {
            let mut logits = logits.borrow_mut();
            let pass = pass(point, &mut logits, gradient)?;
            Ok(op.enqueue(pass, DeviceLabels::I64(device_labels.as_view()))?)
        };
        times(stream, RUNS_BEFORE, restore, &mut run)?;
        let flushed = || {
            restore()?;
            Ok(stream.memset_zeros(flush)?)
        };
        rows.point("cross_entropy", point, "", median(times(stream, RUNS, flushed, &mut run)?))?;
        if !point.small {
            return Ok(true);
        }
        rows.point("cross_entropy", point, " warm", median(times(stream, RUNS, restore, &mut run)?))?;

        let host = (0..RUNS).map(|_| {
            stream.synchronize()?;
            let start = Instant::now();
            (0..ENQUEUES).try_for_each(|_| run())?;
            Ok(start.elapsed().as_secs_f64() * 1e6 / ENQUEUES as f64)
        });
        rows.point("enqueue", point, "", median(host.collect::<Result<Vec<_>>>()?))?;

        stream.synchronize()?;
        stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL)?;
        let captured = run();
        let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0));
        captured?;
        let graph = graph?.ok_or("the capture gave no graph")?;
        let mut replay = || Ok(graph.launch()?);
        times(stream, RUNS_BEFORE, restore, &mut replay)?;
        rows.point("cross_entropy", point, " graph warm", median(times(stream, RUNS, restore, &mut replay)?))?;
        Ok(true)
    }

    /// Whether one run agrees with the f64 reference in a few rows, and its loss with its rows' losses.
    fn is_right(&mut self, point: &Point, labels: &[i64], device_labels: &CudaSlice<i64>) -> Result<bool> {
        let (n, c, stream) = (point.rows, point.classes, &self.stream);
        let setup = Setup::new(c, n).outputs(Outputs::default().loss_rows());
        let problem = point.problem(Reduction::Mean)?;
        let mut op = CrossEntropyOp::new(&self.kernels, stream, &problem, setup)?;
        stream.memcpy_dtod(&self.pristine.slice(..n * c), &mut self.logits.slice_mut(..n * c))?;
        stream.memset_zeros(&mut self.gradient)?;
        let pass = pass(point, &mut self.logits, &mut self.gradient)?;
        op.enqueue(pass, DeviceLabels::I64(device_labels.as_view()))?;
        op.check()?;
        let result = if point.in_place { &self.logits } else { &self.gradient };
        let found_losses = stream.clone_dtoh(&op.loss_rows().ok_or("the row losses are not there")?)?;
        let loss = f64::from(stream.clone_dtoh(&op.loss())?[0]);
        // Written so that NaN is wrong.
        let near = |found: f64, expected: f64, tolerance: f64| (found - expected).abs() <= tolerance;
        let mean = found_losses.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64;
        let mut right = near(loss, mean, 4e-6 * mean.abs() + 1e-7);
        let alone = point.problem(Reduction::Divisor(n as f64))?;
        for row in [0, 1, n / 3, n / 2, n - 2, n - 1] {
            let logits = Matrix::new(&self.host[row * c..][..c], 1, c)?;
            let mut expected = vec![0f64; c];
            let pass = Pass::Into { logits, gradient: MatrixMut::new(&mut expected, 1, c)? };
            let output = cpu::cross_entropy(&alone, pass, CrossEntropyBatch::labels(&labels[row..=row]))?;
            let found = stream.clone_dtoh(&result.slice(row * c..(row + 1) * c))?;
            let gradients = found.iter().zip(&expected);
            right &= gradients.into_iter().all(|(&x, &expected)| near(x.into(), expected, 1e-6 / n as f64));
            let expected = output.loss_rows[0];
            right &= near(found_losses[row].into(), expected, 4e-6 * expected.abs() + 1e-7);
        }
        Ok(right)
    }
}

/// The pass of a point over the start of the buffers.
fn pass<'a>(
    point: &Point,
    logits: &'a mut CudaSlice<f32>,
    gradient: &'a mut CudaSlice<f32>,
) -> logit_perturb::Result<DevicePass<'a, f32>> {
    let (n, c) = (point.rows, point.classes);
    if point.in_place {
        return Ok(DevicePass::InPlace(DeviceMatrixMut::new(logits.slice_mut(..n * c), n, c, c)?));
    }
    Ok(DevicePass::Into {
        logits: DeviceMatrix::new(logits.slice(..n * c), n, c, c)?,
        gradient: DeviceMatrixMut::new(gradient.slice_mut(..n * c), n, c, c)?,
    })
}

/// Every point; whether all of them were right.
fn bench(filter: &str, timed: bool) -> Result<bool> {
    let start = Instant::now();
    let mut bench = Bench::open()?;
    if timed {
        bench.copy()?;
    }
    let mut right = true;
    for point in points() {
        if !format!("{} {}x{}", point.variant(), point.rows, point.classes).contains(filter) {
            continue;
        }
        let word = if start.elapsed() > TIME {
            "not reached"
        } else {
            match bench.measure(&point, timed) {
                Ok(found) => {
                    right &= found;
                    continue;
                }
                Err(error) => {
                    eprintln!("{} {}x{}: {error}", point.variant(), point.rows, point.classes);
                    right = false;
                    let out_of_memory = matches!(error.downcast_ref(), Some(logit_perturb::Error::OutOfMemory { .. }));
                    if out_of_memory { "out of memory" } else { "failed" }
                }
            }
        };
        bench.rows.point("cross_entropy", &point, "", Outcome::Word(word))?;
    }
    Ok(right)
}

fn main() -> ExitCode {
    let (options, filters): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|one| one.starts_with('-'));
    if let Err(error) = cuda::devices() {
        println!("nothing is measured: {error}");
        return ExitCode::SUCCESS;
    }
    let timed = options.iter().any(|option| option == "--bench");
    match bench(filters.first().map_or("", String::as_str), timed) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
