//! What a batch brings beside its logits and labels, on the device or from the host, and the guards under which its addresses are used.

use super::batch::{DeviceLabels, DeviceMatrix, DeviceMatrixMut, DevicePass, check_context};
use super::element::DeviceElement;
use crate::error::{Result, check};
use crate::kernel::{LabelType, Operand};
use cudarc::driver::{CudaContext, CudaStream, CudaView, DevicePtr, DevicePtrMut, SyncOnDrop};

/// A number that the host gives or that lies on the device, `[1]`.
#[derive(Debug)]
#[non_exhaustive]
pub enum DeviceScalar<'a> {
    /// From the host, finite.
    Host(f64),
    /// On the device; used as it is when the kernel runs.
    Device(CudaView<'a, f32>),
}

impl From<f64> for DeviceScalar<'_> {
    fn from(value: f64) -> Self {
        DeviceScalar::Host(value)
    }
}

/// A matrix beside the logits, in f32 or in the logits' own type.
#[derive(Debug)]
#[non_exhaustive]
pub enum DeviceOperand<'a, T> {
    /// f32.
    F32(DeviceMatrix<'a, f32>),
    /// As the logits.
    Same(DeviceMatrix<'a, T>),
}

impl<T: DeviceElement> DeviceOperand<'_, T> {
    /// A typed error unless it is of this shape and context.
    pub(super) fn check(&self, name: &'static str, rows: usize, columns: usize, context: &CudaContext) -> Result<()> {
        match self {
            DeviceOperand::F32(matrix) => matrix.check(name, rows, columns, context),
            DeviceOperand::Same(matrix) => matrix.check(name, rows, columns, context),
        }
    }
}

/// A vector's length and context, by name.
pub(super) fn check_vector<T>(
    name: &'static str,
    data: &CudaView<'_, T>,
    expected: usize,
    context: &CudaContext,
) -> Result<()> {
    check::length(name, data.len(), expected)?;
    check_context(name, data, context)
}

/// Most buffers that one enqueue reads or writes: logits, gradient and targets, nine results, thirteen of a learner, and seven that a batch
/// may bring.
const MOST: usize = 3 + 9 + 13 + 7;

/// Addresses for one enqueue. The guards wait for other streams' work now and record this one's when dropped, as cudarc's event tracking asks.
pub(super) struct Guards<'a> {
    stream: &'a CudaStream,
    held: [Option<SyncOnDrop<'a>>; MOST],
    count: usize,
}

impl<'a> Guards<'a> {
    pub(super) fn new(stream: &'a CudaStream) -> Self {
        Self { stream, held: std::array::from_fn(|_| None), count: 0 }
    }

    fn hold(&mut self, guard: SyncOnDrop<'a>) {
        self.held[self.count] = Some(guard);
        self.count += 1;
    }

    /// The address of what is read.
    pub(super) fn read<T>(&mut self, data: &'a impl DevicePtr<T>) -> u64 {
        let (pointer, guard) = data.device_ptr(self.stream);
        self.hold(guard);
        pointer
    }

    /// The address of what is written.
    pub(super) fn write<T>(&mut self, data: &'a mut impl DevicePtrMut<T>) -> u64 {
        let (pointer, guard) = data.device_ptr_mut(self.stream);
        self.hold(guard);
        pointer
    }

    /// A number of the host, or the address of one on the device.
    pub(super) fn scalar(&mut self, scalar: Option<&'a DeviceScalar<'_>>) -> (Option<f64>, u64) {
        match scalar {
            None => (None, 0),
            Some(DeviceScalar::Host(value)) => (Some(*value), 0),
            Some(DeviceScalar::Device(view)) => (None, self.read(view)),
        }
    }

    /// The address of what is read, `own` (0 for none) where a batch brings nothing in its place.
    pub(super) fn read_or<T>(&mut self, own: u64, data: Option<&'a CudaView<'_, T>>) -> u64 {
        data.map_or(own, |data| self.read(data))
    }

    pub(super) fn operand<T: DeviceElement>(&mut self, operand: Option<&'a DeviceOperand<'_, T>>) -> Operand {
        match operand {
            None => Operand::default(),
            Some(DeviceOperand::F32(matrix)) => self.matrix(matrix, true),
            Some(DeviceOperand::Same(matrix)) => self.matrix(matrix, T::KERNEL_DTYPE == crate::kernel::DType::F32),
        }
    }

    fn matrix<T>(&mut self, matrix: &'a DeviceMatrix<'_, T>, wide: bool) -> Operand {
        Operand { data: self.read(&matrix.data), stride: matrix.stride as i64, wide: wide.into(), padding: 0 }
    }

    /// The address of the labels and how they are stored.
    pub(super) fn labels(&mut self, labels: &'a DeviceLabels<'_>) -> (u64, LabelType) {
        match labels {
            DeviceLabels::I32(labels) => (self.read(labels), LabelType::I32),
            DeviceLabels::I64(labels) => (self.read(labels), LabelType::I64),
            DeviceLabels::U32(labels) => (self.read(labels), LabelType::U32),
        }
    }

    /// Addresses and strides of logits and gradient, 0 for none.
    pub(super) fn pass<T>(&mut self, pass: &'a mut DevicePass<'_, T>) -> PassAddresses {
        let of = |(logits, logits_stride), (gradient, gradient_stride)| PassAddresses {
            logits,
            logits_stride,
            gradient,
            gradient_stride,
        };
        match pass {
            DevicePass::Forward(logits) => of((self.read(&logits.data), logits.stride), (0, 0)),
            DevicePass::Into { logits, gradient } => {
                let DeviceMatrixMut { data, stride, .. } = gradient;
                of((self.read(&logits.data), logits.stride), (self.write(data), *stride))
            }
            DevicePass::InPlace(matrix) => {
                let DeviceMatrixMut { data, stride, .. } = matrix;
                let place = (self.write(data), *stride);
                of(place, place)
            }
        }
    }
}

/// Where logits and gradient lie.
#[derive(Clone, Copy)]
pub(super) struct PassAddresses {
    pub(super) logits: u64,
    pub(super) logits_stride: usize,
    pub(super) gradient: u64,
    pub(super) gradient_stride: usize,
}
