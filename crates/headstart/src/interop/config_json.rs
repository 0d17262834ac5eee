//! Another program's config.json: what it says of a model, and the one that is written for a model of ours.
//!
//! Owns: which family a file is of, labels, heads. Never: the sizes of a family (its own file), weights.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::config::{Arch, HeadConfig, HeadPooling, ModelConfig, Problem};
use crate::error::Result;
use crate::interop::schema::{Keys, number};
use crate::interop::{bert, distilbert, electra, gpt2, modernbert, roberta};
use crate::tokenizer::RoleIds;

/// What a config.json says.
#[derive(Clone, Debug, PartialEq)]
pub struct Card {
    /// Sizes and options of the trunk; without a head, and with the LM head that the family has.
    pub config: ModelConfig,
    /// What a classifier of it reads.
    pub pooling: HeadPooling,
    /// Dropout on a classifier's row; the trunk's own when absent.
    pub head_dropout: Option<f32>,
    /// What a classifier predicts, where the file says.
    pub problem: Option<Problem>,
    /// The names of a classifier's classes.
    pub labels: Vec<String>,
    /// Whether the LM head's matrix is the token embedding; said where it is stored as well.
    pub tied: bool,
    /// The class of `transformers` that the weights are of, where it has a head that is not computed here, such as
    /// `BertForTokenClassification`.
    pub other_head: Option<String>,
    /// Keys that were passed over, for they change nothing.
    pub unused: Vec<String>,
}

/// The names of the families, as they stand in `model_type`.
const FAMILIES: [(&str, Arch); 6] = [
    ("bert", Arch::Bert),
    ("roberta", Arch::Roberta),
    ("distilbert", Arch::Distilbert),
    ("electra", Arch::Electra),
    ("gpt2", Arch::Gpt2),
    ("modernbert", Arch::Modernbert),
];

/// How the names of classes end that have no head, or one that is computed here.
const KNOWN_HEADS: [&str; 9] = [
    "Model",
    "ForMaskedLM",
    "ForCausalLM",
    "LMHeadModel",
    "DoubleHeadsModel",
    "ForPreTraining",
    "ForSequenceClassification",
    "WithLMHead",
    "Discriminator",
];

/// Reads a config.json of `transformers`.
///
/// # Errors
/// [`crate::Error::Checkpoint`] naming the key: a family that is not supported, a value that is not computed here, a key that is not
/// known and not known to be harmless, the model's own code.
pub fn read_config(path: &Path, text: &[u8]) -> Result<Card> {
    let mut keys = Keys::parse(path, text)?;
    let arch = family(&mut keys)?;
    let other_head = other_head(&mut keys)?;
    let tied = keys.take::<bool>("tie_word_embeddings")?.unwrap_or(true);
    let problem = problem(&mut keys)?;
    let labels = labels(&mut keys)?;
    let head_dropout = match arch {
        Arch::Distilbert => Some(keys.take("seq_classif_dropout")?.unwrap_or(0.2)),
        Arch::Modernbert => Some(keys.take("classifier_dropout")?.unwrap_or(0.0)),
        _ => keys.take("classifier_dropout")?,
    };
    let pooling = match arch {
        Arch::Modernbert => modernbert::pooling(&mut keys)?,
        Arch::Gpt2 => HeadPooling::Last,
        _ => arch.pooling(),
    };
    let config = match arch {
        Arch::Bert => bert::read(&mut keys, arch)?,
        Arch::Roberta => roberta::read(&mut keys)?,
        Arch::Distilbert => distilbert::read(&mut keys)?,
        Arch::Electra => electra::read(&mut keys)?,
        Arch::Modernbert => modernbert::read(&mut keys)?,
        Arch::Gpt2 | Arch::Naacl2019 => gpt2::read(&mut keys)?,
    };
    config
        .validate()
        .map_err(|e| keys.refuse(e.to_string(), "put back the config.json that came with the model"))?;
    let unused = keys.finish()?;
    Ok(Card { config, pooling, head_dropout, problem, labels, tied, other_head, unused })
}

/// The class, where it says that the head beside the trunk is for something else than text classification and language modelling.
fn other_head(keys: &mut Keys<'_>) -> Result<Option<String>> {
    let named: Vec<String> = keys.take("architectures")?.unwrap_or_default();
    let is_other = |name: &String| {
        // Classes of other people's own code have names of their own.
        name.contains("For") && !KNOWN_HEADS.iter().any(|known| name.ends_with(known))
    };
    Ok(named.into_iter().next().filter(is_other))
}

fn family(keys: &mut Keys<'_>) -> Result<Arch> {
    let Some(name) = keys.take::<String>("model_type")? else {
        // Files of before there was the key, such as bert-tiny's.
        if keys.has("type_vocab_size") && keys.has("hidden_size") && !keys.has("embedding_size") {
            return Ok(Arch::Bert);
        }
        return Err(keys.refuse(
            "it has no `model_type`, and its keys are not those of BERT".into(),
            "say which family it is, such as \"model_type\": \"bert\"",
        ));
    };
    let found = FAMILIES.iter().find(|(known, _)| *known == name);
    found.map(|(_, arch)| *arch).ok_or_else(|| {
        let known = FAMILIES.map(|(known, _)| known).join(", ");
        keys.refuse(
            format!("its `model_type` is `{name}`; the families that can be read are {known}"),
            "use a model of one of these; `headstart models list` names some",
        )
    })
}

fn problem(keys: &mut Keys<'_>) -> Result<Option<Problem>> {
    Ok(match keys.take::<String>("problem_type")?.as_deref() {
        None => None,
        Some("single_label_classification") => Some(Problem::SingleLabel),
        Some("multi_label_classification") => Some(Problem::MultiLabel),
        Some("regression") => Some(Problem::Regression),
        Some(other) => {
            let what =
                format!("its `problem_type` is `{other}`, which is none of classification and regression");
            return Err(keys.refuse(what, "put back the config.json that came with the model"));
        }
    })
}

/// The labels in the order of their numbers.
fn labels(keys: &mut Keys<'_>) -> Result<Vec<String>> {
    let numbered: Map<String, Value> = keys.take("label2id")?.unwrap_or_default();
    let Some(named) = keys.take::<Map<String, Value>>("id2label")? else { return Ok(Vec::new()) };
    let label = |id: usize| match named.get(&id.to_string()) {
        Some(Value::String(name)) => Some(name.clone()),
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    };
    let labels: Option<Vec<String>> = (0..named.len()).map(label).collect();
    let bad = "its `id2label` does not number names from 0";
    let labels =
        labels.ok_or_else(|| keys.refuse(bad.into(), "put back the config.json that came with the model"))?;
    // A name that both have, with two numbers: predictions would be given the wrong one.
    let of = |label: &String| numbered.get(label).and_then(Value::as_u64);
    if let Some((id, label)) =
        labels.iter().enumerate().find(|(id, label)| of(label).is_some_and(|other| other != *id as u64))
    {
        let what = format!(
            "its `id2label` calls class {id} `{label}`, and its `label2id` gives that another number"
        );
        return Err(keys.refuse(what, "put back the config.json that came with the model"));
    }
    let mut sorted = labels.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() < labels.len() {
        let what = "its `id2label` has a name twice, and predictions could not be told apart";
        return Err(keys.refuse(what.into(), "give every class a name of its own"));
    }
    Ok(labels)
}

/// The config.json of a model of ours, where `transformers` has its family and every option of it.
///
/// # Errors
/// What of the model no config.json of `transformers` can say: a sentence.
pub fn write_config(
    config: &ModelConfig,
    labels: &[String],
    roles: RoleIds,
    masked: bool,
) -> std::result::Result<Map<String, Value>, String> {
    let Some((name, arch)) = FAMILIES.iter().find(|(_, arch)| *arch == config.arch) else {
        return Err("no other program has the tutorial's family of models".into());
    };
    if config.adapters_dim.is_some() {
        return Err("`transformers` has no adapters inside a model".into());
    }
    if config.lora.is_some() {
        return Err("`transformers` has no low-rank updates beside a model's weights".into());
    }
    if config.ia3.is_some() {
        return Err("`transformers` has no scales beside a model's weights".into());
    }
    if let Some(more) = config.head_shape.beyond_linear() {
        return Err(format!(
            "its classifier has {more}, and the classifiers of `transformers` have none; of its heads --pooling pooler has a hidden layer"
        ));
    }
    if config.offset_token.is_some() {
        return Err(
            "its [CLS] was trained beside a frozen embedding, which `transformers` has no place for".into()
        );
    }
    let sizes = match arch {
        Arch::Bert => bert::write(config),
        Arch::Roberta => roberta::write(config),
        Arch::Distilbert => distilbert::write(config),
        Arch::Electra => electra::write(config),
        Arch::Modernbert => modernbert::write(config),
        Arch::Gpt2 | Arch::Naacl2019 => gpt2::write(config),
    };
    let mut map = Map::new();
    map.insert("model_type".into(), (*name).into());
    map.insert("architectures".into(), json!([architecture(config, masked)]));
    map.extend(sizes);
    for (key, id) in special_ids(*arch, roles) {
        if let Some(id) = id.filter(|_| !map.contains_key(key)) {
            map.insert(key.into(), id.into());
        }
    }
    map.insert("torch_dtype".into(), "float32".into());
    if let Some(head) = &config.head {
        describe_head(&mut map, head, labels);
    }
    // What would come back is the judge of what can be said.
    let text = Value::Object(map.clone()).to_string();
    let again = read_config(Path::new("config.json"), text.as_bytes()).map_err(|e| e.to_string())?;
    let trunk = ModelConfig { head: None, layout: again.config.layout, ..config.clone() };
    let layout = crate::model::layout;
    if again.config != trunk || layout(&again.config) != layout(&with_heads_of(config, &again.config)) {
        return Err(format!("`transformers` has no {name} with these options of the layout"));
    }
    match &config.head {
        Some(head) if head.pooling != again.pooling => {
            let [ours, theirs] = [head.pooling, again.pooling].map(read_by_name);
            Err(format!("its classifier reads {ours}, and that of `transformers`' {name} reads {theirs}"))
        }
        Some(_) if layout(config).head_bias == (*arch == Arch::Gpt2) => {
            let has = if *arch == Arch::Gpt2 { "has no" } else { "has a" };
            Err(format!("the classifier of `transformers`' {name} {has} bias"))
        }
        _ => Ok(map),
    }
}

/// What a classifier that is put on a trunk later is to read, and its dropout, kept in the config.json of one without a head.
pub fn keep_head_defaults(
    map: &mut Map<String, Value>,
    arch: Arch,
    pooling: HeadPooling,
    dropout: Option<f32>,
) {
    let key = if arch == Arch::Distilbert { "seq_classif_dropout" } else { "classifier_dropout" };
    if let Some(dropout) = dropout.filter(|_| map.contains_key(key)) {
        map.insert(key.into(), number(dropout));
    }
    if let (Arch::Modernbert, HeadPooling::Cls | HeadPooling::Mean) = (arch, pooling) {
        map.insert("classifier_pooling".into(), pooling.name().into());
    }
}

/// A model's options, with the heads of another of its family: whether there is an LM head is seen by the tensors.
fn with_heads_of(config: &ModelConfig, other: &ModelConfig) -> ModelConfig {
    let mut config = ModelConfig { head: None, ..config.clone() };
    let theirs = crate::model::layout(other);
    config.layout.lm_transform = Some(theirs.lm_transform);
    config.layout.lm_bias = Some(theirs.lm_bias);
    config.layout.head_bias = Some(theirs.head_bias);
    config
}

/// The ids that a family's config.json has. Padding, which Headstart never needs, is the vocabulary's, or as `transformers`
/// does without one the end of a text.
fn special_ids(arch: Arch, roles: RoleIds) -> Vec<(&'static str, Option<u32>)> {
    let RoleIds { cls, sep, eos, pad, .. } = roles;
    match arch {
        Arch::Gpt2 | Arch::Naacl2019 => vec![
            ("bos_token_id", Some(eos)),
            ("eos_token_id", Some(eos)),
            ("pad_token_id", Some(pad.unwrap_or(eos))),
        ],
        Arch::Roberta => {
            vec![("bos_token_id", Some(cls)), ("eos_token_id", Some(sep)), ("pad_token_id", pad)]
        }
        Arch::Modernbert => vec![
            ("bos_token_id", Some(cls)),
            ("eos_token_id", Some(sep)),
            ("cls_token_id", Some(cls)),
            ("sep_token_id", Some(sep)),
            ("pad_token_id", pad),
        ],
        Arch::Bert | Arch::Distilbert | Arch::Electra => vec![("pad_token_id", pad)],
    }
}

/// What a classifier reads, for people.
fn read_by_name(pooling: HeadPooling) -> &'static str {
    match pooling {
        HeadPooling::Cls => "[CLS]",
        HeadPooling::Pooler => "[CLS] through a pooler",
        HeadPooling::Last => "the last token",
        HeadPooling::Mean => "the mean over the tokens",
        HeadPooling::Max => "the largest over the tokens",
        _ => "several poolings side by side",
    }
}

fn architecture(config: &ModelConfig, masked: bool) -> String {
    let name = match config.arch {
        Arch::Bert => "Bert",
        Arch::Roberta => "Roberta",
        Arch::Distilbert => "DistilBert",
        Arch::Electra => "Electra",
        Arch::Modernbert => "ModernBert",
        Arch::Gpt2 | Arch::Naacl2019 => "GPT2",
    };
    let class = match (config.arch, &config.head) {
        (_, Some(_)) => "ForSequenceClassification",
        (Arch::Gpt2, None) => "LMHeadModel",
        (_, None) if masked => "ForMaskedLM",
        _ => "Model",
    };
    format!("{name}{class}")
}

pub(super) fn describe_head(map: &mut Map<String, Value>, head: &HeadConfig, labels: &[String]) {
    let problem = match head.problem {
        Problem::SingleLabel => "single_label_classification",
        Problem::MultiLabel => "multi_label_classification",
        Problem::Regression => "regression",
    };
    map.insert("problem_type".into(), problem.into());
    let unnamed: Vec<String> = (0..head.num_classes).map(|class| format!("LABEL_{class}")).collect();
    let labels = if labels.is_empty() { &unnamed } else { labels };
    let numbered = || labels.iter().enumerate();
    let id2label = numbered().map(|(id, label)| (id.to_string(), label.as_str().into()));
    map.insert("id2label".into(), Value::Object(id2label.collect()));
    let label2id = numbered().map(|(id, label)| (label.clone(), id.into()));
    map.insert("label2id".into(), Value::Object(label2id.collect()));
}
