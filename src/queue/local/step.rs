//! What one step of the writer works with: the open transaction, the time of it, and what it has changed so far.
//!
//! Runs in the writer thread only. A step reads the state from the database, never from the snapshot, because earlier steps of the
//! same group are not in the snapshot yet; what never changes (the request) may come from there.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use crate::core::container::ContainerRequest;
use crate::core::ids::{Attempt, ContainerUuid};
use crate::core::lifecycle::Refusal;
use crate::core::time::WallMillis;
use crate::core::vocabulary::ContainerState;
use crate::queue::QueueError;

use super::memory::{Change, Fit, Shared};
use super::result::AttemptResult;
use super::rows::{self, Row};
use super::types::CommandError;

/// Why a step did nothing.
#[derive(Debug)]
pub(super) enum StepError {
    Command(CommandError),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for StepError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<CommandError> for StepError {
    fn from(error: CommandError) -> Self {
        Self::Command(error)
    }
}

impl From<QueueError> for StepError {
    fn from(error: QueueError) -> Self {
        Self::Command(error.into())
    }
}

pub(super) type StepResult<T> = Result<T, StepError>;

/// The open transaction.
pub(super) struct Step<'a> {
    pub(super) connection: &'a Connection,
    pub(super) shared: &'a Shared,
    pub(super) now: WallMillis,
    pub(super) changes: Vec<Change>,
    /// Types computed anew.
    pub(super) fits: Vec<(ContainerUuid, Fit)>,
    /// Final containers whose rows are gone.
    pub(super) purged: Vec<(ContainerUuid, ContainerState)>,
    /// Cancelled without anybody having named them, and why: their callers cannot log it (spec 80 §4).
    pub(super) cancelled: Vec<(ContainerUuid, String)>,
    /// Containers in state Queued, this transaction included.
    pub(super) queued: usize,
}

/// An attempt as far as steps look at it.
pub(super) struct AttemptRow {
    pub(super) price: f64,
    pub(super) started_at: WallMillis,
    is_open: bool,
    pub(super) collected: bool,
    pub(super) has_late_result: bool,
}

impl Step<'_> {
    pub(super) fn row(&self, uuid: &ContainerUuid) -> StepResult<Row> {
        Row::find(self.connection, uuid)?.ok_or_else(|| QueueError::NotFound(uuid.clone()).into())
    }

    /// Writes a changed row; the snapshot shows it after the commit.
    pub(super) fn save(&mut self, row: Row, before: ContainerState) -> StepResult<()> {
        self.save_arriving(row, before, None)
    }

    /// The same for a container that the snapshot may have forgotten and must show again.
    pub(super) fn save_arriving(
        &mut self,
        row: Row,
        before: ContainerState,
        arrival: Option<(Arc<ContainerRequest>, Fit)>,
    ) -> StepResult<()> {
        debug_assert!(!before.is_final(), "nothing leaves a final state");
        row.save(self.connection)?;
        if before == ContainerState::Queued && row.life.state != before {
            self.queued = self.queued.saturating_sub(1);
        } else if row.life.state == ContainerState::Queued && row.life.state != before {
            self.queued += 1;
        }
        self.changes.push(Change::Changed { row: Box::new(row), before, arrival });
        Ok(())
    }

    pub(super) fn history(&self, row: &Row, event: &str, detail: &str) -> StepResult<()> {
        self.history_at(row, self.now, event, detail)
    }

    /// The same for what was learnt later.
    pub(super) fn history_at(&self, row: &Row, time: WallMillis, event: &str, detail: &str) -> StepResult<()> {
        let sql = "INSERT INTO history (container, time, event, detail) VALUES (?1, ?2, ?3, ?4)";
        self.connection.prepare_cached(sql)?.execute(params![row.id, time, event, detail])?;
        Ok(())
    }

    /// From the snapshot if it is there: no parsing.
    pub(super) fn request(&self, row: &Row) -> StepResult<Arc<ContainerRequest>> {
        let entry = self.shared.memory.lock().entry(&row.uuid);
        match entry {
            Some(entry) => Ok(Arc::clone(&entry.container.request)),
            None => Ok(rows::load_request(self.connection, row.id)?),
        }
    }

    pub(super) fn attempt(&self, row: &Row, attempt: Attempt) -> StepResult<Option<AttemptRow>> {
        let sql = "SELECT price, started_at, ended_at IS NULL, collected, late_result IS NOT NULL \
                   FROM attempts WHERE container = ?1 AND attempt = ?2";
        let found = self.connection.prepare_cached(sql)?.query_row(params![row.id, attempt], |found| {
            Ok(AttemptRow {
                price: found.get(0)?,
                started_at: found.get(1)?,
                is_open: found.get(2)?,
                collected: found.get(3)?,
                has_late_result: found.get(4)?,
            })
        });
        Ok(found.optional()?)
    }

    /// Ends an open attempt, with the figures of its result if there is one, and adds its cost to the container.
    pub(super) fn close_attempt(
        &self,
        row: &mut Row,
        attempt: &AttemptRow,
        reason: &str,
        result: Option<&AttemptResult>,
    ) -> StepResult<()> {
        const MILLIS_PER_HOUR: f64 = 3_600_000.0;
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of one attempt are far below 2^52")]
        let cost = attempt.price * ((self.now - attempt.started_at).max(0) as f64) / MILLIS_PER_HOUR;
        let sql = "UPDATE attempts SET ended_at = ?3, reason = ?4, cost = ?5, collected = ?6, exit_code = ?7, signal = ?8, \
                   peak_memory = ?9, cpu_seconds = ?10 WHERE container = ?1 AND attempt = ?2";
        self.connection.prepare_cached(sql)?.execute(params![
            row.id,
            row.life.attempt,
            self.now,
            reason,
            cost,
            result.is_some(),
            result.and_then(|result| result.exit_code),
            result.and_then(|result| result.signal),
            result.and_then(|result| result.peak_memory).map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
            result.and_then(|result| result.cpu_seconds),
        ])?;
        row.cost += cost;
        Ok(())
    }

    /// Ends the present attempt if it is open.
    pub(super) fn close_present_attempt(&self, row: &mut Row, reason: &str) -> StepResult<()> {
        match self.attempt(row, row.life.attempt)? {
            Some(attempt) if attempt.is_open => self.close_attempt(row, &attempt, reason, None),
            _ => Ok(()),
        }
    }
}

/// `WrongState`, by what the rules say.
pub(super) fn wrong(row: &Row, refusal: Refusal) -> StepError {
    let Refusal { operation, state } = refusal;
    QueueError::WrongState { uuid: row.uuid.clone(), operation, state }.into()
}
