//! The thread `queue-writer`: the only one that writes the database.
//!
//! Callers hand in a [`Write`] over a bounded channel and wait for their own answer. Whatever has gathered while the last commit
//! was being synced becomes one transaction: a step in its own savepoint, so that one that is refused leaves no trace and does
//! not spoil the others; then one commit, then the snapshot, then the answers. The thread ends when the channel's senders are gone.

use crossbeam_channel::{Receiver, Sender, bounded};
use rusqlite::{Connection, params};

use crate::core::effect::{Level, Note};
use crate::core::ids::{Attempt, ContainerUuid};
use crate::core::time::WallMillis;
use crate::core::vocabulary::ContainerState;
use crate::log::write_note;
use crate::queue::{Assignment, LostReason, Placement, QueueError};

use super::memory::Shared;
use super::result::AttemptResult;
use super::schema::is_damage;
use super::step::{Step, StepError, StepResult};
use super::submission::Submission;
use super::types::{CancelOutcome, CommandError};

/// Requests that wait for the writer before callers are held up.
const WAITING: usize = 256;
/// Most steps of one transaction: bounds what the first of them waits for.
const MAX_GROUP: usize = 256;

/// Everything that the writer can be asked for.
#[derive(Debug)]
pub(super) enum Write {
    Lock(ContainerUuid),
    Unlock(ContainerUuid),
    Cancel(ContainerUuid, String),
    Assign {
        uuid: ContainerUuid,
        attempt: Attempt,
        placement: Placement,
    },
    SeenRunning(ContainerUuid, Attempt),
    Finish(ContainerUuid, Attempt, AttemptResult),
    AttemptLost(ContainerUuid, Attempt, LostReason),
    NoteKill(ContainerUuid),
    RequestCancel(ContainerUuid),
    SetPriority(ContainerUuid, i64),
    Submit(Submission),
    CreateBatch(String),
    AppendBatch(String, Vec<u8>),
    /// Drops batches that were last touched before this.
    ExpireBatches(WallMillis),
    Purge(Vec<ContainerUuid>),
    Reselect,
    /// Writes one row, to find out whether that works again.
    Probe,
    #[cfg(test)]
    Pragma(&'static str),
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Done {
    Changed,
    Assigned(Box<Assignment>),
    Cancel(CancelOutcome),
    Submitted(Vec<ContainerUuid>),
    Count(usize),
}

impl Write {
    /// Fits after "failed to".
    const fn operation(&self) -> &'static str {
        match self {
            Self::Lock(_) => "lock a container",
            Self::Unlock(_) => "unlock a container",
            Self::Cancel(..) | Self::RequestCancel(_) => "cancel a container",
            Self::Assign { .. } => "assign a container",
            Self::SeenRunning(..) => "record that a container runs",
            Self::Finish(..) => "record a result",
            Self::AttemptLost(..) => "record a lost attempt",
            Self::NoteKill(_) => "record a kill",
            Self::SetPriority(..) => "change a priority",
            Self::Submit(_) => "store a submission",
            Self::CreateBatch(_) | Self::AppendBatch(..) | Self::ExpireBatches(_) => "store a batch",
            Self::Purge(_) => "purge containers",
            Self::Reselect => "choose instance types anew",
            Self::Probe => "write",
            #[cfg(test)]
            Self::Pragma(_) => "set a pragma",
        }
    }
}

/// A request and where its answer goes.
#[derive(Debug)]
pub(super) struct Job {
    write: Write,
    answer: Sender<Result<Done, CommandError>>,
}

impl Job {
    /// With the place where its answer will be.
    pub(super) fn new(write: Write) -> (Self, Receiver<Result<Done, CommandError>>) {
        let (answer, answered) = bounded(1);
        (Self { write, answer }, answered)
    }
}

pub(super) fn channel() -> (Sender<Job>, Receiver<Job>) {
    bounded(WAITING)
}

fn gone(operation: &'static str) -> CommandError {
    CommandError::Queue(QueueError::Storage { operation, source: "the queue's writer has ended".into() })
}

/// Has it done, and waits for the commit.
pub(super) fn ask(jobs: &Sender<Job>, write: Write) -> Result<Done, CommandError> {
    let operation = write.operation();
    let (job, answer) = Job::new(write);
    jobs.send(job).map_err(|_| gone(operation))?;
    answer.recv().map_err(|_| gone(operation))?
}

/// Has them done, many in one transaction as they fit in, and waits for all; the answers come in the order of the requests. Others get
/// their turn in between.
pub(super) fn ask_all(jobs: &Sender<Job>, writes: impl Iterator<Item = Write>) -> Vec<Result<Done, CommandError>> {
    let mut answers = Vec::new();
    let mut asked = std::collections::VecDeque::new();
    let await_one = |(operation, answer): (_, Receiver<_>)| answer.recv().unwrap_or_else(|_| Err(gone(operation)));
    for write in writes {
        let operation = write.operation();
        let (job, answer) = Job::new(write);
        // Refused only if the writer has ended: the answer says so, for then it never comes.
        let _ = jobs.send(job);
        asked.push_back((operation, answer));
        if asked.len() >= MAX_GROUP {
            answers.extend(asked.pop_front().map(await_one));
        }
    }
    answers.extend(asked.into_iter().map(await_one));
    answers
}

/// Body of the thread.
pub(super) fn run(connection: &Connection, jobs: &Receiver<Job>, shared: &Shared) {
    while let Ok(first) = jobs.recv() {
        let mut group = vec![first];
        group.extend(jobs.try_iter().take(MAX_GROUP - 1));
        write_group(connection, shared, group);
    }
}

fn write_group(connection: &Connection, shared: &Shared, group: Vec<Job>) {
    let mut operations = Vec::with_capacity(group.len());
    let mut callers = Vec::with_capacity(group.len());
    let mut writes = Vec::with_capacity(group.len());
    for Job { write, answer } in group {
        operations.push(write.operation());
        callers.push(answer);
        writes.push(write);
    }
    let mut step = Step {
        connection,
        shared,
        now: (shared.wall)(),
        changes: Vec::new(),
        fits: Vec::new(),
        purged: Vec::new(),
        cancelled: Vec::new(),
        queued: shared.memory.lock().count(ContainerState::Queued),
    };
    let mut results: Vec<StepResult<Done>> = Vec::with_capacity(writes.len());
    let changes_before = connection.total_changes();
    let failure = transact(&mut step, writes, &mut results).err();
    let storage_failed = failure.is_some() || results.iter().any(|result| matches!(result, Err(StepError::Sqlite(_))));
    // A group that wrote nothing shows nothing.
    let wrote = !storage_failed && connection.total_changes() != changes_before && results.iter().any(Result::is_ok);
    note_trouble(shared, failure.as_ref(), &results);
    if failure.is_none() {
        publish(shared, step, wrote);
    }
    let failure = failure.map(|error| error.to_string());
    let mut results = results.into_iter();
    for (operation, caller) in operations.into_iter().zip(callers) {
        let answer = match (results.next(), &failure) {
            (Some(Err(StepError::Sqlite(error))), _) => Err(storage(operation, error)),
            // A refusal too may rest on a step before it that is lost now.
            (_, Some(failure)) => Err(storage(operation, failure.clone())),
            (Some(Err(StepError::Command(error))), None) => Err(error),
            (Some(Ok(done)), None) => Ok(done),
            (None, None) => Err(storage(operation, "it was not carried out")),
        };
        // A caller that has gone does not need its answer.
        let _ = caller.send(answer);
    }
}

fn storage(operation: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> CommandError {
    CommandError::Queue(QueueError::Storage { operation, source: source.into() })
}

/// All steps in one transaction. On failure nothing of any of them is kept.
fn transact(step: &mut Step<'_>, writes: Vec<Write>, results: &mut Vec<StepResult<Done>>) -> rusqlite::Result<()> {
    let connection = step.connection;
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let outcome = (|| {
        for write in writes {
            results.push(guarded(step, write)?);
        }
        connection.prepare_cached("COMMIT")?.execute([]).map(drop)
    })();
    if outcome.is_err() && !connection.is_autocommit() {
        // SQLite has rolled back by itself after some errors; if this fails too, the next BEGIN says so.
        let _ = connection.execute_batch("ROLLBACK");
    }
    outcome
}

/// One step in its savepoint. The outer error means that the whole transaction is lost.
fn guarded(step: &mut Step<'_>, write: Write) -> rusqlite::Result<StepResult<Done>> {
    let connection = step.connection;
    connection.prepare_cached("SAVEPOINT step")?.execute([])?;
    let before = (step.changes.len(), step.fits.len(), step.purged.len(), step.queued, step.cancelled.len());
    let result = step.perform(write);
    match result {
        Ok(_) => {}
        // A full disk or an I/O error can end the transaction as a whole.
        Err(StepError::Sqlite(error)) if connection.is_autocommit() => return Err(error),
        Err(_) => {
            connection.prepare_cached("ROLLBACK TO step")?.execute([])?;
            step.changes.truncate(before.0);
            step.fits.truncate(before.1);
            step.purged.truncate(before.2);
            step.queued = before.3;
            step.cancelled.truncate(before.4);
        }
    }
    connection.prepare_cached("RELEASE step")?.execute([])?;
    Ok(result)
}

fn publish(shared: &Shared, step: Step<'_>, wrote: bool) {
    let mut memory = shared.memory.lock();
    memory.publish(step.changes);
    if !step.fits.is_empty() {
        memory.refit(step.fits);
    }
    for (uuid, state) in &step.purged {
        memory.purged(uuid, *state);
    }
    drop(memory);
    for (uuid, why) in &step.cancelled {
        let note = Note::new(Level::Info, "queue", "container cancelled").with("ContainerUUID", uuid);
        write_note(&note.with("State", ContainerState::Cancelled).with("Reason", why));
    }
    if wrote && shared.trouble.lock().take().is_some() {
        log::info!("the queue can be written again");
        shared.memory.lock().notify();
    }
}

/// The first failure of the storage is logged, and shown until a write succeeds.
fn note_trouble(shared: &Shared, failure: Option<&rusqlite::Error>, results: &[StepResult<Done>]) {
    let in_step = results.iter().find_map(|result| match result {
        Err(StepError::Sqlite(error)) => Some(error),
        _ => None,
    });
    let Some(error) = failure.or(in_step) else { return };
    let text = if is_damage(error) {
        format!("the queue's database is damaged ({error}): stop the daemon and restore a backup")
    } else {
        format!("the queue cannot be written: {error}")
    };
    let mut trouble = shared.trouble.lock();
    if trouble.as_ref() != Some(&text) {
        log::error!("{text}");
        *trouble = Some(text);
    }
}

impl Step<'_> {
    fn perform(&mut self, write: Write) -> StepResult<Done> {
        match write {
            Write::Lock(uuid) => self.lock(&uuid)?,
            Write::Unlock(uuid) => self.unlock(&uuid)?,
            Write::Cancel(uuid, why) => self.cancel(&uuid, &why)?,
            Write::Assign { uuid, attempt, placement } => {
                let assignment = self.assign(&uuid, attempt, &placement)?;
                return Ok(Done::Assigned(Box::new(assignment)));
            }
            Write::SeenRunning(uuid, attempt) => self.seen_running(&uuid, attempt)?,
            Write::Finish(uuid, attempt, result) => self.finish(&uuid, attempt, &result)?,
            Write::AttemptLost(uuid, attempt, reason) => self.attempt_lost(&uuid, attempt, reason)?,
            Write::NoteKill(uuid) => self.note_kill(&uuid)?,
            Write::RequestCancel(uuid) => return self.request_cancel(&uuid).map(Done::Cancel),
            Write::SetPriority(uuid, priority) => self.set_priority(&uuid, priority)?,
            Write::Submit(submission) => return self.submit(submission).map(Done::Submitted),
            Write::CreateBatch(batch) => self.create_batch(&batch)?,
            Write::AppendBatch(batch, piece) => return self.append_batch(&batch, &piece).map(Done::Count),
            Write::ExpireBatches(before) => return self.expire_batches(before).map(Done::Count),
            Write::Purge(uuids) => return self.purge(&uuids).map(Done::Count),
            Write::Reselect => self.reselect()?,
            Write::Probe => {
                self.connection.prepare_cached("UPDATE probe SET time = ?1")?.execute(params![self.now])?;
            }
            #[cfg(test)]
            Write::Pragma(pragma) => self.connection.execute_batch(&format!("PRAGMA {pragma}"))?,
        }
        Ok(Done::Changed)
    }
}
