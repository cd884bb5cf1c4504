//! One command on an open connection (spec 45 §3).
//!
//! One loop moves all three streams, so that none can block another: more than 2 MiB of unread standard error would stop
//! standard output for ever. A command that is given up does not end at the other side: its connection must be discarded.

use std::io::{self, Read, Write};

use rustix::event::PollFlags;
use ssh2::{Channel, ErrorCode};

use super::command_line::{BEGIN, END};
use super::connect::Link;
use super::wait::{Interrupt, Waiter, directions, is_hang_up};
use crate::remote::wake::Wake;
use crate::remote::{Consume, ExecuteError, OUTPUT_BYTES_MAX, Output};

/// What one read takes: little at first, since most commands say little and a long poll keeps its buffer; more when it was not enough.
const READ_BYTES_FIRST: usize = 2 * 1024;
const READ_BYTES_MAX: usize = 32 * 1024;
/// What a login shell may say before the command begins.
const NOISE_BYTES_MAX: usize = 64 * 1024;
const STDERR: i32 = 1;
/// libssh2's codes: the other side has closed the channel; we have sent the end of input.
const CHANNEL_CLOSED: i32 = -26;
const CHANNEL_EOF_SENT: i32 = -27;

/// Why a command has no output.
#[derive(Debug)]
pub(super) enum ExecFault {
    /// The command was certainly not sent: the connection had gone stale.
    NotSent(io::Error),
    Failed(ExecuteError),
}

impl From<Interrupt> for ExecFault {
    fn from(interrupt: Interrupt) -> Self {
        Self::Failed(interrupt.into())
    }
}

impl From<Interrupt> for ExecuteError {
    fn from(interrupt: Interrupt) -> Self {
        match interrupt {
            Interrupt::Deadline => Self::Deadline,
            Interrupt::Cancelled => Self::Cancelled,
            other => Self::Channel(other.into_io()),
        }
    }
}

/// What goes in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Input<'a> {
    pub(super) line: &'a str,
    pub(super) stdin: &'a [u8],
    /// Standard input stays open until this is woken.
    pub(super) open_until: Option<&'a Wake>,
}

/// A command that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) output: Output,
    /// The connection can take another one.
    pub(super) reusable: bool,
}

/// Runs a command to its end. After an error the connection must be discarded.
///
/// # Errors
/// See [`ExecFault`].
pub(super) fn run<'a>(
    link: &mut Link,
    input: Input<'a>,
    waiter: Waiter<'a>,
    consume: Option<&mut Consume<'_>>,
) -> Result<Ended, ExecFault> {
    let channel = match link.drive(&waiter, || link.session().channel_session()) {
        Ok(channel) => channel,
        Err(interrupt @ (Interrupt::Deadline | Interrupt::Cancelled)) => return Err(interrupt.into()),
        Err(other) => return Err(ExecFault::NotSent(other.into_io())),
    };
    let mut streams = Streams::new(link, channel, input, waiter);
    let result = streams.start(input.line).and_then(|()| match consume {
        None => streams.keep(),
        Some(consume) => streams.hand_over(consume),
    });
    let Streams { channel, unwritten, half_sent, .. } = streams;
    if !result.as_ref().is_ok_and(|ended| ended.reusable) {
        give_up(link, channel, half_sent.then_some(unwritten));
    }
    result.map_err(ExecFault::Failed)
}

/// Frees a channel whose command has not ended, or not cleanly. libssh2 would wait for the other side, and in non-blocking mode
/// give up and leak channel and session; and a packet that it has begun to send must be sent before any other.
fn give_up(link: &mut Link, mut channel: Channel, half_sent: Option<&[u8]>) {
    link.cut();
    if let Some(rest) = half_sent {
        let _ = channel.write(rest);
    }
    // The same for an acknowledgement that was begun.
    let mut buffer = [0; 64];
    for stream in [0, STDERR] {
        let _ = channel.stream(stream).read(&mut buffer);
    }
    drop(channel);
}

/// A channel and what has come out of it.
struct Streams<'l, 'a> {
    link: &'l Link,
    waiter: Waiter<'a>,
    channel: Channel,
    unwritten: &'a [u8],
    open_until: Option<&'a Wake>,
    stdin_open: bool,
    /// libssh2 has begun to send a packet of standard input: until that is done it sends nothing else.
    half_sent: bool,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// The mark in front of the command's own output has been seen.
    begun: bool,
    buffer: Vec<u8>,
    /// Why a consumer's read failed: the error that it was given says less.
    failed: Option<ExecuteError>,
}

impl<'l, 'a> Streams<'l, 'a> {
    fn new(link: &'l Link, channel: Channel, input: Input<'a>, waiter: Waiter<'a>) -> Self {
        Self {
            link,
            waiter,
            channel,
            unwritten: input.stdin,
            open_until: input.open_until,
            stdin_open: true,
            half_sent: false,
            stdout: Vec::new(),
            stderr: Vec::new(),
            begun: false,
            buffer: vec![0; READ_BYTES_FIRST],
            failed: None,
        }
    }

    fn start(&mut self, line: &str) -> Result<(), ExecuteError> {
        let channel = &mut self.channel;
        Ok(self.link.drive(&self.waiter, || channel.exec(line))?)
    }

    fn keep(&mut self) -> Result<Ended, ExecuteError> {
        while !self.at_end() {
            self.turn()?;
            if self.begun && self.stdout.len() > OUTPUT_BYTES_MAX {
                return Err(ExecuteError::TooMuchOutput);
            }
        }
        let stdout = std::mem::take(&mut self.stdout);
        self.finish(stdout)
    }

    /// What comes faster than it is consumed waits in libssh2's window, 2 MiB.
    fn hand_over(&mut self, consume: &mut Consume<'_>) -> Result<Ended, ExecuteError> {
        let consumed = consume(self);
        if let Some(failed) = self.failed.take() {
            return Err(failed);
        }
        consumed.map_err(ExecuteError::Consumer)?;
        while !self.at_end() {
            self.stdout.clear();
            self.turn()?;
        }
        self.finish(Vec::new())
    }

    fn at_end(&self) -> bool {
        self.channel.eof()
    }

    /// Moves what can be moved on any stream, or waits until something can be.
    fn turn(&mut self) -> Result<(), ExecuteError> {
        let (mut was_queued, mut had_room) = (false, false);
        loop {
            self.waiter.check()?;
            let mut moved = self.write()?;
            moved |= self.read_stdout()?;
            moved |= self.read_stderr()?;
            if moved || self.at_end() {
                return Ok(());
            }
            // Reading one stream takes everything from the socket, also what belongs to the other or makes room for
            // writing: then the socket would stay silent although there is something to do. So look once more.
            let queued = self.channel.read_window().available > 0;
            let room = self.has_room();
            if was_queued || had_room || !(queued || room) {
                return self.wait(was_queued && queued);
            }
            (was_queued, had_room) = (queued, room);
        }
    }

    fn has_room(&self) -> bool {
        self.stdin_open && !self.unwritten.is_empty() && self.channel.write_window().remaining > 0
    }

    /// `stuck`: something is queued that neither stream gives out. It belongs to a stream that nobody asked for, or libssh2 is agreeing
    /// on new keys, which goes on when something comes; or an acknowledgement must be sent first, and only that is worth waking up for.
    fn wait(&mut self, stuck: bool) -> Result<(), ExecuteError> {
        let interest = match directions(self.link.session()) {
            both if stuck && both.contains(PollFlags::OUT) => PollFlags::OUT,
            other => other,
        };
        let early = self.open_until.filter(|_| self.stdin_open && self.unwritten.is_empty());
        if self.waiter.poll(self.link.socket(), interest, early)? {
            self.open_until = None;
        }
        Ok(())
    }

    /// True if something was written, or the end of input was sent.
    fn write(&mut self) -> Result<bool, ExecuteError> {
        if !self.stdin_open {
            return Ok(false);
        }
        let result = if self.unwritten.is_empty() {
            if self.open_until.is_some() {
                return Ok(false);
            }
            self.channel.send_eof().map(|()| 0).map_err(io::Error::from)
        } else {
            self.channel.write(self.unwritten)
        };
        match result {
            Ok(0) if !self.unwritten.is_empty() => Ok(false),
            Ok(count) => {
                self.half_sent = false;
                self.stdin_open = !self.unwritten.is_empty();
                self.unwritten = &self.unwritten[count..];
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.half_sent = self.has_room() && directions(self.link.session()).contains(PollFlags::OUT);
                Ok(false)
            }
            // The command does not want the rest: its own end is what counts.
            Err(_) if self.closed_by_peer() => {
                (self.unwritten, self.half_sent, self.stdin_open) = (&[], false, false);
                Ok(true)
            }
            Err(error) => Err(self.broken(error)),
        }
    }

    /// With the kind that says whether the connection has gone.
    fn broken(&self, error: io::Error) -> ExecuteError {
        let reset = self.link.last_error().is_some_and(is_hang_up);
        let kind = if reset { io::ErrorKind::ConnectionReset } else { error.kind() };
        ExecuteError::Channel(io::Error::new(kind, error.to_string()))
    }

    fn closed_by_peer(&self) -> bool {
        let code = self.link.last_error();
        matches!(code, Some(ErrorCode::Session(CHANNEL_CLOSED | CHANNEL_EOF_SENT)))
    }

    fn read_stdout(&mut self) -> Result<bool, ExecuteError> {
        let count = self.read_some(0)?;
        let before = self.stdout.len();
        self.stdout.extend_from_slice(&self.buffer[..count]);
        if !self.begun && count > 0 {
            self.skip_noise(before)?;
        }
        self.grow_buffer(count);
        Ok(count > 0)
    }

    /// Drops what the login shell printed before the command's own output. Up to `seen` bytes the mark was not there.
    fn skip_noise(&mut self, seen: usize) -> Result<(), ExecuteError> {
        let from = seen.saturating_sub(BEGIN.len());
        if let Some(at) = self.stdout[from..].windows(BEGIN.len()).position(|window| window == BEGIN) {
            self.stdout.drain(..from + at + BEGIN.len());
            self.begun = true;
        } else if self.stdout.len() > NOISE_BYTES_MAX {
            let text = format!("the login shell printed more than {NOISE_BYTES_MAX} bytes before the command began");
            return Err(ExecuteError::Channel(io::Error::new(io::ErrorKind::InvalidData, text)));
        }
        Ok(())
    }

    fn read_stderr(&mut self) -> Result<bool, ExecuteError> {
        let count = self.read_some(STDERR)?;
        if self.stderr.len() + count > OUTPUT_BYTES_MAX {
            return Err(ExecuteError::TooMuchOutput);
        }
        self.stderr.extend_from_slice(&self.buffer[..count]);
        self.grow_buffer(count);
        Ok(count > 0)
    }

    /// Bytes read; 0 if there are none now, and at the end of the stream.
    fn read_some(&mut self, stream: i32) -> Result<usize, ExecuteError> {
        match self.channel.stream(stream).read(&mut self.buffer) {
            Ok(count) => Ok(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(self.broken(error)),
        }
    }

    fn grow_buffer(&mut self, count: usize) {
        if count == self.buffer.len() && count < READ_BYTES_MAX {
            self.buffer.resize(READ_BYTES_MAX, 0);
        }
    }

    /// After both streams have ended: the channel's close, and how the command ended. The signal is read first, since the exit
    /// status is 0 then, too; and a status that never came is no success.
    fn finish(&mut self, stdout: Vec<u8>) -> Result<Ended, ExecuteError> {
        let (link, waiter, channel) = (self.link, self.waiter, &mut self.channel);
        // The server closes by itself. Closing first would have to wait for input that is half sent, and that nobody wants.
        link.drive(&waiter, || channel.wait_close())?;
        let signal = channel.exit_signal().map_err(Interrupt::Ssh)?.exit_signal;
        let status = channel.exit_status().map_err(Interrupt::Ssh)?;
        let reusable = !self.half_sent && link.drive(&waiter, || channel.close()).is_ok();
        let mut stderr = std::mem::take(&mut self.stderr);
        let confirmed = stderr.ends_with(END);
        if confirmed {
            stderr.truncate(stderr.len() - END.len());
        }
        let exit_code = match (&signal, status) {
            (Some(_), _) => None,
            (None, 0) => confirmed.then_some(0),
            (None, other) => Some(other),
        };
        // Where the command never began, what came is the server's reason, as that of a forced command.
        let stdout = if self.begun || exit_code != Some(0) { stdout } else { Vec::new() };
        let signal = signal.as_deref().map(signal_number);
        Ok(Ended { output: Output { stdout, stderr, exit_code, signal }, reusable })
    }

    fn fill(&mut self) -> Result<(), ExecuteError> {
        while (self.stdout.is_empty() || !self.begun) && !self.at_end() {
            self.turn()?;
        }
        Ok(())
    }
}

/// A consumer's view: the command's own standard output. At the end of the stream it does not say how the command ended.
impl Read for Streams<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Err(error) = self.fill() {
            let text = error.to_string();
            self.failed = Some(error);
            return Err(io::Error::other(text));
        }
        if !self.begun {
            return Ok(0);
        }
        let count = buffer.len().min(self.stdout.len());
        buffer[..count].copy_from_slice(&self.stdout[..count]);
        self.stdout.drain(..count);
        Ok(count)
    }
}

/// SSH names signals (RFC 4254 §6.10); the numbers are Linux's, 0 for a name that is not known.
fn signal_number(name: &str) -> i32 {
    match name {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        "ILL" => 4,
        "ABRT" => 6,
        "FPE" => 8,
        "KILL" => 9,
        "USR1" => 10,
        "SEGV" => 11,
        "USR2" => 12,
        "PIPE" => 13,
        "ALRM" => 14,
        "TERM" => 15,
        _ => 0,
    }
}
