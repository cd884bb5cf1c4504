//! The process engine: starts the job, feeds it, keeps its output, and ends it in time (spec 52 §2).
//!
//! A container is everything that descends from the runner or is in its session; the runner is the reaper of its descendants,
//! so "no child left" means that the container is empty, whatever its processes did to escape. Stopping is TERM to all of it,
//! after 10 s KILL, again and again while it forks. That also happens to what the job's first process leaves behind.
//!
//! Without cgroups (a later addition) neither CPU nor memory is limited here, and an out-of-memory kill shows as signal 9.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, wait};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::low_level::pipe;

use crate::poll;
use crate::procs;
use crate::run::{is_full, now_ms};
use crate::stream::Stream;
use crate::user::User;
use muster_runner::protocol::{ContainerSpec, Reason};

/// Between TERM and KILL.
const GRACE: Duration = Duration::from_secs(10);
/// What survives KILL for that long hangs in the kernel: the attempt ends without it.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// A container that forks while it is being killed is scanned again.
const KILL_AGAIN: Duration = Duration::from_millis(100);

/// The signals of a runner, as descriptors to wait for.
#[derive(Debug)]
pub(crate) struct Signals {
    stop: UnixStream,
    child: UnixStream,
}

impl Signals {
    /// From here on no signal that listers and dispatchers send ends this process. They have their defaults again in the job.
    pub(crate) fn install() -> io::Result<Self> {
        let channel = |signals: &[i32]| -> io::Result<UnixStream> {
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            for signal in signals {
                pipe::register(*signal, write.try_clone()?)?;
            }
            Ok(read)
        };
        // SIGUSR2 means new prices to a crunch-run. Ours has no use for them: its dispatcher counts the cost.
        channel(&[SIGUSR1, SIGUSR2, SIGHUP])?;
        Ok(Self { stop: channel(&[SIGTERM, SIGINT, SIGQUIT])?, child: channel(&[SIGCHLD])? })
    }
}

/// True if a signal came; empties the channel.
fn arrived(mut channel: &UnixStream) -> bool {
    let mut buffer = [0; 64];
    let mut any = false;
    while matches!(channel.read(&mut buffer), Ok(1..)) {
        any = true;
    }
    any
}

/// How an attempt ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) reason: Reason,
    pub(crate) exit_code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) started_at: i64,
    pub(crate) finished_at: i64,
    pub(crate) detail: String,
    /// Processes that could not be killed; they hold the lock.
    pub(crate) left_behind: bool,
}

impl Ended {
    /// The job did not begin.
    pub(crate) fn never(reason: Reason, detail: String) -> Self {
        let now = now_ms();
        let (started_at, finished_at) = (now, now);
        Self { reason, exit_code: None, signal: None, started_at, finished_at, detail, left_behind: false }
    }
}

/// Runs the job to its end. The streams are complete but for [`Stream::finish`].
pub(crate) fn run(
    spec: &ContainerSpec,
    dir: &Path,
    user: User,
    streams: &mut [Stream; 2],
    signals: &mut Signals,
) -> Ended {
    if arrived(&signals.stop) {
        return Ended::never(Reason::Killed, "killed before the job began".into());
    }
    let started_at = now_ms();
    let child = match command(spec, dir, user).spawn() {
        Ok(child) => child,
        Err(e) => return not_executed(spec, &e, &mut streams[1]),
    };
    let mut job = match Job::new(spec, child, streams, signals) {
        Ok(job) => job,
        // Nothing is known to lead here; the session's processes would be found as stale.
        Err(e) => return Ended { left_behind: true, ..Ended::never(Reason::EngineError, e.to_string()) },
    };
    let outcome = job.supervise();
    if let Err(e) = outcome {
        job.blame(Reason::EngineError, format!("cannot watch the job: {e}"));
    }
    job.drain();
    job.ended(started_at)
}

fn command(spec: &ContainerSpec, dir: &Path, user: User) -> Command {
    let work = dir.join("work");
    let mut command = Command::new(&spec.command[0]);
    command
        .args(&spec.command[1..])
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", &work)
        .env("TMPDIR", dir.join("tmp"))
        .env("MUSTER_UUID", &spec.uuid)
        .env("MUSTER_ATTEMPT", spec.attempt.to_string())
        .process_group(0)
        .stdin(if spec.stdin.is_empty() { Stdio::null() } else { Stdio::piped() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(index) = spec.array_index {
        command.env("MUSTER_ARRAY_INDEX", index.to_string());
    }
    command.envs(&spec.environment);
    if spec.cwd.is_empty() {
        command.current_dir(work)
    } else {
        command.current_dir(&spec.cwd)
    };
    if user.switch {
        // As root this also drops all supplementary groups.
        command.gid(user.gid).uid(user.uid);
    }
    command
}

/// A command that is not there, or not executable, is the job's business: another attempt would not help.
fn not_executed(spec: &ContainerSpec, error: &io::Error, stderr: &mut Stream) -> Ended {
    let bad_cwd = !spec.cwd.is_empty() && !Path::new(&spec.cwd).is_dir();
    let exit_code = match Errno::from_io_error(error) {
        Some(Errno::NOENT) if !bad_cwd => 127,
        Some(
            Errno::NOENT
            | Errno::NOTDIR
            | Errno::ACCESS
            | Errno::NOEXEC
            | Errno::ISDIR
            | Errno::LOOP
            | Errno::NAMETOOLONG
            | Errno::TXTBSY
            | Errno::TOOBIG,
        ) => 126,
        _ => return Ended::never(Reason::EngineError, format!("cannot start {:?}: {error}", spec.command[0])),
    };
    let what = if bad_cwd { &spec.cwd } else { &spec.command[0] };
    let line = format!("muster: cannot execute {what:?}: {error}");
    // The detail says the same if this fails.
    let _ = stderr.write(format!("{line}\n").as_bytes());
    Ended { exit_code: Some(exit_code), ..Ended::never(Reason::Exited, line) }
}

enum Phase {
    Running,
    Terminating { kill_at: Instant },
    Killing { again_at: Instant, give_up_at: Instant },
}

struct Job<'a> {
    signals: &'a Signals,
    first: Option<Pid>,
    pipes: [Option<std::fs::File>; 2],
    streams: &'a mut [Stream; 2],
    stdin: Option<(ChildStdin, &'a [u8])>,
    buffer: Vec<u8>,
    run_until: Option<Instant>,
    phase: Phase,
    cause: Option<Reason>,
    detail: String,
    status: Option<WaitStatus>,
    childless: bool,
}

impl<'a> Job<'a> {
    fn new(
        spec: &'a ContainerSpec,
        mut child: Child,
        streams: &'a mut [Stream; 2],
        signals: &'a Signals,
    ) -> io::Result<Self> {
        let limit = spec.limits.max_run_time_s.filter(|limit| *limit > 0.0);
        let limit = limit.and_then(|limit| Duration::try_from_secs_f64(limit).ok());
        let stdin = child.stdin.take().map(|pipe| (pipe, spec.stdin.as_bytes()));
        let stdout = child.stdout.take().map(|pipe| std::fs::File::from(std::os::fd::OwnedFd::from(pipe)));
        let stderr = child.stderr.take().map(|pipe| std::fs::File::from(std::os::fd::OwnedFd::from(pipe)));
        let pipes = [stdout, stderr];
        let outputs = pipes.iter().flatten().map(AsFd::as_fd);
        for fd in outputs.chain(stdin.as_ref().map(|(pipe, _)| pipe.as_fd())) {
            fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?;
        }
        Ok(Self {
            signals,
            first: i32::try_from(child.id()).ok().and_then(Pid::from_raw),
            pipes,
            streams,
            stdin,
            buffer: vec![0; 64 << 10],
            run_until: limit.and_then(|limit| Instant::now().checked_add(limit)),
            phase: Phase::Running,
            cause: None,
            detail: String::new(),
            status: None,
            childless: false,
        })
    }

    /// Until the container is empty, or what is left cannot be killed.
    fn supervise(&mut self) -> io::Result<()> {
        while !self.childless {
            let ready = self.wait()?;
            if ready[0] && arrived(&self.signals.stop) && self.status.is_none() {
                self.blame(Reason::Killed, String::new());
                self.stop();
            }
            if ready[1] && arrived(&self.signals.child) {
                self.reap()?;
            }
            self.read_pipes();
            self.feed();
            if !self.keep_time() {
                break;
            }
        }
        Ok(())
    }

    /// Waits for anything to do; tells whether a stop signal and a child's end came.
    fn wait(&self) -> io::Result<[bool; 2]> {
        let mut fds: Vec<(BorrowedFd<'_>, PollFlags)> =
            vec![(self.signals.stop.as_fd(), PollFlags::IN), (self.signals.child.as_fd(), PollFlags::IN)];
        fds.extend(self.pipes.iter().flatten().map(|pipe| (pipe.as_fd(), PollFlags::IN)));
        fds.extend(self.stdin.as_ref().map(|(pipe, _)| (pipe.as_fd(), PollFlags::OUT)));
        let deadline = match self.phase {
            Phase::Running => self.run_until,
            Phase::Terminating { kill_at } => Some(kill_at),
            Phase::Killing { again_at, .. } => Some(again_at),
        };
        let ready = poll::wait(&fds, deadline)?;
        Ok([!ready[0].is_empty(), !ready[1].is_empty()])
    }

    /// The first cause counts.
    fn blame(&mut self, reason: Reason, detail: String) {
        if self.cause.is_none() {
            self.cause = Some(reason);
            self.detail = detail;
        }
    }

    fn stop(&mut self) {
        if matches!(self.phase, Phase::Running) {
            signal_all(Signal::TERM);
            self.phase = Phase::Terminating { kill_at: Instant::now() + GRACE };
        }
    }

    fn reap(&mut self) -> io::Result<()> {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if Some(pid) == self.first => self.status = Some(status),
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => break,
                Err(Errno::CHILD) => {
                    self.childless = true;
                    break;
                }
                Err(e) => return Err(e.into()),
            }
        }
        if self.status.is_some() && !self.childless {
            self.stop();
        }
        Ok(())
    }

    fn read_pipes(&mut self) {
        for (pipe, stream) in self.pipes.iter_mut().zip(self.streams.iter_mut()) {
            let Some(open) = pipe else { continue };
            match open.read(&mut self.buffer) {
                Ok(0) => *pipe = None,
                Ok(length) => {
                    if let Err(e) = stream.write(&self.buffer[..length])
                        && self.cause.is_none()
                    {
                        self.cause = Some(if is_full(&e) { Reason::DiskFull } else { Reason::EngineError });
                        self.detail = format!("cannot keep the job's output: {e}");
                    }
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(_) => *pipe = None,
            }
        }
        if self.cause.is_some() && !self.childless {
            self.stop();
        }
    }

    fn feed(&mut self) {
        let Some((pipe, rest)) = &mut self.stdin else { return };
        match pipe.write(rest) {
            Ok(length) => *rest = &rest[length..],
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
            // The job does not want more.
            Err(_) => *rest = &[],
        }
        if rest.is_empty() {
            self.stdin = None;
        }
    }

    /// False when it is time to give up.
    fn keep_time(&mut self) -> bool {
        let now = Instant::now();
        match self.phase {
            Phase::Running if self.run_until.is_some_and(|until| until <= now) => {
                if self.status.is_none() {
                    self.blame(Reason::MaxRunTime, "max_run_time has passed".into());
                }
                self.stop();
            }
            Phase::Terminating { kill_at } if kill_at <= now => {
                signal_all(Signal::KILL);
                self.phase = Phase::Killing { again_at: now + KILL_AGAIN, give_up_at: now + KILL_PATIENCE };
            }
            Phase::Killing { again_at, give_up_at } if again_at <= now => {
                signal_all(Signal::KILL);
                self.phase = Phase::Killing { again_at: now + KILL_AGAIN, give_up_at };
                return now < give_up_at;
            }
            _ => {}
        }
        true
    }

    /// What is still in the pipes. Whoever else holds them open is not waited for.
    fn drain(&mut self) {
        // A pipe holds at most 1 MiB; each turn takes 64 KiB.
        for _ in 0..32 {
            self.read_pipes();
        }
    }

    fn ended(&mut self, started_at: i64) -> Ended {
        let exit_code = self.status.and_then(WaitStatus::exit_status);
        let signal = self.status.and_then(WaitStatus::terminating_signal);
        let by_itself = if signal.is_some() { Reason::Signaled } else { Reason::Exited };
        let reason = match (self.cause, self.status) {
            (Some(cause), _) => cause,
            (None, Some(_)) => by_itself,
            (None, None) => Reason::EngineError,
        };
        if !self.childless {
            let text = "some of its processes cannot be killed";
            self.detail = if self.detail.is_empty() { text.into() } else { format!("{}; {text}", self.detail) };
        }
        Ended {
            reason,
            exit_code,
            signal,
            started_at,
            finished_at: now_ms(),
            detail: std::mem::take(&mut self.detail),
            left_behind: !self.childless,
        }
    }
}

/// Failures show as processes that stay.
fn signal_all(signal: Signal) {
    for process in procs::container(getpid().as_raw_nonzero().get()).unwrap_or_default() {
        procs::signal(&process, signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_was_killed_before_it_began_does_not_begin() {
        let dir = tempfile::tempdir().unwrap();
        let (stop, mut sender) = UnixStream::pair().unwrap();
        stop.set_nonblocking(true).unwrap();
        sender.write_all(&[1]).unwrap();
        let mut signals = Signals { stop, child: UnixStream::pair().unwrap().0 };
        let spec = ContainerSpec { command: vec!["touch".into(), "begun".into()], ..ContainerSpec::default() };
        let stream = |name| Stream::create(&dir.path().join(name), 10).unwrap();
        let user = User { uid: 0, gid: 0, switch: false };
        let ended = run(&spec, dir.path(), user, &mut [stream("stdout"), stream("stderr")], &mut signals);
        assert_eq!((ended.reason, ended.exit_code, ended.signal), (Reason::Killed, None, None));
        assert_eq!(ended.started_at, ended.finished_at);
    }
}
