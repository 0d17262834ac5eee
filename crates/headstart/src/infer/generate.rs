//! Continuing a prompt.
//!
//! Owns: the loop over new tokens. Never: how one is drawn (`sampling`), what of the text is shown when (`streaming`).

use headstart_engine::ops::attention::KeyValueCache;
use headstart_engine::{Packing, Precision, Tape, rng};

use crate::checkpoint::ModelPath;
use crate::config::PrecisionName;
use crate::device::{Device, DeviceChoice};
use crate::error::{Error, Result};
use crate::infer::sampling::sample;
use crate::infer::streaming::Shown;
use crate::infer::{Loaded, not_finite};
use crate::model::Inputs;

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
    /// Loads a run folder, its `final/`, or a checkpoint of a causal language model. `precision` `None`: what the model was
    /// trained with. `threads` 0: all.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the folder is damaged or holds a masked language model.
    pub fn load<'a>(
        model: impl Into<ModelPath<'a>>,
        precision: Option<PrecisionName>,
        device: &DeviceChoice,
        threads: usize,
    ) -> Result<Self> {
        let model = model.into();
        let loaded = Loaded::open(model, device, threads)?;
        if !loaded.files.config.causal {
            return Err(Error::Checkpoint {
                path: model.path.to_path_buf(),
                what: "is a masked language model, which fills gaps but does not continue text".into(),
                fix: "pretrain one with --objective lm".into(),
            });
        }
        loaded.model.check_lm_head()?;
        let precision = loaded.precision(precision);
        Ok(Self { loaded, precision })
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.loaded.device
    }

    /// What products are computed in.
    pub fn precision(&self) -> Precision {
        self.precision
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
                ids.push(tokenizer.roles().eos);
            }
            tokenizer.encode_corpus_line(line, &mut ids)?;
        }
        let prompt_length = ids.len();
        if ids.is_empty() {
            ids.push(tokenizer.roles().eos);
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
            if !logits.iter().all(|logit| logit.is_finite()) {
                return Err(not_finite(&self.loaded.folder));
            }
            fed = ids.len();
            ids.push(sample(&logits, config, &mut draws) as u32);
            shown.hand_on(&ids, piece);
        }
        shown.end_line(&ids, piece);
        Ok(shown.into_text())
    }

    fn next_logits(&self, ids: &[u32], past: usize, caches: &mut [KeyValueCache]) -> Vec<f32> {
        let Loaded { device, weights, model, .. } = &self.loaded;
        let packing = Packing::continued(past, ids.len());
        let mut tape = Tape::inference(device, weights, &packing, self.precision);
        let hidden = model.trunk(&mut tape, Inputs::new(ids), Some(caches));
        model.lm_logits(&mut tape, &hidden, &[ids.len() as u32 - 1]).to_f32_vec()
    }
}
