//! A job as a plain process: its command line and environment, and what it means if that cannot be executed (spec 52 §2).

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::Command;

use rustix::io::Errno;

use crate::execute::Ended;
use crate::stream::Stream;
use muster_runner::protocol::{ContainerSpec, Reason};

pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The job's variables but for [`PATH`]; the record's own win.
pub(crate) fn variables(spec: &ContainerSpec, dir: &Path) -> BTreeMap<String, String> {
    let path = |name| dir.join(name).to_string_lossy().into_owned();
    let mut variables: BTreeMap<String, String> = [
        ("HOME", path("work")),
        ("TMPDIR", path("tmp")),
        ("MUSTER_UUID", spec.uuid.clone()),
        ("MUSTER_ATTEMPT", spec.attempt.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    variables.extend(spec.array_index.map(|index| ("MUSTER_ARRAY_INDEX".to_owned(), index.to_string())));
    variables.extend(spec.environment.clone());
    variables
}

pub(crate) fn command(spec: &ContainerSpec, dir: &Path) -> Command {
    let mut command = Command::new(&spec.command[0]);
    command.args(&spec.command[1..]).env_clear().env("PATH", PATH).envs(variables(spec, dir));
    if spec.cwd.is_empty() {
        command.current_dir(dir.join("work"))
    } else {
        command.current_dir(&spec.cwd)
    };
    command
}

/// A command that is not there, or not executable, is the job's business: another attempt would not help.
pub(crate) fn not_executed(spec: &ContainerSpec, error: &io::Error, stderr: &mut Stream) -> Ended {
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
