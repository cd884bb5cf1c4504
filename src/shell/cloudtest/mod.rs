//! `muster cloudtest` (spec 40 §7): tries configuration, driver, account, image and network by running one instance, and removes it.
//!
//! It uses the driver without wrappers, under an instance set id of its own, so that it neither sees nor disturbs what a dispatcher
//! has. Reading order: here (from a configuration to a driver, once for each subnet), [`tester`] (the steps), [`create`], [`try_out`]
//! and [`destroy`] (each of them), [`remote`] (commands on the instance), [`signals`] (who ends it early).

mod create;
mod destroy;
mod remote;
mod signals;
pub mod tester;
mod try_out;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crossbeam_channel::bounded;

use self::tester::{Login, Plan, Tester};
use super::clock::Clock;
use super::daemon::runner_supply;
use super::dispatch_key::{DispatchKeyError, find_key, key_file};
use super::drivers::{self, Driver, DriverParts};
use super::instance_set;
use super::state_dir::{StateDir, StateDirError};
use super::stop::Stop;
use super::{scheduler, sync};
use crate::config::{CloudDriver, Config, Fault};
use crate::core::effect::{Level, Note};
use crate::core::errors::chain;
use crate::core::ids::TypeName;
use crate::core::instance_type::InstanceType;
use crate::core::settings::LIST_DELAY;
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
    #[error("error loading Containers.DispatchPrivateKey")]
    Key(#[source] DispatchKeyError),
    #[error("no instance types are configured")]
    NoTypes,
    #[error("requested instance type {0:?} is not configured")]
    NoSuchType(String),
    #[error("{0}")]
    NotBuilt(Fault),
    #[error(
        "-instance-set-id {0} is that of this configuration's dispatcher, which would take the instance for its own, and whose instances would be taken for an earlier test's; use another id"
    )]
    TheFleet(String),
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    #[error("cannot {0}")]
    Process(&'static str, #[source] io::Error),
}

/// Runs all tests; true if all was well. The log tells the rest, and must have been set up.
///
/// # Errors
/// Nothing was begun.
pub fn run(config: &Config, options: &CloudTestOptions) -> Result<bool, CloudTestError> {
    if let Some(fault) = crate::config::driver_not_built_yet(config) {
        return Err(CloudTestError::NotBuilt(fault));
    }
    let instance_type = choose_type(&config.instance_types, &options.instance_type)?.clone();
    spare_the_fleet(config, options)?;
    // Before anything is created.
    let key = config.cloud.driver.uses_ssh().then(|| find_key(config)).transpose().map_err(CloudTestError::Key)?;
    let login = key.as_ref().map(|_| Login { port: config.cloud.ssh_port.clone(), key_file: key_file(config) });
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
    let current = signals::Current::default();
    let stop = signals::stop_by_signal(&current).map_err(|error| CloudTestError::Process("handle signals", error))?;
    let trial = Trial { options, instance_type, key, login, stop, current };
    trial.tell_key();
    match subnets(&config)[..] {
        [] | [(_, Ok(_))] => Ok(trial.run(&config)),
        ref all => Ok(trial.run_in_each(&config, all)),
    }
}

/// In the configuration's order, each with its place there, and with what stands in the place of one.
fn subnets(config: &Config) -> Vec<(usize, Result<&str, &Fault>)> {
    let Some(ec2) = &config.cloud.ec2 else { return Vec::new() };
    let good = ec2.subnet_places.iter().zip(&ec2.subnets).map(|(place, subnet)| (*place, Ok(subnet.as_str())));
    let mut all: Vec<_> = good.chain(ec2.wrong_subnets.iter().map(|(place, fault)| (*place, Err(fault)))).collect();
    all.sort_by_key(|(place, _)| *place);
    all
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

/// The test must not have the dispatcher's set: that would run jobs on an instance that is about to go, and -destroy-existing would
/// destroy all that it has.
fn spare_the_fleet(config: &Config, options: &CloudTestOptions) -> Result<(), CloudTestError> {
    let wanted = &options.instance_set_id;
    if instance_set::is_of_dispatcher(config, wanted)? {
        return Err(CloudTestError::TheFleet(wanted.clone()));
    }
    Ok(())
}

/// What all tests of this run have in common.
struct Trial<'a> {
    options: &'a CloudTestOptions,
    instance_type: Arc<InstanceType>,
    /// What logs in to instances: the dispatcher's own key; `None`: no SSH is used.
    key: Option<PrivateKey>,
    login: Option<Login>,
    stop: Stop,
    current: signals::Current,
}

impl Trial<'_> {
    fn tell_key(&self) {
        let (Some(key), Some(login)) = (&self.key, &self.login) else { return };
        let source = login.key_file.as_ref().map(|path| path.display().to_string());
        let line = note(Level::Info, "key to log in with").with("PublicKey", key.public_openssh());
        write_note(&line.with("Source", source.as_deref().unwrap_or("Containers.DispatchPrivateKey")));
    }

    /// Those that are none fail, and the others are tried all the same.
    fn run_in_each(&self, config: &Config, subnets: &[(usize, Result<&str, &Fault>)]) -> bool {
        let message = "there are several subnets: an instance is created in each, one after the other";
        write_note(&note(Level::Info, message).with("Subnets", subnets.len()));
        let mut all_is_well = true;
        for (index, subnet) in subnets {
            let key = format!("SubnetID[{index}]");
            let good = match subnet {
                Ok(subnet) => {
                    let line = note(Level::Info, "running tests using SubnetID").with("Key", &key);
                    write_note(&line.with("SubnetID", subnet));
                    let mut one = config.clone();
                    one.cloud.ec2.iter_mut().for_each(|ec2| ec2.subnets = vec![(*subnet).to_owned()]);
                    self.run(&one)
                }
                Err(fault) => {
                    write_note(&note(Level::Error, "not the id of a subnet").with("Key", &key).with("error", fault));
                    false
                }
            };
            if !good {
                let line = note(Level::Error, "failed tests using SubnetID").with("Key", &key);
                write_note(&line.with("SubnetID", subnet.unwrap_or_default()));
                all_is_well = false;
            }
            if self.stop.is_stopped() {
                return false;
            }
        }
        all_is_well
    }

    /// With one driver: everything from its making to the end of its instance.
    fn run(&self, config: &Config) -> bool {
        let (events, _kept) = bounded(sync::CLOUD_EVENTS_MAX);
        let supply = Arc::new(runner_supply(config));
        let driver = drivers::bare(DriverParts {
            config,
            set: &self.options.instance_set_id,
            clock: Clock::start(),
            key: self.key.clone(),
            supply: &supply,
            events: &events,
            metrics: None,
        });
        let driver = match driver {
            Ok(driver) => driver,
            Err(error) => {
                write_note(&note(Level::Error, "error initializing driver").with("error", chain(&error)));
                return false;
            }
        };
        let secret = match scheduler::new_secret() {
            Ok(secret) => secret,
            Err(error) => {
                write_note(&note(Level::Error, "no random numbers from the system").with("error", error));
                return false;
            }
        };
        let cloud = driver.cloud.clone();
        self.current.begin(cloud.clone());
        let plan = self.plan(config, driver);
        let tester = Tester { cloud: &*cloud, plan: &plan, secret, stop: &self.stop, pause: &signals::pause };
        let all_is_well = tester.run();
        self.current.stop();
        all_is_well
    }

    fn plan(&self, config: &Config, Driver { mut boot, .. }: Driver) -> Plan {
        let (cloud, options) = (&config.cloud, self.options);
        if !options.image_id.is_empty() {
            boot.image_id.clone_from(&options.image_id);
        }
        Plan {
            set: options.instance_set_id.clone(),
            tag_prefix: cloud.tag_key_prefix.clone(),
            resource_tags: cloud.resource_tags.clone().into(),
            boot,
            instance_type: self.instance_type.clone(),
            destroy_existing: options.destroy_existing,
            boot_probe_command: cloud.boot_probe_command.clone(),
            command: options.command.clone(),
            pause_before_destroy: options.pause_before_destroy,
            login: self.login.clone(),
            probe_interval: cloud.probe_interval,
            sync_interval: cloud.sync_interval,
            timeout_booting: cloud.timeout_booting,
            appears_within: LIST_DELAY,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheapest_type_or_the_one_that_is_asked_for() {
        let one = |name: &str, price| {
            let made = InstanceType { name: name.to_owned(), price, ..InstanceType::default() };
            (TypeName::new(name), Arc::new(made))
        };
        let types = BTreeMap::from([one("b", 0.1), one("a", 0.2), one("d", 0.1), one("c", 0.1)]);
        let chosen = |wanted: &str| choose_type(&types, wanted).map(|one| one.name.clone());
        assert_eq!(chosen("").expect("some"), "b", "the first by name of the cheapest");
        assert_eq!(chosen("a").expect("there"), "a");
        let error = chosen("x").expect_err("unknown").to_string();
        assert_eq!(error, "requested instance type \"x\" is not configured");
        let error = choose_type(&BTreeMap::new(), "x").expect_err("none").to_string();
        assert_eq!(error, "no instance types are configured");
    }
}
