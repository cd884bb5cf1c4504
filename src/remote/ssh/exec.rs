//! One command on an open connection (spec 45 §3).
//!
//! One loop moves all three streams, so that none can block another: more than 2 MiB of unread standard error would stop
//! standard output for ever. A command that is given up does not end at the other side: its connection must be discarded.

use std::io::{self, Read, Write};

use ssh2::{Channel, ErrorCode};

use super::command_line::{BEGIN, END};
use super::connect::Link;
use super::wait::{Interrupt, Waiter, directions};
use crate::remote::wake::Wake;
use crate::remote::{Consume, ExecuteError, OUTPUT_BYTES_MAX, Output};

/// What one read takes at most. A buffer begins small, and gets this size when a read has filled it: each idle worker has one command
/// open all the time, its long poll, whose answer is short.
const READ_BYTES: usize = 32 * 1024;
const READ_BYTES_FIRST: usize = 1024;
/// What a login shell may say before the command begins.
const NOISE_BYTES_MAX: usize = 64 * 1024;
/// Standard output that waits for its consumer: more is not read from the connection, so memory does not grow with the output.
const AHEAD_BYTES: usize = 256 * 1024;
const STDERR: i32 = 1;
/// libssh2: the other side has closed the channel, or its end of it.
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

/// Runs a command to its end. After an error the connection must be discarded.
///
/// # Errors
/// See [`ExecFault`].
pub(super) fn run(
    link: &Link,
    input: Input<'_>,
    waiter: Waiter<'_>,
    consume: Option<&mut Consume<'_>>,
) -> Result<Output, ExecFault> {
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
    if result.is_err() {
        // Freeing a channel waits for the other side, unless there is none any more: memory would leak.
        link.break_off();
    }
    result.map_err(ExecFault::Failed)
}

/// A channel and what has come out of it.
struct Streams<'a> {
    link: &'a Link,
    waiter: Waiter<'a>,
    channel: Channel,
    unwritten: &'a [u8],
    open_until: Option<&'a Wake>,
    stdin_open: bool,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// The mark in front of the command's own output has been seen.
    begun: bool,
    buffer: Vec<u8>,
    /// Why a consumer's read failed: the error that it was given says less.
    failed: Option<ExecuteError>,
}

impl<'a> Streams<'a> {
    fn new(link: &'a Link, channel: Channel, input: Input<'a>, waiter: Waiter<'a>) -> Self {
        Self {
            link,
            waiter,
            channel,
            unwritten: input.stdin,
            open_until: input.open_until,
            stdin_open: true,
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

    fn keep(&mut self) -> Result<Output, ExecuteError> {
        while !self.at_end() {
            self.turn(OUTPUT_BYTES_MAX)?;
            if self.begun && self.stdout.len() > OUTPUT_BYTES_MAX {
                return Err(ExecuteError::TooMuchOutput);
            }
        }
        let stdout = std::mem::take(&mut self.stdout);
        self.finish(stdout)
    }

    fn hand_over(&mut self, consume: &mut Consume<'_>) -> Result<Output, ExecuteError> {
        let consumed = consume(self);
        if let Some(failed) = self.failed.take() {
            return Err(failed);
        }
        consumed.map_err(ExecuteError::Consumer)?;
        while !self.at_end() {
            self.stdout.clear();
            self.turn(AHEAD_BYTES)?;
        }
        self.finish(Vec::new())
    }

    fn at_end(&self) -> bool {
        self.channel.eof()
    }

    /// Moves what can be moved on any stream, or waits until something can be. Reads no standard output beyond `ahead` bytes.
    fn turn(&mut self, ahead: usize) -> Result<(), ExecuteError> {
        self.waiter.check()?;
        let mut writable = false;
        loop {
            let mut moved = self.write()?;
            if self.stdout.len() <= ahead {
                moved |= self.read_stdout()?;
            }
            moved |= self.read_stderr()?;
            if moved || self.at_end() {
                return Ok(());
            }
            // Reading one stream takes everything from the socket, also what belongs to the other or makes room for
            // writing: then the socket would stay silent although there is something to do.
            if self.channel.read_window().available > 0 {
                continue;
            }
            let room = !self.unwritten.is_empty() && self.channel.write_window().remaining > 0;
            if !room || writable {
                break;
            }
            writable = true;
        }
        let early = self.open_until.filter(|_| self.stdin_open && self.unwritten.is_empty());
        let ended = self.waiter.poll(self.link.socket(), directions(self.link.session()), early)?;
        if ended {
            self.open_until = None;
        }
        Ok(())
    }

    /// True if something was written, or the end of input was sent.
    fn write(&mut self) -> Result<bool, ExecuteError> {
        if !self.stdin_open {
            return Ok(false);
        }
        if !self.unwritten.is_empty() {
            return match self.channel.write(self.unwritten) {
                Ok(count) => {
                    self.unwritten = &self.unwritten[count..];
                    Ok(count > 0)
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
                // The command does not want the rest: its own end is what counts.
                Err(_) if self.closed_by_peer() => {
                    self.unwritten = &[];
                    self.stdin_open = false;
                    Ok(true)
                }
                Err(error) => Err(ExecuteError::Channel(error)),
            };
        }
        if self.open_until.is_some() {
            return Ok(false);
        }
        let channel = &mut self.channel;
        match self.link.drive(&self.waiter, || channel.send_eof()) {
            Ok(()) => {}
            Err(Interrupt::Ssh(_)) if self.closed_by_peer() => {}
            Err(interrupt) => return Err(interrupt.into()),
        }
        self.stdin_open = false;
        Ok(true)
    }

    fn closed_by_peer(&self) -> bool {
        let code = self.link.last_error();
        matches!(code, Some(ErrorCode::Session(CHANNEL_CLOSED | CHANNEL_EOF_SENT)))
    }

    fn read_stdout(&mut self) -> Result<bool, ExecuteError> {
        let count = read_some(&mut self.channel.stream(0), &mut self.buffer)?;
        self.stdout.extend_from_slice(&self.buffer[..count]);
        self.grow(count);
        if !self.begun {
            self.skip_noise()?;
        }
        Ok(count > 0)
    }

    /// Drops what the login shell printed before the command's own output.
    fn skip_noise(&mut self) -> Result<(), ExecuteError> {
        if let Some(at) = self.stdout.windows(BEGIN.len()).position(|window| window == BEGIN) {
            self.stdout.drain(..at + BEGIN.len());
            self.begun = true;
        } else if self.stdout.len() > NOISE_BYTES_MAX {
            return Err(ExecuteError::TooMuchOutput);
        }
        Ok(())
    }

    fn read_stderr(&mut self) -> Result<bool, ExecuteError> {
        let count = read_some(&mut self.channel.stream(STDERR), &mut self.buffer)?;
        if self.stderr.len() + count > OUTPUT_BYTES_MAX {
            return Err(ExecuteError::TooMuchOutput);
        }
        self.stderr.extend_from_slice(&self.buffer[..count]);
        self.grow(count);
        Ok(count > 0)
    }

    fn grow(&mut self, count: usize) {
        if count == self.buffer.len() {
            self.buffer.resize(READ_BYTES, 0);
        }
    }

    /// After both streams have ended: the channel's close, and how the command ended. The signal is read first, since the exit
    /// status is 0 then, too; and a status that never came is no success.
    fn finish(&mut self, stdout: Vec<u8>) -> Result<Output, ExecuteError> {
        let (link, waiter, channel) = (self.link, self.waiter, &mut self.channel);
        link.drive(&waiter, || channel.close())?;
        link.drive(&waiter, || channel.wait_close())?;
        let signal = channel.exit_signal().map_err(Interrupt::Ssh)?.exit_signal;
        let status = channel.exit_status().map_err(Interrupt::Ssh)?;
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
        let stdout = if self.begun { stdout } else { Vec::new() };
        Ok(Output { stdout, stderr, exit_code, signal: signal.as_deref().map(signal_number) })
    }

    fn fill(&mut self) -> Result<(), ExecuteError> {
        while (self.stdout.is_empty() || !self.begun) && !self.at_end() {
            self.turn(AHEAD_BYTES)?;
        }
        Ok(())
    }
}

/// A consumer's view: the command's own standard output. At the end of the stream it does not say how the command ended.
impl Read for Streams<'_> {
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

/// Bytes read; 0 if there are none now, and at the end of the stream.
fn read_some(stream: &mut ssh2::Stream, buffer: &mut [u8]) -> Result<usize, ExecuteError> {
    match stream.read(buffer) {
        Ok(count) => Ok(count),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(ExecuteError::Channel(error)),
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
