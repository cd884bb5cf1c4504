//! The runner that this dispatcher gives to workers: which file it is, and what follows when it cannot be read (spec 20 §7, 62 §3).

use std::path::{Path, PathBuf};

use crate::config::{Config, DeployRunner};
use crate::core::effect::{Level, Note};
use crate::log::write_note;
use crate::remote::supply::{RunnerFiles, RunnerSupply};
use crate::shell::backend::DaemonBackend;

/// Loads it.
pub(in crate::shell) fn runner_supply(config: &Config) -> RunnerSupply {
    RunnerSupply::new(runner_files(config), config.cloud.deploy_runner_directory.clone())
}

/// Why no worker could be given a runner, for `muster check`; `None`: nothing is known to be wrong.
pub fn runner_fault(config: &Config) -> Option<String> {
    runner_files(config).load().err().map(|error| crate::core::errors::chain(&error))
}

/// No instance is created while there is none.
pub(super) fn tell_runner_fault(backend: &DaemonBackend) {
    let fault = backend.workers.supply().fault();
    if let Some(fault) = &fault {
        let note = Note::new(Level::Error, "daemon", "cannot boot worker: error loading runner binary");
        write_note(&note.with("error", fault));
    }
    backend.door.set_runner_fault(fault);
}

/// After a reload of the configuration.
pub(super) fn reload_runner(backend: &DaemonBackend) {
    let supply = backend.workers.supply();
    if !supply.reload() {
        return;
    }
    if supply.fault().is_none() {
        write_note(&Note::new(Level::Info, "daemon", "runner read again; workers that boot from now on get it"));
    }
    tell_runner_fault(backend);
}

fn runner_files(config: &Config) -> RunnerFiles {
    match &config.cloud.deploy_runner_binary {
        DeployRunner::PreInstalled => RunnerFiles::PreInstalled(config.containers.crunch_run_command.clone()),
        DeployRunner::File(path) => RunnerFiles::One(path.clone()),
        DeployRunner::Default if config.runner.binaries.is_empty() => RunnerFiles::One(installed_runner()),
        DeployRunner::Default => RunnerFiles::ByArchitecture(config.runner.binaries.clone()),
    }
}

/// The installed `muster-runner`: below `libexec` of the prefix that this program was installed in, or beside this program (a build
/// directory).
fn installed_runner() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let directory = program.parent().unwrap_or(Path::new("/usr/local/bin"));
    let beside = directory.join("muster-runner");
    let installed = directory.parent().unwrap_or(directory).join("libexec/muster/muster-runner");
    if !installed.exists() && beside.exists() { beside } else { installed }
}
