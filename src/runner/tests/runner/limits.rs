//! Limits on CPU and memory by control groups, and what escapes a session. Where this machine has no hierarchy that we may use, each
//! test holds what is promised there instead.

use std::fs;
use std::path::PathBuf;

use muster_runner::protocol::{ContainerSpec, Limits, Reason};
use rustix::process::{Signal, kill_process};

use crate::common::{Host, script, uuid, wait_gone};

const MIB: i64 = 1 << 20;

fn groups(host: &Host, spec: &ContainerSpec) -> Vec<PathBuf> {
    let holder = host.holder(&spec.uuid).expect("it runs");
    serde_json::from_value(holder["Groups"].clone()).unwrap_or_default()
}

fn limited(n: usize, ram: i64, text: &str) -> ContainerSpec {
    ContainerSpec { limits: Limits { vcpus: 1, ram, ..Limits::default() }, ..script(n, text) }
}

fn has_groups(host: &Host) -> bool {
    match host.facts().cgroup.as_str() {
        "none" => false,
        "v1" | "v2" => true,
        other => panic!("{other:?} is no cgroup version"),
    }
}

/// Fills a buffer of 100 MiB.
const HOG: &str = "dd if=/dev/zero of=/dev/null bs=100M count=1 2>/dev/null";

#[test]
fn memory_that_runs_out_is_told_as_such() {
    let host = Host::new();
    let result = host.finished(&limited(1, 32 * MIB, &format!("exec {HOG}")));
    if !has_groups(&host) {
        assert_eq!((result.reason, result.exit_code), (Reason::Exited, Some(0)));
        return;
    }
    assert_eq!((result.reason, result.signal), (Reason::Oom, Some(9)), "{result:?}");
    assert!(result.detail.contains(&(32 * MIB).to_string()), "{}", result.detail);
    let enough = limited(2, 400 * MIB, &format!("exec {HOG}"));
    host.started(&enough);
    host.wait_for_all(&[format!("{} finished", uuid(1)), format!("{} finished", uuid(2))]);
    let result = host.result(&enough);
    assert_eq!((result.reason, result.exit_code), (Reason::Exited, Some(0)), "{result:?}");
    assert!(result.peak_memory.is_some_and(|peak| peak >= 100 << 20), "{result:?}");
}

/// A job may get over it: what its own end says counts.
#[test]
fn a_child_that_runs_out_of_memory_is_the_jobs_business_if_it_succeeds() {
    let host = Host::new();
    let result = host.finished(&limited(1, 32 * MIB, &format!("{HOG}; exit 0")));
    assert_eq!((result.reason, result.exit_code), (Reason::Exited, Some(0)), "{result:?}");
    assert_eq!(result.detail.contains("memory ran out"), has_groups(&host), "{}", result.detail);
    let host = Host::new();
    let result = host.finished(&limited(1, 32 * MIB, &format!("{HOG} || exit 5")));
    let expected = if has_groups(&host) { (Reason::Oom, Some(5)) } else { (Reason::Exited, Some(0)) };
    assert_eq!((result.reason, result.exit_code), expected, "{result:?}");
}

#[test]
fn the_job_is_in_its_group_and_the_runner_is_not() {
    let host = Host::new();
    let spec = limited(1, 64 * MIB, "cat /proc/self/cgroup > mine; echo > ready; sleep 1000");
    host.begun(&spec);
    let groups = groups(&host, &spec);
    let name = format!("muster-{}-1-{}", spec.uuid, host.runner_pid(&spec.uuid).as_raw_nonzero());
    let own = fs::read_to_string(host.attempt_dir(&spec.uuid, 1).join("work/mine")).unwrap();
    let runner = fs::read_to_string(format!("/proc/{}/cgroup", host.runner_pid(&spec.uuid).as_raw_nonzero())).unwrap();
    assert!(!runner.contains(&name), "{runner}");
    assert_eq!(!groups.is_empty(), has_groups(&host));
    assert_eq!(own.lines().filter(|line| line.ends_with(&name)).count(), groups.len(), "{own}");
    let read = |name: &str| groups.iter().find_map(|group| fs::read_to_string(group.join(name)).ok());
    for (name, expected) in
        [("memory.limit_in_bytes", 64 * MIB), ("memory.max", 64 * MIB), ("cpu.cfs_quota_us", 100_000)]
    {
        if let Some(text) = read(name) {
            assert_eq!(text.trim(), expected.to_string(), "{name}");
        }
    }
    host.run(&format!("--kill 15 {} --attempt 1", spec.uuid));
    host.wait_for(&format!("{} finished", spec.uuid));
    assert!(groups.iter().all(|group| !group.exists()), "{groups:?}");
}

/// In a session of its own, without the lock, and nobody's child: only its group leads to it.
#[test]
fn what_has_escaped_when_its_runner_was_killed_is_found_by_its_group() {
    let host = Host::new();
    let escape = "setsid sh -c 'exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-; \
                  exec </dev/null >/dev/null 2>&1; echo $$ > escaped; while :; do sleep 0.1; done' &";
    let spec =
        limited(1, 0, &format!("({escape}); while [ ! -s escaped ]; do sleep 0.01; done; echo > ready; sleep 1000"));
    host.begun(&spec);
    let escaped: i32 = host.wait_for_file(&spec, "escaped").trim().parse().unwrap();
    let escaped = rustix::process::Pid::from_raw(escaped).unwrap();
    let groups = groups(&host, &spec);
    host.crash(&spec.uuid);
    host.wait_for(&format!("{} stale", spec.uuid));
    host.ok(&format!("--reap {} --attempt 1", spec.uuid));
    host.wait_for("");
    if has_groups(&host) {
        wait_gone(escaped);
        assert!(!groups.is_empty() && groups.iter().all(|group| !group.exists()), "{groups:?}");
    } else {
        // Nothing leads to it; said in the documentation.
        kill_process(escaped, Signal::KILL).unwrap();
    }
}

#[test]
fn cpu_time_counts_for_processes_that_nobody_waited_for() {
    let host = Host::new();
    let burn = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
    let result = host.finished(&script(1, &format!("({burn}) & ({burn}); kill -9 $!; wait; exit 0")));
    assert!(result.cpu_seconds.is_some_and(|seconds| seconds > 0.0), "{result:?}");
    assert!(result.peak_memory.is_some_and(|bytes| bytes > 0), "{result:?}");
}
