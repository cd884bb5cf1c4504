//! Ends of children that are not wanted any more, also of those that cannot be killed: programs that have become another user (`sudo`), or hang in
//! the system. Those are waited for a while, and then whenever another command is run: they are no zombies for ever.

use std::process::Child;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, kill_process_group};

use super::streams::{Running, timespec};
use crate::core::effect::{Level, Note};
use crate::log::write_note;

/// Killed, and still there when they were waited for. Of the whole process, since executors come and go.
static UNREAPED: Mutex<Vec<Child>> = Mutex::new(Vec::new());

pub(super) fn pid_of(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

/// With its group.
pub(super) fn kill(child: &Child) {
    if let Some(pid) = pid_of(child) {
        // Whether it had an effect is seen when it is waited for.
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

/// Reaps one that was killed. One that has not ended within `limit` is logged, and left to [`try_again`].
pub(super) fn reap(mut child: Child, limit: Duration) {
    if has_ended(&mut child, limit) {
        return;
    }
    write_note(&Note::new(Level::Error, "daemon", "a process cannot be killed").with("Process", child.id()));
    UNREAPED.lock().push(child);
}

/// Reaps those that have ended meanwhile.
pub(super) fn try_again() {
    UNREAPED.lock().retain_mut(|child| matches!(child.try_wait(), Ok(None)));
}

fn has_ended(child: &mut Child, limit: Duration) -> bool {
    let until = Instant::now() + limit;
    let Some(running) = pid_of(child).map(Running::new) else {
        return !matches!(child.try_wait(), Ok(None));
    };
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut fds: Vec<PollFd<'_>> =
            running.descriptor().into_iter().map(|exit| PollFd::from_borrowed_fd(exit, PollFlags::IN)).collect();
        // Interrupted or not: what counts is the child.
        let _ = poll(&mut fds, Some(&timespec(running.patience(left))));
        let ended = !matches!(child.try_wait(), Ok(None));
        if ended || left.is_zero() {
            return ended;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_kept(pid: u32) -> bool {
        UNREAPED.lock().iter().any(|child| child.id() == pid)
    }

    /// One that lives on is not waited for, and reaped once it has ended.
    #[test]
    fn what_cannot_be_killed() {
        let child = std::process::Command::new("sleep").arg("1000").spawn().expect("starts");
        let (pid, number) = (pid_of(&child).expect("a number"), child.id());
        reap(child, Duration::ZERO);
        try_again();
        assert!(is_kept(number));
        rustix::process::kill_process(pid, Signal::KILL).expect("it lives");
        let until = Instant::now() + Duration::from_secs(120);
        while is_kept(number) {
            assert!(Instant::now() < until, "{number} is still there");
            try_again();
            std::thread::yield_now();
        }
        assert!(!std::path::Path::new(&format!("/proc/{number}")).exists());
    }

    #[test]
    fn what_can_be_killed() {
        let mut command = std::process::Command::new("sleep");
        let child =
            std::os::unix::process::CommandExt::process_group(&mut command, 0).arg("1000").spawn().expect("starts");
        let number = child.id();
        kill(&child);
        reap(child, Duration::from_secs(120));
        assert!(!is_kept(number) && !std::path::Path::new(&format!("/proc/{number}")).exists());
    }
}
