//! What trains from when on, and how fast: gradual unfreezing, chain-thaw, rates by layer, a rate for what is new.
//!
//! Owns: which parameters are a part, the order in which parts begin to train, their rates, the table that says so. Never:
//! the run's own schedule, how a phase is carried out (`params`, `optim`).

use std::collections::BTreeSet;

use crate::config::{Method, RatesConfig, TrainConfig, Unfreeze};
use crate::params::{Kind, Param, ParamTable};
use crate::schedule::Curve;

/// What is frozen and unfrozen together, from below. A final norm and what a language model's head has beside the embeddings
/// go with the top layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Embeddings,
    Layer(usize),
    Head,
}

/// What trains when in a run of a known length.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    layers: usize,
    /// Where the first layer begins in the weights: norms before it are the embeddings'.
    first_layer: usize,
    /// The first step of each phase, and the parts that train in it.
    stages: Vec<(u64, Vec<Part>)>,
    layer_decay: f64,
    /// The rate of what is new over the run's.
    new: f64,
    /// Whether all that trains is new, so that only the head's rate is another.
    all_new: bool,
}

/// A run's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length {
    /// Optimizer steps to a pass over the data.
    pub steps_per_epoch: u64,
    /// Optimizer steps in all.
    pub total_steps: u64,
}

/// One line of the table that says what trains when.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// "layers 2 to 5", "head".
    pub what: String,
    /// How many parameters.
    pub parameters: usize,
    /// The largest rate they train with; 0 where they never do.
    pub peak_lr: f64,
    /// "0 to 3", in passes over the data; "never".
    pub epochs: String,
}

impl RatesConfig {
    /// Chooses [`RatesConfig::unfreeze_every`] where it is needed and left out; returns what was chosen, in words.
    pub fn choose(&mut self, table: &ParamTable, length: Length) -> Option<String> {
        if self.unfreeze == Unfreeze::None || self.unfreeze_every.is_some() {
            return None;
        }
        let later = order(self.unfreeze, &parts(table)).len().saturating_sub(1).max(1);
        let epochs = length.total_steps as f64 / length.steps_per_epoch.max(1) as f64;
        let fits = epochs / 2.0 / later as f64;
        // A number of few digits, so that what is said is what is meant.
        let every = if fits >= 1.0 { 1.0 } else { ((fits * 1000.0).floor() / 1000.0).max(0.001) };
        self.unfreeze_every = Some(every);
        Some(format!("{} unfreezing: the next part every {every} epochs", self.unfreeze.name()))
    }
}

impl Plan {
    /// What was asked for; `None` where all that trains does so throughout at the run's rate. [`RatesConfig::choose`] has
    /// to have been asked.
    pub fn of(
        rates: &RatesConfig,
        method: Method,
        lr: f64,
        table: &ParamTable,
        length: Length,
    ) -> Option<Self> {
        if rates.is_default() || length.total_steps == 0 {
            return None;
        }
        let stages = order(rates.unfreeze, &parts(table));
        let every = rates.unfreeze_every.unwrap_or(1.0) * length.steps_per_epoch as f64;
        let mut starts: Vec<u64> = Vec::new();
        for stage in 0..stages.len() {
            let start = 1 + (stage as f64 * every).round() as u64;
            starts.push(starts.last().map_or(start, |&before| start.max(before + 1)));
        }
        Some(Self {
            layers: layers(table),
            first_layer: first_layer(table),
            stages: starts.into_iter().zip(stages).collect(),
            layer_decay: rates.layer_decay.unwrap_or(1.0),
            new: rates.head_lr.map_or(1.0, |head_lr| head_lr / lr),
            all_new: matches!(method, Method::Adapters | Method::Lora | Method::Ia3),
        })
    }

    /// The first step of each phase, and the share of backward's work that is done in it, of that with all parts: half of it goes back
    /// through what lies above the lowest part that trains, half is the gradients of what trains.
    pub fn work(&self) -> Vec<(u64, f64)> {
        let below: BTreeSet<Part> = self
            .stages
            .iter()
            .flat_map(|(_, parts)| parts)
            .copied()
            .filter(|part| *part != Part::Head)
            .collect();
        let all = below.len().max(1) as f64;
        let share = |parts: &Vec<Part>| {
            let lowest = parts.iter().min().copied().unwrap_or(Part::Head);
            let above = below.iter().filter(|part| **part >= lowest).count() as f64;
            let trained = parts.iter().filter(|part| **part != Part::Head).count() as f64;
            (above + trained) / (2.0 * all)
        };
        self.stages.iter().map(|(start, parts)| (*start, share(parts))).collect()
    }

    /// The first step of each phase.
    pub fn starts(&self) -> Vec<u64> {
        self.stages.iter().map(|(start, _)| *start).collect()
    }

    /// The factor on the run's rate of a parameter in the phase that begins with a step; 0 while it is frozen.
    pub fn factor(&self, param: &Param, start: u64) -> f64 {
        let part = part_of(param, self.layers, self.first_layer);
        let trains = self.stages.iter().any(|(from, parts)| *from == start && parts.contains(&part));
        if trains { self.rate_factor(param) } else { 0.0 }
    }

    /// The factor on the run's rate of a parameter while it trains.
    fn rate_factor(&self, param: &Param) -> f64 {
        let is_new = match param.kind {
            Kind::Head | Kind::TokenOffset => true,
            Kind::Adapter | Kind::Lora | Kind::Ia3 => !self.all_new,
            _ => false,
        };
        let depth = match part_of(param, self.layers, self.first_layer) {
            Part::Head => 0,
            Part::Layer(layer) => self.layers - layer,
            // It is new, wherever it stands.
            Part::Embeddings if param.kind == Kind::TokenOffset => 0,
            Part::Embeddings => self.layers + 1,
        };
        let decay = self.layer_decay.powi(depth as i32);
        if is_new { self.new * decay } else { decay }
    }

    /// The table: what trains, from the head down; parts next to each other that differ in nothing but their place are one row.
    pub fn rows(&self, table: &ParamTable, config: &TrainConfig, length: Length) -> Vec<Row> {
        let curve = Curve::of(config);
        // A part, what of it, and the factor: all that a row can be told apart by.
        let mut groups: Vec<(Part, &'static str, f64, usize)> = Vec::new();
        for param in table.params().iter().filter(|param| param.grad.is_some()) {
            let (part, what) = (part_of(param, self.layers, self.first_layer), what(param));
            let factor = self.rate_factor(param);
            let same = |of: &&mut (Part, &str, f64, usize)| {
                (of.0, of.1, of.2.to_bits()) == (part, what, factor.to_bits())
            };
            match groups.iter_mut().find(same) {
                Some(group) => group.3 += param.len(),
                None => groups.push((part, what, factor, param.len())),
            }
        }
        groups.sort_by(|a, b| (b.0, a.1).cmp(&(a.0, b.1)));
        let mut rows: Vec<(Part, Part, &str, Row)> = Vec::new();
        for (part, what, factor, parameters) in groups {
            let (epochs, peak) = self.when(part, &curve, length);
            let peak_lr = config.peak_lr() * factor * peak;
            let whole = Row { what: String::new(), parameters, peak_lr, epochs };
            let joins = |of: &&mut (Part, Part, &str, Row)| {
                of.2 == what
                    && of.3.peak_lr.to_bits() == peak_lr.to_bits()
                    && of.3.epochs == whole.epochs
                    && matches!((of.1, part), (Part::Layer(above), Part::Layer(below)) if above == below + 1)
            };
            match rows.iter_mut().find(joins) {
                Some((_, lowest, _, row)) => {
                    *lowest = part;
                    row.parameters += parameters;
                }
                None => rows.push((part, part, what, whole)),
            }
        }
        let named = |(highest, lowest, what, row): (Part, Part, &str, Row)| Row {
            what: name(highest, lowest) + what,
            ..row
        };
        rows.into_iter().map(named).collect()
    }

    /// The epochs in which a part trains, in words, and the largest factor that the schedule has meanwhile.
    fn when(&self, part: Part, curve: &Curve, length: Length) -> (String, f64) {
        let Length { steps_per_epoch, total_steps } = length;
        let mut spans: Vec<(u64, u64)> = Vec::new();
        for (i, (start, parts)) in self.stages.iter().enumerate() {
            let end = self.stages.get(i + 1).map_or(total_steps, |(next, _)| total_steps.min(next - 1));
            if *start > total_steps || !parts.contains(&part) {
                continue;
            }
            match spans.last_mut() {
                Some(span) if span.1 + 1 == *start => span.1 = end,
                _ => spans.push((*start, end)),
            }
        }
        let peak = spans.iter().flat_map(|&(first, last)| first..=last);
        let peak = peak.map(|step| curve.factor(total_steps, step)).fold(0.0, f64::max);
        let epoch = |step: u64| {
            let epoch = step as f64 / steps_per_epoch.max(1) as f64;
            format!("{epoch:.2}").trim_end_matches('0').trim_end_matches('.').to_owned()
        };
        let words = |&(first, last): &(u64, u64)| format!("{} to {}", epoch(first - 1), epoch(last));
        let words: Vec<String> = spans.iter().map(words).collect();
        (if words.is_empty() { "never".to_owned() } else { words.join(", ") }, peak)
    }
}

/// The parts that have anything that ever trains, from below.
fn parts(table: &ParamTable) -> Vec<Part> {
    let (layers, first) = (layers(table), first_layer(table));
    let trained = table.params().iter().filter(|param| param.grad.is_some());
    let parts: BTreeSet<Part> = trained.map(|param| part_of(param, layers, first)).collect();
    parts.into_iter().collect()
}

/// The parts that train in each phase.
fn order(unfreeze: Unfreeze, parts: &[Part]) -> Vec<Vec<Part>> {
    let from_above = |n: usize| parts[parts.len() - n..].to_vec();
    match unfreeze {
        Unfreeze::None => vec![parts.to_vec()],
        Unfreeze::Gradual => (1..=parts.len()).map(from_above).collect(),
        Unfreeze::ChainThaw => {
            let head = parts.iter().filter(|part| **part == Part::Head);
            let below = parts.iter().filter(|part| **part != Part::Head);
            head.chain(below).map(|&part| vec![part]).chain([parts.to_vec()]).collect()
        }
    }
}

fn layers(table: &ParamTable) -> usize {
    table.params().iter().filter_map(|param| param.layer).max().map_or(0, |last| last + 1)
}

fn first_layer(table: &ParamTable) -> usize {
    table.params().iter().find(|param| param.layer.is_some()).map_or(0, |param| param.offset)
}

fn part_of(param: &Param, layers: usize, first_layer: usize) -> Part {
    let below = param.offset < first_layer;
    match (param.layer, param.kind) {
        (_, Kind::Head) => Part::Head,
        (Some(layer), _) => Part::Layer(layer),
        (None, Kind::Norm | Kind::LmHead) if !below && layers > 0 => Part::Layer(layers - 1),
        (None, _) => Part::Embeddings,
    }
}

/// What a parameter is of its part, where that is not all of it.
fn what(param: &Param) -> &'static str {
    match param.kind {
        Kind::Adapter => ": adapters",
        Kind::Lora => ": low-rank updates",
        Kind::Ia3 => ": scales",
        Kind::TokenOffset => ": what is added to [CLS]",
        _ => "",
    }
}

fn name(highest: Part, lowest: Part) -> String {
    match (highest, lowest) {
        (Part::Head, _) => "head".into(),
        (Part::Embeddings, _) => "embeddings".into(),
        (Part::Layer(high), Part::Layer(low)) if high != low => format!("layers {low} to {high}"),
        (Part::Layer(layer), _) => format!("layer {layer}"),
    }
}

#[cfg(test)]
mod tests {
    use headstart_engine::ops::loss::Targets;
    use headstart_engine::{CodePath, Device, Gradients, Packing, Precision, Tape, Weights};

    use super::*;
    use crate::config::{Arch, HeadConfig, HeadPooling, LoraConfig, ModelConfig, Problem, Schedule};
    use crate::method::trains;
    use crate::model::{Inputs, Model};

    const LENGTH: Length = Length { steps_per_epoch: 10, total_steps: 60 };

    /// Three blocks with a final norm, adapters or updates where the method has them, and a head.
    fn model(method: Method) -> Model {
        let head = HeadConfig {
            num_classes: 2,
            pooling: HeadPooling::Last,
            problem: Problem::SingleLabel,
            max_length: None,
            truncation: None,
            dropout: None,
        };
        let config = ModelConfig {
            arch: Arch::Gpt2,
            vocab_size: 9,
            embed_dim: 4,
            hidden_dim: 8,
            num_heads: 2,
            num_layers: 3,
            num_max_positions: 8,
            adapters_dim: Some(2).filter(|_| method == Method::Full),
            lora: Some(LoraConfig { rank: 2, ..LoraConfig::default() }).filter(|_| method == Method::Lora),
            head: Some(head),
            ..ModelConfig::default()
        };
        let mut model = Model::new(&config).unwrap();
        model.freeze_except(|param| trains(method, false, param));
        model
    }

    fn plan(rates: &RatesConfig, method: Method, model: &Model, length: Length) -> Plan {
        let mut rates = rates.clone();
        rates.choose(model.table(), length);
        Plan::of(&rates, method, 1e-3, model.table(), length).unwrap()
    }

    /// The factor of the parameter whose name contains a word.
    fn factor(plan: &Plan, model: &Model, word: &str, start: u64) -> f64 {
        let found = |param: &&Param| param.name.contains(word);
        plan.factor(model.table().params().iter().find(found).unwrap(), start)
    }

    fn gradual(unfreeze_every: Option<f64>) -> RatesConfig {
        RatesConfig { unfreeze: Unfreeze::Gradual, unfreeze_every, ..RatesConfig::default() }
    }

    #[test]
    #[allow(clippy::float_cmp)] // 0 and 1 by construction
    fn gradual_unfreezing_goes_from_the_head_down() {
        let model = model(Method::Full);
        let plan = plan(&gradual(Some(1.0)), Method::Full, &model, LENGTH);
        assert_eq!(plan.starts(), [1, 11, 21, 31, 41]);
        for (word, from) in [
            ("classification_head", 1),
            ("final_norm", 11),
            ("layers.2", 11),
            ("layers.1", 21),
            ("layers.0", 31),
            ("token_embedding", 41),
            ("position_embedding", 41),
        ] {
            for start in plan.starts() {
                let expected = f64::from(u8::from(start >= from));
                assert_eq!(factor(&plan, &model, word, start), expected, "{word} from {start}");
            }
        }
    }

    #[test]
    #[allow(clippy::float_cmp)] // 0 and 1 by construction
    fn chain_thaw_trains_each_part_by_itself_and_then_everything() {
        let model = model(Method::Full);
        let rates = RatesConfig { unfreeze: Unfreeze::ChainThaw, ..gradual(Some(0.5)) };
        let plan = plan(&rates, Method::Full, &model, LENGTH);
        assert_eq!(plan.starts(), [1, 6, 11, 16, 21, 26]);
        let words = ["classification_head", "token_embedding", "layers.0", "layers.1", "layers.2"];
        for (alone, word) in words.iter().enumerate() {
            for (stage, start) in plan.starts().into_iter().enumerate() {
                let expected = f64::from(u8::from(stage == alone || stage == 5));
                assert_eq!(factor(&plan, &model, word, start), expected, "{word} from {start}");
            }
        }
    }

    #[test]
    #[allow(clippy::float_cmp)] // powers of two
    fn rates_decay_from_the_head_down_and_what_is_new_has_its_own() {
        let model = model(Method::Full);
        let of = |head_lr| {
            let rates = RatesConfig { layer_decay: Some(0.5), head_lr, ..RatesConfig::default() };
            let plan = plan(&rates, Method::Full, &model, LENGTH);
            let words = ["classification_head", "final_norm", "layers.2", "layers.0", "token_embedding"];
            let trunk = words.map(|word| factor(&plan, &model, word, 1));
            let adapter = |param: &&Param| param.kind == Kind::Adapter && param.layer == Some(1);
            (trunk, plan.factor(model.table().params().iter().find(adapter).unwrap(), 1))
        };
        let (trunk, adapter) = of(None);
        assert_eq!((trunk, adapter), ([1.0, 0.5, 0.5, 0.125, 0.0625], 0.25));
        let (trunk, adapter) = of(Some(4e-3));
        assert_eq!((trunk, adapter), ([4.0, 0.5, 0.5, 0.125, 0.0625], 1.0));
    }

    #[test]
    fn a_short_run_unfreezes_sooner_and_trains_everything_for_half_of_it() {
        let model = model(Method::Full);
        let chosen = |epochs: u64| {
            let mut rates = gradual(None);
            let length = Length { steps_per_epoch: 10, total_steps: 10 * epochs };
            let said = rates.choose(model.table(), length).unwrap();
            assert!(said.contains("gradual") && said.contains("epochs"), "{said}");
            assert_eq!(rates.choose(model.table(), length), None, "what is settled stays");
            rates.unfreeze_every
        };
        assert_eq!([8, 12, 4, 3].map(chosen), [Some(1.0), Some(1.0), Some(0.5), Some(0.375)]);
        // A phase has one step at least.
        let plan = plan(&gradual(Some(0.01)), Method::Full, &model, LENGTH);
        assert_eq!(plan.starts(), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn the_table_has_what_differs_and_no_more() {
        let config = TrainConfig {
            lr: Some(1e-3),
            warmup_steps: Some(5),
            schedule: Some(Schedule::Linear),
            ..TrainConfig::default()
        };
        let said = |rates: &RatesConfig, method, length| {
            let model = model(method);
            let rows = plan(rates, method, &model, length).rows(model.table(), &config, length);
            let all: usize = rows.iter().map(|row| row.parameters).sum();
            assert_eq!(all, model.table().trainable_len());
            let line = |row: Row| format!("{}|{:.1e}|{}", row.what, row.peak_lr, row.epochs);
            rows.into_iter().map(line).collect::<Vec<_>>()
        };
        let head_lr = RatesConfig { head_lr: Some(2e-3), ..RatesConfig::default() };
        assert_eq!(
            said(&head_lr, Method::Full, LENGTH),
            [
                "head|2.0e-3|0 to 6",
                "layers 0 to 2|1.0e-3|0 to 6",
                "layers 0 to 2: adapters|2.0e-3|0 to 6",
                "embeddings|1.0e-3|0 to 6"
            ]
        );
        assert_eq!(
            said(&head_lr, Method::Lora, LENGTH),
            ["head|2.0e-3|0 to 6", "layers 0 to 2: low-rank updates|1.0e-3|0 to 6"]
        );
        // The rate has fallen when the lower layers begin; a run that is too short never gets to them.
        let short = Length { total_steps: 15, ..LENGTH };
        assert_eq!(
            said(&gradual(Some(0.5)), Method::Lora, short),
            [
                "head|1.0e-3|0 to 1.5",
                "layer 2: low-rank updates|1.0e-3|0.5 to 1.5",
                "layer 1: low-rank updates|5.0e-4|1 to 1.5",
                "layer 0: low-rank updates|0.0e0|never"
            ]
        );
        let thaw = RatesConfig { unfreeze: Unfreeze::ChainThaw, ..gradual(Some(1.0)) };
        assert_eq!(said(&thaw, Method::Lora, LENGTH)[0], "head|1.0e-3|0 to 1, 4 to 6");
        assert_eq!(
            Plan::of(&RatesConfig::default(), Method::Full, 1.0, model(Method::Full).table(), LENGTH),
            None
        );
    }

    #[test]
    fn early_phases_record_nothing_below_what_trains() {
        let mut model = model(Method::Full);
        let plan = plan(&gradual(Some(1.0)), Method::Full, &model, LENGTH);
        model.set_phases(&plan.starts(), |param, from| plan.factor(param, from));
        let recorded = |step| {
            let device = Device::cpu(None, CodePath::Auto).unwrap();
            let weights = Weights::new(model.table().initial_values(1));
            let mut gradients = Gradients::new(model.table().trainable_len());
            let packing = Packing::new(&[3, 2], &[0, 1]);
            let mut tape =
                Tape::training(&device, &weights, &mut gradients, &packing, Precision::F32, 0, step);
            let hidden = model.trunk(&mut tape, Inputs::new(&[5, 6, 7, 5, 7]), None);
            let logits = model.classify(&mut tape, &hidden).unwrap();
            tape.loss(&logits, Targets::Classes(&[1, 0], None), 1.0);
            tape.recorded()
        };
        let counts = plan.starts().into_iter().map(recorded).collect::<Vec<_>>();
        assert_eq!(counts[0], 2, "the head's linear and the loss");
        assert!(counts.windows(2).all(|pair| pair[0] < pair[1]), "{counts:?}");
        assert_eq!(counts[2] - counts[1], counts[3] - counts[2], "a block is a block");
    }
}
