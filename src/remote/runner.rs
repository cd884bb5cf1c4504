//! The runner's commands as command lines, and their answers as values (spec 50 §2, 52 §1).
//!
//! Every command names the dispatcher's set, so that several dispatchers can share a host.

mod errors;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_runner::protocol::{Facts, HAS_RUN, PROTOCOL, StartConfig, parse_version};
use parking_lot::RwLock;

pub use self::errors::{CommandError, FailedCommand, ListError, NotDeployed};
use super::supply::{RunnerFiles, RunnerSupply};
use super::wake::Wake;
use super::{Command, Consume, Executor, Lane, Output, Program};
use crate::core::ids::{Attempt, ContainerUuid};
use crate::core::instance_type::PricePoint;
use crate::core::settings::COMMAND_DEADLINE;
use crate::core::worker::listing::{self, Listing};

/// For output that somebody waits for; it is asked for again.
const TAIL_LIMIT: Duration = Duration::from_secs(10);

/// The newest price points that are sent with each list; a runner needs those since its container began.
const PRICES_MAX: usize = 1000;
/// Exit status of a runner that does not know an argument (spec 50 §2.1).
const USAGE_ERROR: i32 = 2;

/// Where a runner lives and keeps its files on one kind of host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunnerPlaces {
    /// Directory that the program is put into; `None`: as spec 62 §3 says.
    pub directory: Option<String>,
    /// A program that is there already, where nothing is copied (`DeployRunnerBinary: ""`).
    pub program: Option<String>,
    /// `None`: the runner's own default.
    pub lock_dir: Option<PathBuf>,
    pub state_dir: Option<PathBuf>,
    /// Starts are good under this lease only (spec 46 §1); `None`: the machine belongs to nobody else.
    pub lease: Option<String>,
}

/// The runner on one worker. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Runner {
    pub executor: Arc<dyn Executor>,
    pub places: Arc<RunnerPlaces>,
    pub supply: Arc<RunnerSupply>,
    /// Entries of other sets are invisible.
    pub set: Arc<str>,
    /// Containers of other clusters are left out of lists; empty: none are.
    pub cluster_id: Arc<str>,
    self_destruct_after: Option<Duration>,
    found: Arc<RwLock<Found>>,
}

/// What was found out about the worker.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// The program; `None` until a deployment has seen that it is the right one and that nobody else can swap it.
    pub(super) program: Option<Arc<str>>,
    /// Home directory of the login user, as long as that is this one.
    pub(super) home: Option<String>,
    user: Option<String>,
    /// As `uname -m`.
    pub(super) architecture: Option<String>,
}

/// Whether a program that answers `--version` so can be used; else why not.
pub(super) fn judge_version(answer: &str) -> Result<(), String> {
    let answer = answer.trim_end();
    match parse_version(answer) {
        Some((_, PROTOCOL)) => Ok(()),
        Some((_, protocol)) => Err(format!("{answer}: protocol {protocol}, this dispatcher speaks {PROTOCOL}")),
        None => Err(format!("{answer:?}: not a muster-runner")),
    }
}

fn require_success(program: &Program, output: Output) -> Result<Output, CommandError> {
    if output.succeeded() {
        return Ok(output);
    }
    Err(CommandError::Failed(Box::new(FailedCommand::new(program, &output))))
}

/// Price points as the runner reads them: one line, since standard input stays open for a long poll. Nothing for none.
fn prices_line(prices: &[PricePoint]) -> Vec<u8> {
    if prices.is_empty() {
        return Vec::new();
    }
    let point = |point: &PricePoint| {
        let since = jiff::Timestamp::from_millisecond(point.since).unwrap_or_default();
        serde_json::json!({"StartTime": since.to_string(), "Price": point.price})
    };
    let points: Vec<_> = prices.iter().take(PRICES_MAX).map(point).collect();
    format!("{}\n", serde_json::Value::Array(points)).into_bytes()
}

impl Runner {
    /// `supply` and `places` say where the program comes from and goes to; [`deploy`](super::deploy::deploy) puts it there.
    pub fn new(
        executor: Arc<dyn Executor>,
        places: Arc<RunnerPlaces>,
        supply: Arc<RunnerSupply>,
        set: Arc<str>,
        cluster_id: Arc<str>,
    ) -> Self {
        Self { executor, places, supply, set, cluster_id, self_destruct_after: None, found: Arc::default() }
    }

    /// The machine powers itself off when its list was not asked for that long and nothing runs; `None`: never.
    #[must_use]
    pub fn self_destructing(self, self_destruct_after: Option<Duration>) -> Self {
        Self { self_destruct_after, ..self }
    }

    /// As given to [`Runner::self_destructing`].
    pub fn self_destruct_after(&self) -> Option<Duration> {
        self.self_destruct_after
    }

    /// A runner whose program is known to be at `program`.
    pub fn at(
        program: &str,
        executor: Arc<dyn Executor>,
        places: Arc<RunnerPlaces>,
        set: Arc<str>,
        cluster_id: Arc<str>,
    ) -> Self {
        let supply = Arc::new(RunnerSupply::new(RunnerFiles::PreInstalled(program.to_owned()), None));
        let runner = Self::new(executor, places, supply, set, cluster_id);
        runner.note_found(|found| found.program = Some(program.into()));
        runner
    }

    /// The program on the worker.
    ///
    /// # Errors
    /// It was not deployed yet.
    pub fn program(&self) -> Result<Arc<str>, NotDeployed> {
        self.found.read().program.clone().ok_or(NotDeployed)
    }

    pub(super) fn found(&self) -> Found {
        self.found.read().clone()
    }

    pub(super) fn note_found(&self, note: impl FnOnce(&mut Found)) {
        note(&mut self.found.write());
    }

    fn run(&self, arguments: &[&str]) -> Result<Vec<String>, NotDeployed> {
        let mut words = vec![self.program()?.to_string()];
        words.extend(arguments.iter().map(|word| (*word).to_owned()));
        words.extend(self.flags());
        Ok(words)
    }

    fn lease_flag(&self) -> impl Iterator<Item = &str> {
        self.places.lease.iter().flat_map(|lease| ["--lease", lease])
    }

    /// Flags of every command but `--version`: whose entries it is about, and where they are.
    pub(super) fn flags(&self) -> Vec<String> {
        let mut words = vec!["--set".to_owned(), self.set.to_string()];
        for (flag, place) in [("--lock-dir", &self.places.lock_dir), ("--state-dir", &self.places.state_dir)] {
            if let Some(path) = place {
                words.extend([flag.to_owned(), path.to_string_lossy().into_owned()]);
            }
        }
        words
    }

    /// The uuid comes last: parsing stops at the first word that is not a flag.
    fn on_container(&self, arguments: &[&str], uuid: &ContainerUuid, attempt: Attempt) -> Result<Program, NotDeployed> {
        let mut words = self.run(arguments)?;
        if attempt > 0 {
            words.extend(["--attempt".to_owned(), attempt.to_string()]);
        }
        words.push(uuid.to_string());
        Ok(Program::Arguments(words))
    }

    /// Where the next connection goes, and as whom.
    pub fn retarget(&self, address: &str, remote_user: &str) {
        self.executor.set_target(address, remote_user);
        let mut found = self.found.write();
        if found.user.as_deref() != Some(remote_user) {
            found.user = Some(remote_user.to_owned());
            found.home = None;
        }
    }

    /// Runs it; it must succeed.
    fn ask(&self, lane: Lane, program: Program, stdin: &[u8]) -> Result<Output, CommandError> {
        let command = self.command(program, stdin, COMMAND_DEADLINE);
        let output = self.executor.execute(lane, &command)?;
        require_success(&command.program, output)
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
        self.list_telling_prices(&[], (known, wait, limit), wake)
    }

    /// [`Runner::list`], with what the instance costs, if that is known: runners there reckon with it (spec 50 §5).
    ///
    /// # Errors
    /// As there.
    pub fn list_telling_prices(
        &self,
        prices: &[PricePoint],
        (known, wait, limit): (Option<&str>, Duration, Duration),
        wake: &Wake,
    ) -> Result<Listing, ListError> {
        let seconds = format!("{:.3}", wait.as_secs_f64());
        let mut words = vec!["--list"];
        if !prices.is_empty() {
            words.push("--stdin-prices");
        }
        words.extend(known.iter().flat_map(|token| ["--wait", &seconds, "--known", token]));
        let after = self.self_destruct_after.map(|after| after.as_secs().clamp(1, u32::MAX.into()).to_string());
        words.extend(after.iter().flat_map(|after| ["--self-destruct", after]));
        // It says that it is broken once it is not ours any more: nothing would start there.
        words.extend(self.lease_flag());
        let words = self.run(&words)?;
        let stdin = prices_line(prices);
        let mut command = self.command(Program::Arguments(words), &stdin, limit + wait);
        command.open_until = known.is_some().then_some(wake);
        let output = self.executor.execute(Lane::Probe, &command)?;
        let said = || Box::new(FailedCommand::new(&command.program, &output));
        if !output.succeeded() {
            return Err(ListError::Failed(said()));
        }
        listing::parse(&output.stdout, &self.cluster_id, true).map_err(|fault| ListError::Fault { fault, said: said() })
    }

    /// Starts an attempt; its command line and environment go through standard input.
    ///
    /// # Errors
    /// The runner may have started all the same: only a probe tells.
    pub fn start(&self, uuid: &ContainerUuid, attempt: Attempt, config: &StartConfig) -> Result<(), CommandError> {
        let stdin = serde_json::to_vec(config).map_err(|error| CommandError::Answer(error.to_string()))?;
        let mut words = vec!["--detach", "--stdin-config"];
        words.extend(self.lease_flag());
        let program = self.on_container(&words, uuid, attempt)?;
        self.ask(Lane::Action, program, &stdin).map(drop)
    }

    /// SIGTERM to a runner, after a tombstone for this attempt. `Ok`: there is no such process (any more); and whether this attempt has
    /// been there.
    ///
    /// # Errors
    /// It may be alive.
    pub fn kill(&self, uuid: &ContainerUuid, attempt: Attempt) -> Result<bool, CommandError> {
        let program = self.on_container(&["--kill", "15"], uuid, attempt)?;
        let output = self.ask(Lane::Action, program, b"")?;
        Ok(output.stdout.trim_ascii_end() == HAS_RUN.as_bytes())
    }

    /// [`Runner::kill`] that does not wait for the runner's end, so that many can be told at once.
    ///
    /// # Errors
    /// It may be alive.
    pub fn terminate(&self, uuid: &ContainerUuid, attempt: Attempt) -> Result<(), CommandError> {
        self.act(&["--kill", "15", "--wait", "0"], uuid, attempt)
    }

    /// Gives a machine back that is held under `lease`. `false`: it is not held under that.
    ///
    /// # Errors
    /// Something runs or is starting there, or it cannot be asked: it is held as before, or not any more.
    pub fn release(&self, lease: &str) -> Result<bool, CommandError> {
        let program = Program::Arguments(self.run(&["--release", "--lease", lease])?);
        let output = self.ask(Lane::Action, program, b"")?;
        match output.stdout.trim_ascii_end() {
            b"released" => Ok(true),
            b"not held" => Ok(false),
            other => Err(CommandError::Answer(format!("{:?}", String::from_utf8_lossy(other)))),
        }
    }

    /// Ends what a stale one left.
    ///
    /// # Errors
    /// Something may be left.
    pub fn reap(&self, uuid: &ContainerUuid, attempt: Attempt) -> Result<(), CommandError> {
        self.act(&["--reap"], uuid, attempt)
    }

    /// Removes a collected attempt's files there, with or without its outputs.
    ///
    /// # Errors
    /// They may still be there, and are listed again.
    pub fn forget(&self, uuid: &ContainerUuid, attempt: Attempt, keep_outputs: bool) -> Result<(), CommandError> {
        if !keep_outputs {
            return self.act(&["--forget"], uuid, attempt);
        }
        match self.act(&["--forget", "--keep-outputs"], uuid, attempt) {
            // One of before this flag, which was not put there by us: it keeps them only if it found itself that they are too large.
            Err(CommandError::Failed(failed))
                if failed.exit_code == Some(USAGE_ERROR) && failed.stderr.contains("keep-outputs") =>
            {
                self.act(&["--forget"], uuid, attempt)
            }
            other => other,
        }
    }

    fn act(&self, arguments: &[&str], uuid: &ContainerUuid, attempt: Attempt) -> Result<(), CommandError> {
        let program = self.on_container(arguments, uuid, attempt)?;
        self.ask(Lane::Action, program, b"").map(drop)
    }

    /// The result of a finished attempt as a tar stream, which `consume` takes apart.
    ///
    /// # Errors
    /// [`ExecuteError::Consumer`](super::ExecuteError::Consumer) inside [`CommandError::Execute`] when `consume` failed.
    pub fn collect(
        &self,
        uuid: &ContainerUuid,
        attempt: Attempt,
        limit: Duration,
        consume: &mut Consume<'_>,
    ) -> Result<(), CommandError> {
        let program = self.on_container(&["--collect"], uuid, attempt)?;
        let command = self.command(program, b"", limit);
        require_success(&command.program, self.executor.stream(Lane::Bulk, &command, consume)?)?;
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
        let wait = wait.min(Duration::from_secs(1));
        let (offset, seconds) = (offset.to_string(), format!("{:.3}", wait.as_secs_f64()));
        let arguments = ["--tail", "--stream", stream, "--offset", &offset, "--wait", &seconds];
        let program = self.on_container(&arguments, uuid, attempt)?;
        let command = self.command(program, b"", wait + TAIL_LIMIT);
        let output = self.executor.execute(Lane::Bulk, &command)?;
        Ok(require_success(&command.program, output)?.stdout)
    }

    /// What the host is, for the log.
    ///
    /// # Errors
    /// The command failed or its answer is no such document.
    pub fn facts(&self) -> Result<Facts, CommandError> {
        let program = Program::Arguments(self.run(&["--facts"])?);
        let output = self.ask(Lane::Probe, program, b"")?;
        serde_json::from_slice(&output.stdout).map_err(|error| CommandError::Answer(error.to_string()))
    }

    /// Asks a program who it is: only a muster-runner with our protocol number may be used with the additions of spec 52.
    ///
    /// # Errors
    /// It cannot be run, or is something else.
    pub(super) fn check_version(&self, program: &str) -> Result<(), CommandError> {
        let program = Program::Arguments(vec![program.to_owned(), "--version".to_owned()]);
        let output = self.ask(Lane::Probe, program, b"")?;
        judge_version(&String::from_utf8_lossy(&output.stdout)).map_err(CommandError::Answer)
    }

    /// The boot probe of the operator's configuration, for which `limit` is the time.
    ///
    /// # Errors
    /// It did not exit with 0. The second value: worth a warning at once (spec 10 §5).
    pub fn boot_probe(&self, line: &str, limit: Duration) -> Result<(), (CommandError, bool)> {
        let line = if line.is_empty() { "true" } else { line };
        let command = self.command(Program::Shell(line.to_owned()), b"", limit);
        let output = self.executor.execute(Lane::Probe, &command).map_err(CommandError::from);
        output.and_then(|output| require_success(&command.program, output)).map(drop).map_err(|error| {
            let alarming = matches!(&error, CommandError::Execute(error) if !error.is_normal_while_booting());
            (error, alarming)
        })
    }
}

#[cfg(test)]
mod tests;
