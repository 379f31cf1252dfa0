//! Multi-label targets in the formats that data loaders produce, and the mask of unknown entries (SPEC 4).

use super::matrix::{Matrix, check_layout, widen};
use crate::error::{Error, Result};
use multiversion::multiversion;

/// Targets `[N, C]` of a multi-label batch, each in `[0, 1]`. In the signed and the float formats -1 marks an unknown
/// entry, which counts as masked. All formats give the same numbers.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum BinaryTargets<'a> {
    /// Soft or hard targets as floating-point numbers.
    Dense(Matrix<'a>),
    /// Hard targets 0, 1 or -1 (unknown), `stride` elements a row.
    I8 {
        /// The targets.
        data: &'a [i8],
        /// Elements from one row's start to the next one's.
        stride: usize,
    },
    /// Hard targets 0 or 1, `stride` elements a row.
    U8 {
        /// The targets.
        data: &'a [u8],
        /// Elements from one row's start to the next one's.
        stride: usize,
    },
    /// Hard targets as packed bits: bit `c % 32` of word `c / 32` of a row, `stride` words a row. Bits past C are ignored.
    Bits {
        /// The words.
        words: &'a [u32],
        /// Words from one row's start to the next one's.
        stride: usize,
    },
    /// The positive classes of each row as a list: row `i` has `indices[offsets[i]..offsets[i + 1]]`. Duplicates count once.
    Csr {
        /// `N + 1` ascending positions in `indices`.
        offsets: &'a [i32],
        /// Class indices, each in `0..C`.
        indices: &'a [i32],
    },
}

impl<'a> From<Matrix<'a>> for BinaryTargets<'a> {
    fn from(matrix: Matrix<'a>) -> Self {
        BinaryTargets::Dense(matrix)
    }
}

/// Which entries `[N, C]` are known. A masked entry contributes nothing, whatever its logit, target or weight.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Mask<'a> {
    /// A byte an entry: 0 masks it, anything else keeps it; `stride` elements a row.
    Bytes {
        /// The bytes.
        data: &'a [u8],
        /// Elements from one row's start to the next one's.
        stride: usize,
    },
    /// A bit an entry, laid out as [`BinaryTargets::Bits`]: 0 masks it.
    Bits {
        /// The words.
        words: &'a [u32],
        /// Words from one row's start to the next one's.
        stride: usize,
    },
}

fn bit(words: &[u32], column: usize) -> bool {
    words[column / 32] >> (column % 32) & 1 == 1
}

impl Mask<'_> {
    /// A typed error unless the mask covers `rows` x `columns`.
    pub(crate) fn check_shape(&self, rows: usize, columns: usize) -> Result<()> {
        match *self {
            Mask::Bytes { data, stride } => check_layout("mask", data.len(), rows, columns, stride),
            Mask::Bits { words, stride } => check_layout("mask", words.len(), rows, columns.div_ceil(32), stride),
        }
    }

    fn apply(&self, row: usize, known: &mut [bool]) {
        match *self {
            Mask::Bytes { data, stride } => {
                known.iter_mut().zip(&data[row * stride..]).for_each(|(known, &byte)| *known &= byte != 0);
            }
            Mask::Bits { words, stride } => {
                known.iter_mut().enumerate().for_each(|(c, known)| *known &= bit(&words[row * stride..], c));
            }
        }
    }
}

impl BinaryTargets<'_> {
    /// A typed error unless the targets cover `rows` x `columns`.
    pub(crate) fn check_shape(&self, rows: usize, columns: usize) -> Result<()> {
        match *self {
            BinaryTargets::Dense(matrix) => matrix.check_shape("targets", rows, columns),
            BinaryTargets::I8 { data, stride } => check_layout("targets", data.len(), rows, columns, stride),
            BinaryTargets::U8 { data, stride } => check_layout("targets", data.len(), rows, columns, stride),
            BinaryTargets::Bits { words, stride } => {
                check_layout("targets", words.len(), rows, columns.div_ceil(32), stride)
            }
            BinaryTargets::Csr { offsets, .. } if rows.checked_add(1) != Some(offsets.len()) => {
                Err(Error::shape("targets.offsets", "length", offsets.len(), format!("rows + 1 = {rows} + 1")))
            }
            BinaryTargets::Csr { .. } => Ok(()),
        }
    }

    /// Decodes row `row` into targets and whether each entry is known.
    ///
    /// # Errors
    /// [`Error::Target`] for a known entry outside `[0, 1]`, a class index outside `0..C`, or falling offsets.
    pub(crate) fn read_row(
        &self,
        row: usize,
        mask: Option<Mask<'_>>,
        targets: &mut [f64],
        known: &mut [bool],
    ) -> Result<()> {
        known.fill(true);
        if let Some(mask) = mask {
            mask.apply(row, known);
        }
        match *self {
            BinaryTargets::Dense(matrix) => matrix.read_row(row, targets),
            BinaryTargets::I8 { data, stride } => widen(&data[row * stride..], targets),
            BinaryTargets::U8 { data, stride } => widen(&data[row * stride..], targets),
            BinaryTargets::Bits { words, stride } => {
                let words = &words[row * stride..];
                targets.iter_mut().enumerate().for_each(|(c, to)| *to = f64::from(u8::from(bit(words, c))));
            }
            BinaryTargets::Csr { offsets, indices } => {
                targets.fill(0.0);
                for &class in csr_row(offsets, indices, row)? {
                    let place = usize::try_from(class).ok().and_then(|class| targets.get_mut(class));
                    let Some(place) = place else {
                        let classes = known.len();
                        return Err(Error::Target {
                            row,
                            problem: format!("class index {class}, must be in 0..{classes}"),
                        });
                    };
                    *place = 1.0;
                }
            }
        }
        let signed = !matches!(self, BinaryTargets::U8 { .. });
        if settle(targets, known, signed) {
            return Ok(());
        }
        let bad = |target: &f64| !(0.0..=1.0).contains(target);
        let class = targets.iter().position(bad).expect("one of the row's targets is out of range");
        let unknown = if signed { " or -1 (unknown)" } else { "" };
        Err(Error::Target { row, problem: format!("class {class} is {}, must be in [0, 1]{unknown}", targets[class]) })
    }
}

/// Masks unknown targets, makes masked ones 0, and says whether all are in `[0, 1]`; without a branch, so that it vectorises.
#[multiversion(targets = "simd")]
fn settle(targets: &mut [f64], known: &mut [bool], signed: bool) -> bool {
    targets.iter_mut().zip(known).fold(true, |fine, (target, known)| {
        *known &= !signed | (*target != -1.0);
        *target = if *known { *target } else { 0.0 };
        fine & (*target >= 0.0) & (*target <= 1.0)
    })
}

fn csr_row<'a>(offsets: &[i32], indices: &'a [i32], row: usize) -> Result<&'a [i32]> {
    let (from, to) = (offsets[row], offsets[row + 1]);
    let range = usize::try_from(from).ok().zip(usize::try_from(to).ok());
    range.and_then(|(from, to)| indices.get(from..to)).ok_or_else(|| Error::Target {
        row,
        problem: format!("offsets {from}..{to}, must ascend within 0..={}", indices.len()),
    })
}
