//! The library that counts a program's calls to the disk and lets one go wrong (shim.c): built, loaded, its log read.
//!
//! Owns: its environment. Never: chooses a call.

use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// One call that touched the folder.
#[derive(Clone, Debug)]
pub struct Call {
    /// From 1; 0 for what is no call: how long a file is when it was flushed to the disk.
    pub number: usize,
    /// That length, or `create`, `open`, `read`, `write`, `fsync`, `ftruncate`, `mmap`, `rename`, `unlink`, `mkdir`.
    pub name: String,
    /// The file; of a rename `FROM>TO`.
    pub path: String,
}

impl Call {
    /// All that can go wrong with it, by the names that the library knows.
    pub fn faults(&self) -> &'static [&'static str] {
        const KILLS: [&str; 2] = ["kill-before", "kill-after"];
        match self.name.as_str() {
            "create" => &[KILLS[0], KILLS[1], "ENOSPC", "EIO", "EINTR", "full", "gone"],
            "write" => &[
                KILLS[0],
                "kill-middle",
                KILLS[1],
                "ENOSPC",
                "EIO",
                "EINTR",
                "short",
                "stop",
                "full",
                "gone",
            ],
            "fsync" => &["EIO", "ENOSPC", "EINTR", "power"],
            "ftruncate" => &[KILLS[0], KILLS[1], "EIO", "EINTR"],
            "rename" | "mkdir" => &[KILLS[0], KILLS[1], "power", "EIO", "ENOSPC", "gone"],
            "unlink" => &[KILLS[0], KILLS[1], "EIO", "gone"],
            "open" | "read" => &["EIO", "EINTR"],
            _ => &["EIO"],
        }
    }
}

/// Builds the library once, beside the test binary, or says why not.
pub fn build() -> Result<PathBuf, String> {
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".into());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/campaign/shim.c");
    // One that is at work is not replaced by another.
    let mut hasher = DefaultHasher::new();
    fs::read(&source).map_err(|e| format!("{}: {e}", source.display()))?.hash(&mut hasher);
    let library =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("campaign-shim-{:016x}.so", hasher.finish()));
    let draft = library.with_extension(format!("{}.draft", std::process::id()));
    let mut call = Command::new(&compiler);
    call.args(["-std=gnu11", "-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-o"])
        .arg(&draft)
        .arg(&source)
        .arg("-ldl");
    let output = call.output().map_err(|e| format!("there is no C compiler: {compiler}: {e}"))?;
    if !output.status.success() {
        return Err(format!("{compiler}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    fs::rename(&draft, &library).map_err(|e| format!("{}: {e}", library.display()))?;
    Ok(library)
}

/// Loads the library into a call that works on `folder`; `fault` goes wrong at its number.
pub fn load(command: &mut Command, library: &Path, folder: &Path, log: &Path, fault: Option<(usize, &str)>) {
    let _ = fs::remove_file(log);
    command.env("LD_PRELOAD", library).env("CAMPAIGN_UNDER", folder).env("CAMPAIGN_LOG", log);
    if let Some((number, what)) = fault {
        command.env("CAMPAIGN_AT", number.to_string()).env("CAMPAIGN_DO", what);
    }
}

/// The calls that a process made.
pub fn calls(log: &Path) -> Vec<Call> {
    noted(log).into_iter().filter(|call| call.number > 0).collect()
}

/// The calls that a process made, and what was flushed between them.
pub fn noted(log: &Path) -> Vec<Call> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let call = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let mut next = || words.next().unwrap().to_owned();
        Call { number: next().parse().unwrap(), name: next(), path: next() }
    };
    text.lines().map(call).collect()
}
