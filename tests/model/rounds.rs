//! The probe guard and a worker's agenda (spec 10 §3).

use shuttle::thread;

use crate::agenda::{Agenda, Turn};
use crate::check;
use crate::guard::{ProbeGuard, Round};
use crate::primitives::{Arc, AtomicBool, AtomicU64, Duration, Instant, Ordering, Stop, Waited, Wake, pass};

const SPACING: Duration = Duration::from_millis(20);

/// What a worker's thread and those who call it share.
struct Worker {
    guard: ProbeGuard,
    wake: Wake,
    closing: Stop,
    /// Events that have happened, and how many of them the last round that has ended began after.
    events: AtomicU64,
    seen: AtomicU64,
    rounds: AtomicU64,
}

impl Worker {
    fn new() -> Arc<Self> {
        let (events, seen, rounds) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let (guard, wake, closing) = (ProbeGuard::default(), Wake::new(), Stop::new());
        Arc::new(Self { guard, wake, closing, events, seen, rounds })
    }

    fn event(&self) {
        self.events.fetch_add(1, Ordering::SeqCst);
        self.guard.ask(&self.wake);
    }

    /// As the product's, with one tick. `poll`: rounds that nobody asked for are long polls.
    fn run(&self, spacing: Duration, tick: Instant, poll: bool) {
        let mut agenda = Agenda::new(&self.guard, spacing, tick);
        while agenda.wait(&self.closing) {
            let now = Instant::now();
            if agenda.is_tick_due(now) {
                agenda.set_next_tick(Instant::NEVER);
                if !agenda.has_round() {
                    agenda.set_round(now);
                }
            }
            let turn = agenda.round(&self.wake, |asked| {
                let seen = self.events.load(Ordering::SeqCst);
                self.rounds.fetch_add(1, Ordering::SeqCst);
                if poll && !asked {
                    self.wake.wait();
                }
                self.seen.store(seen, Ordering::SeqCst);
                if seen == 2 {
                    self.closing.stop();
                }
                // The next long poll, if that is what rounds are.
                poll.then(Instant::now)
            });
            assert_ne!(turn, Turn::Taken, "there is one thread");
        }
    }
}

/// Two events at any moment: before, in and after rounds. Without a round after the last of them the threads would wait for ever.
fn a_round_after_each_event(poll: bool) {
    let worker = Worker::new();
    let of_thread = worker.clone();
    let thread = thread::spawn(move || of_thread.run(Duration::ZERO, Instant::NEVER, poll));
    let other = worker.clone();
    let caller = thread::spawn(move || other.event());
    worker.event();
    caller.join().expect("it ends");
    thread.join().expect("it ends");
    assert_eq!(worker.seen.load(Ordering::SeqCst), 2);
    // The first, one for each event, and one for each kick that came when its request had been taken.
    assert!(poll || worker.rounds.load(Ordering::SeqCst) <= 5, "{}", worker.rounds.load(Ordering::SeqCst));
}

/// A probe round's event that finds the guard taken is followed by another round.
#[test]
fn an_event_that_finds_the_guard_taken_is_followed_by_another_round() {
    check(|| a_round_after_each_event(false));
}

/// And it ends a long poll that is under way.
#[test]
fn an_event_during_a_long_poll_is_followed_by_another_round() {
    check(|| a_round_after_each_event(true));
}

/// It is due at once, and knows that it was asked for.
#[test]
fn what_is_asked_for_in_a_round_is_due_after_it() {
    shuttle::check_dfs(
        || {
            let worker = Worker::new();
            let mut agenda = Agenda::new(&worker.guard, Duration::ZERO, Instant::NEVER);
            let mut asked_for = Vec::new();
            for event in [true, false] {
                assert!(agenda.has_round());
                let turn = agenda.round(&worker.wake, |asked| {
                    asked_for.push(asked);
                    if event {
                        worker.event();
                    }
                    None
                });
                assert_eq!(turn, Turn::Done);
            }
            assert_eq!(asked_for, [false, true]);
            assert_eq!(agenda.round(&worker.wake, |_| None), Turn::NotDue);
        },
        None,
    );
}

/// The same where the next round may not begin yet: the request waits for its time, and is not forgotten.
#[test]
fn an_event_that_comes_too_early_waits_for_its_time() {
    check(|| {
        let worker = Worker::new();
        let of_thread = worker.clone();
        let thread = thread::spawn(move || of_thread.run(SPACING, Instant::NEVER, false));
        let clock = worker.clone();
        let time = thread::spawn(move || {
            while !clock.closing.is_stopped() {
                pass(SPACING);
                thread::yield_now();
            }
        });
        worker.event();
        worker.event();
        thread.join().expect("it ends");
        time.join().expect("it ends");
    });
}

/// A tick restarts what is missing: here nobody asks, and something changes after the first round.
#[test]
fn a_tick_brings_a_round_where_there_is_none() {
    check(|| {
        let worker = Worker::new();
        let of_thread = worker.clone();
        let thread = thread::spawn(move || of_thread.run(Duration::ZERO, Instant::at(SPACING), false));
        worker.events.store(2, Ordering::SeqCst);
        pass(SPACING);
        thread.join().expect("it ends");
    });
}

/// Never two rounds at once, and of two that are tried at once one runs. Small enough for all orders.
#[test]
fn one_round_at_a_time() {
    shuttle::check_dfs(
        || {
            let shared = Arc::new((ProbeGuard::default(), Wake::new(), AtomicBool::new(false)));
            let try_round = |shared: &(ProbeGuard, Wake, AtomicBool)| {
                let (guard, wake, inside) = shared;
                let round = guard.round(wake, |_| {
                    assert!(!inside.swap(true, Ordering::SeqCst), "two at once");
                    inside.store(false, Ordering::SeqCst);
                });
                matches!(round, Round::Done { .. })
            };
            let other = shared.clone();
            let thread = thread::spawn(move || try_round(&other));
            let here = try_round(&shared);
            let there = thread.join().expect("it ends");
            assert!(here || there);
        },
        None,
    );
}

/// Requests do not queue up, and a round that panics frees the guard.
#[test]
fn one_request_and_no_more() {
    shuttle::check_dfs(
        || {
            let (guard, wake) = (ProbeGuard::default(), Wake::new());
            guard.ask(&wake);
            guard.ask(&wake);
            assert_eq!(guard.round(&wake, |asked| asked), Round::Done { result: true, again: false });
            let again = guard.round(&wake, |asked| {
                assert_eq!(guard.round(&wake, |_| ()), Round::Taken);
                assert_eq!(guard.round(&wake, |_| ()), Round::Taken, "finding it taken does not free it");
                guard.ask(&wake);
                asked
            });
            assert_eq!(again, Round::Done { result: false, again: true });
            guard.ask(&wake);
            assert_eq!(guard.round(&wake, |asked| asked), Round::Done { result: true, again: false });
            let now = Instant::now();
            assert_eq!(guard.wait(&Stop::new(), now), Waited::TimeUp, "the kick was for the round that has been");
            let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                guard.round(&wake, |_| std::panic::resume_unwind(Box::new("a round that panics")))
            }));
            assert!(panicked.is_err());
            assert_eq!(guard.round(&wake, |_| ()), Round::Done { result: (), again: false });
        },
        None,
    );
}
