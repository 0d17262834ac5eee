//! The walls of ARCHITECTURE.md, the file headers and the README's file map, checked on the sources as text.
//!
//! Owns: what is easier to check here than to remember in a review. Never: style, which rustfmt and clippy see to.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Which modules of the library may use which others. Higher ones stand further down; nobody uses what stands below.
const ALLOWED: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("files", &["error"]),
    ("run_log", &["error", "files"]),
    ("event", &["error", "run_log"]),
    ("memory", &["error"]),
    ("device", &["error", "event"]),
    ("config", &["error"]),
    ("guard", &[]),
    ("tokenizer", &["error", "files", "guard"]),
    ("params", &["config", "error"]),
    ("method", &["config", "params"]),
    ("model", &["config", "error", "params"]),
    ("merge", &["error", "model"]),
    ("data", &["config", "error", "event", "files", "guard", "memory", "tokenizer"]),
    ("shipped", &["error", "files"]),
    ("hub", &["data", "error", "event", "files", "shipped"]),
    ("ranks", &["error"]),
    ("masking", &["tokenizer"]),
    ("batch", &["data", "files", "masking"]),
    ("schedule", &["config"]),
    ("optim", &["config", "params"]),
    ("teacher", &["batch", "config", "device", "error", "model"]),
    ("rates", &["config", "params", "schedule"]),
    ("objective", &["batch", "config", "error", "model", "ranks", "teacher"]),
    ("eval", &["batch", "config", "device", "error", "event", "model", "objective", "ranks"]),
    ("tensors", &["error", "files"]),
    ("baseline", &["error", "files", "tensors"]),
    ("teacher_fit", &["batch", "device", "error", "event", "model", "objective", "teacher"]),
    ("head_fit", &["baseline", "batch", "config", "device", "error", "event", "model", "objective"]),
    ("interop", &["config", "error", "files", "model", "params", "tensors", "tokenizer"]),
    (
        "checkpoint",
        &[
            "baseline",
            "config",
            "error",
            "files",
            "interop",
            "merge",
            "model",
            "params",
            "run_log",
            "tensors",
            "tokenizer",
        ],
    ),
    ("predictions", &["config", "data", "error", "eval", "files"]),
    ("plan", &["batch", "checkpoint", "config", "device", "error", "method", "model", "params"]),
    ("report", &["error", "files", "run_log"]),
    ("lint", &["baseline", "data", "error", "event", "report", "tokenizer"]),
    ("history", &["checkpoint", "config", "error", "eval", "predictions", "run_log"]),
    ("train_log", &["error", "event"]),
    (
        "train",
        &[
            "batch",
            "checkpoint",
            "config",
            "device",
            "error",
            "eval",
            "event",
            "files",
            "head_fit",
            "model",
            "objective",
            "optim",
            "params",
            "predictions",
            "ranks",
            "rates",
            "run_log",
            "report",
            "schedule",
            "tensors",
            "train_log",
        ],
    ),
    (
        "infer",
        &[
            "baseline",
            "batch",
            "checkpoint",
            "config",
            "data",
            "device",
            "error",
            "event",
            "interop",
            "model",
            "objective",
            "params",
            "tokenizer",
        ],
    ),
    ("setup", EVERYTHING),
    ("pretrain", EVERYTHING),
    ("finetune", EVERYTHING),
    ("trials", EVERYTHING),
    ("evaluate", EVERYTHING),
    ("auto", EVERYTHING),
    ("quickstart", EVERYTHING),
    ("bench", EVERYTHING),
];

/// For the few that put a whole piece of work together.
const EVERYTHING: &[&str] = &["*"];

/// The only modules that may know both data and models.
const SEE_BOTH: [&str; 7] = ["bench", "evaluate", "finetune", "infer", "pretrain", "quickstart", "setup"];

/// What stands in the root folder without being part of the project.
const NOT_OURS: [&str; 4] = ["target", "runs", "shared", "__pycache__"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `folder` whose names end so, as paths below the root, with `/`.
fn files(folder: &str, endings: &[&str]) -> Vec<String> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !NOT_OURS.contains(&name.as_str()) && (!name.starts_with('.') || name == ".ci") {
                    walk(&path, found);
                }
            } else {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), &mut found);
    let below = |path: PathBuf| path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
    let mut found: Vec<String> = found.into_iter().map(below).collect();
    found.retain(|path| endings.iter().any(|ending| path.ends_with(ending)));
    found.sort();
    found
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The code of a file: without comments, and without the unit tests at its end.
fn code(path: &str) -> String {
    let text = read(path);
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = text.lines().map(|line| line.split("// ").next().unwrap_or_default());
    lines
        .filter(|line| !line.trim_start().starts_with("//"))
        .fold(String::new(), |all, line| all + line + "\n")
}

/// Fails with every line of `paths` that has one of `words` as a whole word.
fn forbid(paths: &[String], words: &[&str], why: &str) {
    let mut found = Vec::new();
    for path in paths {
        for (number, line) in code(path).lines().enumerate() {
            for word in words.iter().filter(|word| has_word(line, word)) {
                found.push(format!("{path} (line {} of its code): {word}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{why}:\n{}", found.join("\n"));
}

fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (line[..at].chars().next_back(), line[at + word.len()..].chars().next());
        let goes_on = word.ends_with(part) && after.is_some_and(part);
        !before.is_some_and(part) && !goes_on
    })
}

fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/") || path.contains("test_server")
}

fn sources(folder: &str) -> Vec<String> {
    files(folder, &[".rs"]).into_iter().filter(|path| !is_test(path)).collect()
}

/// The modules that each top-level module of the library uses.
fn edges() -> BTreeMap<String, BTreeSet<String>> {
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in sources("crates/headstart/src") {
        let inner = path.strip_prefix("crates/headstart/src/").unwrap();
        let module = inner.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
        let code = code(&path);
        assert!(!code.contains("use crate::{"), "{path}: one `use crate::module::...` a line, please");
        let used = edges.entry(module.clone()).or_default();
        for (at, start) in code.match_indices("crate::") {
            let rest = &code[at + start.len()..];
            let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(rest.len());
            if !rest[..end].is_empty() && rest[..end] != module {
                used.insert(rest[..end].to_owned());
            }
        }
    }
    edges.remove("lib");
    edges
}

#[test]
fn library_modules_use_only_what_they_may() {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    for (module, used) in edges() {
        let Some(allowed) = allowed.get(module.as_str()) else {
            panic!("`{module}` is not in ALLOWED: give it a place in this table")
        };
        for other in &used {
            assert!(
                *allowed == EVERYTHING || allowed.contains(&other.as_str()),
                "`{module}` must not use `{other}`: see the walls in ARCHITECTURE.md"
            );
        }
        let both = used.contains("data") && used.contains("model");
        assert!(!both || SEE_BOTH.contains(&module.as_str()), "`{module}` knows both data and models");
    }
}

#[test]
fn the_table_of_walls_is_in_order() {
    let mut above = BTreeSet::new();
    for (module, allowed) in ALLOWED {
        for other in allowed.iter().filter(|other| **other != "*") {
            assert!(above.contains(other), "`{module}` may use `{other}`, which stands below it");
        }
        above.insert(*module);
    }
}

#[test]
fn the_model_knows_no_files_optimizer_or_clock() {
    let words = ["std::fs", "std::time", "std::path", "std::env", "optim", "checkpoint"];
    forbid(
        &sources("crates/headstart/src/model"),
        &words,
        "the model takes ids, masks, its config and a tape",
    );
}

#[test]
fn the_library_knows_no_terminal_environment_or_exit() {
    let words = [
        "std::env",
        "env::var",
        "env::args",
        "process::exit",
        "process::Command",
        "clap",
        "indicatif",
        "println!",
        "eprintln!",
        "print!",
        "eprint!",
        "dbg!",
        "is_terminal",
    ];
    let mut library = sources("crates/headstart/src");
    // Its micro-benchmarks print; they are no part of the library's work.
    library.extend(sources("crates/engine/src").into_iter().filter(|path| !path.ends_with("/bench.rs")));
    forbid(&library, &words, "only the command line meets the user");
    let manifest = read("crates/headstart/Cargo.toml");
    for name in ["clap", "indicatif", "ctrlc", "anyhow"] {
        assert!(!manifest.contains(name), "crates/headstart/Cargo.toml: {name} belongs to the command line");
    }
}

#[test]
fn the_command_line_touches_no_tensor() {
    let words = ["headstart_engine", "Tensor", "Tape"];
    forbid(&sources("src"), &words, "the command line goes through the library");
    let manifest = read("Cargo.toml");
    let dependencies = manifest.split("\n[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    assert!(!dependencies.contains("headstart-engine"), "the root package must not depend on the engine");
}

#[test]
fn unsafe_code_is_in_the_engine_only() {
    let mut others = sources("src");
    others.extend(sources("crates/headstart/src"));
    forbid(&others, &["unsafe"], "unsafe code belongs to the engine");
    assert!(read("crates/headstart/src/lib.rs").contains("#![forbid(unsafe_code)]"));
}

#[test]
fn the_engine_knows_no_models() {
    let words = ["transformer", "Transformer", "adapter", "Adapter", "finetune", "tokenizer", "headstart::"];
    forbid(&sources("crates/engine/src"), &words, "the engine knows buffers, shapes and sizes");
}

#[test]
fn every_source_file_says_what_it_is() {
    let mut all = files("src", &[".rs"]);
    all.extend(files("crates", &[".rs"]));
    all.extend(files("tests", &[".rs"]));
    all.push("build.rs".into());
    assert!(all.len() > 50, "only {} files were found", all.len());
    let without: Vec<_> = all.into_iter().filter(|path| !read(path).starts_with("//! ")).collect();
    assert!(without.is_empty(), "no header (`//! what it owns, what it never does`) in {without:?}");
}

#[test]
fn nothing_names_the_machine_it_was_written_on() {
    // In two parts, so that this file does not name them either.
    let paths = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Use", "rs/")];
    for path in files("", &[".rs", ".md", ".toml", ".py", ".sh", ".json", ".txt", ".ci/run"]) {
        for (number, line) in read(&path).lines().enumerate() {
            for word in paths {
                assert!(!line.contains(word), "{path}:{}: {word}", number + 1);
            }
        }
    }
}

#[test]
fn every_crate_can_be_published() {
    for folder in ["", "crates/headstart/", "crates/engine/"] {
        for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
            assert_eq!(read(&format!("{folder}{licence}")), read(licence), "{folder}{licence}");
        }
        let manifest = read(&format!("{folder}Cargo.toml"));
        for key in
            ["description = ", "repository", "keywords", "categories", "license", "readme = \"README.md\""]
        {
            assert!(manifest.contains(&format!("\n{key}")), "{folder}Cargo.toml: {key}");
        }
        assert!(root().join(folder).join("README.md").exists(), "{folder}README.md");
    }
}

#[test]
fn the_toolchain_is_the_oldest_that_is_promised() {
    let value = |text: &str, key: &str| {
        let rest = text.split(&format!("\n{key} = \"")).nth(1).unwrap_or_else(|| panic!("no {key}"));
        rest.split('"').next().unwrap().to_owned()
    };
    let pinned = value(&read("rust-toolchain.toml"), "channel");
    let promised = value(&read("Cargo.toml"), "rust-version");
    assert_eq!(pinned, promised + ".0", "what is promised is what every run of the tests is built with");
}

/// The README's file map: each folder with the entries listed below it.
fn file_map() -> BTreeMap<String, BTreeSet<String>> {
    let readme = read("README.md");
    let map = readme.split("<!-- file map: checked by tests/tidy.rs -->").nth(1).expect("no file map");
    let map = map.split("```").nth(1).expect("no block behind the file map's mark");
    let mut folders: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut open: Vec<String> = Vec::new();
    for line in map.lines().skip(1).filter(|line| !line.trim().is_empty()) {
        let depth = (line.len() - line.trim_start().len()) / 2;
        let names = line.trim_start().split("  ").next().unwrap();
        open.truncate(depth);
        let parent = open.concat();
        for name in names.split(' ') {
            folders.entry(parent.clone()).or_default().insert(name.to_owned());
        }
        open.push(names.to_owned());
    }
    folders
}

#[test]
fn the_readmes_file_map_is_the_tree() {
    for (folder, listed) in file_map() {
        let mut there = BTreeSet::new();
        for entry in fs::read_dir(root().join(&folder)).unwrap_or_else(|e| panic!("{folder}: {e}")) {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if (name.starts_with('.') && name != ".ci") || NOT_OURS.contains(&name.as_str()) {
                continue;
            }
            there.insert(if path.is_dir() { name + "/" } else { name });
        }
        for name in &listed {
            assert!(
                root().join(&folder).join(name).exists(),
                "README.md lists `{folder}{name}`, which is not there"
            );
        }
        // A folder on the way, like `crates/engine/src/`, is listed under the name of its parts.
        let listed: BTreeSet<String> =
            listed.iter().map(|name| name.split_inclusive('/').next().unwrap().to_owned()).collect();
        let missing: Vec<_> = there.difference(&listed).collect();
        let gone: Vec<_> = listed.difference(&there).collect();
        assert!(
            missing.is_empty() && gone.is_empty(),
            "README.md, `{folder}`: not listed: {missing:?}; listed but not there: {gone:?}"
        );
    }
}
