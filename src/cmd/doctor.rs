//! `headstart doctor`: what this machine offers, for users and for bug reports.
//!
//! Owns: looking. Never: changes anything; everything it cannot find out is said to be unknown.

use std::env::consts;
use std::fmt::Write as _;
use std::fs;
use std::process::ExitCode;
use std::thread;

use anyhow::Result;
use headstart::collective::{Join, Over};
use headstart::config::PrecisionName;
use headstart::device::{self, DeviceChoice};
use serde::Serialize;

use crate::args::{DoctorArgs, VERSION};
use crate::output::{self, bytes};
use crate::ranks::launched_as;
use crate::settings::ranks::Mpi;
use crate::settings::{self, Usage};

/// What was found.
#[derive(Serialize)]
struct Findings {
    version: &'static str,
    system: String,
    processor: Option<String>,
    features: Vec<&'static str>,
    /// The kernels that are taken.
    code_path: Option<&'static str>,
    /// What products are computed in on the processor where nobody says.
    precision: PrecisionName,
    threads: usize,
    memory_bytes: Option<u64>,
    memory_available_bytes: Option<u64>,
    gpus: Vec<Gpu>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_gpu: Option<String>,
    /// Whether ranks can talk over MPI.
    mpi: bool,
    /// Which of several processes a launcher says that this is.
    launcher: String,
    cache_dir: Option<String>,
    cache_exists: bool,
    named_data_here: Vec<&'static str>,
}

/// A GPU, as it is printed.
#[derive(Serialize)]
struct Gpu {
    device: String,
    name: String,
    memory_bytes: u64,
    compute_capability: String,
    driver_cuda_version: String,
}

impl From<device::Gpu> for Gpu {
    fn from(gpu: device::Gpu) -> Self {
        let device::Gpu { ordinal, name, total_bytes, capability, driver } = gpu;
        Self {
            device: format!("cuda:{ordinal}"),
            name,
            memory_bytes: total_bytes as u64,
            compute_capability: format!("{}.{}", capability.0, capability.1),
            driver_cuda_version: format!("{}.{}", driver.0, driver.1),
        }
    }
}

impl Gpu {
    fn describe(&self) -> String {
        let Self { device, name, memory_bytes, compute_capability, driver_cuda_version } = self;
        let memory = bytes(*memory_bytes);
        format!("{device} {name}, {memory}, compute {compute_capability}, CUDA {driver_cuda_version}")
    }
}

/// Runs it.
pub fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let DoctorArgs { json } = args;
    let findings = look();
    if *json {
        output::json_line(&findings)?;
    } else {
        output::text(&text(&findings))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn look() -> Findings {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cache_dir = settings::default_cache_dir().ok();
    let locations = cache_dir.clone().map(|cache_dir| headstart::data::catalog::Locations {
        cache_dir,
        offline: true,
        mirror: None,
    });
    let here = locations.map(|places| headstart::data::catalog::list(&places)).unwrap_or_default();
    let (gpus, no_gpu) = match device::gpus(&settings::devices::cuda_options()) {
        Ok(found) if found.is_empty() => (Vec::new(), Some("the NVIDIA driver finds none".to_owned())),
        Ok(found) => (found.into_iter().map(Gpu::from).collect(), None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let processor = DeviceChoice::default().open(1).ok();
    let bf16_is_faster = processor.as_ref().is_some_and(|processor| processor.prefers_bf16());
    Findings {
        version: VERSION,
        system: format!("{} {}", consts::OS, consts::ARCH),
        processor: field(&processors, "model name").map(str::to_owned),
        features: features(),
        code_path: processor.map(|processor| processor.code_path()),
        precision: PrecisionName::faster(bf16_is_faster),
        threads: thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: kilobytes(&memory, "MemTotal"),
        memory_available_bytes: kilobytes(&memory, "MemAvailable"),
        gpus,
        no_gpu,
        mpi: Mpi::HERE == Mpi::BuiltIn,
        launcher: launcher(),
        cache_exists: cache_dir.as_ref().is_some_and(|dir| dir.is_dir()),
        cache_dir: cache_dir.map(|dir| dir.display().to_string()),
        named_data_here: here.iter().filter(|l| l.found.is_some()).map(|l| l.entry.name).collect(),
    }
}

/// What the variables of launchers would make of a run that is started here.
fn launcher() -> String {
    match launched_as() {
        Ok(None) => "none: one process".into(),
        Ok(Some(Join { rank, world_size, over, .. })) => match over {
            Over::Mpi => format!("rank {rank}, over MPI"),
            Over::Tcp { rendezvous } => format!("rank {rank} of {world_size}, meeting at {rendezvous}"),
        },
        Err(Usage(what)) => what.replace("\n ", ";"),
    }
}

fn text(findings: &Findings) -> String {
    let Findings {
        version,
        system,
        processor,
        features,
        code_path,
        precision,
        threads,
        memory_bytes,
        memory_available_bytes,
        gpus,
        no_gpu,
        mpi,
        launcher,
        cache_dir,
        cache_exists,
        named_data_here,
    } = findings;
    let unknown = || "unknown".to_owned();
    let size = |n: &Option<u64>| n.map_or_else(unknown, bytes);
    let list = |names: &[&str]| if names.is_empty() { "none".to_owned() } else { names.join(" ") };
    let cache = match cache_dir {
        Some(dir) if *cache_exists => dir.clone(),
        Some(dir) => format!("{dir} (made when it is needed)"),
        None => "none: name one with --cache_dir or HEADSTART_CACHE".into(),
    };
    let graphics = match no_gpu {
        // What was looked for, on the lines below.
        Some(why) => format!("none: {}", why.replace('\n', "\n            ")),
        None => gpus.iter().map(Gpu::describe).collect::<Vec<_>>().join("\n            "),
    };
    let mut text = String::new();
    for (name, value) in [
        ("headstart", (*version).to_owned()),
        ("system", system.clone()),
        ("processor", processor.clone().unwrap_or_else(unknown)),
        ("features", list(features)),
        (
            "computes",
            format!("{}, in {} where nothing else is said", code_path.unwrap_or("unknown"), precision.name()),
        ),
        ("threads", threads.to_string()),
        ("memory", format!("{}, {} available", size(memory_bytes), size(memory_available_bytes))),
        ("gpu", graphics),
        ("ranks", if *mpi { "over TCP or MPI" } else { "over TCP (MPI is not built in)" }.to_owned()),
        ("launcher", launcher.clone()),
        ("cache", cache),
        ("named data", list(named_data_here)),
    ] {
        let _ = writeln!(text, "{name:<12}{value}");
    }
    text
}

/// The value of the first `name : value` line, as the files below /proc have them.
pub fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find_map(|line| line.split_once(':').filter(|(key, _)| key.trim() == name));
    line.map(|(_, value)| value.trim())
}

pub fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let number = field(text, name)?.strip_suffix("kB")?.trim().parse::<u64>().ok()?;
    Some(number * 1_024)
}

/// The vector instructions that make a difference here.
#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    let known = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
    ];
    known.into_iter().filter(|(_, present)| *present).map(|(name, _)| name).collect()
}

/// The vector instructions that make a difference here.
#[cfg(target_arch = "aarch64")]
fn features() -> Vec<&'static str> {
    let known = [
        ("neon", std::arch::is_aarch64_feature_detected!("neon")),
        ("bf16", std::arch::is_aarch64_feature_detected!("bf16")),
        ("sve", std::arch::is_aarch64_feature_detected!("sve")),
    ];
    known.into_iter().filter(|(_, present)| *present).map(|(name, _)| name).collect()
}

/// The vector instructions that make a difference here.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn features() -> Vec<&'static str> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc_files_are_found() {
        let text = "MemTotal:       16384 kB\nmodel name\t: Some Processor: 2\n";
        assert_eq!(kilobytes(text, "MemTotal"), Some(16_384 * 1_024));
        assert_eq!(field(text, "model name"), Some("Some Processor: 2"));
        assert_eq!(kilobytes(text, "MemFree"), None);
    }
}
