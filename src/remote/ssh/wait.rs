//! Waiting for a connection, until an absolute deadline or until the worker is closed.
//!
//! Every libssh2 call goes through [`Waiter::drive`]: when it would block, the socket is polled in the directions that libssh2 asks
//! for, together with the descriptor that `close` makes ready. So code reads as blocking code, deadlines are exact, and another
//! thread can cancel (spec 45 §3).

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use ssh2::{BlockDirections, ErrorCode, Session};

use crate::remote::resolve::Wait;
use crate::remote::wake::Wake;

/// libssh2's code for a call that would block.
const EAGAIN: i32 = -37;

/// Says once and for all that a worker is closed.
#[derive(Debug)]
pub(super) struct Closing {
    wake: Wake,
    flag: AtomicBool,
}

impl Closing {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { wake: Wake::new()?, flag: AtomicBool::new(false) })
    }

    pub(super) fn close(&self) {
        self.flag.store(true, Ordering::Release);
        self.wake.wake();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }
}

/// Why a wait ended without what was waited for.
#[derive(Debug)]
pub(super) enum Interrupt {
    Deadline,
    Cancelled,
    Io(io::Error),
    Ssh(ssh2::Error),
}

impl From<ssh2::Error> for Interrupt {
    fn from(error: ssh2::Error) -> Self {
        Self::Ssh(error)
    }
}

impl From<io::Error> for Interrupt {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Interrupt {
    /// For a log line, where neither deadline nor cancellation is meant.
    pub(super) fn into_io(self) -> io::Error {
        match self {
            Self::Deadline => io::ErrorKind::TimedOut.into(),
            Self::Cancelled => io::ErrorKind::Interrupted.into(),
            Self::Io(error) => error,
            Self::Ssh(error) => io_error(&error),
        }
    }
}

/// A peer that has gone is a reset, everything else a fault of its own.
fn io_error(error: &ssh2::Error) -> io::Error {
    let kind = if is_hang_up(error.code()) { io::ErrorKind::ConnectionReset } else { io::ErrorKind::Other };
    io::Error::new(kind, text_of(error))
}

/// The socket failed or ended.
pub(super) fn is_hang_up(code: ErrorCode) -> bool {
    const SOCKET_SEND: i32 = -7;
    const SOCKET_DISCONNECT: i32 = -13;
    const SOCKET_RECV: i32 = -43;
    matches!(code, ErrorCode::Session(SOCKET_SEND | SOCKET_DISCONNECT | SOCKET_RECV))
}

/// libssh2's message with its number, which its documentation is sorted by.
pub(super) fn text_of(error: &ssh2::Error) -> String {
    match error.code() {
        ErrorCode::Session(code) | ErrorCode::SFTP(code) => format!("{} (libssh2 {code})", error.message()),
    }
}

pub(super) fn would_block(error: &ssh2::Error) -> bool {
    error.code() == ErrorCode::Session(EAGAIN)
}

impl Wait for Waiter<'_> {
    type Error = Interrupt;

    fn ready(&self, wake: &Wake) -> Result<(), Interrupt> {
        self.poll(wake, PollFlags::IN, None).map(drop)
    }

    fn pause(&self, until: Instant) -> Result<(), Interrupt> {
        Waiter::pause(self, until)
    }
}

/// How long to wait, and what ends it early.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter<'a> {
    pub(super) closing: &'a Closing,
    pub(super) deadline: Instant,
}

impl<'a> Waiter<'a> {
    /// The same with an earlier deadline.
    pub(super) fn until(self, deadline: Instant) -> Self {
        Self { deadline: self.deadline.min(deadline), ..self }
    }

    /// # Errors
    /// The deadline has passed, or the worker is closed.
    pub(super) fn check(&self) -> Result<(), Interrupt> {
        if self.closing.is_closed() {
            return Err(Interrupt::Cancelled);
        }
        if Instant::now() >= self.deadline { Err(Interrupt::Deadline) } else { Ok(()) }
    }

    /// Until one of `sources` is ready (or has failed); true for `early`.
    pub(super) fn poll(
        &self,
        socket: &impl AsFd,
        interest: PollFlags,
        early: Option<&Wake>,
    ) -> Result<bool, Interrupt> {
        self.check()?;
        let left = self.deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut sources = vec![PollFd::new(&self.closing.wake, PollFlags::IN), PollFd::new(socket, interest)];
        sources.extend(early.map(|wake| PollFd::new(wake, PollFlags::IN)));
        match poll(&mut sources, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Interrupt::Io(error.into())),
        }
        let early = sources.get(2).is_some_and(|source| !source.revents().is_empty());
        self.check()?;
        Ok(early)
    }

    /// Nothing but time.
    ///
    /// # Errors
    /// The deadline comes before `until`, or the worker is closed.
    pub(super) fn pause(&self, until: Instant) -> Result<(), Interrupt> {
        // Polls the closing descriptor twice: there is no other.
        match self.until(until).poll(&self.closing.wake, PollFlags::IN, None) {
            Err(Interrupt::Deadline) => self.check(),
            other => other.map(drop),
        }
    }

    /// Repeats a call until it does not block any more.
    ///
    /// # Errors
    /// The call's own, or an [`Interrupt`]; then the session is in the middle of something and must be discarded.
    pub(super) fn drive<T>(
        &self,
        session: &Session,
        socket: &impl AsFd,
        mut call: impl FnMut() -> Result<T, ssh2::Error>,
    ) -> Result<T, Interrupt> {
        loop {
            match call() {
                Err(error) if would_block(&error) => {
                    self.poll(socket, directions(session), None)?;
                }
                other => return other.map_err(Interrupt::Ssh),
            }
        }
    }
}

/// What the session waits for: always input as well, since a peer that has gone shows there.
pub(super) fn directions(session: &Session) -> PollFlags {
    match session.block_directions() {
        BlockDirections::Outbound | BlockDirections::Both => PollFlags::IN | PollFlags::OUT,
        BlockDirections::None | BlockDirections::Inbound => PollFlags::IN,
    }
}
