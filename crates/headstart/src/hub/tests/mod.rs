//! Tests of models by name against a hub on the loopback.

mod errors;
mod server;

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::{TempDir, tempdir};

use self::server::{Behaviour, Hub, LARGE};
use super::{HubOptions, Model, Origin, Report, Token, describe, pull, resolve};
use crate::data::download::sha256_bytes;
use crate::event::Signal;

const REPO: &str = "someone/a-model";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn quiet(_: Report<'_>) -> Signal {
    Signal::Continue
}

fn weights() -> Vec<u8> {
    (0..200_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// A sentence encoder as the hub has it, with what nobody needs here.
fn files(weights: &[u8]) -> Vec<(&'static str, &[u8])> {
    vec![
        (".gitattributes", b"x"),
        ("1_Pooling/config.json", br#"{"pooling_mode_mean_tokens": true}"#),
        ("config.json", br#"{"model_type": "bert"}"#),
        ("model.safetensors", weights),
        ("modules.json", b"[]"),
        ("onnx/model.onnx", weights),
        ("pytorch_model.bin", weights),
        ("tf_model.h5", weights),
        ("tokenizer.json", b"{}"),
    ]
}

/// A user's caches, and how the hub is reached.
struct User {
    dir: TempDir,
    options: HubOptions,
}

impl User {
    fn new(endpoint: String) -> Self {
        let dir = tempdir().unwrap();
        let options = HubOptions {
            endpoint,
            cache_dir: dir.path().join("huggingface"),
            records_dir: dir.path().join("records"),
            token: None,
            offline: false,
            mirror: None,
        };
        Self { dir, options }
    }

    fn offline() -> Self {
        let mut user = Self::new("http://127.0.0.1:9".into());
        user.options.offline = true;
        user
    }

    fn resolve(&self, name: &str) -> Model {
        resolve(name, &self.options, &mut quiet).unwrap()
    }

    fn error(&self, name: &str) -> String {
        resolve(name, &self.options, &mut quiet).unwrap_err().to_string()
    }

    fn repo(&self) -> PathBuf {
        self.options.cache_dir.join("models--someone--a-model")
    }

    /// The names of all files below the cache, links with what they point to.
    fn tree(&self) -> Vec<String> {
        fn walk(folder: &Path, prefix: &str, found: &mut Vec<String>) {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
                if entry.file_type().unwrap().is_dir() {
                    walk(&entry.path(), &format!("{name}/"), found);
                } else if let Ok(target) = fs::read_link(entry.path()) {
                    found.push(format!("{name} -> {}", target.display()));
                } else {
                    found.push(name);
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.options.cache_dir, "", &mut found);
        found.retain(|name| !name.starts_with(".locks/"));
        found.sort();
        found
    }

    /// The cache as `huggingface_hub` leaves it: content under its ETag, links, `main`.
    fn cached_by_another_program(files: &[(&str, &[u8])]) -> Self {
        let user = Self::offline();
        let (blobs, snapshot) = (user.repo().join("blobs"), user.repo().join("snapshots").join(COMMIT));
        for folder in [&blobs, &user.repo().join("refs")] {
            fs::create_dir_all(folder).unwrap();
        }
        fs::write(user.repo().join("refs/main"), COMMIT).unwrap();
        for (name, content) in files {
            let sum = sha256_bytes(content);
            let etag = if content.len() < LARGE { &sum[..40] } else { &sum };
            fs::write(blobs.join(etag), content).unwrap();
            fs::create_dir_all(snapshot.join(name).parent().unwrap()).unwrap();
            let up = "../".repeat(2 + name.matches('/').count());
            #[cfg(unix)]
            std::os::unix::fs::symlink(format!("{up}blobs/{etag}"), snapshot.join(name)).unwrap();
            #[cfg(not(unix))]
            fs::copy(blobs.join(etag), snapshot.join(name)).unwrap();
        }
        user
    }
}

#[test]
fn a_model_arrives_as_huggingface_hub_would_have_put_it() {
    let weights = weights();
    let hub = Hub::start(REPO, COMMIT, &files(&weights), Behaviour::default());
    let user = User::new(hub.endpoint());
    let mut lines = Vec::new();
    let model = resolve(REPO, &user.options, &mut |report| {
        if let Report::Line(line) = report {
            lines.push(line.to_owned());
        }
        Signal::Continue
    })
    .unwrap();
    assert_eq!(model.folder, user.repo().join("snapshots").join(COMMIT));
    assert_eq!((model.origin, model.commit.as_deref()), (Origin::Download, Some(COMMIT)));
    let names: Vec<&str> = model.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(
        names,
        ["1_Pooling/config.json", "config.json", "modules.json", "tokenizer.json", "model.safetensors"]
    );
    let last = model.files.last().unwrap();
    assert_eq!((last.bytes, last.sha256.as_deref()), (200_000, Some(&*sha256_bytes(&weights))));
    assert_eq!(fs::read(model.folder.join("model.safetensors")).unwrap(), weights);
    // The size is said before it comes.
    assert_eq!(lines.len(), 1);
    assert!(
        lines[0].starts_with("downloading someone/a-model (commit 0123456789ab): 5 files, 0.2 MB"),
        "{lines:?}"
    );
    #[cfg(unix)]
    {
        let etag = |content: &[u8]| sha256_bytes(content)[..40].to_owned();
        let tree = user.tree();
        let small = format!(
            "models--someone--a-model/snapshots/{COMMIT}/config.json -> ../../blobs/{}",
            etag(br#"{"model_type": "bert"}"#)
        );
        let module = format!(
            "models--someone--a-model/snapshots/{COMMIT}/1_Pooling/config.json -> ../../../blobs/{}",
            etag(br#"{"pooling_mode_mean_tokens": true}"#)
        );
        let large = format!(
            "models--someone--a-model/snapshots/{COMMIT}/model.safetensors -> ../../blobs/{}",
            sha256_bytes(&weights)
        );
        for line in [&small, &module, &large, &"models--someone--a-model/refs/main".to_owned()] {
            assert!(tree.contains(line), "{line} in {tree:#?}");
        }
        // Five contents, five links, one branch.
        assert_eq!(tree.len(), 11, "{tree:#?}");
    }
    assert_eq!(fs::read_to_string(user.repo().join("refs/main")).unwrap(), COMMIT);
    // The weights were asked for once, and nothing that is not needed.
    assert_eq!((hub.count("cdn GET"), hub.count("hub HEAD"), hub.count("hub GET /api")), (1, 5, 1));
}

#[test]
fn what_is_here_is_not_asked_for_and_a_second_pull_downloads_nothing() {
    let weights = weights();
    let hub = Hub::start(REPO, COMMIT, &files(&weights), Behaviour::default());
    let user = User::new(hub.endpoint());
    let first = user.resolve(REPO);
    let asked = hub.requests().len();
    let again = user.resolve(REPO);
    assert_eq!((again.folder, again.origin), (first.folder.clone(), Origin::Cache));
    assert_eq!(hub.requests().len(), asked, "a model that is here whole needs no hub");
    // A pull asks where the branch is, and no more.
    let pulled = pull(REPO, &user.options, &mut quiet).unwrap();
    assert_eq!((pulled.origin, pulled.files), (Origin::Cache, first.files));
    assert_eq!(hub.requests().len(), asked + 1);
    // A commit is what it is: there is nothing to ask.
    pull(&format!("{REPO}@{COMMIT}"), &user.options, &mut quiet).unwrap();
    assert_eq!(hub.requests().len(), asked + 1);
    let described = describe(REPO, &user.options).unwrap().unwrap();
    assert_eq!(described.found.unwrap().files, pull(REPO, &user.options, &mut quiet).unwrap().files);
}

#[test]
fn a_token_goes_to_the_hub_and_never_to_where_it_redirects() {
    let weights = weights();
    let behaviour = Behaviour {
        token: Some("hf_secret"),
        moved_from: Some("old/name"),
        cuts: vec![50_000],
        ..Behaviour::default()
    };
    let hub = Hub::start(REPO, COMMIT, &files(&weights), behaviour);
    let mut user = User::new(hub.endpoint());
    user.options.token = Token::new(" hf_secret\n");
    // Also across redirects within the hub, as those of a model that has moved.
    for name in [REPO, "old/name"] {
        user.resolve(name);
    }
    let requests = hub.requests();
    let (hub_requests, cdn): (Vec<_>, Vec<_>) =
        requests.iter().partition(|request| request.what.starts_with("hub"));
    assert!(hub_requests.iter().all(|request| request.authorization == "Bearer hf_secret"));
    assert!(cdn.len() >= 2 && cdn.iter().all(|request| request.authorization.is_empty()), "{cdn:?}");
    assert_eq!(cdn[1].range, "bytes=50000-");
    // Nothing that is printed or written down has it.
    assert!(!format!("{:?}", user.options).contains("hf_secret"));
    for entry in fs::read_dir(user.dir.path().join("records/models--someone--a-model")).unwrap() {
        assert!(!fs::read_to_string(entry.unwrap().path()).unwrap().contains("secret"));
    }
    assert_eq!([Token::new("a b"), Token::new("\u{e9}"), Token::new("  ")], [None, None, None]);
}

#[test]
fn an_interrupted_download_goes_on_where_it_stopped() {
    let weights = weights();
    let behaviour = Behaviour { cuts: vec![70_000, 50_000], ..Behaviour::default() };
    let hub = Hub::start(REPO, COMMIT, &files(&weights), behaviour);
    let user = User::new(hub.endpoint());
    // Stopped by a signal when the first bytes of the weights are there.
    let error = resolve(REPO, &user.options, &mut |report| match report {
        Report::Progress(p) if p.file == "model.safetensors" && p.done_bytes >= 70_000 => Signal::Stop,
        _ => Signal::Continue,
    })
    .unwrap_err();
    assert!(error.to_string().contains("was stopped"), "{error}");
    let incomplete = user.repo().join("blobs").join(format!("{}.incomplete", sha256_bytes(&weights)));
    let have = fs::metadata(&incomplete).unwrap().len();
    assert!(have >= 70_000);
    assert!(!user.repo().join("refs/main").exists(), "a branch points to what is whole");
    let model = user.resolve(REPO);
    assert_eq!(fs::read(model.folder.join("model.safetensors")).unwrap(), weights);
    assert!(!incomplete.exists());
    let ranges: Vec<String> =
        hub.requests().into_iter().filter(|r| r.what.starts_with("cdn")).map(|r| r.range).collect();
    assert_eq!(ranges[1], format!("bytes={have}-"), "{ranges:?}");
    assert!(ranges.iter().skip(1).all(|range| !range.is_empty()));
}

#[test]
fn several_processes_download_once() {
    let weights = weights();
    let hub = Hub::start(REPO, COMMIT, &files(&weights), Behaviour::default());
    let user = User::new(hub.endpoint());
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| user.resolve(REPO).folder)).collect();
        let folders: Vec<_> = runs.into_iter().map(|run| run.join().unwrap()).collect();
        assert!(folders.windows(2).all(|pair| pair[0] == pair[1]));
    });
    assert_eq!(hub.count("cdn GET"), 1);
    assert_eq!(hub.count(&format!("hub GET /{REPO}/resolve/{COMMIT}/config.json")), 1);
}

#[test]
fn what_another_program_has_cached_is_found_offline_too() {
    let weights = weights();
    let files = files(&weights);
    let user = User::cached_by_another_program(&files);
    for name in [REPO.to_owned(), format!("{REPO}@main"), format!("{REPO}@{COMMIT}")] {
        let model = user.resolve(&name);
        assert_eq!((model.origin, model.files.len()), (Origin::Cache, 5), "{name}");
        assert!(model.notes.is_empty());
    }
    // With the hub at hand, it is asked once whether anything is missing; nothing that is here comes again.
    let hub = Hub::start(REPO, COMMIT, &files, Behaviour::default());
    let mut user = User::cached_by_another_program(&files);
    fs::remove_file(user.repo().join(format!("snapshots/{COMMIT}/modules.json"))).unwrap();
    (user.options.offline, user.options.endpoint) = (false, hub.endpoint());
    let model = user.resolve(REPO);
    assert!(model.folder.join("modules.json").is_file());
    assert_eq!((hub.count("cdn"), hub.requests().len()), (0, 2));
    user.resolve(REPO);
    assert_eq!(hub.requests().len(), 2);
}

#[test]
fn a_cached_model_is_used_when_the_hub_cannot_be_reached() {
    let weights = weights();
    let mut user = User::cached_by_another_program(&files(&weights));
    user.options.offline = false;
    let model = user.resolve(REPO);
    assert_eq!(model.origin, Origin::Cache);
    assert!(model.notes[0].contains("the cached files are used"), "{:?}", model.notes);
    // Whoever pulls wants what the hub has.
    assert!(pull(REPO, &user.options, &mut quiet).is_err());
}

#[test]
fn a_mirror_is_searched_first_and_paths_stay_paths() {
    let weights = weights();
    let mut user = User::cached_by_another_program(&files(&weights));
    let mirror = user.dir.path().join("mirror");
    let folder = mirror.join("models").join(REPO);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.json"), "{}").unwrap();
    user.options.mirror = Some(mirror.clone());
    assert_eq!(user.resolve(REPO).origin, Origin::Cache, "without weights it is no model");
    fs::write(folder.join("pytorch_model.bin"), "x").unwrap();
    let model = user.resolve(REPO);
    assert_eq!((model.origin, &model.folder), (Origin::Mirror, &folder));
    let there = folder.to_str().unwrap();
    assert_eq!(user.resolve(there).origin, Origin::Folder);
    assert_eq!(user.resolve("./nothing").folder, Path::new("./nothing"));
    user.options.mirror = Some(user.dir.path().join("nowhere"));
    assert!(user.error(REPO).contains("nowhere is not a folder"));
}

#[test]
fn weights_in_parts_come_whole() {
    let weights = weights();
    let index = br#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
    let all: [(&str, &[u8]); 4] = [
        ("config.json", b"{}"),
        ("model-00001-of-00002.safetensors", &weights),
        ("model-00002-of-00002.safetensors", &weights[1..]),
        ("model.safetensors.index.json", index),
    ];
    let hub = Hub::start(REPO, COMMIT, &all, Behaviour::default());
    let user = User::new(hub.endpoint());
    assert_eq!(user.resolve(REPO).files.len(), 4);
    let without: Vec<_> = all.into_iter().filter(|(name, _)| !name.contains("00002-of")).collect();
    let hub = Hub::start(REPO, COMMIT, &without, Behaviour::default());
    let text = User::new(hub.endpoint()).error(REPO);
    assert!(text.contains("not all that its index names"), "{text}");
}
