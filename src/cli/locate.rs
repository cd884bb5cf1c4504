//! Where the daemon is: its socket first, its address and token else (spec 80 §5).

use std::path::PathBuf;

use super::Global;
use super::exit::Failure;
use crate::config::{Config, Fault, Host, LoadOptions, Loaded, load, load_for_trial};
use crate::shell::dispatch_key::private_key_fault;

/// Ways to the daemon.
#[derive(Clone)]
pub(super) struct Location {
    pub(super) socket: PathBuf,
    /// `host:port`; tried in turn when the socket is not there.
    pub(super) addresses: Vec<String>,
    /// For the addresses only: never sent to whoever holds the socket's place.
    pub(super) token: Option<String>,
    /// Where a token would be, for messages.
    pub(super) token_file: PathBuf,
}

impl std::fmt::Debug for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Location")
            .field("socket", &self.socket)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// The options of the loader as the command line and the environment have them.
pub(super) fn load_options<'a>(global: &Global, env: &'a dyn Fn(&str) -> Option<String>) -> LoadOptions<'a> {
    LoadOptions {
        path: global.config.clone(),
        cluster: global.cluster.clone(),
        env,
        host: Host::this(),
        private_key_fault,
    }
}

pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The configuration, or its first fault and how to see the others.
pub(super) fn configuration(global: &Global) -> Result<Loaded, Failure> {
    first_fault(load(&load_options(global, &variable)))
}

/// The same for `muster cloudtest`, which tries what can be tried.
pub(super) fn configuration_for_trial(global: &Global) -> Result<Loaded, Failure> {
    first_fault(load_for_trial(&load_options(global, &variable)))
}

fn first_fault(loaded: Result<Loaded, Vec<Fault>>) -> Result<Loaded, Failure> {
    loaded.map_err(|faults| {
        let first = faults.first().map(ToString::to_string).unwrap_or_default();
        let more =
            if faults.len() > 1 { format!(" ({} more: see `muster check`)", faults.len() - 1) } else { String::new() };
        Failure::Failed(format!("{first}{more}"))
    })
}

pub(super) fn location(global: &Global) -> Result<Location, Failure> {
    Ok(of_config(&configuration(global)?.config))
}

fn of_config(config: &Config) -> Location {
    let token_file = config.state_dir.join("management-token");
    let configured = config.management_token.reveal();
    let token = if configured.is_empty() {
        std::fs::read_to_string(&token_file).ok().map(|text| text.trim().to_owned())
    } else {
        Some(configured.to_owned())
    };
    // Port 0 is chosen at the start: only the log, and the socket, tell which it is.
    let addresses = config.listen.iter().filter(|address| !address.ends_with(":0")).cloned().collect();
    Location { socket: config.state_dir.join("muster.sock"), addresses, token, token_file }
}
