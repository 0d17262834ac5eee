//! Loads the emulated CUDA libraries into the test's own process, before the engine looks for NVIDIA's.
//!
//! Owns: that, and the calls that only the emulator has. Never: builds them (`mod.rs`).
//!
//! The system's loader answers a bare name with a library that is already open under that name (`DT_SONAME`), so what
//! is opened here by its full path is what the engine gets.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::ffi::{CStr, CString, c_void};
use std::sync::OnceLock;

use super::emulator::{Target, target};

/// Whether CUDA's calls can be made in this process now: on the emulator, or on a real GPU. If not, says why.
pub fn ready() -> bool {
    static READY: OnceLock<bool> = OnceLock::new();
    *READY.get_or_init(|| match target() {
        Ok(Target::Real) => true,
        Ok(Target::Emulated(folder)) => {
            for name in ["libcuda.so", "libnvrtc.so", "libcublasLt.so", "libnccl.so.2"] {
                let path = CString::new(folder.join(name).to_str().unwrap()).unwrap();
                // SAFETY: the path ends with a zero; the library is ours, and is never closed.
                let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
                assert!(!library.is_null(), "{}: {}", path.to_str().unwrap(), loader_error());
            }
            true
        }
        Err(why) => {
            println!("skipped: {why}");
            false
        }
    })
}

fn loader_error() -> String {
    // SAFETY: the loader's message is a string or null.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as above; it ends with a zero.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// One of the emulator's own functions, which take and return one number; `None` on a real GPU.
#[allow(dead_code, reason = "not every test binary asks the emulator itself")]
pub fn control(name: &CStr) -> Option<impl Fn(u64) -> u64> {
    // SAFETY: the name ends with a zero.
    let symbol: *mut c_void = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    if symbol.is_null() {
        return None;
    }
    // SAFETY: on x86-64, a function of no parameters or no result may be called as one of a number.
    let call: unsafe extern "C" fn(u64) -> u64 = unsafe { std::mem::transmute(symbol) };
    // SAFETY: as above.
    Some(move |n| unsafe { call(n) })
}
