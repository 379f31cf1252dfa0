//! Where an operation's logits and gradient lie in the emulated device's memory.

use crate::elements::{download, upload};
use crate::memory::{Buffer, Layout, Memory};
use crate::operation::{Gradient, Rows};
use logit_perturb::kernel::{DType, DevicePointer};

/// The buffers of logits and gradient, both watched.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    dtype: DType,
    rows: Rows,
    to: Gradient,
    pub(crate) logits: Buffer<u8>,
    /// Where the gradient has a buffer of its own.
    pub(crate) gradient: Option<Buffer<u8>>,
}

impl Place {
    /// Lays out logits `[N, classes]`, which only a gradient in their place may write over.
    pub(crate) fn new(
        memory: &mut Memory,
        dtype: DType,
        logits: &[f32],
        classes: usize,
        rows: Rows,
        to: Gradient,
    ) -> Self {
        let count = logits.len() / classes;
        let layout = |at: Rows| Layout::dense(count.max(1), classes).stride(at.stride).offset(at.offset);
        let logits = upload(memory, dtype, (count > 0).then_some(logits), layout(rows));
        memory.watch(logits);
        let gradient = match to {
            Gradient::Into(at) => Some(upload(memory, dtype, None, layout(at))),
            Gradient::None | Gradient::InPlace => None,
        };
        if let Some(gradient) = gradient {
            memory.watch(gradient);
        }
        if to != Gradient::InPlace {
            memory.read_only(logits);
        }
        Self { dtype, rows, to, logits, gradient }
    }

    /// 0 for the loss only.
    pub(crate) fn gradient_address(&self) -> DevicePointer {
        self.written().map_or(0, |buffer| buffer.address())
    }

    pub(crate) fn gradient_stride(&self) -> usize {
        match self.to {
            Gradient::Into(at) => at.stride,
            Gradient::None | Gradient::InPlace => self.rows.stride,
        }
    }

    /// The gradient without gaps; empty for the loss only.
    pub(crate) fn download(&self, memory: &Memory) -> Vec<f32> {
        self.written().map_or_else(Vec::new, |buffer| download(memory, self.dtype, buffer))
    }

    fn written(&self) -> Option<Buffer<u8>> {
        if self.to == Gradient::InPlace { Some(self.logits) } else { self.gradient }
    }
}
