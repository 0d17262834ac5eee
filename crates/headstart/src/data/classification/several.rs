//! Several labels in one field, as people's tables have them: `comedy,drama`, `a; b`, `x#y`, `['comedy', 'drama']`.
//!
//! Owns: which of these forms a data set has, and the names in a field. Never: the numbers of classes. Names with `|`
//! between them are read as such from the start (`parsed::split_labels`), and settle it for all of the data.

use std::collections::{BTreeMap, HashSet};

use super::{ClassificationOptions, LabelKind, read};
use crate::data::split::Split;

/// What may stand between names.
const BETWEEN: [char; 4] = [',', ';', '#', '/'];

/// What to do about single labels that look like several in one.
const APART: &str = "`--problem multi-label` learns each name by itself";

/// How several names stand in one field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// As Python and NumPy print lists, tuples and sets of names.
    List,
    /// With this character between them.
    Between(char),
}

/// Puts the names in the place of fields that hold several, where the problem is one of several labels, and says so. Where
/// it is one of single labels, warns of labels that look like several.
pub(super) fn separate(
    texts: &mut BTreeMap<Split, read::Texts>,
    options: &ClassificationOptions,
) -> Option<String> {
    let several = match options.label_kind {
        LabelKind::Multi => true,
        LabelKind::Single => false,
        LabelKind::Regression => return None,
    };
    if let Some(known) = options.known_labels.as_ref().filter(|_| several) {
        let known: HashSet<&str> = known.iter().map(String::as_str).collect();
        for labels in texts.values_mut().flat_map(|t| &mut t.examples).map(|e| &mut e.labels) {
            if let [field] = labels.as_slice()
                && !known.contains(field.as_str())
                && let Some(names) = known_names(field, &known)
            {
                *labels = names;
            }
        }
        return None;
    }
    let first = texts.values().next()?;
    // Names that are declared are whole.
    let declared = !first.declared.is_empty() || !options.stated_labels.is_empty();
    if declared || options.known_labels.is_some() || first.examples.iter().any(|e| e.labels.len() > 1) {
        return None;
    }
    let fields: HashSet<&str> = first.examples.iter().flat_map(|e| &e.labels).map(String::as_str).collect();
    let (form, names) = form_of(&fields)?;
    let kinds = fields.len();
    if !several {
        return look_joined(form, names, kinds).map(|what| format!("warning: {what}: {APART}"));
    }
    for labels in texts.values_mut().flat_map(|t| &mut t.examples).map(|e| &mut e.labels) {
        if let [field] = labels.as_slice() {
            *labels = names_of(field, form).into_iter().map(str::to_owned).collect();
        }
    }
    Some(format!("labels: several in a field, {}: {names} names", form.words()))
}

/// What is to be said of names of single labels that look like several in one. And the way out.
pub(crate) fn joined_names(names: &[String]) -> Option<(String, &'static str)> {
    let fields: HashSet<&str> = names.iter().map(String::as_str).collect();
    let (form, names) = form_of(&fields)?;
    look_joined(form, names, fields.len()).map(|what| (what, APART))
}

fn look_joined(form: Form, names: usize, kinds: usize) -> Option<String> {
    let sure = form == Form::List || 2 * names <= kinds;
    let words = form.words();
    sure.then(|| {
        format!("the labels look like several names in one, {words} ({kinds} kinds of {names} names)")
    })
}

impl Form {
    fn words(self) -> String {
        match self {
            Self::List => "printed as a list".into(),
            Self::Between(character) => format!("with `{character}` between them"),
        }
    }
}

/// The form in which these different fields hold fewer names than there are fields, or no more; and the number of names.
fn form_of(fields: &HashSet<&str>) -> Option<(Form, usize)> {
    let count = |form| fields.iter().flat_map(|field| names_of(field, form)).collect::<HashSet<_>>().len();
    if !fields.is_empty() && fields.iter().all(|field| is_list(field)) {
        return Some((Form::List, count(Form::List)));
    }
    let there = BETWEEN.into_iter().filter(|&c| fields.iter().any(|field| field.contains(c)));
    let counted = there.map(|c| (Form::Between(c), count(Form::Between(c))));
    counted.filter(|&(_, names)| names <= fields.len()).min_by_key(|&(_, names)| names)
}

/// The names in a field of which all are known, in whatever form.
fn known_names(field: &str, known: &HashSet<&str>) -> Option<Vec<String>> {
    let list = is_list(field).then_some(Form::List);
    let forms = list.into_iter().chain(BETWEEN.map(Form::Between));
    let found = forms.map(|form| names_of(field, form));
    let found = found.into_iter().find(|names| names.iter().all(|name| known.contains(name)))?;
    Some(found.into_iter().map(str::to_owned).collect())
}

fn names_of(field: &str, form: Form) -> Vec<&str> {
    match form {
        Form::Between(character) => {
            field.split(character).map(str::trim).filter(|name| !name.is_empty()).collect()
        }
        Form::List => inside(field).map(items).unwrap_or_default(),
    }
}

fn is_list(field: &str) -> bool {
    inside(field).is_some()
}

fn inside(field: &str) -> Option<&str> {
    let field = field.trim();
    [('[', ']'), ('(', ')'), ('{', '}')]
        .into_iter()
        .find_map(|(open, close)| field.strip_prefix(open)?.strip_suffix(close))
}

/// The items of a printed list: in quotes, with commas between them or (NumPy) spaces; or bare, with commas, where numbers
/// may have spaces, too.
fn items(list: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = list;
    loop {
        rest = rest.trim_start_matches(|c: char| c == ',' || c.is_whitespace());
        let Some(first) = rest.chars().next() else { return found };
        if first == '\'' || first == '"' {
            let inner = &rest[1..];
            let end = inner.find(first).unwrap_or(inner.len());
            found.push(inner[..end].trim());
            rest = inner.get(end + 1..).unwrap_or_default();
            continue;
        }
        let (bare, after) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
        let numbers = bare.split_whitespace().all(|word| word.parse::<f64>().is_ok());
        if numbers {
            found.extend(bare.split_whitespace());
        } else {
            found.push(bare.trim());
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(fields: &[&str]) -> Option<(Form, usize)> {
        form_of(&fields.iter().copied().collect())
    }

    #[test]
    fn lists_are_read_as_python_and_numpy_print_them() {
        for (list, expected) in [
            ("['comedy', 'drama']", vec!["comedy", "drama"]),
            ("[\"it's\", 'a, b']", vec!["it's", "a, b"]),
            ("['comedy' 'drama']", vec!["comedy", "drama"]),
            ("[3, 27]", vec!["3", "27"]),
            ("[3 27]", vec!["3", "27"]),
            ("(science fiction, drama)", vec!["science fiction", "drama"]),
            ("{'drama'}", vec!["drama"]),
            ("[]", vec![]),
            ("['never closed]", vec!["never closed"]),
        ] {
            assert_eq!(names_of(list, Form::List), expected, "{list}");
        }
    }

    #[test]
    fn a_character_stands_between_names_where_they_come_back() {
        assert_eq!(form(&["a#b", "b", "a#b#c", "c"]), Some((Form::Between('#'), 3)));
        assert_eq!(form(&["27,4", "4", "27"]), Some((Form::Between(','), 2)));
        assert_eq!(form(&["Drama; Music", "Drama", "Music"]), Some((Form::Between(';'), 2)));
        assert_eq!(form(&["['a']", "['a', 'b']"]), Some((Form::List, 2)));
        // Names that have such a character are names.
        for whole in [vec!["Sci/Tech", "World", "Sports"], vec!["yes, please", "no, thanks"], vec!["a", "b"]]
        {
            assert_eq!(form(&whole), None, "{whole:?}");
        }
    }

    #[test]
    fn single_labels_that_look_like_several_are_told() {
        let told =
            |names: &[&str]| joined_names(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        let (words, _) = told(&["a#b", "a#c", "b#c", "a", "b", "a#b#c"]).unwrap();
        assert!(words.contains("with `#` between them (6 kinds of 3 names)"), "{words}");
        assert!(told(&["['a']", "['b']"]).is_some());
        assert_eq!(told(&["Web/Mobile", "Web", "Mobile"]), None);
    }

    #[test]
    fn known_names_are_found_in_any_form() {
        let known = HashSet::from(["a", "b", "c, d"]);
        for (field, expected) in [
            ("a,b", Some(vec!["a", "b"])),
            ("['a', 'c, d']", Some(vec!["a", "c, d"])),
            ("[]", Some(vec![])),
            ("a,x", None),
            ("x", None),
        ] {
            let expected = expected.map(|names| names.into_iter().map(str::to_owned).collect());
            assert_eq!(known_names(field, &known), expected, "{field}");
        }
    }
}
