//! Sockets with deadlines, and the wake-up that ends every wait when the server stops.
//!
//! Sockets are non-blocking; all waiting is in `poll`, for the socket and the wake-up together. The only place of the
//! listener that reads a clock for deadlines.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::STOP_WRITE_TIME_MAX;

/// Once told, it stays told, and every wait of its clones ends.
#[derive(Clone, Debug)]
pub struct Stop(Arc<OwnedFd>);

impl Stop {
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// Never read back, so the descriptor stays ready for all who poll it.
    pub fn tell(&self) {
        // It can only fail by overflow, and then it is ready all the same.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    pub fn is_told(&self) -> bool {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1))
    }
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    Ready,
    TimedOut,
    Stopped,
}

/// A point in time that bounds several waits together.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    pub fn after(duration: Duration) -> Self {
        Self(Instant::now() + duration)
    }

    fn earlier(self, other: Self) -> Self {
        Self(self.0.min(other.0))
    }

    /// Time left, rounded up so that a wait never ends just before it.
    fn left(self) -> Timespec {
        let left = self.0.saturating_duration_since(Instant::now());
        Timespec::try_from(left).unwrap_or_default()
    }

    fn has_passed(self) -> bool {
        Instant::now() >= self.0
    }
}

/// Waits until any of `fds` is ready for `flags`, the deadline passes or the server stops; which are ready.
pub fn wait_any(
    fds: &[BorrowedFd<'_>],
    flags: PollFlags,
    deadline: Option<Deadline>,
    stop: Option<&Stop>,
) -> io::Result<(Wake, Vec<bool>)> {
    loop {
        let mut polled: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, flags)).collect();
        polled.extend(stop.map(|stop| PollFd::new(&stop.0, PollFlags::IN)));
        let left = deadline.map(Deadline::left);
        match poll(&mut polled, left.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(0) if deadline.is_some_and(Deadline::has_passed) => return Ok((Wake::TimedOut, Vec::new())),
            Ok(0) => {}
            Ok(_) => {
                let mut ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
                let stopped = stop.is_some() && ready.pop().unwrap_or(false);
                return Ok((if stopped { Wake::Stopped } else { Wake::Ready }, ready));
            }
        }
    }
}

/// One connection.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    pub fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        // Answers are written in one piece: waiting for more only delays them. A failure only costs time.
        let _ = stream.set_nodelay(true);
        Ok(Self::Tcp(stream))
    }

    pub fn unix(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self::Unix(stream))
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }

    /// One read without waiting; `WouldBlock` if nothing is there.
    pub fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => (&mut &*stream).read(buffer),
            Self::Unix(stream) => (&mut &*stream).read(buffer),
        }
    }

    /// One write without waiting.
    pub fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => (&mut &*stream).write(bytes),
            Self::Unix(stream) => (&mut &*stream).write(bytes),
        }
    }

    /// Reads what comes first. `Ok(0)` is the peer's end; errors of kind `TimedOut` and `ConnectionAborted` (the server
    /// stops) are ours.
    pub fn read_some(&self, buffer: &mut [u8], deadline: Deadline, stop: &Stop) -> io::Result<usize> {
        loop {
            match wait_any(&[self.fd()], PollFlags::IN, Some(deadline), Some(stop))?.0 {
                Wake::TimedOut => return Err(io::ErrorKind::TimedOut.into()),
                Wake::Stopped => return Err(io::ErrorKind::ConnectionAborted.into()),
                Wake::Ready => {}
            }
            match self.read_now(buffer) {
                Err(error) if is_temporary(&error) => {}
                result => return result,
            }
        }
    }

    /// Writes all of it. When the server stops, [`STOP_WRITE_TIME_MAX`] is left for the rest.
    pub fn write_all(&self, mut bytes: &[u8], mut deadline: Deadline, stop: &Stop) -> io::Result<()> {
        let mut watched = Some(stop);
        while !bytes.is_empty() {
            match self.write_now(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => bytes = &bytes[written..],
                Err(error) if is_temporary(&error) => {
                    match wait_any(&[self.fd()], PollFlags::OUT, Some(deadline), watched)?.0 {
                        Wake::TimedOut => return Err(io::ErrorKind::TimedOut.into()),
                        Wake::Stopped => {
                            watched = None;
                            deadline = deadline.earlier(Deadline::after(STOP_WRITE_TIME_MAX));
                        }
                        Wake::Ready => {}
                    }
                }
                Err(error) => return Err(error),
            }
            if deadline.has_passed() && !bytes.is_empty() {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    /// Tells the peer that no more comes. It may have gone already.
    pub fn end_writing(&self) {
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
