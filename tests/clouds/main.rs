//! What every cloud driver has to do (spec 40): one suite over all of them ([`contract`]), and what is particular to the driver `exec`.
//!
//! A driver joins the suite with a [`rig::Rig`]: see there, and [`rigs`] for examples.

// What it has beyond our needs serves the tests of the daemon.
#[path = "../daemon/harness.rs"]
#[expect(dead_code, reason = "shared with the tests of the daemon, which use the rest")]
mod harness;

mod contract;
mod ec2;
mod ec2_credentials;
mod exec;
mod exec_runs;
mod faulty;
mod local_processes;
mod lost_tags;
mod page;
mod product;
mod rig;
mod rigs;
mod support;
mod virsh;
