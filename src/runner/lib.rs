//! What the dispatcher and the runner on a worker share: the documents they exchange (spec 50 §3, 52).
//!
//! The runner itself is the program `muster-runner` in this package; its `main.rs` is the map of it.

pub mod protocol;
