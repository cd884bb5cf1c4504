//! The daemon with hosts of its own over SSH: real servers, real runners, real jobs (spec 45, 46 §1, 50 §1).

// What it has beyond our needs serves the tests of the daemon on one host.
#[path = "../daemon/harness.rs"]
#[expect(dead_code, reason = "shared with the tests of the daemon on one host, which use the rest")]
mod harness;
#[path = "../daemon/random.rs"]
mod random;
#[path = "../cloudtest/running.rs"]
#[expect(dead_code, reason = "shared with the tests of cloudtest on this host, which use the rest")]
mod running;

mod changes;
mod cloudtest;
mod crashes;
mod fixture;
mod life;
mod texts;
mod trouble;
