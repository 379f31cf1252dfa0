//! From a kernel variant to device code: compiled by NVRTC for the device at hand, kept on disk.
//!
//! A cached file is named by everything that its content depends on and carries a hash of it. One that is damaged, foreign or stale is
//! ignored and replaced; a folder that cannot be written costs a compilation, never an error.

use super::nvrtc::Nvrtc;
use crate::error::{Error, Result};
use crate::kernel::{SOURCES, Variant};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The folder of the cache; empty for none. Without it, `logit-perturb` in the user's cache folder.
const CACHE_VARIABLE: &str = "LOGIT_PERTURB_CACHE";

const HASH_BYTES: usize = 32;

/// One compilation: what is compiled, for which architecture (90 for sm_90).
#[derive(Clone, Copy, Debug)]
pub struct Compilation {
    variant: Variant,
    architecture: i32,
}

/// Device code and what the compiler said of it.
#[derive(Clone, Debug)]
pub struct DeviceCode {
    /// The cubin.
    pub cubin: Vec<u8>,
    /// The log of compiler and assembler; empty for code from the cache.
    pub log: String,
}

impl Compilation {
    /// The compilation of a variant for an architecture.
    pub fn new(variant: Variant, architecture: i32) -> Self {
        Self { variant, architecture }
    }

    /// The source as one text.
    fn source(&self) -> String {
        flatten(self.variant.source(), &mut Vec::new())
    }

    fn options(&self) -> Vec<String> {
        let fixed = [format!("--gpu-architecture=sm_{}", self.architecture), "--std=c++17".to_owned()];
        let verbose = "--ptxas-options=-v".to_owned();
        let defines = self.variant.defines().into_iter().map(|(name, value)| format!("-D{name}={value}"));
        fixed.into_iter().chain([verbose]).chain(defines).collect()
    }

    /// A name for everything that the code depends on but the compiler.
    fn key(&self) -> String {
        let mut hash = Sha256::new();
        for part in [env!("CARGO_PKG_VERSION"), &self.source(), &self.options().join(" ")] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        format!("{}-sm_{}-{:.16}", self.variant.name(), self.architecture, hex(&hash.finalize()))
    }

    /// Compiles, without the cache.
    ///
    /// # Errors
    /// [`Error::CudaUnavailable`] without NVRTC, [`Error::Architecture`] where it does not know the architecture, [`Error::Compile`] where
    /// the kernel does not compile.
    pub fn compile(&self) -> Result<DeviceCode> {
        let nvrtc = Nvrtc::get()?;
        if !nvrtc.architectures.contains(&self.architecture) {
            let known = nvrtc.architectures.iter().map(|known| format!("sm_{known}")).collect::<Vec<_>>().join(", ");
            let compiler = format!("NVRTC {}.{}", nvrtc.version.0, nvrtc.version.1);
            return Err(Error::Architecture { architecture: self.architecture, compiler, known });
        }
        let compiled = nvrtc.compile(&self.source(), self.variant.source(), &self.options());
        let compiled = compiled.map_err(|log| Error::Compile { kernel: self.variant.name(), log })?;
        Ok(DeviceCode { cubin: compiled.cubin, log: compiled.log })
    }

    /// The code from the cache, or compiled and put there.
    ///
    /// # Errors
    /// As [`compile`](Self::compile).
    pub fn load(&self) -> Result<DeviceCode> {
        self.load_from(cache_folder().as_deref())
    }

    /// As [`load`](Self::load), with the cache in a given folder, or none.
    ///
    /// # Errors
    /// As [`compile`](Self::compile).
    pub fn load_from(&self, folder: Option<&Path>) -> Result<DeviceCode> {
        let key = self.key();
        let compiler = Nvrtc::get().map(|nvrtc| nvrtc.version);
        if let Some(cubin) = folder.and_then(|folder| find(folder, &key, compiler.as_ref().ok().copied())) {
            return Ok(DeviceCode { cubin, log: String::new() });
        }
        let code = self.compile()?;
        if let (Some(folder), Ok(version)) = (folder, compiler) {
            // The cache is a convenience: where it cannot be written, the code is there all the same.
            let _ = keep(folder, &file_name(&key, version), &code.cubin);
        }
        Ok(code)
    }
}

/// The source with every `#include` of ours in its place, once, and line directives so that messages name the files.
fn flatten(name: &'static str, seen: &mut Vec<&'static str>) -> String {
    seen.push(name);
    let text = SOURCES.iter().find(|(file, _)| *file == name).expect("includes name files of kernels/").1;
    let mut flat = format!("#line 1 \"{name}\"\n");
    for (number, line) in text.lines().enumerate() {
        let included = line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"'));
        let included = included.and_then(|file| SOURCES.iter().find(|(known, _)| *known == file));
        match included {
            Some((file, _)) if seen.contains(file) => flat.push('\n'),
            Some((file, _)) => {
                flat.push_str(&flatten(file, seen));
                flat.push_str(&format!("#line {} \"{name}\"\n", number + 2));
            }
            None if line == "#pragma once" => flat.push('\n'),
            None => {
                flat.push_str(line);
                flat.push('\n');
            }
        }
    }
    flat
}

fn cache_folder() -> Option<PathBuf> {
    match std::env::var_os(CACHE_VARIABLE) {
        Some(folder) if folder.is_empty() => None,
        Some(folder) => Some(folder.into()),
        None => dirs::cache_dir().map(|folder| folder.join("logit-perturb")),
    }
}

fn file_name(key: &str, (major, minor): (i32, i32)) -> String {
    format!("{key}-nvrtc_{major}.{minor}.cubin")
}

/// The code under a key, compiled by this version of NVRTC; without an NVRTC, by any.
fn find(folder: &Path, key: &str, version: Option<(i32, i32)>) -> Option<Vec<u8>> {
    if let Some(version) = version {
        return open(&folder.join(file_name(key, version)));
    }
    let prefix = format!("{key}-nvrtc_");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)));
    files.sort();
    files.iter().rev().find_map(|file| open(file))
}

/// A cached file's code, unless it is damaged.
fn open(file: &Path) -> Option<Vec<u8>> {
    let bytes = std::fs::read(file).ok()?;
    let (hash, cubin) = bytes.split_at_checked(HASH_BYTES)?;
    (Sha256::digest(cubin).as_slice() == hash).then(|| cubin.to_vec())
}

/// Writes beside the file and renames: whoever reads at the same time sees the old file or the new one, whole.
fn keep(folder: &Path, name: &str, cubin: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&Sha256::digest(cubin))?;
    file.write_all(cubin)?;
    file.persist(folder.join(name))?;
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Major and minor version of the run-time compiler.
///
/// # Errors
/// [`Error::CudaUnavailable`] without one.
pub fn compiler_version() -> Result<(i32, i32)> {
    Nvrtc::get().map(|nvrtc| nvrtc.version)
}
