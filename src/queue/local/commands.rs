//! What users and operators ask of the local queue, beyond the scheduler's operations (spec 70 §3, 80 §1).
//!
//! Runs in the caller's thread; changes are handed to the writer thread.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::maintenance;
use super::memory::CachedSelector;
use super::reading::{self, batch_lines};
use super::record::parse_record;
use super::submission::{New, Submission, known_token, random_text};
use super::types::{CancelOutcome, CommandError, Detail, FieldError, ListFilter, Page, Selector, StateOf};
use super::validate::validate;
use super::writer::{Done, Write};
use super::{LocalQueue, MAX_PIECE};
use crate::core::container::ContainerRequest;
use crate::core::ids::{Attempt, ContainerUuid};
use crate::core::time::WallMillis;
use crate::core::vocabulary::ContainerState;
use crate::queue::QueueError;

/// A batch vanishes this long after its last piece (spec 70 §3).
const BATCH_MILLIS: WallMillis = 10 * 60 * 1000;
/// Most bytes of a client token.
const MAX_TOKEN: usize = 200;

impl LocalQueue {
    /// `max_attempts` of a record that does not say: for [`parse_record`].
    pub fn default_max_attempts(&self) -> u32 {
        self.default_max_attempts
    }

    /// Replaces the selector after a reload and evaluates every waiting container anew, as [`LocalQueue::open`] does. On failure the
    /// new selector holds for submissions; call it again for the others.
    pub fn set_selector(&self, selector: Selector) -> Result<(), QueueError> {
        self.shared.replace_selector(selector);
        self.transition(Write::Reselect).map(drop)
    }

    /// Stores new containers, all or none, in the order given. The same `token` (not empty, at most 200 bytes) again gives the
    /// uuids of the first time, also after a restart, and stores nothing.
    pub fn submit(
        &self,
        requests: impl IntoIterator<Item = ContainerRequest>,
        token: Option<&str>,
    ) -> Result<Vec<ContainerUuid>, CommandError> {
        // What was accepted once is not refused the second time, whatever a reload has changed since.
        if let Some(uuids) = self.stored(token)? {
            return Ok(uuids);
        }
        let mut intake = self.intake();
        let mut requests = (1..).zip(requests).peekable();
        let mut several = false;
        while let Some((line, request)) = requests.next() {
            several |= requests.peek().is_some();
            // An array is one record for its user, so its elements have no numbers.
            intake.add((several && request.array_index.is_none()).then_some(line), request)?;
        }
        self.store(intake, token, None)
    }

    fn intake(&self) -> Intake<'_> {
        let (selector_version, selector) = self.shared.selector();
        Intake { queue: self, selector_version, selector: CachedSelector::new(selector), checked: Vec::new() }
    }

    /// What was stored under this token.
    fn stored(&self, token: Option<&str>) -> Result<Option<Vec<ContainerUuid>>, CommandError> {
        check_token(token)?;
        let Some(token) = token else { return Ok(None) };
        Ok(self.readers.with("look up a token", |connection| known_token(connection, token))?)
    }

    fn store(
        &self,
        intake: Intake<'_>,
        token: Option<&str>,
        batch: Option<(String, i64)>,
    ) -> Result<Vec<ContainerUuid>, CommandError> {
        if intake.checked.is_empty() {
            return Err(CommandError::Invalid { line: None, field: FieldError::new("record", "nothing to submit") });
        }
        let submission = Submission {
            cluster_id: self.cluster_id.clone(),
            max_queued: self.max_queued,
            requests: intake.checked,
            selector_version: intake.selector_version,
            token: token.map(str::to_owned),
            batch,
        };
        match self.write(Write::Submit(submission))? {
            Done::Submitted(uuids) => Ok(uuids),
            other => unreachable!("the writer answers a submission with uuids, not {other:?}"),
        }
    }

    /// Begins a batch; it vanishes 10 minutes after its last piece unless committed. Nothing of it is visible before.
    pub fn create_batch(&self) -> Result<String, CommandError> {
        let batch = random_text::<25>()?;
        self.write(Write::CreateBatch(batch.clone()))?;
        Ok(batch)
    }

    /// Adds a piece of JSON lines (at most [`MAX_PIECE`] bytes). Pieces are joined as they are: a line may cross them.
    /// Gives the number of lines so far, empty ones and one without its end included.
    pub fn append_batch(&self, batch: &str, piece: impl Into<Vec<u8>>) -> Result<usize, CommandError> {
        let piece = piece.into();
        // One more for the end of a line, which the API adds to a piece without.
        if piece.len() > MAX_PIECE + 1 {
            let text = format!("a piece of a batch may have {MAX_PIECE} bytes, this one has {}: split it", piece.len());
            return Err(CommandError::TooLarge(text));
        }
        self.count(Write::AppendBatch(batch.to_owned(), piece))
    }

    /// Submits a batch, all or none. Empty lines are skipped; errors carry the line number. Repeating it with its token is safe.
    pub fn commit_batch(&self, batch: &str, token: Option<&str>) -> Result<Vec<ContainerUuid>, CommandError> {
        // The batch is gone when its commit is repeated.
        if let Some(uuids) = self.stored(token)? {
            return Ok(uuids);
        }
        let mut intake = self.intake();
        let bytes = self.readers.with("read a batch", |connection| {
            batch_lines(connection, batch, |line, text| {
                if !text.trim_ascii().is_empty() {
                    let invalid = |field| CommandError::Invalid { line: Some(line), field };
                    let request = parse_record(text, self.default_max_attempts).map_err(invalid)?;
                    intake.add(Some(line), request)?;
                }
                Ok(())
            })
        })?;
        let bytes = bytes.ok_or_else(|| CommandError::NoSuchBatch(batch.to_owned()))??;
        self.store(intake, token, Some((batch.to_owned(), bytes)))
    }

    /// Drops batches without a new piece for 10 minutes; the number of them. To be called about every minute.
    pub fn expire_batches(&self) -> Result<usize, CommandError> {
        let before = (self.shared.wall)() - BATCH_MILLIS;
        self.count(Write::ExpireBatches(before))
    }

    fn count(&self, write: Write) -> Result<usize, CommandError> {
        match self.write(write)? {
            Done::Count(count) => Ok(count),
            other => unreachable!("the writer answers with a number, not {other:?}"),
        }
    }

    /// Containers, newest first.
    pub fn list(&self, filter: &ListFilter) -> Result<Page, CommandError> {
        self.readers.list(filter)
    }

    /// The uuids of all that are in this state, have a matching name and, if so asked, are not final; oldest first.
    pub fn matching(
        &self,
        state: Option<ContainerState>,
        name_glob: Option<&str>,
        unfinished_only: bool,
    ) -> Result<Vec<ContainerUuid>, CommandError> {
        self.readers.matching(state, name_glob, unfinished_only)
    }

    /// How many containers there are in each state (every state is present). Does no I/O.
    pub fn counts_by_state(&self) -> BTreeMap<ContainerState, usize> {
        self.shared.memory.lock().counts()
    }

    /// One container with its attempts and history; `None` if there is none (any more).
    pub fn show(&self, uuid: &ContainerUuid) -> Result<Option<Detail>, CommandError> {
        Ok(self.readers.show(uuid)?)
    }

    /// State and exit code of each, in the order asked.
    pub fn states(&self, uuids: &[ContainerUuid]) -> Result<Vec<(ContainerUuid, StateOf)>, CommandError> {
        Ok(self.readers.states(uuids)?)
    }

    /// Cancels at a user's wish: Queued → Cancelled at once, else it is marked for the scheduler to kill. `WrongState` when final.
    pub fn request_cancel(&self, uuid: &ContainerUuid) -> Result<CancelOutcome, CommandError> {
        cancelled(self.write(Write::RequestCancel(uuid.clone())))
    }

    /// The same for many, in fewer transactions; the answers are in the order of the uuids.
    pub fn request_cancels(&self, uuids: &[ContainerUuid]) -> Vec<Result<CancelOutcome, CommandError>> {
        let writes = uuids.iter().map(|uuid| Write::RequestCancel(uuid.clone()));
        self.write_all(writes).into_iter().map(cancelled).collect()
    }

    /// Changes the priority, 0–1000, 0 = hold. `Refused` with a hint when it runs, is being cancelled, or was on hold and fits no
    /// configured type any more; `WrongState` when final.
    pub fn set_priority(&self, uuid: &ContainerUuid, priority: i64) -> Result<(), CommandError> {
        self.write(Write::SetPriority(uuid.clone(), priority)).map(drop)
    }

    /// The same for many, in fewer transactions; the answers are in the order of the uuids.
    pub fn set_priorities(&self, uuids: &[ContainerUuid], priority: i64) -> Vec<Result<(), CommandError>> {
        let writes = uuids.iter().map(|uuid| Write::SetPriority(uuid.clone(), priority));
        self.write_all(writes).into_iter().map(|done| done.map(drop)).collect()
    }

    /// Submits the same request again; its uuid. `after` keeps only the containers that still exist.
    pub fn rerun(&self, uuid: &ContainerUuid) -> Result<ContainerUuid, CommandError> {
        let request = self.readers.with("read a container", |connection| {
            let Some((_, container)) = reading::find(connection, uuid)? else { return Ok(None) };
            let mut request = ContainerRequest::clone(&container.request);
            let mut existing = Vec::with_capacity(request.after.len());
            for predecessor in request.after {
                if reading::find(connection, &predecessor)?.is_some() {
                    existing.push(predecessor);
                }
            }
            request.after = existing;
            Ok(Some(request))
        })?;
        let request = request.ok_or_else(|| QueueError::NotFound(uuid.clone()))?;
        let mut intake = self.intake();
        intake.add(None, request)?;
        let uuids = self.store(intake, None, None)?;
        uuids.into_iter().next().ok_or_else(|| QueueError::NotFound(uuid.clone()).into())
    }

    /// An operator asked to kill this container's present attempt: a result `killed` then means Cancelled, not a lost attempt.
    /// Call it before the kill is sent. No effect when nothing of it may be running.
    pub fn note_kill(&self, uuid: &ContainerUuid) -> Result<(), QueueError> {
        self.transition(Write::NoteKill(uuid.clone())).map(drop)
    }

    /// `StateDir/containers/UUID/ATTEMPT`. Makes nothing.
    pub fn result_dir(&self, uuid: &ContainerUuid, attempt: Attempt) -> PathBuf {
        self.container_dir(uuid).join(attempt.to_string())
    }

    fn container_dir(&self, uuid: &ContainerUuid) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join("containers").join(uuid.as_str())
    }

    /// Removes containers that finished before this time, with their files; the number of them. May take long: not for a thread
    /// that serves others. What cannot be removed stays for the next time: the first such failure is the answer.
    pub fn purge(&self, before: WallMillis) -> Result<usize, CommandError> {
        let mut count = 0;
        let mut failure = None;
        loop {
            let mut uuids =
                self.readers.with("find old containers", |connection| maintenance::purgeable(connection, before))?;
            uuids.retain(|uuid| {
                let removed = maintenance::remove_results(&self.container_dir(uuid));
                removed.map_err(|error| failure.get_or_insert(error)).is_ok()
            });
            let purged = if uuids.is_empty() { 0 } else { self.count(Write::Purge(uuids))? };
            count += purged;
            if purged == 0 {
                let Some(error) = failure else { return Ok(count) };
                return Err(QueueError::Storage { operation: "remove old results", source: Box::new(error) }.into());
            }
        }
    }

    /// Writes a consistent copy to a file that must not exist yet (mode 0600), while the queue goes on.
    pub fn backup(&self, path: &Path) -> Result<(), CommandError> {
        let copied = self.readers.with("read the queue", |connection| Ok(maintenance::backup(connection, path)))?;
        copied.map_err(|source| CommandError::Backup { path: path.to_owned(), source })
    }
}

/// Requests of one submission on their way in, each checked and brought into the form in which the snapshot keeps it: a large
/// submission is in memory once.
struct Intake<'q> {
    queue: &'q LocalQueue,
    selector: CachedSelector,
    selector_version: u64,
    checked: Vec<New>,
}

impl Intake<'_> {
    fn add(&mut self, line: Option<usize>, request: ContainerRequest) -> Result<(), CommandError> {
        let (adding, limit) = (self.checked.len() + 1, self.queue.max_queued);
        if adding > limit {
            return Err(CommandError::TooMany { adding, waiting: 0, limit });
        }
        let invalid = |field| CommandError::Invalid { line, field };
        validate(&request, self.queue.images_allowed).map_err(invalid)?;
        let request = Arc::new(request);
        let fit = self.selector.select(&request);
        let fit = fit.map_err(|why| invalid(FieldError::new("runtime_constraints", why)))?;
        self.checked.push(New { line, request, fit });
        Ok(())
    }
}

fn check_token(token: Option<&str>) -> Result<(), CommandError> {
    match token {
        Some(token) if token.is_empty() || token.len() > MAX_TOKEN => {
            let field = FieldError::new("token", format!("not from 1 to {MAX_TOKEN} bytes long"));
            Err(CommandError::Invalid { line: None, field })
        }
        _ => Ok(()),
    }
}

fn cancelled(done: Result<Done, CommandError>) -> Result<CancelOutcome, CommandError> {
    match done? {
        Done::Cancel(outcome) => Ok(outcome),
        other => unreachable!("the writer answers a cancel with its outcome, not {other:?}"),
    }
}
