//! Commands on this very host, without SSH: what a loopback worker uses (spec 62 §3).
//!
//! One `poll` loop drives a child's streams, its end, the deadline and the two ways to be ended early, so deadlines are exact
//! and no thread is needed beside the caller's.

use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Stdio};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::wake::Wake;
use super::{Command, Consume, ExecuteError, Executor, Lane, OUTPUT_BYTES_MAX, Output, Program};

/// Commands of one lane at once: enough to group the queue's commits, few enough not to swamp the host.
const WIDTH: usize = 8;
/// The environment a command gets: nothing else of the daemon's reaches a job.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Is given what a command writes to its standard error, in pieces of any length.
pub type Watch<'a> = dyn FnMut(&[u8]) + 'a;

/// Runs commands as children of this process.
#[derive(Debug)]
pub struct LocalExecutor {
    /// Woken by `close` and never cleared.
    closing: Wake,
    home: String,
}

impl LocalExecutor {
    /// `home`: the home directory that commands see.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(home: String) -> io::Result<Self> {
        Ok(Self { closing: Wake::new()?, home })
    }

    fn spawn(&self, program: &Program) -> Result<Child, ExecuteError> {
        let shell;
        let (name, arguments): (&str, &[String]) = match program {
            Program::Shell(line) => {
                shell = ["-c".to_owned(), line.clone()];
                ("sh", &shell)
            }
            Program::Arguments(words) => words.split_first().map_or(("", &[][..]), |(name, rest)| (name, rest)),
        };
        std::process::Command::new(name)
            .args(arguments)
            .env_clear()
            .envs([("PATH", PATH), ("HOME", &self.home), ("LANG", "C.UTF-8")])
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| ExecuteError::Start { program: name.to_owned(), source })
    }

    /// Like [`Executor::stream`], with standard error given to `watch` as it comes instead of kept: `watch` bounds it.
    ///
    /// # Errors
    /// As [`Executor::stream`].
    pub fn watch(
        &self,
        command: &Command<'_>,
        consume: &mut Consume<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<Output, ExecuteError> {
        self.run(command, Some(consume), Some(watch))
    }

    fn run(
        &self,
        command: &Command<'_>,
        consume: Option<&mut Consume<'_>>,
        watch: Option<&mut Watch<'_>>,
    ) -> Result<Output, ExecuteError> {
        let mut child = self.spawn(&command.program)?;
        let watch = watch.map(|watch| watch as &mut Watch<'_>);
        let streams = Streams::of(&mut child, command, (&self.closing, watch)).map_err(ExecuteError::Channel);
        let result = streams.and_then(|streams| match consume {
            None => streams.keep(),
            Some(consume) => streams.hand_over(consume),
        });
        let (stdout, stderr) = match result {
            Ok(kept) => kept,
            Err(error) => {
                end(&mut child);
                return Err(error);
            }
        };
        let status = child.wait().map_err(ExecuteError::Channel)?;
        Ok(Output { stdout, stderr, exit_code: status.code(), signal: status.signal() })
    }
}

/// Ends a command that is not wanted any more, with what it started in its group (a detached runner has left it), and reaps it.
fn end(child: &mut Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let _ = child.wait();
}

impl Executor for LocalExecutor {
    fn execute(&self, _lane: Lane, command: &Command<'_>) -> Result<Output, ExecuteError> {
        self.run(command, None, None)
    }

    fn stream(&self, _lane: Lane, command: &Command<'_>, consume: &mut Consume<'_>) -> Result<Output, ExecuteError> {
        self.run(command, Some(consume), None)
    }

    fn width(&self, lane: Lane) -> usize {
        match lane {
            Lane::Probe => 1,
            Lane::Action | Lane::Bulk => WIDTH,
        }
    }

    /// The address of this host never changes.
    fn set_target(&self, _address: &str, _remote_user: &str) {}

    fn has_connected(&self) -> bool {
        true
    }

    fn runs_as_root(&self) -> bool {
        rustix::process::geteuid().is_root()
    }

    fn close(&self) {
        self.closing.wake();
    }
}

/// The ends of a child's streams that are still open, and what came out of them.
struct Streams<'a> {
    closing: &'a Wake,
    stdin: Option<ChildStdin>,
    unwritten: &'a [u8],
    open_until: Option<&'a Wake>,
    stdout_end: Option<ChildStdout>,
    stderr_end: Option<ChildStderr>,
    /// Readable when the child has ended; `None` once that was seen.
    exit: Option<OwnedFd>,
    deadline: Instant,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// Gets the standard error in the place of `stderr`.
    watch: Option<&'a mut Watch<'a>>,
    /// Bytes of it that came after the command's end.
    watched_late: usize,
    /// Why a consumer's read failed: the error that it was given says less.
    failed: Option<ExecuteError>,
}

/// What one turn of `poll` found ready.
#[derive(Clone, Copy)]
enum Source {
    Closing,
    EndOfInput,
    Stdin,
    Stdout,
    Stderr,
    Exit,
}

impl<'a> Streams<'a> {
    fn of(
        child: &mut Child,
        command: &Command<'a>,
        (closing, watch): (&'a Wake, Option<&'a mut Watch<'a>>),
    ) -> io::Result<Self> {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
        let mut streams = Self {
            closing,
            stdin: child.stdin.take(),
            unwritten: command.stdin,
            open_until: command.open_until,
            stdout_end: child.stdout.take(),
            stderr_end: child.stderr.take(),
            exit: Some(pidfd_open(pid, PidfdFlags::empty())?),
            deadline: command.deadline,
            stdout: Vec::new(),
            stderr: Vec::new(),
            watch,
            watched_late: 0,
            failed: None,
        };
        if let Some(stdin) = &streams.stdin {
            rustix::io::ioctl_fionbio(stdin, true)?;
        }
        streams.close_stdin_if_done();
        Ok(streams)
    }

    /// Keeps both streams, within their bound.
    fn keep(mut self) -> Result<(Vec<u8>, Vec<u8>), ExecuteError> {
        self.drive(false)?;
        Ok((self.stdout, self.stderr))
    }

    /// Lets `consume` read the standard output while it comes.
    fn hand_over(mut self, consume: &mut Consume<'_>) -> Result<(Vec<u8>, Vec<u8>), ExecuteError> {
        let consumed = consume(&mut self);
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        consumed.map_err(ExecuteError::Consumer)?;
        self.drive(true)?;
        Ok((Vec::new(), self.stderr))
    }

    /// Until the child has ended and its output is read. A process that it left behind with the streams open (a detached one has
    /// none of them) is not waited for: the command's own end is what counts.
    fn drive(&mut self, discard: bool) -> Result<(), ExecuteError> {
        while self.exit.is_some() {
            self.turn()?;
            if discard {
                self.stdout.clear();
            }
        }
        while self.stdout_end.is_some() {
            self.read_stdout()?;
            if discard {
                self.stdout.clear();
            }
        }
        while self.stderr_end.is_some() {
            self.read_stderr()?;
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<(), ExecuteError> {
        for source in self.wait()? {
            self.handle(source)?;
        }
        Ok(())
    }

    fn wait(&self) -> Result<Vec<Source>, ExecuteError> {
        let mut sources: Vec<(Source, BorrowedFd<'_>, PollFlags)> =
            vec![(Source::Closing, self.closing.as_fd(), PollFlags::IN)];
        if let Some(wake) = self.open_until.filter(|_| self.stdin.is_some() && self.unwritten.is_empty()) {
            sources.push((Source::EndOfInput, wake.as_fd(), PollFlags::IN));
        }
        if let Some(stdin) = self.stdin.as_ref().filter(|_| !self.unwritten.is_empty()) {
            sources.push((Source::Stdin, stdin.as_fd(), PollFlags::OUT));
        }
        if let Some(end) = &self.stdout_end {
            sources.push((Source::Stdout, end.as_fd(), PollFlags::IN));
        }
        if let Some(end) = &self.stderr_end {
            sources.push((Source::Stderr, end.as_fd(), PollFlags::IN));
        }
        if let Some(exit) = &self.exit {
            sources.push((Source::Exit, exit.as_fd(), PollFlags::IN));
        }
        let mut fds: Vec<PollFd<'_>> =
            sources.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ExecuteError::Deadline);
        }
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(ExecuteError::Channel(error.into())),
        }
        let ready = sources.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|((source, ..), _)| *source).collect())
    }

    fn handle(&mut self, source: Source) -> Result<(), ExecuteError> {
        match source {
            Source::Closing => return Err(ExecuteError::Cancelled),
            Source::EndOfInput => self.stdin = None,
            Source::Stdin => self.write_stdin(),
            Source::Stdout => self.read_stdout()?,
            Source::Stderr => self.read_stderr()?,
            Source::Exit => self.ended()?,
        }
        Ok(())
    }

    /// From now on nothing is waited for: what is in the pipes is all that counts.
    fn ended(&mut self) -> Result<(), ExecuteError> {
        self.exit = None;
        let ends = [self.stdout_end.as_ref().map(AsFd::as_fd), self.stderr_end.as_ref().map(AsFd::as_fd)];
        for end in ends.into_iter().flatten() {
            rustix::io::ioctl_fionbio(end, true).map_err(|error| ExecuteError::Channel(error.into()))?;
        }
        Ok(())
    }

    /// A command that does not read its input is no failure: its exit status tells.
    fn write_stdin(&mut self) {
        let Some(stdin) = &mut self.stdin else { return };
        match stdin.write(self.unwritten) {
            Ok(written) => self.unwritten = self.unwritten.get(written..).unwrap_or_default(),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => {
                self.unwritten = &[];
                self.stdin = None;
            }
        }
        self.close_stdin_if_done();
    }

    fn close_stdin_if_done(&mut self) {
        if self.unwritten.is_empty() && self.open_until.is_none() {
            self.stdin = None;
        }
    }

    fn read_stdout(&mut self) -> Result<(), ExecuteError> {
        let mut buffer = [0; 65536];
        let Some(end) = &mut self.stdout_end else { return Ok(()) };
        match read_some(end, &mut buffer)? {
            0 => self.stdout_end = None,
            count => append(&mut self.stdout, &buffer[..count])?,
        }
        Ok(())
    }

    fn read_stderr(&mut self) -> Result<(), ExecuteError> {
        let mut buffer = [0; 16384];
        let Some(end) = &mut self.stderr_end else { return Ok(()) };
        let count = read_some(end, &mut buffer)?;
        match &mut self.watch {
            _ if count == 0 => self.stderr_end = None,
            None => append(&mut self.stderr, &buffer[..count])?,
            Some(watch) => {
                watch(&buffer[..count]);
                // A process that was left behind may write for ever; what was in the pipe at the command's end is less than this.
                self.watched_late += if self.exit.is_none() { count } else { 0 };
                if self.watched_late > OUTPUT_BYTES_MAX {
                    self.stderr_end = None;
                }
            }
        }
        Ok(())
    }

    /// Until there is standard output that nobody has read, or no more will come.
    fn fill(&mut self) -> Result<(), ExecuteError> {
        while self.stdout.is_empty() && self.stdout_end.is_some() {
            if self.exit.is_some() { self.turn()? } else { self.read_stdout()? }
        }
        Ok(())
    }
}

impl Read for Streams<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Err(error) = self.fill() {
            let text = error.to_string();
            self.failed = Some(error);
            return Err(io::Error::other(text));
        }
        let count = buffer.len().min(self.stdout.len());
        buffer[..count].copy_from_slice(&self.stdout[..count]);
        self.stdout.drain(..count);
        Ok(count)
    }
}

/// Bytes read; 0 at the end of the stream, and for a stream that somebody else keeps open without writing.
fn read_some(from: &mut impl Read, buffer: &mut [u8]) -> Result<usize, ExecuteError> {
    loop {
        match from.read(buffer) {
            Ok(count) => return Ok(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(ExecuteError::Channel(error)),
        }
    }
}

fn append(kept: &mut Vec<u8>, bytes: &[u8]) -> Result<(), ExecuteError> {
    if kept.len() + bytes.len() > OUTPUT_BYTES_MAX {
        return Err(ExecuteError::TooMuchOutput);
    }
    kept.extend_from_slice(bytes);
    Ok(())
}

#[cfg(test)]
mod tests;
