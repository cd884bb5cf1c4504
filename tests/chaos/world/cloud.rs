//! A cloud whose instances are hosts in this process, and which fails as the plan says.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use muster::cloud::{Access, CloudError, CloudInstance, InstanceSet, NewInstance, Traits};
use muster::core::effect::{Ending, Tags};
use muster::core::ids::{InstanceId, InstanceSecret};
use muster::core::instance_type::InstanceType;
use muster::core::pool::limits::CapacityScope;
use muster::remote::HostAccess;
use muster::remote::identity::SecretOnly;
use muster::remote::runner::RunnerPlaces;
use muster::remote::ssh::key::PrivateKey;
use muster::remote::ssh::{SshClient, SshExecutor};
use muster_fake_hosts::{ClientKey, Fleet, Host, HostOptions, JobPlan, Journal};
use parking_lot::Mutex;

use super::plan::{Call, Plan, Role};

/// Of this type there is never one.
pub(crate) const SCARCE: &str = "scarce";
/// Containers run for less than this.
const JOB_MILLISECONDS: u64 = 20;

/// What was injected, by name.
pub(crate) type Counts = BTreeMap<&'static str, u64>;

#[derive(Debug)]
struct Machine {
    instance: CloudInstance,
    host: Host,
}

/// See the module. Lists show every change that was made before them.
#[derive(Debug)]
pub(crate) struct ChaosCloud {
    plan: Plan,
    pub(crate) journal: Journal,
    key: ClientKey,
    ssh: Arc<SshClient>,
    /// Machines that are gone stay in it, switched off, until the end.
    fleet: Mutex<Fleet>,
    machines: Mutex<BTreeMap<InstanceId, Machine>>,
    counts: Mutex<Counts>,
    creates: AtomicU64,
    hosts: AtomicU64,
    destroys: AtomicU64,
}

impl ChaosCloud {
    pub(crate) fn new(plan: Plan) -> Self {
        let key = ClientKey::generate();
        let private = PrivateKey::parse(&key.private).expect("a key of ours");
        Self {
            plan,
            journal: Journal::default(),
            key,
            ssh: Arc::new(SshClient::new(private, 22, Arc::new(muster::shell::threads::spawn))),
            fleet: Mutex::new(Fleet::start(0, HostOptions::default())),
            machines: Mutex::default(),
            counts: Mutex::default(),
            creates: AtomicU64::new(0),
            hosts: AtomicU64::new(0),
            destroys: AtomicU64::new(0),
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts.lock().clone()
    }

    pub(crate) fn machines(&self) -> usize {
        self.machines.lock().len()
    }

    fn count(&self, name: &'static str) {
        *self.counts.lock().entry(name).or_default() += 1;
    }

    fn make(&self, new: &NewInstance) -> CloudInstance {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed);
        let (role, faults) = self.plan.host(number);
        self.count(match role {
            Role::Well => "hosts that are well",
            Role::StopsAnswering => "hosts that stop answering",
            Role::LacksRunner => "hosts that lack the runner",
            Role::ReportsBroken => "hosts that report broken",
        });
        let time = Some(Duration::from_millis(number * 7 % JOB_MILLISECONDS));
        let options = HostOptions {
            client_key: Some(self.key.public.clone()),
            secret: Some(new.secret.reveal().to_owned()),
            deployed: false,
            job: JobPlan { time, crashes: Some(self.plan.crashes()), ..JobPlan::default() },
            journal: Some(self.journal.clone()),
            faults,
            ..HostOptions::default()
        };
        let host = self.fleet.lock().add(options);
        let instance = CloudInstance {
            id: InstanceId::new(&format!("i-{number:03}")),
            provider_type: new.instance_type.provider_type.clone(),
            address: host.address().to_string(),
            remote_user: "root".to_owned(),
            tags: new.tags.clone(),
        };
        self.machines.lock().insert(instance.id.clone(), Machine { instance: instance.clone(), host });
        instance
    }
}

fn refused(message: &str) -> CloudError {
    CloudError::Other { message: message.to_owned(), source: None }
}

impl InstanceSet for ChaosCloud {
    fn create(&self, new: &NewInstance) -> Result<CloudInstance, CloudError> {
        if new.instance_type.name == SCARCE {
            self.count("creates refused for want of capacity");
            let message = "there is none of this type".to_owned();
            return Err(CloudError::Capacity { message, scope: CapacityScope::Type });
        }
        self.count("creates");
        match self.plan.create(self.creates.fetch_add(1, Ordering::Relaxed)) {
            Call::Succeeds => Ok(self.make(new)),
            Call::Fails => {
                self.count("creates that failed");
                Err(refused("not this time"))
            }
            Call::DoneAndFails => {
                self.count("creates that failed and made an instance");
                self.make(new);
                Err(refused("the answer was lost"))
            }
        }
    }

    fn list(&self, _tags: &Tags) -> Result<Vec<CloudInstance>, CloudError> {
        Ok(self.machines.lock().values().map(|machine| machine.instance.clone()).collect())
    }

    fn destroy(&self, id: &InstanceId, _secret: Option<&InstanceSecret>, _ending: Ending) -> Result<(), CloudError> {
        self.count("destroys");
        if self.plan.destroy(self.destroys.fetch_add(1, Ordering::Relaxed)) == Call::Fails {
            self.count("destroys that failed");
            return Err(refused("not this time"));
        }
        let machine = self.machines.lock().get(id).map(|machine| machine.host.clone());
        if let Some(host) = machine {
            // Nothing runs there any more before the list says so.
            host.switch_off();
            self.machines.lock().remove(id);
        }
        Ok(())
    }

    fn set_tags(&self, id: &InstanceId, tags: &Tags) -> Result<(), CloudError> {
        if let Some(machine) = self.machines.lock().get_mut(id) {
            machine.instance.tags.clone_from(tags);
        }
        Ok(())
    }

    fn quota_group(&self, _instance_type: &InstanceType) -> String {
        String::new()
    }

    fn traits(&self) -> Traits {
        Traits { cheap_list: true, exact_list: true, each_its_own: true, ..Traits::default() }
    }

    fn open(&self, _id: &InstanceId, secret: Option<&InstanceSecret>) -> io::Result<Access> {
        let access = HostAccess { check: Arc::new(SecretOnly), secret: secret.cloned(), sudo: false };
        let executor = Arc::new(SshExecutor::new(self.ssh.clone(), access)?);
        let places = RunnerPlaces { directory: Some("/opt/muster".to_owned()), ..RunnerPlaces::default() };
        Ok(Access { executor, places })
    }
}
