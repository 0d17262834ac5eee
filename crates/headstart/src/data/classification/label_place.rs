//! Lines with a text and a label each, and where on them the label stands.
//!
//! Owns: telling these places apart by what the lines have in common. Never: files.

use std::collections::BTreeSet;

/// Characters of the longest label that lines are searched for.
const MOST_LABEL_CHARS: usize = 40;
/// How often a label of such lines stands there, at least on average.
const LINES_OF_A_LABEL: usize = 3;
/// How many lines a file has for each that is not like the others, at least.
const LINES_OF_A_STRAY: usize = 20;
/// What labels stand behind in lines of lists of sentences, `i feel calm;joy` and `Sales rose in May@positive`.
const LABEL_FOLLOWS: [char; 3] = [';', '@', '|'];

/// Where the label of a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LabelPlace {
    /// Before its only tab.
    BeforeTab,
    /// Behind its only tab.
    BehindTab,
    /// A whole number before its first space.
    Number,
    /// Behind the last of these characters.
    Behind(char),
}

impl LabelPlace {
    /// Label and text of a line; `None` where it has no label there.
    pub fn split(self, line: &str) -> Option<(&str, &str)> {
        let (left, right) = match self {
            Self::Number => line.split_once([' ', '\t'])?,
            Self::BeforeTab | Self::BehindTab => line.split_once('\t')?,
            Self::Behind(character) => line.rsplit_once(character)?,
        };
        match self {
            Self::Behind(_) => Some((right.trim(), left)),
            Self::BeforeTab if !right.contains('\t') => Some((left.trim(), right)),
            Self::BehindTab if !right.contains('\t') => Some((right.trim(), left)),
            Self::Number if left.parse::<i64>().is_ok() => Some((left, right)),
            _ => None,
        }
    }

    /// The place where lines have labels: where each has one, and a few stand there again and again.
    pub fn of_lines(lines: &[&str]) -> Option<Self> {
        let are_labels = |place: &Self| {
            let labels: Option<Vec<&str>> = lines.iter().map(|line| Some(place.split(line)?.0)).collect();
            let kinds = labels.map(|labels| labels.into_iter().collect::<BTreeSet<_>>());
            kinds.is_some_and(|kinds| {
                let short = kinds.iter().all(|label| (1..=MOST_LABEL_CHARS).contains(&label.chars().count()));
                short && kinds.len() > 1 && kinds.len() * LINES_OF_A_LABEL <= lines.len()
            })
        };
        let places: Vec<Self> =
            [Self::BeforeTab, Self::BehindTab, Self::Number].into_iter().filter(are_labels).collect();
        // Lines of "1<tab>text" have their label in two of the places, which are the same.
        match places[..] {
            [only] | [only @ Self::BeforeTab, Self::Number] => Some(only),
            [] => {
                let behind: Vec<Self> =
                    LABEL_FOLLOWS.map(Self::Behind).into_iter().filter(are_labels).collect();
                <[Self; 1]>::try_from(behind).ok().map(|[only]| only)
            }
            _ => None,
        }
    }

    /// What stands between text and label, for people; and on which side of it the label stands.
    pub fn words(self) -> (String, &'static str) {
        match self {
            Self::BeforeTab => ("tab".into(), "before"),
            Self::BehindTab => ("tab".into(), "behind"),
            Self::Number => ("space".into(), "before"),
            Self::Behind(character) => (format!("`{character}`"), "behind"),
        }
    }

    /// Where most lines have a label at the same place, and only a few have none: the place, the first of these, and how many.
    pub fn of_most_lines(lines: &[&str]) -> Option<(Self, usize, usize)> {
        let places = [Self::BeforeTab, Self::BehindTab].into_iter().chain(LABEL_FOLLOWS.map(Self::Behind));
        places.into_iter().find_map(|place| {
            let (with, without): (Vec<usize>, Vec<usize>) =
                (0..lines.len()).partition(|&at| place.split(lines[at]).is_some());
            let some: Vec<&str> = with.into_iter().map(|at| lines[at]).collect();
            let few = without.len() * LINES_OF_A_STRAY <= lines.len();
            let first = without.first().copied().filter(|_| few)?;
            (Self::of_lines(&some) == Some(place)).then_some((place, first, without.len()))
        })
    }
}
