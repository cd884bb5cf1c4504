//! Muster: see the modules, in reading order.

pub mod core;
pub mod queue;
