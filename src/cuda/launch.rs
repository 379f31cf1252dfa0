//! The one place where a kernel is launched.

use super::kernels::driver;
use crate::error::Result;
use crate::kernel::Geometry;
use bytemuck::Pod;
use cudarc::driver::{CudaFunction, CudaStream, sys};

fn cluster_of(geometry: Geometry) -> sys::CUlaunchAttribute {
    sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
        pad: [0; 4],
        value: sys::CUlaunchAttributeValue {
            clusterDim: sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: geometry.cluster, y: 1, z: 1 },
        },
    }
}

/// The driver's words for a geometry; they point to `cluster`.
fn config(geometry: Geometry, stream: sys::CUstream, cluster: &mut sys::CUlaunchAttribute) -> sys::CUlaunchConfig {
    sys::CUlaunchConfig {
        gridDimX: geometry.grid,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: geometry.threads,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: geometry.shared,
        hStream: stream,
        attrs: cluster,
        // Devices before sm_90 know no clusters, not even those of one block.
        numAttrs: u32::from(geometry.cluster > 1),
    }
}

/// How many clusters of this geometry the device holds at a time; 0 where it holds none so large.
pub(super) fn active_clusters(function: &CudaFunction, geometry: Geometry) -> Result<u32> {
    let mut cluster = cluster_of(geometry);
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
    let mut cluster = cluster_of(geometry);
    let config = config(geometry, stream.cu_stream(), &mut cluster);
    let mut parameters = [std::ptr::from_ref(args).cast_mut().cast()];
    // SAFETY: the driver copies `config`, `cluster` and `args` before it returns, and only reads them; the rest is the caller's promise.
    unsafe { sys::cuLaunchKernelEx(&config, function.cu_function(), parameters.as_mut_ptr(), std::ptr::null_mut()) }
        .result()
        .map_err(|error| driver("launching a kernel", error))
}
