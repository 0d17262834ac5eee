//! What stands for `driver.rs` in a build without the feature `cuda`: the same functions, which all say so.
//!
//! Owns: that answer. Never: calls anything. No context is ever opened, so most of these are never reached.

use std::ffi::{CStr, CString, c_void};

use super::error::Failure;

pub(super) type CUcontext = *mut c_void;
pub(super) type CUevent = *mut c_void;
pub(super) type CUfunction = *mut c_void;
pub(super) type CUgraph = *mut c_void;
pub(super) type CUgraphExec = *mut c_void;
pub(super) type CUgraphNode = *mut c_void;
pub(super) type CUmodule = *mut c_void;
pub(super) type CUstream = *mut c_void;

fn absent<T>() -> Result<T, Failure> {
    Err(Failure { call: "cuda", code: 0, text: "this program was built without its feature `cuda`".into() })
}

pub(super) fn present() -> [bool; 3] {
    [true; 3] // so that `start` answers
}

#[derive(Clone, Debug)]
pub(super) struct Properties {
    pub(super) handle: i32,
    pub(super) name: String,
    pub(super) total_bytes: usize,
    pub(super) capability: (i32, i32),
    pub(super) shared_bytes: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) transposed: [bool; 2],
    pub(super) ld: [usize; 3],
    pub(super) bf16: [bool; 2],
    pub(super) alignment: [u32; 3],
}

#[derive(Debug)]
pub(super) struct Plan;

#[derive(Clone, Copy, Debug)]
pub(super) struct Products;

macro_rules! absent {
    ($($name:ident($($argument:ty),*) -> $result:ty;)*) => {
        $(pub(super) fn $name($(_: $argument),*) -> Result<$result, Failure> { absent() })*
    };
}

absent! {
    start() -> usize;
    driver_version() -> i32;
    properties(usize) -> Properties;
    open(i32) -> (CUcontext, CUstream);
    close(i32, CUstream) -> ();
    set_current(CUcontext) -> ();
    synchronize(CUstream) -> ();
    memory() -> (usize, usize);
    allocate(usize) -> Option<u64>;
    free(u64) -> ();
    zero(u64, usize, CUstream) -> ();
    copy(u64, u64, usize, CUstream) -> ();
    upload(u64, &[u8], CUstream) -> ();
    download(&mut [u8], u64, CUstream) -> ();
    another_stream() -> CUstream;
    destroy_stream(CUstream) -> ();
    event() -> CUevent;
    destroy_event(CUevent) -> ();
    record_event(CUevent, CUstream) -> ();
    wait_in_stream(CUstream, CUevent) -> ();
    wait_for_event(CUevent) -> ();
    allocate_pinned(usize) -> Option<*mut u8>;
    free_pinned(*mut u8) -> ();
    begin_capture(CUstream) -> ();
    end_capture(CUstream) -> CUgraph;
    captured_node(CUstream) -> CUgraphNode;
    instantiate(CUgraph) -> CUgraphExec;
    launch_graph(CUgraphExec, CUstream) -> ();
    destroy_graph(CUgraph) -> ();
    destroy_executable(CUgraphExec) -> ();
    load_module(&[u8]) -> CUmodule;
    function(CUmodule, &CStr, i32) -> CUfunction;
    compiler_version() -> (i32, i32);
    compile(&CStr, &CStr, &[CString]) -> Vec<u8>;
}

pub(super) unsafe fn launch(
    _: CUfunction,
    _: [u32; 3],
    _: [u32; 3],
    _: u32,
    _: CUstream,
    _: &mut [*mut c_void],
) -> Result<(), Failure> {
    absent()
}

pub(super) unsafe fn set_kernel(
    _: CUgraphExec,
    _: CUgraphNode,
    _: CUfunction,
    _: [u32; 3],
    _: [u32; 3],
    _: u32,
    _: &mut [*mut c_void],
) -> Result<(), Failure> {
    absent()
}

#[allow(clippy::unused_self, reason = "the functions of `driver.rs`")]
impl Products {
    pub(super) fn new() -> Result<Self, Failure> {
        absent()
    }

    pub(super) fn destroy(self) -> Result<(), Failure> {
        absent()
    }

    pub(super) fn plan(self, _: &Shape, _: usize) -> Result<Plan, Failure> {
        absent()
    }

    pub(super) unsafe fn run(
        self,
        _: &Plan,
        _: [u64; 3],
        _: bool,
        _: (u64, usize),
        _: CUstream,
    ) -> Result<(), Failure> {
        absent()
    }
}
