//! The fixed binary tree in which parts of a sum are added, and what of it each rank owns.
//!
//! A sum has `groups` parts, a power of two. Neighbours are added, then neighbours of those, until one is left. The number
//! of ranks divides that of groups, so each rank owns a subtree, and whichever rank adds a pair, its bits are the same.

use std::ops::Range;

/// The part of `count` things, in order, that belongs to group `group` of `groups`: contiguous, as even as can be.
pub fn group(count: usize, groups: usize, group: usize) -> Range<usize> {
    let start = |group: usize| (group as u128 * count as u128 / groups as u128) as usize;
    start(group)..start(group + 1)
}

/// The groups of a rank.
pub fn groups_of(rank: usize, world_size: usize, groups: usize) -> Range<usize> {
    group(groups, world_size, rank)
}

/// Adds the parts of a sum as the tree has them: `add(left, right)` for neighbours.
pub fn fold<T>(parts: impl IntoIterator<Item = T>, mut add: impl FnMut(T, T) -> T) -> Option<T> {
    let mut parts: Vec<T> = parts.into_iter().collect();
    while parts.len() > 1 {
        let mut next = Vec::with_capacity(parts.len().div_ceil(2));
        let mut each = parts.into_iter();
        while let Some(left) = each.next() {
            next.push(match each.next() {
                Some(right) => add(left, right),
                None => left,
            });
        }
        parts = next;
    }
    parts.pop()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_everything_once_and_ranks_own_subtrees() {
        for count in [0, 1, 3, 7, 100] {
            for groups in [1, 2, 4, 8] {
                let all: Vec<usize> = (0..groups).flat_map(|g| group(count, groups, g)).collect();
                assert_eq!(all, (0..count).collect::<Vec<_>>());
            }
        }
        let join = |left: String, right: String| format!("({left}+{right})");
        let whole = fold((0..8).map(|i| i.to_string()), join);
        for world_size in [1, 2, 4, 8] {
            let of_rank = |rank| fold(groups_of(rank, world_size, 8).map(|i| i.to_string()), join).unwrap();
            assert_eq!(fold((0..world_size).map(of_rank), join), whole);
        }
        assert_eq!(whole.as_deref(), Some("(((0+1)+(2+3))+((4+5)+(6+7)))"));
    }
}
