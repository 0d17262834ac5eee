//! config.json of a model: everything of it but its weights and its tokenizer, sealed with a sum of its own.
//!
//! Owns: the file's form, and the form that version 1 wrote. Never: the weights it describes (`model_folder`).

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::{HeadPooling, ModelConfig, ObjectiveName, PrecisionName, Problem};
use crate::error::Result;
use crate::files::{FileSum, FileSums, damaged};
use crate::tokenizer::RoleIds;

/// Says whose config.json it is, where Hugging Face names the architecture.
pub(super) const MODEL_TYPE: &str = "headstart";
/// Counts incompatible changes of config.json; the reader still takes version 1, whose special_ids had other names.
const FORMAT_VERSION: u64 = 2;
/// The key of the sum of all others.
const SEAL: &str = "sha256";

/// What the folder that a model was published in says of classifiers of it. Whatever is trained from it keeps this.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadDefaults {
    /// What a classifier reads.
    pub pooling: HeadPooling,
    /// Dropout on a classifier's row; the trunk's own when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f32>,
    /// The longest input, in tokens; what the model has positions for when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
}

/// Everything of a model but its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelFiles {
    /// Sizes and options.
    pub config: ModelConfig,
    /// What the trunk was pretrained to predict; `None` when it was not.
    pub objective: Option<ObjectiveName>,
    /// The share of tokens that a masked language model was pretrained to predict; older folders and other models have none.
    pub mlm_probability: Option<f64>,
    /// Tokens of the inputs that it was pretrained on, where they were chosen.
    pub block_size: Option<usize>,
    /// What the model it comes from says of classifiers; `None` where that was not published.
    pub head_defaults: Option<HeadDefaults>,
    /// Class names in the order of the head's outputs; empty without a head, and for regression.
    pub labels: Vec<String>,
    /// Whether the classifier was trained on pairs of texts.
    pub pairs: bool,
    /// What logits are divided by where probabilities are made of them, found on validation data; `None` where nothing was found, and of
    /// what was made before there was one.
    pub temperature: Option<f64>,
    /// The products that it was trained with, in which it computes where nothing else is asked for and the device is not slower with them; f32 where that is not known.
    pub precision: PrecisionName,
    /// Ids of the tokens with a role.
    pub special_ids: RoleIds,
    /// The content of tokenizer.json.
    pub tokenizer_json: Vec<u8>,
}

impl ModelFiles {
    /// The share of tokens a masked language model predicts: its own, or the one that was the only one before it was kept.
    pub fn masked_share(&self) -> f64 {
        self.mlm_probability.unwrap_or(0.15)
    }
}

/// The text of config.json, with the sums of the other files.
pub(super) fn config_json(files: &ModelFiles, sums: &FileSums) -> serde_json::Result<String> {
    let mut map = Map::new();
    map.insert("model_type".into(), MODEL_TYPE.into());
    map.insert("format_version".into(), FORMAT_VERSION.into());
    // By way of text, so that 0.1_f32 becomes 0.1 and not 0.10000000149011612.
    let config: Map<String, Value> = serde_json::from_str(&serde_json::to_string(&files.config)?)?;
    map.extend(config);
    if let Some(head) = &files.config.head {
        let name = match head.problem {
            Problem::SingleLabel => "single_label_classification",
            Problem::MultiLabel => "multi_label_classification",
            Problem::Regression => "regression",
        };
        map.insert("problem_type".into(), name.into());
    }
    map.insert("objective".into(), json!(files.objective));
    if let Some(share) = files.mlm_probability {
        map.insert("mlm_probability".into(), share.into());
    }
    if let Some(size) = files.block_size {
        map.insert("block_size".into(), size.into());
    }
    if let Some(defaults) = &files.head_defaults {
        // By way of text, as above.
        let defaults: Value = serde_json::from_str(&serde_json::to_string(defaults)?)?;
        map.insert("head_defaults".into(), defaults);
    }
    if files.pairs {
        map.insert("pairs".into(), true.into());
    }
    if let Some(temperature) = files.temperature {
        map.insert("temperature".into(), temperature.into());
    }
    if files.precision != PrecisionName::F32 {
        map.insert("precision".into(), json!(files.precision));
    }
    let numbered = || files.labels.iter().enumerate();
    let id2label = numbered().map(|(id, label)| (id.to_string(), label.as_str().into()));
    map.insert("id2label".into(), Value::Object(id2label.collect()));
    let label2id = numbered().map(|(id, label)| (label.clone(), id.into()));
    map.insert("label2id".into(), Value::Object(label2id.collect()));
    map.insert("special_ids".into(), json!(files.special_ids));
    map.insert("files".into(), json!(sums));
    let sum = sum_of(&map);
    map.insert(SEAL.into(), sum.into());
    Ok(serde_json::to_string_pretty(&map)? + "\n")
}

/// The sum of what config.json says.
fn sum_of(content: &Map<String, Value>) -> String {
    FileSum::of(Value::Object(content.clone()).to_string().as_bytes()).sha256
}

/// Reads config.json; the tokenizer's content is left empty.
pub(super) fn parse_config(path: &Path, text: &[u8]) -> Result<(ModelFiles, FileSums)> {
    let bad = |what: String| damaged(path, what);
    let mut map: Map<String, Value> =
        serde_json::from_slice(text).map_err(|e| bad(format!("is not a JSON object: {e}")))?;
    let seal = map.remove(SEAL);
    let sum = sum_of(&map);
    let found = map.remove("model_type").unwrap_or_default();
    if found != MODEL_TYPE {
        return Err(bad(format!("its model_type is {found}, where this program writes \"{MODEL_TYPE}\"")));
    }
    let version = map.remove("format_version").unwrap_or_default();
    if version != 1 && version != FORMAT_VERSION {
        return Err(bad(format!(
            "its format_version is {version}; this program reads 1 to {FORMAT_VERSION}"
        )));
    }
    if version != 1 && seal != Some(sum.into()) {
        return Err(bad("is altered: its content is not what was written (SHA-256 differs)".into()));
    }
    // For other programs' eyes; both say again what is said elsewhere.
    map.remove("problem_type");
    map.remove("label2id");
    let objective = field(path, &mut map, "objective")?;
    let share = map.remove("mlm_probability");
    let mlm_probability = match share.as_ref().map(Value::as_f64) {
        None => None,
        Some(Some(share)) if share > 0.0 && share <= 1.0 => Some(share),
        Some(_) => return Err(bad("its mlm_probability is not a share of the tokens".into())),
    };
    let block_size = optional(path, &mut map, "block_size")?;
    let head_defaults = optional(path, &mut map, "head_defaults")?;
    let pairs = match map.remove("pairs") {
        None => false,
        Some(Value::Bool(pairs)) => pairs,
        Some(_) => return Err(bad("its pairs is neither true nor false".into())),
    };
    let temperature = match map.remove("temperature").as_ref().map(Value::as_f64) {
        None => None,
        Some(Some(temperature)) if temperature.is_finite() && temperature > 0.0 => Some(temperature),
        Some(_) => return Err(bad("its temperature is not a number above 0".into())),
    };
    let precision = optional(path, &mut map, "precision")?.unwrap_or_default();
    let id2label: Map<String, Value> = field(path, &mut map, "id2label")?;
    let label = |id: usize| id2label.get(&id.to_string()).and_then(Value::as_str).map(String::from);
    let labels: Option<Vec<_>> = (0..id2label.len()).map(label).collect();
    let labels = labels.ok_or_else(|| bad("its id2label does not number names from 0".into()))?;
    if version == 1
        && let Some(Value::Object(ids)) = map.get_mut("special_ids")
    {
        rename_roles(ids);
    }
    let special_ids = field(path, &mut map, "special_ids")?;
    let sums: FileSums = field(path, &mut map, "files")?;
    let config = parse_model_config(path, map)?;
    if let Some(head) = &config.head
        && !labels.is_empty()
        && labels.len() != head.num_classes
    {
        return Err(bad(format!("it has {} labels for {} classes", labels.len(), head.num_classes)));
    }
    let tokenizer_json = Vec::new();
    let files = ModelFiles {
        config,
        objective,
        mlm_probability,
        block_size,
        head_defaults,
        labels,
        pairs,
        temperature,
        precision,
        special_ids,
        tokenizer_json,
    };
    Ok((files, sums))
}

/// The special_ids of version 1 under their names of today. Its end of line stood for what separates texts, too.
fn rename_roles(ids: &mut Map<String, Value>) {
    for (old, new) in [("end_of_line", "eos"), ("classification", "cls"), ("unknown", "unk")] {
        if let Some(id) = ids.remove(old) {
            ids.insert(new.into(), id);
        }
    }
    if let Some(id) = ids.get("eos").cloned() {
        ids.insert("sep".into(), id);
    }
}

/// Takes one key out of config.json.
fn field<T: serde::de::DeserializeOwned>(path: &Path, map: &mut Map<String, Value>, key: &str) -> Result<T> {
    let value = map.remove(key).ok_or_else(|| damaged(path, format!("it lacks `{key}`")))?;
    serde_json::from_value(value).map_err(|e| damaged(path, format!("its `{key}`: {e}")))
}

/// Takes one key that may be missing out of config.json.
fn optional<T: serde::de::DeserializeOwned>(
    path: &Path,
    map: &mut Map<String, Value>,
    key: &str,
) -> Result<Option<T>> {
    if map.contains_key(key) { field(path, map, key).map(Some) } else { Ok(None) }
}

/// The sizes and options, which are all that is left of config.json.
fn parse_model_config(path: &Path, map: Map<String, Value>) -> Result<ModelConfig> {
    // The configuration's defaults are for people who start a run; a stored model says everything.
    let whole = serde_json::to_value(ModelConfig::default()).unwrap_or_default();
    let keys = whole.as_object().into_iter().flat_map(Map::keys);
    if let Some(key) = keys.into_iter().find(|key| !map.contains_key(*key)) {
        return Err(damaged(path, format!("it lacks `{key}`")));
    }
    let config: ModelConfig =
        serde_json::from_value(Value::Object(map)).map_err(|e| damaged(path, e.to_string()))?;
    config.validate().map_err(|e| damaged(path, e.to_string()))?;
    let classes = config.head.as_ref().map_or(1, |head| head.num_classes);
    // What a u32 can number; beyond it, sizes would also overflow when they are multiplied.
    for (key, value) in [("vocab_size", config.vocab_size), ("num_classes", classes)] {
        if !(1..=1 << 31).contains(&value) {
            return Err(damaged(path, format!("its {key} {value} is not possible")));
        }
    }
    if config.offset_token.is_some_and(|id| id as usize >= config.vocab_size) {
        return Err(damaged(path, "its offset_token is outside the vocabulary"));
    }
    Ok(config)
}
