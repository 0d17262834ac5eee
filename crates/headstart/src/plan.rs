//! What a run will take, said before it is started: parameters, memory, operations, traffic and time.
//!
//! Owns: the sums, and a model of the time with its assumptions. Never: starts or writes anything, reads data, measures.
//!
//! The time is that of a step's operations at an assumed rate, plus that of its bytes and messages at an assumed bandwidth
//! and latency. docs/scaling.md has what it was compared with.

use serde::Serialize;

use crate::batch::GROUPED_TOKENS;
use crate::checkpoint::{LoadedModel, ModelPath, load_model, with_lm_head, without_lm_head};
use crate::config::{
    Amount, Copies, FinetuneConfig, HeadConfig, HeadShape, Method, ModelConfig, ObjectiveName,
    PretrainConfig, Problem, Task, TrainConfig,
};
use crate::device::SLAB_TOKENS;
use crate::error::{Error, Result};
use crate::method::trains;
use crate::model::Model;
use crate::params::{Kind, Param};

/// The longest inputs that nobody has asked for.
const LONGEST: usize = 512;
/// Examples where nobody says how many there are: enough that the number changes nothing.
const MANY: usize = 1 << 20;
/// Bytes that a process takes beside the model: the program, its pools, blocks of products.
const FIXED_BYTES: u64 = 18 << 20;
/// Times that the ranks wait for each other's messages in a step: pieces of the gradient, sums of losses and of the norm,
/// pieces of the weights, whether to go on.
const ROUNDS: f64 = 4.0;
/// The share of a training step's operations that are backward's.
const BACKWARD: f64 = 2.0 / 3.0;

/// What cannot be known before a run is started, or is of the machines.
#[derive(Clone, Debug)]
pub struct Assumptions {
    /// Processes.
    pub ranks: usize,
    /// Training sequences; `None`: unknown, and so is the length of the run where `max_steps` does not say it.
    pub examples: Option<usize>,
    /// Tokens of a training sequence; `None`: as many as the settings allow.
    pub tokens_per_example: Option<usize>,
    /// Pieces of the vocabulary of a model that is new.
    pub vocab_size: usize,
    /// 10^9 operations of the model's products a second that a rank does; `None`: unknown, and so are all times.
    pub gflops: Option<f64>,
    /// What a rank's network carries each way, in 10^9 bits a second.
    pub bandwidth_gbit: f64,
    /// From sending a message to having it, in microseconds.
    pub latency_us: f64,
}

/// What a run takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// The model's parameters, by part.
    pub parameters: Parameters,
    /// Processes.
    pub ranks: usize,
    /// Sequences of an optimizer step, over all ranks.
    pub sequences_per_step: usize,
    /// Tokens of a sequence: at most, where that is not known.
    pub tokens_per_example: usize,
    /// Tokens of an optimizer step, over all ranks.
    pub tokens_per_step: usize,
    /// Pieces that a step is cut into, which ranks take whole.
    pub slabs_per_step: usize,
    /// Sequences of a step of the rank that has most.
    pub sequences_of_rank: usize,
    /// Optimizer steps of the run; `None`: unknown.
    pub steps: Option<u64>,
    /// Operations of an optimizer step, over all ranks.
    pub flops_per_step: f64,
    /// The memory of a rank, in bytes.
    pub memory: Memory,
    /// What a rank sends in a step, and receives as much: its part of the gradients and of the weights, in bytes.
    pub traffic_bytes: u64,
    /// Times; `None`: no rate is known.
    pub time: Option<Time>,
}

/// Numbers of parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Parameters {
    /// Of tokens, positions and types.
    pub embeddings: usize,
    /// Attention of all layers.
    pub attention: usize,
    /// Feed-forwards of all layers.
    pub feed_forward: usize,
    /// Norms.
    pub norms: usize,
    /// Adapters and low-rank updates.
    pub adapters: usize,
    /// What the language model's head and the classifier have of their own.
    pub heads: usize,
    /// All of these.
    pub total: usize,
    /// Those that train.
    pub trainable: usize,
}

/// Bytes of a rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// All weights, as f32.
    pub weights: u64,
    /// The gradients of those that train.
    pub gradients: u64,
    /// The rank's share of the optimizer's moments.
    pub moments: u64,
    /// Copies of the weights that train: where they began, for a run that pulls them there (its share), and their running mean (its
    /// share), with the whole model that is evaluated with it.
    #[serde(skip_serializing_if = "is_none")]
    pub copies: u64,
    /// Sums of groups that wait for their neighbours, where a rank has several `reduction_groups`.
    pub group_sums: u64,
    /// What a slab's forward pass keeps for backward, and the program: an estimate.
    pub activations: u64,
    /// All of these.
    pub total: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's way to ask
fn is_none(bytes: &u64) -> bool {
    *bytes == 0
}

/// Seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Time {
    /// The operations of a rank in a step.
    pub compute_s: f64,
    /// Its traffic in a step.
    pub traffic_s: f64,
    /// A step in which nothing travels while something is computed.
    pub step_s: f64,
    /// A step in which gradients travel during the last backward as far as that lasts.
    pub overlapped_step_s: f64,
    /// The compute of one process alone, divided by what all ranks together spend on `step_s`.
    pub efficiency: f64,
    /// The same with `overlapped_step_s`.
    pub overlapped_efficiency: f64,
    /// The run, by `step_s`, without evaluations and saving; `None`: its steps are unknown.
    pub run_s: Option<f64>,
}

/// What training a language model takes.
///
/// # Errors
/// Settings or assumptions out of range, a model that cannot be read.
pub fn pretrain(config: &PretrainConfig, assumed: &Assumptions) -> Result<Plan> {
    config.validate()?;
    let base = config.from.as_deref().map(load_model).transpose()?;
    let new_head = base.as_ref().is_some_and(|base| base.files.objective.is_none());
    let mut model = match &base {
        Some(base) => {
            let head_shape = HeadShape::default();
            ModelConfig { head: None, head_shape, ..base.files.config.clone() }
        }
        None => ModelConfig { vocab_size: assumed.vocab_size, ..config.model.clone() },
    };
    if new_head {
        with_lm_head(&mut model);
    }
    let predicts = config.objective_of(&model);
    model.causal = predicts == ObjectiveName::Lm;
    let most =
        if model.arch.is_encoder() { model.num_max_positions.min(LONGEST) } else { model.num_max_positions };
    let share = masked_share(predicts, config.mlm_probability);
    let work = Work {
        task: if base.is_some() { Task::Continuing { new_head } } else { Task::Pretraining },
        train: &config.train,
        keeps_start: false,
        tokens: config.block_size.unwrap_or(most),
        predicted: share,
        passes: 3.0,
    };
    work.plan(&model, |_| true, assumed)
}

/// What training a classifier takes.
///
/// # Errors
/// Settings or assumptions out of range, no model, or one that cannot be read.
pub fn finetune(config: &FinetuneConfig, assumed: &Assumptions) -> Result<Plan> {
    config.validate()?;
    let Some(path) = &config.model else {
        return Err(Error::Config {
            key: "model".into(),
            what: "fine-tuning starts from a model, and none is named".into(),
            fix: "name one: --model runs/trunk".into(),
        });
    };
    let base = load_model(ModelPath { path, base: config.peft.base.as_deref() })?;
    let (model, most) = classifier(config, &base);
    let predicts = base.files.objective.unwrap_or(ObjectiveName::of(&base.files.config));
    let share = masked_share(predicts, base.files.masked_share());
    let work = Work {
        task: Task::Finetuning { method: config.method, from_scratch: config.from_scratch },
        train: &config.train,
        keeps_start: config.regularisation.keeps_start(),
        tokens: most,
        predicted: if config.lm_loss_coef > 0.0 { share } else { 0.0 },
        // Frozen weights need no gradients of their own, and those below everything that trains need no backward.
        passes: match config.method {
            Method::Full | Method::Contrastive => 3.0,
            Method::Adapters | Method::Lora | Method::Ia3 | Method::Bitfit => 2.0,
            Method::Head | Method::Features | Method::Bow => 1.0,
        },
    };
    work.plan(&model, |param| trains(config.method, config.train_norms, param), assumed)
}

/// The base model with the classifier that is added, and the tokens of its longest input.
fn classifier(config: &FinetuneConfig, base: &LoadedModel) -> (ModelConfig, usize) {
    let files = &base.files;
    let (own, defaults) = (files.config.head.as_ref(), files.head_defaults);
    let arch = files.config.arch;
    let positions = files.config.num_max_positions;
    let length = own.and_then(|head| head.max_length).or(defaults.and_then(|defaults| defaults.max_length));
    let most = config.max_length.or(length).unwrap_or(if arch.is_encoder() { LONGEST } else { positions });
    let classes = if config.problem == Problem::Regression { 1 } else { config.num_classes.unwrap_or(2) };
    let head = HeadConfig {
        num_classes: classes,
        pooling: config.pooling.unwrap_or_else(|| arch.pooling()),
        problem: config.problem,
        max_length: None,
        truncation: None,
        dropout: None,
    };
    let adapters = config.adapters(files.config.embed_dim);
    let mut model = ModelConfig {
        adapters_dim: adapters.or(files.config.adapters_dim),
        adapters: if adapters.is_some() { config.peft.adapters() } else { files.config.adapters },
        lora: config.lora().or(files.config.lora),
        ia3: config.peft.ia3(config.method).or(files.config.ia3),
        head: Some(head),
        head_shape: config.head.shape(files.config.embed_dim, files.config.head_shape, config.method),
        ..files.config.clone()
    };
    if config.lm_loss_coef <= 0.0 {
        without_lm_head(&mut model);
    } else if files.objective.is_none() {
        with_lm_head(&mut model);
    }
    (model, most.min(positions))
}

/// The share of tokens that are predicted.
fn masked_share(objective: ObjectiveName, probability: f64) -> f64 {
    match objective {
        ObjectiveName::Lm => 1.0,
        ObjectiveName::Mlm => probability,
    }
}

/// What of a run is not of its model.
struct Work<'a> {
    task: Task,
    train: &'a TrainConfig,
    /// Whether where weights began is kept.
    keeps_start: bool,
    /// Of a sequence.
    tokens: usize,
    /// The share of them that is predicted.
    predicted: f64,
    /// Forward passes that a step's forward and backward take as long as.
    passes: f64,
}

impl Work<'_> {
    fn plan(
        &self,
        model: &ModelConfig,
        trains: impl Fn(&Param) -> bool,
        assumed: &Assumptions,
    ) -> Result<Plan> {
        assumed.validate()?;
        let mut built = Model::new(model)?;
        built.freeze_except(trains);
        let parameters = Parameters::of(&built);
        let mut train = self.train.clone();
        let tokens_per_example =
            assumed.tokens_per_example.unwrap_or(self.tokens).min(model.num_max_positions);
        let examples = assumed.examples.unwrap_or(MANY);
        let amount = Amount { examples, tokens: examples.saturating_mul(tokens_per_example) };
        train.choose(self.task, model, amount);
        let steps = match (assumed.examples, train.max_steps) {
            (Some(examples), _) => Some(train.total_steps(examples)),
            (None, most) => most,
        };
        let ranks = assumed.ranks;
        let sequences_per_step = train.global_batch();
        let tokens_per_step = sequences_per_step * tokens_per_example;
        // A slab ends with the sequence that fills it, and ranks take contiguous slabs, as evenly as can be.
        let per_slab = GROUPED_TOKENS.div_ceil(tokens_per_example).min(sequences_per_step);
        let slabs_per_step = sequences_per_step.div_ceil(per_slab);
        let sequences_of_rank = (per_slab * slabs_per_step.div_ceil(ranks)).min(sequences_per_step);
        let predicted = (self.predicted * tokens_per_step as f64).round() as usize;
        let lengths = std::iter::repeat_n(tokens_per_example, sequences_per_step);
        let flops_per_step = self.passes * built.forward_flops(lengths, predicted);
        let traffic_bytes = 2 * 4 * (parameters.trainable as u64) * (ranks as u64 - 1) / ranks as u64;
        let mut plan = Plan {
            parameters,
            ranks,
            sequences_per_step,
            tokens_per_example,
            tokens_per_step,
            slabs_per_step,
            sequences_of_rank,
            steps,
            flops_per_step,
            memory: Memory::of(
                &parameters,
                ranks,
                train.reduction_groups.unwrap_or(ranks) / ranks,
                Copies { start: self.keeps_start, mean: train.ema.is_some() },
                activations(&built, tokens_per_example, self.predicted),
            ),
            traffic_bytes,
            time: None,
        };
        plan.time = assumed.gflops.map(|gflops| plan.time(gflops, assumed));
        Ok(plan)
    }
}

impl Assumptions {
    fn validate(&self) -> Result<()> {
        let numbers = [
            ("world_size", self.ranks as f64),
            ("vocab_size", self.vocab_size as f64),
            ("examples", self.examples.unwrap_or(1) as f64),
            ("tokens_per_example", self.tokens_per_example.unwrap_or(1) as f64),
            ("gflops", self.gflops.unwrap_or(1.0)),
            ("bandwidth", self.bandwidth_gbit),
        ];
        for (key, value) in numbers {
            if !(value > 0.0 && value.is_finite()) {
                return Err(Error::Config {
                    key: key.into(),
                    what: format!("{value} is not possible"),
                    fix: "use a positive number".into(),
                });
            }
        }
        let refuse = |key: &str, what: String, fix: &str| {
            Err(Error::Config { key: key.into(), what, fix: fix.into() })
        };
        if !self.ranks.is_power_of_two() {
            let what = format!("{} ranks: gradients are added in a binary tree", self.ranks);
            return refuse("world_size", what, "use a power of two");
        }
        if !(self.latency_us >= 0.0 && self.latency_us.is_finite()) {
            return refuse(
                "latency",
                format!("{} is not possible", self.latency_us),
                "use microseconds, 0 or more",
            );
        }
        Ok(())
    }
}

impl Plan {
    fn time(&self, gflops: f64, assumed: &Assumptions) -> Time {
        let ranks = self.ranks as f64;
        // The rank with most is waited for.
        let most = self.sequences_of_rank as f64;
        let alone_s = self.flops_per_step / (gflops * 1e9);
        let compute_s = alone_s * most / self.sequences_per_step as f64;
        let (bytes_s, waits_s) = if self.ranks == 1 {
            (0.0, 0.0)
        } else {
            (
                self.traffic_bytes as f64 * 8.0 / (assumed.bandwidth_gbit * 1e9),
                ROUNDS * assumed.latency_us * 1e-6,
            )
        };
        let tokens_of_rank = self.tokens_per_example as f64 * most;
        let last_backward_s = BACKWARD * compute_s * (GROUPED_TOKENS as f64 / tokens_of_rank).min(1.0);
        // Gradients are the first half of the bytes; the weights can only follow.
        let hidden_s = last_backward_s.min(bytes_s / 2.0);
        let step_s = compute_s + bytes_s + waits_s;
        let overlapped_step_s = step_s - hidden_s;
        Time {
            compute_s,
            traffic_s: bytes_s + waits_s,
            step_s,
            overlapped_step_s,
            efficiency: alone_s / (ranks * step_s),
            overlapped_efficiency: alone_s / (ranks * overlapped_step_s),
            run_s: self.steps.map(|steps| steps as f64 * step_s),
        }
    }
}

impl Parameters {
    fn of(model: &Model) -> Self {
        let mut parts = Self::default();
        for param in model.table().params() {
            let part = match param.kind {
                Kind::TokenEmbedding
                | Kind::PositionEmbedding
                | Kind::TokenTypeEmbedding
                | Kind::EmbeddingProjection
                | Kind::TokenOffset => &mut parts.embeddings,
                Kind::AttentionIn | Kind::AttentionOut => &mut parts.attention,
                Kind::FeedForwardUp | Kind::FeedForwardDown => &mut parts.feed_forward,
                Kind::Norm => &mut parts.norms,
                Kind::Adapter | Kind::Lora | Kind::Ia3 => &mut parts.adapters,
                Kind::LmHead | Kind::Head => &mut parts.heads,
            };
            *part += param.len();
        }
        Self { total: model.table().len(), trainable: model.table().trainable_len(), ..parts }
    }
}

impl Memory {
    /// `groups` are those of a rank.
    fn of(parameters: &Parameters, ranks: usize, groups: usize, copies: Copies, activations: u64) -> Self {
        let (weights, gradients) = (4 * parameters.total as u64, 4 * parameters.trainable as u64);
        // Two moments a parameter, of those that this rank updates.
        let moments = 8 * parameters.trainable.div_ceil(ranks) as u64;
        let copies = 4 * copies.numbers(parameters.total, parameters.trainable, ranks);
        // One for each level of the tree below the rank's own.
        let group_sums = u64::from(groups.max(1).ilog2()) * gradients;
        let total = weights + gradients + moments + copies + group_sums + activations;
        Self { weights, gradients, moments, copies, group_sums, activations, total }
    }
}

/// Bytes of a slab on the processor: about what each layer keeps, the predictions and their gradients, and what is there
/// without a model. Within a tenth of what `headstart bench train` finds for the presets.
fn activations(model: &Model, tokens_per_example: usize, predicted: f64) -> u64 {
    let (config, tokens) = (model.config(), SLAB_TOKENS.next_multiple_of(tokens_per_example) as f64);
    let (width, inner) = (config.embed_dim as f64, config.hidden_dim as f64);
    // Of the last block, where one token is looked at, what its attention reads alone.
    let not_kept =
        if model.classified_token().is_some() && predicted <= 0.0 { 4.0 * width + inner } else { 0.0 };
    let layers = (8.0 * width + inner) * config.num_layers as f64 - not_kept;
    let predictions = 1.5 * predicted * config.vocab_size as f64;
    FIXED_BYTES + (4.0 * tokens * (layers + predictions)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assumed(ranks: usize) -> Assumptions {
        Assumptions {
            ranks,
            examples: None,
            tokens_per_example: None,
            vocab_size: 28_996,
            gflops: Some(100.0),
            bandwidth_gbit: 8.0,
            latency_us: 250.0,
        }
    }

    fn small() -> PretrainConfig {
        let train = TrainConfig { train_batch_size: Some(8), max_steps: Some(100), ..TrainConfig::default() };
        PretrainConfig { model: ModelConfig::preset("small").unwrap(), train, ..PretrainConfig::default() }
    }

    #[test]
    fn parts_are_the_whole_and_ranks_share_moments_only() {
        let alone = pretrain(&small(), &assumed(1)).unwrap();
        let Parameters { embeddings, attention, feed_forward, norms, adapters, heads, total, trainable } =
            alone.parameters;
        assert_eq!(embeddings, (28_996 + 256) * 256);
        assert_eq!(embeddings + attention + feed_forward + norms + adapters + heads, total);
        assert_eq!((total, alone.traffic_bytes, alone.tokens_per_step), (trainable, 0, 8 * 256));
        let four = pretrain(&small(), &assumed(4)).unwrap();
        assert_eq!(four.memory.moments, 8 * (trainable as u64).div_ceil(4));
        assert_eq!((four.memory.weights, four.memory.group_sums), (4 * total as u64, 0));
        let mut config = small();
        config.train.reduction_groups = Some(16);
        assert_eq!(pretrain(&config, &assumed(4)).unwrap().memory.group_sums, 2 * 4 * trainable as u64);
        // Three quarters of the gradient go out, and three quarters of the weights.
        assert_eq!(four.traffic_bytes, 6 * trainable as u64);
        assert_eq!(four.flops_per_step.to_bits(), alone.flops_per_step.to_bits());
    }

    #[test]
    fn copies_of_weights_are_counted() {
        let usual = pretrain(&small(), &assumed(4)).unwrap();
        let mut config = small();
        config.train.ema = Some(0.99);
        let averaged = pretrain(&config, &assumed(4)).unwrap();
        let (total, trainable) = (usual.parameters.total as u64, usual.parameters.trainable as u64);
        assert_eq!((usual.memory.copies, averaged.memory.copies), (0, 4 * (trainable.div_ceil(4) + total)));
        assert_eq!(averaged.memory.total - usual.memory.total, averaged.memory.copies);
        let json = |plan: &Plan| serde_json::to_value(plan.memory).unwrap();
        assert!(json(&usual).get("copies").is_none() && json(&averaged)["copies"].is_u64());
        // Where weights began is a share; nothing is kept of what never trains.
        assert_eq!(Copies { start: true, mean: false }.numbers(100, 10, 2), 5);
        assert_eq!(Copies { start: true, mean: true }.numbers(100, 10, 1), 10 + 10 + 100);
    }

    #[test]
    fn memory_is_about_what_a_benchmark_finds() {
        // Peaks of `headstart bench train` on the processor, batch 8, in MiB.
        for (preset, layers, vocab_size, measured) in [
            ("small", 6, 28_996, 325.0),
            ("small", 12, 28_996, 435.0),
            ("small", 6, 2_000, 139.0),
            ("naacl2019", 16, 28_996, 1_074.0),
        ] {
            let mut config = small();
            config.model = ModelConfig { num_layers: layers, ..ModelConfig::preset(preset).unwrap() };
            let plan = pretrain(&config, &Assumptions { vocab_size, ..assumed(1) }).unwrap();
            let planned = plan.memory.total as f64 / f64::from(1 << 20);
            assert!((planned / measured - 1.0).abs() < 0.1, "{preset} {layers} {vocab_size}: {planned}");
        }
    }

    #[test]
    fn time_is_operations_and_bytes() {
        let alone = pretrain(&small(), &assumed(1)).unwrap().time.unwrap();
        assert_eq!((alone.traffic_s, alone.efficiency, alone.run_s), (0.0, 1.0, Some(100.0 * alone.step_s)));
        let plan = pretrain(&small(), &assumed(4)).unwrap();
        let four = plan.time.unwrap();
        assert!((four.compute_s - alone.compute_s / 4.0).abs() < 1e-12);
        assert!((four.traffic_s - (plan.traffic_bytes as f64 / 1e9 + 1e-3)).abs() < 1e-12);
        assert!((four.efficiency - four.compute_s / four.step_s).abs() < 1e-12);
        assert!(four.overlapped_step_s < four.step_s && four.overlapped_efficiency > four.efficiency);
        // Eight sequences are four slabs, too few for eight: half of them wait for the others.
        let plan = pretrain(&small(), &assumed(8)).unwrap();
        assert_eq!((plan.slabs_per_step, plan.sequences_of_rank), (4, 2));
        let many = plan.time.unwrap();
        assert!((many.compute_s - alone.compute_s / 4.0).abs() < 1e-12);
        assert!(many.efficiency < 0.5);
    }

    #[test]
    fn the_length_of_a_run_is_known_from_examples_or_steps() {
        let mut config = small();
        config.train.max_steps = None;
        config.train.n_epochs = Some(3);
        assert_eq!(pretrain(&config, &assumed(1)).unwrap().steps, None);
        let known = Assumptions { examples: Some(81), ..assumed(1) };
        assert_eq!(pretrain(&config, &known).unwrap().steps, Some(33));
        for wrong in [
            Assumptions { ranks: 0, ..assumed(1) },
            Assumptions { ranks: 3, ..assumed(1) },
            Assumptions { gflops: Some(f64::NAN), ..assumed(1) },
            Assumptions { bandwidth_gbit: 0.0, ..assumed(1) },
            Assumptions { latency_us: -1.0, ..assumed(1) },
        ] {
            assert!(pretrain(&config, &wrong).is_err_and(|error| error.is_usage()), "{wrong:?}");
        }
    }
}
