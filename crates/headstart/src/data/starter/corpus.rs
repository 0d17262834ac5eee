//! Writes the corpus: every plan of the template files, told about every subject it has.
//! Never: the facts themselves (`world`), the questions.

use super::rng::Rng;
use super::sections::{self, Section};
use super::world::World;
use super::writer::{Writer, title_case};

const ARTICLES: &str = include_str!("text/articles.txt");
const TALK: &str = include_str!("text/talk.txt");
const SEED: u64 = 0x5eed_c0de_0001;
/// One document in this many is held out for validation.
const VALID_EVERY: usize = 14;

/// The training and the validation text.
pub(super) fn write(world: &World) -> (String, String) {
    let templates = templates();
    let mut rng = Rng::new(SEED);
    let mut documents = Vec::new();
    for plan in templates.iter().filter(|s| s.name.starts_with("plan ")) {
        write_plan(plan, &templates, world, &mut rng, &mut documents);
    }
    rng.shuffle(&mut documents);
    let (mut train, mut valid) = (String::new(), String::new());
    for (i, document) in documents.iter().enumerate() {
        let split = if i % VALID_EVERY == 0 { &mut valid } else { &mut train };
        split.push_str(document);
    }
    (train, valid)
}

/// All sections of the template files.
pub(super) fn templates() -> Vec<Section> {
    [ARTICLES, TALK].into_iter().flat_map(sections::parse).collect()
}

/// `[plan KIND N]`: N documents about each entity of the kind; where there is no such kind, N documents in all.
fn write_plan(
    plan: &Section,
    templates: &[Section],
    world: &World,
    rng: &mut Rng,
    documents: &mut Vec<String>,
) {
    let mut words = plan.name.split(' ').skip(1);
    let kind = words.next().unwrap_or_default();
    let copies: usize = words.next().and_then(|n| n.parse().ok()).unwrap_or(1);
    let subjects = match world.table(kind) {
        Some((kind, entities)) => (0..entities.len()).map(|i| Some((kind, i))).collect(),
        None => vec![None],
    };
    for subject in subjects {
        for _ in 0..copies {
            let mut writer = Writer::new(world, rng, subject, None);
            documents.push(write_document(plan, templates, &mut writer));
        }
    }
}

/// The title line and one line for each paragraph of the plan.
fn write_document(plan: &Section, templates: &[Section], writer: &mut Writer) -> String {
    let mut document = String::new();
    let mut used = Vec::new();
    let mut lines = plan.lines.iter();
    if let Some(title) = lines.next().and_then(|line| writer.fill(line)) {
        document.push_str("= ");
        document.push_str(&title_case(&title));
        document.push_str(" =\n");
    }
    for line in lines {
        let mut sentences = Vec::new();
        for item in line.split(' ') {
            write_item(item, templates, writer, &mut used, &mut sentences);
        }
        if !sentences.is_empty() {
            document.push_str(&sentences.join(" "));
            document.push('\n');
        }
    }
    document
}

/// `?section*3`: perhaps, one sentence of the section three times over, none used twice in a document.
fn write_item(
    item: &str,
    templates: &[Section],
    writer: &mut Writer,
    used: &mut Vec<&'static str>,
    sentences: &mut Vec<String>,
) {
    let (item, optional) = item.strip_prefix('?').map_or((item, false), |rest| (rest, true));
    let (name, times) = item.split_once('*').unwrap_or((item, "1"));
    if optional && writer.rng().below(5) < 2 {
        return;
    }
    let Some(section) = templates.iter().find(|s| s.name == name) else { return };
    for _ in 0..times.parse().unwrap_or(1) {
        let mut fresh: Vec<_> = section.lines.iter().copied().filter(|line| !used.contains(line)).collect();
        writer.rng().shuffle(&mut fresh);
        // The first alternative all of whose facts hold.
        for template in fresh {
            if let Some(sentence) = writer.fill(template) {
                used.push(template);
                sentences.push(sentence);
                break;
            }
        }
    }
}
