//! Layers, continued runs, and that every key has a flag.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use headstart::config::{
    AdaptConfig, Arch, DataConfig, DistillConfig, FinetuneConfig, HeadChoice, HeadConfig, HeadKind,
    HeadPooling, ModelConfig, ObjectiveName, Positions, PretrainConfig, Problem, RatesConfig,
    RegularisationConfig, Schedule, Seeds, TextColumns, TrainConfig, TrialsConfig,
};

use super::run::{free_flags, short_name};
use super::{finetune, pretrain};
use crate::args::{Command, names, parse};
use crate::ranks::Ranks;

fn parsed(arguments: &[&str]) -> Command {
    parse(std::iter::once("headstart").chain(arguments.iter().copied()).map(Into::into)).unwrap()
}

fn pretrain_settings(arguments: &[&str]) -> Result<PretrainConfig> {
    match parsed(&[&["pretrain", "--cache_dir", "cache"], arguments].concat()) {
        Command::Pretrain(args) => pretrain(*args, &Ranks::default()).map(|run| run.config),
        other => panic!("{other:?}"),
    }
}

fn finetune_settings(arguments: &[&str]) -> Result<FinetuneConfig> {
    match parsed(&[&["finetune", "--cache_dir", "cache"], arguments].concat()) {
        Command::Finetune(args) => finetune(*args, &Ranks::default()).map(|run| run.config),
        other => panic!("{other:?}"),
    }
}

fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
    format!("{:#}", result.unwrap_err())
}

#[test]
fn without_flags_the_librarys_defaults_hold() {
    let cache_dir = Some(PathBuf::from("cache"));
    let mut expected = PretrainConfig::default();
    expected.data.cache_dir.clone_from(&cache_dir);
    assert_eq!(pretrain_settings(&[]).unwrap(), expected);
    let mut expected = FinetuneConfig::default();
    expected.data.cache_dir = cache_dir;
    assert_eq!(finetune_settings(&[]).unwrap(), expected);
}

#[test]
fn flags_override_the_file_which_overrides_the_preset() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.toml");
    fs::write(
        &file,
        "objective = \"mlm\"\n[model]\npreset = \"micro\"\nnum_layers = 3\narch = \"gpt2\"\n[train]\nlr = 0.5\nseed = 1\n",
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let config = pretrain_settings(&["--config", file, "--seed", "7"]).unwrap();
    let (model, train) = (&config.model, &config.train);
    assert_eq!((model.embed_dim, model.num_layers, model.arch), (32, 3, Arch::Gpt2));
    assert_eq!((train.lr, train.seed, config.objective), (Some(0.5), 7, Some(ObjectiveName::Mlm)));
    let config = pretrain_settings(&["--config", file, "--preset", "mini", "--num-layers=2"]).unwrap();
    assert_eq!((config.model.embed_dim, config.model.num_layers), (128, 2));
}

#[test]
fn the_tutorials_names_mean_the_same() {
    let ours = ["--data", "x", "--warmup_steps", "5", "--grad_accum_steps", "2", "--objective", "mlm"];
    let theirs = ["--dataset_path", "x", "--n_warmup", "5", "--gradient_accumulation_steps", "2", "--mlm"];
    assert_eq!(pretrain_settings(&ours).unwrap(), pretrain_settings(&theirs).unwrap());
    let config = pretrain_settings(&["--sinusoidal_embeddings", "--device", "cpu"]).unwrap();
    assert_eq!(config.model.positions, Positions::Sinusoidal);
    let config = finetune_settings(&["--model_checkpoint", "m", "--lm_loss_coef", "-1"]).unwrap();
    assert_eq!(config.model, Some("m".into()));
}

#[test]
fn a_family_implies_its_positions_and_dropout() {
    let config = pretrain_settings(&["--arch", "modernbert", "--preset", "mini"]).unwrap();
    let of = |config: &PretrainConfig| (config.model.positions, config.model.dropout);
    assert_eq!((of(&config), config.model.embed_dim), ((Positions::Rotary, 0.0), 128));
    let config = pretrain_settings(&["--arch", "modernbert", "--dropout", "0.2"]).unwrap();
    assert_eq!(of(&config), (Positions::Rotary, 0.2));
    let config = pretrain_settings(&["--arch", "bert"]).unwrap();
    assert_eq!(of(&config), (Positions::Learned, 0.1));
    for (flags, words) in [
        (
            &["--arch", "bert", "--objective", "lm"][..],
            &["objective", "bert", "both directions", "fix: use mlm"][..],
        ),
        (&["--arch", "modernbert", "--positions", "learned"], &["positions", "rotary"]),
    ] {
        let message = pretrain_settings(flags).unwrap_err().to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }
}

#[test]
fn what_a_model_has_is_not_asked_for_beside_it() {
    let config = pretrain_settings(&["--from", "m", "--block_size", "64"]).unwrap();
    assert!(config.from.is_some_and(|from| from.ends_with("m")));
    for flags in
        [&["--embed_dim", "410"][..], &["--arch", "bert"], &["--preset", "mini"], &["--dropout", "0.1"]]
    {
        let message = pretrain_settings(&[&["--from", "m"], flags].concat()).unwrap_err().to_string();
        assert!(
            message.contains(flags[0]) && message.contains("--from") && message.contains("fix: leave"),
            "{message}"
        );
    }
    let message = pretrain_settings(&["--from", "m", "--tokenizer", "t.json"]).unwrap_err().to_string();
    assert!(message.contains("tokenizer") && message.contains("fix: leave it out"), "{message}");
}

#[test]
fn a_wrong_key_is_named_with_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.toml");
    for (text, expected) in [
        ("[train]\nlr = 0.1\nlearning_rate = 1\n", "run.toml:3: unknown field `learning_rate`"),
        ("[model]\npreset = \"mini\"\n\nwidth = 1\n", "run.toml:4: unknown field `width`"),
        ("[train]\nlr = \"fast\"\n", "run.toml:2: invalid type"),
        ("[model]\npreset = 3\n", "run.toml:2: `preset` is a name"),
        ("objective = \"clm\"\n", "run.toml:1: unknown variant `clm`"),
        ("[train\n", "run.toml:1: "),
    ] {
        fs::write(&file, text).unwrap();
        let message = message(pretrain_settings(&["--config", file.to_str().unwrap()]));
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_continued_run_keeps_what_matters() {
    let dir = tempfile::tempdir().unwrap();
    let mut saved = pretrain_settings(&["--preset", "micro", "--max_time", "60", "--lr", "0.00025"]).unwrap();
    saved.model.vocab_size = 1_000;
    fs::write(dir.path().join("config.toml"), toml::to_string(&saved).unwrap()).unwrap();
    fs::write(dir.path().join("environment.json"), "{}").unwrap();
    let run = dir.path().to_str().unwrap();
    assert_eq!(pretrain_settings(&["--resume", run]).unwrap(), saved);
    assert_eq!(pretrain_settings(&["--preset", "micro", "--out", run, "--resume"]).unwrap(), saved);
    let changed = ["--resume", run, "--threads", "1", "--max_time", "5", "--lr", "0.00025"];
    let changed = pretrain_settings(&changed).unwrap();
    assert_eq!((changed.train.threads, changed.train.max_time), (1, Some(5.0)));
    for (flags, words) in [
        (&["--lr", "0.1"][..], "--lr 0.1: the run was started with 0.00025"),
        (&["--preset", "mini"], "the run was started with 32"),
        (&["--max_steps", "9"], "--max_steps 9: the run was started with not set"),
        (&["--out", "elsewhere"], "writes into its own folder"),
    ] {
        let message = message(pretrain_settings(&[&["--resume", run], flags].concat()));
        assert!(message.contains(words), "{message}");
    }
    assert!(message(finetune_settings(&["--resume", run])).contains("headstart pretrain --resume"));
    assert!(message(pretrain_settings(&["--resume", "nothing"])).contains("no run in this folder"));
    assert!(message(pretrain_settings(&["--resume"])).contains("which run?"));
}

#[test]
fn values_out_of_range_are_usage_errors() {
    for flags in [&["--num_heads", "7"][..], &["--dropout", "1"], &["--lr", "nan"], &["--preset", "huge"]] {
        let error = pretrain_settings(flags).unwrap_err();
        assert!(error.downcast_ref::<headstart::Error>().is_some_and(headstart::Error::is_usage), "{error}");
    }
}

/// The keys with all that are absent by default filled in.
fn full_model() -> ModelConfig {
    ModelConfig { attention_dropout: Some(0.5), ..ModelConfig::default() }
}

fn full_data() -> DataConfig {
    DataConfig {
        tokenizer: Some("t".into()),
        encoding: Some("e".into()),
        cache_dir: Some("c".into()),
        mirror: Some("m".into()),
        delimiter: Some(";".into()),
        header: Some(false),
        text_column: Some(TextColumns::Listed(vec!["t".into(), "u".into()])),
        label_column: Some("l".into()),
        group_column: Some("g".into()),
        max_train_examples: Some(1),
        ..DataConfig::default()
    }
}

fn full_train() -> TrainConfig {
    TrainConfig {
        train_batch_size: Some(1),
        lr: Some(1.0),
        max_norm: Some(1.0),
        n_epochs: Some(1),
        max_steps: Some(1),
        budget: Some("1m".parse().unwrap()),
        warmup_steps: Some(1),
        warmup_ratio: Some(0.5),
        schedule: Some(Schedule::TutorialCosine),
        lr_floor: Some(0.5),
        ema: Some(0.5),
        max_time: Some(1.0),
        ..TrainConfig::default()
    }
}

fn help(command: &str) -> String {
    let arguments = ["headstart", command, "--help"].map(Into::into);
    parse(arguments).unwrap_err().to_string()
}

/// The keys of a configuration's tables, as flags.
fn keys(tables: &[&'static [&'static str]]) -> Vec<&'static str> {
    let keys = tables.concat().into_iter().filter(|key| {
        let tables = ["data", "model", "train", "distill", "adapt", "trials", "rates", "regularisation"];
        !tables.contains(key)
    });
    // The one flag that is not called like its key, and the one that is called like a table.
    keys.map(|key| if key == "path" { "data" } else { key }).collect()
}

#[test]
fn every_key_has_its_flag() {
    let (data, train) = (names::<DataConfig>(), names::<TrainConfig>());
    let pretrain = keys(&[names::<PretrainConfig>(), data, names::<ModelConfig>(), train]);
    let around = [names::<AdaptConfig>(), names::<TrialsConfig>()].concat();
    let mut finetune = keys(&[
        names::<FinetuneConfig>(),
        names::<RatesConfig>(),
        names::<RegularisationConfig>(),
        data,
        train,
    ]);
    finetune.extend(around);
    finetune.push("model");
    // What follows from the tokenizer, the objective and the task, and what only labelled text has.
    let of_others = [
        "vocab_size",
        "causal",
        "adapters_dim",
        "adapters",
        "lora",
        "ia3",
        "teacher_heads",
        "head",
        "head_shape",
        "offset_token",
        "layout",
    ];
    let of_labels = ["delimiter", "header", "label_column", "group_column", "max_train_examples"];
    let without = [&of_others[..], &of_labels].concat();
    let mut distill = pretrain.clone();
    distill.extend(names::<DistillConfig>());
    // Its sum is found out.
    let for_students = [&without[..], &["teacher_sha256"]].concat();
    // The tokenizer is the model's.
    for (command, keys, without) in [
        ("pretrain", pretrain, without),
        ("distill", distill, for_students),
        ("finetune", finetune, vec!["tokenizer", "lowercase"]),
    ] {
        assert!(keys.len() > 25, "{keys:?}");
        let text = help(command);
        for key in keys {
            let flag = text.contains(&format!("--{key} ")) || text.contains(&format!("--{key}["));
            assert_eq!(flag, !without.contains(&key), "{command} --{key}");
        }
    }
}

#[test]
fn the_readme_lists_what_a_continued_run_may_be_given_anew() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let listed =
        readme.split("A continued run keeps its settings").nth(1).unwrap().split(')').next().unwrap();
    // "And where data lies".
    let places = ["--cache_dir", "--mirror", "--offline"];
    for flag in free_flags().iter().filter(|flag| !places.contains(&flag.as_str())) {
        assert!(listed.contains(&format!("`{flag}`")), "{flag} is not in {listed}");
    }
    assert_eq!(listed.matches("`--").count() + places.len(), free_flags().len(), "{listed}");
}

#[test]
fn a_saved_configuration_reads_back_the_same() {
    let head = HeadConfig {
        num_classes: 2,
        pooling: HeadPooling::Cls,
        problem: Problem::SingleLabel,
        max_length: None,
        truncation: None,
        dropout: None,
    };
    let config = PretrainConfig {
        data: full_data(),
        model: ModelConfig { head: Some(head), ..full_model() },
        train: full_train(),
        ..PretrainConfig::default()
    };
    let text = toml::to_string(&config).unwrap();
    assert_eq!(toml::from_str::<PretrainConfig>(&text).unwrap(), config);
}

#[test]
fn several_runs_are_asked_for_in_flags_or_in_the_file() {
    let config = finetune_settings(&["--seeds", "3", "--lr", "auto", "--adapt_on", "task"]).unwrap();
    let expected = TrialsConfig { seeds: Some(Seeds::Count(3)), lr_auto: Some(true), curve: None };
    assert_eq!((config.trials, config.train.lr), (expected, None));
    assert_eq!(config.adapt.adapt_on.as_deref(), Some("task"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.toml");
    fs::write(&file, "[trials]\nseeds = [4, 5]\ncurve = [10, 20]\n[adapt]\nadapt_on = \"task\"\n").unwrap();
    let config = finetune_settings(&["--config", file.to_str().unwrap(), "--curve", "5,10"]).unwrap();
    assert_eq!((config.trials.seeds(0).unwrap(), config.trials.sizes(99)), (vec![4, 5], vec![5, 10]));
    for (flags, words) in [
        (&["--seeds", "1,2,1"][..], "1 is listed twice"),
        (&["--lr", "auto", "--curve", "5,10"], "--lr_auto"),
        (&["--adapt_steps", "5"], "--adapt_on"),
    ] {
        let message = message(finetune_settings(flags));
        assert!(message.contains(words) || message.replace('`', "--").contains(words), "{message}");
    }
    assert!(message(pretrain_settings(&["--lr", "auto"])).contains("fix: leave --lr out"));
}

#[test]
fn a_head_is_asked_for_in_flags_or_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.toml");
    let text = "head = \"mlp\"\nhead_width = 7\nlayer_mix = true\n[regularisation]\nlayer_drop = 0.25\n";
    fs::write(&file, text).unwrap();
    let config =
        finetune_settings(&["--config", file.to_str().unwrap(), "--head_width", "9", "--layer_mix=false"]);
    let config = config.unwrap();
    let expected = HeadChoice {
        head: Some(HeadKind::Mlp),
        head_width: Some(9),
        head_activation: None,
        layer_mix: Some(false),
    };
    assert_eq!((&config.head, config.regularisation.layer_drop), (&expected, Some(0.25)));
    assert_eq!(toml::from_str::<FinetuneConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
    assert!(message(finetune_settings(&["--head_width", "9"])).contains("head_width"));
}

#[test]
fn run_folders_are_named_after_the_data() {
    for (data, name) in
        [("wikitext-2", "wikitext-2"), ("a b/My Reviews.csv", "my-reviews"), ("books/", "books")]
    {
        assert_eq!(short_name(data), name);
    }
}
