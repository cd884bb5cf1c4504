//! The checked configuration (spec 60, 62): what the rest of the program reads. Everything here is plain data,
//! made once by `load` and shared; a reload makes a new one.

mod build;
mod check;
mod checks;
#[cfg(test)]
mod drivers_tests;
mod dump;
mod ec2;
mod exec;
mod fault;
mod files;
mod host;
mod hosts;
mod keys;
mod load;
mod parameters;
mod reload;
mod runner;
mod secret;
mod section;
#[cfg(test)]
mod tests;
mod types;
mod values;
mod yaml;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use self::check::{Checked, check};
pub use self::checks::{driver_not_built_yet, not_built_yet};
pub use self::dump::{dump, reference};
pub use self::ec2::Ec2Config;
pub use self::exec::ExecConfig;
pub use self::fault::{Fault, Mark};
pub use self::host::Host;
pub use self::hosts::{StaticConfig, StaticHost};
pub use self::load::{LoadOptions, Loaded, load, load_for_trial, load_text};
pub use self::reload::{Change, changes};
pub use self::secret::Secret;
use crate::core::ids::TypeName;
use crate::core::instance_type::InstanceType;
use crate::core::settings::{LIST_DELAY, Settings};

/// Where a configuration came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    File(PathBuf),
    /// No file was found: one host, with the defaults.
    BuiltIn,
}

impl fmt::Display for ConfigSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::BuiltIn => f.write_str("built in (no configuration file)"),
        }
    }
}

/// One cluster's configuration, complete: every default is filled in, every value is in its range, paths are absolute.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Five of `a-z0-9`.
    pub cluster_id: String,
    pub source: ConfigSource,
    /// Empty only with the local queue.
    pub system_root_token: Secret,
    /// Empty = not configured: the daemon makes one in the state directory.
    pub management_token: Secret,
    /// `host:port` addresses of the management API, at least one.
    pub listen: Vec<String>,
    /// URL of the Arvados controller.
    pub controller_url: Option<String>,
    /// Do not verify the controller's certificate.
    pub tls_insecure: bool,
    pub state_dir: PathBuf,
    /// Instances watched by one process, at least 1.
    pub max_workers: usize,
    pub queue: QueueConfig,
    pub runner: RunnerConfig,
    pub log: LogConfig,
    /// Name part before each metric, `arvados_dispatchcloud` unless configured.
    pub metrics_prefix: String,
    pub containers: ContainersConfig,
    pub cloud: CloudConfig,
    /// By name. Includes the generated preemptible variants, and `localhost` for the loopback driver.
    pub instance_types: BTreeMap<TypeName, Arc<InstanceType>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueDriver {
    Local,
    Arvados,
}

/// `Muster.Queue`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    pub driver: QueueDriver,
    /// Waiting containers.
    pub max_queued: usize,
    /// Attempts of a container that does not say otherwise, at least 1.
    pub max_attempts: u32,
    /// How long finished containers are kept; `None` = for ever.
    pub retain_finished: Option<Duration>,
    /// Bytes of each output stream that are kept.
    pub max_log_bytes: u64,
    /// Bytes of all outputs of one container.
    pub max_output_bytes: u64,
    /// A finished attempt whose result could not be fetched for so long is lost.
    pub timeout_collect: Duration,
}

/// `Muster.Runner`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunnerConfig {
    /// Whom jobs run as; empty = as spec 52 §2 says (the login user, or `nobody` under root).
    pub user: String,
    /// Of containers that name an image: `docker`, `podman`, `singularity` or `apptainer`; `process` = such are refused.
    pub engine: String,
    /// As [`ContainerSpec::engine_arguments`](muster_runner::protocol::ContainerSpec::engine_arguments).
    pub engine_arguments: Vec<String>,
    /// Runner programs by worker architecture (`uname -m`); empty = the installed one.
    pub binaries: BTreeMap<String, PathBuf>,
    /// Off when `None`.
    pub self_destruct_after: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Logfmt,
    Json,
}

/// `Muster.Log`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `None` = standard error.
    pub file: Option<PathBuf>,
    /// An `env_logger` filter, usually one of `error`, `warn`, `info`, `debug`, `trace`.
    pub level: String,
    pub format: LogFormat,
}

/// `Containers` (without `CloudVMs`).
#[derive(Clone, Debug, PartialEq)]
pub struct ContainersConfig {
    /// The key's text (a `file:///` value is read by the loader). Empty = make a pair in the state directory.
    pub dispatch_private_key: Secret,
    pub stale_lock_timeout: Duration,
    /// Used only when no runner is deployed.
    pub crunch_run_command: String,
    pub crunch_run_arguments: Vec<String>,
    pub runtime_engine: String,
    /// Bytes added to every container's need.
    pub reserve_extra_ram: i64,
    pub local_keep_blob_buffers_per_vcpu: i64,
    /// Candidates cost up to this times the cheapest; below 1 acts as 1.
    pub maximum_price_factor: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloudDriver {
    Loopback,
    Static,
    Exec,
    Ec2,
    Azure,
}

impl CloudDriver {
    /// Its instances are reached over SSH: a key is needed.
    pub const fn uses_ssh(self) -> bool {
        !matches!(self, Self::Loopback)
    }
}

/// `Containers.CloudVMs`.
#[derive(Clone, Debug, PartialEq)]
pub struct CloudConfig {
    pub driver: CloudDriver,
    /// The driver's own keys, as they stand in the file.
    pub driver_parameters: DriverParameters,
    /// What they say with the driver `static`; `None` with another.
    pub static_hosts: Option<StaticConfig>,
    /// The same of `exec`.
    pub exec: Option<ExecConfig>,
    /// The same of `ec2`.
    pub ec2: Option<Ec2Config>,
    pub image_id: String,
    /// Port name or number, not empty.
    pub ssh_port: String,
    /// Least time between two refreshes of the queue.
    pub poll_interval: Duration,
    /// Exit status 0 = booted. Not empty.
    pub boot_probe_command: String,
    pub probe_interval: Duration,
    /// `None` = as the number of workers asks for.
    pub max_probes_per_second: Option<f64>,
    pub timeout_signal: Duration,
    pub timeout_term: Duration,
    pub timeout_stale_run_lock: Duration,
    /// Create, list, destroy and set-tags together; 0 = no limit.
    pub max_cloud_ops_per_second: usize,
    /// 0 = no limit.
    pub max_concurrent_instance_create_ops: usize,
    /// 0 = no limit.
    pub max_instances: usize,
    /// 0 = no limit.
    pub max_running_containers_per_instance: usize,
    /// Start value of the container limit; 0 = MaxInstances.
    pub initial_quota_estimate: usize,
    /// 0–1; 0 = no limit on supervisors.
    pub supervisor_fraction: f64,
    pub sync_interval: Duration,
    pub timeout_idle: Duration,
    pub timeout_booting: Duration,
    pub timeout_probe: Duration,
    pub timeout_shutdown: Duration,
    /// Shell script for the instance's first boot, appended to ours.
    pub instance_init_command: String,
    pub deploy_runner_binary: DeployRunner,
    /// `None` = as spec 62 §3 says.
    pub deploy_runner_directory: Option<String>,
    pub deploy_public_key: bool,
    pub resource_tags: BTreeMap<String, String>,
    pub tag_key_prefix: String,
}

/// `DeployRunnerBinary`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeployRunner {
    /// Local queue: the installed `muster-runner` ([`RunnerConfig::binaries`]). Arvados queue: `arvados-server` or `crunch-run` from PATH.
    Default,
    /// `""`: the runner is on the instance already; `CrunchRunCommand` names it.
    PreInstalled,
    File(PathBuf),
}

/// `DriverParameters`, as JSON. `Debug` hides the content: it may hold secrets.
#[derive(Clone, Default, PartialEq)]
pub struct DriverParameters(pub serde_json::Map<String, serde_json::Value>);

impl fmt::Debug for DriverParameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DriverParameters({} keys)", self.0.len())
    }
}

impl Config {
    /// What the core reads. `instance_set_id` is derived from the token or kept in the state directory (spec 62 §3).
    pub fn settings(&self, instance_set_id: &str) -> Settings {
        let cloud = &self.cloud;
        Settings {
            cluster_id: self.cluster_id.clone(),
            instance_set_id: instance_set_id.to_owned(),
            tag_key_prefix: cloud.tag_key_prefix.clone(),
            probe_interval: cloud.probe_interval,
            max_probes_per_second: cloud.max_probes_per_second,
            sync_interval: cloud.sync_interval,
            timeout_idle: cloud.timeout_idle,
            timeout_booting: cloud.timeout_booting,
            timeout_probe: cloud.timeout_probe,
            timeout_shutdown: cloud.timeout_shutdown,
            timeout_signal: cloud.timeout_signal,
            timeout_term: cloud.timeout_term,
            timeout_stale_run_lock: cloud.timeout_stale_run_lock,
            timeout_collect: self.queue.timeout_collect,
            max_instances: cloud.max_instances,
            max_concurrent_create_ops: cloud.max_concurrent_instance_create_ops,
            max_workers: self.max_workers,
            runner_keeps_results: self.queue.driver == QueueDriver::Local,
            cheap_list: matches!(cloud.driver, CloudDriver::Loopback | CloudDriver::Static),
            // What the type of this very host says is the operator's decision, and there is no other host to take.
            judge_hosts: cloud.driver != CloudDriver::Loopback,
            instances_alike: true,
            list_delay: LIST_DELAY,
        }
    }
}
