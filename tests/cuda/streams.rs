//! The operation among other work: other streams, other threads, and what an enqueue costs the host.

use crate::allocations;
use crate::batch::{Batch, Outcome, dense};
use crate::corners::LABELS_IN_BLOCK;
use crate::device::{Device, Placed, download, upload};
use libtest_mimic::Failed;
use logit_perturb::CrossEntropy;
use logit_perturb::cuda::{CrossEntropyOp, DeviceLabels, DeviceMatrixMut, DevicePass, Kernels, Setup};
use logit_perturb::cudarc::driver::{CudaEvent, CudaSlice, CudaStream};
use logit_perturb_emulator::Gradient;
use std::sync::Arc;

/// Keeps a stream busy: each blow reads and writes 256 MiB, a tenth of a millisecond and more.
struct Hammer {
    stream: Arc<CudaStream>,
    op: CrossEntropyOp<f32>,
    logits: CudaSlice<f32>,
    labels: CudaSlice<i32>,
}

const HAMMER: (usize, usize) = (1 << 16, 1 << 10);
/// Few enough that the driver takes them all without waiting for the first.
const BLOWS: usize = 200;

impl Hammer {
    fn new(kernels: &Kernels, stream: &Arc<CudaStream>) -> Result<Self, Failed> {
        let (rows, classes) = HAMMER;
        let op = CrossEntropyOp::new(kernels, stream, &CrossEntropy::default(), Setup::new(classes, rows))?;
        let (logits, labels) = (stream.alloc_zeros(rows * classes)?, stream.alloc_zeros(rows)?);
        Ok(Self { stream: Arc::clone(stream), op, logits, labels })
    }

    /// Enqueues work, and an event behind it.
    fn strike(&mut self) -> Result<CudaEvent, Failed> {
        let (rows, classes) = HAMMER;
        for _ in 0..BLOWS {
            let pass = DevicePass::InPlace(DeviceMatrixMut::new(self.logits.as_view_mut(), rows, classes, classes)?);
            self.op.enqueue(pass, DeviceLabels::I32(self.labels.as_view()))?;
        }
        Ok(self.stream.record_event(None)?)
    }
}

fn still_busy(behind: &CudaEvent, what: &str) -> Result<(), Failed> {
    match behind.try_is_complete()? {
        false => Ok(()),
        true => Err(format!("{what} waited for the work before it").into()),
    }
}

/// Logits that another stream makes behind long work, and results that it reads: under event tracking both wait for each other.
pub fn other_streams_are_waited_for() -> Result<(), Failed> {
    let device = Device::tracked()?;
    let busy = device.kernels.context().new_stream()?;
    let mut hammer = Hammer::new(&device.kernels, &busy)?;
    for (rows, c) in [(300, 1000), (LABELS_IN_BLOCK + 5, 10), (30, 20_003)] {
        let batch = Batch::random(rows, c, 1);
        let mut op = batch.operation::<f32>(&device)?;
        let (source, labels) = (busy.clone_htod(&batch.logits)?, upload(&busy, &batch.labels)?);
        for _ in 0..3 {
            let mut logits = busy.clone_htod(&vec![f32::NAN; rows * c])?;
            busy.synchronize()?;
            let behind = hammer.strike()?;
            busy.memcpy_dtod(&source, &mut logits)?;
            let pass = DevicePass::InPlace(DeviceMatrixMut::new(logits.as_view_mut(), rows, c, c)?);
            op.enqueue(pass, DeviceLabels::I64(labels.slice(..rows)))?;
            still_busy(&behind, "enqueueing on another stream")?;
            let gradient = download(&busy, &logits)?;
            batch.compare(&Outcome { gradient, ..batch.results(&busy, &op)? })?;
            op.check()?;
        }
    }
    Ok(())
}

/// Behind long work on its own stream an enqueue returns at once, and the program's allocator is not asked for anything.
pub fn enqueueing_neither_allocates_nor_waits() -> Result<(), Failed> {
    let device = Device::get();
    let stream = &device.stream;
    let mut hammer = Hammer::new(&device.kernels, stream)?;
    for (rows, c) in [(9, 10), (300, 100), (300, 1000), (30, 20_003), (LABELS_IN_BLOCK + 5, 10)] {
        let batch = Batch::random(rows, c, 1);
        let mut op = batch.operation::<f32>(device)?;
        let labels = upload(stream, &batch.labels)?;
        let logits = Placed::<f32>::new(stream, Some(&batch.logits), (rows, c), dense(c))?;
        let mut gradient = Placed::new(stream, None, (rows, c), dense(c))?;
        stream.synchronize()?;
        let behind = hammer.strike()?;
        let before = allocations();
        for _ in 0..10 {
            let pass = DevicePass::Into { logits: logits.view()?, gradient: gradient.view_mut()? };
            op.enqueue(pass, DeviceLabels::I64(labels.slice(..rows)))?;
        }
        let allocated = allocations() - before;
        still_busy(&behind, "enqueueing")?;
        if allocated > 0 {
            return Err(format!("{rows} x {c}: {allocated} allocations").into());
        }
        batch.compare(&Outcome { gradient: gradient.download(stream)?, ..batch.results(stream, &op)? })?;
    }
    Ok(())
}

/// An operation is made in one thread and used in another, which has not touched CUDA before.
pub fn another_thread() -> Result<(), Failed> {
    let device = Device::get();
    let stream = &device.stream;
    let batch = Batch::random(30, 100, 1);
    let mut op = batch.operation::<f32>(device)?;
    let labels = upload(stream, &batch.labels)?;
    let mut logits = Placed::<f32>::new(stream, Some(&batch.logits), (30, 100), dense(100))?;
    stream.synchronize()?;
    let (mut op, enqueued) = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let enqueued = logits
                .view_mut()
                .and_then(|matrix| op.enqueue(DevicePass::InPlace(matrix), DeviceLabels::I64(labels.slice(..30))));
            (op, enqueued)
        });
        thread.join().map_err(|_| "the thread panicked")
    })?;
    enqueued?;
    op.check()?;
    let outcome = Outcome { gradient: logits.download(stream)?, ..batch.results(stream, &op)? };
    batch.compare(&outcome)?;
    // The numbers are those of the thread that made it.
    let here = batch.run(device, &mut op, dense(100), Gradient::InPlace)?;
    match here.bits() == outcome.bits() {
        true => Ok(()),
        false => Err("the threads' results differ".into()),
    }
}
