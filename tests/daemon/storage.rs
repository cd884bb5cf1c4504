//! The queue's file and what others do to it: backups, damage, locks, and the removal of what is old.

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Stdio;

use rusqlite::Connection;

use crate::harness::Site;
use crate::instances::http;

/// What a copy holds, opened by a daemon of its own.
fn queue_of_copy(file: &Path) -> (Site, Vec<(String, String)>) {
    let mut site = Site::new();
    std::fs::create_dir(site.state_dir()).expect("made");
    std::fs::copy(file, site.state_dir().join("queue.db")).expect("copied");
    site.start();
    let list = site.json(&["list", "--limit", "0"]);
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    let items = list["items"].as_array().expect("a list").iter();
    let held = items.map(|one| (text(&one["uuid"]), text(&one["state"]))).collect();
    (site, held)
}

/// Copies while containers come and go: each is a queue that opens, with every container that had been acknowledged before.
#[test]
fn backups_while_it_works() {
    let mut site = Site::started();
    let mut known = Vec::new();
    let mut copies = Vec::new();
    let busy = site.ok(&["submit", "--array", "1-300", "--", "true"]);
    for number in 0..5 {
        known.extend(
            site.ok(&["submit", "--priority", "0", "--array", "1-50", "--", "true"]).lines().map(str::to_owned),
        );
        let name = format!("copy-{number}.db");
        // By a path that is relative to where the command runs, not the daemon.
        let output = site.command(&["backup", &name]).current_dir(site.folder()).output().expect("runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        copies.push((site.folder().join(name), known.clone()));
    }
    let before = std::fs::read(&copies[0].0).expect("there");
    let (code, text) = site.fails(&["backup", &copies[0].0.to_string_lossy()]);
    assert!(code == 1 && text.contains("copy-0.db") && text.contains("exists"), "{code} {text}");
    assert_eq!(std::fs::read(&copies[0].0).expect("there"), before, "an existing file is left alone");
    let nowhere = site.folder().join("nowhere/copy.db");
    let (code, text) = site.fails(&["backup", &nowhere.to_string_lossy()]);
    assert!(code == 1 && text.contains("nowhere/copy.db"), "{code} {text}");
    site.ok(&[&["wait"][..], &busy.lines().collect::<Vec<_>>()].concat());
    site.stop();
    for (file, known) in &copies {
        let (mut restored, held) = queue_of_copy(file);
        for uuid in known {
            assert!(held.contains(&(uuid.clone(), "Queued".to_owned())), "{uuid} is not in {}", file.display());
        }
        restored.stop();
    }
}

/// It says so and ends; the file is as it was. A backup in its place brings the queue back.
#[test]
fn a_damaged_queue_is_refused_at_the_start() {
    let mut site = Site::started();
    let uuids = site.ok(&["submit", "--priority", "0", "--array", "1-2000", "--", "true"]);
    let copy = site.folder().join("copy.db");
    site.ok(&["backup", &copy.to_string_lossy()]);
    site.stop();
    let path = site.state_dir().join("queue.db");
    let mut bytes = std::fs::read(&path).expect("there");
    bytes[4096 * 5..4096 * 60].fill(0xff);
    std::fs::write(&path, &bytes).expect("written");
    let output = site.daemon().stderr(Stdio::piped()).output().expect("runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned() + &site.log();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("queue.db is damaged") && told.contains("restore a backup"), "{told}");
    assert_eq!(std::fs::read(&path).expect("there"), bytes, "never: a damaged file is replaced or changed");
    std::fs::rename(&copy, &path).expect("restored");
    site.start();
    assert_eq!(site.json(&["status"])["containers"]["Queued"].as_u64(), Some(uuids.lines().count() as u64));
    site.stop();
}

/// While it runs: it says so where people look, starts nothing, and does not replace the file either.
#[test]
fn a_queue_that_is_damaged_while_it_runs_is_told() {
    let mut site = Site::started();
    let gate = site.folder().join("runs/gate");
    let running = site.submit(&["--", "sh", "-c", &format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display())]);
    site.wait_state(&running, "Running");
    // More than its cache holds.
    site.ok(&["submit", "--priority", "0", "--array", "1-40000", "--", "true"]);
    let path = site.state_dir().join("queue.db");
    let copy = site.folder().join("copy.db");
    site.ok(&["backup", &copy.to_string_lossy()]);
    // All that was written is in the file, and the log is empty: then the file's pages are spoilt.
    let other = Connection::open(&path).expect("opened");
    let busy: i64 = other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).expect("done");
    assert_eq!(busy, 0);
    drop(other);
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).expect("opened");
    for page in 1..file.metadata().expect("there").len() / 4096 {
        file.seek(SeekFrom::Start(page * 4096)).expect("sought");
        file.write_all(&[0xff; 64]).expect("written");
    }
    let refused = site.run(&["submit", "--array", "1-2000", "--", "true"]);
    assert!(!refused.status.success(), "{refused:?}");
    site.wait_until("status says what is wrong", |site| {
        let status = site.ok(&["status"]);
        status.contains("TROUBLE") && status.contains("damaged") && status.contains("restore a backup")
    });
    assert!(site.has_logged(&["damaged", "level=error"]));
    site.kill_9();
    let before = std::fs::read(&path).expect("there");
    let output = site.daemon().output().expect("runs");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(std::fs::read(&path).expect("there"), before, "never: a damaged file is replaced or changed");
    // The backup knows the container that ran all the time: it is adopted, and its result collected.
    std::fs::rename(&copy, &path).expect("restored");
    for left in ["queue.db-wal", "queue.db-shm"] {
        let _ = std::fs::remove_file(site.state_dir().join(left));
    }
    site.start();
    assert_eq!(site.state(&running), "Running");
    std::fs::write(&gate, b"").expect("written");
    site.ok(&["wait", &running]);
    site.stop();
}

fn health(site: &Site) -> String {
    let token = std::fs::read_to_string(site.state_dir().join("management-token")).expect("made");
    http::request(&http::address(site), "GET", "/_health/ping", token.trim())
}

/// Another program holds the file: what cannot be stored is refused, what runs is watched, and it goes on by itself.
#[test]
fn a_queue_that_another_program_has_locked() {
    let mut site = Site::started();
    let gate = site.folder().join("runs/gate");
    let running = site.submit(&["--", "sh", "-c", &format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display())]);
    site.wait_state(&running, "Running");
    let other = Connection::open(site.state_dir().join("queue.db")).expect("opened");
    other.execute_batch("BEGIN IMMEDIATE").expect("locked");
    let refused = site.run(&["submit", "--", "true"]);
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && text.contains("locked"), "{text}");
    let status = site.ok(&["status"]);
    assert!(status.contains("TROUBLE") && status.contains("locked"), "{status}");
    let unhealthy = health(&site);
    assert!(!unhealthy.contains("\"health\":\"OK\"") && unhealthy.contains("locked"), "{unhealthy}");
    // It ends meanwhile: the result is kept until it can be stored.
    std::fs::write(&gate, b"").expect("written");
    site.wait_until("the result cannot be stored", |site| site.has_logged(&["cannot store the result", &running]));
    assert_eq!(site.state(&running), "Running");
    other.execute_batch("ROLLBACK").expect("released");
    site.wait_state(&running, "Complete");
    site.wait_until("the trouble is over", |site| !site.ok(&["status"]).contains("TROUBLE"));
    assert!(health(&site).contains("\"health\":\"OK\""));
    let uuid = site.submit(&["--", "true"]);
    site.ok(&["wait", &uuid]);
    site.stop();
}

/// Old ones go with their files; with 0 they stay for ever.
#[test]
fn finished_containers_are_removed_after_their_time() {
    let retain = |site: &Site, time: &str| {
        site.configure("");
        let text = std::fs::read_to_string(site.config()).expect("written");
        let keys = format!("Muster:\n  Queue: {{RetainFinished: {time}}}\n");
        std::fs::write(site.config(), text.replacen("Muster:\n", &keys, 1)).expect("written");
    };
    let mut site = Site::new();
    retain(&site, "0");
    site.start();
    let uuid = site.submit(&["--token", "t", "--", "echo", "here"]);
    site.ok(&["wait", &uuid]);
    let held = site.submit(&["--priority", "0", "--after", &uuid, "--", "true"]);
    let finished_at = site.show(&uuid)["container"]["finished_at"].as_i64().expect("ended");
    site.wait_until("a second has passed", |_| jiff::Timestamp::now().as_millisecond() > finished_at + 1500);
    // What is old is looked for at each start.
    site.stop();
    site.start();
    let other = site.submit(&["--", "true"]);
    site.ok(&["wait", &other]);
    assert_eq!(site.ok(&["logs", &uuid]), "here\n", "0 = never");
    let files = site.state_dir().join("containers").join(&uuid);
    assert!(files.join("1/stdout").exists());
    site.stop();
    retain(&site, "1s");
    site.start();
    site.wait_until("it is removed", |site| site.fails(&["show", &uuid]).0 == 3);
    assert!(!files.exists() && site.has_logged(&["removed old containers"]), "{}", site.log());
    for command in ["logs", "wait", "cancel", "rerun"] {
        let (code, text) = site.fails(&[command, &uuid]);
        assert!(code == 3 && text.contains(&uuid), "{command}: {code} {text}");
    }
    assert_eq!(site.state(&held), "Queued", "what has not ended is never old");
    assert_ne!(site.submit(&["--token", "t", "--", "true"]), uuid, "its token is free again");
    site.stop();
}
