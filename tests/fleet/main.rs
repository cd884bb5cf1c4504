//! One daemon and many hosts over SSH (spec 45 §5): the daemon is the real process, the hosts are in this one and can be made to have
//! every fault. What is asserted is logic and numbers of things; how long it takes is measured by `bench fleet`.

// What it has beyond our needs serves the tests of the daemon on one host.
#[path = "../daemon/harness.rs"]
#[expect(dead_code, reason = "shared with the tests of the daemon on one host, which use the rest")]
mod harness;

mod faults;
mod fixture;
mod limits;
mod service;
