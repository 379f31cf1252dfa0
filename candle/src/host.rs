//! Candle tensors as the host memory that the core reads: checked by name, in place where their strides allow it.

use candle_core::{CpuStorage, DType, DeviceLocation, Layout, Result, Storage, StorageRef, Tensor};
use logit_perturb::{Error, Floats, Matrix};

/// The dtypes of logits, and of every other tensor of reals.
pub(crate) const FLOATS: [DType; 4] = [DType::F16, DType::BF16, DType::F32, DType::F64];

/// The core's error as candle's; its message stays as it is.
pub(crate) fn wrap(error: Error) -> candle_core::Error {
    candle_core::Error::wrap(error)
}

fn value(argument: String, value: impl std::fmt::Debug, allowed: impl Into<String>) -> candle_core::Error {
    wrap(Error::Value { argument: argument.into(), value: format!("{value:?}"), allowed: allowed.into().into() })
}

fn shape(argument: &'static str, what: &'static str, actual: usize, allowed: impl ToString) -> candle_core::Error {
    wrap(Error::Shape { argument: argument.into(), what, actual, allowed: allowed.to_string() })
}

fn check(name: &'static str, tensor: &Tensor, dtypes: &[DType]) -> Result<()> {
    check_device(name, tensor.device().location())?;
    if !dtypes.contains(&tensor.dtype()) {
        let names: Vec<&str> = dtypes.iter().map(DType::as_str).collect();
        return Err(value(format!("{name}.dtype"), tensor.dtype(), format!("one of {}", names.join(", "))));
    }
    Ok(())
}

fn check_device(name: &'static str, location: DeviceLocation) -> Result<()> {
    match location {
        DeviceLocation::Cpu => Ok(()),
        other => Err(value(format!("{name}.device"), other, "Cpu, the only device supported")),
    }
}

/// The numbers of a tensor `[N]`, widened to `T`.
pub(crate) fn vector<T: candle_core::WithDType>(
    name: &'static str,
    tensor: &Tensor,
    dtypes: &[DType],
) -> Result<Vec<T>> {
    check(name, tensor, dtypes)?;
    if tensor.rank() != 1 {
        return Err(shape(name, "rank", tensor.rank(), "1, [N]"));
    }
    tensor.to_dtype(T::DTYPE)?.to_vec1()
}

/// A tensor `[N, C]` whose rows can be read in place: its columns lie side by side, its rows do not overlap.
pub(crate) struct Rows(Tensor);

impl Rows {
    /// Checks the tensor, and copies it where it cannot be read in place.
    pub(crate) fn new(name: &'static str, tensor: &Tensor, dtypes: &[DType]) -> Result<Self> {
        check(name, tensor, dtypes)?;
        let &[rows, columns] = tensor.dims() else {
            return Err(shape(name, "rank", tensor.rank(), "2, [N, C]"));
        };
        if columns == 0 {
            return Err(shape(name, "columns", 0, "at least 1"));
        }
        let in_place = (columns == 1 || tensor.stride()[1] == 1) && (rows <= 1 || tensor.stride()[0] >= columns);
        Ok(Self(if in_place { tensor.clone() } else { tensor.force_contiguous()? }))
    }

    /// As [`new`](Self::new), of the shape of the logits.
    pub(crate) fn like(logits: &Rows, name: &'static str, tensor: &Tensor, dtypes: &[DType]) -> Result<Self> {
        let rows = Self::new(name, tensor, dtypes)?;
        let ((n, c), (expected_n, expected_c)) = (rows.shape(), logits.shape());
        if n != expected_n {
            return Err(shape(name, "rows", n, expected_n));
        }
        if c != expected_c {
            return Err(shape(name, "columns", c, expected_c));
        }
        Ok(rows)
    }

    /// `(N, C)`.
    pub(crate) fn shape(&self) -> (usize, usize) {
        (self.0.dims()[0], self.0.dims()[1])
    }

    pub(crate) fn dtype(&self) -> DType {
        self.0.dtype()
    }

    /// The same numbers in another dtype.
    pub(crate) fn to_dtype(&self, dtype: DType) -> Result<Self> {
        self.0.to_dtype(dtype).map(Self)
    }

    /// Holds the storage for reading.
    pub(crate) fn lock(&self) -> Locked<'_> {
        let (storage, layout) = self.0.storage_and_layout();
        Locked { storage, layout }
    }
}

/// [`Rows`] while they are read.
pub(crate) struct Locked<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl Locked<'_> {
    /// Elements from one row's start to the next one's; the layout's own says nothing of a single row.
    fn stride(&self) -> usize {
        self.layout.stride()[0].max(self.layout.dims()[1])
    }

    /// Real numbers.
    pub(crate) fn matrix(&self) -> Result<Matrix<'_>> {
        let floats = match &*self.storage {
            Storage::Cpu(CpuStorage::F16(data)) => Floats::from(from(data, self.layout)),
            Storage::Cpu(CpuStorage::BF16(data)) => Floats::from(from(data, self.layout)),
            Storage::Cpu(CpuStorage::F32(data)) => Floats::from(from(data, self.layout)),
            Storage::Cpu(CpuStorage::F64(data)) => Floats::from(from(data, self.layout)),
            other => return Err(candle_core::Error::UnsupportedDTypeForOp(other.dtype(), "matrix")),
        };
        Matrix::strided(floats, self.layout.dims()[0], self.layout.dims()[1], self.stride()).map_err(wrap)
    }

    /// Bytes, and how many lie from one row's start to the next one's.
    pub(crate) fn bytes(&self) -> Result<(&[u8], usize)> {
        match &*self.storage {
            Storage::Cpu(CpuStorage::U8(data)) => Ok((from(data, self.layout), self.stride())),
            other => Err(candle_core::Error::UnsupportedDTypeForOp(other.dtype(), "bytes")),
        }
    }
}

/// The elements from the layout's start on; none where that lies behind the last one, as it may for no rows.
fn from<'a, T>(data: &'a [T], layout: &Layout) -> &'a [T] {
    data.get(layout.start_offset()..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without a GPU no tensor of one can be made: the check alone is tried.
    #[test]
    fn other_devices_are_refused() {
        assert!(check_device("logits", DeviceLocation::Cpu).is_ok());
        let error = check_device("logits", DeviceLocation::Cuda { gpu_id: 1 }).unwrap_err().to_string();
        let message = "`logits.device` is Cuda { gpu_id: 1 }, must be Cpu, the only device supported";
        assert_eq!(error.lines().next(), Some(message));
    }
}
