//! What the climb came to: the chosen rung, why, its model and its test data.
//!
//! Owns: when these are made and written. Never: climbs.

use std::path::Path;

use super::choice::{self, Gain};
use super::state::{Climbed, State, Tested};
use super::{AutoSummary, Climb, End, SIGNAL, table};
use crate::checkpoint::RunFolder;
use crate::data::split::Split;
use crate::error::Result;
use crate::evaluate::{EvaluateConfig, evaluate};
use crate::event::{Event, Listener};
use crate::infer::LongTexts;
use crate::trials::{copy_final, finite, write_json};

impl Climb<'_> {
    /// The rung to take of those that are whole, by number.
    pub(super) fn chosen(&self, state: &State) -> Result<Option<usize>> {
        let metric = self.metric();
        let gain = |value: &f64| self.deciding.gain(*value);
        let value = |climbed: &Climbed| climbed.metrics.get(&metric).map_or(f64::NEG_INFINITY, gain);
        let values: Vec<f64> = state.rungs.iter().map(value).collect();
        choice::chosen(&values, |best, other| Ok(self.gain(state, best, other)?.is_told_apart()))
    }

    fn gain(&self, state: &State, best: usize, other: usize) -> Result<Gain> {
        let [best, other] = [best, other].map(|at| &state.rungs[at].name);
        Gain::of(&self.dir.join(best), &self.dir.join(other), other, self.deciding)
    }

    /// What it has come to so far.
    pub(super) fn summary(&self, state: &State, end: &End) -> Result<AutoSummary> {
        let mut summary = AutoSummary {
            run_dir: self.dir.clone(),
            stopped: end.stopped.map(str::to_owned),
            model: self.config.model.clone(),
            problem: self.config.problem,
            metric: self.metric(),
            rungs: state.rungs.clone(),
            why_stopped: Some(end.why.clone()),
            ..AutoSummary::default()
        };
        let Some(at) = self.chosen(state)? else { return Ok(summary) };
        let chosen = &state.rungs[at];
        if end.stopped == Some(SIGNAL) {
            // Who stopped it may want to go on; there is no model yet, and so none that is chosen.
            summary.best_so_far = Some(self.dir.join(&chosen.name));
            return Ok(summary);
        }
        let mut better = None;
        for above in at + 1..state.rungs.len() {
            let gain = self.gain(state, above, at)?;
            if better.as_ref().is_none_or(|(_, best): &(usize, Gain)| gain.gain > best.gain) {
                better = Some((above, gain));
            }
        }
        let name = &chosen.name;
        summary.why_chosen = Some(match better.filter(|(_, gain)| gain.gain > 0.0) {
            Some((above, gain)) => format!(
                "{name} is chosen: it is the cheapest of those that cannot be told apart from the best; {}, and lies in {}/final.",
                self.in_words(&state.rungs[above].name, &gain),
                state.rungs[above].name
            ),
            None if at == 0 => {
                format!("{name} is chosen: it is the best on validation data, and the cheapest.")
            }
            None => format!("{name} is chosen: it is the best on validation data, beyond the noise."),
        });
        summary.chosen = Some(name.clone());
        summary.metrics.clone_from(&chosen.metrics);
        summary.intervals.clone_from(&chosen.intervals);
        summary.temperature = chosen.calibration.map(|calibration| calibration.temperature);
        Ok(summary)
    }

    /// Keeps the chosen model, and tells its metrics on test data.
    pub(super) fn finish(
        &self,
        summary: &mut AutoSummary,
        state: &mut State,
        folder: &RunFolder,
        listener: &mut Listener<'_>,
    ) -> Result<()> {
        if let Some(name) = summary.chosen.clone() {
            let why = summary.why_chosen.as_deref().unwrap_or_default();
            let path = copy_final(&self.dir.join(&name), folder, why)?;
            listener(Event::Saved(&path));
            self.test(&path, &name, state, listener)?;
            summary.final_dir = Some(path);
            if let Some(tested) = &state.tested {
                summary.metrics.extend(tested.metrics.clone());
                summary.intervals.extend(tested.intervals.clone());
            }
        }
        Ok(())
    }

    /// Writes what it came to.
    pub(super) fn write(&self, summary: &AutoSummary, state: &mut State, folder: &RunFolder) -> Result<()> {
        state.seconds = Some(summary.seconds);
        state.write(&self.dir)?;
        table::page(self.config, summary).write(&folder.report_html())?;
        write_json(&folder.summary_json(), summary)
    }

    /// The chosen model's metrics on test data, where there are some: once.
    fn test(&self, model: &Path, name: &str, state: &mut State, listener: &mut Listener<'_>) -> Result<()> {
        if !self.task.has_test || state.tested.as_ref().is_some_and(|tested| tested.name == name) {
            return Ok(());
        }
        let config = EvaluateConfig {
            data: self.config.data.clone(),
            // It is read as it was for training.
            label_columns: Vec::new(),
            split: Some(Split::Test),
            language_model: false,
            uncalibrated: false,
            long_texts: LongTexts::default(),
            precision: self.config.precision,
            threads: self.config.threads,
            device: self.options.device.clone(),
            collective: self.options.collective.clone(),
        };
        let found = evaluate(model, &config, listener)?;
        let named = |name: &String| format!("test/{name}");
        state.tested = Some(Tested {
            name: name.to_owned(),
            metrics: finite(&found.metrics.iter().map(|(name, value)| (named(name), *value)).collect()),
            intervals: found.intervals.iter().map(|(name, ends)| (named(name), *ends)).collect(),
        });
        self.write_state(state)
    }
}
