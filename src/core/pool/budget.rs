//! How many probe rounds ticks and boot retries may start, evenly spread over the pool (spec 10 §3, MaxProbesPerSecond).

use std::time::Duration;

use crate::core::time::Moment;

/// A queue of equally spaced slots: no burst after a pause, no thundering herd after start-up.
#[derive(Debug, Default)]
pub struct ProbeBudget {
    next_slot: Moment,
}

impl ProbeBudget {
    /// Reserves the next slot; the round may begin after the pause returned.
    pub fn reserve(&mut self, now: Moment, rounds_per_second: f64) -> Duration {
        let slot = self.next_slot.max(now);
        self.next_slot = slot + Duration::from_secs_f64(1.0 / rounds_per_second.max(0.001));
        slot.since(now)
    }
}

/// The rate in force: as configured, else max(10, 2 × workers / ProbeInterval).
pub fn rounds_per_second(configured: Option<f64>, workers: usize, probe_interval: Duration) -> f64 {
    let workers = f64::from(u32::try_from(workers).unwrap_or(u32::MAX));
    configured.unwrap_or_else(|| (2.0 * workers / probe_interval.as_secs_f64().max(0.001)).max(10.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_spread_evenly_and_idle_time_does_not_accumulate() {
        let mut budget = ProbeBudget::default();
        let start = Moment::ZERO + Duration::from_secs(100);
        let pauses: Vec<_> = (0..3).map(|_| budget.reserve(start, 10.0).as_millis()).collect();
        assert_eq!(pauses, [0, 100, 200]);
        assert_eq!(budget.reserve(start + Duration::from_secs(9), 10.0), Duration::ZERO);
        assert_eq!(budget.reserve(start + Duration::from_secs(9), 10.0).as_millis(), 100);
    }

    #[test]
    fn default_rate() {
        assert_eq!(rounds_per_second(None, 10, Duration::from_secs(10)), 10.0);
        assert_eq!(rounds_per_second(None, 1000, Duration::from_secs(10)), 200.0);
        assert_eq!(rounds_per_second(Some(3.0), 1000, Duration::from_secs(10)), 3.0);
    }
}
