//! The processes of a host, found by their mount namespace, and signals for them.

use std::io;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::time::Timespec;

use crate::namespace::NamespaceId;

/// One process of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostProcess {
    /// As the caller sees it, which is as the host sees it: they share their processes.
    pub pid: i32,
    /// The kernel's name of it: the first 15 bytes of its program's.
    pub name: String,
}

impl HostProcess {
    /// Whether it is a server or a session of one, by its name: never what runs in a session.
    pub(crate) fn is_server(&self) -> bool {
        self.name.starts_with("sshd") || self.name.starts_with("dropbear")
    }
}

/// The processes in a namespace, in the order of their numbers.
pub(crate) fn in_namespace(id: NamespaceId) -> io::Result<Vec<HostProcess>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if NamespaceId::of(pid) == Some(id) {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            found.push(HostProcess { pid, name: name.trim_end().to_owned() });
        }
    }
    found.sort_by_key(|process| process.pid);
    Ok(found)
}

/// Sends a signal to each process that is chosen, until a scan finds no new one; gives how many. A killed one is waited for.
pub(crate) fn signal_all(id: NamespaceId, signal: Signal, chosen: impl Fn(&HostProcess) -> bool) -> io::Result<usize> {
    let mut done: Vec<i32> = Vec::new();
    loop {
        let mut sent = Vec::new();
        for process in in_namespace(id)?.into_iter().filter(|process| chosen(process)) {
            if done.contains(&process.pid) {
                continue;
            }
            if let Some(handle) = send(&process, id, signal)? {
                sent.push(handle);
            }
            done.push(process.pid);
        }
        if sent.is_empty() {
            return Ok(done.len());
        }
        if signal == Signal::KILL {
            for handle in &sent {
                wait_for_end(handle, Timespec { tv_sec: 60, tv_nsec: 0 })?;
            }
        }
    }
}

/// `None`: it was gone, or its number had become another's.
fn send(process: &HostProcess, id: NamespaceId, signal: Signal) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = Pid::from_raw(process.pid) else { return Ok(None) };
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(None) };
    // What has the number now may not be what had it during the scan; from here on the handle keeps it.
    if NamespaceId::of(process.pid) != Some(id) {
        return Ok(None);
    }
    match pidfd_send_signal(&handle, signal) {
        Ok(()) => Ok(Some(handle)),
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(error) => {
            let text = format!("cannot signal {} (process {}): {error}", process.name, process.pid);
            Err(io::Error::new(error.kind(), text))
        }
    }
}

/// Waits until a process has ended, or for the limit; whether it has.
pub(crate) fn wait_for_end(handle: impl AsFd, limit: Timespec) -> io::Result<bool> {
    let mut fds = [PollFd::new(&handle, PollFlags::IN)];
    loop {
        match poll(&mut fds, Some(&limit)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
