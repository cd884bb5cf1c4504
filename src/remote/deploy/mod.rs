//! Putting the runner on a worker (spec 20 §7, 62 §3): by checksum, complete or not at all, where nobody else can swap it.
//!
//! One script (`script.sh`) does it, in one round trip where the program is there already and in two where it is not: it looks at the
//! directory and everything above it, compares the checksum, and asks the program for its version and the host's facts. The program
//! is written under a name of its own and renamed. So whatever crashes, and however many deployments there are at once, the name
//! means a complete file with the right mode, and one that is being executed is never written to. What a crash can leave, a file
//! `NAME.new.…`, the next deployment removes once it is a day old.
//!
//! Old versions stay: another dispatcher may use them, and they are small.
//!
//! The worker's own thread does this, between probes, over the probe's connection: a second one would cost more time than all else
//! here, and nobody waits for this one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_runner::protocol::Facts;

use super::runner::{CommandError, Runner, judge_version};
use super::supply::{RunnerBinary, RunnerKit};
use super::{Command, ExecuteError, Lane, Output, Program};
use crate::core::errors::chain;
use crate::core::runner_file::is_plain_path;

/// Where commands run as root.
const ROOT_DIRECTORY: &str = "/var/lib/muster-runner/bin";
/// Elsewhere, below the home directory. Not below `/tmp`: there another user could make the directory first.
const HOME_DIRECTORY: &str = ".cache/muster-runner/bin";
/// A connection that breaks or hangs is noticed after this (spec 10 §4).
const DEADLINE: Duration = Duration::from_secs(60);

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deployed {
    /// The configuration says that nothing is copied.
    PreInstalled,
    AlreadyThere,
    Installed,
}

/// A worker that has its runner.
#[derive(Clone, Debug)]
pub struct Deployment {
    pub done: Deployed,
    /// What [`Runner::program`] says from now on.
    pub program: Arc<str>,
    /// `None`: they came not with the rest, and can be asked for.
    pub facts: Option<Facts>,
}

/// Why a worker has no runner. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// There is none to deploy (spec 20 §7).
    #[error("{0}")]
    NoRunner(String),
    #[error("failed to run the deployment's commands")]
    Execute(#[from] ExecuteError),
    /// The script's own words: what it found, and what to do.
    #[error("{stderr} ({ending})")]
    Refused { ending: String, stderr: String },
    #[error("the home directory of the login user is {0:?}: set DeployRunnerDirectory to a plain path there")]
    Home(String),
    #[error("the answer of `uname -m` is {0:?}")]
    Architecture(String),
    #[error(
        "no runner for the architecture {architecture}: set Muster.Runner.Binaries.{architecture} to the file (there is one for {known})"
    )]
    NoBinary { architecture: String, known: String },
    #[error("{program} cannot be used: {why}")]
    Unusable { program: String, why: String },
    #[error(
        "{program} is not usable on the instance: put a muster-runner there, name it with its absolute path in CrunchRunCommand, or set \
         DeployRunnerBinary to copy one"
    )]
    PreInstalled {
        program: String,
        #[source]
        source: CommandError,
    },
}

impl DeployError {
    /// With all causes, for one log line.
    pub fn text(&self) -> String {
        chain(self)
    }
}

/// Makes sure that the runner is on the worker, and that it is one this dispatcher can talk to. Repeatable at any time.
///
/// # Errors
/// The worker cannot be reached, or refuses; then [`Runner::program`] is what it was before.
pub fn deploy(runner: &Runner) -> Result<Deployment, DeployError> {
    let kit = runner.supply.kit().map_err(DeployError::NoRunner)?;
    if let RunnerKit::PreInstalled(program) = kit {
        return pre_installed(runner, program);
    }
    let target = Target::find(runner, &kit)?;
    let deadline = Instant::now() + DEADLINE;
    let output = target.execute(runner, "check", b"", deadline)?;
    let (done, output) = if output.stdout == b"missing\n" {
        // A second per megabyte more (spec 10 §4).
        let bytes = &target.binary.bytes;
        let deadline = Instant::now() + DEADLINE + Duration::from_secs(bytes.len() as u64 / 1_000_000);
        (Deployed::Installed, target.execute(runner, "install", bytes, deadline)?)
    } else {
        (Deployed::AlreadyThere, output)
    };
    let (program, facts) = read_report(runner, &target, &output)?;
    runner.note_found(|found| found.program = Some(program.clone()));
    Ok(Deployment { done, program, facts })
}

fn pre_installed(runner: &Runner, program: Arc<str>) -> Result<Deployment, DeployError> {
    runner
        .check_version(&program)
        .map_err(|source| DeployError::PreInstalled { program: program.to_string(), source })?;
    runner.note_found(|found| found.program = Some(program.clone()));
    Ok(Deployment { done: Deployed::PreInstalled, program, facts: None })
}

/// What goes where.
struct Target {
    directory: String,
    binary: Arc<RunnerBinary>,
}

impl Target {
    /// Asks the worker for what it takes to know, once.
    fn find(runner: &Runner, kit: &RunnerKit) -> Result<Self, DeployError> {
        let configured = runner.supply.directory().or(runner.places.directory.as_deref());
        let fixed = configured.or(runner.executor.runs_as_root().then_some(ROOT_DIRECTORY));
        let found = runner.found();
        let home_wanted = fixed.is_none() && found.home.is_none();
        let architecture_wanted = kit.depends_on_architecture() && found.architecture.is_none();
        ask(runner, home_wanted, architecture_wanted)?;
        let found = runner.found();
        let directory = match fixed {
            Some(directory) => directory.to_owned(),
            None => format!("{}/{HOME_DIRECTORY}", found.home.unwrap_or_default().trim_end_matches('/')),
        };
        let architecture = found.architecture.unwrap_or_default();
        let binary = kit.binary(&architecture).cloned();
        let none = || DeployError::NoBinary { architecture, known: kit.architectures().join(", ") };
        Ok(Self { directory, binary: binary.ok_or_else(none)? })
    }

    fn name(&self) -> String {
        format!("muster-runner~{}", self.binary.sha256)
    }

    fn execute(&self, runner: &Runner, task: &str, stdin: &[u8], deadline: Instant) -> Result<Output, DeployError> {
        let (name, machines) = (self.name(), self.binary.format.machines());
        let words = ["sh", "-c", &script(), "sh", task, &self.directory, &name, &self.binary.sha256, machines];
        let words = words.map(str::to_owned).into_iter().chain(runner.flags()).collect();
        let command = Command { program: Program::Arguments(words), stdin, open_until: None, deadline };
        require_success(runner.executor.execute(Lane::Probe, &command)?)
    }
}

fn require_success(output: Output) -> Result<Output, DeployError> {
    if output.succeeded() {
        return Ok(output);
    }
    let mut stderr = output.stderr_text();
    if stderr.contains("sudo: ") {
        stderr.push_str("; the login user must be root, or be allowed sudo without a password");
    }
    Err(DeployError::Refused { ending: output.ending(), stderr })
}

/// The script as it is sent: without comments and indentation, since some servers take no long command line (Dropbear 9000 bytes).
fn script() -> String {
    let lines = include_str!("script.sh").lines().map(str::trim_start);
    let mut text = String::new();
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// `ok PATH`, the version, the facts. What is missing behind the `ok` is asked for.
fn read_report(runner: &Runner, target: &Target, output: &Output) -> Result<(Arc<str>, Option<Facts>), DeployError> {
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    let unusable = |program: &str, why: String| DeployError::Unusable { program: program.to_owned(), why };
    let program: Arc<str> = match first.strip_prefix("ok").map(str::trim_start) {
        Some("") => format!("{}/{}", target.directory, target.name()).into(),
        Some(path) if path.starts_with('/') => path.into(),
        _ => return Err(unusable(&target.name(), format!("the script answered {first:?}"))),
    };
    let answer: Vec<&str> = lines.collect();
    match answer.first() {
        Some(version) => judge_version(version).map_err(|why| unusable(&program, why))?,
        None => runner.check_version(&program).map_err(|error| unusable(&program, error.text()))?,
    }
    let facts = answer.last().and_then(|line| serde_json::from_str(line).ok());
    Ok((program, facts))
}

/// Home directory and architecture: what is wanted of them, in one go. Remembered if it makes sense.
fn ask(runner: &Runner, home_wanted: bool, architecture_wanted: bool) -> Result<(), DeployError> {
    let line = match (home_wanted, architecture_wanted) {
        (true, true) => r#"printf '%s\n' "$HOME" && uname -m"#,
        (true, false) => r#"printf '%s\n' "$HOME""#,
        (false, true) => "uname -m",
        (false, false) => return Ok(()),
    };
    let program = Program::Shell(line.to_owned());
    let command = Command { program, stdin: b"", open_until: None, deadline: Instant::now() + DEADLINE };
    let output = require_success(runner.executor.execute(Lane::Probe, &command)?)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    if home_wanted {
        let home = lines.next().unwrap_or_default().to_owned();
        if !is_plain_path(&home) {
            return Err(DeployError::Home(home));
        }
        runner.note_found(|found| found.home = Some(home));
    }
    if architecture_wanted {
        let architecture = lines.next().unwrap_or_default().to_owned();
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        if !(1..=64).contains(&architecture.len()) || !architecture.bytes().all(is_part) {
            return Err(DeployError::Architecture(architecture));
        }
        runner.note_found(|found| found.architecture = Some(architecture));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
