//! The embedded queue: SQLite in `StateDir/queue.db` (spec 70 §3).
//!
//! Owns the database file. One thread, `queue-writer`, does all the writing and groups the commits of concurrent callers; readers
//! use connections of their own or the snapshot in memory. Every transition is committed before its call returns.

mod commands;
mod fields;
mod maintenance;
mod memory;
mod outcome;
mod reading;
mod record;
mod result;
mod rows;
mod schema;
mod step;
mod submission;
mod transitions;
mod types;
mod validate;
mod writer;

#[cfg(test)]
mod tests;

pub use record::{MAX_ARRAY, MAX_RECORD, expand_array, parse_record, parse_value, to_value};
pub use types::*;
pub use validate::validate;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};
use rusqlite::Connection;

use super::{Assignment, ContainerQueue, LostReason, Placement, QueueError};
use crate::core::container::Container;
use crate::core::entry::{QueueEntry, QueueSnapshot};
use crate::core::ids::{Attempt, ContainerUuid};
use crate::core::time::Moment;
use crate::core::vocabulary::ContainerState;

use memory::{CachedSelector, Shared, new_entry};
use reading::Readers;
use rows::{COLUMNS, NEXT_COLUMN, Row, request_column};
use writer::{Done, Job, Write};

/// Most bytes of one piece of a batch.
pub const MAX_PIECE: usize = 10 * 1024 * 1024;

/// The embedded queue. Dropping it ends the writer thread after what it was asked for, and waits for that.
#[derive(Debug)]
pub struct LocalQueue {
    path: PathBuf,
    cluster_id: String,
    max_queued: usize,
    default_max_attempts: u32,
    images_allowed: bool,
    shared: Arc<Shared>,
    readers: Readers,
    /// `None` only while dropping.
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl LocalQueue {
    /// Opens or creates the database. Containers that no instance type fits any more are cancelled, unless one of their attempts
    /// may be running. Finished containers are not loaded.
    pub fn open(options: LocalQueueOptions, wall: WallClock, spawn: Spawn<'_>) -> Result<Arc<Self>, OpenError> {
        let LocalQueueOptions { path, cluster_id, max_queued, default_max_attempts, images_allowed, selector } =
            options;
        if ContainerUuid::parse(&format!("{cluster_id}-dz642-000000000000000")).is_none() {
            return Err(OpenError::ClusterId(cluster_id));
        }
        let connection = schema::open_writer(&path)?;
        let shared = Arc::new(Shared::new(wall, selector));
        let unfit = load(&connection, &shared).map_err(|error| schema::open_failure(&path, error))?;
        let (sender, receiver) = writer::channel();
        let for_writer = Arc::clone(&shared);
        let body = Box::new(move || writer::run(&connection, &receiver, &for_writer));
        let thread = spawn("queue-writer".to_owned(), body).map_err(OpenError::Thread)?;
        let readers = Readers::new(path.clone());
        let (jobs, thread) = (Some(sender), Some(thread));
        let queue =
            Self { path, cluster_id, max_queued, default_max_attempts, images_allowed, shared, readers, jobs, thread };
        if unfit && let Err(error) = queue.write(Write::Reselect) {
            // The daemon starts all the same: the queue says that it is in trouble, and what runs must be watched.
            log::warn!("containers that fit no instance type could not be cancelled: {error}");
        }
        Ok(Arc::new(queue))
    }

    fn write(&self, write: Write) -> Result<Done, CommandError> {
        match &self.jobs {
            Some(jobs) => writer::ask(jobs, write),
            None => unreachable!("the sender is taken by drop alone, which has the only reference"),
        }
    }

    fn write_all(&self, writes: impl Iterator<Item = Write>) -> Vec<Result<Done, CommandError>> {
        match &self.jobs {
            Some(jobs) => writer::ask_all(jobs, writes),
            None => unreachable!("the sender is taken by drop alone, which has the only reference"),
        }
    }

    /// For the scheduler's operations, which have no other errors than these.
    fn transition(&self, write: Write) -> Result<Done, QueueError> {
        self.write(write).map_err(|error| match error {
            CommandError::Queue(error) => error,
            other => QueueError::Storage { operation: "change a container", source: Box::new(other) },
        })
    }
}

/// Fills the snapshot with what is not final. Whether any waiting container fits no type.
fn load(connection: &Connection, shared: &Shared) -> rusqlite::Result<bool> {
    let mut counts = BTreeMap::new();
    let mut statement = connection.prepare("SELECT state, count(*) FROM containers GROUP BY state")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if let Some(state) = ContainerState::parse(row.get_ref(0)?.as_str()?) {
            counts.insert(state, usize::try_from(row.get::<_, i64>(1)?).unwrap_or(0));
        }
    }
    let sql =
        format!("SELECT {COLUMNS}, request FROM containers WHERE state IN ('Queued', 'Locked', 'Running') ORDER BY id");
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([])?;
    let mut selector = CachedSelector::new(shared.selector().1);
    let mut entries: Vec<QueueEntry> = Vec::new();
    let mut unfit = false;
    while let Some(row) = rows.next()? {
        let request = request_column(row, NEXT_COLUMN)?;
        let row = Row::read(row)?;
        let fit = selector.select(&request).unwrap_or_else(|_| {
            unfit |= row.life.state == ContainerState::Queued || row.life.instance.is_none();
            Default::default()
        });
        entries.push(new_entry(&row, request, fit));
    }
    shared.memory.lock().fill(entries, counts);
    Ok(unfit)
}

impl Drop for LocalQueue {
    fn drop(&mut self) {
        // Only the writer's connection can bring all into the one file, and only as the last that is open: so a stopped daemon's queue.db is
        // the whole queue.
        self.readers.close();
        // The writer ends when the last sender is gone.
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the queue's writer thread has panicked");
        }
    }
}

impl ContainerQueue for LocalQueue {
    fn snapshot(&self) -> QueueSnapshot {
        self.shared.memory.lock().snapshot()
    }

    fn get(&self, uuid: &ContainerUuid) -> Option<Container> {
        let entry = self.shared.memory.lock().entry(uuid);
        entry.map(|entry| entry.container.clone())
    }

    fn lock(&self, uuid: &ContainerUuid) -> Result<(), QueueError> {
        self.transition(Write::Lock(uuid.clone())).map(drop)
    }

    fn unlock(&self, uuid: &ContainerUuid) -> Result<(), QueueError> {
        self.transition(Write::Unlock(uuid.clone())).map(drop)
    }

    fn cancel(&self, uuid: &ContainerUuid, why: &str) -> Result<(), QueueError> {
        self.transition(Write::Cancel(uuid.clone(), why.to_owned())).map(drop)
    }

    fn forget(&self, uuid: &ContainerUuid) {
        self.shared.memory.lock().forget(uuid);
    }

    /// The snapshot is always that of the last commit, so only its time changes; after a failure of the storage, one row is written
    /// to see whether it works again.
    fn update(&self, now: Moment) -> Result<(), QueueError> {
        if self.trouble().is_some() {
            self.transition(Write::Probe)?;
        }
        self.shared.memory.lock().set_as_of(now);
        Ok(())
    }

    fn subscribe(&self) -> Receiver<()> {
        self.shared.memory.lock().subscribe()
    }

    fn keeps_attempts(&self) -> bool {
        true
    }

    fn assign(&self, uuid: &ContainerUuid, attempt: Attempt, placement: &Placement) -> Result<Assignment, QueueError> {
        match self.transition(Write::Assign { uuid: uuid.clone(), attempt, placement: placement.clone() })? {
            Done::Assigned(assignment) => Ok(*assignment),
            other => unreachable!("the writer answers an assign with the assignment, not {other:?}"),
        }
    }

    fn seen_running(&self, uuid: &ContainerUuid, attempt: Attempt) -> Result<(), QueueError> {
        // Probes list the same attempt again and again: only the first time is worth a write.
        let news =
            self.shared.memory.lock().entry(uuid).is_none_or(|entry| {
                entry.container.attempt == attempt && entry.container.state == ContainerState::Locked
            });
        if news { self.transition(Write::SeenRunning(uuid.clone(), attempt)).map(drop) } else { Ok(()) }
    }

    fn finish(&self, uuid: &ContainerUuid, attempt: Attempt, result_dir: &Path) -> Result<(), QueueError> {
        let result = result::read(result_dir, uuid, attempt)
            .map_err(|error| QueueError::Storage { operation: "read a result", source: Box::new(error) })?;
        self.transition(Write::Finish(uuid.clone(), attempt, result)).map(drop)
    }

    fn attempt_lost(&self, uuid: &ContainerUuid, attempt: Attempt, reason: LostReason) -> Result<(), QueueError> {
        self.transition(Write::AttemptLost(uuid.clone(), attempt, reason)).map(drop)
    }

    fn trouble(&self) -> Option<String> {
        self.shared.trouble.lock().clone()
    }
}
