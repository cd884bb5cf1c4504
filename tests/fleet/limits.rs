//! What the process may have decides how many workers it watches (spec 45 §5).

use std::process::{Child, Command};

use crate::fixture::{Cluster, Process, quick};

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The daemon with a soft and a hard limit of open files.
fn start(cluster: &mut Cluster, soft: u32, hard: u32) -> Running {
    let daemon = cluster.site.daemon();
    let mut command = Command::new("sh");
    let line = format!("ulimit -S -n {soft}; ulimit -H -n {hard}; exec \"$0\" \"$@\"");
    command.args(["-c", &line]).arg(daemon.get_program()).args(daemon.get_args());
    let child = Running(command.spawn().expect("starts"));
    cluster.site.wait_until("the daemon answers", |site| site.run(&["status"]).status.success());
    child
}

fn pid(running: &Running) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(i32::try_from(running.0.id()).expect("small")).expect("not 0")
}

/// Too few descriptors for all: so many workers as fit, which do all the work; the log says so.
#[test]
fn workers_are_capped_by_descriptors() {
    let mut cluster = Cluster::of(30, quick(), "    MaxConcurrentInstanceCreateOps: 0\n");
    let daemon = start(&mut cluster, 40, 160);
    let uuids = cluster.submit(100);
    cluster.wait_count("containers", "Complete", 100);
    cluster.assert_once(&uuids);
    let log = cluster.site.log();
    let line = log.lines().find(|line| line.contains("MaxWorkers is capped")).expect("it is said");
    // A worker has at most five, and a create one beside them: all fit with what the daemon has itself.
    assert!(line.contains("OpenFiles=160"), "{line}");
    let most: usize = line
        .split(' ')
        .find_map(|word| word.strip_prefix("MaxWorkers="))
        .and_then(|text| text.parse().ok())
        .expect("a number");
    assert!((5..30).contains(&most), "{line}");
    let process = Process::of(pid(&daemon));
    assert_eq!(process.threads_called("probe"), most, "{process:?}");
    assert!(!log.contains("Too many open files") && !log.contains("os error 24"), "{log}");
}

/// The limit that a service starts with is raised to the one that it may have.
#[test]
fn the_limit_of_descriptors_is_raised() {
    let mut cluster = Cluster::of(25, quick(), "    MaxConcurrentInstanceCreateOps: 0\n");
    let daemon = start(&mut cluster, 40, 4000);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.0.id())).expect("it runs");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("there");
    assert_eq!(line.split_ascii_whitespace().nth(3), Some("4000"), "{line}");
    let uuids = cluster.submit(25);
    cluster.wait_count("containers", "Complete", 25);
    cluster.assert_once(&uuids);
}
