//! Labels that the other examples contradict.
//!
//! Owns: which examples a bag of words is fitted to for that. Never: the rule (`confident`), the fit (`baseline`).

use std::collections::HashMap;

use super::languages::letters_apart;
use super::{Findings, Kind, Row, Severity, confident, counted};
use crate::baseline::{BagOfWords, Examples, NGrams};
use crate::data::classification::LabelKind;
use crate::data::classification::placed::PlacedTexts;
use crate::error::Result;
use crate::event::{Event, Listener, Signal};

/// Parts of which each is left out once.
const PARTS: usize = 5;
/// Fewer examples than this teach nothing that could contradict them.
const LEAST: usize = 50;
/// Characters within words are not worth their time in more text than this, and nothing is in more than that.
const MOST_CHARACTER_BYTES: usize = 1 << 18;
const MOST_BYTES: usize = 256 << 20;
/// Probabilities that are kept: as many as examples times classes.
const MOST_PROBABILITIES: usize = 40_000_000;

pub(super) fn look(
    data: &PlacedTexts,
    rows: &[Row<'_>],
    found: &mut Findings,
    listener: &mut Listener<'_>,
) -> Result<()> {
    let numbers: HashMap<&str, u32> =
        data.labels.iter().enumerate().map(|(class, label)| (label.as_str(), class as u32)).collect();
    let class = |row: &Row<'_>| match &row.text.labels[..] {
        [label] => numbers.get(label.as_str()).copied(),
        _ => None,
    };
    let known: Vec<(&Row<'_>, u32)> = if data.labels.len() <= super::labels::MOST_CLASSES {
        rows.iter().filter(|row| !row.is_empty()).filter_map(|row| Some((row, class(row)?))).collect()
    } else {
        Vec::new()
    };
    let texts: Vec<String> = known.iter().map(|(row, _)| letters_apart(&row.joined())).collect();
    let bytes: usize = texts.iter().map(String::len).sum();
    let classes: Vec<u32> = known.iter().map(|(_, class)| *class).collect();
    let why_not = if data.label_kind != LabelKind::Single {
        "labels are not one class each"
    } else if data.labels.len() > super::labels::MOST_CLASSES {
        "there are more than 2,000 classes"
    } else if known.len() < LEAST || classes.iter().all(|class| *class == classes[0]) {
        "there are too few examples"
    } else if known.len().saturating_mul(data.labels.len()) > MOST_PROBABILITIES {
        "examples times classes are more than 40 million"
    } else if bytes > MOST_BYTES {
        "there are more than 256 MiB of text"
    } else {
        ""
    };
    if !why_not.is_empty() {
        found.left_out.push(format!("label errors: {why_not}"));
        return Ok(());
    }
    let borrowed: Vec<&str> = texts.iter().map(String::as_str).collect();
    let examples = Examples { texts: &borrowed, classes: &classes, count: data.labels.len(), groups: &[] };
    let ngrams = if bytes > MOST_CHARACTER_BYTES { NGrams::Words } else { NGrams::WordsAndCharacters };
    let (mut done, mut signal) = (0, Signal::Continue);
    let mut go_on = || {
        done += 1;
        signal = listener(Event::Progress { what: "fitting bags of words", done, total: 0 });
        signal == Signal::Continue
    };
    let Some(probabilities) = BagOfWords::held_out_probabilities(examples, ngrams, PARTS, &mut go_on) else {
        return Signal::Stop.or_interrupted("looking into the data");
    };
    if !tells(&probabilities, &classes) {
        let why = "a bag of words tells the classes no better than their frequencies do";
        found.left_out.push(format!("label errors: {why}"));
        return Ok(());
    }
    let right = |row: &Vec<f64>, class: u32| row.iter().all(|p| *p <= row[class as usize]);
    let accuracy = probabilities.iter().zip(&classes).filter(|(row, class)| right(row, **class)).count()
        as f64
        / classes.len() as f64;
    let doubts = confident::doubts(&probabilities, &classes);
    let what = format!(
        "{} that the other examples contradict; a bag of words, which says so, is right about {:.1} % of those it has not seen",
        counted(doubts.len(), "label"),
        100.0 * accuracy
    );
    let fix = "read them, the first ones are the likeliest errors; correct those that are wrong, leave those that are only hard";
    let shown = doubts.iter().map(|doubt| {
        let (row, _) = known[doubt.example];
        row.shown(format!(
            "looks like `{}` ({:.2} against {:.2})",
            data.labels[doubt.suggested as usize], doubt.other, doubt.given
        ))
    });
    found.add((Kind::LabelError, Severity::Note), doubts.len(), (what, fix), shown);
    Ok(())
}

/// Whether probabilities of what was not seen say more of the labels than how frequent each is: by the mean difference of their log
/// likelihoods, which has to be twice its standard error. What says less contradicts nothing.
fn tells(probabilities: &[Vec<f64>], labels: &[u32]) -> bool {
    let mut frequencies = vec![0.0; probabilities[0].len()];
    for &label in labels {
        frequencies[label as usize] += 1.0 / labels.len() as f64;
    }
    let gain = |(row, &label): (&Vec<f64>, &u32)| {
        (row[label as usize].max(f64::MIN_POSITIVE) / frequencies[label as usize]).ln()
    };
    let gains: Vec<f64> = probabilities.iter().zip(labels).map(gain).collect();
    let count = gains.len() as f64;
    let mean = gains.iter().sum::<f64>() / count;
    let variance = gains.iter().map(|gain| (gain - mean).powi(2)).sum::<f64>() / count;
    mean > 2.0 * (variance / count).sqrt()
}
