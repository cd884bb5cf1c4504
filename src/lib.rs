#![doc = include_str!("ARCHITECTURE.md")]
//!
//! # Modules, in reading order

// The command line.
pub mod cli;
// The instances: what there is to run them on.
pub mod cloud;
// The checked configuration.
pub mod config;
// The decisions: no clock, thread, lock or I/O.
pub mod core;
// Log lines.
pub mod log;
// The HTTP API and the metrics.
pub mod management;
// The containers: what is wanted.
pub mod queue;
// Commands on an instance, and the runner there.
pub mod remote;
// The threads that connect all of it.
pub mod shell;
