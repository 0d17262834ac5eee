//! The thread of a rank's watch.
//!
//! Owns: signs of life, and the decision that a rank is lost. Rank 0's keeper is connected with those of all others and
//! decides for them; any other is connected with rank 0's alone, and decides only that rank 0 is lost.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::line::{Line, Message};
use super::{Loss, Order, Shared};
use crate::collective::poll;

/// How long orders lie at most.
const TICK: Duration = Duration::from_millis(20);
/// Signs of life come at least so often.
const BEAT: Duration = Duration::from_secs(1);
/// And so many times within the time after which a silent rank is lost.
const BEATS: u32 = 6;
/// Rank 0 waits so long for the others to note a loss before it acts on it, and may end.
const NOTING: Duration = Duration::from_secs(1);
/// A goodbye waits so long for the other side's.
const PARTING: Duration = Duration::from_secs(5);

pub(super) struct Keeper {
    shared: Arc<Shared>,
    lines: Vec<Line>,
    /// What rank 0 has decided and not all have noted.
    decided: Option<Decided>,
    /// When this rank began to leave.
    leaving: Option<Instant>,
}

struct Decided {
    loss: Loss,
    since: Instant,
    /// Who has not noted it yet.
    unaware: Vec<usize>,
}

impl Keeper {
    pub fn new(shared: Arc<Shared>, lines: Vec<Line>) -> Self {
        Self { shared, lines, decided: None, leaving: None }
    }

    pub fn run(mut self) {
        let beat = BEAT.min(self.shared.timeout / BEATS);
        let tick = TICK.min(beat);
        let (mut last_turn, mut last_beat) = (Instant::now(), Instant::now());
        // A process that was stopped before this thread had its first turn was not listening either.
        self.lines.iter_mut().for_each(|line| line.heard = last_turn);
        loop {
            let now = Instant::now();
            if now - last_turn > self.shared.timeout / 2 {
                // This process itself was stopped: what the others said meanwhile is still to be heard.
                self.lines.iter_mut().for_each(|line| line.heard = now);
            }
            last_turn = now;
            if !self.turn(now) {
                break;
            }
            if now - last_beat >= beat {
                last_beat = now;
                self.lines.iter_mut().for_each(Line::beat);
            }
            poll::wait(&self.lines.iter().filter_map(Line::wanted).collect::<Vec<_>>(), tick);
        }
        self.shared.lock().ended = true;
        self.shared.changed.notify_all();
    }

    /// Hears, decides, obeys. Whether there is more to do. Silence is counted up to `now`, not longer: the process may be
    /// stopped at any moment.
    fn turn(&mut self, now: Instant) -> bool {
        for i in 0..self.lines.len() {
            self.hear(i, now);
        }
        let orders = std::mem::take(&mut self.shared.lock().orders);
        for order in orders {
            if !self.obey(order) {
                return false;
            }
        }
        self.publish();
        match self.leaving {
            // Those who have heard the goodbye close their side.
            Some(since) => self.lines.iter().any(|line| line.is_open) && since.elapsed() < PARTING,
            None => true,
        }
    }

    fn leads(&self) -> bool {
        self.shared.rank == 0
    }

    fn hear(&mut self, i: usize, now: Instant) {
        if !self.lines[i].is_open {
            return;
        }
        let rank = self.lines[i].rank;
        for message in self.lines[i].turn() {
            match message {
                Message::Beat => {}
                Message::Lost(rank, what) => {
                    self.lines[i].say(&Message::Noted);
                    self.lose(Loss { rank, what });
                }
                Message::Noted => {
                    if let Some(decided) = &mut self.decided {
                        decided.unaware.retain(|&other| other != rank);
                    }
                }
                Message::Stop => {
                    self.shared.stop.store(true, Ordering::Release);
                    if self.leads() {
                        self.tell_all(&Message::Stop);
                    }
                }
                Message::Failed(why) => self.lose(Loss { rank, what: format!("failed: {why}") }),
                Message::Accused(rank, what) => self.lose(Loss { rank, what }),
                Message::Bye => {
                    self.lines[i].close();
                    return;
                }
            }
        }
        let line = &self.lines[i];
        if !line.is_open {
            if self.leaving.is_none() {
                self.lose(Loss { rank, what: "is gone: its connection was closed".to_owned() });
            }
        } else if now.saturating_duration_since(line.heard) > self.shared.timeout {
            let seconds = self.shared.timeout.as_secs_f64();
            let what = format!("was silent for longer than {seconds} s: it was stopped, or is cut off");
            self.lose(Loss { rank, what });
        }
    }

    /// Whether to go on.
    fn obey(&mut self, order: Order) -> bool {
        match order {
            Order::Stop => self.tell_all(&Message::Stop),
            Order::Fail(why) if self.leads() => self.lose(Loss { rank: 0, what: format!("failed: {why}") }),
            Order::Fail(why) => self.tell_all(&Message::Failed(why)),
            Order::Accuse(loss) if self.leads() => self.lose(loss),
            Order::Accuse(Loss { rank, what }) => self.tell_all(&Message::Accused(rank, what)),
            Order::Leave => {
                self.tell_all(&Message::Bye);
                self.leaving = Some(Instant::now());
            }
            Order::End => return false,
        }
        true
    }

    fn tell_all(&mut self, message: &Message) {
        self.lines.iter_mut().for_each(|line| line.say(message));
        // At once, for the process may end soon.
        for i in 0..self.lines.len() {
            self.lines[i].flush();
        }
    }

    /// A rank is lost, unless one was lost before.
    fn lose(&mut self, loss: Loss) {
        if self.decided.is_some() || self.shared.lock().lost.is_some() {
            return;
        }
        let mut unaware = Vec::new();
        if self.leads() {
            self.tell_all(&Message::Lost(loss.rank, loss.what.clone()));
            let others = self.lines.iter().map(|line| line.rank);
            unaware.extend(others.filter(|&other| other != loss.rank));
        }
        self.decided = Some(Decided { loss, since: Instant::now(), unaware });
        self.publish();
    }

    /// Lets this process know what is decided once the others know it, for it may end soon.
    fn publish(&mut self) {
        let Some(decided) = &mut self.decided else { return };
        let lines = &self.lines;
        let open = |rank: usize| lines.iter().any(|line| line.rank == rank && line.is_open);
        decided.unaware.retain(|&rank| open(rank));
        if decided.unaware.is_empty() || decided.since.elapsed() > NOTING {
            self.shared.lock().lost = self.decided.take().map(|decided| decided.loss);
            self.shared.is_lost.store(true, Ordering::Release);
            self.shared.changed.notify_all();
        }
    }
}
