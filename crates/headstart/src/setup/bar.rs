//! The bar of a fine-tuning run: a bag of words on the same examples.
//!
//! Owns: when it is measured, and what its n-grams are. Never: a bit of the run beside it.

use std::time::Instant;

use crate::baseline::{self, BagOfWords, NGrams};
use crate::config::{FinetuneConfig, Problem};
use crate::data::classification::{ClassTexts, TextSplit};
use crate::error::Result;
use crate::event::{Event, Listener, Signal};
use crate::setup::bar_beyond_classes;
use crate::setup::labelled::DataRequest;
use crate::train::Bar;

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
    if config.problem != Problem::SingleLabel {
        let Some(mut data) = request.read_any_texts(known, seed, &mut quiet)? else { return Ok(None) };
        if !has(&mut data, examples, kept, listener) {
            return Ok(None);
        }
        return Ok(bar_beyond_classes::measured(&data, config.problem, clock, listener));
    }
    let (mut data, _) = request.read_texts(known, seed, &mut quiet)?;
    if !has(&mut data, examples, kept, listener) {
        return Ok(None);
    }
    let Some(bag) = fitted(&data, listener) else { return Ok(None) };
    let accuracy = |split: &Option<TextSplit>| {
        split.as_ref().map(|split| bag.accuracy(&borrowed(&split.texts), &split.classes))
    };
    Ok(Some(Bar {
        valid_accuracy: accuracy(&data.valid),
        test_accuracy: accuracy(&data.test),
        strength: bag.strength(),
        seconds: clock.elapsed().as_secs_f64(),
        ..Bar::default()
    }))
}

/// Whether the data are those of the run, of which the examples `kept` are left; it is said where they are not.
fn has<L>(
    data: &mut ClassTexts<L>,
    examples: usize,
    kept: Option<&[usize]>,
    listener: &mut Listener<'_>,
) -> bool {
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
pub(crate) fn fitted(data: &ClassTexts, listener: &mut Listener<'_>) -> Option<BagOfWords> {
    let TextSplit { texts, classes, .. } = &data.train;
    let ngrams = ngrams_for(texts);
    let texts = borrowed(texts);
    let examples = baseline::Examples { texts: &texts, classes, count: data.labels.len() };
    let mut done = 0;
    let mut go_on = || {
        done += 1;
        listener(Event::Progress { what: "fitting a bag of words", done, total: 0 }) == Signal::Continue
    };
    BagOfWords::fit(examples, ngrams, &mut go_on)
}

pub(crate) fn borrowed(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}
