//! What the action threads do on a worker: start, kill, reap, collect, forget (spec 10 §12–§13, 70 §3–4). Blocking.
//!
//! A transition is committed before its effect becomes possible: the assignment before the start is sent, the result before the
//! worker's copy is dropped. So a crash between any two steps only repeats a step.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use muster_runner::protocol::{ContainerSpec, Limits, Reason, ResultRecord, StartConfig};
use parking_lot::Mutex;

use super::fault_point::{FaultPoint, reached};
use super::lanes::Work;
use super::pool::PoolDoor;
use super::results::{
    CollectError, check_fetched, note_too_large, outputs_stay, put_in_place, remove_tree, result_dir, set_aside,
    settle, storage, temporary_dir, write_record,
};
use super::workers::Workers;
use crate::core::container::Container;
use crate::core::effect::{Level, Note, RunnerOrder};
use crate::core::errors::chain;
use crate::core::ids::{Attempt, ContainerUuid};
use crate::core::settings::COLLECT_DEADLINE;
use crate::core::worker::collect::CollectReturn;
use crate::core::worker::kill::KillReturn;
use crate::core::worker::running::StartReturn;
use crate::log::write_note;
use crate::queue::{ContainerQueue, Placement, QueueError};
use crate::remote::Lane;
use crate::remote::runner::{FailedCommand, Runner};
use crate::remote::unpack::{UnpackLimits, Unpacked, unpack};

/// Room for writing and committing inside the core's deadline for a collection.
const COLLECT_RESERVE: Duration = Duration::from_secs(60);
/// Before a start that our own storage refused is given back.
const STORAGE_PAUSE: Duration = Duration::from_secs(1);
/// A worker that is short of something may cut an archive as well, so once is not enough: with the pauses between them this takes
/// some minutes.
pub const REFUSALS_MAX: u32 = 10;

/// How jobs are run, from the configuration.
#[derive(Clone, Debug)]
pub struct JobSettings {
    pub user: String,
    /// Of containers with an image.
    pub engine: String,
    pub engine_arguments: Vec<String>,
    pub limits: UnpackLimits,
    /// `StateDir/containers`.
    pub results: PathBuf,
}

/// What the threads use.
#[derive(Debug)]
pub struct Containers {
    pub door: Arc<PoolDoor>,
    pub workers: Arc<Workers>,
    pub queue: Arc<dyn ContainerQueue>,
    pub jobs: JobSettings,
    /// How often each result was refused; removed with its success, so there are at most as many as results that wait.
    pub refusals: Mutex<BTreeMap<(ContainerUuid, Attempt), u32>>,
}

fn note(level: Level, message: &'static str, order: &RunnerOrder) -> Note {
    Note::new(level, "container", message).with("ContainerUUID", &order.uuid).with("Instance", &order.instance)
}

impl Containers {
    /// Does one piece of work. Returns what follows it on the same worker, if anything, and how much of that may run at once there.
    pub fn carry_out(&self, work: &Work) -> Option<(Work, usize)> {
        let Some(worker) = self.workers.get(&work.order().instance) else {
            // Being shut down, or gone: the deadline in the core, or the sync, settles it.
            return None;
        };
        let runner = &worker.runner;
        match work {
            Work::Start(order) => self.start(runner, order),
            Work::Kill(order) => self.kill(runner, order),
            Work::Reap(order) => {
                let result = runner.reap(&order.uuid, order.attempt);
                if let Err(error) = &result {
                    write_note(&note(Level::Warn, "reaping failed", order).with("error", error.text()));
                }
                self.door.reap_returned(order, result.is_ok());
            }
            Work::Collect(order) => {
                return self.collect(runner, order).map(|more| (more, runner.executor.width(Lane::Action)));
            }
            Work::Forget(order) => self.forget(runner, order),
            Work::Discard(order) => {
                // Left behind it costs some disk there, nothing else.
                if let Err(error) = runner.forget(&order.uuid, order.attempt, false) {
                    let note = note(Level::Debug, "cannot remove a lost attempt's files there", order);
                    write_note(&note.with("error", error.text()));
                }
            }
        }
        None
    }

    fn start(&self, runner: &Runner, order: &RunnerOrder) {
        if !self.door.start_is_open(order) {
            // Too late, or a list has shown it already (a start that is repeated): nothing is sent.
            self.door.start_refused(order);
            return;
        }
        let Some(instance_type) = self.door.type_of(&order.instance) else {
            return;
        };
        let placement = Placement {
            instance: order.instance.clone(),
            instance_type,
            price: self.workers.price_now(&order.instance),
        };
        if !self.place_is_free(order) {
            self.door.start_refused(order);
            return;
        }
        let assignment = match self.queue.assign(&order.uuid, order.attempt, &placement) {
            Ok(assignment) => assignment,
            Err(error) => {
                // A state that changed meanwhile is no fault; storage trouble is.
                let level = if matches!(error, QueueError::WrongState { .. }) { Level::Debug } else { Level::Warn };
                write_note(&note(level, "container is not started", order).with("error", chain(&error)));
                if matches!(error, QueueError::Storage { .. } | QueueError::Busy) {
                    // The scheduler orders it again at once: a full disk must not become a busy loop.
                    std::thread::park_timeout(STORAGE_PAUSE);
                }
                self.door.start_refused(order);
                return;
            }
        };
        if !self.door.start_is_open(order) {
            self.door.start_refused(order);
            return;
        }
        let config = self.start_config(&assignment.container, order.attempt);
        let result = runner.start(&order.uuid, order.attempt, &config);
        // A refusal says nothing of an earlier start of the same attempt, which may be on its way since before a restart.
        let unknown = result.as_ref().is_err_and(|error| assignment.repeated || error.may_still_come());
        if let Err(error) = result {
            // The process might have started all the same: the next probe finds out.
            let note = note(Level::Error, "start command failed", order).with("error", error.text());
            write_note(&error.failed().into_iter().fold(note, FailedCommand::add_to));
        }
        reached(FaultPoint::StartSent);
        self.door.start_returned(order, if unknown { StartReturn::Unknown } else { StartReturn::Settled });
    }

    /// No result of another history is where that of a new attempt will be.
    fn place_is_free(&self, order: &RunnerOrder) -> bool {
        if self.queue.get(&order.uuid).is_none_or(|container| container.attempt >= order.attempt) {
            return true;
        }
        let place = result_dir(&self.jobs.results, &order.uuid, order.attempt);
        match set_aside(&place, super::clock::wall_now()) {
            Ok(None) => true,
            Ok(Some(aside)) => {
                let what = "an earlier result of this attempt's number, which the queue does not know, was set aside";
                write_note(
                    &note(Level::Warn, what, order).with("Attempt", order.attempt).with("Path", aside.display()),
                );
                true
            }
            Err(error) => {
                let what = "container is not started: a result that the queue does not know is in the place of its own";
                let note = note(Level::Warn, what, order).with("Path", place.display());
                write_note(&note.with("error", error));
                std::thread::park_timeout(STORAGE_PAUSE);
                false
            }
        }
    }

    fn start_config(&self, container: &Container, attempt: Attempt) -> StartConfig {
        let request = &container.request;
        // An image needs an engine, and only an image does.
        let (engine, engine_arguments) = match request.container_image.as_str() {
            "" => ("process", Vec::new()),
            _ => (self.jobs.engine.as_str(), self.jobs.engine_arguments.clone()),
        };
        let spec = ContainerSpec {
            uuid: container.uuid.to_string(),
            attempt,
            command: request.command.clone(),
            cwd: request.cwd.clone(),
            environment: request.environment.clone(),
            stdin: request.stdin.clone(),
            engine: engine.to_owned(),
            engine_arguments,
            image: request.container_image.clone(),
            array_index: request.array_index,
            limits: Limits {
                vcpus: request.vcpus,
                ram: request.ram,
                scratch: request.scratch,
                max_run_time_s: request.max_run_time.map(|limit| limit.as_secs_f64()),
                log_bytes: self.jobs.limits.log_bytes,
                output_bytes: self.jobs.limits.output_bytes,
            },
            outputs: request.outputs.clone(),
            user: self.jobs.user.clone(),
        };
        StartConfig { env: BTreeMap::new(), container: Some(spec) }
    }

    fn kill(&self, runner: &Runner, order: &RunnerOrder) {
        // Many may have waited in the lane of a host that did not answer: those that were ordered again meanwhile are not sent.
        if !self.door.kill_is_open(order) {
            return;
        }
        let answer = match runner.kill(&order.uuid, order.attempt) {
            Ok(true) => KillReturn::GoneAfterRun,
            Ok(false) => KillReturn::Gone,
            Err(error) => {
                write_note(&note(Level::Debug, "kill command failed", order).with("error", error.text()));
                KillReturn::Failed
            }
        };
        self.door.kill_returned(order, answer);
    }

    fn collect(&self, runner: &Runner, order: &RunnerOrder) -> Option<Work> {
        let answer = match self.fetch_and_finish(runner, order) {
            Ok(()) => CollectReturn::Done,
            Err(CollectError::Worker(error) | CollectError::Refused(error)) => {
                write_note(&note(Level::Warn, "collecting the result failed", order).with("error", error));
                CollectReturn::Failed
            }
            Err(CollectError::Storage(error, fault)) => {
                write_note(&note(Level::Error, "cannot store the result", order).with("error", error));
                CollectReturn::StorageFailed(fault)
            }
        };
        self.door.collect_returned(order, answer);
        (answer == CollectReturn::Done).then(|| Work::Forget(order.clone()))
    }

    fn fetch_and_finish(&self, runner: &Runner, order: &RunnerOrder) -> Result<(), CollectError> {
        let place = result_dir(&self.jobs.results, &order.uuid, order.attempt);
        // There already after a crash between the rename and the commit, or when only the forget had failed.
        if !place.join("result.json").exists() {
            self.fetch(runner, order, &place)?;
            reached(FaultPoint::ResultRenamed);
        } else {
            // The same crash may have kept it from being synced, and the fetches before it from being cleared away.
            settle(&place)?;
        }
        match self.queue.finish(&order.uuid, order.attempt, &place) {
            Ok(()) => self.log_finished(order),
            // Purged: nobody wants it any more.
            Err(QueueError::NotFound(_)) => remove_tree(&place)?,
            // The queue tells by itself what is wrong with its database.
            Err(error) => return Err(CollectError::Storage(chain(&error), None)),
        }
        reached(FaultPoint::ResultCommitted);
        Ok(())
    }

    /// The one line about the end of a container (spec 80 §4).
    fn log_finished(&self, order: &RunnerOrder) {
        let Some(container) = self.queue.get(&order.uuid) else {
            return;
        };
        let message = match (container.attempt == order.attempt, container.state.is_final()) {
            (false, _) => "late result kept; the container is not changed",
            (true, true) => "container finished",
            (true, false) => "attempt ended; the container waits for another",
        };
        let note = note(Level::Info, message, order).with("State", container.state).with("Attempt", order.attempt);
        let exit_code = container.exit_code.map(|code| code.to_string()).unwrap_or_default();
        let note = note.with("ExitCode", exit_code);
        let reason = &container.runtime_status.error;
        write_note(&if reason.is_empty() { note } else { note.with("Reason", reason) });
    }

    /// To a temporary directory, synced, renamed.
    fn fetch(&self, runner: &Runner, order: &RunnerOrder, place: &Path) -> Result<(), CollectError> {
        let temporary = temporary_dir(place, order.attempt, order.operation);
        remove_tree(&temporary)?;
        std::fs::create_dir_all(&temporary).map_err(|error| storage(&temporary, &error))?;
        let mut outcome = Ok(Unpacked { left_out: Vec::new(), outputs_too_large: false });
        let limits = self.jobs.limits;
        let limit = COLLECT_DEADLINE.saturating_sub(COLLECT_RESERVE);
        let fetched = runner.collect(&order.uuid, order.attempt, limit, &mut |from| {
            outcome = unpack(from, &temporary, limits);
            match &outcome {
                Ok(unpacked) if unpacked.outputs_too_large => Err(io::Error::other("its outputs are too large")),
                Ok(_) => Ok(()),
                Err(error) => Err(io::Error::other(error.to_string())),
            }
        });
        let checked = check_fetched(fetched, outcome, &temporary).and_then(|unpacked| {
            if unpacked.outputs_too_large {
                note_too_large(&temporary, limits)?;
            }
            Ok(unpacked.left_out)
        });
        match checked {
            Ok(left_out) if left_out.is_empty() => {}
            Ok(left_out) => {
                let what = "a part of the result was left out: no plain files, or names that cannot be here";
                write_note(&note(Level::Warn, what, order).with("Names", left_out.join(" ")));
            }
            Err(error) => {
                let _ = std::fs::remove_dir_all(&temporary);
                return match error {
                    CollectError::Refused(why) => self.refused(order, &why, place),
                    other => Err(other),
                };
            }
        }
        self.refusals.lock().remove(&(order.uuid.clone(), order.attempt));
        put_in_place(&temporary, place).inspect_err(|_| drop(remove_tree(&temporary)))
    }

    /// A result that is refused again and again would keep its container for ever: after [`REFUSALS_MAX`] times the refusal itself
    /// becomes the result, which costs the container an attempt (70 §3, `engine error`).
    fn refused(&self, order: &RunnerOrder, why: &str, place: &Path) -> Result<(), CollectError> {
        let key = (order.uuid.clone(), order.attempt);
        let times = {
            let mut refusals = self.refusals.lock();
            let times = refusals.entry(key.clone()).or_default();
            *times += 1;
            *times
        };
        if times < REFUSALS_MAX {
            return Err(CollectError::Worker(why.to_owned()));
        }
        let now = super::clock::wall_now();
        let result = ResultRecord {
            uuid: order.uuid.to_string(),
            attempt: order.attempt,
            reason: Reason::EngineError,
            exit_code: None,
            signal: None,
            started_at: now,
            finished_at: now,
            peak_memory: None,
            cpu_seconds: None,
            detail: format!("its result was refused {times} times: {why}"),
            stdout_bytes: 0,
            stderr_bytes: 0,
            outputs: Vec::new(),
            skipped: Vec::new(),
            outputs_too_large: false,
        };
        let temporary = temporary_dir(place, order.attempt, order.operation);
        std::fs::create_dir_all(&temporary).map_err(|error| storage(&temporary, &error))?;
        write_record(&temporary, &result)?;
        put_in_place(&temporary, place)?;
        self.refusals.lock().remove(&key);
        Ok(())
    }

    fn forget(&self, runner: &Runner, order: &RunnerOrder) {
        reached(FaultPoint::BeforeForget);
        // What was not brought back stays there, as long as the instance lives (spec 70 §4).
        let keep = outputs_stay(&result_dir(&self.jobs.results, &order.uuid, order.attempt));
        match runner.forget(&order.uuid, order.attempt, keep) {
            Ok(()) => self.door.forget_returned(order),
            Err(error) => {
                // Not answered: after the operation's deadline a list shows it again, and it is collected and forgotten again. An
                // answer now would make that a busy loop.
                let note = note(Level::Warn, "cannot remove the collected result there", order);
                write_note(&note.with("error", error.text()));
            }
        }
    }
}
