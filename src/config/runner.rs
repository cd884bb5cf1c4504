//! The section `Muster.Runner`: what runs jobs on the workers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::build::Builder;
use super::files::check_binary;
use super::{CloudDriver, DeployRunner, RunnerConfig};

/// Time for an operator to restart the daemon, at the least.
const SELF_DESTRUCT_MIN: Duration = Duration::from_secs(300);
/// The runner takes no more.
const ENGINE_ARGUMENTS_BYTES_MAX: usize = 16 << 10;

impl Builder<'_, '_> {
    pub(super) fn runner(&mut self, driver: CloudDriver, local: bool) -> RunnerConfig {
        if local {
            self.unused_of_crunch_run();
        }
        let engines = ["process", "docker", "podman", "singularity", "apptainer"].map(|name| (name, name));
        let engine = self.one_of("Muster.Runner.Engine", &engines, "process").to_owned();
        let path = "Muster.Runner.SelfDestructAfter";
        let self_destruct = self.values.duration(path);
        if !self_destruct.is_zero() && matches!(driver, CloudDriver::Loopback | CloudDriver::Static) {
            // Spec 52 §2.
            self.error(path, "hosts of the drivers loopback and static are not ours to power off: remove this key");
        }
        let least = self.values.duration("Containers.CloudVMs.ProbeInterval").saturating_mul(3).max(SELF_DESTRUCT_MIN);
        if !self_destruct.is_zero() && self_destruct < least {
            // A worker is asked every ProbeInterval, and a restart of the daemon takes its time.
            let least = least.as_secs();
            self.error(
                path,
                format!("workers would power themselves off while in use: at least {least}s, or 0 for never"),
            );
        }
        let key = "Muster.Runner.EngineArguments";
        let engine_arguments = self.values.texts(key);
        if engine_arguments.iter().map(String::len).sum::<usize>() > ENGINE_ARGUMENTS_BYTES_MAX {
            self.error(key, format!("more than {ENGINE_ARGUMENTS_BYTES_MAX} bytes"));
        } else if let Some(argument) = engine_arguments.iter().find(|argument| is_ours(argument)) {
            self.error(key, format!("{argument:?} would keep the runner from its container: it has to name it, wait for it and ask about it"));
        } else if engine == "process" && !engine_arguments.is_empty() {
            self.warn(key, "not used: Muster.Runner.Engine is process");
        }
        RunnerConfig {
            user: self.values.text("Muster.Runner.User"),
            engine,
            engine_arguments,
            binaries: self.binaries(),
            self_destruct_after: (!self_destruct.is_zero()).then_some(self_destruct),
        }
    }

    /// What is said to a crunch-run (spec 50 §2): with the local queue our own runner does the work (52).
    fn unused_of_crunch_run(&mut self) {
        for key in ["Containers.CrunchRunArgumentsList", "Containers.RuntimeEngine"] {
            if self.values.is_set(key) {
                self.warn(
                    key,
                    "not used: it is for a crunch-run, and containers of the local queue are run by muster-runner",
                );
            }
        }
    }

    fn binaries(&mut self) -> BTreeMap<String, PathBuf> {
        let key = "Muster.Runner.Binaries";
        let paths = self.values.text_map(key);
        let paths: BTreeMap<_, _> = paths.into_iter().map(|(name, path)| (name, self.path(&path))).collect();
        if !paths.is_empty() && self.deploy_runner() != DeployRunner::Default {
            self.warn(key, "not used: DeployRunnerBinary says which runner all workers get");
        }
        for (architecture, path) in &paths {
            if let Err(why) = check_binary(architecture, path) {
                let entry = format!("{key}.{architecture}");
                let node = self.cluster.node.and_then(|node| super::values::find(node, &entry));
                let mark = node.map(|node| node.mark).or(self.values.mark(key));
                let message = format!("{}: {why}", path.display());
                self.faults.error(mark, &format!("{}{entry}", self.values.prefix), message);
            }
        }
        paths
    }

    fn warn(&mut self, key: &str, message: &str) {
        self.faults.warn(self.values.mark(key), &format!("{}{key}", self.values.prefix), message);
    }
}

/// Options of docker and podman that are the runner's to give.
fn is_ours(argument: &str) -> bool {
    let name = argument.split('=').next().unwrap_or_default();
    matches!(
        name,
        "--rm"
            | "--detach"
            | "-d"
            | "--name"
            | "--tty"
            | "-t"
            | "-it"
            | "-ti"
            | "--entrypoint"
            | "--log-driver"
            | "--pidfile"
            | "--cidfile"
    )
}
