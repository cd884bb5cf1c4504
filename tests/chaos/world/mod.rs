//! The chaos workload: the whole shell with real threads, connections over SSH and the local queue on disk, around a cloud and hosts that
//! fail in every way there is. `tests/chaos` runs it with a few seeds, `bench chaos` with many.
//!
//! Reading order: `plan` (what goes wrong), `cloud` (the driver and its hosts), `shell` (the parts of a daemon), `run` (a run), `judge`
//! (what must hold of it).

mod cloud;
mod judge;
mod plan;
mod run;
mod shell;

pub(crate) use run::Workload;
