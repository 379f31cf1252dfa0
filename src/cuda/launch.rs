//! The one place where a kernel is launched.

use super::kernels::driver;
use crate::error::Result;
use crate::kernel::Geometry;
use bytemuck::Pod;
use cudarc::driver::{CudaFunction, CudaStream, sys};

/// What a launch asks for beside its sizes: a cluster, or that all blocks are resident. No kernel needs both.
fn attribute_of(geometry: Geometry) -> sys::CUlaunchAttribute {
    let (id, value) = if geometry.cooperative {
        (sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE, sys::CUlaunchAttributeValue { cooperative: 1 })
    } else {
        let cluster = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: geometry.cluster, y: 1, z: 1 };
        let value = sys::CUlaunchAttributeValue { clusterDim: cluster };
        (sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, value)
    };
    sys::CUlaunchAttribute { id, pad: [0; 4], value }
}

/// The driver's words for a geometry; they point to `attribute`.
fn config(geometry: Geometry, stream: sys::CUstream, attribute: &mut sys::CUlaunchAttribute) -> sys::CUlaunchConfig {
    sys::CUlaunchConfig {
        gridDimX: geometry.grid,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: geometry.threads,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: geometry.shared,
        hStream: stream,
        attrs: attribute,
        // Devices before sm_90 know no clusters, not even those of one block.
        numAttrs: u32::from(geometry.cluster > 1 || geometry.cooperative),
    }
}

/// How many clusters of this geometry the device holds at a time; 0 where it holds none so large.
pub(super) fn active_clusters(function: &CudaFunction, geometry: Geometry) -> Result<u32> {
    let mut cluster = attribute_of(geometry);
    let config = config(geometry, std::ptr::null_mut(), &mut cluster);
    let mut clusters = 0;
    // SAFETY: the driver reads `config` and `cluster`, which outlive the call, and writes one int.
    let answer =
        unsafe { sys::cuOccupancyMaxActiveClusters(&raw mut clusters, function.cu_function(), &raw const config) };
    match answer {
        // What a driver says where the device has no cluster of this size at all.
        sys::CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE => Ok(0),
        _ => answer
            .result()
            .map(|()| clusters.unsigned_abs())
            .map_err(|error| driver("asking for a kernel's clusters", error)),
    }
}

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
    let mut attribute = attribute_of(geometry);
    let config = config(geometry, stream.cu_stream(), &mut attribute);
    let mut parameters = [std::ptr::from_ref(args).cast_mut().cast()];
    // SAFETY: the driver copies `config`, `attribute` and `args` before it returns, and only reads them; the rest is the caller's promise.
    unsafe { sys::cuLaunchKernelEx(&config, function.cu_function(), parameters.as_mut_ptr(), std::ptr::null_mut()) }
        .result()
        .map_err(|error| driver("launching a kernel", error))
}
