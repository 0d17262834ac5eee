//! Tests of the catalogue: mirrors, the cache, downloads from the loopback, and what each error says.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::{TempDir, tempdir};

use super::*;
use crate::data::download::Progress;
use crate::data::download::test_server::{Behaviour, TestServer};
use crate::event::Signal;

fn go_on(_: Progress<'_>) -> Signal {
    Signal::Continue
}

fn locations(folder: &TempDir) -> Locations {
    Locations { cache_dir: folder.path().join("cache"), offline: false, mirror: None }
}

fn offline(folder: &TempDir) -> Locations {
    Locations { offline: true, ..locations(folder) }
}

fn write(path: PathBuf, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn zip_bytes(files: &[(&str, &str)]) -> Vec<u8> {
    let folder = tempdir().unwrap();
    let path = folder.path().join("a.zip");
    let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
    for (name, text) in files {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    zip.finish().unwrap();
    fs::read(path).unwrap()
}

fn set_zip() -> Vec<u8> {
    zip_bytes(&[("set/train.txt", "one two\n"), ("set/valid.txt", "three\n")])
}

const MEMBERS: &[Member<'static>] = &[
    Member { role: FileRole::Train, path: "train.txt", subfolders: &[], sha256: None },
    Member { role: FileRole::Valid, path: "valid.txt", subfolders: &[], sha256: None },
];

/// A catalogue entry `set` whose archive is at `url`.
fn fetch_set(url: &str, sha256: Option<&str>, locations: &Locations) -> Result<Resolved> {
    let urls = [url];
    let sources = [Source { file: "set-v1.zip", urls: &urls, format: Format::Zip, sha256 }];
    // Any entry will do: it only says that this is no address.
    let entry = find("wikitext-2");
    Package { name: "set", entry, root: "set", sources: &sources, members: MEMBERS }
        .resolve(locations, &mut go_on)
}

#[test]
fn the_table_is_sound() {
    for (index, entry) in ENTRIES.iter().enumerate() {
        assert!(!entry.members.is_empty() && !entry.sources.is_empty(), "{}", entry.name);
        assert!(ENTRIES[..index].iter().all(|other| other.name != entry.name), "{} twice", entry.name);
        assert!(is_named(entry.name));
        assert_eq!(entry.kind == Kind::Classification, !entry.labels.is_empty(), "{}", entry.name);
        let sums = entry.sources.iter().filter_map(|source| source.sha256);
        for sum in sums.chain(entry.members.iter().filter_map(|member| member.sha256)) {
            assert!(sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()));
        }
        for source in entry.sources {
            assert!(source.urls.iter().all(|url| is_url(url)), "{}", entry.name);
            assert_eq!(source.format, Format::of_name(source.file), "{}", entry.name);
        }
    }
    for name in ["wikitext-2", "wikitext-103", "simplebooks-2", "simplebooks-92"] {
        assert_eq!(find(name).unwrap().kind, Kind::LanguageModel);
        assert_eq!(find(&format!("{name}-raw")).unwrap().kind, Kind::LanguageModel);
    }
    assert_eq!(find("imdb").unwrap().labels, ["pos", "neg"]);
    assert_eq!(find("trec").unwrap().labels, ["NUM", "LOC", "HUM", "DESC", "ENTY", "ABBR"]);
    assert_eq!(find("trec").unwrap().encoding, "latin-1");
    assert!(!is_named("reviews.csv"));
}

#[test]
fn a_mirror_is_used_with_warnings_for_what_is_not_known() {
    let folder = tempdir().unwrap();
    let mirror = folder.path().join("mirror");
    write(mirror.join("wikitext-2/wiki.train.tokens"), "my own order\n");
    write(mirror.join("wikitext-2/wiki.valid.tokens"), "not the canonical one\n");
    let locations = Locations { mirror: Some(mirror.clone()), ..offline(&folder) };
    let found = resolve("wikitext-2", &locations, &mut go_on).unwrap();
    assert_eq!(found.origin, Origin::Mirror);
    assert_eq!(found.file(FileRole::Train).unwrap(), mirror.join("wikitext-2/wiki.train.tokens"));
    assert_eq!(found.folder, mirror.join("wikitext-2"));
    assert_eq!(found.file(FileRole::Test), None);
    let compared: Vec<_> = found.provenance.iter().map(|sum| sum.compared).collect();
    assert_eq!(compared, [Compared::NotCompared, Compared::Differs]);
    assert_eq!(found.provenance[0].sha256, sha256_bytes(b"my own order\n"));
    let expected = ["no published sum", "is not the published file", "wiki.test.tokens"];
    assert_eq!(found.warnings.len(), 3);
    for (warning, part) in found.warnings.iter().zip(expected) {
        assert!(warning.contains(part), "{warning}");
    }
    assert!(!locations.cache_dir.exists(), "a mirror needs no cache");
}

#[test]
fn a_mirror_of_labelled_folders_is_used() {
    let folder = tempdir().unwrap();
    let mirror = folder.path().join("mirror");
    for part in ["train/pos", "train/neg", "test/pos"] {
        write(mirror.join("aclImdb").join(part).join("0_1.txt"), part);
    }
    let locations = Locations { mirror: Some(mirror.clone()), ..offline(&folder) };
    assert!(resolve("imdb", &locations, &mut go_on).is_err(), "test/neg is missing");
    write(mirror.join("aclImdb/test/neg/0_1.txt"), "bad");
    let found = resolve("imdb", &locations, &mut go_on).unwrap();
    assert_eq!(found.file(FileRole::Train).unwrap(), mirror.join("aclImdb/train"));
    assert_eq!(found.folder, mirror.join("aclImdb"));
    let before = found.provenance;
    write(mirror.join("aclImdb/train/unsup/0_0.txt"), "does not count");
    assert_eq!(resolve("imdb", &locations, &mut go_on).unwrap().provenance, before);
    write(mirror.join("aclImdb/train/pos/1_9.txt"), "counts");
    assert_ne!(resolve("imdb", &locations, &mut go_on).unwrap().provenance, before);
}

#[test]
fn offline_without_a_copy_says_what_to_put_where() {
    let folder = tempdir().unwrap();
    let locations = offline(&folder);
    for entry in ENTRIES {
        let error = resolve(entry.name, &locations, &mut go_on).unwrap_err();
        assert!(matches!(error, Error::Missing { .. }), "{error}");
        let text = error.to_string();
        let downloads = locations.cache_dir.join("downloads").join(entry.root);
        let first = format!("DIR/{}/{}", entry.root, entry.members[0].path);
        let parts = [entry.sources[0].file, entry.sources[0].urls[0], &first, "--mirror", "--offline"];
        for part in parts.into_iter().chain([downloads.to_str().unwrap()]) {
            assert!(text.contains(part), "{part} in: {text}");
        }
        let names_tokenizers = text.contains("--tokenizer") && text.contains("tokenizer train");
        assert_eq!(names_tokenizers, entry.kind == Kind::Tokenizer, "{text}");
    }
}

#[test]
fn unknown_names_and_mirrors_are_errors() {
    let folder = tempdir().unwrap();
    let error = resolve("wikitext", &offline(&folder), &mut go_on).unwrap_err();
    assert!(error.to_string().contains("wikitext-103"), "{error}");
    let locations = Locations { mirror: Some(folder.path().join("nowhere")), ..offline(&folder) };
    let error = resolve("trec", &locations, &mut go_on).unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("nowhere"), "{error}");
}

#[test]
fn a_download_is_unpacked_recorded_and_found_again() {
    let folder = tempdir().unwrap();
    let locations = locations(&folder);
    let zip = set_zip();
    let server = TestServer::start(&zip, Behaviour::default());
    let found = fetch_set(&server.url("set-v1.zip"), Some(&sha256_bytes(&zip)), &locations).unwrap();
    assert_eq!(found.origin, Origin::Download);
    assert_eq!(fs::read_to_string(found.file(FileRole::Train).unwrap()).unwrap(), "one two\n");
    assert!(found.warnings.is_empty(), "{:?}", found.warnings);
    assert!(found.provenance.iter().any(|sum| sum.sha256 == sha256_bytes(&zip)));
    assert!(!locations.cache_dir.join("downloads/set/set-v1.zip").exists(), "the archive is used up");

    let nobody = "http://127.0.0.1:1/set-v1.zip";
    let again = fetch_set(nobody, None, &Locations { offline: true, ..locations.clone() }).unwrap();
    assert_eq!((again.origin, &again.provenance), (Origin::Cache, &found.provenance));
    assert_eq!(server.ranges().len(), 1);

    // A file that has changed since is not used silently.
    write(locations.cache_dir.join("set/train.txt"), "one too\n");
    let error = fetch_set(nobody, None, &locations).unwrap_err().to_string();
    assert!(error.contains("recorded") && error.contains("set.provenance.json"), "{error}");
}

#[test]
fn a_set_without_a_published_sum_must_not_change_between_downloads() {
    let folder = tempdir().unwrap();
    let locations = locations(&folder);
    let server = TestServer::start(&set_zip(), Behaviour::default());
    fetch_set(&server.url("set-v1.zip"), None, &locations).unwrap();
    fs::remove_dir_all(locations.cache_dir.join("set")).unwrap();
    let other = zip_bytes(&[("set/train.txt", "four\n"), ("set/valid.txt", "five\n")]);
    let server = TestServer::start(&other, Behaviour::default());
    let error = fetch_set(&server.url("set-v1.zip"), None, &locations).unwrap_err().to_string();
    assert!(error.contains("has changed") && error.contains("set.provenance.json"), "{error}");
    assert!(!locations.cache_dir.join("set").exists());
}

#[test]
fn a_failed_download_leaves_nothing_and_says_what_to_do() {
    let folder = tempdir().unwrap();
    let locations = locations(&folder);
    let server = TestServer::start(b"", Behaviour { status: Some(404), ..Behaviour::default() });
    let error = fetch_set(&server.url("set-v1.zip"), None, &locations).unwrap_err().to_string();
    assert!(error.contains("404") && error.contains("--mirror") && error.contains("set-v1.zip"), "{error}");
    assert!(!locations.cache_dir.join("set").exists());

    // An archive that does not hold what it should.
    let server = TestServer::start(&zip_bytes(&[("set/train.txt", "one\n")]), Behaviour::default());
    let error = fetch_set(&server.url("set-v1.zip"), None, &locations).unwrap_err().to_string();
    assert!(error.contains("valid.txt"), "{error}");
    assert!(!locations.cache_dir.join("set").exists());
    assert!(!locations.cache_dir.join("downloads/set/.unpacking").exists());
    // It is not kept for the next call to fail on.
    assert!(!locations.cache_dir.join("downloads/set/set-v1.zip").exists());
    let server = TestServer::start(&set_zip(), Behaviour::default());
    fetch_set(&server.url("set-v1.zip"), None, &locations).unwrap();
}

#[test]
fn an_answer_that_is_no_archive_or_no_text_is_not_kept() {
    let folder = tempdir().unwrap();
    let locations = locations(&folder);
    let cases: [(_, &[u8], &[u8]); 3] = [
        ("a.zip", b"<html>", &set_zip()),
        ("a.csv", b"\x89PNG\0\0\x01", b"text,label\n"),
        ("b.csv", b"\n <!DOCTYPE HTML><title>Sign in</title>\n", b"text,label\n"),
    ];
    for (file, wrong, right) in cases {
        let server = TestServer::start(wrong, Behaviour::default());
        let error = resolve(&server.url(file), &locations, &mut go_on).unwrap_err().to_string();
        assert!(error.contains(file), "{error}");
        let left = Address::of(&server.url(file)).root;
        let left: Vec<_> = fs::read_dir(locations.cache_dir.join("downloads").join(left)).unwrap().collect();
        assert_eq!(left.len(), 1, "only the lock: {left:?}");
        let server = TestServer::start(right, Behaviour::default());
        resolve(&server.url(file), &locations, &mut go_on).unwrap();
    }
}

#[test]
fn the_second_address_is_tried_when_the_first_fails() {
    let folder = tempdir().unwrap();
    let server = TestServer::start(b"bad\n", Behaviour::default());
    let dead = TestServer::start(b"", Behaviour { status: Some(403), ..Behaviour::default() });
    let urls = [dead.url("a.txt"), server.url("a.txt")];
    let urls = [urls[0].as_str(), urls[1].as_str()];
    let sources = [Source { file: "a.txt", urls: &urls, format: Format::Plain, sha256: None }];
    let members = [Member { role: FileRole::Vocabulary, path: "a.txt", subfolders: &[], sha256: None }];
    let package = Package { name: "v", entry: None, root: "vocab/v", sources: &sources, members: &members };
    let found = package.resolve(&locations(&folder), &mut go_on).unwrap();
    assert_eq!(found.file(FileRole::Vocabulary).unwrap(), folder.path().join("cache/vocab/v/a.txt"));
    assert!(found.provenance.iter().any(|sum| sum.file == urls[1]));
}

#[test]
fn an_archive_put_there_by_hand_is_used_and_kept() {
    let folder = tempdir().unwrap();
    let locations = offline(&folder);
    let archive = locations.cache_dir.join("downloads/set/set-v1.zip");
    fs::create_dir_all(archive.parent().unwrap()).unwrap();
    fs::write(&archive, set_zip()).unwrap();
    let wrong = sha256_bytes(b"");
    let error = fetch_set("http://127.0.0.1:1/x", Some(&wrong), &locations).unwrap_err().to_string();
    assert!(error.contains(&wrong) && error.contains("set-v1.zip"), "{error}");
    let found = fetch_set("http://127.0.0.1:1/x", None, &locations).unwrap();
    assert_eq!(fs::read_to_string(found.file(FileRole::Valid).unwrap()).unwrap(), "three\n");
    assert!(archive.exists());
}

#[test]
fn a_folder_of_the_users_is_never_replaced() {
    let folder = tempdir().unwrap();
    let locations = locations(&folder);
    write(locations.cache_dir.join("set/train.txt"), "mine\n");
    let server = TestServer::start(&set_zip(), Behaviour::default());
    let error = fetch_set(&server.url("set-v1.zip"), None, &locations).unwrap_err().to_string();
    assert!(error.contains("valid.txt"), "{error}");
    assert_eq!(fs::read_to_string(locations.cache_dir.join("set/train.txt")).unwrap(), "mine\n");
    assert!(server.ranges().is_empty());
    write(locations.cache_dir.join("set/valid.txt"), "mine too\n");
    let found = fetch_set(&server.url("set-v1.zip"), None, &locations).unwrap();
    assert_eq!((found.origin, found.warnings.len()), (Origin::Cache, 2));
}

#[test]
fn what_a_killed_run_left_is_removed_at_the_next_start() {
    let folder = tempdir().unwrap();
    let locations = locations(&folder);
    let downloads = locations.cache_dir.join("downloads");
    for set in ["other", "urls/1-a.zip", "busy"] {
        write(downloads.join(set).join(".unpacking/half.txt"), "half");
        write(downloads.join(set).join(".lock"), "");
    }
    let busy = File::open(downloads.join("busy/.lock")).unwrap();
    busy.lock().unwrap();
    let server = TestServer::start(&set_zip(), Behaviour::default());
    fetch_set(&server.url("set-v1.zip"), None, &locations).unwrap();
    let left = |set: &str| downloads.join(set).join(".unpacking").exists();
    assert_eq!((left("other"), left("urls/1-a.zip"), left("busy")), (false, false, true));
}

#[test]
fn several_runs_at_once_download_once() {
    let folder = tempdir().unwrap();
    let locations = locations(&folder);
    let server = TestServer::start(&set_zip(), Behaviour::default());
    let url = server.url("set-v1.zip");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| fetch_set(&url, None, &locations).unwrap());
        }
    });
    assert_eq!(server.ranges().len(), 1);
}

#[test]
fn addresses_resolve_to_folders_and_files() {
    let folder = tempdir().unwrap();
    let locations = locations(&folder);
    let server = TestServer::start(&set_zip(), Behaviour::default());
    let found = resolve(&server.url("my%20set.zip?version=2"), &locations, &mut go_on).unwrap();
    assert!(found.entry.is_none());
    assert_eq!(fs::read_to_string(found.folder.join("train.txt")).unwrap(), "one two\n");
    assert_eq!(found.file(FileRole::Everything), Some(found.folder.as_path()));
    let again = resolve(&server.url("my%20set.zip?version=2"), &locations, &mut go_on).unwrap();
    assert_eq!((again.origin, again.folder), (Origin::Cache, found.folder));

    let server = TestServer::start(b"a line\n", Behaviour::default());
    let found = resolve(&server.url("text.txt"), &locations, &mut go_on).unwrap();
    assert_eq!(fs::read(found.file(FileRole::Everything).unwrap()).unwrap(), b"a line\n");
    for url in ["http://127.0.0.1:1/..", "http://127.0.0.1:1/", "https://127.0.0.1:1/%2e%2e%2f.txt"] {
        let address = Address::of(url);
        assert!(Path::new(&address.root).components().count() == 2, "{}", address.root);
        assert!(!address.file.contains('/') && address.file != "..", "{}", address.file);
    }
}

#[test]
fn the_list_says_what_is_here() {
    let folder = tempdir().unwrap();
    let locations = locations(&folder);
    assert_eq!(list(&locations).len(), ENTRIES.len());
    assert!(list(&locations).iter().all(|line| line.found.is_none()));
    write(locations.cache_dir.join("vocab/bert-base-cased/vocab.txt"), "[UNK]\n");
    let mirror = folder.path().join("mirror");
    write(mirror.join("trec/train_5500.label"), "NUM:count How many ?\n");
    write(mirror.join("trec/TREC_10.label"), "NUM:count How many ?\n");
    let locations = Locations { mirror: Some(mirror.clone()), ..locations };
    let here: Vec<_> = list(&locations).into_iter().filter(|line| line.found.is_some()).collect();
    let names: Vec<_> = here.iter().map(|line| line.entry.name).collect();
    assert_eq!(names, ["trec", "bert-base-cased"]);
    assert_eq!(here[0].found, Some((Origin::Mirror, mirror.join("trec"))));
}
