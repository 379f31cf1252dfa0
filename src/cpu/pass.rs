//! Where logits are read and where the gradient goes, and the one parallel loop over rows.

use crate::data::{Matrix, MatrixMut};
use crate::error::{Error, Result, check};
use crate::loss::{Reduction, Upstream};
use rayon::prelude::*;

/// What is computed, and into which memory. The gradient is rounded once, to the type of the buffer it goes to; what lies behind a
/// row's last column is never touched.
#[derive(Debug)]
#[non_exhaustive]
pub enum Pass<'a> {
    /// The loss only.
    Forward(Matrix<'a>),
    /// Loss and gradient, the gradient into another matrix of the same shape and of any dtype and stride.
    Into {
        /// Logits `[N, C]`.
        logits: Matrix<'a>,
        /// Gradient `[N, C]`, written whole.
        gradient: MatrixMut<'a>,
    },
    /// Loss and gradient, the gradient in place of the logits.
    InPlace(MatrixMut<'a>),
}

impl<'a> From<Matrix<'a>> for Pass<'a> {
    fn from(logits: Matrix<'a>) -> Self {
        Pass::Forward(logits)
    }
}

impl Pass<'_> {
    pub(super) fn logits(&self) -> Matrix<'_> {
        match self {
            Pass::Forward(logits) | Pass::Into { logits, .. } => *logits,
            Pass::InPlace(matrix) => matrix.as_ref(),
        }
    }

    pub(super) fn wants_gradient(&self) -> bool {
        !matches!(self, Pass::Forward(_))
    }

    /// The shape `(N, C)`, once the buffers agree with each other, with the problem's C and with the upstream gradient.
    pub(super) fn check(
        &self,
        classes: Option<usize>,
        reduction: Reduction,
        upstream: Upstream<'_>,
    ) -> Result<(usize, usize)> {
        let logits = self.logits();
        let (rows, columns) = (logits.rows(), logits.columns());
        if let Some(classes) = classes {
            logits.check_shape("logits", rows, classes)?;
        }
        if let Pass::Into { gradient, .. } = self {
            gradient.as_ref().check_shape("gradient", rows, columns)?;
        }
        if let Upstream::Rows(upstream) = upstream {
            if reduction != Reduction::None {
                let reason = "a reduced loss is one number, and so is its gradient";
                return Err(Error::conflict("upstream gradient per row", "with a reduced loss", reason));
            }
            check::length("upstream", upstream.len(), rows)?;
        }
        Ok((rows, columns))
    }

    /// Runs `row(block, i, u_i, gradient_i)` for every row: in row order within a block of rows, the blocks in parallel. `begin` makes what the
    /// rows of a block leave, which is returned block by block, and the buffers that they share. Which rows a block has depends on the shape
    /// alone, so that sums over blocks have the same bits whatever the threads do. A gradient that nobody asked for is dropped.
    pub(super) fn fold_rows<B: Send, S: Send>(
        self,
        begin: impl Fn() -> (B, S) + Sync,
        row: impl Fn(&mut (B, S), usize, &[f64], &mut [f64]) + Sync,
    ) -> Vec<B> {
        let (n, columns) = (self.logits().rows(), self.logits().columns());
        match self {
            Pass::Forward(logits) => in_blocks((0..n).into_par_iter(), columns, begin, |block, i, _, u, g| {
                logits.read_row(i, u);
                row(block, i, u, g);
            }),
            Pass::Into { logits, mut gradient } => {
                in_blocks(gradient.rows_mut().into_par_iter(), columns, begin, |block, i, mut to, u, g| {
                    logits.read_row(i, u);
                    row(block, i, u, g);
                    to.write_from(g);
                })
            }
            Pass::InPlace(mut matrix) => {
                in_blocks(matrix.rows_mut().into_par_iter(), columns, begin, |block, i, mut to, u, g| {
                    to.read_into(u);
                    row(block, i, u, g);
                    to.write_from(g);
                })
            }
        }
    }
}

/// Runs `one(block, i, row_i, u, g)` for each of `rows`, where `u` and `g` are a block's to write, `[C]` each.
fn in_blocks<T: Send, B: Send, S: Send>(
    rows: impl IndexedParallelIterator<Item = T>,
    columns: usize,
    begin: impl Fn() -> (B, S) + Sync,
    one: impl Fn(&mut (B, S), usize, T, &mut [f64], &mut [f64]) + Sync,
) -> Vec<B> {
    let size = (ENTRIES / columns).max(rows.len().div_ceil(BLOCKS)).max(1);
    let begin = || (begin(), vec![0.0; columns], vec![0.0; columns]);
    let next = |(mut block, mut u, mut g): (_, Vec<f64>, Vec<f64>), (i, row)| {
        one(&mut block, i, row, &mut u, &mut g);
        (block, u, g)
    };
    rows.enumerate().fold_chunks(size, begin, next).map(|((block, _), ..)| block).collect()
}

/// Entries of a block, about, where rows are shorter and the batch is small: enough to be worth its buffers and its turn.
const ENTRIES: usize = 2048;
/// The most blocks of a batch, all of which are kept until their sums by class are added up: enough for the cores.
const BLOCKS: usize = 128;

/// A gradient times the upstream gradient. 0 stays 0, so that no upstream gradient reaches what a mask, a weight of 0 or a masked class took
/// out.
pub(super) fn times_upstream(gradient: f64, upstream: f64) -> f64 {
    if gradient == 0.0 { 0.0 } else { gradient * upstream }
}

/// `g_i`.
pub(super) fn upstream_at(upstream: Upstream<'_>, row: usize) -> f64 {
    match upstream {
        Upstream::Scalar(g) => g,
        Upstream::Rows(g) => g[row],
    }
}
