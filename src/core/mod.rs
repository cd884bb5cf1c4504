//! The decisions: plain data, and functions of (state, event, now) that return effects.
//!
//! Absent from here: clock, thread, channel, lock, I/O, log, random number, environment.
//! `etc/clippy.toml` and the tidy test hold that.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod container;
pub mod effect;
pub mod entry;
pub mod errors;
pub mod ids;
pub mod instance_type;
pub mod lifecycle;
pub mod pool;
pub mod resources;
pub mod runner_file;
pub mod scheduler;
pub mod settings;
pub mod time;
pub mod timer;
pub mod units;
pub mod versioned;
pub mod vocabulary;
pub mod worker;
