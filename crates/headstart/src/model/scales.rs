//! Learned scales of activations ((IA)3, Liu et al. 2022): l * x, column by column, where x is what queries, keys or values are, or
//! what a linear reads.
//!
//! Owns: what they compute, their parameters, how they are merged into the linear beside them. Never: which parameters train
//! (`method.rs`).

use headstart_engine::ops::column_scale::ColumnScale;
use headstart_engine::{Tape, Value};

use crate::model::peft::Part;
use crate::model::projection::{Builder, Projection};
use crate::params::{Init, Kind, ParamId, ParamTable, Role};

/// The scales of some columns, each with the first of them; often none.
#[derive(Clone, Debug)]
pub(super) struct Scales(Vec<(ParamId, usize)>);

impl Scales {
    /// `parts` are all columns, in order; those that the configuration names have a scale. Each starts at 1: as nothing.
    pub(super) fn new(build: &mut Builder<'_>, parts: impl IntoIterator<Item = Part>) -> Self {
        let (mut scales, mut first) = (Vec::new(), 0);
        for Part { target, name, outputs } in parts {
            if build.config.ia3.is_some_and(|ia3| ia3.targets.has(target)) {
                let (name, start) = (format!("{name}.ia3.weight"), Init::Constant(1.0));
                let id = build.table.add(name, &[outputs], start, build.layer, Kind::Ia3, Role::Weight);
                scales.push((id, first));
            }
            first += outputs;
        }
        Self(scales)
    }

    /// `x`, scaled.
    pub(super) fn of(&self, tape: &mut Tape<'_>, table: &ParamTable, x: Value) -> Value {
        if self.0.is_empty() {
            return x;
        }
        let scale =
            |&(id, first): &(ParamId, usize)| ColumnScale { factors: table.view(id, tape.step()), first };
        let scales: Vec<_> = self.0.iter().map(scale).collect();
        tape.scale_columns(&x, &scales)
    }

    /// Multiplies what a linear gives: the rows of its weight, and its bias.
    pub(super) fn merge_behind(&self, linear: &Projection, table: &ParamTable, weights: &mut [f32]) {
        let (weight, bias) = (linear.weight(table), linear.bias(table));
        for &(id, first) in &self.0 {
            let scale = table.view(id, None);
            for column in 0..scale.cols {
                let factor = weights[scale.offset + column];
                let row = weight.offset + (first + column) * weight.cols;
                weights[row..row + weight.cols].iter_mut().for_each(|weight| *weight *= factor);
                if let Some(bias) = bias {
                    weights[bias.offset + first + column] *= factor;
                }
            }
        }
    }

    /// Multiplies what a linear reads: the columns of its weight.
    pub(super) fn merge_before(&self, linear: &Projection, table: &ParamTable, weights: &mut [f32]) {
        let weight = linear.weight(table);
        for &(id, first) in &self.0 {
            let scale = table.view(id, None);
            for row in 0..weight.rows {
                for column in 0..scale.cols {
                    let factor = weights[scale.offset + column];
                    weights[weight.offset + row * weight.cols + first + column] *= factor;
                }
            }
        }
    }
}
