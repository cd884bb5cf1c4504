//! What was acknowledged survives: dropping, copying the files at any time, SIGKILL.

use std::io::{BufRead, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::*;
use ContainerState::{Locked, Queued};

/// The child's directory; without it the child's test does nothing.
const CHILD_DIR: &str = "MUSTER_TEST_QUEUE_DIR";

/// Body of the process that is killed: submits, locks and assigns for ever, and says what was acknowledged.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let clock = Arc::new(AtomicI64::new(0));
    let queue = open(options(Path::new(&dir)), &clock).unwrap();
    let acknowledged =
        fs::OpenOptions::new().append(true).create(true).open(Path::new(&dir).join("acknowledged")).unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut file = &acknowledged;
                // One write per line: they do not mix, and the kernel keeps them when the process dies.
                let mut say =
                    |uuid: &ContainerUuid, what: &str| file.write_all(format!("{uuid} {what}\n").as_bytes()).unwrap();
                loop {
                    let uuid = queue.submit(vec![request()], None).unwrap().remove(0);
                    say(&uuid, "Queued");
                    queue.lock(&uuid).unwrap();
                    say(&uuid, "Locked");
                    queue.assign(&uuid, 1, &at("i-1")).unwrap();
                    say(&uuid, "assigned");
                }
            });
        }
    });
}

#[test]
fn what_was_acknowledged_before_sigkill_is_there() {
    let dir = tempfile::tempdir().unwrap();
    for round in 1..=3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "queue::local::tests::crash::child_that_writes_until_it_is_killed"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let path = dir.path().join("acknowledged");
        let deadline = Instant::now() + Duration::from_secs(60);
        let lines = || fs::read_to_string(&path).unwrap_or_default().lines().count();
        while lines() < 100 * round && Instant::now() < deadline {
            assert!(child.try_wait().unwrap().is_none(), "the child ended by itself");
            thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(lines() >= 100 * round, "the child did not get on");
        let queue = open(options(dir.path()), &Arc::new(AtomicI64::new(0))).unwrap();
        for line in BufReader::new(fs::File::open(&path).unwrap()).lines() {
            let line = line.unwrap();
            let (uuid, what) = line.split_once(' ').unwrap();
            let container = queue.get(&ContainerUuid::parse(uuid).unwrap()).unwrap();
            let at_least = match what {
                "Queued" => true,
                "Locked" => container.state == Locked,
                _ => container.state == Locked && container.attempt == 1,
            };
            assert!(at_least, "{line}, but it is {container:?}");
        }
        assert_consistent(&queue);
    }
}

/// The child's directory for arrays.
const ARRAY_DIR: &str = "MUSTER_TEST_ARRAY_DIR";
const ELEMENTS: usize = 10_000;

/// Body of the process that is killed: submits arrays for ever.
#[test]
fn child_that_submits_arrays_until_it_is_killed() {
    let Ok(dir) = std::env::var(ARRAY_DIR) else { return };
    let queue = open(options(Path::new(&dir)), &Arc::new(AtomicI64::new(0))).unwrap();
    loop {
        queue.submit(array(i64::try_from(ELEMENTS).unwrap()), None).unwrap();
    }
}

/// While one of 10,000 is being stored: all of it is there afterwards, or nothing of it.
#[test]
fn sigkill_within_an_array_leaves_whole_ones() {
    let dir = tempfile::tempdir().unwrap();
    let mut whole = 0;
    for round in 1..=3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "queue::local::tests::crash::child_that_submits_arrays_until_it_is_killed"])
            .env(ARRAY_DIR, dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // The log has just been written to: a commit is under way.
        let stored = || fs::metadata(dir.path().join("queue.db-wal")).and_then(|metadata| metadata.modified()).ok();
        let deadline = Instant::now() + Duration::from_secs(120);
        let (mut looks, mut before) = (0, stored());
        while looks < round * 2 && Instant::now() < deadline {
            assert!(child.try_wait().unwrap().is_none(), "the child ended by itself");
            if stored() != before {
                (looks, before) = (looks + 1, stored());
            }
            thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(looks >= round * 2, "the child did not get on");
        let queue = open(options(dir.path()), &Arc::new(AtomicI64::new(0))).unwrap();
        let queued = queue.counts_by_state()[&Queued];
        assert!(queued.is_multiple_of(ELEMENTS) && queued >= whole, "{queued}");
        whole = queued;
        assert_consistent(&queue);
    }
}

#[test]
fn a_copy_of_the_files_at_any_point_is_a_queue() {
    let bench = bench();
    let mut expected = Vec::new();
    for number in 0..20 {
        let uuid = bench.submit(request());
        if number % 2 == 0 {
            bench.queue.lock(&uuid).unwrap();
        }
        expected.push((uuid, if number % 2 == 0 { Locked } else { Queued }));
        // As after a power failure: nothing was closed, the log is as it was written.
        let copy = tempfile::tempdir().unwrap();
        for name in ["queue.db", "queue.db-wal"] {
            fs::copy(bench.dir.path().join(name), copy.path().join(name)).unwrap();
        }
        // A half-written next commit at the end of the log must not matter.
        let mut log = fs::OpenOptions::new().append(true).open(copy.path().join("queue.db-wal")).unwrap();
        log.write_all(&vec![0x5a; number * 313]).unwrap();
        let restored = open(options(copy.path()), &bench.clock).unwrap();
        let found: Vec<_> =
            expected.iter().map(|(uuid, _)| (uuid.clone(), restored.get(uuid).unwrap().state)).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn dropping_waits_for_what_was_asked() {
    let bench = bench();
    let uuids = bench.queue.submit(vec![request(); 100], None).unwrap();
    let locked: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = uuids.iter().map(|uuid| scope.spawn(|| bench.queue.lock(uuid))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(locked.iter().all(Result::is_ok));
    let bench = bench.reopen();
    assert_eq!(bench.queue.counts_by_state()[&Locked], 100);
}
