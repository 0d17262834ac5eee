//! The emulated CUDA libraries themselves: that they compute what a GPU computes, and report what a GPU would not
//! forgive. Runs on a real GPU too (`HEADSTART_TEST_CUDA=real`), without the parts that only the emulator reports.
//!
//! Owns: the checks of the emulator. Never: tests the engine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::undocumented_unsafe_blocks,
    reason = "plain calls of a C interface, in the order that its manual asks for"
)]

#[path = "emulator/mod.rs"]
mod emulator;
#[path = "emulator/load.rs"]
mod load;

use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::{Mutex, MutexGuard};

use cu::CUresult::{
    CUDA_ERROR_ILLEGAL_ADDRESS, CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_LAUNCH_FAILED, CUDA_ERROR_OUT_OF_MEMORY,
    CUDA_SUCCESS,
};
use cudarc::cublaslt::sys as lt;
use cudarc::driver::sys as cu;
use cudarc::nvrtc::sys as nvrtc;

const KERNELS: &str = r#"
extern "C" __global__ void block_sums(const float *x, float *sums, int n) {
    __shared__ float parts[32];
    float s = 0.0f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) s += x[(size_t)blockIdx.x * n + i];
    for (int step = 16; step > 0; step /= 2) s += __shfl_down_sync(0xffffffffu, s, step);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = s;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (unsigned w = 1; w < blockDim.x / 32; w++) s += parts[w];
        sums[blockIdx.x] = s;
    }
}
extern "C" __global__ void __launch_bounds__(256) transpose(const float *__restrict__ x, float *__restrict__ y, int n) {
    extern __shared__ __align__(16) float tile[];
    int r = blockIdx.y * 16 + threadIdx.y, c = blockIdx.x * 16 + threadIdx.x;
    tile[threadIdx.y * 17 + threadIdx.x] = r < n && c < n ? x[r * n + c] : 0.0f;
    __syncthreads();
    r = blockIdx.x * 16 + threadIdx.y; c = blockIdx.y * 16 + threadIdx.x;
    if (r < n && c < n) y[r * n + c] = tile[threadIdx.x * 17 + threadIdx.y];
}
extern "C" __global__ void divergent(float *y) {
    if (threadIdx.x < 10) __syncthreads();
    y[threadIdx.x] = 1.0f;
}
extern "C" __global__ void half_a_warp(float *y) {
    if (threadIdx.x % 32 < 16) y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
}
// Without a barrier between writing and reading.
extern "C" __global__ void racing(float *y) {
    __shared__ float x[64];
    x[threadIdx.x] = threadIdx.x;
    y[threadIdx.x] = x[63 - threadIdx.x];
}
extern "C" __global__ void past_the_end(float *y, int n) { y[n + threadIdx.x] = 1.0f; }
extern "C" __global__ void count(unsigned *n) { atomicAdd(n, 1u); }
"#;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The device, for one test at a time: context, stream, the kernels above.
struct Gpu {
    stream: cu::CUstream,
    module: cu::CUmodule,
    _turn: MutexGuard<'static, ()>,
}

fn ok(code: cu::CUresult) {
    assert_eq!(code, CUDA_SUCCESS);
}

fn compile(source: &str) -> Result<Vec<u8>, String> {
    let (source, name) = (CString::new(source).unwrap(), c"test.cu");
    let option = c"--gpu-architecture=sm_90";
    let mut program = ptr::null_mut();
    unsafe {
        nvrtc::nvrtcCreateProgram(
            &raw mut program,
            source.as_ptr(),
            name.as_ptr(),
            0,
            ptr::null(),
            ptr::null(),
        )
        .result()
        .unwrap();
        let compiled = nvrtc::nvrtcCompileProgram(program, 1, [option.as_ptr()].as_ptr());
        let mut bytes = 0;
        nvrtc::nvrtcGetProgramLogSize(program, &raw mut bytes).result().unwrap();
        let mut log = vec![0_u8; bytes];
        nvrtc::nvrtcGetProgramLog(program, log.as_mut_ptr().cast()).result().unwrap();
        if compiled != nvrtc::nvrtcResult::NVRTC_SUCCESS {
            return Err(String::from_utf8_lossy(&log).into_owned());
        }
        nvrtc::nvrtcGetCUBINSize(program, &raw mut bytes).result().unwrap();
        let mut cubin = vec![0_u8; bytes];
        nvrtc::nvrtcGetCUBIN(program, cubin.as_mut_ptr().cast()).result().unwrap();
        nvrtc::nvrtcDestroyProgram(&raw mut program).result().unwrap();
        Ok(cubin)
    }
}

impl Gpu {
    fn new() -> Option<Self> {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !load::ready() {
            return None;
        }
        let cubin = compile(KERNELS).unwrap();
        let (mut context, mut stream, mut module) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        unsafe {
            ok(cu::cuInit(0));
            ok(cu::cuDevicePrimaryCtxRetain(&raw mut context, 0));
            ok(cu::cuCtxSetCurrent(context));
            ok(cu::cuStreamCreate(&raw mut stream, 1));
            ok(cu::cuModuleLoadData(&raw mut module, cubin.as_ptr().cast()));
        }
        Some(Self { stream, module, _turn: turn })
    }

    /// The same, where only the emulator can be asked.
    fn emulated() -> Option<Self> {
        Self::new().filter(|_| load::control(c"emulator_launches").is_some())
    }

    fn upload<T: Copy>(&self, values: &[T]) -> u64 {
        let mut address = 0;
        unsafe {
            ok(cu::cuMemAlloc_v2(&raw mut address, size_of_val(values)));
            ok(cu::cuMemcpyHtoDAsync_v2(address, values.as_ptr().cast(), size_of_val(values), self.stream));
        }
        address
    }

    fn download<T: Copy + Default>(&self, address: u64, n: usize) -> Vec<T> {
        let mut values = vec![T::default(); n];
        unsafe {
            ok(cu::cuMemcpyDtoHAsync_v2(
                values.as_mut_ptr().cast(),
                address,
                n * size_of::<T>(),
                self.stream,
            ));
        };
        ok(self.wait());
        values
    }

    fn wait(&self) -> cu::CUresult {
        unsafe { cu::cuStreamSynchronize(self.stream) }
    }

    fn launch(
        &self,
        name: &str,
        grid: [u32; 2],
        block: [u32; 2],
        shared: u32,
        arguments: &[u64],
    ) -> cu::CUresult {
        let mut function = ptr::null_mut();
        let name = CString::new(name).unwrap();
        let mut pointers: Vec<*mut c_void> =
            arguments.iter().map(|x| ptr::from_ref(x).cast_mut().cast()).collect();
        unsafe {
            ok(cu::cuModuleGetFunction(&raw mut function, self.module, name.as_ptr()));
            let ([gx, gy], [bx, by]) = (grid, block);
            cu::cuLaunchKernel(
                function,
                gx,
                gy,
                1,
                bx,
                by,
                1,
                shared,
                self.stream,
                pointers.as_mut_ptr(),
                ptr::null_mut(),
            )
        }
    }

    /// Expects the error, when the work is launched or when it is waited for, and forgets it.
    fn breaks(&self, launched: cu::CUresult, expected: cu::CUresult) {
        let code = if launched == CUDA_SUCCESS { self.wait() } else { launched };
        assert_eq!(code, expected);
        // Until then, nothing works any more.
        assert_eq!(self.wait(), expected);
        load::control(c"emulator_clear_error").unwrap()(0);
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        unsafe {
            let _ = cu::cuModuleUnload(self.module);
            let _ = cu::cuStreamDestroy_v2(self.stream);
            let _ = cu::cuDevicePrimaryCtxRelease_v2(0);
        }
    }
}

#[test]
fn sums_of_blocks_by_shuffles() {
    let Some(gpu) = Gpu::new() else { return };
    let (blocks, n) = (37, 1000);
    let x: Vec<f32> = (0..blocks * n).map(|i| (i % 17) as f32).collect();
    let (x_at, sums) = (gpu.upload(&x), gpu.upload(&vec![0.0_f32; blocks]));
    ok(gpu.launch("block_sums", [blocks as u32, 1], [256, 1], 0, &[x_at, sums, n as u64]));
    let expected: Vec<f32> = x.chunks(n).map(|x| x.iter().sum()).collect();
    assert_eq!(gpu.download::<f32>(sums, blocks), expected);
}

#[test]
fn transposes_through_dynamic_shared_memory() {
    let Some(gpu) = Gpu::new() else { return };
    let n = 45;
    let x: Vec<f32> = (0..n * n).map(|i| i as f32).collect();
    let (x_at, y_at) = (gpu.upload(&x), gpu.upload(&vec![0.0_f32; n * n]));
    ok(gpu.launch("transpose", [3, 3], [16, 16], 16 * 17 * 4, &[x_at, y_at, n as u64]));
    let expected: Vec<f32> = (0..n * n).map(|i| (i % n * n + i / n) as f32).collect();
    assert_eq!(gpu.download::<f32>(y_at, n * n), expected);
    // More than a block may have without asking, more threads than the kernel is compiled for.
    assert_eq!(
        gpu.launch("transpose", [3, 3], [16, 16], 50_000, &[x_at, y_at, n as u64]),
        CUDA_ERROR_INVALID_VALUE
    );
    assert_ne!(gpu.launch("transpose", [3, 3], [32, 32], 0, &[x_at, y_at, n as u64]), CUDA_SUCCESS);
}

#[test]
fn counts_with_atomics_in_all_blocks() {
    let Some(gpu) = Gpu::new() else { return };
    let n = gpu.upload(&[0_u32]);
    ok(gpu.launch("count", [100, 1], [96, 1], 0, &[n]));
    assert_eq!(gpu.download::<u32>(n, 1), [9600]);
}

#[test]
fn barriers_that_not_all_threads_reach() {
    let Some(gpu) = Gpu::emulated() else { return };
    let y = gpu.upload(&[0.0_f32; 64]);
    gpu.breaks(gpu.launch("divergent", [1, 1], [64, 1], 0, &[y]), CUDA_ERROR_LAUNCH_FAILED);
    gpu.breaks(gpu.launch("half_a_warp", [1, 1], [64, 1], 0, &[y]), CUDA_ERROR_LAUNCH_FAILED);
    // Afterwards the fibers are whole again.
    ok(gpu.launch("block_sums", [1, 1], [64, 1], 0, &[y, y, 64]));
    ok(gpu.wait());
}

#[test]
fn a_missing_barrier_shows() {
    let Some(gpu) = Gpu::emulated() else { return };
    let y = gpu.upload(&[0.0_f32; 64]);
    ok(gpu.launch("racing", [1, 1], [64, 1], 0, &[y]));
    assert!(gpu.download::<f32>(y, 64).iter().any(|x| x.is_nan()), "unwritten shared memory is NaN");
}

#[test]
fn memory_is_bounded_poisoned_and_limited() {
    let Some(gpu) = Gpu::emulated() else { return };
    let y = gpu.upload(&[1.0_f32; 100]);
    let mut room = vec![0.0_f32; 101];
    unsafe {
        let beyond = cu::cuMemcpyDtoHAsync_v2(room.as_mut_ptr().cast(), y, 404, gpu.stream);
        assert_eq!(beyond, CUDA_ERROR_INVALID_VALUE);
        let mut fresh = 0;
        ok(cu::cuMemAlloc_v2(&raw mut fresh, 40));
        assert!(gpu.download::<f32>(fresh, 10).iter().all(|x| x.is_nan()));
        ok(cu::cuMemFree_v2(fresh));
        assert_eq!(gpu.launch("count", [1, 1], [1, 1], 0, &[fresh]), CUDA_ERROR_INVALID_VALUE);
        let (mut free, mut total, mut much) = (0, 0, 0);
        ok(cu::cuMemGetInfo_v2(&raw mut free, &raw mut total));
        assert_eq!(cu::cuMemAlloc_v2(&raw mut much, free + 1), CUDA_ERROR_OUT_OF_MEMORY);
        ok(cu::cuMemAlloc_v2(&raw mut much, free / 2));
        ok(cu::cuMemFree_v2(much));
    }
    // A page behind the end cannot be touched; a few bytes behind it, the margin is checked.
    gpu.breaks(gpu.launch("past_the_end", [1, 1], [32, 1], 0, &[y, 128]), CUDA_ERROR_ILLEGAL_ADDRESS);
    gpu.breaks(gpu.launch("past_the_end", [1, 1], [1, 1], 0, &[y, 100]), CUDA_ERROR_ILLEGAL_ADDRESS);
}

#[test]
fn work_waits_until_somebody_asks() {
    let Some(gpu) = Gpu::emulated() else { return };
    let n = gpu.upload(&[0_u32]);
    let mut pinned = ptr::null_mut();
    unsafe {
        ok(cu::cuMemHostAlloc(&raw mut pinned, 4, 0));
        ok(gpu.launch("count", [1, 1], [32, 1], 0, &[n]));
        ok(cu::cuMemcpyDtoHAsync_v2(pinned, n, 4, gpu.stream));
        let value = pinned.cast::<u32>();
        assert_ne!(value.read_volatile(), 32, "read before it was waited for");
        ok(gpu.wait());
        assert_eq!(value.read_volatile(), 32);
        // A graph repeats what was captured.
        let (mut graph, mut executable) = (ptr::null_mut(), ptr::null_mut());
        ok(cu::cuStreamBeginCapture_v2(gpu.stream, cu::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED));
        ok(gpu.launch("count", [1, 1], [32, 1], 0, &[n]));
        ok(cu::cuMemcpyDtoHAsync_v2(pinned, n, 4, gpu.stream));
        ok(cu::cuStreamEndCapture(gpu.stream, &raw mut graph));
        ok(cu::cuGraphInstantiateWithFlags(&raw mut executable, graph, 0));
        ok(cu::cuGraphDestroy(graph));
        for round in 2..4 {
            ok(cu::cuGraphLaunch(executable, gpu.stream));
            ok(gpu.wait());
            assert_eq!(value.read_volatile(), 32 * round);
        }
        ok(cu::cuGraphExecDestroy(executable));
        ok(cu::cuMemFreeHost(pinned));
    }
}

#[test]
fn recorded_kernels_take_other_arguments() {
    let Some(gpu) = Gpu::new() else { return };
    let (a, b) = (gpu.upload(&[0_u32]), gpu.upload(&[0_u32]));
    let mut nodes = Vec::new();
    let (mut graph, mut executable, mut function) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
    unsafe {
        ok(cu::cuStreamBeginCapture_v2(gpu.stream, cu::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED));
        for counted in [a, b] {
            ok(gpu.launch("count", [1, 1], [32, 1], 0, &[counted]));
            let mut status = cu::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
            let (mut id, mut under_way, mut last) = (0, ptr::null_mut(), ptr::null());
            let (mut edges, mut count) = (ptr::null(), 0);
            ok(cu::cuStreamGetCaptureInfo_v3(
                gpu.stream,
                &raw mut status,
                &raw mut id,
                &raw mut under_way,
                &raw mut last,
                &raw mut edges,
                &raw mut count,
            ));
            assert_eq!(count, 1);
            nodes.push(*last);
        }
        ok(cu::cuStreamEndCapture(gpu.stream, &raw mut graph));
        ok(cu::cuGraphInstantiateWithFlags(&raw mut executable, graph, 0));
        ok(cu::cuGraphLaunch(executable, gpu.stream));
        // The launch before keeps its arguments.
        ok(cu::cuModuleGetFunction(&raw mut function, gpu.module, c"count".as_ptr()));
        let mut pointers = [ptr::from_ref(&a).cast_mut().cast::<c_void>()];
        let parameters = cu::CUDA_KERNEL_NODE_PARAMS {
            func: function,
            gridDimX: 3,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: 32,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            kernelParams: pointers.as_mut_ptr(),
            extra: ptr::null_mut(),
            kern: ptr::null_mut(),
            ctx: ptr::null_mut(),
        };
        ok(cu::cuGraphExecKernelNodeSetParams_v2(executable, nodes[1], &raw const parameters));
        ok(cu::cuGraphLaunch(executable, gpu.stream));
        let found = [a, b].map(|at| gpu.download::<u32>(at, 1)[0]);
        assert_eq!(found, [32 + 32 + 96, 32]);
        ok(cu::cuGraphExecDestroy(executable));
        ok(cu::cuGraphDestroy(graph));
    }
}

#[test]
fn copies_beside_the_work_wait_and_are_waited_for() {
    let Some(gpu) = Gpu::new() else { return };
    let (landing, place) = (gpu.upload(&[0_u32]), gpu.upload(&[0_u32; 4]));
    ok(gpu.wait()); // the other stream would not wait for these
    let (mut copies, mut pinned) = (ptr::null_mut(), ptr::null_mut());
    let (mut landed, mut taken) = (ptr::null_mut(), ptr::null_mut());
    unsafe {
        ok(cu::cuStreamCreate(&raw mut copies, 1));
        ok(cu::cuMemHostAlloc(&raw mut pinned, 4, 0));
        ok(cu::cuEventCreate(&raw mut landed, 2));
        ok(cu::cuEventCreate(&raw mut taken, 2));
        for round in 0..4_u32 {
            ok(cu::cuEventSynchronize(landed)); // the pinned word has been read
            pinned.cast::<u32>().write_volatile(100 + round);
            ok(cu::cuStreamWaitEvent(copies, taken, 0));
            ok(cu::cuMemcpyHtoDAsync_v2(landing, pinned, 4, copies));
            ok(cu::cuEventRecord(landed, copies));
            ok(cu::cuStreamWaitEvent(gpu.stream, landed, 0));
            ok(cu::cuMemcpyDtoDAsync_v2(place + 4 * u64::from(round), landing, 4, gpu.stream));
            ok(cu::cuEventRecord(taken, gpu.stream));
        }
        assert_eq!(gpu.download::<u32>(place, 4), [100, 101, 102, 103]);
        ok(cu::cuEventDestroy_v2(landed));
        ok(cu::cuEventDestroy_v2(taken));
        ok(cu::cuMemFreeHost(pinned));
        ok(cu::cuStreamDestroy_v2(copies));
    }
}

#[test]
fn a_launch_fails_when_it_is_asked_to() {
    let Some(gpu) = Gpu::emulated() else { return };
    let n = gpu.upload(&[0_u32]);
    let launches = load::control(c"emulator_launches").unwrap()(0);
    load::control(c"emulator_fail_launch").unwrap()(launches + 2);
    ok(gpu.launch("count", [1, 1], [32, 1], 0, &[n]));
    gpu.breaks(gpu.launch("count", [1, 1], [32, 1], 0, &[n]), CUDA_ERROR_LAUNCH_FAILED);
}

#[test]
fn the_compiler_says_what_is_wrong() {
    let Some(_gpu) = Gpu::new() else { return };
    let log = compile("extern \"C\" __global__ void broken(float *x) { x[0] = unknown; }").unwrap_err();
    assert!(log.contains("test.cu") && log.contains("unknown"), "{log}");
    assert!(compile("#include <cstdio>\n").is_err());
}

/// d[m, n] = op(a) op(b) (+ d), column-major, all operands dense.
fn matmul(
    gpu: &Gpu,
    [m, n, k]: [u64; 3],
    transposed: [bool; 2],
    bf16: [bool; 2],
    at: [u64; 3],
    beta: f32,
) -> lt::cublasStatus_t {
    use lt::cublasLtMatmulDescAttributes_t::{CUBLASLT_MATMUL_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSB};
    use lt::cudaDataType::{CUDA_R_16BF, CUDA_R_32F};
    let kind = |bf16: bool| if bf16 { CUDA_R_16BF } else { CUDA_R_32F };
    let (mut handle, mut desc, mut preference) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
    let mut layouts = [ptr::null_mut(); 3];
    unsafe {
        lt::cublasLtCreate(&raw mut handle).result().unwrap();
        let compute = lt::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        lt::cublasLtMatmulDescCreate(&raw mut desc, compute, CUDA_R_32F).result().unwrap();
        for (attribute, turned) in
            [(CUBLASLT_MATMUL_DESC_TRANSA, transposed[0]), (CUBLASLT_MATMUL_DESC_TRANSB, transposed[1])]
        {
            let operation = i32::from(turned);
            lt::cublasLtMatmulDescSetAttribute(desc, attribute, (&raw const operation).cast(), 4)
                .result()
                .unwrap();
        }
        let turn = |turned: bool, rows, cols| if turned { (cols, rows) } else { (rows, cols) };
        let shapes = [turn(transposed[0], m, k), turn(transposed[1], k, n), (m, n)];
        for (i, (rows, cols)) in shapes.into_iter().enumerate() {
            lt::cublasLtMatrixLayoutCreate(
                &raw mut layouts[i],
                kind(bf16[i / 2]),
                rows,
                cols,
                rows.cast_signed(),
            )
            .result()
            .unwrap();
        }
        lt::cublasLtMatmulPreferenceCreate(&raw mut preference).result().unwrap();
        let mut found = std::mem::MaybeUninit::zeroed();
        let mut count = 0;
        let [a, b, d] = layouts;
        lt::cublasLtMatmulAlgoGetHeuristic(
            handle,
            desc,
            a,
            b,
            d,
            d,
            preference,
            1,
            found.as_mut_ptr(),
            &raw mut count,
        )
        .result()
        .unwrap();
        assert_eq!(count, 1);
        let algorithm = found.assume_init().algo;
        let one = 1.0_f32;
        let code = lt::cublasLtMatmul(
            handle,
            desc,
            (&raw const one).cast(),
            at[0] as *const c_void,
            a,
            at[1] as *const c_void,
            b,
            (&raw const beta).cast(),
            at[2] as *const c_void,
            d,
            at[2] as *mut c_void,
            d,
            &raw const algorithm,
            ptr::null_mut(),
            0,
            gpu.stream.cast(),
        );
        for layout in layouts {
            lt::cublasLtMatrixLayoutDestroy(layout).result().unwrap();
        }
        lt::cublasLtMatmulPreferenceDestroy(preference).result().unwrap();
        lt::cublasLtMatmulDescDestroy(desc).result().unwrap();
        lt::cublasLtDestroy(handle).result().unwrap();
        code
    }
}

#[test]
fn products_of_all_kinds() {
    let Some(gpu) = Gpu::new() else { return };
    let (m, n, k) = (5, 7, 9);
    let value = |i: usize| ((i * 7) % 11) as f32 - 5.0;
    let bf16 = |x: f32| (x.to_bits() >> 16) as u16; // exact for these
    for transposed in [[false, false], [true, false], [false, true], [true, true]] {
        let (a, b): (Vec<f32>, Vec<f32>) =
            ((0..m * k).map(value).collect(), (0..k * n).map(|i| value(i + 3)).collect());
        let at = |turned: bool, rows: usize, cols: usize, i: usize, j: usize| {
            if turned { i * cols + j } else { j * rows + i }
        };
        let expected = |i: usize, j: usize| -> f32 {
            (0..k).map(|l| a[at(transposed[0], m, k, i, l)] * b[at(transposed[1], k, n, l, j)]).sum()
        };
        let halves = |x: &[f32]| x.iter().map(|&x| bf16(x)).collect::<Vec<u16>>();
        for (narrow_in, narrow_out) in [(false, false), (true, false), (true, true)] {
            let operands = if narrow_in {
                [gpu.upload(&halves(&a)), gpu.upload(&halves(&b))]
            } else {
                [gpu.upload(&a), gpu.upload(&b)]
            };
            let start = vec![1.0_f32; m * n];
            let d = if narrow_out { gpu.upload(&halves(&start)) } else { gpu.upload(&start) };
            let sizes = [m as u64, n as u64, k as u64];
            let code =
                matmul(&gpu, sizes, transposed, [narrow_in, narrow_out], [operands[0], operands[1], d], 1.0);
            assert_eq!(code, lt::cublasStatus_t::CUBLAS_STATUS_SUCCESS);
            let found: Vec<f32> = if narrow_out {
                gpu.download::<u16>(d, m * n).iter().map(|&x| f32::from_bits(u32::from(x) << 16)).collect()
            } else {
                gpu.download(d, m * n)
            };
            for (i, x) in found.iter().enumerate() {
                let y = expected(i % m, i / m) + 1.0;
                // Whole numbers up to 256 have a bf16 of their own.
                let limit = if narrow_out { y.abs() / 256.0 } else { 0.0 };
                assert!((x - y).abs() <= limit, "{transposed:?} {narrow_in} {narrow_out}: {x} {y}");
            }
        }
    }
}

#[test]
fn products_keep_to_their_alignment() {
    let Some(gpu) = Gpu::emulated() else { return };
    let at = gpu.upload(&[1.0_f32; 64]);
    // The heuristic was not told that an operand lies at a multiple of 4 only.
    let code = matmul(&gpu, [2, 2, 2], [false, false], [false, false], [at, at + 4, at + 256], 0.0);
    assert_ne!(code, lt::cublasStatus_t::CUBLAS_STATUS_SUCCESS);
    let beyond = matmul(&gpu, [64, 2, 2], [false, false], [false, false], [at, at, at], 0.0);
    assert_ne!(beyond, lt::cublasStatus_t::CUBLAS_STATUS_SUCCESS);
}
