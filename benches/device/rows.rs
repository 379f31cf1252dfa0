//! Results: in words to standard output, with both sides of the byte model, and as rows to the file that `LOGIT_PERTURB_CSV` names.

use super::{Point, Result};
use std::fs::{File, OpenOptions};
use std::io::Write;

pub struct Rows {
    host: String,
    file: Option<File>,
    /// Bytes a microsecond of the best copy; 0 until it is measured.
    copy_rate: f64,
}

impl Rows {
    /// The first five columns are those of `LOGIT_PERTURB_HOST`; without it, the device alone.
    pub fn open(device: &str) -> Result<Self> {
        let host = std::env::var("LOGIT_PERTURB_HOST").ok().filter(|host| !host.is_empty());
        let open = |path| OpenOptions::new().create(true).append(true).open(path);
        let file = std::env::var_os("LOGIT_PERTURB_CSV").map(open).transpose()?;
        Ok(Self { host: host.unwrap_or_else(|| format!("{device},,,,")), file, copy_rate: 0.0 })
    }

    /// A copy of `size` bytes, which moves twice as many.
    pub fn copied(&mut self, size: usize, us: f64) -> Result<()> {
        self.copy_rate = 2.0 * size as f64 / us;
        println!("copy of {size} bytes: {us:.1} us, {:.0} GB/s", self.copy_rate / 1e3);
        self.write(&format!("copy,cuMemcpyDtoDAsync,,{size},,{},{us:.3},1.000", 2 * size))
    }

    /// Why there is no time.
    pub fn word(&mut self, point: &Point, word: &str) -> Result<()> {
        self.point(point, "", word, "")
    }

    /// The median of times in microseconds. `moved`: bytes that this way of computing moves.
    pub fn times(&mut self, point: &Point, addition: &str, moved: Option<usize>, mut times: Vec<f64>) -> Result<()> {
        times.sort_by(f64::total_cmp);
        let us = times[times.len() / 2];
        let mut share = String::new();
        if let Some(bytes) = point.bytes {
            let rate = bytes as f64 / us;
            if self.copy_rate > 0.0 {
                share = format!("{:.3}", rate / self.copy_rate);
            }
            let moved = moved.map_or_else(String::new, |moved| format!(", moves {moved}"));
            println!("    {bytes} bytes must move{moved}; {:.0} GB/s, {share} of the copy's", rate / 1e3);
        }
        self.point(point, addition, &format!("{us:.3}"), &share)
    }

    /// The number of launches takes the place of a time.
    pub fn launches(&mut self, point: &Point, count: usize) -> Result<()> {
        let Point { what, variant, dtype, rows, classes, .. } = point;
        println!("{what} {variant} {dtype} {rows}x{classes}: {count} launches");
        self.write(&format!("launches,{what} {variant},{dtype},{rows},{classes},,{count},"))
    }

    fn point(&mut self, point: &Point, addition: &str, us: &str, share: &str) -> Result<()> {
        let Point { what, variant, dtype, rows, classes, bytes, .. } = point;
        let bytes = bytes.map_or_else(String::new, |bytes| bytes.to_string());
        println!("{what} {variant}{addition} {dtype} {rows}x{classes}: {us} us");
        self.write(&format!("{what},{variant}{addition},{dtype},{rows},{classes},{bytes},{us},{share}"))
    }

    fn write(&mut self, row: &str) -> Result<()> {
        match &mut self.file {
            // Peer and ratio stay empty.
            Some(file) => Ok(writeln!(file, "{},{row},,", self.host)?),
            None => Ok(()),
        }
    }
}
