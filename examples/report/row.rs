//! A row of the results.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The columns as `benches/peers/README.md` describes them.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Row {
    pub device: String,
    pub driver: String,
    pub cuda: String,
    pub date: String,
    pub commit: String,
    pub what: String,
    pub variant: String,
    pub dtype: String,
    pub n: Option<u64>,
    pub c: Option<u64>,
    pub bytes: Option<u64>,
    pub us: String,
    pub share_of_copy: Option<f64>,
    pub peer: String,
    pub ratio: Option<f64>,
}

impl Row {
    /// What a later row must share to replace this one. Rows are kept in its order.
    pub fn key(&self) -> impl Ord + use<> {
        let Self { what, variant, dtype, n, c, peer, .. } = self.clone();
        (what, variant, dtype, c, n, peer)
    }

    /// Microseconds, where there is a time.
    pub fn us(&self) -> Option<f64> {
        self.us.parse().ok()
    }
}

pub fn read(path: &Path) -> Result<Vec<Row>> {
    Ok(csv::Reader::from_path(path)?.deserialize().collect::<Result<_, _>>()?)
}

pub fn write(path: &Path, rows: &[Row]) -> Result<()> {
    let mut writer = csv::Writer::from_path(path)?;
    rows.iter().try_for_each(|row| writer.serialize(row))?;
    Ok(writer.flush()?)
}
