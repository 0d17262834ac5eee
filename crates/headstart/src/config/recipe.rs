//! What a run does where its settings leave the choice open.
//!
//! Owns: the learning rate, batch, epochs, clipping and warm-up by task, method, family and size; the tutorial's values.
//! Never: a setting that was given. docs/log.md has the measurements that the numbers come from.

use serde::{Deserialize, Serialize};

use super::{Arch, Method, ModelConfig, Schedule, TrainConfig};

/// Who chooses the settings that are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recipe {
    /// The task, the method, the model's family and its size.
    #[default]
    Auto,
    /// The original tutorial, its learning-rate curves included.
    Tutorial,
}

/// What a run trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// A language model.
    Pretraining,
    /// A language model that has been trained on other text.
    Continuing {
        /// Whether its head is new.
        new_head: bool,
    },
    /// A classifier.
    Finetuning {
        /// Which parameters change.
        method: Method,
        /// Whether the weights start afresh.
        from_scratch: bool,
    },
}

/// What there is to read in an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount {
    /// Training examples: texts, pairs of texts, blocks of running text, or what is compared.
    pub examples: usize,
    /// Their tokens.
    pub tokens: usize,
}

/// A value for each setting that may be left out.
struct Values {
    lr: f64,
    train_batch_size: usize,
    n_epochs: usize,
    max_norm: f64,
    schedule: Schedule,
    warmup: Warmup,
}

#[derive(Clone, Copy)]
enum Warmup {
    Steps(u64),
    /// A tenth of the run, but no more steps than this.
    Tenth(u64),
    /// Half of the run, but no more steps than this.
    Half(u64),
}

/// Steps that fine-tuning should have on a small data set, and the epochs that it takes at most to get there.
const FINETUNING_STEPS: usize = 300;
const FINETUNING_EPOCHS: (usize, usize) = (3, 10);
/// The same for a head alone.
const HEAD_STEPS: usize = 1_500;
/// A small trunk learns for as long as that: about so many tokens, within so many epochs.
const SMALL_TRUNK_TOKENS: usize = 1_200_000;
const SMALL_TRUNK_EPOCHS: (usize, usize) = (1, 6);
/// Widths of small trunks.
const SMALL_TRUNK: usize = 256;

/// The rate that the tutorial fine-tunes its model with.
const TUTORIAL_FINETUNING_RATE: f64 = 6e-5;

/// For `eval_every`: at the end of each epoch only.
const EPOCH_ENDS: i64 = -1;
/// Steps between evaluations of the tutorial's recipe.
const TUTORIAL_EVAL_EVERY: i64 = 100;

impl Values {
    fn of(recipe: Recipe, task: Task, model: &ModelConfig, amount: Amount) -> Self {
        match (recipe, task) {
            (Recipe::Tutorial, Task::Pretraining | Task::Continuing { .. }) => {
                Self::tutorial_pretraining(true)
            }
            (Recipe::Auto, Task::Pretraining) if model.has_the_tutorials_size() => {
                Self::tutorial_pretraining(false)
            }
            (Recipe::Tutorial, Task::Finetuning { .. }) => Self {
                lr: TUTORIAL_FINETUNING_RATE,
                train_batch_size: 16,
                n_epochs: 3,
                max_norm: 0.25,
                schedule: Schedule::TutorialLinear,
                warmup: Warmup::Steps(500),
            },
            (Recipe::Auto, Task::Pretraining) => Self {
                lr: pretraining_rate(model),
                train_batch_size: if model.embed_dim <= 256 { 16 } else { 8 },
                n_epochs: 10,
                max_norm: 1.0,
                schedule: Schedule::Cosine,
                warmup: Warmup::Tenth(1_000),
            },
            (Recipe::Auto, Task::Continuing { new_head }) => Self {
                lr: continuing_rate(model, new_head),
                train_batch_size: 16,
                n_epochs: 3,
                max_norm: 1.0,
                schedule: Schedule::Linear,
                warmup: Warmup::Tenth(500),
            },
            (Recipe::Auto, Task::Finetuning { method, from_scratch }) => Self {
                lr: finetuning_rate(method, from_scratch, model),
                train_batch_size: 16,
                n_epochs: finetuning_epochs(method, model, amount),
                max_norm: 1.0,
                schedule: Schedule::Linear,
                warmup: Warmup::Tenth(500),
            },
        }
    }

    fn tutorial_pretraining(exact: bool) -> Self {
        Self {
            lr: 2.5e-4,
            train_batch_size: 8,
            n_epochs: 50,
            max_norm: 0.25,
            schedule: if exact { Schedule::TutorialCosine } else { Schedule::Cosine },
            // Norms in the stream want a slow rise: with a tenth 768 steps end 9 % higher in perplexity (docs/log.md).
            warmup: if exact { Warmup::Steps(1_000) } else { Warmup::Half(1_000) },
        }
    }
}

/// Small data are read more often than large ones. A small trunk is quick, and gains from more epochs on short texts.
fn finetuning_epochs(method: Method, model: &ModelConfig, amount: Amount) -> usize {
    let by_steps = {
        let (least, most) = FINETUNING_EPOCHS;
        FINETUNING_STEPS.div_ceil(amount.examples.div_ceil(16).max(1)).clamp(least, most)
    };
    match method {
        // Nearly convex, and quick.
        Method::Head => HEAD_STEPS.div_ceil(amount.examples.div_ceil(16).max(1)).clamp(3, 10),
        // Pairs are made in such a number that one pass is enough.
        Method::Contrastive => 1,
        _ if model.arch.is_encoder() && model.embed_dim <= SMALL_TRUNK => {
            let (least, most) = SMALL_TRUNK_EPOCHS;
            let few = amount.examples.div_ceil(16) * most < FINETUNING_STEPS;
            let by_tokens = (SMALL_TRUNK_TOKENS + amount.tokens / 2) / amount.tokens.max(1);
            if few { by_steps } else { by_tokens.clamp(least, most) }
        }
        _ => by_steps,
    }
}

/// A quarter of an epoch of so many steps, so that evaluations take a small part of the time; of a short one its end alone.
fn eval_every(epoch: u64) -> i64 {
    if epoch < 200 { EPOCH_ENDS } else { (epoch.div_ceil(4) as i64).max(100) }
}

/// Falls with the width: 2e-3 at 128, 1e-3 at 256, 3.3e-4 at 768. The tutorial's layout and post-norm take no high rates.
fn pretraining_rate(model: &ModelConfig) -> f64 {
    let most = match model.arch {
        Arch::Gpt2 | Arch::Modernbert => 3e-3,
        Arch::Naacl2019 | Arch::Bert | Arch::Roberta | Arch::Distilbert | Arch::Electra => 1e-3,
    };
    two_digits((0.256 / model.embed_dim as f64).clamp(1e-4, most))
}

/// A seventh of the rate from scratch and less, for what was learned is to be kept: 1e-4 at 384, 5e-5 at 768. A new head has
/// to be learned first, and takes three times that.
fn continuing_rate(model: &ModelConfig, new_head: bool) -> f64 {
    let rate = (0.038_4 / model.embed_dim as f64).clamp(2e-5, 3e-4);
    two_digits(if new_head { 3.0 * rate } else { rate })
}

/// What was trained falls with the width, for a large trunk has more to lose; what is new does not.
fn finetuning_rate(method: Method, from_scratch: bool, model: &ModelConfig) -> f64 {
    let narrow = 128.0 / model.embed_dim as f64;
    match method {
        Method::Full if from_scratch => two_digits((1e-3 * narrow).clamp(1e-4, 1e-3)),
        // The tutorial's: of so deep a stack of norms in the stream, 1.7e-4 makes one answer for all texts (docs/log.md).
        Method::Full if model.has_the_tutorials_size() => TUTORIAL_FINETUNING_RATE,
        // Measured for the model in the program.
        Method::Full if model.arch.is_encoder() && model.embed_dim <= SMALL_TRUNK => 2e-4,
        // What was published was trained for long: 1e-4 at 384, 5e-5 at 768.
        Method::Full if model.arch.is_encoder() => two_digits((3e-4 * narrow).clamp(1e-5, 3e-4)),
        Method::Full => two_digits((1e-3 * narrow.powf(1.5)).clamp(2e-5, 1e-3)),
        // Measured for adapters; 1e-3 at 384.
        Method::Adapters | Method::Lora => two_digits((3e-3 * narrow).clamp(3e-4, 3e-3)),
        // Biases go further: 3e-3 at 384 beats 1e-3 on held-out data of three tasks.
        Method::Bitfit => two_digits((9e-3 * narrow).clamp(3e-4, 3e-3)),
        // Few numbers, each of which has to go far: 2e-2 at 384.
        Method::Ia3 => two_digits((6e-2 * narrow).clamp(3e-3, 2e-2)),
        // The trunk is to keep what it knows, and few pairs are seen many times.
        Method::Contrastive => two_digits((3e-4 * narrow).clamp(2e-5, 3e-4)),
        // What is fitted has no rate.
        Method::Head | Method::Features | Method::Bow => 1e-2,
    }
}

/// So that the rate that is said is the rate that is meant.
fn two_digits(rate: f64) -> f64 {
    let unit = 10_f64.powi(1 - rate.log10().floor() as i32);
    (rate * unit).round() / unit
}

impl ModelConfig {
    /// Whether it is the tutorial's model: its family at its sizes.
    fn has_the_tutorials_size(&self) -> bool {
        let sizes =
            |m: &Self| (m.arch, m.embed_dim, m.hidden_dim, m.num_max_positions, m.num_heads, m.num_layers);
        sizes(self) == sizes(&Self::default())
    }
}

impl TrainConfig {
    /// Gives every setting that is left out, but for the warm-up, its value, and takes down what was chosen.
    pub fn choose(&mut self, task: Task, model: &ModelConfig, amount: Amount) -> Vec<String> {
        let values = Values::of(self.recipe, task, model, amount);
        let examples = amount.examples;
        let mut chosen = Vec::new();
        choose(&mut self.lr, values.lr, |lr| format!("lr {lr:e}"), &mut chosen);
        choose(&mut self.train_batch_size, values.train_batch_size, |n| format!("batch {n}"), &mut chosen);
        if self.n_epochs.is_none() {
            // An epoch more than enough where the steps are counted.
            let steps_per_epoch = self.steps_per_epoch(examples);
            let epochs =
                self.max_steps.map_or(values.n_epochs as u64, |steps| steps.div_ceil(steps_per_epoch));
            let said = if self.max_steps.is_some() { None } else { Some(format!("{epochs} epochs")) };
            self.n_epochs = Some(epochs as usize);
            chosen.extend(said);
        }
        choose(&mut self.max_norm, values.max_norm, |norm| format!("max_norm {norm}"), &mut chosen);
        let name = |schedule: &Schedule| format!("schedule {}", schedule.name());
        choose(&mut self.schedule, values.schedule, name, &mut chosen);
        if self.eval_every.is_none() {
            let every = match (self.recipe, task) {
                (_, Task::Pretraining | Task::Continuing { .. }) => EPOCH_ENDS,
                (Recipe::Tutorial, Task::Finetuning { .. }) => TUTORIAL_EVAL_EVERY,
                (Recipe::Auto, Task::Finetuning { .. }) => {
                    eval_every(self.steps_per_epoch(examples).min(self.total_steps(examples)))
                }
            };
            self.eval_every = Some(every);
            chosen.extend((every > 0).then(|| format!("an evaluation every {every} steps")));
        }
        chosen
    }

    /// The warm-up, once the run's length is known.
    pub fn choose_warmup(&mut self, task: Task, model: &ModelConfig, amount: Amount) -> Vec<String> {
        let total = self.total_steps(amount.examples);
        let steps = match (self.warmup_ratio, Values::of(self.recipe, task, model, amount).warmup) {
            (Some(share), _) => (total as f64 * share).floor() as u64,
            // What makes the triangle.
            _ if self.schedule == Some(Schedule::SlantedTriangular) => (total / 10).max(1),
            (None, Warmup::Steps(steps)) => steps,
            (None, Warmup::Tenth(most)) => (total / 10).min(most),
            (None, Warmup::Half(most)) => (total / 2).min(most),
        };
        let mut chosen = Vec::new();
        choose(&mut self.warmup_steps, steps, |n| format!("{n} warm-up steps"), &mut chosen);
        chosen
    }
}

fn choose<T>(setting: &mut Option<T>, value: T, said: impl Fn(&T) -> String, chosen: &mut Vec<String>) {
    if setting.is_none() {
        chosen.push(said(&value));
        *setting = Some(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(train: &TrainConfig, task: Task, model: &ModelConfig, examples: usize) -> TrainConfig {
        // Texts of a dozen tokens.
        let amount = Amount { examples, tokens: 12 * examples };
        let mut train = train.clone();
        train.choose(task, model, amount);
        train.choose_warmup(task, model, amount);
        train
    }

    #[test]
    fn the_tutorials_model_is_pretrained_with_the_tutorials_values() {
        let values = |train: &TrainConfig| {
            (train.lr, train.train_batch_size, train.n_epochs, train.max_norm, train.warmup_steps)
        };
        let tutorial = (Some(2.5e-4), Some(8), Some(50), Some(0.25), Some(1_000));
        let auto = chosen(&TrainConfig::default(), Task::Pretraining, &ModelConfig::default(), 10_000);
        assert_eq!((values(&auto), auto.schedule), (tutorial, Some(Schedule::Cosine)));
        let of_a_budget = TrainConfig { max_steps: Some(700), ..TrainConfig::default() };
        let of_a_budget = chosen(&of_a_budget, Task::Pretraining, &ModelConfig::default(), 10_000);
        assert_eq!((of_a_budget.lr, of_a_budget.warmup_steps), (Some(2.5e-4), Some(350)));
        let recipe = TrainConfig { recipe: Recipe::Tutorial, ..TrainConfig::default() };
        let model = ModelConfig::preset("mini").unwrap();
        let exact = chosen(&recipe, Task::Pretraining, &model, 10_000);
        assert_eq!((values(&exact), exact.schedule), (tutorial, Some(Schedule::TutorialCosine)));
        let task = Task::Finetuning { method: Method::Full, from_scratch: false };
        let exact = chosen(&recipe, task, &model, 5_000);
        let tutorial = (Some(6e-5), Some(16), Some(3), Some(0.25), Some(500));
        assert_eq!((values(&exact), exact.schedule), (tutorial, Some(Schedule::TutorialLinear)));
    }

    #[test]
    fn rates_follow_method_and_size_and_the_warm_up_the_length() {
        let rate = |task, preset: &str| {
            let model = ModelConfig::preset(preset).unwrap();
            chosen(&TrainConfig::default(), task, &model, 5_000).lr
        };
        let tuning = |method| Task::Finetuning { method, from_scratch: false };
        assert_eq!(rate(Task::Pretraining, "mini"), Some(2e-3));
        assert_eq!(rate(Task::Pretraining, "small"), Some(1e-3));
        assert_eq!(rate(Task::Pretraining, "gpt2"), Some(3.3e-4));
        assert_eq!(rate(tuning(Method::Full), "mini"), Some(1e-3));
        assert_eq!(rate(tuning(Method::Full), "gpt2"), Some(6.8e-5));
        assert_eq!(rate(tuning(Method::Full), "naacl2019"), Some(6e-5));
        assert!(rate(tuning(Method::Adapters), "mini") > rate(tuning(Method::Full), "mini"));
        let published = |embed_dim| {
            let model = ModelConfig { arch: Arch::Bert, embed_dim, ..ModelConfig::default() };
            chosen(&TrainConfig::default(), tuning(Method::Full), &model, 5_000).lr
        };
        assert_eq!([384, 768, 32].map(published), [Some(1e-4), Some(5e-5), Some(2e-4)]);
        let continued = |new_head| rate(Task::Continuing { new_head }, "gpt2");
        assert_eq!((continued(false), continued(true)), (Some(5e-5), Some(1.5e-4)));
        let model = ModelConfig::preset("mini").unwrap();
        let short = TrainConfig { max_steps: Some(200), ..TrainConfig::default() };
        let short = chosen(&short, tuning(Method::Full), &model, 800);
        // 50 steps an epoch.
        assert_eq!((short.warmup_steps, short.n_epochs, short.total_steps(800)), (Some(20), Some(4), 200));
        // Small data are read more often than large ones.
        let epochs =
            |examples| chosen(&TrainConfig::default(), tuning(Method::Full), &model, examples).n_epochs;
        assert_eq!([epochs(100), epochs(4_000), epochs(100_000)], [Some(10), Some(3), Some(3)]);
        // A small trunk reads short texts more often still, and much text once.
        let small = ModelConfig { arch: Arch::Electra, embed_dim: 256, ..ModelConfig::default() };
        let epochs =
            |examples| chosen(&TrainConfig::default(), tuning(Method::Full), &small, examples).n_epochs;
        assert_eq!([100, 400, 4_000, 40_000, 100_000].map(epochs), [10, 10, 6, 3, 1].map(Some));
    }

    #[test]
    fn a_warm_up_may_be_a_share_of_the_run() {
        let model = ModelConfig::preset("mini").unwrap();
        let task = Task::Finetuning { method: Method::Full, from_scratch: false };
        let steps = |train: TrainConfig| {
            let train = TrainConfig { max_steps: Some(9_990), n_epochs: Some(1_000), ..train };
            chosen(&train, task, &model, 800).warmup_steps
        };
        assert_eq!(steps(TrainConfig { warmup_ratio: Some(0.06), ..TrainConfig::default() }), Some(599));
        assert_eq!(steps(TrainConfig { warmup_ratio: Some(0.0), ..TrainConfig::default() }), Some(0));
        let given = TrainConfig { warmup_steps: Some(7), warmup_ratio: Some(0.5), ..TrainConfig::default() };
        assert_eq!(steps(given), Some(7), "what a run has settled stays");
        let slanted = TrainConfig { schedule: Some(Schedule::SlantedTriangular), ..TrainConfig::default() };
        assert_eq!(steps(slanted), Some(999), "a tenth, however long the run");
    }
}
