//! How fast the work is that users wait for: the loop's own step, the evaluator's forward, prediction, generation.
//!
//! Owns: which work is timed, medians. Never: a second version of the work.
//!
//! A multiplication and an addition count as two operations; recomputation, softmax, norms and the optimizer count as
//! none, so a share of the peak is the share of the time that the model's matrix products would need at that peak.

use std::path::PathBuf;
use std::time::Instant;

use headstart_engine::bench::peak_gflops;
use headstart_engine::collective::{Exchange, GroupSums};
use headstart_engine::{Gradients, Precision, Tape, Weights, alloc, rng};
use serde::Serialize;

use crate::batch::{Batch, TokenTargets, epoch_order, training_mask_key};
use crate::checkpoint::load_model;
use crate::config::{
    Arch, DataConfig, FinetuneConfig, HeadConfig, HeadPooling, ModelConfig, ObjectiveName, PrecisionName,
    Problem, TrainConfig,
};
use crate::data::rows::TextInput;
use crate::data::source;
use crate::data::split::Split;
use crate::data::template::Template;
use crate::device::{Device, DeviceChoice};
use crate::error::{Error, Result};
use crate::event::Listener;
use crate::infer::{FeatureExtractor, FeaturesConfig, GenerateConfig, Generator, Predictor};
use crate::masking::Masking;
use crate::model::Model;
use crate::objective::Objective;
use crate::optim::Optimizer;
use crate::ranks::Ranks;
use crate::setup::classifier::Reading;
use crate::setup::labelled::DataRequest;
use crate::tokenizer::RoleIds;
use crate::train::Step;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// Optimizer steps of language modelling on random tokens.
    Train,
    /// Forward passes with the loss, as evaluation makes them.
    Forward,
    /// Optimizer steps of classification on a data set's examples.
    Finetune,
    /// Classifying one short text at a time.
    Predict,
    /// Vectors of a data set's texts, a batch at a time.
    Features,
    /// Continuing one text.
    Generate,
}

/// What is timed, on which model, how often.
#[derive(Clone, Debug)]
pub struct BenchConfig {
    /// The work.
    pub work: Work,
    /// The model's sizes, with its vocabulary's.
    pub model: ModelConfig,
    /// Next or masked tokens (train, forward).
    pub objective: ObjectiveName,
    /// f32 or bf16 products; `None`: f32, and for a model that is named what it was trained with, or (finetune) would be.
    pub precision: Option<PrecisionName>,
    /// Worker threads; 0: all.
    pub threads: usize,
    /// Where to compute.
    pub device: DeviceChoice,
    /// Sequences a step.
    pub batch: usize,
    /// Tokens a sequence (train, forward).
    pub seq: usize,
    /// Steps (texts, tokens) that are timed.
    pub steps: usize,
    /// Steps before them.
    pub warmup: usize,
    /// The processor's peak in GFLOP/s, if it is known to be higher than what is measured.
    pub stated_peak: Option<f64>,
    /// Labelled texts and their tokenizer (finetune); labelled texts (features).
    pub data: DataConfig,
    /// A model folder (predict, features, generate; finetune, whose sizes and tokenizer are its own then).
    pub run: Option<PathBuf>,
    /// Whether to say where the time goes.
    pub profile: bool,
}

/// What was measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Measured {
    /// Tokens of all timed steps.
    pub tokens: usize,
    /// Median seconds of a step (a text, a token).
    pub seconds: f64,
    /// Tokens per second: of the median step; where steps differ in size, of all.
    pub tokens_per_s: f64,
    /// Examples per second, where steps differ in size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub examples_per_s: Option<f64>,
    /// Seconds of a whole epoch at that speed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch_seconds: Option<f64>,
    /// Milliseconds of the median text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    /// Milliseconds that 19 of 20 texts do not exceed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p95_ms: Option<f64>,
    /// 10^9 floating-point operations of the model's products per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gflops: Option<f64>,
    /// The processor's register peak or the GPU's best large product: the higher of measured and stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_gflops: Option<f64>,
    /// `gflops / peak_gflops`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share_of_peak: Option<f64>,
    /// Blocks of memory asked for in a timed step, on average; `None` where the program does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocations_per_step: Option<f64>,
    /// "f32" or "bf16": what products were computed in.
    pub precision: &'static str,
    /// Worker threads.
    pub threads: usize,
    /// Instruction set.
    pub code_path: &'static str,
    /// What computed.
    pub device: String,
    /// The most memory the GPU's buffers took, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_peak_mib: Option<u64>,
    /// The share of a GPU's steps, those before the timed ones included, that were replayed as a recorded graph.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replayed: Option<f64>,
    /// Why no graphs are recorded, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_recorded: Option<String>,
    /// Where the time of a step goes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub profile: Vec<WorkTime>,
}

/// One kind of work in a step.
#[derive(Clone, Debug, Serialize)]
pub struct WorkTime {
    /// Which.
    pub work: &'static str,
    /// Milliseconds of a step.
    pub ms: f64,
    /// Times it runs in a step.
    pub calls: f64,
}

/// Runs the work and times it.
///
/// # Errors
/// Bad settings, and what loading data or a model refuses.
pub fn bench(config: &BenchConfig, listener: &mut Listener<'_>) -> Result<Measured> {
    if config.steps == 0 || config.batch == 0 || config.seq < 2 {
        return Err(Error::Config {
            key: "steps".into(),
            what: "steps and batch start at 1, seq at 2".into(),
            fix: "use larger numbers".into(),
        });
    }
    match config.work {
        Work::Train | Work::Forward | Work::Finetune => steps(config, listener),
        Work::Predict => predict(config),
        Work::Features => features(config, listener),
        Work::Generate => generate(config),
    }
}

fn steps(config: &BenchConfig, listener: &mut Listener<'_>) -> Result<Measured> {
    let device = config.device.open(config.threads)?;
    let mut model_config = config.model.clone();
    let (objective, batches, examples) = if config.work == Work::Finetune {
        finetune_batches(config, &mut model_config, listener)?
    } else {
        model_config.causal = config.objective == ObjectiveName::Lm;
        (Objective { lm: 1.0, ..Objective::default() }, random_batches(config)?, None)
    };
    let model = Model::new(&model_config)?;
    if objective.lm > 0.0 {
        model.check_lm_head()?;
    }
    let train = TrainConfig { train_batch_size: Some(config.batch), ..TrainConfig::default() };
    let mut weights = Weights::new(model.table().initial_values(train.seed));
    let learns = config.work != Work::Forward;
    let mut gradients = Gradients::new(if learns { model.table().trainable_len() } else { 0 });
    let (ranks, mut group_sums) = (Ranks::default(), GroupSums::default());
    let mut optimizer =
        learns.then(|| Optimizer::new(model.table(), &train, Exchange::alone(model.table().trainable_len())));
    let taken_by_finetune = config.run.is_some() && device.prefers_bf16();
    let unsaid = if taken_by_finetune { PrecisionName::Bf16 } else { PrecisionName::default() };
    let precision = Precision::from(config.precision.unwrap_or(unsaid));

    let (mut times, mut flops, mut tokens, mut sequences) = (Vec::new(), 0.0, 0, 0);
    let mut allocations = 0;
    let mut ready = None;
    for (i, batch) in batches.iter().enumerate() {
        if i == config.warmup {
            device.check()?;
            allocations = alloc::allocations();
            if config.profile {
                device.profile().start();
            }
        }
        let step = 1 + i as u64;
        let began = Instant::now();
        if let Some(optimizer) = &mut optimizer {
            let mut work = Step {
                device: &device,
                ranks: &ranks,
                model: &model,
                objective: &objective,
                precision,
                seed: train.seed,
                weights: &mut weights,
                gradients: &mut gradients,
                group_sums: &mut group_sums,
                optimizer,
                summed: None,
            };
            let mut now = ready.take().unwrap_or_else(|| work.ready(batch.clone(), step));
            let next = || batches.get(i + 1).cloned();
            let computed = work.forward_backward(&mut now, next, listener)?;
            if work.reduce(computed.as_ref(), &now.batch)?.is_none() {
                return Err(Error::Interrupted {
                    what: "the measurement was stopped".into(),
                    fix: "call it again".into(),
                });
            }
            ready = computed.and_then(|computed| computed.next);
            // As in the loop, a GPU goes on with the update while the next step begins.
            let norm = work.gradient_norm()?;
            work.update(norm, train.peak_lr(), step, step)?;
            if i + 1 == batches.len() {
                device.check()?;
            }
        } else {
            let denominators = objective.denominators(batch);
            for slab in batch.slabs(device.slab_tokens()) {
                let mut tape = Tape::inference(&device, &weights, &slab.packing, precision);
                objective.forward(&model, &mut tape, &slab, denominators);
            }
            device.check()?;
        }
        if i >= config.warmup {
            times.push(began.elapsed().as_secs_f64());
            flops += model.forward_flops(batch.sequences.iter().map(|s| s.input_ids.len()), batch.targets())
                * if learns { 3.0 } else { 1.0 };
            tokens += batch.tokens();
            sequences += batch.sequences.len();
        }
    }
    let counted = alloc::allocations();
    // Before `peak` takes some for itself.
    let device_peak_mib = peak_mib(&device);
    let total: f64 = times.iter().sum();
    let count = times.len() as f64;
    let profile = if config.profile { lines(&device, count) } else { Vec::new() };
    let seconds = quantile(&mut times, 0.5);
    let speed = |amount: f64| match examples {
        Some(_) => amount / total,
        None => amount / count / seconds,
    };
    let (gflops, peak) = (speed(flops * 1e-9), peak(config, &device));
    let graphs = device.graph_counts().filter(|_| learns && !config.profile);
    Ok(Measured {
        tokens,
        seconds,
        precision: precision.name(),
        tokens_per_s: speed(tokens as f64),
        examples_per_s: examples.map(|_| speed(sequences as f64)),
        epoch_seconds: examples.map(|all| all as f64 / speed(sequences as f64)),
        gflops: Some(gflops),
        peak_gflops: peak,
        share_of_peak: peak.map(|peak| gflops / peak),
        allocations_per_step: (counted > 0).then(|| (counted - allocations) as f64 / count),
        threads: device.threads(),
        code_path: device.code_path(),
        device: device.name(),
        device_peak_mib,
        replayed: graphs.as_ref().map(|c| c.replayed as f64 / batches.len() as f64),
        not_recorded: graphs.and_then(|counts| counts.disabled),
        profile,
        ..Measured::default()
    })
}

/// Any ids will do for random tokens.
const ROLES: RoleIds = RoleIds { mask: 0, cls: 1, sep: 2, eos: 2, unk: 3, pad: None };

/// Batches of random tokens, all of the same size.
fn random_batches(config: &BenchConfig) -> Result<Vec<Batch>> {
    let (vocab_size, seq) = (config.model.vocab_size, config.seq);
    if seq > config.model.num_max_positions {
        return Err(Error::Config {
            key: "seq".into(),
            what: format!("{seq} tokens do not fit {} positions", config.model.num_max_positions),
            fix: format!("add --num_max_positions {seq}"),
        });
    }
    let targets = match config.objective {
        ObjectiveName::Lm => TokenTargets::Next,
        ObjectiveName::Mlm => TokenTargets::Masked(Masking {
            probability: 0.15,
            mask_id: ROLES.mask,
            vocab_size,
            never: [Some(ROLES.cls), Some(ROLES.sep), None],
        }),
    };
    // An encoder's have its special tokens around them, as in pretraining.
    let template = Template::of(config.model.arch, HeadPooling::Last, ROLES, seq);
    let mut stream = rng::Stream::new(1);
    let mut sequence = |step: u64, i: usize| {
        let ids: Vec<u32> = (0..seq).map(|_| stream.below(vocab_size) as u32).collect();
        targets.sequence_of(&template.encode(&ids, None), None, training_mask_key(1, step, i))
    };
    let all = (config.warmup + config.steps) as u64;
    Ok((0..all)
        .map(|step| Batch { sequences: (0..config.batch).map(|i| sequence(step, i)).collect() })
        .collect())
}

/// Batches of a data set's training examples in the order of an epoch, and how many examples there are. A model that is
/// named reads them as it does in [`crate::finetune()`]; its weights play no part in the time.
fn finetune_batches(
    config: &BenchConfig,
    model: &mut ModelConfig,
    listener: &mut Listener<'_>,
) -> Result<(Objective, Vec<Batch>, Option<usize>)> {
    let (tokenizer, reading) = if let Some(folder) = &config.run {
        let named = load_model(folder)?;
        let reading = Reading::of(&FinetuneConfig::default(), &named, false)?;
        let tokenizer = named.tokenizer()?;
        *model = named.files.config;
        (tokenizer, reading)
    } else {
        let tokenizer = source::tokenizer(&config.data, listener)?;
        model.vocab_size = tokenizer.vocab_size();
        model.causal = config.objective == ObjectiveName::Lm && !model.arch.is_encoder();
        let (pooling, max_length) = (model.arch.pooling(), model.num_max_positions);
        (tokenizer, Reading { pooling, max_length, truncation: None })
    };
    let Reading { pooling, max_length: positions, truncation } = reading;
    let (problem, arch) = (Problem::SingleLabel, model.arch);
    let request = DataRequest { config: &config.data, problem, arch, pooling, positions, truncation };
    let labelled = request.load(&tokenizer, None, listener)?;
    let data = &labelled.data;
    let train = labelled.examples(data.get(Split::Train)?);
    let num_classes = data.labels.len();
    model.head =
        Some(HeadConfig { num_classes, pooling, problem, max_length: None, truncation, dropout: None });
    let order = epoch_order(train.len(), 1, 0);
    let batches = order.chunks(config.batch).cycle().take(config.warmup + config.steps).map(|picked| {
        let sequence = |&i: &u32| train.sequence(i as usize, &TokenTargets::None, 0);
        Batch { sequences: picked.iter().map(sequence).collect() }
    });
    let objective = Objective { clf: 1.0, ..Objective::default() };
    Ok((objective, batches.collect(), Some(train.len())))
}

/// Short questions to classify.
const TEXTS: [&str; 4] = [
    "Who wrote the play about the prince of Denmark ?",
    "How many moons does the fourth planet have ?",
    "What is the capital of the largest island in the north ?",
    "When did the first train cross the river ?",
];

fn predict(config: &BenchConfig) -> Result<Measured> {
    let predictor = Predictor::load(run_folder(config)?, config.precision, &config.device, config.threads)?;
    let Some(device) = predictor.device() else {
        return Err(Error::Config {
            key: "run".into(),
            what: "is a bag of words, which computes on no device".into(),
            fix: "name the run of a fine-tuned model".into(),
        });
    };
    let mut times = Vec::new();
    for i in 0..config.warmup + config.steps {
        let text = [TEXTS[i % TEXTS.len()].into()];
        let began = Instant::now();
        predictor.predict(&text)?;
        if i >= config.warmup {
            times.push(began.elapsed().as_secs_f64());
        }
    }
    let seconds = quantile(&mut times, 0.5);
    Ok(Measured {
        seconds,
        examples_per_s: Some(1.0 / seconds),
        p50_ms: Some(1e3 * seconds),
        p95_ms: Some(1e3 * quantile(&mut times, 0.95)),
        precision: predictor.precision().map_or("", Precision::name),
        threads: device.threads(),
        code_path: device.code_path(),
        device: device.name(),
        device_peak_mib: peak_mib(device),
        ..Measured::default()
    })
}

fn features(config: &BenchConfig, listener: &mut Listener<'_>) -> Result<Measured> {
    let wanted = FeaturesConfig {
        pooling: None,
        normalize: None,
        max_length: None,
        prompt: None,
        precision: config.precision,
        threads: config.threads,
        device: config.device.clone(),
    };
    let mut extractor = FeatureExtractor::load(run_folder(config)?, &wanted)?;
    let (problem, arch, pooling, positions) = (Problem::SingleLabel, Arch::default(), HeadPooling::Last, 2);
    let request = DataRequest { config: &config.data, problem, arch, pooling, positions, truncation: None };
    let batches = config.warmup + config.steps;
    let raw = request.read_raw(batches.saturating_mul(config.batch), listener)?;
    let samples = raw.splits.into_iter().next().map(|(_, split)| split.samples).unwrap_or_default();
    let texts: Vec<TextInput> = samples.iter().map(|(_, text)| TextInput::from(text.as_str())).collect();
    let mut next = texts.iter().cycle().cloned();
    let (mut times, mut examples) = (Vec::new(), 0);
    for i in 0..batches {
        let batch: Vec<TextInput> = next.by_ref().take(config.batch).collect();
        let began = Instant::now();
        extractor.features(&batch)?;
        if i >= config.warmup {
            times.push(began.elapsed().as_secs_f64());
            examples += batch.len();
        }
    }
    let total: f64 = times.iter().sum();
    Ok(Measured {
        seconds: quantile(&mut times, 0.5),
        examples_per_s: Some(examples as f64 / total),
        precision: extractor.precision().name(),
        threads: extractor.device().threads(),
        code_path: extractor.device().code_path(),
        device: extractor.device().name(),
        device_peak_mib: peak_mib(extractor.device()),
        ..Measured::default()
    })
}

fn generate(config: &BenchConfig) -> Result<Measured> {
    let generator = Generator::load(run_folder(config)?, config.precision, &config.device, config.threads)?;
    let tokens = config.steps;
    let greedy = GenerateConfig { max_new_tokens: tokens, temperature: 0.0, top_k: 0, top_p: 1.0, seed: 1 };
    let mut times = Vec::new();
    let mut made = 0;
    for i in 0..3 + usize::from(config.warmup > 0) {
        made = 0;
        let began = Instant::now();
        generator.generate(TEXTS[0], &greedy, &mut |_| made += 1)?;
        if i > 0 || config.warmup == 0 {
            times.push(began.elapsed().as_secs_f64());
        }
    }
    let seconds = quantile(&mut times, 0.5);
    Ok(Measured {
        tokens: made,
        seconds,
        precision: generator.precision().name(),
        tokens_per_s: made as f64 / seconds,
        threads: generator.device().threads(),
        code_path: generator.device().code_path(),
        device: generator.device().name(),
        device_peak_mib: peak_mib(generator.device()),
        ..Measured::default()
    })
}

fn run_folder(config: &BenchConfig) -> Result<&std::path::Path> {
    config.run.as_deref().ok_or_else(|| Error::Config {
        key: "model".into(),
        what: "this needs a model, and none is named".into(),
        fix: "name a run folder: --model runs/trec (predict, features), --model runs/trunk (generate)".into(),
    })
}

fn peak(config: &BenchConfig, device: &Device) -> Option<f64> {
    let measured = peak_gflops(device, config.precision.unwrap_or_default().into());
    match (measured, config.stated_peak) {
        (Some(measured), Some(stated)) => Some(measured.max(stated)),
        (measured, stated) => measured.or(stated),
    }
}

fn peak_mib(device: &Device) -> Option<u64> {
    device.is_cuda().then(|| (device.peak_bytes() >> 20) as u64)
}

fn lines(device: &Device, steps: f64) -> Vec<WorkTime> {
    let read = device.profile().read().into_iter().filter(|(_, _, calls)| *calls > 0);
    read.map(|(work, seconds, calls)| WorkTime {
        work: work.name(),
        ms: 1e3 * seconds / steps,
        calls: calls as f64 / steps,
    })
    .collect()
}

/// The value below which a share `q` of the values lies; sorts them.
fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(((values.len() as f64 - 1.0) * q).round() as usize).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(work: Work) -> BenchConfig {
        BenchConfig {
            work,
            model: ModelConfig {
                vocab_size: 60,
                embed_dim: 16,
                hidden_dim: 32,
                num_heads: 2,
                num_layers: 2,
                ..ModelConfig::default()
            },
            objective: ObjectiveName::Lm,
            precision: None,
            threads: 1,
            device: DeviceChoice::default(),
            batch: 2,
            seq: 9,
            steps: 2,
            warmup: 1,
            stated_peak: Some(1e9),
            data: DataConfig::default(),
            run: None,
            profile: true,
        }
    }

    #[test]
    fn steps_are_measured_and_masked_ones_cost_less() {
        let train = bench(&config(Work::Train), &mut |_| crate::event::Signal::Continue).unwrap();
        assert_eq!(train.tokens, 2 * 18);
        assert!(train.seconds > 0.0 && train.share_of_peak.unwrap() > 0.0);
        assert!(train.profile.iter().any(|line| line.work == "linear: dW" && line.calls >= 8.0));
        let forward = bench(&config(Work::Forward), &mut |_| crate::event::Signal::Continue).unwrap();
        assert!(forward.profile.iter().all(|line| !line.work.contains("backward")));
    }

    #[test]
    fn an_encoder_is_measured_with_its_special_tokens() {
        let mut bert = BenchConfig { objective: ObjectiveName::Mlm, ..config(Work::Train) };
        bert.model.arch = Arch::Bert;
        for batch in random_batches(&bert).unwrap() {
            for sequence in batch.sequences {
                let ids = &sequence.input_ids;
                assert_eq!((ids.len(), ids[0], ids[8]), (9, ROLES.cls, ROLES.sep));
                assert!(!sequence.rows.contains(&0) && !sequence.rows.contains(&8));
            }
        }
        let none = random_batches(&config(Work::Train)).unwrap();
        assert!(none.iter().flat_map(|b| &b.sequences).any(|s| s.input_ids[0] != ROLES.cls));
    }

    #[test]
    fn impossible_settings_are_refused() {
        let none = BenchConfig { steps: 0, ..config(Work::Train) };
        let long = BenchConfig { seq: 1_000, ..config(Work::Train) };
        for config in [none, long, config(Work::Predict), config(Work::Features)] {
            assert!(bench(&config, &mut |_| crate::event::Signal::Continue).unwrap_err().is_usage());
        }
    }
}
