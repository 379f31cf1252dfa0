//! The data files beside this crate's sources, and how they are read. `data/README.md` says where each comes from.

mod idx;

pub use idx::Idx;

use anyhow::{Context, Result};
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

/// The workspace's root, wherever a program is started from.
pub fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// The path of a file of `data/`.
pub fn path(name: &str) -> PathBuf {
    workspace().join("data").join(name)
}

/// Opens a gzipped file for reading what it holds.
///
/// # Errors
/// The file cannot be opened; the message names it.
pub fn open(path: &Path) -> Result<MultiGzDecoder<BufReader<File>>> {
    let file = File::open(path).with_context(|| format!("cannot open the data file {}", path.display()))?;
    Ok(MultiGzDecoder::new(BufReader::new(file)))
}
