//! `headstart pretrain`.
//!
//! Owns: its layers, and the table `[model]`. Never: ranges.

use anyhow::Result;
use headstart::config::{FinetuneConfig, ModelConfig, ObjectiveName, Positions, PretrainConfig};

use super::run::{self, Run};
use super::{data, file, train, tutorial};
use crate::args::{ModelArgs, PretrainArgs};

/// The settings of `headstart pretrain`.
pub fn pretrain(args: PretrainArgs) -> Result<Run<PretrainConfig>> {
    let PretrainArgs { run, tutorial, objective, mlm, mlm_probability, source, model, train } = args;
    tutorial::refuse(tutorial)?;
    let saved = run::saved_config::<PretrainConfig, FinetuneConfig>(&run, ("pretrain", "finetune"))?;
    let allowed = saved.clone().map(|saved| PretrainConfig {
        data: data::source_config(source.free(), saved.data),
        train: train::train_config(&train.free(), &saved.train),
        ..saved
    });
    let base = saved.unwrap_or_default();
    let base = file::layered(base, run.config.as_deref(), model.preset.as_deref(), |base, preset| {
        base.model = with_sizes(&base.model, preset);
    })?;
    let objective = if mlm { Some(ObjectiveName::Mlm) } else { objective }.unwrap_or(base.objective);
    let mut config = PretrainConfig {
        objective,
        mlm_probability: mlm_probability.unwrap_or(base.mlm_probability),
        data: data::source_config(source, base.data),
        model: model_config(&model, base.model, objective),
        train: train::train_config(&train, &base.train),
    };
    run::check_continued(allowed.as_ref(), &config)?;
    config.validate()?;
    data::fill_cache_dir(&mut config.data)?;
    let (options, telling) = run::options(run, "pretrain", &config.data)?;
    Ok(Run { config, options, telling })
}

/// The table `[model]`.
pub fn model_config(args: &ModelArgs, base: ModelConfig, objective: ObjectiveName) -> ModelConfig {
    let ModelArgs {
        // Its sizes are in `base`.
        preset: _,
        arch,
        embed_dim,
        hidden_dim,
        num_max_positions,
        num_heads,
        num_layers,
        positions,
        sinusoidal_embeddings,
        dropout,
        attention_dropout,
        initializer_range,
    } = *args;
    let positions = if sinusoidal_embeddings { Some(Positions::Sinusoidal) } else { positions };
    ModelConfig {
        arch: arch.unwrap_or(base.arch),
        vocab_size: base.vocab_size,
        embed_dim: embed_dim.unwrap_or(base.embed_dim),
        embedding_size: base.embedding_size,
        hidden_dim: hidden_dim.unwrap_or(base.hidden_dim),
        num_max_positions: num_max_positions.unwrap_or(base.num_max_positions),
        num_heads: num_heads.unwrap_or(base.num_heads),
        num_layers: num_layers.unwrap_or(base.num_layers),
        positions: positions.unwrap_or(base.positions),
        causal: objective == ObjectiveName::Lm,
        dropout: dropout.unwrap_or(base.dropout),
        attention_dropout: attention_dropout.or(base.attention_dropout),
        initializer_range: initializer_range.unwrap_or(base.initializer_range),
        adapters_dim: base.adapters_dim,
        head: base.head,
        offset_token: base.offset_token,
        layout: base.layout,
    }
}

/// The model with the block layout and the sizes of a preset.
fn with_sizes(model: &ModelConfig, preset: &ModelConfig) -> ModelConfig {
    ModelConfig {
        arch: preset.arch,
        embed_dim: preset.embed_dim,
        hidden_dim: preset.hidden_dim,
        num_max_positions: preset.num_max_positions,
        num_heads: preset.num_heads,
        num_layers: preset.num_layers,
        ..model.clone()
    }
}
