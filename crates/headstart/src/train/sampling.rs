//! Epochs that take as many examples of each class.
//!
//! Owns: which examples such an epoch takes, a function of seed and epoch. Never: batches.
//!
//! Each class is read in passes over its own examples, each in an order of its own, and each epoch goes on where the one before
//! ended: so no example of a class comes again before all others of it have come.

use headstart_engine::rng;

/// The examples of each class that has any.
#[derive(Clone, Debug)]
pub(super) struct Classes {
    members: Vec<Vec<u32>>,
    seed: u64,
}

impl Classes {
    /// From the class of each example.
    pub(super) fn new(classes: impl Iterator<Item = u32>, seed: u64) -> Self {
        let mut members: Vec<Vec<u32>> = Vec::new();
        for (example, class) in classes.enumerate() {
            let class = class as usize;
            members.resize_with(members.len().max(class + 1), Vec::new);
            members[class].push(example as u32);
        }
        members.retain(|examples| !examples.is_empty());
        Self { members, seed }
    }

    /// The order of the examples in an epoch, as many as there are in all. What does not divide evenly goes to the classes in
    /// turn.
    pub(super) fn order(&self, epoch: u64) -> Vec<u32> {
        let all: usize = self.members.iter().map(Vec::len).sum();
        let count = self.members.len() as u64;
        let mut order = Vec::with_capacity(all);
        for (class, members) in self.members.iter().enumerate() {
            // Draws go round the classes; this class has every `count`-th of them.
            let drawn = |draws: u64| (draws + count - 1 - class as u64) / count;
            let (first, end) = (drawn(epoch * all as u64), drawn((epoch + 1) * all as u64));
            order.extend(self.pass(class, members, first, end));
        }
        rng::Stream::new(rng::derive(rng::derive(self.seed, 2), epoch)).shuffle(&mut order);
        order
    }

    /// The draws `first..end` of a class.
    fn pass(&self, class: usize, members: &[u32], first: u64, end: u64) -> Vec<u32> {
        let len = members.len() as u64;
        let mut taken = Vec::new();
        for pass in first / len..end.div_ceil(len) {
            let mut examples = members.to_vec();
            let key = rng::derive(rng::derive(rng::derive(self.seed, 6), class as u64), pass);
            rng::Stream::new(key).shuffle(&mut examples);
            let from = first.saturating_sub(pass * len).min(len) as usize;
            let to = (end - pass * len).min(len) as usize;
            taken.extend_from_slice(&examples[from..to]);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 40 examples of class 0, 9 of class 2, 2 of class 3.
    fn classes() -> Classes {
        let labels = (0..51).map(|i| {
            if i % 25 == 0 && i < 50 {
                3
            } else if i % 5 == 1 && i < 45 {
                2
            } else {
                0
            }
        });
        Classes::new(labels, 7)
    }

    #[test]
    fn each_epoch_takes_as_many_of_each_class() {
        let classes = classes();
        assert_eq!(classes.members.iter().map(Vec::len).collect::<Vec<_>>(), [40, 9, 2]);
        for epoch in 0..5 {
            let order = classes.order(epoch);
            assert_eq!(order.len(), 51);
            for members in &classes.members {
                let drawn = order.iter().filter(|example| members.contains(example)).count();
                assert_eq!(drawn, 17, "epoch {epoch}");
            }
            assert_eq!(order, self::classes().order(epoch), "the same again");
            assert_ne!(order, classes.order(epoch + 1));
        }
    }

    #[test]
    fn what_does_not_divide_goes_round_and_no_example_comes_twice_before_the_others() {
        let labels = [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1];
        let classes = Classes::new(labels.into_iter(), 1);
        let epochs: Vec<Vec<u32>> = (0..8).map(|epoch| classes.order(epoch)).collect();
        let firsts: Vec<usize> =
            epochs.iter().map(|order| order.iter().filter(|&&example| example < 7).count()).collect();
        assert_eq!(firsts, [6, 5, 6, 5, 6, 5, 6, 5]);
        let mut counts = [0_u32; 11];
        for example in epochs.concat() {
            counts[example as usize] += 1;
        }
        // 44 draws of seven, and of four.
        assert!(
            counts[..7].iter().all(|&n| n == 6 || n == 7) && counts[7..].iter().all(|&n| n == 11),
            "{counts:?}"
        );
    }
}
