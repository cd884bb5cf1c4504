//! Storing new containers: one transaction, all or none (spec 70 §3), by submission or as a batch that grew in pieces.
//!
//! Checking, choosing types and parsing happen in the caller's thread; the steps here run in the writer's.

use std::sync::Arc;

use rusqlite::{OptionalExtension, params};

use crate::core::container::{ContainerRequest, RuntimeStatus};
use crate::core::ids::ContainerUuid;
use crate::core::lifecycle::Lifecycle;
use crate::core::time::WallMillis;
use crate::core::versioned::Versioned;
use crate::core::vocabulary::ContainerState::{Cancelled, Queued};
use crate::queue::QueueError;

use super::memory::{CachedSelector, Change, Fit, new_entry};
use super::record;
use super::rows::Row;
use super::step::{Step, StepError, StepResult};
use super::types::{CommandError, FieldError};

/// Most bytes of all pieces of a batch.
pub(super) const MAX_BATCH: i64 = 1024 * 1024 * 1024;
/// Most batches under way.
const MAX_BATCHES: i64 = 1000;

/// A checked request.
#[derive(Debug)]
pub(super) struct New {
    /// Its line in the submission, if there are several.
    pub(super) line: Option<usize>,
    pub(super) request: Arc<ContainerRequest>,
    pub(super) fit: Fit,
}

#[derive(Debug)]
pub(super) struct Submission {
    pub(super) cluster_id: String,
    pub(super) max_queued: usize,
    pub(super) requests: Vec<New>,
    /// Of the selector that computed the types.
    pub(super) selector_version: u64,
    pub(super) token: Option<String>,
    /// The batch that it was, and its number of bytes.
    pub(super) batch: Option<(String, i64)>,
}

impl Step<'_> {
    pub(super) fn submit(&mut self, mut submission: Submission) -> StepResult<Vec<ContainerUuid>> {
        if let Some(token) = &submission.token
            && let Some(uuids) = known_token(self.connection, token)?
        {
            return Ok(uuids);
        }
        self.take_batch(&submission)?;
        self.refit(&mut submission)?;
        let (adding, waiting, limit) = (submission.requests.len(), self.queued, submission.max_queued);
        if waiting.saturating_add(adding) > limit {
            return Err(CommandError::TooMany { adding, waiting, limit }.into());
        }
        let mut uuids = Vec::with_capacity(adding);
        self.changes.reserve(adding);
        let mut ids = (0, 0);
        for new in submission.requests {
            let uuid = new_uuid(&submission.cluster_id)?;
            ids.1 = self.insert(&uuid, new)?;
            ids.0 = if uuids.is_empty() { ids.1 } else { ids.0 };
            uuids.push(uuid);
        }
        if let Some(token) = &submission.token {
            let lines = uuids.iter().map(ContainerUuid::as_str).collect::<Vec<_>>().join("\n");
            let sql = "INSERT INTO tokens (token, uuids, first_id, last_id) VALUES (?1, ?2, ?3, ?4)";
            self.connection.prepare_cached(sql)?.execute(params![token, lines, ids.0, ids.1])?;
        }
        Ok(uuids)
    }

    /// The configuration may have been reloaded since the caller chose the types.
    fn refit(&self, submission: &mut Submission) -> StepResult<()> {
        let (version, selector) = self.shared.selector();
        if version == submission.selector_version {
            return Ok(());
        }
        let mut selector = CachedSelector::new(selector);
        for new in &mut submission.requests {
            new.fit = selector.select(&new.request).map_err(|why| invalid(new.line, "runtime_constraints", why))?;
        }
        Ok(())
    }

    fn insert(&mut self, uuid: &ContainerUuid, new: New) -> StepResult<i64> {
        let New { line, request, fit } = new;
        let (waiting, failed) = self.predecessors(&request, line)?;
        self.cancelled.extend(failed.clone().map(|why| (uuid.clone(), why)));
        let row = Row {
            id: 0,
            uuid: uuid.clone(),
            life: Lifecycle {
                state: if failed.is_some() { Cancelled } else { Queued },
                priority: request.priority,
                max_attempts: request.max_attempts,
                attempt: 0,
                instance: None,
                instance_type: None,
                cancel_requested: false,
                kill_asked: 0,
                waiting: i64::try_from(waiting.len()).unwrap_or(i64::MAX),
            },
            created_at: self.now,
            started_at: None,
            finished_at: failed.is_some().then_some(self.now),
            exit_code: None,
            status: RuntimeStatus { error: failed.clone().unwrap_or_default(), ..RuntimeStatus::default() },
            cost: 0.0,
        };
        let id = self.insert_row(&row, &request)?;
        let row = Row { id, ..row };
        for predecessor in waiting {
            let sql = "INSERT INTO followers (predecessor, follower) VALUES (?1, ?2)";
            self.connection.prepare_cached(sql)?.execute([predecessor, id])?;
        }
        match failed {
            Some(why) => self.history(&row, "cancelled", &why)?,
            None => self.queued += 1,
        }
        self.changes.push(Change::New(Versioned::new(new_entry(&row, request, fit))));
        Ok(id)
    }

    fn insert_row(&self, row: &Row, request: &ContainerRequest) -> StepResult<i64> {
        let sql = "INSERT INTO containers (uuid, name, request, state, priority, max_attempts, created_at, finished_at, error, \
                   waiting) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
        self.connection.prepare_cached(sql)?.execute(params![
            row.uuid.as_str(),
            request.name,
            record::to_value(request).to_string(),
            row.life.state.as_str(),
            row.life.priority,
            row.life.max_attempts,
            row.created_at,
            row.finished_at,
            row.status.error,
            row.life.waiting,
        ])?;
        Ok(self.connection.last_insert_rowid())
    }

    /// The predecessors that are not final yet (each once), and what is wrong if one has failed already.
    fn predecessors(&self, request: &ContainerRequest, line: Option<usize>) -> StepResult<(Vec<i64>, Option<String>)> {
        let mut waiting = Vec::new();
        let mut failed = None;
        for uuid in &request.after {
            let Some(predecessor) = Row::find(self.connection, uuid)? else {
                return Err(invalid(line, "after", format!("there is no container {uuid}")));
            };
            if !predecessor.life.state.is_final() {
                waiting.push(predecessor.id);
            } else {
                failed = failed.or_else(|| predecessor.failure());
            }
        }
        waiting.sort_unstable();
        waiting.dedup();
        if failed.is_some() {
            waiting.clear();
        }
        Ok((waiting, failed))
    }

    pub(super) fn create_batch(&self, batch: &str) -> StepResult<()> {
        let under_way: i64 = self.connection.query_row("SELECT count(*) FROM batches", [], |row| row.get(0))?;
        if under_way >= MAX_BATCHES {
            let text =
                format!("{MAX_BATCHES} batches are under way already: commit one, or wait until one has vanished");
            return Err(CommandError::TooLarge(text).into());
        }
        let sql = "INSERT INTO batches (batch, touched_at, bytes, lines) VALUES (?1, ?2, 0, 0)";
        self.connection.prepare_cached(sql)?.execute(params![batch, self.now])?;
        Ok(())
    }

    /// How many lines the batch has then, an unfinished one at its end included.
    pub(super) fn append_batch(&self, batch: &str, piece: &[u8]) -> StepResult<usize> {
        let sql = "UPDATE batches SET touched_at = ?2, bytes = bytes + ?3, lines = lines + ?4 WHERE batch = ?1 \
                   RETURNING bytes, lines";
        let ends = piece.iter().filter(|byte| **byte == b'\n').count();
        let [bytes, ends] = [piece.len(), ends].map(|count| i64::try_from(count).unwrap_or(i64::MAX));
        let mut statement = self.connection.prepare_cached(sql)?;
        let sums = statement.query_row(params![batch, self.now, bytes, ends], |row| Ok((row.get(0)?, row.get(1)?)));
        let Some((bytes, lines)): Option<(i64, i64)> = sums.optional()? else {
            return Err(CommandError::NoSuchBatch(batch.to_owned()).into());
        };
        if bytes > MAX_BATCH {
            return Err(CommandError::TooLarge(format!("a batch may have {MAX_BATCH} bytes: split it")).into());
        }
        self.connection
            .prepare_cached("INSERT INTO pieces (batch, body) VALUES (?1, ?2)")?
            .execute(params![batch, piece])?;
        let is_unfinished = piece.last().is_some_and(|byte| *byte != b'\n');
        Ok(usize::try_from(lines).unwrap_or(0) + usize::from(is_unfinished))
    }

    /// The batch turns into containers in the same transaction.
    fn take_batch(&self, submission: &Submission) -> StepResult<()> {
        let Some((batch, expected)) = &submission.batch else { return Ok(()) };
        let sql = "DELETE FROM batches WHERE batch = ?1 RETURNING bytes";
        let bytes: Option<i64> =
            self.connection.prepare_cached(sql)?.query_row([batch], |row| row.get(0)).optional()?;
        match bytes {
            None => return Err(CommandError::NoSuchBatch(batch.clone()).into()),
            Some(bytes) if bytes != *expected => {
                return Err(invalid(None, "batch", "a piece was added while it was being committed: commit it again"));
            }
            Some(_) => {}
        }
        self.connection.prepare_cached("DELETE FROM pieces WHERE batch = ?1")?.execute([batch])?;
        Ok(())
    }

    pub(super) fn expire_batches(&self, before: WallMillis) -> StepResult<usize> {
        let sql = "DELETE FROM pieces WHERE batch IN (SELECT batch FROM batches WHERE touched_at < ?1)";
        self.connection.prepare_cached(sql)?.execute([before])?;
        Ok(self.connection.prepare_cached("DELETE FROM batches WHERE touched_at < ?1")?.execute([before])?)
    }
}

/// The uuids that this token got, in the order of the submission.
pub(super) fn known_token(
    connection: &rusqlite::Connection,
    token: &str,
) -> rusqlite::Result<Option<Vec<ContainerUuid>>> {
    let sql = "SELECT uuids FROM tokens WHERE token = ?1";
    let lines: Option<String> = connection.prepare_cached(sql)?.query_row([token], |row| row.get(0)).optional()?;
    Ok(lines.map(|lines| lines.lines().filter_map(ContainerUuid::parse).collect()))
}

fn invalid(line: Option<usize>, field: &str, message: impl Into<String>) -> StepError {
    CommandError::Invalid { line, field: FieldError::new(field, message) }.into()
}

/// `N` characters of `0-9a-z` from the system's random source.
pub(super) fn random_text<const N: usize>() -> Result<String, QueueError> {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut text = String::with_capacity(N);
    let mut bytes = [0_u8; 32];
    while text.len() < N {
        getrandom::fill(&mut bytes)
            .map_err(|error| QueueError::Storage { operation: "get random bytes", source: Box::new(error) })?;
        // 252 = 7 × 36: the bytes above would make some digits likelier.
        let digits = bytes.iter().filter(|byte| **byte < 252).map(|byte| char::from(DIGITS[usize::from(byte % 36)]));
        text.extend(digits.take(N - text.len()));
    }
    Ok(text)
}

fn new_uuid(cluster_id: &str) -> StepResult<ContainerUuid> {
    let text = format!("{cluster_id}-dz642-{}", random_text::<15>()?);
    ContainerUuid::parse(&text).ok_or_else(|| invalid(None, "uuid", format!("{text:?} is not well formed")))
}
