//! The command line of `singularity exec` and `apptainer exec`: the job is a descendant of the program, under the same session, group
//! and user as a plain process would be.

use std::io;
use std::path::Path;
use std::process::Command;

use super::client::mountable;
use super::{Engine, Kind};
use crate::execute::Ended;
use crate::process;
use crate::trouble;
use muster_runner::protocol::{ContainerSpec, Reason};

/// What executes the job. The program takes the job's variables from its own environment where they have a prefix, so none of them
/// acts on the program.
///
/// # Errors
/// The directories cannot be mounted.
pub(crate) fn command(engine: &Engine, spec: &ContainerSpec, dir: &Path) -> io::Result<Command> {
    let (work, tmp) = (dir.join("work"), mountable(&dir.join("tmp"))?);
    mountable(&work)?;
    let mut command = Command::new(&engine.program);
    command.args(&engine.globals).args(["exec", "--cleanenv", "--contain"]);
    // Also its HOME; that variable cannot be set in another way.
    command.arg("--home").arg(&work).arg("--bind").arg(&tmp);
    command.arg("--pwd").arg(if spec.cwd.is_empty() { work.as_path() } else { Path::new(&spec.cwd) });
    command.args(&engine.options).arg(&spec.image).args(&spec.command);
    command.env_clear().env("PATH", process::PATH).env("HOME", &work);
    let prefix = if is_apptainer(engine) { "APPTAINERENV_" } else { "SINGULARITYENV_" };
    let variables = process::variables(spec, dir).into_iter().filter(|(name, _)| name != "HOME");
    command.envs(variables.map(|(name, value)| (format!("{prefix}{name}"), value)));
    Ok(command)
}

/// 255 with a last line of this form is the program's own end: an image that is not there or damaged, a mount that is refused. It does not
/// mark the machine as broken, whatever it says: a job can end so, too.
pub(crate) fn judge(ended: &mut Ended, stderr: &Path) {
    if ended.reason == Reason::Exited && ended.exit_code == Some(255) {
        let said = trouble::last_words(stderr);
        let last = said.rsplit(" / ").next().unwrap_or_default();
        if last.trim_start().starts_with("FATAL:") {
            ended.fail(format!("the engine could not start the container: {last}"));
        }
    }
}

/// Whichever of the two is here; apptainer also installs itself under the old name, and takes the old prefix then.
fn is_apptainer(engine: &Engine) -> bool {
    debug_assert!(matches!(engine.kind, Kind::Singularity | Kind::Apptainer));
    engine.program.ends_with("apptainer")
}
