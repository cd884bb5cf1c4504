//! A container's row: everything of it that changes, apart from the request, which never does.
//!
//! Used by the writer thread and by readers, each on its own connection.

use std::sync::Arc;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, params};

use crate::core::container::{Container, ContainerRequest, RuntimeStatus};
use crate::core::ids::{ContainerUuid, InstanceId, TypeName};
use crate::core::lifecycle::{self, Lifecycle};
use crate::core::time::WallMillis;
use crate::core::vocabulary::ContainerState;

use super::record;

/// The columns that [`Row::read`] expects, in its order.
pub(super) const COLUMNS: &str = "id, uuid, state, priority, max_attempts, created_at, started_at, finished_at, attempt, \
     instance, instance_type, exit_code, error, warning, activity, cancel_requested, kill_asked, waiting, cost";

/// Index of the first column after [`COLUMNS`].
pub(super) const NEXT_COLUMN: usize = 19;

#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) id: i64,
    pub(super) uuid: ContainerUuid,
    /// What the rules look at and change.
    pub(super) life: Lifecycle,
    pub(super) created_at: WallMillis,
    pub(super) started_at: Option<WallMillis>,
    pub(super) finished_at: Option<WallMillis>,
    pub(super) exit_code: Option<i32>,
    pub(super) status: RuntimeStatus,
    pub(super) cost: f64,
}

impl Row {
    pub(super) fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            uuid: word(row, 1, ContainerUuid::parse)?,
            life: Lifecycle {
                state: word(row, 2, ContainerState::parse)?,
                priority: row.get(3)?,
                max_attempts: row.get(4)?,
                attempt: row.get(8)?,
                instance: row.get_ref(9)?.as_str_or_null()?.map(InstanceId::new),
                instance_type: row.get_ref(10)?.as_str_or_null()?.map(TypeName::new),
                cancel_requested: row.get(15)?,
                kill_asked: row.get(16)?,
                waiting: row.get(17)?,
            },
            created_at: row.get(5)?,
            started_at: row.get(6)?,
            finished_at: row.get(7)?,
            exit_code: row.get(11)?,
            status: RuntimeStatus { error: row.get(12)?, warning: row.get(13)?, activity: row.get(14)? },
            cost: row.get(18)?,
        })
    }

    pub(super) fn find(connection: &Connection, uuid: &ContainerUuid) -> rusqlite::Result<Option<Self>> {
        let sql = format!("SELECT {COLUMNS} FROM containers WHERE uuid = ?1");
        connection.prepare_cached(&sql)?.query_row([uuid.as_str()], Self::read).optional()
    }

    pub(super) fn by_id(connection: &Connection, id: i64) -> rusqlite::Result<Self> {
        let sql = format!("SELECT {COLUMNS} FROM containers WHERE id = ?1");
        connection.prepare_cached(&sql)?.query_row([id], Self::read)
    }

    /// Writes everything that can change.
    pub(super) fn save(&self, connection: &Connection) -> rusqlite::Result<()> {
        let sql = "UPDATE containers SET state = ?2, priority = ?3, started_at = ?4, finished_at = ?5, attempt = ?6, \
                   instance = ?7, instance_type = ?8, exit_code = ?9, error = ?10, warning = ?11, activity = ?12, \
                   cancel_requested = ?13, kill_asked = ?14, waiting = ?15, cost = ?16 WHERE id = ?1";
        connection.prepare_cached(sql)?.execute(params![
            self.id,
            self.life.state.as_str(),
            self.life.priority,
            self.started_at,
            self.finished_at,
            self.life.attempt,
            self.life.instance.as_ref().map(InstanceId::as_str),
            self.life.instance_type.as_ref().map(TypeName::as_str),
            self.exit_code,
            self.status.error,
            self.status.warning,
            self.status.activity,
            self.life.cancel_requested,
            self.life.kill_asked,
            self.life.waiting,
            self.cost,
        ])?;
        Ok(())
    }

    /// Why those that wait for it cannot run; `None` if it succeeded. For a final one.
    pub(super) fn failure(&self) -> Option<String> {
        lifecycle::failure(&self.uuid, self.life.state, self.exit_code)
    }

    pub(super) fn container(&self, request: Arc<ContainerRequest>) -> Container {
        let locked = matches!(self.life.state, ContainerState::Locked | ContainerState::Running);
        Container {
            uuid: self.uuid.clone(),
            state: self.life.state,
            request,
            priority: self.life.priority,
            created_at: self.created_at,
            started_at: self.started_at,
            finished_at: self.finished_at,
            attempt: self.life.attempt,
            instance: self.life.instance.clone(),
            instance_type: self.life.instance_type.clone(),
            exit_code: self.exit_code,
            runtime_status: self.status.clone(),
            cancel_requested: self.life.cancel_requested,
            // The form that a cluster's root token has there: a constant, since nobody else can lock.
            locked_by_uuid: if locked {
                format!("{}-gj3su-000000000000000", self.uuid.cluster_id())
            } else {
                String::new()
            },
            cost: self.cost,
        }
    }
}

/// The request of a container, from its row.
pub(super) fn load_request(connection: &Connection, id: i64) -> rusqlite::Result<Arc<ContainerRequest>> {
    let sql = "SELECT request FROM containers WHERE id = ?1";
    connection.prepare_cached(sql)?.query_row([id], |row| request_column(row, 0))
}

/// The request in this column.
pub(super) fn request_column(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Arc<ContainerRequest>> {
    let text = row.get_ref(column)?.as_str()?;
    let fault = |error: Box<dyn std::error::Error + Send + Sync>| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error)
    };
    // What was accepted once is read whatever its size; `max_attempts` is always in it.
    let value = serde_json::from_str(text).map_err(|error| fault(Box::new(error)))?;
    let request = record::parse_value(&value, 1).map_err(|error| fault(Box::new(error)))?;
    Ok(Arc::new(request))
}

fn word<T>(row: &rusqlite::Row<'_>, column: usize, parse: impl Fn(&str) -> Option<T>) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?.as_str()?;
    parse(text).ok_or_else(|| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, format!("unexpected value {text:?}").into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_counted() {
        assert_eq!(COLUMNS.split(',').count(), NEXT_COLUMN);
    }
}
