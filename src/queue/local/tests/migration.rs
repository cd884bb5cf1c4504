//! Files of earlier releases, and what migrating them may and may not do.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rusqlite::types::Value;

use super::super::schema::{MIGRATIONS, open_migrated};
use super::*;
use ContainerState::{Cancelled, Complete, Locked, Queued, Running};

/// What the first release left, as text.
const RELEASE1: &str = include_str!("release1.sql");

/// A next version, as a later release may have one: a new column that is filled from what is there, a table that is built anew.
const NEXT: &str = "ALTER TABLE containers ADD COLUMN words INTEGER NOT NULL DEFAULT 0;
    UPDATE containers SET words = json_array_length(request, '$.command');
    CREATE TABLE renewed (id INTEGER PRIMARY KEY, time INTEGER NOT NULL) STRICT;
    INSERT INTO renewed SELECT id, time FROM probe;
    DROP TABLE probe;
    ALTER TABLE renewed RENAME TO probe;";

/// In a directory of its own.
fn release1() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let connection = Connection::open(dir.path().join("queue.db")).unwrap();
    connection.execute_batch(RELEASE1).unwrap();
    connection.close().unwrap();
    dir
}

fn open_at(dir: &Path, now: i64) -> Result<Arc<LocalQueue>, OpenError> {
    open(options(dir), &Arc::new(AtomicI64::new(now)))
}

fn version(dir: &Path) -> i64 {
    let connection = Connection::open(dir.join("queue.db")).unwrap();
    connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap()
}

/// Every row of every table, by table; of the columns that the first release had.
fn contents(dir: &Path) -> BTreeMap<String, Vec<Vec<Value>>> {
    let connection = Connection::open(dir.join("queue.db")).unwrap();
    let fixture = Connection::open_in_memory().unwrap();
    fixture.execute_batch(RELEASE1).unwrap();
    let mut tables = fixture.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").unwrap();
    let tables = tables.query_map([], |row| row.get::<_, String>(0)).unwrap().map(Result::unwrap);
    let rows_of = |table: String| {
        let columns = fixture.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let columns = columns.column_names().collect::<Vec<_>>().join(", ");
        let mut rows = connection.prepare(&format!("SELECT {columns} FROM {table} ORDER BY 1, 2")).unwrap();
        let count = rows.column_count();
        let rows = rows.query_map([], |row| (0..count).map(|column| row.get(column)).collect()).unwrap();
        (table, rows.map(Result::unwrap).collect())
    };
    tables.map(rows_of).collect()
}

/// By name.
fn containers(queue: &LocalQueue) -> BTreeMap<String, Detail> {
    let all = queue.list(&ListFilter::default()).unwrap().containers;
    let detail = |one: &Container| (one.request.name.clone(), queue.show(&one.uuid).unwrap().unwrap());
    all.iter().map(detail).collect()
}

#[test]
fn a_queue_of_the_first_release_is_as_it_was() {
    let dir = release1();
    let before = contents(dir.path());
    let queue = open_at(dir.path(), 1_790_005_421_000).unwrap();
    let all = containers(&queue);
    let states: Vec<_> = all.iter().map(|(name, one)| (name.as_str(), one.container.state)).collect();
    let expected = [
        ("being cancelled", Running),
        ("by token 1", Queued),
        ("by token 2", Queued),
        ("cancelled", Cancelled),
        ("complete", Complete),
        ("exhausted", Cancelled),
        ("failed", Complete),
        ("follower", Queued),
        ("follower of failed", Cancelled),
        ("kill asked", Locked),
        ("locked", Locked),
        ("on hold", Queued),
        ("purged", Cancelled),
        ("queued", Queued),
        ("running", Running),
        ("second attempt", Running),
        ("sent", Locked),
    ];
    assert_eq!(states, expected);
    let queued = &all["queued"];
    let request = &queued.container.request;
    assert_eq!((queued.container.priority, request.priority, request.array_index), (9, 7, Some(4)));
    assert_eq!(
        (request.environment["A"].as_str(), request.stdin.as_str(), request.gpu.vram),
        ("b c", "in\nput", 8 << 30)
    );
    assert_eq!((request.scratch, request.max_run_time), (5, Some(Duration::from_millis(60_500))));
    let complete = &all["complete"];
    let attempt = &complete.attempts[0];
    assert_eq!((attempt.exit_code, attempt.peak_memory, attempt.cpu_seconds), (Some(0), Some(12_345_678), Some(1.5)));
    assert!((complete.container.cost - 0.180025).abs() < 1e-9 && (attempt.cost - 0.180025).abs() < 1e-9);
    let events: Vec<_> = complete.history.iter().map(|line| line.event.as_str()).collect();
    assert_eq!(events, ["submitted", "locked", "assigned", "running", "finished"]);
    let second = &all["second attempt"];
    assert_eq!((second.container.attempt, second.attempts.len()), (2, 2));
    assert_eq!(second.attempts[0].late_result.as_deref(), Some("exited with code 0"));
    assert!(all["being cancelled"].container.cancel_requested);
    assert_consistent(&queue);
    drop(queue);
    assert_eq!(contents(dir.path()), before, "opening changes nothing");
}

#[test]
fn a_queue_of_the_first_release_goes_on() {
    let Bench { dir, clock, queue } = bench();
    drop(queue);
    fs::remove_file(dir.path().join("queue.db")).unwrap();
    Connection::open(dir.path().join("queue.db")).unwrap().execute_batch(RELEASE1).unwrap();
    clock.store(1_790_005_421_000, Ordering::Relaxed);
    let queue = open(options(dir.path()), &clock).unwrap();
    let bench = Bench { dir, clock, queue };
    let all = containers(&bench.queue);
    let uuid = |name: &str| all[name].container.uuid.clone();
    // What it was told before holds: attempts, a cancel, a kill, those that wait for others.
    for (name, attempt, result, state) in [
        ("running", 1, r#""reason":"exited","exit_code":0"#, Complete),
        ("sent", 1, r#""reason":"exited","exit_code":0"#, Complete),
        ("being cancelled", 1, r#""reason":"killed""#, Cancelled),
        ("kill asked", 1, r#""reason":"killed""#, Cancelled),
        ("second attempt", 2, r#""reason":"killed""#, Queued),
    ] {
        bench.finish(&uuid(name), attempt, result).unwrap();
        assert_eq!(bench.record(&uuid(name)).state, state, "{name}");
    }
    bench.queue.lock(&uuid("follower")).unwrap();
    assert!(bench.queue.lock(&uuid("on hold")).is_err());
    assert_eq!(bench.assign_next(&uuid("second attempt")), 3);
    bench.queue.unlock(&uuid("locked")).unwrap();
    // The token and the batch are there, and a number of a purged container is not used again.
    let tokens = bench.queue.submit([request()], Some("a token")).unwrap();
    assert_eq!(tokens, [uuid("by token 1"), uuid("by token 2")]);
    let batch = "c531p88rb6w334jmoa3ef9x2p";
    let of_batch = bench.queue.commit_batch(batch, None).unwrap();
    let names: Vec<_> = of_batch.iter().map(|uuid| bench.record(uuid).request.name.clone()).collect();
    assert_eq!(names, ["of the batch 1", "of the batch 2"]);
    assert_eq!(bench.queue.snapshot().entries[&of_batch[0]].first_seen, 18);
    bench.queue.cancel(&uuid("queued"), "x").unwrap();
    assert!(bench.queue.purge(1_790_005_420_000).unwrap() >= 5);
    assert_consistent(&bench.queue);
}

#[test]
fn a_later_version_keeps_every_row_and_is_refused_by_an_earlier_program() {
    let dir = release1();
    let before = contents(dir.path());
    let path = dir.path().join("queue.db");
    let next = [MIGRATIONS, &[NEXT]].concat();
    for _ in 0..2 {
        // The second time there is nothing to do: adding the column again would fail.
        let connection = open_migrated(&path, &next).unwrap();
        let words: i64 =
            connection.query_row("SELECT words FROM containers WHERE id = 1", [], |row| row.get(0)).unwrap();
        assert_eq!(words, 3);
        drop(connection);
        assert_eq!((version(dir.path()), contents(dir.path())), (2, before.clone()));
    }
    let error = open_at(dir.path(), 0).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 2, known: 1, .. }), "{error:?}");
    // A new file gets all of them at once, and both ways lead to the same tables.
    let fresh = tempfile::tempdir().unwrap();
    let schema = |connection: &Connection| {
        let mut rows = connection.prepare("SELECT name, sql FROM sqlite_schema ORDER BY name").unwrap();
        let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.map(Result::unwrap).collect::<Vec<(String, Option<String>)>>()
    };
    let fresh = open_migrated(&fresh.path().join("queue.db"), &next).unwrap();
    assert_eq!(schema(&fresh), schema(&open_migrated(&path, &next).unwrap()));
}

#[test]
fn a_migration_that_fails_leaves_the_old_version() {
    for (failing, damage) in [
        ("SELECT nonsense FROM nowhere", "nowhere"),
        // As a full disk does.
        ("PRAGMA max_page_count = 1; CREATE TABLE more AS SELECT * FROM containers", "full"),
        ("UPDATE containers SET state = NULL", "NOT NULL"),
    ] {
        let dir = release1();
        let before = contents(dir.path());
        let failing = format!("{NEXT} DELETE FROM history; {failing};");
        let error = open_migrated(&dir.path().join("queue.db"), &[MIGRATIONS, &[&failing]].concat()).unwrap_err();
        let OpenError::Open { source, .. } = &error else { panic!("{error:?}") };
        assert!(source.to_string().contains(damage), "{source}");
        assert_eq!((version(dir.path()), contents(dir.path())), (1, before));
        assert_eq!(open_at(dir.path(), 0).unwrap().counts_by_state()[&Running], 3);
    }
}

/// The child's directory; without it the child's test does nothing.
const CHILD_DIR: &str = "MUSTER_TEST_MIGRATION_DIR";

/// Body of the process that is killed: a migration that never ends.
#[test]
fn child_that_migrates_until_it_is_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let endless = "CREATE TABLE more (number INTEGER, text TEXT);
        WITH RECURSIVE numbers (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers)
        INSERT INTO more SELECT number, hex(zeroblob(1000)) FROM numbers;";
    let endless = format!("{NEXT} DELETE FROM history; {endless}");
    open_migrated(&Path::new(&dir).join("queue.db"), &[MIGRATIONS, &[&endless]].concat()).unwrap();
}

#[test]
fn sigkill_within_a_migration_leaves_the_old_version() {
    let dir = release1();
    let before = contents(dir.path());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "queue::local::tests::migration::child_that_migrates_until_it_is_killed"])
        .env(CHILD_DIR, dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // More than its cache holds: parts of the unfinished version are in the file's log.
    let written = || fs::metadata(dir.path().join("queue.db-wal")).map_or(0, |metadata| metadata.len());
    let deadline = Instant::now() + Duration::from_secs(60);
    while written() < 20_000_000 && Instant::now() < deadline {
        assert!(child.try_wait().unwrap().is_none(), "the child ended by itself");
        thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(written() >= 20_000_000, "the child did not get on");
    assert_eq!((version(dir.path()), contents(dir.path())), (1, before));
    assert_eq!(containers(&open_at(dir.path(), 0).unwrap()).len(), 17);
}

/// A stopped daemon's `queue.db` is the whole queue, also when somebody has just read from it.
#[test]
fn everything_is_in_the_one_file_after_the_end() {
    let Bench { dir, clock, queue } = bench();
    let uuid = queue.submit([request()], None).unwrap().remove(0);
    assert!(queue.show(&uuid).unwrap().is_some());
    drop(queue);
    assert!(!dir.path().join("queue.db-wal").exists());
    let copy = tempfile::tempdir().unwrap();
    fs::copy(dir.path().join("queue.db"), copy.path().join("queue.db")).unwrap();
    assert!(open(options(copy.path()), &clock).unwrap().get(&uuid).is_some());
}
