//! A container that an engine keeps: asking for its end, what became of it, removing it. It may outlive its runner, so all that is
//! needed for that stands in the lock file.
//!
//! "The engine says that there is no such container" and "the engine does not answer as it should" are never the same here: in the
//! second case the container may be running.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::client::made_file;
use super::{Engine, Kind, limits};
use crate::cgroup::Group;
use crate::kmsg;
use crate::null;
use crate::program::{self, Answer};
use crate::trouble;
use muster_runner::protocol::ContainerSpec;

/// An engine that does not answer for so long is out of order.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of a container's own number, in hexadecimal digits.
const ID_LENGTH: usize = 64;
/// What an engine's program finds its store and its daemon by. Another session of the same user may have them otherwise.
const VARIABLES: [&str; 6] = ["PATH", "HOME", "XDG_RUNTIME_DIR", "DOCKER_HOST", "DOCKER_CONFIG", "CONTAINER_HOST"];

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Handle {
    program: PathBuf,
    globals: Vec<String>,
    variables: BTreeMap<String, String>,
    pub(crate) name: String,
    is_podman: bool,
    /// Where the engine writes the number of the container's first process; docker cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pid_file: Option<PathBuf>,
    /// Where docker's client writes the container's own number.
    #[serde(skip)]
    id_file: Option<PathBuf>,
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
        let variable = |name: &str| Some((name.to_owned(), std::env::var(name).ok()?));
        (is_podman || engine.kind == Kind::Docker).then(|| Self {
            program: engine.program.clone(),
            globals: engine.globals.clone(),
            variables: VARIABLES.into_iter().filter_map(variable).collect(),
            name: name.to_owned(),
            is_podman,
            pid_file: is_podman.then(|| dir.join("pid")),
            id_file: (!is_podman).then(|| made_file(dir)),
        })
    }

    /// For the engine's `run`.
    pub(crate) fn pid_file(&self) -> Option<&Path> {
        self.pid_file.as_deref()
    }

    /// docker's client, having ended by itself, could not have a container made: there was no daemon. A job may say the same, but then
    /// there is the file.
    pub(crate) fn was_never_made(&self, said: &str, spec: &ContainerSpec, dir: &Path) -> bool {
        !self.is_podman && trouble::means_no_daemon(said, spec) && matches!(made_file(dir).try_exists(), Ok(false))
    }

    /// Of the container, as this machine counts; `None` until it has begun, and if that is not told.
    pub(crate) fn first_process(&self) -> Option<i32> {
        fs::read_to_string(self.pid_file.as_ref()?).ok()?.trim().parse().ok()
    }

    /// Where the engine has put the container, if it runs on this machine: found without asking the engine, which may take long.
    pub(crate) fn group(&self) -> Option<Group> {
        let Some(file) = &self.id_file else { return Group::of(self.first_process()?) };
        let id = fs::read_to_string(file).ok()?;
        let id = id.trim();
        let is_whole = id.len() == ID_LENGTH && id.bytes().all(|b| b.is_ascii_hexdigit());
        if is_whole { Group::of_container(id) } else { None }
    }

    /// The kernel's log from now on, if a limit on memory counts of which the engine says nothing when it is hit: a podman with control
    /// groups of version 1 (conmon 2.1.6 on Linux 6.18, measured).
    pub(crate) fn log_of_silent_limit(engine: &Engine, spec: &ContainerSpec) -> Option<kmsg::Log> {
        let is_silent = engine.kind == Kind::Podman && !limits::is_v2() && limits::on_memory(engine.kind);
        if is_silent && spec.limits.ram > 0 { kmsg::Log::from_now() } else { None }
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.globals).args(words).env_clear().envs(&self.variables).current_dir("/");
        command
    }

    /// TERM, and after `grace` KILL, sent by the engine. Of a container that has not begun it may say that it has stopped it, and then
    /// it begins.
    ///
    /// # Errors
    /// There are no streams for its program.
    pub(crate) fn stop(&self, grace: Duration) -> io::Result<Command> {
        let mut command = self.command(&["stop", "-t", &grace.as_secs().to_string(), &self.name]);
        command.stdin(null::input()?).stdout(null::output()?).stderr(null::output()?);
        Ok(command)
    }

    /// # Errors
    /// The engine cannot say it.
    fn exists(&self) -> io::Result<bool> {
        // A pattern that is found anywhere. Whether names begin with a slash differs: `docker` may be podman's.
        let filter = format!("name={}", self.name);
        let answer = match self.is_podman {
            true => self.ask(&["container", "exists", &self.name])?,
            false => self.ask(&["ps", "--all", "--quiet", "--filter", &filter])?,
        };
        match (answer.exit_code, self.is_podman) {
            (Some(0), true) => Ok(true),
            (Some(1), true) => Ok(false),
            (Some(0), false) => Ok(!answer.stdout.trim().is_empty()),
            _ => Err(unclear(&answer)),
        }
    }

    /// `None`: it does not know the container.
    ///
    /// # Errors
    /// The engine does not answer, or makes no sense.
    pub(crate) fn inspect(&self) -> io::Result<Option<State>> {
        if !self.exists()? {
            return Ok(None);
        }
        let format = "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}} {{.State.StartedAt}}";
        let answer = self.ask(&["inspect", "--type", "container", "--format", format, &self.name])?;
        let state = answer.stdout.lines().last().and_then(parse).filter(|_| answer.exit_code == Some(0));
        state.map(Some).ok_or_else(|| unclear(&answer))
    }

    /// Kills and removes it; also fine if there is none.
    ///
    /// # Errors
    /// It may still be there.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let answer = self.ask(&["rm", "--force", "--volumes", &self.name])?;
        // The exit code for a container that is not there differs from version to version.
        if self.exists()? { Err(unclear(&answer)) } else { Ok(()) }
    }

    fn ask(&self, words: &[&str]) -> io::Result<Answer> {
        program::run(self.command(words), PATIENCE)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", self.program.display())))
    }
}

fn unclear(answer: &Answer) -> io::Error {
    let code = answer.exit_code.map_or_else(|| "a signal".to_owned(), |code| format!("exit code {code}"));
    io::Error::other(format!("the engine answers with {code}: {:?} {}", answer.stdout.trim(), answer.stderr))
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
}
