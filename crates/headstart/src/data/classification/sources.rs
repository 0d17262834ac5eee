//! Which files make a classification data set, and in which format each of them is.
//!
//! Owns: layouts, file names, telling formats apart. Never: reads more of a file than its beginning.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::columns::{Called, Columns};
use super::label_place::LabelPlace;
use super::{ClassificationOptions, Header};
use crate::data::content::plain_name;
use crate::data::encoding::{TextBlocks, TextEncoding};
use crate::data::shards;
use crate::data::split::Split;
use crate::error::{Error, Result, bad};
use crate::files::entries;

/// How texts and labels lie in a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Format {
    /// Comma-separated, quoted, with a header.
    Csv,
    /// Tab-separated, never quoted, with a header.
    Tsv,
    /// JSON objects: one a line, or a list of them; or the rows of a Parquet file.
    JsonLines,
    /// `__label__x text` (fastText).
    LabelPrefix,
    /// `LABEL:sub text` (TREC).
    Trec,
    /// A text and a label a line.
    LabelledLines(LabelPlace),
    /// The path is the texts, one a line; the labels stand in this file, one a line.
    LabelsBeside(PathBuf),
    /// The path is a folder with a folder per class, with a file per text in it or below it.
    ClassFolders,
    /// The path is a folder with a file per class, with a text per line.
    FilePerClass,
}

impl Format {
    /// Whether texts of one split lie in many files.
    pub fn has_many_files(&self) -> bool {
        matches!(self, Self::ClassFolders | Self::FilePerClass)
    }
}

/// One split's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// The file, or the folder of class folders.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// The files behind it, where it is the first of several.
    pub further: Vec<Source>,
}

impl Source {
    fn of(path: &Path, format: Format) -> Self {
        Self { path: path.to_path_buf(), format, further: Vec::new() }
    }
}

/// The folder of unlabelled reviews in IMDb.
const UNLABELLED: &str = "unsup";
const LABEL_ENDINGS: [&str; 2] = ["labels", "label"];
/// How the names of texts end whose labels lie in a file of such a name beside them.
const TEXTS_BESIDE: &str = "_text";
const LABELS_BESIDE: &str = "_labels";
/// Words in the names of files that are no classes.
const NOT_CLASSES: [&str; 12] = [
    "labels",
    "label",
    "text",
    "texts",
    "mapping",
    "classes",
    "license",
    "licence",
    "vocab",
    "vocabulary",
    "requirements",
    "changelog",
];
/// What may stand between the names of a table's columns.
const BETWEEN_NAMES: [char; 4] = ['\t', ',', ';', '|'];
/// What may stand before the name of a split.
const SEPARATORS: [char; 3] = ['-', '_', '.'];
/// What the `datasets` library writes beside its tables.
const NO_TABLES: [&str; 3] = ["dataset_info.json", "dataset_dict.json", "state.json"];
const TABLE_ENDINGS: [&str; 6] = ["csv", "tsv", "jsonl", "ndjson", "json", "parquet"];
const TEXT_ENDINGS: [&str; 8] = ["csv", "tsv", "jsonl", "ndjson", "json", "parquet", "txt", "text"];

/// Finds the splits of a data set. What is not split is training data.
pub(super) fn find(path: &Path, options: &ClassificationOptions) -> Result<Vec<(Split, Source)>> {
    if !path.exists() {
        return Err(Error::Missing {
            what: format!("no data at {}", path.display()),
            fix: "name a CSV, TSV, JSON, Parquet or text file, a folder with train, valid and test, or a named data set"
                .into(),
        });
    }
    if path.is_file() {
        return Ok(vec![(Split::Train, from_file(path, options)?)]);
    }
    if options.labels_file.is_some() {
        return Err(Error::Config {
            key: "labels_file".into(),
            what: "goes with a file of texts, not with a folder".into(),
            fix: "name the file of texts, or put train.txt and train.labels into the folder".into(),
        });
    }
    if let Some(arrow) = arrow_file(path)? {
        let what = "is an Arrow file, which is not read".into();
        let fix = "save the data as Parquet: dataset.to_parquet(\"train.parquet\") in Python's `datasets`";
        return Err(bad(&arrow, None, what, fix));
    }
    let mut found = Vec::new();
    for split in Split::ALL {
        if let Some(source) = find_split(path, split, options)? {
            found.push((split, source));
        }
    }
    if found.is_empty() {
        found = prefixed(path, options)?;
    }
    // Data sets of the Hugging Face hub have their tables in a folder `data` or of the variant's name.
    if found.is_empty() {
        let mut sets = Vec::new();
        for (name, folder) in class_folders(path)? {
            // A class has texts in its folder.
            if tables(&folder)?.is_empty() && class_folders(&folder)?.is_empty() {
                continue;
            }
            let table = find_split(&folder, Split::Train, options)?;
            if table.is_some_and(|table| TABLE_ENDINGS.contains(&ending(&table.path).as_str())) {
                sets.push((name, folder));
            }
        }
        match &sets[..] {
            [] => {}
            [(_, only)] => return find(only, options),
            several => {
                let names: Vec<&str> = several.iter().map(|(name, _)| name.as_str()).collect();
                let what = format!("there are several data sets in it: {}", names.join(", "));
                return Err(bad(path, None, what, "name the folder of one of them"));
            }
        }
    }
    if found.is_empty() && !class_folders(path)?.is_empty() {
        found.push((Split::Train, Source::of(path, Format::ClassFolders)));
    }
    if found.is_empty() && files_of_classes(path)?.len() > 1 {
        found.push((Split::Train, Source::of(path, Format::FilePerClass)));
    }
    if let ([], [only]) = (&found[..], &tables(path)?[..]) {
        found.push((Split::Train, from_file(only, options)?));
    }
    if let ([], Some(source)) = (&found[..], texts_beside_labels(path)) {
        found.push((Split::Train, source));
    }
    if let ([], [only]) = (&found[..], &texts(path)?[..]) {
        match from_file(only, options) {
            Ok(source) => found.push((Split::Train, source)),
            Err(error @ Error::BadInput { line: Some(_), .. }) => return Err(error),
            // A text without any labels says less than what is looked for in a folder.
            Err(_) => {}
        }
    }
    if found.is_empty() {
        return Err(Error::Missing {
            what: format!("no labelled data in {}", path.display()),
            fix: "put a train.csv (.tsv, .json, .parquet, .txt) or a single table, folders train/CLASS/*.txt, or for each class a file CLASS.txt with a \
                  text a line there"
                .into(),
        });
    }
    Ok(found)
}

/// Whether a file or folder has labels with its texts, by names or by the beginning of the file.
pub fn is_labelled(path: &Path, encoding: TextEncoding) -> bool {
    find(path, &ClassificationOptions { encoding, ..Default::default() }).is_ok()
}

/// The folders of classes in `path`, by name; hidden ones and IMDb's unlabelled reviews do not count.
pub(super) fn class_folders(path: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut folders = Vec::new();
    for entry in entries(path)? {
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if entry.is_dir() && name != UNLABELLED && !name.starts_with('.') {
            folders.push((name, entry));
        }
    }
    Ok(folders)
}

/// The files in `path` that are a class each, by name: `pos.txt` and `neg.txt`, or as Pang and Lee have them `reviews.pos` and
/// `reviews.neg`. None where one of the texts has a name that says it is something else, such as `train_text.txt` or `labels.txt`.
pub(super) fn files_of_classes(path: &Path) -> Result<Vec<(String, PathBuf)>> {
    let files: Vec<PathBuf> = entries(path)?.into_iter().filter(|path| path.is_file()).collect();
    let is_class = |name: &str| !name.starts_with('.') && !name.starts_with("readme") && name != UNLABELLED;
    let stem =
        |path: &PathBuf| plain_name(path).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let texts = files.iter().filter(|path| ["txt", "text"].contains(&ending(path).as_str()));
    let mut classes: Vec<(String, PathBuf)> = texts.map(|path| (stem(path), path.clone())).collect();
    classes.retain(|(name, _)| is_class(&name.to_lowercase()));
    let is_other = |word: &str| {
        NOT_CLASSES.contains(&word) || Split::ALL.iter().any(|split| split.names().contains(&word))
    };
    if classes.iter().any(|(name, _)| name.to_lowercase().split(['_', '-', '.', ' ']).any(is_other)) {
        return Ok(Vec::new());
    }
    if classes.is_empty() {
        let named = files.iter().map(|path| (ending(path), path.clone()));
        classes = named.filter(|(ending, _)| ["pos", "neg"].contains(&ending.as_str())).collect();
    }
    Ok(classes)
}

/// The files of class folders: those that are texts, and how many of each other ending were left out.
#[derive(Debug, Default)]
pub(super) struct ClassFiles {
    /// The texts, in the order of their paths.
    pub texts: Vec<PathBuf>,
    skipped: BTreeMap<String, (usize, PathBuf)>,
}

impl ClassFiles {
    /// Nothing yet but the files that stand beside the class folders.
    pub fn beside_classes(folder: &Path) -> Result<Self> {
        let mut found = Self::default();
        entries(folder)?.into_iter().filter(|path| !path.is_dir()).for_each(|path| found.skip(path));
        Ok(found)
    }

    /// The files of a folder that are none of these.
    pub fn others(folder: &Path, texts: &[PathBuf]) -> Result<Self> {
        let mut found = Self::default();
        let others = entries(folder)?.into_iter().filter(|path| path.is_file() && !texts.contains(path));
        others.for_each(|path| found.skip(path));
        Ok(found)
    }

    /// Adds the files of a class folder and of all folders below it. A text ends in .txt or .text, in capitals or not, or
    /// has no ending at all (the names in 20 Newsgroups are numbers).
    pub fn add(&mut self, folder: &Path) -> Result<()> {
        for path in entries(folder)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
            if path.is_dir() && !name.starts_with('.') {
                self.add(&path)?;
            } else if ["", "txt", "text"].contains(&ending(&path).as_str())
                && !name.starts_with('.')
                && !name.starts_with("readme")
            {
                self.texts.push(path);
            } else {
                self.skip(path);
            }
        }
        Ok(())
    }

    fn skip(&mut self, path: PathBuf) {
        self.skipped.entry(ending(&path)).or_insert((0, path)).0 += 1;
    }

    /// What was left out, for people.
    pub fn skipped_note(&self, folder: &Path) -> Option<String> {
        let kinds: Vec<String> = self
            .skipped
            .iter()
            .map(|(ending, (count, first))| {
                let first = first.strip_prefix(folder).unwrap_or(first).display();
                let kind = if ending.is_empty() { "without an ending".into() } else { format!(".{ending}") };
                format!("{count} {kind} ({first})")
            })
            .collect();
        let all: usize = self.skipped.values().map(|(count, _)| count).sum();
        (all > 0).then(|| {
            let (folder, kinds) = (folder.display(), kinds.join(", "));
            format!(
                "{all} files in {folder} are not read, because no text of a class has such a name: {kinds}"
            )
        })
    }
}

fn find_split(folder: &Path, split: Split, options: &ClassificationOptions) -> Result<Option<Source>> {
    let found = shards::of_split(&entries(folder)?, split, |path, stem| belongs(path, stem, split))?;
    let [only] = &found[..] else { return together(&found, options) };
    if !only.is_dir() {
        return from_file(only, options).map(Some);
    }
    if let Some(source) = texts_beside_labels(only) {
        return Ok(Some(source));
    }
    let (classes, files) = (class_folders(only)?, files_of_classes(only)?);
    let tables = tables(only)?;
    if classes.is_empty() && !tables.is_empty() {
        return together(&shards::of_folder(tables, split)?, options);
    }
    let is_flat = classes.is_empty() && files.len() > 1;
    let format = if is_flat { Format::FilePerClass } else { Format::ClassFolders };
    Ok(Some(Source::of(only, format)))
}

/// Files that are one source, in this order.
fn together(files: &[PathBuf], options: &ClassificationOptions) -> Result<Option<Source>> {
    let mut sources =
        files.iter().map(|path| from_file(path, options)).collect::<Result<Vec<_>>>()?.into_iter();
    let first = sources.next();
    Ok(first.map(|first| Source { further: sources.collect(), ..first }))
}

/// Two files of a folder, called for what they are, with a text and a label a line, as benchmarks of intents have them.
fn texts_beside_labels(folder: &Path) -> Option<Source> {
    let there = |names: &[&str]| names.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    let texts = there(&["seq.in", "text.txt", "texts.txt"])?;
    let labels = there(&["label", "labels", "label.txt", "labels.txt"])?;
    Some(Source::of(&texts, Format::LabelsBeside(labels)))
}

/// The files of a folder that may be texts, with an ending for it or without any.
fn texts(folder: &Path) -> Result<Vec<PathBuf>> {
    let is_text = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let is_other =
            name.starts_with(['.', '_']) || name.starts_with("readme") || name.starts_with("license");
        path.is_file() && !is_other && ["", "txt", "text"].contains(&ending(path).as_str())
    };
    Ok(entries(folder)?.into_iter().filter(is_text).collect())
}

/// The tables in a folder.
fn tables(folder: &Path) -> Result<Vec<PathBuf>> {
    let is_table = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_other = name.starts_with(['.', '_']) || NO_TABLES.contains(&&*name);
        path.is_file() && !is_other && TABLE_ENDINGS.contains(&ending(path).as_str())
    };
    Ok(entries(folder)?.into_iter().filter(is_table).collect())
}

/// The tables in the folder of a data set that are none of its splits.
pub(super) fn unread_tables(folder: &Path, found: &[(Split, Source)]) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let files = |source: &Source| -> Vec<PathBuf> {
        let labels = match &source.format {
            Format::LabelsBeside(labels) => Some(labels.clone()),
            _ => None,
        };
        std::iter::once(source.path.clone()).chain(labels).collect()
    };
    let all = found.iter().flat_map(|(_, source)| std::iter::once(source).chain(&source.further));
    let read: BTreeSet<PathBuf> = all.flat_map(files).collect();
    Ok(tables(folder)?.into_iter().filter(|path| !read.contains(path)).collect())
}

/// A file of Arrow in a folder or in one right below it, as the `datasets` library saves them.
fn arrow_file(folder: &Path) -> Result<Option<PathBuf>> {
    let here = entries(folder)?;
    for path in &here {
        let below = if path.is_dir() { entries(path)? } else { vec![path.clone()] };
        if let Some(found) = below.into_iter().find(|path| ending(path) == "arrow") {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Splits whose names have a beginning in common: folders as those of 20 Newsgroups, `20news-bydate-train` and `20news-bydate-test`, or files,
/// `snli_1.0_train.jsonl` and `snli_1.0_test.jsonl`.
fn prefixed(path: &Path, options: &ClassificationOptions) -> Result<Vec<(Split, Source)>> {
    let entries = entries(path)?;
    // Names of folders may have dots in them.
    let stem = |path: &Path| {
        if path.is_dir() {
            path.file_name().unwrap_or_default().to_string_lossy().to_lowercase()
        } else {
            shards::stem(path)
        }
    };
    let is_kind = |path: &Path| path.is_dir() || TEXT_ENDINGS.contains(&ending(path).as_str());
    let prefix_of = |path: &PathBuf| {
        let stem = stem(path);
        let prefix = Split::Train.names().iter().find_map(|name| stem.strip_suffix(name))?;
        (is_kind(path) && prefix.ends_with(SEPARATORS)).then(|| prefix.to_owned())
    };
    let Some(prefix) = entries.iter().find_map(prefix_of) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for split in Split::ALL {
        let names: Vec<String> = split.names().iter().map(|name| format!("{prefix}{name}")).collect();
        let of_split = entries.iter().filter(|path| is_kind(path) && names.contains(&stem(path))).cloned();
        match &shards::in_order(of_split.collect(), split)?[..] {
            [] => {}
            [only] if only.is_dir() => found.push((split, Source::of(only, Format::ClassFolders))),
            files => found.extend(together(files, options)?.map(|source| (split, source))),
        }
    }
    Ok(found)
}

/// Whether a file or folder holds a split: by the stem of its name, as TREC calls its own, and unless it is the labels of a
/// text file beside it.
fn belongs(path: &Path, stem: &str, split: Split) -> bool {
    let plain = plain_name(path);
    let trec = match split {
        Split::Train => stem == "train_5500",
        Split::Valid => false,
        Split::Test => stem == "trec_10",
    };
    let beside = stem.strip_suffix(TEXTS_BESIDE).filter(|_| labels_beside(path).is_some());
    if !trec && !split.names().contains(&beside.unwrap_or(stem)) {
        return false;
    }
    if path.is_dir() {
        return path.extension().is_none();
    }
    let ending = ending(path);
    if LABEL_ENDINGS.contains(&ending.as_str()) {
        return !["txt", "text"].iter().any(|e| plain.with_extension(e).is_file());
    }
    TEXT_ENDINGS.contains(&ending.as_str())
}

fn from_file(path: &Path, options: &ClassificationOptions) -> Result<Source> {
    let source = |format| Ok(Source::of(path, format));
    if let Some(labels) = &options.labels_file {
        return source(Format::LabelsBeside(labels.clone()));
    }
    match ending(path).as_str() {
        "csv" => return source(Format::Csv),
        "tsv" => return source(Format::Tsv),
        "jsonl" | "ndjson" | "json" | "parquet" => return source(Format::JsonLines),
        _ => {}
    }
    if let Some(labels) = labels_beside(path) {
        return source(Format::LabelsBeside(labels));
    }
    let mut blocks = TextBlocks::open(path, options.encoding)?;
    let text = blocks.next_block()?.map(|b| b.text).unwrap_or_default();
    let (numbers, lines): (Vec<usize>, Vec<&str>) =
        text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).unzip();
    let Some(first) = lines.first().map(|line| line.trim_start()) else {
        return Err(crate::data::encoding::empty(path));
    };
    if first.starts_with("__label__") {
        return source(Format::LabelPrefix);
    }
    if trec_label(first).is_some() {
        return source(Format::Trec);
    }
    if let Some(format) = table_in_text(path, &lines, options) {
        return source(format);
    }
    if let Some(place) = LabelPlace::of_lines(&lines) {
        return source(Format::LabelledLines(place));
    }
    if options.text_column.is_some()
        || options.label_column.is_some()
        || options.delimiter.is_some()
        || options.header == Header::Absent
    {
        return source(Format::Csv);
    }
    if let Some((place, first, count)) = LabelPlace::of_most_lines(&lines) {
        let (separator, side) = place.words();
        let tabs = match lines[first].matches('\t').count() {
            tabs if tabs > 1 && separator == "tab" => format!("{tabs} tabs"),
            _ => format!("no {separator}"),
        };
        let what = format!(
            "has {tabs}, where {} of the first {} lines have one, with their label {side} it; {count} are like this one",
            lines.len() - count,
            lines.len()
        );
        let fix = format!(
            "give each of these lines a label and a {separator} as the others have them, or remove it"
        );
        return Err(bad(path, Some(numbers[first] as u64 + 1), what, fix));
    }
    let fix = "use CSV, TSV, JSON or Parquet, begin each line with `__label__NAME ` or with the label and a tab, or put the labels, one a line, \
               into a file of the same name ending in .labels; of a table, name the columns with --text_column and --label_column";
    Err(bad(path, None, "there are no labels with the texts in any known format".into(), fix))
}

/// The kind of table that a file with the name of a text is: where every line has as many tabs, two or more, or where its first
/// line names columns that are called like a text and a label.
fn table_in_text(path: &Path, lines: &[&str], options: &ClassificationOptions) -> Option<Format> {
    let tabs = |line: &str| line.matches('\t').count();
    let first = lines.first()?;
    if tabs(first) > 1 && lines.iter().all(|line| tabs(line) == tabs(first)) {
        return Some(Format::Tsv);
    }
    let guessed = ClassificationOptions { label_kind: options.label_kind, ..Default::default() };
    let named = |between: &char| {
        let names = first.split(*between).map(|name| name.trim_matches(['"', ' ', '\u{feff}']).to_owned());
        let names: Vec<String> = names.collect();
        let columns = Columns::choose(path, (&names, Called::Names), &guessed, None);
        names.len() > 1 && columns.is_ok_and(|columns| !columns.label.is_empty())
    };
    let between = BETWEEN_NAMES.into_iter().find(named)?;
    Some(if between == '\t' { Format::Tsv } else { Format::Csv })
}

/// The file with the labels of a file of texts, a line each: `a.labels` of `a.txt`, `train_labels.txt` of `train_text.txt`.
fn labels_beside(path: &Path) -> Option<PathBuf> {
    let plain = plain_name(path);
    let by_ending =
        LABEL_ENDINGS.iter().map(|ending| plain.with_extension(ending)).find(|p| p != path && p.is_file());
    let stem = plain.file_stem()?.to_string_lossy().into_owned();
    let of = stem.to_lowercase().strip_suffix(TEXTS_BESIDE).map(str::len);
    let by_name = of.and_then(|length| {
        Some(plain.with_file_name(format!("{}{LABELS_BESIDE}.{}", stem.get(..length)?, ending(path))))
    });
    by_ending.or(by_name.filter(|p| p.is_file()))
}

/// Label and text of a `LABEL:sub text` line.
pub(super) fn trec_label(line: &str) -> Option<(&str, &str)> {
    let (head, text) = line.trim_start().split_once([' ', '\t'])?;
    let (label, sub) = head.split_once(':')?;
    let word = |s: &str| !s.is_empty() && s.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    (word(label) && word(sub)).then_some((label, text))
}

/// The ending of a name, in small letters and without that of a compression.
fn ending(path: &Path) -> String {
    plain_name(path).extension().unwrap_or_default().to_string_lossy().to_lowercase()
}
