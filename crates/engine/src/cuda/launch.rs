//! Launching kernels by name, with arguments that are checked against the kernel's own text.
//!
//! Owns: loaded modules and functions, the check of arguments. Never: grids and shapes (`ops/`).

use std::collections::hash_map::Entry;
use std::ffi::{CString, c_void};
use std::sync::Arc;

use super::buffer::DevicePtr;
use super::context::Context;
use super::driver::{self, CUfunction, CUmodule};
use super::graph::{Call, Kernel};
use super::kernels::Module;
use super::locked;
use crate::error::EngineError;

/// A kernel's argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Argument {
    Pointer(u64),
    I32(i32),
    U32(u32),
    F32(f32),
    U64(u64),
}

/// The type of a kernel's parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parameter {
    Pointer,
    I32,
    U32,
    F32,
    U64,
}

impl Argument {
    fn fits(&self, parameter: Parameter) -> bool {
        let ours = match self {
            Self::Pointer(_) => Parameter::Pointer,
            Self::I32(_) => Parameter::I32,
            Self::U32(_) => Parameter::U32,
            Self::F32(_) => Parameter::F32,
            Self::U64(_) => Parameter::U64,
        };
        ours == parameter
    }

    pub(super) fn address(&mut self) -> *mut c_void {
        match self {
            Self::Pointer(v) | Self::U64(v) => std::ptr::from_mut(v).cast(),
            Self::I32(v) => std::ptr::from_mut(v).cast(),
            Self::U32(v) => std::ptr::from_mut(v).cast(),
            Self::F32(v) => std::ptr::from_mut(v).cast(),
        }
    }
}

impl From<DevicePtr> for Argument {
    fn from(pointer: DevicePtr) -> Self {
        Self::Pointer(pointer.0)
    }
}

impl From<Option<DevicePtr>> for Argument {
    fn from(pointer: Option<DevicePtr>) -> Self {
        Self::Pointer(pointer.map_or(0, |p| p.0))
    }
}

impl From<i32> for Argument {
    fn from(value: i32) -> Self {
        Self::I32(value)
    }
}

impl From<u32> for Argument {
    fn from(value: u32) -> Self {
        Self::U32(value)
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Self::F32(value)
    }
}

impl From<u64> for Argument {
    fn from(value: u64) -> Self {
        Self::U64(value)
    }
}

/// A module on the device, with the text it came from.
#[derive(Clone, Debug)]
pub(super) struct LoadedModule {
    handle: CUmodule,
    source: Arc<str>,
}

/// A kernel that can be launched.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    function: CUfunction,
    parameters: Arc<[Parameter]>,
}

// SAFETY: handles of modules may be used from any thread whose current context is theirs.
unsafe impl Send for LoadedModule {}
// SAFETY: as above, for functions.
unsafe impl Send for Loaded {}

impl Context {
    /// Queues a kernel: `grid` blocks of `block` threads with `shared_bytes` of dynamic shared memory.
    ///
    /// # Panics
    /// When the kernel does not exist or the arguments are not what its source declares.
    pub(crate) fn launch(
        &self,
        module: Module,
        name: &'static str,
        grid: [usize; 3],
        block: usize,
        shared_bytes: usize,
        arguments: &[Argument],
    ) {
        if grid.contains(&0) || self.is_broken() {
            return;
        }
        let Some(kernel) = self.kernel(module, name) else { return };
        let fits = kernel.parameters.len() == arguments.len()
            && kernel.parameters.iter().zip(arguments).all(|(p, a)| a.fits(*p));
        assert!(fits, "{name} has the parameters {:?}, not {arguments:?}", kernel.parameters);
        let (grid, block) = (grid.map(|n| n as u32), [block as u32, 1, 1]);
        let shared_bytes = shared_bytes as u32;
        let call = || {
            let (name, function, arguments) = ([module.name, name], kernel.function, arguments.to_vec());
            Call::Kernel(Kernel { name, function, grid, block, shared_bytes, arguments })
        };
        if !self.is_made(call) {
            return;
        }
        let mut values = arguments.to_vec();
        let mut addresses: Vec<*mut c_void> = values.iter_mut().map(Argument::address).collect();
        self.attempt(|| {
            // SAFETY: number and types of the arguments were just compared with the kernel's parameters.
            unsafe {
                driver::launch(kernel.function, grid, block, shared_bytes, self.stream(), &mut addresses)
            }
            .map_err(|failure| super::error::Failure {
                text: format!("{name}: {}", failure.text),
                ..failure
            })?;
            self.keep_node()
        });
    }

    /// The kernel, compiled and loaded at its first use.
    fn kernel(&self, module: Module, name: &'static str) -> Option<Loaded> {
        let mut kernels = locked(&self.inner.kernels);
        if let Some(kernel) = kernels.get(&[module.name, name]) {
            return Some(kernel.clone());
        }
        let loaded = self.module(module)?;
        let parameters = parameters(&loaded.source, name);
        assert!(parameters.is_some(), "there is no kernel {name} in {}.cu", module.name);
        let c_name = CString::new(name).unwrap_or_default();
        let shared = self.inner.properties.shared_bytes;
        let function = self.attempt(|| driver::function(loaded.handle, &c_name, shared))?;
        let kernel = Loaded { function, parameters: parameters.unwrap_or_default().into() };
        kernels.insert([module.name, name], kernel.clone());
        Some(kernel)
    }

    fn module(&self, module: Module) -> Option<LoadedModule> {
        let mut modules = locked(&self.inner.modules);
        match modules.entry(module.name) {
            Entry::Occupied(entry) => Some(entry.get().clone()),
            Entry::Vacant(entry) => {
                let source: Arc<str> = module.source().into();
                let text = CString::new(&*source).unwrap_or_default();
                let handle = self.attempt(|| Ok(self.load(&text, module)))?;
                match handle {
                    Ok(handle) => Some(entry.insert(LoadedModule { handle, source }).clone()),
                    Err(error) => {
                        self.fail(self.explain(error));
                        None
                    }
                }
            }
        }
    }

    /// A compiler that is older than the GPU is the likely cause of an error here.
    fn explain(&self, error: EngineError) -> EngineError {
        match error {
            EngineError::Cuda { call, code, text } => {
                let (major, minor) = self.capability();
                EngineError::Cuda {
                    call,
                    code,
                    text: format!("{text} (for compute capability {major}.{minor})"),
                }
            }
            other => other,
        }
    }
}

/// The parameters of `extern "C" __global__ void NAME(..)` in a source.
fn parameters(source: &str, name: &str) -> Option<Vec<Parameter>> {
    let start = source.match_indices(name).find_map(|(at, _)| {
        let before = source[..at].trim_end();
        let after = source[at + name.len()..].trim_start();
        let is_kernel = before.ends_with("void") && before[..before.len() - 4].contains("__global__");
        (is_kernel && after.starts_with('(')).then(|| source.len() - after.len() + 1)
    })?;
    let list = &source[start..start + source[start..].find(')')?];
    let one = |text: &str| {
        let words: Vec<&str> = text.split_whitespace().filter(|w| *w != "const").collect();
        if text.contains('*') {
            return Some(Parameter::Pointer);
        }
        match words[..words.len().saturating_sub(1)] {
            ["int"] => Some(Parameter::I32),
            ["unsigned"] | ["unsigned", "int"] => Some(Parameter::U32),
            ["float"] => Some(Parameter::F32),
            ["unsigned", "long", "long"] | ["u64"] => Some(Parameter::U64),
            _ => None,
        }
    };
    list.split(',').map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_runs_on_the_device() {
        let Some(device) = crate::testing::gpu() else { return };
        let cuda = device.cuda().unwrap();
        let (a, b): (Vec<f32>, Vec<f32>) = (0..1000).map(|i| (i as f32, 0.5 * i as f32)).unzip();
        let (sum, addend) = (cuda.upload(&a), cuda.upload(&b));
        let arguments = [sum.ptr().into(), addend.ptr().into(), 0_i32.into(), 1000_u64.into()];
        let module = Module { name: "elementwise", text: include_str!("kernels/elementwise.cu") };
        cuda.launch(module, "add", [4, 1, 1], 256, 0, &arguments);
        cuda.check().unwrap();
        let mut found = vec![0.0_f32; 1000];
        cuda.download(&mut found, sum.ptr());
        assert!(found.iter().zip(&a).all(|(x, a)| x.to_bits() == (1.5 * a).to_bits()));
    }

    #[test]
    fn parameters_are_read_from_the_source() {
        use Parameter::{F32, I32, Pointer, U32, U64};
        let source = "__device__ void scale_row(int a) {}\n\
             extern \"C\" __global__ void __launch_bounds__(256) other(float x) {}\n\
             extern \"C\" __global__ void scale(const float *__restrict__ x, unsigned short* y,\n\
             \x20   int rows, unsigned n, const float by, unsigned long long key) { scale_row(1); }";
        assert_eq!(parameters(source, "scale"), Some(vec![Pointer, Pointer, I32, U32, F32, U64]));
        assert_eq!(parameters(source, "scale_ro"), None);
        assert_eq!(parameters(source, "missing"), None);
    }
}
