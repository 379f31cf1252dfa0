//! The device under test, and matrices on it with canaries around them.

use libtest_mimic::Failed;
use logit_perturb::CrossEntropy;
use logit_perturb::cuda::{CrossEntropyOp, DeviceMatrix, DeviceMatrixMut, Kernels, Outputs};
use logit_perturb::cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DeviceRepr, sys};
use logit_perturb_emulator::Rows;
use std::sync::{Arc, OnceLock};

/// What memory holds where nothing was written: a NaN that no computation gives.
const CANARY: u32 = 0x7fc5_5a5a;

/// A context of the first device and a stream of it.
pub struct Device {
    pub kernels: Arc<Kernels>,
    pub stream: Arc<CudaStream>,
}

impl Device {
    /// A context without cudarc's event tracking, which all tests share that need none: its kernels are loaded once.
    pub fn get() -> &'static Self {
        static DEVICE: OnceLock<Device> = OnceLock::new();
        DEVICE
            .get_or_init(|| Self::untracked().unwrap_or_else(|error| panic!("{}", error.message().unwrap_or_default())))
    }

    /// A context of its own without event tracking.
    pub fn untracked() -> Result<Self, Failed> {
        let kernels = Kernels::open(0)?;
        // SAFETY: every buffer of this context is used on its one stream, or after a synchronisation.
        unsafe { kernels.context().disable_event_tracking() };
        let stream = kernels.context().new_stream()?;
        Ok(Self { kernels, stream })
    }

    /// A context of its own in which cudarc tracks, by events, which stream uses what: it does so once there is a stream beside the default.
    pub fn tracked() -> Result<Self, Failed> {
        let kernels = Kernels::of(&CudaContext::new(0)?)?;
        let stream = kernels.context().new_stream()?;
        Ok(Self { kernels, stream })
    }

    /// An operation with all outputs.
    pub fn operation(&self, problem: &CrossEntropy, classes: usize, rows: usize) -> Result<CrossEntropyOp, Failed> {
        let outputs = Outputs::default().loss_rows().lse();
        Ok(CrossEntropyOp::new(&self.kernels, &self.stream, problem, classes, rows, outputs)?)
    }
}

/// Uploads a list, with one element more: an allocation of none is refused.
pub fn upload<T: DeviceRepr + Copy + Default>(stream: &Arc<CudaStream>, data: &[T]) -> Result<CudaSlice<T>, Failed> {
    Ok(stream.clone_htod(&[data, &[T::default()]].concat())?)
}

/// What is in device memory once the stream has come this far.
pub fn download<T: DeviceRepr>(stream: &Arc<CudaStream>, data: &impl DevicePtr<T>) -> Result<Vec<T>, Failed> {
    let copy = stream.clone_dtoh(data)?;
    stream.synchronize()?;
    Ok(copy)
}

/// Writes the canary over an operation's results.
pub fn poison(stream: &Arc<CudaStream>, op: &CrossEntropyOp) -> Result<(), Failed> {
    for view in [Some(op.loss()), op.loss_rows(), op.lse()].into_iter().flatten() {
        let (pointer, _guard) = view.device_ptr(stream);
        // SAFETY: the view is of as many numbers of 4 bytes, which are written again by the next enqueue on this stream before anyone
        // reads them.
        unsafe { sys::cuMemsetD32Async(pointer, CANARY, view.len(), stream.cu_stream()) }.result()?;
    }
    Ok(())
}

/// Complains of numbers that were never written.
pub fn written(what: &str, data: &[f32]) -> Result<(), Failed> {
    match data.iter().position(|x| x.to_bits() == CANARY) {
        None => Ok(()),
        Some(i) => Err(format!("{what} [{i}] was not written").into()),
    }
}

/// A matrix inside a larger buffer, which holds canaries everywhere else.
pub struct Placed {
    buffer: CudaSlice<f32>,
    rows: usize,
    classes: usize,
    at: Rows,
}

impl Placed {
    /// Uploads a matrix `[rows, classes]`; without one its elements are canaries too.
    pub fn new(
        stream: &Arc<CudaStream>,
        dense: Option<&[f32]>,
        (rows, classes): (usize, usize),
        at: Rows,
    ) -> Result<Self, Failed> {
        let mut data = vec![f32::from_bits(CANARY); at.offset + rows * at.stride + 8];
        for (i, row) in dense.unwrap_or_default().chunks_exact(classes).enumerate() {
            data[at.offset + i * at.stride..][..classes].copy_from_slice(row);
        }
        Ok(Self { buffer: stream.clone_htod(&data)?, rows, classes, at })
    }

    fn end(&self) -> usize {
        self.at.offset + if self.rows == 0 { 0 } else { (self.rows - 1) * self.at.stride + self.classes }
    }

    pub fn view(&self) -> logit_perturb::Result<DeviceMatrix<'_, f32>> {
        let data = self.buffer.slice(self.at.offset..self.end());
        DeviceMatrix::new(data, self.rows, self.classes, self.at.stride)
    }

    pub fn view_mut(&mut self) -> logit_perturb::Result<DeviceMatrixMut<'_, f32>> {
        let (rows, classes, stride, range) = (self.rows, self.classes, self.at.stride, self.at.offset..self.end());
        DeviceMatrixMut::new(self.buffer.slice_mut(range), rows, classes, stride)
    }

    /// The matrix without gaps, every element of it written and every canary around it alive.
    pub fn download(&self, stream: &Arc<CudaStream>) -> Result<Vec<f32>, Failed> {
        let all = download(stream, &self.buffer)?;
        let mut dense = Vec::with_capacity(self.rows * self.classes);
        let inside = |i: usize| {
            i >= self.at.offset
                && (i - self.at.offset) % self.at.stride < self.classes
                && (i - self.at.offset) / self.at.stride < self.rows
        };
        for (i, &x) in all.iter().enumerate() {
            match (inside(i), x.to_bits() == CANARY) {
                (true, false) => dense.push(x),
                (true, true) => return Err(format!("element {i} of the buffer was not written, {:?}", self.at).into()),
                (false, true) => {}
                (false, false) => {
                    return Err(format!("element {i} of the buffer is in no row and was written, {:?}", self.at).into());
                }
            }
        }
        Ok(dense)
    }
}
