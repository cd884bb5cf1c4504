//! The database file: creating, checking and migrating it (spec 70 §3). A damaged, foreign or newer file is left as it is.
//!
//! Runs in the thread that opens the queue. Nothing here ever removes or replaces a file.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::types::OpenError;

/// Number `n` leads from version n to n + 1. A new version is one more file and its line here; a file that was released never changes.
pub(super) const MIGRATIONS: &[&str] = &[include_str!("schema1.sql")];

/// "Must" in ASCII, in the file's header: tells a queue from any other SQLite file.
const APPLICATION_ID: i64 = 0x4d75_7374;

/// How long a statement waits when another program (a copy, an inspection) holds the file.
const BUSY: Duration = Duration::from_secs(5);

/// Opens the file for the writer; makes it (mode 0600) if there is none.
pub(super) fn open_writer(path: &Path) -> Result<Connection, OpenError> {
    open_migrated(path, MIGRATIONS)
}

/// The same for a program that knows these migrations.
pub(super) fn open_migrated(path: &Path, migrations: &[&str]) -> Result<Connection, OpenError> {
    let open_error = |source| OpenError::Open { path: path.to_owned(), source };
    if is_emptied(path) {
        let detail = "it is empty, although results of its containers are beside it".to_owned();
        return Err(OpenError::Damaged { path: path.to_owned(), detail });
    }
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| open_error(Box::new(error)))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(|error| open_error(Box::new(error)))?;
    match prepare(&mut connection, path, migrations) {
        Ok(()) => Ok(connection),
        Err(Fault::Open(error)) => Err(error),
        Err(Fault::Sqlite(error)) => Err(open_failure(path, error)),
    }
}

/// What an error of SQLite while opening means.
pub(super) fn open_failure(path: &Path, error: rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    match error {
        error if is_damage(&error) => OpenError::Damaged { path, detail: error.to_string() },
        // A row that no version of this program can have written.
        rusqlite::Error::FromSqlConversionFailure(_, _, fault) => {
            OpenError::Damaged { path, detail: fault.to_string() }
        }
        error => OpenError::Open { path, source: Box::new(error) },
    }
}

/// An empty file is a new queue to SQLite. If there was work already, something has cut it off.
fn is_emptied(path: &Path) -> bool {
    let is_empty = path.metadata().is_ok_and(|metadata| metadata.len() == 0);
    let results = path.with_file_name("containers").read_dir();
    is_empty && results.is_ok_and(|mut entries| entries.next().is_some())
}

/// A further connection that only reads. The writer has the file open.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    Ok(connection)
}

/// Whether this error means that the file's content is broken.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))
}

enum Fault {
    Sqlite(rusqlite::Error),
    Open(OpenError),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn prepare(connection: &mut Connection, path: &Path, migrations: &[&str]) -> Result<(), Fault> {
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(64);
    let found = pragma(connection, "user_version")?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let is_new = found == 0 && tables == 0;
    if !is_new && pragma(connection, "application_id")? != APPLICATION_ID {
        return Err(Fault::Open(OpenError::Foreign { path: path.to_owned() }));
    }
    let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(Fault::Open(OpenError::Newer { path: path.to_owned(), found, known }));
    }
    // Reads every page once: 100,000 containers take a fraction of a second, and a queue that lies is worse than a slow start.
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Err(Fault::Open(OpenError::Damaged { path: path.to_owned(), detail: verdict }));
    }
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        let text = format!("the file system cannot hold a write-ahead log (journal mode {mode})");
        return Err(Fault::Open(OpenError::Open { path: path.to_owned(), source: text.into() }));
    }
    connection
        .execute_batch("PRAGMA synchronous = FULL; PRAGMA cache_size = -8000; PRAGMA journal_size_limit = 67108864;")?;
    migrate(connection, found, migrations)?;
    Ok(())
}

/// All missing steps in one transaction: a crash leaves the old version or the new one.
fn migrate(connection: &mut Connection, found: i64, migrations: &[&str]) -> rusqlite::Result<()> {
    let missing = migrations.get(usize::try_from(found).unwrap_or(0)..).unwrap_or_default();
    if missing.is_empty() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for migration in missing {
        transaction.execute_batch(migration)?;
    }
    let version = migrations.len();
    transaction
        .execute_batch(&format!("PRAGMA user_version = {version}; PRAGMA application_id = {APPLICATION_ID};"))?;
    transaction.commit()?;
    if found > 0 {
        log::info!("the queue's file was brought from schema version {found} to {version}");
    }
    Ok(())
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))
}
