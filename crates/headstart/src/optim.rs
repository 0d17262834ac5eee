//! The optimizer: flat moments over the parameters that ever train, one clip, one pass over those that train now.
//!
//! Owns: moments, which parameters are updated at which rate, decay and count of updates. Never: the schedule (a rate
//! comes in), what trains when (the parameter table says), or the gradients' origin.

use headstart_engine::collective::Exchange;
use headstart_engine::ops::adam::{Adam, Decay, Range};
use headstart_engine::{Device, EngineError, Flat, Gradients, Weights};

use crate::config::{OptimizerName, TrainConfig};
use crate::params::ParamTable;

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
    /// Updates made in each phase so far. With one phase nothing depends on them; with several, a resumed run needs them
    /// back, as it does the moments.
    pub updates: Vec<u64>,
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
            segments: segments(table, number, decay, config.weight_decay as f32),
        };
        Self {
            adam: Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay },
            max_norm: config.clip(),
            phases: starts.iter().enumerate().map(phase).collect(),
            ranges: Vec::new(),
            first_moment: Flat::zeros(own_len),
            second_moment: Flat::zeros(own_len),
            exchange,
            updates: vec![0; starts.len()],
        }
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
        for Segment { range, factor, frozen_in } in &self.phases[now].segments {
            let missed: u64 = frozen_in.iter().map(|&phase| self.updates[phase]).sum();
            self.ranges.push(Range { lr: (lr * factor) as f32, step: update - missed, ..*range });
        }
        self.updates[now] += 1;
        let shares = self.exchange.shares();
        let own: Vec<Range> = self.ranges.iter().flat_map(|range| shares.cut(*range)).collect();
        let (first, second) = (&mut self.first_moment, &mut self.second_moment);
        self.adam.step(device, weights, gradients, first, second, &own, clip as f32);
        self.exchange.gather_weights(device, gradients, weights, &self.ranges)
    }
}

/// What is updated in a phase.
fn segments(table: &ParamTable, phase: usize, decay: Decay, weight_decay: f32) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    for (index, param) in table.params().iter().enumerate() {
        let (Some(grad), factor) = (param.grad, table.factor(index, phase)) else { continue };
        if factor <= 0.0 {
            continue;
        }
        let frozen_in: Vec<usize> =
            (0..phase).filter(|&earlier| table.factor(index, earlier) <= 0.0).collect();
        let decays = decay == Decay::Coupled || param.decays();
        let weight_decay = if decays { weight_decay } else { 0.0 };
        match segments.last_mut() {
            Some(Segment { range, factor: its_factor, frozen_in: its_frozen })
                if range.start + range.len == param.offset
                    && range.grad + range.len == grad
                    && range.weight_decay.to_bits() == weight_decay.to_bits()
                    && its_factor.to_bits() == factor.to_bits()
                    && *its_frozen == frozen_in =>
            {
                range.len += param.len();
            }
            _ => {
                let (start, len) = (param.offset, param.len());
                let range = Range { start, grad, moment: grad, len, lr: 0.0, weight_decay, step: 0 };
                segments.push(Segment { range, factor, frozen_in });
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
}
