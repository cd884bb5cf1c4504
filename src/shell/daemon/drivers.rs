//! Drivers whose hosts are reached over SSH, made from the configuration.

use std::sync::Arc;

use super::DaemonError;
use crate::cloud::CloudEvents;
use crate::cloud::static_hosts::{HostSpec, StaticHosts, StaticOptions};
use crate::config::{Config, StaticConfig, StaticHost};
use crate::core::ids::InstanceId;
use crate::remote::Connector;
use crate::remote::runner::RunnerPlaces;
use crate::remote::ssh::{SshClient, SshConnector, port_number};
use crate::shell::clock::Clock;
use crate::shell::state_dir::StateDir;
use crate::shell::threads;

/// Connections with the dispatcher's key, which is made if there is none.
pub(super) fn connector(config: &Config, state_dir: &StateDir) -> Result<Arc<dyn Connector>, DaemonError> {
    let key = state_dir.dispatch_key(&config.containers.dispatch_private_key)?;
    let Some(port) = port_number(&config.cloud.ssh_port) else {
        return Err(DaemonError::NotBuilt(format!("SSHPort: {:?} is no port", config.cloud.ssh_port)));
    };
    Ok(Arc::new(SshConnector(Arc::new(SshClient::new(key, port, Arc::new(threads::spawn))))))
}

/// Reads the driver's state file, and begins to clean up what a predecessor left half done.
pub(super) fn static_hosts(
    config: &Config,
    hosts: &StaticConfig,
    set: &str,
    connector: Arc<dyn Connector>,
    events: &CloudEvents,
) -> Result<StaticHosts, DaemonError> {
    let clock = Clock::start();
    let places = RunnerPlaces { directory: config.cloud.deploy_runner_directory.clone(), ..RunnerPlaces::default() };
    let options = StaticOptions {
        hosts: hosts.hosts.iter().map(|host| spec(config, host)).collect(),
        state_file: hosts.state_file.clone(),
        set: set.to_owned(),
        cluster_id: config.cluster_id.clone(),
        tag_prefix: config.cloud.tag_key_prefix.clone(),
        init_command: config.cloud.instance_init_command.clone(),
        places: Arc::new(move |_| places.clone()),
        connector,
        events: events.clone(),
        spawn: Arc::new(threads::spawn),
        clock: Arc::new(move || clock.now()),
    };
    StaticHosts::open(options).map_err(DaemonError::Driver)
}

fn spec(config: &Config, host: &StaticHost) -> HostSpec {
    let provider_type = config.instance_types.get(&host.instance_type).map(|one| one.provider_type.clone());
    HostSpec {
        id: InstanceId::new(&host.name),
        address: host.address.clone(),
        user: host.user.clone(),
        sudo: host.use_sudo,
        type_name: host.instance_type.clone(),
        provider_type: provider_type.unwrap_or_default(),
        trust: host.trust.clone(),
    }
}
