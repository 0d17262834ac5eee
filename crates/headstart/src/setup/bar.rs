//! The bar of a fine-tuning run: a bag of words on the same examples.
//!
//! Owns: when it is measured, what its n-grams are, and its metrics, which are those of the method `bow`. Never: a bit of the run beside it.

use std::time::Instant;

use crate::baseline::{self, Bag, BagOfWords, LinearBag, NGrams, Targets};
use crate::config::{FinetuneConfig, Problem};
use crate::data::classification::{ClassTexts, Label, TextSplit};
use crate::data::source;
use crate::data::split::Split;
use crate::error::Result;
use crate::eval::{self, Evaluation};
use crate::event::{Event, Listener, Signal};
use crate::setup::labelled::{DataRequest, label_of};
use crate::train::{Bar, BarMetric, span, thousands};

/// More training tokens than these, about 100 MB of text, take minutes to fit and gigabytes of memory.
const MOST_TOKENS: usize = 25_000_000;
/// Characters within words are not worth their time in more text than this.
const MOST_CHARACTER_BYTES: usize = 16 << 20;

/// Seconds to a byte of text and a column of weights, roughly, on one core of a server; of words alone.
const BYTE_S: f64 = 2.5e-6;
const WORD_BYTE_S: f64 = 2.5e-7;
/// A fit that is expected to take longer is announced.
const LONG_S: f64 = 20.0;

/// What a run's metrics are shown with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compared {
    /// A bag of words that is fitted to the same examples.
    WithBagOfWords,
    /// Nothing: who calls compares.
    ByCaller,
    /// Nothing, and test data are left alone: who calls compares by what is told of validation data.
    OnValidation,
}

/// What a bag of words achieves on the run's examples; `kept` are those of the `examples` training examples that it uses. `None`, with a
/// word to people where there is something to say, where nothing is measured.
///
/// # Errors
/// The data cannot be read any more.
pub(crate) fn measured(
    config: &FinetuneConfig,
    request: &DataRequest<'_>,
    known_labels: &[String],
    examples: usize,
    kept: Option<&[usize]>,
    tokens: usize,
    listener: &mut Listener<'_>,
) -> Result<Option<Bar>> {
    // Several labels have a fit each.
    let fits = if config.problem == Problem::MultiLabel { known_labels.len() } else { 1 };
    let why_not = if config.train.budget.is_some() {
        "the time of a budget belongs to the model"
    } else if tokens > MOST_TOKENS {
        "there are more than 100 MB of text"
    } else if tokens.saturating_mul(fits) > MOST_TOKENS {
        "there are too many labels of too much text"
    } else {
        ""
    };
    if !why_not.is_empty() {
        listener(Event::Message(&format!("no bag of words is fitted to compare with: {why_not}")));
        return Ok(None);
    }
    let clock = Instant::now();
    // What there is to say of the data has been said.
    let mut quiet = |event: Event<'_>| match event {
        Event::Message(_) => Signal::Continue,
        other => listener(other),
    };
    let (known, seed) = (Some(known_labels.to_vec()), Some(config.train.seed));
    // The built-in questions have single labels alone.
    if config.problem != Problem::SingleLabel && config.data.path == source::STARTER_QUESTIONS {
        return Ok(None);
    }
    let (mut data, _) = request.read_texts(known, seed, &mut quiet)?;
    if !has(&mut data, examples, kept, listener) {
        return Ok(None);
    }
    // The other half of the time is the run's own: it gets on at every start, however long the fit would take.
    let most = config.train.max_time.map(|most| most / 2.0);
    let Some(bag) = fitted(&data, config.problem, most, listener) else {
        if most.is_some_and(|most| clock.elapsed().as_secs_f64() >= most) {
            let line =
                "no bag of words is fitted to compare with: it was not done in half of the time of max_time";
            listener(Event::Message(line));
        }
        return Ok(None);
    };
    Ok(Some(told(&bag, &data, clock)))
}

/// What of its metrics stands beside a run.
fn told(bag: &Bag, data: &ClassTexts, clock: Instant) -> Bar {
    let metric = match bag {
        Bag::SingleLabel(bag) => {
            let accuracy = |part: &Option<TextSplit>| {
                part.as_ref().map(|part| bag.accuracy(&borrowed(&part.joined()), &classes(part)))
            };
            return Bar {
                valid_accuracy: accuracy(&data.valid),
                test_accuracy: accuracy(&data.test),
                strength: bag.strength(),
                seconds: clock.elapsed().as_secs_f64(),
                ..Bar::default()
            };
        }
        Bag::MultiLabel(_) => BarMetric::MicroF1,
        Bag::Regression(_) => BarMetric::Pearson,
    };
    let of = |split: Split, part: &Option<TextSplit>| {
        let metrics = evaluated(bag, &data.labels, split, part.as_ref()?).metrics;
        metrics.get(metric.name()).copied().filter(|value| value.is_finite())
    };
    let mut strengths = bag.strengths().to_vec();
    strengths.sort_by(f64::total_cmp);
    Bar {
        metric: Some(metric),
        valid: of(Split::Valid, &data.valid),
        test: of(Split::Test, &data.test),
        strength: strengths.get(strengths.len() / 2).copied().unwrap_or_default(),
        seconds: clock.elapsed().as_secs_f64(),
        ..Bar::default()
    }
}

/// Whether the data are those of the run, of which the examples `kept` are left; it is said where they are not.
fn has(data: &mut ClassTexts, examples: usize, kept: Option<&[usize]>, listener: &mut Listener<'_>) -> bool {
    if data.train.texts.len() != examples {
        listener(Event::Message(
            "no bag of words is fitted to compare with: the data has changed since it was read",
        ));
        return false;
    }
    if let Some(kept) = kept {
        data.train.keep(kept);
    }
    true
}

/// The n-grams that are worth their time in so much text.
pub(crate) fn ngrams_for(texts: &[String]) -> NGrams {
    let bytes: usize = texts.iter().map(String::len).sum();
    if bytes > MOST_CHARACTER_BYTES { NGrams::Words } else { NGrams::WordsAndCharacters }
}

/// About how many seconds a fit to so many bytes of text takes; of two classes one has a column of weights, of several labels all have.
pub(crate) fn about_seconds(bytes: f64, classes: usize) -> f64 {
    let each = if bytes > MOST_CHARACTER_BYTES as f64 { WORD_BYTE_S } else { BYTE_S };
    let columns = if classes <= 2 { 1 } else { classes };
    each * bytes * columns as f64
}

/// Says beforehand that a fit takes long, if it does.
fn announce(texts: &[String], classes: usize, listener: &mut Listener<'_>) {
    let bytes: usize = texts.iter().map(String::len).sum();
    let seconds = about_seconds(bytes as f64, classes);
    if seconds >= LONG_S {
        let (count, time) = (thousands(texts.len()), span(seconds));
        let of = if classes > 0 { format!(" of {classes} classes") } else { String::new() };
        let line = format!("a bag of words is fitted to {count} texts{of}: about {time}, roughly");
        listener(Event::Message(&line));
    }
}

/// Fits one to the training texts; `None` when the listener said stop, or `most` seconds are over.
pub(crate) fn fitted(
    data: &ClassTexts,
    problem: Problem,
    most: Option<f64>,
    listener: &mut Listener<'_>,
) -> Option<Bag> {
    let since = Instant::now();
    let texts = data.train.joined();
    let ngrams = ngrams_for(&texts);
    announce(&texts, data.labels.len(), listener);
    let (texts, count) = (borrowed(&texts), data.labels.len());
    let mut done = 0;
    let mut go_on = || {
        done += 1;
        let asked = listener(Event::Progress { what: "fitting a bag of words", done, total: 0 });
        asked == Signal::Continue && most.is_none_or(|most| since.elapsed().as_secs_f64() < most)
    };
    let groups = &data.train.groups[..];
    let mut linear = |targets| LinearBag::fit((&texts, groups), targets, ngrams, None, &mut go_on);
    match problem {
        Problem::SingleLabel => {
            let classes = classes(&data.train);
            let examples = baseline::Examples { texts: &texts, classes: &classes, count, groups };
            BagOfWords::fit(examples, ngrams, &mut go_on).map(Bag::SingleLabel)
        }
        Problem::MultiLabel => {
            linear(Targets::MultiLabel(&values(&data.train, count), count)).map(Bag::MultiLabel)
        }
        Problem::Regression => linear(Targets::Numbers(&values(&data.train, count))).map(Bag::Regression),
    }
}

/// Its metrics on a split: those that a transformer has for the same problem.
pub(crate) fn evaluated(bag: &Bag, names: &[String], split: Split, part: &TextSplit) -> Evaluation {
    let (texts, split) = (part.joined(), split.to_string());
    let texts = borrowed(&texts);
    let (bag, problem) = match bag {
        Bag::SingleLabel(bag) => {
            let rows = bag.all_probabilities(&texts);
            return eval::of_probabilities(&split, &rows, &classes(part), names);
        }
        Bag::MultiLabel(bag) => (bag, Problem::MultiLabel),
        Bag::Regression(bag) => (bag, Problem::Regression),
    };
    let labels: Vec<_> = part.labels.iter().map(|label| label_of(label, names.len())).collect();
    eval::of_logits(&split, &bag.all_outputs(&texts), &labels, (problem, 1.0), names)
}

/// The class of each example, of single labels.
fn classes(part: &TextSplit) -> Vec<u32> {
    part.labels.iter().flat_map(Label::classes).copied().collect()
}

/// What is told of each example: 0 or 1 for each of so many labels, or a number.
fn values(part: &TextSplit, count: usize) -> Vec<f32> {
    let of = |label: &Label| match label_of(label, count) {
        crate::batch::Label::Values(values) => values,
        crate::batch::Label::Class(_) => Vec::new(),
    };
    part.labels.iter().flat_map(of).collect()
}

pub(crate) fn borrowed(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fit_that_takes_long_is_announced() {
        // Two classes have one column of weights; in much text words alone count.
        assert!(
            about_seconds(1e6, 2) < about_seconds(1e6, 3) && about_seconds(2e7, 2) < about_seconds(1e7, 2)
        );
        let texts = vec!["the quiet people and the old river".to_owned(); 500];
        let mut said = Vec::new();
        let mut listener = |event: Event<'_>| {
            if let Event::Message(line) = event {
                said.push(line.to_owned());
            }
            Signal::Continue
        };
        announce(&texts, 6, &mut listener);
        announce(&texts, 5_000, &mut listener);
        announce(&texts, 0, &mut listener);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("500 texts of 5000 classes: about 4 minutes, roughly"), "{said:?}");
    }
}
