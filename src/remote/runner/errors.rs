//! Why a command of the runner came to nothing, and what the log shows of it.

use muster_runner::protocol::MAY_STILL_RUN;

use crate::core::effect::Note;
use crate::core::errors::chain;
use crate::core::worker::listing;
use crate::remote::{ExecuteError, Output, Program};

/// Why a list is none (spec 10 §6): the probe has failed.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    #[error(transparent)]
    NotDeployed(#[from] NotDeployed),
    #[error("failed to run the list command")]
    Execute(#[from] ExecuteError),
    #[error("the list command failed")]
    Failed(#[source] Box<FailedCommand>),
    /// It ended well.
    #[error("{fault}")]
    Fault { fault: listing::ListFault, said: Box<FailedCommand> },
}

/// Nothing is run before it was looked at: what has the program's name may be anybody's.
#[derive(Debug, thiserror::Error)]
#[error("no runner was put on the instance yet")]
pub struct NotDeployed;

/// A command that did not do what it should: what to log.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error(transparent)]
    NotDeployed(#[from] NotDeployed),
    #[error("failed to run the command")]
    Execute(#[from] ExecuteError),
    #[error(transparent)]
    Failed(Box<FailedCommand>),
    #[error("its answer is not understood: {0}")]
    Answer(String),
}

/// A command that ran to its end and is of no use, as the log shows it (spec 80 §4).
#[derive(Debug, thiserror::Error)]
#[error("{ending}: {stderr}")]
pub struct FailedCommand {
    /// Its words; without sudo.
    pub command: String,
    pub ending: String,
    /// `None`: it ended by a signal.
    pub exit_code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl FailedCommand {
    pub(super) fn new(program: &Program, output: &Output) -> Self {
        let command = match program {
            Program::Arguments(words) => words.join(" "),
            Program::Shell(line) => line.clone(),
        };
        let stdout = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        let (ending, exit_code) = (output.ending(), output.exit_code);
        Self { command, ending, exit_code, stdout, stderr: output.stderr_text() }
    }

    pub fn add_to(note: Note, failed: &Self) -> Note {
        note.with("Command", &failed.command).with("stdout", &failed.stdout).with("stderr", &failed.stderr)
    }
}

impl ListError {
    /// The command, if it ran to its end.
    pub fn failed(&self) -> Option<&FailedCommand> {
        match self {
            Self::Failed(failed) | Self::Fault { said: failed, .. } => Some(failed),
            Self::NotDeployed(_) | Self::Execute(_) => None,
        }
    }
}

impl CommandError {
    /// It was sent, or may have been, and what it does there may still happen: how it ended is not known, or it ended otherwise than the
    /// runner's refusals do ([`muster_runner::protocol::MAY_STILL_RUN`]).
    pub fn may_still_come(&self) -> bool {
        match self {
            Self::NotDeployed(_) => false,
            Self::Execute(error) => error.was_perhaps_sent(),
            Self::Failed(failed) => failed.exit_code.is_none_or(|code| code == i32::from(MAY_STILL_RUN)),
            Self::Answer(_) => true,
        }
    }

    /// The command, if it ran to its end.
    pub fn failed(&self) -> Option<&FailedCommand> {
        match self {
            Self::Failed(failed) => Some(failed),
            _ => None,
        }
    }

    /// With all causes, for one log line.
    pub fn text(&self) -> String {
        chain(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A refusal is settled; what ended without its runner's answer, or in a way that nobody knows, is not.
    #[test]
    fn which_failed_starts_may_still_come() {
        let ended = |exit_code| {
            let (ending, stdout, stderr) = (String::new(), String::new(), String::new());
            CommandError::Failed(Box::new(FailedCommand { command: String::new(), ending, exit_code, stdout, stderr }))
        };
        for (error, comes) in [
            (ended(Some(1)), false),
            (ended(Some(127)), false),
            (ended(Some(i32::from(MAY_STILL_RUN))), true),
            (ended(None), true),
            (CommandError::Execute(ExecuteError::NoAddress), false),
            (CommandError::Execute(ExecuteError::Deadline), true),
            (CommandError::Execute(ExecuteError::Cancelled), true),
            (CommandError::NotDeployed(NotDeployed), false),
        ] {
            assert_eq!(error.may_still_come(), comes, "{error:?}");
        }
    }
}
