//! Reading for people and programs: lists, details, states. Each call uses a connection of its own, so it neither waits for the
//! writer nor holds it up, and sees what was committed before it began.

use std::collections::BTreeSet;
use std::path::PathBuf;

use globset::{Glob, GlobMatcher};
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use crate::core::container::Container;
use crate::core::ids::{ContainerUuid, InstanceId, TypeName};
use crate::core::vocabulary::ContainerState;
use crate::queue::QueueError;

use super::record;
use super::rows::{COLUMNS, NEXT_COLUMN, Row, request_column};
use super::schema;
use super::types::{AttemptRecord, CommandError, Detail, FieldError, HistoryRecord, ListFilter, Page, StateOf};

/// Connections kept open between calls.
const KEPT: usize = 4;

/// Longest name pattern in bytes, and most `{` in it. Nested alternatives become nested groups of a regular expression, whose
/// compiler panics beyond some 200 of them.
const MAX_PATTERN: usize = 1000;
const MAX_ALTERNATIVES: usize = 10;

fn matcher(pattern: &str) -> Result<GlobMatcher, CommandError> {
    let invalid = |text| CommandError::Invalid { line: None, field: FieldError::new("name", text) };
    if pattern.len() > MAX_PATTERN || pattern.matches('{').count() > MAX_ALTERNATIVES {
        let limits = format!("{MAX_PATTERN} bytes or {MAX_ALTERNATIVES} alternatives in braces");
        return Err(invalid(format!("a pattern with more than {limits}: use a shorter one")));
    }
    let glob = Glob::new(pattern).map_err(|error| invalid(format!("not a pattern: {error}")))?;
    Ok(glob.compile_matcher())
}

/// The readers' connections.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, idle: Mutex::new(Vec::new()) }
    }

    /// Ends the connections that nobody uses.
    pub(super) fn close(&self) {
        self.idle.lock().clear();
    }

    /// Lends a connection to `read`; one whose read failed is not used again.
    pub(super) fn with<T>(
        &self,
        operation: &'static str,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, QueueError> {
        let idle = self.idle.lock().pop();
        let connection = idle.map_or_else(|| schema::open_reader(&self.path), Ok);
        let (connection, value) = connection
            .and_then(|connection| {
                let value = read(&connection)?;
                Ok((connection, value))
            })
            .map_err(|error| QueueError::Storage { operation, source: Box::new(error) })?;
        let mut idle = self.idle.lock();
        if idle.len() < KEPT {
            idle.push(connection);
        }
        Ok(value)
    }

    pub(super) fn list(&self, filter: &ListFilter) -> Result<Page, CommandError> {
        let glob = filter.name_glob.as_deref().map(matcher).transpose()?;
        let page = self.with("list containers", |connection| match &filter.uuids {
            Some(uuids) => list_named(connection, filter, uuids, glob.as_ref()),
            None => list_all(connection, filter, glob.as_ref()),
        })?;
        Ok(page)
    }

    /// Without their records: there may be a million.
    pub(super) fn matching(
        &self,
        state: Option<ContainerState>,
        name_glob: Option<&str>,
        unfinished_only: bool,
    ) -> Result<Vec<ContainerUuid>, CommandError> {
        let glob = name_glob.map(matcher).transpose()?;
        let found = self.with("find containers", |connection| {
            let of_state = state.map_or("", |_| "WHERE state = ?1");
            let sql = format!("SELECT uuid, state, name FROM containers {of_state} ORDER BY id");
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query(params_from_iter(state.map(ContainerState::as_str)))?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let is = ContainerState::parse(row.get_ref(1)?.as_str()?);
                let name = row.get_ref(2)?.as_str()?;
                let wanted = !(unfinished_only && is.is_some_and(ContainerState::is_final))
                    && glob.as_ref().is_none_or(|glob| glob.is_match(name));
                if wanted {
                    found.extend(ContainerUuid::parse(row.get_ref(0)?.as_str()?));
                }
            }
            Ok(found)
        })?;
        Ok(found)
    }

    pub(super) fn show(&self, uuid: &ContainerUuid) -> Result<Option<Detail>, QueueError> {
        self.with("show a container", |connection| {
            // One transaction, so that the parts fit together.
            let transaction = connection.unchecked_transaction()?;
            let Some((row, container)) = find(&transaction, uuid)? else { return Ok(None) };
            let attempts = attempts(&transaction, row.id)?;
            let history = history(&transaction, &row)?;
            Ok(Some(Detail { container, attempts, history }))
        })
    }

    pub(super) fn states(&self, uuids: &[ContainerUuid]) -> Result<Vec<(ContainerUuid, StateOf)>, QueueError> {
        self.with("read states", |connection| {
            let mut statement = connection.prepare_cached("SELECT state, exit_code FROM containers WHERE uuid = ?1")?;
            let state_of = |uuid: &ContainerUuid| {
                let found = statement.query_row([uuid.as_str()], |row| {
                    Ok((ContainerState::parse(row.get_ref(0)?.as_str()?), row.get(1)?))
                });
                let state = found.optional()?.and_then(|(state, exit_code)| Some((state?, exit_code)));
                Ok((uuid.clone(), state))
            };
            uuids.iter().map(state_of).collect()
        })
    }
}

/// A container's row and record.
pub(super) fn find(connection: &Connection, uuid: &ContainerUuid) -> rusqlite::Result<Option<(Row, Container)>> {
    let sql = format!("SELECT {COLUMNS}, request FROM containers WHERE uuid = ?1");
    connection.prepare_cached(&sql)?.query_row([uuid.as_str()], read_container).optional()
}

fn read_container(row: &rusqlite::Row<'_>) -> rusqlite::Result<(Row, Container)> {
    let request = request_column(row, NEXT_COLUMN)?;
    let row = Row::read(row)?;
    let container = row.container(request);
    Ok((row, container))
}

/// Walks back from the newest. The name is looked at before the request is parsed.
fn list_all(connection: &Connection, filter: &ListFilter, glob: Option<&GlobMatcher>) -> rusqlite::Result<Page> {
    let state = filter.state.map_or("", |_| "state = ?2 AND");
    let sql = format!("SELECT {COLUMNS}, request, name FROM containers WHERE {state} id < ?1 ORDER BY id DESC");
    let mut statement = connection.prepare_cached(&sql)?;
    let before = filter.after.and_then(|after| i64::try_from(after).ok()).unwrap_or(i64::MAX);
    let mut rows = match filter.state {
        Some(state) => statement.query(params![before, state.as_str()])?,
        None => statement.query(params![before])?,
    };
    let mut page = Page::default();
    while let Some(row) = rows.next()? {
        if glob.is_some_and(|glob| {
            !row.get_ref(NEXT_COLUMN + 1).is_ok_and(|name| name.as_str().is_ok_and(|name| glob.is_match(name)))
        }) {
            continue;
        }
        let (row, container) = read_container(row)?;
        page.containers.push(container);
        if page.containers.len() == filter.limit {
            page.next = u64::try_from(row.id).ok();
            break;
        }
    }
    Ok(page)
}

fn list_named(
    connection: &Connection,
    filter: &ListFilter,
    uuids: &BTreeSet<ContainerUuid>,
    glob: Option<&GlobMatcher>,
) -> rusqlite::Result<Page> {
    let mut found = Vec::new();
    for uuid in uuids {
        let Some((row, container)) = find(connection, uuid)? else { continue };
        let id = u64::try_from(row.id).unwrap_or(0);
        let fits = filter.state.is_none_or(|state| container.state == state)
            && glob.is_none_or(|glob| glob.is_match(&container.request.name))
            && filter.after.is_none_or(|after| id < after);
        if fits {
            found.push((id, container));
        }
    }
    found.sort_by_key(|(id, _)| std::cmp::Reverse(*id));
    let mut next = None;
    if filter.limit > 0 && found.len() > filter.limit {
        found.truncate(filter.limit);
        next = found.last().map(|(id, _)| *id);
    }
    Ok(Page { containers: found.into_iter().map(|(_, container)| container).collect(), next })
}

fn attempts(connection: &Connection, id: i64) -> rusqlite::Result<Vec<AttemptRecord>> {
    let sql = "SELECT attempt, instance, instance_type, started_at, ended_at, exit_code, signal, reason, peak_memory, \
               cpu_seconds, cost, late_result, collected FROM attempts WHERE container = ?1 ORDER BY attempt";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([id], |row| {
        Ok(AttemptRecord {
            attempt: row.get(0)?,
            instance: InstanceId::new(row.get_ref(1)?.as_str()?),
            instance_type: TypeName::new(row.get_ref(2)?.as_str()?),
            started_at: row.get(3)?,
            ended_at: row.get(4)?,
            exit_code: row.get(5)?,
            signal: row.get(6)?,
            reason: row.get(7)?,
            peak_memory: row.get::<_, Option<i64>>(8)?.and_then(|bytes| u64::try_from(bytes).ok()),
            cpu_seconds: row.get(9)?,
            cost: row.get(10)?,
            late_result: row.get(11)?,
            collected: row.get(12)?,
        })
    })?;
    rows.collect()
}

fn history(connection: &Connection, row: &Row) -> rusqlite::Result<Vec<HistoryRecord>> {
    let mut records =
        vec![HistoryRecord { time: row.created_at, event: "submitted".to_owned(), detail: String::new() }];
    let sql = "SELECT time, event, detail FROM history WHERE container = ?1 ORDER BY id";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement
        .query_map([row.id], |row| Ok(HistoryRecord { time: row.get(0)?, event: row.get(1)?, detail: row.get(2)? }))?;
    for record in rows {
        records.push(record?);
    }
    Ok(records)
}

/// All lines of a batch, joined from its pieces, each handed to `take` with its number (from 1) and without its end.
/// The number of bytes; `None` if there is no such batch.
pub(super) fn batch_lines(
    connection: &Connection,
    batch: &str,
    mut take: impl FnMut(usize, &[u8]) -> Result<(), CommandError>,
) -> rusqlite::Result<Option<Result<i64, CommandError>>> {
    let transaction = connection.unchecked_transaction()?;
    let sql = "SELECT bytes FROM batches WHERE batch = ?1";
    let Some(bytes) = transaction.prepare_cached(sql)?.query_row([batch], |row| row.get::<_, i64>(0)).optional()?
    else {
        return Ok(None);
    };
    let mut statement = transaction.prepare_cached("SELECT body FROM pieces WHERE batch = ?1 ORDER BY id")?;
    let mut pieces = statement.query([batch])?;
    let (mut rest, mut number) = (Vec::new(), 1);
    while let Some(piece) = pieces.next()? {
        let mut piece = piece.get_ref(0)?.as_blob()?;
        while let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
            rest.extend_from_slice(&piece[..end]);
            if let Err(error) = take(number, &rest) {
                return Ok(Some(Err(error)));
            }
            rest.clear();
            number += 1;
            piece = &piece[end + 1..];
        }
        rest.extend_from_slice(piece);
        if rest.len() > record::MAX_RECORD {
            // Else a batch without line ends would be held in memory as a whole.
            return Ok(Some(Err(record::too_long(number))));
        }
    }
    Ok(Some(take(number, &rest).map(|()| bytes)))
}
