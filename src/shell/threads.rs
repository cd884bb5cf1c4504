//! The only place where threads start: named by role and id, with small stacks, joined with a limit (DESIGN §3).

use std::io;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, bounded};

/// A worker's thread: 12 KB of it are touched in practice (spec 45 §5).
pub const WORKER_STACK: usize = 256 * 1024;
/// Threads that parse, write JSON or use the database.
const STACK: usize = 2 * 1024 * 1024;

/// A thread that somebody owns.
#[derive(Debug)]
pub struct Thread {
    name: String,
    handle: JoinHandle<()>,
    /// Disconnected when the thread's body has returned.
    ended: Receiver<()>,
}

impl Thread {
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// Waits for the thread's end, but not beyond the deadline.
    ///
    /// # Errors
    /// The name of a thread that is late: it goes on until the process ends.
    pub fn join_until(self, deadline: Instant) -> Result<(), String> {
        match self.ended.recv_deadline(deadline) {
            Err(crossbeam_channel::RecvTimeoutError::Timeout) => Err(self.name),
            // Disconnected: the body returned. (A panic ends the process.)
            _ => self.handle.join().map_err(|_| self.name),
        }
    }
}

/// Starts a thread. Linux shows the first 15 bytes of its name.
///
/// # Errors
/// The system has no room for another thread.
pub fn start(name: &str, stack: usize, body: impl FnOnce() + Send + 'static) -> io::Result<Thread> {
    let (end, ended) = bounded::<()>(0);
    let handle = std::thread::Builder::new().name(name.to_owned()).stack_size(stack).spawn(move || {
        let _end = end;
        body();
    })?;
    Ok(Thread { name: name.to_owned(), handle, ended })
}

/// Starts a thread of one of the daemon's parts.
///
/// # Errors
/// As [`start`].
pub fn start_part(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<Thread> {
    start(name, STACK, body)
}

/// For parts below the shell, which own their threads but may not start them.
///
/// # Errors
/// As [`start`].
pub fn spawn(name: String, body: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name).stack_size(STACK).spawn(body)
}
