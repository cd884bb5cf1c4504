//! The fake hosts as an SSH client sees them: `ssh2` in blocking mode, which knows nothing of russh.

mod client;
mod commands;
mod connect_faults;
mod exec_faults;
mod many;
mod parity;
mod program;
mod protocol;
mod turns;
