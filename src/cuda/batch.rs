//! What an enqueue takes: views of device memory that say their shape.

use crate::data::check_layout;
use crate::error::{Error, Result};
use cudarc::driver::{CudaContext, CudaView, CudaViewMut, DeviceSlice};

/// Logits on the device: `rows` rows of `columns`, `stride` elements apart.
#[derive(Debug)]
pub struct DeviceMatrix<'a, T> {
    pub(super) data: CudaView<'a, T>,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) stride: usize,
}

/// The mutable twin of [`DeviceMatrix`]. What lies between a row's end and the next row's start is never written.
#[derive(Debug)]
pub struct DeviceMatrixMut<'a, T> {
    pub(super) data: CudaViewMut<'a, T>,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) stride: usize,
}

impl<'a, T> DeviceMatrix<'a, T> {
    /// A matrix whose rows start `stride` elements apart; `stride = columns` for a dense one.
    ///
    /// # Errors
    /// [`Error::Shape`] when `columns` is 0, `stride < columns`, or the last row does not fit.
    pub fn new(data: CudaView<'a, T>, rows: usize, columns: usize, stride: usize) -> Result<Self> {
        check_layout("matrix", data.len(), rows, columns, stride)?;
        Ok(Self { data, rows, columns, stride })
    }
}

impl<T> DeviceMatrix<'_, T> {
    /// A typed error unless it is of this shape and context.
    pub(super) fn check(&self, name: &'static str, rows: usize, columns: usize, context: &CudaContext) -> Result<()> {
        if self.rows != rows {
            return Err(Error::shape(name, "rows", self.rows, rows));
        }
        if self.columns != columns {
            return Err(Error::shape(name, "columns", self.columns, columns));
        }
        check_context(name, &self.data, context)
    }
}

impl<'a, T> DeviceMatrixMut<'a, T> {
    /// A matrix whose rows start `stride` elements apart; `stride = columns` for a dense one.
    ///
    /// # Errors
    /// As [`DeviceMatrix::new`].
    pub fn new(data: CudaViewMut<'a, T>, rows: usize, columns: usize, stride: usize) -> Result<Self> {
        check_layout("matrix", data.len(), rows, columns, stride)?;
        Ok(Self { data, rows, columns, stride })
    }
}

/// What is computed, and into which device memory; the twin of [`cpu::Pass`](crate::cpu::Pass).
#[derive(Debug)]
#[non_exhaustive]
pub enum DevicePass<'a, T> {
    /// The loss only.
    Forward(DeviceMatrix<'a, T>),
    /// Loss and gradient, the gradient into another matrix of the same shape.
    Into {
        /// Logits `[N, C]`.
        logits: DeviceMatrix<'a, T>,
        /// Gradient `[N, C]`, written whole.
        gradient: DeviceMatrixMut<'a, T>,
    },
    /// Loss and gradient, the gradient in place of the logits.
    InPlace(DeviceMatrixMut<'a, T>),
}

impl<T> DevicePass<'_, T> {
    /// A typed error unless all buffers lie in this context.
    pub(super) fn check_context(&self, context: &CudaContext) -> Result<()> {
        match self {
            DevicePass::Forward(logits) => check_context("logits", &logits.data, context),
            DevicePass::InPlace(logits) => check_context("logits", &logits.data, context),
            DevicePass::Into { logits, gradient } => {
                check_context("logits", &logits.data, context)?;
                check_context("gradient", &gradient.data, context)
            }
        }
    }

    /// `(N, C)`, once logits and gradient agree.
    pub(super) fn shape(&self) -> Result<(usize, usize)> {
        match self {
            DevicePass::Forward(logits) => Ok((logits.rows, logits.columns)),
            DevicePass::InPlace(logits) => Ok((logits.rows, logits.columns)),
            DevicePass::Into { logits, gradient } => {
                if gradient.rows != logits.rows {
                    return Err(Error::shape("gradient", "rows", gradient.rows, logits.rows));
                }
                if gradient.columns != logits.columns {
                    return Err(Error::shape("gradient", "columns", gradient.columns, logits.columns));
                }
                Ok((logits.rows, logits.columns))
            }
        }
    }
}

/// A typed error unless a buffer lies in this context: another's addresses mean nothing here.
pub(super) fn check_context<T>(
    argument: &'static str,
    data: &impl DeviceSlice<T>,
    context: &CudaContext,
) -> Result<()> {
    if **data.stream().context() == *context {
        return Ok(());
    }
    Err(Error::conflict(argument, "with this operation", "its memory belongs to another CUDA context"))
}

/// Class labels `[N]` on the device.
#[derive(Debug)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names say it")]
pub enum DeviceLabels<'a> {
    I32(CudaView<'a, i32>),
    I64(CudaView<'a, i64>),
    U32(CudaView<'a, u32>),
}

impl DeviceLabels<'_> {
    /// How many labels there are.
    pub fn len(&self) -> usize {
        match self {
            DeviceLabels::I32(labels) => labels.len(),
            DeviceLabels::I64(labels) => labels.len(),
            DeviceLabels::U32(labels) => labels.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A typed error unless the labels lie in this context.
    pub(super) fn check_context(&self, context: &CudaContext) -> Result<()> {
        match self {
            DeviceLabels::I32(labels) => check_context("labels", labels, context),
            DeviceLabels::I64(labels) => check_context("labels", labels, context),
            DeviceLabels::U32(labels) => check_context("labels", labels, context),
        }
    }
}
