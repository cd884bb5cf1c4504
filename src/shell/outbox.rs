//! State behind one lock, and what its events bring about on its way to the thread that carries it out: effects in the order of the
//! events, and the state's next deadline.
//!
//! `tests/model` tries all orders of what is here.

use super::primitives::{
    AtomicU64, Duration, Instant, Mutex, Ordering, Receiver, Sender, Stop, TrySendError, Waited, bounded, wait,
};

/// State that has something to do at a time of its own.
pub trait Timed {
    type Moment: Copy + Ord;

    /// `None`: nothing but events concerns it.
    fn next_deadline(&self) -> Option<Self::Moment>;
}

/// See the module. Shared by all threads.
#[derive(Debug)]
pub struct Outbox<S, E> {
    state: Mutex<S>,
    batches: Sender<Vec<E>>,
    overflowed: AtomicU64,
}

/// What the thread that carries effects out has to do.
#[derive(Debug)]
pub struct Turn<E> {
    /// The deadline has passed.
    pub is_due: bool,
    /// The effects of one event; empty when it has only set an earlier deadline.
    pub batch: Option<Vec<E>>,
}

impl<S: Timed, E> Outbox<S, E> {
    /// The other end gives the effects in the order of the events that caused them, `batches_max` at most.
    pub fn new(state: S, batches_max: usize) -> (Self, Receiver<Vec<E>>) {
        let (batches, receiver) = bounded(batches_max);
        (Self { state: Mutex::new(state), batches, overflowed: AtomicU64::new(0) }, receiver)
    }

    /// Has one event happen. Whoever waits in [`next_turn`] gets its effects, and learns of a deadline that is earlier than the one it
    /// waits for. Never blocks but for the lock.
    pub fn apply<R>(&self, event: impl FnOnce(&mut S) -> (R, Vec<E>)) -> R {
        let mut state = self.state.lock();
        let deadline = state.next_deadline();
        let (result, effects) = event(&mut state);
        let earlier = state.next_deadline().is_some_and(|next| deadline.is_none_or(|before| next < before));
        if !effects.is_empty() || earlier {
            // Under the lock, since that keeps the order.
            if let Err(TrySendError::Full(_)) = self.batches.try_send(effects) {
                self.overflowed.fetch_add(1, Ordering::Relaxed);
                debug_assert!(false, "the channel of effects is full");
            }
        }
        result
    }

    pub fn read<R>(&self, question: impl FnOnce(&S) -> R) -> R {
        question(&self.state.lock())
    }

    /// Batches of effects that were lost since the start; 0 unless something is wrong.
    pub fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }
}

/// Waits for a batch or the deadline, and as a net no longer than `net`. The deadline is read first: one that is set after that comes
/// with a batch. `None`: stop.
pub fn next_turn<E>(
    deadline: impl FnOnce() -> Option<Instant>,
    batches: &Receiver<Vec<E>>,
    net: Duration,
    stop: &Stop,
) -> Option<Turn<E>> {
    let deadline = deadline();
    let latest = Instant::now() + net;
    let batch = match wait(stop, batches, deadline.map_or(latest, |at| at.min(latest))) {
        Waited::Stopped => return None,
        Waited::Got(batch) => Some(batch),
        Waited::TimeUp => None,
    };
    Some(Turn { is_due: deadline.is_some_and(|at| at <= Instant::now()), batch })
}
