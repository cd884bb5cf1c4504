//! Muster: see the modules, in reading order.

pub mod core;
pub mod queue;
pub mod cloud;
pub mod remote;
pub mod shell;
pub mod management;
pub mod config;
pub mod log;
pub mod cli;
