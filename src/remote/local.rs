//! Commands on this very host, without SSH: what a loopback worker uses (spec 62 §3).
//!
//! One `poll` loop ([`streams`]) drives a child's streams, its end, the deadline and the two ways to be ended early, so deadlines are exact
//! and no thread is needed beside the caller's. What cannot be killed is waited for later ([`unreaped`]).

mod streams;
mod unreaped;

use std::fmt;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Stdio};
use std::time::Duration;

use streams::Streams;

use super::wake::Wake;
use super::{Command, Consume, ExecuteError, Executor, Lane, Output, Program};

/// Commands of one lane at once: enough to group the queue's commits, few enough not to swamp the host.
const WIDTH: usize = 8;
/// In the environment that a command gets: nothing of the daemon's reaches a job.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// For a process that was killed: one that can be needs far less, even on a busy machine.
const KILLED_WITHIN: Duration = Duration::from_secs(5);

/// Is given what a command writes to its standard error, in pieces of any length.
pub type Watch<'a> = dyn FnMut(&[u8]) + 'a;

/// Runs commands as children of this process.
pub struct LocalExecutor {
    /// Woken by `close` and never cleared.
    closing: Wake,
    home: String,
    /// More of the environment.
    variables: Vec<(String, String)>,
}

impl fmt::Debug for LocalExecutor {
    /// Without the variables: some are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalExecutor").field("home", &self.home).finish_non_exhaustive()
    }
}

impl LocalExecutor {
    /// `home`: the home directory that commands see.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(home: String) -> io::Result<Self> {
        Ok(Self { closing: Wake::new()?, home, variables: Vec::new() })
    }

    /// Commands get these variables too; one of a name that they have anyway, such as `PATH`, goes before.
    pub fn with_variables(self, variables: Vec<(String, String)>) -> Self {
        Self { variables, ..self }
    }

    fn spawn(&self, program: &Program) -> Result<Child, ExecuteError> {
        let shell;
        let (name, arguments): (&str, &[String]) = match program {
            Program::Shell(line) => {
                shell = ["-c".to_owned(), line.clone()];
                ("sh", &shell)
            }
            Program::Arguments(words) => words.split_first().map_or(("", &[][..]), |(name, rest)| (name, rest)),
        };
        std::process::Command::new(name)
            .args(arguments)
            .env_clear()
            .envs([("PATH", PATH), ("HOME", &self.home), ("LANG", "C.UTF-8")])
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| ExecuteError::Start { program: name.to_owned(), source })
    }

    /// Like [`Executor::stream`], with standard error given to `watch` as it comes instead of kept: `watch` bounds it.
    ///
    /// # Errors
    /// As [`Executor::stream`].
    pub fn watch(
        &self,
        command: &Command<'_>,
        consume: &mut Consume<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<Output, ExecuteError> {
        self.run(command, Some(consume), Some(watch))
    }

    fn run(
        &self,
        command: &Command<'_>,
        consume: Option<&mut Consume<'_>>,
        watch: Option<&mut Watch<'_>>,
    ) -> Result<Output, ExecuteError> {
        unreaped::try_again();
        let mut child = self.spawn(&command.program)?;
        let watch = watch.map(|watch| watch as &mut Watch<'_>);
        let streams = Streams::of(&mut child, command, &self.closing).map_err(ExecuteError::Channel);
        let streams = streams.map(|streams| streams.watched_by(watch));
        let result = streams.and_then(|streams| match consume {
            None => streams.keep(),
            Some(consume) => streams.hand_over(consume),
        });
        match result {
            Ok((stdout, stderr)) => {
                let status = child.wait().map_err(ExecuteError::Channel)?;
                Ok(Output { stdout, stderr, exit_code: status.code(), signal: status.signal() })
            }
            Err(error) => {
                // With what it has started in its group; a detached runner has left that.
                unreaped::kill(&child);
                unreaped::reap(child, KILLED_WITHIN);
                Err(error)
            }
        }
    }
}

impl Executor for LocalExecutor {
    fn execute(&self, _lane: Lane, command: &Command<'_>) -> Result<Output, ExecuteError> {
        self.run(command, None, None)
    }

    fn stream(&self, _lane: Lane, command: &Command<'_>, consume: &mut Consume<'_>) -> Result<Output, ExecuteError> {
        self.run(command, Some(consume), None)
    }

    fn width(&self, lane: Lane) -> usize {
        match lane {
            Lane::Probe => 1,
            Lane::Action | Lane::Bulk => WIDTH,
        }
    }

    /// The address of this host never changes.
    fn set_target(&self, _address: &str, _remote_user: &str) {}

    fn has_connected(&self) -> bool {
        true
    }

    fn runs_as_root(&self) -> bool {
        rustix::process::geteuid().is_root()
    }

    fn close(&self) {
        self.closing.wake();
    }
}

#[cfg(test)]
mod tests;
