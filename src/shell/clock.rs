//! The only place that reads clocks for decisions. The monotonic clock decides; the wall clock is for records and people.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::core::time::{Moment, WallMillis};

/// The time since the process began.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Instant,
}

impl Clock {
    /// Begins now.
    pub fn start() -> Self {
        Self { began: Instant::now() }
    }

    pub fn now(&self) -> Moment {
        Moment::since_start(self.began.elapsed())
    }

    /// For `recv_deadline` and the like.
    pub fn instant_of(&self, moment: Moment) -> Instant {
        // A deadline beyond what an Instant can hold is one that never comes: a year will do.
        let far = self.began + Duration::from_secs(365 * 24 * 3600);
        self.began.checked_add(moment.elapsed_since_start()).unwrap_or(far)
    }

    /// When a moment of this process was (or will be), by today's wall clock.
    pub fn wall_of(&self, moment: Moment) -> WallMillis {
        let now = self.now();
        let ago = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        wall_now().saturating_sub(ago(now.since(moment))).saturating_add(ago(moment.since(now)))
    }
}

/// Milliseconds since the Unix epoch; 0 if the clock is before it.
pub fn wall_now() -> WallMillis {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}
