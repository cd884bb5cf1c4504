//! The runner's commands as command lines, and their answers as values (spec 50 §2, 52 §1).
//!
//! Every command names the dispatcher's set, so that several dispatchers can share a host.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_runner::protocol::{Facts, PROTOCOL, StartConfig, parse_version};
use sha2::{Digest, Sha256};

use super::wake::Wake;
use super::{Command, Consume, ExecuteError, Executor, Lane, Output, Program};
use crate::core::errors::chain;
use crate::core::ids::{Attempt, ContainerUuid};
use crate::core::settings::COMMAND_DEADLINE;
use crate::core::worker::listing::{self, Listing};

/// Largest runner binary that is read; ours has about a megabyte.
const BINARY_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// A runner that is copied to workers: read once, with its checksum.
#[derive(Clone)]
pub struct RunnerBinary {
    pub bytes: Arc<[u8]>,
    /// Lower-case hexadecimal SHA-256 of `bytes`.
    pub sha256: String,
}

impl std::fmt::Debug for RunnerBinary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunnerBinary").field("bytes", &self.bytes.len()).field("sha256", &self.sha256).finish()
    }
}

impl RunnerBinary {
    /// # Errors
    /// The file cannot be read, is empty, or is larger than 256 MiB.
    pub fn load(path: &std::path::Path) -> io::Result<Self> {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(BINARY_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.is_empty() || bytes.len() as u64 > BINARY_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a program: its size is out of range"));
        }
        let digest = Sha256::digest(&bytes);
        let sha256 = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { bytes: bytes.into(), sha256 })
    }
}

/// Where a runner lives and keeps its files on one kind of host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunnerPlaces {
    /// Directory that the program is put into; `None`: as spec 62 §3 says.
    pub directory: Option<String>,
    /// `None`: the runner's own default.
    pub lock_dir: Option<PathBuf>,
    pub state_dir: Option<PathBuf>,
}

/// The runner on one worker.
#[derive(Clone, Debug)]
pub struct Runner {
    pub executor: Arc<dyn Executor>,
    pub places: Arc<RunnerPlaces>,
    /// Absolute path of the program there.
    pub program: Arc<str>,
    /// Entries of other sets are invisible.
    pub set: Arc<str>,
    pub cluster_id: Arc<str>,
}

/// Why a list is none (spec 10 §6): the probe has failed.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    #[error("failed to run the list command")]
    Execute(#[from] ExecuteError),
    #[error("the list command failed ({ending}): {stderr}")]
    Failed { ending: String, stderr: String },
    #[error(transparent)]
    Fault(#[from] listing::ListFault),
}

/// A command that did not do what it should: what to log.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("failed to run the command")]
    Execute(#[from] ExecuteError),
    #[error("{ending}: {stderr}")]
    Failed { ending: String, stderr: String },
    #[error("its answer is not understood: {0}")]
    Answer(String),
}

fn require_success(output: Output) -> Result<Output, CommandError> {
    if output.succeeded() {
        return Ok(output);
    }
    Err(CommandError::Failed { ending: output.ending(), stderr: output.stderr_text() })
}

impl Runner {
    fn run(&self, arguments: &[&str]) -> Program {
        let mut words = vec![self.program.to_string()];
        words.extend(arguments.iter().map(|word| (*word).to_owned()));
        words.extend(["--set".to_owned(), self.set.to_string()]);
        for (flag, place) in [("--lock-dir", &self.places.lock_dir), ("--state-dir", &self.places.state_dir)] {
            if let Some(path) = place {
                words.extend([flag.to_owned(), path.to_string_lossy().into_owned()]);
            }
        }
        Program::Arguments(words)
    }

    /// The uuid comes last: parsing stops at the first word that is not a flag.
    fn on_container(&self, arguments: &[&str], uuid: &ContainerUuid, attempt: Attempt) -> Program {
        let Program::Arguments(mut words) = self.run(arguments) else { unreachable!("made of arguments") };
        if attempt > 0 {
            words.extend(["--attempt".to_owned(), attempt.to_string()]);
        }
        words.push(uuid.to_string());
        Program::Arguments(words)
    }

    fn command<'a>(&self, program: Program, stdin: &'a [u8], limit: Duration) -> Command<'a> {
        Command { program, stdin, open_until: None, deadline: Instant::now() + limit }
    }

    /// What runs on the worker. With a `known` token and a `wait` the answer comes when the list changes, when `wait` has passed, or
    /// when `wake` is woken. `limit`: how long it may take beyond that.
    ///
    /// # Errors
    /// See [`ListError`]: never a shortened list.
    pub fn list(
        &self,
        known: Option<&str>,
        wait: Duration,
        limit: Duration,
        wake: &Wake,
    ) -> Result<Listing, ListError> {
        let seconds = format!("{:.3}", wait.as_secs_f64());
        let program = match known {
            Some(token) => self.run(&["--list", "--wait", &seconds, "--known", token]),
            None => self.run(&["--list"]),
        };
        let mut command = self.command(program, b"", limit + wait);
        command.open_until = known.is_some().then_some(wake);
        let output = self.executor.execute(Lane::Probe, &command)?;
        if !output.succeeded() {
            return Err(ListError::Failed { ending: output.ending(), stderr: output.stderr_text() });
        }
        Ok(listing::parse(&output.stdout, &self.cluster_id, true)?)
    }

    /// Starts an attempt; its command line and environment go through standard input.
    ///
    /// # Errors
    /// The runner may have started all the same: only a probe tells.
    pub fn start(&self, uuid: &ContainerUuid, attempt: Attempt, config: &StartConfig) -> Result<(), CommandError> {
        let stdin = serde_json::to_vec(config).map_err(|error| CommandError::Answer(error.to_string()))?;
        let program = self.on_container(&["--detach", "--stdin-config"], uuid, attempt);
        require_success(self.executor.execute(Lane::Action, &self.command(program, &stdin, COMMAND_DEADLINE))?)?;
        Ok(())
    }

    /// SIGTERM to a runner, after a tombstone for this attempt. `Ok`: there is no such process (any more).
    ///
    /// # Errors
    /// It may be alive.
    pub fn kill(&self, uuid: &ContainerUuid, attempt: Attempt) -> Result<(), CommandError> {
        self.act(&["--kill", "15"], uuid, attempt)
    }

    /// Ends what a stale one left.
    ///
    /// # Errors
    /// Something may be left.
    pub fn reap(&self, uuid: &ContainerUuid, attempt: Attempt) -> Result<(), CommandError> {
        self.act(&["--reap"], uuid, attempt)
    }

    /// Removes a collected attempt's files there.
    ///
    /// # Errors
    /// They may still be there, and are listed again.
    pub fn forget(&self, uuid: &ContainerUuid, attempt: Attempt) -> Result<(), CommandError> {
        self.act(&["--forget"], uuid, attempt)
    }

    fn act(&self, arguments: &[&str], uuid: &ContainerUuid, attempt: Attempt) -> Result<(), CommandError> {
        let program = self.on_container(arguments, uuid, attempt);
        require_success(self.executor.execute(Lane::Action, &self.command(program, b"", COMMAND_DEADLINE))?)?;
        Ok(())
    }

    /// The result of a finished attempt as a tar stream, which `consume` takes apart.
    ///
    /// # Errors
    /// [`ExecuteError::Consumer`] inside [`CommandError::Execute`] when `consume` failed.
    pub fn collect(
        &self,
        uuid: &ContainerUuid,
        attempt: Attempt,
        limit: Duration,
        consume: &mut Consume<'_>,
    ) -> Result<(), CommandError> {
        let program = self.on_container(&["--collect"], uuid, attempt);
        let command = self.command(program, b"", limit);
        require_success(self.executor.stream(Lane::Bulk, &command, consume)?)?;
        Ok(())
    }

    /// Output of a running or finished attempt from `offset`; waits up to `wait` (at most 1 s) for some.
    ///
    /// # Errors
    /// The attempt has no files there (any more), or the worker failed.
    pub fn tail(
        &self,
        uuid: &ContainerUuid,
        attempt: Attempt,
        stream: &str,
        offset: u64,
        wait: Duration,
    ) -> Result<Vec<u8>, CommandError> {
        let offset = offset.to_string();
        let wait = format!("{:.3}", wait.min(Duration::from_secs(1)).as_secs_f64());
        let arguments = ["--tail", "--stream", stream, "--offset", &offset, "--wait", &wait];
        let program = self.on_container(&arguments, uuid, attempt);
        let output = self.executor.execute(Lane::Bulk, &self.command(program, b"", COMMAND_DEADLINE))?;
        Ok(require_success(output)?.stdout)
    }

    /// What the host is, for the log.
    ///
    /// # Errors
    /// The command failed or its answer is no such document.
    pub fn facts(&self) -> Result<Facts, CommandError> {
        let output = self.executor.execute(Lane::Bulk, &self.command(self.run(&["--facts"]), b"", COMMAND_DEADLINE))?;
        let output = require_success(output)?;
        serde_json::from_slice(&output.stdout).map_err(|error| CommandError::Answer(error.to_string()))
    }

    /// Asks the program who it is: only a muster-runner with our protocol number may be used with the additions of spec 52.
    ///
    /// # Errors
    /// It cannot be run, or is something else.
    pub fn check_version(&self) -> Result<(), CommandError> {
        let program = Program::Arguments(vec![self.program.to_string(), "--version".to_owned()]);
        let output =
            require_success(self.executor.execute(Lane::Bulk, &self.command(program, b"", COMMAND_DEADLINE))?)?;
        let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        match parse_version(&text) {
            Some((_, PROTOCOL)) => Ok(()),
            Some((_, protocol)) => {
                Err(CommandError::Answer(format!("{text}: protocol {protocol}, this dispatcher speaks {PROTOCOL}")))
            }
            None => Err(CommandError::Answer(text)),
        }
    }

    /// The boot probe of the operator's configuration.
    ///
    /// # Errors
    /// It did not exit with 0. The second value: worth a warning at once (spec 10 §5).
    pub fn boot_probe(&self, line: &str) -> Result<(), (CommandError, bool)> {
        let line = if line.is_empty() { "true" } else { line };
        let command = self.command(Program::Shell(line.to_owned()), b"", COMMAND_DEADLINE);
        match self.executor.execute(Lane::Probe, &command) {
            Ok(output) => require_success(output).map(drop).map_err(|error| (error, false)),
            Err(error) => {
                let alarming = !error.is_normal_while_booting();
                Err((error.into(), alarming))
            }
        }
    }
}

impl CommandError {
    /// With all causes, for one log line.
    pub fn text(&self) -> String {
        chain(self)
    }
}
