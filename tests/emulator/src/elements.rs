//! Numbers in the emulated device's memory, in the type that logits have there.

use crate::memory::{Buffer, Layout, Memory};
use crate::operation::Beside;
use bytemuck::Pod;
use logit_perturb::half::{bf16, f16};
use logit_perturb::kernel::{DType, Operand};

/// Rows of numbers in an element type, as bytes whose elements are counted as wholes; poisoned where there are none.
pub(crate) fn upload(memory: &mut Memory, dtype: DType, numbers: Option<&[f32]>, layout: Layout) -> Buffer<u8> {
    match dtype {
        DType::F32 => rows(memory, numbers.map(<[f32]>::to_vec), layout),
        DType::F16 => {
            rows::<u16>(memory, numbers.map(|x| x.iter().map(|&x| f16::from_f32(x).to_bits()).collect()), layout)
        }
        DType::BF16 => {
            rows::<u16>(memory, numbers.map(|x| x.iter().map(|&x| bf16::from_f32(x).to_bits()).collect()), layout)
        }
    }
}

fn rows<T: Pod>(memory: &mut Memory, numbers: Option<Vec<T>>, layout: Layout) -> Buffer<u8> {
    let buffer = match numbers {
        Some(numbers) => memory.upload_rows(&numbers, layout),
        None => memory.poisoned_rows::<T>(layout),
    };
    buffer.bytes()
}

/// What a buffer holds, as f32.
pub(crate) fn download(memory: &Memory, dtype: DType, buffer: Buffer<u8>) -> Vec<f32> {
    let bytes = memory.download(buffer);
    let two = || bytes.as_chunks::<2>().0.iter();
    match dtype {
        DType::F32 => bytes.as_chunks::<4>().0.iter().map(|x| f32::from_ne_bytes(*x)).collect(),
        DType::F16 => two().map(|x| f16::from_ne_bytes(*x).to_f32()).collect(),
        DType::BF16 => two().map(|x| bf16::from_ne_bytes(*x).to_f32()).collect(),
    }
}

/// A read-only matrix beside the logits.
pub(crate) fn upload_operand(
    memory: &mut Memory,
    dtype: DType,
    beside: Beside<'_>,
    rows: usize,
    columns: usize,
) -> Operand {
    let wide = beside.wide || dtype == DType::F32;
    let layout = Layout::dense(rows, columns).stride(beside.stride.max(columns));
    let numbers = (!beside.data.is_empty()).then_some(beside.data);
    let buffer = upload(memory, if wide { DType::F32 } else { dtype }, numbers, layout);
    memory.read_only(buffer);
    Operand { data: buffer.address(), stride: beside.stride as i64, wide: wide.into(), padding: 0 }
}
