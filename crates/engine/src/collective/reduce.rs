//! The sum of gradients over ranks, and updated weights back to all.
//!
//! Owns: what travels, and the order in which it is added: that of the tree, by our own code. Never: how bytes travel
//! (`Link`), who owns what (`shares`), what an update is.
//!
//! Both go piece by piece, so that what lies between is a few MiB whatever the model. Of each piece only the blocks travel
//! that a gradient reached (or whose weights may have changed): in fine-tuning that leaves out most of the token embedding.
//! Gradients travel from the end of the buffer on, in the order in which backward completes them.

use std::ops::Range;

use super::shares::{UNIT, updated};
use super::{Collective, Shares};
use crate::error::EngineError;
use crate::ops::adam;
use crate::weights::{GRADIENT_BLOCK as BLOCK, Gradients, Weights};

/// Units of each rank in a piece.
const UNITS_OF_RANK: usize = 4;

/// Adds up the gradients of all ranks. Each is left with the sum of its own share; what it has of the others' counts as not
/// reached, and is zero once the weights are updated.
///
/// # Errors
/// [`EngineError::Rank`] with the rank that is lost.
pub(super) fn reduce(
    collective: &Collective,
    shares: &Shares,
    gradients: &mut Gradients,
) -> Result<(), EngineError> {
    let mut received = Received::default();
    for piece in pieces(shares) {
        let sum = add_up(collective, shares, Packed::of(shares, gradients, piece), &mut received)?;
        sum.put(shares, gradients);
    }
    Ok(())
}

/// The pieces in the order in which they travel.
pub(super) fn pieces(shares: &Shares) -> impl Iterator<Item = Range<usize>> + use<> {
    shares.pieces(UNITS_OF_RANK).rev()
}

/// What one rank has of a piece: of each owner's blocks which were reached, and those, one behind the other.
#[derive(Debug)]
pub(super) struct Packed {
    piece: Range<usize>,
    marks: Vec<Vec<u8>>,
    values: Vec<Vec<f32>>,
}

impl Packed {
    /// Its units are complete.
    pub(super) fn of(shares: &Shares, gradients: &Gradients, piece: Range<usize>) -> Self {
        let (values, reached) = (gradients.values(), gradients.reached());
        let owners = 0..shares.world_size();
        let mark = |block| u8::from(reached[block]);
        let marks = owners.clone().map(|owner| blocks(shares, &piece, owner).map(mark).collect()).collect();
        let packed = |owner| {
            let count = blocks(shares, &piece, owner).filter(|&block| reached[block]).count();
            let mut packed = Vec::with_capacity(count * BLOCK);
            for block in blocks(shares, &piece, owner).filter(|&block| reached[block]) {
                packed.extend_from_slice(&values[elements(shares, block)]);
            }
            packed
        };
        Self { values: owners.map(packed).collect(), marks, piece }
    }
}

/// The sum over the ranks of the blocks that one of them owns in a piece.
#[derive(Debug)]
pub(super) struct Sum {
    piece: Range<usize>,
    /// Of each block, whether any rank reached it.
    reached: Vec<bool>,
    /// Those, one behind the other.
    values: Vec<f32>,
}

impl Sum {
    /// Puts it into the place of what this rank has of it; what it has of the others' counts as not reached.
    pub(super) fn put(&self, shares: &Shares, gradients: &mut Gradients) {
        let (values, reached) = gradients.parts_mut();
        for owner in (0..shares.world_size()).filter(|&owner| owner != shares.rank()) {
            for block in blocks(shares, &self.piece, owner) {
                reached[block] = false;
            }
        }
        let mut rest = &self.values[..];
        for (block, &was_reached) in blocks(shares, &self.piece, shares.rank()).zip(&self.reached) {
            reached[block] = was_reached;
            if was_reached {
                let own = elements(shares, block);
                let (sum, behind) = rest.split_at(own.len());
                values[own].copy_from_slice(sum);
                rest = behind;
            }
        }
    }
}

/// Room for what comes of the other ranks, used for one piece after the other.
#[derive(Debug, Default)]
pub(super) struct Received(Vec<Vec<f32>>);

impl Received {
    /// So many values of each rank.
    fn of(&mut self, lengths: &[usize]) -> Vec<&mut [f32]> {
        self.0.resize_with(lengths.len(), Vec::new);
        let room = |(values, &len): (&mut Vec<f32>, &usize)| {
            if values.len() < len {
                values.resize(len, 0.0);
            }
        };
        self.0.iter_mut().zip(lengths).for_each(room);
        self.0.iter_mut().zip(lengths).map(|(values, &len)| &mut values[..len]).collect()
    }
}

/// Sends each rank its blocks and adds up the own ones of all ranks.
pub(super) fn add_up(
    collective: &Collective,
    shares: &Shares,
    mine: Packed,
    received: &mut Received,
) -> Result<Sum, EngineError> {
    let (rank, world_size) = (shares.rank(), shares.world_size());
    let Packed { piece, marks, values } = mine;
    let mut theirs = vec![vec![0; marks[rank].len()]; world_size];
    exchange(collective, slices(&marks), slices_mut(&mut theirs))?;
    theirs[rank].copy_from_slice(&marks[rank]);
    let length = |from: usize| {
        let marked = blocks(shares, &piece, rank).zip(&theirs[from]).filter(|(_, mark)| **mark != 0);
        marked.map(|(block, _)| elements(shares, block).len()).sum()
    };
    let lengths: Vec<usize> =
        (0..world_size).map(|from| if from == rank { 0 } else { length(from) }).collect();
    exchange(collective, slices(&values), received.of(&lengths))?;
    let mut parts: Vec<&[f32]> = received.of(&lengths).into_iter().map(|part| &*part).collect();
    parts[rank] = &values[rank];
    let own_len = blocks(shares, &piece, rank).count() * BLOCK;
    let mut sum = Sum {
        reached: Vec::with_capacity(marks[rank].len()),
        values: Vec::with_capacity(own_len),
        piece: piece.clone(),
    };
    let mut level: Vec<Option<[f32; BLOCK]>> = vec![None; world_size];
    for (i, block) in blocks(shares, &piece, rank).enumerate() {
        let len = elements(shares, block).len();
        // The next block of those ranks that reached it.
        let mut next = |from: usize| {
            (theirs[from][i] != 0).then(|| {
                let (block, behind) = parts[from].split_at(len);
                parts[from] = behind;
                block
            })
        };
        let was_reached = if world_size == 2 {
            match (next(0), next(1)) {
                (Some(left), Some(right)) => {
                    sum.values.extend(left.iter().zip(right).map(|(left, right)| left + right));
                    true
                }
                (one, other) => one.or(other).is_some_and(|block| {
                    sum.values.extend_from_slice(block);
                    true
                }),
            }
        } else {
            for (from, place) in level.iter_mut().enumerate() {
                *place = next(from).map(|block| {
                    let mut whole = [0.0; BLOCK];
                    whole[..len].copy_from_slice(block);
                    whole
                });
            }
            fold(&mut level).is_some_and(|whole| {
                sum.values.extend_from_slice(&whole[..len]);
                true
            })
        };
        sum.reached.push(was_reached);
    }
    Ok(sum)
}

/// Adds neighbours until one is left, which is then the first; what only one of two reached is taken as it is, as `groups` has it.
fn fold(level: &mut [Option<[f32; BLOCK]>]) -> Option<[f32; BLOCK]> {
    let mut width = level.len();
    while width > 1 {
        for pair in 0..width / 2 {
            level[pair] = match (level[2 * pair], level[2 * pair + 1]) {
                (Some(left), Some(right)) => Some(std::array::from_fn(|k| left[k] + right[k])),
                (one, other) => one.or(other),
            };
        }
        width /= 2;
    }
    level[0]
}

/// Gives every rank the weights that the others have just updated. `ranges` are those of the update, whole, in the order of
/// both their weights and their gradients.
///
/// # Errors
/// [`EngineError::Rank`] with the rank that is lost.
pub(super) fn gather_weights(
    collective: &Collective,
    shares: &Shares,
    gradients: &Gradients,
    weights: &mut Weights,
    ranges: &[adam::Range],
) -> Result<(), EngineError> {
    let (rank, world_size) = (collective.rank(), collective.world_size());
    let values = weights.values_mut();
    let mut room = Received::default();
    let mut packed = Vec::new();
    for piece in shares.pieces(UNITS_OF_RANK) {
        let mine: Vec<usize> = blocks(shares, &piece, rank).collect();
        // Where gradient and moments are zero and nothing decays, no weight has changed.
        let decays =
            |block: usize| updated(ranges, elements(shares, block)).any(|part| part.weight_decay > 0.0);
        let marks: Vec<u8> =
            mine.iter().map(|&block| u8::from(gradients.moved()[block] || decays(block))).collect();
        let mut theirs: Vec<Vec<u8>> =
            (0..world_size).map(|owner| vec![0; blocks(shares, &piece, owner).count()]).collect();
        exchange(collective, vec![&marks[..]; world_size], slices_mut(&mut theirs))?;
        theirs[rank] = marks;
        let parts = |owner: usize| {
            let marked = blocks(shares, &piece, owner).zip(&theirs[owner]).filter(|(_, mark)| **mark != 0);
            marked.flat_map(|(block, _)| updated(ranges, elements(shares, block)))
        };
        packed.clear();
        for part in parts(rank) {
            packed.extend_from_slice(&values[part.start..part.start + part.len]);
        }
        let length = |owner| if owner == rank { 0 } else { parts(owner).map(|part| part.len).sum() };
        let lengths: Vec<usize> = (0..world_size).map(length).collect();
        exchange(collective, vec![&packed[..]; world_size], room.of(&lengths))?;
        let received = room.of(&lengths);
        for (owner, received) in received.iter().enumerate().filter(|(owner, _)| *owner != rank) {
            let mut at = 0;
            for part in parts(owner) {
                values[part.start..part.start + part.len].copy_from_slice(&received[at..at + part.len]);
                at += part.len;
            }
        }
    }
    Ok(())
}

/// Sends each rank its own and receives from each, but for this rank itself.
fn exchange<T: bytemuck::Pod>(
    collective: &Collective,
    out: Vec<&[T]>,
    into: Vec<&mut [T]>,
) -> Result<(), EngineError> {
    let rank = collective.rank();
    let sends: Vec<(usize, &[u8])> = out
        .into_iter()
        .enumerate()
        .filter(|(to, _)| *to != rank)
        .map(|(to, values)| (to, bytemuck::cast_slice(values)))
        .collect();
    let mut receives: Vec<(usize, &mut [u8])> = into
        .into_iter()
        .enumerate()
        .filter(|(from, _)| *from != rank)
        .map(|(from, values)| (from, bytemuck::cast_slice_mut(values)))
        .collect();
    collective.exchange(&sends, &mut receives)
}

fn slices<T>(all: &[Vec<T>]) -> Vec<&[T]> {
    all.iter().map(Vec::as_slice).collect()
}

fn slices_mut<T>(all: &mut [Vec<T>]) -> Vec<&mut [T]> {
    all.iter_mut().map(Vec::as_mut_slice).collect()
}

/// The blocks of a piece that a rank owns.
fn blocks(shares: &Shares, piece: &Range<usize>, owner: usize) -> impl Iterator<Item = usize> + use<> {
    let shares = *shares;
    let units = piece.clone().filter(move |&unit| shares.owner(unit) == owner);
    units.flat_map(move |unit| {
        let elements = shares.unit(unit);
        elements.start / BLOCK..elements.end.div_ceil(BLOCK)
    })
}

/// The elements of a block.
fn elements(shares: &Shares, block: usize) -> Range<usize> {
    let unit = shares.unit(block * BLOCK / UNIT);
    block * BLOCK..unit.end.min((block + 1) * BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::tests::on_ranks;
    use crate::collective::{Exchange, GroupSums, tree};
    use crate::ops::adam::{Adam, Decay};
    use crate::rng::Stream;
    use crate::{CodePath, Device, Flat, View};

    const GROUPS: usize = 4;
    const FROZEN: usize = 1_000;

    /// A table whose rows are reached here and there, and a dense part; some weights before them do not train.
    fn gradient_of(group: usize, step: u64, gradients: &mut Gradients, [rows, cols, rest]: [usize; 3]) {
        let mut stream = Stream::new(step * 100 + group as u64);
        let table = View { offset: FROZEN, rows, cols, grad: Some(0) };
        for i in 0..5 {
            let row = (i * i * 37 + group * 11 + step as usize) as u32 % rows as u32;
            let values = gradients.rows_mut(table, std::iter::once(row)).unwrap();
            for value in &mut values[row as usize * cols..][..cols] {
                *value += stream.normal() as f32;
            }
        }
        let dense = View { offset: FROZEN + rows * cols, rows: 1, cols: rest, grad: Some(rows * cols) };
        for value in gradients.get_mut(dense).unwrap() {
            *value += stream.normal() as f32;
        }
    }

    #[test]
    fn weights_and_norms_have_the_same_bits_on_any_number_of_ranks() {
        let sizes = [3_000, 130, 2 * UNIT + 77];
        let n = sizes[0] * sizes[1] + sizes[2];
        for (decay, weight_decay) in [(Decay::Coupled, 0.0), (Decay::Decoupled, 0.01)] {
            let run = |collective: &Collective, beside: bool| {
                let device = Device::cpu(std::num::NonZeroUsize::new(1), CodePath::Auto).unwrap();
                let exchange = Exchange::new(&device, collective, n).unwrap();
                let shares = exchange.shares();
                let adam = Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay };
                let mut stream = Stream::new(5);
                let mut weights = Weights::new((0..n + FROZEN).map(|_| stream.normal() as f32).collect());
                let (mut gradients, mut sums) = (Gradients::new(n), GroupSums::default());
                let (mut m, mut v) = (Flat::zeros(shares.own_len()), Flat::zeros(shares.own_len()));
                let mut norms = Vec::new();
                for step in 1..=4 {
                    let own = tree::groups_of(collective.rank(), collective.world_size(), GROUPS);
                    if beside && own.len() == 1 {
                        let ((), sums) = exchange.reduce_beside(|completed| {
                            gradient_of(own.start, step, &mut gradients, sizes);
                            for first in [n, n - 2 * UNIT, n - 2 * UNIT - 1, 0] {
                                completed.from(first, &gradients);
                            }
                        });
                        exchange.put(&sums.unwrap().unwrap(), &mut gradients);
                    } else {
                        for group in own.clone() {
                            gradient_of(group, step, &mut gradients, sizes);
                            sums.add(&device, &mut gradients, own.len());
                        }
                        assert!(!exchange.is_reduced_beside(&device), "these ranks are on one machine");
                        exchange.reduce(&device, &mut gradients).unwrap();
                    }
                    let norm = exchange.squared_norm(&device, &gradients).unwrap();
                    norms.push(norm.to_bits());
                    let range = |start, len, lr| adam::Range {
                        start: start + FROZEN,
                        grad: start,
                        moment: start,
                        len,
                        lr,
                        weight_decay,
                        step,
                    };
                    // In step 3 the table is frozen.
                    let (table, dense) = (range(0, n - sizes[2], 1e-3), range(n - sizes[2], sizes[2], 2e-3));
                    let ranges = if step == 3 { vec![dense] } else { vec![table, dense] };
                    let cut: Vec<_> = ranges.iter().flat_map(|range| shares.cut(*range)).collect();
                    adam.step(&device, &mut weights, &mut gradients, &mut m, &mut v, &cut, 0.7);
                    assert!(gradients.values().iter().all(|&g| g == 0.0));
                    exchange.gather_weights(&device, &gradients, &mut weights, &ranges).unwrap();
                }
                (norms, weights.values().iter().map(|w| w.to_bits()).collect::<Vec<_>>())
            };
            let alone = on_ranks(1, |rank| run(rank, false)).remove(0);
            for (world_size, beside) in [(2, false), (4, false), (4, true)] {
                let results = on_ranks(world_size, |rank| run(rank, beside));
                for (rank, result) in results.into_iter().enumerate() {
                    assert!(
                        result == alone,
                        "rank {rank} of {world_size}, beside {beside}, decay {weight_decay}"
                    );
                }
            }
        }
    }

    #[test]
    fn nothing_is_added_up_where_one_rank_does_not_go_on() {
        on_ranks(2, |collective| {
            let device = Device::cpu(std::num::NonZeroUsize::new(1), CodePath::Portable).unwrap();
            let gradients = Gradients::new(40 * UNIT);
            let exchange = Exchange::new(&device, collective, gradients.values().len()).unwrap();
            for step in 0..3 {
                if collective.rank() == step % 2 {
                    let (result, sums) = exchange.reduce_beside(|completed| {
                        completed.from(0, &gradients);
                        step
                    });
                    assert!(result == step && sums.unwrap().is_none());
                } else {
                    assert!(!exchange.all_go_on(false).unwrap());
                }
            }
        });
    }
}
