//! Writes a case with its results as expectations.

use crate::{CaseError, Results, Values};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::path::Path;

/// Copies the case file `from` to `to` and adds `results` as `expect.` tensors, f64 and i32.
///
/// # Errors
/// [`CaseError`]: `from` has expectations already, or a file cannot be read or written.
pub fn write(from: &Path, to: &Path, results: &Results) -> Result<(), CaseError> {
    let bytes = std::fs::read(from)?;
    let file = SafeTensors::deserialize(&bytes)?;
    let (_, metadata) = SafeTensors::read_metadata(&bytes)?;
    let mut tensors: Vec<(String, TensorView<'_>)> = file.tensors();
    if let Some((name, _)) = tensors.iter().find(|(name, _)| name.starts_with("expect.")) {
        return Err(CaseError::tensor(name, "is there already: the file has expectations"));
    }
    let encode = |values: &Values| match values {
        Values::Float(_, data) => (Dtype::F64, data.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()),
        Values::Int(data) => (Dtype::I32, data.iter().flat_map(|&x| (x as i32).to_le_bytes()).collect()),
    };
    let encoded: Vec<_> = results.tensors.iter().map(|(name, tensor)| (name, tensor, encode(&tensor.values))).collect();
    for (name, tensor, (dtype, data)) in &encoded {
        tensors.push((format!("expect.{name}"), TensorView::new(*dtype, tensor.shape.clone(), data)?));
    }
    let metadata: Option<HashMap<String, String>> = metadata.metadata().clone();
    safetensors::serialize_to_file(tensors, metadata, to)?;
    Ok(())
}
