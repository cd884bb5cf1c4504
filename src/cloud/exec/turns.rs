//! How many programs run at once, and which is next: a counter that who comes waits for, and not for ever.
//!
//! Each kind of call finds a turn however long the others last: as many turns stay free as there are kinds of which none runs, so that
//! of one kind five run at most. Lists go first since everything else is decided by them, and otherwise it is first come, first served.

use std::time::Instant;

use parking_lot::{Condvar, Mutex};

/// Programs at once (spec 46 §2).
pub(super) const RUNNING_MAX: usize = 8;

/// What a turn is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Create,
    /// And the question at the start.
    List,
    Destroy,
    SetTags,
}

const KINDS: usize = 4;

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
    /// By kind.
    running: [usize; KINDS],
    /// By the numbers that they drew when they came.
    waiting: Vec<(u64, Kind)>,
    drawn: u64,
    stopped: bool,
}

impl State {
    /// The number of the one whose turn it is.
    fn next(&self) -> Option<u64> {
        let waiting = self.waiting.iter().filter(|(_, kind)| self.may_run(*kind));
        waiting.min_by_key(|(number, kind)| (*kind != Kind::List, *number)).map(|(number, _)| *number)
    }

    /// The first of its kind always has a turn: all others have left it one.
    fn may_run(&self, kind: Kind) -> bool {
        let free = RUNNING_MAX - self.running.iter().sum::<usize>();
        let kept = self.running.iter().enumerate().filter(|(one, count)| **count == 0 && *one != kind as usize).count();
        free > kept
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
        state.running[kind as usize] += 1;
        Ok(Turn(self, kind))
    }

    /// From now on none is given; those that are taken last as long as they last. Gives how many of these kinds those are.
    pub(super) fn stop<const COUNT: usize>(&self, kinds: [Kind; COUNT]) -> [usize; COUNT] {
        let mut state = self.state.lock();
        state.stopped = true;
        self.changed.notify_all();
        kinds.map(|kind| state.running[kind as usize])
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let Self(turns, kind) = self;
        let mut state = turns.state.lock();
        state.running[*kind as usize] -= 1;
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

    const ALL: [Kind; KINDS] = [Kind::Create, Kind::List, Kind::Destroy, Kind::SetTags];
    /// Of one kind.
    const MAX: usize = RUNNING_MAX - (KINDS - 1);

    /// Who waits gets each turn that is given back, in the order in which they came; a stop ends the wait of all.
    #[test]
    fn turns_are_given_in_order_until_the_stop() {
        let turns = Turns::default();
        let mut taken = free(&turns, Kind::Destroy, MAX);
        std::thread::scope(|scope| {
            let mut waiters: Vec<_> = (0..5).map(|_| waiter(scope, &turns, Kind::Destroy)).collect();
            assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
            for _ in 0..3 {
                drop(taken.pop());
                taken.insert(0, waiters.remove(0).join().expect("no panic").expect("its turn"));
                assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
            }
            assert_eq!(turns.stop([Kind::List, Kind::Destroy]), [0, MAX]);
            for waiter in waiters {
                assert_eq!(waiter.join().expect("no panic").err(), Some(NoTurn::Stopped));
            }
        });
        assert_eq!(turns.take(Kind::List, soon()).err(), Some(NoTurn::Stopped));
    }

    /// Whatever hangs, in whatever number, the first call of another kind goes on.
    #[test]
    fn each_kind_leaves_turns_to_others() {
        for kind in ALL {
            let turns = Turns::default();
            let mut taken = free(&turns, kind, MAX);
            std::thread::scope(|scope| {
                let waiter = waiter(scope, &turns, kind);
                let others = ALL.iter().filter(|other| **other != kind);
                let others: Vec<_> = others.flat_map(|other| free(&turns, *other, 1)).collect();
                assert_eq!(turns.state.lock().running.iter().sum::<usize>(), RUNNING_MAX);
                // Turns of others are none for it.
                drop(others);
                let other = ALL.iter().find(|other| **other != kind).expect("one");
                assert_eq!(free(&turns, *other, 1).len(), 1);
                assert!(!waiter.is_finished());
                drop(taken.pop());
                waiter.join().expect("no panic").expect("its turn");
            });
        }
    }

    /// Two of each, and nobody is left waiting who could run.
    #[test]
    fn all_turns_are_used_where_every_kind_has_one() {
        let turns = Turns::default();
        let taken: Vec<_> = ALL.iter().flat_map(|kind| free(&turns, *kind, 2)).collect();
        assert_eq!(taken.len(), RUNNING_MAX);
        assert!(ALL.iter().all(|kind| !turns.state.lock().may_run(*kind)));
    }

    #[test]
    fn lists_go_first() {
        let turns = Turns::default();
        let mut taken = free(&turns, Kind::Destroy, 3);
        let _rest = [free(&turns, Kind::Create, 2), free(&turns, Kind::SetTags, 2), free(&turns, Kind::List, 1)];
        std::thread::scope(|scope| {
            let (other, list) = (waiter(scope, &turns, Kind::Destroy), waiter(scope, &turns, Kind::List));
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
        assert_eq!(turns.take(Kind::Destroy, Instant::now()).err(), Some(NoTurn::Late));
        let mut taken = free(&turns, Kind::List, MAX);
        std::thread::scope(|scope| {
            let late = scope.spawn(|| turns.take(Kind::List, Instant::now() + Duration::from_millis(20)));
            assert_eq!(late.join().expect("no panic").err(), Some(NoTurn::Late));
            let waiter = waiter(scope, &turns, Kind::List);
            drop(taken.pop());
            waiter.join().expect("no panic").expect("its turn");
        });
        assert!(turns.state.lock().waiting.is_empty());
    }
}
