//! The threads around the core: the one lock, the channels, the clock. Every decision is made in [`crate::core`].
//!
//! Reading order: [`clock`], [`threads`], [`stop`], [`primitives`] with the protocols made of them ([`outbox`], [`wakeups`], [`guard`],
//! [`agenda`]), [`pool`] (the one door to the pool's state), [`central`] (carries effects out), [`worker`] (a worker's thread) with
//! [`round`], [`workers`] (all of them), [`work_pool`] and [`lanes`] (threads for what may take long), [`operations`] (cloud calls),
//! [`containers`] (starts, kills, results) with [`results`] (our copies of these), [`sync`] and [`lists`] (the cloud's list), [`scheduler`] with [`transitions`] (what it wants of
//! the queue), [`backend`] (what the API asks for), [`daemon`]
//! (start, stop, signals), [`cloudtest`] (a driver tried by itself), [`state_dir`] with [`dispatch_key`], [`allocator`].

pub mod agenda;
pub mod allocator;
pub mod backend;
pub mod central;
pub mod clock;
pub mod cloudtest;
pub mod containers;
pub mod daemon;
pub mod dispatch_key;
mod drivers;
pub mod fault_point;
pub mod guard;
mod instance_set;
pub mod lanes;
pub mod lists;
pub mod operations;
pub mod outbox;
pub mod pool;
pub mod primitives;
pub mod results;
pub mod round;
pub mod scheduler;
pub mod state_dir;
pub mod stop;
pub mod sync;
pub mod threads;
pub mod transitions;
pub mod wakeups;
pub mod work_pool;
pub mod worker;
pub mod workers;
