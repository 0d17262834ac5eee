//! Every file of a run is flipped, cut, emptied, lengthened: the same bits, or an error that names it; never another result.
//!
//! Owns: which file is damaged how, and what is asked of it then. Never: what a whole run holds (`works`).

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Draws, Place, copy_folder};
use crate::works::{Work, Works, all_end, alone, draws, named};
use crate::{Case, Counts, Found};

/// For people, or made anew; nothing is read from it.
const UNREAD: [&str; 8] = [
    "train.log",
    "report.html",
    "summary.json",
    "predictions.jsonl",
    "README.md",
    "run.lock",
    "environment.json",
    "command.txt",
];

/// A folder to be damaged.
struct Subject<'a> {
    work: &'a Work,
    place: Place,
    finished: bool,
    files: Vec<PathBuf>,
}

/// The part: in the case of a number one file of one folder is damaged and one thing is asked.
pub fn part(works: &Works) -> Case<'_> {
    let subjects: Vec<Subject> =
        works.works.iter().flat_map(|work| [true, false].map(|finished| subject(work, finished))).collect();
    Box::new(move |number, place, counts| {
        let subject = &subjects[number as usize % subjects.len()];
        let round = number as usize / subjects.len();
        let file = &subject.files[round % subject.files.len()];
        let mut draws = draws(number);
        copy_folder(&subject.place.path("run"), &place.path("run"));
        let path = place.path("run").join(file);
        let whole = fs::read(&path).unwrap();
        let (mut what, damaged) = damage(&mut draws, &whole);
        // Of a log that is gone nothing is expected; what only lies elsewhere is another matter.
        let is_log = file.ends_with("metrics.jsonl") || file.starts_with("tensorboard");
        match draws.below(12) {
            0 if !is_log => {
                what = "removed".into();
                fs::remove_file(&path).unwrap();
            }
            1 => {
                let name = file.file_name().unwrap();
                let alike: Vec<&PathBuf> =
                    subject.files.iter().filter(|other| other.file_name() == Some(name)).collect();
                let other = alike[draws.below(alike.len())];
                what = format!("replaced by {}", other.display());
                fs::copy(subject.place.path("run").join(other), &path).unwrap();
            }
            _ => fs::write(&path, &damaged).unwrap(),
        }
        counts.add(format!("damage: {}", what.split_whitespace().next().unwrap()));
        let asked = if draws.below(3) == 0 {
            ask(subject, place, counts)
        } else {
            resume(subject, place, file, &whole, counts)
        };
        asked.map_err(|said| {
            let state = if subject.finished { "finished" } else { "interrupted" };
            format!("{}, {state}, {}: {what}: {said}", subject.work.name, file.display())
        })
    })
}

fn subject(work: &Work, finished: bool) -> Subject<'_> {
    let place = Place::new().with("HEADSTART_CACHE", Works::cache().display().to_string());
    if finished {
        place.run(&work.start("run")).succeeds();
    } else {
        let mut running = place.start(&work.start("run"));
        running.until(|| place.path("run/checkpoints/step-00000003").exists());
        running.kill();
    }
    let mut files = Vec::new();
    walk(&place.path("run"), Path::new(""), &mut files);
    Subject { work, place, finished, files }
}

fn walk(folder: &Path, below: &Path, files: &mut Vec<PathBuf>) {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    for name in names {
        if folder.join(&name).is_dir() {
            walk(&folder.join(&name), &below.join(&name), files);
        } else {
            files.push(below.join(&name));
        }
    }
}

/// One damage, in words and as content.
fn damage(draws: &mut Draws, whole: &[u8]) -> (String, Vec<u8>) {
    let mut content = whole.to_vec();
    if whole.is_empty() {
        return ("lengthened by one byte".into(), vec![draws.below(256) as u8]);
    }
    // Ends and beginnings are where formats have their lengths.
    let at = match draws.below(4) {
        0 => draws.below(whole.len().min(64)),
        1 => whole.len() - 1 - draws.below(whole.len().min(64)),
        _ => draws.below(whole.len()),
    };
    let what = match draws.below(8) {
        0..4 => {
            let bit = draws.below(8);
            content[at] ^= 1 << bit;
            format!("flipped bit {bit} of byte {at} of {}", whole.len())
        }
        4 | 5 => {
            content.truncate(at);
            format!("cut to {at} of {} bytes", whole.len())
        }
        6 => {
            // As a machine without power leaves a block.
            let end = whole.len().min(at + 512);
            content[at..end].fill(0);
            format!("zeroed bytes {at} to {end} of {}", whole.len())
        }
        _ => {
            content.extend((0..=draws.below(40)).map(|_| draws.below(256) as u8));
            format!("lengthened to {} of {} bytes", content.len(), whole.len())
        }
    };
    (what, content)
}

fn ask(subject: &Subject<'_>, place: &Place, counts: &Counts) -> Found {
    subject.work.ask(place, "run", counts)
}

/// Goes on; if that is refused, it goes on once the file is as it was.
fn resume(subject: &Subject<'_>, place: &Place, file: &Path, whole: &[u8], counts: &Counts) -> Found {
    let work = subject.work;
    let output = all_end(vec![place.command(&format!("{} --resume run", work.command))])?.remove(0);
    counts.add("runs");
    if output.status.success() {
        let name = file.file_name().unwrap().to_string_lossy();
        // The model card of the finished model quotes the command.
        let quoted = name == "command.txt";
        counts.add(if UNREAD.contains(&&*name) {
            "damage: not read"
        } else {
            "damage: made anew, or of no use any more"
        });
        return match work.same(place, "run") {
            Err(what) if quoted && what.contains("README.md") => Ok(()),
            same => same.inspect(|()| counts.add("same-bit comparisons")),
        };
    }
    let folder = file.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
    let mut words = vec![file.file_name().unwrap().to_string_lossy().into_owned()];
    words.extend(Some(folder).filter(|folder| folder.starts_with("step-")));
    named(&output, &words)?;
    counts.add("damage: named errors of runs");
    fs::write(place.path("run").join(file), whole).unwrap();
    work.ends_as_it_would_have(place, "run", &alone, counts)
        .map_err(|what| format!("refused, and with the file as it was: {what}"))
}
