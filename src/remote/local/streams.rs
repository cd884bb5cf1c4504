//! The streams of a child, its end, its deadline and the ways to be ended early: one `poll` loop.

use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

use super::Watch;
use super::unreaped::pid_of;
use crate::remote::wake::Wake;
use crate::remote::{Command, Consume, ExecuteError, OUTPUT_BYTES_MAX};

/// Between two looks at a child that there is no descriptor for.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A child that nobody has waited for.
pub(super) struct Running {
    pid: Pid,
    /// Readable when it has ended. `None` on kernels that have none (before Linux 5.3), or that grant none: then it is looked at again and
    /// again.
    descriptor: Option<OwnedFd>,
}

impl Running {
    pub(super) fn new(pid: Pid) -> Self {
        Self { pid, descriptor: pidfd_open(pid, PidfdFlags::empty()).ok() }
    }

    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.descriptor.as_ref().map(AsFd::as_fd)
    }

    /// `left`, or less if nothing would tell of the child's end meanwhile.
    pub(super) fn patience(&self, left: Duration) -> Duration {
        if self.descriptor.is_some() { left } else { left.min(LOOK_AGAIN) }
    }

    /// Whether it has ended, as far as no descriptor tells. It can still be waited for.
    fn has_ended_unseen(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.descriptor.is_none() && !matches!(waitid(WaitId::Pid(self.pid), options), Ok(None))
    }
}

/// The ends of a child's streams that are still open, and what came out of them.
pub(super) struct Streams<'a> {
    closing: &'a Wake,
    stdin: Option<ChildStdin>,
    unwritten: &'a [u8],
    open_until: Option<&'a Wake>,
    stdout_end: Option<ChildStdout>,
    stderr_end: Option<ChildStderr>,
    /// `None` once its end was seen.
    exit: Option<Running>,
    deadline: Instant,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// Gets the standard error in the place of `stderr`.
    watch: Option<&'a mut Watch<'a>>,
    /// Bytes of both that were read after the command's end.
    late: usize,
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
    /// # Errors
    /// Its standard input cannot be used without waiting.
    pub(super) fn of(child: &mut Child, command: &Command<'a>, closing: &'a Wake) -> io::Result<Self> {
        let pid = pid_of(child).ok_or(io::ErrorKind::NotFound)?;
        let mut streams = Self {
            closing,
            stdin: child.stdin.take(),
            unwritten: command.stdin,
            open_until: command.open_until,
            stdout_end: child.stdout.take(),
            stderr_end: child.stderr.take(),
            exit: Some(Running::new(pid)),
            deadline: command.deadline,
            stdout: Vec::new(),
            stderr: Vec::new(),
            watch: None,
            late: 0,
            failed: None,
        };
        if let Some(stdin) = &streams.stdin {
            rustix::io::ioctl_fionbio(stdin, true)?;
        }
        streams.close_stdin_if_done();
        Ok(streams)
    }

    pub(super) fn watched_by(self, watch: Option<&'a mut Watch<'a>>) -> Self {
        Self { watch, ..self }
    }

    /// Keeps both streams, within their bound.
    ///
    /// # Errors
    /// The command did not come to its end, or what it wrote is too much.
    pub(super) fn keep(mut self) -> Result<(Vec<u8>, Vec<u8>), ExecuteError> {
        self.drive(false)?;
        Ok((self.stdout, self.stderr))
    }

    /// Lets `consume` read the standard output while it comes.
    ///
    /// # Errors
    /// As [`Streams::keep`], or of `consume`.
    pub(super) fn hand_over(mut self, consume: &mut Consume<'_>) -> Result<(Vec<u8>, Vec<u8>), ExecuteError> {
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
        if let Some(exit) = self.exit.as_ref().and_then(Running::descriptor) {
            sources.push((Source::Exit, exit, PollFlags::IN));
        }
        let mut fds: Vec<PollFd<'_>> =
            sources.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let left = self.deadline.saturating_duration_since(Instant::now());
        let patience = self.exit.as_ref().map_or(left, |exit| exit.patience(left));
        match poll(&mut fds, Some(&timespec(patience))) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(ExecuteError::Channel(error.into())),
        }
        let ready = sources.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        let mut ready: Vec<Source> = ready.map(|((source, ..), _)| *source).collect();
        if self.exit.as_ref().is_some_and(Running::has_ended_unseen) {
            ready.push(Source::Exit);
        }
        // Whoever looks late still finds what was in time: a command that has ended has not missed its deadline.
        let counts = |source: &Source| matches!(source, Source::Exit | Source::Closing);
        if left.is_zero() && !ready.iter().any(counts) {
            return Err(ExecuteError::Deadline);
        }
        Ok(ready)
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
            count => {
                append(&mut self.stdout, &buffer[..count])?;
                if self.is_beyond(count) {
                    self.stdout_end = None;
                }
            }
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
                if self.is_beyond(count) {
                    self.stderr_end = None;
                }
            }
        }
        Ok(())
    }

    /// After so many bytes more, a stream holds nothing of the command's: a process that was left behind may write for ever, and what was in
    /// both pipes at the command's end is less than this.
    fn is_beyond(&mut self, count: usize) -> bool {
        self.late += if self.exit.is_none() { count } else { 0 };
        self.late > 2 * OUTPUT_BYTES_MAX
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

/// Beyond what the system can count it is for ever.
pub(super) fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(time.subsec_nanos()) }
}

#[cfg(test)]
mod tests {
    use std::process::{Command as Process, Stdio};

    use super::*;
    use crate::remote::Program;

    /// As on a kernel without descriptors for processes: ends are seen, and who ended can be waited for.
    #[test]
    fn ends_are_seen_without_a_descriptor() {
        let closing = Wake::new().expect("a descriptor");
        for (script, input, patience, expected) in [
            ("echo out; exit 3", "", 600, Some((3, "out\n"))),
            ("cat; exec >&- 2>&-; sleep 0.1; exit 4", "fed", 600, Some((4, "fed"))),
            // What is left behind with the streams open is not waited for.
            ("sleep 1000 & echo out", "", 600, Some((0, "out\n"))),
            ("exec sleep 1000", "", 0, None),
        ] {
            let mut process = Process::new("sh");
            process.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = std::os::unix::process::CommandExt::process_group(&mut process, 0).spawn().expect("starts");
            let command = Command {
                program: Program::Shell(String::new()),
                stdin: input.as_bytes(),
                open_until: None,
                deadline: Instant::now() + Duration::from_secs(patience),
            };
            let mut streams = Streams::of(&mut child, &command, &closing).expect("descriptors");
            streams.exit.as_mut().expect("not waited for").descriptor = None;
            let kept = streams.keep();
            super::super::unreaped::kill(&child);
            let status = child.wait().expect("nobody has waited for it");
            match expected {
                Some((code, text)) => {
                    assert_eq!(status.code(), Some(code), "{script}");
                    assert_eq!(kept.expect(script).0, text.as_bytes(), "{script}");
                }
                None => assert!(matches!(kept, Err(ExecuteError::Deadline)), "{kept:?}"),
            }
        }
    }
}
