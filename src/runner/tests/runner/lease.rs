//! A machine that comes back: starts only under the lease that holds it, and giving it back (spec 46 §1).

use std::fs;
use std::time::{Duration, Instant, SystemTime};

use muster_runner::protocol::{ContainerSpec, StartConfig};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Signal, kill_process};

use crate::common::{Host, message, script, uuid, wait_gone};

const LEASE: &str = "5e5e5e5e";

fn hold(host: &Host, text: &str) {
    fs::create_dir_all(host.state_dir()).unwrap();
    fs::write(host.state_dir().join("owner"), text).unwrap();
}

fn held() -> Host {
    let host = Host::new();
    hold(&host, &format!("test-set\nnode1 {LEASE}\n"));
    host
}

fn start(host: &Host, spec: &ContainerSpec, lease: &str) -> std::process::Output {
    let config = StartConfig { container: Some(spec.clone()), ..StartConfig::default() };
    let line = format!("--detach --stdin-config --lease {lease} {} --attempt {}", spec.uuid, spec.attempt);
    host.run_with(&line, &serde_json::to_vec(&config).unwrap())
}

fn release(host: &Host) -> String {
    String::from_utf8(host.ok(&format!("--release --lease {LEASE}"))).unwrap()
}

fn owned(host: &Host) -> bool {
    host.state_dir().join("owner").exists()
}

/// A start that arrives when the machine is nobody's, another set's, or in another life of it, starts nothing and leaves nothing.
#[test]
fn starts_only_under_the_lease_that_holds_the_machine() {
    let host = held();
    for owner in
        ["", "test-set\n", "other-set\nnode1 5e5e5e5e\n", "test-set\nnode1 0ther\n", "test-set\nnode1 5e5e5e5e5\n"]
    {
        hold(&host, owner);
        let text = message(&start(&host, &script(1, "true"), LEASE));
        assert!(text.contains("not held by the set \"test-set\" under the lease 5e5e5e5e"), "{owner:?}: {text}");
    }
    fs::remove_file(host.state_dir().join("owner")).unwrap();
    assert!(message(&start(&host, &script(1, "true"), LEASE)).contains("nothing was started"));
    assert_eq!(host.list().0, Vec::<String>::new());
    assert!(!host.state_dir().join("set-test-set").exists(), "no attempt is noted that never was");
    // The same attempt may start when it is its turn.
    hold(&host, &format!("test-set\nnode1 {LEASE}\n"));
    assert!(start(&host, &script(1, "true"), LEASE).status.success());
    host.wait_for(&format!("{} finished", uuid(1)));
}

/// Where nothing would start, nothing should be sent to.
#[test]
fn a_list_under_a_lease_that_is_over_says_broken() {
    let host = held();
    let list = |lease: &str| String::from_utf8(host.ok(&format!("--list {lease}"))).unwrap();
    let line = format!("--lease {LEASE}");
    assert!(!list(&line).contains("broken"));
    for owner in ["", "other-set\nnode1 5e5e5e5e\n", "test-set\nnode1 0ther\n"] {
        hold(&host, owner);
        assert!(list(&line).starts_with("broken\n"), "{owner:?}");
        assert!(!list("").contains("broken"), "nobody asked");
    }
    fs::remove_file(host.state_dir().join("owner")).unwrap();
    assert!(list(&line).starts_with("broken\n"));
}

/// The directory of locks is often everybody's: what another user puts there, a job for example, holds no machine up.
#[test]
fn files_of_others_among_the_locks() {
    if !rustix::process::geteuid().is_root() {
        // Nobody else's files can be made; what they look like is tested as root.
        return;
    }
    let host = held();
    let nobody = Some(65_534);
    fs::create_dir_all(host.lock_dir()).unwrap();
    for (n, make) in [
        (1, (|path| fs::write(path, "").unwrap()) as fn(&std::path::Path)),
        (2, |path| fs::create_dir(path).unwrap()),
        (3, |path| std::os::unix::fs::symlink("/etc/passwd", path).unwrap()),
    ] {
        let path = host.lock_dir().join(format!("crunch-run-{}.lock", uuid(n)));
        make(&path);
        std::os::unix::fs::lchown(&path, nobody, nobody).unwrap();
    }
    let mark = host.lock_dir().join("crunch-run-broken");
    fs::write(&mark, "").unwrap();
    std::os::unix::fs::chown(&mark, nobody, nobody).unwrap();
    assert_eq!(host.list().0, Vec::<String>::new());
    std::os::unix::fs::chown(&mark, Some(0), Some(0)).unwrap();
    assert_eq!(host.list().0, ["broken"]);
    assert_eq!(release(&host), "released\n");
}

/// On a full disk nothing can be written down: what runs is told to end all the same, and what is useless makes room.
#[test]
fn no_room_for_a_tombstone() {
    let host = held();
    assert!(start(&host, &script(1, "exec sleep 600"), LEASE).status.success());
    let runner = host.runner_pid(&uuid(1));
    let tombstones = host.state_dir().join("tombstones-test-set");
    fs::write(&tombstones, "no directory").unwrap();
    let refused = host.refused(&format!("--kill 15 --attempt 1 {}", uuid(1)));
    assert!(refused.contains("tombstones"), "{refused}");
    wait_gone(runner);
    let dir = host.attempt_dir(&uuid(1), 1);
    fs::remove_file(dir.join("result.json")).unwrap();
    // What is of no use goes, so there may be room the next time.
    let refused = host.refused(&format!("--release --lease {LEASE}"));
    assert!(refused.contains("tombstones") && !dir.exists(), "{refused}");
    fs::remove_file(&tombstones).unwrap();
    assert_eq!(release(&host), "released\n");
}

#[test]
fn a_machine_is_given_back_only_when_nothing_runs() {
    let host = held();
    let spec = script(1, "echo > ready; while :; do sleep 0.1; done");
    assert!(start(&host, &spec, LEASE).status.success());
    host.wait_for_file(&spec, "ready");
    let runner = host.runner_pid(&uuid(1));
    let line = format!("--release --lease {LEASE}");
    assert!(host.refused(&line).contains(&format!("{}: runs: the machine is not given back", uuid(1))));
    kill_process(runner, Signal::KILL).unwrap();
    wait_gone(runner);
    assert!(host.refused(&line).contains("has left processes"));
    host.ok(&format!("--reap {}", uuid(1)));
    // One that has its lock, and has not said yet what it is.
    let lock = host.lock_dir().join(format!("crunch-run-{}.lock", uuid(2)));
    let file = fs::File::create(&lock).unwrap();
    flock(&file, FlockOperation::LockExclusive).unwrap();
    assert!(host.refused(&line).contains("is just being started"));
    fs::write(&lock, "?").unwrap();
    assert!(host.refused(&line).contains("cannot understand"));
    drop(file);
    assert!(owned(&host));
    fs::write(host.lock_dir().join("crunch-run-broken"), "").unwrap();
    // A process that another test is just starting holds the lock as well, until it runs its program.
    let until = Instant::now() + crate::common::PATIENCE;
    let mut output = host.run(&line);
    while !output.status.success() {
        assert!(Instant::now() < until, "{output:?}");
        crate::common::pause();
        output = host.run(&line);
    }
    assert_eq!(output.stdout, b"released\n");
    assert!(!owned(&host) && !host.lock_dir().join("crunch-run-broken").exists());
    assert_eq!(release(&host), "not held\n", "may be repeated");
}

/// What another set runs or holds is its own.
#[test]
fn what_others_hold_is_left_alone() {
    let host = held();
    let mut theirs = Host::new();
    theirs.set = "other-set";
    let mut command = theirs.command(&format!("--release --lease {LEASE}"));
    command.arg("--state-dir").arg(host.state_dir());
    let output = command.output().unwrap();
    assert_eq!((output.stdout.as_slice(), output.status.code()), (&b"not held\n"[..], Some(0)));
    assert!(owned(&host));
    assert_eq!(host.ok("--release --lease another"), b"not held\n");
    assert!(owned(&host));
    hold(&host, "");
    assert_eq!(release(&host), "not held\n");
    assert!(owned(&host), "one that is damaged says nothing");
}

/// Crashed attempts leave directories; results wait to be collected, but not for ever; an attempt that is removed never starts again.
#[test]
fn what_is_left_when_a_machine_is_given_back() {
    let host = held();
    for n in 1..=3 {
        assert!(start(&host, &script(n, "echo x > file"), LEASE).status.success());
    }
    let result = |n| host.attempt_dir(&uuid(n), 1).join("result.json");
    // Before they let go of their locks, which is after their results are there, nothing would be given back.
    host.wait_for_all(&[1, 2, 3].map(|n| format!("{} finished", uuid(n))));
    fs::remove_file(result(1)).unwrap();
    let old = SystemTime::now() - Duration::from_secs(31 * 86_400);
    fs::File::open(result(2)).unwrap().set_modified(old).unwrap();
    // Too large to be brought back: `--forget` leaves the working directory.
    let kept = host.attempt_dir(&uuid(4), 1).join("work");
    fs::create_dir_all(&kept).unwrap();
    fs::write(kept.with_file_name("kept"), "").unwrap();
    assert_eq!(release(&host), "released\n");
    assert_eq!(host.list().0, [format!("{} finished", uuid(3))]);
    assert!(!host.attempt_dir(&uuid(1), 1).exists() && !host.attempt_dir(&uuid(2), 1).exists() && kept.exists());
    hold(&host, &format!("test-set\nnode1 {LEASE}\n"));
    assert!(message(&start(&host, &script(1, "true"), LEASE)).contains("may not start here"));
}

/// So that many can be asked in a moment.
#[test]
fn a_kill_may_not_wait() {
    let host = held();
    let spec = script(1, "trap '' TERM; echo began > began; while :; do sleep 0.1; done");
    assert!(start(&host, &spec, LEASE).status.success());
    host.wait_for_file(&spec, "began");
    // The runner gives its job ten seconds.
    assert!(host.refused(&format!("--kill 15 {} --attempt 1 --wait 0", uuid(1))).contains("still alive"));
    assert!(host.refused(&format!("--kill 0 {} --attempt 1", uuid(1))).contains("still alive"));
}
