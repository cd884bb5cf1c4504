//! What a crash may cost: `kill -9` of everything there is, at many moments, and the order of what is on disk when the power fails
//! (spec 52 §2, 70 §3–§4). The daemon with this host as its only worker: real runners, real jobs.

#[path = "../daemon/harness.rs"]
#[expect(dead_code, reason = "shared with the tests of the daemon on one host, which use the rest")]
mod harness;
#[path = "../daemon/random.rs"]
mod random;

mod kills;
mod order;
mod procs;
mod trace;
mod verdict;
