//! Jobs in images with a real podman.

use std::collections::BTreeMap;
use std::fs;

use muster_runner::protocol::{ContainerSpec, Limits, Reason};
use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::common::{Host, uuid, wait_gone};
use crate::podman::{IMAGE, Store};

/// A host with a podman that keeps everything beneath the host's own directory.
struct Podman {
    host: Host,
    store: Store,
}

impl Podman {
    fn new() -> Self {
        let host = Host::new();
        Self { store: Store::new(host.path()), host }
    }

    fn spec(&self, n: usize, command: &[&str]) -> ContainerSpec {
        ContainerSpec {
            uuid: uuid(n),
            attempt: 1,
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            engine: "podman".into(),
            engine_arguments: self.store.engine_arguments(),
            image: IMAGE.into(),
            ..ContainerSpec::default()
        }
    }

    fn script(&self, n: usize, script: &str) -> ContainerSpec {
        self.spec(n, &["sh", "-c", script])
    }

    /// Of a container whose job has begun.
    fn first_process(&self, spec: &ContainerSpec) -> Pid {
        let text = fs::read_to_string(self.host.attempt_dir(&spec.uuid, 1).join("pid")).unwrap();
        Pid::from_raw(text.trim().parse().unwrap()).unwrap()
    }
}

#[test]
fn a_job_in_an_image() {
    let podman = Podman::new();
    let host = &podman.host;
    assert!(host.facts().engines.contains(&"podman".to_owned()));
    let value = "a=b 'c' \"d\" $E # \\ *";
    let environment = BTreeMap::from([("MINE".to_owned(), value.to_owned()), ("HOST".to_owned(), String::new())]);
    let script = "cat; echo \"$MINE|$MUSTER_ATTEMPT|$MUSTER_ARRAY_INDEX|$HOME\"; id -u; pwd; ls /; echo err >&2; \
                  echo made > out; touch $TMPDIR/x; exit 3";
    let spec = ContainerSpec {
        environment,
        array_index: Some(7),
        stdin: "from stdin\n".into(),
        outputs: vec!["out".into()],
        limits: Limits { vcpus: 1, ram: 256 << 20, ..Limits::default() },
        ..podman.script(1, script)
    };
    let result = host.finished(&spec);
    let work = host.attempt_dir(&spec.uuid, 1).join("work");
    assert_eq!(
        (result.reason, result.exit_code),
        (Reason::Exited, Some(3)),
        "{result:?} {}",
        host.stream(&spec, "stderr")
    );
    let user = if geteuid().is_root() { 65534 } else { geteuid().as_raw() };
    let expected = format!("from stdin\n{value}|1|7|{}\n{user}\n{}\nbin\ndev\netc\n", work.display(), work.display());
    let stdout = host.stream(&spec, "stdout");
    assert!(stdout.starts_with(&expected), "{stdout}");
    assert_eq!(host.stream(&spec, "stderr"), "err\n");
    assert_eq!(result.outputs, ["out"]);
    assert!(!host.attempt_dir(&spec.uuid, 1).join("environment").exists());
    podman.store.assert_empty();
    host.ok(&format!("--forget {} --attempt 1", spec.uuid));
    host.wait_for("");
}

#[test]
fn ends() {
    let podman = Podman::new();
    let host = &podman.host;
    let ends = |spec: &ContainerSpec| {
        let result = host.finished(spec);
        podman.store.assert_empty();
        host.ok(&format!("--forget {} --attempt 1", spec.uuid));
        result
    };
    let result = ends(&podman.spec(1, &["no-such-command"]));
    assert_eq!((result.reason, result.exit_code), (Reason::Exited, Some(127)), "{result:?}");
    let result = ends(&podman.script(2, "kill -9 $$; sleep 1; exit 125"));
    // The first process of a container is out of its own signals' reach.
    assert_eq!((result.reason, result.exit_code), (Reason::Exited, Some(125)), "{result:?}");
    let missing = ContainerSpec { image: "localhost/no-such-image:1".into(), ..podman.script(3, "true") };
    let result = ends(&missing);
    assert_eq!((result.reason, result.exit_code), (Reason::EngineError, None), "{result:?}");
    assert!(result.detail.contains("no-such-image"), "{}", result.detail);
    // podman has the same exit code for this, and it is no fault of the command.
    let result = ends(&ContainerSpec { cwd: "/proc/nowhere".into(), ..podman.script(6, "true") });
    assert_eq!((result.reason, result.exit_code), (Reason::EngineError, None), "{result:?}");
    // A program in the image that changes to root gets nothing of it.
    let script = "[ $(cat /proc/self/status | wc -l) -gt 9 ]; while read name value; do case $name in \
                  NoNewPrivs:) [ $value = 1 ] || exit 1 ;; Cap*) [ $value = 0000000000000000 ] || exit 2 ;; esac; done \
                  < /proc/self/status";
    let result = ends(&podman.script(7, script));
    assert_eq!((result.reason, result.exit_code), (Reason::Exited, Some(0)), "{result:?}");
    // It counts from the engine's start, and the trap must be set by then.
    let limits = Limits { max_run_time_s: Some(5.0), ..Limits::default() };
    let result = ends(&ContainerSpec { limits, ..podman.script(4, "trap 'exit 9' TERM; while :; do sleep 0.1; done") });
    assert_eq!((result.reason, result.exit_code), (Reason::MaxRunTime, Some(9)), "{result:?}");
    let limits = Limits { ram: 32 << 20, ..Limits::default() };
    let hog = ContainerSpec { limits, ..podman.spec(5, &["dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"]) };
    let result = ends(&hog);
    assert_eq!((result.reason, result.exit_code), (Reason::Oom, Some(137)), "{result:?}");
    assert!(!host.lock_dir().join("crunch-run-broken").exists());
}

/// The first process of a container ignores TERM unless it handles it.
#[test]
fn a_kill_goes_through_the_engine() {
    let podman = Podman::new();
    let host = &podman.host;
    let spec = podman.script(1, "echo > ready; sleep 1000");
    host.begun(&spec);
    host.run(&format!("--kill 15 {} --attempt 1", spec.uuid));
    host.wait_for(&format!("{} finished", spec.uuid));
    let result = host.result(&spec);
    assert_eq!((result.reason, result.exit_code), (Reason::Killed, Some(137)), "{result:?}");
    // The engine's container was looked at while it ran.
    assert!(result.peak_memory.is_some_and(|bytes| bytes > 0) && result.cpu_seconds.is_some(), "{result:?}");
    podman.store.assert_empty();
}

/// A client that is killed leaves its container running: the attempt has failed, and the container goes.
#[test]
fn a_killed_client_does_not_leave_its_container() {
    let podman = Podman::new();
    let host = &podman.host;
    let spec = podman.script(1, "echo > ready; sleep 1000");
    host.begun(&spec);
    let runner = host.runner_pid(&spec.uuid);
    let first = podman.first_process(&spec);
    kill_process(client_of(runner), Signal::KILL).unwrap();
    host.wait_for(&format!("{} finished", spec.uuid));
    let result = host.result(&spec);
    assert_eq!((result.reason, result.exit_code), (Reason::EngineError, None), "{result:?}");
    podman.store.assert_empty();
    wait_gone(first);
}

fn client_of(runner: Pid) -> Pid {
    let runner = runner.as_raw_nonzero();
    let text = fs::read_to_string(format!("/proc/{runner}/task/{runner}/children")).unwrap();
    let is_client =
        |pid: &&str| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "podman");
    Pid::from_raw(text.split_whitespace().find(is_client).expect("a client runs").parse().unwrap()).unwrap()
}

/// Neither runner nor client are there any more: only the lock file knows of the container.
#[test]
fn a_container_whose_runner_crashed_is_reaped() {
    let podman = Podman::new();
    let host = &podman.host;
    let spec = podman.script(1, "echo > ready; sleep 1000");
    host.begun(&spec);
    let runner = host.runner_pid(&spec.uuid);
    let (client, first) = (client_of(runner), podman.first_process(&spec));
    kill_process(runner, Signal::KILL).unwrap();
    wait_gone(runner);
    let _ = kill_process(client, Signal::KILL);
    wait_gone(client);
    // (What the engine says of its state depends on how far the client had come.)
    assert_ne!(podman.store.podman(&["ps", "--all", "--quiet"]), "");
    rustix::process::test_kill_process(first).expect("it runs on");
    host.wait_for(&format!("{} stale", spec.uuid));
    assert_eq!(host.start(&spec).status.code(), Some(1), "it may not start twice");
    host.ok(&format!("--reap {} --attempt 1", spec.uuid));
    podman.store.assert_empty();
    wait_gone(first);
    host.wait_for("");
    host.ok(&format!("--forget {} --attempt 1", spec.uuid));
}
