//! What the protocols between threads are made of: atomics, lock, channels, and waiting for whichever comes first.
//!
//! [`guard`](super::guard), [`agenda`](super::agenda), [`outbox`](super::outbox) and [`wakeups`](super::wakeups) take all of it from
//! here. `tests/model` compiles these same files with primitives of a model checker in this one's place, and has every order of their
//! steps tried.

pub use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
pub use std::time::{Duration, Instant};

pub use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
pub use parking_lot::Mutex;

pub use super::stop::Stop;
pub use crate::remote::wake::Wake;

use crossbeam_channel::select_biased;

/// How a wait has ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Waited<T> {
    /// Looked at first. Also when nobody can send any more.
    Stopped,
    Got(T),
    TimeUp,
}

impl<T> From<Result<T, crossbeam_channel::RecvError>> for Waited<T> {
    fn from(result: Result<T, crossbeam_channel::RecvError>) -> Self {
        result.map_or(Self::Stopped, Self::Got)
    }
}

/// Waits for a message, not beyond `until`.
pub fn wait<T>(stop: &Stop, channel: &Receiver<T>, until: Instant) -> Waited<T> {
    select_biased! {
        recv(stop.channel()) -> _ => Waited::Stopped,
        recv(channel) -> message => message.into(),
        default(until.saturating_duration_since(Instant::now())) => Waited::TimeUp,
    }
}

/// Waits for a message of any of them, not beyond `until`.
pub fn wait_any(stop: &Stop, [one, two, three]: [&Receiver<()>; 3], until: Instant) -> Waited<()> {
    select_biased! {
        recv(stop.channel()) -> _ => Waited::Stopped,
        recv(one) -> message => message.into(),
        recv(two) -> message => message.into(),
        recv(three) -> message => message.into(),
        default(until.saturating_duration_since(Instant::now())) => Waited::TimeUp,
    }
}
