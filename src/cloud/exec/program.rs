//! One run of the program: a document in, a document out, within its time (spec 46 §2).
//!
//! A program that is late, or writes too much, is killed with its process group. What a program that ended by itself has left running
//! is left alone: that may be its instance.
//!
//! When the daemon stops, programs that only read are killed too: nobody needs their answer. Those that change something are left
//! to end, even beyond the daemon's life (they have groups of their own): half of a create may be a machine that no tag says
//! is ours, which nobody would ever find, while one that ends shows up in the next daemon's list. Nobody reads their streams then, so a
//! program that reports its progress should ignore SIGPIPE. Nor does anybody kill them at Timeout: the daemon's stop lasts seconds, far
//! too short to wait for that, and a process that stays behind to count the time would be one more that can hang or be killed. So the log
//! tells of them at the stop, and a program that can hang should end itself. What waits for its turn has not begun, and never does.

use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::answers::refusal;
use super::stderr::Lines;
use super::turns::{Kind, NoTurn, RUNNING_MAX, Turns};
use crate::cloud::CloudError;
use crate::core::effect::{Level, Note};
use crate::core::settings::CALL_DEADLINE;
use crate::core::units::format_duration;
use crate::log::write_note;
use crate::remote::local::LocalExecutor;
use crate::remote::{Command, ExecuteError, Executor, Output, Program as CommandLine};

/// Bytes of standard output: half a million instances.
const OUTPUT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Bytes of standard input. It must fit into memory only, so this is for what cannot be meant.
const INPUT_BYTES_MAX: usize = 1024 * 1024;
/// For a program to say what it is capable of: the daemon's start waits for it.
const CAPABILITIES_WITHIN: Duration = Duration::from_secs(60);
/// For a list: nobody waits for a later one (spec 20 §1). A little less, so that who waits is told so, and not that nothing came.
const LIST_WITHIN: Duration = CALL_DEADLINE.saturating_sub(Duration::from_secs(5));

/// What the program is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Create,
    List,
    Destroy,
    SetTags,
    Capabilities,
}

impl Verb {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::List => "list",
            Self::Destroy => "destroy",
            Self::SetTags => "set-tags",
            Self::Capabilities => "capabilities",
        }
    }

    const fn only_reads(self) -> bool {
        matches!(self, Self::List | Self::Capabilities)
    }

    const fn kind(self) -> Kind {
        match self {
            Self::Create => Kind::Create,
            Self::List | Self::Capabilities => Kind::List,
            Self::Destroy => Kind::Destroy,
            Self::SetTags => Kind::SetTags,
        }
    }
}

/// What came back.
pub(super) struct Answer {
    fields: Map<String, Value>,
    verb: Verb,
    /// Of standard error.
    last: String,
}

impl Answer {
    /// Reads it. A fault says its place, and nothing of what stands there.
    ///
    /// # Errors
    /// What `read` finds wrong with it.
    pub(super) fn read<T>(self, read: impl FnOnce(Map<String, Value>) -> Result<T, String>) -> Result<T, CloudError> {
        let Self { fields, verb, last } = self;
        read(fields).map_err(|fault| failed(verb, &format!("its output is not as it should be: {fault}"), &last))
    }
}

/// The program, and how many of it run.
#[derive(Debug)]
pub(super) struct Program {
    path: String,
    timeout: Duration,
    turns: Turns,
    /// Runs what a stop ends.
    reading: LocalExecutor,
    /// Runs what a stop leaves alone: never closed.
    changing: LocalExecutor,
}

impl Program {
    /// # Errors
    /// The path is not absolute, or no descriptor is left.
    pub(super) fn new(path: &Path, timeout: Duration, home: &str) -> io::Result<Self> {
        let invalid = |what: &str| {
            let text = format!("the driver program {} {what}", path.display());
            io::Error::new(io::ErrorKind::InvalidInput, text)
        };
        if !path.is_absolute() {
            return Err(invalid("must be given as an absolute path: it is run in /"));
        }
        let text = path.to_str().ok_or_else(|| invalid("has a name that is not UTF-8"))?;
        let (reading, changing) = (LocalExecutor::new(home.to_owned())?, LocalExecutor::new(home.to_owned())?);
        Ok(Self { path: text.to_owned(), timeout, turns: Turns::default(), reading, changing })
    }

    /// Runs it when it is its turn, within the time after which callers give up such calls. Gives the object that it answered with.
    ///
    /// # Errors
    /// By the class that the program says, or a plain error with the last line of its standard error. Whatever it is, the program may
    /// have done what it was asked for.
    pub(super) fn run(&self, verb: Verb, input: &Value) -> Result<Answer, CloudError> {
        self.run_if_begun_by(Instant::now() + CALL_DEADLINE, verb, input, || Ok(()))
    }

    /// The same, if its turn comes before this, and it is still wanted then.
    ///
    /// # Errors
    /// As [`Program::run`], or what `still_wanted` says.
    pub(super) fn run_if_begun_by(
        &self,
        until: Instant,
        verb: Verb,
        input: &Value,
        still_wanted: impl Fn() -> Result<(), CloudError>,
    ) -> Result<Answer, CloudError> {
        let input = serde_json::to_vec(input).map_err(|error| CloudError::other("cannot write the input", error))?;
        if input.len() > INPUT_BYTES_MAX {
            return Err(failed(verb, &format!("its input has more than {INPUT_BYTES_MAX} bytes"), ""));
        }
        let _turn = self.turns.take(verb.kind(), until).map_err(|refused| match refused {
            NoTurn::Stopped => failed(verb, "it was not started, since the dispatcher stops", ""),
            NoTurn::Late => {
                let why =
                    format!("it was not started, since it waited too long for its turn: {RUNNING_MAX} run at once");
                failed(verb, &why, "")
            }
        })?;
        still_wanted()?;
        // The time that it waited for its turn is not the program's.
        let command = Command {
            program: CommandLine::Arguments(vec![self.path.clone(), verb.as_str().to_owned()]),
            stdin: &input,
            open_until: None,
            deadline: Instant::now() + self.limit(verb),
        };
        let mut stdout = Vec::new();
        let mut lines = Lines::logged(verb.as_str());
        let executor = if verb.only_reads() { &self.reading } else { &self.changing };
        let result = executor.watch(&command, &mut |stream| keep(stream, &mut stdout), &mut |bytes| lines.push(bytes));
        let last = lines.end();
        match result {
            Ok(output) => answer(verb, &output, &stdout, last),
            Err(error) => Err(self.no_answer(verb, error, &last)),
        }
    }

    /// For one run.
    fn limit(&self, verb: Verb) -> Duration {
        match verb {
            Verb::Capabilities => self.timeout.min(CAPABILITIES_WITHIN),
            Verb::List => self.timeout.min(LIST_WITHIN),
            _ => self.timeout,
        }
    }

    /// A stop: see the module.
    pub(super) fn stop(&self) {
        let [creates, destroys, tag_saves] = self.turns.stop([Kind::Create, Kind::Destroy, Kind::SetTags]);
        self.reading.close();
        if creates + destroys + tag_saves > 0 {
            let message = "driver programs that change something are left to end by themselves; without this process nothing ends them at Timeout";
            let note = Note::new(Level::Warn, "cloud", message).with("Program", &self.path);
            let note = note.with("Creates", creates).with("Destroys", destroys).with("SetTags", tag_saves);
            write_note(&note.with("Advice", "kill those that hang by hand"));
        }
    }

    fn no_answer(&self, verb: Verb, error: ExecuteError, last: &str) -> CloudError {
        match error {
            ExecuteError::Start { source, .. } => {
                let why = self.why_not_started(&source);
                CloudError::other(format!("cannot run the driver program {}{why}", self.path), source)
            }
            ExecuteError::Deadline => {
                let limit = self.limit(verb);
                let name = match verb {
                    _ if limit == self.timeout => " (Timeout)",
                    Verb::List => " (lists have no more, whatever Timeout says)",
                    _ => "",
                };
                failed(verb, &format!("it did not end within {}{name} and was killed", format_duration(limit)), last)
            }
            ExecuteError::Cancelled => failed(verb, "it was killed, since the dispatcher stops", last),
            ExecuteError::Consumer(_) => {
                failed(verb, &format!("it wrote more than {OUTPUT_BYTES_MAX} bytes and was killed"), last)
            }
            other => CloudError::other(format!("the driver program's {} failed", verb.as_str()), other),
        }
    }

    /// The system's own words do not tell these apart.
    fn why_not_started(&self, error: &io::Error) -> &'static str {
        let exists = std::fs::metadata(&self.path);
        match error.kind() {
            io::ErrorKind::NotFound if exists.is_ok() => " (the interpreter that its first line names is not there)",
            io::ErrorKind::PermissionDenied if exists.is_ok_and(|found| found.is_file()) => {
                " (it must be executable: chmod +x)"
            }
            _ if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
                " (it has no first line such as #!/bin/sh)"
            }
            _ => "",
        }
    }
}

fn answer(verb: Verb, ended: &Output, stdout: &[u8], last: String) -> Result<Answer, CloudError> {
    let document = serde_json::from_slice::<Value>(stdout);
    if let Some(refusal) = document.as_ref().ok().and_then(refusal) {
        return Err(refusal);
    }
    match document {
        _ if !ended.succeeded() => Err(failed(verb, &ended.ending(), &last)),
        Ok(Value::Object(fields)) => Ok(Answer { fields, verb, last }),
        Ok(_) => Err(failed(verb, "its output is JSON, but not an object", &last)),
        Err(_) if stdout.trim_ascii().is_empty() => Err(failed(verb, "it has no output", &last)),
        // Says the place, and nothing of what stands there.
        Err(error) => Err(failed(verb, &format!("its output is not JSON ({error})"), &last)),
    }
}

/// A plain error.
fn failed(verb: Verb, what: &str, last: &str) -> CloudError {
    let said = if last.is_empty() { String::new() } else { format!("; it said: {last}") };
    let message = format!("the driver program's {} failed: {what}{said}", verb.as_str());
    CloudError::Other { message, source: None }
}

/// # Errors
/// The stream's, or it is too long.
fn keep(stream: &mut dyn Read, stdout: &mut Vec<u8>) -> io::Result<()> {
    match stream.take(OUTPUT_BYTES_MAX + 1).read_to_end(stdout)? {
        count if u64::try_from(count).is_ok_and(|count| count > OUTPUT_BYTES_MAX) => {
            Err(io::ErrorKind::FileTooLarge.into())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(timeout: Duration) -> Program {
        Program::new(Path::new("/bin/true"), timeout, "/").expect("a descriptor")
    }

    const fn minutes(count: u64) -> Duration {
        Duration::from_secs(60 * count)
    }

    /// The daemon does not answer before this program has, and whoever looks after it may not wait for five minutes.
    #[test]
    fn the_start_waits_for_a_minute_at_most() {
        assert_eq!(program(minutes(5)).limit(Verb::Capabilities), minutes(1));
        assert_eq!(program(minutes(5)).limit(Verb::Create), minutes(5));
        assert_eq!(program(Duration::from_secs(7)).limit(Verb::Capabilities), Duration::from_secs(7));
    }

    /// What comes later is thrown away: then it must not go on, and whoever waits must hear why.
    #[test]
    fn lists_end_before_they_are_given_up() {
        assert!(program(minutes(5)).limit(Verb::List) < CALL_DEADLINE);
        assert_eq!(program(minutes(1)).limit(Verb::List), minutes(1));
        let text = |timeout| program(timeout).no_answer(Verb::List, ExecuteError::Deadline, "page 7").to_string();
        assert_eq!(
            text(minutes(5)),
            "the driver program's list failed: it did not end within 1m55s (lists have no more, whatever Timeout says) and was killed; it said: page 7"
        );
        assert!(text(minutes(1)).contains("within 1m (Timeout) and was killed"), "{}", text(minutes(1)));
    }
}
