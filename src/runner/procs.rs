//! Processes as /proc shows them: who is alive, who belongs to a container, who holds a lock; and signals that reach only those.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::Signal;

use crate::handle::Handle;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    pub(crate) session: i32,
    /// Clock ticks since boot; with `pid` it names one process for ever.
    pub(crate) start: u64,
    /// Ended, but nobody has waited for it.
    pub(crate) zombie: bool,
}

/// `None` if there is no such process.
pub(crate) fn read(pid: i32) -> Option<Process> {
    parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(pid: i32, stat: &str) -> Option<Process> {
    // The name in parentheses may itself hold spaces and parentheses.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().collect();
    Some(Process {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        start: fields.get(19)?.parse().ok()?,
        zombie: matches!(*fields.first()?, "Z" | "X"),
    })
}

/// Is the process that started at `start` (0 = any) still running?
pub(crate) fn lives(pid: i32, start: u64) -> bool {
    read(pid).is_some_and(|process| !process.zombie && (start == 0 || process.start == start))
}

fn all() -> io::Result<Vec<Process>> {
    let numbers = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(numbers.filter_map(read).collect())
}

/// A running process in a control group with this in its name.
pub(crate) fn in_group_named(part: &str) -> Option<i32> {
    let is_in = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|groups| groups.contains(part));
    fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(is_in)
}

/// The running processes of the container that `runner` supervises: what descends from it or is in its session, without itself.
pub(crate) fn container(runner: i32) -> io::Result<Vec<Process>> {
    let mut rest = all()?;
    let mut found: Vec<Process> = Vec::new();
    let mut parents = vec![runner];
    rest.retain(|process| process.pid != runner);
    // Each turn takes the children of those found by the turn before.
    while !parents.is_empty() {
        let (new, other): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|p| p.session == runner || parents.contains(&p.parent));
        rest = other;
        parents = new.iter().map(|process| process.pid).collect();
        found.extend(new);
    }
    found.retain(|process| !process.zombie);
    Ok(found)
}

/// The running processes in the session of a runner that started at `start` and has gone; none if that is unknown (0), or if
/// its number has been used again.
pub(crate) fn survivors(runner: i32, start: u64) -> io::Result<Vec<Process>> {
    if start == 0 || read(runner).is_some_and(|process| process.start != start) {
        return Ok(Vec::new());
    }
    Ok(all()?.into_iter().filter(|p| p.session == runner && p.pid != runner && !p.zombie).collect())
}

/// All processes but this one that have `path` open.
pub(crate) fn holders(path: &Path) -> io::Result<Vec<Process>> {
    let wanted = fs::metadata(path)?;
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    Ok(all()?.into_iter().filter(|p| p.pid != own && !p.zombie && holds(p.pid, &wanted)).collect())
}

fn holds(pid: i32, wanted: &fs::Metadata) -> bool {
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    open.flatten()
        .filter_map(|entry| fs::metadata(entry.path()).ok())
        .any(|file| (file.dev(), file.ino()) == (wanted.dev(), wanted.ino()))
}

/// Signals exactly this process, not a later one with its number. True if it was there and ours to signal.
pub(crate) fn signal(process: &Process, signal: Signal) -> bool {
    Handle::open(process.pid, process.start).is_some_and(|handle| handle.signal(signal).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_spaces_and_parentheses() {
        let stat = "17 (a) b) (c) S 5 17 9 0 -1 4194560 1 0 0 0 3 4 0 0 20 0 1 0 8765 1 1";
        let expected = Process { pid: 17, parent: 5, session: 9, start: 8765, zombie: false };
        assert_eq!(parse(17, stat), Some(expected));
        assert_eq!(parse(17, "17 (cut) S 5"), None);
        assert_eq!(parse(17, ""), None);
    }

    #[test]
    fn this_process_lives_and_its_twin_does_not() {
        let own = read(std::process::id().try_into().unwrap()).unwrap();
        assert!(lives(own.pid, own.start) && lives(own.pid, 0));
        assert!(!lives(own.pid, own.start + 1));
        assert!(!lives(0, 0));
    }
}
