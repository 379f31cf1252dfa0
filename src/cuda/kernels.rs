//! The compiled kernels of a CUDA context, and what its device allows.

use super::availability::probe_driver;
use super::compile::Compilation;
use crate::error::{Error, Result};
use crate::kernel::{LearnPlan, Limits, Regime, Variant};
use cudarc::driver::sys::CUdevice_attribute_enum as Attribute;
use cudarc::driver::{CudaContext, CudaFunction, CudaStream, DriverError, sys};
use cudarc::nvrtc::Ptx;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The kernels of a context, compiled when first asked for. Cheap to share: `Send + Sync`, used through an [`Arc`].
#[derive(Debug)]
pub struct Kernels {
    context: Arc<CudaContext>,
    limits: Limits,
    architecture: i32,
    loaded: Mutex<HashMap<Variant, CudaFunction>>,
}

/// Rows of which every block counts the labels by itself: 64 KB of i32 from the second-level cache.
const LABELS_IN_BLOCK: i64 = 16_384;

/// Parts of a batch that the last block adds up: few enough for one block, and several for every block that a device holds.
const CHUNKS: i64 = 4096;

/// Blocks of a cluster that are tried at most; whether the device has so many is asked when a kernel is prepared.
const LARGEST_CLUSTER: u32 = 16;

impl Kernels {
    /// Opens device `ordinal` and its primary context, without the panic of [`CudaContext::new`] on a machine without a driver.
    ///
    /// # Errors
    /// [`Error::CudaUnavailable`] without a driver or a device; [`Error::Driver`] where the driver refuses.
    pub fn open(ordinal: usize) -> Result<Arc<Self>> {
        probe_driver()?;
        Self::of(&CudaContext::new(ordinal).map_err(|error| driver("opening the device", error))?)
    }

    /// The kernels of a context that the program has already.
    ///
    /// # Errors
    /// [`Error::Driver`] where the driver does not tell the device's limits.
    pub fn of(context: &Arc<CudaContext>) -> Result<Arc<Self>> {
        let attribute = |attribute| {
            let value =
                context.attribute(attribute).map_err(|error| driver("asking the device for its limits", error))?;
            Ok(value.unsigned_abs())
        };
        let (major, minor) =
            context.compute_capability().map_err(|error| driver("asking the device for its architecture", error))?;
        let most_shared = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let limits = Limits {
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_memory: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK)?,
            row_shared: Limits::row_shared(most_shared),
            multiprocessor_shared: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?,
            cluster: if major >= 9 { LARGEST_CLUSTER } else { 1 },
            resident_threads: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)?,
            resident_blocks: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR)?,
            block_threads: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
            labels_in_block: LABELS_IN_BLOCK,
            chunks: CHUNKS,
        };
        let (context, loaded) = (Arc::clone(context), Mutex::default());
        Ok(Arc::new(Self { context, limits, architecture: 10 * major + minor, loaded }))
    }

    /// The context.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// Makes the context of an operation's stream current, once it is certain that it is this one: kernels run in no other.
    pub(super) fn bind(&self, stream: &CudaStream) -> Result<()> {
        if *stream.context() != self.context {
            return Err(Error::conflict("stream", "with these kernels", "it belongs to another CUDA context"));
        }
        bind(stream)
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// The kernel of a variant: loaded before, from the disk's cache, or compiled.
    pub(super) fn function(&self, variant: Variant) -> Result<CudaFunction> {
        // A panic elsewhere cannot have left the map half changed.
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = loaded.get(&variant) {
            return Ok(function.clone());
        }
        let code = Compilation::new(variant, self.architecture).load()?;
        let module = self
            .context
            .load_module(Ptx::from_binary(code.cubin))
            .map_err(|error| driver("loading a kernel", error))?;
        let function = module.load_function(variant.entry()).map_err(|error| driver("finding a kernel", error))?;
        let (shared, cluster) = match variant {
            Variant::CrossEntropy { regime: regime @ (Regime::Shared | Regime::Cluster), .. } => {
                (self.limits.row_shared, regime == Regime::Cluster)
            }
            Variant::LearnCrossEntropy { values, .. } => (LearnPlan::most_shared(values, self.limits), false),
            Variant::LearnBinaryCrossEntropy { .. } => (self.limits.row_shared, false),
            _ => (0, false),
        };
        let allow = |attribute, value| {
            function.set_attribute(attribute, value).map_err(|error| driver("asking for shared memory", error))
        };
        if shared > 0 {
            allow(sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared as i32)?;
        }
        if cluster {
            allow(sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1)?;
        }
        loaded.insert(variant, function.clone());
        Ok(function)
    }
}

/// How many blocks of a kernel a multiprocessor holds at a time. A driver that finds none says so at the launch.
pub(super) fn resident_blocks(function: &CudaFunction, threads: u32, shared: u32) -> Result<u32> {
    let blocks = function.occupancy_max_active_blocks_per_multiprocessor(threads, shared as usize, None);
    blocks.map(|blocks| blocks.max(1)).map_err(|error| driver("asking for a kernel's occupancy", error))
}

/// The driver's refusal as this crate's error.
pub(super) fn driver(action: &'static str, error: DriverError) -> Error {
    Error::Driver { action, reason: error.to_string() }
}

/// As [`driver`], for an allocation.
pub(super) fn allocation(what: &'static str, bytes: usize, error: DriverError) -> Error {
    match error.0 {
        sys::cudaError_enum::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory { what, bytes },
        _ => driver("allocating device memory", error),
    }
}

/// Makes the stream's context the one that the driver uses in this thread.
pub(super) fn bind(stream: &CudaStream) -> Result<()> {
    stream.context().bind_to_thread().map_err(|error| driver("making the context current", error))
}

/// cudarc's event tracking records events on other streams' behalf, which a capture refuses; and it cannot follow a workspace that a graph
/// shares.
pub(super) fn check_tracking(stream: &CudaStream, shared: bool) -> Result<()> {
    if !stream.context().is_managing_stream_synchronization() {
        return Ok(());
    }
    let capturing = stream.capture_status().map_err(|error| driver("asking the stream whether it captures", error))?;
    if shared || capturing != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE {
        return Err(Error::Conflict {
            argument: "event tracking of cudarc",
            context: "with graph capture",
            reason: "switch it off with `CudaContext::disable_event_tracking` before the buffers are allocated",
        });
    }
    Ok(())
}
