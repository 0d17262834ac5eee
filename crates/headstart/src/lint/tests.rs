//! Faults that are put into data are found, and clean data has none.

use std::fmt::Write as _;

use super::{Finding, Kind, Lint, LintOptions, Reader, Severity, lint};
use crate::config::{Arch, HeadPooling};
use crate::data::classification::placed::PlacedTexts;
use crate::data::classification::{ClassificationOptions, LabelKind};
use crate::data::split::Split;
use crate::data::template::Template;
use crate::event::Signal;

const LABELS: [&str; 3] = ["sports", "science", "politics"];
const WORDS: [&[&str]; 3] = [
    &[
        "match", "goal", "team", "coach", "league", "stadium", "player", "season", "referee", "trophy",
        "sprint", "medal",
    ],
    &[
        "atom",
        "cell",
        "theory",
        "planet",
        "laboratory",
        "molecule",
        "energy",
        "orbit",
        "enzyme",
        "quantum",
        "fossil",
        "lens",
    ],
    &[
        "vote", "party", "minister", "law", "senate", "election", "budget", "mayor", "treaty", "debate",
        "reform", "tax",
    ],
];

/// Sentences that share few words.
struct Writer(u64);

impl Writer {
    fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % count
    }

    fn text(&mut self, class: usize) -> String {
        let mut words: Vec<String> =
            (0..6).map(|_| WORDS[class][self.below(WORDS[class].len())].to_owned()).collect();
        words.extend((0..6).map(|_| format!("w{}x", self.below(9000))));
        format!("the {} of it", words.join(" "))
    }
}

fn clean(examples: usize, seed: u64) -> Vec<(&'static str, String)> {
    let mut writer = Writer(seed);
    (0..examples).map(|at| (LABELS[at % 3], writer.text(at % 3))).collect()
}

fn looked_at(splits: &[(Split, &[(&str, String)])]) -> Lint {
    let borrowed: Vec<(Split, Vec<(&str, &str)>)> = splits
        .iter()
        .map(|(split, pairs)| (*split, pairs.iter().map(|(label, text)| (*label, text.as_str())).collect()))
        .collect();
    let splits: Vec<(Split, &[(&str, &str)])> =
        borrowed.iter().map(|(split, pairs)| (*split, pairs.as_slice())).collect();
    look(&PlacedTexts::of_texts(&splits, &LABELS), None)
}

fn look(data: &PlacedTexts, reader: Option<&Reader>) -> Lint {
    lint(data, LintOptions { examples: 100, reader }, &mut |_| Signal::Continue).unwrap()
}

fn kinds(found: &Lint) -> Vec<Kind> {
    found.findings.iter().map(|finding| finding.kind).collect()
}

fn finding(found: &Lint, kind: Kind) -> &Finding {
    let one = found.findings.iter().find(|finding| finding.kind == kind);
    one.unwrap_or_else(|| panic!("no {kind:?} in {:?}", found.findings))
}

/// The lines of a finding's examples.
fn lines(found: &Lint, kind: Kind) -> Vec<Vec<u64>> {
    let shown = &finding(found, kind).examples;
    shown.iter().map(|shown| shown.places.iter().filter_map(|place| place.line).collect()).collect()
}

#[test]
fn clean_data_has_no_findings() {
    let (train, test) = (clean(600, 1), clean(150, 2));
    let found = looked_at(&[(Split::Train, &train), (Split::Test, &test)]);
    assert_eq!(found.findings, []);
    assert_eq!((found.worst(), found.left_out.len()), (None, 1));
    assert_eq!(found.labels[1], ("science".to_owned(), 200));
}

#[test]
fn texts_that_stand_there_twice_are_found_in_and_across_splits() {
    let (mut train, mut test) = (clean(300, 3), clean(90, 4));
    train[10].1 = format!(" {} ", train[7].1);
    train[10].0 = train[7].0;
    train[21].1 = train[20].1.clone(); // of another class
    train[40].1 = train[37].1.to_uppercase() + "!";
    train[40].0 = train[37].0;
    test[5] = train[50].clone();
    test[9].1 = train[60].1.replacen("the ", "The, ", 1);
    test[9].0 = train[60].0;
    train[99].1 = "  ".into();
    let found = looked_at(&[(Split::Train, &train), (Split::Test, &test)]);
    assert_eq!(
        kinds(&found)[..6],
        [
            Kind::Leak,
            Kind::NearLeak,
            Kind::ConflictingLabels,
            Kind::EmptyText,
            Kind::Duplicate,
            Kind::NearDuplicate
        ]
    );
    assert_eq!(lines(&found, Kind::Leak), [[6, 51]]);
    assert_eq!(lines(&found, Kind::NearLeak), [[10, 61]]);
    assert_eq!(lines(&found, Kind::ConflictingLabels), [[21, 22]]);
    assert_eq!(lines(&found, Kind::Duplicate), [[8, 11], [21, 22]]);
    assert_eq!(lines(&found, Kind::NearDuplicate), [[38, 41]]);
    assert_eq!(lines(&found, Kind::EmptyText), [[100]]);
    assert_eq!(found.worst(), Some(Severity::Error));
    let leak = finding(&found, Kind::Leak);
    assert_eq!((leak.count, leak.what.as_str()), (1, "1 of 90 test texts stands in the train data, too"));
}

#[test]
fn wrong_labels_are_found_and_right_ones_are_not() {
    let mut train = clean(600, 5);
    let wrong: Vec<usize> = (0..15).map(|at| at * 37 + 4).collect();
    for &at in &wrong {
        train[at].0 = LABELS[(at + 1) % 3];
    }
    let found = looked_at(&[(Split::Train, &train)]);
    assert_eq!(kinds(&found), [Kind::LabelError]);
    let mut lines: Vec<usize> =
        lines(&found, Kind::LabelError).iter().map(|lines| lines[0] as usize - 1).collect();
    lines.sort_unstable();
    // How many there are is an estimate; those that are named are wrong, and most are named.
    assert!(lines.len() >= 12 && lines.iter().all(|line| wrong.contains(line)), "{lines:?}");
    let first = &finding(&found, Kind::LabelError).examples[0];
    let row = first.places[0].line.unwrap() as usize - 1;
    assert!(first.note.contains(&format!("looks like `{}`", LABELS[row % 3])), "{first:?}");
}

#[test]
fn labels_are_looked_at() {
    let mut train = clean(300, 6);
    train[3].0 = "Sports ";
    train[7].0 = "sceince";
    train[11].0 = "nan";
    train.retain(|(label, _)| *label != "politics" || label.len() == 3);
    let names = ["sports", "science", "politics", "Sports ", "sceince", "nan"];
    let pairs: Vec<(&str, &str)> = train.iter().map(|(label, text)| (*label, text.as_str())).collect();
    let test: Vec<(&str, &str)> = vec![("weather", "rain and wind all over the hills tomorrow")];
    let data = PlacedTexts::of_texts(&[(Split::Train, &pairs), (Split::Test, &test)], &names);
    let found = look(&data, None);
    assert_eq!(finding(&found, Kind::UnknownLabel).severity, Severity::Error);
    let alike: Vec<&str> =
        finding(&found, Kind::LookAlikeLabels).examples.iter().map(|shown| shown.text.as_str()).collect();
    assert_eq!(alike.len(), 2, "{alike:?}");
    assert!(alike[0].contains("`Sports ` once") && alike[1].contains("`sceince` once"), "{alike:?}");
    assert_eq!(finding(&found, Kind::MissingLabel).count, 1);
    assert_eq!(finding(&found, Kind::FewExamples).count, 4);
    assert!(kinds(&found).contains(&Kind::Imbalance));
    let joined = ["fire,water", "fire", "water"].map(|label| (label, "a calm sea at night"));
    let names = ["fire,water", "fire", "water"];
    let found = look(&PlacedTexts::of_texts(&[(Split::Train, &joined)], &names), None);
    assert!(!kinds(&found).contains(&Kind::JoinedLabels), "a name that two others make up may be one");
    let printed = ["['fire', 'water']", "['fire']", "[]"];
    let joined = printed.map(|label| (label, "a calm sea at night"));
    let found = look(&PlacedTexts::of_texts(&[(Split::Train, &joined)], &printed), None);
    let joined = finding(&found, Kind::JoinedLabels);
    assert!(joined.fix.contains("--problem multi-label") && joined.what.contains("3 kinds of 2 names"));
    let many: Vec<String> = (0..60).map(|at| format!("id{at}")).collect();
    let pairs: Vec<(&str, &str)> = many.iter().map(|id| (id.as_str(), id.as_str())).collect();
    let names: Vec<&str> = many.iter().map(String::as_str).collect();
    let found = look(&PlacedTexts::of_texts(&[(Split::Train, &pairs)], &names), None);
    assert_eq!(finding(&found, Kind::LabelIds).severity, Severity::Error);
}

#[test]
fn common_classes_with_almost_one_name_are_a_note_and_letters_of_another_alphabet_a_warning() {
    // The last one begins with a Cyrillic letter.
    let names = ["question", "questions", "HUM", "\u{41d}UM"];
    let texts = clean(120, 12);
    let pairs: Vec<(&str, &str)> =
        texts.iter().enumerate().map(|(at, (_, text))| (names[at % 4], text.as_str())).collect();
    let found = look(&PlacedTexts::of_texts(&[(Split::Train, &pairs)], &names), None);
    let alike: Vec<&Finding> =
        found.findings.iter().filter(|finding| finding.kind == Kind::LookAlikeLabels).collect();
    let of = |severity| alike.iter().find(|finding| finding.severity == severity).unwrap();
    let [warning, note] = [Severity::Warning, Severity::Note].map(of);
    assert!(warning.count == 1 && warning.examples[0].note.contains("alphabet"), "{warning:?}");
    assert!(warning.examples[0].text.contains("`HUM` 30 times"), "{warning:?}");
    assert!(note.count == 1 && note.examples[0].text.contains("`questions` 30 times"), "{note:?}");
}

fn read(name: &str, content: &str, kind: LabelKind) -> PlacedTexts {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    let options = ClassificationOptions { label_kind: kind, ..ClassificationOptions::default() };
    PlacedTexts::read(&path, &options, &mut |_| Signal::Continue).unwrap()
}

#[test]
fn columns_beside_text_and_label_are_looked_at() {
    let (mut csv, mut jsonl) = ("row,text,label,source,length\n".to_owned(), String::new());
    for (at, (label, text)) in clean(300, 7).iter().enumerate() {
        let (source, length) = (["a", "b", "c"][at % 3], at * 7 % 30);
        let _ = writeln!(csv, "{at},{text},{label},{source},{length}");
        let _ = writeln!(
            jsonl,
            r#"{{"row":{at},"text":"{text}","label":"{label}","source":"{source}","length":{length},"none":null}}"#
        );
    }
    for data in [read("a.csv", &csv, LabelKind::Single), read("a.jsonl", &jsonl, LabelKind::Single)] {
        assert_eq!(data.unread.len(), 3, "{:?}", data.unread);
        let found = look(&data, None);
        assert_eq!(kinds(&found), [Kind::TellingColumn, Kind::IdColumn], "{:?}", found.findings);
        assert_eq!(finding(&found, Kind::TellingColumn).examples[0].text, "`source`");
        assert_eq!(finding(&found, Kind::IdColumn).examples[0].text, "`row`");
    }
    let numbers: String = (0..40).map(|at| format!("{at},{}\n", LABELS[at % 3])).collect();
    let found = look(&read("b.csv", &format!("text,label\n{numbers}"), LabelKind::Single), None);
    assert_eq!(finding(&found, Kind::TextIds).count, 40);
}

#[test]
fn pairs_numbers_and_several_labels_are_looked_at_too() {
    let data = read(
        "a.csv",
        "sentence1,sentence2,score\na b,c,5\na b,c ,5.00\na b,d,1\na b,d,2\n",
        LabelKind::Regression,
    );
    let found = look(&data, None);
    assert_eq!(kinds(&found), [Kind::ConflictingLabels, Kind::Duplicate]);
    assert_eq!(lines(&found, Kind::ConflictingLabels), [[4, 5]]);
    let data =
        read("a.csv", "text,label\nthe sea,a|b\nthe sea,b|a\nthe hill,a\nthe hill,b\n", LabelKind::Multi);
    let found = look(&data, None);
    assert_eq!(lines(&found, Kind::ConflictingLabels), [[4, 5]]);
    assert!(found.left_out[1].contains("not one class each"), "{:?}", found.left_out);
}

#[test]
fn other_scripts_and_languages_and_long_texts_are_noticed() {
    let mut train = clean(300, 8);
    for row in &mut train {
        row.1 = format!("{} and this is what they have", row.1);
    }
    train[5].1 = "Это предложение написано по-русски".into();
    train[9].1 = "der Hund und die Katze sind nicht auf dem Dach, das ist auch so".into();
    train[12].1 = (0..80).map(|at| format!("word{at} ")).collect();
    let pairs: Vec<(&str, &str)> = train.iter().map(|(label, text)| (*label, text.as_str())).collect();
    let tokenizer = crate::data::source::starter_tokenizer().unwrap();
    let template = Template::of(Arch::Bert, HeadPooling::Cls, tokenizer.roles(), 128);
    let reader = Reader { tokenizer, template, positions: 128 };
    let found = look(&PlacedTexts::of_texts(&[(Split::Train, &pairs)], &LABELS), Some(&reader));
    assert_eq!(lines(&found, Kind::OtherScript), [[6]]);
    assert_eq!(lines(&found, Kind::OtherLanguage), [[10]]);
    assert_eq!(lines(&found, Kind::TooLong), [[13]]);
    assert_eq!(found.left_out, [] as [&str; 0]);
}

#[test]
fn what_tells_no_classes_contradicts_no_label() {
    // Labels by chance: a fit to them says nothing of the others.
    let mut draw = 7_u32;
    let mut chance = || {
        draw = draw.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (draw >> 16) as usize
    };
    let mut train = clean(300, 10);
    for row in &mut train {
        row.0 = LABELS[chance() % LABELS.len()];
    }
    let found = looked_at(&[(Split::Train, &train)]);
    assert!(!kinds(&found).contains(&Kind::LabelError), "{:?}", found.findings);
    assert!(found.left_out.iter().any(|why| why.contains("no better than")), "{:?}", found.left_out);
}

#[test]
fn labels_of_texts_without_spaces_are_judged_by_their_letters() {
    let words = [["好看", "喜欢", "满意"], ["很差", "失望", "糟糕"]];
    let mut train: Vec<(&str, String)> = (0..300)
        .map(|n| {
            let of = &words[n % 2];
            (
                LABELS[n % 2],
                format!("这本书{}我{}了第{n}回真的{}", of[n / 2 % 3], of[n / 6 % 3], of[n / 18 % 3]),
            )
        })
        .collect();
    train[40].0 = LABELS[1];
    train[101].0 = LABELS[0];
    let found = looked_at(&[(Split::Train, &train)]);
    let mut doubted = lines(&found, Kind::LabelError);
    doubted.sort();
    assert_eq!(doubted, [[41], [102]]);
}

#[test]
fn a_page_has_every_finding() {
    let mut train = clean(300, 9);
    train[4] = train[1].clone();
    train[8].1 = String::new();
    let found = looked_at(&[(Split::Train, &train)]);
    let page = found.report("some <data>").html();
    assert!(page.contains("some &lt;data&gt;") && page.contains("train:2 [science], train:5 [science]"));
    assert!(found.findings.iter().all(|finding| page.contains(&finding.what)));
}

#[test]
fn a_stop_is_heard() {
    let train = clean(60, 10);
    let pairs: Vec<(&str, &str)> = train.iter().map(|(label, text)| (*label, text.as_str())).collect();
    let data = PlacedTexts::of_texts(&[(Split::Train, &pairs)], &LABELS);
    let options = LintOptions { examples: 1, reader: None };
    let stopped = lint(&data, options, &mut |_| Signal::Stop);
    assert!(matches!(stopped, Err(crate::Error::Interrupted { .. })));
}
