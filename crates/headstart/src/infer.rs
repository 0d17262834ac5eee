//! Using a trained model: classify texts, continue a prompt. The same forward as training, on an inference tape.
//!
//! Owns: loading a model folder for use, sampling. Never: reads standard input, prints.

use std::path::Path;

use headstart_engine::ops::attention::KeyValueCache;
use headstart_engine::{Device, Packing, Precision, Tape, Weights, rng};
use serde_json::{Map, Value};

use crate::batch::{Batch, TokenTargets};
use crate::checkpoint::{self, ModelFiles};
use crate::config::{HeadConfig, HeadPooling, PrecisionName, Problem};
use crate::device::{DeviceChoice, in_parts_that_fit};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::objective::probabilities;
use crate::tokenizer::Tokenizer;

/// A model folder, loaded for use.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) device: Device,
    pub(crate) model: Model,
    pub(crate) weights: Weights,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) files: ModelFiles,
}

impl Loaded {
    /// Loads a run folder, its `final/`, or a checkpoint; every parameter must be there.
    pub(crate) fn open(path: &Path, device: &DeviceChoice, threads: usize) -> Result<Self> {
        let device = device.open(threads)?;
        let (loaded, tokenizer) = checkpoint::load_model_and_tokenizer(path)?;
        let model = Model::new(&loaded.files.config)?;
        let weights = loaded.mapped_weights(model.table())?;
        Ok(Self { device, model, weights, tokenizer, files: loaded.files })
    }
}

/// One text's prediction.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Prediction {
    /// The best class; all classes over one half joined by `|` (multi-label); the number (regression).
    pub label: String,
    /// Class -> probability, in the model's order; empty for regression.
    pub probabilities: Map<String, Value>,
    /// Whether the text was longer than the model's positions and was cut.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// A loaded classifier.
#[derive(Debug)]
pub struct Predictor {
    loaded: Loaded,
    head: HeadConfig,
    precision: Precision,
}

impl Predictor {
    /// Loads a run folder, its `final/`, or a checkpoint. `threads` 0: all.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the folder is damaged or holds no classifier.
    pub fn load(
        model: &Path,
        precision: PrecisionName,
        device: &DeviceChoice,
        threads: usize,
    ) -> Result<Self> {
        let loaded = Loaded::open(model, device, threads)?;
        let Some(head) = loaded.files.config.head.clone() else {
            return Err(Error::Checkpoint {
                path: model.to_path_buf(),
                what: "is a language model without a classification head".into(),
                fix: "fine-tune it first: headstart finetune --model THIS --data ...".into(),
            });
        };
        Ok(Self { loaded, head, precision: precision.into() })
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.loaded.device
    }

    /// The class names, in the order of the probabilities.
    pub fn labels(&self) -> &[String] {
        &self.loaded.files.labels
    }

    /// Predicts texts, in order.
    ///
    /// # Errors
    /// [`Error::BadInput`] when a text cannot be tokenised; what goes wrong on the device.
    pub fn predict(&self, texts: &[String]) -> Result<Vec<Prediction>> {
        let tokenizer = &self.loaded.tokenizer;
        let room = self.loaded.files.config.num_max_positions;
        let mut cut = Vec::new();
        let mut batch = Batch::default();
        for text in texts {
            let (ids, truncated) =
                classified_ids(tokenizer.encode(text)?, tokenizer, self.head.pooling, room);
            cut.push(truncated);
            batch.sequences.push(TokenTargets::None.sequence(&ids, None, 0));
        }
        let logits = in_parts_that_fit(self.device(), &mut |_| (), || self.logits(&batch))?;
        let rows = logits.chunks_exact(self.head.num_classes);
        Ok(rows.zip(cut).map(|(row, cut)| self.prediction(row, cut)).collect())
    }

    /// One row for each sequence.
    fn logits(&self, batch: &Batch) -> Vec<f32> {
        let Loaded { device, weights, model, .. } = &self.loaded;
        let mut rows = Vec::new();
        for slab in batch.slabs(device.slab_tokens()) {
            let mut tape = Tape::inference(device, weights, &slab.packing, self.precision);
            let hidden = model.trunk(&mut tape, &slab.ids, None);
            let Some(logits) = model.classify(&mut tape, &hidden) else {
                unreachable!("checked when loading")
            };
            rows.extend(logits.tensor().to_f32_vec());
        }
        rows
    }

    fn prediction(&self, logits: &[f32], truncated: bool) -> Prediction {
        let (values, best) = probabilities(logits, self.head.problem);
        let names = self.labels();
        let label = match self.head.problem {
            Problem::SingleLabel => names[best].clone(),
            Problem::MultiLabel => {
                let on = values.iter().zip(names).filter(|(p, _)| **p > 0.5).map(|(_, name)| name.as_str());
                on.collect::<Vec<_>>().join("|")
            }
            Problem::Regression => values[0].to_string(),
        };
        let probabilities = match self.head.problem {
            Problem::Regression => Map::new(),
            _ => names.iter().cloned().zip(values.iter().map(|&p| Value::from(f64::from(p)))).collect(),
        };
        Prediction { label, probabilities, truncated }
    }
}

/// The ids that are classified: cut to the positions, with the final `[CLS]` where the head reads it. The second
/// value says whether something was cut.
pub(crate) fn classified_ids(
    mut ids: Vec<u32>,
    tokenizer: &Tokenizer,
    pooling: HeadPooling,
    positions: usize,
) -> (Vec<u32>, bool) {
    let marked = pooling == HeadPooling::Cls;
    let room = positions - usize::from(marked);
    let truncated = ids.len() > room;
    ids.truncate(room);
    if marked {
        ids.push(tokenizer.roles().classification);
    } else if ids.is_empty() {
        ids.push(tokenizer.roles().end_of_line); // an empty text still needs a row to be classified on
    }
    (ids, truncated)
}

/// How text is generated.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateConfig {
    /// Tokens to add.
    pub max_new_tokens: usize,
    /// Divides the logits; 0: the best token always.
    pub temperature: f64,
    /// Only the best k; 0: all.
    pub top_k: usize,
    /// Only the best that together have this probability; 1: all.
    pub top_p: f64,
    /// Seeds the draws.
    pub seed: u64,
}

impl GenerateConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key.
    pub fn validate(&self) -> Result<()> {
        let bad = |key: &str, what: String, fix: &str| {
            Err(Error::Config { key: key.into(), what, fix: fix.into() })
        };
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return bad(
                "temperature",
                format!("{} is not possible", self.temperature),
                "use 0 or a positive number",
            );
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return bad(
                "top_p",
                format!("{} is not a probability above 0", self.top_p),
                "use a number up to 1",
            );
        }
        Ok(())
    }
}

/// A loaded language model.
#[derive(Debug)]
pub struct Generator {
    loaded: Loaded,
    precision: Precision,
}

impl Generator {
    /// Loads a run folder, its `final/`, or a checkpoint of a causal language model. `threads` 0: all.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the folder is damaged or holds a masked language model.
    pub fn load(
        model: &Path,
        precision: PrecisionName,
        device: &DeviceChoice,
        threads: usize,
    ) -> Result<Self> {
        let loaded = Loaded::open(model, device, threads)?;
        if !loaded.files.config.causal {
            return Err(Error::Checkpoint {
                path: model.to_path_buf(),
                what: "is a masked language model, which fills gaps but does not continue text".into(),
                fix: "pretrain one with --objective lm".into(),
            });
        }
        Ok(Self { loaded, precision: precision.into() })
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.loaded.device
    }

    /// Continues the prompt (an empty one starts a line) until `max_new_tokens` are there or the model's
    /// positions are full; `piece` is called with each new piece of text. Returns the whole text.
    ///
    /// # Errors
    /// [`Error::Config`] for impossible settings or a prompt that leaves no position.
    pub fn generate(
        &self,
        prompt: &str,
        config: &GenerateConfig,
        piece: &mut dyn FnMut(&str),
    ) -> Result<String> {
        config.validate()?;
        let tokenizer = &self.loaded.tokenizer;
        let positions = self.loaded.files.config.num_max_positions;
        let mut ids = Vec::new();
        for (i, line) in prompt.split('\n').enumerate() {
            if i > 0 {
                ids.push(tokenizer.roles().end_of_line);
            }
            tokenizer.encode_corpus_line(line, &mut ids)?;
        }
        let prompt_length = ids.len();
        if ids.is_empty() {
            ids.push(tokenizer.roles().end_of_line);
        }
        if ids.len() >= positions {
            return Err(Error::Config {
                key: "prompt".into(),
                what: format!("its {} tokens leave none of the model's {positions} positions", ids.len()),
                fix: "shorten it".into(),
            });
        }
        let mut caches = vec![KeyValueCache::default(); self.loaded.files.config.num_layers];
        let mut draws = rng::Stream::new(config.seed);
        let first_shown = usize::from(prompt_length == 0);
        let mut shown = Shown::new(tokenizer, &ids, first_shown);
        let start = ids.len();
        let mut fed = 0;
        while ids.len() - start < config.max_new_tokens && fed < positions && ids.len() < positions {
            let logits = self.next_logits(&ids[fed..], fed, &mut caches);
            self.device().check()?;
            fed = ids.len();
            ids.push(sample(&logits, config, &mut draws) as u32);
            shown.hand_on(&ids, piece);
        }
        shown.end_line(&ids, piece);
        Ok(tokenizer.decode(&ids[first_shown..]))
    }

    fn next_logits(&self, ids: &[u32], past: usize, caches: &mut [KeyValueCache]) -> Vec<f32> {
        let Loaded { device, weights, model, .. } = &self.loaded;
        let packing = Packing::continued(past, ids.len());
        let mut tape = Tape::inference(device, weights, &packing, self.precision);
        let hidden = model.trunk(&mut tape, ids, Some(caches));
        model.lm_logits(&mut tape, &hidden, &[ids.len() as u32 - 1]).to_f32_vec()
    }
}

/// The part of a growing text that was handed on already.
struct Shown<'t> {
    tokenizer: &'t Tokenizer,
    /// The first id of the line that grows; what stands before it is settled.
    line: usize,
    /// What was handed on of that line.
    text: String,
}

impl<'t> Shown<'t> {
    /// Everything of `ids` from `first` on counts as shown.
    fn new(tokenizer: &'t Tokenizer, ids: &[u32], first: usize) -> Self {
        let end_of_line = tokenizer.roles().end_of_line;
        let line = ids.iter().rposition(|&id| id == end_of_line).map_or(first, |at| first.max(at + 1));
        Self { tokenizer, line, text: tokenizer.decode(&ids[line..]) }
    }

    /// Hands on what the last of `ids` adds.
    fn hand_on(&mut self, ids: &[u32], piece: &mut dyn FnMut(&str)) {
        let Some((last, before)) = ids.split_last() else { return };
        if *last == self.tokenizer.roles().end_of_line {
            self.end_line(before, piece);
            piece("\n");
            (self.line, self.text) = (ids.len(), String::new());
            return;
        }
        // A token may be a part of a character, which is unreadable before its other parts are there.
        let text = self.tokenizer.decode(&ids[self.line..]);
        self.extend(text.trim_end_matches(char::REPLACEMENT_CHARACTER), piece);
    }

    /// Hands on what was held back of the line.
    fn end_line(&mut self, ids: &[u32], piece: &mut dyn FnMut(&str)) {
        let text = self.tokenizer.decode(&ids[self.line..]);
        self.extend(&text, piece);
    }

    fn extend(&mut self, text: &str, piece: &mut dyn FnMut(&str)) {
        if let Some(new) = text.strip_prefix(self.text.as_str()).filter(|new| !new.is_empty()) {
            piece(new);
            self.text.push_str(new);
        }
    }
}

/// Draws a token: temperature, then top-k, then top-p (nucleus; Holtzman et al. 2020), then a draw.
fn sample(logits: &[f32], config: &GenerateConfig, draws: &mut rng::Stream) -> usize {
    let mut ranking = Ranking::new(logits);
    let best = ranking.get(0);
    if config.temperature == 0.0 {
        return best;
    }
    let count = if config.top_k > 0 { config.top_k.min(logits.len()) } else { logits.len() };
    let highest = f64::from(logits[best]);
    let weight = |i: usize| ((f64::from(logits[i]) - highest) / config.temperature).exp();
    let total: f64 = if count < logits.len() {
        (0..count).map(|rank| weight(ranking.get(rank))).sum()
    } else {
        (0..count).map(weight).sum()
    };
    let (mut kept, mut sum) = (count, total);
    if config.top_p < 1.0 {
        (kept, sum) = (0, 0.0);
        while kept < count && (kept == 0 || sum / total < config.top_p) {
            sum += weight(ranking.get(kept));
            kept += 1;
        }
    }
    let mut rest = draws.uniform() * sum;
    for rank in 0..kept {
        let id = ranking.get(rank);
        rest -= weight(id);
        if rest < 0.0 {
            return id;
        }
    }
    ranking.get(kept - 1)
}

/// Ids by falling logit, equal ones by rising id; sorted only as far as somebody looks.
struct Ranking<'a> {
    logits: &'a [f32],
    order: Vec<usize>,
    sorted: usize,
}

impl<'a> Ranking<'a> {
    fn new(logits: &'a [f32]) -> Self {
        Self { logits, order: (0..logits.len()).collect(), sorted: 0 }
    }

    fn get(&mut self, rank: usize) -> usize {
        while rank >= self.sorted {
            let logits = self.logits;
            let falling = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
            let rest = &mut self.order[self.sorted..];
            let next = (7 * self.sorted).max(64).min(rest.len());
            if next < rest.len() {
                rest.select_nth_unstable_by(next, falling);
            }
            rest[..next].sort_unstable_by(falling);
            self.sorted += next;
        }
        self.order[rank]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::{Case, TokenizerKind, TokenizerTrainer, TrainOptions};

    fn config(temperature: f64, top_k: usize, top_p: f64) -> GenerateConfig {
        GenerateConfig { max_new_tokens: 1, temperature, top_k, top_p, seed: 0 }
    }

    #[test]
    fn sampling_keeps_to_its_limits() {
        let logits = [0.0_f32, 3.0, 1.0, 2.0, -4.0];
        let mut draws = rng::Stream::new(1);
        let mut seen = |config: &GenerateConfig| {
            let mut seen = [0; 5];
            for _ in 0..2_000 {
                seen[sample(&logits, config, &mut draws)] += 1;
            }
            seen
        };
        assert_eq!(seen(&config(0.0, 0, 1.0)), [0, 2_000, 0, 0, 0]);
        let two = seen(&config(1.0, 2, 1.0));
        assert!(two[1] > two[3] && two[3] > 300 && two[0] + two[2] + two[4] == 0, "{two:?}");
        let nucleus = seen(&config(1.0, 0, 0.8));
        assert!(nucleus[3] > 0 && nucleus[2] == 0, "{nucleus:?}");
        let all = seen(&config(1.0, 0, 1.0));
        let share = 2_000.0 * 1.0_f64.exp()
            / (1.0 + 3.0_f64.exp() + 1.0_f64.exp() + 2.0_f64.exp() + (-4.0_f64).exp());
        assert!((f64::from(all[2]) - share).abs() < 60.0, "{all:?} {share}");
    }

    #[test]
    fn a_ranking_is_a_stable_sort() {
        let mut draws = rng::Stream::new(2);
        let logits: Vec<f32> = (0..5_000).map(|_| draws.below(700) as f32).collect();
        let mut sorted: Vec<usize> = (0..logits.len()).collect();
        sorted.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        let mut ranking = Ranking::new(&logits);
        for rank in [0, 63, 64, 70, 511, 512, 4_999] {
            assert_eq!(ranking.get(rank), sorted[rank], "rank {rank}");
        }
        assert_eq!(ranking.order, sorted);
    }

    #[test]
    fn pieces_join_to_the_text_with_no_half_characters() {
        let options = TrainOptions { kind: TokenizerKind::ByteLevelBpe, vocab_size: 265, case: Case::Keep };
        let mut trainer = TokenizerTrainer::new(options).unwrap();
        trainer.feed("so so so it is\n").unwrap();
        let tokenizer = trainer.finish().unwrap();
        let mut ids = tokenizer.encode("so").unwrap();
        let mut shown = Shown::new(&tokenizer, &ids, 0);
        let mut pieces = Vec::new();
        let line = tokenizer.roles().end_of_line;
        let smile = tokenizer.encode("\u{1f600}").unwrap();
        let more =
            [&tokenizer.encode(" it is \u{e9}").unwrap()[..], &[line, line], &smile, &smile[..2]].concat();
        for id in more {
            ids.push(id);
            shown.hand_on(&ids, &mut |piece| pieces.push(piece.to_owned()));
        }
        shown.end_line(&ids, &mut |piece| pieces.push(piece.to_owned()));
        // What is no character at the very end is shown as what it is.
        assert_eq!(pieces.pop().unwrap(), "\u{fffd}");
        assert!(pieces.len() > 5 && pieces.iter().all(|piece| !piece.is_empty()));
        assert_eq!(pieces.concat(), " it is \u{e9}\n\n\u{1f600}");
        assert_eq!(pieces.concat() + "\u{fffd}", tokenizer.decode(&ids)["so".len()..]);
    }
}
