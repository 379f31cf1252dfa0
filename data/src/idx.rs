//! MNIST's IDX format, gzipped: two zero bytes, the type (8: unsigned byte), the number of dimensions, each dimension as a big-endian
//! u32, then the values in row-major order.

use anyhow::{Context, Result, ensure};
use std::io::Read;
use std::path::Path;

const UNSIGNED_BYTE: u8 = 8;

/// Bytes and their shape.
#[derive(Debug, PartialEq)]
pub struct Idx {
    /// Sizes of the dimensions.
    pub shape: Vec<usize>,
    /// The values, row-major.
    pub values: Vec<u8>,
}

impl Idx {
    /// Reads a file.
    ///
    /// # Errors
    /// The file cannot be opened, or is damaged; the message names it.
    pub fn read(path: &Path) -> Result<Self> {
        let mut bytes = Vec::new();
        let read = crate::open(path)?.read_to_end(&mut bytes).map_err(anyhow::Error::from);
        read.and_then(|_| Self::parse(&bytes)).with_context(|| format!("{} is damaged", path.display()))
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let (magic, rest) = bytes.split_first_chunk().context("no header")?;
        let &[0, 0, UNSIGNED_BYTE, dimensions] = magic else { anyhow::bail!("no IDX header of bytes: {magic:?}") };
        let (sizes, values) = rest.split_at_checked(4 * usize::from(dimensions)).context("the header ends early")?;
        let shape: Vec<usize> = sizes.as_chunks().0.iter().map(|&size| u32::from_be_bytes(size) as usize).collect();
        let product = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        ensure!(product == Some(values.len()), "{} values for the shape {shape:?}", values.len());
        Ok(Self { shape, values: values.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::Idx;

    #[test]
    fn a_matrix_is_read_and_damage_is_named() {
        let file = [0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6];
        assert_eq!(Idx::parse(&file).unwrap(), Idx { shape: vec![2, 3], values: vec![1, 2, 3, 4, 5, 6] });
        let message = |bytes: &[u8]| Idx::parse(bytes).unwrap_err().to_string();
        assert_eq!(message(&file[..17]), "5 values for the shape [2, 3]");
        assert_eq!(message(&file[..7]), "the header ends early");
        assert_eq!(message(&file[..3]), "no header");
        assert_eq!(message(&[0, 0, 13, 1, 0, 0, 0, 0]), "no IDX header of bytes: [0, 0, 13, 1]");
    }
}
