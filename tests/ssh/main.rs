//! Commands over SSH against real servers (spec 45): OpenSSH, and Dropbear where it may differ.

mod commands;
mod connecting;
mod fixture;
mod identity;
mod lanes;
mod life;
mod traps;
mod uplink;
mod users;
mod waiters;
