//! Embedding: `h = drop(token[id] + position[p] + type[t] + offset)`, the offset for rows of one chosen id. All but the
//! token table may be absent.
//!
//! Shapes: ids and token types `[N]`, token table `[V, C]`, position table `[P, C]`, token-type table `[T, C]`, offset
//! `[1, C]`, h `[N, C]` in f32. A model whose positions begin at row k of its table passes `View::row_range(k..)` of it.
//! The offset is what a frozen trunk trains for a token whose row pretraining never saw.
//!
//! Backward: `dtoken[id] += dh * m`, `dposition[p] += dh * m`, `dtype[t] += dh * m`, `doffset += dh * m` over its rows, with m the
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
pub struct Embedding<'a> {
    /// `[V, C]`.
    pub tokens: View,
    /// `[P, C]`.
    pub positions: Option<View>,
    /// The type of each packed token, and `[T, C]`.
    pub token_types: Option<(&'a [u32], View)>,
    /// A vector added to the rows of one id.
    pub offset: Option<(u32, View)>,
    /// On the sum.
    pub dropout: Option<Dropout>,
}

impl Embedding<'_> {
    /// The token table alone.
    pub fn new(tokens: View) -> Self {
        Self { tokens, positions: None, token_types: None, offset: None, dropout: None }
    }
}

/// Which row of a table's gradient a token's gradient goes to, if any.
type TargetRow<'a> = dyn Fn(usize) -> Option<u32> + Sync + 'a;

/// What the backward needs.
struct Saved {
    ids: Vec<u32>,
    tokens: View,
    positions: Option<View>,
    token_types: Option<(Vec<u32>, View)>,
    offset: Option<(u32, View)>,
    dropout: Option<ActiveDropout>,
}

impl Tape<'_> {
    /// Looks up the packing's tokens.
    ///
    /// # Panics
    /// When an id, position or type lies outside its table, or their number is not the packing's.
    pub fn embedding(&mut self, ids: &[u32], tables: Embedding<'_>) -> Value {
        let device = self.device;
        let _timer = device.time(Work::Embedding);
        let (rows, cols) = (ids.len(), tables.tokens.cols);
        assert_eq!(rows, self.packing.tokens(), "one id per packed token");
        assert!(tables.token_types.is_none_or(|(types, _)| types.len() == rows), "one type per packed token");
        let dropout = self.active_dropout(tables.dropout);
        let mut h = self.uninit(rows, cols, DType::F32);
        if let (Some(cuda), Some(slab)) = (device.cuda(), &self.slab) {
            let inside = |rows: &[u32], table: View, what: &str| {
                let fits = rows.iter().all(|&row| (row as usize) < table.rows);
                assert!(fits, "{what} outside the table of {}", table.rows);
            };
            inside(ids, tables.tokens, "an id");
            if let Some(table) = tables.positions {
                let last = self.packing.rows().map(|(_, position)| position as usize).max();
                assert!(last < Some(table.rows), "a position outside the table of {}", table.rows);
            }
            if let Some((types, table)) = tables.token_types {
                inside(types, table, "a token type");
            }
            let values = |view| self.weights.device_f32(cuda, view);
            let on_device = cuda::ops::embedding::Tables {
                tokens: values(tables.tokens),
                positions: tables.positions.map(values),
                token_types: tables.token_types.map(|(types, view)| (types, values(view))),
                offset: tables.offset.map(|(id, view)| (id, values(view))),
            };
            let dropout = dropout.as_ref().and_then(ActiveDropout::on_device);
            cuda::ops::embedding::forward(cuda, slab, ids, &on_device, dropout, &h);
        } else {
            let level = self.device.level();
            let tokens = self.weights.get(tables.tokens);
            let positions = tables.positions.map(|view| self.weights.get(view));
            let token_types = tables.token_types.map(|(types, view)| (types, self.weights.get(view)));
            let offset = tables.offset.map(|(id, view)| (id, self.weights.get(view)));
            let at: Vec<usize> = self.packing.rows().map(|(_, p)| p as usize).collect();
            let h = SharedSlice::new(h.f32_mut());
            self.device.for_each(rows.div_ceil(ROWS_PER_TASK), |task| {
                for r in task * ROWS_PER_TASK..rows.min((task + 1) * ROWS_PER_TASK) {
                    // SAFETY: every task has rows of its own.
                    let row = unsafe { h.slice(r * cols, cols) };
                    let id = ids[r] as usize;
                    row.copy_from_slice(&tokens[id * cols..(id + 1) * cols]);
                    if let Some(positions) = positions {
                        add(level, row, &positions[at[r] * cols..(at[r] + 1) * cols]);
                    }
                    if let Some((types, table)) = token_types {
                        let t = types[r] as usize;
                        add(level, row, &table[t * cols..(t + 1) * cols]);
                    }
                    if let Some((_, offset)) = offset.filter(|o| o.0 == ids[r]) {
                        add(level, row, offset);
                    }
                    if let Some(d) = &dropout {
                        apply_dropout(level, row, d.key(r), 0, d.rate);
                    }
                }
            });
        }
        let Embedding { tokens, positions, token_types, offset, .. } = tables;
        let views = [Some(tokens), positions, token_types.map(|t| t.1), offset.map(|o| o.1)];
        let needs = views.into_iter().flatten().any(|v| v.grad.is_some());
        let token_types = token_types.map(|(types, view)| (types.to_vec(), view));
        let saved = Saved { ids: ids.to_vec(), tokens, positions, token_types, offset, dropout };
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
            dh = back.masked(&dh, d);
        }
        let at: Vec<u32> = back.packing.rows().map(|(_, p)| p as u32).collect();
        let (types, offset) = (self.token_types.as_ref(), self.offset);
        let targets: [(Option<View>, &TargetRow<'_>); 4] = [
            (Some(self.tokens), &|r| Some(self.ids[r])),
            (self.positions, &|r| Some(at[r])),
            (types.map(|t| t.1), &|r| types.map(|t| t.0[r])),
            (offset.map(|o| o.1), &|r| offset.filter(|o| o.0 == self.ids[r]).map(|_| 0)),
        ];
        for (view, target) in targets {
            let Some(view) = view else { continue };
            if let Some(cuda) = device.cuda() {
                let Some(to) = back.gradients.device_mut(cuda, view) else { continue };
                let pairs = (0..dh.rows()).filter_map(|r| Some((target(r)?, r as u32)));
                let dropout = self.dropout.as_ref().and_then(ActiveDropout::on_device);
                cuda::ops::scatter::Groups::new(cuda, pairs, dh.rows()).add_rows(cuda, &dh, to, dropout);
            } else if let Some(to) = back.gradients.rows_mut(view, (0..dh.rows()).filter_map(target)) {
                add_rows(device, &dh, target, to);
            }
        }
    }
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
                            Embedding {
                                positions: Some(w[1]),
                                offset: Some((4, w[2])),
                                dropout,
                                ..Embedding::new(w[0])
                            },
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

    #[test]
    fn gradcheck_with_token_types_with_and_without_positions() {
        let (ids, types, at) = ([4, 2, 4, 0, 1, 4], [0, 0, 1, 1, 0, 1], [0, 1, 2, 3, 0, 1]);
        for cols in [1, 7, 65] {
            for p in [0.0, 0.3] {
                for positions in [true, false] {
                    // Positions begin at the third row of their table.
                    let params = [("tokens", 5, cols), ("types", 2, cols), ("positions", 6, cols)];
                    Gradcheck::new("embedding", &[], &params).lengths(&[4, 2]).run(
                        |tape, _, w| {
                            let positions = positions.then(|| w[2].row_range(2..6));
                            let dropout = Some(Dropout { p, site: 2 });
                            let token_types = Some((&types[..], w[1]));
                            tape.embedding(
                                &ids,
                                Embedding { positions, token_types, dropout, ..Embedding::new(w[0]) },
                            )
                        },
                        |_, w| {
                            let one = |(r, c): (usize, usize)| {
                                let key = site_key(row_key(SEED, STEP, u64::from(r >= 4), at[r] as u64), 2);
                                let keep =
                                    if p > 0.0 { dropout_factor(key, c, DropRate::new(p)) } else { 1.0 };
                                let position = if positions { w[2][(2 + at[r]) * cols + c] } else { 0.0 };
                                let sum =
                                    w[0][ids[r] as usize * cols + c] + w[1][types[r] as usize * cols + c];
                                (sum + position) * f64::from(keep)
                            };
                            (0..6).flat_map(|r| (0..cols).map(move |c| (r, c))).map(one).collect()
                        },
                    );
                }
            }
        }
    }
}
