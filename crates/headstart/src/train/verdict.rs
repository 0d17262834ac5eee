//! What a finished classifier is worth: its temperature, its answers one by one, its summary, and what the report shows of them.
//!
//! Owns: when these are made and written. Never: how they are computed (`eval`), how they look (`report`).

use std::fmt;

use serde_json::json;

use crate::checkpoint::RunFolder;
use crate::error::{Error, Result};
use crate::eval::{Calibration, Evaluation};
use crate::event::{Event, Listener};
use crate::files::write_atomic;
use crate::predictions::{self, Line, Origins};
use crate::report::{Along, Chart, Confusion, Curve, Report, Table};
use crate::train::{Running, Summary, Training, fixed};

/// Characters of a text in the table of mistakes.
const TEXT_CHARS: usize = 120;

type ReadOrigins<'a> = dyn Fn(&str, &mut Listener<'_>) -> Result<Option<Origins>> + 'a;

/// Reads where the examples of a split ("valid", "test") stand, which nobody needs before a run has ended.
pub(crate) struct OriginsOf<'a>(Box<ReadOrigins<'a>>);

impl<'a> OriginsOf<'a> {
    /// By `read`.
    pub(crate) fn new(read: impl Fn(&str, &mut Listener<'_>) -> Result<Option<Origins>> + 'a) -> Self {
        Self(Box::new(read))
    }
}

impl fmt::Debug for OriginsOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OriginsOf")
    }
}

impl Training<'_> {
    /// Finds the finished model's temperature on its validation, which is judged with it.
    pub(super) fn calibrate(
        &mut self,
        valid: &mut Option<(u64, Evaluation)>,
        listener: &mut Listener<'_>,
    ) -> Option<Calibration> {
        let (_, evaluation) = valid.as_mut()?;
        let calibration = Calibration::kept(evaluation.answers.as_ref()?, listener)?;
        self.files.temperature = Some(calibration.temperature);
        evaluation.calibrate(self.files.temperature);
        Some(calibration)
    }

    /// predictions.jsonl of the finished model; returns its worst mistakes.
    pub(super) fn record_predictions(
        &self,
        running: &Running<'_>,
        summary: &mut Summary,
        listener: &mut Listener<'_>,
    ) -> Result<Vec<Line>> {
        let evaluation = running.last_test.as_ref().or(running.last_valid.as_ref());
        match (evaluation, &self.origins) {
            (Some((_, evaluation)), Some(origins)) if summary.final_dir.is_some() => {
                record_predictions(&self.folder, evaluation, origins, summary, listener)
            }
            _ => Ok(Vec::new()),
        }
    }
}

/// Writes predictions.jsonl of an evaluation of the finished model; returns its worst mistakes.
///
/// # Errors
/// [`Error::Io`] when the disk refuses.
pub(crate) fn record_predictions(
    folder: &RunFolder,
    evaluation: &Evaluation,
    OriginsOf(read): &OriginsOf<'_>,
    summary: &mut Summary,
    listener: &mut Listener<'_>,
) -> Result<Vec<Line>> {
    let origins = match read(&evaluation.split, listener) {
        // The run is whole without it, and the model is there.
        Err(Error::Missing { .. } | Error::BadInput { .. } | Error::Download { .. }) | Ok(None) => None,
        other => other?,
    };
    let path = folder.predictions_jsonl();
    let recorded =
        origins.map(|origins| predictions::record(&path, evaluation, &origins)).transpose()?.flatten();
    let Some((evaluated, mistakes)) = recorded else {
        listener(Event::Message(
            "no predictions.jsonl is written: the data has changed since it was read, or has too many examples",
        ));
        return Ok(Vec::new());
    };
    summary.evaluated = Some(evaluated);
    Ok(mistakes)
}

/// Adds a split's evaluation; what there is one of is the last split's.
pub(crate) fn summarise(summary: &mut Summary, evaluation: &Evaluation) {
    let split = &evaluation.split;
    let named = |name: &String| format!("{split}/{name}");
    summary.metrics.extend(evaluation.metrics.iter().map(|(name, value)| (named(name), *value)));
    summary.intervals.extend(evaluation.intervals.iter().map(|(name, ends)| (named(name), *ends)));
    summary.examples.insert(split.clone(), evaluation.examples);
    summary.confusion.clone_from(&evaluation.confusion);
    summary.support.clone_from(&evaluation.support);
    summary.reliability.clone_from(&evaluation.reliability);
}

/// Writes summary.json: the summary, and the seconds of work.
///
/// # Errors
/// [`Error::Io`] when the disk refuses.
pub(crate) fn write_summary(folder: &RunFolder, summary: &Summary, seconds: f64) -> Result<()> {
    let mut whole = json!(summary);
    whole["seconds"] = seconds.into();
    write_atomic(&folder.summary_json(), format!("{whole:#}\n").as_bytes())
}

/// Adds to a report what a classifier's answers come to: reliability diagram, surest mistakes, confusion matrix.
pub(crate) fn add_verdict(report: &mut Report, summary: &Summary, mistakes: &[Line]) {
    let tested = summary.metrics.keys().any(|name| name.starts_with("test/"));
    let split = if tested { "test" } else { "validation" };
    report.tables.extend(intervals(summary));
    report.tables.extend(surest_mistakes(summary, mistakes, split));
    if !summary.reliability.is_empty() {
        let points = summary.reliability.iter().map(|bin| (bin.confidence, bin.accuracy)).collect();
        let name = summary.calibration.map_or_else(
            || "accuracy".to_owned(),
            |calibration| format!("temperature {:.3}", calibration.temperature),
        );
        report.charts.push(Chart {
            title: format!("Reliability, {split}"),
            x_label: "probability of the told class".into(),
            y_label: "share that is right".into(),
            curves: vec![
                Curve { name, dashed: false, points },
                Curve { name: "perfect".into(), dashed: true, points: vec![(0.0, 0.0), (1.0, 1.0)] },
            ],
            along: Along::Linear,
        });
    }
    if let Some(counts) = summary.confusion.clone() {
        let title = format!("Confusion matrix, {split}");
        report.confusions.push(Confusion { title, labels: summary.labels.clone(), counts });
    }
}

fn intervals(summary: &Summary) -> Option<Table> {
    let mut rows = Vec::new();
    for (name, [low, high]) in &summary.intervals {
        let (split, metric) = name.split_once('/').unwrap_or_default();
        let value = summary.metrics.get(name).copied().unwrap_or(f64::NAN);
        let examples = summary.examples.get(split).copied().unwrap_or_default();
        let mut row = vec![metric.to_owned(), if split == "valid" { "validation" } else { split }.to_owned()];
        row.extend([value, *low, *high].map(|value| fixed(value, 4)));
        row.push(examples.to_string());
        rows.push(row);
    }
    let header = ["", "split", "value", "95 %: from", "to", "examples"].map(str::to_owned).to_vec();
    let table = Table { title: "How far they may be off".into(), header, rows, ..Table::default() };
    (!table.rows.is_empty()).then_some(table)
}

fn surest_mistakes(summary: &Summary, mistakes: &[Line], split: &str) -> Option<Table> {
    let first = mistakes.first()?;
    let (title, last) = match first.probability() {
        Some(_) => (format!("Surest mistakes, {split}"), "probability"),
        None => (format!("Largest errors, {split}"), "text"),
    };
    let path = summary.evaluated.as_ref().and_then(|evaluated| evaluated.path.as_deref());
    let row = |line: &Line| {
        let text: String = line.text.chars().take(TEXT_CHARS).collect();
        let mut row = vec![line.place(), line.label.to_string(), line.predicted.to_string()];
        row.extend(line.probability().map(|p| format!("{p:.4}")));
        row.push(text);
        row
    };
    let mut header = vec![path.unwrap_or_default().to_owned(), "label".to_owned(), "told".to_owned()];
    header.extend((last == "probability").then(|| last.to_owned()));
    header.push("text".to_owned());
    Some(Table { title, header, rows: mistakes.iter().map(row).collect(), ..Table::default() })
}
