//! Builds the emulated CUDA libraries that tests run on where there is no GPU: `libcuda.so`, `libnvrtc.so`,
//! `libcublasLt.so` and `libnccl.so.2`, from the C++ sources beside this file, with the system's `g++`.
//!
//! Owns: where they are built and when again. Used as a module by the engine's tests, which load them into their own
//! process, and by the program's tests, whose child processes find them by `LD_LIBRARY_PATH`. Never: part of Headstart.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The sources of each library, the names under which the engine's loader asks for it first, and what it is linked with.
const LIBRARIES: [(&str, &[&str], &[&str]); 4] = [
    (
        "libcuda.so",
        &["driver.cpp", "memory.cpp", "streams.cpp", "launch.cpp", "blocks.cpp"],
        &["-ldl", "-pthread"],
    ),
    ("libnvrtc.so", &["nvrtc.cpp"], &["-ldl"]),
    // These call the emulated driver, which lies beside them.
    ("libcublasLt.so", &["cublaslt.cpp"], &["-L.", "-lcuda", "-Wl,-rpath,$ORIGIN", "-pthread"]),
    (
        "libnccl.so.2",
        &["nccl.cpp", "nccl_exchange.cpp"],
        &["-L.", "-lcuda", "-Wl,-rpath,$ORIGIN", "-pthread"],
    ),
];

const HEADERS: [&str; 6] = ["abi.h", "emulator.h", "blocks.h", "nccl.h", "device.h", "abi_device.h"];

/// Where the tests are to run: on the emulator, or on a GPU that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The folder of the emulated libraries.
    Emulated(PathBuf),
    /// `HEADSTART_TEST_CUDA=real`: what the system has.
    Real,
}

/// Builds the libraries once, beside the test binaries, or says why not.
///
/// # Errors
/// Why there can be no emulator here.
pub fn target() -> Result<Target, String> {
    static BUILT: OnceLock<Result<Target, String>> = OnceLock::new();
    BUILT
        .get_or_init(|| match std::env::var("HEADSTART_TEST_CUDA").as_deref() {
            Ok("real") => Ok(Target::Real),
            _ => build().map(Target::Emulated),
        })
        .clone()
}

fn build() -> Result<PathBuf, String> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err("the emulated CUDA libraries are written for Linux on x86-64".into());
    }
    // Both the engine's tests and the program's come by.
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let places = [here.join("tests/emulator"), here.join("crates/engine/tests/emulator")];
    let sources =
        places.iter().find(|place| place.join("abi.h").exists()).ok_or("the emulator's sources are gone")?;
    let binary = std::env::current_exe().map_err(|e| e.to_string())?;
    let folder = binary.parent().ok_or("the test binary lies nowhere")?;
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    let version = Command::new(&compiler)
        .arg("--version")
        .output()
        .map_err(|e| format!("the emulated CUDA libraries need a C++ compiler: {compiler}: {e}"))?;
    let mut hasher = DefaultHasher::new();
    version.stdout.hash(&mut hasher);
    sources.hash(&mut hasher);
    include_str!("mod.rs").hash(&mut hasher);
    for name in LIBRARIES.iter().flat_map(|(_, sources, _)| *sources).chain(&HEADERS) {
        let path = sources.join(name);
        fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?.hash(&mut hasher);
    }
    let home = folder.join(format!("cuda-emulator-{:016x}", hasher.finish()));
    if home.is_dir() {
        return Ok(home);
    }
    // Built beside its place and renamed, because several test binaries may do so at once.
    let draft = folder.join(format!("cuda-emulator-draft-{}", std::process::id()));
    fs::create_dir_all(&draft).map_err(|e| format!("{}: {e}", draft.display()))?;
    for (library, files, links) in LIBRARIES {
        let mut call = Command::new(&compiler);
        call.current_dir(&draft).args(["-std=c++17", "-O2", "-shared", "-fPIC", "-fvisibility=hidden"]);
        call.args(["-Wall", "-Wextra", "-Werror"]).arg(format!("-Wl,-soname,{library}"));
        call.arg(format!("-DSOURCES=\"{}\"", sources.display()));
        call.args(files.iter().map(|file| sources.join(file))).args(["-o", library]).args(links);
        let output = call.output().map_err(|e| format!("{compiler}: {e}"))?;
        assert!(output.status.success(), "{library}:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    match fs::rename(&draft, &home) {
        Err(e) if !home.is_dir() => Err(format!("{}: {e}", home.display())),
        Err(_) => fs::remove_dir_all(&draft).map(|()| home).map_err(|e| e.to_string()),
        Ok(()) => Ok(home),
    }
}
