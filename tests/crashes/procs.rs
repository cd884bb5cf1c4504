//! The processes of one daemon's worker as /proc shows them, and SIGKILL for exactly one of them.

use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Whom to kill, but for the daemon, which is a child of the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Runner,
    /// The first process of a job.
    Job,
    /// `muster-runner --collect`.
    Collect,
}

/// A process with the attempt it is there for.
#[derive(Clone, Debug)]
pub(crate) struct Victim {
    process: Process,
    pub(crate) uuid: String,
    pub(crate) attempt: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
    group: i32,
    /// Since boot; with `pid` it names one process for ever.
    start: u64,
}

/// `None` if there is no such process, or it has ended.
fn read(pid: i32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may itself hold spaces and parentheses.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse().ok();
    let ended = matches!(*fields.first()?, "Z" | "X");
    let start = fields.get(19)?.parse().ok()?;
    (!ended).then_some(Process { pid, parent: number(1)?, group: number(2)?, start })
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").expect("readable").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn command_line(pid: i32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).split_terminator('\0').map(str::to_owned).collect()
}

/// The attempt that a runner's command line is about.
fn attempt_of(words: &[String]) -> Option<(String, u64)> {
    let number = words.iter().position(|word| word == "--attempt")? + 1;
    Some((words.last()?.clone(), words.get(number)?.parse().ok()?))
}

/// The processes of a kind below `folder` that are alive now, in the order of their numbers.
pub(crate) fn victims(folder: &Path, kind: Kind) -> Vec<Victim> {
    let folder = folder.to_str().expect("text");
    if kind == Kind::Collect {
        return commands(folder, "--collect");
    }
    let mut runners = commands(folder, "-no-detach");
    // A job's process is a copy of its runner until it executes the command.
    let numbers: Vec<i32> = runners.iter().map(|runner| runner.process.pid).collect();
    runners.retain(|runner| !numbers.contains(&runner.process.parent));
    if kind == Kind::Runner {
        return runners;
    }
    let mut others: Vec<Process> = pids().filter_map(read).collect();
    // It leads a process group; what it leaves behind, and so becomes a child of the runner, does not.
    others.retain(|process| process.group == process.pid);
    let first_of = |runner: &Victim| others.iter().find(|process| process.parent == runner.process.pid);
    runners.iter().filter_map(|runner| Some(Victim { process: *first_of(runner)?, ..runner.clone() })).collect()
}

/// Runs of the runner's program that do `what`.
fn commands(folder: &str, what: &str) -> Vec<Victim> {
    let mut found: Vec<Victim> = pids()
        .filter_map(|pid| {
            let words = command_line(pid);
            let ours =
                words.get(1).is_some_and(|first| first == what) && words.iter().any(|word| word.contains(folder));
            let (uuid, attempt) = attempt_of(&words).filter(|_| ours)?;
            Some(Victim { process: read(pid)?, uuid, attempt })
        })
        .collect();
    found.sort_by_key(|victim| victim.process.pid);
    found
}

impl Victim {
    /// SIGKILL to exactly this process. False if it has ended by itself.
    pub(crate) fn kill(&self) -> bool {
        let Some(pid) = Pid::from_raw(self.process.pid) else { return false };
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
        let lives = read(self.process.pid).is_some_and(|now| now.start == self.process.start);
        lives && pidfd_send_signal(&handle, Signal::KILL).is_ok()
    }
}

/// Whatever runs below `folder` (but for the test itself) or for one of these containers, as text.
pub(crate) fn left(folder: &Path, uuids: &[String]) -> Vec<String> {
    let folder = folder.to_str().expect("text");
    let own = i32::try_from(std::process::id()).expect("small");
    let belongs = |pid: &i32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let environment = String::from_utf8_lossy(&environment);
        let uuid = environment.split('\0').find_map(|line| line.strip_prefix("MUSTER_UUID="));
        let inside = std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
        inside
            || uuid.is_some_and(|uuid| uuids.iter().any(|ours| ours == uuid))
            || command_line(*pid).iter().any(|word| word.contains(folder))
    };
    let running = pids().filter(|pid| *pid != own && read(*pid).is_some());
    running.filter(belongs).map(|pid| format!("{pid}: {:?}", command_line(pid))).collect()
}
