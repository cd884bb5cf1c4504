//! The daemon and its commands as processes, on the embedded default: real SQLite, real runners, real signals.

mod cancels;
mod client;
mod commands;
mod crashes;
mod deployment;
mod engines;
mod errors;
mod harness;
mod hosts;
mod instances;
mod isolation;
mod keys;
mod leftovers;
mod lifecycle;
mod operations;
mod output;
#[path = "../../src/runner/tests/runner/podman.rs"]
mod podman;
mod storage;
mod submissions;
