//! The list and its long poll.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use muster_runner::protocol::ContainerSpec;
use rustix::process::{Signal, kill_process};

use crate::common::{Host, parse_list, script, uuid};

fn long_poll(host: &Host, token: &str) -> Child {
    let mut command = host.command(&format!("--list --wait 3000 --known {token}"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// What it answers; keeps its standard input open until then. A poll that misses its event would take an hour.
fn answer(mut poll: Child) -> (Vec<String>, String) {
    let mut text = Vec::new();
    poll.stdout.take().unwrap().read_to_end(&mut text).unwrap();
    assert!(poll.wait().unwrap().success());
    parse_list(&text)
}

#[test]
fn a_long_poll_answers_when_something_changes() {
    let host = Host::new();
    let spec = script(1, "mkfifo fifo; echo > ready; read word < fifo");
    let empty = host.list().1;
    let poll = long_poll(&host, &empty);
    host.started(&spec);
    let (lines, running) = answer(poll);
    assert_eq!(lines, [uuid(1)]);

    host.wait_for_file(&spec, "ready");
    let poll = long_poll(&host, &running);
    fs::write(host.attempt_dir(&uuid(1), 1).join("work/fifo"), "end\n").unwrap();
    let (lines, finished) = answer(poll);
    assert_eq!(lines, [format!("{} finished", uuid(1))]);

    let poll = long_poll(&host, &finished);
    fs::write(host.lock_dir().join("crunch-run-broken"), "").unwrap();
    assert_eq!(answer(poll).0, ["broken".to_owned(), format!("{} finished", uuid(1))]);
    // Another token than the present one: at once.
    assert_eq!(answer(long_poll(&host, &empty)).0.len(), 2);
}

#[test]
fn a_long_poll_notices_a_crash() {
    let host = Host::new();
    let spec = script(1, "echo > ready; while :; do sleep 1; done");
    host.begun(&spec);
    let poll = long_poll(&host, &host.list().1);
    kill_process(host.runner_pid(&uuid(1)), Signal::KILL).unwrap();
    assert_eq!(answer(poll).0, [format!("{} stale", uuid(1))]);
}

#[test]
fn a_long_poll_answers_when_its_caller_hangs_up() {
    let host = Host::new();
    let token = host.list().1;
    let mut poll = long_poll(&host, &token);
    drop(poll.stdin.take());
    assert_eq!(answer(poll), (Vec::new(), token));
}

#[test]
fn a_long_poll_ends_with_its_time() {
    let host = Host::new();
    let token = host.list().1;
    let mut poll = host.command(&format!("--list --wait 0.1 --known {token}"));
    let poll = poll.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(answer(poll), (Vec::new(), token));
}

/// Others have taken all that the kernel grants of watches: then list and stream are looked at again and again.
#[test]
fn without_watches() {
    let host = Host::new();
    let under_strace = |line: &str| {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=inotify_init1"]);
        strace.args(["-e", "inject=inotify_init1:error=EMFILE"]);
        let runner = host.command(line);
        strace.arg(runner.get_program()).args(runner.get_args());
        strace.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("strace is installed")
    };
    let complaint = |poll: &mut Child| {
        let mut line = String::new();
        BufReader::new(poll.stderr.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("cannot watch ") && line.contains("Too many open files"), "{line}");
    };
    let mut poll = under_strace(&format!("--list --wait 3000 --known {}", host.list().1));
    complaint(&mut poll);
    let spec = script(1, "mkfifo fifo; echo > ready; read word < fifo; echo $word");
    host.started(&spec);
    let (lines, running) = answer(poll);
    assert_eq!(lines, [uuid(1)]);

    host.wait_for_file(&spec, "ready");
    let line = format!("--tail {} --attempt 1 --stream stdout --wait 0.3", uuid(1));
    let mut tail = under_strace(&line);
    complaint(&mut tail);
    let nothing_yet = tail.wait_with_output().unwrap();
    assert!(nothing_yet.status.success() && nothing_yet.stdout.is_empty(), "{nothing_yet:?}");

    let mut poll = under_strace(&format!("--list --wait 3000 --known {running}"));
    complaint(&mut poll);
    fs::write(host.attempt_dir(&uuid(1), 1).join("work/fifo"), "end\n").unwrap();
    assert_eq!(answer(poll).0, [format!("{} finished", uuid(1))]);
    let tail = under_strace(&line).wait_with_output().unwrap();
    assert_eq!((tail.status.success(), &*tail.stdout), (true, &b"end\n"[..]), "{tail:?}");
}

/// Two pollers on one host do not keep each other awake: a scan makes no event that wakes the other.
#[test]
fn pollers_sleep() {
    let host = Host::new();
    let spec = script(1, "echo > ready; while :; do sleep 1; done");
    host.begun(&spec);
    let token = host.list().1;
    let mut polls = [long_poll(&host, &token), long_poll(&host, &token)];
    for _ in 0..20 {
        host.list();
    }
    for poll in &mut polls {
        assert!(poll.try_wait().unwrap().is_none(), "answered without a change");
        drop(poll.stdin.take());
    }
    for poll in polls {
        assert_eq!(answer(poll).1, token);
    }
}

#[test]
fn prices_are_kept() {
    let host = Host::new();
    let path = host.lock_dir().join("crunch-run-prices.json");
    assert!(host.run_with("--list --stdin-prices", b"").status.success());
    assert!(!path.exists());
    assert!(host.run_with("--list --stdin-prices", b"[\n1]\n").status.success());
    assert_eq!(fs::read(&path).unwrap(), b"[\n1]\n");
    let token = host.list().1;
    let line = format!("--list --stdin-prices --wait 0.1 --known {token}");
    assert!(host.run_with(&line, b"[2]\n").status.success());
    assert_eq!(fs::read(&path).unwrap(), b"[2]\n");
}

#[test]
fn sets_do_not_see_each_other() {
    let mut host = Host::new();
    let spec = script(1, "echo > ready; while :; do sleep 1; done");
    host.begun(&spec);
    host.set = "another";
    assert_eq!(host.list().0, Vec::<String>::new());
    host.ok(&format!("--kill 15 {} --attempt 9", uuid(1)));
    // The same uuid cannot run twice on a host all the same.
    assert!(!host.start(&ContainerSpec { attempt: 10, ..spec }).status.success());
    host.set = "test-set";
    assert_eq!(host.list().0, [uuid(1)]);
}

#[test]
fn strange_lock_files_are_named_and_harm_nothing() {
    let host = Host::new();
    host.ok("--list");
    let file = host.lock_dir().join(format!("crunch-run-{}.lock", uuid(1)));
    fs::write(&file, "{\"UUID\":\"half").unwrap();
    fs::write(host.lock_dir().join("crunch-run-x.lock"), "other").unwrap();
    let held = fs::File::open(&file).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let output = host.run("--list");
    assert!(output.status.success() && parse_list(&output.stdout).0.is_empty());
    assert!(String::from_utf8(output.stderr).unwrap().contains("cannot understand"));
    host.refused(&format!("--kill 15 {}", uuid(1)));
    drop(held);
    // A process that another test is just starting holds it as well, until it runs its program.
    let until = Instant::now() + crate::common::PATIENCE;
    while !host.run(&format!("--kill 15 {}", uuid(1))).status.success() {
        assert!(Instant::now() < until);
    }
    assert!(!file.exists());
}
