//! Files that are one split together: shards, numbered by whatever wrote them.
//!
//! Owns: their numbers, their order, that none of them is missing. Never: opens one.

use std::path::{Path, PathBuf};

use super::content::plain_name;
use super::split::Split;
use crate::error::{Result, bad};

/// What may stand between the name of a split and a number.
const SEPARATORS: [char; 4] = ['-', '_', '.', ' '];
/// What may be called so beside a number.
const PART_NAMES: [&str; 3] = ["part", "shard", "chunk"];

/// The number in the name of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shard {
    /// The file's name without it.
    whole: String,
    number: u64,
    /// How many there are, where the name tells, as in `train-00000-of-00003`.
    of: Option<u64>,
}

impl Shard {
    fn of_path(path: &Path) -> Option<Self> {
        let plain = plain_name(path);
        let stem = stem(path);
        let ending = plain.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        let (base, number, of) = numbers(&stem)?;
        Some(Self { whole: format!("{base}.{ending}"), number, of })
    }

    /// The stem of the file's name without the number.
    fn stem(&self) -> &str {
        self.whole.rsplit_once('.').map_or(&self.whole, |(stem, _)| stem)
    }
}

/// The name of a split, the number of a shard and how many there are, of the stem of a name.
fn numbers(stem: &str) -> Option<(&str, u64, Option<u64>)> {
    if let Some((rest, all)) = stem.rsplit_once("-of-")
        && let Some((base, number)) = rest.rsplit_once('-')
    {
        return Some((base, number.parse().ok()?, Some(all.parse().ok()?)));
    }
    let rest = stem.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = stem.get(rest.len()..)?.parse().ok()?;
    let rest = rest.trim_end_matches(SEPARATORS);
    let base = PART_NAMES.iter().find_map(|name| rest.strip_suffix(name)).unwrap_or(rest);
    let base = base.trim_end_matches(SEPARATORS);
    (!base.is_empty()).then_some((base, number, None))
}

/// The stem of a file's name in small letters, without the ending of a compression.
pub fn stem(path: &Path) -> String {
    plain_name(path).file_stem().unwrap_or_default().to_string_lossy().to_lowercase()
}

/// Of the files and folders of a folder, those of a split, in their order: one, or all its shards; none where there is none. `is_of`
/// tells them by the path and by the stem of its name, in small letters and without the number of a shard.
///
/// # Errors
/// [`crate::Error::BadInput`] where two are the split, or one of the shards is missing.
pub fn of_split(
    paths: &[PathBuf],
    split: Split,
    is_of: impl Fn(&Path, &str) -> bool,
) -> Result<Vec<PathBuf>> {
    let shard = |path: &Path, told: bool| Shard::of_path(path).filter(|shard| shard.of.is_some() == told);
    let named = |path: &&PathBuf| {
        is_of(path, &stem(path)) || shard(path, true).is_some_and(|shard| is_of(path, shard.stem()))
    };
    // A number alone can be anything: `train_100.csv` beside `train.csv` is no part of it.
    let numbered = |path: &&PathBuf| shard(path, false).is_some_and(|shard| is_of(path, shard.stem()));
    let mut found: Vec<PathBuf> = paths.iter().filter(named).cloned().collect();
    if found.is_empty() {
        found = paths.iter().filter(numbered).cloned().collect();
    }
    in_order(found, split)
}

/// The files of a folder that is a split: in the order of their numbers where they tell how many they are, else in that of their names.
///
/// # Errors
/// As for [`of_split`].
pub fn of_folder(files: Vec<PathBuf>, split: Split) -> Result<Vec<PathBuf>> {
    let counted = files.iter().any(|path| Shard::of_path(path).is_some_and(|shard| shard.of.is_some()));
    if counted { in_order(files, split) } else { Ok(files) }
}

/// Files in the order of their numbers.
///
/// # Errors
/// As for [`of_split`].
pub fn in_order(found: Vec<PathBuf>, split: Split) -> Result<Vec<PathBuf>> {
    let mut shards = Vec::new();
    for path in &found {
        match Shard::of_path(path) {
            Some(shard) if found.len() > 1 || shard.of.is_some() => shards.push((shard, path.clone())),
            _ if found.len() == 1 => return Ok(found),
            _ => {
                let other = found.iter().find(|other| *other != path).unwrap_or(path);
                return Err(twice(other, path, split));
            }
        }
    }
    shards.sort_by_key(|(shard, _)| shard.number);
    let Some((first, first_path)) = shards.first() else { return Ok(found) };
    let begin = match first.of {
        Some(of) => u64::from(shards.iter().any(|(shard, _)| shard.number == of)),
        None => first.number.min(1),
    };
    let count = first.of.unwrap_or(shards.len() as u64);
    for (expected, (shard, path)) in (begin..).zip(&shards) {
        if (&shard.whole, shard.of) != (&first.whole, first.of) {
            return Err(twice(path, first_path, split));
        }
        if shard.number < expected {
            return Err(twice(path, &shards[(expected - begin) as usize - 1].1, split));
        }
        if shard.number > expected {
            return Err(missing(path, expected, split));
        }
    }
    if count > shards.len() as u64 {
        return Err(missing(first_path, begin + shards.len() as u64, split));
    }
    Ok(shards.into_iter().map(|(_, path)| path).collect())
}

fn twice(path: &Path, other: &Path, split: Split) -> crate::Error {
    let what = format!("{} is {split} data too", other.display());
    bad(path, None, what, "move one of the two away, or name the file itself")
}

fn missing(path: &Path, number: u64, split: Split) -> crate::Error {
    let what = format!("is a part of the {split} data, of which number {number} is not there");
    bad(path, None, what, "get that file, too, or name the file itself, which is then all there is")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(names: &[&str]) -> std::result::Result<Vec<String>, String> {
        let paths: Vec<PathBuf> = names.iter().map(|name| Path::new("data").join(name)).collect();
        let found = of_split(&paths, Split::Train, |_, stem| stem == "train").map_err(|e| e.to_string())?;
        Ok(found.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect())
    }

    #[test]
    fn shards_are_one_split_in_the_order_of_their_numbers() {
        for (names, expected) in [
            (&["train.csv", "test.csv", "train_100.csv"][..], &["train.csv"][..]),
            (
                &[
                    "train-00002-of-00003.parquet",
                    "train-00000-of-00003.parquet",
                    "train-00001-of-00003.parquet",
                ],
                &[
                    "train-00000-of-00003.parquet",
                    "train-00001-of-00003.parquet",
                    "train-00002-of-00003.parquet",
                ],
            ),
            (
                &[
                    "train_10.csv",
                    "train_2.csv",
                    "train_1.csv",
                    "train_3.csv",
                    "train_4.csv",
                    "train_5.csv",
                    "train_6.csv",
                    "train_7.csv",
                    "train_8.csv",
                    "train_9.csv",
                    "test.csv",
                ],
                &[
                    "train_1.csv",
                    "train_2.csv",
                    "train_3.csv",
                    "train_4.csv",
                    "train_5.csv",
                    "train_6.csv",
                    "train_7.csv",
                    "train_8.csv",
                    "train_9.csv",
                    "train_10.csv",
                ],
            ),
            (
                &["Train-part-0.jsonl.gz", "Train-part-1.jsonl.gz"],
                &["Train-part-0.jsonl.gz", "Train-part-1.jsonl.gz"],
            ),
            (&["train_5500.label"], &["train_5500.label"]),
            (&["train-00000-of-00001.parquet"], &["train-00000-of-00001.parquet"]),
            (&["test.csv", "00000.csv"], &[]),
        ] {
            let expected: Vec<String> = expected.iter().map(|&name| name.to_owned()).collect();
            assert_eq!(found(names), Ok(expected), "{names:?}");
        }
    }

    #[test]
    fn a_folder_may_number_its_files_in_any_way() {
        let folder = |names: &[&str]| of_folder(names.iter().map(PathBuf::from).collect(), Split::Train);
        for names in [
            &["0000.parquet", "0001.parquet"][..],
            &["part-00000-3f.snappy.parquet", "part-00001-3f.snappy.parquet"],
            &["a.csv", "b.csv"],
        ] {
            assert_eq!(folder(names).unwrap(), names.iter().map(PathBuf::from).collect::<Vec<_>>());
        }
        let message = folder(&["data-00000-of-00002.csv"]).unwrap_err().to_string();
        assert!(message.contains("number 1 is not there"), "{message}");
    }

    #[test]
    fn what_is_missing_or_there_twice_is_told() {
        for (names, says) in [
            (&["train-00000-of-00003.parquet", "train-00002-of-00003.parquet"][..], "number 1 is not there"),
            (&["train-00000-of-00003.parquet", "train-00001-of-00003.parquet"], "number 2 is not there"),
            (&["train-00001-of-00002.parquet"], "number 0 is not there"),
            (&["train_1000.csv", "train_5500.csv"], "number 1 is not there"),
            (&["train.csv", "train.tsv"], "is train data too"),
            (&["train.csv", "train-00000-of-00001.parquet"], "is train data too"),
            (&["train-00000-of-00001.parquet", "train-00000-of-00001.csv"], "is train data too"),
            (&["train-1.csv", "train_1.csv"], "is train data too"),
        ] {
            let message = found(names).unwrap_err();
            assert!(message.contains(says) && message.contains("fix: "), "{names:?}: {message}");
        }
    }
}
