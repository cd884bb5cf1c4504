//! Commands on the instance under test, each with its log line.

use std::convert::Infallible;
use std::io;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded, select};

use super::note;
use crate::cloud::{Access, CloudInstance};
use crate::core::effect::{Level, seconds};
use crate::core::errors::chain;
use crate::log::write_note;
use crate::remote::{Command, Lane, Program};
use crate::shell::stop::Stop;
use crate::shell::threads;

/// How a command on the instance ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Succeeded,
    /// It ran and failed.
    Failed,
    /// It could not be run, yet.
    NotRun,
}

/// A stop cancels the command that runs, until what is returned is dropped.
///
/// # Errors
/// There is no thread for it.
pub(super) fn close_on_stop(access: &Access, stop: &Stop) -> io::Result<Sender<Infallible>> {
    let (keep, ended) = bounded::<Infallible>(0);
    let (executor, stop) = (access.executor.clone(), stop.clone());
    let watch = move || {
        select! {
            recv(stop.channel()) -> _ => executor.close(),
            recv(ended) -> _ => {}
        }
    };
    threads::spawn("watch".to_owned(), Box::new(watch))?;
    Ok(keep)
}

/// Runs a shell command and tells what came of it.
pub(super) fn run(access: &Access, instance: &CloudInstance, command: &str, limit: Duration) -> Outcome {
    access.executor.set_target(&instance.address, &instance.remote_user);
    let began = Instant::now();
    let order =
        Command { program: Program::Shell(command.to_owned()), stdin: b"", open_until: None, deadline: began + limit };
    let result = access.executor.execute(Lane::Action, &order);
    let note = |level, message: &'static str| {
        note(level, message).with("Command", command).with("Duration", seconds(began.elapsed()))
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
