//! The tables of spec 10, 20 and 70 §3–4, row by row, against the decision core; then the same events exhaustively and at random.
//!
//! [`world`] holds the one helper: a pool on virtual time that understands a small language of events, so that rows are data.

mod diagram;
mod exhaustive;
mod pool_breaker;
mod pool_create;
mod pool_sync;
mod property;
mod worker_collect;
mod worker_kill;
mod worker_round;
mod worker_running;
mod worker_shutdown;
mod world;
