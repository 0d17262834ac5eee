//! What the starter data promises: its size, its bytes, its English, and splits that share nothing.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::questions::{Question, Split, write};
use super::sections::parse;
use super::*;

/// Changes with every edit of the data: the failing test prints the new value to put here.
const CHECKSUM: &str = "a7bcad781e2dc43925420de211461cbb9de7e572de143ed9dbeed002be9fda78";

/// Words of many names, which name nothing by themselves.
const GENERIC: [&str; 3] = ["Mount", "Lake", "The"];

const SPLITS: [Split; 3] = [Split::Train, Split::Valid, Split::Test];

fn checksum() -> String {
    let (corpus, questions) = (corpus(), questions());
    let mut hasher = Sha256::new();
    hasher.update(corpus.train.as_bytes());
    hasher.update(corpus.valid.as_bytes());
    for split in [&questions.train, &questions.valid, &questions.test] {
        for question in split {
            hasher.update(format!("{}\t{}\n", question.label, question.text));
        }
    }
    hasher.finalize().iter().fold(String::new(), |out, byte| out + &format!("{byte:02x}"))
}

fn all_text() -> String {
    let corpus = corpus();
    corpus.train + &corpus.valid
}

fn all_questions() -> Vec<Vec<Question>> {
    let world = world::build();
    SPLITS.into_iter().map(|split| write(&world, split)).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '\'').filter(|word| !word.is_empty())
}

/// A frame with its slots blanked, without case, articles and quotation marks.
fn skeleton(frame: &str) -> String {
    let mut out = String::new();
    let mut depth = 0;
    for c in frame.chars().filter(|c| *c != '"') {
        match c {
            '{' => {
                depth += 1;
                out.push('_');
            }
            '}' => depth -= 1,
            _ if depth == 0 => out.push(c.to_ascii_lowercase()),
            _ => {}
        }
    }
    let kept = out.split(' ').filter(|word| !["a", "an", "the", ""].contains(word));
    kept.collect::<Vec<_>>().join(" ")
}

#[test]
fn the_bytes_are_always_the_same() {
    assert_eq!(corpus(), corpus());
    assert_eq!(questions(), questions());
    assert_eq!(checksum(), CHECKSUM);
}

#[test]
fn the_corpus_is_large_and_its_words_are_many() {
    let corpus = corpus();
    let (train, valid) = (corpus.train.len() as f64, corpus.valid.len() as f64);
    assert!(train >= 1.2e6, "{train}");
    assert!((0.05..0.09).contains(&(valid / (train + valid))), "{}", valid / train);
    let distinct: BTreeSet<String> = words(&corpus.train).map(str::to_lowercase).collect();
    assert!(distinct.len() >= 3000, "{}", distinct.len());
    let sentences: usize = corpus::templates()
        .iter()
        .filter(|section| !section.name.starts_with("plan "))
        .map(|section| section.lines.len())
        .sum();
    assert!(sentences >= 400, "{sentences}");
}

#[test]
fn validation_documents_are_not_training_documents() {
    let corpus = corpus();
    let documents = |text: &str| -> BTreeSet<String> {
        let text = format!("\n{text}");
        text.split("\n= ").skip(1).map(|document| document.trim_end().to_owned()).collect()
    };
    let (train, valid) = (documents(&corpus.train), documents(&corpus.valid));
    assert!(valid.len() > 100, "{}", valid.len());
    let shared: Vec<_> = train.intersection(&valid).collect();
    assert!(shared.is_empty(), "{shared:?}");
}

#[test]
fn every_line_is_clean_english_text() {
    for line in all_text().lines() {
        assert!(line.is_ascii(), "{line}");
        assert!(!line.is_empty() && line == line.trim(), "{line:?}");
        assert!(!line.contains("  ") && !line.contains(['{', '}', '|', '_', '#']), "{line}");
        if line.starts_with('=') {
            assert!(line.starts_with("= ") && line.ends_with(" ="), "{line}");
            continue;
        }
        assert!(line.ends_with(['.', '?', '!', '"']), "{line}");
        let starts = line.match_indices(". ").chain(line.match_indices("? ")).map(|(i, _)| i + 2);
        for start in std::iter::once(0).chain(starts) {
            let first = line[start..].chars().find(|c| *c != '"').unwrap();
            assert!(first.is_uppercase() || first.is_ascii_digit(), "{line}");
        }
        assert_eq!(line.matches('"').count() % 2, 0, "{line}");
    }
}

#[test]
fn articles_fit_their_words() {
    let questions = questions();
    let questions = [questions.train, questions.valid, questions.test].concat();
    let text = all_text();
    for line in text.lines().chain(questions.iter().map(|q| q.text.as_str())) {
        let all: Vec<&str> = words(line).collect();
        for pair in all.windows(2) {
            let next = pair[1].to_lowercase();
            let vowel = next.starts_with(['a', 'e', 'i', 'o', 'u']) && !next.starts_with("one");
            let vowel = vowel || next.starts_with("hour") || next.starts_with("honest");
            match pair[0] {
                "a" | "A" => assert!(!vowel, "a {next}: {line}"),
                "an" | "An" => assert!(vowel, "an {next}: {line}"),
                _ => {}
            }
        }
    }
}

#[test]
fn the_corpus_holds_neither_labels_nor_task_sentences() {
    let text = all_text();
    let lower: BTreeSet<String> = words(&text).map(str::to_lowercase).collect();
    let forbidden = ["label", "labels", "labelled", "category", "categories", "entity", "description"];
    for word in QUESTION_LABELS.iter().map(|l| l.to_lowercase()).chain(forbidden.map(str::to_owned)) {
        assert!(!lower.contains(&word), "{word}");
    }
    for question in all_questions().iter().flatten() {
        assert!(!text.contains(&question.text), "{}", question.text);
    }
    // Stronger: no frame of the task is a question of the corpus with other names in it.
    let templates = corpus::templates();
    let asked: BTreeSet<String> = templates
        .iter()
        .flat_map(|section| &section.lines)
        .flat_map(|line| line.split_inclusive(['.', '?', '"', ',', ';', ':']))
        .map(|sentence| skeleton(sentence.trim()))
        .collect();
    let mut shared = Vec::new();
    for split in [
        include_str!("text/questions_train.txt"),
        include_str!("text/questions_valid.txt"),
        include_str!("text/questions_test.txt"),
    ] {
        for frame in parse(split).iter().flat_map(|section| section.lines.clone()) {
            if asked.contains(&skeleton(frame)) {
                shared.push(frame);
            }
        }
    }
    assert!(shared.is_empty(), "{shared:?}");
}

#[test]
fn no_frame_is_in_two_splits() {
    let mut home: BTreeMap<String, usize> = BTreeMap::new();
    for (split, questions) in all_questions().iter().enumerate() {
        let frames: BTreeSet<&str> = questions.iter().map(|q| q.frame).collect();
        assert!(frames.len() >= 60, "{}", frames.len());
        for frame in frames {
            let other = home.entry(skeleton(frame)).or_insert(split);
            assert_eq!(*other, split, "{frame}");
        }
    }
}

#[test]
fn no_named_entity_is_in_two_splits() {
    let world = world::build();
    let splits = all_questions();
    let names = |questions: &[Question]| -> BTreeSet<(&str, String)> {
        let ids = questions.iter().flat_map(|q| &q.entities);
        ids.map(|(kind, i)| (*kind, world.entity(kind, *i).unwrap().name.clone())).collect()
    };
    // Words with a capital inside a sentence: names typed into the frames are caught as well as drawn ones.
    let capitals = |questions: &[Question]| -> BTreeSet<String> {
        let inside = questions.iter().flat_map(|q| words(&q.text).skip(1));
        inside.filter(|word| word.starts_with(char::is_uppercase)).map(str::to_owned).collect()
    };
    for (i, j) in [(0, 1), (0, 2), (1, 2)] {
        let (a, b) = (names(&splits[i]), names(&splits[j]));
        assert!(a.len() > 50 && a.is_disjoint(&b), "{:?}", a.intersection(&b).collect::<Vec<_>>());
        let (a, b) = (capitals(&splits[i]), capitals(&splits[j]));
        let shared: Vec<_> = a.intersection(&b).filter(|word| !GENERIC.contains(&word.as_str())).collect();
        assert!(shared.is_empty(), "{shared:?}");
    }
}

#[test]
fn the_shares_of_the_splits_have_no_name_in_common() {
    // Stronger than the questions as drawn: whatever a slot might draw, no capitalised word crosses the splits.
    let world = world::build();
    let mut home: BTreeMap<String, usize> = BTreeMap::new();
    for kind in
        ["person", "island", "town", "river", "hill", "lake", "ship", "guild", "book", "site", "festival"]
    {
        let (_, entities) = world.table(kind).unwrap();
        for (i, entity) in entities.iter().enumerate() {
            let split = SPLITS.iter().position(|split| split.share().contains(&(i % 5))).unwrap();
            for word in words(&entity.name).filter(|word| word.starts_with(char::is_uppercase)) {
                let other = *home.entry(word.to_owned()).or_insert(split);
                assert!(other == split || GENERIC.contains(&word), "{kind} {}: {word}", entity.name);
            }
        }
    }
}

#[test]
fn every_class_is_in_every_split() {
    for (questions, (low, high)) in all_questions().iter().zip([(280, 320), (110, 140), (280, 320)]) {
        assert!((low..=high).contains(&questions.len()), "{}", questions.len());
        let distinct: BTreeSet<&str> = questions.iter().map(|q| q.text.as_str()).collect();
        assert_eq!(distinct.len(), questions.len());
        for label in QUESTION_LABELS {
            let count = questions.iter().filter(|q| q.label == label).count();
            assert!(count >= 10 && count * 4 <= questions.len(), "{label} {count}");
        }
        for question in questions {
            assert!(question.text.is_ascii() && question.text.ends_with(['?', '.']), "{}", question.text);
            assert!(question.text.starts_with(|c: char| c.is_ascii_uppercase()), "{}", question.text);
        }
    }
}

#[test]
fn the_first_word_does_not_give_the_class_away() {
    let questions = questions();
    let (train, test) = (questions.train, questions.test);
    let first = |text: &str| words(text).next().unwrap_or_default().to_owned();
    let mut counts: BTreeMap<String, BTreeMap<&str, usize>> = BTreeMap::new();
    for question in &train {
        *counts.entry(first(&question.text)).or_default().entry(question.label).or_default() += 1;
    }
    let guess = |text: &str| {
        counts.get(&first(text)).and_then(|c| c.iter().max_by_key(|(_, n)| **n)).map(|(l, _)| *l)
    };
    let right = test.iter().filter(|q| guess(&q.text) == Some(q.label)).count();
    assert!(right * 2 < test.len() + test.len() / 10, "{right} of {}", test.len());
}

#[test]
fn the_world_is_coherent() {
    let world = world::build();
    let year = |entity: &world::Entity, fact: &str| match &entity.facts[fact] {
        world::Fact::Text(text) => text.parse::<usize>().unwrap(),
        world::Fact::Link(..) => panic!("{fact} is no year"),
    };
    // Nobody builds, founds or commands before being grown up, or after death.
    for (kind, role, when) in [
        ("town", "founder", "founded"),
        ("ship", "captain", "launched"),
        ("invention", "inventor", "year"),
        ("book", "author", "year"),
        ("site", "builder", "year"),
        ("guild", "master", "founded"),
        ("hill", "climber", "climbed"),
    ] {
        let (_, entities) = world.table(kind).unwrap();
        for entity in entities {
            let world::Fact::Link(table, index) = &entity.facts[role] else { panic!("{role} is no link") };
            let person = world.entity(table, *index).unwrap();
            let done = year(entity, when);
            assert!(done >= year(person, "born") + 25 && done < year(person, "died"), "{}", entity.name);
        }
    }
    let shorts = guild_letters(&world);
    assert_eq!(shorts.len(), world.table("guild").unwrap().1.len(), "two guilds share their letters");
}

fn guild_letters(world: &world::World) -> BTreeSet<String> {
    let (_, guilds) = world.table("guild").unwrap();
    let short = |guild: &world::Entity| match &guild.facts["short"] {
        world::Fact::Text(text) => text.clone(),
        world::Fact::Link(..) => panic!("letters are text"),
    };
    guilds.iter().map(short).collect()
}
