//! Ranks as threads: what they exchange, how they meet, and how they end. (As processes: `tests/ranks.rs`.)

mod exchanges;
mod losses;
mod meeting;

use std::time::Duration;

use super::Collective;

/// Runs `work` on every rank of `world_size`, each on a thread of its own; its results by rank.
fn on_all<T: Send>(world_size: usize, timeout: Duration, work: impl Fn(Collective) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let ranks = Collective::in_threads_with(world_size, timeout).unwrap();
        let started: Vec<_> = ranks.into_iter().map(|rank| scope.spawn(|| work(rank))).collect();
        started.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

const LONG: Duration = Duration::from_secs(30);

/// What `work` gives on each rank of `world_size`, in the order of ranks.
pub(super) fn on_ranks<T: Send>(world_size: usize, work: impl Fn(&Collective) -> T + Sync) -> Vec<T> {
    on_all(world_size, LONG, |collective| {
        let result = work(&collective);
        // Others may still be receiving: whoever goes without a word is lost to them.
        collective.leave();
        result
    })
}
