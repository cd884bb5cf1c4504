//! Hosts over SSH (spec 45), with libssh2 in non-blocking mode.
//!
//! Reading order: [`executor`] (a worker's connections, one per lane), [`connect`] (TCP, handshake, identity, authentication), [`exec`]
//! (one command on an open connection), [`wait`] (what every libssh2 call goes through: absolute deadlines and cancellation),
//! [`command_line`], [`banner`] (is it an SSH server), [`key`].
//!
//! Each connection belongs to one thread at a time and runs one channel at a time: channels of one session share a mutex, and
//! some servers abort connections with concurrent channels (spec 45 §2, measured). *Absent*: threads of its own, except short ones
//! that look up names.

mod banner;
mod command_line;
mod connect;
mod exec;
mod executor;
pub mod key;
mod wait;

use std::io;
use std::sync::Arc;

pub use command_line::quote;
pub use executor::SshExecutor;

use self::key::PrivateKey;
pub use super::resolve::{Port, port_number};
use super::{Connector, Executor, HostAccess, Spawn};

/// What all connections of the daemon have in common.
pub struct SshClient {
    key: PrivateKey,
    /// For addresses without one.
    default_port: u16,
    spawn: Spawn,
}

impl std::fmt::Debug for SshClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SshClient").field("default_port", &self.default_port).finish_non_exhaustive()
    }
}

impl SshClient {
    pub fn new(key: PrivateKey, default_port: u16, spawn: Spawn) -> Self {
        Self { key, default_port, spawn }
    }
}

/// The form in which drivers have it.
#[derive(Clone, Debug)]
pub struct SshConnector(pub Arc<SshClient>);

impl Connector for SshConnector {
    fn executor(&self, access: HostAccess) -> io::Result<Arc<dyn Executor>> {
        Ok(Arc::new(SshExecutor::new(self.0.clone(), access)?))
    }
}
