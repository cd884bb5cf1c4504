//! Directories for locks and state that cannot be used, or not any more.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use muster_runner::protocol::StartConfig;
use rustix::process::geteuid;

use crate::common::{Host, message, parse_list, script, uuid};

/// The program in mount namespace of its own, where `setup` has changed the usual places for root; its state is in `/run`.
fn with_mounts(setup: &str, line: &str) -> Output {
    let script = format!("set -e; {setup}; exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]);
    command.arg(env!("CARGO_BIN_EXE_muster-runner")).args(line.split_whitespace());
    command.args(["--set", "s", "--state-dir", "/run/state"]).output().unwrap()
}

/// Nothing runs there by an oversight: the directory is named.
#[test]
fn lock_directories_that_cannot_be_used() {
    if !geteuid().is_root() {
        // Mounts are root's, and so are these places.
        return;
    }
    let run = "mount -t tmpfs run /run; mkdir -m 711 /run/state";
    let var = "mount -t tmpfs var /var";
    let read_only = "mkdir /run/lock; mount -t tmpfs -o ro lock /run/lock";
    for (setup, named) in [
        (format!("{run}; {var}"), "neither /run/lock nor /var/lock is a directory"),
        (format!("{run}; {var}; ln -s /nowhere /var/lock; echo > /run/lock"), "neither /run/lock nor /var/lock"),
        (format!("{run}; {read_only}"), "/run/lock/crunch-run-all.lock: Read-only file system"),
        // The other could be used: but the first is where others look.
        (format!("{run}; {var}; mkdir /var/lock; {read_only}"), "/run/lock/crunch-run-all.lock: Read-only file system"),
        (
            format!("{run}; {var}; mkdir /var/lock; mount -o remount,ro /var"),
            "/var/lock/crunch-run-all.lock: Read-only",
        ),
    ] {
        for line in ["--list".to_owned(), format!("--kill 15 {}", uuid(1)), "--release --lease x".to_owned()] {
            let text = message(&with_mounts(&setup, &line));
            assert!(text.contains(named) && !text.contains("panicked"), "{setup}: {line}: {text}");
        }
    }
    let state = format!("{run}; mkdir /run/lock; rmdir /run/state; mount -o remount,ro /run");
    let text = message(&with_mounts(&state, "--list"));
    assert!(text.contains("cannot create /run/state: Read-only file system"), "{text}");
    // One that is missing is no trouble where the other is.
    let output = with_mounts(&format!("{run}; {var}; mkdir /var/lock"), "--list");
    assert!(output.status.success() && parse_list(&output.stdout).0.is_empty(), "{output:?}");
}

/// Locks were there before it became read-only: then starts would fail, one after the other, and each would cost its container an attempt.
#[test]
fn what_became_read_only_is_broken() {
    if !geteuid().is_root() {
        // As above; what a mode does is tested without root.
        return;
    }
    let run = "mount -t tmpfs run /run; mkdir -p /run/lock /run/state";
    let lock = "mount -t tmpfs lock /run/lock; : > /run/lock/crunch-run-all.lock; mount -o remount,ro /run/lock";
    let state = "mount -t tmpfs state /run/state; mount -o remount,ro,mode=755 /run/state";
    for (setup, dir) in [(lock, "/run/lock"), (state, "/run/state")] {
        let output = with_mounts(&format!("{run}; {setup}"), "--list");
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        let why = format!("broken\n#broken nothing can be written in {dir}: Read-only file system");
        assert!(output.status.success() && text.starts_with(&why), "{dir}: {output:?}");
    }
}

/// What runs goes on, can be ended and collected; nothing is started.
#[test]
fn what_runs_goes_on_without_room_for_more() {
    let host = Host::without_root();
    let spec = script(1, "trap 'exit 0' TERM; echo > ready; while :; do sleep 0.1; done");
    host.begun(&spec);
    let mode = |mode| fs::set_permissions(host.lock_dir(), Permissions::from_mode(mode)).unwrap();
    mode(0o555);
    assert_eq!(host.list().0, ["broken".to_owned(), uuid(1)]);
    let config = StartConfig { container: Some(script(2, "true")), ..StartConfig::default() };
    let start = host.run_with(&format!("--detach --stdin-config {}", uuid(2)), &serde_json::to_vec(&config).unwrap());
    let text = message(&start);
    assert!(text.contains(&host.lock_dir().display().to_string()) && text.contains("Permission denied"), "{text}");
    host.run(&format!("--kill 15 {} --attempt 1", uuid(1)));
    // Its lock cannot be removed, only let go.
    let deadline = std::time::Instant::now() + crate::common::PATIENCE;
    while host.list().0 != ["broken".to_owned(), format!("{} finished", uuid(1))] {
        assert!(std::time::Instant::now() < deadline, "{:?}", host.list());
        crate::common::pause();
    }
    host.ok(&format!("--collect {} --attempt 1", uuid(1)));
    host.ok(&format!("--forget {} --attempt 1", uuid(1)));
    mode(0o700);
    assert_eq!(host.list().0, Vec::<String>::new());
    host.finished(&script(2, "true"));
}
