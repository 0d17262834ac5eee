//! The sum of the gradients of several groups on one rank, in the tree's order.
//!
//! Owns: the sums that wait for their neighbours, log2(groups) buffers. Never: other ranks (`reduce`).

use crate::cuda::Context;
use crate::cuda::ops::parts;
use crate::device::Device;
use crate::weights::{GRADIENT_BLOCK, Gradients};

/// Sums of whole subtrees that wait for the subtree on their right.
#[derive(Debug, Default)]
pub struct GroupSums {
    /// One place for each level of the tree.
    levels: Vec<Level>,
    /// Groups added.
    count: usize,
}

#[derive(Debug)]
struct Level {
    /// Zero where nothing waits here.
    sum: Gradients,
    waits: bool,
}

impl GroupSums {
    /// Takes the gradients of the next group of `groups`, and leaves zeros for those of the group after it; or, after the
    /// last group, the sum of all.
    pub fn add(&mut self, device: &Device, gradients: &mut Gradients, groups: usize) {
        self.count += 1;
        let mut level = 0;
        // As a binary counter carries.
        while let Some(waiting) = self.levels.get_mut(level).filter(|level| level.waits) {
            match device.cuda() {
                Some(cuda) => add_left_on_device(cuda, &mut waiting.sum, gradients),
                None => add_left(&mut waiting.sum, gradients),
            }
            waiting.waits = false;
            level += 1;
        }
        if self.count == groups {
            self.count = 0;
            return;
        }
        if self.levels.len() == level {
            self.levels.push(Level { sum: Gradients::new(gradients.flat().len()), waits: false });
        }
        let waiting = &mut self.levels[level].sum;
        match device.cuda() {
            Some(cuda) => add_left_on_device(cuda, gradients, waiting),
            None => waiting.swap_sums(gradients),
        }
        self.levels[level].waits = true;
    }

    /// Forgets what waits: the step begins again.
    pub fn clear(&mut self) {
        self.count = 0;
        for level in self.levels.iter_mut().filter(|level| level.waits) {
            level.sum.clear();
            level.waits = false;
        }
    }
}

/// `right = left + right; left = 0`. What was reached on one side only is taken as it is.
fn add_left(left: &mut Gradients, right: &mut Gradients) {
    let (left, was_left) = left.parts_mut();
    let (right, was_right) = right.parts_mut();
    let blocks = left.chunks_mut(GRADIENT_BLOCK).zip(right.chunks_mut(GRADIENT_BLOCK));
    for ((left, right), (was_left, was_right)) in blocks.zip(was_left.iter_mut().zip(was_right)) {
        if *was_left {
            if *was_right {
                for (left, right) in left.iter().zip(right.iter_mut()) {
                    *right += left;
                }
            } else {
                right.copy_from_slice(left);
            }
            left.fill(0.0);
            (*was_left, *was_right) = (false, true);
        }
    }
}

/// As [`add_left`], in place, so that a graph finds the same addresses each time.
fn add_left_on_device(cuda: &Context, left: &mut Gradients, right: &mut Gradients) {
    let len = left.flat().len();
    let (left, right) = (left.flat_mut().device_mut(cuda), right.flat_mut().device_mut(cuda));
    parts::add(cuda, right, left, len);
    cuda.zero(left, len * size_of::<f32>());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::View;
    use crate::collective::tree;
    use crate::rng::Stream;

    #[test]
    fn groups_are_added_as_the_tree_has_them() {
        let device = Device::cpu(None, crate::CodePath::Portable).unwrap();
        let n = 3 * GRADIENT_BLOCK + 7;
        let values: Vec<Vec<f32>> = (0..8)
            .map(|group| {
                let mut stream = Stream::new(group);
                (0..n).map(|_| stream.normal() as f32).collect()
            })
            .collect();
        let mut gradients = Gradients::new(n);
        let mut sums = GroupSums::default();
        for groups in [8, 1, 4] {
            for values in &values[..groups] {
                gradients.values_mut().copy_from_slice(values);
                sums.add(&device, &mut gradients, groups);
            }
            let add = |left: Vec<f32>, right: Vec<f32>| left.iter().zip(&right).map(|(l, r)| l + r).collect();
            let exact = tree::fold(values[..groups].iter().cloned(), add).unwrap();
            assert!(gradients.values() == exact);
            gradients.clear();
        }
        // A step that begins again forgets what waited, and what nothing reached stays unmarked.
        let row = |offset| View { offset, rows: 1, cols: GRADIENT_BLOCK, grad: Some(offset) };
        gradients.get_mut(row(0)).unwrap().fill(1.0);
        sums.add(&device, &mut gradients, 4);
        sums.clear();
        for place in [0, 2, 2, 0] {
            gradients.get_mut(row(place * GRADIENT_BLOCK)).unwrap().fill(0.5);
            sums.add(&device, &mut gradients, 4);
        }
        assert_eq!(gradients.reached(), [true, false, true, false]);
        let sums: Vec<f32> = gradients.values().chunks(GRADIENT_BLOCK).map(|block| block[3]).collect();
        assert_eq!(sums, [1.0, 0.0, 1.0, 0.0]);
    }
}
