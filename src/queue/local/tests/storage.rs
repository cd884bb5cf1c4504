//! The file: damage, foreign and newer files, full disks, purging, backups, groups of commits.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt;

use super::super::submission::{New, Submission};
use super::*;
use ContainerState::{Locked, Queued};

fn reopen_fails(dir: &Path, clock: &Arc<AtomicI64>) -> OpenError {
    let path = dir.join("queue.db");
    let before = fs::read(&path).unwrap();
    let error = open(options(dir), clock).unwrap_err();
    assert_eq!(fs::read(&path).unwrap(), before, "the file is left as it was");
    error
}

#[test]
fn a_damaged_file_is_refused_and_left_alone() {
    let Bench { dir, clock, queue } = bench();
    queue.submit(array(2000), None).unwrap();
    drop(queue);
    let path = dir.path().join("queue.db");
    let whole = fs::read(&path).unwrap();
    for spoil in [
        |bytes: &mut Vec<u8>| bytes[..100].fill(b'x'),
        |bytes: &mut Vec<u8>| bytes[4096 * 5..].fill(0xff),
        |bytes: &mut Vec<u8>| bytes.truncate(4096 * 9 + 17),
    ] {
        let mut bytes = whole.clone();
        spoil(&mut bytes);
        fs::write(&path, bytes).unwrap();
        let error = reopen_fails(dir.path(), &clock);
        assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
    }
    fs::write(&path, b"").unwrap();
    fs::create_dir_all(dir.path().join("containers/local-dz642-000000000000001")).unwrap();
    assert!(matches!(reopen_fails(dir.path(), &clock), OpenError::Damaged { .. }));
    fs::write(&path, whole).unwrap();
    assert_eq!(open(options(dir.path()), &clock).unwrap().counts_by_state()[&Queued], 2000);
}

#[test]
fn foreign_and_newer_files_are_refused() {
    let Bench { dir, clock, queue } = bench();
    drop(queue);
    let connection = Connection::open(dir.path().join("queue.db")).unwrap();
    connection.execute_batch("PRAGMA user_version = 2").unwrap();
    connection.close().unwrap();
    let error = reopen_fails(dir.path(), &clock);
    assert!(matches!(error, OpenError::Newer { found: 2, known: 1, .. }), "{error:?}");

    let dir = tempfile::tempdir().unwrap();
    let connection = Connection::open(dir.path().join("queue.db")).unwrap();
    connection.execute_batch("CREATE TABLE t (x)").unwrap();
    connection.close().unwrap();
    assert!(matches!(reopen_fails(dir.path(), &clock), OpenError::Foreign { .. }));

    let missing = dir.path().join("missing");
    assert!(matches!(open(options(&missing), &clock), Err(OpenError::Open { .. })));
    let bad = LocalQueueOptions { cluster_id: "Local".to_owned(), ..options(dir.path()) };
    assert!(matches!(open(bad, &clock), Err(OpenError::ClusterId(_))));
}

#[test]
fn the_file_is_for_its_owner_only() {
    let bench = bench();
    bench.submit(request());
    for name in ["queue.db", "queue.db-wal"] {
        let mode = fs::metadata(bench.dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_full_disk_is_told_and_gone_on_from() {
    let bench = bench();
    let uuid = bench.submit(request());
    bench.queue.write(Write::Pragma("max_page_count = 1")).unwrap();
    let all = array(5000);
    let error = bench.queue.submit(all.clone(), Some("t")).unwrap_err();
    assert!(
        matches!(error, CommandError::Queue(QueueError::Storage { operation: "store a submission", .. })),
        "{error:?}"
    );
    assert!(bench.queue.trouble().unwrap().contains("full"));
    assert_eq!(bench.queue.counts_by_state()[&Queued], 1);
    assert_consistent(&bench.queue);
    // What needs no more room goes on, and shows that writing works.
    bench.queue.lock(&uuid).unwrap();
    assert_eq!(bench.queue.trouble(), None);
    let _ = bench.queue.submit(all.clone(), Some("t")).unwrap_err();
    assert!(bench.queue.trouble().is_some());
    bench.queue.write(Write::Pragma("max_page_count = 1000000")).unwrap();
    bench.queue.update(Moment::ZERO).unwrap();
    assert_eq!(bench.queue.trouble(), None);
    assert_eq!(bench.queue.submit(all, Some("t")).unwrap().len(), 5000);
}

#[test]
fn a_locked_database_is_trouble_until_it_is_free() {
    let bench = bench();
    let uuid = bench.submit(request());
    let other = Connection::open(bench.dir.path().join("queue.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(matches!(bench.queue.lock(&uuid), Err(QueueError::Storage { operation: "lock a container", .. })));
    assert!(bench.queue.trouble().unwrap().contains("locked"));
    assert!(bench.queue.update(Moment::ZERO).is_err());
    assert_eq!(bench.record(&uuid).state, Queued);
    other.execute_batch("COMMIT").unwrap();
    bench.queue.update(Moment::ZERO).unwrap();
    assert_eq!(bench.queue.trouble(), None);
    bench.queue.lock(&uuid).unwrap();
}

#[test]
fn one_refused_step_does_not_spoil_its_group() {
    let bench = bench();
    let uuids = bench.queue.submit(vec![request(); 200], None).unwrap();
    // While the file is locked by another, all of these gather behind the first and become one group.
    let other = Connection::open(bench.dir.path().join("queue.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let answers: Vec<_> = thread::scope(|scope| {
        let lock = |uuid| move || bench_lock(uuid);
        let queue = &bench.queue;
        fn bench_lock(both: (&LocalQueue, &ContainerUuid)) -> Result<(), QueueError> {
            both.0.lock(both.1)
        }
        // Each is locked twice: one of the two is refused.
        let threads: Vec<_> = uuids.iter().chain(&uuids).map(|uuid| scope.spawn(lock((&**queue, uuid)))).collect();
        other.execute_batch("COMMIT").unwrap();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 200);
    assert!(answers.iter().all(|answer| matches!(answer, Ok(()) | Err(QueueError::WrongState { .. }))));
    assert_eq!(bench.queue.counts_by_state()[&Locked], 200);
    let bench = bench.reopen();
    assert_eq!(bench.queue.counts_by_state()[&Locked], 200);
    assert_consistent(&bench.queue);
    assert!(uuids.iter().all(|uuid| bench.events(uuid) == ["submitted", "locked"]));
}

/// Writes these as one group; the answers, in order.
fn write_as_one_group(dir: &Path, writes: Vec<Write>) -> Vec<Result<Done, CommandError>> {
    let connection = schema::open_writer(&dir.join("queue.db")).unwrap();
    let shared = Shared::new(Arc::new(|| 5), eight_cores());
    let (sender, receiver) = writer::channel();
    let mut answers = Vec::new();
    for write in writes {
        let (job, answer) = Job::new(write);
        sender.send(job).unwrap();
        answers.push(answer);
    }
    drop(sender);
    writer::run(&connection, &receiver, &shared);
    answers.into_iter().map(|answer| answer.recv().unwrap()).collect()
}

fn submission(requests: Vec<ContainerRequest>) -> Write {
    submission_of_version(0, requests)
}

/// Its types were chosen by the selector of this version; that of a fresh queue is 0.
fn submission_of_version(selector_version: u64, requests: Vec<ContainerRequest>) -> Write {
    let new = |request: ContainerRequest| {
        let request = Arc::new(request);
        New { line: None, fit: cores("huge", 99)(&request).unwrap(), request }
    };
    Write::Submit(Submission {
        cluster_id: "local".to_owned(),
        max_queued: 6000,
        requests: requests.into_iter().map(new).collect(),
        selector_version,
        token: None,
        batch: None,
    })
}

#[test]
fn a_step_that_fails_half_way_leaves_no_trace_in_its_group() {
    let dir = tempfile::tempdir().unwrap();
    let unknown = ContainerUuid::parse("local-dz642-000000000000000").unwrap();
    let spoilt = ContainerRequest { after: vec![unknown.clone()], ..request() };
    let answers = write_as_one_group(
        dir.path(),
        vec![
            submission(vec![request(); 2]),
            submission(vec![request(), request(), spoilt]),
            Write::Lock(unknown),
            submission(vec![request(); 3]),
            // Counts what the group has added so far, not what it refused.
            submission(vec![request(); 5996]),
        ],
    );
    let stored: Vec<_> = answers
        .iter()
        .map(|answer| match answer {
            Ok(Done::Submitted(uuids)) => uuids.len(),
            Err(CommandError::TooMany { waiting, .. }) => 1000 + waiting,
            Err(CommandError::Invalid { .. } | CommandError::Queue(QueueError::NotFound(_))) => 0,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(stored, [2, 0, 0, 3, 1005]);
    let queue = open(options(dir.path()), &Arc::new(AtomicI64::new(0))).unwrap();
    assert_eq!(queue.snapshot().entries.len(), 5);
    assert_consistent(&queue);
}

#[test]
fn types_chosen_before_a_reload_are_chosen_anew() {
    let dir = tempfile::tempdir().unwrap();
    let large = ContainerRequest { vcpus: 9, ..request() };
    let answers = write_as_one_group(
        dir.path(),
        vec![submission_of_version(0, vec![large.clone()]), submission_of_version(1, vec![large])],
    );
    assert!(matches!(answers[0], Ok(Done::Submitted(_))));
    let Err(error) = &answers[1] else { panic!("{:?}", answers[1]) };
    assert!(error.to_string().contains("not satisfiable"), "{error}");
}

#[test]
fn answers_of_a_group_on_a_full_disk_are_true() {
    let dir = tempfile::tempdir().unwrap();
    let answers = write_as_one_group(
        dir.path(),
        vec![
            submission(vec![request(); 2]),
            Write::Pragma("max_page_count = 1"),
            submission(vec![request(); 5000]),
            Write::Probe,
        ],
    );
    assert!(matches!(answers[2], Err(CommandError::Queue(QueueError::Storage { .. }))), "{:?}", answers[2]);
    let queue = open(options(dir.path()), &Arc::new(AtomicI64::new(0))).unwrap();
    assert_eq!(queue.snapshot().entries.len(), if answers[0].is_ok() { 2 } else { 0 });
}

#[test]
fn trouble_is_not_over_because_something_was_refused() {
    let bench = bench();
    let uuid = bench.submit(request());
    bench.queue.write(Write::Pragma("max_page_count = 1")).unwrap();
    let _ = bench.queue.submit(array(5000), None).unwrap_err();
    assert!(bench.queue.unlock(&uuid).is_err());
    bench.queue.attempt_lost(&uuid, 7, LostReason::RunnerCrashed).unwrap();
    assert!(bench.queue.trouble().is_some());
}

#[test]
fn a_refused_submission_leaves_the_rest_of_its_group() {
    let bench = bench_with(|options| options.max_queued = 100);
    let submitted: usize = thread::scope(|scope| {
        let submit = || bench.queue.submit(vec![request(); 30], None).map_or(0, |uuids| uuids.len());
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(submit)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(submitted, 90);
    assert_eq!(bench.queue.counts_by_state()[&Queued], 90);
    assert_consistent(&bench.queue);
}

#[test]
fn old_containers_are_purged_with_their_files() {
    let bench = bench();
    let token = bench.queue.submit(vec![request(); 2], Some("t")).unwrap();
    let old = bench.assigned(request());
    bench.finish(&old, 1, r#""reason":"exited","exit_code":0"#).unwrap();
    bench.queue.cancel(&token[0], "x").unwrap();
    bench.later(1000);
    let fresh = bench.submit(request());
    bench.queue.cancel(&fresh, "x").unwrap();
    let waiting = bench.submit(request());
    assert!(bench.queue.result_dir(&old, 1).exists());
    assert_eq!(bench.queue.purge(1_000_500).unwrap(), 2);
    assert!(bench.queue.show(&old).unwrap().is_none());
    assert!(bench.queue.get(&old).is_none());
    assert!(!bench.queue.result_dir(&old, 1).parent().unwrap().exists());
    for kept in [&fresh, &waiting, &token[1]] {
        assert!(bench.queue.show(kept).unwrap().is_some());
    }
    assert_consistent(&bench.queue);
    assert_eq!(bench.queue.submit(vec![request(); 2], Some("t")).unwrap(), token, "one of them is still there");
    bench.queue.cancel(&token[1], "x").unwrap();
    bench.later(1000);
    assert_eq!(bench.queue.purge(i64::MAX).unwrap(), 2);
    assert_ne!(bench.queue.submit(vec![request(); 2], Some("t")).unwrap(), token);
    assert_eq!(bench.queue.purge(i64::MAX).unwrap(), 0);
}

#[test]
fn purging_goes_on_after_what_cannot_be_removed() {
    let bench = bench();
    let uuids = bench.queue.submit(vec![request(); 3], None).unwrap();
    for uuid in &uuids {
        bench.queue.cancel(uuid, "x").unwrap();
        bench.later(1000);
    }
    // A file where its directory should be: it is no directory to remove.
    let stuck = bench.queue.result_dir(&uuids[0], 1).parent().unwrap().to_owned();
    std::fs::create_dir_all(stuck.parent().unwrap()).unwrap();
    std::fs::write(&stuck, "").unwrap();
    assert!(bench.queue.purge(i64::MAX).is_err());
    let kept = uuids.iter().map(|uuid| bench.queue.show(uuid).unwrap().is_some());
    assert_eq!(kept.collect::<Vec<_>>(), [true, false, false]);
    std::fs::remove_file(&stuck).unwrap();
    assert_eq!(bench.queue.purge(i64::MAX).unwrap(), 1);
}

#[test]
fn purging_goes_on_through_many_steps() {
    let bench = bench();
    let count = usize::try_from(maintenance::PURGE_STEP).unwrap() * 2 + 1;
    let uuids = bench.queue.submit(vec![request(); count], None).unwrap();
    for uuid in &uuids {
        bench.queue.cancel(uuid, "x").unwrap();
    }
    assert_eq!(bench.queue.purge(i64::MAX).unwrap(), count);
    assert!(bench.queue.snapshot().entries.is_empty());
}

#[test]
fn a_backup_is_a_whole_queue() {
    let bench = bench();
    let uuid = bench.assigned(request());
    let copy = tempfile::tempdir().unwrap();
    let path = copy.path().join("queue.db");
    bench.queue.backup(&path).unwrap();
    bench.finish(&uuid, 1, r#""reason":"exited","exit_code":0"#).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let error = bench.queue.backup(&path).unwrap_err();
    assert!(matches!(error, CommandError::Backup { .. }), "{error:?}");
    let restored = open(options(copy.path()), &bench.clock).unwrap();
    assert_eq!(restored.get(&uuid).unwrap().state, Locked);
    assert_eq!(restored.show(&uuid).unwrap().unwrap().attempts.len(), 1);
}

#[test]
fn damage_while_it_runs_is_trouble() {
    let bench = bench();
    bench.queue.submit(array(3000), None).unwrap();
    // Closing brings everything into the one file; its pages are then spoilt behind the queue's back.
    let bench = bench.reopen();
    let mut file = OpenOptions::new().write(true).open(bench.dir.path().join("queue.db")).unwrap();
    let pages = file.metadata().unwrap().len() / 4096;
    for page in 2..pages {
        file.seek(SeekFrom::Start(page * 4096)).unwrap();
        file.write_all(&[0xff; 64]).unwrap();
    }
    bench.queue.write(Write::Pragma("shrink_memory")).unwrap();
    let uuid = bench.queue.snapshot().entries.keys().next().unwrap().clone();
    assert!(matches!(bench.queue.lock(&uuid), Err(QueueError::Storage { .. })));
    assert!(bench.queue.trouble().unwrap().contains("damaged"));
    assert!(bench.queue.list(&ListFilter::default()).is_err());
}
