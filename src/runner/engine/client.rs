//! The command line of `docker run` and `podman run`, which speak alike.
//!
//! The job's environment goes through a file and not through the command line, which everybody may read, nor through the client's own
//! environment, where `LD_PRELOAD` and its like would act on the client. Nothing is interpreted by a shell.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::geteuid;

use super::handle::Handle;
use super::{Engine, Kind, limits};
use crate::process;
use crate::user::User;
use muster_runner::protocol::ContainerSpec;

/// The environment's file in the attempt's directory.
pub(crate) fn environment_file(dir: &Path) -> PathBuf {
    dir.join("environment")
}

/// In the attempt's directory too: docker's client creates it before it asks for the container, and removes it if there is none in the end.
pub(crate) fn made_file(dir: &Path) -> PathBuf {
    dir.join("made")
}

/// What starts the container that `handle` names, in the foreground.
///
/// # Errors
/// The environment cannot be written, or the directory cannot be mounted.
pub(crate) fn command(
    engine: &Engine,
    handle: &Handle,
    spec: &ContainerSpec,
    dir: &Path,
    user: User,
) -> io::Result<Command> {
    let file = environment_file(dir);
    write_environment(&file, spec, dir)?;
    let mut command = handle.command(&["run"]);
    command.args(arguments(engine, handle, spec, dir, user)?).arg("--env-file").arg(file);
    command.args(&engine.options);
    if engine.kind == Kind::Docker {
        command.arg("--cidfile").arg(made_file(dir));
    }
    command.arg("--entrypoint").arg(&spec.command[0]).arg(&spec.image).args(&spec.command[1..]);
    Ok(command)
}

fn arguments(
    engine: &Engine,
    handle: &Handle,
    spec: &ContainerSpec,
    dir: &Path,
    user: User,
) -> io::Result<Vec<String>> {
    let mut arguments: Vec<String> = vec!["--name".into(), handle.name.clone()];
    if let Some(path) = handle.pid_file() {
        arguments.extend(["--pidfile".to_owned(), path.to_string_lossy().into_owned()]);
    }
    // An image is anybody's: a program in it that changes to root would be root outside too, in the directories that are shared. The
    // operator's own options come later and can loosen this.
    arguments.extend(["--security-opt", "no-new-privileges", "--cap-drop", "ALL"].map(str::to_owned));
    // The runner keeps the streams, within limits. The engine's own copy would have none.
    arguments.extend(["--log-driver", "none"].map(str::to_owned));
    if !spec.stdin.is_empty() {
        arguments.push("--interactive".into());
    }
    let work = mountable(&dir.join("work"))?;
    for path in [&work, &mountable(&dir.join("tmp"))?] {
        // `z`: where SELinux is used the container may use them; elsewhere it means nothing.
        arguments.extend(["--volume".to_owned(), format!("{path}:{path}:z")]);
    }
    let cwd = if spec.cwd.is_empty() { &work } else { &spec.cwd };
    arguments.extend(["--workdir".to_owned(), cwd.clone()]);
    // A rootless podman has numbers of its own for users: this one is the runner's inside and outside.
    let keeps_id = engine.kind == Kind::Podman && !geteuid().is_root();
    arguments.extend(keeps_id.then(|| "--userns=keep-id".to_owned()));
    arguments.extend(["--user".to_owned(), format!("{}:{}", user.uid, user.gid)]);
    arguments.extend(limits::options(engine.kind, &spec.limits));
    Ok(arguments)
}

/// Engines separate the parts of a mount by colons, and some by commas.
pub(super) fn mountable(path: &Path) -> io::Result<String> {
    path.to_str().filter(|text| !text.contains([':', ','])).map(str::to_owned).ok_or_else(|| {
        let text = format!(
            "{} has a colon or a comma, or is not UTF-8: an engine cannot mount it; set --state-dir",
            path.display()
        );
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })
}

fn write_environment(path: &Path, spec: &ContainerSpec, dir: &Path) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let mut text = Vec::new();
    // PATH is the image's.
    for (name, value) in process::variables(spec, dir) {
        writeln!(text, "{name}={value}")?;
    }
    file.write_all(&text)
}
