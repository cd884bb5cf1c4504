//! How many programs run at once: a counter that who comes waits for, first come, first served.

use parking_lot::{Condvar, Mutex};

/// Programs at once (spec 46 §2).
pub(super) const RUNNING_MAX: usize = 8;

/// The turns there are. Whoever waits is a thread of the caller's, so their number has the caller's limit.
#[derive(Debug, Default)]
pub(super) struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    /// The number that the next one to come draws.
    next: u64,
    /// Whose turn is next.
    admitted: u64,
    stopped: bool,
}

/// One turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a>(&'a Turns);

impl Turns {
    /// Waits for a turn. `None`: no more are given.
    pub(super) fn take(&self) -> Option<Turn<'_>> {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        while !state.stopped && (state.admitted != number || state.running == RUNNING_MAX) {
            self.changed.wait(&mut state);
        }
        if state.stopped {
            return None;
        }
        state.admitted += 1;
        state.running += 1;
        // The next one may be waiting for nothing but this one's admission.
        self.changed.notify_all();
        Some(Turn(self))
    }

    /// From now on none is given; those that are taken last as long as they last.
    pub(super) fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }

    #[cfg(test)]
    fn waiting(&self) -> u64 {
        let state = self.state.lock();
        state.next - state.admitted
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.state.lock().running -= 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::*;

    fn wait_for(turns: &Turns, waiting: u64) {
        let until = Instant::now() + Duration::from_secs(120);
        while turns.waiting() != waiting {
            assert!(Instant::now() < until, "{turns:?}");
            std::thread::yield_now();
        }
    }

    /// Who waits gets each turn that is given back, in the order in which they came; a stop ends the wait of all.
    #[test]
    fn turns_are_given_in_order_until_the_stop() {
        let turns = Arc::new(Turns::default());
        let mut taken: Vec<_> = (0..RUNNING_MAX).map(|_| turns.take().expect("free")).collect();
        let (sender, receiver) = crossbeam_channel::bounded(10);
        let waiters: Vec<_> = (0..5_u64)
            .map(|number| {
                let (turns_of_waiter, sender) = (turns.clone(), sender.clone());
                let waiter = std::thread::spawn(move || {
                    let turn = turns_of_waiter.take();
                    sender.send((number, turn.is_some())).expect("received");
                    // It is kept: only those of the test are given back.
                    std::mem::forget(turn);
                });
                wait_for(&turns, number + 1);
                waiter
            })
            .collect();
        assert!(receiver.is_empty());
        for number in 0..3 {
            drop(taken.pop());
            assert_eq!(receiver.recv_timeout(Duration::from_secs(120)), Ok((number, true)));
        }
        turns.stop();
        waiters.into_iter().for_each(|waiter| waiter.join().expect("ends"));
        let mut refused: Vec<_> = receiver.try_iter().collect();
        refused.sort_unstable();
        assert_eq!(refused, [(3, false), (4, false)]);
        assert!(turns.take().is_none());
    }
}
