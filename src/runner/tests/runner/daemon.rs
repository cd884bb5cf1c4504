//! A docker daemon that cannot be reached: before there is a container, while one runs, and what looks like it.

use std::fs;

use muster_runner::protocol::{ContainerSpec, Reason};

use crate::common::{Host, uuid, wait_gone};
use crate::locks::path;
use crate::stand_ins::{DOCKER, docker, host_with};

/// As the client says it.
const SAID: &str =
    "docker: Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?.";

fn is_broken(host: &Host) -> bool {
    host.lock_dir().join("crunch-run-broken").exists()
}

#[test]
fn a_daemon_that_does_not_answer_breaks_the_machine() {
    let (host, _) = host_with("docker", DOCKER);
    let job = ContainerSpec { image: "missing".into(), ..docker(1, "true") };
    host.started(&job);
    host.wait_for_all(&["broken".to_owned(), format!("{} finished", job.uuid)]);
    let result = host.result(&job);
    assert_eq!((result.reason, result.exit_code), (Reason::EngineError, None), "{result:?}");
    assert!(result.detail.contains("Cannot connect to the Docker daemon"), "{}", result.detail);
}

/// The engine cannot say whether the container is there: then it counts as there, and the lock stays.
#[test]
fn a_daemon_that_goes_while_a_container_runs_keeps_the_lock() {
    let (host, state) = host_with("docker", DOCKER);
    let job = docker(1, "echo > ready; sleep 1000");
    host.begun(&job);
    fs::write(state.join("down"), "").unwrap();
    let runner = host.runner_pid(&job.uuid);
    host.run(&format!("--kill 15 {} --attempt 1", job.uuid));
    wait_gone(runner);
    assert_eq!(host.list().0, [format!("{} stale", job.uuid)]);
    let text = host.refused(&format!("--reap {} --attempt 1", job.uuid));
    assert!(text.contains("Cannot connect to the Docker daemon"), "{text}");
    assert_eq!(host.start(&job).status.code(), Some(1), "it may be running");
    fs::remove_file(state.join("down")).unwrap();
    host.ok(&format!("--reap {} --attempt 1", job.uuid));
    host.wait_for(&format!("{} finished", job.uuid));
    assert_eq!(host.result(&job).reason, Reason::Killed);
    let left =
        fs::read_dir(&state).unwrap().flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("muster-"));
    assert!(!left);
}

/// Nothing has been made, and nothing is kept for it.
#[test]
fn a_daemon_that_is_down_breaks_the_machine_and_keeps_no_lock() {
    let (host, state) = host_with("docker", DOCKER);
    fs::write(state.join("down"), "").unwrap();
    let job = docker(1, "true");
    host.started(&job);
    host.wait_for_all(&["broken".to_owned(), format!("{} finished", job.uuid)]);
    let result = host.result(&job);
    assert_eq!((result.reason, result.exit_code), (Reason::EngineError, None), "{result:?}");
    assert!(result.detail.contains(SAID), "{}", result.detail);
    assert!(!path(&host, 1).exists());
    host.ok(&format!("--forget {} --attempt 1", job.uuid));
    assert_eq!(host.list().0, ["broken"]);
    assert!(!host.attempt_dir(&job.uuid, 1).exists());
}

#[test]
fn a_job_that_says_what_clients_say_is_no_client() {
    let (host, _) = host_with("docker", DOCKER);
    let job = docker(1, &format!("echo '{SAID}' >&2; exit 125"));
    let result = host.finished(&job);
    assert_eq!((result.reason, result.exit_code), (Reason::Exited, Some(125)), "{result:?}");
    assert_eq!(host.stream(&job, "stderr"), format!("{SAID}\n"));
    assert!(!is_broken(&host));
}

/// Whatever a job has said, its container may be there: the lock stays. Whether the machine is broken is the engine's word alone.
#[test]
fn a_job_that_says_so_does_not_release_its_lock() {
    for (file, broken) in [("down", true), ("confused", false)] {
        let (host, state) = host_with("docker", DOCKER);
        // In pieces, so that they are not the words of its own command.
        let script = format!("echo '{}''{}' >&2; : > {}/{file}; exit 125", &SAID[..20], &SAID[20..], state.display());
        host.started(&docker(1, &script));
        let mut expected = vec![format!("{} stale", uuid(1))];
        if broken {
            expected.insert(0, "broken".to_owned());
        }
        host.wait_for_all(&expected);
        assert_eq!((is_broken(&host), path(&host, 1).exists()), (broken, true), "{file}");
        assert_eq!(host.result(&docker(1, "")).reason, Reason::EngineError);
        host.refused(&format!("--reap {} --attempt 1", uuid(1)));
        fs::remove_file(state.join(file)).unwrap();
        host.ok(&format!("--reap {} --attempt 1", uuid(1)));
        *expected.last_mut().unwrap() = format!("{} finished", uuid(1));
        assert_eq!(host.list().0, expected);
    }
}
