//! Running commands on a worker (spec 45): the executor's contract, and what the runner's commands look like.
//!
//! Reading order: the contract here, [`wake`] (ending a wait from another thread), [`local`] (this host, without SSH), [`address`]
//! (where a host is), [`resolve`] (what its name stands for), [`identity`] and [`known_hosts`] (is it the right one), [`ssh`] (hosts over
//! SSH), [`runner`] (the runner's commands and their answers), [`supply`] (its program), [`deploy`] (putting that on a worker), [`unpack`]
//! (results, which are not trusted).
//!
//! Nothing here knows workers, the pool or the queue.

pub mod address;
pub mod deploy;
pub mod identity;
pub mod known_hosts;
pub mod local;
pub mod resolve;
pub mod runner;
#[cfg(test)]
mod scripted;
pub mod ssh;
pub mod supply;
pub mod unpack;
pub mod wake;

use std::io::{self, Read};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use identity::HostCheck;
use wake::Wake;

use crate::core::ids::InstanceSecret;

/// Output of a command beyond this is a failure, never a shortened result (spec 45 §3).
pub const OUTPUT_BYTES_MAX: usize = 1024 * 1024;

/// Starts a thread with this name: this module may not.
pub type Spawn = Arc<dyn Fn(String, Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> + Send + Sync>;

/// What to run. Arguments reach the program as they are: no shell sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// Program and arguments; with `sudo` in front where the remote user is not root.
    Arguments(Vec<String>),
    /// A line for `sh -c` that the operator wrote (BootProbeCommand); never with `sudo`.
    Shell(String),
}

/// One command.
#[derive(Debug)]
pub struct Command<'a> {
    pub program: Program,
    pub stdin: &'a [u8],
    /// Keep standard input open after `stdin` was written, until this is woken: so a long poll ends early (spec 52 §1).
    pub open_until: Option<&'a Wake>,
    /// When it passes, the command has failed and its connection is dropped.
    pub deadline: Instant,
}

/// What a command that ended came back with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// `None`: it died by a signal, or no status ever came.
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
}

impl Output {
    pub fn succeeded(&self) -> bool {
        self.exit_code == Some(0)
    }

    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim_end().to_owned()
    }

    /// How it ended, for a log line.
    pub fn ending(&self) -> String {
        match (self.exit_code, self.signal) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => "no exit status".to_owned(),
        }
    }
}

/// Why there is no output (the closed set of spec 45 §1). A command that ran and failed is an [`Output`].
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    #[error("instance has no address")]
    NoAddress,
    /// The program could not be started (without SSH).
    #[error("cannot start {program}")]
    Start {
        program: String,
        #[source]
        source: io::Error,
    },
    /// No connection: refused, unreachable, timed out, reset (also by a server that takes no more connections), unknown name.
    #[error("cannot connect to {address}")]
    Connect {
        address: String,
        #[source]
        source: io::Error,
    },
    /// What answers does not agree with us on a protocol.
    #[error("SSH handshake with {address} failed: {reason}")]
    Handshake { address: String, reason: String },
    #[error("{address} does not accept our key for user {user}: {reason}")]
    Authentication { address: String, user: String, reason: String },
    /// It is not the host it should be: nothing was sent, or nothing but the request for the instance's secret.
    #[error("host key of {address} rejected: {reason}")]
    HostKey { address: String, reason: String },
    #[error("reading or writing of the command's streams failed")]
    Channel(#[source] io::Error),
    #[error("output exceeds {OUTPUT_BYTES_MAX} bytes")]
    TooMuchOutput,
    /// Whoever read the output does not take it: our own storage failed, or it is not what was expected.
    #[error("the command's output could not be used")]
    Consumer(#[source] io::Error),
    #[error("deadline passed")]
    Deadline,
    #[error("cancelled")]
    Cancelled,
}

impl ExecuteError {
    /// The command may have got there although its answer did not come back.
    pub const fn was_perhaps_sent(&self) -> bool {
        match self {
            Self::NoAddress
            | Self::Start { .. }
            | Self::Connect { .. }
            | Self::Handshake { .. }
            | Self::Authentication { .. }
            | Self::HostKey { .. } => false,
            Self::Channel(_) | Self::TooMuchOutput | Self::Consumer(_) | Self::Deadline | Self::Cancelled => true,
        }
    }

    /// Something answers there, and has ended the connection.
    pub fn is_hang_up(&self) -> bool {
        matches!(self, Self::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionReset)
    }

    /// Normal while a machine boots (spec 10 §5); anything else is most likely a configuration mistake.
    pub fn is_normal_while_booting(&self) -> bool {
        match self {
            Self::NoAddress | Self::Cancelled => true,
            // A name that nobody knows is a mistake in the configuration; so is a server that takes the login and no command.
            Self::Connect { source, .. } => !matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::Other),
            // Its server was restarted, as boot scripts do.
            Self::Channel(source) => source.kind() == io::ErrorKind::ConnectionReset,
            _ => false,
        }
    }
}

/// The connections that a worker has (spec 45 §2): so that neither a large file nor a long poll delays a kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// The worker's own thread's: probes, usually inside a long poll, and before them the deployment.
    Probe,
    /// Start, kill, reap, forget.
    Action,
    /// Collection, log reading.
    Bulk,
}

/// Takes a command's standard output apart while it comes.
pub type Consume<'a> = dyn FnMut(&mut dyn Read) -> io::Result<()> + 'a;

/// Runs commands on one worker. Safe to use from any thread.
pub trait Executor: Send + Sync + std::fmt::Debug {
    /// Runs a command to its end, its deadline, or [`Executor::close`].
    ///
    /// # Errors
    /// See [`ExecuteError`]; a command that ran and failed is not one.
    fn execute(&self, lane: Lane, command: &Command<'_>) -> Result<Output, ExecuteError>;

    /// Like `execute`, with the standard output given to `consume` as it comes instead of kept (its bound is the consumer's).
    /// `consume` reads on the caller's thread; what it leaves unread is dropped.
    ///
    /// # Errors
    /// [`ExecuteError::Consumer`] when `consume` fails although the stream did not.
    fn stream(&self, lane: Lane, command: &Command<'_>, consume: &mut Consume<'_>) -> Result<Output, ExecuteError>;

    /// How many commands of a lane may run at once.
    fn width(&self, lane: Lane) -> usize;

    /// Address and user of the next connection.
    fn set_target(&self, address: &str, remote_user: &str);

    /// A connection to the host has been made and verified (spec 20 §5).
    fn has_connected(&self) -> bool;

    /// Commands run as root, by the login or by sudo: what they leave is root's.
    fn runs_as_root(&self) -> bool;

    /// Closes connections that nobody has used for a while. Called now and then.
    fn tend(&self) {}

    /// Cancels what is in flight, at once; everything after it is cancelled too.
    fn close(&self);
}

/// A host that commands shall reach over the network.
#[derive(Clone, Debug)]
pub struct HostAccess {
    /// Decides whether it is the right one.
    pub check: Arc<dyn HostCheck>,
    /// What its secret file must hold where `check` cannot tell (spec 20 §8).
    pub secret: Option<InstanceSecret>,
    /// Run [`Program::Arguments`] with sudo where the user is not root.
    pub sudo: bool,
}

/// Makes executors for hosts on the network. Making one connects to nothing.
pub trait Connector: Send + Sync + std::fmt::Debug {
    /// # Errors
    /// No descriptor is left.
    fn executor(&self, access: HostAccess) -> io::Result<Arc<dyn Executor>>;
}
