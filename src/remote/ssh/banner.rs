//! What a server says first (RFC 4253 §4.2): lines of any text, then one that begins with `SSH-`.
//!
//! libssh2 takes lines in front of that for as long as they come, and heeds no deadline meanwhile: a service that never stops talking
//! would hold the thread for ever. So what has come is looked at first, without taking it.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::net::{RecvFlags, recv};

use super::wait::{Interrupt, Waiter};

/// A server that has said nothing by then may be one that waits for our words.
const FIRST_LIMIT: Duration = Duration::from_millis(500);
/// From its first words to the banner, when they come one by one.
const REST_LIMIT: Duration = Duration::from_secs(3);
/// Between two looks at words that are not complete.
const PAUSE: Duration = Duration::from_millis(5);
/// In front of the banner, and that.
const BYTES_MAX: usize = 4096;
/// What OpenSSH says to whoever comes too soon, before it hangs up.
const TOO_SOON: [&[u8]; 2] = [b"Exceeded MaxStar", b"Not allowed at t"];
/// Shown of the words of something else.
const SHOWN_BYTES: usize = 64;

/// What a server has said.
#[derive(Debug)]
pub(super) struct Words {
    /// None, if it has hung up.
    bytes: Vec<u8>,
    /// We have spoken first, so the banner may be taken already.
    introduced: bool,
}

impl Words {
    /// Waits until it can be told who speaks. `introduce` makes ourselves known, where the other side is silent; it may take the first
    /// words of an answer away.
    ///
    /// # Errors
    /// The deadline has passed and nothing came, or the worker is closed.
    pub(super) fn wait(socket: &OwnedFd, introduce: impl FnOnce(), waiter: &Waiter<'_>) -> Result<Self, Interrupt> {
        match waiter.until(Instant::now() + FIRST_LIMIT).poll(socket, PollFlags::IN, None) {
            Ok(_) => Self::listen(socket, false, waiter),
            Err(Interrupt::Deadline) => {
                waiter.check()?;
                introduce();
                waiter.poll(socket, PollFlags::IN, None)?;
                Self::listen(socket, true, waiter)
            }
            Err(other) => Err(other),
        }
    }

    fn listen(socket: &OwnedFd, introduced: bool, waiter: &Waiter<'_>) -> Result<Self, Interrupt> {
        let until = Instant::now() + REST_LIMIT;
        loop {
            let words = Self { bytes: peek(socket), introduced };
            let complete = words.bytes.is_empty() || words.are_of_ssh() || words.bytes.len() == BYTES_MAX;
            if complete || Instant::now() >= until {
                return Ok(words);
            }
            waiter.pause(Instant::now() + PAUSE)?;
        }
    }

    fn are_of_ssh(&self) -> bool {
        self.bytes.split(|byte| *byte == b'\n').any(|line| line.starts_with(b"SSH-"))
            || TOO_SOON.iter().any(|start| self.bytes.starts_with(start))
            // The length of a packet, which follows the banner (RFC 4253 §6.1: at most 35,000).
            || self.introduced && self.bytes.starts_with(&[0, 0])
    }

    /// The words of something that is no SSH server.
    pub(super) fn foreign(&self) -> Option<String> {
        let shown = &self.bytes[..self.bytes.len().min(SHOWN_BYTES)];
        (!self.bytes.is_empty() && !self.are_of_ssh())
            .then(|| String::from_utf8_lossy(shown).escape_debug().to_string())
    }
}

fn peek(socket: &OwnedFd) -> Vec<u8> {
    let mut buffer = vec![0; BYTES_MAX];
    let peeked = recv(socket, &mut buffer[..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    buffer.truncate(peeked.map_or(0, |(_, count)| count));
    buffer
}
