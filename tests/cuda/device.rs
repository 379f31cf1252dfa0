//! The device under test, and matrices on it with canaries around them.

use libtest_mimic::Failed;
use logit_perturb::CrossEntropy;
use logit_perturb::cuda::{CrossEntropyOp, DeviceElement, DeviceMatrix, DeviceMatrixMut, Kernels, Setup};
use logit_perturb::cudarc::driver::{
    CudaContext, CudaSlice, CudaStream, CudaView, DevicePtr, DeviceRepr, DeviceSlice, sys,
};
use logit_perturb::half::{bf16, f16};
use logit_perturb_emulator::Rows;
use std::sync::{Arc, OnceLock};

/// What 32 bits of memory hold where nothing was written: a NaN that no computation gives.
const CANARY: u32 = 0x7fc5_5a5a;

/// An element type under test.
pub trait Tested: DeviceElement {
    const NAME: &'static str;
    const DTYPE: logit_perturb::DType;
    /// A NaN that no computation gives.
    const CANARY: Self;

    fn bits(self) -> u32;
}

impl Tested for f32 {
    const NAME: &'static str = "f32";
    const DTYPE: logit_perturb::DType = logit_perturb::DType::F32;
    const CANARY: Self = f32::from_bits(CANARY);

    fn bits(self) -> u32 {
        self.to_bits()
    }
}

impl Tested for f16 {
    const NAME: &'static str = "f16";
    const DTYPE: logit_perturb::DType = logit_perturb::DType::F16;
    const CANARY: Self = f16::from_bits(0x7e5a);

    fn bits(self) -> u32 {
        self.to_bits().into()
    }
}

impl Tested for bf16 {
    const NAME: &'static str = "bf16";
    const DTYPE: logit_perturb::DType = logit_perturb::DType::BF16;
    const CANARY: Self = bf16::from_bits(0x7fda);

    fn bits(self) -> u32 {
        self.to_bits().into()
    }
}

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

    pub fn operation<T: Tested>(&self, problem: &CrossEntropy, setup: Setup) -> Result<CrossEntropyOp<T>, Failed> {
        Ok(CrossEntropyOp::new(&self.kernels, &self.stream, problem, setup)?)
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
pub fn poison<T: Tested>(stream: &Arc<CudaStream>, op: &CrossEntropyOp<T>) -> Result<(), Failed> {
    for view in [Some(op.loss()), op.loss_rows(), op.lse()].into_iter().flatten() {
        poison_view(stream, &view)?;
    }
    if let Some(view) = op.predictions() {
        poison_view(stream, &view)?;
    }
    if let Some(views) = op.class_statistics() {
        for view in [views.count, views.correct, views.rows] {
            poison_view(stream, &view)?;
        }
        for view in [views.loss, views.confidence] {
            poison_view(stream, &view)?;
        }
    }
    Ok(())
}

fn poison_view<R>(stream: &Arc<CudaStream>, view: &CudaView<'_, R>) -> Result<(), Failed> {
    let (pointer, _guard) = view.device_ptr(stream);
    // SAFETY: the view is of as many bytes, a multiple of 4, which are written again by the next enqueue on this stream before anyone reads
    // them.
    unsafe { sys::cuMemsetD32Async(pointer, CANARY, view.num_bytes() / 4, stream.cu_stream()) }.result()?;
    Ok(())
}

/// Complains of numbers of 4 or 8 bytes that were never written.
pub fn written<R: bytemuck::Pod>(what: &str, data: &[R]) -> Result<(), Failed> {
    let canary = CANARY.to_ne_bytes();
    let untouched = |x: &R| bytemuck::bytes_of(x).chunks_exact(4).all(|bytes| bytes == canary);
    match data.iter().position(untouched) {
        None => Ok(()),
        Some(i) => Err(format!("{what} [{i}] was not written").into()),
    }
}

/// A matrix inside a larger buffer, which holds canaries everywhere else.
pub struct Placed<T> {
    buffer: CudaSlice<T>,
    rows: usize,
    classes: usize,
    at: Rows,
}

impl<T: Tested> Placed<T> {
    /// Uploads a matrix `[rows, classes]` of numbers that `T` holds; without one its elements are canaries too.
    pub fn new(
        stream: &Arc<CudaStream>,
        dense: Option<&[f32]>,
        (rows, classes): (usize, usize),
        at: Rows,
    ) -> Result<Self, Failed> {
        let mut data = vec![T::CANARY; at.offset + rows * at.stride + 8];
        for (i, row) in dense.unwrap_or_default().chunks_exact(classes).enumerate() {
            let place = &mut data[at.offset + i * at.stride..][..classes];
            place.iter_mut().zip(row).for_each(|(place, &x)| *place = T::round(x.into()));
        }
        Ok(Self { buffer: stream.clone_htod(&data)?, rows, classes, at })
    }

    fn end(&self) -> usize {
        self.at.offset + if self.rows == 0 { 0 } else { (self.rows - 1) * self.at.stride + self.classes }
    }

    pub fn view(&self) -> logit_perturb::Result<DeviceMatrix<'_, T>> {
        let data = self.buffer.slice(self.at.offset..self.end());
        DeviceMatrix::new(data, self.rows, self.classes, self.at.stride)
    }

    pub fn view_mut(&mut self) -> logit_perturb::Result<DeviceMatrixMut<'_, T>> {
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
            match (inside(i), x.bits() == T::CANARY.bits()) {
                (true, false) => dense.push(x.widen() as f32),
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
