//! The commands that change and keep containers.

use crate::harness::Site;

#[test]
fn tokens_make_a_submission_repeatable() {
    let mut site = Site::started();
    let first = site.submit(&["--token", "abc", "--", "true"]);
    assert_eq!(site.submit(&["--token", "abc", "--", "true"]), first);
    site.kill_9();
    site.start();
    assert_eq!(site.submit(&["--token", "abc", "--", "true"]), first);
    site.ok(&["wait", &first]);
    site.stop();
}

#[test]
fn selections_by_name_and_state() {
    let mut site = Site::started();
    site.ok(&["submit", "--name", "batch-a", "--array", "1-3", "--priority", "0", "--", "true"]);
    site.ok(&["submit", "--name", "other", "--priority", "0", "--", "true"]);
    assert_eq!(site.json(&["list", "--name", "batch-*"])["items"].as_array().map(Vec::len), Some(3));
    let cancelled = site.ok(&["cancel", "--name", "batch-*"]);
    assert_eq!(cancelled.lines().count(), 3, "{cancelled}");
    assert_eq!(site.json(&["list", "--state", "Cancelled"])["items"].as_array().map(Vec::len), Some(3));
    assert_eq!(site.json(&["list", "--state", "Queued"])["items"].as_array().map(Vec::len), Some(1));
    site.stop();
}

#[test]
fn backup_is_a_queue_that_opens() {
    let mut site = Site::started();
    let uuid = site.submit(&["--", "true"]);
    site.ok(&["wait", &uuid]);
    let file = site.folder().join("copy.db");
    site.ok(&["backup", &file.to_string_lossy()]);
    site.stop();
    std::fs::rename(&file, site.state_dir().join("queue.db")).expect("restored");
    for left in ["queue.db-wal", "queue.db-shm"] {
        let _ = std::fs::remove_file(site.state_dir().join(left));
    }
    site.start();
    assert_eq!(site.state(&uuid), "Complete");
    site.stop();
}

#[test]
fn instance_types_and_status() {
    let mut site = Site::started();
    let types = site.json(&["instance-type", "list"]);
    assert_eq!(types["items"][0]["name"], "localhost");
    let status = site.json(&["status"]);
    assert_eq!(status["missed_wakeups"], 0);
    assert_eq!(status["trouble"].as_array().map(Vec::len), Some(0), "{status:#}");
    assert!(site.ok(&["status"]).contains("Queued"));
    site.stop();
}

/// Many at once are a few transactions, and each has its own answer.
#[test]
fn thousands_at_once() {
    let mut site = Site::started();
    let array = site.ok(&["submit", "--priority", "0", "--array", "1-3000", "--", "true"]);
    let all: Vec<&str> = array.lines().collect();
    assert_eq!(site.ok(&["priority", "0", "--state", "Queued"]).lines().count(), 3000);
    let nobody = "local-dz642-000000000000000";
    let output = site.run(&["cancel", all[0], nobody, all[1]]);
    let lines = |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&output.stdout), [format!("{}: cancelled", all[0]), format!("{}: cancelled", all[1])]);
    assert!(String::from_utf8_lossy(&output.stderr).contains(nobody), "{output:?}");
    // Answers belong to their uuids, also beyond what is asked at a time: every tenth has ended, the rest is cancelled.
    let tenths: Vec<&str> = all[10..1000].iter().step_by(10).copied().collect();
    site.ok(&[&["cancel"], &tenths[..]].concat());
    let output = site.run(&[&["cancel"], &all[10..1000]].concat());
    let others = all[10..1000].iter().filter(|uuid| !tenths.contains(uuid));
    assert_eq!(lines(&output.stdout), others.map(|uuid| format!("{uuid}: cancelled")).collect::<Vec<_>>());
    let refused = lines(&output.stderr);
    assert_eq!(refused.len(), tenths.len());
    assert!(tenths.iter().zip(&refused).all(|(uuid, line)| line.contains(uuid)), "{refused:?}");
    assert_eq!(site.ok(&["cancel", "--state", "Queued"]).lines().count(), 3000 - 2 - 990);
    assert_eq!(site.json(&["status"])["containers"]["Cancelled"], 3000);
    let (code, said) = site.fails(&["cancel", all[0]]);
    assert_eq!((code, said.contains("cannot cancel when Cancelled")), (1, true), "{said}");
    site.stop();
}
