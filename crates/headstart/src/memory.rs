//! Whether something fits into the memory of this machine, asked before it is allocated: the system ends a program that
//! takes too much without a word.
//!
//! Owns: what the machine has to give, and the error. Never: allocates anything.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Checks that `bytes` for `what` can be had here. Where the system does not say how much it has, anything can.
///
/// # Errors
/// [`Error::Config`] with both numbers.
pub fn check_fits(what: &str, bytes: u64) -> Result<()> {
    check(what, bytes, available())
}

fn check(what: &str, bytes: u64, available: Option<u64>) -> Result<()> {
    match available {
        Some(available) if bytes > available => Err(Error::Config {
            key: "memory".into(),
            what: format!("{what} takes {}, and this machine has {} to give", size(bytes), size(available)),
            fix: "make it smaller, or use a machine with more memory".into(),
        }),
        _ => Ok(()),
    }
}

/// Bytes with a unit.
fn size(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 1024.0 { format!("{mib:.0} MiB") } else { format!("{:.1} GiB", mib / 1024.0) }
}

/// Bytes that can be had: those that the machine has free or can free, and no more than this process's group may use.
fn available() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| available_of(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    machine.into_iter().chain(group_limits(Path::new("/sys/fs/cgroup"), &groups)).min()
}

/// `MemAvailable` of `/proc/meminfo`, which counts in KiB.
fn available_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What each control group of this process and those above it leave: `memory.max` (version 2) or
/// `memory.limit_in_bytes` (version 1), less what is in use and cannot be freed.
fn group_limits(root: &Path, groups: &str) -> Vec<u64> {
    let number = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (base, limit, usage) = match controllers {
            "" => (root.to_path_buf(), "memory.max", "memory.current"),
            all if all.split(',').any(|c| c == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes", "memory.usage_in_bytes")
            }
            _ => continue,
        };
        // Inside a container the path may be one of outside, and the root is the container's own.
        let own = base.join(path.trim_start_matches('/'));
        for folder in own.ancestors().take_while(|folder| folder.starts_with(&base)) {
            let Some(most) = number(folder.join(limit)) else { continue };
            let used = number(folder.join(usage)).unwrap_or(0);
            // Pages of files count as used and are given back when memory runs short.
            let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
            let freed = stat.lines().filter_map(|l| {
                let (name, bytes) = l.split_once(' ')?;
                ["active_file", "inactive_file"].contains(&name).then(|| bytes.parse::<u64>().ok())?
            });
            limits.push(most.saturating_sub(used.saturating_sub(freed.sum())));
        }
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_both_numbers() {
        let gib = 1_u64 << 30;
        check("the model", gib, Some(gib)).unwrap();
        check("the model", u64::MAX, None).unwrap();
        let error = check("the model", 3 * gib / 2, Some(gib - 1)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("the model takes 1.5 GiB, and this machine has 1024 MiB to give"), "{text}");
        assert!(error.is_usage());
    }

    #[test]
    fn the_systems_numbers_are_read() {
        let meminfo = "MemTotal:  100 kB\nMemFree:  1 kB\nMemAvailable:      20 kB\n";
        assert_eq!(available_of(meminfo), Some(20 * 1024));
        assert_eq!(available_of("MemTotal: 100 kB\n"), None);
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("a/memory.max", "1000\n");
        write("a/memory.current", "700\n");
        write("a/memory.stat", "anon 400\ninactive_file 200\nactive_file 100\n");
        write("a/b/memory.max", "max\n");
        assert_eq!(group_limits(dir.path(), "0::/a/b\n"), [600]);
        fs::create_dir(dir.path().join("memory")).unwrap();
        write("memory/memory.limit_in_bytes", "5");
        assert_eq!(group_limits(dir.path(), "4:cpu,memory:/elsewhere\n2:cpu:/\n"), [5]);
    }
}
