//! Which rank owns which part of the flat gradient: adds it up, takes its norm, has its moments, updates its weights.
//!
//! Owns: the cut. Never: moves a byte.
//!
//! Units of 65,536 elements go to the ranks in turn, so that every rank has as much of each layer as any other: work and
//! traffic are even whatever trains. A unit is what one partial sum of the norm covers.

use std::ops::Range;

use super::Collective;
use crate::error::EngineError;
use crate::ops::adam::{self, ELEMENTS_PER_TASK};

/// Elements of a unit.
pub(super) const UNIT: usize = ELEMENTS_PER_TASK;

/// The cut of so many elements among so many ranks, seen from one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    len: usize,
    rank: usize,
    world_size: usize,
}

impl Shares {
    /// The cut of `len` elements of gradient.
    pub fn new(collective: &Collective, len: usize) -> Self {
        Self { len, rank: collective.rank(), world_size: collective.world_size() }
    }

    /// The rank whose view this is.
    pub(super) fn rank(&self) -> usize {
        self.rank
    }

    /// The number of ranks.
    pub(super) fn world_size(&self) -> usize {
        self.world_size
    }

    /// Runs of units that travel together: so many of each rank.
    pub(super) fn pieces(
        &self,
        units_of_rank: usize,
    ) -> impl DoubleEndedIterator<Item = Range<usize>> + use<> {
        let (units, step) = (self.units(), units_of_rank * self.world_size);
        (0..units.div_ceil(step)).map(move |piece| piece * step..units.min((piece + 1) * step))
    }

    /// The rank of a unit.
    pub(crate) fn owner(&self, unit: usize) -> usize {
        unit % self.world_size
    }

    /// Number of units.
    pub(super) fn units(&self) -> usize {
        self.len.div_ceil(UNIT)
    }

    /// The elements of a unit.
    pub(super) fn unit(&self, unit: usize) -> Range<usize> {
        unit * UNIT..self.len.min((unit + 1) * UNIT)
    }

    /// This rank's elements, in order.
    pub fn own(&self) -> impl Iterator<Item = Range<usize>> {
        self.of(self.rank)
    }

    /// The elements of a rank, in order: pieces that may touch.
    pub fn of(&self, rank: usize) -> impl Iterator<Item = Range<usize>> {
        let shares = *self;
        let units = (rank..self.units()).step_by(self.world_size);
        units.map(move |unit| shares.unit(unit))
    }

    /// How many elements a rank has.
    pub fn len_of(&self, rank: usize) -> usize {
        self.of(rank).map(|unit| unit.len()).sum()
    }

    /// How many elements this rank has: the length of its moments.
    pub fn own_len(&self) -> usize {
        self.len_of(self.rank)
    }

    /// Hands rank 0 the values of all ranks in order, a unit at a time; `own` are this rank's. The others only send.
    ///
    /// # Errors
    /// Those of `take` on rank 0; [`EngineError::Rank`] with the rank that is lost.
    pub fn gather<E: From<EngineError>>(
        &self,
        collective: &Collective,
        own: &[f32],
        mut take: impl FnMut(&[f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut at = 0;
        for unit in 0..self.units() {
            let (owner, len) = (self.owner(unit), self.unit(unit).len());
            if owner == self.rank {
                let values = &own[at..at + len];
                at += len;
                if self.rank == 0 {
                    take(values)?;
                } else {
                    collective.exchange(&[(0, bytemuck::cast_slice(values))], &mut [])?;
                }
            } else if self.rank == 0 {
                let mut values = vec![0.0_f32; len];
                collective.exchange(&[], &mut [(owner, bytemuck::cast_slice_mut(&mut values))])?;
                take(&values)?;
            }
        }
        Ok(())
    }

    /// The parts of a range that this rank owns, with the places of their moments among its own.
    pub fn cut(&self, range: adam::Range) -> impl Iterator<Item = adam::Range> {
        let shares = *self;
        let whole = (self.world_size == 1).then_some(range);
        let end = range.grad + range.len;
        let units = (range.grad / UNIT..end.div_ceil(UNIT))
            .filter(move |unit| shares.world_size > 1 && shares.owner(*unit) == shares.rank);
        let part = move |unit: usize| {
            let (from, to) = (range.grad.max(unit * UNIT), end.min((unit + 1) * UNIT));
            let moment = unit / shares.world_size * UNIT + (from - unit * UNIT);
            adam::Range {
                start: range.start + (from - range.grad),
                grad: from,
                moment,
                len: to - from,
                ..range
            }
        };
        whole.into_iter().chain(units.map(part))
    }
}

/// What of updated ranges, which lie in order, is within some elements.
pub(super) fn updated(
    ranges: &[adam::Range],
    within: Range<usize>,
) -> impl Iterator<Item = adam::Range> + use<'_> {
    let first = ranges.partition_point(|range| range.grad + range.len <= within.start);
    let overlapping = ranges[first..].iter().take_while({
        let end = within.end;
        move |range| range.grad < end
    });
    overlapping.map(move |range| {
        let (from, to) = (range.grad.max(within.start), (range.grad + range.len).min(within.end));
        adam::Range { start: range.start + (from - range.grad), grad: from, len: to - from, ..*range }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::tests::on_ranks;

    #[test]
    fn every_element_has_one_owner_and_one_place() {
        let len = 5 * UNIT + 17;
        let range = |start: usize, grad, len| adam::Range {
            start,
            grad,
            moment: grad,
            len,
            lr: 0.5,
            weight_decay: 0.0,
            step: 1,
        };
        let ranges = [range(100, 0, 3 * UNIT + 5), range(900_000, 3 * UNIT + 5, len - 3 * UNIT - 5)];
        for world_size in [1, 2, 4] {
            let mut owners = vec![0; len];
            let parts = on_ranks(world_size, |collective| {
                let shares = Shares::new(collective, len);
                let parts: Vec<_> = ranges.iter().flat_map(|range| shares.cut(*range)).collect();
                // A rank's moments are used once each.
                let mut places: Vec<_> = parts.iter().flat_map(|p| p.moment..p.moment + p.len).collect();
                places.sort_unstable();
                assert_eq!(places, (0..shares.own_len()).collect::<Vec<_>>());
                let own: Vec<_> = shares.own().flatten().collect();
                assert_eq!(own, parts.iter().flat_map(|p| p.grad..p.grad + p.len).collect::<Vec<_>>());
                let numbers: Vec<f32> = own.iter().map(|&i| i as f32).collect();
                let mut gathered = Vec::new();
                let take = |unit: &[f32]| -> Result<(), EngineError> {
                    gathered.extend_from_slice(unit);
                    Ok(())
                };
                shares.gather(collective, &numbers, take).unwrap();
                let all = if collective.leads() { len } else { 0 };
                assert!(gathered == (0..all).map(|i| i as f32).collect::<Vec<_>>());
                parts
            });
            for part in parts.into_iter().flatten() {
                let whole = ranges.iter().find(|r| (r.grad..r.grad + r.len).contains(&part.grad)).unwrap();
                assert_eq!(part.start - whole.start, part.grad - whole.grad);
                owners[part.grad..part.grad + part.len].iter_mut().for_each(|n| *n += 1);
            }
            assert!(owners.iter().all(|&n| n == 1));
        }
    }
}
