//! Tests of the download against a server on the loopback, and of the unpacking against hostile archives.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use tempfile::tempdir;

use super::test_server::{Behaviour, RangeFault, TestServer};
use super::unpack::{Format, unpack};
use super::{Progress, Stage, download, sha256_bytes, sha256_file, sha256_folder};
use crate::error::Error;
use crate::event::Signal;

fn go_on(_: Progress<'_>) -> Signal {
    Signal::Continue
}

fn content() -> Vec<u8> {
    (0..200_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn a_download_arrives_whole_and_tells_its_progress() {
    let content = content();
    let server = TestServer::start(&content, Behaviour::default());
    let folder = tempdir().unwrap();
    let dest = folder.path().join("a.zip");
    let mut seen = Vec::new();
    let sum = download(&server.url("a.zip"), &dest, Some(&sha256_bytes(&content)), &mut |p| {
        // Before the server has answered, the length is not known.
        assert_eq!(
            (p.stage, p.file, p.total_bytes.unwrap_or(200_000)),
            (Stage::Downloading, "a.zip", 200_000)
        );
        seen.push(p.done_bytes);
        Signal::Continue
    })
    .unwrap();
    assert_eq!(sum, sha256_bytes(&content));
    assert_eq!(fs::read(&dest).unwrap(), content);
    assert_eq!((seen.first(), seen.last()), (Some(&0), Some(&200_000)));
    assert!(seen.is_sorted());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing but the file is left");
}

#[test]
fn a_cut_connection_is_continued_where_it_broke() {
    let content = content();
    let server =
        TestServer::start(&content, Behaviour { cuts: vec![70_000, 50_000], ..Behaviour::default() });
    let folder = tempdir().unwrap();
    let dest = folder.path().join("a.zip");
    download(&server.url("a.zip"), &dest, None, &mut go_on).unwrap();
    assert_eq!(fs::read(&dest).unwrap(), content);
    assert_eq!(server.ranges(), ["", "bytes=70000-", "bytes=120000-"]);
}

#[test]
fn a_later_call_continues_an_earlier_one() {
    let content = content();
    let folder = tempdir().unwrap();
    let dest = folder.path().join("a.zip");
    fs::write(folder.path().join("a.zip.part"), &content[..30_000]).unwrap();
    let server = TestServer::start(&content, Behaviour::default());
    download(&server.url("a.zip"), &dest, Some(&sha256_bytes(&content)), &mut go_on).unwrap();
    assert_eq!(server.ranges(), ["bytes=30000-"]);
    assert_eq!(fs::read(&dest).unwrap(), content);
}

#[test]
fn a_part_that_is_already_whole_needs_no_more_bytes() {
    let content = content();
    let folder = tempdir().unwrap();
    let dest = folder.path().join("a.zip");
    fs::write(folder.path().join("a.zip.part"), &content).unwrap();
    let server = TestServer::start(&content, Behaviour::default());
    download(&server.url("a.zip"), &dest, Some(&sha256_bytes(&content)), &mut go_on).unwrap();
    assert_eq!(fs::read(&dest).unwrap(), content);
}

#[test]
fn a_part_of_another_version_is_not_continued() {
    let content = content();
    let folder = tempdir().unwrap();
    let dest = folder.path().join("a.zip");
    let server = TestServer::start(&content, Behaviour::default());
    fs::write(folder.path().join("a.zip.part"), b"something else").unwrap();
    fs::write(folder.path().join("a.zip.part.validator"), "\"another\"").unwrap();
    download(&server.url("a.zip"), &dest, None, &mut go_on).unwrap();
    assert_eq!(server.ranges(), ["bytes=14-"]);
    assert_eq!(fs::read(&dest).unwrap(), content);

    // Without anything to recognise the version by, not even the question is asked.
    let server = TestServer::start(&content, Behaviour { no_etag: true, ..Behaviour::default() });
    fs::write(folder.path().join("b.zip.part"), b"something else").unwrap();
    download(&server.url("b.zip"), &folder.path().join("b.zip"), None, &mut go_on).unwrap();
    assert_eq!(server.ranges(), [""]);
    assert_eq!(fs::read(folder.path().join("b.zip")).unwrap(), content);
}

#[test]
fn a_server_without_ranges_starts_again() {
    let content = content();
    let behaviour = Behaviour { no_ranges: true, cuts: vec![70_000], ..Behaviour::default() };
    let server = TestServer::start(&content, behaviour);
    let folder = tempdir().unwrap();
    let dest = folder.path().join("a.zip");
    download(&server.url("a.zip"), &dest, None, &mut go_on).unwrap();
    assert_eq!(fs::read(&dest).unwrap(), content);
    assert_eq!(server.ranges(), ["", "bytes=70000-"]);
}

#[test]
fn a_server_that_keeps_breaking_off_is_given_up() {
    let behaviour = Behaviour { cuts: vec![0; 100], ..Behaviour::default() };
    let server = TestServer::start(&content(), behaviour);
    let folder = tempdir().unwrap();
    let error = download(&server.url("a.zip"), &folder.path().join("a.zip"), None, &mut go_on).unwrap_err();
    assert!(error.to_string().contains("keeps breaking off"), "{error}");
    assert_eq!(server.ranges().len(), 3);
}

#[test]
fn a_server_whose_ranges_do_not_fit_is_asked_a_few_times_and_nothing_wrong_is_kept() {
    let content = content();
    for fault in [RangeFault::Refused, RangeFault::Misplaced, RangeFault::Shortened] {
        let cuts = vec![70_000; 100];
        let behaviour = Behaviour { cuts, range: Some(fault), ..Behaviour::default() };
        let server = TestServer::start(&content, behaviour);
        let folder = tempdir().unwrap();
        let dest = folder.path().join("a.zip");
        let error = download(&server.url("a.zip"), &dest, None, &mut go_on).unwrap_err();
        assert!(error.to_string().contains("keeps breaking off"), "{fault:?}: {error}");
        assert_eq!(server.ranges(), ["", "bytes=70000-", "", "bytes=70000-"], "{fault:?}");
        assert!(!dest.exists());
        // A server that has come to its senses gives the file.
        let server = TestServer::start(&content, Behaviour::default());
        download(&server.url("a.zip"), &dest, None, &mut go_on).unwrap();
        assert_eq!(fs::read(&dest).unwrap(), content);
    }
}

#[test]
fn a_busy_server_is_asked_again_when_it_says() {
    let content = content();
    let behaviour = Behaviour { busy: 2, retry_after: Some(0), ..Behaviour::default() };
    let server = TestServer::start(&content, behaviour);
    let folder = tempdir().unwrap();
    let dest = folder.path().join("a.zip");
    download(&server.url("a.zip"), &dest, None, &mut go_on).unwrap();
    assert_eq!((fs::read(&dest).unwrap(), server.ranges().len()), (content.clone(), 3));
    let behaviour = Behaviour { busy: 9, retry_after: Some(3600), ..Behaviour::default() };
    let server = TestServer::start(&content, behaviour);
    let error = download(&server.url("a.zip"), &folder.path().join("b"), None, &mut go_on).unwrap_err();
    assert!(error.to_string().contains("503") && error.to_string().contains("in 3600 seconds"), "{error}");
    assert_eq!(server.ranges().len(), 1);
}

#[cfg(unix)]
#[test]
fn what_the_disk_has_no_room_for_is_not_begun() {
    let server =
        TestServer::start(&content(), Behaviour { announces: Some(1 << 60), ..Behaviour::default() });
    let folder = tempdir().unwrap();
    let dest = folder.path().join("a.zip");
    let error = download(&server.url("a.zip"), &dest, None, &mut go_on).unwrap_err().to_string();
    assert!(error.contains("it takes 1152921504606.8 MB") && error.contains(" MB free"), "{error}");
    assert!(!dest.exists() && !folder.path().join("a.zip.part").exists());
    assert_eq!(server.ranges().len(), 1);
}

#[test]
fn an_empty_answer_is_refused_and_not_kept() {
    let server = TestServer::start(b"", Behaviour::default());
    let folder = tempdir().unwrap();
    let error = download(&server.url("a.csv"), &folder.path().join("a.csv"), None, &mut go_on).unwrap_err();
    assert!(error.to_string().contains("an empty file"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_stalled_download_hears_the_stop_and_continues_later() {
    let content = content();
    for stalled_at in [0, 70_000] {
        let behaviour = Behaviour { cuts: vec![stalled_at], stalls: true, ..Behaviour::default() };
        let server = TestServer::start(&content, behaviour);
        let folder = tempdir().unwrap();
        let dest = folder.path().join("a.zip");
        let mut stop_at = |p: Progress<'_>| {
            if p.done_bytes >= stalled_at as u64 { Signal::Stop } else { Signal::Continue }
        };
        let begin = std::time::Instant::now();
        let error = download(&server.url("a.zip"), &dest, None, &mut stop_at).unwrap_err();
        assert!(matches!(error, Error::Interrupted { .. }), "{error}");
        assert!(begin.elapsed() < std::time::Duration::from_secs(2));
        let server = TestServer::start(&content, Behaviour::default());
        download(&server.url("a.zip"), &dest, None, &mut go_on).unwrap();
        let rest = if stalled_at == 0 { String::new() } else { format!("bytes={stalled_at}-") };
        assert_eq!((server.ranges(), fs::read(&dest).unwrap()), (vec![rest], content.clone()));
    }
}

#[test]
fn a_wrong_checksum_is_refused_and_nothing_is_kept() {
    let server = TestServer::start(&content(), Behaviour::default());
    let folder = tempdir().unwrap();
    let expected = sha256_bytes(b"the real one");
    let error = download(&server.url("a.zip"), &folder.path().join("a.zip"), Some(&expected), &mut go_on)
        .unwrap_err();
    assert!(error.to_string().contains(&expected), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_refusal_names_address_and_status() {
    for status in [403, 404, 500] {
        let server = TestServer::start(b"", Behaviour { status: Some(status), ..Behaviour::default() });
        let folder = tempdir().unwrap();
        let error =
            download(&server.url("a.zip"), &folder.path().join("a.zip"), None, &mut go_on).unwrap_err();
        assert!(matches!(error, Error::Download { .. }));
        let text = error.to_string();
        assert!(text.contains(&server.url("a.zip")) && text.contains(&status.to_string()), "{text}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
    let nobody = "http://127.0.0.1:1/a.zip";
    let error = download(nobody, &tempdir().unwrap().path().join("a"), None, &mut go_on).unwrap_err();
    assert!(error.to_string().contains(nobody), "{error}");
}

#[test]
fn sums_are_those_of_sha256sum() {
    let folder = tempdir().unwrap();
    fs::create_dir_all(folder.path().join("pos")).unwrap();
    fs::create_dir_all(folder.path().join("other")).unwrap();
    fs::write(folder.path().join("pos/b.txt"), "abc").unwrap();
    fs::write(folder.path().join("pos/a.txt"), "").unwrap();
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(sha256_file(&folder.path().join("pos/b.txt"), &mut go_on).unwrap(), abc);
    let lines = format!("{empty}  pos/a.txt\n{abc}  pos/b.txt\n");
    let whole = sha256_folder(folder.path(), &[], &mut go_on).unwrap();
    assert_eq!(whole, sha256_bytes(lines.as_bytes()));
    fs::write(folder.path().join("other/c.txt"), "ignored").unwrap();
    assert_eq!(sha256_folder(folder.path(), &["pos"], &mut go_on).unwrap(), whole);
    assert_ne!(sha256_folder(folder.path(), &[], &mut go_on).unwrap(), whole);
}

fn zip_of(path: &Path, files: &[(&str, &str)]) {
    let mut zip = zip::ZipWriter::new(File::create(path).unwrap());
    for (name, text) in files {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    zip.finish().unwrap();
}

/// Writes the name into the header by hand: the tar crate itself refuses hostile ones.
fn tar_gz_of(path: &Path, files: &[(&str, tar::EntryType, &str)]) {
    let gz = flate2::write::GzEncoder::new(File::create(path).unwrap(), flate2::Compression::default());
    let mut tar = tar::Builder::new(gz);
    for (name, kind, text) in files {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_size(text.len() as u64);
        if *kind == tar::EntryType::Symlink {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.set_cksum();
        tar.append(&header, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap();
}

#[test]
fn archives_unpack() {
    let folder = tempdir().unwrap();
    let zip = folder.path().join("a.zip");
    zip_of(&zip, &[("set/train.txt", "one"), ("set/deep/valid.txt", "two")]);
    let tar = folder.path().join("a.tar.gz");
    let regular = tar::EntryType::Regular;
    let entries = [
        ("set", tar::EntryType::Directory, ""),
        ("set/train.txt", regular, "one"),
        ("./set/deep/valid.txt", regular, "two"),
    ];
    tar_gz_of(&tar, &entries);
    for (archive, format) in [(zip, Format::Zip), (tar, Format::TarGz)] {
        let into = tempdir().unwrap();
        let mut bytes = 0;
        unpack(&archive, format, into.path(), &mut |p| {
            bytes = p.done_bytes;
            Signal::Continue
        })
        .unwrap();
        assert_eq!(fs::read_to_string(into.path().join("set/train.txt")).unwrap(), "one");
        assert_eq!(fs::read_to_string(into.path().join("set/deep/valid.txt")).unwrap(), "two");
        assert_eq!(bytes, 6);
    }
}

#[test]
fn archives_cannot_write_outside_their_folder() {
    let folder = tempdir().unwrap();
    let into = folder.path().join("deep/into");
    fs::create_dir_all(&into).unwrap();
    for (index, name) in
        ["../evil.txt", "a/../../evil.txt", "/evil.txt", "..\\evil.txt", "C:evil.txt"].iter().enumerate()
    {
        let zip = folder.path().join(format!("{index}.zip"));
        zip_of(&zip, &[(name, "evil")]);
        let tar = folder.path().join(format!("{index}.tar.gz"));
        tar_gz_of(&tar, &[(name, tar::EntryType::Regular, "evil")]);
        for (archive, format) in [(zip, Format::Zip), (tar, Format::TarGz)] {
            let error = unpack(&archive, format, &into, &mut go_on).unwrap_err();
            assert!(error.to_string().contains("outside"), "{name}: {error}");
        }
    }
    let link = folder.path().join("link.tar.gz");
    tar_gz_of(&link, &[("innocent", tar::EntryType::Symlink, "")]);
    let error = unpack(&link, Format::TarGz, &into, &mut go_on).unwrap_err();
    assert!(error.to_string().contains("innocent"), "{error}");
    assert!(!folder.path().join("evil.txt").exists() && !folder.path().join("deep/evil.txt").exists());
    assert_eq!(fs::read_dir(&into).unwrap().count(), 0);
}

#[test]
fn two_entries_of_one_name_are_refused() {
    let folder = tempdir().unwrap();
    let zip = folder.path().join("a.zip");
    // The library writes no such thing either, so the second name is made the first one afterwards.
    zip_of(&zip, &[("train.txt", "one"), ("tr_in.txt", "two")]);
    let bytes: Vec<u8> =
        fs::read(&zip).unwrap().into_iter().map(|b| if b == b'_' { b'a' } else { b }).collect();
    fs::write(&zip, bytes).unwrap();
    let tar = folder.path().join("a.tar.gz");
    let regular = tar::EntryType::Regular;
    tar_gz_of(&tar, &[("train.txt", regular, "one"), ("./train.txt", regular, "two")]);
    for (archive, format) in [(zip, Format::Zip), (tar, Format::TarGz)] {
        let into = tempdir().unwrap();
        let error = unpack(&archive, format, into.path(), &mut go_on).unwrap_err().to_string();
        assert!(error.contains("two of its entries"), "{error}");
    }
}

#[test]
fn what_unpacks_to_far_more_than_text_is_stopped() {
    let folder = tempdir().unwrap();
    let zeros = "0".repeat(80 << 20);
    let zip = folder.path().join("a.zip");
    zip_of(&zip, &[("train.txt", &zeros)]);
    let tar = folder.path().join("a.tar.gz");
    tar_gz_of(&tar, &[("train.txt", tar::EntryType::Regular, &zeros)]);
    for (archive, format) in [(zip, Format::Zip), (tar, Format::TarGz)] {
        let into = tempdir().unwrap();
        let mut most = 0;
        let error = unpack(&archive, format, into.path(), &mut |p| {
            most = p.done_bytes;
            Signal::Continue
        });
        let error = error.unwrap_err().to_string();
        assert!(error.contains("unpacks to more than") && error.contains("unpack it yourself"), "{error}");
        assert!(most < 80 << 20);
        let stopped = unpack(&archive, format, tempdir().unwrap().path(), &mut |_| Signal::Stop).unwrap_err();
        assert!(matches!(stopped, Error::Interrupted { .. }), "{stopped}");
    }
}

#[test]
fn damaged_archives_are_errors() {
    let folder = tempdir().unwrap();
    let zip = folder.path().join("a.zip");
    zip_of(&zip, &[("train.txt", &"words ".repeat(1000))]);
    let tar = folder.path().join("a.tar.gz");
    tar_gz_of(&tar, &[("train.txt", tar::EntryType::Regular, &"words ".repeat(1000))]);
    for (archive, format) in [(zip, Format::Zip), (tar, Format::TarGz)] {
        let bytes = fs::read(&archive).unwrap();
        for cut in [0, 1, bytes.len() / 2, bytes.len() - 9] {
            fs::write(&archive, &bytes[..cut]).unwrap();
            let into = tempdir().unwrap();
            let error = unpack(&archive, format, into.path(), &mut go_on).unwrap_err();
            assert!(matches!(error, Error::BadInput { .. }), "{cut}: {error}");
        }
    }
}
