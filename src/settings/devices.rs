//! How a GPU is used, from the environment: where its libraries may lie, and whether steps are replayed.
//!
//! Owns: the folders that are searched beyond the system's own. Never: opens a device.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use headstart::device::{CudaOptions, DeviceChoice, DeviceName, Replay};

use crate::ranks::Ranks;

/// A device with everything needed to open it. Nothing is searched for the processor.
pub fn choice(name: DeviceName) -> DeviceChoice {
    let cuda = if name == DeviceName::Cpu { CudaOptions::default() } else { cuda_options() };
    DeviceChoice { name, cuda, own_gpu: 0, own_threads: 0 }
}

/// The device of one of several processes: its own GPU and its share of the processor.
pub fn choice_of_rank(name: DeviceName, ranks: &Ranks) -> DeviceChoice {
    let choice = choice(name);
    if ranks.collective.is_alone() {
        return choice;
    }
    // A launcher may show each process one GPU only, which is then the first.
    let seen = || headstart::device::gpus(&choice.cuda).map_or(0, |gpus| gpus.len());
    let own_gpu = if name == DeviceName::Cpu || seen() == 1 { 0 } else { ranks.local_rank };
    DeviceChoice { own_gpu, own_threads: ranks.own_threads, ..choice }
}

/// The device that a run was started on, whichever of the GPUs it was; the processor where its folder does not say.
pub fn of_run(dir: &Path, ranks: &Ranks) -> DeviceName {
    let text = fs::read_to_string(dir.join("environment.json")).unwrap_or_default();
    let environment: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let device = environment.get("device").and_then(serde_json::Value::as_str).unwrap_or_default();
    let name = device.split(' ').next().and_then(|name| name.parse().ok()).unwrap_or_default();
    match name {
        // Rank 0's, which wrote it down.
        DeviceName::Cuda(_) if !ranks.collective.is_alone() => DeviceName::Cuda(None),
        name => name,
    }
}

/// The folders of a toolkit and of the Python environments at hand; compiled kernels lie in the cache folder.
pub fn cuda_options() -> CudaOptions {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut libraries = Vec::new();
    let toolkits = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable);
    for toolkit in toolkits.chain([PathBuf::from("/usr/local/cuda")]) {
        libraries.push(toolkit.join("lib64"));
        libraries.push(toolkit.join("lib"));
    }
    let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(variable);
    // Whoever has a Python on the search path means that one's packages.
    let path = env::var_os("PATH").unwrap_or_default();
    let programs: Vec<PathBuf> = env::split_paths(&path).filter(|dir| dir.ends_with("bin")).collect();
    let beside = programs.iter().filter_map(|dir| dir.parent().map(Path::to_path_buf));
    let home = variable("HOME").map(|home| home.join(".local"));
    for prefix in environments.chain(beside).chain(home) {
        for python in below(&prefix.join("lib"), "python3") {
            for packages in ["site-packages", "dist-packages"] {
                for package in below(&python.join(packages).join("nvidia"), "") {
                    libraries.push(package.join("lib"));
                }
            }
        }
    }
    let mut seen = std::collections::HashSet::new();
    libraries.retain(|dir| dir.is_dir() && seen.insert(dir.clone()));
    let kernel_cache = super::default_cache_dir().ok().map(|dir| dir.join("kernels"));
    // For measuring what captured graphs are worth (docs/gpu.md).
    let off = variable("HEADSTART_CUDA_GRAPHS").is_some_and(|value| value.as_os_str() == "off");
    let replay = if off { Replay::Off } else { Replay::On };
    CudaOptions { libraries, kernel_cache, replay }
}

/// The entries of a folder whose names begin so, in order.
fn below(folder: &Path, start: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let named =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start));
    let mut paths: Vec<PathBuf> =
        entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).filter(named).collect();
    paths.sort();
    paths
}
