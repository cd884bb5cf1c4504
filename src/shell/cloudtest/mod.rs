//! `muster cloudtest` (spec 40 §7): tries configuration, driver, account, image and network by running one instance, and removes it.
//!
//! It uses the driver without wrappers, under an instance set id of its own, so that it neither sees nor disturbs what a dispatcher
//! has. Reading order: here (from a configuration to a driver, once for each subnet), [`tester`] (the steps), [`remote`] (commands on
//! the instance).

mod remote;
pub mod tester;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crossbeam_channel::bounded;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use self::tester::{Plan, Tester};
use super::clock::Clock;
use super::daemon::runner_supply;
use super::dispatch_key::{DispatchKeyError, find_key};
use super::drivers::{self, Driver, DriverParts};
use super::state_dir::StateDir;
use super::stop::StopSource;
use super::{scheduler, sync, threads};
use crate::config::{CloudDriver, Config};
use crate::core::effect::{Level, Note};
use crate::core::errors::chain;
use crate::core::ids::TypeName;
use crate::core::instance_type::InstanceType;
use crate::log::write_note;
use crate::remote::ssh::key::PrivateKey;

/// What the command line decided.
#[derive(Clone, Debug)]
pub struct CloudTestOptions {
    pub instance_set_id: String,
    /// Empty: the configured one.
    pub image_id: String,
    /// Empty: the cheapest.
    pub instance_type: String,
    pub destroy_existing: bool,
    pub command: String,
    pub pause_before_destroy: bool,
}

/// Why no test was made.
#[derive(Debug, thiserror::Error)]
pub enum CloudTestError {
    #[error("error loading Containers.DispatchPrivateKey: {0}")]
    Key(String),
    #[error("no instance types are configured")]
    NoTypes,
    #[error("requested instance type {0:?} is not configured")]
    NoSuchType(String),
    #[error("{0}")]
    NotBuilt(String),
    #[error(transparent)]
    StateDir(#[from] super::state_dir::StateDirError),
    #[error("cannot {0}")]
    Process(&'static str, #[source] io::Error),
}

/// Runs all tests; true if all was well. The log tells the rest, and must have been set up.
///
/// # Errors
/// Nothing was begun.
pub fn run(config: &Config, options: &CloudTestOptions) -> Result<bool, CloudTestError> {
    if let Some(fault) = crate::config::driver_not_built_yet(config) {
        return Err(CloudTestError::NotBuilt(fault.to_string()));
    }
    let instance_type = choose_type(&config.instance_types, &options.instance_type)?.clone();
    let key_of = config.clone();
    let key = || config_key(&key_of);
    // Before anything is created; each driver reads it again.
    key().map_err(|error| CloudTestError::Key(chain(&error)))?;
    // Hosts that are there already are taken under a state of our own: a dispatcher's is not touched.
    let mut config = config.clone();
    let _state_dir = match config.cloud.driver {
        CloudDriver::Loopback | CloudDriver::Static => {
            let own = StateDir::open(&config.state_dir.join("cloudtest"))?;
            own.path().clone_into(&mut config.state_dir);
            if let Some(hosts) = &mut config.cloud.static_hosts {
                hosts.state_file = own.path().join("static-hosts.json");
            }
            Some(own)
        }
        _ => None,
    };
    let stop = stop_by_signal().map_err(|error| CloudTestError::Process("handle signals", error))?;
    let test = |config: &Config| one_test(config, options, &instance_type, (&key, &stop));
    let subnets = config.cloud.ec2.as_ref().map(|ec2| ec2.subnets.clone()).unwrap_or_default();
    if subnets.len() < 2 {
        return Ok(test(&config));
    }
    let mut all_is_well = true;
    for (index, subnet) in subnets.iter().enumerate() {
        let name = format!("SubnetID[{index}]");
        write_note(&note(Level::Info, "running tests using SubnetID").with("Key", &name).with("SubnetID", subnet));
        let mut one = config.clone();
        one.cloud.ec2.iter_mut().for_each(|ec2| ec2.subnets = vec![subnet.clone()]);
        if !test(&one) {
            write_note(&note(Level::Error, "failed tests using SubnetID").with("Key", &name).with("SubnetID", subnet));
            all_is_well = false;
        }
        if stop.is_stopped() {
            return Ok(false);
        }
    }
    Ok(all_is_well)
}

fn note(level: Level, message: &'static str) -> Note {
    Note::new(level, "cloudtest", message)
}

/// The cheapest, and of several the first by name, unless one is asked for.
fn choose_type<'a>(
    types: &'a BTreeMap<TypeName, Arc<InstanceType>>,
    wanted: &str,
) -> Result<&'a Arc<InstanceType>, CloudTestError> {
    if types.is_empty() {
        return Err(CloudTestError::NoTypes);
    }
    let found = match wanted {
        "" => types.values().min_by(|one, other| one.price.total_cmp(&other.price)),
        name => types.get(name),
    };
    found.ok_or_else(|| CloudTestError::NoSuchType(wanted.to_owned()))
}

/// The first SIGINT or SIGTERM ends the waiting: what was created is destroyed. The second one ends the process as it does by default.
fn stop_by_signal() -> io::Result<super::stop::Stop> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let source = StopSource::new();
    let stop = source.token();
    let wait = move || {
        if let Some(signal) = signals.forever().next() {
            let message = "ending early; the instance is destroyed first, and a second signal leaves it behind";
            write_note(&note(Level::Warn, message));
            drop(source);
            let second = signals.forever().next().unwrap_or(signal);
            let _ = signal_hook::low_level::emulate_default_handler(second);
        }
    };
    // It ends with the process.
    threads::spawn("signals".to_owned(), Box::new(wait))?;
    Ok(stop)
}

/// What logs in to instances: the dispatcher's own key.
type Key<'a> = dyn Fn() -> Result<Option<PrivateKey>, DispatchKeyError> + 'a;

fn config_key(config: &Config) -> Result<Option<PrivateKey>, DispatchKeyError> {
    config.cloud.driver.uses_ssh().then(|| find_key(config)).transpose()
}

/// With one driver: everything from its making to the end of its instance.
fn one_test(
    config: &Config,
    options: &CloudTestOptions,
    instance_type: &Arc<InstanceType>,
    (key, stop): (&Key<'_>, &super::stop::Stop),
) -> bool {
    let (events, _kept) = bounded(sync::CLOUD_EVENTS_MAX);
    let supply = Arc::new(runner_supply(config));
    let driver = key().map_err(io::Error::other).and_then(|key| {
        drivers::bare(DriverParts {
            config,
            set: &options.instance_set_id,
            clock: Clock::start(),
            key,
            supply: &supply,
            events: &events,
            metrics: None,
        })
    });
    let Driver { cloud, mut boot } = match driver {
        Ok(driver) => driver,
        Err(error) => {
            write_note(&Note::new(Level::Error, "cloudtest", "error initializing driver").with("error", chain(&error)));
            return false;
        }
    };
    if !options.image_id.is_empty() {
        boot.image_id.clone_from(&options.image_id);
    }
    let plan = Plan {
        set: options.instance_set_id.clone(),
        tag_prefix: config.cloud.tag_key_prefix.clone(),
        resource_tags: config.cloud.resource_tags.clone().into(),
        boot,
        instance_type: instance_type.clone(),
        destroy_existing: options.destroy_existing,
        boot_probe_command: config.cloud.boot_probe_command.clone(),
        command: options.command.clone(),
        pause_before_destroy: options.pause_before_destroy,
        ssh_port: config.cloud.driver.uses_ssh().then(|| config.cloud.ssh_port.clone()),
        probe_interval: config.cloud.probe_interval,
        sync_interval: config.cloud.sync_interval,
        timeout_booting: config.cloud.timeout_booting,
    };
    let all_is_well = match scheduler::new_secret() {
        Ok(secret) => Tester { cloud: &*cloud, plan: &plan, secret, stop, pause: &pause }.run(),
        Err(error) => {
            write_note(&note(Level::Error, "no random numbers from the system").with("error", error));
            false
        }
    };
    cloud.stop();
    all_is_well
}

/// Waits for a line, or the end, of standard input.
#[expect(clippy::print_stderr, reason = "a prompt is no log line")]
fn pause() {
    eprint!("Press Enter to continue: ");
    let _ = io::stdin().read_line(&mut String::new());
}
