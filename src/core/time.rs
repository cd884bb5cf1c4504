//! Time as the core sees it: a number handed in by the caller. Nothing here reads a clock.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point on the monotonic clock: the time since the process (or simulation) began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(Duration);

impl Moment {
    pub const ZERO: Self = Self(Duration::ZERO);

    pub const fn since_start(elapsed: Duration) -> Self {
        Self(elapsed)
    }

    pub const fn elapsed_since_start(self) -> Duration {
        self.0
    }

    /// Time from `earlier` to `self`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

impl Sub<Duration> for Moment {
    type Output = Self;
    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration))
    }
}

/// Milliseconds since the Unix epoch, for records that outlive the process. May jump; decisions about
/// order and age inside one process use [`Moment`].
pub type WallMillis = i64;
