//! Texts in another script or language than most.
//!
//! Owns: telling scripts by ranges of characters, and eight languages of the Latin script by their commonest words. Rough by
//! intention: a text counts as foreign only where there is much that speaks for it. Never: a model.

use std::collections::{BTreeMap, HashMap};

use rayon::prelude::*;

use super::{Findings, Kind, Row, Severity, counted};

/// Less than this share of the texts that can be told is no language of the data, but another.
const MAIN: f64 = 0.6;
/// Commonest words that a text needs to be of a language, and how many times as many as it has of the main one.
const LEAST_WORDS: usize = 3;
const TIMES: usize = 3;
/// Characters of a text that are looked at.
const MOST_CHARACTERS: usize = 2000;
/// Letters that a text needs for its script to be told.
const LEAST_LETTERS: usize = 4;

/// Words of one language that are not of another.
const LANGUAGES: [(&str, &[&str]); 8] = [
    (
        "English",
        &[
            "the", "and", "of", "to", "is", "that", "it", "with", "this", "are", "was", "what", "which",
            "how", "have", "from", "you", "not", "they", "does",
        ],
    ),
    (
        "German",
        &[
            "der", "und", "das", "ist", "nicht", "mit", "ein", "eine", "auf", "dem", "ich", "sich", "wie",
            "auch", "wird", "sind", "oder", "zu", "für", "von",
        ],
    ),
    (
        "French",
        &[
            "le", "les", "et", "est", "des", "une", "dans", "pour", "que", "qui", "pas", "sur", "avec", "ce",
            "nous", "vous", "du", "au", "sont", "mais",
        ],
    ),
    (
        "Spanish",
        &[
            "el", "los", "las", "y", "por", "con", "para", "una", "del", "pero", "muy", "está", "esta",
            "como", "más", "su", "lo", "hay", "fue", "cuando",
        ],
    ),
    (
        "Italian",
        &[
            "il", "di", "che", "è", "per", "non", "sono", "della", "gli", "anche", "come", "questo", "nel",
            "più", "ma", "ho", "molto", "alla", "dei", "una",
        ],
    ),
    (
        "Portuguese",
        &[
            "o", "os", "em", "um", "uma", "não", "com", "para", "mais", "da", "do", "é", "na", "no", "muito",
            "mas", "foi", "ao", "você", "eu",
        ],
    ),
    (
        "Dutch",
        &[
            "het", "een", "en", "van", "niet", "dat", "zijn", "met", "voor", "op", "ook", "maar", "aan",
            "naar", "deze", "wordt", "hij", "zij", "ik", "je",
        ],
    ),
    (
        "Swedish",
        &[
            "och", "att", "det", "som", "på", "är", "inte", "med", "jag", "har", "till", "den", "av", "ett",
            "om", "var", "men", "från", "hon", "vi",
        ],
    ),
];

pub(super) fn look(rows: &[Row<'_>], found: &mut Findings) {
    let known = commonest();
    let told = |row: &Row<'_>| {
        let text: String = row.joined().chars().take(MOST_CHARACTERS).collect();
        (script(&text), words(&text, &known))
    };
    let (scripts, words): (Vec<_>, Vec<_>) = rows.par_iter().map(told).unzip();
    report(rows, &scripts, "script", Kind::OtherScript, found);
    // The main language by all that speaks for it; then each text against it.
    let mut sums = [0_usize; LANGUAGES.len()];
    for counts in &words {
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    let main = (0..sums.len()).fold(0, |best, at| if sums[at] > sums[best] { at } else { best });
    let languages: Vec<Option<&str>> = words
        .iter()
        .map(|counts| {
            let best =
                (0..counts.len()).fold(main, |best, at| if counts[at] > counts[best] { at } else { best });
            let told =
                counts[best] >= LEAST_WORDS && (best == main || counts[best] >= TIMES * counts[main].max(1));
            told.then(|| LANGUAGES[best].0)
        })
        .collect();
    report(rows, &languages, "language", Kind::OtherLanguage, found);
}

/// A finding for what is not the main one, where there is a main one.
fn report(rows: &[Row<'_>], of: &[Option<&str>], what: &str, kind: Kind, found: &mut Findings) {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    of.iter().flatten().for_each(|name| *counts.entry(name).or_default() += 1);
    let told: usize = counts.values().sum();
    let Some((&main, &most)) = counts.iter().max_by_key(|(_, count)| **count) else { return };
    if counts.len() < 2 {
        return;
    }
    let others: Vec<String> = counts
        .iter()
        .filter(|(name, _)| **name != main)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    let foreign: Vec<(&Row<'_>, &str)> = rows
        .iter()
        .zip(of)
        .filter_map(|(row, name)| Some((row, (*name)?)))
        .filter(|(_, name)| *name != main)
        .collect();
    let mixed = if (most as f64) < MAIN * told as f64 { "; the data is mixed" } else { "" };
    let line = format!(
        "{} in another {what} than most, which are {main}: {}{mixed}",
        counted(foreign.len(), "text"),
        others.join(", ")
    );
    let fix = "remove them if they are strays; for several languages use a multilingual model";
    let examples = foreign.iter().map(|(row, name)| row.shown(*name));
    found.add((kind, Severity::Note), foreign.len(), (line, fix), examples);
}

/// The script of most letters of a text.
fn script(text: &str) -> Option<&'static str> {
    let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
    text.chars().filter_map(script_of).for_each(|name| *counts.entry(name).or_default() += 1);
    let (&name, &most) = counts.iter().max_by_key(|(_, count)| **count)?;
    // One of these says more than one letter does.
    let least = if matches!(name, "Chinese or Japanese" | "Korean") { 1 } else { LEAST_LETTERS };
    (most >= least).then_some(name)
}

fn script_of(c: char) -> Option<&'static str> {
    let name = match c {
        'a'..='z' | 'A'..='Z' | '\u{c0}'..='\u{24f}' | '\u{1e00}'..='\u{1eff}' => "Latin",
        '\u{370}'..='\u{3ff}' | '\u{1f00}'..='\u{1fff}' => "Greek",
        '\u{400}'..='\u{52f}' => "Cyrillic",
        '\u{530}'..='\u{58f}' => "Armenian",
        '\u{590}'..='\u{5ff}' => "Hebrew",
        '\u{600}'..='\u{77f}' | '\u{8a0}'..='\u{8ff}' => "Arabic",
        '\u{900}'..='\u{97f}' => "Devanagari",
        '\u{980}'..='\u{9ff}' => "Bengali",
        '\u{b80}'..='\u{bff}' => "Tamil",
        '\u{e00}'..='\u{e7f}' => "Thai",
        '\u{10a0}'..='\u{10ff}' => "Georgian",
        '\u{1100}'..='\u{11ff}' | '\u{ac00}'..='\u{d7af}' => "Korean",
        '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' => "Chinese or Japanese",
        _ => return None,
    };
    c.is_alphabetic().then_some(name)
}

/// A text with spaces around each letter of the scripts that write words without any between them: what looks for words finds letters
/// there, and pairs of them.
pub(super) fn letters_apart(text: &str) -> String {
    let mut apart = String::with_capacity(text.len());
    for c in text.chars() {
        // Thai, Lao, Burmese, Khmer; Chinese and Japanese, also beyond the basic plane.
        let is_alone = matches!(c, '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}')
            || matches!(c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}');
        if is_alone {
            apart.extend([' ', c, ' ']);
        } else {
            apart.push(c);
        }
    }
    apart
}

/// How many of a text's words are among the commonest of each language.
fn words(text: &str, known: &HashMap<&str, Vec<usize>>) -> [usize; LANGUAGES.len()] {
    let mut counts = [0; LANGUAGES.len()];
    for word in text.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()) {
        for &language in known.get(word.to_lowercase().as_str()).into_iter().flatten() {
            counts[language] += 1;
        }
    }
    counts
}

/// The languages of each word that is among the commonest of some.
fn commonest() -> HashMap<&'static str, Vec<usize>> {
    let mut known: HashMap<&str, Vec<usize>> = HashMap::new();
    for (language, (_, words)) in LANGUAGES.iter().enumerate() {
        words.iter().for_each(|&word| known.entry(word).or_default().push(language));
    }
    known
}
