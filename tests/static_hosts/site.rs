//! A network of hosts, and drivers that are opened, dropped and opened again on it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use muster::cloud::boot::Boot;
use muster::cloud::static_hosts::{HostSpec, StaticHosts, StaticOptions};
use muster::cloud::{Access, CloudError, CloudEvent, CloudInstance, InstanceSet, NewInstance, UnlistedInstance};
use muster::core::effect::{Ending, Tags};
use muster::core::ids::{ContainerUuid, InstanceId, InstanceSecret, TypeName};
use muster::core::instance_type::InstanceType;
use muster::core::settings::COMMAND_DEADLINE;
use muster::core::worker::listing::RunnerState;
use muster::remote::address::HostAddress;
use muster::remote::deploy::deploy;
use muster::remote::identity::HostTrust;
use muster::remote::runner::{CommandError, Runner};
use muster::remote::supply::{RunnerBinary, RunnerSupply};
use muster::remote::wake::Wake;
use muster_runner::protocol::{ContainerSpec, StartConfig};
use serde_json::Value;

use crate::fake::{FakeConnector, FakeHost, Network, TestClock, key, wait_until};

pub(crate) const SET: &str = "zzzzz-zzzzz-000000000000000";
pub(crate) const OTHER_SET: &str = "zzzzz-zzzzz-111111111111111";

pub(crate) struct Site {
    folder: tempfile::TempDir,
    pub(crate) network: Arc<Network>,
    pub(crate) clock: TestClock,
    pub(crate) specs: Vec<HostSpec>,
    pub(crate) init_command: String,
    pub(crate) set: &'static str,
    pub(crate) supply: Arc<RunnerSupply>,
    events: Option<Receiver<CloudEvent>>,
}

pub(crate) fn id(name: &str) -> InstanceId {
    InstanceId::new(name)
}

pub(crate) fn spec(name: &str, type_name: &str) -> HostSpec {
    HostSpec {
        id: id(name),
        address: HostAddress::parse(name, 22).expect("an address"),
        user: "root".to_owned(),
        sudo: true,
        type_name: TypeName::new(type_name),
        provider_type: format!("{type_name}-provider"),
        trust: HostTrust::Keys(vec![key(0)]),
    }
}

pub(crate) fn new_instance(type_name: &str, secret: &str) -> NewInstance {
    let instance_type = InstanceType {
        name: type_name.to_owned(),
        provider_type: format!("{type_name}-provider"),
        ..InstanceType::default()
    };
    let tags =
        [("InstanceSetID", SET), ("InstanceType", type_name), ("IdleBehavior", "run"), ("InstanceSecret", secret)];
    let tags = Tags::from_iter(tags.map(|(name, value)| (format!("Arvados{name}"), value.to_owned())));
    Boot::default().order(Arc::new(instance_type), tags, InstanceSecret::new(secret))
}

/// One log file for all tests: lines are told apart by the hosts' names.
pub(crate) fn log() -> String {
    static LOG: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = LOG.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let options =
            muster::log::Options { file: Some(path.clone()), filter: "debug".to_owned(), ..Default::default() };
        muster::log::init(&options).expect("a log");
        (folder, path)
    });
    std::fs::read_to_string(path).unwrap_or_default()
}

pub(crate) fn log_has(parts: &[&str]) -> bool {
    log().lines().any(|line| parts.iter().all(|part| line.contains(part)))
}

impl Site {
    /// Hosts with their types.
    pub(crate) fn new(hosts: &[(&str, &str)]) -> Self {
        log();
        let folder = tempfile::Builder::new().prefix("muster-static-").tempdir().expect("a folder");
        let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o711);
        std::fs::set_permissions(folder.path(), mode).expect("set");
        let network = Arc::new(Network::default());
        for (name, _) in hosts {
            network.add(folder.path(), name);
        }
        let specs = hosts.iter().map(|(name, type_name)| spec(name, type_name)).collect();
        Self {
            folder,
            network,
            clock: TestClock::default(),
            specs,
            init_command: String::new(),
            set: SET,
            supply: supply(None),
            events: None,
        }
    }

    pub(crate) fn host(&self, name: &str) -> Arc<FakeHost> {
        self.network.host(name)
    }

    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub(crate) fn state_file(&self) -> PathBuf {
        self.folder.path().join("static-hosts.json")
    }

    pub(crate) fn state(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.state_file()).expect("there")).expect("JSON")
    }

    fn options(&self, events: crossbeam_channel::Sender<CloudEvent>) -> StaticOptions {
        StaticOptions {
            hosts: self.specs.clone(),
            state_file: self.state_file(),
            set: self.set.to_owned(),
            supply: self.supply.clone(),
            tag_prefix: "Arvados".to_owned(),
            init_command: self.init_command.clone(),
            places: self.network.places(),
            connector: Arc::new(FakeConnector(self.network.clone())),
            events,
            spawn: Arc::new(muster::shell::threads::spawn),
            clock: self.clock.function(),
            began: self.clock.began(),
            reached: |_| {},
        }
    }

    pub(crate) fn try_open(&mut self) -> std::io::Result<Driver> {
        let (sender, receiver) = bounded(10_000);
        let driver = StaticHosts::open(self.options(sender))?;
        self.events = Some(receiver);
        Ok(Driver(Arc::new(driver)))
    }

    /// Waits for the threads of a driver that was dropped: they hold the state file.
    pub(crate) fn open(&mut self) -> Driver {
        let mut opened = None;
        wait_until("the state file is free", || {
            opened = match self.try_open() {
                Ok(driver) => Some(driver),
                Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => None,
                Err(error) => panic!("{error}"),
            };
            opened.is_some()
        });
        opened.expect("it is there")
    }

    pub(crate) fn events(&self) -> Vec<CloudEvent> {
        self.events.as_ref().expect("opened").try_iter().collect()
    }

    pub(crate) fn wait_event(&self, wanted: &CloudEvent) {
        let events = self.events.as_ref().expect("opened");
        wait_until(&format!("{wanted:?}"), || events.try_iter().any(|event| event == *wanted));
    }
}

/// The runner of this build.
pub(crate) fn supply(directory: Option<&str>) -> Arc<RunnerSupply> {
    static BINARY: OnceLock<RunnerBinary> = OnceLock::new();
    let binary = BINARY.get_or_init(|| {
        let beside = std::path::Path::new(env!("CARGO_BIN_EXE_muster")).with_file_name("muster-runner");
        RunnerBinary::load(&beside).expect("built with the workspace")
    });
    Arc::new(RunnerSupply::of_binary(binary.clone(), directory.map(str::to_owned)))
}

/// A driver with what a pool does with it.
#[derive(Clone)]
pub(crate) struct Driver(pub(crate) Arc<StaticHosts>);

impl Driver {
    pub(crate) fn create(&self, type_name: &str) -> Result<CloudInstance, CloudError> {
        // No two instances have the same.
        static COUNT: AtomicU64 = AtomicU64::new(0);
        self.0.create(&new_instance(type_name, &format!("5ec2e7-{}", COUNT.fetch_add(1, Ordering::SeqCst))))
    }

    pub(crate) fn created(&self, type_name: &str) -> String {
        self.create(type_name).expect("a free host").id.to_string()
    }

    /// The capacity error's text.
    pub(crate) fn refused(&self, type_name: &str) -> String {
        match self.create(type_name) {
            Err(CloudError::Capacity { message, scope }) => {
                assert_eq!(scope, muster::core::pool::limits::CapacityScope::Type);
                message
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn list(&self) -> Vec<CloudInstance> {
        self.0.list(&Tags::new()).expect("never fails")
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.list().iter().map(|one| one.id.to_string()).collect()
    }

    pub(crate) fn destroy(&self, name: &str, ending: Ending) {
        self.0.destroy(&id(name), None, ending).expect("taken on");
    }

    pub(crate) fn unlisted(&self, name: &str) -> Option<UnlistedInstance> {
        self.0.unlisted().into_iter().find(|one| one.id == id(name))
    }

    pub(crate) fn state_word(&self, name: &str) -> &'static str {
        self.unlisted(name).map_or("", |one| one.state)
    }

    /// Destroyed, cleaned up, and seen gone.
    pub(crate) fn given_back(&self, name: &str, ending: Ending) {
        self.destroy(name, ending);
        wait_until(&format!("{name} is cleaned up"), || !self.names().contains(&name.to_owned()));
    }

    /// A program that is said to be there.
    pub(crate) fn runner(&self, name: &str, program: &str) -> Runner {
        let Access { executor, places } = self.0.open(&id(name), None).expect("known");
        executor.set_target(&format!("{name}:22"), "root");
        let program = format!("{}/{program}", places.directory.as_deref().expect("somewhere"));
        Runner::at(&program, executor, Arc::new(places), SET.into(), "local".into())
    }

    /// The real runner, put on the host as the daemon does.
    pub(crate) fn deployed_at(&self, name: &str, address: &str, user: &str, directory: Option<&str>) -> Runner {
        let supply = supply(directory);
        let Access { executor, places } = self.0.open(&id(name), None).expect("known");
        executor.set_target(address, user);
        let runner = Runner::new(executor, Arc::new(places), supply, SET.into(), "local".into());
        deploy(&runner).unwrap_or_else(|error| panic!("{name}: {}", muster::core::errors::chain(&error)));
        runner
    }

    pub(crate) fn deployed(&self, name: &str) -> Runner {
        self.deployed_at(name, &format!("{name}:22"), "root", None)
    }
}

pub(crate) fn uuid(number: usize) -> ContainerUuid {
    ContainerUuid::parse(&format!("local-dz642-{number:015}")).expect("well formed")
}

/// Starts a job on a host.
pub(crate) fn start_job(runner: &Runner, number: usize, script: &str) {
    try_start(runner, &uuid(number), script).expect("starts");
}

pub(crate) fn try_start(runner: &Runner, uuid: &ContainerUuid, script: &str) -> Result<(), CommandError> {
    let spec = ContainerSpec {
        uuid: uuid.to_string(),
        attempt: 1,
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        ..ContainerSpec::default()
    };
    let config = StartConfig { container: Some(spec), ..StartConfig::default() };
    runner.start(uuid, 1, &config)
}

/// What the runner lists, whatever cluster it is of.
pub(crate) fn listed(runner: &Runner) -> BTreeMap<ContainerUuid, RunnerState> {
    let wake = Wake::new().expect("a descriptor");
    let mut runner = runner.clone();
    runner.cluster_id = "".into();
    let listing = runner.list(None, Duration::ZERO, COMMAND_DEADLINE, &wake).expect("a list");
    listing.runners.into_iter().map(|(uuid, listed)| (uuid, listed.state)).collect()
}

impl Site {
    /// The runner on a host, as a driver would reach it, whoever has the state file.
    pub(crate) fn open_again(&self, name: &str) -> Runner {
        let folder = self.host(name).path("bin");
        let program = std::fs::read_dir(&folder).expect("deployed").next().expect("one").expect("readable").path();
        let executor = muster::remote::local::LocalExecutor::new("/".to_owned()).expect("a descriptor");
        let places = Arc::new((self.network.places())(&id(name)));
        let program = program.to_string_lossy().into_owned();
        Runner::at(&program, Arc::new(executor), places, SET.into(), "local".into())
    }
}
