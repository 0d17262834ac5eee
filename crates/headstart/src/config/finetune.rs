//! What `finetune` is asked to do. Owns: names, defaults, ranges. Never: the tables it is made of.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    AdaptConfig, DataConfig, HeadChoice, HeadPooling, LoraConfig, LoraTargets, PeftConfig, Problem,
    RatesConfig, RegularisationConfig, Sampling, TrainConfig, TrialsConfig, Truncation, check,
    check_positive,
};
use crate::error::Result;

/// Which parameters fine-tuning changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// All of them.
    #[default]
    Full,
    /// The classification head and the `[CLS]` offset.
    Head,
    /// Adapters, the classification head and the `[CLS]` offset.
    Adapters,
    /// Low-rank updates of the linears, the classification head and the `[CLS]` offset.
    Lora,
    /// Scales of keys, values and inner activations ((IA)3), the classification head and the `[CLS]` offset.
    Ia3,
    /// All biases, the classification head and the `[CLS]` offset (Ben Zaken et al. 2022).
    Bitfit,
    /// None: the trunk runs once over all texts, and a linear head is fitted to its vectors.
    Features,
    /// The trunk, on pairs of texts of one class or of two; then a linear head is fitted to its vectors (Tunstall et al. 2022).
    Contrastive,
    /// No transformer: logistic regression on a bag of words, from no model.
    Bow,
}

impl Method {
    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Head => "head",
            Self::Adapters => "adapters",
            Self::Lora => "lora",
            Self::Ia3 => "ia3",
            Self::Bitfit => "bitfit",
            Self::Features => "features",
            Self::Contrastive => "contrastive",
            Self::Bow => "bow",
        }
    }

    /// Whether its head is fitted in one go to the trunk's vectors.
    pub fn fits_head(self) -> bool {
        matches!(self, Self::Features | Self::Contrastive)
    }
}

/// Weights of the classes in the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassWeights {
    /// All 1.
    #[default]
    None,
    /// In inverse proportion to how often a class stands in the training data.
    Balanced,
}

/// `headstart finetune`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FinetuneConfig {
    /// A run folder, its `final/`, or a checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// Keep the model's sizes and tokenizer, draw its weights afresh: what the head start is compared with.
    pub from_scratch: bool,
    /// Text, tokenizer (the model's own), columns.
    pub data: DataConfig,
    /// Which parameters change.
    pub method: Method,
    /// Width of the adapters; -1: none. Given without `method = "adapters"`, everything is trained.
    pub adapters_dim: i64,
    /// Rank of the updates of `method = "lora"`; absent: 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_rank: Option<usize>,
    /// They are scaled by this over their rank; absent: 16.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_alpha: Option<f64>,
    /// Dropout on what they read; absent: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_dropout: Option<f32>,
    /// The linears that have one; absent: those of attention.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_targets: Option<LoraTargets>,
    /// Whether they are scaled by alpha over the root of their rank; absent: no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rslora: Option<bool>,
    /// Settings of other methods that train little of a model.
    #[serde(flatten)]
    pub peft: PeftConfig,
    /// What the classifier has between the model and its last linear.
    #[serde(flatten)]
    pub head: HeadChoice,
    /// Whether the methods that freeze the model train its layer norms all the same.
    pub train_norms: bool,
    /// Which row is classified; absent: the family's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pooling: Option<HeadPooling>,
    /// The longest input, in tokens; absent: what the model was made for, up to 512.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
    /// What is kept of a text that is longer; absent: its beginning, or what the model was trained with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncation: Option<Truncation>,
    /// Use only so many training examples of each class, drawn with the run's seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shots: Option<usize>,
    /// Pairs of one class, and as many of two, that `method = "contrastive"` makes for each text; absent: chosen by how many texts there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pairs_per_text: Option<usize>,
    /// One class, any number of classes, or a number.
    pub problem: Problem,
    /// Classes the data must have; absent: found from the data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_classes: Option<usize>,
    /// Weight of the classification loss.
    pub clf_loss_coef: f64,
    /// Weight of the auxiliary language-model loss; 0 or less: off.
    pub lm_loss_coef: f64,
    /// Standard deviation of new weights.
    pub initializer_range: f32,
    /// Dropout; absent: the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f32>,
    /// Weights of the classes in the loss.
    pub class_weights: ClassWeights,
    /// Stop after this many evaluations without a better one; 0: never.
    pub early_stopping: u64,
    /// Language modelling before the classifier.
    #[serde(skip_serializing_if = "AdaptConfig::is_none")]
    pub adapt: AdaptConfig,
    /// Several runs in place of one.
    #[serde(skip_serializing_if = "TrialsConfig::is_none")]
    pub trials: TrialsConfig,
    /// The metric of the validation data that says which checkpoint is the best; absent: accuracy, or of numbers mse.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_metric: Option<String>,
    /// What keeps a classifier from its training data's accidents.
    #[serde(skip_serializing_if = "RegularisationConfig::is_default")]
    pub regularisation: RegularisationConfig,
    /// What trains from when on, and how fast.
    #[serde(skip_serializing_if = "RatesConfig::is_default")]
    pub rates: RatesConfig,
    /// The loop.
    pub train: TrainConfig,
}

impl Default for FinetuneConfig {
    fn default() -> Self {
        Self {
            model: None,
            from_scratch: false,
            data: DataConfig { path: "trec".into(), ..DataConfig::default() },
            method: Method::Full,
            adapters_dim: -1,
            lora_rank: None,
            lora_alpha: None,
            lora_dropout: None,
            lora_targets: None,
            rslora: None,
            peft: PeftConfig::default(),
            head: HeadChoice::default(),
            train_norms: false,
            pooling: None,
            max_length: None,
            truncation: None,
            shots: None,
            pairs_per_text: None,
            problem: Problem::SingleLabel,
            num_classes: None,
            clf_loss_coef: 1.0,
            lm_loss_coef: -1.0,
            initializer_range: 0.02,
            dropout: None,
            class_weights: ClassWeights::None,
            early_stopping: 0,
            adapt: AdaptConfig::default(),
            trials: TrialsConfig::default(),
            best_metric: None,
            regularisation: RegularisationConfig::default(),
            rates: RatesConfig::default(),
            train: TrainConfig { valid_batch_size: 32, ..TrainConfig::default() },
        }
    }
}

impl FinetuneConfig {
    /// Width of the adapters of a model of this width; `None` for none.
    pub fn adapters(&self, width: usize) -> Option<usize> {
        match (self.adapters_dim, self.peft.adapters_reduction, self.method) {
            (1.., ..) => Some(self.adapters_dim as usize),
            (_, Some(reduction), _) => Some((width / reduction.max(1)).max(1)),
            (_, None, Method::Adapters) => Some(32),
            _ => None,
        }
    }

    /// The low-rank updates; `None` for none.
    pub fn lora(&self) -> Option<LoraConfig> {
        let usual = LoraConfig::default();
        (self.method == Method::Lora).then(|| LoraConfig {
            rank: self.lora_rank.unwrap_or(usual.rank),
            alpha: self.lora_alpha.unwrap_or(usual.alpha),
            dropout: self.lora_dropout.unwrap_or(usual.dropout),
            targets: self.lora_targets.unwrap_or(usual.targets),
            rslora: self.rslora.unwrap_or(usual.rslora),
        })
    }

    /// Whether a key of the updates is there.
    fn check_lora(&self) -> Result<()> {
        for (key, given) in [
            ("lora_rank", self.lora_rank.is_some()),
            ("lora_alpha", self.lora_alpha.is_some()),
            ("lora_dropout", self.lora_dropout.is_some()),
            ("lora_targets", self.lora_targets.is_some()),
            ("rslora", self.rslora.is_some()),
        ] {
            check(key, !given || self.method == Method::Lora, || {
                (
                    format!("the method `{}` has no low-rank updates", self.method.name()),
                    format!("use --method lora, or leave {key} out"),
                )
            })?;
        }
        self.lora().map_or(Ok(()), |lora| lora.validate())
    }

    /// What a head that is fitted does not do.
    fn check_fitted_head(&self) -> Result<()> {
        let method = self.method.name();
        let fits = self.method.fits_head();
        for (key, given, what, fix) in [
            (
                "lm_loss_coef",
                self.lm_loss_coef > 0.0,
                "it has no language-model loss",
                "leave it out, or use another --method",
            ),
            (
                "train_norms",
                self.train_norms,
                "norms do not train apart from the rest",
                "leave it out, or use another --method",
            ),
            ("early_stopping", self.early_stopping > 0, "it is evaluated once, at its end", "leave it out"),
            (
                "label_smoothing",
                self.regularisation.label_smoothing.is_some(),
                "no loss of classes is minimised step by step",
                "leave it out, or use another --method",
            ),
            (
                "focal_gamma",
                self.regularisation.focal_gamma.is_some(),
                "no loss of classes is minimised step by step",
                "leave it out, or use another --method",
            ),
            (
                "r_drop",
                self.regularisation.r_drop.is_some(),
                "no answers are compared",
                "leave it out, or use another --method",
            ),
            (
                "sampling",
                self.regularisation.sampling == Sampling::Balanced,
                "every example counts alike",
                "leave it out, or use another --method",
            ),
            (
                "n_epochs",
                self.train.n_epochs == Some(0),
                "nothing can be evaluated before the head is fitted",
                "leave it out, or use headstart eval on a finished model",
            ),
            (
                "budget",
                self.method == Method::Features && self.train.budget.is_some(),
                "it takes no steps that could be counted",
                "leave it out: the trunk runs once over the texts",
            ),
        ] {
            check(key, !fits || !given, || (format!("with the method `{method}` {what}"), fix.into()))?;
        }
        Ok(())
    }

    /// What tells a training by steps from another, and changes nothing where the head is fitted at once.
    fn check_steps(&self) -> Result<()> {
        let (train, usual) = (&self.train, TrainConfig::default());
        for (key, given) in [
            ("lr", train.lr.is_some()),
            ("n_epochs", train.n_epochs.is_some()),
            ("max_steps", train.max_steps.is_some()),
            ("warmup_steps", train.warmup_steps.is_some()),
            ("warmup_ratio", train.warmup_ratio.is_some()),
            ("schedule", train.schedule.is_some()),
            ("lr_floor", train.lr_floor.is_some()),
            ("max_norm", train.max_norm.is_some()),
            ("weight_decay", train.weight_decay > usual.weight_decay),
            ("optimizer", train.optimizer != usual.optimizer),
            ("ema", train.ema.is_some()),
            ("train_batch_size", train.train_batch_size.is_some()),
            ("grad_accum_steps", train.grad_accum_steps != usual.grad_accum_steps),
            ("eval_every", train.eval_every.is_some()),
            ("dropout", self.dropout.is_some()),
            ("best_metric", self.best_metric.is_some()),
        ] {
            check(key, !given || self.method != Method::Features, || {
                (
                    "the method `features` takes no steps, and nothing of its fit depends on it".into(),
                    "leave it out, or use --method head, lora or full".into(),
                )
            })?;
        }
        Ok(())
    }

    /// Which examples there are, and how they are compared.
    fn check_examples(&self) -> Result<()> {
        let contrastive = self.method == Method::Contrastive;
        check("problem", !contrastive || self.problem == Problem::SingleLabel, || {
            (
                "the method `contrastive` makes pairs of texts of one class, and of two".into(),
                "use it for single labels; for several labels at once, or numbers, --method features".into(),
            )
        })?;
        check("pairs_per_text", self.pairs_per_text.is_none() || contrastive, || {
            (
                format!("the method `{}` makes no pairs", self.method.name()),
                "use --method contrastive, or leave pairs_per_text out".into(),
            )
        })?;
        if let Some(pairs) = self.pairs_per_text {
            check("pairs_per_text", (1..=1_000).contains(&pairs), || {
                (format!("{pairs} pairs to a text are not possible"), "use a number from 1 to 1000".into())
            })?;
        }
        check("shots", self.shots != Some(0), || {
            ("0 examples of a class train nothing".into(), "use a positive number".into())
        })?;
        check("shots", self.shots.is_none() || self.problem == Problem::SingleLabel, || {
            (
                "shots are examples of a class, and these labels are no single classes".into(),
                "use --max_train_examples".into(),
            )
        })?;
        check("shots", self.shots.is_none() || self.data.max_train_examples.is_none(), || {
            (
                "shots and max_train_examples both say which examples are used".into(),
                "give one of them".into(),
            )
        })?;
        check("shots", self.shots.is_none() || self.method != Method::Bow, || {
            (
                "a bag of words is fitted to all examples".into(),
                "leave it out; beside another --method it is fitted to the same shots".into(),
            )
        })
    }

    /// Whether there is anything that could be pulled to where it began, or be left out of a step.
    fn check_trunk(&self) -> Result<()> {
        let steps = !matches!(self.method, Method::Features | Method::Bow);
        check("layer_drop", steps || self.regularisation.layer_drop.is_none(), || {
            (
                format!("the method `{}` takes no steps", self.method.name()),
                "leave it out, or use another --method".into(),
            )
        })?;
        let pulls = self.regularisation.l2_sp.is_some_and(|pull| pull > 0.0);
        check("l2_sp", !pulls || matches!(self.method, Method::Full | Method::Bitfit), || {
            (
                format!("the method `{}` changes none of the model's own weights", self.method.name()),
                "use --method full or bitfit, or leave l2_sp out".into(),
            )
        })
    }

    /// Checks every range.
    ///
    /// # Errors
    /// [`crate::Error::Config`] naming the key.
    pub fn validate(&self) -> Result<()> {
        check_positive("initializer_range", f64::from(self.initializer_range))?;
        check("adapters_dim", self.adapters_dim == -1 || (1..=65_536).contains(&self.adapters_dim), || {
            (format!("{} is not a width", self.adapters_dim), "use a positive number, or -1 for none".into())
        })?;
        let adapts = matches!(self.method, Method::Full | Method::Adapters);
        check("adapters_dim", adapts || self.adapters_dim == -1, || {
            (
                format!("the method `{}` trains no adapters", self.method.name()),
                "use --method adapters, or leave adapters_dim out".into(),
            )
        })?;
        self.check_lora()?;
        self.check_trials()?;
        self.check_fitted_head()?;
        self.check_examples()?;
        self.peft.validate(self.method, self.adapters_dim)?;
        self.head.validate(self.method)?;
        self.rates.validate(self.method)?;
        self.regularisation.validate(self.problem, self.class_weights, self.from_scratch)?;
        self.check_trunk()?;
        check("model", self.method != Method::Bow || self.model.is_none(), || {
            (
                "a bag of words starts from no model".into(),
                "leave --model out, or use another --method".into(),
            )
        })?;
        if let Some(length) = self.max_length {
            check("max_length", (2..=1 << 20).contains(&length), || {
                (format!("{length} tokens are no length of an input"), "use a number from 2 on".into())
            })?;
        }
        check("clf_loss_coef", self.clf_loss_coef > 0.0 && self.clf_loss_coef.is_finite(), || {
            (format!("{} trains no classifier", self.clf_loss_coef), "use a positive number".into())
        })?;
        check("lm_loss_coef", self.lm_loss_coef.is_finite(), || {
            (format!("{} is not a weight", self.lm_loss_coef), "use a number; 0 or less is off".into())
        })?;
        let plain = self.problem == Problem::SingleLabel || self.class_weights == ClassWeights::None;
        check("class_weights", plain, || {
            ("only classes can be balanced".into(), "leave it out for multi-label and regression".into())
        })?;
        if let Some(p) = self.dropout {
            check("dropout", (0.0..1.0).contains(&p), || {
                (format!("{p} is not a probability below 1"), "use a number from 0 to 0.99".into())
            })?;
        }
        self.check_steps()?;
        self.data.validate()?;
        self.train.validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_that_is_fitted_at_once_takes_no_setting_of_steps() {
        type Change = fn(&mut TrainConfig);
        let changes: [(&str, Change); 8] = [
            ("lr", |train| train.lr = Some(1e-3)),
            ("n_epochs", |train| train.n_epochs = Some(3)),
            ("warmup_steps", |train| train.warmup_steps = Some(3)),
            ("schedule", |train| train.schedule = Some(super::super::Schedule::Linear)),
            ("weight_decay", |train| train.weight_decay = 0.01),
            ("max_norm", |train| train.max_norm = Some(1.0)),
            ("train_batch_size", |train| train.train_batch_size = Some(4)),
            ("grad_accum_steps", |train| train.grad_accum_steps = 2),
        ];
        let of = |method| FinetuneConfig { model: Some("m".into()), method, ..FinetuneConfig::default() };
        for (key, change) in changes {
            let mut config = of(Method::Features);
            change(&mut config.train);
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(&format!("`{key}`")) && error.contains("takes no steps"), "{error}");
            config.method = Method::Contrastive;
            config.validate().unwrap();
        }
        let dropped = FinetuneConfig { dropout: Some(0.2), ..of(Method::Features) };
        assert!(dropped.validate().unwrap_err().to_string().contains("`dropout`"));
        // What is about the evaluation, the clock or the machine stays.
        let mut kept = of(Method::Features);
        (kept.train.valid_batch_size, kept.train.max_time, kept.train.threads) = (4, Some(9.0), 1);
        kept.validate().unwrap();
    }
}
