//! Random moments for tests that can be repeated.

use std::time::Duration;

/// A small linear congruential generator. Its seed is on the test's output, and `MUSTER_TEST_SEED` sets it.
pub(crate) struct Random(u64);

impl Random {
    #[expect(clippy::print_stderr, reason = "shown when the test fails")]
    pub(crate) fn new() -> Self {
        let given = std::env::var("MUSTER_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let seed = given.unwrap_or(now.as_secs() ^ u64::from(now.subsec_nanos()));
        eprintln!("MUSTER_TEST_SEED={seed}");
        Self(seed)
    }

    /// 0 to `below` - 1.
    pub(crate) fn number(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    /// One of them; there must be some.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.number(length as u64)).expect("small")
    }

    /// Shorter than `limit`.
    pub(crate) fn below(&mut self, limit: Duration) -> Duration {
        let micros = u64::try_from(limit.as_micros()).expect("short");
        Duration::from_micros(self.number(micros.max(1)))
    }

    pub(crate) fn pause(&mut self, limit: Duration) {
        std::thread::park_timeout(self.below(limit));
    }
}
