//! The order of what reaches the disk, so that a loss of power at any moment loses nothing (spec 52 §2, 70 §3).
//!
//! One daemon, its runners and their jobs under strace. Of the queue's database the test reads what was synced before the moment in
//! question, as it would be found after a power failure then.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rusqlite::{Connection, OptionalExtension};

use crate::harness::Site;
use crate::trace::{Call, Command, commands, durable, of_daemon};
use crate::verdict;

struct Traced {
    calls: Vec<Call>,
    state_dir: PathBuf,
    uuids: Vec<String>,
}

/// Ten containers at once and, after them, three alone; each has output, a file and a directory. Traced once for all tests.
fn traced() -> &'static Traced {
    static TRACED: OnceLock<Traced> = OnceLock::new();
    TRACED.get_or_init(|| {
        let mut site =
            Site::with("InstanceTypes: {localhost: {VCPUs: 10, RAM: 64GiB, IncludedScratch: 100GiB, Price: 1}}\n");
        let mut uuids: Vec<String> = Vec::new();
        let calls = of_daemon(&mut site, |site| {
            let script = "echo said; mkdir out; echo made > out/file";
            for array in ["1-10", "1-1", "1-1", "1-1"] {
                let words = ["submit", "--array", array, "--output", "out", "--", "sh", "-c", script];
                let new: Vec<String> = site.ok(&words).lines().map(str::to_owned).collect();
                site.ok(&[&["wait"][..], &new.iter().map(String::as_str).collect::<Vec<_>>()].concat());
                uuids.extend(new);
            }
            site.wait_until("the worker is clean", |site| verdict::leftovers(site).is_empty());
        });
        Traced { calls, state_dir: site.state_dir(), uuids }
    })
}

impl Traced {
    /// The runner's commands that are `what`; at least one for each container.
    fn commands(&self, what: &str) -> Vec<Command<'_>> {
        let found = commands(&self.calls, what);
        for uuid in &self.uuids {
            assert!(found.iter().any(|command| command.uuid == *uuid), "no {what} of {uuid}");
        }
        found
    }

    /// The queue as it is after a power failure at that line.
    fn queue_at(&self, moment: usize) -> Queue {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["queue.db", "queue.db-wal"] {
            let bytes = durable(&self.calls, &self.state_dir.join(name), moment);
            std::fs::write(folder.path().join(name), bytes).expect("written");
        }
        let connection = Connection::open(folder.path().join("queue.db")).expect("opens");
        Queue { connection, _folder: folder }
    }

    /// The last call that is `wanted`, of those that returned before the line `before`.
    fn last(&self, what: &str, before: usize, wanted: impl Fn(&Call) -> bool) -> &Call {
        let found = self.calls.iter().rfind(|call| call.end < before && wanted(call));
        found.unwrap_or_else(|| panic!("not before line {before} of the trace: {what}"))
    }

    /// Everything that was written to the file before line `before` was synced by then; gives the sync.
    fn require_synced(&self, path: &str, before: usize) -> &Call {
        let written = self.calls.iter().filter(|call| call.writes() && call.start < before && call.file() == path);
        let written = written.map(|call| call.end).max();
        let synced = self.last(&format!("sync of {path}"), before, |call| call.is_sync_of(path));
        assert!(written < Some(synced.start), "{path} is written after it was synced");
        synced
    }
}

struct Queue {
    connection: Connection,
    _folder: tempfile::TempDir,
}

impl Queue {
    /// The state of the container and whether its result is committed, if this attempt is known.
    fn attempt(&self, command: &Command<'_>) -> Option<(String, bool)> {
        let sql = "SELECT state, collected FROM containers JOIN attempts ON container = id WHERE uuid = ?1 AND attempts.attempt = ?2";
        let key = (&command.uuid, command.attempt);
        self.connection.query_row(sql, key, |row| Ok((row.get(0)?, row.get(1)?))).optional().expect("a queue")
    }
}

#[test]
fn a_runner_has_its_result_on_disk_before_its_lock_goes() {
    let traced = traced();
    for command in traced.commands("-no-detach") {
        let runner = command.call.process;
        let own = |call: &&Call| call.process == runner;
        let moved = |call: &Call| {
            call.moved().is_some_and(|(from, to)| from.ends_with("/result.json~") && to.ends_with("/result.json"))
        };
        let renamed = traced.calls.iter().filter(own).find(|call| moved(call)).expect("a result");
        let (temporary, result) = renamed.moved().expect("two paths");
        traced.require_synced(&temporary, renamed.start);
        let directory = Path::new(&result).parent().and_then(Path::to_str).expect("a directory");
        let lock = format!("/crunch-run-{}.lock", command.uuid);
        let unlocks = |call: &&Call| call.name == "unlink" && call.strings().iter().any(|path| path.ends_with(&lock));
        let unlocked = traced.calls.iter().filter(own).find(unlocks).expect("unlocked");
        let ended = traced.calls.iter().filter(own).find(|call| call.name == "exit").expect("ended");
        let synced = traced.last("sync of the result's directory", unlocked.start, |call| call.is_sync_of(directory));
        assert!(renamed.end < synced.start, "its directory is synced before the result is there");
        assert!(unlocked.end < ended.start, "the lock goes at the end");
    }
}

#[test]
fn an_assignment_is_on_disk_before_its_start_is_sent() {
    let traced = traced();
    for command in traced.commands("--detach") {
        let found = traced.queue_at(command.call.start).attempt(&command);
        let (state, _) = found.unwrap_or_else(|| panic!("{command:?}: its attempt would be unknown"));
        assert!(["Locked", "Running"].contains(&state.as_str()), "{command:?}: {state}");
    }
}

#[test]
fn a_result_is_on_disk_before_the_workers_copy_goes() {
    let traced = traced();
    for command in traced.commands("--forget") {
        let before = command.call.start;
        let place = traced.state_dir.join("containers").join(&command.uuid).join(command.attempt.to_string());
        let is_here = |path: &str| Path::new(path) == place;
        let renamed = traced.last("rename", before, |call| call.moved().is_some_and(|(_, to)| is_here(&to)));
        let (temporary, _) = renamed.moved().expect("two paths");
        for name in ["result.json", "stdout", "stderr", "outputs/out/file", "outputs/out", "outputs", ""] {
            traced.require_synced(format!("{temporary}/{name}").trim_end_matches('/'), renamed.start);
        }
        let container = place.parent().expect("a parent");
        for directory in [container, &traced.state_dir.join("containers")] {
            let path = directory.to_str().expect("text");
            let is_sync = |call: &&Call| renamed.end < call.start && call.end < before && call.is_sync_of(path);
            let synced = traced.calls.iter().find(is_sync);
            let synced = synced.unwrap_or_else(|| panic!("{command:?}: {path} is not synced"));
            // Only then does the queue say so.
            let found = traced.queue_at(synced.end).attempt(&command).expect("known");
            assert!(!found.1, "{command:?}: committed before {path} was synced");
        }
        let found = traced.queue_at(before).attempt(&command);
        assert_eq!(found, Some(("Complete".to_owned(), true)), "{command:?}: its result would be forgotten");
    }
}
