//! The classifier that a fine-tuning run makes of a model: what its head reads, what is added, and what does not go together.
//!
//! Owns: the sizes of the model that is trained. Never: data, weights, what trains (`method`).

use std::path::Path;

use crate::checkpoint::{LoadedModel, with_lm_head, without_lm_head};
use crate::config::{
    Arch, DataConfig, FinetuneConfig, HeadConfig, HeadPooling, Method, ModelConfig, Problem, Recipe,
    TextColumns, Truncation,
};
use crate::data::classification::{ClassificationData, Label};
use crate::error::{Error, Result, bad};
use crate::model::Model;
use crate::params::Param;
use crate::setup::features_method::plain_head;

/// Two passes differ by their dropout.
pub(crate) fn check_passes(config: &FinetuneConfig, model: &ModelConfig) -> Result<()> {
    let head = model.head.as_ref().and_then(|head| head.dropout);
    let lora = model.lora.map(|lora| lora.dropout);
    let all = [Some(model.dropout), model.attention_dropout, head, lora];
    let drops = all.into_iter().flatten().any(|p| p > 0.0);
    if drops || config.regularisation.r_drop.is_none_or(|weight| weight <= 0.0) {
        return Ok(());
    }
    Err(Error::Config {
        key: "r_drop".into(),
        what: "two passes without dropout are the same".into(),
        fix: "use --dropout 0.1, or leave r_drop out".into(),
    })
}

/// BitFit trains the biases of the blocks, where there are any.
pub(crate) fn check_biases(method: Method, model: &Model) -> Result<()> {
    let in_block = |param: &Param| param.layer.is_some() && param.grad.is_some();
    if method != Method::Bitfit || model.table().params().iter().any(in_block) {
        return Ok(());
    }
    Err(Error::Config {
        key: "method".into(),
        what: format!("`bitfit` trains biases, and this model ({}) has none", model.config().arch.name()),
        fix: "use --method lora, adapters or full".into(),
    })
}

/// Updates must fit the model, and a model that has some already goes on with those.
pub(crate) fn check_updates(config: &FinetuneConfig, base: &LoadedModel) -> Result<()> {
    if let Some(lora) = config.lora() {
        lora.check_width(base.files.config.embed_dim)?;
    }
    let (own, asked) = (&base.files.config, config.peft.adapters());
    if own.adapters_dim.is_some() && config.adapters(own.embed_dim).is_some() && own.adapters != asked {
        return Err(Error::Config {
            key: "adapters_kind".into(),
            what: format!(
                "the model has {} adapters already, and others are asked for",
                own.adapters.kind.name()
            ),
            fix: "give the same --adapters_ flags to train those on, or start from a model without".into(),
        });
    }
    if let (Some(asked), Some(own)) = (config.peft.ia3(config.method), base.files.config.ia3) {
        asked.check_same(own)?;
    }
    match (config.lora(), base.files.config.lora) {
        (Some(asked), Some(own)) if asked != own => Err(Error::Config {
            key: "method".into(),
            what: format!(
                "the model has low-rank updates already, of rank {} on {}, alpha {}, and others are asked for",
                own.rank, own.targets, own.alpha
            ),
            fix: "give the same --lora_ flags to train those on, or merge them into its weights first: headstart export"
                .into(),
        }),
        _ => Ok(()),
    }
}

/// The base model's sizes with the head, the adapters and the offset this run adds.
pub(crate) fn model_config(
    config: &FinetuneConfig,
    base: &LoadedModel,
    data: &ClassificationData,
    Reading { pooling, max_length, truncation }: Reading,
    cls: u32,
) -> ModelConfig {
    let (defaults, objective) = (base.files.head_defaults, base.files.objective);
    let base = &base.files.config;
    let num_classes = match config.problem {
        Problem::Regression => 1,
        _ => data.labels.len(),
    };
    let frozen = !matches!(config.method, Method::Full | Method::Features | Method::Contrastive);
    let head = HeadConfig {
        num_classes,
        pooling,
        problem: config.problem,
        max_length: (max_length < base.num_max_positions).then_some(max_length),
        truncation,
        dropout: config.dropout.or(defaults.and_then(|defaults| defaults.dropout)),
    };
    let adapters = config.adapters(base.embed_dim);
    let mut model = ModelConfig {
        adapters_dim: adapters.or(base.adapters_dim),
        adapters: if adapters.is_some() { config.peft.adapters() } else { base.adapters },
        lora: config.lora().or(base.lora),
        ia3: config.peft.ia3(config.method).or(base.ia3),
        head: Some(head),
        head_shape: config.head.shape(base.embed_dim, base.head_shape, config.method),
        // The tutorial's `[CLS]` is new to its trunks.
        offset_token: if frozen && pooling == HeadPooling::Cls && !base.arch.is_encoder() {
            Some(cls)
        } else {
            base.offset_token
        },
        dropout: config.dropout.unwrap_or(base.dropout),
        attention_dropout: if config.dropout.is_some() { None } else { base.attention_dropout },
        initializer_range: config.initializer_range,
        ..base.clone()
    };
    if config.lm_loss_coef <= 0.0 {
        // It would neither train nor be of use.
        without_lm_head(&mut model);
    } else if objective.is_none() {
        with_lm_head(&mut model);
    }
    if config.method.fits_head() {
        plain_head(&mut model, base.head.is_some());
    } else if defaults.is_some() && base.arch == Arch::Gpt2 {
        model.layout.head_bias = Some(false);
    }
    model
}

/// What a head reads of its inputs.
#[derive(Clone, Copy)]
pub(crate) struct Reading {
    pub(crate) pooling: HeadPooling,
    /// The longest input, in tokens.
    pub(crate) max_length: usize,
    /// What is kept of a text that is longer; `None`: its beginning.
    pub(crate) truncation: Option<Truncation>,
}

impl Reading {
    /// That of the run so far; else what was asked for; else that of the head that is there; else what the model's family does.
    pub(crate) fn of(config: &FinetuneConfig, base: &LoadedModel, begun: bool) -> Result<Self> {
        /// Longer ones cost more than they bring, unless somebody wants them.
        const MOST: usize = 512;
        let model = &base.files.config;
        if let Some(head) = model.head.as_ref().filter(|_| begun) {
            let truncation = head.truncation;
            return Ok(Self { pooling: head.pooling, max_length: model.max_length(), truncation });
        }
        let positions = model.num_max_positions;
        if let Some(length) = config.max_length.filter(|&length| length > positions) {
            return Err(Error::Config {
                key: "max_length".into(),
                what: format!("inputs of {length} tokens are asked for, the model has {positions} positions"),
                fix: format!("use {positions} at most, or leave it out"),
            });
        }
        let (head, defaults) = (model.head.as_ref(), base.files.head_defaults);
        let own = head.and_then(|head| head.max_length).or(defaults.and_then(|defaults| defaults.max_length));
        let max_length =
            config.max_length.or(own).unwrap_or(if model.arch.is_encoder() { MOST } else { positions });
        let frozen_encoder = config.method == Method::Head && model.arch.is_encoder();
        let family = || match defaults {
            // Where nothing trains the row of `[CLS]`, that of all tokens says more.
            _ if config.method.fits_head() || frozen_encoder => HeadPooling::Mean,
            Some(defaults) => defaults.pooling,
            None => model.arch.pooling(),
        };
        let pooling = config.pooling.or(head.map(|head| head.pooling)).unwrap_or_else(family);
        // What a review comes to often stands at its end (Sun et al. 2019).
        let usual = model.arch.is_encoder() && head.is_none() && config.train.recipe == Recipe::Auto;
        let truncation = config
            .truncation
            .or(head.and_then(|head| head.truncation))
            .or(usual.then_some(Truncation::HeadTail));
        Ok(Self { pooling, max_length: max_length.min(positions), truncation })
    }
}

/// Where the data lie, with the columns that were read, for what is done with the model later. The label's column is kept where it was
/// found, so that the model is measured on no other; those of pairs are, for a model of pairs reads pairs; and numbers of columns without
/// names, which nobody could find again. One text that was found by its name may be called otherwise next time.
pub(crate) fn with_columns(data: &DataConfig, text: &[String], label: Option<&str>) -> DataConfig {
    let text_column = match text {
        [_, _] => Some(TextColumns::Listed(text.to_vec())),
        [number] if data.header == Some(false) => Some(TextColumns::Typed(number.clone())),
        _ => data.text_column.clone(),
    };
    let label_column = label.map(str::to_owned).or_else(|| data.label_column.clone());
    DataConfig { text_column, label_column, ..data.clone() }
}

pub(crate) fn class_names(data: &ClassificationData, problem: Problem) -> Vec<String> {
    if problem == Problem::Regression { Vec::new() } else { data.labels.clone() }
}

/// Refuses training data whose targets are all one number, as data of one class are refused: there is nothing to learn.
///
/// # Errors
/// [`Error::BadInput`] naming the data.
pub(crate) fn check_numbers<'a>(
    data: &DataConfig,
    mut labels: impl Iterator<Item = &'a Label>,
) -> Result<()> {
    let Some(&Label::Value(first)) = labels.next() else { return Ok(()) };
    let mut count = 1;
    for label in labels {
        let Label::Value(value) = label else { return Ok(()) };
        if value.to_bits() != first.to_bits() {
            return Ok(());
        }
        count += 1;
    }
    if count == 1 {
        return Ok(());
    }
    let what = format!("all {count} training examples have the number {first}");
    Err(bad(Path::new(&data.path), None, what, "give examples with different numbers"))
}

pub(crate) fn check_classes(config: &FinetuneConfig, data: &ClassificationData) -> Result<()> {
    match config.num_classes {
        Some(wanted) if config.problem != Problem::Regression && wanted != data.labels.len() => {
            Err(Error::Config {
                key: "num_classes".into(),
                what: format!(
                    "{wanted} classes are asked for, the data has {}: {}",
                    data.labels.len(),
                    data.labels.join(", ")
                ),
                fix: "leave num_classes out: it is found from the data".into(),
            })
        }
        _ => Ok(()),
    }
}
