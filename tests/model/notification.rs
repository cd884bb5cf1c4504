//! Who changes something, who is told, and who looks.

use shuttle::thread;

use crate::check;
use crate::primitives::{Arc, AtomicU64, Duration, Instant, Ordering, Stop, pass};
use crate::wakeups::{Subscribers, Wakeups};

/// One of each kind of what wakes the scheduler.
#[derive(Default)]
struct Sources {
    pool: Subscribers,
    queue: Subscribers,
    done: Subscribers,
}

impl Sources {
    fn wakeups(&self) -> Wakeups {
        Wakeups { pool: self.pool.subscribe(), queue: self.queue.subscribe(), done: self.done.subscribe() }
    }
}

/// As the scheduler's thread, without the net: looks until it has seen `all` changes. How often it looked.
fn scheduler(wakeups: &Wakeups, changes: &AtomicU64, all: u64) -> u64 {
    let stop = Stop::new();
    let (mut told, mut looks) = (true, 0);
    while let Some(woken) = wakeups.await_pass(told, None, Instant::NEVER, &stop) {
        assert!(woken, "without a net there is nothing else");
        told = false;
        looks += 1;
        if changes.load(Ordering::SeqCst) == all {
            stop.stop();
        }
    }
    looks
}

/// A wake-up is never lost: three threads change something, each tells by another way, at any moment of the scheduler's pass. If one is
/// lost the scheduler sleeps for ever.
#[test]
fn a_wake_up_is_never_lost() {
    check(|| {
        let (sources, changes) = (Arc::new(Sources::default()), Arc::new(AtomicU64::new(0)));
        let wakeups = sources.wakeups();
        let of_thread = changes.clone();
        let thread = thread::spawn(move || scheduler(&wakeups, &of_thread, 3));
        let change = |sources: &Sources, changes: &AtomicU64, source: fn(&Sources) -> &Subscribers| {
            changes.fetch_add(1, Ordering::SeqCst);
            source(sources).notify();
        };
        let others =
            [(|sources| &sources.queue) as fn(&Sources) -> &Subscribers, |sources| &sources.done].map(|source| {
                let (sources, changes) = (sources.clone(), changes.clone());
                thread::spawn(move || change(&sources, &changes, source))
            });
        change(&sources, &changes, |sources| &sources.pool);
        for other in others {
            other.join().expect("it ends");
        }
        assert!(thread.join().expect("it ends") <= 4, "once at first, and once for each");
    });
}

/// The same of one source whose slot may be full: who finds it so is told again later.
#[test]
fn a_full_slot_is_told_already() {
    check(|| {
        let (sources, changes) = (Arc::new(Sources::default()), Arc::new(AtomicU64::new(0)));
        let wakeups = sources.wakeups();
        let of_thread = changes.clone();
        let thread = thread::spawn(move || scheduler(&wakeups, &of_thread, 3));
        for _ in 0..3 {
            changes.fetch_add(1, Ordering::SeqCst);
            sources.pool.notify();
        }
        thread.join().expect("it ends");
    });
}

/// The safety net's pass is known as such, a deadline's is not one; a subscription ends with its receiver.
#[test]
fn net_and_deadline_are_told_apart() {
    const TIME: Duration = Duration::from_secs(1);
    check(|| {
        let (sources, stop) = (Sources::default(), Stop::new());
        drop(sources.wakeups());
        let wakeups = sources.wakeups();
        let time = thread::spawn(|| pass(TIME));
        assert_eq!(wakeups.await_pass(false, None, Instant::at(TIME), &stop), Some(false));
        assert_eq!(wakeups.await_pass(false, Some(Instant::at(TIME)), Instant::NEVER, &stop), Some(true));
        assert!(!wakeups.announced_within(Duration::ZERO, &stop));
        sources.pool.notify();
        assert!(wakeups.announced_within(Duration::ZERO, &stop));
        stop.stop();
        assert_eq!(wakeups.await_pass(true, None, Instant::NEVER, &stop), None);
        time.join().expect("it ends");
    });
}
