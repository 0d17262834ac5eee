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
use crate::train::{Bar, BarMetric};

/// More training tokens than these, about 100 MB of text, take minutes to fit and gigabytes of memory.
const MOST_TOKENS: usize = 25_000_000;
/// Characters within words are not worth their time in more text than this.
const MOST_CHARACTER_BYTES: usize = 16 << 20;

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
    let Some(bag) = fitted(&data, config.problem, listener) else { return Ok(None) };
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

/// Fits one to the training texts; `None` when the listener said stop.
pub(crate) fn fitted(data: &ClassTexts, problem: Problem, listener: &mut Listener<'_>) -> Option<Bag> {
    let texts = data.train.joined();
    let ngrams = ngrams_for(&texts);
    let (texts, count) = (borrowed(&texts), data.labels.len());
    let mut done = 0;
    let mut go_on = || {
        done += 1;
        listener(Event::Progress { what: "fitting a bag of words", done, total: 0 }) == Signal::Continue
    };
    let mut linear = |targets| LinearBag::fit(&texts, targets, ngrams, None, &mut go_on);
    match problem {
        Problem::SingleLabel => {
            let classes = classes(&data.train);
            let examples = baseline::Examples { texts: &texts, classes: &classes, count };
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
