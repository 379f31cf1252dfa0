//! The one custom operation behind both losses: what forward has computed, and the gradient it has saved for backward.

use crate::host::{FLOATS, Rows, wrap};
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, WithDType};
use logit_perturb::cpu::Pass;
use logit_perturb::data::Element;
use logit_perturb::half::{bf16, f16};
use logit_perturb::{MatrixMut, Reduction, Upstream};
use rayon::prelude::*;

/// A loss with everything that a batch brings but its logits.
pub(crate) trait Batch: Send + Sync + 'static {
    /// What the core returns.
    type Output;
    /// The operation's name in candle's error messages.
    const NAME: &'static str;

    fn reduction(&self) -> Reduction;

    /// Whether a row's loss depends on the logits of other rows, as far as the gradient sees.
    fn couples_rows(&self) -> bool;

    fn evaluate(&self, pass: Pass<'_>, upstream: Upstream<'_>) -> Result<Self::Output>;

    /// The reduced loss, and the losses of the rows.
    fn losses(output: &Self::Output) -> (f64, &[f64]);
}

/// Evaluates a batch; its loss is part of the logits' graph where they are part of one.
pub(crate) fn apply<B: Batch>(batch: B, logits: &Tensor, rows: &Rows) -> Result<(Tensor, B::Output)> {
    let (n, c) = rows.shape();
    let by_row = batch.reduction() == Reduction::None;
    let again = by_row && batch.couples_rows();
    let save = logits.track_op() && !again;
    let mut gradient = vec![0.0; if save { n * c } else { 0 }];
    let output = {
        let locked = rows.lock();
        let logits = locked.matrix()?;
        let pass = if save {
            Pass::Into { logits, gradient: MatrixMut::new(&mut gradient, n, c).map_err(wrap)? }
        } else {
            Pass::Forward(logits)
        };
        batch.evaluate(pass, Upstream::default())?
    };
    let (reduced, losses) = B::losses(&output);
    let (losses, shape) =
        if by_row { (losses, Shape::from(n)) } else { (std::slice::from_ref(&reduced), Shape::from(())) };
    let loss = match rows.dtype() {
        DType::F64 => CpuStorage::F64(losses.to_vec()),
        _ => CpuStorage::F32(losses.iter().map(|&x| x as f32).collect()),
    };
    let backward = if again { Backward::Again(batch) } else { Backward::Saved(gradient) };
    let op = LossOp { loss, shape, backward };
    let loss = if logits.track_op() { logits.apply_op1(op)? } else { logits.apply_op1_no_bwd(&op)? };
    Ok((loss, output))
}

enum Backward<B> {
    /// The gradient `[N, C]` for an upstream gradient of 1.
    Saved(Vec<f64>),
    /// Each upstream gradient reaches several rows: the batch, to be evaluated again.
    Again(B),
}

struct LossOp<B> {
    loss: CpuStorage,
    shape: Shape,
    backward: Backward<B>,
}

impl<B: Batch> CustomOp1 for LossOp<B> {
    fn name(&self) -> &'static str {
        B::NAME
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((self.loss.clone(), self.shape.clone()))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let upstream: Vec<f64> = upstream.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?;
        let (n, c) = logits.dims2()?;
        let gradient = match &self.backward {
            Backward::Saved(gradient) => {
                // One upstream gradient for all rows, or one a row.
                let factor = |i: usize| upstream[if upstream.len() == 1 { 0 } else { i / c }];
                rounded(logits.dtype(), (n, c), |i| scale(gradient[i], factor(i)))
            }
            Backward::Again(batch) => {
                let mut gradient = vec![0.0; n * c];
                let rows = Rows::new("logits", logits, &FLOATS)?;
                let locked = rows.lock();
                let into = MatrixMut::new(&mut gradient, n, c).map_err(wrap)?;
                let pass = Pass::Into { logits: locked.matrix()?, gradient: into };
                batch.evaluate(pass, Upstream::Rows(&upstream))?;
                rounded(logits.dtype(), (n, c), |i| gradient[i])
            }
        };
        gradient.map(Some)
    }
}

/// `gradient * upstream`; 0 stays 0, so that no upstream gradient reaches an ignored row or a masked entry.
fn scale(gradient: f64, upstream: f64) -> f64 {
    if gradient == 0.0 { 0.0 } else { gradient * upstream }
}

/// A tensor of the numbers `at(0), at(1), ...`, each rounded once.
fn rounded(dtype: DType, shape: (usize, usize), at: impl Fn(usize) -> f64 + Sync) -> Result<Tensor> {
    fn of<T: Element + WithDType>(shape: (usize, usize), at: impl Fn(usize) -> f64 + Sync) -> Result<Tensor> {
        let numbers: Vec<T> = (0..shape.0 * shape.1).into_par_iter().map(|i| Element::round(at(i))).collect();
        Tensor::from_vec(numbers, shape, &Device::Cpu)
    }
    match dtype {
        DType::F16 => of::<f16>(shape, at),
        DType::BF16 => of::<bf16>(shape, at),
        DType::F32 => of::<f32>(shape, at),
        _ => of::<f64>(shape, at),
    }
}
