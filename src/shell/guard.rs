//! The probe guard: at most one round of a worker in flight, and at most one more asked for (spec 10 §3).
//!
//! Taken before the pool's lock and only tried: a taken guard is no error. Whoever wants a round leaves one request, wakes the
//! worker's thread and ends a long poll that is under way; a round that ends with the request set is followed by another.
//!
//! `tests/model` tries all orders of what is here and in [`agenda`](super::agenda).

use super::primitives::{AtomicBool, Instant, Ordering, Receiver, Sender, Stop, Waited, Wake, bounded, wait};

/// One per worker.
#[derive(Debug)]
pub struct ProbeGuard {
    taken: AtomicBool,
    /// An event wants a round: bounded to one, whatever the number of events.
    wanted: AtomicBool,
    /// One slot: full means that the thread has been told.
    kicks: Sender<()>,
    kicked: Receiver<()>,
}

/// The right to run a round; dropping it (also by a panic) frees the guard.
#[derive(Debug)]
struct Held<'a>(&'a ProbeGuard);

/// What became of a round.
#[derive(Debug, PartialEq, Eq)]
pub enum Round<R> {
    /// Another one is in flight: it will see the request, if there is one.
    Taken,
    /// `again`: an event has asked for another round meanwhile.
    Done { result: R, again: bool },
}

impl Default for ProbeGuard {
    fn default() -> Self {
        let (kicks, kicked) = bounded(1);
        Self { taken: AtomicBool::new(false), wanted: AtomicBool::new(false), kicks, kicked }
    }
}

impl ProbeGuard {
    /// A round that begins after this call, which sees all that the caller did before it: now, or as soon as the present one has ended,
    /// which `wake` makes happen soon. Never blocks.
    pub fn ask(&self, wake: &Wake) {
        // The request first: a round that begins with this kick knows that it was asked for.
        self.wanted.store(true, Ordering::Release);
        let _ = self.kicks.try_send(());
        wake.wake();
    }

    /// Until a round is asked for, the worker closes, or the time comes.
    pub fn wait(&self, closing: &Stop, until: Instant) -> Waited<()> {
        wait(closing, &self.kicked, until)
    }

    /// Runs a round, unless one is in flight. `body` is told whether it was asked for.
    pub fn round<R>(&self, wake: &Wake, body: impl FnOnce(bool) -> R) -> Round<R> {
        let Some(_held) = self.try_lock() else {
            return Round::Taken;
        };
        // In this order, and all before the round looks at anything: an event that comes between the steps costs a needless round at
        // most.
        wake.clear();
        let asked = self.take_wanted();
        let _ = self.kicked.try_recv();
        let result = body(asked);
        Round::Done { result, again: self.take_wanted() }
    }

    /// `None` while a round is in flight.
    fn try_lock(&self) -> Option<Held<'_>> {
        // `then`, not `then_some`: a `Held` that is made for nothing would free the guard when it is dropped.
        self.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok().then(|| Held(self))
    }

    fn take_wanted(&self) -> bool {
        self.wanted.swap(false, Ordering::AcqRel)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.taken.store(false, Ordering::Release);
    }
}
