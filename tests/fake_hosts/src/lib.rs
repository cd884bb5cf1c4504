//! SSH hosts inside a process, for tests: real key exchange and authentication, a worker in memory behind it, faults on demand.
//!
//! A [`Fleet`] owns a runtime with two threads and any number of hosts, each with its own port and key. A [`Host`] answers the
//! command lines a dispatcher sends: the small programs of a deployment, and the runner's commands (spec 50, 52) as the real
//! runner answers them. What goes wrong is set in [`Faults`], at any time. Real sshd and the real runner remain the judge; these
//! hosts are for faults that sshd cannot be made to have, and for hundreds of hosts at a time.
//!
//! Known cost: russh keeps about 3.5 KB for each command until its connection ends. Tests that run hundreds of thousands of
//! commands on few connections do so in another process (`fake-hosts`).
//!
//! Reading order: `options` (what a host is like), `fleet` and `host` (the interface), `listener`, `transport` and `session`
//! (a connection), `shell` and `exec` (a command line), `scripts` (the dispatcher's), `runner` and `worker` (the runner's commands
//! and what they keep), `journal` (what happened on several hosts), `command` (the program).

pub mod command;
mod exec;
mod fleet;
mod host;
mod journal;
mod keys;
mod listener;
mod options;
mod runner;
mod scripts;
mod session;
mod shell;
mod transport;
mod worker;

pub use fleet::Fleet;
pub use host::{Counters, Host};
pub use journal::{Journal, JournalEntry, JournalEvent};
pub use keys::ClientKey;
pub use options::{Answer, ConnectFault, Crashes, ExecFault, Faults, HostOptions, JobPlan, Turn};
