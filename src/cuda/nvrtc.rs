//! The run-time compiler NVRTC, loaded when first needed. Bound here and not through cudarc, which panics where the library or one of its
//! functions is missing.

use crate::error::{Error, Result};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A file, or the folder it lies in, to load NVRTC from; without it, or where it is empty, the loader's own search decides.
const PATH_VARIABLE: &str = "LOGIT_PERTURB_NVRTC";

type Program = *mut c_void;

/// NVRTC's functions, by their signatures in its header.
pub(super) struct Nvrtc {
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
    cubin_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    cubin: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    log_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    log: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    /// Major and minor version.
    pub(super) version: (i32, i32),
    /// Architectures it knows, as 90 for sm_90.
    pub(super) architectures: Vec<i32>,
    // Keeps the functions valid.
    _libraries: Vec<Library>,
}

/// What a compilation gave.
pub(super) struct Compiled {
    /// The device code.
    pub(super) cubin: Vec<u8>,
    /// What compiler and assembler said.
    pub(super) log: String,
}

impl Nvrtc {
    /// The library, loaded once in a process.
    pub(super) fn get() -> Result<&'static Self> {
        static LOADED: OnceLock<std::result::Result<Nvrtc, String>> = OnceLock::new();
        LOADED.get_or_init(Self::load).as_ref().map_err(|reason| Error::CudaUnavailable(reason.clone()))
    }

    fn load() -> std::result::Result<Self, String> {
        let libraries = match std::env::var_os(PATH_VARIABLE) {
            Some(path) if !path.is_empty() => open_at(Path::new(&path))?,
            _ => vec![open_anywhere()?],
        };
        let library = libraries.last().expect("a library was opened");
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the field's type is this function's signature in NVRTC's header.
                *unsafe { library.get(concat!($name, "\0").as_bytes()) }
                    .map_err(|error| format!("NVRTC has no {} ({error})", $name))?
            };
        }
        let version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int = function!("nvrtcVersion");
        let count: unsafe extern "C" fn(*mut c_int) -> c_int = function!("nvrtcGetNumSupportedArchs");
        let list: unsafe extern "C" fn(*mut c_int) -> c_int = function!("nvrtcGetSupportedArchs");
        let (mut major, mut minor, mut length) = (0, 0, 0);
        // SAFETY: the pointers are to integers that live through the calls.
        let status = unsafe { version(&mut major, &mut minor) | count(&mut length) };
        let mut architectures = vec![0; usize::try_from(length).unwrap_or(0)];
        // SAFETY: the list has as many places as the library said it fills.
        if status != 0 || unsafe { list(architectures.as_mut_ptr()) } != 0 {
            return Err("NVRTC does not tell its version and architectures".to_owned());
        }
        Ok(Self {
            create: function!("nvrtcCreateProgram"),
            compile: function!("nvrtcCompileProgram"),
            destroy: function!("nvrtcDestroyProgram"),
            cubin_size: function!("nvrtcGetCUBINSize"),
            cubin: function!("nvrtcGetCUBIN"),
            log_size: function!("nvrtcGetProgramLogSize"),
            log: function!("nvrtcGetProgramLog"),
            error_string: function!("nvrtcGetErrorString"),
            version: (major, minor),
            architectures,
            _libraries: libraries,
        })
    }

    /// Compiles one source to device code. `Err` is the compiler's log.
    pub(super) fn compile(
        &self,
        source: &str,
        name: &str,
        options: &[String],
    ) -> std::result::Result<Compiled, String> {
        let c_string =
            |text: &str| CString::new(text).map_err(|_| "a source or an option holds a zero byte".to_owned());
        let (source, name) = (c_string(source)?, c_string(name)?);
        let options = options.iter().map(|option| c_string(option)).collect::<std::result::Result<Vec<_>, _>>()?;
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let mut program = std::ptr::null_mut();
        let none = std::ptr::null();
        // SAFETY: strings and options are terminated and live until the program is destroyed; it takes no headers.
        self.status(unsafe { (self.create)(&mut program, source.as_ptr(), name.as_ptr(), 0, none, none) })?;
        // SAFETY: as above.
        let status = unsafe { (self.compile)(program, pointers.len() as c_int, pointers.as_ptr()) };
        let result = self.text(program, self.log_size, self.log).and_then(|log| {
            let log = String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned();
            self.status(status).map_err(|error| format!("{error}\n{log}"))?;
            Ok(Compiled { cubin: self.text(program, self.cubin_size, self.cubin)?, log })
        });
        // SAFETY: the program was created above and is not used again. There is nothing to do about a failure.
        unsafe { (self.destroy)(&mut program) };
        result
    }

    fn text(
        &self,
        program: Program,
        size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
        read: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    ) -> std::result::Result<Vec<u8>, String> {
        let mut bytes = 0;
        // SAFETY: the program is alive, and the pointer is to a number.
        self.status(unsafe { size(program, &mut bytes) })?;
        let mut text = vec![0u8; bytes];
        // SAFETY: the buffer has the size that the library asked for.
        self.status(unsafe { read(program, text.as_mut_ptr().cast()) })?;
        Ok(text)
    }

    fn status(&self, code: c_int) -> std::result::Result<(), String> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the library returns a terminated constant for every code.
        Err(unsafe { CStr::from_ptr((self.error_string)(code)) }.to_string_lossy().into_owned())
    }
}

fn open(name: &Path) -> std::result::Result<Library, libloading::Error> {
    // SAFETY: loading NVRTC runs its initialisers, which is what every program that uses it does. Its symbols are global because it looks
    // for its builtins by name later.
    unsafe { Library::open(Some(name), RTLD_NOW | RTLD_GLOBAL) }
}

fn open_anywhere() -> std::result::Result<Library, String> {
    let names = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2", "libnvrtc.so"];
    names.iter().find_map(|name| open(Path::new(name)).ok()).ok_or_else(|| {
        format!("none of {} can be loaded; the CUDA toolkit has it, or `pip install nvidia-cuda-nvrtc`, whose folder {PATH_VARIABLE} may name", names.join(", "))
    })
}

/// Opens the library at a path, its builtins before it, since it would look for those elsewhere.
fn open_at(path: &Path) -> std::result::Result<Vec<Library>, String> {
    let missing = |what: &dyn std::fmt::Display| format!("{PATH_VARIABLE} = {}: {what}", path.display());
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    let entries = std::fs::read_dir(folder).map_err(|error| missing(&error))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    let named = |prefix: &str| {
        let matches = |file: &&PathBuf| {
            file.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with(prefix) && !name.contains(".alt."))
        };
        files.iter().find(matches).cloned()
    };
    let library =
        if path.is_dir() { named("libnvrtc.so").ok_or_else(|| missing(&"has no libnvrtc.so"))? } else { path.into() };
    let builtins = named("libnvrtc-builtins.so").into_iter();
    builtins.chain([library]).map(|file| open(&file).map_err(|error| missing(&error))).collect()
}
