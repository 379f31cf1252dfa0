//! Tensors of a case file, widened: floating-point numbers to f64, integers to i64.

use crate::CaseError;
use half::{bf16, f16};
use logit_perturb::DType;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// A tensor and its shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its numbers, row-major.
    pub values: Values,
}

/// The numbers of a tensor, widened.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Floating-point numbers, and the type they had in the file.
    Float(DType, Vec<f64>),
    /// Integers.
    Int(Vec<i64>),
}

impl Tensor {
    /// An f64 tensor.
    pub fn float(shape: impl Into<Vec<usize>>, data: Vec<f64>) -> Self {
        Self { shape: shape.into(), values: Values::Float(DType::F64, data) }
    }

    /// An integer tensor.
    pub fn int<T: Into<i64>>(shape: impl Into<Vec<usize>>, data: impl IntoIterator<Item = T>) -> Self {
        Self { shape: shape.into(), values: Values::Int(data.into_iter().map(Into::into).collect()) }
    }

    /// Reads a tensor of a file.
    pub(crate) fn read(name: &str, view: &TensorView<'_>) -> Result<Self, CaseError> {
        let bytes = view.data();
        macro_rules! ints {
            ($type:ty) => {
                Values::Int(numbers(bytes, <$type>::from_le_bytes).map(i64::from).collect())
            };
        }
        macro_rules! floats {
            ($dtype:ident, $type:ty) => {
                Values::Float(DType::$dtype, numbers(bytes, <$type>::from_le_bytes).map(f64::from).collect())
            };
        }
        let values = match view.dtype() {
            Dtype::I8 => ints!(i8),
            Dtype::U8 => ints!(u8),
            Dtype::I32 => ints!(i32),
            Dtype::U32 => ints!(u32),
            Dtype::I64 => ints!(i64),
            Dtype::F16 => floats!(F16, f16),
            Dtype::BF16 => floats!(BF16, bf16),
            Dtype::F32 => floats!(F32, f32),
            Dtype::F64 => floats!(F64, f64),
            other => return Err(CaseError::tensor(name, format!("has type {other:?}, which no case uses"))),
        };
        Ok(Self { shape: view.shape().to_vec(), values })
    }

    /// The numbers as f64, whatever they were.
    pub fn to_f64(&self) -> Vec<f64> {
        match &self.values {
            Values::Float(_, data) => data.clone(),
            Values::Int(data) => data.iter().map(|&x| x as f64).collect(),
        }
    }
}

fn numbers<const SIZE: usize, T>(bytes: &[u8], read: impl Fn([u8; SIZE]) -> T) -> impl Iterator<Item = T> {
    bytes.as_chunks::<SIZE>().0.iter().map(move |bytes| read(*bytes))
}
