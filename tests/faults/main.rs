//! What real networks, servers and disks do: the daemon with hosts over SSH, OpenSSH and Dropbear, each in a network namespace of
//! its own. Every test shows that its fault was there (counters, states of processes, logs), that it was noticed, and that nothing was
//! lost by it, run twice at once, or left behind.
//!
//! Where namespaces are forbidden these tests fail and say what to do; without root user namespaces are enough.

#[path = "../daemon/harness.rs"]
#[expect(dead_code, reason = "shared with the tests of the daemon on one host, which use the rest")]
mod harness;

mod disks;
mod fixture;
mod links;
mod packets;
mod results;
mod secret;
mod servers;
mod slow;
