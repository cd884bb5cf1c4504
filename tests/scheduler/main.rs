//! The scheduler against its specification (spec 30, 70 §3, 82 §3.2): a row per line of the tables, whole scenarios, and
//! random histories with the named invariants after every pass.

mod events;
mod explanations;
mod fixture;
mod histories;
mod limits;
mod model;
mod oracle;
mod restart;
mod steps;
mod sync_local;
mod sync_table;
mod texts;
mod unchanged;
