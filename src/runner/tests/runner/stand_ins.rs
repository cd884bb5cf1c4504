//! Engines that are not on every machine: small programs stand in for docker, singularity and apptainer. They check what they are
//! called with and run the job as a process; nothing here shows that the real ones agree. (podman is tested for real in `engines`.)

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use muster_runner::protocol::{ContainerSpec, Limits, Reason};

use crate::common::{Host, install, script, uuid, wait_gone};

/// A container is a directory with a process number and an exit code. Each call is written down, one word a line.
pub(crate) const DOCKER: &str = r#"#!/bin/sh
state=${0%/*}/state
mkdir -p "$state"
{ echo "== call"; for word; do echo "$word"; done; } >> "$state/calls"
[ "$1" = --context ] && [ "$2" = here ] && shift 2 || { echo "docker: global options are missing" >&2; exit 125; }
if [ -e "$state/down" ]; then
    said="Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
    [ "$1" = run ] || { echo "$said" >&2; exit 1; }
    printf '%s\n' "docker: $said." "See 'docker run --help'." >&2; exit 125
fi
verb=$1; shift
for name; do :; done
case $verb in
run)
    while :; do
        case $1 in
        --name) name=$2; shift 2 ;;
        --env-file) cp "$2" "$state/environment"; shift 2 ;;
        --entrypoint) program=$2; shift 2 ;;
        --cidfile) made=$2; shift 2 ;;
        --workdir) cd "$2" || exit 125; shift 2 ;;
        --interactive) stdin=1; shift ;;
        --network=none) shift ;;
        --log-driver | --volume | --user | --memory | --memory-swap | --cpus | --security-opt | --cap-drop) shift 2 ;;
        -*) echo "docker: unknown flag $1" >&2; exit 125 ;;
        *) break ;;
        esac
    done
    # Before it asks, and away again if there is no container in the end.
    : > "$made"
    case $1 in missing*) rm "$made"; echo "docker: Cannot connect to the Docker daemon" >&2; exit 125 ;; esac
    case $1 in slow) echo $$ > "$state/slow"; while [ ! -e "$state/pulled" ]; do sleep 0.1; done ;; esac
    shift
    mkdir "$state/$name"
    id=$(printf %064x $$)
    printf %s "$id" > "$made"
    [ "$stdin" ] || exec </dev/null
    exec 4<&0
    # Where the container is to have groups, as the daemon makes them.
    groups=
    for parent in $(cat "$state/groups" 2>/dev/null); do
        mkdir "$parent/docker-$id.scope" && groups="$groups $parent/docker-$id.scope"
    done
    echo $groups > "$state/$name/groups"
    setsid sh -c 'for group in $0; do echo $$ > "$group/cgroup.procs"; done; exec "$@"' "$groups" "$program" "$@" <&4 4<&- &
    echo $! > "$state/$name/pid"
    # Signals are for the container, not for this program.
    trap : TERM
    while :; do wait $!; code=$?; kill -0 $! 2>/dev/null || break; done
    echo $code > "$state/$name/code"
    exit $code ;;
ps)
    [ ! -e "$state/confused" ] || { echo "Error response from daemon: something" >&2; exit 1; }
    for filter; do :; done
    [ ! -d "$state/${filter#name=}" ] || echo 0123456789ab ;;
inspect)
    echo "WARNING: something of no interest" >&2
    [ -d "$state/$name" ] || { echo "Error: No such container: $name" >&2; exit 1; }
    if [ -f "$state/$name/code" ]; then
        oom=false; [ ! -e "$state/oom" ] || oom=true
        echo "exited $(cat "$state/$name/code") $oom 2026-11-28T21:02:49.9Z"
    else
        echo "running 0 false 2026-11-28T21:02:49.9Z"
    fi ;;
stop)
    [ -d "$state/$name" ] || exit 1
    # As of a container that has not begun: "stopped", and then it begins.
    [ ! -e "$state/deaf" ] || { rm "$state/deaf"; exit 0; }
    kill -TERM "$(cat "$state/$name/pid")" ;;
rm)
    # A client that is still pulling finishes just after it was looked for.
    if [ -e "$state/slow" ] && [ ! -d "$state/$name" ]; then
        touch "$state/pulled"
        for i in 1 2 3 4 5 6 7 8 9 10; do [ -d "$state/$name" ] || sleep 0.1; done
        echo "Error: No such container: $name" >&2; exit 1
    fi
    [ -d "$state/$name" ] || { echo "Error: No such container: $name" >&2; exit 1; }
    [ ! -e "$state/stuck" ] || { echo "Error response from daemon: device or resource busy" >&2; exit 1; }
    kill -KILL "-$(cat "$state/$name/pid")" 2>/dev/null
    for group in $(cat "$state/$name/groups"); do
        while ! rmdir "$group"; do sleep 0.1; done
    done
    rm -r "$state/$name" ;;
*) exit 125 ;;
esac
"#;

/// The options up to the image are written down; then the job runs, with the variables that have the prefix.
const SINGULARITY: &str = r#"#!/bin/sh
state=${0%/*}/state
mkdir -p "$state"
for word; do echo "$word"; done > "$state/calls"
while [ "$1" != image.sif ]; do [ $# -gt 0 ] || exit 255; shift; done
shift
prefix=$(basename "$0" | tr a-z A-Z)ENV_
for variable in $(env | sed -n "s/^$prefix\([A-Z_]*\)=.*/\1/p"); do
    eval "export $variable=\"\$$prefix$variable\""
done
cd "$HOME" && exec "$@"
"#;

pub(crate) fn host_with(name: &str, text: &str) -> (Host, PathBuf) {
    let mut host = Host::new();
    let programs = host.path().join("programs");
    fs::create_dir(&programs).unwrap();
    install(text, &programs.join(name));
    // The job's user runs singularity, and both write there.
    let state = programs.join("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
    host.programs = Some(programs);
    (host, state)
}

fn spec(n: usize, engine: &str, script: &str) -> ContainerSpec {
    ContainerSpec {
        uuid: uuid(n),
        attempt: 1,
        command: ["sh", "-c", script].map(str::to_owned).into(),
        engine: engine.into(),
        image: "image.sif".into(),
        environment: BTreeMap::from([("SECRET".to_owned(), "a 'b' $c".to_owned())]),
        ..ContainerSpec::default()
    }
}

pub(crate) fn docker(n: usize, script: &str) -> ContainerSpec {
    let arguments = ["--context", "here", "run", "--network=none"].map(str::to_owned);
    let limits = Limits { vcpus: 1, ram: 1 << 26, ..Limits::default() };
    ContainerSpec { engine_arguments: arguments.into(), limits, ..spec(n, "docker", script) }
}

#[test]
fn docker_is_called_as_it_wants_to_be() {
    let (host, state) = host_with("docker", DOCKER);
    let job = ContainerSpec { stdin: "fed".into(), ..docker(1, "cat; echo err >&2; exit 7") };
    let result = host.finished(&job);
    assert_eq!(
        (result.reason, result.exit_code),
        (Reason::Exited, Some(7)),
        "{result:?} {}",
        host.stream(&job, "stderr")
    );
    assert_eq!((host.stream(&job, "stdout"), host.stream(&job, "stderr")), ("fed".into(), "err\n".into()));
    let calls = fs::read_to_string(state.join("calls")).unwrap();
    let calls: Vec<Vec<&str>> = calls.split("== call\n").skip(1).map(|call| call.lines().collect()).collect();
    let work = host.attempt_dir(&job.uuid, 1).join("work");
    let (work, name) = (work.to_str().unwrap(), calls[0][4]);
    let tmp = work.strip_suffix("work").unwrap().to_owned() + "tmp";
    let volumes = [work, &tmp].map(|path| format!("{path}:{path}:z"));
    let [environment, made] = ["environment", "made"].map(|name| work.strip_suffix("work").unwrap().to_owned() + name);
    let at = |option: &str| calls[0].iter().position(|word| *word == option).map(|at| calls[0][at + 1]);
    // Which it is depends on who tests.
    let user = at("--user").unwrap();
    assert!(
        user.split_once(':').is_some_and(|(uid, gid)| [uid, gid].iter().all(|id| id.parse::<u32>().is_ok())),
        "{user}"
    );
    let swap = at("--memory-swap").map_or_else(Vec::new, |ram| vec!["--memory-swap", ram]);
    let run = [
        &["--context", "here", "run", "--name", name, "--security-opt", "no-new-privileges", "--cap-drop", "ALL"][..],
        &["--log-driver", "none", "--interactive", "--volume", &volumes[0], "--volume", &volumes[1], "--workdir", work],
        &["--user", user, "--memory", "67108864b"],
        &swap,
        &["--cpus", "1", "--env-file", &environment, "--network=none"],
        &["--cidfile", &made, "--entrypoint", "sh", "image.sif", "-c", &job.command[2]],
    ];
    assert_eq!(calls[0], run.concat());
    assert!(swap.is_empty() || swap[1] == "67108864b");
    assert!(name.starts_with(&format!("muster-{}-1-", job.uuid)), "{name}");
    assert!(
        calls[1..].iter().all(|call| call[..2] == ["--context", "here"] && call.last().unwrap().contains(name)),
        "{calls:?}"
    );
    let verbs: Vec<&str> = calls.iter().map(|call| call[2]).collect();
    assert_eq!(verbs, ["run", "ps", "inspect", "rm", "ps"]);
    assert!(!calls.concat().concat().contains("a 'b' $c"), "on a command line everybody can read it");
    assert!(fs::read_to_string(state.join("environment")).unwrap().contains("SECRET=a 'b' $c\n"));
}

#[test]
fn dockers_word_on_memory_counts() {
    let (host, state) = host_with("docker", DOCKER);
    fs::write(state.join("oom"), "").unwrap();
    let result = host.finished(&docker(1, "exit 137"));
    assert_eq!((result.reason, result.exit_code), (Reason::Oom, Some(137)), "{result:?}");
    fs::remove_file(state.join("oom")).unwrap();
    let job = docker(2, "exit 137");
    host.started(&job);
    host.wait_for_all(&[format!("{} finished", uuid(1)), format!("{} finished", uuid(2))]);
    assert_eq!(host.result(&job).reason, Reason::Exited);
}

/// They are found while it runs, without asking docker.
#[test]
fn what_a_container_of_docker_uses_is_known() {
    let (host, state) = host_with("docker", DOCKER);
    // A process of our own shows whether groups can be made here, and where.
    let own = script(1, "echo > ready; sleep 1000");
    host.begun(&own);
    let groups = host.holder(&own.uuid).unwrap()["Groups"].as_array().cloned().unwrap_or_default();
    host.run(&format!("--kill 15 {} --attempt 1", own.uuid));
    host.wait_for(&format!("{} finished", own.uuid));
    host.ok(&format!("--forget {} --attempt 1", own.uuid));
    let parents = groups.iter().map(|group| Path::new(group.as_str().unwrap()).parent().unwrap().to_str().unwrap());
    fs::write(state.join("groups"), parents.collect::<Vec<_>>().join("\n")).unwrap();
    // It is told to stop once a second, so it is looked at several times before it does.
    let job = docker(2, "n=0; trap 'n=$((n+1))' TERM; echo > ready; while [ $n -lt 10 ]; do sleep 0.1; done; exit 4");
    host.begun(&job);
    host.run(&format!("--kill 15 {} --attempt 1", job.uuid));
    host.wait_for(&format!("{} finished", job.uuid));
    let result = host.result(&job);
    assert_eq!((result.reason, result.exit_code), (Reason::Killed, Some(4)), "{result:?}");
    assert_eq!(result.peak_memory.is_some_and(|bytes| bytes > 0), !groups.is_empty(), "{result:?}");
    assert_eq!(result.cpu_seconds.is_some_and(|seconds| seconds > 0.0), !groups.is_empty(), "{result:?}");
    let calls = fs::read_to_string(state.join("calls")).unwrap();
    let verbs: Vec<&str> = calls.split("== call\n").skip(1).filter_map(|call| call.lines().nth(2)).collect();
    assert_eq!(verbs.iter().filter(|verb| **verb == "inspect").count(), 1, "{verbs:?}");
}

#[test]
fn a_kill_and_a_crash_go_through_docker() {
    let (host, state) = host_with("docker", DOCKER);
    let job = docker(1, "trap 'exit 4' TERM; echo > ready; while :; do sleep 0.1; done");
    host.begun(&job);
    // The first stop has no effect, so another one comes.
    fs::write(state.join("deaf"), "").unwrap();
    host.run(&format!("--kill 15 {} --attempt 1", job.uuid));
    host.wait_for(&format!("{} finished", job.uuid));
    let result = host.result(&job);
    assert_eq!((result.reason, result.exit_code), (Reason::Killed, Some(4)), "{result:?}");
    host.ok(&format!("--forget {} --attempt 1", job.uuid));
    let job = docker(2, "echo > ready; sleep 1000");
    host.begun(&job);
    host.crash(&job.uuid);
    host.wait_for(&format!("{} stale", job.uuid));
    host.ok(&format!("--reap {} --attempt 1", job.uuid));
    host.wait_for("");
    let calls = fs::read_to_string(state.join("calls")).unwrap();
    assert!(calls.contains(&format!("rm\n--force\n--volumes\nmuster-{}-1-", job.uuid)), "{calls}");
}

/// Listers of other versions take a lock that nobody holds for one of nobody, and delete its file.
#[test]
fn a_container_is_not_forgotten_with_its_lock_file() {
    let (host, state) = host_with("docker", DOCKER);
    let job = docker(1, "echo > ready; sleep 1000");
    host.begun(&job);
    let lock = host.lock_dir().join(format!("crunch-run-{}.lock", job.uuid));
    let text = fs::read(&lock).unwrap();
    fs::remove_file(&lock).unwrap();
    assert_eq!(host.list().0, [&*job.uuid], "its runner lives");
    assert_eq!(host.start(&ContainerSpec { attempt: 2, ..job.clone() }).status.code(), Some(1));
    fs::write(&lock, text).unwrap();
    host.crash(&job.uuid);
    fs::remove_file(&lock).unwrap();
    assert_eq!(host.list().0, [format!("{} stale", job.uuid)]);
    assert_eq!(host.start(&ContainerSpec { attempt: 2, ..job.clone() }).status.code(), Some(1), "it may be running");
    host.refused(&format!("--forget {} --attempt 1", job.uuid));
    // Nor is the machine given back while it may run.
    fs::write(host.state_dir().join("owner"), format!("{}\nnode1 5e\n", host.set)).unwrap();
    assert!(host.refused("--release --lease 5e").contains("has left processes"));
    host.ok(&format!("--reap {} --attempt 1", job.uuid));
    host.wait_for("");
    host.ok(&format!("--forget {} --attempt 1", job.uuid));
    assert!(fs::read_to_string(state.join("calls")).unwrap().contains("rm\n--force\n"));
    host.started(&ContainerSpec { attempt: 2, ..docker(1, "true") });
    host.wait_for(&format!("{} finished", job.uuid));
}

/// A client that is still at it when its runner has crashed must not make a container after the engine was asked to remove it.
#[test]
fn a_container_that_is_being_made_when_its_runner_crashes() {
    let (host, state) = host_with("docker", DOCKER);
    let job = ContainerSpec { image: "slow".into(), ..docker(1, "sleep 1000") };
    host.started(&job);
    let deadline = std::time::Instant::now() + crate::common::PATIENCE;
    while !state.join("slow").exists() {
        assert!(std::time::Instant::now() < deadline, "the image is pulled");
        crate::common::pause();
    }
    host.crash(&job.uuid);
    host.ok(&format!("--reap {} --attempt 1", job.uuid));
    host.wait_for("");
    // Whoever pulled is gone, and has made nothing after the engine was asked.
    assert!(state.join("pulled").exists());
    let calls = fs::read_to_string(state.join("calls")).unwrap();
    let verbs: Vec<&str> = calls.split("== call\n").skip(1).filter_map(|call| call.lines().nth(2)).collect();
    assert_eq!(verbs, ["run", "rm", "ps"]);
    let pid: i32 = fs::read_to_string(state.join("slow")).unwrap().trim().parse().unwrap();
    wait_gone(rustix::process::Pid::from_raw(pid).unwrap());
}

#[test]
fn singularity_and_apptainer_run_the_job_as_a_process() {
    for name in ["singularity", "apptainer"] {
        // Asked for by the other name: whichever is here will do.
        for asked in ["singularity", "apptainer"] {
            let (host, state) = host_with(name, SINGULARITY);
            let arguments = ["--quiet", "exec", "--nv"].map(str::to_owned).into();
            let job = ContainerSpec {
                engine_arguments: arguments,
                ..spec(1, asked, "echo \"$SECRET|$MUSTER_ATTEMPT|$MINE\"; pwd; exit 5")
            };
            let result = host.finished(&job);
            let stderr = host.stream(&job, "stderr");
            assert_eq!((result.reason, result.exit_code), (Reason::Exited, Some(5)), "{result:?} {stderr}");
            let work = host.attempt_dir(&job.uuid, 1).join("work");
            let (work, tmp) = (work.display().to_string(), work.with_file_name("tmp").display().to_string());
            assert_eq!(host.stream(&job, "stdout"), format!("a 'b' $c|1|\n{work}\n"));
            let calls = fs::read_to_string(state.join("calls")).unwrap();
            let expected =
                ["--quiet", "exec", "--cleanenv", "--contain", "--home", &work, "--bind", &tmp, "--pwd", &work];
            let expected = [&expected[..], &["--nv", "image.sif", "sh", "-c", &job.command[2]]].concat();
            assert_eq!(calls.lines().collect::<Vec<_>>(), expected, "{name}");
            assert!(result.cpu_seconds.is_some() && result.peak_memory.is_some(), "{result:?}");
        }
    }
}

/// Its own errors look like this, and have the exit code that a job may have as well.
#[test]
fn a_singularity_that_cannot_start_is_the_engines_fault() {
    for (script, reason, exit_code) in [
        ("echo 'FATAL:   could not open image' >&2; exit 255", Reason::EngineError, None),
        ("echo 'FATAL: mine' >&2; echo more >&2; exit 255", Reason::Exited, Some(255)),
        ("echo 'FATAL: mine' >&2; exit 254", Reason::Exited, Some(254)),
    ] {
        let (host, _) = host_with("singularity", SINGULARITY);
        let result = host.finished(&spec(1, "singularity", script));
        assert_eq!((result.reason, result.exit_code), (reason, exit_code), "{script}: {result:?}");
    }
}

/// What the facts say and what a start finds is the same.
#[test]
fn an_engine_that_is_not_here_is_named_and_breaks_nothing() {
    let host = Host::new();
    let engines = host.facts().engines;
    let result = host.finished(&spec(1, "singularity", "true"));
    let is_missed = result.detail.contains("no program singularity on this machine");
    assert_eq!(is_missed, !engines.contains(&"singularity".to_owned()), "{engines:?}: {}", result.detail);
    if is_missed {
        assert_eq!((result.reason, result.exit_code), (Reason::EngineError, None), "{result:?}");
    }
    assert!(!host.lock_dir().join("crunch-run-broken").exists());
}
