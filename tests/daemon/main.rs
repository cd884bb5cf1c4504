//! The daemon and its commands as processes, on the embedded default: real SQLite, real runners, real signals.

mod client;
mod commands;
mod crashes;
mod deployment;
mod errors;
mod harness;
mod instances;
mod lifecycle;
mod operations;
