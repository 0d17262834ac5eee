//! The bar of a run with several labels at once, or numbers: a logistic regression for each label, or ridge regression, on a bag of
//! words.
//!
//! Owns: what is fitted, and what of it is told. Never: the fit (`baseline`), the metrics (`eval`).

use std::time::Instant;

use crate::baseline::{LinearBag, Targets};
use crate::config::Problem;
use crate::data::classification::{ClassTexts, Label, TextSplit};
use crate::eval;
use crate::event::{Event, Listener, Signal};
use crate::setup::bar::{borrowed, ngrams_for};
use crate::setup::labelled::label_of;
use crate::train::{Bar, BarMetric};

/// What a bag of words achieves; `None` when the listener said stop.
pub(super) fn measured(
    data: &ClassTexts<Label>,
    problem: Problem,
    clock: Instant,
    listener: &mut Listener<'_>,
) -> Option<Bar> {
    let TextSplit { texts, classes, .. } = &data.train;
    let count = data.labels.len();
    let values: Vec<f32> = classes
        .iter()
        .flat_map(|label| match label_of(label, count) {
            crate::batch::Label::Values(values) => values,
            crate::batch::Label::Class(_) => Vec::new(),
        })
        .collect();
    let (targets, metric) = match problem {
        Problem::Regression => (Targets::Numbers(&values), BarMetric::Pearson),
        Problem::MultiLabel | Problem::SingleLabel => {
            (Targets::MultiLabel(&values, count), BarMetric::MicroF1)
        }
    };
    let mut done = 0;
    let mut go_on = || {
        done += 1;
        listener(Event::Progress { what: "fitting a bag of words", done, total: 0 }) == Signal::Continue
    };
    let bag = LinearBag::fit(&borrowed(texts), targets, ngrams_for(texts), None, &mut go_on)?;
    let of = |split: &Option<TextSplit<Label>>| {
        let split = split.as_ref()?;
        let rows = bag.all_outputs(&borrowed(&split.texts));
        let labels: Vec<_> = split.classes.iter().map(|label| label_of(label, count)).collect();
        let told = eval::of_logits("", &rows, &labels, (problem, 1.0), &data.labels);
        told.metrics.get(metric.name()).copied().filter(|value| value.is_finite())
    };
    let mut strengths = bag.strengths.clone();
    strengths.sort_by(f64::total_cmp);
    Some(Bar {
        metric: Some(metric),
        valid: of(&data.valid),
        test: of(&data.test),
        strength: strengths.get(strengths.len() / 2).copied().unwrap_or_default(),
        seconds: clock.elapsed().as_secs_f64(),
        ..Bar::default()
    })
}
