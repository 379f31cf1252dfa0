//! The compiled kernels of a CUDA context, and what its device allows.

use super::availability::probe_driver;
use super::compile::Compilation;
use crate::error::{Error, Result};
use crate::kernel::{Limits, Variant};
use cudarc::driver::sys::CUdevice_attribute_enum as Attribute;
use cudarc::driver::{CudaContext, CudaFunction, DriverError, sys};
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
        let limits = Limits {
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_memory: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK)?,
            resident_threads: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)?,
            resident_blocks: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR)?,
            block_threads: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
            labels_in_block: LABELS_IN_BLOCK,
        };
        let (major, minor) =
            context.compute_capability().map_err(|error| driver("asking the device for its architecture", error))?;
        let (context, loaded) = (Arc::clone(context), Mutex::default());
        Ok(Arc::new(Self { context, limits, architecture: 10 * major + minor, loaded }))
    }

    /// The context.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
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
        loaded.insert(variant, function.clone());
        Ok(function)
    }
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
