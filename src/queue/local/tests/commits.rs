//! How much is committed at once, counted in the write-ahead log: it has a frame for each page that a transaction changed, and the last
//! one says that the transaction is complete.

use super::super::writer::{self, Job};
use super::*;

const LOG_HEAD: usize = 32;
const FRAME_HEAD: usize = 24;
const PAGE: usize = 4096;

/// Transactions in the log of this queue since it was begun anew.
fn transactions(dir: &Path) -> usize {
    let log = fs::read(dir.join("queue.db-wal")).unwrap();
    let salts = log[16..24].to_vec();
    let frames = log[LOG_HEAD..].chunks_exact(FRAME_HEAD + PAGE).take_while(|frame| frame[8..16] == salts);
    frames.filter(|frame| frame[4..8] != [0; 4]).count()
}

/// Its log only grows.
fn bench_with_whole_log() -> Bench {
    let bench = bench();
    bench.queue.write(Write::Pragma("wal_autocheckpoint = 0")).unwrap();
    bench
}

#[test]
fn an_array_is_one_transaction() {
    let bench = bench_with_whole_log();
    let before = transactions(bench.dir.path());
    bench.queue.submit(array(10_000), Some("t")).unwrap();
    assert_eq!(transactions(bench.dir.path()), before + 1);
    bench.submit(request());
    assert_eq!(transactions(bench.dir.path()), before + 2);
}

#[test]
fn a_batch_is_one_transaction_beside_its_pieces() {
    let bench = bench_with_whole_log();
    let batch = bench.queue.create_batch().unwrap();
    let lines = "{\"command\":[\"true\"]}\n".repeat(1000);
    for _ in 0..3 {
        bench.queue.append_batch(&batch, lines.as_bytes()).unwrap();
    }
    let before = transactions(bench.dir.path());
    assert_eq!(bench.queue.commit_batch(&batch, None).unwrap().len(), 3000);
    assert_eq!(transactions(bench.dir.path()), before + 1);
}

/// A result that leads from Locked over Running to Complete is one, with its attempt, its history and those that waited for it.
#[test]
fn a_result_is_one_transaction() {
    let bench = bench_with_whole_log();
    let uuid = bench.assigned(request());
    let followers: Vec<_> = (0..3).map(|_| ContainerRequest { after: vec![uuid.clone()], ..request() }).collect();
    let followers = bench.queue.submit(followers, None).unwrap();
    let before = transactions(bench.dir.path());
    bench.finish(&uuid, 1, r#""reason":"exited","exit_code":1"#).unwrap();
    assert_eq!(transactions(bench.dir.path()), before + 1);
    assert!(followers.iter().all(|uuid| bench.record(uuid).state == ContainerState::Cancelled));
}

/// What gathers while the disk is busy shares the next commit.
#[test]
fn concurrent_transitions_share_a_commit() {
    let Bench { dir, queue, .. } = bench();
    let uuids = queue.submit(array(100), None).unwrap();
    drop(queue);
    let connection = schema::open_writer(&dir.path().join("queue.db")).unwrap();
    connection.execute_batch("PRAGMA wal_autocheckpoint = 0; UPDATE probe SET time = 1").unwrap();
    let before = transactions(dir.path());
    let (sender, receiver) = writer::channel();
    let answers: Vec<_> = uuids
        .iter()
        .map(|uuid| {
            let (job, answer) = Job::new(Write::Lock(uuid.clone()));
            sender.send(job).unwrap();
            answer
        })
        .collect();
    drop(sender);
    let shared = Shared::new(Arc::new(|| 5), eight_cores());
    writer::run(&connection, &receiver, &shared);
    assert!(answers.into_iter().all(|answer| answer.recv().unwrap().is_ok()));
    assert_eq!(transactions(dir.path()), before + 1);
}

/// A committed state survives the loss of power: SQLite waits for the disk at each commit.
#[test]
fn the_writer_waits_for_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let connection = schema::open_writer(&dir.path().join("queue.db")).unwrap();
    let pragma = |name: &str| {
        connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, rusqlite::types::Value>(0)).unwrap()
    };
    assert_eq!(pragma("journal_mode"), rusqlite::types::Value::Text("wal".to_owned()));
    assert_eq!(pragma("synchronous"), rusqlite::types::Value::Integer(2), "FULL");
}
