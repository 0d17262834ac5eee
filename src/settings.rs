//! What was typed becomes what the library is asked to do.
//!
//! Owns: the order of the layers (defaults, preset, `--config` file, flags), which settings a continued run may
//! change, default folders, and the environment variables for them. Never: flag names (args.rs) or ranges (the
//! library's `validate`).
//!
//! Every clap struct is taken apart in full (no `..`) and every configuration is built in full, so that a forgotten
//! flag or key does not compile.

pub mod devices;
mod file;

use std::env;
use std::path::{Path, PathBuf};

use anyhow::Result;
use headstart::bench::{BenchConfig, Work};
use headstart::config::{
    DataConfig, FinetuneConfig, ModelConfig, Objective, Positions, PretrainConfig, TrainConfig,
};
use headstart::data::catalog::Locations;
use headstart::device::DeviceName;
use headstart::train::RunOptions;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::args::{
    BenchArgs, ColumnArgs, ComputeArgs, FinetuneArgs, LabelledArgs, ModelArgs, PlaceArgs, PretrainArgs,
    ReadingArgs, RunArgs, SourceArgs, TokenizerArgs, TrainArgs, TuningArgs, TutorialArgs, flag_values,
};

/// The program was called wrongly.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// A training run, ready to start.
#[derive(Debug)]
pub struct Run<C> {
    /// What to do.
    pub config: C,
    /// Where.
    pub options: RunOptions,
    /// Whether the result is wanted as JSON.
    pub json: bool,
}

/// The settings of `headstart pretrain`.
pub fn pretrain(args: PretrainArgs) -> Result<Run<PretrainConfig>> {
    let PretrainArgs { run, tutorial, objective, mlm, mlm_probability, source, model, train } = args;
    refuse(tutorial)?;
    let saved = saved_config::<PretrainConfig, FinetuneConfig>(&run, ("pretrain", "finetune"))?;
    let base = saved.clone().unwrap_or_default();
    let base = file::layered(base, run.config.as_deref(), model.preset.as_deref(), |base, preset| {
        base.model = with_sizes(&base.model, preset);
    })?;
    let objective = if mlm { Some(Objective::Mlm) } else { objective }.unwrap_or(base.objective);
    let mut config = PretrainConfig {
        objective,
        mlm_probability: mlm_probability.unwrap_or(base.mlm_probability),
        data: source_config(source, base.data),
        model: model_config(&model, base.model, objective),
        train: train_config(&train, &base.train),
    };
    if let Some(saved) = saved {
        let free = |c: &PretrainConfig| PretrainConfig {
            data: free_data(&saved.data, &c.data),
            train: free_train(&saved.train, &c.train),
            ..saved.clone()
        };
        same_run(&free(&config), &config)?;
    }
    config.validate()?;
    fill_cache_dir(&mut config.data)?;
    let name = format!("pretrain-{}", short_name(&config.data.path));
    let (options, json) = run_options(run, &name)?;
    Ok(Run { config, options, json })
}

/// The settings of `headstart finetune`.
pub fn finetune(args: FinetuneArgs) -> Result<Run<FinetuneConfig>> {
    let FinetuneArgs { run, tutorial, finetuning_model_class, model, tuning, source, train } = args;
    refuse(tutorial)?;
    if let Some(class) = finetuning_model_class {
        return Err(Usage(format!(
            "--finetuning_model_class {class}: there are no classes to choose from; one model has options\n  \
             fix: leave it out; --adapters_dim N adds adapters, --lm_loss_coef X adds the language-model loss, \
             --method says what is trained"
        ))
        .into());
    }
    let saved = saved_config::<FinetuneConfig, PretrainConfig>(&run, ("finetune", "pretrain"))?;
    let base = file::layered(saved.clone().unwrap_or_default(), run.config.as_deref(), None, |_, _| ())?;
    let mut config = finetune_config(model, &tuning, source, &train, base);
    if let Some(saved) = saved {
        let free = |c: &FinetuneConfig| FinetuneConfig {
            data: free_data(&saved.data, &c.data),
            train: free_train(&saved.train, &c.train),
            ..saved.clone()
        };
        same_run(&free(&config), &config)?;
    }
    config.validate()?;
    fill_cache_dir(&mut config.data)?;
    let name = format!("finetune-{}", short_name(&config.data.path));
    let (options, json) = run_options(run, &name)?;
    Ok(Run { config, options, json })
}

/// The data of `headstart eval` (whose tokenizer is the model's), `data prepare` and `data inspect`.
pub fn data_config(
    data: String,
    tokenizer: Option<TokenizerArgs>,
    reading: ReadingArgs,
    columns: ColumnArgs,
    places: PlaceArgs,
) -> Result<DataConfig> {
    let none = TokenizerArgs { tokenizer: None, lowercase: None };
    let TokenizerArgs { tokenizer, lowercase } = tokenizer.unwrap_or(none);
    let args = LabelledArgs { data: Some(data), max_train_examples: None, reading, columns, places };
    let base = DataConfig { tokenizer, lowercase: lowercase.unwrap_or(false), ..DataConfig::default() };
    let mut config = labelled_config(args, base);
    fill_cache_dir(&mut config)?;
    Ok(config)
}

/// What `headstart bench` times.
pub fn bench(args: BenchArgs) -> Result<BenchConfig> {
    let BenchArgs {
        work,
        batch,
        seq,
        steps,
        warmup,
        objective,
        vocab_size,
        stated_peak,
        model,
        profile,
        json: _,
        compute,
        sizes,
        source,
    } = args;
    let ComputeArgs { precision, threads, device } = compute;
    let preset = ModelConfig::preset(sizes.preset.as_deref().unwrap_or("naacl2019"))?;
    let gpt2 = sizes.preset.as_deref().is_some_and(|name| matches!(name, "gpt2" | "124m"));
    let mut config = model_config(&sizes, preset, objective);
    config.vocab_size = vocab_size.unwrap_or(if gpt2 { 50_257 } else { 28_996 });
    let mut data = source_config(source, DataConfig::default());
    fill_cache_dir(&mut data)?;
    Ok(BenchConfig {
        work,
        model: config,
        objective,
        precision,
        threads,
        device: devices::choice(device),
        batch: batch.unwrap_or(match work {
            Work::Finetune => 16,
            _ if gpt2 => 4,
            _ => 8,
        }),
        seq: seq.unwrap_or(if gpt2 { 512 } else { 256 }),
        steps: steps.unwrap_or(match work {
            Work::Train | Work::Forward => 6,
            Work::Finetune => 40,
            Work::Predict | Work::Generate => 200,
        }),
        warmup,
        stated_peak,
        data,
        run: model,
        profile,
    })
}

/// Where named data is looked for, by flags alone.
pub fn locations(places: PlaceArgs) -> Result<Locations> {
    let PlaceArgs { cache_dir, mirror, offline } = places;
    let cache_dir = cache_dir.map_or_else(default_cache_dir, Ok)?;
    Ok(Locations { cache_dir, offline: offline.unwrap_or(false), mirror })
}

/// The folder for downloads and token caches when none is named.
pub fn default_cache_dir() -> Result<PathBuf> {
    let variable = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(dir) = variable("HEADSTART_CACHE") {
        return Ok(dir);
    }
    let caches = if cfg!(windows) {
        variable("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        variable("HOME").map(|home| home.join("Library/Caches"))
    } else {
        // A relative path there is to be ignored, says the XDG specification.
        let xdg = variable("XDG_CACHE_HOME").filter(|dir| dir.is_absolute());
        xdg.or_else(|| variable("HOME").map(|home| home.join(".cache")))
    };
    caches.map(|dir| dir.join("headstart")).ok_or_else(|| {
        Usage(
            "no home folder to put a cache into\n  fix: name one with --cache_dir DIR or HEADSTART_CACHE"
                .into(),
        )
        .into()
    })
}

/// A run folder that does not exist: `runs/DATE-NAME`, with a number behind it from the second of a day on.
pub fn default_out(name: &str) -> PathBuf {
    let date = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    let first = Path::new("runs").join(format!("{date}-{name}"));
    let later = (2..).map(|n| Path::new("runs").join(format!("{date}-{name}-{n}")));
    std::iter::once(first.clone()).chain(later).find(|dir| !dir.exists()).unwrap_or(first)
}

fn refuse(args: TutorialArgs) -> Result<()> {
    let TutorialArgs { local_rank } = args;
    if let Some(rank) = local_rank {
        return Err(Usage(format!(
            "--local_rank {rank}: this version runs as one process, which uses all processors by itself\n  \
             fix: leave it out and start without a launcher; --threads N sets the number of threads"
        ))
        .into());
    }
    Ok(())
}

fn source_config(args: SourceArgs, base: DataConfig) -> DataConfig {
    let SourceArgs { data, tokenizer, reading, places } = args;
    let TokenizerArgs { tokenizer, lowercase } = tokenizer;
    let ReadingArgs { encoding } = reading;
    let PlaceArgs { cache_dir, mirror, offline } = places;
    DataConfig {
        path: data.unwrap_or(base.path),
        tokenizer: tokenizer.or(base.tokenizer),
        lowercase: lowercase.unwrap_or(base.lowercase),
        encoding: encoding.or(base.encoding),
        cache_dir: cache_dir.or(base.cache_dir),
        mirror: mirror.or(base.mirror),
        offline: offline.unwrap_or(base.offline),
        delimiter: base.delimiter,
        header: base.header,
        text_column: base.text_column,
        label_column: base.label_column,
        max_train_examples: base.max_train_examples,
    }
}

fn labelled_config(args: LabelledArgs, base: DataConfig) -> DataConfig {
    let LabelledArgs { data, max_train_examples, reading, columns, places } = args;
    let ReadingArgs { encoding } = reading;
    let ColumnArgs { delimiter, header, text_column, label_column } = columns;
    let PlaceArgs { cache_dir, mirror, offline } = places;
    DataConfig {
        path: data.unwrap_or(base.path),
        tokenizer: base.tokenizer,
        lowercase: base.lowercase,
        encoding: encoding.or(base.encoding),
        cache_dir: cache_dir.or(base.cache_dir),
        mirror: mirror.or(base.mirror),
        offline: offline.unwrap_or(base.offline),
        delimiter: delimiter.or(base.delimiter),
        header: header.or(base.header),
        text_column: text_column.or(base.text_column),
        label_column: label_column.or(base.label_column),
        max_train_examples: max_train_examples.or(base.max_train_examples),
    }
}

fn model_config(args: &ModelArgs, base: ModelConfig, objective: Objective) -> ModelConfig {
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
        hidden_dim: hidden_dim.unwrap_or(base.hidden_dim),
        num_max_positions: num_max_positions.unwrap_or(base.num_max_positions),
        num_heads: num_heads.unwrap_or(base.num_heads),
        num_layers: num_layers.unwrap_or(base.num_layers),
        positions: positions.unwrap_or(base.positions),
        causal: objective == Objective::Lm,
        dropout: dropout.unwrap_or(base.dropout),
        attention_dropout: attention_dropout.or(base.attention_dropout),
        initializer_range: initializer_range.unwrap_or(base.initializer_range),
        adapters_dim: base.adapters_dim,
        head: base.head,
        offset_token: base.offset_token,
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

fn finetune_config(
    model: Option<PathBuf>,
    tuning: &TuningArgs,
    source: LabelledArgs,
    train: &TrainArgs,
    base: FinetuneConfig,
) -> FinetuneConfig {
    let TuningArgs {
        from_scratch,
        method,
        adapters_dim,
        train_norms,
        pooling,
        problem,
        num_classes,
        clf_loss_coef,
        lm_loss_coef,
        initializer_range,
        dropout,
        class_weights,
        early_stopping,
    } = *tuning;
    FinetuneConfig {
        model: model.or(base.model),
        from_scratch: from_scratch.unwrap_or(base.from_scratch),
        data: labelled_config(source, base.data),
        method: method.unwrap_or(base.method),
        adapters_dim: adapters_dim.unwrap_or(base.adapters_dim),
        train_norms: train_norms.unwrap_or(base.train_norms),
        pooling: pooling.unwrap_or(base.pooling),
        problem: problem.unwrap_or(base.problem),
        num_classes: num_classes.or(base.num_classes),
        clf_loss_coef: clf_loss_coef.unwrap_or(base.clf_loss_coef),
        lm_loss_coef: lm_loss_coef.unwrap_or(base.lm_loss_coef),
        initializer_range: initializer_range.unwrap_or(base.initializer_range),
        dropout: dropout.or(base.dropout),
        class_weights: class_weights.unwrap_or(base.class_weights),
        early_stopping: early_stopping.unwrap_or(base.early_stopping),
        train: train_config(train, &base.train),
    }
}

fn train_config(args: &TrainArgs, base: &TrainConfig) -> TrainConfig {
    let TrainArgs {
        train_batch_size,
        valid_batch_size,
        grad_accum_steps,
        lr,
        max_norm,
        weight_decay,
        optimizer,
        n_epochs,
        max_steps,
        warmup_steps,
        schedule,
        eval_every,
        save_every,
        keep,
        max_time,
        seed,
        precision,
        threads,
    } = *args;
    TrainConfig {
        train_batch_size: train_batch_size.unwrap_or(base.train_batch_size),
        valid_batch_size: valid_batch_size.unwrap_or(base.valid_batch_size),
        grad_accum_steps: grad_accum_steps.unwrap_or(base.grad_accum_steps),
        lr: lr.unwrap_or(base.lr),
        max_norm: max_norm.unwrap_or(base.max_norm),
        weight_decay: weight_decay.unwrap_or(base.weight_decay),
        optimizer: optimizer.unwrap_or(base.optimizer),
        n_epochs: n_epochs.unwrap_or(base.n_epochs),
        max_steps: max_steps.or(base.max_steps),
        warmup_steps: warmup_steps.unwrap_or(base.warmup_steps),
        schedule: schedule.unwrap_or(base.schedule),
        eval_every: eval_every.unwrap_or(base.eval_every),
        save_every: save_every.unwrap_or(base.save_every),
        keep: keep.unwrap_or(base.keep),
        max_time: max_time.or(base.max_time),
        seed: seed.unwrap_or(base.seed),
        precision: precision.unwrap_or(base.precision),
        threads: threads.unwrap_or(base.threads),
    }
}

/// The folder of the run to be continued, if one is.
fn resumed(run: &RunArgs) -> Result<Option<&Path>> {
    match (&run.resume, &run.out) {
        (None, _) => Ok(None),
        (Some(Some(dir)), None) | (Some(None), Some(dir)) => Ok(Some(dir)),
        (Some(None), None) => {
            Err(Usage("--resume: which run?\n  fix: name its folder, as in --resume runs/x".into()).into())
        }
        (Some(Some(resume)), Some(out)) if resume == out => Ok(Some(resume)),
        (Some(Some(resume)), Some(out)) => Err(Usage(format!(
            "--resume {} and --out {}: a continued run writes into its own folder\n  fix: leave --out out",
            resume.display(),
            out.display()
        ))
        .into()),
    }
}

fn run_options(run: RunArgs, default_name: &str) -> Result<(RunOptions, bool)> {
    let resumed = resumed(&run)?.map(Path::to_path_buf);
    // The file has been read into the configuration.
    let RunArgs { config: _, out, resume: _, json, device } = run;
    let resume = resumed.is_some();
    let dir = resumed.or(out).unwrap_or_else(|| default_out(default_name));
    let device = device.unwrap_or_else(|| if resume { devices::of_run(&dir) } else { DeviceName::Cpu });
    Ok((RunOptions { dir, resume, command: command_line(), device: devices::choice(device) }, json))
}

/// What may differ when a run continues: where data lies. What is read is compared by content.
fn free_data(saved: &DataConfig, wanted: &DataConfig) -> DataConfig {
    DataConfig {
        cache_dir: wanted.cache_dir.clone(),
        mirror: wanted.mirror.clone(),
        offline: wanted.offline,
        ..saved.clone()
    }
}

/// What may differ when a run continues: speed, saving and the time it may take, none of which changes the weights.
fn free_train(saved: &TrainConfig, wanted: &TrainConfig) -> TrainConfig {
    TrainConfig {
        valid_batch_size: wanted.valid_batch_size,
        save_every: wanted.save_every,
        keep: wanted.keep,
        max_time: wanted.max_time,
        threads: wanted.threads,
        ..saved.clone()
    }
}

/// Refuses to continue a run with other settings than it was started with.
fn same_run<C: Serialize + PartialEq>(allowed: &C, wanted: &C) -> Result<()> {
    if allowed == wanted {
        return Ok(());
    }
    let (allowed, wanted) = (toml::Table::try_from(allowed)?, toml::Table::try_from(wanted)?);
    let (allowed, wanted) = (flag_values(&allowed), flag_values(&wanted));
    // No layer takes a value away, so whatever differs is among the wanted ones.
    let Some((flag, value)) = wanted.iter().find(|(flag, value)| allowed.get(*flag) != Some(*value)) else {
        return Ok(());
    };
    let before = allowed.get(flag).map_or("not set", String::as_str);
    Err(Usage(format!(
        "--{flag} {value}: the run was started with {before}, and a continued run keeps its settings\n  \
         fix: leave --{flag} out, or start a new run with another --out; these may change: --device, --threads, --max_time, \
         --save_every, --keep, --valid_batch_size, --cache_dir, --mirror, --offline"
    ))
    .into())
}

fn saved_config<C: DeserializeOwned, Other: DeserializeOwned>(
    run: &RunArgs,
    names: (&str, &str),
) -> Result<Option<C>> {
    match resumed(run)? {
        Some(dir) => file::saved::<C, Other>(dir, names).map(Some),
        None => Ok(None),
    }
}

fn fill_cache_dir(config: &mut DataConfig) -> Result<()> {
    if config.cache_dir.is_none() {
        config.cache_dir = Some(default_cache_dir()?);
    }
    Ok(())
}

/// A data set's name, or the last part of its path, as part of a folder's name.
fn short_name(data: &str) -> String {
    let last = data.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or_default();
    let stem = Path::new(last).file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let clean = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = stem.chars().map(clean).take(40).collect();
    if name.is_empty() { "data".into() } else { name }
}

/// The command line, quoted so that a shell would read it back.
fn command_line() -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    let quoted = env::args_os().map(|argument| {
        let argument = argument.to_string_lossy().into_owned();
        if !argument.is_empty() && argument.chars().all(plain) {
            argument
        } else {
            format!("'{}'", argument.replace('\'', "'\\''"))
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
