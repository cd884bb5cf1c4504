//! A whole dispatcher with its cloud, hosts, runners, queue, users and faults, in one thread on virtual time.
//!
//! The decisions are the product's own: its `core` is compiled in here, alone, which also shows that it needs nothing else. The
//! shell's part (threads, lanes, calls) is played by events that come in a random order of a seed; [`truth`] knows what really
//! happened on hosts and in the cloud, and compares.
//!
//! Reading order: [`run`], [`plan`] and [`faults`] (what a seed is like), [`world`] (time and events), [`cloud`], [`host`] and
//! [`store`] (what survives a crash of the dispatcher), [`process`] (one life of the dispatcher) with [`rounds`], [`lanes`], [`calls`] and
//! [`passes`], [`people`] (users and operators), [`truth`].

#[path = "../../../src/core/mod.rs"]
pub mod core;

pub mod calls;
pub mod cloud;
pub mod faults;
pub mod host;
pub mod lanes;
pub mod notice;
pub mod passes;
pub mod people;
pub mod plan;
pub mod process;
pub mod random;
pub mod rounds;
pub mod run;
pub mod store;
pub mod truth;
pub mod ways;
pub mod world;
