//! One GPU: its context, its stream, its memory, and the error that sticks.
//!
//! Owns: the life of the device's resources, copies in and out. Never: which work is queued.

use std::collections::HashMap;
use std::ffi::CStr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use bytemuck::Pod;

use super::blas::Plans;
use super::buffer::{DeviceBuffer, DevicePtr, Home, Pool};
use super::driver::{self, CUcontext, CUstream};
use super::error::Failure;
use super::graph::{Call, Graphs, Replay};
use super::kernels::Module;
use super::launch::{Loaded, LoadedModule};
use super::locked;
use super::pinned::Staging;
use super::{cache, libraries};
use crate::error::EngineError;

/// A handle to one GPU; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    ordinal: usize,
    pub(super) properties: driver::Properties,
    handles: Handles,
    pool: Pool,
    error: Mutex<Option<EngineError>>,
    /// The error is that the other ranks are out of reach, which nothing mends.
    cut_off: AtomicBool,
    staging: Mutex<Staging>,
    pub(super) graphs: Mutex<Graphs>,
    /// Counts how often lasting memory was given back.
    pub(super) lasting: AtomicU64,
    /// By name.
    pub(super) modules: Mutex<HashMap<&'static str, LoadedModule>>,
    /// By module and name.
    pub(super) kernels: Mutex<HashMap<[&'static str; 2], Loaded>>,
    pub(super) plans: OnceLock<Plans>,
    pub(super) cubins: cache::Cubins,
    /// Folders that may hold NVIDIA's libraries.
    pub(super) libraries: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug)]
struct Handles {
    context: CUcontext,
    stream: CUstream,
}

// SAFETY: a CUDA context and its streams may be used from any thread that makes the context current first.
unsafe impl Send for Handles {}
// SAFETY: as above.
unsafe impl Sync for Handles {}

impl Drop for Inner {
    fn drop(&mut self) {
        // What fails here has no one left to be told.
        if self.bind().is_ok() {
            if let Some(plans) = self.plans.take() {
                plans.destroy();
            }
            locked(&self.graphs).destroy(&self.pool);
            locked(&self.staging).free();
            let _: Result<(), Failure> = self.pool.release();
            let _: Result<(), Failure> = driver::close(self.properties.handle, self.handles.stream);
        }
    }
}

impl Inner {
    /// Makes this context the thread's.
    pub(super) fn bind(&self) -> Result<(), Failure> {
        driver::set_current(self.handles.context)
    }
}

/// How a GPU is used: where to look for what it needs, beyond the places that the system's loader knows, and whether work
/// is replayed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CudaOptions {
    /// Folders that may hold NVIDIA's libraries.
    pub libraries: Vec<PathBuf>,
    /// Where compiled kernels are kept between runs; `None`: they are compiled in each.
    pub kernel_cache: Option<PathBuf>,
    /// Whether work that comes again is replayed from a captured graph.
    pub replay: Replay,
}

/// A GPU that could be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its number.
    pub ordinal: usize,
    /// As NVIDIA calls it.
    pub name: String,
    /// Of its memory.
    pub total_bytes: usize,
    /// Compute capability, as (9, 0).
    pub capability: (i32, i32),
    /// The newest CUDA version its driver knows, as (13, 0).
    pub driver: (i32, i32),
}

/// The GPUs of this machine.
///
/// # Errors
/// [`EngineError::Gpu`] that says what was looked for and where, when the libraries are missing or the driver
/// finds no GPU.
pub fn gpus(options: &CudaOptions) -> Result<Vec<Gpu>, EngineError> {
    libraries::find(&options.libraries)?;
    let unusable = |failure: Failure| EngineError::Gpu {
        what: format!("the NVIDIA driver cannot be started: {}: {}", failure.call, failure.text),
        fix: "see whether `nvidia-smi` works, or compute on the processor",
    };
    let count = driver::start().map_err(unusable)?;
    let version = driver::driver_version().map_err(unusable)?;
    let gpu = |ordinal| {
        driver::properties(ordinal).map(|p| Gpu {
            ordinal,
            name: p.name,
            total_bytes: p.total_bytes,
            capability: p.capability,
            driver: (version / 1000, version % 1000 / 10),
        })
    };
    (0..count).map(|ordinal| gpu(ordinal).map_err(unusable)).collect()
}

impl Context {
    /// Opens GPU `ordinal`.
    pub(crate) fn open(ordinal: usize, options: &CudaOptions) -> Result<Self, EngineError> {
        let found = gpus(options)?;
        if ordinal >= found.len() {
            let what = match found.len() {
                0 => "the NVIDIA driver is there but finds no GPU".to_owned(),
                n => format!("there is no GPU {ordinal}; the driver finds {n}, numbered from 0"),
            };
            return Err(EngineError::Gpu {
                what,
                fix: "name one that is there, or compute on the processor",
            });
        }
        let properties = driver::properties(ordinal)?;
        let (context, stream) = driver::open(properties.handle)?;
        let graphs = Graphs::new(driver::driver_version()?, options.replay);
        let cubins = cache::Cubins::new(properties.capability, options.kernel_cache.clone())?;
        let inner = Inner {
            ordinal,
            properties,
            handles: Handles { context, stream },
            pool: Pool::default(),
            error: Mutex::default(),
            cut_off: AtomicBool::default(),
            staging: Mutex::default(),
            graphs: Mutex::new(graphs),
            lasting: AtomicU64::default(),
            modules: Mutex::default(),
            kernels: Mutex::default(),
            plans: OnceLock::new(),
            cubins,
            libraries: options.libraries.clone(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The device's number.
    pub(crate) fn ordinal(&self) -> usize {
        self.inner.ordinal
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.inner.properties.name
    }

    /// Its compute capability.
    pub(crate) fn capability(&self) -> (i32, i32) {
        self.inner.properties.capability
    }

    /// Bytes of device memory held, and the most there were.
    pub(crate) fn bytes(&self) -> (usize, usize) {
        self.inner.pool.bytes()
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.inner.pool
    }

    pub(super) fn stream(&self) -> CUstream {
        self.inner.handles.stream
    }

    /// Waits for all queued work; an error sticks.
    pub(crate) fn synchronize(&self) {
        self.wait(|| driver::synchronize(self.stream()));
    }

    /// Runs a call that returns when all queued work is done; staged uploads have been read then.
    fn wait(&self, call: impl FnOnce() -> Result<(), Failure>) {
        if self.is_unfit_for_graph() {
            return;
        }
        let mut staging = locked(&self.inner.staging);
        if self.attempt(call).is_some() {
            staging.is_read();
        }
    }

    /// Waits for all queued work and reports the error that stuck, if any. Running out of memory is forgotten once it is
    /// reported: what was queued after it did nothing, and the caller repeats the work with smaller slabs.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        self.synchronize();
        self.check_queued()
    }

    /// As [`Context::check`], without waiting.
    pub(crate) fn check_queued(&self) -> Result<(), EngineError> {
        let mut error = locked(&self.inner.error);
        match &*error {
            None => Ok(()),
            Some(EngineError::Cuda { call, code, text }) => {
                Err(EngineError::Cuda { call, code: *code, text: text.clone() })
            }
            Some(EngineError::Rank { rank, what, fix }) => {
                Err(EngineError::Rank { rank: *rank, what: what.clone(), fix: fix.clone() })
            }
            Some(_) => error.take().map_or(Ok(()), Err),
        }
    }

    /// Whether an error stuck.
    pub(crate) fn is_broken(&self) -> bool {
        locked(&self.inner.error).is_some()
    }

    /// Keeps the first error.
    pub(super) fn fail(&self, error: EngineError) {
        locked(&self.inner.error).get_or_insert(error);
    }

    /// The other ranks are out of reach: the error takes the place of any other, and is not forgotten.
    pub(super) fn cut_off(&self, error: EngineError) {
        let mut stuck = locked(&self.inner.error);
        self.inner.cut_off.store(true, Ordering::Relaxed);
        *stuck = Some(error);
    }

    /// Forgets the error of calls that nobody needed after all.
    pub(super) fn forget_error(&self) -> Option<EngineError> {
        let mut error = locked(&self.inner.error);
        if self.inner.cut_off.load(Ordering::Relaxed) { None } else { error.take() }
    }

    /// Runs a call in this context unless an error stuck; its result, if it has one.
    pub(super) fn attempt<T>(&self, call: impl FnOnce() -> Result<T, Failure>) -> Option<T> {
        if self.is_broken() {
            return None;
        }
        match self.inner.bind().and_then(|()| call()) {
            Ok(value) => Some(value),
            Err(failure) => {
                self.fail(failure.into());
                None
            }
        }
    }

    /// Memory with unspecified content.
    pub(crate) fn allocate(&self, bytes: usize) -> DeviceBuffer {
        let bytes = Pool::round(bytes);
        self.captured_memory(bytes).unwrap_or_else(|home| self.take(bytes, home))
    }

    /// Memory that outlives the current step: parameters, gradients, moments.
    pub(crate) fn allocate_lasting(&self, bytes: usize) -> DeviceBuffer {
        if self.is_unfit_for_graph() {
            return DeviceBuffer::none(self.clone());
        }
        self.take(Pool::round(bytes), Home::Lasting)
    }

    fn take(&self, bytes: usize, home: Home) -> DeviceBuffer {
        let take = || self.attempt(|| self.inner.pool.take(bytes, home == Home::Capturable));
        let mut taken = take();
        if taken == Some(None) {
            self.forget_graphs();
            self.attempt(|| self.inner.pool.release());
            taken = take();
        }
        if let Some(Some(address)) = taken {
            return DeviceBuffer::new(self.clone(), address, bytes, home);
        }
        if taken.is_some() {
            let (free, total) = driver::memory().unwrap_or_default();
            let device = self.name().to_owned();
            self.fail(EngineError::OutOfMemory { device, wanted: bytes, free, total });
        }
        DeviceBuffer::none(self.clone())
    }

    /// Fills with zero bytes.
    pub(crate) fn zero(&self, to: DevicePtr, bytes: usize) {
        if bytes > 0 && self.is_made(|| Call::Zero { to: to.0, bytes }) {
            self.attempt(|| driver::zero(to.0, bytes, self.stream()));
        }
    }

    /// A copy of `values` on the device.
    pub(crate) fn upload<T: Pod>(&self, values: &[T]) -> DeviceBuffer {
        self.upload_within(values, values.len())
    }

    /// As [`Context::upload`], with room for `most` values, so that a captured graph can take more of them another time.
    pub(crate) fn upload_within<T: Pod>(&self, values: &[T], most: usize) -> DeviceBuffer {
        let room = Pool::round(most.max(values.len()) * size_of::<T>());
        if let Some(input) = self.captured_input(room, bytemuck::cast_slice(values)) {
            return input;
        }
        let buffer = self.allocate(room);
        self.write(buffer.ptr(), values);
        buffer
    }

    /// A copy of `values` on the device that outlives the current step.
    pub(crate) fn upload_lasting<T: Pod>(&self, values: &[T]) -> DeviceBuffer {
        let buffer = self.allocate_lasting(size_of_val(values));
        self.write(buffer.ptr(), values);
        buffer
    }

    /// Copies `values` to the device.
    pub(crate) fn write<T: Pod>(&self, to: DevicePtr, values: &[T]) {
        if values.is_empty() || self.is_unfit_for_graph() {
            return;
        }
        let mut staging = locked(&self.inner.staging);
        self.attempt(|| staging.upload(to.0, bytemuck::cast_slice(values), self.stream()));
    }

    /// Copies within the device.
    pub(crate) fn copy(&self, to: DevicePtr, from: DevicePtr, bytes: usize) {
        if bytes > 0 && self.is_made(|| Call::Copy { to: to.0, from: from.0, bytes }) {
            self.attempt(|| driver::copy(to.0, from.0, bytes, self.stream()));
        }
    }

    /// Fills `values` from the device once all queued work is done; leaves them as they are after an error.
    pub(crate) fn download<T: Pod>(&self, values: &mut [T], from: DevicePtr) {
        if !values.is_empty() {
            self.wait(|| driver::download(bytemuck::cast_slice_mut(values), from.0, self.stream()));
        }
    }

    /// The machine code of a module, loaded.
    pub(super) fn load(&self, source: &CStr, module: Module) -> Result<driver::CUmodule, EngineError> {
        let cubin = self.inner.cubins.get(source, module.name)?;
        Ok(driver::load_module(&cubin)?)
    }
}
