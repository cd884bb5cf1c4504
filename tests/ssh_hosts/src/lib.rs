//! Real SSH servers, each looking like a machine of its own: OpenSSH's `sshd` and Dropbear, for tests and the demo.
//!
//! A [`SshHost`] is one such machine. It has its own root directory in a mount namespace of its own (and a host name of its
//! own): `/run` with `/run/lock`, `/var/lib`, `/home`, `/root`, `/etc/passwd` and its kin, `/etc/ssh`; everything else, `/tmp`
//! and `/usr` among it, is the caller's. The server runs in the foreground as a child of the caller. Nothing of a host
//! outlives it, whether it is dropped or its process is killed: a small guard process (`guard.sh`) sees to that.
//!
//! **Root or not.** For root the hosts are whole: logins as `root` or as `worker` with or without sudo. Anybody else gets a
//! user namespace in which the machine's files are theirs; there the server runs unprivileged, so only the caller can log in
//! ([`Login::Caller`]), and there is no sudo: a user namespace made without help maps one uid and forbids setgroups, which
//! both servers need to log in anybody else.
//!
//! A [`FaultProxy`] between client and host delays, stalls and cuts. In a [`Network`] each host has a network namespace of its
//! own, and a [`Link`] that can be pulled and loses packets.
//!
//! Absent: knowledge of muster, and of SSH beyond what the servers' own programs do.

mod files;
mod host;
mod keys;
mod layout;
mod namespace;
mod network;
mod options;
mod processes;
mod proxy;
mod pump;
mod server;

pub use host::SshHost;
pub use keys::{ClientKey, KeyForm, KeyKind, client_key};
pub use network::{Link, Network};
pub use options::{HostOptions, Login, Server, Shell, Sudo, caller_is_root};
pub use processes::HostProcess;
pub use proxy::FaultProxy;
