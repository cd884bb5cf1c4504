//! For tests: a worker that answers what it is told to, and notes what it was asked.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Command, Consume, ExecuteError, Executor, Lane, Output, Program};

/// One command: over which connection, with how much time, and what.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) lane: Lane,
    pub(super) left: Duration,
    pub(super) program: Program,
}

/// Its login user is not root. A command that says something on standard error has failed.
#[derive(Debug, Default)]
pub(super) struct Scripted {
    pub(super) stdout: String,
    pub(super) stderr: String,
    /// It does not know this argument.
    pub(super) unknown: Option<&'static str>,
    pub(super) asked: Mutex<Vec<Asked>>,
}

impl Executor for Scripted {
    fn execute(&self, lane: Lane, command: &Command<'_>) -> Result<Output, ExecuteError> {
        let left = command.deadline.saturating_duration_since(Instant::now());
        self.asked.lock().push(Asked { lane, left, program: command.program.clone() });
        let (stdout, stderr) = (self.stdout.clone().into_bytes(), self.stderr.clone().into_bytes());
        let is_unknown = |words: &[String]| words.iter().any(|word| Some(word.as_str()) == self.unknown);
        let (exit_code, stderr) = match (&command.program, self.unknown) {
            (Program::Arguments(words), Some(unknown)) if is_unknown(words) => {
                (Some(2), format!("unknown flag {unknown}").into_bytes())
            }
            _ => (Some(i32::from(!stderr.is_empty())), stderr),
        };
        Ok(Output { stdout, stderr, exit_code, signal: None })
    }

    fn stream(&self, lane: Lane, command: &Command<'_>, _consume: &mut Consume<'_>) -> Result<Output, ExecuteError> {
        self.execute(lane, command)
    }

    fn width(&self, _lane: Lane) -> usize {
        1
    }

    fn set_target(&self, _address: &str, _remote_user: &str) {}

    fn has_connected(&self) -> bool {
        true
    }

    fn runs_as_root(&self) -> bool {
        false
    }

    fn close(&self) {}
}
