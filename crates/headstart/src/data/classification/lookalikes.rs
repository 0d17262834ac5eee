//! Labels that people may have meant as one, or as none.
//!
//! Owns: the warnings. Never: changes a label; what is written differently is a class of its own.

use std::collections::BTreeMap;

use tokenizers::NormalizedString;

use super::parsed::EXAMPLES_AT_ONCE;
use super::read::Texts;
use crate::data::watch;
use crate::error::Result;
use crate::event::Listener;

/// How tables spell that a value is missing.
const MISSING: [&str; 9] = ["nan", "none", "null", "na", "n/a", "<na>", "nil", "-", "?"];

/// How often a label stands there, and where first.
struct Use {
    count: usize,
    place: String,
}

/// A warning for each group of labels that look alike, and for each that looks like a missing value.
pub(super) fn warnings(texts: &Texts, listener: &mut Listener<'_>) -> Result<Vec<String>> {
    let mut uses: BTreeMap<&str, Use> = BTreeMap::new();
    for (at, example) in texts.examples.iter().enumerate() {
        if at % EXAMPLES_AT_ONCE == 0 {
            watch::go_on(listener)?;
        }
        for label in &example.labels {
            let place = || {
                let word = if example.line.is_some() { "on" } else { "in" };
                format!("{word} {}", texts.place(example))
            };
            uses.entry(label).or_insert_with(|| Use { count: 0, place: place() }).count += 1;
        }
    }
    let mut alike: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for label in uses.keys() {
        alike.entry(key(label)).or_default().push(label);
    }
    let file = texts.files[0].display();
    let shown = |label: &str| {
        let Use { count, place } = &uses[label];
        let times = if *count == 1 { "once".into() } else { format!("{count} times, first") };
        format!("`{}` ({times} {place})", label.escape_debug())
    };
    let mut warnings: Vec<String> = alike
        .values()
        .filter(|labels| labels.len() > 1)
        .map(|labels| {
            let labels: Vec<String> = labels.iter().map(|l| shown(l)).collect();
            format!("warning: {file}: separate classes that look alike: {}", labels.join(", "))
        })
        .collect();
    for label in uses.keys().filter(|l| is_missing(l)) {
        warnings.push(format!(
            "warning: {file}: {} is a class like any other; remove these rows if it says that the label is missing",
            shown(label)
        ));
    }
    Ok(warnings)
}

/// Whether this is how tables spell that a value is missing.
pub fn is_missing(label: &str) -> bool {
    MISSING.contains(&label.trim().to_lowercase().as_str())
}

/// The same for labels that look alike: in composed or decomposed form, in capitals or not, with or without spaces and
/// characters of no width, in letters of another alphabet that look the same, as numbers of one value.
pub fn key(label: &str) -> String {
    let mut normal = NormalizedString::from(label);
    normal.nfkc().lowercase().filter(|c| !is_invisible(c));
    let latin: String = normal.get().chars().map(latin).collect();
    let words: Vec<&str> = latin.split(|c: char| c.is_whitespace() || c == '_' || c == '-').collect();
    let joined = words.iter().copied().filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ");
    match normal.get().trim().parse::<f64>() {
        Ok(number) if number.is_finite() => format!("{number}"),
        _ => joined,
    }
}

/// The Latin letter that a small letter of another alphabet, or its capital, looks like. No two letters of one alphabet have the same, so
/// that names within an alphabet stay as different as they are.
fn latin(letter: char) -> char {
    // Cyrillic, then Greek.
    match letter {
        '\u{430}' | '\u{3b1}' => 'a',
        '\u{432}' | '\u{3b2}' => 'b',
        '\u{441}' => 'c',
        '\u{435}' | '\u{3b5}' => 'e',
        '\u{43d}' | '\u{3b7}' => 'h',
        '\u{456}' | '\u{3b9}' => 'i',
        '\u{458}' => 'j',
        '\u{43a}' | '\u{3ba}' => 'k',
        '\u{43c}' | '\u{3bc}' => 'm',
        '\u{3bd}' => 'n',
        '\u{43e}' | '\u{3bf}' => 'o',
        '\u{440}' | '\u{3c1}' => 'p',
        '\u{455}' => 's',
        '\u{442}' | '\u{3c4}' => 't',
        '\u{443}' | '\u{3c5}' => 'y',
        '\u{445}' | '\u{3c7}' => 'x',
        '\u{3b6}' => 'z',
        other => other,
    }
}

/// Characters that take no room: joiners, direction marks, the byte order mark, the soft hyphen.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_other_alphabets_that_look_latin_are_the_same() {
        // HUM with a Cyrillic and with a Greek first letter; LOC with a Cyrillic O.
        for (one, other) in
            [("HUM", "\u{41d}UM"), ("HUM", "\u{397}UM"), ("LOC", "L\u{41e}C"), ("loc", "L\u{41e}C")]
        {
            assert_eq!(key(one), key(other), "{other}");
        }
        // Within an alphabet names are as different as they were; case is none of their differences.
        let (sok, sor) = ("\u{441}\u{43e}\u{43a}", "\u{441}\u{43e}\u{440}");
        assert_ne!(key(sok), key(sor));
        assert_eq!(key(sok), key(&sok.to_uppercase()));
        assert_ne!(key("\u{3bd}"), key("\u{3b7}"));
    }
}
