//! Fix stale locks (spec 30 §1): what a previous process locked and may have started on a worker that is still `unknown`.
//!
//! Only for a queue that does not know where an attempt was sent; the local queue waits for an attempt's own instance only.

use std::time::Duration;

use crate::core::time::Moment;

/// How far the wait at start-up is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StaleLocks {
    NotLooked,
    WaitingSince(Moment),
    Done,
}

/// What a pass may do about containers that are Locked and run nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StaleStep {
    /// Schedule them.
    Schedule,
    /// Leave them, and start nothing.
    Wait,
    /// The wait is over: unlock them.
    Unlock,
}

impl StaleLocks {
    /// `present`: some container is Locked and known nowhere while a worker is `unknown`.
    pub(super) fn step(&mut self, present: bool, timeout: Duration, now: Moment) -> StaleStep {
        let since = match *self {
            Self::Done => return StaleStep::Schedule,
            _ if !present => {
                *self = Self::Done;
                return StaleStep::Schedule;
            }
            Self::NotLooked => now,
            Self::WaitingSince(since) => since,
        };
        if now.since(since) >= timeout {
            *self = Self::Done;
            return StaleStep::Unlock;
        }
        *self = Self::WaitingSince(since);
        StaleStep::Wait
    }

    pub(super) fn deadline(&self, timeout: Duration) -> Option<Moment> {
        match *self {
            Self::WaitingSince(since) => Some(since + timeout),
            _ => None,
        }
    }
}
