//! Ranks as threads of a test, joined by channels.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::{Collective, Link};
use crate::error::EngineError;

#[derive(Debug)]
struct Channels {
    to: Vec<Sender<Vec<u8>>>,
    from: Vec<Mutex<Receiver<Vec<u8>>>>,
}

impl Link for Channels {
    fn exchange(
        &self,
        sends: &[(usize, &[u8])],
        receives: &mut [(usize, &mut [u8])],
    ) -> Result<(), EngineError> {
        for (to, bytes) in sends {
            self.to[*to].send(bytes.to_vec()).unwrap();
        }
        for (from, bytes) in receives {
            bytes.copy_from_slice(&self.from[*from].lock().unwrap().recv().unwrap());
        }
        Ok(())
    }
}

/// What `work` gives on each rank, in the order of ranks.
pub(crate) fn on_ranks<T: Send>(world_size: usize, work: impl Fn(&Collective) -> T + Sync) -> Vec<T> {
    if world_size == 1 {
        return vec![work(&Collective::alone())];
    }
    let mut to: Vec<Vec<Sender<Vec<u8>>>> = (0..world_size).map(|_| Vec::new()).collect();
    let mut from: Vec<Vec<Mutex<Receiver<Vec<u8>>>>> = (0..world_size).map(|_| Vec::new()).collect();
    for sender in &mut to {
        for receiver in &mut from {
            let (send, receive) = channel();
            sender.push(send);
            receiver.push(Mutex::new(receive));
        }
    }
    let links = to.into_iter().zip(from).map(|(to, from)| Channels { to, from });
    std::thread::scope(|scope| {
        let run = |(rank, link)| {
            let work = &work;
            scope.spawn(move || work(&Collective::linked(rank, world_size, Box::new(link))))
        };
        let running: Vec<_> = links.enumerate().map(run).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}
