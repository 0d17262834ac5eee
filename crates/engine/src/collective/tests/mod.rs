//! Ranks as threads and as processes: what they exchange, and how they end.

mod exchanges;

use super::Collective;

/// What `work` gives on each rank of `world_size`, each a thread of its own, in the order of ranks.
pub(super) fn on_ranks<T: Send>(world_size: usize, work: impl Fn(&Collective) -> T + Sync) -> Vec<T> {
    let ranks = Collective::in_threads(world_size).unwrap();
    std::thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = ranks.iter().map(|rank| scope.spawn(move || work(rank))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}
