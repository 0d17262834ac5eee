//! The one model: a transformer with options, its heads, and nothing else.
//!
//! Owns: which parameters there are and how they are combined on a tape. Never: files, optimizers, ranks, clocks.
//!
//! [`Model::new`] lists the parameters in a [`ParamTable`]; [`Model::trunk`] runs ids through the blocks;
//! [`Model::lm_loss`] and [`Model::classify`] are the heads. Inference, adapters and masked LM are options of
//! the same forward.

mod block;
mod transformer;

use headstart_engine::LossSum;
use headstart_engine::ops::attention::KeyValueCache;
use headstart_engine::ops::linear::Linear;
use headstart_engine::ops::pool::Pooling;
use headstart_engine::{Tape, Tensor, Value};

use crate::config::{HeadPooling, ModelConfig};
use crate::error::{Error, Result};
use crate::params::{Group, Init, ParamId, ParamTable};
use transformer::Transformer;

/// A transformer and its heads, over parameters that live elsewhere.
#[derive(Clone, Debug)]
pub struct Model {
    config: ModelConfig,
    table: ParamTable,
    transformer: Transformer,
    head: Option<(ParamId, ParamId)>,
}

impl Model {
    /// Lists the parameters of `config`; all of them train.
    ///
    /// # Errors
    /// [`crate::Error::Config`] when a size is not possible.
    pub fn new(config: &ModelConfig) -> Result<Self> {
        config.validate()?;
        if !(1..=1 << 24).contains(&config.vocab_size) {
            return Err(Error::Config {
                key: "vocab_size".into(),
                what: format!("{} is not a possible number of pieces", config.vocab_size),
                fix: "it follows from the tokenizer; leave it out of settings files".into(),
            });
        }
        let mut table = ParamTable::default();
        let transformer = Transformer::new(config, &mut table);
        let head = config.head.as_ref().map(|head| {
            let shape = [head.num_classes, config.embed_dim];
            let init = Init::Normal(config.initializer_range);
            let weight = table.add("classification_head.weight", &shape, init, Group::Head);
            let bias = table.add("classification_head.bias", &shape[..1], Init::Constant(0.0), Group::Head);
            (weight, bias)
        });
        table.freeze_except(|_| true);
        Ok(Self { config: config.clone(), table, transformer, head })
    }

    /// Freezes every parameter whose group does not train.
    pub fn freeze_except(&mut self, trains: impl Fn(Group) -> bool) {
        self.table.freeze_except(trains);
    }

    /// The sizes and options.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The parameters.
    pub fn table(&self) -> &ParamTable {
        &self.table
    }

    /// The hidden states `[N, C]` of the tape's packed tokens. With `caches` (one per layer; inference of one
    /// sequence) the tokens continue the sequence the caches hold.
    ///
    /// # Panics
    /// When an id or position is outside its table.
    pub fn trunk(&self, tape: &mut Tape<'_>, ids: &[u32], caches: Option<&mut [KeyValueCache]>) -> Value {
        self.transformer.forward(tape, &self.table, &self.config, ids, caches)
    }

    /// The summed LM loss of `rows` of the hidden states against `targets`; its gradient is scaled by `scale`.
    pub fn lm_loss(
        &self,
        tape: &mut Tape<'_>,
        hidden: &Value,
        rows: &[u32],
        targets: &[u32],
        scale: f32,
    ) -> LossSum {
        let weight = self.table.view(self.transformer.token_embedding());
        tape.linear_cross_entropy(hidden, rows, targets, weight, scale)
    }

    /// LM logits `[R, V]` of some rows, for generation.
    pub fn lm_logits(&self, tape: &mut Tape<'_>, hidden: &Value, rows: &[u32]) -> Tensor {
        let picked = tape.select_rows(hidden, rows);
        let weight = self.table.view(self.transformer.token_embedding());
        let linear = Linear { f32_output: true, ..Linear::new(weight, None) };
        tape.linear(&picked, linear, &[]).tensor().clone()
    }

    /// Classification logits `[B, K]`, one row per packed sequence; `None` for a model without a head.
    pub fn classify(&self, tape: &mut Tape<'_>, hidden: &Value) -> Option<Value> {
        let (weight, bias) = self.head?;
        let pooled = match self.config.head.as_ref()?.pooling {
            HeadPooling::Cls | HeadPooling::Last => {
                let rows: Vec<u32> = tape.packing().last_rows().collect();
                tape.select_rows(hidden, &rows)
            }
            HeadPooling::Mean => tape.pool(hidden, Pooling::Mean),
            HeadPooling::Max => tape.pool(hidden, Pooling::Max),
        };
        let (weight, bias) = (self.table.view(weight), self.table.view(bias));
        let linear = Linear { f32_output: true, ..Linear::new(weight, Some(bias)) };
        Some(tape.linear(&pooled, linear, &[]))
    }
}

#[cfg(test)]
mod tests {
    use headstart_engine::{CodePath, Device, Gradients, Packing, Precision, Weights};

    use super::*;
    use crate::config::{Arch, HeadConfig, Positions, Problem};
    use crate::params::Param;

    fn small(arch: Arch) -> ModelConfig {
        ModelConfig {
            arch,
            vocab_size: 300,
            embed_dim: 64,
            hidden_dim: 160,
            num_max_positions: 50,
            num_heads: 4,
            num_layers: 3,
            ..ModelConfig::default()
        }
    }

    fn with_all(config: &ModelConfig) -> ModelConfig {
        let head = HeadConfig { num_classes: 6, pooling: HeadPooling::Cls, problem: Problem::SingleLabel };
        ModelConfig { adapters_dim: Some(8), head: Some(head), offset_token: Some(7), ..config.clone() }
    }

    /// The initial values of every parameter whose name `wanted` accepts.
    fn start(config: &ModelConfig, wanted: impl Fn(&str) -> bool) -> Vec<f32> {
        let model = Model::new(config).unwrap();
        let values = model.table().initial_values(42);
        let of = |p: &Param| values[p.offset..p.offset + p.len()].to_vec();
        let found: Vec<f32> =
            model.table().params().iter().filter(|p| wanted(&p.name)).flat_map(of).collect();
        assert!(!found.is_empty());
        found
    }

    /// Holds if `values` look drawn from a normal around 0.
    fn assert_normal(values: &[f32], deviation: f64, what: &str) {
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let found = (values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n).sqrt();
        // Four standard errors of a mean and of a deviation.
        assert!(mean.abs() < 4.0 * deviation / n.sqrt(), "{what}: mean {mean}");
        assert!((found / deviation - 1.0).abs() < 4.0 / (2.0 * n).sqrt(), "{what}: deviation {found}");
    }

    #[test]
    fn the_full_models_have_their_published_sizes() {
        let tutorial =
            ModelConfig { vocab_size: 28_996, positions: Positions::Sinusoidal, ..ModelConfig::default() };
        let model = Model::new(&tutorial).unwrap();
        assert_eq!((model.table().len(), model.table().trainable_len()), (50_396_360, 50_291_400));
        let learned = ModelConfig { positions: Positions::Learned, ..tutorial };
        assert_eq!(Model::new(&learned).unwrap().table().trainable_len(), 50_396_360);
        let gpt2 = ModelConfig { vocab_size: 50_257, ..ModelConfig::preset("gpt2").unwrap() };
        assert_eq!(Model::new(&gpt2).unwrap().table().trainable_len(), 124_439_808);
    }

    #[test]
    fn naacl2019_starts_as_the_tutorial() {
        let config = with_all(&small(Arch::Naacl2019));
        let bound = (6.0_f64 / f64::from(4 * 64)).sqrt() as f32;
        let in_proj = start(&config, |name| name.ends_with("in_proj.weight"));
        assert!(in_proj.iter().all(|v| v.abs() <= bound));
        assert!(in_proj.iter().any(|v| *v > 0.99 * bound) && in_proj.iter().any(|v| *v < -0.99 * bound));
        let mean = in_proj.iter().sum::<f32>() / in_proj.len() as f32;
        assert!(mean.abs() < 0.01 * bound);
        assert!(start(&config, |name| name.ends_with("bias")).iter().all(|&v| v == 0.0));
        assert!(start(&config, |name| name.contains("cls_offset")).iter().all(|&v| v == 0.0));
        for part in ["token_embedding", "position_embedding", "norm_", "out_proj", "feed_forward.up"]
            .into_iter()
            .chain(["feed_forward.down", "adapter_attention.down", "adapter_feed_forward.up"])
            .chain(["classification_head"])
        {
            let values = start(&config, |name| name.contains(part) && name.ends_with("weight"));
            assert_normal(&values, 0.02, part);
        }
    }

    #[test]
    fn gpt2_starts_with_norms_at_one_and_shrunk_residuals() {
        let config = ModelConfig { initializer_range: 0.03, ..small(Arch::Gpt2) };
        let norms = start(&config, |name| name.contains("norm") && name.ends_with("weight"));
        assert!(norms.len() == 64 * (2 * 3 + 1) && norms.iter().all(|v| (v - 1.0).abs() < f32::EPSILON));
        assert!(start(&config, |name| name.ends_with("bias")).iter().all(|&v| v == 0.0));
        let shrunk = 0.03 / 6.0_f64.sqrt();
        for (part, deviation) in [
            ("token_embedding.weight", 0.03),
            ("position_embedding.weight", 0.03),
            ("in_proj.weight", 0.03),
            ("feed_forward.up.weight", 0.03),
            ("out_proj.weight", shrunk),
            ("feed_forward.down.weight", shrunk),
        ] {
            assert_normal(&start(&config, |name| name.ends_with(part)), deviation, part);
        }
    }

    #[test]
    fn a_head_or_adapters_change_no_other_start() {
        for arch in [Arch::Naacl2019, Arch::Gpt2] {
            let (plain, more) = (small(arch), with_all(&small(arch)));
            let (a, b) = (Model::new(&plain).unwrap(), Model::new(&more).unwrap());
            let (from, to) = (a.table().initial_values(9), b.table().initial_values(9));
            assert!(b.table().params().len() > a.table().params().len());
            for p in a.table().params() {
                let same = b.table().params().iter().find(|other| other.name == p.name).unwrap();
                assert_eq!(
                    from[p.offset..][..p.len()],
                    to[same.offset..][..p.len()],
                    "{} of {arch:?}",
                    p.name
                );
            }
        }
    }

    #[test]
    fn freezing_keeps_the_chosen_groups_and_shortens_the_tape() {
        let mut model = Model::new(&with_all(&small(Arch::Naacl2019))).unwrap();
        let everything = recorded(&model);
        // Embedding; three blocks of two norms, four products, attention, two adapters; pooling, head, loss.
        assert_eq!(everything, 1 + 3 * (2 + 4 + 1 + 4) + 3);
        model.freeze_except(|group| matches!(group, Group::Adapter | Group::Head | Group::Offset));
        assert!(model.table().params().iter().all(|p| {
            let trains = ["adapter_", "classification_head", "cls_offset"];
            p.grad.is_some() == trains.iter().any(|part| p.name.contains(part))
        }));
        assert_eq!(recorded(&model), everything, "the offset lies below everything");
        model.freeze_except(|group| matches!(group, Group::Adapter | Group::Head));
        // Nothing trains below the first adapter: embedding, norm, in_proj, attention, out_proj.
        assert_eq!(recorded(&model), everything - 5);
        model.freeze_except(|group| group == Group::Head);
        assert_eq!(recorded(&model), 2, "the head and its loss");
        model.freeze_except(|_| false);
        assert_eq!((recorded(&model), model.table().trainable_len()), (0, 0));
        model.freeze_except(|_| true);
        assert_eq!(recorded(&model), everything);
    }

    /// How many ops a training tape keeps for the backward of a classification.
    fn recorded(model: &Model) -> usize {
        let device = Device::cpu(None, CodePath::Auto).unwrap();
        let weights = Weights::new(model.table().initial_values(1));
        let mut gradients = Gradients::new(model.table().trainable_len());
        let packing = Packing::new(&[3, 2], &[0, 1]);
        let mut tape = Tape::training(&device, &weights, &mut gradients, &packing, Precision::F32, 0, 0);
        let hidden = model.trunk(&mut tape, &[5, 6, 7, 5, 7], None);
        let logits = model.classify(&mut tape, &hidden).unwrap();
        tape.loss(&logits, headstart_engine::ops::loss::Targets::Classes(&[1, 2], None), 1.0);
        tape.recorded()
    }
}
