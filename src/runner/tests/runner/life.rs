//! From start to forgotten; what may start and what may not; crashes.

use std::fs;
use std::io::Read;

use muster_runner::protocol::{ContainerSpec, Reason};
use rustix::process::{Signal, kill_process};

use crate::common::{Host, PATIENCE, message, parse_list, pause, script, uuid};

#[test]
fn a_whole_life() {
    let host = Host::new();
    let spec = ContainerSpec {
        stdin: "go\n".into(),
        outputs: vec!["out".into()],
        ..script(1, "read word; echo got $word; echo bad >&2; mkdir out; echo data > out/file; exit 3")
    };
    let answer = host.start(&spec);
    assert!(answer.status.success(), "{answer:?}");
    let answer: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!(answer["UUID"], uuid(1));
    assert!(answer["PID"].as_i64().is_some_and(|pid| pid > 1));
    host.wait_for(&format!("{} finished", uuid(1)));
    let list = String::from_utf8(host.ok("--list")).unwrap();
    assert!(list.contains(&format!("#attempt {} 1\n", uuid(1))), "{list}");

    let archive = host.ok(&format!("--collect {} --attempt 1", uuid(1)));
    let mut contents = Vec::new();
    for entry in tar::Archive::new(&*archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        contents.push((entry.path().unwrap().to_str().unwrap().to_owned(), text));
    }
    let names: Vec<&str> = contents.iter().map(|(name, _)| name.trim_end_matches('/')).collect();
    assert_eq!(names, ["result.json", "stdout", "stderr", "outputs/out", "outputs/out/file"]);
    assert_eq!((contents[1].1.as_str(), contents[2].1.as_str()), ("got go\n", "bad\n"));
    assert_eq!(contents[4].1, "data\n");
    let result: muster_runner::protocol::ResultRecord = serde_json::from_str(&contents[0].1).unwrap();
    assert_eq!((result.reason, result.exit_code, result.signal), (Reason::Exited, Some(3), None));
    assert_eq!((result.stdout_bytes, result.stderr_bytes), (7, 4));
    assert!(result.started_at <= result.finished_at && result.peak_memory.is_some_and(|bytes| bytes > 100_000));

    host.ok(&format!("--forget {} --attempt 1", uuid(1)));
    host.ok(&format!("--forget {} --attempt 1", uuid(1)));
    assert_eq!(host.list().0, Vec::<String>::new());
    assert!(!host.attempt_dir(&uuid(1), 1).parent().unwrap().exists());
    host.refused(&format!("--collect {} --attempt 1", uuid(1)));
}

#[test]
fn an_attempt_starts_once() {
    let host = Host::new();
    let spec = script(2, "echo > ready; while :; do sleep 1; done");
    host.begun(&spec);
    let text = message(&host.start(&spec));
    assert!(text.contains("temporarily unavailable"), "{text}");
    host.refused(&format!("--forget {} --attempt 1", uuid(2)));
    // Killing an older attempt spares this one.
    let newer = ContainerSpec { attempt: 2, ..spec.clone() };
    host.run(&format!("--kill 15 {} --attempt 1", uuid(2)));
    host.wait_for(&format!("{} finished", uuid(2)));
    let text = message(&host.start(&spec));
    assert!(text.contains("attempt 1"), "{text}");
    host.ok(&format!("--forget {} --attempt 1", uuid(2)));
    assert!(message(&host.start(&spec)).contains("forgotten"));
    host.begun(&newer);
    host.ok(&format!("--kill 15 {} --attempt 1", uuid(2)));
    assert_eq!(host.list().0, [uuid(2)]);
}

#[test]
fn a_tombstone_stops_a_start_that_is_on_its_way() {
    let host = Host::new();
    assert!(host.ok(&format!("--kill 15 {} --attempt 2", uuid(3))).is_empty());
    for attempt in [1, 2] {
        let text = message(&host.start(&ContainerSpec { attempt, ..script(3, "true") }));
        assert!(text.contains("given up"), "{text}");
    }
    assert_eq!(host.list().0, Vec::<String>::new());
    let result = host.finished(&ContainerSpec { attempt: 3, ..script(3, "true") });
    assert_eq!((result.attempt, result.exit_code), (3, Some(0)));
    // Which of them has been here is told, also when nothing of it is left but files.
    for (attempt, told) in [(2, ""), (3, "has run\n"), (4, "")] {
        let answer = host.ok(&format!("--kill 15 {} --attempt {attempt}", uuid(3)));
        assert_eq!(String::from_utf8_lossy(&answer), told, "attempt {attempt}");
    }
    // Without an attempt there is no tombstone.
    host.ok(&format!("--kill 15 {}", uuid(4)));
    host.started(&script(4, "true"));
}

#[test]
fn the_newest_result_of_a_container_is_listed() {
    let host = Host::new();
    host.finished(&script(5, "exit 1"));
    host.finished(&ContainerSpec { attempt: 2, ..script(5, "exit 2") });
    assert!(
        String::from_utf8(host.ok("--list")).unwrap().starts_with(&format!("{0} finished\n#attempt {0} 2\n", uuid(5)))
    );
    host.ok(&format!("--forget {} --attempt 2", uuid(5)));
    assert!(
        String::from_utf8(host.ok("--list")).unwrap().starts_with(&format!("{0} finished\n#attempt {0} 1\n", uuid(5)))
    );
}

#[test]
fn a_killed_runner_leaves_a_stale_lock_until_reaped() {
    let host = Host::new();
    let spec = script(6, "trap '' TERM; sleep 1000 & echo $! > child; while :; do sleep 1; done");
    host.started(&spec);
    host.wait_for_file(&spec, "child");
    host.refused(&format!("--reap {} --attempt 1", uuid(6)));
    let runner = host.runner_pid(&uuid(6));
    kill_process(runner, Signal::KILL).unwrap();
    host.wait_for(&format!("{} stale", uuid(6)));
    host.refused(&format!("--forget {} --attempt 1", uuid(6)));
    let text = message(&host.start(&ContainerSpec { attempt: 2, ..spec.clone() }));
    assert!(text.contains("temporarily unavailable"), "{text}");
    host.ok(&format!("--reap {} --attempt 1", uuid(6)));
    assert_eq!(host.list().0, Vec::<String>::new());
    let child = host.wait_for_file(&spec, "child");
    assert!(!running(child.trim()), "the job's child lives");
    host.refused(&format!("--collect {} --attempt 1", uuid(6)));
    assert!(message(&host.start(&spec)).contains("has run here"));
    host.ok(&format!("--forget {} --attempt 1", uuid(6)));
    host.ok(&format!("--reap {} --attempt 1", uuid(6)));
}

/// As sudo and many daemons do, before they start anything.
#[test]
fn a_job_that_has_closed_the_lock_is_stale_too() {
    let host = Host::new();
    let spec =
        script(11, "for fd in 3 4 5 6 7 8 9; do eval \"exec $fd<&-\"; done; echo > ready; while :; do sleep 1; done");
    host.begun(&spec);
    host.crash(&uuid(11));
    host.wait_for(&format!("{} stale", uuid(11)));
    assert!(!host.start(&ContainerSpec { attempt: 2, ..spec.clone() }).status.success());
    host.ok(&format!("--reap {} --attempt 1", uuid(11)));
    assert_eq!(host.list().0, Vec::<String>::new());
}

#[test]
fn a_stale_lock_ends_with_the_job() {
    let host = Host::new();
    let spec = script(7, "echo > ready; read line < fifo");
    let fifo =
        ContainerSpec { command: vec!["sh".into(), "-c".into(), format!("mkfifo fifo; {}", spec.command[2])], ..spec };
    host.begun(&fifo);
    host.crash(&uuid(7));
    host.wait_for(&format!("{} stale", uuid(7)));
    fs::write(host.attempt_dir(&uuid(7), 1).join("work/fifo"), "end\n").unwrap();
    host.wait_for("");
}

/// Who was to forget an attempt that crashed may have crashed as well; nobody asks for it any more. Results are another matter.
#[test]
fn forgetting_takes_along_what_crashed_before() {
    let host = Host::new();
    host.finished(&script(12, "echo kept"));
    for attempt in [2, 3] {
        let spec = ContainerSpec { attempt, ..script(12, "echo > ready; while :; do sleep 1; done") };
        host.begun(&spec);
        host.crash(&uuid(12));
        host.ok(&format!("--reap {} --attempt {attempt}", uuid(12)));
    }
    // It crashed before it had files for the job's output.
    fs::remove_file(host.attempt_dir(&uuid(12), 3).join("stdout")).unwrap();
    host.finished(&ContainerSpec { attempt: 4, ..script(12, "true") });
    host.ok(&format!("--forget {} --attempt 4", uuid(12)));
    let left = [1, 2, 3, 4].map(|attempt| host.attempt_dir(&uuid(12), attempt).exists());
    assert_eq!(left, [true, false, false, false]);
    host.ok(&format!("--collect {} --attempt 1", uuid(12)));
}

#[test]
fn crashed_starts_leave_nothing_in_the_way() {
    let host = Host::new();
    host.ok("--list");
    // A parent that died between creating the lock file and starting the runner.
    fs::write(host.lock_dir().join(format!("crunch-run-{}.lock", uuid(8))), "").unwrap();
    // One of a runner that is long gone.
    let old = format!("{{\"UUID\":\"{}\",\"PID\":1}}\n", uuid(9));
    fs::write(host.lock_dir().join(format!("crunch-run-{}.lock", uuid(9))), old).unwrap();
    host.ok(&format!("--kill 15 {}", uuid(8)));
    assert_eq!(host.list().0, Vec::<String>::new());
    host.finished(&script(8, "true"));
    // A configuration that was cut.
    let output = host.run_with(&format!("--detach --stdin-config {}", uuid(9)), b"{\"Env\":{},\"Contai");
    assert!(message(&output).contains("not valid"));
    host.started(&script(9, "true"));
}

#[test]
fn engines_and_images_are_refused_by_name() {
    let host = Host::new();
    let text = message(&host.start(&ContainerSpec { engine: "docker".into(), ..script(10, "true") }));
    assert!(text.contains("docker"), "{text}");
    // Nothing has run: the attempt may still start.
    host.started(&script(10, "true"));
}

#[test]
fn usage_errors_and_facts() {
    let host = Host::new();
    for line in ["--frobnicate", "--kill 15", "--collect local-dz642-000000000000001", ""] {
        assert_eq!(host.run(line).status.code(), Some(2), "{line}");
    }
    assert!(host.refused(&format!("--kill 9 {}", uuid(1))).contains("15"));
    let version = String::from_utf8(host.ok("--version")).unwrap();
    assert_eq!(muster_runner::protocol::parse_version(&version).map(|(_, protocol)| protocol), Some(1));
    let facts: muster_runner::protocol::Facts = serde_json::from_slice(&host.ok("--facts")).unwrap();
    assert!(facts.cpus >= 1 && facts.ram > 1 << 20 && facts.free_disk > 0, "{facts:?}");
    // Others as far as they are here.
    assert_eq!(facts.engines[0], "process");
}

#[test]
fn a_lock_directory_of_another_user_is_refused() {
    let host = Host::new();
    fs::create_dir(host.lock_dir()).unwrap();
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if uid == 0 {
        std::os::unix::fs::chown(host.lock_dir(), Some(65534), Some(gid)).unwrap();
        assert!(host.refused("--list").contains("65534"));
    } else {
        let mut permissions = fs::metadata(host.lock_dir()).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o777);
        fs::set_permissions(host.lock_dir(), permissions).unwrap();
        assert!(host.refused("--list").contains("other users"));
    }
    let missing = host.lock_dir().join("a-file");
    fs::write(host.state_dir(), "").unwrap();
    let output = host.command("--list").arg("--lock-dir").arg(missing).output().unwrap();
    assert!(message(&output).contains("state"), "{output:?}");
    assert!(parse_list(b"# t\n").0.is_empty());
}

fn running(pid: &str) -> bool {
    let deadline = std::time::Instant::now() + PATIENCE / 12;
    while std::time::Instant::now() < deadline {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if stat.is_empty() || stat.contains(") Z ") {
            return false;
        }
        pause();
    }
    true
}
