//! Credentials from a program that a profile names (`credential_process`): it prints them as JSON.
//!
//! No shell reads the line: the words of it are the program and its arguments. The program gets the variables that such programs need and no
//! others ([`Environment::for_programs`]). Nothing that it prints is shown but the last line of its standard error, if it has failed.
//! It serves only this process, so a stop kills it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::chain::FIND_LIMIT;
use super::{Credentials, document};
use crate::cloud::ec2::environment::Environment;
use crate::cloud::ec2::query::QueryError;
use crate::cloud::ec2::xml::excerpt;
use crate::core::units::format_duration;
use crate::remote::local::LocalExecutor;
use crate::remote::{Command, ExecuteError, Executor, Lane, OUTPUT_BYTES_MAX, Program};

/// What only a shell understands, in a program's name.
const FOR_SHELLS: [char; 2] = ['~', '$'];

/// After a stop the one that runs is waited for, so that this process does not end before it; a kill takes moments.
const KILLED_WITHIN: Duration = Duration::from_secs(2);

/// Runs programs, one at a time, until a stop.
#[derive(Debug)]
pub struct Programs {
    executor: LocalExecutor,
    stopped: AtomicBool,
    /// Held while one runs.
    running: Mutex<()>,
}

impl Programs {
    /// # Errors
    /// No descriptor is left.
    pub fn new(environment: &Environment) -> io::Result<Self> {
        let home = environment.home().map_or_else(|| "/".to_owned(), |home| home.to_string_lossy().into_owned());
        let executor = LocalExecutor::new(home)?.with_variables(environment.for_programs());
        Ok(Self { executor, stopped: AtomicBool::new(false), running: Mutex::default() })
    }

    /// Runs the program of the line, until then at most, and reads what it prints. `profile` is for errors.
    ///
    /// # Errors
    /// The line is none, the program cannot be run, fails, is late or killed by a stop, or prints no credentials.
    pub fn run(&self, line: &str, profile: &str, deadline: Instant) -> Result<Credentials, QueryError> {
        let whose = format!("the program that credential_process of the profile {profile} names");
        let words = words(line).map_err(|why| QueryError::other(format!("{whose} cannot be run: {why}")))?;
        let program = excerpt(words[0].as_bytes());
        let hint = if words[0].contains(FOR_SHELLS) { " (no shell reads it: ~ and $ mean nothing)" } else { "" };

        let _running = self.running.lock();
        if self.stopped.load(Ordering::SeqCst) {
            return Err(QueryError::other(format!("{whose} was not started, since the dispatcher stops")));
        }
        let command = Command { program: Program::Arguments(words), stdin: b"", open_until: None, deadline };
        match self.executor.execute(Lane::Action, &command) {
            Ok(output) if output.succeeded() => document::from_program(&output.stdout, &whose),
            Ok(output) => {
                let said = match last_line(&output.stderr) {
                    Some(line) => format!("; it said: {}", excerpt(line)),
                    None => String::new(),
                };
                Err(QueryError::other(format!("{whose} failed: {}{said}", output.ending())))
            }
            Err(ExecuteError::Start { source, .. }) => {
                Err(QueryError::caused(format!("{whose} cannot be run: {program}{hint}"), source))
            }
            Err(ExecuteError::Deadline) => {
                let limit = format_duration(FIND_LIMIT);
                let why = format!("did not end within the {limit} that a search for credentials has");
                Err(QueryError::other(format!("{whose} {why}, and was killed")))
            }
            Err(ExecuteError::Cancelled) => {
                Err(QueryError::other(format!("{whose} was killed, since the dispatcher stops")))
            }
            Err(ExecuteError::TooMuchOutput) => {
                Err(QueryError::other(format!("{whose} printed more than {OUTPUT_BYTES_MAX} bytes and was killed")))
            }
            Err(error) => Err(QueryError::caused(format!("{whose} failed"), error)),
        }
    }

    /// Kills the one that runs; none is started any more.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.executor.close();
        // One that cannot be killed ends by itself.
        drop(self.running.try_lock_for(KILLED_WITHIN));
    }
}

/// The last with anything in it.
fn last_line(text: &[u8]) -> Option<&[u8]> {
    text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).rfind(|line| !line.is_empty())
}

/// Words as a shell would make of them, if it knew white space, quotation marks and backslashes only. There is one at least, and the first
/// has text.
fn words(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            _ if letter.is_ascii_whitespace() => words.extend(word.take()),
            '\'' | '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match letters.next().ok_or("a quotation mark has no other")? {
                        inner if inner == letter => break,
                        // Between double ones it stays, unless it is before what it is needed for.
                        '\\' if letter == '"' => {
                            word.push(letters.next_if(|next| "\"\\".contains(*next)).unwrap_or('\\'))
                        }
                        inner => word.push(inner),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(letters.next().ok_or("a backslash stands at its end")?),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    if words.first().is_none_or(String::is_empty) {
        return Err("there is no word in it");
    }
    Ok(words)
}

#[cfg(test)]
mod tests;
