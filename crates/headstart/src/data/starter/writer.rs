//! Fills the slots of a sentence template from the world.
//!
//! A slot is one of: `{self.fact}` the subject of the document; `{kind}` a fresh random entity; `{kind#1.fact}` an
//! entity bound for this template; `{kind@1.fact}` one bound for the whole document; `{a SLOT}` the same with its
//! article; `{x|y}` one of the words; `{num 3 9}`, `{word 3 9}`, `{date}`, `{year}`, `{price}`, `{hour}`,
//! `{miles town#1 town#2}`.
//! Never: choosing which template comes next.

use super::rng::Rng;
use super::spelling::{MONTHS, ordinal, thousands};
use super::world::{Entity, Fact, World};

const NUMBER_WORDS: [&str; 20] = [
    "no",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];

/// An entity by its table and index.
pub(super) type EntityId = (&'static str, usize);

/// The state of one document: its subject, the entities bound so far, and the random stream.
pub(super) struct Writer<'a> {
    world: &'a World,
    rng: &'a mut Rng,
    subject: Option<EntityId>,
    bound: Vec<(&'static str, EntityId)>,
    drawn: Vec<EntityId>,
    /// Where set, random entities come only from indices with these remainders modulo 5 (the questions' splits).
    allowed: Option<&'static [usize]>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        world: &'a World,
        rng: &'a mut Rng,
        subject: Option<EntityId>,
        allowed: Option<&'static [usize]>,
    ) -> Self {
        Self { world, rng, subject, bound: Vec::new(), drawn: Vec::new(), allowed }
    }

    /// The random stream, for the caller's own choices.
    pub(super) fn rng(&mut self) -> &mut Rng {
        self.rng
    }

    /// Every entity drawn so far, in order.
    pub(super) fn drawn(&self) -> &[EntityId] {
        &self.drawn
    }

    /// The filled template, or `None` where a fact it needs does not hold for the entity (no spouse, say).
    pub(super) fn fill(&mut self, template: &'static str) -> Option<String> {
        // Entities written with `#` live for one template only.
        self.bound.retain(|(key, _)| !key.contains('#'));
        let mut out = String::with_capacity(template.len() * 2);
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            let (slot, tail) = after.split_once('}')?;
            out.push_str(before);
            out.push_str(&self.slot(slot)?);
            rest = tail;
        }
        out.push_str(rest);
        Some(capitalise(&out))
    }

    fn slot(&mut self, slot: &'static str) -> Option<String> {
        if slot.contains('|') {
            let n = slot.split('|').count();
            let i = self.rng.below(n);
            return slot.split('|').nth(i).map(str::to_owned);
        }
        if let Some(inner) = slot.strip_prefix("a ") {
            let phrase = self.slot(inner)?;
            return Some(format!("{} {phrase}", article(&phrase)));
        }
        let words: Vec<&'static str> = slot.split(' ').collect();
        match words[..] {
            ["num", low, high] => Some(thousands(self.rng.between(low.parse().ok()?, high.parse().ok()?))),
            ["word", low, high] => {
                let n = self.rng.between(low.parse().ok()?, high.parse().ok()?);
                NUMBER_WORDS.get(n).map(|&word| word.to_owned())
            }
            ["miles", from, to] => {
                let (from, to) = (self.entity(from)?, self.entity(to)?);
                Some(thousands(self.world.miles(from.1, to.1)))
            }
            ["year"] => Some(self.rng.between(1500, 1889).to_string()),
            ["date"] => Some(self.date()),
            ["price"] => Some(self.price()),
            ["hour"] => Some(self.hour()),
            [path] => self.path(path),
            _ => None,
        }
    }

    /// Follows `variable.fact.fact` through the world.
    fn path(&mut self, path: &'static str) -> Option<String> {
        let mut parts = path.split('.');
        let (table, index) = self.entity(parts.next()?)?;
        let mut entity = self.world.entity(table, index)?;
        while let Some(part) = parts.next() {
            match entity.facts.get(part)? {
                Fact::Text(text) => return parts.next().is_none().then(|| text.clone()),
                Fact::Link(table, index) => entity = self.world.entity(table, *index)?,
            }
        }
        Some(entity.name.clone())
    }

    /// The entity a variable stands for, drawn now if this is its first use.
    fn entity(&mut self, variable: &'static str) -> Option<EntityId> {
        if variable == "self" {
            return self.subject;
        }
        if let Some((_, id)) = self.bound.iter().find(|(key, _)| *key == variable) {
            return Some(*id);
        }
        let kind = variable.split(['#', '@']).next()?;
        let (kind, entities) = self.world.table(kind)?;
        let id = (kind, self.draw(kind, entities)?);
        self.drawn.push(id);
        if variable != kind {
            self.bound.push((variable, id));
        }
        Some(id)
    }

    /// A random entity of a kind, other than those of that kind already bound where there is a choice.
    fn draw(&mut self, kind: &'static str, entities: &[Entity]) -> Option<usize> {
        let start = self.rng.below(entities.len());
        let around = (0..entities.len()).map(|k| (start + k) % entities.len());
        let allowed = |i: &usize| self.allowed.is_none_or(|remainders| remainders.contains(&(i % 5)));
        let taken =
            |i: usize| self.bound.iter().any(|(_, id)| *id == (kind, i)) || self.subject == Some((kind, i));
        let free = around.clone().filter(allowed).find(|&i| !taken(i));
        free.or_else(|| around.clone().find(allowed))
    }

    fn date(&mut self) -> String {
        let (day, month) = (self.rng.between(1, 28), MONTHS[self.rng.below(12)]);
        if self.rng.below(2) == 0 {
            format!("{month} {day}")
        } else {
            format!("the {} of {month}", ordinal(day))
        }
    }

    fn price(&mut self) -> String {
        let (some, few) = (self.rng.between(2, 19), self.rng.between(2, 11));
        match self.rng.below(5) {
            0 => format!("{} crowns", NUMBER_WORDS[some]),
            1 => format!("{} shillings", NUMBER_WORDS[some]),
            2 => format!("{} pennies", NUMBER_WORDS[few]),
            3 => format!("{some} shillings"),
            _ => format!("{some} shillings and {few} pennies"),
        }
    }

    fn hour(&mut self) -> String {
        let hour = NUMBER_WORDS[self.rng.between(1, 12)];
        match self.rng.below(4) {
            0 => format!("half past {hour}"),
            1 => format!("a quarter to {hour}"),
            _ => format!("{hour} o'clock"),
        }
    }
}

/// "a" or "an", by sound as far as the word lists need it.
fn article(phrase: &str) -> &'static str {
    let word = phrase.split(' ').next().unwrap_or_default().to_lowercase();
    let silent_h = ["hour", "honest", "heir", "honour"].iter().any(|w| word.starts_with(w));
    let spoken_y = ["one", "uni", "use", "usu", "eu", "ewe"].iter().any(|w| word.starts_with(w));
    if silent_h || (word.starts_with(['a', 'e', 'i', 'o', 'u']) && !spoken_y) { "an" } else { "a" }
}

/// Puts a capital at the start of each sentence and of each speech that follows a finished one.
fn capitalise(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut start = true;
    let mut ended = false; // the last letter closed a sentence
    let mut speech_ended = false; // ... and the closing quotation mark came after it
    for c in text.chars() {
        match c {
            '.' | '?' | '!' => (ended, speech_ended) = (true, false),
            ' ' if ended => (start, ended) = (true, false),
            '"' if ended => (ended, speech_ended) = (false, true),
            '"' if speech_ended => (start, speech_ended) = (true, false),
            ' ' | '"' | '\'' => {}
            _ => {
                if start {
                    out.extend(c.to_uppercase());
                    (start, ended, speech_ended) = (false, false, false);
                    continue;
                }
                (ended, speech_ended) = (false, false);
            }
        }
        out.push(c);
    }
    out
}

/// "eel pies" -> "Eel Pies", small words kept small.
pub(super) fn title_case(text: &str) -> String {
    let words = text.split(' ').enumerate().map(|(i, word)| {
        let small = ["of", "on", "in", "at", "to", "the", "a", "an", "and", "for", "from"].contains(&word);
        let mut letters = word.chars();
        match letters.next() {
            Some(first) if i == 0 || !small => first.to_uppercase().chain(letters).collect::<String>(),
            _ => word.to_owned(),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}
