//! Borrowed row-major matrices of f16, bf16, f32 or f64 with any row stride. Values widen to f64 on the way in and
//! are rounded once on the way out.

use crate::error::{Error, Result};
use half::{bf16, f16};
use multiversion::multiversion;

/// A floating-point type that logits and gradients may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE half precision.
    F16,
    /// bfloat16.
    BF16,
    /// Single precision.
    F32,
    /// Double precision.
    F64,
}

/// A borrowed slice of floating-point numbers; made with `From` from `&[T]`, `&Vec<T>`, `&[T; N]`.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names say it")]
pub enum Floats<'a> {
    F16(&'a [f16]),
    BF16(&'a [bf16]),
    F32(&'a [f32]),
    F64(&'a [f64]),
}

/// The mutable twin of [`Floats`].
#[derive(Debug)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names say it")]
pub enum FloatsMut<'a> {
    F16(&'a mut [f16]),
    BF16(&'a mut [bf16]),
    F32(&'a mut [f32]),
    F64(&'a mut [f64]),
}

/// Runs the same expression on the slice inside, whatever its type.
macro_rules! each_dtype {
    ($floats:expr, $kind:ident, $data:ident => $body:expr) => {
        match $floats {
            $kind::F16($data) => $body,
            $kind::BF16($data) => $body,
            $kind::F32($data) => $body,
            $kind::F64($data) => $body,
        }
    };
}

/// The types of [`DType`]. Sealed.
pub trait Element: sealed::Sealed + Copy + Send + Sync {
    /// The same number in f64.
    fn widen(self) -> f64;
    /// The nearest number of this type, ties to even: rounded once, which `half`'s own conversion from f64 does not promise.
    fn round(value: f64) -> Self;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! element {
    ($type:ty, $variant:ident, $widen:expr, $round:expr) => {
        impl sealed::Sealed for $type {}
        impl Element for $type {
            fn widen(self) -> f64 {
                ($widen)(self)
            }
            fn round(value: f64) -> Self {
                ($round)(value)
            }
        }
        impl<'a> From<&'a [$type]> for Floats<'a> {
            fn from(data: &'a [$type]) -> Self {
                Floats::$variant(data)
            }
        }
        impl<'a> From<&'a Vec<$type>> for Floats<'a> {
            fn from(data: &'a Vec<$type>) -> Self {
                Floats::$variant(data)
            }
        }
        impl<'a, const N: usize> From<&'a [$type; N]> for Floats<'a> {
            fn from(data: &'a [$type; N]) -> Self {
                Floats::$variant(data)
            }
        }
        impl<'a> From<&'a mut [$type]> for FloatsMut<'a> {
            fn from(data: &'a mut [$type]) -> Self {
                FloatsMut::$variant(data)
            }
        }
        impl<'a> From<&'a mut Vec<$type>> for FloatsMut<'a> {
            fn from(data: &'a mut Vec<$type>) -> Self {
                FloatsMut::$variant(data)
            }
        }
        impl<'a, const N: usize> From<&'a mut [$type; N]> for FloatsMut<'a> {
            fn from(data: &'a mut [$type; N]) -> Self {
                FloatsMut::$variant(data)
            }
        }
    };
}

element!(f16, F16, f16::to_f64, |x| f16::from_f32(round_to_odd(x)));
element!(bf16, BF16, bf16::to_f64, |x| bf16::from_f32(round_to_odd(x)));
element!(f32, F32, f64::from, |x| x as f32);
element!(f64, F64, |x| x, |x| x);

/// Each number as f64.
#[multiversion(targets = "simd")]
pub(super) fn widen<T: Copy + Into<f64>>(from: &[T], to: &mut [f64]) {
    to.iter_mut().zip(from).for_each(|(to, &from)| *to = from.into());
}

/// f64 to f32, rounding to odd: a later rounding to a type of at most 22 bits is then the correct one of the f64
/// value. Rounding to nearest twice, or dropping the low bits as `half`'s own f64 conversion does, is not.
fn round_to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    let back = f64::from(nearest);
    if back == value || !nearest.is_finite() || nearest.to_bits() & 1 == 1 {
        return nearest;
    }
    // The neighbour on the value's other side is odd, and both neighbours enclose the value.
    let away = (back < value) == (value > 0.0);
    f32::from_bits(if away { nearest.to_bits() + 1 } else { nearest.to_bits() - 1 })
}

impl Floats<'_> {
    /// How many numbers there are.
    pub fn len(&self) -> usize {
        each_dtype!(self, Floats, data => data.len())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type of the numbers.
    pub fn dtype(&self) -> DType {
        match self {
            Floats::F16(_) => DType::F16,
            Floats::BF16(_) => DType::BF16,
            Floats::F32(_) => DType::F32,
            Floats::F64(_) => DType::F64,
        }
    }

    /// Number `index`, widened to f64.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Self::len).
    pub fn get(&self, index: usize) -> f64 {
        each_dtype!(self, Floats, data => data[index].widen())
    }

    fn read_into(&self, start: usize, out: &mut [f64]) {
        each_dtype!(self, Floats, data => {
            widen(&data[start..start + out.len()], out);
        })
    }
}

impl FloatsMut<'_> {
    fn as_ref(&self) -> Floats<'_> {
        match self {
            FloatsMut::F16(data) => Floats::F16(data),
            FloatsMut::BF16(data) => Floats::BF16(data),
            FloatsMut::F32(data) => Floats::F32(data),
            FloatsMut::F64(data) => Floats::F64(data),
        }
    }

    /// Widens the first `out.len()` numbers to f64.
    pub(crate) fn read_into(&self, out: &mut [f64]) {
        self.as_ref().read_into(0, out);
    }

    /// Stores `values`, each rounded once, into the first `values.len()` places.
    pub(crate) fn write_from(&mut self, values: &[f64]) {
        each_dtype!(self, FloatsMut, data => {
            for (to, &from) in data.iter_mut().zip(values) {
                *to = Element::round(from);
            }
        })
    }
}

/// A borrowed row-major matrix: `rows` rows of `columns` numbers, the starts of two rows `stride` elements apart.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    data: Floats<'a>,
    rows: usize,
    columns: usize,
    stride: usize,
}

/// The mutable twin of [`Matrix`]. What lies between a row's end and the next row's start is never written.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    data: FloatsMut<'a>,
    rows: usize,
    columns: usize,
    stride: usize,
}

/// Class indices are 32-bit in some formats, and nothing is allocated for more.
pub(crate) const MOST_COLUMNS: usize = i32::MAX as usize;

/// Checks that `rows` rows of `columns`, `stride` apart, lie within `len` elements.
pub(crate) fn check_layout(
    argument: &'static str,
    len: usize,
    rows: usize,
    columns: usize,
    stride: usize,
) -> Result<()> {
    if columns == 0 || columns > MOST_COLUMNS {
        return Err(Error::shape(argument, "columns", columns, format!("at least 1 and at most {MOST_COLUMNS}")));
    }
    if stride < columns {
        return Err(Error::shape(argument, "row stride", stride, format!("at least the {columns} columns")));
    }
    let needed = match rows {
        0 => Some(0),
        _ => (rows - 1).checked_mul(stride).and_then(|x| x.checked_add(columns)),
    };
    match needed {
        Some(needed) if needed <= len => Ok(()),
        _ => Err(Error::shape(
            argument,
            "length",
            len,
            format!("at least (rows - 1) * stride + columns = ({rows} - 1) * {stride} + {columns}"),
        )),
    }
}

impl<'a> Matrix<'a> {
    /// A dense matrix: `data` holds `rows * columns` numbers.
    ///
    /// # Errors
    /// [`Error::Shape`] when the length is not `rows * columns`, or `columns` is 0.
    pub fn new(data: impl Into<Floats<'a>>, rows: usize, columns: usize) -> Result<Self> {
        let data = data.into();
        if rows.checked_mul(columns) != Some(data.len()) {
            return Err(Error::shape("matrix", "length", data.len(), format!("{rows} rows * {columns} columns")));
        }
        Self::strided(data, rows, columns, columns)
    }

    /// A matrix whose rows start `stride` elements apart; `data` may go on behind the last row.
    ///
    /// # Errors
    /// [`Error::Shape`] when `columns` is 0, `stride < columns`, or the last row does not fit.
    pub fn strided(data: impl Into<Floats<'a>>, rows: usize, columns: usize, stride: usize) -> Result<Self> {
        let data = data.into();
        check_layout("matrix", data.len(), rows, columns, stride)?;
        Ok(Self { data, rows, columns, stride })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Elements from one row's start to the next one's.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The type of the numbers.
    pub fn dtype(&self) -> DType {
        self.data.dtype()
    }

    /// One number, widened to f64.
    ///
    /// # Panics
    /// When `row` or `column` is out of range.
    pub fn get(&self, row: usize, column: usize) -> f64 {
        assert!(row < self.rows && column < self.columns, "({row}, {column}) lies outside the matrix");
        self.data.get(row * self.stride + column)
    }

    /// Widens row `row` to f64.
    pub(crate) fn read_row(&self, row: usize, out: &mut [f64]) {
        debug_assert_eq!(out.len(), self.columns);
        self.data.read_into(row * self.stride, out);
    }

    /// A typed error unless the matrix is `rows` x `columns`.
    pub(crate) fn check_shape(&self, argument: &'static str, rows: usize, columns: usize) -> Result<()> {
        if self.rows != rows {
            return Err(Error::shape(argument, "rows", self.rows, rows));
        }
        if self.columns != columns {
            return Err(Error::shape(argument, "columns", self.columns, columns));
        }
        Ok(())
    }
}

impl<'a> MatrixMut<'a> {
    /// A dense matrix: `data` holds `rows * columns` numbers.
    ///
    /// # Errors
    /// As [`Matrix::new`].
    pub fn new(data: impl Into<FloatsMut<'a>>, rows: usize, columns: usize) -> Result<Self> {
        let data = data.into();
        Matrix::new(data.as_ref(), rows, columns)?;
        Ok(Self { data, rows, columns, stride: columns })
    }

    /// A matrix whose rows start `stride` elements apart.
    ///
    /// # Errors
    /// As [`Matrix::strided`].
    pub fn strided(data: impl Into<FloatsMut<'a>>, rows: usize, columns: usize, stride: usize) -> Result<Self> {
        let data = data.into();
        Matrix::strided(data.as_ref(), rows, columns, stride)?;
        Ok(Self { data, rows, columns, stride })
    }

    /// The same matrix, read only.
    pub fn as_ref(&self) -> Matrix<'_> {
        Matrix { data: self.data.as_ref(), rows: self.rows, columns: self.columns, stride: self.stride }
    }

    /// The rows as disjoint slices, each with its gap behind it.
    pub(crate) fn rows_mut(&mut self) -> Vec<FloatsMut<'_>> {
        let (rows, stride) = (self.rows, self.stride);
        each_dtype!(&mut self.data, FloatsMut, data => data.chunks_mut(stride).take(rows).map(Into::into).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The nearest half-precision number by exhaustive search over all finite ones, ties to even.
    fn nearest_by_search(value: f64, candidates: impl Iterator<Item = (u16, f64)>) -> u16 {
        candidates
            .min_by(|a, b| {
                let distance = |x: f64| (x - value).abs();
                distance(a.1).total_cmp(&distance(b.1)).then((a.0 & 1).cmp(&(b.0 & 1)))
            })
            .expect("there are finite numbers")
            .0
    }

    /// Ties of f16 and of bf16, and what lies nearer to one than f32 can tell, on both sides; subnormals; the plain.
    #[test]
    fn halves_are_rounded_once() {
        let mut values = vec![0.0, 0.1, 65504.0, 3.1e-8, 5.9e-8 + 1e-17, 1e-7, 1e-41, 1e-50];
        for tie in [1.0 + 2f64.powi(-11), 1.0 + 3.0 * 2f64.powi(-11), 1.0 + 2f64.powi(-8), 1.0 + 3.0 * 2f64.powi(-8)] {
            for nudge in [0.0, 2f64.powi(-50), -2f64.powi(-50), 2f64.powi(-26), -2f64.powi(-26)] {
                values.push(tie + nudge);
            }
        }
        for value in values.iter().flat_map(|&x| [x, -x]) {
            let sign = if value.is_sign_negative() { 0x8000 } else { 0 };
            let half = (0..0x7c00u16).map(|bits| (bits | sign, f16::from_bits(bits | sign).to_f64()));
            assert_eq!(<f16 as Element>::round(value).to_bits(), nearest_by_search(value, half), "f16 of {value:e}");
            let brain = (0..0x7f80u16).map(|bits| (bits | sign, bf16::from_bits(bits | sign).to_f64()));
            assert_eq!(<bf16 as Element>::round(value).to_bits(), nearest_by_search(value, brain), "bf16 of {value:e}");
        }
        assert!(<f16 as Element>::round(f64::NAN).is_nan());
        assert_eq!(<f16 as Element>::round(1e9), f16::INFINITY);
        assert_eq!(<bf16 as Element>::round(f64::NEG_INFINITY), bf16::NEG_INFINITY);
    }

    #[test]
    fn layouts_that_do_not_fit_are_refused() {
        let data = [0f32; 10];
        assert!(Matrix::strided(&data, 3, 2, 4).is_ok());
        assert!(Matrix::strided(&data, 3, 3, 4).is_err());
        assert!(Matrix::strided(&data, 2, 3, 2).is_err());
        assert!(Matrix::strided(&data, usize::MAX, 2, 4).is_err());
        assert!(Matrix::strided(&data, 1, 0, 4).is_err());
        assert!(Matrix::strided(&data[..0], 0, 2, 4).is_ok());
        assert!(Matrix::new(&data, 3, 3).is_err());
    }
}
