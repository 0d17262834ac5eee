//! NCCL's functions, found at run time.
//!
//! Owns: its binary interface, as far as it is used. Never: decides when to call.
//!
//! These are not the bindings of the `cudarc` crate: its loader does not know the name `libnccl.so.2`, under which NCCL is
//! installed everywhere, and it reads codes that a newer library may add as an enum of those it knows.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::PathBuf;
use std::ptr;

use crate::cuda::driver::CUstream;
use crate::cuda::error::Failure;
use crate::cuda::libraries;
use crate::error::EngineError;

/// As it is installed, and as it is called where its headers are.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];

const FIX: &str = "`pip install nvidia-nccl-cu13` (or -cu12) in an active environment, or install NVIDIA's package libnccl2, or \
                   set LD_LIBRARY_PATH";

/// The oldest version whose calls need not block: 2.14.
const OLDEST: c_int = 21_400;

const SUCCESS: c_int = 0;
const IN_PROGRESS: c_int = 7;

/// `ncclInt8`: everything travels as bytes.
const BYTES: c_int = 0;

/// What ranks find each other by: rank 0's.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct UniqueId(pub(super) [u8; UniqueId::BYTES]);

impl UniqueId {
    pub(super) const BYTES: usize = 128;
}

/// A communicator's handle.
#[derive(Clone, Copy, Debug)]
pub(super) struct Communicator(*mut c_void);

// SAFETY: a communicator may be used from any thread, by one at a time.
unsafe impl Send for Communicator {}

/// `ncclConfig_t` as version 2.14 has it; newer libraries take what they add for unset.
#[repr(C)]
struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
}

/// Whether a call is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Done,
    /// The library goes on with it on a thread of its own.
    UnderWay,
}

macro_rules! library {
    ($($name:ident($($argument:ty),*) -> $result:ty;)*) => {
        /// The library's functions.
        #[derive(Clone, Copy, Debug)]
        #[allow(non_snake_case, reason = "the library's names")]
        pub(super) struct Library {
            $($name: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl Library {
            /// The functions of an open library, or the name of one that it lacks.
            ///
            /// # Safety
            /// `library` is NCCL's handle.
            unsafe fn of(library: *mut c_void) -> Result<Self, &'static CStr> {
                const fn name(bytes: &'static [u8]) -> &'static CStr {
                    match CStr::from_bytes_with_nul(bytes) {
                        Ok(name) => name,
                        Err(_) => c"",
                    }
                }
                Ok(Self {
                    $($name: {
                        let name = name(concat!(stringify!($name), "\0").as_bytes());
                        // SAFETY: the caller's; NCCL's function of this name has this type.
                        unsafe {
                            let address = libraries::symbol(library, name).ok_or(name)?;
                            std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) -> $result>(address)
                        }
                    },)*
                })
            }
        }
    };
}

library! {
    ncclGetVersion(*mut c_int) -> c_int;
    ncclGetErrorString(c_int) -> *const c_char;
    ncclGetLastError(*mut c_void) -> *const c_char;
    ncclGetUniqueId(*mut UniqueId) -> c_int;
    ncclCommInitRankConfig(*mut *mut c_void, c_int, UniqueId, c_int, *mut Config) -> c_int;
    ncclCommGetAsyncError(*mut c_void, *mut c_int) -> c_int;
    ncclCommFinalize(*mut c_void) -> c_int;
    ncclCommDestroy(*mut c_void) -> c_int;
    ncclCommAbort(*mut c_void) -> c_int;
    ncclGroupStart() -> c_int;
    ncclGroupEnd() -> c_int;
    ncclSend(*const c_void, usize, c_int, c_int, *mut c_void, CUstream) -> c_int;
    ncclRecv(*mut c_void, usize, c_int, c_int, *mut c_void, CUstream) -> c_int;
}

/// Calls one of the functions.
macro_rules! nccl {
    ($library:expr, $communicator:expr, $call:ident($($argument:expr),*)) => {{
        // SAFETY: the caller of this module's function vouches for the arguments; out-parameters are locals.
        let code = unsafe { ($library.$call)($($argument),*) };
        $library.progress(stringify!($call), code, $communicator)
    }};
}

impl Library {
    /// Finds NCCL, and says its version, as 23007 for 2.30.7.
    ///
    /// # Errors
    /// [`EngineError::Gpu`] that says what was sought, and where, or that it is too old.
    pub(super) fn find(folders: &[PathBuf]) -> Result<(Self, i32), EngineError> {
        let library = libraries::open("NCCL", &NAMES, folders, FIX)?;
        // SAFETY: the handle is that of the library of this name.
        let library = unsafe { Self::of(library) }.map_err(|name| {
            let what =
                format!("NCCL was found but has no {}: it is too old, or no NCCL", name.to_string_lossy());
            EngineError::Gpu { what, fix: FIX }
        })?;
        let mut version = 0;
        nccl!(library, None, ncclGetVersion(&raw mut version))?;
        if version < OLDEST {
            let what =
                format!("NCCL is too old: {}; 2.14 is the oldest that can be used", version_name(version));
            return Err(EngineError::Gpu { what, fix: FIX });
        }
        Ok((library, version))
    }

    fn progress(
        &self,
        call: &'static str,
        code: c_int,
        communicator: Option<Communicator>,
    ) -> Result<Progress, Failure> {
        match code {
            SUCCESS => Ok(Progress::Done),
            IN_PROGRESS => Ok(Progress::UnderWay),
            _ => Err(self.failure(call, code, communicator)),
        }
    }

    /// The library's own words for a code, and for what happened last.
    fn failure(&self, call: &'static str, code: c_int, communicator: Option<Communicator>) -> Failure {
        // SAFETY: both calls answer with strings of the library's own, or null.
        let texts = unsafe {
            let last = (self.ncclGetLastError)(communicator.map_or(ptr::null_mut(), |c| c.0));
            [(self.ncclGetErrorString)(code), last]
        };
        let texts = texts.into_iter().filter(|text| !text.is_null()).map(|text| {
            // SAFETY: the library's strings end with a zero.
            unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_owned()
        });
        let text: Vec<String> = texts.filter(|text| !text.is_empty()).collect();
        Failure { call, code: i64::from(code), text: text.join(": ") }
    }

    pub(super) fn unique_id(&self) -> Result<UniqueId, Failure> {
        let mut id = UniqueId([0; UniqueId::BYTES]);
        nccl!(self, None, ncclGetUniqueId(&raw mut id))?;
        Ok(id)
    }

    /// Begins to connect this rank, whose GPU is the thread's, to the others; [`Library::state`] says when that is done.
    pub(super) fn begin(
        &self,
        id: UniqueId,
        rank: usize,
        world_size: usize,
    ) -> Result<Communicator, Failure> {
        let (version, size) = (OLDEST as c_uint, size_of::<Config>());
        let mut config = Config { size, magic: 0xcafe_beef, version, blocking: 0 };
        let mut made = ptr::null_mut();
        let (ranks, rank) = (world_size as c_int, rank as c_int);
        nccl!(self, None, ncclCommInitRankConfig(&raw mut made, ranks, id, rank, &raw mut config))?;
        Ok(Communicator(made))
    }

    /// How the call made last goes on, and whether anything failed since.
    pub(super) fn state(&self, communicator: Communicator) -> Result<Progress, Failure> {
        let mut state = SUCCESS;
        nccl!(self, Some(communicator), ncclCommGetAsyncError(communicator.0, &raw mut state))?;
        self.progress("ncclCommGetAsyncError", state, Some(communicator))
    }

    /// Queues sends and receives, (rank, address, bytes), as one group; [`Library::state`] says when they are queued.
    ///
    /// # Safety
    /// The memory is on the communicator's GPU, as large as said, and its user is `stream` alone.
    pub(super) unsafe fn exchange(
        &self,
        communicator: Communicator,
        sends: impl Iterator<Item = (usize, u64, usize)>,
        receives: impl Iterator<Item = (usize, u64, usize)>,
        stream: CUstream,
    ) -> Result<Progress, Failure> {
        let whole = Some(communicator);
        nccl!(self, whole, ncclGroupStart())?;
        let queue = || {
            for (rank, at, bytes) in sends {
                let (from, rank, of) = (at as *const c_void, rank as c_int, communicator.0);
                nccl!(self, whole, ncclSend(from, bytes, BYTES, rank, of, stream))?;
            }
            for (rank, at, bytes) in receives {
                let (to, rank, of) = (at as *mut c_void, rank as c_int, communicator.0);
                nccl!(self, whole, ncclRecv(to, bytes, BYTES, rank, of, stream))?;
            }
            Ok(())
        };
        let queued = queue();
        // The group is to be ended whatever happened in it.
        let ended = nccl!(self, whole, ncclGroupEnd());
        queued.and(ended)
    }

    /// Begins to end the communicator together with the other ranks.
    pub(super) fn finalize(&self, communicator: Communicator) -> Result<Progress, Failure> {
        nccl!(self, Some(communicator), ncclCommFinalize(communicator.0))
    }

    /// Gives back what a communicator holds that was ended.
    pub(super) fn destroy(&self, communicator: Communicator) -> Result<Progress, Failure> {
        nccl!(self, None, ncclCommDestroy(communicator.0))
    }

    /// Ends a communicator without the other ranks, and everything of it that runs on the GPU.
    pub(super) fn abort(&self, communicator: Communicator) -> Result<Progress, Failure> {
        nccl!(self, None, ncclCommAbort(communicator.0))
    }
}

/// A version as people write it.
pub(super) fn version_name(version: i32) -> String {
    // Until 2.8, the code was 2 MM PP.
    let (major, minor) = if version < 10_000 {
        (version / 1000, version / 100 % 10)
    } else {
        (version / 10_000, version / 100 % 100)
    };
    format!("{major}.{minor}.{}", version % 100)
}
