//! The head start, shown on embedded data: pretrain a small model, fine-tune it and the same model without
//! pretraining on the same questions, and report whatever comes out.
//!
//! Owns: the experiment's protocol. Never: a training step of its own, or a say in who wins.
//!
//! Protocol: one trunk; both arms fine-tune all parameters with the same budget, the same seeds and the same
//! candidates for the learning rate; each arm's rate is the one with the best validation accuracy, averaged over the
//! seeds (one seed's alone would be a coin toss: there are few validation questions); test accuracies are those at that rate.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::{Arch, DataConfig, FinetuneConfig, ModelConfig, PretrainConfig, Schedule, TrainConfig};
use crate::data::source::{STARTER_CORPUS, STARTER_QUESTIONS};
use crate::data::starter;
use crate::device::DeviceChoice;
use crate::error::{Error, Result};
use crate::event::{Event, Listener};
use crate::finetune::finetune;
use crate::pretrain::pretrain;
use crate::report::{Chart, Confusion, Curve, Report, Table};
use crate::run_log::{Kind, read_metrics};
use crate::tokenizer::{Case, Tokenizer, TokenizerKind, TrainOptions};
use crate::train::{Place, RunOptions, Summary, thousands};

const VOCABULARY: usize = 4_096;
const PRETRAINING_EPOCHS: usize = 3;
const FINETUNING_EPOCHS: usize = 10;
/// Fine-tuning seeds of each arm.
const SEEDS: u64 = 3;
/// The learning rates each arm may choose from. A higher one, 3e-3, serves neither arm (docs/log.md).
const RATES: [f64; 2] = [3e-4, 1e-3];

/// What the quickstart is asked to do.
#[derive(Clone, Debug)]
pub struct QuickstartConfig {
    /// Where the run folders and the report go.
    pub out: PathBuf,
    /// Worker threads; 0: all.
    pub threads: usize,
    /// Where to compute.
    pub device: DeviceChoice,
    /// Seeds the trunk; fine-tuning takes the following ones.
    pub seed: u64,
}

/// One arm's result.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Arm {
    /// Mean test accuracy over the seeds.
    pub accuracy_mean: f64,
    /// Sample standard deviation over the seeds.
    pub accuracy_std: f64,
    /// Each seed's test accuracy.
    pub accuracies: Vec<f64>,
    /// The learning rate validation chose.
    pub lr: f64,
    /// Mean validation accuracy over the seeds after each epoch.
    pub validation_curve: Vec<f64>,
    /// Seconds of fine-tuning: all seeds at the chosen rate.
    pub seconds: f64,
}

/// What the quickstart found.
#[derive(Clone, Debug, Serialize)]
pub struct QuickstartSummary {
    /// With the head start.
    pub pretrained: Arm,
    /// Without.
    pub scratch: Arm,
    /// Validation perplexity of the trunk.
    pub pretraining_ppl: f64,
    /// Seconds of pretraining.
    pub pretraining_seconds: f64,
    /// Where the runs are.
    pub out: PathBuf,
    /// The report.
    pub report: PathBuf,
}

/// One fine-tuning run.
struct Finetuned {
    summary: Summary,
    curve: Vec<f64>,
    seconds: f64,
}

/// Runs it.
///
/// # Errors
/// [`Error::Config`] when the output folder is taken; [`Error::Interrupted`] when the listener said stop; what
/// training can fail with.
pub fn run(config: &QuickstartConfig, listener: &mut Listener<'_>) -> Result<QuickstartSummary> {
    check_free(&config.out)?;
    std::fs::create_dir_all(&config.out).map_err(Error::io("create the folder", &config.out))?;
    let tokenizer = config.out.join("tokenizer.json");
    listener(Event::Message("training a tokenizer on the starter corpus"));
    let options = TrainOptions { kind: TokenizerKind::WordPiece, vocab_size: VOCABULARY, case: Case::Keep };
    Tokenizer::train(&starter::corpus().train, options)?.save(&tokenizer)?;

    let trunk = config.out.join("trunk");
    listener(Event::Message("pretraining the trunk"));
    let clock = std::time::Instant::now();
    let pretraining = pretrain(&pretrain_config(config, &tokenizer), &run_options(config, &trunk), listener)?;
    check_whole(&pretraining, &config.out)?;
    let pretraining_seconds = clock.elapsed().as_secs_f64();

    let mut confusions = Vec::new();
    let mut arms = Vec::new();
    for (name, from_scratch) in [("pretrained", false), ("scratch", true)] {
        let (arm, last) = run_arm(config, &trunk, name, from_scratch, listener)?;
        if let Some(counts) = last.confusion {
            let title = format!("Test set, {name}, last seed");
            confusions.push(Confusion { title, labels: last.labels, counts });
        }
        arms.push(arm);
    }
    let (Some(scratch), Some(pretrained)) = (arms.pop(), arms.pop()) else { unreachable!("two arms ran") };
    let summary = QuickstartSummary {
        pretrained,
        scratch,
        pretraining_ppl: pretraining.metrics.get("valid/ppl").copied().unwrap_or(f64::NAN),
        pretraining_seconds,
        out: config.out.clone(),
        report: config.out.join("report.html"),
    };
    report(&summary, &trunk, confusions)?.write(&summary.report)?;
    Ok(summary)
}

/// Runs all seeds at all rates and chooses the arm's rate on validation.
fn run_arm(
    config: &QuickstartConfig,
    trunk: &Path,
    name: &str,
    from_scratch: bool,
    listener: &mut Listener<'_>,
) -> Result<(Arm, Summary)> {
    let mut one = |lr: f64, seed: u64| -> Result<Finetuned> {
        let dir = config.out.join(format!("{name}-lr{lr:.0e}-seed{seed}"));
        listener(Event::Message(&format!("fine-tuning, {name}: learning rate {lr:.0e}, seed {seed}")));
        let clock = std::time::Instant::now();
        let settings = finetune_config(config, trunk, from_scratch, lr, seed);
        let summary = finetune(&settings, &run_options(config, &dir), listener)?;
        check_whole(&summary, &config.out)?;
        let records = read_metrics(&dir)?;
        let valid = records.iter().filter(|r| r.kind == Kind::Valid);
        let curve = valid.filter_map(|r| r.value("accuracy")).collect();
        Ok(Finetuned { summary, curve, seconds: clock.elapsed().as_secs_f64() })
    };
    let seeds = config.seed + 1..=config.seed + SEEDS;
    let mut best: Option<(f64, Vec<Finetuned>)> = None;
    for lr in RATES {
        let runs = seeds.clone().map(|seed| one(lr, seed)).collect::<Result<Vec<_>>>()?;
        let better = best.as_ref().is_none_or(|(_, other)| {
            let (a, b) = (mean_of(&runs, "valid/accuracy"), mean_of(other, "valid/accuracy"));
            a > b || (a >= b && mean_of(&runs, "valid/loss") < mean_of(other, "valid/loss"))
        });
        if better {
            best = Some((lr, runs));
        }
    }
    let Some((lr, mut runs)) = best else { unreachable!("there are rates to choose from") };
    let accuracies: Vec<f64> =
        runs.iter().filter_map(|r| r.summary.metrics.get("test/accuracy").copied()).collect();
    let n = accuracies.len() as f64;
    let mean = mean_of(&runs, "test/accuracy");
    let variance = accuracies.iter().map(|a| (a - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    let epochs = runs.iter().map(|r| r.curve.len()).min().unwrap_or(0);
    let at = |epoch: usize| runs.iter().map(|r| r.curve[epoch]).sum::<f64>() / n;
    let arm = Arm {
        accuracy_mean: mean,
        accuracy_std: variance.sqrt(),
        lr,
        validation_curve: (0..epochs).map(at).collect(),
        seconds: runs.iter().map(|r| r.seconds).sum(),
        accuracies,
    };
    let last = runs.pop().map(|r| r.summary).unwrap_or_default();
    Ok((arm, last))
}

/// A figure's mean over runs; not a number where one lacks it.
fn mean_of(runs: &[Finetuned], key: &str) -> f64 {
    let values = runs.iter().map(|run| run.summary.metrics.get(key).copied().unwrap_or(f64::NAN));
    values.sum::<f64>() / runs.len() as f64
}

fn pretrain_config(config: &QuickstartConfig, tokenizer: &Path) -> PretrainConfig {
    PretrainConfig {
        data: DataConfig {
            path: STARTER_CORPUS.into(),
            tokenizer: Some(tokenizer.display().to_string()),
            ..DataConfig::default()
        },
        model: ModelConfig {
            arch: Arch::Gpt2, // pre-norm learns fastest in a minute
            embed_dim: 128,
            hidden_dim: 512,
            num_max_positions: 128,
            num_heads: 4,
            num_layers: 4,
            dropout: 0.0,
            ..ModelConfig::default()
        },
        train: TrainConfig {
            train_batch_size: Some(16),
            valid_batch_size: 16,
            lr: Some(3e-3),
            max_norm: Some(1.0),
            n_epochs: Some(PRETRAINING_EPOCHS),
            warmup_steps: Some(50),
            seed: config.seed,
            threads: config.threads,
            keep: 1,
            ..TrainConfig::default()
        },
        ..PretrainConfig::default()
    }
}

fn finetune_config(
    config: &QuickstartConfig,
    trunk: &Path,
    from_scratch: bool,
    lr: f64,
    seed: u64,
) -> FinetuneConfig {
    FinetuneConfig {
        model: Some(trunk.to_path_buf()),
        from_scratch,
        data: DataConfig { path: STARTER_QUESTIONS.into(), ..DataConfig::default() },
        dropout: Some(0.1),
        train: TrainConfig {
            train_batch_size: Some(16),
            valid_batch_size: 64,
            lr: Some(lr),
            max_norm: Some(1.0),
            n_epochs: Some(FINETUNING_EPOCHS),
            warmup_steps: Some(20),
            schedule: Some(Schedule::Linear),
            eval_every: -1,
            seed,
            threads: config.threads,
            keep: 1,
            ..TrainConfig::default()
        },
        ..FinetuneConfig::default()
    }
}

fn run_options(config: &QuickstartConfig, dir: &Path) -> RunOptions {
    let device = config.device.clone();
    RunOptions { place: Place::New(dir.to_path_buf()), command: "headstart quickstart".into(), device }
}

fn check_free(out: &Path) -> Result<()> {
    let taken = match std::fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_some(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) => return Err(Error::io("use as a folder", out)(e)),
    };
    if !taken {
        return Ok(());
    }
    Err(Error::Config {
        key: "out".into(),
        what: format!("{} exists and is not empty", out.display()),
        fix: "choose another folder with --out".into(),
    })
}

fn check_whole(summary: &Summary, out: &Path) -> Result<()> {
    match &summary.stopped {
        None => Ok(()),
        Some(why) => Err(Error::Interrupted {
            what: format!("the quickstart was stopped ({why}) before its end"),
            fix: format!("what ran so far is in {}; start it again with another --out", out.display()),
        }),
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn report(summary: &QuickstartSummary, trunk: &Path, confusions: Vec<Confusion>) -> Result<Report> {
    let QuickstartSummary { pretrained, scratch, .. } = summary;
    let verdict = match pretrained.accuracy_mean.total_cmp(&scratch.accuracy_mean) {
        std::cmp::Ordering::Greater => "The head start wins",
        std::cmp::Ordering::Less => "The head start loses",
        std::cmp::Ordering::Equal => "A draw",
    };
    let corpus = starter::corpus();
    let questions = starter::questions();
    let paragraphs = vec![
        format!(
            "{verdict}: {} test accuracy with pretraining, {} without (mean of {SEEDS} seeds).",
            percent(pretrained.accuracy_mean),
            percent(scratch.accuracy_mean)
        ),
        format!(
            "The same small transformer (GPT-2 layout, 128 wide, 4 layers) was fine-tuned on {} questions of six types, once \
             starting from a trunk pretrained on {} KB of the embedded corpus and once from random weights: same budget, same \
             seeds, each arm's learning rate chosen by all seeds' accuracy on {} validation questions. The {} test questions share no question frame \
             and no name with the others. Pretraining cost {:.0} s and reached a validation perplexity of {:.1}.",
            questions.train.len(),
            thousands(corpus.train.len() / 1000),
            questions.valid.len(),
            questions.test.len(),
            summary.pretraining_seconds,
            summary.pretraining_ppl
        ),
    ];
    let row = |name: &str, arm: &Arm| {
        let each: Vec<String> = arm.accuracies.iter().map(|a| percent(*a)).collect();
        vec![
            name.to_owned(),
            percent(arm.accuracy_mean),
            percent(arm.accuracy_std),
            each.join(", "),
            format!("{:.0e}", arm.lr),
            format!("{:.0} s", arm.seconds),
        ]
    };
    let header = ["", "test accuracy", "spread (std)", "each seed", "learning rate", "fine-tuning time"];
    let table = Table {
        title: "Result".into(),
        header: header.map(str::to_owned).to_vec(),
        rows: vec![row("with the head start", pretrained), row("without", scratch)],
    };
    let curve = |name: &str, dashed: bool, arm: &Arm| Curve {
        name: name.into(),
        dashed,
        points: arm.validation_curve.iter().enumerate().map(|(i, a)| ((i + 1) as f64, a * 100.0)).collect(),
    };
    let records = read_metrics(trunk)?;
    let losses = |kind: Kind, key: &str| -> Vec<(f64, f64)> {
        let records = records.iter().filter(|r| r.kind == kind);
        records.filter_map(|r| Some((r.step as f64, r.value(key)?))).collect()
    };
    let charts = vec![
        Chart {
            title: "Validation accuracy while fine-tuning (mean over seeds)".into(),
            x_label: "epoch".into(),
            y_label: "accuracy in %".into(),
            curves: vec![curve("with the head start", false, pretrained), curve("without", true, scratch)],
        },
        Chart {
            title: "Pretraining loss".into(),
            x_label: "optimizer step".into(),
            y_label: "nats per token".into(),
            curves: vec![
                Curve { name: "training".into(), dashed: false, points: losses(Kind::Train, "loss") },
                Curve { name: "validation".into(), dashed: true, points: losses(Kind::Valid, "nll") },
            ],
        },
    ];
    Ok(Report {
        title: "Headstart quickstart".into(),
        summary: paragraphs,
        tables: vec![table],
        charts,
        confusions,
    })
}
