//! Class labels of a batch, in the integer types that frameworks produce.

use crate::error::{Error, Result};

/// One class label a row. Labels widen to i64; a row whose label equals `ignore_index` is ignored.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names say it")]
pub enum Labels<'a> {
    I32(&'a [i32]),
    I64(&'a [i64]),
    U32(&'a [u32]),
}

macro_rules! from_slice {
    ($type:ty, $variant:ident) => {
        impl<'a> From<&'a [$type]> for Labels<'a> {
            fn from(data: &'a [$type]) -> Self {
                Labels::$variant(data)
            }
        }
        impl<'a> From<&'a Vec<$type>> for Labels<'a> {
            fn from(data: &'a Vec<$type>) -> Self {
                Labels::$variant(data)
            }
        }
        impl<'a, const N: usize> From<&'a [$type; N]> for Labels<'a> {
            fn from(data: &'a [$type; N]) -> Self {
                Labels::$variant(data)
            }
        }
    };
}
from_slice!(i32, I32);
from_slice!(i64, I64);
from_slice!(u32, U32);

impl Labels<'_> {
    /// How many labels there are.
    pub fn len(&self) -> usize {
        match self {
            Labels::I32(data) => data.len(),
            Labels::I64(data) => data.len(),
            Labels::U32(data) => data.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The label of row `row`.
    ///
    /// # Panics
    /// When `row` is not below [`len`](Self::len).
    pub fn get(&self, row: usize) -> i64 {
        match self {
            Labels::I32(data) => data[row].into(),
            Labels::I64(data) => data[row],
            Labels::U32(data) => data[row].into(),
        }
    }

    /// The class of each row, `None` where the label is `ignore_index`.
    ///
    /// # Errors
    /// [`Error::Label`] when a label is neither in `0..classes` nor `ignore_index`.
    pub fn classes(&self, classes: usize, ignore_index: i64) -> Result<Vec<Option<usize>>> {
        let (mut first, mut count) = (None, 0);
        let found = (0..self.len())
            .map(|row| {
                let label = self.get(row);
                match usize::try_from(label) {
                    _ if label == ignore_index => None,
                    Ok(class) if class < classes => Some(class),
                    _ => {
                        count += 1;
                        first.get_or_insert((row, label));
                        None
                    }
                }
            })
            .collect();
        match first {
            None => Ok(found),
            Some((row, label)) => Err(Error::Label { row, label, classes, count }),
        }
    }
}
