//! The model that a run starts from: its weights in the model that is trained, and what is said of it.
//!
//! Owns: the line about it, the names for train.log. Never: opens folders (`checkpoint`), decides what is trained.

use crate::checkpoint::{LoadReport, LoadedModel};
use crate::config::HeadPooling;
use crate::error::Result;
use crate::event::{Event, Listener};
use crate::model::Model;
use crate::params::Kind;

/// A model that weights are taken from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Base<'a> {
    pub(crate) loaded: &'a LoadedModel,
    /// Where a weight starts that it does not have.
    pub(crate) seed: u64,
    /// The longest input of the run, in tokens.
    pub(crate) max_length: usize,
    /// What the run's classifier reads, if it has one.
    pub(crate) pooling: Option<HeadPooling>,
}

impl Base<'_> {
    /// The weights for `model`; tells what was taken, and notes the names.
    pub(crate) fn weights(
        &self,
        model: &Model,
        notes: &mut Vec<String>,
        listener: &mut Listener<'_>,
    ) -> Result<Vec<f32>> {
        let (mut weights, report) = self.loaded.weights_for(model.table(), self.seed)?;
        if report.added.iter().any(|name| name == LM_TRANSFORM) {
            start_as_identity(model, &mut weights);
        }
        match &self.loaded.published {
            None => {
                for line in report.summary() {
                    listener(Event::Message(&line));
                }
                notes.extend(report.lines());
            }
            Some(_) => self.tell(&self.used(model, &report), notes, listener, report.lines()),
        }
        Ok(weights)
    }

    /// Weights of their own for `model`, with the sizes of this one; tells so.
    pub(crate) fn fresh(
        &self,
        model: &Model,
        notes: &mut Vec<String>,
        listener: &mut Listener<'_>,
    ) -> Vec<f32> {
        if self.loaded.published.is_some() {
            self.tell(
                "its sizes and its tokenizer are used, its weights are not",
                notes,
                listener,
                Vec::new(),
            );
        }
        model.table().initial_values(self.seed)
    }

    /// What becomes of its tensors.
    fn used(&self, model: &Model, report: &LoadReport) -> String {
        let used = self.loaded.stored.used_by(model.table());
        let is_new = |kind: Kind| {
            let mut of_kind = model.table().params().iter().filter(|param| param.kind == kind);
            of_kind.any(|param| report.added.contains(&param.name))
        };
        let heads = [(Kind::LmHead, "language-model head"), (Kind::Head, "head for the task")];
        let new: Vec<_> = heads.iter().filter(|(kind, _)| is_new(*kind)).map(|(_, name)| *name).collect();
        let new =
            if new.is_empty() { String::new() } else { format!(" (a new {})", new.join(" and a new ")) };
        format!("{used} tensors used, {} left, {} added{new}", report.discarded.len(), report.added.len())
    }

    /// One line about a published model; with `names` of what differs, and the keys that were passed over, in the log.
    fn tell(&self, what: &str, notes: &mut Vec<String>, listener: &mut Listener<'_>, names: Vec<String>) {
        let Some(published) = &self.loaded.published else { return };
        let (arch, numbers) = (self.loaded.files.config.arch.name(), published.size.1);
        let pooling = self.pooling.map(|pooling| format!(", pooling {}", pooling.name())).unwrap_or_default();
        let line = format!(
            "model: {arch}, {} parameters; {what}; max_length {}{pooling}",
            in_millions(numbers),
            self.max_length
        );
        listener(Event::Message(&line));
        notes.push(line);
        notes.extend(names);
        if let Some(other) = &published.other_head {
            let line = format!("{other}; the trunk is used");
            listener(Event::Message(&line));
            notes.push(line);
        }
        if !published.unused_keys.is_empty() {
            let keys = published.unused_keys.join(", ");
            notes.push(format!("keys of config.json that change nothing and were passed over: {keys}"));
        }
    }
}

/// The linear of the LM head's transform.
const LM_TRANSFORM: &str = "lm_head.dense.weight";

/// A new LM head on a trunk that is trained begins by handing on what the trunk says: with random numbers in between, that would
/// have to be learned first (docs/log.md).
fn start_as_identity(model: &Model, weights: &mut [f32]) {
    let Some(param) = model.table().params().iter().find(|param| param.name == LM_TRANSFORM) else { return };
    let columns = param.shape[1];
    for (at, weight) in weights[param.offset..][..param.len()].iter_mut().enumerate() {
        *weight = if at / columns == at % columns { 1.0 } else { 0.0 };
    }
}

/// A number of parameters, for people.
fn in_millions(numbers: usize) -> String {
    match numbers {
        0..100_000 => crate::train::thousands(numbers),
        _ => format!("{:.1} M", numbers as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Arch, ModelConfig};

    #[test]
    fn a_new_transform_hands_on_what_it_is_given() {
        let config = ModelConfig {
            arch: Arch::Electra,
            vocab_size: 5,
            embed_dim: 3,
            embedding_size: Some(2),
            num_heads: 1,
            num_layers: 1,
            ..ModelConfig::default()
        };
        let model = Model::new(&config).unwrap();
        let start = model.table().initial_values(1);
        let mut weights = start.clone();
        start_as_identity(&model, &mut weights);
        let param = model.table().params().iter().find(|param| param.name == LM_TRANSFORM).unwrap();
        let place = param.offset..param.offset + param.len();
        assert_eq!(weights[place.clone()], [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
        assert_eq!(
            (&weights[..place.start], &weights[place.end..]),
            (&start[..place.start], &start[place.end..])
        );
    }

    #[test]
    fn parameters_are_counted_in_millions_where_there_are_so_many() {
        assert_eq!([51_234, 22_713_216, 109_482_240].map(in_millions), ["51,234", "22.7 M", "109.5 M"]);
    }
}
