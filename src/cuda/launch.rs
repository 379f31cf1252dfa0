//! The one place where a kernel is launched.

use super::kernels::driver;
use crate::error::Result;
use crate::kernel::Geometry;
use bytemuck::Pod;
use cudarc::driver::{CudaFunction, CudaStream, sys};

/// Enqueues a kernel with its one parameter struct. Allocates nothing, waits for nothing.
///
/// # Safety
/// `args` is the struct that the kernel takes; its pointers are to device memory of the sizes that the kernel's source states, alive and not used
/// otherwise until the stream has run the kernel; `geometry` is one that the plan of that kernel made.
pub(super) unsafe fn launch<Args: Pod>(
    stream: &CudaStream,
    function: &CudaFunction,
    geometry: Geometry,
    args: &Args,
) -> Result<()> {
    let config = sys::CUlaunchConfig {
        gridDimX: geometry.grid,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: geometry.threads,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: geometry.shared,
        hStream: stream.cu_stream(),
        attrs: std::ptr::null_mut(),
        numAttrs: 0,
    };
    let mut parameters = [std::ptr::from_ref(args).cast_mut().cast()];
    // SAFETY: the driver copies `config` and `args` before it returns, and only reads them; the rest is the caller's promise.
    unsafe { sys::cuLaunchKernelEx(&config, function.cu_function(), parameters.as_mut_ptr(), std::ptr::null_mut()) }
        .result()
        .map_err(|error| driver("launching a kernel", error))
}
