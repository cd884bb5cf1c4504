//! How threads tell each other that something has changed, without saying what: one slot each, full means told already. Whoever is
//! told empties the slot first and looks after that, so that no change is missed.
//!
//! `tests/model` tries all orders of what is here.

use super::primitives::{Duration, Instant, Mutex, Receiver, Sender, Stop, TrySendError, Waited, bounded, wait_any};

/// Whoever wants to know that something changed.
#[derive(Debug)]
pub struct Subscribers(Mutex<Vec<Sender<()>>>);

impl Default for Subscribers {
    fn default() -> Self {
        Self(Mutex::new(Vec::new()))
    }
}

impl Subscribers {
    /// A channel of capacity one. Dropping the receiver ends the subscription.
    pub fn subscribe(&self) -> Receiver<()> {
        let (sender, receiver) = bounded(1);
        self.0.lock().push(sender);
        receiver
    }

    /// Called after the change.
    pub fn notify(&self) {
        self.0.lock().retain(|sender| !matches!(sender.try_send(()), Err(TrySendError::Disconnected(()))));
    }
}

/// Where the scheduler's wake-ups come from.
#[derive(Debug)]
pub struct Wakeups {
    pub pool: Receiver<()>,
    pub queue: Receiver<()>,
    /// A transition ended.
    pub done: Receiver<()>,
}

impl Wakeups {
    fn all(&self) -> [&Receiver<()>; 3] {
        [&self.pool, &self.queue, &self.done]
    }

    /// Until something is announced (`told`: it was already), the deadline has passed, or the safety net is due at `net`. True if it was
    /// not the net. `None`: stop.
    ///
    /// The slots are empty when this returns, so the caller must look at everything after that: what is announced while it looks
    /// may not be seen by it, and is found in the slots the next time.
    pub fn await_pass(&self, told: bool, deadline: Option<Instant>, net: Instant, stop: &Stop) -> Option<bool> {
        let mut woken = told;
        if !woken {
            match wait_any(stop, self.all(), deadline.map_or(net, |deadline| deadline.min(net))) {
                Waited::Stopped => return None,
                Waited::Got(()) => woken = true,
                Waited::TimeUp => {}
            }
        }
        if stop.is_stopped() {
            return None;
        }
        woken |= self.drain();
        woken |= deadline.is_some_and(|deadline| deadline <= Instant::now());
        Some(woken)
    }

    /// Takes what has been announced so far. True if anything was.
    fn drain(&self) -> bool {
        self.all().map(|channel| channel.try_recv().is_ok()).contains(&true)
    }

    /// Whether an announcement comes within the limit; it is taken. Also at a stop.
    pub fn announced_within(&self, limit: Duration, stop: &Stop) -> bool {
        wait_any(stop, self.all(), Instant::now() + limit) != Waited::TimeUp
    }
}
