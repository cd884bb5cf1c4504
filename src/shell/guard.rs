//! The probe guard: at most one round of a worker in flight, and at most one more asked for (spec 10 §3).
//!
//! Taken before the pool's lock and only tried: a taken guard is no error. Whoever finds it taken leaves one request, and
//! the round that ends is followed by another.

use std::sync::atomic::{AtomicBool, Ordering};

/// One per worker.
#[derive(Debug, Default)]
pub struct ProbeGuard {
    taken: AtomicBool,
    /// An event wants a round: bounded to one, whatever the number of events.
    wanted: AtomicBool,
}

/// The right to run a round; dropping it (also by a panic) frees the guard.
#[derive(Debug)]
pub struct Held<'a>(&'a ProbeGuard);

impl ProbeGuard {
    /// `None` while a round is in flight.
    pub fn try_lock(&self) -> Option<Held<'_>> {
        // `then`, not `then_some`: a `Held` that is made for nothing would free the guard when it is dropped.
        self.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok().then(|| Held(self))
    }

    /// Asks for a round that begins after this call. True if nobody had asked yet.
    pub fn want(&self) -> bool {
        !self.wanted.swap(true, Ordering::AcqRel)
    }

    /// Takes the request, if there is one: to be followed by a round that begins after this.
    pub fn take_wanted(&self) -> bool {
        self.wanted.swap(false, Ordering::AcqRel)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.taken.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_and_one_request() {
        let guard = ProbeGuard::default();
        let held = guard.try_lock().expect("free");
        assert!(guard.try_lock().is_none());
        assert!(guard.want());
        assert!(!guard.want(), "requests do not queue up");
        drop(held);
        assert!(guard.try_lock().is_some());
        assert!(guard.take_wanted());
        assert!(!guard.take_wanted());
    }

    #[test]
    fn a_panicking_round_frees_it() {
        let guard = ProbeGuard::default();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _held = guard.try_lock().expect("free");
            std::panic::resume_unwind(Box::new("a round that panics"));
        }));
        assert!(result.is_err());
        assert!(guard.try_lock().is_some());
    }

    /// Many threads: never two holders at once.
    #[test]
    fn exclusive_between_threads() {
        let guard = ProbeGuard::default();
        let inside = AtomicBool::new(false);
        let entered = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let Some(_held) = guard.try_lock() else { continue };
                        assert!(!inside.swap(true, Ordering::SeqCst));
                        entered.fetch_add(1, Ordering::Relaxed);
                        inside.store(false, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(entered.into_inner() > 0);
    }
}
