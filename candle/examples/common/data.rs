//! Where the data files lie and how they are opened: gzipped, in the workspace's `data/`.

use anyhow::{Context, Result};
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

/// The workspace's root, wherever the example is started from.
pub fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// The path of a file of `data/`.
pub fn path(name: &str) -> PathBuf {
    workspace().join("data").join(name)
}

/// Opens a gzipped file for reading what it holds.
pub fn open(path: &Path) -> Result<MultiGzDecoder<BufReader<File>>> {
    let file = File::open(path).with_context(|| format!("cannot open the data file {}", path.display()))?;
    Ok(MultiGzDecoder::new(BufReader::new(file)))
}
