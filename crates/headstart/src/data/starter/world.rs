//! Draws the invented world once: every person, town, river, ship and so on, with the facts about each.
//!
//! Index remainders modulo 5 are the shares of the question splits, so first names, surnames and places are dealt
//! out by index and no name crosses a share.
//! Never: sentences.

use std::collections::{BTreeMap, BTreeSet};

use super::rng::Rng;
use super::sections;
use super::spelling::{MONTHS, ordinal, thousands};

const FILES: [&str; 3] =
    [include_str!("text/names.txt"), include_str!("text/phrases.txt"), include_str!("text/things.txt")];
const SEED: u64 = 0x5eed_c0de_0000;
const PEOPLE: usize = 300;

/// Something true of an entity.
#[derive(Debug, Clone)]
pub(super) enum Fact {
    /// Words to print.
    Text(String),
    /// Another entity, by table and index.
    Link(&'static str, usize),
}

impl From<usize> for Fact {
    fn from(number: usize) -> Self {
        Self::Text(number.to_string())
    }
}

impl From<&str> for Fact {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Fact {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// A named thing and what is true of it.
#[derive(Debug, Clone)]
pub(super) struct Entity {
    pub(super) name: String,
    pub(super) facts: BTreeMap<&'static str, Fact>,
}

/// All entities by kind.
pub(super) struct World {
    tables: BTreeMap<&'static str, Vec<Entity>>,
    /// Where each town lies on the map, in miles.
    places: Vec<(usize, usize)>,
}

impl World {
    pub(super) fn table(&self, kind: &str) -> Option<(&'static str, &[Entity])> {
        self.tables.get_key_value(kind).map(|(kind, entities)| (*kind, entities.as_slice()))
    }

    pub(super) fn entity(&self, kind: &str, index: usize) -> Option<&Entity> {
        self.tables.get(kind)?.get(index)
    }

    /// Miles between two towns, at least 1. Integer arithmetic, so that it is the same everywhere.
    pub(super) fn miles(&self, a: usize, b: usize) -> usize {
        let at = |i: usize| self.places.get(i).copied().unwrap_or_default();
        let (dx, dy) = (at(a).0.abs_diff(at(b).0), at(a).1.abs_diff(at(b).1));
        (dx * dx + dy * dy).max(1).isqrt()
    }

    fn len(&self, kind: &str) -> usize {
        self.tables.get(kind).map_or(0, Vec::len)
    }

    fn text(&mut self, kind: &str, index: usize, fact: &'static str, value: impl Into<Fact>) {
        self.set(kind, index, fact, value.into());
    }

    fn set(&mut self, kind: &str, index: usize, fact: &'static str, value: Fact) {
        if let Some(entity) = self.tables.get_mut(kind).and_then(|table| table.get_mut(index)) {
            entity.facts.insert(fact, value);
        }
    }

    fn name(&self, kind: &str, index: usize) -> String {
        self.entity(kind, index).map(|entity| entity.name.clone()).unwrap_or_default()
    }

    /// A link to a random entity of `target`.
    fn link(&mut self, rng: &mut Rng, kind: &str, index: usize, fact: &'static str, target: &'static str) {
        let chosen = rng.below(self.len(target));
        self.set(kind, index, fact, Fact::Link(target, chosen));
    }
}

/// The world; always the same.
pub(super) fn build() -> World {
    let mut rng = Rng::new(SEED);
    let mut world = World { tables: BTreeMap::new(), places: Vec::new() };
    for section in FILES.into_iter().flat_map(sections::parse) {
        let entities = section.lines.iter().map(|line| read_entity(section.name, line)).collect();
        world.tables.insert(section.name, entities);
    }
    let mut lives = people(&mut world, &mut rng);
    lands(&mut world, &mut rng);
    towns(&mut world, &mut rng, &lives);
    waters(&mut world, &mut rng, &lives);
    works(&mut world, &mut rng, &mut lives);
    societies(&mut world, &mut rng, &lives);
    world
}

/// The columns of a line become facts; which ones depends on the kind.
fn read_entity(kind: &str, line: &'static str) -> Entity {
    let columns: &[&'static str] = match kind {
        "island" => &["people", "character", "famous"],
        "guild" => &["purpose", "reason"],
        "book" => &["subject"],
        "site" => &["kind", "detail"],
        "festival" => &["custom", "reason"],
        _ => &["plural", "def", "detail", "fact", "reason"],
    };
    let mut parts = line.split(" | ");
    let name = parts.next().unwrap_or_default().to_owned();
    let facts = columns.iter().zip(parts).map(|(column, part)| (*column, Fact::Text(part.to_owned())));
    Entity { name, facts: facts.collect() }
}

/// The years of a person's life, and what the chronology needs to know.
struct Life {
    born: usize,
    died: usize,
    woman: bool,
    job: usize,
}

impl Life {
    /// A year in which the person was grown up and alive.
    fn adult_year(&self, rng: &mut Rng) -> usize {
        rng.between(self.born + 25, (self.died - 3).min(self.born + 60))
    }
}

fn people(world: &mut World, rng: &mut Rng) -> Vec<Life> {
    let mut seen = BTreeSet::new();
    let mut lives = Vec::new();
    let mut entities = Vec::new();
    for i in 0..PEOPLE {
        let woman = rng.below(2) == 0;
        let (list, surname) = (if woman { "woman" } else { "man" }, "surname");
        let mut pick = |world: &World, kind: &str| {
            let index = i % 5 + 5 * rng.below(world.len(kind) / 5);
            world.name(kind, index)
        };
        let (mut first, mut last) = (pick(world, list), pick(world, surname));
        while !seen.insert(format!("{first} {last}")) {
            (first, last) = (pick(world, list), pick(world, surname));
        }
        let born = rng.between(1500, 1848);
        let died = (born + rng.between(38, 90)).min(1889);
        let job = loop {
            let job = rng.below(world.len("job"));
            if suits(&world.name("job", job), woman) {
                break job;
            }
        };
        entities.push(Entity { name: format!("{first} {last}"), facts: BTreeMap::new() });
        lives.push(Life { born, died, woman, job });
        for (fact, value) in [("first", first), ("last", last)] {
            if let Some(entity) = entities.last_mut() {
                entity.facts.insert(fact, Fact::Text(value));
            }
        }
    }
    world.tables.insert("person", entities);
    for i in 0..PEOPLE {
        tell_life(world, rng, &lives, i);
    }
    marry(world, rng, &lives);
    lives
}

/// Some trades had one sex only in that world, by their very names.
fn suits(job: &str, woman: bool) -> bool {
    if woman { !job.ends_with("man") && !job.ends_with("master") } else { job != "midwife" }
}

fn tell_life(world: &mut World, rng: &mut Rng, lives: &[Life], i: usize) {
    let life = &lives[i];
    let (he, him, his) = if life.woman { ("she", "her", "her") } else { ("he", "him", "his") };
    for (fact, value) in [("he", he), ("him", him), ("his", his)] {
        world.text("person", i, fact, value);
    }
    world.text("person", i, "born", life.born);
    world.text("person", i, "died", life.died);
    world.text("person", i, "age", life.died - life.born);
    world.text("person", i, "deedyear", life.adult_year(rng));
    world.set("person", i, "job", Fact::Link("job", life.job));
    for (fact, target) in [
        ("birthplace", "town"),
        ("home", "town"),
        ("parentjob", "job"),
        ("trait", "trait"),
        ("habit", "habit"),
        ("leftwhy", "leftwhy"),
        ("deed", "deed"),
        ("deathwhy", "deathwhy"),
    ] {
        world.link(rng, "person", i, fact, target);
    }
    // The teacher had the same trade and was a generation older; not everyone has one on record.
    let start = rng.below(PEOPLE);
    let around = (0..PEOPLE).map(|k| (start + k) % PEOPLE);
    let teacher = |&j: &usize| {
        let older = &lives[j];
        older.job == life.job
            && (15..=50).contains(&life.born.saturating_sub(older.born))
            && older.died > life.born + 14
    };
    if let Some(j) = around.clone().find(teacher) {
        world.set("person", i, "teacher", Fact::Link("person", j));
    }
    let peer = |&j: &usize| j != i && lives[j].born.abs_diff(life.born) <= 20;
    if let Some(j) = around.clone().find(peer) {
        world.set("person", i, "friend", Fact::Link("person", j));
    }
}

/// Couples of about the same age; the others stay single.
fn marry(world: &mut World, rng: &mut Rng, lives: &[Life]) {
    let mut single: BTreeSet<usize> = (0..PEOPLE).collect();
    for i in 0..PEOPLE {
        if !single.contains(&i) {
            continue;
        }
        let fits =
            |&&j: &&usize| lives[j].woman != lives[i].woman && lives[j].born.abs_diff(lives[i].born) <= 9;
        let Some(&j) = single.iter().find(fits) else { continue };
        let children = rng.between(2, 12);
        for (one, other) in [(i, j), (j, i)] {
            single.remove(&one);
            world.set("person", one, "spouse", Fact::Link("person", other));
            world.text("person", one, "children", children);
        }
    }
    for i in single {
        world.text("person", i, "unmarried", "never married");
    }
}

/// Islands, with hills and lakes: the first hill of an island is its highest.
fn lands(world: &mut World, rng: &mut Rng) {
    let islands = world.len("island");
    for i in 0..islands {
        let area = rng.between(40, 900);
        world.text("island", i, "area", area);
        world.text("island", i, "coastline", (area.isqrt() * rng.between(45, 60)) / 10);
        world.text("island", i, "rowing", rng.between(9, 90));
        world.text("island", i, "length", (area.isqrt() * rng.between(13, 20)) / 10);
        world.set("island", i, "language", Fact::Link("language", i / 2));
        world.set("island", i, "town", Fact::Link("town", i));
        world.set("island", i, "hill", Fact::Link("hill", i));
    }
    for i in 0..world.len("hill") {
        let height = if i < islands { rng.between(1800, 6200) } else { rng.between(600, 1700) };
        world.text("hill", i, "height", thousands(height));
        world.set("hill", i, "island", Fact::Link("island", i % islands));
    }
    for i in 0..world.len("lake") {
        world.text("lake", i, "depth", rng.between(40, 700));
        world.set("lake", i, "island", Fact::Link("island", i % islands));
    }
}

fn towns(world: &mut World, rng: &mut Rng, lives: &[Life]) {
    let (towns, islands) = (world.len("town"), world.len("island").max(1));
    let mut people_of = vec![0; islands];
    for i in 0..towns {
        let island = i % islands;
        let place = (island % 4 * 90 + rng.below(41), island / 4 * 80 + rng.below(41));
        world.places.push(place);
        let founder = rng.below(PEOPLE);
        world.set("town", i, "founder", Fact::Link("person", founder));
        world.text("town", i, "founded", lives[founder].adult_year(rng));
        let population = rng.between(90, 4800) * 10;
        people_of[island] += population;
        world.text("town", i, "population", thousands(population));
        world.text("town", i, "depth", rng.between(12, 60));
        world.text("town", i, "coast", ["northern", "southern", "eastern", "western"][rng.below(4)]);
        world.set("town", i, "island", Fact::Link("island", island));
        for (fact, target) in [
            ("product", "good"),
            ("trade", "job"),
            ("mayor", "person"),
            ("day", "day"),
            ("inn", "inn"),
            ("nick", "nickname"),
            ("namewhy", "namewhy"),
            ("colour", "colour"),
        ] {
            world.link(rng, "town", i, fact, target);
        }
    }
    // The townspeople, and about a third as many in the country.
    for (i, townspeople) in people_of.into_iter().enumerate() {
        world.text("island", i, "population", thousands(townspeople * rng.between(125, 145) / 100));
    }
    for i in 0..towns {
        let others = (0..towns).filter(|&j| j != i && j % islands == i % islands);
        if let Some(near) = others.min_by_key(|&j| world.miles(i, j)) {
            world.set("town", i, "near", Fact::Link("town", near));
            world.text("town", i, "nearmiles", world.miles(i, near));
        }
    }
}

/// Rivers from hill to town, and who climbed the hills.
fn waters(world: &mut World, rng: &mut Rng, lives: &[Life]) {
    let (islands, hills) = (world.len("island").max(1), world.len("hill"));
    for i in 0..world.len("river") {
        let island = i % islands;
        let source = if island + islands < hills && rng.below(2) == 0 { island + islands } else { island };
        let mouth = island + islands * (i / islands + 1);
        world.text("river", i, "length", rng.between(7, 55));
        world.text("river", i, "width", rng.between(20, 300));
        world.set("river", i, "island", Fact::Link("island", island));
        world.set("river", i, "source", Fact::Link("hill", source));
        world.set("river", i, "mouth", Fact::Link("town", mouth));
        world.set("town", mouth, "river", Fact::Link("river", i));
        world.link(rng, "river", i, "fish", "fish");
    }
    for i in 0..hills {
        let climber = rng.below(PEOPLE);
        world.set("hill", i, "climber", Fact::Link("person", climber));
        world.text("hill", i, "climbed", lives[climber].adult_year(rng));
    }
}

/// Ships, inventions, books and buildings, with those who made or led them.
fn works(world: &mut World, rng: &mut Rng, lives: &mut [Life]) {
    let mut order: Vec<usize> = (0..PEOPLE).collect();
    rng.shuffle(&mut order);
    let mut order = order.into_iter();
    // Captains and inventors take up the fitting trade; each is a different person.
    let mut retrain = |world: &mut World, lives: &mut [Life], job: &str| {
        let person = order.next().unwrap_or(0);
        let (_, jobs) = world.table("job").unwrap_or_default();
        if let Some(index) = jobs.iter().position(|entity| entity.name == job) {
            lives[person].job = index;
            world.set("person", person, "job", Fact::Link("job", index));
        }
        if let Some(entity) = world.tables.get_mut("person").and_then(|table| table.get_mut(person)) {
            entity.facts.remove("teacher");
        }
        person
    };
    for i in 0..world.len("ship") {
        let captain = retrain(world, lives, "sea captain");
        world.set("ship", i, "captain", Fact::Link("person", captain));
        world.text("ship", i, "launched", lives[captain].adult_year(rng));
        world.text("ship", i, "tons", rng.between(60, 900));
        world.text("ship", i, "crew", rng.between(8, 120));
        world.text("ship", i, "length", rng.between(50, 190));
        world.text("ship", i, "speed", rng.between(5, 14));
        for (fact, target) in
            [("kind", "vessel"), ("town", "town"), ("cargo", "good"), ("figure", "animal"), ("fate", "fate")]
        {
            world.link(rng, "ship", i, fact, target);
        }
    }
    for i in 0..world.len("invention") {
        let inventor = retrain(world, lives, ["engineer", "clockmaker", "blacksmith"][i % 3]);
        world.set("invention", i, "inventor", Fact::Link("person", inventor));
        world.text("invention", i, "year", lives[inventor].adult_year(rng));
    }
    for (kind, role) in [("book", "author"), ("site", "builder")] {
        for i in 0..world.len(kind) {
            let person = retrain(world, lives, if kind == "book" { "poet" } else { "mason" });
            world.set(kind, i, role, Fact::Link("person", person));
            world.text(kind, i, "year", lives[person].adult_year(rng));
            world.text(kind, i, "pages", rng.between(60, 900));
            world.text(kind, i, "height", rng.between(20, 200));
            world.link(rng, kind, i, "town", "town");
        }
    }
}

fn societies(world: &mut World, rng: &mut Rng, lives: &[Life]) {
    for i in 0..world.len("guild") {
        // The initials of the words that have a capital: Bureau of Weights and Measures, BWM.
        let short: String = world.name("guild", i).split([' ', '-']).filter_map(initial).collect();
        let master = rng.below(PEOPLE);
        world.text("guild", i, "short", short);
        world.set("guild", i, "master", Fact::Link("person", master));
        world.text("guild", i, "founded", lives[master].adult_year(rng));
        world.text("guild", i, "members", thousands(rng.between(30, 2400)));
        world.text("guild", i, "share", rng.between(51, 97));
        world.text("guild", i, "fee", rng.between(2, 19));
        world.link(rng, "guild", i, "seat", "town");
    }
    for i in 0..world.len("garment") {
        world.text("garment", i, "price", format!("{} shillings", rng.between(2, 19)));
    }
    for i in 0..world.len("festival") {
        let date = format!("{} of {}", ordinal(rng.between(1, 28)), MONTHS[rng.below(12)]);
        world.text("festival", i, "date", date);
        world.link(rng, "festival", i, "town", "town");
        world.link(rng, "festival", i, "food", "food");
    }
}

fn initial(word: &str) -> Option<char> {
    word.chars().next().filter(char::is_ascii_uppercase)
}
