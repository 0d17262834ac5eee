//! Model folders of other programs: those in the form of `transformers` and those of the tutorial are opened, and a finished
//! model of a family that `transformers` has is written so.
//!
//! Owns: which files such a folder has. Never: what they say (`interop`).
//!
//! A folder that this program wrote has `headstart.json` beside `config.json`: what `transformers` has no place for, and the sums
//! of all files.

use std::borrow::Cow;
use std::path::Path;

use serde_json::{Map, Value};

use crate::checkpoint::config_file::{HeadDefaults, ModelFiles, config_json};
use crate::checkpoint::disk::{read_file, write_file};
use crate::checkpoint::model_folder::LoadedModel;
use crate::checkpoint::stored::StoredWeights;
use crate::checkpoint::weights::write_tensors;
use crate::checkpoint::{CONFIG_FILE, MODEL_FILE, OWN_FILE, TOKENIZER_FILE};
use crate::config::{Arch, HeadConfig, LayoutChanges, ModelConfig, ObjectiveName, PrecisionName, Problem};
use crate::error::{Error, Result};
use crate::files::{FileSums, damaged};
use crate::interop::{
    Card, Piece, PublishedWeights, SentenceSettings, TUTORIAL_ARGUMENTS, TUTORIAL_WEIGHTS, has_code,
    keep_head_defaults, pieces, prefix, read_config, read_sentence_settings, read_tutorial, tokenizer_files,
    tokenizer_max_length, write_code_config, write_config,
};
use crate::model::{self, Model};
use crate::params::{Param, ParamTable};
use crate::tokenizer::Tokenizer;

/// Published tables have rows that are no piece's, for even sizes; more than so many are another vocabulary's.
const EVEN_ROWS: usize = 1_024;

/// What a published folder says that is not kept by what is trained from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// How sentence-transformers makes vectors with it.
    pub sentences: Option<SentenceSettings>,
    /// Tensors in its files, and numbers in them.
    pub size: (usize, usize),
    /// Its config.json's keys that change nothing.
    pub unused_keys: Vec<String>,
    /// What it has for a head that is not computed here: a sentence.
    pub other_head: Option<String>,
}

/// Opens the folder of a published model.
pub(super) fn open_published(folder: &Path, chosen: String) -> Result<LoadedModel> {
    let path = folder.join(CONFIG_FILE);
    let card = read_config(&path, &read_file(&path)?)?;
    let sentences = read_sentence_settings(folder)?;
    let weights = PublishedWeights::open(folder, card.config.arch)?;
    put_together(folder, chosen, (CONFIG_FILE, card), sentences, &weights)
}

/// Whether a folder holds what the tutorial's own program left.
pub(super) fn is_tutorials(folder: &Path) -> bool {
    folder.join(TUTORIAL_WEIGHTS).is_file() && !folder.join(CONFIG_FILE).is_file()
}

/// Opens such a folder.
pub(super) fn open_tutorials(folder: &Path, chosen: String) -> Result<LoadedModel> {
    let weights = PublishedWeights::open_file(&folder.join(TUTORIAL_WEIGHTS), Arch::Naacl2019)?;
    let tokens = weights.shape("transformer.token_embedding.weight");
    let card = read_tutorial(folder, tokens.and_then(|shape| shape.first().copied()))?;
    put_together(folder, chosen, (TUTORIAL_ARGUMENTS, card), None, &weights).map_err(|error| match error {
        Error::Missing { what, .. } => Error::Missing {
            what,
            fix: "put the vocab.txt of bert-base-cased there, which the tutorial's models were trained with"
                .into(),
        },
        other => other,
    })
}

/// The model that a file of a folder says it holds, compared with the weights that it does hold.
fn put_together(
    folder: &Path,
    chosen: String,
    (source, card): (&str, Card),
    sentences: Option<SentenceSettings>,
    weights: &PublishedWeights,
) -> Result<LoadedModel> {
    let mut config = card.config.clone();
    if weights.blocks() > config.num_layers {
        let (said, found) = (config.num_layers, weights.blocks());
        let what =
            format!("it says that the model has {said} layers, and the weights beside it are of {found}");
        return Err(damaged(&folder.join(source), what));
    }
    let mut other_head = card
        .other_head
        .as_ref()
        .map(|class| format!("its head is that of a {class}, which is not computed here"));
    let mut has_lm_head = has_lm_head(&config, weights);
    let untied = (has_lm_head || config.causal) && (!card.tied || weights.is_untied()?);
    if untied {
        let what = "its LM head has a matrix of its own, and here it is the token embedding";
        if config.causal {
            return Err(Error::Checkpoint {
                path: weights.path().to_path_buf(),
                what: what.into(),
                fix: "use another model of the family".into(),
            });
        }
        // An encoder is of use without it.
        has_lm_head = false;
        other_head.get_or_insert_with(|| what.to_owned());
    }
    if !has_lm_head {
        without_lm_head(&mut config);
    }
    let (head, labels) = match classes(weights).filter(|_| card.other_head.is_none()) {
        Some(classes) => classifier(folder, &card, classes)?,
        None => (None, Vec::new()),
    };
    if config.arch == Arch::Gpt2 && head.is_some() {
        config.layout.head_bias = Some(false);
    }
    config.head = head;
    let objective =
        if config.causal { Some(ObjectiveName::Lm) } else { has_lm_head.then_some(ObjectiveName::Mlm) };
    // Compared before anything of these sizes is allocated.
    let table = Model::new(&config).map_err(|error| damaged(&folder.join(source), error.to_string()))?;
    let stored = StoredWeights::Published(weights.clone());
    super::model_folder::check_present(&stored, table.table())?;
    let tokenizer = Tokenizer::published(folder)?;
    if !(tokenizer.vocab_size()..=tokenizer.vocab_size() + EVEN_ROWS).contains(&config.vocab_size) {
        let (pieces, rows) = (tokenizer.vocab_size(), config.vocab_size);
        return Err(Error::Checkpoint {
            path: folder.join(TOKENIZER_FILE),
            what: format!(
                "has {pieces} pieces, the model beside it {rows} rows for them: it is another model's"
            ),
            fix: "fetch the tokenizer that was published with the model".into(),
        });
    }
    let files = ModelFiles {
        config,
        objective,
        mlm_probability: None,
        block_size: None,
        head_defaults: Some(HeadDefaults {
            pooling: card.pooling,
            dropout: card.head_dropout,
            max_length: sentences.as_ref().and_then(|sentences| sentences.max_length),
        }),
        labels,
        pairs: false,
        temperature: None,
        precision: PrecisionName::F32,
        special_ids: tokenizer.roles(),
        tokenizer_json: tokenizer.to_json().as_bytes().to_vec(),
    };
    let published = Published { sentences, size: weights.size(), unused_keys: card.unused, other_head };
    Ok(LoadedModel { folder: folder.to_path_buf(), chosen, files, stored, published: Some(published) })
}

/// Whether all of the family's LM head is stored.
fn has_lm_head(config: &ModelConfig, weights: &PublishedWeights) -> bool {
    let layout = model::layout(config);
    (!layout.lm_transform || weights.has("lm_head.dense.weight"))
        && (!layout.lm_bias || weights.has("lm_head.bias"))
}

/// Takes the parameters of its own from a model's LM head: what is left of it is the token embedding.
pub(crate) fn without_lm_head(config: &mut ModelConfig) {
    let family = model::family_layout(config.arch);
    let LayoutChanges { lm_transform, lm_bias, .. } = &mut config.layout;
    *lm_transform = family.lm_transform.then_some(false);
    *lm_bias = family.lm_bias.then_some(false);
}

/// Gives a model without an LM head that of its family.
pub(crate) fn with_lm_head(config: &mut ModelConfig) {
    (config.layout.lm_transform, config.layout.lm_bias) = (None, None);
}

/// The number of outputs of the classifier that is stored, if one is.
fn classes(weights: &PublishedWeights) -> Option<usize> {
    weights.shape("classification_head.weight").and_then(|shape| shape.first().copied())
}

/// The head that is stored, and its labels.
fn classifier(folder: &Path, card: &Card, classes: usize) -> Result<(Option<HeadConfig>, Vec<String>)> {
    let problem =
        card.problem.unwrap_or(if classes == 1 { Problem::Regression } else { Problem::SingleLabel });
    let labels = match problem {
        Problem::Regression => Vec::new(),
        _ if card.labels.is_empty() => (0..classes).map(|class| format!("LABEL_{class}")).collect(),
        _ => card.labels.clone(),
    };
    if !labels.is_empty() && labels.len() != classes {
        let what =
            format!("it names {} labels, the classifier beside it has {classes} outputs", labels.len());
        return Err(damaged(&folder.join(CONFIG_FILE), what));
    }
    let (pooling, dropout) = (card.pooling, card.head_dropout);
    // Its inputs are cut where they were in training.
    let max_length =
        tokenizer_max_length(folder)?.filter(|length| (2..card.config.num_max_positions).contains(length));
    Ok((
        Some(HeadConfig { num_classes: classes, pooling, problem, max_length, truncation: None, dropout }),
        labels,
    ))
}

/// What the folder of a finished model is in the form of `transformers`; `None` where it is in this program's own. GPT-2's
/// weights lie there with rows and columns exchanged: they could not be used where they lie, and every start would have to turn
/// them.
pub(super) fn finished_form<'a>(
    files: &ModelFiles,
    table: &ParamTable,
    weights: &'a [f32],
) -> Option<(Map<String, Value>, Vec<Piece<'a>>)> {
    if files.config.arch == Arch::Gpt2 { None } else { published_form(files, table, weights).ok() }
}

/// Whether the folder of a finished model is one that `transformers` reads.
pub(crate) fn is_published_form(files: &ModelFiles, table: &ParamTable, weights: &[f32]) -> bool {
    finished_form(files, table, weights).is_some()
}

/// What a model's config.json says in the form of `transformers`, and its tensors.
///
/// # Errors
/// Why `transformers` has no form for the model: a sentence.
pub(super) fn published_form<'a>(
    files: &ModelFiles,
    table: &ParamTable,
    weights: &'a [f32],
) -> std::result::Result<(Map<String, Value>, Vec<Piece<'a>>), String> {
    let ModelFiles { config, objective, labels, special_ids, head_defaults, .. } = files;
    let masked = *objective == Some(ObjectiveName::Mlm) && config.head.is_none();
    let mut description = write_config(config, labels, *special_ids, masked)?;
    if let (None, Some(HeadDefaults { pooling, dropout, .. })) = (&config.head, head_defaults) {
        keep_head_defaults(&mut description, config.arch, *pooling, *dropout);
    }
    let prefix = prefix(config, *objective);
    let mut parts = Vec::new();
    for param in table.params() {
        let values = &weights[param.offset..param.offset + param.len()];
        let pieces = pieces(config.arch, prefix, param, values);
        parts.extend(pieces.ok_or_else(|| format!("`transformers` has no place for its `{}`", param.name))?);
    }
    Ok((description, parts))
}

/// The same for the code that is written beside a model of the tutorial's family, which has its parameters under their own names.
///
/// # Errors
/// Why it has no form for the model: a sentence.
pub(super) fn code_form<'a>(
    files: &ModelFiles,
    table: &ParamTable,
    weights: &'a [f32],
) -> std::result::Result<(Map<String, Value>, Vec<Piece<'a>>), String> {
    let ModelFiles { config, objective, labels, special_ids, .. } = files;
    let description = write_code_config(config, labels, *special_ids, *objective)?;
    let part = |param: &Param| {
        let values = Cow::Borrowed(&weights[param.offset..param.offset + param.len()]);
        let placed = has_code(&param.name).then(|| (param.name.clone(), param.shape.clone(), values));
        placed.ok_or_else(|| format!("the code that goes with it has no place for its `{}`", param.name))
    };
    Ok((description, table.params().iter().map(part).collect::<std::result::Result<_, _>>()?))
}

/// The files of a model in that form, into an existing folder.
///
/// # Errors
/// [`Error::Checkpoint`] naming the file the disk refused; [`Error::BadInput`] for an unusable tokenizer.
pub(super) fn write_published(
    folder: &Path,
    files: &ModelFiles,
    config: Map<String, Value>,
    parts: &[Piece<'_>],
) -> Result<FileSums> {
    let tensors: Vec<_> =
        parts.iter().map(|(name, shape, values)| (name.clone(), &shape[..], &values[..])).collect();
    let mut sums = FileSums::new();
    sums.insert(MODEL_FILE.into(), write_tensors(&folder.join(MODEL_FILE), &tensors)?);
    let mut write = |name: &str, content: &[u8]| -> Result<()> {
        sums.insert(name.into(), write_file(&folder.join(name), content)?);
        Ok(())
    };
    write(CONFIG_FILE, format!("{:#}\n", Value::Object(config)).as_bytes())?;
    for (name, content) in tokenizer_files(&files.config, &files.tokenizer_json, files.special_ids)? {
        write(name, content.as_bytes())?;
    }
    let path = folder.join(OWN_FILE);
    let text = config_json(files, &sums).map_err(|e| damaged(&path, format!("cannot be laid out: {e}")))?;
    write_file(&path, text.as_bytes())?;
    Ok(sums)
}
