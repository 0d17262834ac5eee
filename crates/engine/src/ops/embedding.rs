//! Embedding: `h = drop(token[id] + position[p] + offset)`, the offset for rows of one marked id.
//!
//! Shapes: ids `[N]`, token table `[V, C]`, position table `[P, C]`, offset `[1, C]`, h `[N, C]` in f32.
//! The offset is what a frozen trunk trains for a token whose row pretraining never saw.
//!
//! Backward: `dtoken[id] += dh * m`, `dposition[p] += dh * m`, `doffset += dh * m` over its rows, with m the
//! dropout factors; rows are added in packed order, split over threads by columns.

use crate::cpu::rows::{ROWS_PER_TASK, add, apply_dropout};
use crate::cpu::scratch::with_rows;
use crate::cpu::shared::SharedSlice;
use crate::cuda;
use crate::device::Device;
use crate::dtype::DType;
use crate::profile::Work;
use crate::tape::{ActiveDropout, Backward, Dropout, Tape, Value};
use crate::tensor::Tensor;
use crate::weights::View;

/// Columns that one task of the backward handles.
const COLS_PER_TASK: usize = 64;

/// The tables of an embedding.
#[derive(Clone, Copy, Debug)]
pub struct Embedding {
    /// `[V, C]`.
    pub tokens: View,
    /// `[P, C]`.
    pub positions: View,
    /// A vector added to the rows of one id.
    pub offset: Option<(u32, View)>,
    /// On the sum.
    pub dropout: Option<Dropout>,
}

/// Which row of a table's gradient a token's gradient goes to, if any.
type TargetRow<'a> = dyn Fn(usize) -> Option<u32> + Sync + 'a;

/// What the backward needs.
struct Saved {
    ids: Vec<u32>,
    tables: Embedding,
    dropout: Option<ActiveDropout>,
}

impl Tape<'_> {
    /// Looks up the packing's tokens.
    ///
    /// # Panics
    /// When an id or a position lies outside its table, or the number of ids is not the packing's.
    pub fn embedding(&mut self, ids: &[u32], tables: Embedding) -> Value {
        let device = self.device;
        let _timer = device.time(Work::Embedding);
        let (rows, cols) = (ids.len(), tables.tokens.cols);
        assert_eq!(rows, self.packing.tokens(), "one id per packed token");
        let dropout = self.active_dropout(tables.dropout);
        let mut h = self.uninit(rows, cols, DType::F32);
        if let (Some(cuda), Some(slab)) = (device.cuda(), &self.slab) {
            let (vocabulary, positions) = (tables.tokens.rows, tables.positions.rows);
            assert!(
                ids.iter().all(|&id| (id as usize) < vocabulary),
                "an id outside the table of {vocabulary}"
            );
            let last = self.packing.rows().map(|(_, position)| position as usize).max();
            assert!(last < Some(positions), "a position outside the table of {positions}");
            let values = |view| self.weights.device_f32(cuda, view);
            let offset = tables.offset.map(|(id, view)| (id, values(view)));
            let on_device = cuda::ops::embedding::Tables {
                tokens: values(tables.tokens),
                positions: values(tables.positions),
                offset,
            };
            let dropout = dropout.as_ref().and_then(ActiveDropout::on_device);
            cuda::ops::embedding::forward(cuda, slab, ids, &on_device, dropout, &h);
        } else {
            let level = self.device.level();
            let (tokens, positions) = (self.weights.get(tables.tokens), self.weights.get(tables.positions));
            let offset = tables.offset.map(|(id, view)| (id, self.weights.get(view)));
            let at: Vec<usize> = self.packing.rows().map(|(_, p)| p as usize).collect();
            let h = SharedSlice::new(h.f32_mut());
            self.device.for_each(rows.div_ceil(ROWS_PER_TASK), |task| {
                for r in task * ROWS_PER_TASK..rows.min((task + 1) * ROWS_PER_TASK) {
                    // SAFETY: every task has rows of its own.
                    let row = unsafe { h.slice(r * cols, cols) };
                    let id = ids[r] as usize;
                    row.copy_from_slice(&tokens[id * cols..(id + 1) * cols]);
                    add(level, row, &positions[at[r] * cols..(at[r] + 1) * cols]);
                    if let Some((_, offset)) = offset.filter(|o| o.0 == ids[r]) {
                        add(level, row, offset);
                    }
                    if let Some(d) = &dropout {
                        apply_dropout(level, row, d.key(r), 0, d.rate);
                    }
                }
            });
        }
        let views = [Some(tables.tokens), Some(tables.positions), tables.offset.map(|o| o.1)];
        let needs = views.into_iter().flatten().any(|v| v.grad.is_some());
        let saved = Saved { ids: ids.to_vec(), tables, dropout };
        self.record(h, needs, move |back, dh| saved.backward(back, dh))
    }
}

impl Saved {
    fn backward(&self, back: &mut Backward<'_>, mut dh: Tensor) {
        let device = back.device;
        let _timer = device.time(Work::Embedding);
        if device.cuda().is_none()
            && let Some(d) = &self.dropout
        {
            dh = masked(back, &dh, d);
        }
        let at: Vec<u32> = back.packing.rows().map(|(_, p)| p as u32).collect();
        let offset = self.tables.offset;
        let targets: [(Option<View>, &TargetRow<'_>); 3] = [
            (Some(self.tables.tokens), &|r| Some(self.ids[r])),
            (Some(self.tables.positions), &|r| Some(at[r])),
            (offset.map(|o| o.1), &|r| offset.filter(|o| o.0 == self.ids[r]).map(|_| 0)),
        ];
        for (view, target) in targets {
            let Some(view) = view else { continue };
            if let Some(cuda) = device.cuda() {
                let Some(to) = back.gradients.device_mut(cuda, view) else { continue };
                let pairs = (0..dh.rows()).filter_map(|r| Some((target(r)?, r as u32)));
                let dropout = self.dropout.as_ref().and_then(ActiveDropout::on_device);
                cuda::ops::scatter::Groups::new(cuda, pairs, dh.rows()).add_rows(cuda, &dh, to, dropout);
            } else if let Some(to) = back.gradients.get_mut(view) {
                add_rows(device, &dh, target, to);
            }
        }
    }
}

/// dh times the dropout factors, on the processor.
fn masked(back: &Backward<'_>, dh: &Tensor, dropout: &ActiveDropout) -> Tensor {
    let (rows, cols, level) = (dh.rows(), dh.cols(), back.device.level());
    let mut masked = back.uninit(rows, cols, DType::F32);
    let out = SharedSlice::new(masked.f32_mut());
    back.device.for_each(rows.div_ceil(ROWS_PER_TASK), |task| {
        with_rows(cols, |scratch, _| {
            for r in task * ROWS_PER_TASK..rows.min((task + 1) * ROWS_PER_TASK) {
                // SAFETY: every task has rows of its own.
                let row = unsafe { out.slice(r * cols, cols) };
                row.copy_from_slice(dh.row(level, r, scratch));
                apply_dropout(level, row, dropout.key(r), 0, dropout.rate);
            }
        });
    });
    masked
}

/// to[target(r)] += dh[r], row after row, on the processor.
fn add_rows(device: &Device, dh: &Tensor, target: &TargetRow<'_>, to: &mut [f32]) {
    let (rows, cols, level) = (dh.rows(), dh.cols(), device.level());
    let gradient = SharedSlice::new(to);
    device.for_each(cols.div_ceil(COLS_PER_TASK), |task| {
        let first = task * COLS_PER_TASK;
        let width = COLS_PER_TASK.min(cols - first);
        with_rows(cols, |scratch, _| {
            for r in 0..rows {
                if let Some(to) = target(r) {
                    // SAFETY: every task has columns of its own.
                    let sum = unsafe { gradient.slice(to as usize * cols + first, width) };
                    add(level, sum, &dh.row(level, r, scratch)[first..first + width]);
                }
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{DropRate, dropout_factor, row_key, site_key};
    use crate::testing::{Gradcheck, ODD_SIZES, SEED, STEP};

    #[test]
    fn gradcheck() {
        for cols in ODD_SIZES {
            for p in [0.0, 0.3] {
                let lengths = [3, 1, 5];
                let ids = [4, 2, 4, 0, 1, 4, 4, 3, 2];
                let at = [0, 1, 2, 0, 0, 1, 2, 3, 4];
                let params = [("tokens", 5, cols), ("positions", 6, cols), ("offset", 1, cols)];
                Gradcheck::new("embedding", &[], &params).lengths(&lengths).run(
                    |tape, _, w| {
                        let dropout = Some(Dropout { p, site: 2 });
                        tape.embedding(
                            &ids,
                            Embedding { tokens: w[0], positions: w[1], offset: Some((4, w[2])), dropout },
                        )
                    },
                    |_, w| {
                        let mut h = Vec::new();
                        for r in 0..ids.len() {
                            let sequence = [0, 0, 0, 1, 2, 2, 2, 2, 2][r];
                            let key = site_key(row_key(SEED, STEP, sequence, at[r] as u64), 2);
                            for c in 0..cols {
                                let offset = if ids[r] == 4 { w[2][c] } else { 0.0 };
                                let sum = w[0][ids[r] as usize * cols + c] + w[1][at[r] * cols + c] + offset;
                                let keep =
                                    if p > 0.0 { dropout_factor(key, c, DropRate::new(p)) } else { 1.0 };
                                h.push(sum * f64::from(keep));
                            }
                        }
                        h
                    },
                );
            }
        }
    }
}
