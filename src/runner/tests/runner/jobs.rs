//! How jobs end, what they see, and what they cannot do.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use muster_runner::protocol::{ContainerSpec, Limits, Reason};
use rustix::process::{Signal, geteuid, kill_process};

use crate::common::{Host, script, uuid};

#[test]
fn ends() {
    let host = Host::new();
    let command = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    for (n, (words, reason, exit_code, signal)) in [
        (command(&["true"]), Reason::Exited, Some(0), None),
        (command(&["sh", "-c", "exit 200"]), Reason::Exited, Some(200), None),
        (command(&["sh", "-c", "kill -SEGV $$"]), Reason::Signaled, None, Some(11)),
        (command(&["sh", "-c", "kill -KILL $$"]), Reason::Signaled, None, Some(9)),
        (command(&["no-such-command"]), Reason::Exited, Some(127), None),
        (command(&["/etc/passwd"]), Reason::Exited, Some(126), None),
        (command(&["/"]), Reason::Exited, Some(126), None),
    ]
    .into_iter()
    .enumerate()
    {
        let spec = ContainerSpec { command: words, ..script(n, "") };
        host.started(&spec);
        let deadline = Instant::now() + crate::common::PATIENCE;
        while !host.list().0.contains(&format!("{} finished", spec.uuid)) {
            assert!(Instant::now() < deadline, "{spec:?}");
            crate::common::pause();
        }
        let result = host.result(&spec);
        assert_eq!((result.reason, result.exit_code, result.signal), (reason, exit_code, signal), "{spec:?}");
        if matches!(exit_code, Some(126 | 127)) {
            assert!(host.stream(&spec, "stderr").contains(&spec.command[0]), "{spec:?}");
        }
    }
}

#[test]
fn a_missing_directory_to_start_in_is_named() {
    let host = Host::new();
    let spec = ContainerSpec { cwd: "/no/such/place".into(), ..script(1, "true") };
    let result = host.finished(&spec);
    assert_eq!(result.exit_code, Some(126));
    assert!(host.stream(&spec, "stderr").contains("/no/such/place"));
    let result = host.finished_in(&ContainerSpec { cwd: "/".into(), ..script(2, "pwd; echo > $HOME/x") });
    assert_eq!(result.exit_code, Some(0));
}

#[test]
fn a_job_sees_only_its_own_environment() {
    let host = Host::new();
    let environment = BTreeMap::from([("MINE".to_owned(), "a b".to_owned())]);
    let spec = ContainerSpec { environment, array_index: Some(7), ..script(1, "env; pwd; ls -A") };
    host.finished(&spec);
    let text = host.stream(&spec, "stdout");
    let mut names: Vec<&str> = text.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    // The shell's own.
    names.retain(|name| !matches!(*name, "PWD" | "SHLVL" | "_" | "OLDPWD"));
    names.sort_unstable();
    let expected = ["HOME", "MINE", "MUSTER_ARRAY_INDEX", "MUSTER_ATTEMPT", "MUSTER_UUID", "PATH", "TMPDIR"];
    assert_eq!(names, expected, "{text}");
    let work = host.attempt_dir(&uuid(1), 1).join("work");
    assert!(text.ends_with(&format!("{}\n", work.display())), "a fresh, empty directory: {text}");
}

#[test]
fn the_command_is_found_by_the_path_of_the_job() {
    let host = Host::new();
    let environment = BTreeMap::from([("PATH".to_owned(), "/nowhere".to_owned())]);
    assert_eq!(host.finished(&ContainerSpec { environment, ..script(1, "true") }).exit_code, Some(127));
}

#[test]
fn standard_input_of_any_size_is_delivered_or_left() {
    let host = Host::new();
    let stdin = "0123456789\n".repeat(100_000);
    let spec = ContainerSpec { stdin: stdin.clone(), ..script(1, "wc -c") };
    host.finished(&spec);
    assert_eq!(host.stream(&spec, "stdout").trim(), stdin.len().to_string());
    let result = host.finished_in(&ContainerSpec { stdin, ..script(2, "read line; exit 4") });
    assert_eq!(result.exit_code, Some(4));
}

#[test]
fn a_job_that_ignores_term_is_killed() {
    let host = Host::new();
    let spec = script(1, "trap '' TERM; echo > ready; while :; do sleep 1; done");
    host.begun(&spec);
    let text = host.refused(&format!("--kill 15 {} --attempt 1", uuid(1)));
    assert!(text.contains("still alive"), "{text}");
    host.refused(&format!("--kill 0 {} --attempt 1", uuid(1)));
    host.wait_for(&format!("{} finished", uuid(1)));
    let result = host.result(&spec);
    assert_eq!((result.reason, result.signal), (Reason::Killed, Some(9)));
    host.ok(&format!("--kill 15 {} --attempt 1", uuid(1)));
}

/// Also what has left the session and lost its parent.
#[test]
fn the_whole_container_gets_term() {
    let host = Host::new();
    let child = "trap \"echo child >> ended; exit\" TERM; echo > $0; while :; do sleep 0.1; done";
    let spec = script(
        1,
        &format!(
            "trap 'echo first >> ended; exit 0' TERM; (setsid sh -c '{child}' daemon &) ; sh -c '{child}' plain & \
             while ! [ -e daemon -a -e plain ]; do sleep 0.1; done; echo > ready; while :; do sleep 0.1; done"
        ),
    );
    host.begun(&spec);
    host.run(&format!("--kill 15 {} --attempt 1", uuid(1)));
    host.wait_for(&format!("{} finished", uuid(1)));
    let result = host.result(&spec);
    assert_eq!((result.reason, result.exit_code), (Reason::Killed, Some(0)));
    let mut ended: Vec<String> = host.wait_for_file(&spec, "ended").lines().map(str::to_owned).collect();
    ended.sort();
    assert_eq!(ended, ["child", "child", "first"]);
}

#[test]
fn other_peoples_signals_do_not_end_a_runner() {
    let host = Host::new();
    let spec = script(1, "echo > ready; sleep 1000");
    host.begun(&spec);
    let runner = host.runner_pid(&uuid(1));
    for signal in [Signal::USR1, Signal::USR2, Signal::HUP, Signal::PIPE] {
        kill_process(runner, signal).unwrap();
    }
    assert_eq!(host.list().0, [uuid(1)]);
    host.refused(&format!("--kill 0 {}", uuid(1)));
}

#[test]
fn what_the_job_leaves_behind_does_not_keep_the_runner() {
    let host = Host::new();
    let spec = script(1, "sleep 1000 & (setsid sleep 1000 &); echo done");
    let result = host.finished(&spec);
    assert_eq!((result.reason, result.exit_code), (Reason::Exited, Some(0)));
    assert_eq!(host.stream(&spec, "stdout"), "done\n");
}

#[test]
fn time_limits_hold() {
    let host = Host::new();
    let limits = Limits { max_run_time_s: Some(0.2), ..Limits::default() };
    let result = host.finished(&ContainerSpec { limits, ..script(1, "echo begun; sleep 1000") });
    assert_eq!((result.reason, result.signal), (Reason::MaxRunTime, Some(15)));
    assert!(
        Duration::from_millis((result.finished_at - result.started_at).try_into().unwrap()) < Duration::from_secs(1000)
    );
}

/// A set-user-ID program in a job's hands, as sudo is, makes it nobody else (spec 52 §2).
#[test]
fn a_job_gains_no_privileges() {
    let host = Host::new();
    let spec = script(1, "grep ^NoNewPrivs /proc/self/status");
    host.finished(&spec);
    let expected = if geteuid().is_root() { "NoNewPrivs:\t1\n" } else { "NoNewPrivs:\t0\n" };
    assert_eq!(host.stream(&spec, "stdout"), expected);
}

/// As root a job is nobody and cannot touch the runner's files; without root it is the runner's own user, and can.
#[test]
fn who_a_job_is() {
    let host = Host::new();
    // A job of the runner's own user could make a result of its own.
    let result = if geteuid().is_root() { "../result.json" } else { "" };
    let line =
        format!("id -u; id -G; for f in {result} ../stdout ../../../../../lock/*; do cat $f; echo x >> $f; done; ");
    let rest = "ls ..; ls ../../..; touch ../made; \
         for f in /proc/$$/fd/*; do case $(readlink $f) in *crunch-run-*) echo held; (echo x > $f) && echo changed;; esac; done; \
         echo mine > own; cat own";
    let spec = script(1, &format!("{line}{rest}"));
    host.finished(&spec);
    let stdout = host.stream(&spec, "stdout");
    let lines: Vec<&str> = stdout.lines().collect();
    let attempt = host.attempt_dir(&uuid(1), 1);
    if geteuid().is_root() {
        assert_eq!(lines[0], "65534");
        assert_eq!(lines[1].split_whitespace().count(), 1, "no supplementary groups: {stdout}");
        assert_eq!(&lines[2..], ["held", "mine"], "{}", host.stream(&spec, "stderr"));
        assert!(!attempt.join("made").exists());
    } else {
        assert_eq!(lines[0], geteuid().as_raw().to_string());
        assert!(attempt.join("made").exists());
    }
    let result: serde_json::Value = serde_json::from_slice(&fs::read(attempt.join("result.json")).unwrap()).unwrap();
    assert_eq!(result["exit_code"], 0);
}

#[test]
fn users_are_found_or_refused() {
    let host = Host::new();
    let other = ContainerSpec { user: "no-such-user".into(), ..script(1, "true") };
    assert!(crate::common::message(&host.start(&other)).contains("no-such-user"));
    let own = ContainerSpec { user: geteuid().as_raw().to_string(), ..script(1, "id -u") };
    host.finished(&own);
    assert_eq!(host.stream(&own, "stdout").trim(), geteuid().as_raw().to_string());
}

#[test]
fn a_directory_that_the_jobs_user_cannot_reach_is_named() {
    if !geteuid().is_root() {
        // Jobs are the runner's own user.
        return;
    }
    let host = Host::new();
    fs::set_permissions(host.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let result = host.finished(&script(1, "true"));
    assert_eq!((result.reason, result.exit_code), (Reason::EngineError, None), "{result:?}");
    let named = format!("cannot pass through {}: chmod o+x it, or choose another", host.path().display());
    assert!(result.detail.contains(&named), "{}", result.detail);
    // A key that the configuration has.
    let keys = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../config/keys.rs")).unwrap();
    let key = result.detail.rsplit(' ').next().unwrap();
    assert!(keys.contains(&format!("key(\"{key}\"")), "{}", result.detail);
}

impl Host {
    /// As [`Host::finished`] when other containers are listed too.
    fn finished_in(&self, spec: &ContainerSpec) -> muster_runner::protocol::ResultRecord {
        self.started(spec);
        let deadline = Instant::now() + crate::common::PATIENCE;
        while !self.list().0.contains(&format!("{} finished", spec.uuid)) {
            assert!(Instant::now() < deadline, "{spec:?}");
            crate::common::pause();
        }
        self.result(spec)
    }
}
