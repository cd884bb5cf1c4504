//! How many programs run at once, and which is next: a counter that who comes waits for, and not for ever.
//!
//! Creates leave some turns to others however long they last, lists go first since everything else is decided by them, and otherwise it is
//! first come, first served.

use std::time::Instant;

use parking_lot::{Condvar, Mutex};

/// Programs at once (spec 46 §2).
pub(super) const RUNNING_MAX: usize = 8;
/// Creates among them: they take the longest, and what else hangs must not keep instances alive.
const CREATES_MAX: usize = 5;

/// What a turn is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Create,
    List,
    Other,
}

/// Why there is no turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoTurn {
    /// None is given any more.
    Stopped,
    /// Its time has passed.
    Late,
}

/// The turns there are. Whoever waits is a thread of the caller's, so their number has the caller's limit.
#[derive(Debug, Default)]
pub(super) struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    creates: usize,
    /// By the numbers that they drew when they came.
    waiting: Vec<(u64, Kind)>,
    drawn: u64,
    stopped: bool,
}

impl State {
    /// The number of the one whose turn it is.
    fn next(&self) -> Option<u64> {
        let may_run = |kind: Kind| kind != Kind::Create || self.creates < CREATES_MAX;
        let waiting = self.waiting.iter().filter(|(_, kind)| self.running < RUNNING_MAX && may_run(*kind));
        waiting.min_by_key(|(number, kind)| (*kind != Kind::List, *number)).map(|(number, _)| *number)
    }
}

/// One turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a>(&'a Turns, Kind);

impl Turns {
    /// Waits for a turn, but not beyond `until`: then there is none even if one is free.
    pub(super) fn take(&self, kind: Kind, until: Instant) -> Result<Turn<'_>, NoTurn> {
        let mut state = self.state.lock();
        let number = state.drawn;
        state.drawn += 1;
        state.waiting.push((number, kind));
        let refused = loop {
            if state.stopped {
                break Some(NoTurn::Stopped);
            }
            if Instant::now() >= until {
                break Some(NoTurn::Late);
            }
            if state.next() == Some(number) {
                break None;
            }
            self.changed.wait_until(&mut state, until);
        };
        state.waiting.retain(|(one, _)| *one != number);
        // The next one may have waited for nothing but this one.
        self.changed.notify_all();
        if let Some(refused) = refused {
            return Err(refused);
        }
        state.running += 1;
        state.creates += usize::from(kind == Kind::Create);
        Ok(Turn(self, kind))
    }

    /// From now on none is given; those that are taken last as long as they last.
    pub(super) fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let Self(turns, kind) = self;
        let mut state = turns.state.lock();
        state.running -= 1;
        state.creates -= usize::from(*kind == Kind::Create);
        drop(state);
        turns.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{Scope, ScopedJoinHandle};
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(600)
    }

    fn wait_for(what: impl Fn() -> bool) {
        let until = Instant::now() + Duration::from_secs(120);
        while !what() {
            assert!(Instant::now() < until);
            std::thread::yield_now();
        }
    }

    fn free<'a>(turns: &'a Turns, kind: Kind, count: usize) -> Vec<Turn<'a>> {
        (0..count).map(|_| turns.take(kind, soon()).expect("free")).collect()
    }

    /// Has come when this returns.
    fn waiter<'s, 't: 's>(
        scope: &'s Scope<'s, '_>,
        turns: &'t Turns,
        kind: Kind,
    ) -> ScopedJoinHandle<'s, Result<Turn<'t>, NoTurn>> {
        let before = turns.state.lock().drawn;
        let waiter = scope.spawn(move || turns.take(kind, soon()));
        wait_for(|| turns.state.lock().drawn > before);
        waiter
    }

    /// Who waits gets each turn that is given back, in the order in which they came; a stop ends the wait of all.
    #[test]
    fn turns_are_given_in_order_until_the_stop() {
        let turns = Turns::default();
        let mut taken = free(&turns, Kind::Other, RUNNING_MAX);
        std::thread::scope(|scope| {
            let mut waiters: Vec<_> = (0..5).map(|_| waiter(scope, &turns, Kind::Other)).collect();
            assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
            for _ in 0..3 {
                drop(taken.pop());
                taken.insert(0, waiters.remove(0).join().expect("no panic").expect("its turn"));
                assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
            }
            turns.stop();
            for waiter in waiters {
                assert_eq!(waiter.join().expect("no panic").err(), Some(NoTurn::Stopped));
            }
        });
        assert_eq!(turns.take(Kind::List, soon()).err(), Some(NoTurn::Stopped));
    }

    #[test]
    fn creates_leave_turns_to_others() {
        let turns = Turns::default();
        let mut creates = free(&turns, Kind::Create, CREATES_MAX);
        std::thread::scope(|scope| {
            let waiter = waiter(scope, &turns, Kind::Create);
            let others = free(&turns, Kind::Other, RUNNING_MAX - CREATES_MAX - 1);
            let list = free(&turns, Kind::List, 1);
            // Turns of others are none for it.
            drop((others, list));
            assert_eq!(free(&turns, Kind::Other, 1).len(), 1);
            assert!(!waiter.is_finished());
            drop(creates.pop());
            waiter.join().expect("no panic").expect("its turn");
        });
    }

    #[test]
    fn lists_go_first() {
        let turns = Turns::default();
        let mut taken = free(&turns, Kind::Other, RUNNING_MAX);
        std::thread::scope(|scope| {
            let (other, list) = (waiter(scope, &turns, Kind::Other), waiter(scope, &turns, Kind::List));
            drop(taken.pop());
            let list = list.join().expect("no panic").expect("its turn");
            assert!(!other.is_finished());
            drop(list);
            other.join().expect("no panic").expect("its turn");
        });
    }

    /// A wait that has come to its limit keeps nobody.
    #[test]
    fn waiting_has_a_limit() {
        let turns = Turns::default();
        assert_eq!(turns.take(Kind::Other, Instant::now()).err(), Some(NoTurn::Late));
        let mut taken = free(&turns, Kind::Other, RUNNING_MAX);
        std::thread::scope(|scope| {
            let late = scope.spawn(|| turns.take(Kind::List, Instant::now() + Duration::from_millis(20)));
            assert_eq!(late.join().expect("no panic").err(), Some(NoTurn::Late));
            let waiter = waiter(scope, &turns, Kind::Other);
            drop(taken.pop());
            waiter.join().expect("no panic").expect("its turn");
        });
        assert!(turns.state.lock().waiting.is_empty());
    }
}
