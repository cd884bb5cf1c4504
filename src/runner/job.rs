//! The supervision of a job: feeds it, keeps its output, and ends it in time (spec 52 §2).
//!
//! A container is everything that descends from the runner, is in its session or in the job's control group; the runner is the reaper
//! of its descendants, so "no child left" means that the container is empty, whatever its processes did to escape. Stopping is TERM
//! to all of it, after 10 s KILL, again and again while it forks. That also happens to what the job's first process leaves behind.
//!
//! A container that an engine keeps is nobody's descendant: our child is the engine's client, whose end is the container's, and
//! stopping and asking go through the engine ([`crate::engine::handle`]).

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::process::{Child, ChildStdin};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, wait};

use crate::cgroup::{self, Group, Usage};
use crate::engine::handle::Handle;
use crate::execute::{Ended, Setup};
use crate::poll;
use crate::procs;
use crate::run::{is_full, now_ms};
use crate::signals::{Signals, arrived};
use crate::stream::Stream;
use muster_runner::protocol::{ContainerSpec, Reason};

/// Between TERM and KILL.
const GRACE: Duration = Duration::from_secs(10);
/// What survives KILL for that long hangs in the kernel: the attempt ends without it.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// A container that forks while it is being killed is scanned again.
const KILL_AGAIN: Duration = Duration::from_millis(100);
/// The engine sends TERM and KILL itself; its client gets no KILL before it has had the time for both.
const ENGINE_MARGIN: Duration = Duration::from_secs(20);
const STOP_AGAIN: Duration = Duration::from_secs(1);
/// Memory is looked at after a tenth of the time that the job has run, but not more and not less often than this: what a short job
/// needed is seen, and a long one costs nothing.
const SAMPLES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(10)];

enum Phase {
    Running,
    Terminating { kill_at: Instant },
    Killing { again_at: Instant, give_up_at: Instant },
}

pub(crate) struct Job<'a> {
    signals: &'a Signals,
    group: Option<&'a Group>,
    handle: Option<&'a Handle>,
    /// The job's first process, or the engine's client.
    first: Option<Pid>,
    /// The engine's program that was told to stop the container.
    stopper: Option<Pid>,
    /// It has ended; if the client has not by then, there was nothing to stop yet.
    stop_again_at: Option<Instant>,
    pipes: [Option<std::fs::File>; 2],
    streams: &'a mut [Stream; 2],
    stdin: Option<(ChildStdin, &'a [u8])>,
    buffer: Vec<u8>,
    run_until: Option<Instant>,
    began: Instant,
    sample_at: Option<Instant>,
    peak: Usage,
    /// Of the engine's container, once it says where.
    engines_group: Option<Group>,
    phase: Phase,
    cause: Option<Reason>,
    detail: String,
    status: Option<WaitStatus>,
    childless: bool,
}

impl<'a> Job<'a> {
    pub(crate) fn new(
        spec: &'a ContainerSpec,
        setup: &'a Setup,
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
        let now = Instant::now();
        Ok(Self {
            signals,
            group: setup.group.as_ref(),
            handle: setup.handle.as_ref(),
            stopper: None,
            stop_again_at: None,
            peak: Usage::default(),
            engines_group: None,
            began: now,
            sample_at: (setup.group.is_some() || setup.handle.is_some()).then_some(now + SAMPLES[0]),
            first: i32::try_from(child.id()).ok().and_then(Pid::from_raw),
            pipes,
            streams,
            stdin,
            buffer: vec![0; 64 << 10],
            run_until: limit.and_then(|limit| now.checked_add(limit)),
            phase: Phase::Running,
            cause: None,
            detail: String::new(),
            status: None,
            childless: false,
        })
    }

    /// To its end.
    pub(crate) fn run(&mut self, started_at: i64) -> Ended {
        if let Err(e) = self.supervise() {
            self.blame(Reason::EngineError, format!("cannot watch the job: {e}"));
        }
        self.drain();
        self.ended(started_at)
    }

    /// No process is left; of an engine, the client has ended, and what else descends from it is the engine's business.
    fn is_over(&self) -> bool {
        self.childless || self.handle.is_some() && self.status.is_some()
    }

    /// Until the container is empty, or what is left cannot be killed.
    fn supervise(&mut self) -> io::Result<()> {
        while !self.is_over() {
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
        let deadline = deadline.into_iter().chain(self.sample_at).chain(self.stop_again_at).min();
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
        if !matches!(self.phase, Phase::Running) {
            return;
        }
        let now = Instant::now();
        if let Some(handle) = self.handle {
            self.stop_container(handle);
            self.phase = Phase::Terminating { kill_at: now + GRACE + ENGINE_MARGIN };
        } else {
            self.signal_all(Signal::TERM);
            self.phase = Phase::Terminating { kill_at: now + GRACE };
        }
    }

    fn stop_container(&mut self, handle: &Handle) {
        self.stop_again_at = None;
        match handle.stop(GRACE).and_then(|mut command| command.spawn()) {
            Ok(child) => self.stopper = i32::try_from(child.id()).ok().and_then(Pid::from_raw),
            Err(_) => {
                self.signal_first(Signal::TERM);
                self.stop_again_at = Some(Instant::now() + STOP_AGAIN);
            }
        }
    }

    fn signal_all(&self, signal: Signal) {
        match self.handle {
            // A killed client leaves its container running: the engine removes it in the end.
            Some(_) => self.signal_first(signal),
            None => signal_all(self.group.map(Group::dirs).unwrap_or_default(), signal),
        }
    }

    /// Failures show as a process that stays.
    fn signal_first(&self, signal: Signal) {
        if let Some(process) = self.first.and_then(|pid| procs::read(pid.as_raw_nonzero().get())) {
            procs::signal(&process, signal);
        }
    }

    fn reap(&mut self) -> io::Result<()> {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if Some(pid) == self.first => self.status = Some(status),
                Ok(Some((pid, status))) if Some(pid) == self.stopper => {
                    if status.exit_status() != Some(0) {
                        // There is no such container yet, and the client must not make one any more.
                        self.signal_first(Signal::TERM);
                    }
                    self.stop_again_at = Some(Instant::now() + STOP_AGAIN);
                }
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => break,
                Err(Errno::CHILD) => {
                    self.childless = true;
                    break;
                }
                Err(e) => return Err(e.into()),
            }
        }
        if self.status.is_some() && !self.is_over() {
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
        if self.cause.is_some() && !self.is_over() {
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
        self.sample(now);
        if let Some(handle) = self.handle.filter(|_| self.stop_again_at.is_some_and(|at| at <= now)) {
            self.stop_container(handle);
        }
        match self.phase {
            Phase::Running if self.run_until.is_some_and(|until| until <= now) => {
                if self.status.is_none() {
                    self.blame(Reason::MaxRunTime, "max_run_time has passed".into());
                }
                self.stop();
            }
            Phase::Terminating { kill_at } if kill_at <= now => {
                self.signal_all(Signal::KILL);
                self.phase = Phase::Killing { again_at: now + KILL_AGAIN, give_up_at: now + KILL_PATIENCE };
            }
            Phase::Killing { again_at, give_up_at } if again_at <= now => {
                self.signal_all(Signal::KILL);
                self.phase = Phase::Killing { again_at: now + KILL_AGAIN, give_up_at };
                return now < give_up_at;
            }
            _ => {}
        }
        true
    }

    fn sample(&mut self, now: Instant) {
        if self.sample_at.is_none_or(|at| at > now) {
            return;
        }
        self.sample_at = Some(now + ((now - self.began) / 10).clamp(SAMPLES[0], SAMPLES[1]));
        if self.engines_group.is_none()
            && let Some(handle) = self.handle
        {
            self.engines_group = handle.group();
        }
        if let Some(group) = self.group.or(self.engines_group.as_ref()) {
            self.peak = self.peak.max(group.usage());
        }
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
        let left_behind = !self.is_over();
        if left_behind {
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
            peak_memory: self.peak.memory,
            cpu_seconds: self.peak.cpu_seconds,
            left_behind,
            broken: false,
            oom: self.peak.oom,
            engines_group: self.engines_group.as_ref().and_then(Group::name),
        }
    }
}

/// To all that descends from this process, is in its session, or in these groups. Failures show as processes that stay.
pub(crate) fn signal_all(groups: &[PathBuf], signal: Signal) {
    let mut processes = procs::container(getpid().as_raw_nonzero().get()).unwrap_or_default();
    processes.extend(cgroup::members(groups));
    processes.sort_unstable_by_key(|process| process.pid);
    processes.dedup();
    for process in processes {
        procs::signal(&process, signal);
    }
}
