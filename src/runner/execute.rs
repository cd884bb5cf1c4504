//! The execution of one attempt: by which engine, within which limits, and what its end means (spec 52 §2).

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::resource::{UsageWho, getrusage};
use rustix::process::Signal;

use crate::cgroup::Group;
use crate::engine::handle::{Handle, State};
use crate::engine::{Engine, client, singularity};
use crate::job::{self, Job};
use crate::kmsg;
use crate::null;
use crate::process;
use crate::run::now_ms;
use crate::signals::{Signals, arrived};
use crate::stream::Stream;
use crate::trouble;
use crate::user::User;
use muster_runner::protocol::{ContainerSpec, Reason};

/// How an attempt ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) reason: Reason,
    pub(crate) exit_code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) started_at: i64,
    pub(crate) finished_at: i64,
    pub(crate) detail: String,
    /// Bytes.
    pub(crate) peak_memory: Option<u64>,
    pub(crate) cpu_seconds: Option<f64>,
    /// Something of it could not be ended; the lock stays taken for it.
    pub(crate) left_behind: bool,
    /// The machine cannot run containers.
    pub(crate) broken: bool,
    /// Of the job's group: it has hit its own limit, or one of its processes was killed for whatever memory.
    pub(crate) oom: OutOfMemory,
    /// The name of the group in which an engine has put the container, if it ran long enough to be seen.
    pub(crate) engines_group: Option<String>,
}

impl Ended {
    /// The job did not begin.
    pub(crate) fn never(reason: Reason, detail: String) -> Self {
        let now = now_ms();
        Self {
            reason,
            exit_code: None,
            signal: None,
            started_at: now,
            finished_at: now,
            detail,
            peak_memory: None,
            cpu_seconds: None,
            left_behind: false,
            broken: false,
            oom: OutOfMemory::default(),
            engines_group: None,
        }
    }

    /// The engine's fault.
    pub(crate) fn fail(&mut self, text: String) {
        (self.reason, self.exit_code, self.signal) = (Reason::EngineError, None, None);
        self.detail = text;
    }

    fn add(&mut self, text: &str) {
        self.detail = if self.detail.is_empty() { text.to_owned() } else { format!("{}; {text}", self.detail) };
    }
}

/// What was seen of memory that ran out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OutOfMemory {
    pub(crate) own_limit: bool,
    pub(crate) killed: bool,
}

/// What an attempt is executed with. Made before its lock file says so, since others must find what a crash leaves.
#[derive(Debug)]
pub(crate) struct Setup {
    /// `Err`: its program is not here.
    engine: Result<Option<Engine>, String>,
    /// For jobs that are processes of ours, where the machine lets us.
    pub(crate) group: Option<Group>,
    /// For jobs that are not.
    pub(crate) handle: Option<Handle>,
    log: Option<kmsg::Log>,
}

impl Setup {
    pub(crate) fn new(spec: &ContainerSpec, dir: &Path) -> Self {
        let engine = Engine::of(spec);
        // With our number, since runners with other lock directories know nothing of ours, and share engine and kernel with us.
        let name = format!("muster-{}-{}-{}", spec.uuid, spec.attempt, std::process::id());
        let with_images = engine.as_ref().ok().and_then(Option::as_ref);
        let handle = with_images.and_then(|engine| Handle::new(engine, &name, dir));
        let log = with_images.and_then(|engine| Handle::log_of_silent_limit(engine, spec));
        let group = if engine.is_ok() && handle.is_none() { Group::create(&name) } else { None };
        Self { engine, group, handle, log }
    }

    fn command(&self, spec: &ContainerSpec, dir: &Path, user: User) -> io::Result<Command> {
        let mut command = match (&self.engine, &self.handle) {
            // The engine changes the user.
            (Ok(Some(engine)), Some(handle)) => return client::command(engine, handle, spec, dir, user),
            (Ok(Some(engine)), None) => singularity::command(engine, spec, dir)?,
            (Ok(None), _) => {
                if user.switch {
                    // A login user who may use sudo without a password would be root, and read what is not for jobs (spec 52 §2).
                    rustix::thread::set_no_new_privs(true)?;
                }
                process::command(spec, dir)
            }
            (Err(text), _) => return Err(io::Error::other(text.clone())),
        };
        if user.switch {
            // As root this also drops all supplementary groups.
            command.gid(user.gid).uid(user.uid);
        }
        Ok(command)
    }

    /// Removes what it has made, unless something may be left in it.
    pub(crate) fn clear(&self, ended: &Ended, dir: &Path) {
        if self.handle.is_some() {
            // It may hold secrets, and the directory may stay for a while.
            let _ = fs::remove_file(client::environment_file(dir));
        }
        if let Some(group) = self.group.as_ref().filter(|_| !ended.left_behind) {
            group.remove();
        }
    }
}

/// Runs the job to its end. The streams are complete but for [`Stream::finish`].
pub(crate) fn run(
    setup: &Setup,
    spec: &ContainerSpec,
    dir: &Path,
    user: User,
    streams: &mut [Stream; 2],
    signals: &Signals,
) -> Ended {
    if arrived(&signals.stop) {
        return Ended::never(Reason::Killed, "killed before the job began".into());
    }
    let limits = &spec.limits;
    let limited = setup.group.as_ref().map_or(Ok(()), |group| group.limit(limits.vcpus, limits.ram));
    let stdin = if spec.stdin.is_empty() { null::input() } else { Ok(Stdio::piped()) };
    let command = limited.and_then(|()| Ok((setup.command(spec, dir, user)?, stdin?)));
    let (mut command, stdin) = match command {
        Ok(command) => command,
        Err(e) => return Ended::never(Reason::EngineError, format!("cannot start the job: {e}")),
    };
    command.process_group(0).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let started_at = now_ms();
    let spawned = match &setup.group {
        Some(group) => group.around(|| command.spawn()),
        None => Ok(command.spawn()),
    };
    let child = match spawned {
        Ok(Ok(child)) => child,
        Ok(Err(e)) if matches!(setup.engine, Ok(None)) => return process::not_executed(spec, &e, &mut streams[1]),
        Ok(Err(e)) => {
            let text = format!("cannot start {}: {e}", command.get_program().display());
            return Ended::never(Reason::EngineError, text);
        }
        Err(e) => {
            // Perhaps begun, and this process in its group.
            job::signal_all(&[], Signal::KILL);
            return Ended { left_behind: true, ..Ended::never(Reason::EngineError, format!("its control group: {e}")) };
        }
    };
    let mut job = match Job::new(spec, setup, child, streams, signals) {
        Ok(job) => job,
        // Nothing is known to lead here; the session's processes would be found as stale.
        Err(e) => return Ended { left_behind: true, ..Ended::never(Reason::EngineError, e.to_string()) },
    };
    let mut ended = job.run(started_at);
    match &setup.handle {
        Some(handle) => ask_engine(&mut ended, (handle, setup.log.as_ref()), spec, dir),
        None => {
            account(&mut ended, setup.group.as_ref(), limits.ram);
            if matches!(setup.engine, Ok(Some(_))) {
                singularity::judge(&mut ended, &dir.join("stderr"));
            }
        }
    }
    ended.finished_at = now_ms();
    ended
}

/// What a job that was made of our processes has used, and whether that was too much.
fn account(ended: &mut Ended, group: Option<&Group>, ram: i64) {
    let children = getrusage(UsageWho::RUSAGE_CHILDREN).ok();
    let largest = children.and_then(|usage| u64::try_from(usage.max_rss()).ok()).map(|kib| kib << 10);
    ended.peak_memory = ended.peak_memory.max(largest);
    ended.cpu_seconds = children.map(|usage| seconds(usage.user_time()) + seconds(usage.system_time()));
    let Some(group) = group else { return };
    let usage = group.usage();
    ended.cpu_seconds = usage.cpu_seconds.or(ended.cpu_seconds);
    ended.oom = usage.oom;
    let killed_one = "one of its processes was killed because memory ran out";
    match ended.reason {
        _ if !usage.oom.killed => {}
        Reason::Exited | Reason::Signaled if usage.oom.own_limit && ram > 0 && ended.exit_code != Some(0) => {
            ended.reason = Reason::Oom;
            ended.add(&out_of_memory(ram));
        }
        // It got over it, or the machine as a whole had no more: not its own fault.
        Reason::Exited | Reason::Signaled => ended.add(killed_one),
        _ => {}
    }
}

fn out_of_memory(ram: i64) -> String {
    match ram {
        // The engine has a limit of its own, or sees what its machine lacks.
        ..=0 => "the engine says that memory ran out; it had asked for none".to_owned(),
        _ => format!("it needs more than the {ram} bytes of memory that it asked for"),
    }
}

fn seconds(time: nix::sys::time::TimeVal) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a process uses less than 2^53 microseconds")]
    let micros = (time.tv_sec() * 1_000_000 + time.tv_usec()) as f64;
    micros / 1e6
}

/// The client has ended, which says little: what the engine knows of its container counts. Then the container is removed.
fn ask_engine(ended: &mut Ended, (handle, log): (&Handle, Option<&kmsg::Log>), spec: &ContainerSpec, dir: &Path) {
    let state = handle.inspect();
    let by_itself = matches!(ended.reason, Reason::Exited | Reason::Signaled);
    let of_client = std::mem::take(&mut ended.exit_code);
    let client_was_killed = std::mem::take(&mut ended.signal).is_some();
    let said = trouble::last_words(&dir.join("stderr"));
    let never_made = by_itself && state.is_err() && of_client.is_some() && handle.was_never_made(&said, spec, dir);
    match state {
        Ok(Some(State::Ended { exit_code, oom })) => {
            ended.exit_code = Some(exit_code);
            let is_told = |log: &kmsg::Log| log.tells_of_oom(handle.first_process(), ended.engines_group.as_deref());
            // Of what the group saw only what it did to itself counts: a host that has no memory left is not the job's fault.
            let by_limit = ended.oom.killed && ended.oom.own_limit && spec.limits.ram > 0;
            let oom = oom || by_limit || exit_code == 137 && log.is_some_and(is_told);
            if by_itself && oom && exit_code != 0 {
                ended.reason = Reason::Oom;
                ended.add(&out_of_memory(spec.limits.ram));
            } else if by_itself {
                ended.reason = Reason::Exited;
            }
        }
        Ok(Some(State::NotBegun) | None) if by_itself => not_begun(ended, of_client, spec, &said),
        Ok(Some(State::Running)) if by_itself => {
            ended.fail("the engine's client ended while its container ran".to_owned());
        }
        Err(_) if never_made => not_begun(ended, of_client, spec, &said),
        Err(e) if by_itself => {
            ended.fail(format!("cannot ask the engine about its container: {e}"));
            // In its answer to us there are no words of the job.
            ended.broken = trouble::means_broken(&e.to_string(), spec);
        }
        _ => {}
    }
    if client_was_killed && ended.reason == Reason::EngineError {
        ended.add("the client was killed");
    }
    if let Err(e) = handle.remove()
        && !never_made
    {
        ended.left_behind = true;
        ended.add(&e.to_string());
    }
}

/// The engine's own exit codes: 127 and 126 for a command that is not in the image or not executable, but also for faults of its own;
/// 125 for others. Its words on standard error tell them apart.
fn not_begun(ended: &mut Ended, code: Option<i32>, spec: &ContainerSpec, said: &str) {
    let is_broken = trouble::means_broken(said, spec);
    let of_command = said.contains("executable file") || said.contains(&format!("exec: {:?}", spec.command[0]));
    match code {
        Some(code @ (126 | 127)) if of_command && !is_broken => ended.exit_code = Some(code),
        _ => {
            let code = code.map_or_else(|| "no exit code".to_owned(), |code| format!("exit code {code}"));
            ended.fail(format!("the engine could not start the container ({code}): {said}"));
            ended.broken = is_broken;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_job_that_was_killed_before_it_began_does_not_begin() {
        let dir = tempfile::tempdir().unwrap();
        let (stop, mut sender) = UnixStream::pair().unwrap();
        stop.set_nonblocking(true).unwrap();
        sender.write_all(&[1]).unwrap();
        let signals = Signals { stop, child: UnixStream::pair().unwrap().0 };
        let spec = ContainerSpec { command: vec!["touch".into(), "begun".into()], ..ContainerSpec::default() };
        let stream = |name| Stream::create(&dir.path().join(name), 10).unwrap();
        let user = User { uid: 0, gid: 0, switch: false };
        let setup = Setup { engine: Ok(None), group: None, handle: None, log: None };
        let ended = run(&setup, &spec, dir.path(), user, &mut [stream("stdout"), stream("stderr")], &signals);
        assert_eq!((ended.reason, ended.exit_code, ended.signal), (Reason::Killed, None, None));
        assert_eq!(ended.started_at, ended.finished_at);
    }

    #[test]
    fn an_engine_that_is_not_here_is_named_and_breaks_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let signals = Signals { stop: UnixStream::pair().unwrap().0, child: UnixStream::pair().unwrap().0 };
        signals.stop.set_nonblocking(true).unwrap();
        let stream = |name| Stream::create(&dir.path().join(name), 10).unwrap();
        let setup =
            Setup { engine: Err("engine \"x\": there is no program x".into()), group: None, handle: None, log: None };
        let user = User { uid: 0, gid: 0, switch: false };
        let spec = ContainerSpec::default();
        let ended = run(&setup, &spec, dir.path(), user, &mut [stream("stdout"), stream("stderr")], &signals);
        assert_eq!((ended.reason, ended.broken), (Reason::EngineError, false));
        assert!(ended.detail.contains("no program x"), "{}", ended.detail);
    }
}
