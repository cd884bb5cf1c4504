//! The cloud driver that the configuration names, with what it needs.

use std::io;
use std::sync::Arc;

use super::DaemonError;
use crate::cloud::instrumented::Instrumented;
use crate::cloud::loopback::Loopback;
use crate::cloud::static_hosts::{HostSpec, StaticHosts, StaticOptions};
use crate::cloud::{CloudEvents, InstanceSet};
use crate::config::{CloudDriver, Config, DeployRunner, StaticConfig};
use crate::core::ids::InstanceId;
use crate::core::time::Moment;
use crate::management::metrics::Metrics;
use crate::remote::runner::RunnerPlaces;
use crate::remote::ssh::{SshClient, SshConnector, port_number};
use crate::remote::supply::RunnerSupply;
use crate::shell::clock::Clock;
use crate::shell::fault_point::reached;
use crate::shell::state_dir::StateDir;
use crate::shell::threads;

/// Its calls are counted.
pub(super) fn driver(
    config: &Config,
    state_dir: &StateDir,
    set: &str,
    clock: Clock,
    (metrics, events): (&Arc<Metrics>, &CloudEvents),
    supply: &Arc<RunnerSupply>,
) -> Result<Arc<dyn InstanceSet>, DaemonError> {
    let inner: Arc<dyn InstanceSet> = match (config.cloud.driver, &config.cloud.static_hosts) {
        (CloudDriver::Loopback, _) => {
            let home = std::env::var("HOME").unwrap_or_else(|_| "/".to_owned());
            let tag = format!("{}InstanceSetID", config.cloud.tag_key_prefix);
            Arc::new(Loopback::open(&config.state_dir, home, (&tag, set)).map_err(DaemonError::Driver)?)
        }
        (CloudDriver::Static, Some(hosts)) => {
            let options = StaticOptions {
                hosts: specs(config, hosts),
                state_file: hosts.state_file.clone(),
                set: set.to_owned(),
                supply: supply.clone(),
                tag_prefix: config.cloud.tag_key_prefix.clone(),
                init_command: config.cloud.instance_init_command.clone(),
                places: places(config),
                connector: Arc::new(SshConnector(Arc::new(ssh_client(config, state_dir)?))),
                events: events.clone(),
                spawn: Arc::new(threads::spawn),
                clock: Arc::new(move || clock.now()),
                began: clock.wall_of(Moment::ZERO),
                reached: |step| reached(step.into()),
            };
            Arc::new(StaticHosts::open(options).map_err(DaemonError::Driver)?)
        }
        (other, _) => return Err(DaemonError::NotBuilt(format!("the driver {other:?} does not exist yet"))),
    };
    let counted = metrics.clone();
    Ok(Arc::new(Instrumented::new(inner, Arc::new(move |name, failed| counted.driver_operation(name, failed)))))
}

fn specs(config: &Config, hosts: &StaticConfig) -> Vec<HostSpec> {
    let spec = |host: &crate::config::StaticHost| {
        let instance_type = config.instance_types.get(&host.instance_type);
        HostSpec {
            id: InstanceId::new(&host.name),
            address: host.address.clone(),
            user: host.user.clone(),
            sudo: host.use_sudo,
            type_name: host.instance_type.clone(),
            provider_type: instance_type.map(|one| one.provider_type.clone()).unwrap_or_default(),
            trust: host.trust.clone(),
        }
    };
    hosts.hosts.iter().map(spec).collect()
}

/// The runner's own defaults, but for what the configuration says of its program.
fn places(config: &Config) -> crate::cloud::static_hosts::Places {
    let there = config.cloud.deploy_runner_binary == DeployRunner::PreInstalled;
    let places = RunnerPlaces {
        directory: config.cloud.deploy_runner_directory.clone(),
        program: there.then(|| config.containers.crunch_run_command.clone()),
        ..RunnerPlaces::default()
    };
    Arc::new(move |_| places.clone())
}

fn ssh_client(config: &Config, state_dir: &StateDir) -> Result<SshClient, DaemonError> {
    let key = state_dir.dispatch_key(&config.containers.dispatch_private_key)?;
    let port = port_number(&config.cloud.ssh_port).ok_or_else(|| {
        let text = format!("SSHPort {:?} is neither a number nor a service in /etc/services", config.cloud.ssh_port);
        DaemonError::Driver(io::Error::new(io::ErrorKind::InvalidInput, text))
    })?;
    Ok(SshClient::new(key, port, Arc::new(threads::spawn)))
}
