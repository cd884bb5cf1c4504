//! The shell's primitives as the model checker has them: it decides at each step which thread goes on, and a state in which all wait
//! for ever fails the test.
//!
//! Time stands still unless a test lets it pass ([`pass`]), so whatever waits for a far deadline waits for ever: no safety net hides
//! a wake-up that was lost.

use std::collections::VecDeque;
use std::ops::Add;

pub(crate) use crossbeam_channel::TrySendError;
pub(crate) use shuttle::sync::Arc;
pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use shuttle::sync::{Condvar, MutexGuard};
pub(crate) use std::time::Duration;

/// As `parking_lot`'s.
#[derive(Debug)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().expect("a thread that panics ends the test")
    }
}

/// What threads that wait are told of: any send, stop, wake or passing of time.
struct Events {
    /// The time, in nanoseconds.
    now: Mutex<u64>,
    happened: Condvar,
}

shuttle::lazy_static! {
    static ref EVENTS: Events = Events { now: Mutex::new(0), happened: Condvar::new() };
}

fn happened() {
    let _now = EVENTS.now.lock();
    EVENTS.happened.notify_all();
}

/// Lets time pass.
pub(crate) fn pass(time: Duration) {
    *EVENTS.now.lock() += nanoseconds(time);
    happened();
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Waits until `look` finds something; it is asked again after each event. None when the time comes first.
fn wait_until<T>(until: Instant, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let mut now = EVENTS.now.lock();
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if *now >= until.0 {
            return None;
        }
        now = EVENTS.happened.wait(now).expect("a thread that panics ends the test");
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(u64);

impl Instant {
    /// It never comes.
    pub(crate) const NEVER: Self = Self(u64::MAX);

    pub(crate) fn now() -> Self {
        Self(*EVENTS.now.lock())
    }

    pub(crate) fn at(time: Duration) -> Self {
        Self(nanoseconds(time))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(nanoseconds(time)))
    }
}

#[derive(Debug)]
struct Channel<T> {
    queue: Mutex<VecDeque<T>>,
    capacity: usize,
    receiver_is_gone: AtomicBool,
}

#[derive(Debug)]
pub(crate) struct Sender<T>(Arc<Channel<T>>);

#[derive(Debug)]
pub(crate) struct Receiver<T>(Arc<Channel<T>>);

pub(crate) fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let queue = Mutex::new(VecDeque::new());
    let channel = Arc::new(Channel { queue, capacity, receiver_is_gone: AtomicBool::new(false) });
    (Sender(channel.clone()), Receiver(channel))
}

impl<T> Sender<T> {
    pub(crate) fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        if self.0.receiver_is_gone.load(Ordering::SeqCst) {
            return Err(TrySendError::Disconnected(message));
        }
        {
            let mut queue = self.0.queue.lock();
            if queue.len() >= self.0.capacity {
                return Err(TrySendError::Full(message));
            }
            queue.push_back(message);
        }
        happened();
        Ok(())
    }
}

impl<T> Receiver<T> {
    pub(crate) fn try_recv(&self) -> Result<T, ()> {
        self.0.queue.lock().pop_front().ok_or(())
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.receiver_is_gone.store(true, Ordering::SeqCst);
    }
}

/// Clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicBool::new(false)))
    }

    pub(crate) fn stop(&self) {
        self.0.store(true, Ordering::SeqCst);
        happened();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

#[derive(Debug)]
pub(crate) struct Wake(AtomicBool);

impl Wake {
    pub(crate) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    pub(crate) fn wake(&self) {
        self.0.store(true, Ordering::SeqCst);
        happened();
    }

    pub(crate) fn clear(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    /// As a long poll does.
    pub(crate) fn wait(&self) {
        let woken = wait_until(Instant::NEVER, || self.0.load(Ordering::SeqCst).then_some(()));
        assert!(woken.is_some());
    }
}

/// As the product's.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Waited<T> {
    Stopped,
    Got(T),
    TimeUp,
}

pub(crate) fn wait<T>(stop: &Stop, channel: &Receiver<T>, until: Instant) -> Waited<T> {
    let look = || if stop.is_stopped() { Some(Waited::Stopped) } else { channel.try_recv().ok().map(Waited::Got) };
    wait_until(until, look).unwrap_or(Waited::TimeUp)
}

pub(crate) fn wait_any(stop: &Stop, channels: [&Receiver<()>; 3], until: Instant) -> Waited<()> {
    let any = || channels.iter().find_map(|channel| channel.try_recv().ok());
    let look = || if stop.is_stopped() { Some(Waited::Stopped) } else { any().map(Waited::Got) };
    wait_until(until, look).unwrap_or(Waited::TimeUp)
}
