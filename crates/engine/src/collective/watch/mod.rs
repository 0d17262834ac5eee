//! Who is lost, and why: every rank gives signs of life to rank 0, which tells the others what became of one.
//!
//! Owns: what is known of the ranks, and the words of a loss. Never: messages of data. Signs of life are given and heard on a
//! thread of their own ([`keeper`]), so that a long computation is no silence.
//!
//! The first loss is the one that counts, on all ranks: those that end because of it are not blamed.

mod keeper;
mod line;

use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use self::keeper::Keeper;
use self::line::Line;
use crate::error::EngineError;

/// How long a broken connection waits for the watch to say who is lost, and a word for its answer.
const GRACE: Duration = Duration::from_secs(2);
/// Of the words of a rank that fails, so many lines and bytes are told to others.
const LINES: usize = 4;
const BYTES: usize = 800;

/// A rank's watch over the others.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

/// What the keeper and the rest of the process know together.
#[derive(Debug)]
struct Shared {
    rank: usize,
    timeout: Duration,
    known: Mutex<Known>,
    changed: Condvar,
    /// Whether `known.lost` is there: asked often.
    is_lost: AtomicBool,
    /// Whether any rank was asked to stop.
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct Known {
    lost: Option<Loss>,
    orders: Vec<Order>,
    /// Whether the keeper has ended.
    ended: bool,
}

/// Which rank is lost, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Loss {
    rank: usize,
    what: String,
}

/// What the process asks of its keeper.
#[derive(Debug)]
enum Order {
    Stop,
    Fail(String),
    Accuse(Loss),
    Leave,
    End,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the watch has ended, or knows of a loss, or `patience` is over.
    fn wait(&self, patience: Duration) -> Option<Loss> {
        let until = Instant::now() + patience;
        let mut known = self.lock();
        while known.lost.is_none() && !known.ended {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            known = self.changed.wait_timeout(known, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        known.lost.clone()
    }
}

impl Watch {
    /// How long a rank may be silent.
    pub fn timeout(&self) -> Duration {
        self.shared.timeout
    }

    /// Starts to watch over `lines`: of rank 0 to all others, of others to rank 0. A rank that is silent for longer than
    /// `timeout` is lost.
    pub fn start(rank: usize, lines: Vec<(usize, TcpStream)>, timeout: Duration) -> io::Result<Self> {
        let lines: Vec<Line> =
            lines.into_iter().map(|(rank, stream)| Line::new(rank, stream)).collect::<Result<_, _>>()?;
        let shared = Arc::new(Shared {
            rank,
            timeout,
            known: Mutex::default(),
            changed: Condvar::new(),
            is_lost: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let keeper = Keeper::new(Arc::clone(&shared), lines);
        let thread = std::thread::Builder::new().name("watch".to_owned()).spawn(move || keeper.run())?;
        Ok(Self { shared, keeper: Mutex::new(Some(thread)) })
    }

    /// Whether all are there.
    pub fn check(&self) -> Result<(), EngineError> {
        if !self.shared.is_lost.load(Ordering::Acquire) {
            return Ok(());
        }
        self.shared.lock().lost.as_ref().map_or(Ok(()), |loss| Err(loss.to_error()))
    }

    /// What is to be said when the connection of data to `rank` broke. Often another rank is the cause, and the watch
    /// learns of it in a moment; else that rank is the lost one, and the others hear of it.
    pub fn broken(&self, rank: usize, error: &io::Error) -> EngineError {
        if let Some(loss) = self.shared.wait(GRACE.min(self.shared.timeout)) {
            return loss.to_error();
        }
        let what = format!("is gone: its connection to rank {} broke: {error}", self.shared.rank);
        self.accuse(rank, what)
    }

    /// Says that `rank` is lost: what all ranks then know.
    pub fn accuse(&self, rank: usize, what: String) -> EngineError {
        let loss = Loss { rank, what };
        self.order(Order::Accuse(loss.clone()));
        self.shared.wait(GRACE).unwrap_or(loss).to_error()
    }

    pub fn ask_stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.order(Order::Stop);
    }

    pub fn stop_asked(&self) -> bool {
        self.shared.stop.load(Ordering::Acquire)
    }

    /// Tells the others that this rank fails; returns when they know, or after a short time.
    pub fn fail(&self, why: &str) {
        self.order(Order::Fail(shortened(why)));
        self.shared.wait(GRACE);
    }

    /// Ends the watch well; returns when the others know, or after a short time.
    pub fn leave(&self) {
        self.end(Order::Leave);
    }

    fn order(&self, order: Order) {
        self.shared.lock().orders.push(order);
    }

    fn end(&self, order: Order) {
        self.order(order);
        let thread = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Drop for Watch {
    /// Without [`Watch::leave`] this is a loss to the others.
    fn drop(&mut self) {
        self.end(Order::End);
    }
}

impl Loss {
    fn to_error(&self) -> EngineError {
        let Self { rank, what } = self;
        EngineError::Rank {
            rank: *rank,
            what: what.clone(),
            fix: format!(
                "see what rank {rank} wrote, and its machine; then start all ranks again, to go on from what was saved last"
            ),
        }
    }
}

/// The first lines of a rank's words.
fn shortened(why: &str) -> String {
    let lines: Vec<&str> = why.lines().take(LINES).collect();
    let mut text = lines.join("\n");
    if text.len() > BYTES {
        text.truncate(text.floor_char_boundary(BYTES));
        text.push_str(" ...");
    }
    text
}
