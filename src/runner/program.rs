//! Other programs, run to their end: an engine's, or what powers a machine off. Each has limits on time and on what it says.

use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::handle::LOOK_AGAIN;
use crate::null;
use crate::poll;

/// Bytes of each stream that are kept.
const ANSWER_MAX: usize = 64 << 10;
/// One that was killed and does not end hangs in the kernel: it is left there.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Answer {
    /// `None`: a signal ended it.
    pub(crate) exit_code: Option<i32>,
    pub(crate) stdout: String,
    /// In one line.
    pub(crate) stderr: String,
}

/// Runs it. What it leaves behind may keep its streams open: they are not waited for.
///
/// # Errors
/// It cannot be started, or takes longer than `patience`; then it was killed.
pub(crate) fn run(mut command: Command, patience: Duration) -> io::Result<Answer> {
    let deadline = Instant::now() + patience;
    let mut child = command.stdin(null::input()?).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(ErrorKind::InvalidData)?;
    // Without one (before Linux 5.3) it is looked at again and again.
    let handle = pidfd_open(pid, PidfdFlags::empty()).ok();
    let mut streams =
        [Output::new(child.stdout.take().map(Into::into)), Output::new(child.stderr.take().map(Into::into))];
    let mut is_over = false;
    while !is_over {
        let mut fds: Vec<_> = handle.iter().map(|handle| (handle.as_fd(), PollFlags::IN)).collect();
        fds.extend(streams.iter().filter_map(|stream| Some((stream.pipe.as_ref()?.as_fd(), PollFlags::IN))));
        let until = if handle.is_some() { deadline } else { deadline.min(Instant::now() + LOOK_AGAIN) };
        let ready = poll::wait(&fds, Some(until))?;
        if Instant::now() >= deadline {
            end(&mut child, handle.as_ref())?;
            let said = streams[1].line();
            let said = if said.is_empty() { said } else { format!("; it said {said:?}") };
            return Err(io::Error::new(ErrorKind::TimedOut, format!("no answer within {}s{said}", patience.as_secs())));
        }
        is_over = if handle.is_some() { !ready[0].is_empty() } else { child.try_wait()?.is_some() };
        streams.iter_mut().for_each(Output::read);
    }
    let exit_code = child.wait()?.code();
    let stdout = String::from_utf8_lossy(&streams[0].bytes).into_owned();
    Ok(Answer { exit_code, stdout, stderr: streams[1].line() })
}

fn end(child: &mut Child, handle: Option<&OwnedFd>) -> io::Result<()> {
    // Our own child that was not waited for: the number is still its own.
    child.kill()?;
    let deadline = Instant::now() + KILL_PATIENCE;
    while child.try_wait()?.is_none() && Instant::now() < deadline {
        let fds: Vec<_> = handle.iter().map(|handle| (handle.as_fd(), PollFlags::IN)).collect();
        let until = if handle.is_some() { deadline } else { deadline.min(Instant::now() + LOOK_AGAIN) };
        poll::wait(&fds, Some(until))?;
    }
    Ok(())
}

struct Output {
    pipe: Option<std::fs::File>,
    bytes: Vec<u8>,
}

impl Output {
    fn new(pipe: Option<OwnedFd>) -> Self {
        let pipe = pipe.filter(|pipe| {
            // One that could make us wait is not read.
            fcntl_getfl(pipe).and_then(|flags| fcntl_setfl(pipe, flags | OFlags::NONBLOCK)).is_ok()
        });
        Self { pipe: pipe.map(Into::into), bytes: Vec::new() }
    }

    /// What is there now, as far as a pipe holds it: who writes on and on does not keep us.
    fn read(&mut self) {
        let mut buffer = [0; 4096];
        for _ in 0..ANSWER_MAX / buffer.len() {
            let Some(pipe) = &mut self.pipe else { return };
            match pipe.read(&mut buffer) {
                Ok(length @ 1..) => {
                    let room = ANSWER_MAX.saturating_sub(self.bytes.len()).min(length);
                    self.bytes.extend_from_slice(&buffer[..room]);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Ok(_) | Err(_) => self.pipe = None,
            }
        }
    }

    fn line(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" / ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, patience: Duration) -> io::Result<Answer> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(command, patience)
    }

    #[test]
    fn programs_are_run_to_their_end() {
        let patience = Duration::from_secs(60);
        let answer = shell("echo out; echo one >&2; echo two >&2; exit 3", patience).unwrap();
        assert_eq!((answer.exit_code, &*answer.stdout, &*answer.stderr), (Some(3), "out\n", "one / two"));
        let answer = shell("exec >&- 2>&-; kill -9 $$", patience).unwrap();
        assert_eq!((answer.exit_code, &*answer.stdout), (None, ""));
        let answer = shell("head -c 1000000 /dev/zero", patience).unwrap();
        assert_eq!((answer.exit_code, answer.stdout.len()), (Some(0), ANSWER_MAX));
        // What it has left behind keeps the pipe open, and is not waited for.
        let answer = shell("sleep 1000 & echo $!", patience).unwrap();
        let pid = Pid::from_raw(answer.stdout.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }

    #[test]
    fn one_that_hangs_is_killed() {
        let error = shell("echo why >&2; exec sleep 1000", Duration::from_millis(300)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
}
