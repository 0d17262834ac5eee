//! Finding NVIDIA's libraries: the driver, NVRTC, cuBLASLt.
//!
//! Owns: where they are looked for, and the error when they are not found. Never: calls into them.
//!
//! The bindings ask the system's loader for a library by its bare name. A library in another place (a toolkit, a folder of
//! a Python environment) is opened here by its full path first; from then on the loader finds it by its bare name, since it
//! is already open.

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
                    open_for_all(&builtins);
                }
            }
            if found.iter().rev().any(|path| open_for_all(path)) {
                break;
            }
        }
    }
    let missing: Vec<_> =
        LIBRARIES.iter().zip(driver::present()).filter(|(_, present)| !present).map(|(l, _)| l).collect();
    if missing.is_empty() { Ok(()) } else { Err(absent(&missing, folders)) }
}

/// Opens a library so that the system's loader finds it by its own name from now on.
#[cfg(unix)]
fn open_for_all(path: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: the path ends with a zero; loading NVIDIA's libraries runs their initialisers, which is what asking for
    // a GPU means. The handle is never closed.
    !unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) }.is_null()
}

#[cfg(not(unix))]
fn open_for_all(_path: &Path) -> bool {
    false
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
    let mut places = "the system's library paths".to_owned();
    for folder in folders {
        places += &format!(", {}", folder.display());
    }
    let fix = if missing.iter().any(|(_, file)| *file == "libcuda.so") {
        "install NVIDIA's driver, or compute on the processor"
    } else {
        "install the CUDA toolkit 12 or newer, or `pip install nvidia-cuda-nvrtc nvidia-cublas` in an active \
         environment, or set LD_LIBRARY_PATH or CUDA_HOME"
    };
    EngineError::Gpu { what: format!("not found: {}; looked in {places}", names.join(", ")), fix }
}
