//! A container that an engine keeps: asking for its end, what became of it, removing it. It may outlive its runner, so all that is
//! needed for that stands in the lock file.

use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::{Engine, Kind};
use crate::poll;

/// An engine that does not answer for so long is out of order.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of an answer that are read.
const ANSWER_MAX: u64 = 64 << 10;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Handle {
    program: PathBuf,
    globals: Vec<String>,
    pub(crate) name: String,
    /// Where the engine writes the number of the container's first process; docker cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pid_file: Option<PathBuf>,
    /// The engine says "oom" only where it can: not a podman with control groups of version 1 on newer kernels.
    #[serde(skip)]
    guesses_oom: bool,
}

/// What the engine says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The engine has made it, and the job has not begun.
    NotBegun,
    Running,
    /// With 128 + signal for a death by a signal.
    Ended {
        exit_code: i32,
        oom: bool,
    },
}

impl Handle {
    /// `None` for an engine that keeps nothing.
    pub(crate) fn new(engine: &Engine, name: &str, dir: &Path) -> Option<Self> {
        let is_podman = engine.kind == Kind::Podman;
        (is_podman || engine.kind == Kind::Docker).then(|| Self {
            program: engine.program.clone(),
            globals: engine.globals.clone(),
            name: name.to_owned(),
            pid_file: is_podman.then(|| dir.join("pid")),
            guesses_oom: is_podman,
        })
    }

    /// For the engine's `run`.
    pub(crate) fn pid_file(&self) -> Option<&Path> {
        self.pid_file.as_deref()
    }

    /// Of the container, as this machine counts; `None` until it has begun, and if that is not told.
    pub(crate) fn first_process(&self) -> Option<i32> {
        fs::read_to_string(self.pid_file.as_ref()?).ok()?.trim().parse().ok()
    }

    /// Whether an exit code alone says that memory ran out. Nothing else kills the first process of a container by signal 9 from
    /// outside, but the engine, which does it for us.
    pub(crate) fn means_oom(&self, exit_code: i32) -> bool {
        self.guesses_oom && exit_code == 137
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.globals).args(words).current_dir("/");
        command
    }

    /// TERM, and after `grace` KILL, sent by the engine; fails if there is no such container (yet).
    pub(crate) fn stop(&self, grace: Duration) -> Command {
        let mut command = self.command(&["stop", "-t", &grace.as_secs().to_string(), &self.name]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// `None`: it does not know the container.
    ///
    /// # Errors
    /// The engine does not answer, or makes no sense.
    pub(crate) fn inspect(&self) -> io::Result<Option<State>> {
        let format = "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}} {{.State.StartedAt}}";
        let (succeeded, answer) =
            run(self.command(&["inspect", "--type", "container", "--format", format, &self.name]))?;
        if !succeeded {
            return Ok(None);
        }
        parse(answer.trim()).map(Some).ok_or_else(|| io::Error::other(format!("the engine says {:?}", answer.trim())))
    }

    /// Kills and removes it; also fine if there is none.
    ///
    /// # Errors
    /// It may still be there.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let (_, answer) = run(self.command(&["rm", "--force", "--volumes", &self.name]))?;
        // The exit code for a container that is not there differs from version to version.
        match self.inspect()? {
            None => Ok(()),
            Some(_) => Err(io::Error::other(format!("cannot remove the container {}: {}", self.name, answer.trim()))),
        }
    }
}

fn parse(answer: &str) -> Option<State> {
    let mut words = answer.split_whitespace();
    let (status, exit_code, oom) = (words.next()?, words.next()?.parse().ok()?, words.next()? == "true");
    // The zero time of the language that both engines are written in.
    let begun = !words.next()?.starts_with("0001-01-01");
    Some(match status {
        _ if !begun => State::NotBegun,
        "exited" | "stopped" | "dead" => State::Ended { exit_code, oom },
        _ => State::Running,
    })
}

/// Runs it to its end: whether it succeeded, and what it said on both streams. For a process that has no other children to wait for.
///
/// # Errors
/// It cannot be started, or takes longer than [`PATIENCE`]; then it was killed.
fn run(mut command: Command) -> io::Result<(bool, String)> {
    let deadline = Instant::now() + PATIENCE;
    let (reader, writer) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn()?;
    // It holds the writing ends of the pipe: without it the pipe ends with the child.
    drop(command);
    let handle = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let handle = handle.ok_or(io::ErrorKind::InvalidData).map(|pid| pidfd_open(pid, PidfdFlags::empty()))??;
    let mut answer = Vec::new();
    let mut reader = reader.take(ANSWER_MAX);
    let mut buffer = [0; 4096];
    loop {
        let ready =
            poll::wait(&[(reader.get_ref().as_fd(), PollFlags::IN), (handle.as_fd(), PollFlags::IN)], Some(deadline))?;
        if ready.iter().all(|flags| flags.is_empty()) {
            let _ = pidfd_send_signal(&handle, Signal::KILL);
            let _ = child.wait();
            let program = command_name(&answer);
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("the engine does not answer{program}")));
        }
        // What it leaves behind may keep the pipe open: its own end is enough, once the pipe has nothing for us.
        match ready[0].is_empty() {
            true => break,
            false => match reader.read(&mut buffer)? {
                0 => break,
                length => answer.extend_from_slice(&buffer[..length]),
            },
        }
    }
    let status = wait_until(&mut child, &handle, deadline)?;
    Ok((status, String::from_utf8_lossy(&answer).into_owned()))
}

/// What it had said, to be added to an error.
fn command_name(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    if text.trim().is_empty() { String::new() } else { format!("; it said {:?}", text.trim()) }
}

/// A child that has closed its streams may live on.
fn wait_until(child: &mut std::process::Child, handle: &std::os::fd::OwnedFd, deadline: Instant) -> io::Result<bool> {
    if poll::wait(&[(handle.as_fd(), PollFlags::IN)], Some(deadline))?[0].is_empty() {
        let _ = pidfd_send_signal(handle, Signal::KILL);
    }
    child.wait().map(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_both_engines() {
        for (answer, expected) in [
            ("exited 3 false 2026-11-28 21:02:49.924036335 +0000 UTC", Some(State::Ended { exit_code: 3, oom: false })),
            ("exited 137 true 2026-11-28T21:02:49.9Z", Some(State::Ended { exit_code: 137, oom: true })),
            ("running 0 false 2026-11-28T21:02:49.9Z", Some(State::Running)),
            ("paused 0 false 2026-11-28T21:02:49.9Z", Some(State::Running)),
            ("created 127 false 0001-01-01T00:00:00Z", Some(State::NotBegun)),
            ("configured 0 false 0001-01-01 00:00:00 +0000 UTC", Some(State::NotBegun)),
            ("exited 127 false 0001-01-01T00:00:00Z", Some(State::NotBegun)),
            ("exited x false 2026", None),
            ("", None),
        ] {
            assert_eq!(parse(answer), expected, "{answer}");
        }
    }

    #[test]
    fn programs_are_run_to_their_end() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            run(command).unwrap()
        };
        assert_eq!(shell("echo out; echo err >&2; exit 3"), (false, "out\nerr\n".to_owned()));
        assert_eq!(shell("exec >&- 2>&-; exit 0"), (true, String::new()));
        // What it has left behind keeps the pipe open, and is not waited for.
        let (succeeded, said) = shell("sleep 1000 & echo $!");
        assert!(succeeded);
        let pid = Pid::from_raw(said.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    }
}
