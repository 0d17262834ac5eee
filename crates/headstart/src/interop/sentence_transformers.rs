//! The notes that sentence-transformers keeps beside a model: how texts become one vector, and how long they may be.
//!
//! Owns: modules.json and what it names. Never: the model, the pooling itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::config::HeadPooling;
use crate::error::{Error, Result};
use crate::files::read_regular;
use crate::interop::schema::object;
use crate::tensors::{Tensors, all_finite};

/// What the folder says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentenceSettings {
    /// How the rows of a text become one.
    pub pooling: HeadPooling,
    /// The linears behind that, in their order.
    pub linears: Vec<SentenceLinear>,
    /// Whether what comes of them is scaled to length 1.
    pub normalize: bool,
    /// The longest input, in tokens.
    pub max_length: Option<usize>,
    /// The first columns, which are all that is kept of a vector; `None`: all.
    pub truncate_dim: Option<usize>,
    /// What can stand before a text, by name.
    pub prompts: BTreeMap<String, String>,
    /// The name of what does where none is named.
    pub default_prompt: Option<String>,
    /// Whether the rows of the prompt are pooled, too. Others cannot be computed here.
    pub include_prompt: bool,
}

impl SentenceSettings {
    /// Vectors by a pooling of all columns as they are, without a prompt.
    pub fn of(pooling: HeadPooling) -> Self {
        Self {
            pooling,
            linears: Vec::new(),
            normalize: false,
            max_length: None,
            truncate_dim: None,
            prompts: BTreeMap::new(),
            default_prompt: None,
            include_prompt: true,
        }
    }

    /// What stands before every text: the prompt of a name, else the default one, where there is one.
    ///
    /// # Errors
    /// [`Error::Config`] for a name that is none, and for a prompt that is to be left out of the pooling.
    pub fn prompt(&self, named: Option<&str>) -> Result<String> {
        let refused = |what: String, fix: String| Error::Config { key: "prompt".into(), what, fix };
        let Some(name) = named.or(self.default_prompt.as_deref()) else { return Ok(String::new()) };
        let Some(prompt) = self.prompts.get(name) else {
            let known: Vec<String> = self.prompts.keys().map(|name| format!("`{name}`")).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(refused(
                format!("the model has no prompt `{name}`"),
                format!("its prompts are: {known}"),
            ));
        };
        if !self.include_prompt && !prompt.is_empty() {
            let what = format!(
                "the model's `include_prompt` leaves the prompt `{name}` out of the pooling, which is not computed here"
            );
            return Err(refused(what, "use a model that pools its prompt, too".into()));
        }
        Ok(prompt.clone())
    }
}

/// A linear behind the pooling (the module `Dense`), as its notes describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentenceLinear {
    /// Its own folder.
    pub folder: PathBuf,
    /// Numbers that it reads.
    pub inputs: usize,
    /// Numbers that it makes of them.
    pub outputs: usize,
    /// Whether it adds a bias.
    pub bias: bool,
    /// Whether the hyperbolic tangent of these is told; else they are as they come.
    pub tanh: bool,
}

impl SentenceLinear {
    fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let settings: Map<String, Value> = parse(&path)?;
        let size = |key: &str| {
            let size = settings.get(key).and_then(Value::as_u64).filter(|size| (1..=1 << 20).contains(size));
            let what =
                || refused(&path, format!("its `{key}` is no size of a linear"), "fetch the model again");
            size.map(|size| size as usize).ok_or_else(what)
        };
        // It is Tanh where nothing is said, as in sentence-transformers.
        let activation = settings.get("activation_function").and_then(Value::as_str).unwrap_or("Tanh");
        let tanh = match activation.rsplit('.').next() {
            Some("Tanh") => true,
            Some("Identity") => false,
            _ => {
                let what = format!("its `activation_function` {activation} is not computed here");
                return Err(refused(&path, what, "use a model with Tanh or Identity"));
            }
        };
        for key in ["module_input_name", "module_output_name"] {
            let name = settings.get(key).and_then(Value::as_str).unwrap_or("sentence_embedding");
            if name != "sentence_embedding" {
                let what = format!("its `{key}` is `{name}`, and only `sentence_embedding` is computed here");
                return Err(refused(&path, what, KINDS));
            }
        }
        let bias = settings.get("bias") != Some(&Value::Bool(false));
        Ok(Self {
            folder: folder.to_path_buf(),
            inputs: size("in_features")?,
            outputs: size("out_features")?,
            bias,
            tanh,
        })
    }

    /// Its weight `[outputs, inputs]` and its bias, zeros where it has none.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for files that are missing, damaged, or hold anything else.
    pub fn load(&self) -> Result<(Vec<f32>, Vec<f32>)> {
        let file = ["model.safetensors", "pytorch_model.bin"].map(|name| self.folder.join(name));
        let file = file.iter().find(|file| file.is_file()).unwrap_or(&file[0]);
        let tensors = Tensors::open_file(file)?;
        let take = |name: &str, shape: &[usize]| {
            if tensors.shape(name) != Some(shape) {
                let what = format!(
                    "`{name}` is {}, and config.json beside it says {shape:?}",
                    tensors.describe(name)
                );
                return Err(refused(file, what, "fetch the model again"));
            }
            let mut values = vec![0.0; shape.iter().product()];
            tensors.copy_to(name, &mut values)?;
            if !all_finite(&values) {
                let what = format!("`{name}` has numbers that are not finite");
                return Err(refused(file, what, "fetch the model again"));
            }
            Ok(values)
        };
        let weight = take("linear.weight", &[self.outputs, self.inputs])?;
        let bias = if self.bias { take("linear.bias", &[self.outputs])? } else { vec![0.0; self.outputs] };
        Ok((weight, bias))
    }
}

/// What of modules is computed here.
const KINDS: &str = "use a model of a transformer, a pooling, linears and a normalisation";

/// The file with what is of no module.
const GENERAL: &str = "config_sentence_transformers.json";

/// The names of the modes of pooling that are computed here, in both dialects.
const MODES: [(&str, &str, HeadPooling); 4] = [
    ("cls", "pooling_mode_cls_token", HeadPooling::Cls),
    ("mean", "pooling_mode_mean_tokens", HeadPooling::Mean),
    ("max", "pooling_mode_max_tokens", HeadPooling::Max),
    ("lasttoken", "pooling_mode_lasttoken", HeadPooling::Last),
];

/// Reads them; `None` for a folder without.
///
/// # Errors
/// [`Error::Checkpoint`] naming a module or a pooling that is not computed here, or what cannot be read.
pub fn read_sentence_settings(folder: &Path) -> Result<Option<SentenceSettings>> {
    let path = folder.join("modules.json");
    if !path.is_file() {
        return Ok(None);
    }
    let modules: Vec<Map<String, Value>> = parse(&path)?;
    let mut settings = SentenceSettings::of(HeadPooling::Mean);
    let general = parse_if_there(&folder.join(GENERAL))?;
    settings.truncate_dim = general.get("truncate_dim").and_then(Value::as_u64).map(|dim| dim as usize);
    let prompts = general.get("prompts").and_then(Value::as_object).into_iter().flatten();
    settings.prompts =
        prompts.filter_map(|(name, prompt)| Some((name.clone(), prompt.as_str()?.to_owned()))).collect();
    let default = general.get("default_prompt_name").and_then(Value::as_str);
    settings.default_prompt = default.filter(|name| settings.prompts.contains_key(*name)).map(str::to_owned);
    for module in &modules {
        let text = |key: &str| module.get(key).and_then(Value::as_str).unwrap_or_default();
        let kind = text("type").rsplit('.').next().unwrap_or_default();
        match kind {
            "Transformer" => settings.max_length = max_length(folder)?,
            "Pooling" => {
                let path = folder.join(safe(&path, text("path"))?).join("config.json");
                settings.pooling = pooling(&path)?;
                let settled: Map<String, Value> = parse(&path)?;
                settings.include_prompt = settled.get("include_prompt") != Some(&Value::Bool(false));
            }
            "Dense" if settings.normalize => {
                let what = "it has a module `Dense` behind the normalisation, which is not computed here";
                return Err(refused(&path, what.into(), KINDS));
            }
            "Dense" => {
                settings.linears.push(SentenceLinear::read(&folder.join(safe(&path, text("path"))?))?);
            }
            "Normalize" => settings.normalize = true,
            other => {
                let what = format!("it has a module `{other}`, which is not computed here");
                return Err(refused(&path, what, KINDS));
            }
        }
    }
    Ok(Some(settings))
}

/// Names and contents of these notes for a trunk of `width` columns; in the first dialect, which all versions read.
///
/// # Errors
/// A pooling that sentence-transformers does not have: a sentence.
pub fn sentence_files(
    settings: &SentenceSettings,
    width: usize,
    positions: usize,
) -> std::result::Result<Vec<(&'static str, Value)>, String> {
    let SentenceSettings { pooling, normalize, max_length, .. } = settings;
    if !MODES.iter().any(|(_, _, mode)| mode == pooling) {
        return Err("sentence-transformers pools no row through a linear".into());
    }
    let mut modules = vec![("", "Transformer"), ("1_Pooling", "Pooling")];
    if *normalize {
        modules.push(("2_Normalize", "Normalize"));
    }
    let module = |(at, (path, kind)): (usize, &(&str, &str))| {
        let kind = format!("sentence_transformers.models.{kind}");
        json!({"idx": at, "name": at.to_string(), "path": path, "type": kind})
    };
    let mut pooled = object(json!({ "word_embedding_dimension": width }));
    pooled.extend(MODES.map(|(_, key, mode)| (key.to_owned(), Value::from(mode == *pooling))));
    pooled.extend(
        [("pooling_mode_mean_sqrt_len_tokens", false), ("include_prompt", settings.include_prompt)]
            .map(|(key, on)| (key.to_owned(), on.into())),
    );
    let mut general = object(json!({
        "__version__": {},
        "prompts": settings.prompts,
        "default_prompt_name": settings.default_prompt,
    }));
    if let Some(dim) = settings.truncate_dim {
        general.insert("truncate_dim".into(), dim.into());
    }
    Ok(vec![
        ("modules.json", modules.iter().enumerate().map(module).collect()),
        ("1_Pooling/config.json", Value::Object(pooled)),
        (
            "sentence_bert_config.json",
            json!({ "max_seq_length": max_length.unwrap_or(positions), "do_lower_case": false }),
        ),
        (GENERAL, Value::Object(general)),
    ])
}

/// A folder's name that stays inside it.
fn safe<'a>(path: &Path, name: &'a str) -> Result<&'a str> {
    if name.contains(['/', '\\']) || name.contains("..") {
        return Err(refused(
            path,
            format!("its module `{name}` lies outside the folder"),
            "fetch the model again",
        ));
    }
    Ok(name)
}

/// By either dialect: version 6 leaves it to the tokenizer's settings.
fn max_length(folder: &Path) -> Result<Option<usize>> {
    let path = folder.join("sentence_bert_config.json");
    let settings = parse_if_there(&path)?;
    if settings.get("do_lower_case") == Some(&Value::Bool(true)) {
        let what = "its `do_lower_case` lower-cases texts before the tokenizer, which is not done here";
        return Err(refused(&path, what.into(), "use a model whose tokenizer does it"));
    }
    let own = settings.get("max_seq_length").and_then(Value::as_u64);
    Ok(own.map(|length| length as usize).or(tokenizer_max_length(folder)?))
}

/// The longest input by the tokenizer's settings beside a model.
///
/// # Errors
/// [`Error::Checkpoint`] when they cannot be read.
pub fn tokenizer_max_length(folder: &Path) -> Result<Option<usize>> {
    let settings = parse_if_there(&folder.join("tokenizer_config.json"))?;
    let length = settings.get("model_max_length").and_then(Value::as_u64);
    // Where there is no such length, `transformers` writes a number of thirty digits.
    Ok(length.filter(|length| *length <= 1 << 20).map(|length| length as usize))
}

fn pooling(path: &Path) -> Result<HeadPooling> {
    let settings: Map<String, Value> = parse(path)?;
    let named: Vec<&str> = match settings.get("pooling_mode") {
        Some(Value::String(mode)) => vec![mode],
        Some(Value::Array(modes)) => modes.iter().filter_map(Value::as_str).collect(),
        _ => {
            let on = |(key, value): (&'_ String, &'_ Value)| {
                *value == Value::Bool(true) && key.starts_with("pooling_mode_")
            };
            settings.iter().filter(|(key, value)| on((key, value))).map(|(key, _)| key.as_str()).collect()
        }
    };
    let known = |name: &str| MODES.iter().find(|(new, old, _)| *new == name || *old == name);
    if let [name] = named[..] {
        known(name).map(|mode| mode.2).ok_or_else(|| {
            refused(
                path,
                format!("its pooling `{name}` is not computed here"),
                "use a model with cls, mean, max or lasttoken",
            )
        })
    } else {
        let what = format!("it has {} poolings at once, and one is computed here", named.len());
        Err(refused(path, what, "use a model with cls, mean, max or lasttoken"))
    }
}

fn parse_if_there(path: &Path) -> Result<Map<String, Value>> {
    if path.is_file() { parse(path) } else { Ok(Map::new()) }
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = read_regular(path)?;
    serde_json::from_slice(&bytes)
        .map_err(|e| refused(path, format!("cannot be read: {e}"), "fetch the model again"))
}

fn refused(path: &Path, what: String, fix: &str) -> Error {
    Error::Checkpoint { path: path.to_path_buf(), what, fix: fix.into() }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for pooling in [HeadPooling::Cls, HeadPooling::Mean, HeadPooling::Max, HeadPooling::Last] {
            for (normalize, max_length, default) in [(false, Some(12), None), (true, None, Some("q"))] {
                let folder = tempfile::tempdir().unwrap();
                let prompts =
                    [("q", "query: "), ("p", "passage: ")].map(|(name, text)| (name.into(), text.into()));
                let settings = SentenceSettings {
                    normalize,
                    max_length,
                    prompts: prompts.into(),
                    default_prompt: default.map(str::to_owned),
                    truncate_dim: max_length,
                    ..SentenceSettings::of(pooling)
                };
                for (name, content) in sentence_files(&settings, 8, 64).unwrap() {
                    let path = folder.path().join(name);
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    fs::write(path, content.to_string()).unwrap();
                }
                let read = read_sentence_settings(folder.path()).unwrap().unwrap();
                let max_length = max_length.or(Some(64));
                assert_eq!(read, SentenceSettings { max_length, ..settings });
            }
        }
        assert!(sentence_files(&SentenceSettings::of(HeadPooling::Pooler), 8, 64).is_err());
    }

    #[test]
    fn a_prompt_is_that_of_the_name_or_the_default() {
        let prompts =
            BTreeMap::from([("q".to_owned(), "find: ".to_owned()), ("p".to_owned(), "in: ".to_owned())]);
        let mut settings = SentenceSettings { prompts, ..SentenceSettings::of(HeadPooling::Mean) };
        assert_eq!((&*settings.prompt(None).unwrap(), &*settings.prompt(Some("p")).unwrap()), ("", "in: "));
        settings.default_prompt = Some("q".into());
        assert_eq!(settings.prompt(None).unwrap(), "find: ");
        let unknown = settings.prompt(Some("x")).unwrap_err().to_string();
        assert!(unknown.contains("no prompt `x`") && unknown.contains("`p`, `q`"), "{unknown}");
        settings.include_prompt = false;
        assert!(settings.prompt(None).unwrap_err().to_string().contains("include_prompt"));
        settings.default_prompt = None;
        assert_eq!(settings.prompt(None).unwrap(), "");
    }

    #[test]
    fn what_is_not_computed_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        fs::create_dir(folder.path().join("1_Pooling")).unwrap();
        let modules = |kind: &str| {
            format!(
                r#"[{{"path": "", "type": "a.Transformer"}}, {{"path": "1_Pooling", "type": "a.{kind}"}}]"#
            )
        };
        let refused = || read_sentence_settings(folder.path()).unwrap_err().to_string();
        assert_eq!(read_sentence_settings(folder.path()).unwrap(), None);
        write("modules.json", &modules("LSTM"));
        assert!(refused().contains("module `LSTM`"));
        write(
            "modules.json",
            r#"[{"path": "", "type": "a.Normalize"}, {"path": "1_Pooling", "type": "a.Dense"}]"#,
        );
        assert!(refused().contains("`Dense` behind the normalisation"));
        write("modules.json", &modules("Pooling"));
        write("1_Pooling/config.json", r#"{"pooling_mode": "weightedmean"}"#);
        assert!(refused().contains("`weightedmean`"));
        write(
            "1_Pooling/config.json",
            r#"{"pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": true}"#,
        );
        assert!(refused().contains("2 poolings"));
        write("1_Pooling/config.json", r#"{"pooling_mode": "mean", "include_prompt": false}"#);
        assert!(read_sentence_settings(folder.path()).is_ok());
        assert!(!read_sentence_settings(folder.path()).unwrap().unwrap().include_prompt);
    }
}
