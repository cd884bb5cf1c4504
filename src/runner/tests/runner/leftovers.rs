//! Attempts that have ended and could not end all they had started: the result is there, and so is what keeps the lock.

use std::fs;

use muster_runner::protocol::{ContainerSpec, Reason};

use crate::common::{Host, script, uuid};
use crate::locks::{Holder, path};
use crate::stand_ins::{DOCKER, docker, host_with};

/// That its result is listed and can be fetched and forgotten, and what is left is listed after that.
#[track_caller]
fn collected_and_forgotten_first(host: &Host) {
    let uuid = uuid(1);
    let list = String::from_utf8(host.ok("--list")).unwrap();
    assert!(list.starts_with(&format!("{uuid} finished\n#attempt {uuid} 1\n# ")), "{list}");
    let archive = host.ok(&format!("--collect {uuid} --attempt 1"));
    assert_eq!(tar::Archive::new(&*archive).entries().unwrap().count(), 3);
    assert_eq!(host.start(&ContainerSpec { attempt: 2, ..script(1, "true") }).status.code(), Some(1));
    for _ in 0..2 {
        host.ok(&format!("--forget {uuid} --attempt 1"));
        let list = String::from_utf8(host.ok("--list")).unwrap();
        assert!(list.starts_with(&format!("{uuid} stale\n#attempt {uuid} 1\n# ")), "{list}");
        assert_eq!(host.start(&ContainerSpec { attempt: 2, ..script(1, "true") }).status.code(), Some(1));
    }
    host.refused(&format!("--collect {uuid} --attempt 1"));
}

/// Nothing of the container is left, and the attempt does not start again.
#[track_caller]
fn nothing_is_left(host: &Host) {
    assert_eq!(host.list().0, Vec::<String>::new());
    assert!(!host.attempt_dir(&uuid(1), 1).parent().unwrap().exists() && !path(host, 1).exists());
    assert_eq!(host.start(&script(1, "true")).status.code(), Some(1));
    host.finished(&ContainerSpec { attempt: 2, ..script(1, "true") });
}

/// Held by a process that this test can end when it likes, as by one that hangs in the kernel.
fn held(host: &Host) -> Holder {
    let content = format!(r#"{{"UUID":"{}","PID":2147483646,"Set":"test-set","Attempt":1}}"#, uuid(1));
    Holder::of(&path(host, 1), &format!("{content}\n"))
}

#[test]
fn a_result_is_not_hidden_by_a_process_that_cannot_be_killed() {
    let host = Host::new();
    host.finished(&script(1, "echo > out"));
    let holder = held(&host);
    collected_and_forgotten_first(&host);
    assert!(!host.attempt_dir(&uuid(1), 1).exists());
    drop(holder);
    host.wait_for("");
    nothing_is_left(&host);
}

/// One that is tried again after its result: not while something of it may run.
#[test]
fn a_result_that_is_not_final_waits_for_what_is_left() {
    let host = Host::new();
    let spec = script(1, "echo > ready; sleep 1000");
    host.begun(&spec);
    host.run(&format!("--kill 15 {} --attempt 1", uuid(1)));
    host.wait_for(&format!("{} finished", uuid(1)));
    assert_eq!(host.result(&spec).reason, Reason::Killed);
    let holder = held(&host);
    assert_eq!(host.list().0, [format!("{} stale", uuid(1))]);
    drop(holder);
    host.wait_for(&format!("{} finished", uuid(1)));
}

#[test]
fn a_result_is_not_hidden_by_a_container_that_cannot_be_removed() {
    let (host, state) = host_with("docker", DOCKER);
    fs::write(state.join("stuck"), "").unwrap();
    let job = docker(1, "echo > out; exit 3");
    let result = host.finished(&job);
    assert_eq!((result.reason, result.exit_code), (Reason::Exited, Some(3)), "{result:?}");
    assert!(result.detail.contains("device or resource busy"), "{result:?}");
    collected_and_forgotten_first(&host);
    let left = |name: &str| host.attempt_dir(&job.uuid, 1).join(name).exists();
    assert!(left("container") && !["work", "tmp", "stdout", "result.json"].into_iter().any(left));
    // The lock file is not needed to find the container again.
    fs::remove_file(path(&host, 1)).unwrap();
    assert_eq!(host.list().0, [format!("{} stale", job.uuid)]);
    fs::write(host.state_dir().join("owner"), format!("{}\nnode1 5e\n", host.set)).unwrap();
    assert!(host.refused("--release --lease 5e").contains("has left processes"));
    fs::remove_file(host.state_dir().join("owner")).unwrap();
    assert!(host.refused(&format!("--reap {} --attempt 1", job.uuid)).contains("device or resource busy"));
    assert_eq!(host.list().0, [format!("{} stale", job.uuid)]);
    fs::remove_file(state.join("stuck")).unwrap();
    host.ok(&format!("--reap {} --attempt 1", job.uuid));
    // Not only with a dispatcher's next first list, which removes what such a reap may have left.
    assert!(!host.attempt_dir(&job.uuid, 1).exists());
    nothing_is_left(&host);
}

/// Both: the outputs are still there when what was left has gone.
#[test]
fn outputs_stay_while_a_container_cannot_be_removed() {
    let (host, state) = host_with("docker", DOCKER);
    fs::write(state.join("stuck"), "").unwrap();
    let job = docker(1, "echo data > out");
    host.finished(&job);
    for _ in 0..2 {
        host.ok(&format!("--forget {} --attempt 1 --keep-outputs", job.uuid));
        assert_eq!(host.list().0, [format!("{} stale", job.uuid)]);
    }
    fs::remove_file(state.join("stuck")).unwrap();
    host.ok(&format!("--reap {} --attempt 1", job.uuid));
    assert_eq!(host.list().0, Vec::<String>::new());
    let dir = host.attempt_dir(&job.uuid, 1);
    assert_eq!(fs::read(dir.join("work/out")).unwrap(), b"data\n");
    assert!(!["container", "stdout", "result.json", "made"].iter().any(|name| dir.join(name).exists()));
}
