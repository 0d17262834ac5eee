//! What stands in the columns of a table that are neither text nor label.
//!
//! Owns: counting it, in memory that does not grow with the length of the values. Never: says what it means.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::path::Path;

use serde_json::{Map, Value};

use super::columns::distinct;
use super::dialect::{Dialect, separator_line};
use super::parsed::parsing;
use super::sources::{self, Format, Source};
use super::{ClassificationOptions, Header, read};
use crate::data::encoding::read_text_watched;
use crate::data::split::Split;
use crate::error::Result;
use crate::event::Listener;

/// Columns that are looked at.
const MOST_COLUMNS: usize = 200;
/// Values of a column beside which labels are counted.
const MOST_VALUES: usize = 1000;

/// What is done with a row: names and values.
type TakeRow<'a> = dyn FnMut(&mut dyn Iterator<Item = (&str, &str)>) + 'a;

/// One column.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnreadColumn {
    /// Its name.
    pub name: String,
    /// Rows with something in it.
    pub filled: u64,
    /// Values that differ.
    pub distinct: u64,
    /// Whether all of them are whole numbers.
    pub numbers: bool,
    /// Rows whose label is guessed right by the commonest label of their value; `None` where there are too many values to tell.
    pub guessed: Option<u64>,
}

/// Counts of one column.
struct Counts {
    column: UnreadColumn,
    seen: HashSet<u64>,
    /// How often each label stands beside each value; `None` once there are too many.
    beside: Option<HashMap<u64, HashMap<usize, u64>>>,
}

/// The columns of the training table; none where the data is no table.
pub(super) fn columns(
    path: &Path,
    options: &ClassificationOptions,
    training: Option<&read::Texts>,
    listener: &mut Listener<'_>,
) -> Result<Vec<UnreadColumn>> {
    let Some((training, columns)) = training.and_then(|texts| Some((texts, texts.columns.as_ref()?))) else {
        return Ok(Vec::new());
    };
    let found = sources::find(path, options)?;
    let Some((_, source)) = found.into_iter().find(|(split, _)| *split == Split::Train) else {
        return Ok(Vec::new());
    };
    let read = |name: &str| columns.text.iter().chain(&columns.label).any(|known| known == name);
    let mut label_numbers: HashMap<&str, usize> = HashMap::new();
    let mut labels = training.examples.iter().map(|example| {
        let label = example.labels.first().map_or("", String::as_str);
        let next = label_numbers.len();
        *label_numbers.entry(label).or_insert(next)
    });
    let (mut counts, hasher): (Vec<Counts>, _) = (Vec::new(), RandomState::new());
    let mut place: HashMap<String, usize> = HashMap::new();
    let mut take = |row: &mut dyn Iterator<Item = (&str, &str)>| {
        let Some(label) = labels.next() else { return };
        for (name, value) in row {
            let at = match place.get(name) {
                Some(&at) => at,
                None if read(name) || counts.len() == MOST_COLUMNS => continue,
                None => {
                    counts.push(Counts::new(name));
                    place.insert(name.to_owned(), counts.len() - 1);
                    counts.len() - 1
                }
            };
            counts[at].add(value.trim(), label, &hasher);
        }
    };
    for file in std::iter::once(&source).chain(&source.further) {
        each_row(file, options, listener, &mut take)?;
    }
    Ok(counts.into_iter().map(Counts::done).collect())
}

/// Hands on every row, as names and values.
fn each_row(
    source: &Source,
    options: &ClassificationOptions,
    listener: &mut Listener<'_>,
    take: &mut TakeRow<'_>,
) -> Result<()> {
    let path = source.path.as_path();
    let usual = match source.format {
        Format::Csv => Some(b','),
        Format::Tsv => Some(b'\t'),
        Format::JsonLines => None,
        _ => return Ok(()),
    };
    let mut content = read_text_watched(path, options.encoding, listener)?;
    let Some(usual) = usual else {
        let mut watch = parsing(path, &content, listener);
        let mut done = 0;
        for line in content.lines() {
            done += line.len() as u64 + 1;
            watch.at(done)?;
            // What is no object was refused when the texts were read.
            let Ok(object) = serde_json::from_str::<Map<String, Value>>(line) else { continue };
            let values: Vec<(String, String)> = object.into_iter().filter_map(plain).collect();
            take(&mut values.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        }
        return Ok(());
    };
    let named = separator_line(&content).map(|(separator, end)| {
        content.replace_range(..end, "");
        separator
    });
    let dialect = Dialect::of(&content, usual, options.delimiter.or(named));
    let mut reader = dialect.reader(&content, options.header);
    let Ok(first) = reader.headers() else { return Ok(()) };
    let header: Vec<String> = match options.header {
        Header::Present => distinct(first.iter().map(str::to_owned)),
        Header::Absent => (1..=first.len()).map(|number| number.to_string()).collect(),
    };
    let mut watch = parsing(path, &content, listener);
    for record in reader.records().flatten() {
        watch.at(record.position().map_or(0, csv::Position::byte))?;
        take(&mut header.iter().map(String::as_str).zip(record.iter()));
    }
    Ok(())
}

/// A value of JSON that is one value.
fn plain((name, value): (String, Value)) -> Option<(String, String)> {
    match value {
        Value::String(text) => Some((name, text)),
        Value::Number(_) | Value::Bool(_) => Some((name, value.to_string())),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

impl Counts {
    fn new(name: &str) -> Self {
        let column = UnreadColumn { name: name.to_owned(), numbers: true, ..UnreadColumn::default() };
        Self { column, seen: HashSet::new(), beside: Some(HashMap::new()) }
    }

    fn add(&mut self, value: &str, label: usize, hasher: &RandomState) {
        if value.is_empty() {
            return;
        }
        let hash = hasher.hash_one(value);
        self.column.filled += 1;
        self.column.numbers &= value.parse::<i128>().is_ok();
        self.seen.insert(hash);
        if let Some(beside) = &mut self.beside {
            *beside.entry(hash).or_default().entry(label).or_default() += 1;
            if beside.len() > MOST_VALUES {
                self.beside = None;
            }
        }
    }

    fn done(self) -> UnreadColumn {
        let most = |labels: &HashMap<usize, u64>| labels.values().copied().max().unwrap_or(0);
        UnreadColumn {
            distinct: self.seen.len() as u64,
            numbers: self.column.numbers && self.column.filled > 0,
            guessed: self.beside.map(|beside| beside.values().map(most).sum()),
            ..self.column
        }
    }
}
