//! The built program from outside: real runners with real jobs in directories of their own. A module for each theme.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod concurrency;
mod daemon;
mod engines;
mod files;
mod hostile;
mod jobs;
mod lease;
mod leftovers;
mod life;
mod limits;
mod listing;
mod locks;
mod minimal;
mod places;
mod podman;
mod stand_ins;
mod switches;
