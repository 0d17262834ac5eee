//! The optimizer: flat moments over the parameters that ever train, one clip, one pass over those that train now.
//!
//! Owns: moments, which parameters are updated at which rate, decay and count of updates, where weights are pulled to, their
//! running mean. Never: the schedule (a rate
//! comes in), what trains when (the parameter table says), or the gradients' origin.

use headstart_engine::collective::Exchange;
use headstart_engine::ops::adam::{Adam, Decay, Range};
use headstart_engine::ops::blend::{self, Span};
use headstart_engine::{Device, EngineError, Flat, Gradients, Weights};

use crate::config::{OptimizerName, TrainConfig};
use crate::params::{Kind, Param, ParamTable};

/// Adam or AdamW with its moments.
#[derive(Debug)]
pub struct Optimizer {
    adam: Adam,
    max_norm: f64,
    phases: Vec<Phase>,
    /// Of the update that is made.
    ranges: Vec<Range>,
    /// The way to the other ranks; each updates its share of the parameters.
    pub exchange: Exchange,
    /// First moments, in the order of the parameters that ever train: of this rank's share.
    pub first_moment: Flat,
    /// Second moments.
    pub second_moment: Flat,
    anchor: Option<Anchor>,
    mean: Option<Mean>,
    /// Updates made in each phase so far. With one phase nothing depends on them; with several, a resumed run needs them
    /// back, as it does the moments.
    updates: Vec<u64>,
}

/// What the model's own weights are pulled to: L2-SP, decoupled as AdamW's decay is, w -= lr strength (w - start).
#[derive(Debug)]
struct Anchor {
    strength: f64,
    /// Where they began: of this rank's share.
    start: Flat,
}

/// A running mean of the weights.
#[derive(Debug)]
struct Mean {
    decay: f64,
    /// Of this rank's share.
    values: Flat,
    /// Where they lie: all that ever trains, for what is frozen now may be on its way still.
    own: Vec<Range>,
}

/// What is updated from an optimizer step on, until the next phase.
#[derive(Clone, Debug)]
struct Phase {
    from: u64,
    segments: Vec<Segment>,
}

/// Neighbouring parameters with all in common but their place.
#[derive(Clone, Debug)]
struct Segment {
    /// Rate and number of the update are filled in at each step.
    range: Range,
    /// On the rate of the step.
    factor: f64,
    /// Whether they are pulled to where they began.
    is_pulled: bool,
    /// Earlier phases, in which these parameters were frozen.
    frozen_in: Vec<usize>,
}

impl Optimizer {
    /// Fresh moments for the parameters of a table that ever train. Adam's coupled decay applies to all of them, as in
    /// the tutorial; AdamW's only to matrices. Of several ranks each has the moments of its share.
    pub fn new(table: &ParamTable, config: &TrainConfig, exchange: Exchange) -> Self {
        let own_len = exchange.shares().own_len();
        let decay = match config.optimizer {
            OptimizerName::Adam => Decay::Coupled,
            OptimizerName::AdamW => Decay::Decoupled,
        };
        let starts = table.phase_starts();
        let phase = |(number, &from): (usize, &u64)| Phase {
            from,
            segments: segments(table, number, decay, config.weight_decay as f32, |_| false),
        };
        Self {
            adam: Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay },
            max_norm: config.clip(),
            phases: starts.iter().enumerate().map(phase).collect(),
            ranges: Vec::new(),
            first_moment: Flat::zeros(own_len),
            second_moment: Flat::zeros(own_len),
            anchor: None,
            mean: None,
            exchange,
            updates: vec![0; starts.len()],
        }
    }

    /// From now on the weights that are not new to the model are pulled to where they began, `start` of this rank's share, instead
    /// of decaying to 0. The settings are those it was made with.
    pub fn keep_near(&mut self, table: &ParamTable, config: &TrainConfig, strength: f64, start: Vec<f32>) {
        for (number, phase) in self.phases.iter_mut().enumerate() {
            let (decay, weight_decay) = (self.adam.decay, config.weight_decay as f32);
            phase.segments = segments(table, number, decay, weight_decay, |param| !is_new(param));
        }
        self.anchor = Some(Anchor { strength, start: start.into() });
    }

    /// From now on a running mean of the weights is made, so far `values` of this rank's share. After t updates its decay is
    /// (1 + t) / (10 + t), and `decay` at most: a short run's mean is not one of where it began.
    pub fn average(&mut self, table: &ParamTable, decay: f64, values: Vec<f32>) {
        let own = self.own_ranges(table);
        self.mean = Some(Mean { decay, values: values.into(), own });
    }

    /// Where this rank's share of the weights began, if they are pulled there.
    pub fn start(&self) -> Option<&Flat> {
        self.anchor.as_ref().map(|anchor| &anchor.start)
    }

    /// Frees the moments and what else stands beside the weights; no update follows.
    pub fn let_go(&mut self) {
        (self.first_moment, self.second_moment) = (Flat::zeros(0), Flat::zeros(0));
        (self.anchor, self.mean) = (None, None);
    }

    /// The running mean of this rank's share of the weights, if one is made.
    pub fn mean(&self) -> Option<&Flat> {
        self.mean.as_ref().map(|mean| &mean.values)
    }

    /// This rank's share of all weights that ever train, in the order of its moments.
    pub fn own_values(&self, table: &ParamTable, weights: &[f32]) -> Vec<f32> {
        let own = self.own_ranges(table);
        own.iter().flat_map(|range| &weights[range.start..range.start + range.len]).copied().collect()
    }

    fn own_ranges(&self, table: &ParamTable) -> Vec<Range> {
        let mut all: Vec<Range> = Vec::new();
        for param in table.params() {
            let (Some(grad), start, len) = (param.grad, param.offset, param.len()) else { continue };
            match all.last_mut() {
                Some(range) if range.start + range.len == start => range.len += len,
                _ => all.push(Range { start, grad, moment: grad, len, lr: 0.0, weight_decay: 0.0, step: 0 }),
            }
        }
        let shares = self.exchange.shares();
        all.into_iter().flat_map(|range| shares.cut(range)).collect()
    }

    /// The updates made in each phase, where there are several: what a checkpoint has to keep.
    pub fn phase_updates(&self) -> Vec<u64> {
        if self.updates.len() > 1 { self.updates.clone() } else { Vec::new() }
    }

    /// Goes on from what [`Self::phase_updates`] gave once `all` updates had been made; whether it fits the phases.
    #[must_use]
    pub fn go_on_from(&mut self, phase_updates: &[u64], all: u64) -> bool {
        if self.updates.len() == 1 {
            self.updates = vec![all];
            return phase_updates.is_empty();
        }
        self.updates = phase_updates.to_vec();
        self.updates.len() == self.phases.len() && self.updates.iter().sum::<u64>() == all
    }

    /// Update number `update` (from 1) in optimizer step `step`, at rate `lr` times each parameter's factor, with gradients
    /// of norm `norm` clipped to the maximum; gradients are left zero. Adam's corrections are for the updates that a
    /// parameter has had itself: those of phases in which it was frozen do not count. Of several ranks each updates its share
    /// and receives the others'.
    ///
    /// # Errors
    /// [`EngineError::Rank`] with the rank that is lost.
    pub fn step(
        &mut self,
        device: &Device,
        weights: &mut Weights,
        gradients: &mut Gradients,
        norm: f64,
        lr: f64,
        step: u64,
        update: u64,
    ) -> Result<(), EngineError> {
        let clip = if self.max_norm > 0.0 { (self.max_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
        let now = self.phases.partition_point(|phase| phase.from <= step).saturating_sub(1);
        self.ranges.clear();
        let shares = self.exchange.shares();
        let mut pulled: Vec<Span> = Vec::new();
        for Segment { range, factor, is_pulled, frozen_in } in &self.phases[now].segments {
            let missed: u64 = frozen_in.iter().map(|&phase| self.updates[phase]).sum();
            let range = Range { lr: (lr * factor) as f32, step: update - missed, ..*range };
            if let Some(anchor) = self.anchor.as_ref().filter(|_| *is_pulled) {
                let rate = (lr * factor * anchor.strength).min(1.0) as f32;
                pulled.extend(shares.cut(range).map(|own| span(&own, rate)));
            }
            self.ranges.push(range);
        }
        self.updates[now] += 1;
        if let Some(anchor) = &self.anchor {
            blend::pull(device, weights, &anchor.start, &pulled);
        }
        let own: Vec<Range> = self.ranges.iter().flat_map(|range| shares.cut(*range)).collect();
        let (first, second) = (&mut self.first_moment, &mut self.second_moment);
        self.adam.step(device, weights, gradients, first, second, &own, clip as f32);
        self.exchange.gather_weights(device, gradients, weights, &self.ranges)?;
        if let Some(Mean { decay, values, own }) = &mut self.mean {
            let decay = decay.min((1.0 + update as f64) / (10.0 + update as f64));
            let spans: Vec<Span> = own.iter().map(|range| span(range, (1.0 - decay) as f32)).collect();
            blend::follow(device, values, weights, &spans);
        }
        Ok(())
    }
}

fn span(range: &Range, rate: f32) -> Span {
    Span { start: range.start, copy: range.moment, len: range.len, rate }
}

/// Whether a parameter is no part of a pretrained model.
fn is_new(param: &Param) -> bool {
    matches!(param.kind, Kind::Head | Kind::TokenOffset | Kind::Adapter | Kind::Lora | Kind::Ia3)
}

/// What is updated in a phase.
fn segments(
    table: &ParamTable,
    phase: usize,
    decay: Decay,
    weight_decay: f32,
    pulled: impl Fn(&Param) -> bool,
) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    for (index, param) in table.params().iter().enumerate() {
        let (Some(grad), factor) = (param.grad, table.factor(index, phase)) else { continue };
        if factor <= 0.0 {
            continue;
        }
        let frozen_in: Vec<usize> =
            (0..phase).filter(|&earlier| table.factor(index, earlier) <= 0.0).collect();
        let is_pulled = pulled(param);
        let decays = (decay == Decay::Coupled || param.decays()) && !is_pulled;
        let weight_decay = if decays { weight_decay } else { 0.0 };
        match segments.last_mut() {
            Some(Segment { range, factor: its_factor, is_pulled: its_pulled, frozen_in: its_frozen })
                if range.start + range.len == param.offset
                    && range.grad + range.len == grad
                    && range.weight_decay.to_bits() == weight_decay.to_bits()
                    && its_factor.to_bits() == factor.to_bits()
                    && *its_pulled == is_pulled
                    && *its_frozen == frozen_in =>
            {
                range.len += param.len();
            }
            _ => {
                let (start, len) = (param.offset, param.len());
                let range = Range { start, grad, moment: grad, len, lr: 0.0, weight_decay, step: 0 };
                segments.push(Segment { range, factor, is_pulled, frozen_in });
            }
        }
    }
    segments
}

#[cfg(test)]
mod tests {
    use headstart_engine::CodePath;

    use super::*;
    use crate::method::trains;
    use crate::params::{Init, Kind, Param, Role};

    const LR: f64 = 0.01;
    const GRADIENT: f32 = 0.5;

    /// One weight of two numbers in each of three blocks, and a head.
    fn table() -> ParamTable {
        let mut table = ParamTable::default();
        for layer in 0..3 {
            let (name, kind) = (format!("layer {layer}"), Kind::FeedForwardUp);
            table.add(name, &[1, 2], Init::Constant(1.0), Some(layer), kind, Role::Weight);
        }
        table.add("head", &[1, 2], Init::Constant(1.0), None, Kind::Head, Role::Weight);
        table.freeze_except(|param| trains(crate::config::Method::Full, false, param));
        table
    }

    /// Weights and moments, parameter by parameter, after each of some steps whose gradient is the same everywhere where
    /// something trains. `skipped` are steps without an update.
    fn train(table: &ParamTable, steps: u64, skipped: &[u64]) -> Vec<[Vec<f32>; 3]> {
        let device = Device::cpu(None, CodePath::Portable).unwrap();
        let config = TrainConfig { max_norm: Some(0.0), ..TrainConfig::default() };
        let mut optimizer = Optimizer::new(table, &config, Exchange::alone(table.trainable_len()));
        let mut weights = Weights::new(table.initial_values(1));
        let mut gradients = Gradients::new(table.trainable_len());
        let (mut update, mut after) = (0, Vec::new());
        for step in 1..=steps {
            if !skipped.contains(&step) {
                update += 1;
                for (index, param) in table.params().iter().enumerate() {
                    if table.factor(index, table.phase_of(step)) > 0.0 {
                        let start = param.grad.unwrap();
                        gradients.values_mut()[start..start + param.len()].fill(GRADIENT);
                    }
                }
                optimizer.step(&device, &mut weights, &mut gradients, 1.0, LR, step, update).unwrap();
                assert!(gradients.values().iter().all(|&g| g == 0.0));
            }
            after.push(
                [weights.values(), optimizer.first_moment.values(), optimizer.second_moment.values()]
                    .map(|values| values.chunks(2).map(|pair| pair[0]).collect()),
            );
        }
        after
    }

    /// A weight that starts at 1 after so many updates of Adam by hand, with that gradient, at these rates.
    fn adam(rates: &[f64]) -> f64 {
        let (mut w, mut m, mut v) = (1.0, 0.0, 0.0);
        for (i, lr) in rates.iter().enumerate() {
            let (g, t) = (f64::from(GRADIENT), i as i32 + 1);
            m = 0.9 * m + 0.1 * g;
            v = 0.999 * v + 0.001 * g * g;
            w -= lr * (m / (1.0 - 0.9_f64.powi(t))) / ((v / (1.0 - 0.999_f64.powi(t))).sqrt() + 1e-8);
        }
        w
    }

    fn assert_near(found: f32, exact: f64, what: &str) {
        assert!((f64::from(found) - exact).abs() < 1e-6, "{what}: {found}, {exact}");
    }

    #[test]
    fn a_factor_by_layer_scales_the_rate() {
        let mut table = table();
        // Layer-wise decay: each layer at 0.95 of the rate of the one above.
        table.set_phases(&[1], |param, _| param.layer.map_or(1.0, |layer| 0.95_f64.powi(3 - layer as i32)));
        for (steps, [weights, ..]) in (1..).zip(&train(&table, 3, &[])) {
            for (layer, power) in [(0, 3), (1, 2), (2, 1), (3, 0)] {
                let exact = adam(&vec![LR * 0.95_f64.powi(power); steps]);
                assert_near(weights[layer], exact, "layer-wise decay");
            }
        }
    }

    #[test]
    #[allow(clippy::float_cmp)] // untouched is untouched
    fn what_is_frozen_at_first_begins_with_its_own_first_update() {
        let mut table = table();
        // Gradual unfreezing: the head, from step 4 on the top layer, from step 6 on everything.
        table.set_phases(&[1, 4, 6], |param, from| {
            let lowest = match from {
                1 => 3,
                4 => 2,
                _ => 0,
            };
            f64::from(u8::from(param.layer.unwrap_or(3) >= lowest))
        });
        for skipped in [&[][..], &[2, 5]] {
            let after = train(&table, 7, skipped);
            let done = |from: u64, to: u64| (from..=to).filter(|step| !skipped.contains(step)).count();
            for (step, [weights, first, second]) in (1..).zip(&after) {
                for (index, from) in [(0, 6), (1, 6), (2, 4), (3, 1)] {
                    if step < from {
                        assert_eq!((weights[index], first[index], second[index]), (1.0, 0.0, 0.0));
                    } else {
                        assert_near(weights[index], adam(&vec![LR; done(from, step)]), "its own count");
                    }
                }
            }
        }
    }

    #[test]
    #[allow(clippy::float_cmp)] // untouched is untouched
    fn what_is_frozen_again_keeps_its_moments_and_its_count() {
        let mut table = table();
        // Chain-thaw: the head, each layer by itself, then everything.
        table.set_phases(&[1, 2, 3, 4, 5], |param, from| {
            let alone = [None, Some(0), Some(1), Some(2)];
            f64::from(u8::from(from == 5 || param.layer == alone[from as usize - 1]))
        });
        let after = train(&table, 6, &[]);
        for index in 0..4 {
            let own = (index + 1) % 4; // the step, from 0, in which it trained alone
            for step in own..4 {
                assert_eq!(
                    after[step].clone().map(|values| values[index]),
                    after[own].clone().map(|v| v[index])
                );
            }
            assert_near(after[5][0][index], adam(&[LR; 3]), "one update alone, two with all");
        }
    }

    #[test]
    fn methods_are_a_line_each() {
        let mut table = table();
        table.add("bias", &[2], Init::Constant(0.0), Some(1), Kind::FeedForwardUp, Role::Bias);
        let trained = |trains: fn(&Param) -> bool| {
            let mut table = table.clone();
            table.freeze_except(trains);
            let exchange = Exchange::alone(table.trainable_len());
            let optimizer = Optimizer::new(&table, &TrainConfig::default(), exchange);
            let ranges = optimizer.phases[0].segments.iter().map(|s| (s.range.start, s.range.len));
            ranges.collect::<Vec<_>>()
        };
        assert_eq!(trained(|_| true), [(0, 10)], "neighbours are one range");
        assert_eq!(trained(|param| param.kind == Kind::Head), [(6, 2)]);
        assert_eq!(trained(|param| param.role == Role::Bias || param.kind == Kind::Head), [(6, 4)], "BitFit");
        assert_eq!(trained(|param| param.layer == Some(1)), [(2, 2), (8, 2)]);
    }

    /// What `count` updates leave, with weights pulled to where they began and a running mean, both as given.
    fn trained(l2_sp: Option<f64>, ema: Option<f64>, config: &TrainConfig, count: u64) -> [Vec<f32>; 2] {
        let table = table();
        let device = Device::cpu(None, CodePath::Portable).unwrap();
        let mut optimizer = Optimizer::new(&table, config, Exchange::alone(table.trainable_len()));
        let mut weights = Weights::new(table.initial_values(1));
        let start = optimizer.own_values(&table, weights.values());
        if let Some(strength) = l2_sp {
            optimizer.keep_near(&table, config, strength, start.clone());
        }
        if let Some(decay) = ema {
            optimizer.average(&table, decay, start);
        }
        let mut gradients = Gradients::new(table.trainable_len());
        for step in 1..=count {
            gradients.values_mut().fill(GRADIENT);
            optimizer.step(&device, &mut weights, &mut gradients, 1.0, LR, step, step).unwrap();
        }
        let mean = optimizer.mean().map_or_else(Vec::new, |mean| mean.values().to_vec());
        [weights.values().to_vec(), mean]
    }

    #[test]
    fn weights_are_pulled_to_where_they_began_and_what_is_new_decays() {
        let config = TrainConfig {
            max_norm: Some(0.0),
            weight_decay: 0.1,
            optimizer: OptimizerName::AdamW,
            ..TrainConfig::default()
        };
        // 1 is where all began. Adam's steps are those of a constant gradient, whatever the weights.
        let (mut pulled, mut decayed) = (1.0_f64, 1.0_f64);
        for update in 1..=5 {
            let steps = vec![LR; update];
            let own = adam(&steps) - adam(&steps[1..]);
            pulled += LR * 30.0 * (1.0 - pulled) + own;
            decayed += -LR * 0.1 * decayed + own;
        }
        let [weights, _] = trained(Some(30.0), None, &config, 5);
        for (index, w) in weights.into_iter().enumerate() {
            let (exact, what) = if index < 6 { (pulled, "a layer") } else { (decayed, "the head") };
            assert_near(w, exact, what);
        }
        assert!(pulled > decayed, "it was held");
        let [plain, _] = trained(None, None, &config, 5);
        for w in plain {
            assert_near(w, decayed, "without");
        }
    }

    #[test]
    fn the_mean_follows_and_changes_nothing_of_what_is_trained() {
        let config = TrainConfig { max_norm: Some(0.0), ..TrainConfig::default() };
        let mut mean = 1.0;
        for update in 1..=20_usize {
            let t = update as f64;
            // 2/11, 3/12, ... until 0.6.
            let decay = ((1.0 + t) / (10.0 + t)).min(0.6);
            mean = decay * mean + (1.0 - decay) * adam(&vec![LR; update]);
        }
        let [weights, means] = trained(None, Some(0.6), &config, 20);
        for found in means {
            assert_near(found, mean, "mean");
        }
        assert_eq!(weights, trained(None, None, &config, 20)[0]);
    }

    #[test]
    fn a_run_goes_on_with_the_updates_of_its_phases_or_not_at_all() {
        let mut table = table();
        let fresh = |table: &ParamTable| {
            Optimizer::new(table, &TrainConfig::default(), Exchange::alone(table.trainable_len()))
        };
        let mut one_phase = fresh(&table);
        assert!(one_phase.phase_updates().is_empty());
        assert!(one_phase.go_on_from(&[], 9) && !one_phase.go_on_from(&[9], 9));
        table.set_phases(&[1, 4, 6], |_, _| 1.0);
        let mut optimizer = fresh(&table);
        assert!(optimizer.go_on_from(&[3, 2, 1], 6));
        assert_eq!(optimizer.phase_updates(), [3, 2, 1]);
        for wrong in [&[3, 2, 2][..], &[3, 3], &[]] {
            assert!(!fresh(&table).go_on_from(wrong, 6), "{wrong:?}");
        }
    }
}
