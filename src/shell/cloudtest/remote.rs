//! Commands on the instance under test, each with its log line.

use std::time::{Duration, Instant};

use crate::cloud::{Access, CloudInstance};
use crate::core::effect::{Level, Note, seconds};
use crate::core::errors::chain;
use crate::log::write_note;
use crate::remote::{Command, Lane, Program};

/// How a command on the instance ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Succeeded,
    /// It ran and failed.
    Failed,
    /// It could not be run, yet.
    NotRun,
}

/// Runs a shell command and tells what came of it.
pub(super) fn run(access: &Access, instance: &CloudInstance, command: &str, limit: Duration) -> Outcome {
    access.executor.set_target(&instance.address, &instance.remote_user);
    let began = Instant::now();
    let order =
        Command { program: Program::Shell(command.to_owned()), stdin: b"", open_until: None, deadline: began + limit };
    let result = access.executor.execute(Lane::Action, &order);
    let note = |level, message: &'static str| {
        Note::new(level, "cloudtest", message).with("Command", command).with("Duration", seconds(began.elapsed()))
    };
    match result {
        Ok(output) => {
            let succeeded = output.succeeded();
            let note = match succeeded {
                true => note(Level::Info, "remote command succeeded"),
                false => note(Level::Warn, "remote command failed").with("Reason", output.ending()),
            };
            let note =
                note.with("stdout", String::from_utf8_lossy(&output.stdout)).with("stderr", output.stderr_text());
            write_note(&note);
            if succeeded { Outcome::Succeeded } else { Outcome::Failed }
        }
        Err(error) => {
            let message = "remote command failed";
            let level = if error.is_normal_while_booting() { Level::Info } else { Level::Warn };
            write_note(&note(level, message).with("error", chain(&error)));
            Outcome::NotRun
        }
    }
}
