//! Purging what finished long ago, and copying the queue while it runs (spec 70 §3).
//!
//! Runs in the caller's thread, in steps short enough not to hold up the writer; only deleting the rows is the writer's.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rusqlite::backup::{Backup, StepResult as BackupStep};
use rusqlite::{Connection, params};

use crate::core::ids::ContainerUuid;
use crate::core::time::WallMillis;

use super::rows::Row;
use super::step::{Step, StepResult};

/// Containers purged in one transaction: with their attempts and history some thousand rows, a few milliseconds.
pub(super) const PURGE_STEP: i64 = 200;

/// The oldest finished containers that ended before this time, at most [`PURGE_STEP`].
pub(super) fn purgeable(connection: &Connection, before: WallMillis) -> rusqlite::Result<Vec<ContainerUuid>> {
    let sql = "SELECT uuid FROM containers WHERE finished_at < ?1 AND state IN ('Complete', 'Cancelled') \
               ORDER BY finished_at LIMIT ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let found = statement.query_map(params![before, PURGE_STEP], |row| row.get::<_, String>(0))?;
    found.filter_map(|uuid| uuid.map(|uuid| ContainerUuid::parse(&uuid)).transpose()).collect()
}

/// Removes a container's results. They go before the rows: after a crash in between, the rows say what is left to do.
pub(super) fn remove_results(container_dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(container_dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Step<'_> {
    pub(super) fn purge(&mut self, uuids: &[ContainerUuid]) -> StepResult<usize> {
        let mut count = 0;
        for uuid in uuids {
            let Some(row) = Row::find(self.connection, uuid)?.filter(|row| row.life.state.is_final()) else { continue };
            for sql in [
                "DELETE FROM history WHERE container = ?1",
                "DELETE FROM attempts WHERE container = ?1",
                "DELETE FROM containers WHERE id = ?1",
                // A token lives as long as one container of its submission, whichever is purged last.
                "DELETE FROM tokens WHERE last_id >= ?1 AND first_id <= ?1 \
                 AND NOT EXISTS (SELECT 1 FROM containers WHERE id BETWEEN first_id AND last_id)",
            ] {
                self.connection.prepare_cached(sql)?.execute([row.id])?;
            }
            self.purged.push((row.uuid, row.life.state));
            count += 1;
        }
        Ok(count)
    }
}

/// Copies the database as of now to a new file. Writers are not held up: the copy reads one state of the write-ahead log.
pub(super) fn backup(source: &Connection, path: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let copied = copy(source, path);
    if copied.is_err() {
        // Half a copy is worse than none; the error that matters is the first.
        let _ = fs::remove_file(path);
    }
    copied
}

fn copy(source: &Connection, path: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut target = Connection::open(path)?;
    {
        let backup = Backup::new(source, &mut target)?;
        match backup.step(-1)? {
            BackupStep::Done => {}
            _ => return Err("the queue's file is locked by another program".into()),
        }
    }
    target.close().map_err(|(_, error)| error)?;
    File::open(path)?.sync_all()?;
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}
