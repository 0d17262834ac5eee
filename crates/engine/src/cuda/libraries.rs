//! Finding NVIDIA's libraries: the driver, NVRTC, cuBLASLt; and NCCL, once ranks exchange.
//!
//! Owns: where they are looked for, and the error when they are not found. Never: calls into them.
//!
//! The bindings ask the system's loader for a library by its bare name. A library in another place (a toolkit, a folder of
//! a Python environment) is opened here by its full path first; from then on the loader finds it by its bare name, since it
//! is already open.

use std::ffi::{CStr, c_void};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::{driver, locked};
use crate::error::EngineError;

/// The libraries, in the order of [`driver::present`]: what they are, and how their files are called.
const LIBRARIES: [(&str, &str); 3] =
    [("the NVIDIA driver", "libcuda.so"), ("NVRTC", "libnvrtc.so"), ("cuBLASLt", "libcublasLt.so")];

/// Opens the libraries that the system does not find by itself, from the given folders.
///
/// # Errors
/// [`EngineError::Gpu`] that names what is missing and where it was sought.
pub(super) fn find(folders: &[PathBuf]) -> Result<(), EngineError> {
    static ONCE: Mutex<()> = Mutex::new(());
    let _one_at_a_time = locked(&ONCE);
    let present = driver::present();
    for ((_, file), _) in LIBRARIES.iter().zip(present).filter(|(_, present)| !present) {
        // The folders in their order; in each the newest version first, as it may hold several.
        for folder in folders {
            let found = versions(folder, file);
            if !found.is_empty() {
                // NVRTC opens its built-in functions by bare name, which finds them only if they are open already.
                for builtins in versions(folder, "libnvrtc-builtins.so") {
                    let _: *mut c_void = open_for_all(&builtins);
                }
            }
            if found.iter().rev().any(|path| !open_for_all(path).is_null()) {
                break;
            }
        }
    }
    let missing: Vec<_> =
        LIBRARIES.iter().zip(driver::present()).filter(|(_, present)| !present).map(|(l, _)| l).collect();
    if missing.is_empty() { Ok(()) } else { Err(absent(&missing, folders)) }
}

/// Opens a library that has no binding: by its names, as the system's loader finds it, or else from the given folders. The
/// handle is never closed.
///
/// # Errors
/// [`EngineError::Gpu`] that names it and where it was sought.
pub(super) fn open(
    what: &str,
    names: &[&str],
    folders: &[PathBuf],
    fix: &'static str,
) -> Result<*mut c_void, EngineError> {
    let by_name = names.iter().map(PathBuf::from);
    let in_folders =
        folders.iter().flat_map(|folder| versions(folder, names[names.len() - 1]).into_iter().rev());
    let mut why = String::new();
    for path in by_name.chain(in_folders) {
        let library = open_for_all(&path);
        if !library.is_null() {
            return Ok(library);
        }
        // A file that is there and cannot be opened lacks something else, which the loader names.
        if path.is_file() {
            why = format!(" (the loader says: {})", loader_error());
        }
    }
    let what = format!("not found: {what} ({}); looked in {}{why}", names[0], places(folders));
    Err(EngineError::Gpu { what, fix })
}

/// The address of one of a library's functions; `None` if it has no such function.
///
/// # Safety
/// `library` is a handle of [`open`].
#[cfg(unix)]
pub(super) unsafe fn symbol(library: *mut c_void, name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the caller's, and the name ends with a zero.
    let found = unsafe { libc::dlsym(library, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

#[cfg(not(unix))]
pub(super) unsafe fn symbol(_library: *mut c_void, _name: &CStr) -> Option<*mut c_void> {
    None
}

/// Opens a library so that the system's loader finds it by its own name from now on; null if that is not possible.
#[cfg(unix)]
fn open_for_all(path: &Path) -> *mut c_void {
    use std::os::unix::ffi::OsStrExt;
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_bytes()) else { return std::ptr::null_mut() };
    // SAFETY: the path ends with a zero; loading NVIDIA's libraries runs their initialisers, which is what asking for
    // a GPU means. The handle is never closed.
    unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) }
}

#[cfg(not(unix))]
fn open_for_all(_path: &Path) -> *mut c_void {
    std::ptr::null_mut()
}

/// Why the library asked for last could not be opened.
#[cfg(unix)]
fn loader_error() -> String {
    // SAFETY: the loader's message is a string of its own, or null.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as above; it ends with a zero.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn loader_error() -> String {
    String::new()
}

/// The files `name`, `name.12`, `name.13.0` of a folder, oldest first.
fn versions(folder: &Path, name: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let fits = |path: &PathBuf| {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        file.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).filter(fits).collect();
    paths.sort();
    paths
}

fn absent(missing: &[&(&str, &str)], folders: &[PathBuf]) -> EngineError {
    let names: Vec<String> = missing.iter().map(|(what, file)| format!("{what} ({file})")).collect();
    let fix = if missing.iter().any(|(_, file)| *file == "libcuda.so") {
        "install NVIDIA's driver, or compute on the processor"
    } else {
        "install the CUDA toolkit 12 or newer, or `pip install nvidia-cuda-nvrtc nvidia-cublas` in an active \
         environment, or set LD_LIBRARY_PATH or CUDA_HOME"
    };
    EngineError::Gpu { what: format!("not found: {}; looked in {}", names.join(", "), places(folders)), fix }
}

/// Where libraries are sought, in words.
fn places(folders: &[PathBuf]) -> String {
    let mut places = "the system's library paths".to_owned();
    for folder in folders {
        places += &format!(", {}", folder.display());
    }
    places
}
