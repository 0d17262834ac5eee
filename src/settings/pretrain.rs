//! `headstart pretrain`.
//!
//! Owns: its layers, and the table `[model]`. Never: ranges.

use anyhow::Result;
use headstart::config::{
    Arch, DistillConfig, FinetuneConfig, ModelConfig, ObjectiveName, Positions, PretrainConfig,
};

use super::run::{self, Run};
use super::{Usage, data, file, train, tutorial};
use crate::args::{DistillArgs, LearningArgs, ModelArgs, PretrainArgs, Rate};
use crate::ranks::Ranks;

/// The settings of `headstart pretrain`.
pub fn pretrain(args: PretrainArgs, ranks: &Ranks) -> Result<Run<PretrainConfig>> {
    settings("pretrain", args, None, ranks)
}

/// The settings of `headstart distill`.
pub fn distill(args: DistillArgs, ranks: &Ranks) -> Result<Run<PretrainConfig>> {
    let DistillArgs { learning, pretrain } = args;
    settings("distill", pretrain, Some(learning), ranks)
}

fn settings(
    command: &str,
    args: PretrainArgs,
    learning: Option<LearningArgs>,
    ranks: &Ranks,
) -> Result<Run<PretrainConfig>> {
    let PretrainArgs {
        run,
        tutorial,
        from,
        objective,
        mlm,
        mlm_probability,
        block_size,
        inputs,
        source,
        model,
        train,
        // Joined already.
        ranks: _,
    } = args;
    tutorial::refuse(tutorial, ranks)?;
    if train.lr == Some(Rate::Auto) {
        let what = "--lr auto: finetune searches for a rate; pretrain takes the recipe's";
        return Err(Usage(format!("{what}\n  fix: leave --lr out, or give a number")).into());
    }
    if from.is_some() {
        refuse_sizes(&model)?;
    }
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
    let objective = if mlm { Some(ObjectiveName::Mlm) } else { objective };
    let mut config = PretrainConfig {
        from: from.map(data::absolute_path).or(base.from),
        objective: objective.or(base.objective),
        mlm_probability: mlm_probability.unwrap_or(base.mlm_probability),
        block_size: block_size.or(base.block_size),
        inputs: inputs.unwrap_or(base.inputs),
        distill: match learning {
            Some(learning) => Some(distill_config(learning, base.distill.unwrap_or_default())),
            None => base.distill,
        },
        data: data::source_config(source, base.data),
        model: model_config(&model, base.model),
        train: train::train_config(&train, &base.train),
    };
    run::check_continued(allowed.as_ref(), &config)?;
    config.validate()?;
    data::fill_cache_dir(&mut config.data)?;
    let (options, telling) = run::options(run, command, &config.data, ranks)?;
    Ok(Run { config, options, telling })
}

/// The table `[distill]`.
fn distill_config(args: LearningArgs, base: DistillConfig) -> DistillConfig {
    let LearningArgs {
        teacher,
        token_loss,
        relation_loss,
        relation_heads,
        relation_layer,
        sentence_loss,
        label_loss,
        temperature,
        lm_loss,
        layers,
        linears,
    } = args;
    DistillConfig {
        teacher: teacher.map_or(base.teacher, data::absolute_path),
        teacher_sha256: base.teacher_sha256,
        token_loss: token_loss.unwrap_or(base.token_loss),
        relation_loss: relation_loss.unwrap_or(base.relation_loss),
        relation_heads: relation_heads.or(base.relation_heads),
        relation_layer: relation_layer.or(base.relation_layer),
        sentence_loss: sentence_loss.unwrap_or(base.sentence_loss),
        label_loss: label_loss.or(base.label_loss),
        temperature: temperature.unwrap_or(base.temperature),
        lm_loss: lm_loss.unwrap_or(base.lm_loss),
        layers: layers.or(base.layers),
        linears: linears.unwrap_or(base.linears),
    }
}

/// The table `[model]`.
pub fn model_config(args: &ModelArgs, base: ModelConfig) -> ModelConfig {
    let ModelArgs {
        // Its sizes are in `base`.
        preset: _,
        arch,
        embed_dim,
        embedding_size,
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
    let arch = arch.unwrap_or(base.arch);
    // What of the family is no option of its layout.
    let (own_positions, own_dropout) = match arch {
        Arch::Modernbert if base.arch != arch => (Positions::Rotary, 0.0),
        _ => (base.positions, base.dropout),
    };
    ModelConfig {
        arch,
        vocab_size: base.vocab_size,
        embed_dim: embed_dim.unwrap_or(base.embed_dim),
        embedding_size: embedding_size.or(base.embedding_size),
        hidden_dim: hidden_dim.unwrap_or(base.hidden_dim),
        num_max_positions: num_max_positions.unwrap_or(base.num_max_positions),
        num_heads: num_heads.unwrap_or(base.num_heads),
        num_layers: num_layers.unwrap_or(base.num_layers),
        positions: positions.unwrap_or(own_positions),
        causal: base.causal,
        dropout: dropout.unwrap_or(own_dropout),
        attention_dropout: attention_dropout.or(base.attention_dropout),
        initializer_range: initializer_range.unwrap_or(base.initializer_range),
        adapters_dim: base.adapters_dim,
        adapters: base.adapters,
        lora: base.lora,
        teacher_heads: base.teacher_heads,
        ia3: base.ia3,
        head: base.head,
        head_shape: base.head_shape,
        offset_token: base.offset_token,
        layout: base.layout,
    }
}

/// Refuses flags of sizes and options beside a model that has them.
fn refuse_sizes(args: &ModelArgs) -> Result<()> {
    let ModelArgs {
        preset,
        arch,
        embed_dim,
        embedding_size,
        hidden_dim,
        num_max_positions,
        num_heads,
        num_layers,
        positions,
        sinusoidal_embeddings,
        dropout,
        attention_dropout,
        initializer_range,
    } = args;
    let given = [
        ("preset", preset.is_some()),
        ("arch", arch.is_some()),
        ("embed_dim", embed_dim.is_some()),
        ("embedding_size", embedding_size.is_some()),
        ("hidden_dim", hidden_dim.is_some()),
        ("num_max_positions", num_max_positions.is_some()),
        ("num_heads", num_heads.is_some()),
        ("num_layers", num_layers.is_some()),
        ("positions", positions.is_some()),
        ("sinusoidal_embeddings", *sinusoidal_embeddings),
        ("dropout", dropout.is_some()),
        ("attention_dropout", attention_dropout.is_some()),
        ("initializer_range", initializer_range.is_some()),
    ];
    let Some((flag, _)) = given.iter().find(|(_, given)| *given) else { return Ok(()) };
    let shorter = if *flag == "num_max_positions" { "; for shorter inputs use --block_size" } else { "" };
    Err(Usage(format!(
        "--{flag}: family, sizes and options come from the model that --from names\n  fix: leave --{flag} out{shorter}"
    ))
    .into())
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
