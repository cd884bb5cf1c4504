//! Commands over SSH (spec 45): [`key`] is what the dispatcher logs in with.

pub mod key;
