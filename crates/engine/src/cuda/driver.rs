//! The calls into CUDA's libraries, as functions that return a result: driver, NVRTC, cuBLASLt.
//!
//! Owns: every foreign call of the CUDA side, and the error type that names them. Never: decides anything, keeps
//! state. Only called after [`super::libraries`] has found the libraries: the loader below panics without them.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

use cudarc::cublaslt::sys as lt;
use cudarc::driver::sys as cu;
use cudarc::nvrtc::sys as nvrtc;

use super::error::Failure;

pub(super) use cu::{CUcontext, CUevent, CUfunction, CUgraph, CUgraphExec, CUgraphNode, CUmodule, CUstream};

macro_rules! driver {
    ($call:ident($($argument:expr),* $(,)?)) => {{
        // SAFETY: the caller of this module's function vouches for the arguments; out-parameters are locals.
        let code = unsafe { cu::$call($($argument),*) };
        if code == cu::CUresult::CUDA_SUCCESS { Ok(()) } else { Err(driver_failure(stringify!($call), code)) }
    }};
}

macro_rules! compiler {
    ($call:ident($($argument:expr),* $(,)?)) => {{
        // SAFETY: as above.
        let code = unsafe { nvrtc::$call($($argument),*) };
        if code == nvrtc::nvrtcResult::NVRTC_SUCCESS {
            Ok(())
        } else {
            Err(Failure { call: stringify!($call), code: code as i64, text: format!("{code:?}") })
        }
    }};
}

macro_rules! cublaslt {
    ($call:ident($($argument:expr),* $(,)?)) => {{
        // SAFETY: as above.
        let code = unsafe { lt::$call($($argument),*) };
        if code == lt::cublasStatus_t::CUBLAS_STATUS_SUCCESS {
            Ok(())
        } else {
            Err(Failure { call: stringify!($call), code: code as i64, text: format!("{code:?}") })
        }
    }};
}

fn driver_failure(call: &'static str, code: cu::CUresult) -> Failure {
    let mut text = ptr::null();
    // SAFETY: the driver writes a pointer to a string of its own, which lives as long as the library.
    let described = unsafe { cu::cuGetErrorString(code, &raw mut text) } == cu::CUresult::CUDA_SUCCESS;
    let text = if described && !text.is_null() {
        // SAFETY: as above; strings of the driver end with a zero.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    } else {
        format!("{code:?}")
    };
    Failure { call, code: code as i64, text }
}

/// Whether the loader finds the libraries by the names it knows: driver, NVRTC, cuBLASLt.
pub(super) fn present() -> [bool; 3] {
    // SAFETY: loading NVIDIA's libraries runs their initialisers, which is what asking for a GPU means.
    unsafe { [cu::is_culib_present(), nvrtc::is_culib_present(), lt::is_culib_present()] }
}

/// What a device is.
#[derive(Clone, Debug)]
pub(super) struct Properties {
    pub(super) handle: i32,
    pub(super) name: String,
    pub(super) total_bytes: usize,
    pub(super) capability: (i32, i32),
    pub(super) shared_bytes: i32,
}

/// Starts the driver; the number of devices.
pub(super) fn start() -> Result<usize, Failure> {
    driver!(cuInit(0))?;
    let mut count = 0;
    driver!(cuDeviceGetCount(&raw mut count))?;
    Ok(count.max(0) as usize)
}

/// The newest CUDA version the driver knows, as 13000 for 13.0.
pub(super) fn driver_version() -> Result<i32, Failure> {
    let mut version = 0;
    driver!(cuDriverGetVersion(&raw mut version))?;
    Ok(version)
}

pub(super) fn properties(ordinal: usize) -> Result<Properties, Failure> {
    use cu::CUdevice_attribute as Attribute;
    let mut handle = 0;
    driver!(cuDeviceGet(&raw mut handle, ordinal as c_int))?;
    let mut name = [0 as c_char; 256];
    driver!(cuDeviceGetName(name.as_mut_ptr(), 255, handle))?;
    let mut total_bytes = 0;
    driver!(cuDeviceTotalMem_v2(&raw mut total_bytes, handle))?;
    let attribute = |which| {
        let mut value = 0;
        driver!(cuDeviceGetAttribute(&raw mut value, which, handle)).map(|()| value)
    };
    let bytes: Vec<u8> = name.iter().take_while(|&&c| c != 0).map(|&c| c as u8).collect();
    Ok(Properties {
        handle,
        name: String::from_utf8_lossy(&bytes).into_owned(),
        total_bytes,
        capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        shared_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
    })
}

/// The device's primary context and a stream of its own in it.
pub(super) fn open(device: i32) -> Result<(CUcontext, CUstream), Failure> {
    let mut context = ptr::null_mut();
    driver!(cuDevicePrimaryCtxRetain(&raw mut context, device))?;
    set_current(context)?;
    let mut stream = ptr::null_mut();
    driver!(cuStreamCreate(&raw mut stream, cu::CUstream_flags::CU_STREAM_NON_BLOCKING as u32))?;
    Ok((context, stream))
}

pub(super) fn close(device: i32, stream: CUstream) -> Result<(), Failure> {
    driver!(cuStreamSynchronize(stream))?;
    driver!(cuStreamDestroy_v2(stream))?;
    driver!(cuDevicePrimaryCtxRelease_v2(device))
}

pub(super) fn set_current(context: CUcontext) -> Result<(), Failure> {
    driver!(cuCtxSetCurrent(context))
}

pub(super) fn synchronize(stream: CUstream) -> Result<(), Failure> {
    driver!(cuStreamSynchronize(stream))
}

/// Free and total bytes of the current device.
pub(super) fn memory() -> Result<(usize, usize), Failure> {
    let (mut free, mut total) = (0, 0);
    driver!(cuMemGetInfo_v2(&raw mut free, &raw mut total))?;
    Ok((free, total))
}

/// `None` when the device has not so much left.
pub(super) fn allocate(bytes: usize) -> Result<Option<u64>, Failure> {
    let mut address = 0;
    // SAFETY: the out-parameter is a local.
    match unsafe { cu::cuMemAlloc_v2(&raw mut address, bytes) } {
        cu::CUresult::CUDA_SUCCESS => Ok(Some(address)),
        cu::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Ok(None),
        code => Err(driver_failure("cuMemAlloc", code)),
    }
}

/// Gives memory back; the caller has no more work for it on any stream.
pub(super) fn free(address: u64) -> Result<(), Failure> {
    driver!(cuMemFree_v2(address))
}

pub(super) fn zero(address: u64, bytes: usize, stream: CUstream) -> Result<(), Failure> {
    driver!(cuMemsetD8Async(address, 0, bytes, stream))
}

pub(super) fn copy(to: u64, from: u64, bytes: usize, stream: CUstream) -> Result<(), Failure> {
    driver!(cuMemcpyDtoDAsync_v2(to, from, bytes, stream))
}

/// Copies to the device. From ordinary memory, the driver has taken its own copy when this returns; pinned memory must be
/// left alone until the stream has done the copy.
pub(super) fn upload(to: u64, from: &[u8], stream: CUstream) -> Result<(), Failure> {
    driver!(cuMemcpyHtoDAsync_v2(to, from.as_ptr().cast(), from.len(), stream))
}

/// Copies to the host, after all that the stream was given before.
pub(super) fn download(to: &mut [u8], from: u64, stream: CUstream) -> Result<(), Failure> {
    driver!(cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from, to.len(), stream))?;
    synchronize(stream)
}

/// Loads a compiled module.
pub(super) fn load_module(cubin: &[u8]) -> Result<CUmodule, Failure> {
    let mut module = ptr::null_mut();
    driver!(cuModuleLoadData(&raw mut module, cubin.as_ptr().cast()))?;
    Ok(module)
}

/// A kernel of a module, allowed all the shared memory there is: `shared_bytes`, less what it declares itself.
pub(super) fn function(module: CUmodule, name: &CStr, shared_bytes: i32) -> Result<CUfunction, Failure> {
    use cu::CUfunction_attribute as Attribute;
    let mut function = ptr::null_mut();
    driver!(cuModuleGetFunction(&raw mut function, module, name.as_ptr()))?;
    let mut fixed = 0;
    driver!(cuFuncGetAttribute(&raw mut fixed, Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, function))?;
    let dynamic = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    driver!(cuFuncSetAttribute(function, dynamic, shared_bytes - fixed))?;
    Ok(function)
}

/// Launches a kernel.
///
/// # Safety
/// `arguments` point to values of the types that the kernel declares, one for each of its parameters, and what
/// they point to on the device is as large as the kernel reads and writes.
pub(super) unsafe fn launch(
    function: CUfunction,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    stream: CUstream,
    arguments: &mut [*mut c_void],
) -> Result<(), Failure> {
    driver!(cuLaunchKernel(
        function,
        grid[0],
        grid[1],
        grid[2],
        block[0],
        block[1],
        block[2],
        shared_bytes,
        stream,
        arguments.as_mut_ptr(),
        ptr::null_mut(),
    ))
}

/// A stream beside the context's own, for copies.
pub(super) fn another_stream() -> Result<CUstream, Failure> {
    let mut stream = ptr::null_mut();
    driver!(cuStreamCreate(&raw mut stream, cu::CUstream_flags::CU_STREAM_NON_BLOCKING as u32))?;
    Ok(stream)
}

pub(super) fn destroy_stream(stream: CUstream) -> Result<(), Failure> {
    driver!(cuStreamDestroy_v2(stream))
}

/// A mark in a stream, without a time.
pub(super) fn event() -> Result<CUevent, Failure> {
    let mut event = ptr::null_mut();
    driver!(cuEventCreate(&raw mut event, cu::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32))?;
    Ok(event)
}

pub(super) fn destroy_event(event: CUevent) -> Result<(), Failure> {
    driver!(cuEventDestroy_v2(event))
}

/// Marks the end of what the stream was given so far.
pub(super) fn record_event(event: CUevent, stream: CUstream) -> Result<(), Failure> {
    driver!(cuEventRecord(event, stream))
}

/// Work given to the stream from now on waits for the mark; nothing to wait for before its first record.
pub(super) fn wait_in_stream(stream: CUstream, event: CUevent) -> Result<(), Failure> {
    driver!(cuStreamWaitEvent(stream, event, 0))
}

/// The host waits for the mark.
pub(super) fn wait_for_event(event: CUevent) -> Result<(), Failure> {
    driver!(cuEventSynchronize(event))
}

/// Host memory that the device reads by itself; `None` when the system gives none.
pub(super) fn allocate_pinned(bytes: usize) -> Result<Option<*mut u8>, Failure> {
    let mut memory: *mut c_void = ptr::null_mut();
    // SAFETY: the out-parameter is a local.
    match unsafe { cu::cuMemHostAlloc(&raw mut memory, bytes, 0) } {
        cu::CUresult::CUDA_SUCCESS => Ok(Some(memory.cast())),
        cu::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Ok(None),
        code => Err(driver_failure("cuMemHostAlloc", code)),
    }
}

pub(super) fn free_pinned(memory: *mut u8) -> Result<(), Failure> {
    driver!(cuMemFreeHost(memory.cast()))
}

/// From here on the stream's work is not done but gathered. Calls that other threads make meanwhile do not matter.
pub(super) fn begin_capture(stream: CUstream) -> Result<(), Failure> {
    driver!(cuStreamBeginCapture_v2(stream, cu::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED))
}

/// The work that was gathered.
pub(super) fn end_capture(stream: CUstream) -> Result<CUgraph, Failure> {
    let mut graph = ptr::null_mut();
    driver!(cuStreamEndCapture(stream, &raw mut graph))?;
    Ok(graph)
}

/// The node of what the stream was given last.
pub(super) fn captured_node(stream: CUstream) -> Result<CUgraphNode, Failure> {
    let mut status = cu::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
    let (mut id, mut graph, mut nodes, mut edges, mut count) =
        (0, ptr::null_mut(), ptr::null(), ptr::null(), 0);
    driver!(cuStreamGetCaptureInfo_v3(
        stream,
        &raw mut status,
        &raw mut id,
        &raw mut graph,
        &raw mut nodes,
        &raw mut edges,
        &raw mut count
    ))?;
    if count != 1 || nodes.is_null() {
        let text = format!("{count} nodes are last in a capture of one stream");
        return Err(Failure { call: "cuStreamGetCaptureInfo", code: 0, text });
    }
    // SAFETY: the driver says that there is one, valid until the next call on this stream.
    Ok(unsafe { *nodes })
}

/// Makes gathered work ready to be launched.
pub(super) fn instantiate(graph: CUgraph) -> Result<CUgraphExec, Failure> {
    let mut executable = ptr::null_mut();
    driver!(cuGraphInstantiateWithFlags(&raw mut executable, graph, 0))?;
    Ok(executable)
}

pub(super) fn launch_graph(executable: CUgraphExec, stream: CUstream) -> Result<(), Failure> {
    driver!(cuGraphLaunch(executable, stream))
}

pub(super) fn destroy_graph(graph: CUgraph) -> Result<(), Failure> {
    driver!(cuGraphDestroy(graph))
}

pub(super) fn destroy_executable(executable: CUgraphExec) -> Result<(), Failure> {
    driver!(cuGraphExecDestroy(executable))
}

/// Changes a kernel's grid and arguments in the launches to come.
///
/// # Safety
/// As for [`launch`]; `node` is of the graph that `executable` was made from, and of `function`.
pub(super) unsafe fn set_kernel(
    executable: CUgraphExec,
    node: CUgraphNode,
    function: CUfunction,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    arguments: &mut [*mut c_void],
) -> Result<(), Failure> {
    let parameters = cu::CUDA_KERNEL_NODE_PARAMS {
        func: function,
        gridDimX: grid[0],
        gridDimY: grid[1],
        gridDimZ: grid[2],
        blockDimX: block[0],
        blockDimY: block[1],
        blockDimZ: block[2],
        sharedMemBytes: shared_bytes,
        kernelParams: arguments.as_mut_ptr(),
        extra: ptr::null_mut(),
        kern: ptr::null_mut(),
        ctx: ptr::null_mut(),
    };
    driver!(cuGraphExecKernelNodeSetParams_v2(executable, node, &raw const parameters))
}

/// NVRTC's version.
pub(super) fn compiler_version() -> Result<(i32, i32), Failure> {
    let (mut major, mut minor) = (0, 0);
    compiler!(nvrtcVersion(&raw mut major, &raw mut minor))?;
    Ok((major, minor))
}

/// Compiles a source to the machine code of one architecture; what the compiler wrote on failure.
pub(super) fn compile(source: &CStr, name: &CStr, options: &[CString]) -> Result<Vec<u8>, Failure> {
    let mut program = ptr::null_mut();
    let none = ptr::null();
    compiler!(nvrtcCreateProgram(&raw mut program, source.as_ptr(), name.as_ptr(), 0, none, none))?;
    let compiled = compile_program(program, options);
    let destroyed = compiler!(nvrtcDestroyProgram(&raw mut program));
    let cubin = compiled?;
    destroyed?;
    Ok(cubin)
}

fn compile_program(program: nvrtc::nvrtcProgram, options: &[CString]) -> Result<Vec<u8>, Failure> {
    let options: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
    compiler!(nvrtcCompileProgram(program, options.len() as c_int, options.as_ptr())).map_err(|failure| {
        let text = format!("{}\n{}", failure.text, program_log(program).unwrap_or_default());
        Failure { text, ..failure }
    })?;
    let mut bytes = 0;
    compiler!(nvrtcGetCUBINSize(program, &raw mut bytes))?;
    let mut cubin = vec![0_u8; bytes];
    compiler!(nvrtcGetCUBIN(program, cubin.as_mut_ptr().cast()))?;
    Ok(cubin)
}

fn program_log(program: nvrtc::nvrtcProgram) -> Result<String, Failure> {
    let mut bytes = 0;
    compiler!(nvrtcGetProgramLogSize(program, &raw mut bytes))?;
    let mut log = vec![0_u8; bytes];
    compiler!(nvrtcGetProgramLog(program, log.as_mut_ptr().cast()))?;
    Ok(String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned())
}

/// One matmul's shape in cuBLASLt's terms: column-major, `d[m, n] = op(a) op(b) (+ d)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) transposed: [bool; 2],
    /// Leading dimensions of a, b, d.
    pub(super) ld: [usize; 3],
    /// Whether a and b are bf16, and whether d is.
    pub(super) bf16: [bool; 2],
    /// Bytes that the addresses of a, b, d are multiples of.
    pub(super) alignment: [u32; 3],
    pub(super) finish: Finish,
}

/// What is done to a bf16 product before it is written, each row of d having a value of the bias, in bf16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Finish {
    /// Nothing: there is no bias.
    Nothing,
    Bias,
    /// ReLU of the biased product.
    BiasRelu,
    /// GELU (in its tanh form) of the biased product.
    BiasGelu,
    /// As before; the biased product is kept, in a matrix like d.
    KeptBiasGelu,
}

impl Finish {
    fn number(self) -> u32 {
        use lt::cublasLtEpilogue_t as Epilogue;
        let epilogue = match self {
            Self::Nothing => Epilogue::CUBLASLT_EPILOGUE_DEFAULT,
            Self::Bias => Epilogue::CUBLASLT_EPILOGUE_BIAS,
            Self::BiasRelu => Epilogue::CUBLASLT_EPILOGUE_RELU_BIAS,
            Self::BiasGelu => Epilogue::CUBLASLT_EPILOGUE_GELU_BIAS,
            Self::KeptBiasGelu => Epilogue::CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
        };
        epilogue as u32
    }
}

/// What a matmul reads and writes: the addresses of a, b and d; of the bias and of the kept product, 0 where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) operands: [u64; 3],
    pub(super) bias: u64,
    pub(super) kept: u64,
}

/// A matmul that is ready to run: descriptors and the algorithm the heuristic chose.
#[derive(Debug)]
pub(super) struct Plan {
    description: lt::cublasLtMatmulDesc_t,
    finish: Finish,
    layouts: [lt::cublasLtMatrixLayout_t; 3],
    algorithm: Option<lt::cublasLtMatmulAlgo_t>,
}

/// cuBLASLt's handle.
#[derive(Clone, Copy, Debug)]
pub(super) struct CublasLt(lt::cublasLtHandle_t);

// SAFETY: cuBLASLt's handle and descriptors may be used from any thread; the plans are only read after they are made.
unsafe impl Send for CublasLt {}
// SAFETY: as above.
unsafe impl Sync for CublasLt {}
// SAFETY: as above.
unsafe impl Send for Plan {}
// SAFETY: as above.
unsafe impl Sync for Plan {}

impl Drop for Plan {
    fn drop(&mut self) {
        for layout in self.layouts.into_iter().filter(|l| !l.is_null()) {
            let _: Result<(), Failure> = cublaslt!(cublasLtMatrixLayoutDestroy(layout));
        }
        if !self.description.is_null() {
            let _: Result<(), Failure> = cublaslt!(cublasLtMatmulDescDestroy(self.description));
        }
    }
}

impl Plan {
    fn describe<T>(&self, attribute: lt::cublasLtMatmulDescAttributes_t, value: &T) -> Result<(), Failure> {
        let (value, bytes) = (ptr::from_ref(value).cast(), size_of::<T>());
        cublaslt!(cublasLtMatmulDescSetAttribute(self.description, attribute, value, bytes))
    }

    /// Says where the bias and the kept product are.
    fn point(&self, addresses: &Addresses) -> Result<(), Failure> {
        use lt::cublasLtMatmulDescAttributes_t as Describe;
        if self.finish != Finish::Nothing {
            self.describe(Describe::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &addresses.bias)?;
        }
        if self.finish == Finish::KeptBiasGelu {
            self.describe(Describe::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &addresses.kept)?;
        }
        Ok(())
    }
}

impl CublasLt {
    pub(super) fn new() -> Result<Self, Failure> {
        let mut handle = ptr::null_mut();
        cublaslt!(cublasLtCreate(&raw mut handle))?;
        Ok(Self(handle))
    }

    pub(super) fn destroy(self) -> Result<(), Failure> {
        cublaslt!(cublasLtDestroy(self.0))
    }

    /// Descriptors for a shape, and the first algorithm the library offers for it and for addresses like these.
    pub(super) fn plan(
        self,
        shape: &Shape,
        addresses: &Addresses,
        workspace_bytes: usize,
    ) -> Result<Plan, Failure> {
        use lt::cublasLtMatmulDescAttributes_t as Describe;
        let mut plan = Plan {
            description: ptr::null_mut(),
            finish: shape.finish,
            layouts: [ptr::null_mut(); 3],
            algorithm: None,
        };
        // Without CUBLAS_COMPUTE_32F_FAST_*, f32 operands are multiplied as f32.
        let (compute, scale) = (lt::cublasComputeType_t::CUBLAS_COMPUTE_32F, lt::cudaDataType_t::CUDA_R_32F);
        cublaslt!(cublasLtMatmulDescCreate(&raw mut plan.description, compute, scale))?;
        let attributes = [Describe::CUBLASLT_MATMUL_DESC_TRANSA, Describe::CUBLASLT_MATMUL_DESC_TRANSB];
        for (attribute, transposed) in attributes.into_iter().zip(shape.transposed) {
            let operation: i32 = i32::from(transposed); // CUBLAS_OP_N, CUBLAS_OP_T
            plan.describe(attribute, &operation)?;
        }
        if shape.finish != Finish::Nothing {
            let (epilogue, ld) = (shape.finish.number(), shape.ld[2] as i64);
            plan.describe(Describe::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
            if shape.finish == Finish::KeptBiasGelu {
                plan.describe(Describe::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &ld)?;
            }
            plan.point(addresses)?;
        }
        let turned = |flag: bool, rows: usize, cols: usize| if flag { (cols, rows) } else { (rows, cols) };
        let sizes = [
            turned(shape.transposed[0], shape.m, shape.k),
            turned(shape.transposed[1], shape.k, shape.n),
            (shape.m, shape.n),
        ];
        for (i, (rows, cols)) in sizes.into_iter().enumerate() {
            let bf16 = shape.bf16[i / 2];
            let kind = if bf16 { lt::cudaDataType_t::CUDA_R_16BF } else { lt::cudaDataType_t::CUDA_R_32F };
            let (rows, cols, ld) = (rows as u64, cols as u64, shape.ld[i] as i64);
            cublaslt!(cublasLtMatrixLayoutCreate(&raw mut plan.layouts[i], kind, rows, cols, ld))?;
        }
        plan.algorithm = Some(self.choose(&plan, shape, workspace_bytes)?);
        Ok(plan)
    }

    fn choose(
        self,
        plan: &Plan,
        shape: &Shape,
        workspace_bytes: usize,
    ) -> Result<lt::cublasLtMatmulAlgo_t, Failure> {
        use lt::cublasLtMatmulPreferenceAttributes_t as Prefer;
        let mut preference = ptr::null_mut();
        cublaslt!(cublasLtMatmulPreferenceCreate(&raw mut preference))?;
        let set = || {
            let (value, bytes) = (ptr::from_ref(&workspace_bytes).cast(), size_of::<usize>());
            let most = Prefer::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            cublaslt!(cublasLtMatmulPreferenceSetAttribute(preference, most, value, bytes))?;
            let [a, b, d] = shape.alignment;
            // Where the sum over k is split, no part is rounded to a narrow output before it is added.
            let narrow = lt::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
            let any = lt::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_MASK as u32;
            for (attribute, number) in [
                (
                    Prefer::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                    if shape.bf16[1] { narrow } else { any },
                ),
                (Prefer::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, a),
                (Prefer::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, b),
                (Prefer::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, d),
                (Prefer::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, d),
            ] {
                let (value, bytes) = (ptr::from_ref(&number).cast(), size_of::<u32>());
                cublaslt!(cublasLtMatmulPreferenceSetAttribute(preference, attribute, value, bytes))?;
            }
            let mut found = std::mem::MaybeUninit::<lt::cublasLtMatmulHeuristicResult_t>::zeroed();
            let mut count = 0;
            cublaslt!(cublasLtMatmulAlgoGetHeuristic(
                self.0,
                plan.description,
                plan.layouts[0],
                plan.layouts[1],
                plan.layouts[2],
                plan.layouts[2],
                preference,
                1,
                found.as_mut_ptr(),
                &raw mut count,
            ))?;
            if count < 1 {
                let (call, text) = ("cublasLtMatmulAlgoGetHeuristic", format!("no algorithm for {shape:?}"));
                return Err(Failure { call, code: 0, text });
            }
            // SAFETY: the library wrote one result, as its count says.
            Ok(unsafe { found.assume_init() }.algo)
        };
        let chosen = set();
        cublaslt!(cublasLtMatmulPreferenceDestroy(preference))?;
        chosen
    }

    /// Runs a planned matmul. One at a time: a plan has the addresses of bias and kept product in its description, and a matmul may be
    /// several kernels that meet in the workspace, between which no other's may be queued.
    ///
    /// # Safety
    /// The addresses are those of matrices on the device as large as the plan's shape says.
    pub(super) unsafe fn run(
        self,
        plan: &Plan,
        addresses: &Addresses,
        accumulate: bool,
        workspace: (u64, usize),
        stream: CUstream,
    ) -> Result<(), Failure> {
        let (one, beta) = (1.0_f32, if accumulate { 1.0_f32 } else { 0.0 });
        let [a, b, d] = addresses.operands;
        plan.point(addresses)?;
        let algorithm = plan.algorithm.as_ref().map_or(ptr::null(), ptr::from_ref);
        cublaslt!(cublasLtMatmul(
            self.0,
            plan.description,
            ptr::from_ref(&one).cast(),
            a as *const c_void,
            plan.layouts[0],
            b as *const c_void,
            plan.layouts[1],
            ptr::from_ref(&beta).cast(),
            d as *const c_void,
            plan.layouts[2],
            d as *mut c_void,
            plan.layouts[2],
            algorithm,
            workspace.0 as *mut c_void,
            workspace.1,
            stream.cast(),
        ))
    }
}
