//! Messages of all sizes between ranks that are threads.

use super::{LONG, on_all};
use crate::collective::Collective;
use crate::rng::Stream;

/// What `from` sends to `to` as its message `number`.
fn message(from: usize, to: usize, number: usize, length: usize) -> Vec<u8> {
    let mut stream = Stream::new((from * 1000 + to * 100 + number) as u64);
    let start = stream.below(251);
    (0..length).map(|i| ((start + i * 7 + i / 256) % 256) as u8).collect()
}

#[test]
fn messages_of_all_sizes_arrive_in_order_whatever_the_sizes_the_other_way() {
    // By number of the message, and odd for each pair: more than any buffer on the way holds, and nothing at all.
    let lengths =
        |from: usize, to: usize| [0, 1, 5 * from + to, 6_000_001 * (from + 1) / (to + 1), 0, 65_537, 3];
    for world_size in [2, 3, 4] {
        on_all(world_size, LONG, |collective| {
            let rank = collective.rank();
            let others: Vec<usize> = (0..world_size).filter(|&other| other != rank).collect();
            for round in 0..3 {
                let mut sends = Vec::new();
                let mut receives = Vec::new();
                for &other in &others {
                    for (i, length) in lengths(rank, other).into_iter().enumerate() {
                        sends.push((other, message(rank, other, i + round, length)));
                    }
                    receives.extend(lengths(other, rank).map(|length| (other, vec![1; length])));
                }
                let sends: Vec<(usize, &[u8])> = sends.iter().map(|(to, bytes)| (*to, &bytes[..])).collect();
                let mut into: Vec<(usize, &mut [u8])> =
                    receives.iter_mut().map(|(from, bytes)| (*from, &mut bytes[..])).collect();
                collective.exchange(&sends, &mut into).unwrap();
                for (n, (from, bytes)) in receives.into_iter().enumerate() {
                    let expected = message(from, rank, n % 7 + round, bytes.len());
                    assert!(bytes == expected, "from {from} to {rank}: message {} differs", n % 7);
                }
            }
            collective.exchange(&[], &mut []).unwrap();
            // Others may still be receiving: whoever goes without a word is lost to them.
            collective.leave();
        });
    }
}

#[test]
fn what_ranks_bring_is_gathered_and_what_rank_0_has_is_broadcast() {
    on_all(3, LONG, |collective| {
        let mine = vec![collective.rank() as u8; collective.rank() * 2];
        assert_eq!(collective.gather(&mine).unwrap(), [vec![], vec![1; 2], vec![2; 4]]);
        assert_eq!(collective.gather_equal(&[collective.rank() as u8]).unwrap(), [[0], [1], [2]]);
        let said: &[u8] = if collective.leads() { b"the same" } else { b"?" };
        assert_eq!(collective.broadcast(said).unwrap(), b"the same");
        assert_eq!((collective.world_size(), collective.local_rank()), (3, collective.rank()));
        collective.leave();
    });
    assert!(Collective::in_threads(1).unwrap()[0].is_alone());
}
