//! The daemon with EC2 (spec 42): moto's API behind a proxy with faults, and a real SSH server for each instance.

// What it has beyond our needs serves the tests of the daemon on one host.
#[path = "../daemon/harness.rs"]
#[expect(dead_code, reason = "shared with the tests of the daemon on one host, which use the rest")]
mod harness;
#[path = "../cloudtest/running.rs"]
#[expect(dead_code, reason = "shared with the tests of cloudtest on this host, which use the rest")]
mod running;

mod cloudtest;
mod crashes;
mod faults;
mod fixture;
mod life;
mod not_listed;
mod quota_groups;
mod tls;
mod wiring;
