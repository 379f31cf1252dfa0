//! Whether there is a CUDA driver and a device, asked without a panic.

use crate::error::{Error, Result};
use cudarc::driver::{result, sys};

/// A CUDA device, as the driver names it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Device {
    /// The device's name.
    pub name: String,
    /// Compute capability, major and minor: `(9, 0)` for sm_90.
    pub compute_capability: (i32, i32),
    /// Device memory, bytes.
    pub memory: usize,
}

/// Whether at least one CUDA device can be used.
pub fn is_available() -> bool {
    devices().is_ok_and(|devices| !devices.is_empty())
}

/// The CUDA devices of this machine, in the driver's order.
///
/// # Errors
/// [`Error::CudaUnavailable`] without a driver, or when the driver finds no device or refuses; the message has the driver's words.
pub fn devices() -> Result<Vec<Device>> {
    probe_driver()?;
    let unavailable = |error: result::DriverError| Error::CudaUnavailable(error.to_string());
    let one = |ordinal: i32| {
        let device = result::device::get(ordinal)?;
        use sys::CUdevice_attribute_enum::{
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        };
        // SAFETY: `device` came from the driver just now.
        let (major, minor, memory) = unsafe {
            (
                result::device::get_attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                result::device::get_attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
                result::device::total_mem(device)?,
            )
        };
        let name = result::device::get_name(device)?;
        Ok(Device { name, compute_capability: (major, minor), memory })
    };
    result::device::get_count()
        .and_then(|count| (0..count).map(one).collect::<std::result::Result<Vec<_>, _>>())
        .map_err(unavailable)
}

/// Opens the driver and initialises it. cudarc panics where the library is missing, so it is asked only after this succeeded.
pub(super) fn probe_driver() -> Result<()> {
    let unavailable = |reason: String| Error::CudaUnavailable(reason);
    let names = if cfg!(windows) { ["nvcuda.dll"].as_slice() } else { ["libcuda.so.1", "libcuda.so"].as_slice() };
    // SAFETY: loading the driver runs its initialisers, which is what every CUDA program does.
    let open = |name: &&str| unsafe { libloading::Library::new(*name) };
    let library = names.iter().map(open).reduce(Result::or).expect("there is a name to try");
    let library = library.map_err(|error| unavailable(format!("the driver cannot be loaded ({error})")))?;
    // SAFETY: this is the signature of cuInit.
    let init = unsafe { library.get::<unsafe extern "C" fn(u32) -> i32>(b"cuInit\0") }
        .map_err(|error| unavailable(format!("the driver has no cuInit ({error})")))?;
    // SAFETY: cuInit takes flags that must be 0, and may be called any number of times from any thread.
    match unsafe { init(0) } {
        0 => Ok(()),
        code => Err(unavailable(format!("cuInit failed with error {code}"))),
    }
}
