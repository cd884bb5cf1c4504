//! What acts on a runner and its machine from outside: signals of other versions' listers, and nobody asking any more.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use muster_runner::protocol::{ContainerSpec, Limits, Reason, StartConfig};
use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::common::{Host, PATIENCE, install, pause, script};

/// Of a process that has the words of a runner that is just being started, and no handler for SIGUSR2 yet.
fn unready_runner(uuid: &str) -> Option<Pid> {
    let is_ours = |pid: &i32| {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let words = read("cmdline");
        let caught =
            read("status").lines().find_map(|line| line.strip_prefix("SigCgt:").map(str::trim).map(str::to_owned));
        let catches = u64::from_str_radix(&caught.unwrap_or_default(), 16).unwrap_or(u64::MAX) >> 11 & 1 == 1;
        words.contains("-no-detach") && words.contains(uuid) && !words.contains("strace") && !catches
    };
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(is_ours).find_map(Pid::from_raw)
}

/// Starts a runner and sends it what listers send. The kernel is made slow where handlers are set, so that there is time for it.
/// `None`: the runner has ended, and was not seen without its handlers.
fn signalled_before_its_handlers(host: &Host, spec: &ContainerSpec) -> Option<Child> {
    let config = StartConfig { container: Some(spec.clone()), ..StartConfig::default() };
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=rt_sigaction"]);
    strace.args(["-e", "inject=rt_sigaction:delay_enter=50000"]);
    let runner = host.command(&format!("--detach --stdin-config {} --attempt {}", spec.uuid, spec.attempt));
    strace.arg(runner.get_program()).args(runner.get_args());
    let mut strace = strace.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("strace is installed");
    strace.stdin.take().unwrap().write_all(&serde_json::to_vec(&config).unwrap()).unwrap();
    // It ends with the last process that it follows.
    while strace.try_wait().unwrap().is_none() {
        if let Some(runner) = unready_runner(&spec.uuid) {
            let send = |signal| kill_process(runner, signal).is_ok();
            return [Signal::USR1, Signal::USR2].into_iter().all(send).then_some(strace);
        }
        pause();
    }
    None
}

/// Spec 50 §5.
#[test]
fn a_listers_signal_does_not_end_a_runner_that_has_no_handler_yet() {
    let host = Host::new();
    let mut spec = script(1, "grep ^Sig /proc/self/status");
    let deadline = Instant::now() + PATIENCE;
    let mut strace = loop {
        if let Some(strace) = signalled_before_its_handlers(&host, &spec) {
            break strace;
        }
        assert!(Instant::now() < deadline, "the runner was never seen without its handlers");
        host.wait_for(&format!("{} finished", spec.uuid));
        host.ok(&format!("--forget {} --attempt {}", spec.uuid, spec.attempt));
        spec.attempt += 1;
    };
    host.wait_for(&format!("{} finished", spec.uuid));
    strace.wait().unwrap();
    assert_eq!(host.result(&spec).exit_code, Some(0));
    for line in
        host.stream(&spec, "stdout").lines().filter(|line| line.starts_with("SigBlk") || line.starts_with("SigIgn"))
    {
        let signals = u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
        let of_listers = 1 << (Signal::USR1.as_raw() - 1) | 1 << (Signal::USR2.as_raw() - 1);
        assert_eq!(signals & of_listers, 0, "the job has the usual signals: {line}");
    }
}

/// On a kernel before Linux 5.3 there is nothing to hold a process by.
#[test]
fn a_kernel_without_descriptors_for_processes() {
    let host = Host::new();
    let under_strace = |arguments: &str| {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=pidfd_open"]);
        strace.args(["-e", "inject=pidfd_open:error=ENOSYS"]);
        let runner = host.command(arguments);
        strace.arg(runner.get_program()).args(runner.get_args());
        strace
    };
    let limits = Limits { max_run_time_s: Some(0.2), ..Limits::default() };
    let limited = ContainerSpec { limits, ..script(1, "sleep 1000") };
    let config = StartConfig { container: Some(limited.clone()), ..StartConfig::default() };
    let mut strace = under_strace(&format!("--detach --stdin-config {} --attempt 1", limited.uuid));
    let mut strace = strace.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("strace is installed");
    strace.stdin.take().unwrap().write_all(&serde_json::to_vec(&config).unwrap()).unwrap();
    host.wait_for(&format!("{} finished", limited.uuid));
    strace.wait().unwrap();
    assert_eq!(host.result(&limited).reason, Reason::MaxRunTime);

    // Signalled, and not said to be gone.
    let spec = script(2, "sleep 1000");
    host.ok(&format!("--forget {} --attempt 1", limited.uuid));
    host.started(&spec);
    let killed =
        || under_strace(&format!("--kill 15 {} --attempt 1", spec.uuid)).output().expect("strace is installed");
    let deadline = Instant::now() + PATIENCE;
    while !killed().status.success() {
        assert!(Instant::now() < deadline);
    }
    assert_eq!(host.list().0, [format!("{} finished", spec.uuid)]);
    assert_eq!(host.result(&spec).reason, Reason::Killed);

    // What a dead runner leaves is ended.
    let crashed = script(3, "echo $$ > pid; exec sleep 1000");
    host.started(&crashed);
    host.wait_for_file(&crashed, "pid");
    host.crash(&crashed.uuid);
    let reaped = under_strace(&format!("--reap {} --attempt 1", crashed.uuid)).output().expect("strace is installed");
    assert!(reaped.status.success(), "{reaped:?}");
    assert_eq!(host.list().0, [format!("{} finished", spec.uuid)]);
}

/// In the place of what powers a machine off. Each ends who has called it, so nothing more drastic follows.
fn stand_ins(host: &mut Host) -> std::path::PathBuf {
    let programs = host.path().join("programs");
    fs::create_dir(&programs).unwrap();
    for name in ["poweroff", "shutdown", "systemctl"] {
        let text = format!("#!/bin/sh\necho {name} $* >> \"${{0%/*}}/called\"\nkill -9 $PPID\n");
        install(&text, &programs.join(name));
    }
    host.programs = Some(programs.clone());
    // Not even if all else fails: without the capability there is no powering off.
    host.without_reboot();
    // They are what is found and can be executed here.
    let called = programs.join("called");
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    let _ = Command::new("sh").args(["-c", "poweroff; :"]).env("PATH", path).status().unwrap();
    assert_eq!(fs::read_to_string(&called).unwrap(), "poweroff\n");
    fs::remove_file(&called).unwrap();
    called
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        pause();
    }
}

/// The power was turned off, as far as these stand-ins go. The file is there a moment before its text.
fn is_off(called: &Path) -> bool {
    fs::read_to_string(called).is_ok_and(|text| text == "poweroff\n")
}

/// Another process takes the lock for a moment: one that this one has could be inherited by another test's child, and outlast it.
fn nobody_watches(lock: &Path) -> bool {
    lock.exists() && Command::new("flock").arg("-n").arg(lock).arg("true").status().unwrap().success()
}

#[test]
fn a_machine_that_nobody_asks_goes_when_nothing_runs() {
    let mut host = Host::new();
    let called = stand_ins(&mut host);
    let lock = host.state_dir().join(format!("watchdog-{}.lock", host.set));
    if !geteuid().is_root() {
        let output = host.run("--list --self-destruct 1");
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains("only root"), "{output:?}");
        return;
    }
    let until_gate = "echo > ready; while [ ! -e gate ]; do sleep 0.05; done";
    let spec = script(1, &format!("{until_gate}; sleep 3; [ ! -e {} ]", called.display()));
    host.begun(&spec);
    host.ok("--list --self-destruct 1");
    assert!(!nobody_watches(&lock));
    fs::write(host.attempt_dir(&spec.uuid, 1).join("work/gate"), "").unwrap();
    wait_until("the machine was powered off", || is_off(&called));
    assert_eq!(host.result(&spec).exit_code, Some(0), "not while something runs");
    wait_until("what watched has ended", || nobody_watches(&lock));
    // The switch is taken away by whoever asks without it.
    fs::remove_file(&called).unwrap();
    host.ok("--list --self-destruct 60");
    host.ok("--list --self-destruct 60");
    assert!(!nobody_watches(&lock));
    host.ok("--list --self-destruct 1");
    host.ok("--list");
    assert!(!host.state_dir().join(format!("switch-{}", host.set)).exists());
    // Its own pace is a tenth of the time it was last told, at most half a minute.
    wait_until("what watched has ended", || nobody_watches(&lock));
}

/// Whoever asks has use for the machine; and nothing of a container that its runner has left keeps it on.
#[test]
fn a_machine_that_another_set_asks_stays() {
    let mut host = Host::new();
    let called = stand_ins(&mut host);
    if !geteuid().is_root() {
        return; // Without root there is no switch: see the test above.
    }
    let spec = script(1, "echo > ready; sleep 1000");
    host.begun(&spec);
    host.crash(&spec.uuid);
    let (own, other) = (host.set, "another-set");
    let mut asked = Instant::now();
    host.ok("--list --self-destruct 2");
    host.set = other;
    // Three times as long, at twenty times the pace.
    let asked_until = Instant::now() + std::time::Duration::from_secs(6);
    while Instant::now() < asked_until {
        let asks = Instant::now();
        host.ok("--list");
        let is_off = called.exists();
        // From the beginning of the list before.
        if asked.elapsed() > std::time::Duration::from_secs(1) {
            break; // A machine that is too busy to ask in time proves nothing either way.
        }
        asked = asks;
        assert!(!is_off, "somebody asks");
        rustix::event::poll(&mut [], Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 100_000_000 })).unwrap();
    }
    host.set = own;
    wait_until("the machine was powered off", || is_off(&called));
}
