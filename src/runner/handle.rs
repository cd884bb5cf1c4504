//! One process, to be signalled and waited for, and no later one with its number: by a descriptor, or by number and start time on
//! kernels that have none (before Linux 5.3), or that grant none.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use crate::poll;
use crate::procs;

/// Between two looks at a process without a descriptor.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(crate) struct Handle {
    pid: Pid,
    /// 0 = unknown.
    start: u64,
    descriptor: Option<OwnedFd>,
}

impl Handle {
    /// `None`: it does not run (any more).
    pub(crate) fn open(pid: i32, start: u64) -> Option<Self> {
        let number = Pid::from_raw(pid)?;
        let descriptor = match pidfd_open(number, PidfdFlags::empty()) {
            Ok(descriptor) => Some(descriptor),
            Err(Errno::SRCH) => return None,
            Err(_) => None,
        };
        // After the descriptor was opened: from here on it is that process.
        procs::lives(pid, start).then_some(Self { pid: number, start, descriptor })
    }

    /// # Errors
    /// `SRCH` if it has ended.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Errno> {
        match &self.descriptor {
            Some(descriptor) => pidfd_send_signal(descriptor, signal),
            None if !self.lives() => Err(Errno::SRCH),
            None => kill_process(self.pid, signal),
        }
    }

    /// Waits for its end. False when the time was over.
    pub(crate) fn ends_before(&self, deadline: Instant) -> io::Result<bool> {
        if let Some(descriptor) = self.descriptor() {
            return Ok(!poll::wait(&[(descriptor, PollFlags::IN)], Some(deadline))?[0].is_empty());
        }
        while self.lives() {
            let now = Instant::now();
            if now >= deadline {
                return Ok(false);
            }
            poll::wait(&[], Some(deadline.min(now + LOOK_AGAIN)))?;
        }
        Ok(true)
    }

    /// Readable from its end on.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.descriptor.as_ref().map(AsFd::as_fd)
    }

    fn lives(&self) -> bool {
        procs::lives(self.pid.as_raw_nonzero().get(), self.start)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// As on a kernel without descriptors for processes, and as on one with them.
    #[test]
    fn signalled_and_waited_for_with_and_without_a_descriptor() {
        for with in [true, false] {
            let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
            let pid = i32::try_from(child.id()).unwrap();
            let start = procs::read(pid).unwrap().start;
            let mut handle = Handle::open(pid, start).unwrap();
            if !with {
                handle.descriptor = None;
            }
            assert!(!handle.ends_before(Instant::now()).unwrap());
            handle.signal(Signal::TERM).unwrap();
            assert!(handle.ends_before(Instant::now() + Duration::from_secs(600)).unwrap());
            child.wait().unwrap();
            assert_eq!(handle.signal(Signal::TERM), Err(Errno::SRCH));
            assert!(Handle::open(pid, start).is_none());
        }
    }

    #[test]
    fn a_later_process_with_its_number_is_not_it() {
        let own = i32::try_from(std::process::id()).unwrap();
        let start = procs::read(own).unwrap().start;
        assert!(Handle::open(own, start + 1).is_none());
        let handle = Handle { pid: Pid::from_raw(own).unwrap(), start: start + 1, descriptor: None };
        assert_eq!(handle.signal(Signal::KILL), Err(Errno::SRCH));
        assert!(handle.ends_before(Instant::now()).unwrap());
    }
}
