//! The head start, shown on embedded data, in four rungs: words alone, a small model from random weights, the same model after
//! two minutes' pretraining, and the model that comes with the program; all on the same questions, and whatever comes out is
//! reported.
//!
//! Owns: the experiment's protocol, and what it leaves on disk. Never: a training step of its own, or a say in who wins.
//!
//! Protocol: one trunk; it and the same sizes from random weights are fine-tuned whole with the same budget, the same seeds and
//! the same candidates for the learning rate; each of these arms' rate is the one with the best validation accuracy, averaged over the
//! seeds (one seed's alone would be a coin toss: there are few validation questions). Each run ends with its epoch of the
//! best validation accuracy; test accuracies are those of that epoch, at the arm's rate. The model in the program has the same
//! seeds and epochs, and the settings that `finetune` gives it unasked. Words alone are fitted to the same questions, with the strength of the penalty chosen by the same validation questions.

mod overall;
mod page;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Instant;

use headstart_engine::Collective;
use serde::Serialize;

use crate::baseline::{self, BagOfWords, NGrams};
use crate::checkpoint::RunFolder;
use crate::config::{Arch, DataConfig, FinetuneConfig, ModelConfig, PretrainConfig, Schedule, TrainConfig};
use crate::data::source::{self, STARTER_CORPUS, STARTER_QUESTIONS};
use crate::data::starter::{self, LabelledText, QUESTION_LABELS};
use crate::device::DeviceChoice;
use crate::error::{Error, Result};
use crate::event::Listener;
use crate::finetune::finetune_compared;
use crate::pretrain::pretrain;
use crate::report::Confusion;
use crate::run_log::{Kind, read_metrics};
use crate::setup::bar::Compared;
use crate::shipped;
use crate::train::{Place, RunOptions, Summary, thousands};

use overall::Overall;

/// The learning rates each arm may choose from. A higher one, 3e-3, serves neither arm (docs/log.md).
const RATES: [Option<f64>; 2] = [Some(3e-4), Some(1e-3)];
/// How much an example counts beside the penalty on the weights of words alone.
const STRENGTHS: [f64; 3] = [1.0, 10.0, 100.0];
/// The parts of the whole time that pretraining and the model in the program take, for the progress.
const PRETRAINING_SHARE: f64 = 0.3;
const SHIPPED_SHARE: f64 = 0.15;

/// How much is trained.
struct Size {
    pretraining_epochs: usize,
    /// Fewer steps than these epochs have.
    pretraining_steps: Option<u64>,
    finetuning_epochs: usize,
    /// Fine-tuning seeds of each arm.
    seeds: u64,
}

/// What fits into two minutes on two cores.
const FULL: Size = Size { pretraining_epochs: 4, pretraining_steps: None, finetuning_epochs: 10, seeds: 3 };

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

/// What an arm starts from.
#[derive(Clone, Copy)]
enum Start<'a> {
    /// This trunk, just pretrained.
    Pretrained(&'a Path),
    /// The trunk's sizes and random weights.
    Scratch(&'a Path),
    /// The model in the program, in this folder.
    Shipped(&'a Path),
}

impl Start<'_> {
    fn name(self) -> &'static str {
        match self {
            Self::Pretrained(_) => "pretrained",
            Self::Scratch(_) => "scratch",
            Self::Shipped(_) => "shipped",
        }
    }

    /// The learning rates to choose from; `None` is what `finetune` chooses.
    fn rates(self) -> &'static [Option<f64>] {
        match self {
            Self::Pretrained(_) | Self::Scratch(_) => &RATES,
            Self::Shipped(_) => &[None],
        }
    }

    /// Its part of the whole time.
    fn share(self) -> f64 {
        match self {
            Self::Pretrained(_) | Self::Scratch(_) => (1.0 - PRETRAINING_SHARE - SHIPPED_SHARE) / 2.0,
            Self::Shipped(_) => SHIPPED_SHARE,
        }
    }
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
    /// Mean validation accuracy over the seeds, of the same models.
    pub validation_mean: f64,
    /// The learning rate validation chose.
    pub lr: f64,
    /// Mean validation accuracy over the seeds after each epoch.
    pub validation_curve: Vec<f64>,
    /// Seconds of fine-tuning: all seeds at the chosen rate.
    pub seconds: f64,
    /// All runs: each rate with each seed.
    pub runs: Vec<ArmRun>,
}

/// One fine-tuning run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ArmRun {
    /// Its folder's name.
    pub name: String,
    /// Its learning rate.
    pub lr: f64,
    /// Its seed.
    pub seed: u64,
    /// The optimizer step that is best on validation; the accuracies are of that step.
    pub step: u64,
    /// Validation accuracy.
    pub validation: f64,
    /// Test accuracy; `None` at a rate that was not chosen.
    pub test: Option<f64>,
    /// Seconds of fine-tuning.
    pub seconds: f64,
}

/// What words and pairs of words alone achieve.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Words {
    /// Test accuracy.
    pub accuracy: f64,
    /// Validation accuracy.
    pub validation: f64,
    /// What an example counts beside the penalty, chosen by validation.
    pub strength: f64,
    /// Seconds of all fits.
    pub seconds: f64,
}

/// What the quickstart found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct QuickstartSummary {
    /// With the head start.
    pub pretrained: Arm,
    /// Without.
    pub scratch: Arm,
    /// From the model in the program.
    pub shipped: Arm,
    /// Without a neural network.
    pub words: Words,
    /// Validation perplexity of the trunk.
    pub pretraining_ppl: f64,
    /// Seconds of pretraining.
    pub pretraining_seconds: f64,
    /// Where the runs are.
    pub out: PathBuf,
    /// The report.
    pub report: PathBuf,
    /// The run with a head start that is best on validation, ready to be used.
    pub model: PathBuf,
}

/// One fine-tuning run with what the page and the choice of the rate need.
struct Finetuned {
    run: ArmRun,
    summary: Summary,
    curve: Vec<f64>,
}

/// Runs it.
///
/// # Errors
/// [`Error::Config`] when the output folder is taken; [`Error::Interrupted`] when the listener said stop; what
/// training can fail with.
pub fn run(config: &QuickstartConfig, listener: &mut Listener<'_>) -> Result<QuickstartSummary> {
    run_sized(config, &FULL, listener)
}

fn run_sized(
    config: &QuickstartConfig,
    size: &Size,
    listener: &mut Listener<'_>,
) -> Result<QuickstartSummary> {
    check_free(&config.out)?;
    std::fs::create_dir_all(&config.out).map_err(Error::io("create the folder", &config.out))?;
    let mut overall = Overall::new(listener);
    let (corpus, questions) = (starter::corpus(), starter::questions());
    let tokenizer = config.out.join("tokenizer.json");
    source::starter_tokenizer()?.save(&tokenizer)?;

    let runs = RATES.len() as u64 * size.seeds;
    let all = 1 + 2 * runs + size.seeds;
    overall.say(&format!(
        "1 of {all}: pretraining a small transformer on {} KB of built-in text",
        thousands(corpus.train.len() / 1000)
    ));
    let trunk = config.out.join("trunk");
    let clock = Instant::now();
    let pretraining = overall.run(PRETRAINING_SHARE, |listener| {
        pretrain(&pretrain_config(config, size, &tokenizer), &run_options(config, &trunk), listener)
    })?;
    check_whole(&pretraining, &config.out)?;
    RunFolder::open(&trunk)?.remove_checkpoints()?;
    let pretraining_seconds = clock.elapsed().as_secs_f64();
    let pretraining_ppl = pretraining.metrics.get("valid/ppl").copied().unwrap_or(f64::NAN);
    overall.say(&format!("  validation perplexity {pretraining_ppl:.1} after {pretraining_seconds:.0} s"));

    let count = questions.train.len();
    overall.say(&format!("2 to {}: fine-tuning it on {count} questions", runs + 1));
    let (pretrained, with) = run_arm(config, size, Start::Pretrained(&trunk), &mut overall)?;
    overall.say(&format!("{} to {}: the same from random weights, to compare", runs + 2, 2 * runs + 1));
    let (scratch, without) = run_arm(config, size, Start::Scratch(&trunk), &mut overall)?;
    overall.say(&format!("{} to {all}: fine-tuning the model in this program", 2 * runs + 2));
    let unpacked = shipped::unpack(&config.out)?;
    let (shipped, from_shipped) = run_arm(config, size, Start::Shipped(&unpacked), &mut overall)?;
    // It is unpacked again wherever it is asked for.
    std::fs::remove_dir_all(&unpacked).map_err(Error::io("remove", &unpacked))?;
    let words = words_alone(&questions);

    // Of equal ones the first.
    let best = shipped.runs.iter().chain(&pretrained.runs).filter(|run| run.test.is_some());
    let best = best.reduce(|best, run| if run.validation > best.validation { run } else { best });
    let summary = QuickstartSummary {
        model: config.out.join(best.map_or("pretrained", |run| &run.name)),
        pretrained,
        scratch,
        shipped,
        words,
        pretraining_ppl,
        pretraining_seconds,
        out: config.out.clone(),
        report: config.out.join("report.html"),
    };
    let confusions = [(page::SHIPPED, from_shipped), (page::WITH, with), (page::WITHOUT, without)];
    let confusions = confusions.into_iter().filter_map(|(name, last)| {
        let step = last.summary.metrics_step.unwrap_or_default();
        let title = format!("Test set, {name}, seed {}, step {step}", last.run.seed);
        Some(Confusion { title, labels: last.summary.labels, counts: last.summary.confusion? })
    });
    page::page(&summary, &read_metrics(&trunk)?, confusions.collect()).write(&summary.report)?;
    Ok(summary)
}

/// Runs all seeds at all rates, chooses the arm's rate on validation, and keeps the models of that rate alone. Beside the
/// arm: its last run.
fn run_arm(
    config: &QuickstartConfig,
    size: &Size,
    start: Start<'_>,
    overall: &mut Overall<'_, '_>,
) -> Result<(Arm, Finetuned)> {
    let share = start.share() / (start.rates().len() as u64 * size.seeds) as f64;
    let mut one = |lr: Option<f64>, seed: u64| -> Result<Finetuned> {
        let of_rate = lr.map_or_else(String::new, |lr| format!("-lr{lr:.0e}"));
        let name = format!("{}{of_rate}-seed{seed}", start.name());
        let dir = config.out.join(&name);
        let clock = Instant::now();
        let settings = finetune_config(config, size, start, lr, seed);
        let summary = overall.run(share, |listener| {
            finetune_compared(&settings, &run_options(config, &dir), Compared::ByCaller, listener)
        })?;
        check_whole(&summary, &config.out)?;
        RunFolder::open(&dir)?.remove_checkpoints()?;
        let records = read_metrics(&dir)?;
        let valid = records.iter().filter(|r| r.kind == Kind::Valid);
        let curve = valid.filter_map(|r| r.value("accuracy")).collect();
        let metric = |key: &str| summary.metrics.get(key).copied();
        // Where it was not given, the one that was reached.
        let peak = records.iter().filter_map(|r| r.value("lr")).fold(0.0, f64::max);
        let peak = (peak * 1e7).round() / 1e7;
        let run = ArmRun {
            name,
            lr: lr.unwrap_or(peak),
            seed,
            step: summary.metrics_step.unwrap_or_default(),
            validation: metric("valid/accuracy").unwrap_or(f64::NAN),
            test: metric("test/accuracy"),
            seconds: clock.elapsed().as_secs_f64(),
        };
        Ok(Finetuned { run, summary, curve })
    };
    let seeds = config.seed + 1..=config.seed + size.seeds;
    let mut best: Option<Vec<Finetuned>> = None;
    let mut rejected: Vec<ArmRun> = Vec::new();
    for &lr in start.rates() {
        let mut runs = seeds.clone().map(|seed| one(lr, seed)).collect::<Result<Vec<_>>>()?;
        let better = best.as_ref().is_none_or(|other| {
            let (a, b) = (mean_of(&runs, "valid/accuracy"), mean_of(other, "valid/accuracy"));
            a > b || (a >= b && mean_of(&runs, "valid/loss") < mean_of(other, "valid/loss"))
        });
        if better {
            std::mem::swap(&mut runs, best.get_or_insert_default());
        }
        rejected.extend(runs.into_iter().map(|other| ArmRun { test: None, ..other.run }));
    }
    for run in &rejected {
        RunFolder::open(&config.out.join(&run.name))?.remove_final()?;
    }
    let mut runs = best.unwrap_or_default();
    let arm = arm(&runs, rejected);
    overall.say(&format!(
        "  validation accuracy {} at learning rate {:e}",
        percent(arm.validation_mean),
        arm.lr
    ));
    let Some(last) = runs.pop() else { unreachable!("there are rates and seeds") };
    Ok((arm, last))
}

/// What the runs at the chosen rate come to.
fn arm(runs: &[Finetuned], mut all: Vec<ArmRun>) -> Arm {
    let accuracies: Vec<f64> = runs.iter().filter_map(|r| r.run.test).collect();
    let n = accuracies.len() as f64;
    let mean = mean_of(runs, "test/accuracy");
    let variance = accuracies.iter().map(|a| (a - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    let epochs = runs.iter().map(|r| r.curve.len()).min().unwrap_or(0);
    let at = |epoch: usize| runs.iter().map(|r| r.curve[epoch]).sum::<f64>() / n;
    all.extend(runs.iter().map(|r| r.run.clone()));
    all.sort_by(|a, b| a.lr.total_cmp(&b.lr).then(a.seed.cmp(&b.seed)));
    Arm {
        accuracy_mean: mean,
        accuracy_std: variance.sqrt(),
        accuracies,
        validation_mean: mean_of(runs, "valid/accuracy"),
        lr: runs.first().map_or(f64::NAN, |r| r.run.lr),
        validation_curve: (0..epochs).map(at).collect(),
        seconds: runs.iter().map(|r| r.run.seconds).sum(),
        runs: all,
    }
}

/// A metric's mean over runs; not a number where one lacks it.
fn mean_of(runs: &[Finetuned], key: &str) -> f64 {
    let values = runs.iter().map(|run| run.summary.metrics.get(key).copied().unwrap_or(f64::NAN));
    values.sum::<f64>() / runs.len() as f64
}

/// Fits words and pairs of words at each strength; of equal ones the first.
fn words_alone(questions: &starter::Questions) -> Words {
    let clock = Instant::now();
    let numbered = |split: &'_ [LabelledText]| -> (Vec<String>, Vec<u32>) {
        let class = |label: &str| QUESTION_LABELS.iter().position(|known| *known == label);
        split.iter().filter_map(|q| Some((q.text.clone(), class(q.label)? as u32))).unzip()
    };
    let splits = [&questions.train, &questions.valid, &questions.test].map(|split| numbered(split));
    let [train, valid, test] = splits
        .each_ref()
        .map(|(texts, classes)| (texts.iter().map(String::as_str).collect::<Vec<_>>(), classes));
    let count = QUESTION_LABELS.len();
    let examples = baseline::Examples { texts: &train.0, classes: train.1, count, groups: &[] };
    let mut best: Option<(Words, BagOfWords)> = None;
    for strength in STRENGTHS {
        let Some(fit) = BagOfWords::fit_with(examples, NGrams::Words, strength, &mut || true) else {
            continue;
        };
        let validation = fit.accuracy(&valid.0, valid.1);
        if best.as_ref().is_none_or(|(words, _)| validation > words.validation) {
            best = Some((Words { validation, strength, ..Words::default() }, fit));
        }
    }
    let Some((words, fit)) = best else { unreachable!("there are strengths") };
    Words { accuracy: fit.accuracy(&test.0, test.1), seconds: clock.elapsed().as_secs_f64(), ..words }
}

fn pretrain_config(config: &QuickstartConfig, size: &Size, tokenizer: &Path) -> PretrainConfig {
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
            n_epochs: Some(size.pretraining_epochs),
            max_steps: size.pretraining_steps,
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
    size: &Size,
    start: Start<'_>,
    lr: Option<f64>,
    seed: u64,
) -> FinetuneConfig {
    let train = TrainConfig {
        n_epochs: Some(size.finetuning_epochs),
        eval_every: Some(-1),
        seed,
        threads: config.threads,
        keep: 1,
        ..TrainConfig::default()
    };
    let data = DataConfig { path: STARTER_QUESTIONS.into(), ..DataConfig::default() };
    let (trunk, from_scratch) = match start {
        Start::Pretrained(trunk) => (trunk, false),
        Start::Scratch(trunk) => (trunk, true),
        Start::Shipped(folder) => {
            return FinetuneConfig {
                model: Some(folder.to_path_buf()),
                data,
                train,
                ..FinetuneConfig::default()
            };
        }
    };
    FinetuneConfig {
        model: Some(trunk.to_path_buf()),
        from_scratch,
        data,
        dropout: Some(0.1),
        train: TrainConfig {
            train_batch_size: Some(16),
            valid_batch_size: 64,
            lr,
            max_norm: Some(1.0),
            warmup_steps: Some(20),
            schedule: Some(Schedule::Linear),
            ..train
        },
        ..FinetuneConfig::default()
    }
}

fn run_options(config: &QuickstartConfig, dir: &Path) -> RunOptions {
    let device = config.device.clone();
    RunOptions {
        place: Place::New(dir.to_path_buf()),
        command: "headstart quickstart".into(),
        device,
        collective: Collective::alone(),
        allow_other_groups: false,
    }
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
