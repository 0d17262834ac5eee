//! Tells the program which commit it is built from, for `--version`.
//!
//! Owns: looking for it. Never: fails; where there is neither git nor a published package, the version stands alone.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

fn main() {
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    println!("cargo:rerun-if-changed=build.rs");
    let commit = of_checkout().or_else(of_package);
    let text = commit.map_or_else(|| version.clone(), |commit| format!("{version} ({commit})"));
    println!("cargo:rustc-env=HEADSTART_VERSION={text}");
}

/// The commit that is checked out here. A repository that only contains this folder is not ours.
fn of_checkout() -> Option<String> {
    if !Path::new(".git").exists() {
        return None;
    }
    // What changes when another commit is checked out or made. Naming a file that is not there would build every time.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "logs/HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        if let Some(path) = git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists()) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

/// The commit that a published package was made from, as cargo notes it in the package.
fn of_package() -> Option<String> {
    let note = fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let sum = note.split("\"sha1\"").nth(1)?.split('"').nth(1)?;
    (sum.len() >= 12 && sum.bytes().all(|b| b.is_ascii_hexdigit())).then(|| sum[..12].to_owned())
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
