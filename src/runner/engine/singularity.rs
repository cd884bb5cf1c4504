//! The command line of `singularity exec` and `apptainer exec`: the job is a descendant of the program, under the same session, group
//! and user as a plain process would be.

use std::path::Path;
use std::process::Command;

use super::{Engine, Kind};
use crate::process;
use muster_runner::protocol::ContainerSpec;

/// What executes the job. The program takes the job's variables from its own environment where they have a prefix, so none of them
/// acts on the program.
pub(crate) fn command(engine: &Engine, spec: &ContainerSpec, dir: &Path) -> Command {
    let (work, tmp) = (dir.join("work"), dir.join("tmp"));
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
    command
}

/// Whichever of the two is here; apptainer also installs itself under the old name, and takes the old prefix then.
fn is_apptainer(engine: &Engine) -> bool {
    debug_assert!(matches!(engine.kind, Kind::Singularity | Kind::Apptainer));
    engine.program.ends_with("apptainer")
}
