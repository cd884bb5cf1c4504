//! A driver in memory whose commands run on this host, and whose calls can be made to fail.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use muster::cloud::boot::Boot;
use muster::cloud::{Access, CloudError, CloudInstance, InstanceSet, NewInstance, Traits};
use muster::core::effect::{Ending, Tags};
use muster::core::ids::{InstanceId, InstanceSecret};
use muster::core::instance_type::InstanceType;
use muster::core::pool::limits::CapacityScope;
use muster::remote::local::LocalExecutor;
use muster::remote::runner::RunnerPlaces;
use muster::shell::cloudtest::tester::{Plan, Tester};
use muster::shell::stop::StopSource;
use parking_lot::Mutex;

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// A create fails, and has made the instance all the same, or not.
    pub(crate) create_fails: bool,
    pub(crate) create_makes: bool,
    /// So many lists after the create do not show it.
    pub(crate) hidden_lists: usize,
    /// Each second destroy fails.
    pub(crate) destroys_fail: bool,
    /// A destroyed instance is listed once more.
    pub(crate) lingers: bool,
    /// Tags are lost on the way.
    pub(crate) loses_tags: bool,
    /// These lists fail, counted from 0.
    pub(crate) list_fails: Option<usize>,
    /// The address comes with this list.
    pub(crate) address_in_list: usize,
    /// The wish to stop comes with this list.
    pub(crate) stops_in_list: Option<usize>,
}

#[derive(Debug, Default)]
struct State {
    instances: Vec<CloudInstance>,
    /// Destroyed, and listed once more.
    lingering: VecDeque<InstanceId>,
    calls: Vec<&'static str>,
    lists: usize,
    lists_since_create: Option<usize>,
    destroys: usize,
}

#[derive(Debug)]
pub(crate) struct Stub {
    faults: Faults,
    state: Mutex<State>,
    stop: Mutex<Option<StopSource>>,
}

pub(crate) const SET: &str = "zzzzz-zzzzz-zzzzzzcloudtest";

pub(crate) fn instance(id: &str, set: &str) -> CloudInstance {
    CloudInstance {
        id: InstanceId::new(id),
        provider_type: "p".to_owned(),
        address: "127.0.0.1".to_owned(),
        remote_user: "root".to_owned(),
        tags: Tags::from_iter([("ArvadosInstanceSetID".to_owned(), set.to_owned())]),
    }
}

impl Stub {
    pub(crate) fn new(faults: Faults, instances: Vec<CloudInstance>) -> Self {
        let state = Mutex::new(State { instances, ..State::default() });
        Self { faults, state, stop: Mutex::new(Some(StopSource::new())) }
    }

    pub(crate) fn calls(&self) -> Vec<&'static str> {
        self.state.lock().calls.clone()
    }

    pub(crate) fn count(&self, name: &str) -> usize {
        self.state.lock().calls.iter().filter(|call| **call == name).count()
    }

    pub(crate) fn left(&self) -> Vec<String> {
        self.state.lock().instances.iter().map(|instance| instance.id.to_string()).collect()
    }

    /// The test's result, and how often it paused.
    pub(crate) fn run(&self, plan: &Plan) -> (bool, usize) {
        let pauses = Mutex::new(0);
        let stop = self.stop.lock().as_ref().expect("not stopped yet").token();
        let tester = Tester {
            cloud: self,
            plan,
            secret: InstanceSecret::new("5ec4e7"),
            stop: &stop,
            pause: &|| {
                self.state.lock().calls.push("pause");
                *pauses.lock() += 1;
            },
        };
        let result = tester.run();
        (result, pauses.into_inner())
    }
}

pub(crate) fn plan() -> Plan {
    Plan {
        set: SET.to_owned(),
        tag_prefix: "Arvados".to_owned(),
        resource_tags: Tags::from_iter([("site".to_owned(), "lab".to_owned())]),
        boot: Boot::default(),
        instance_type: Arc::new(InstanceType { provider_type: "p".to_owned(), ..InstanceType::default() }),
        destroy_existing: false,
        boot_probe_command: "true".to_owned(),
        command: String::new(),
        pause_before_destroy: false,
        ssh_port: None,
        probe_interval: Duration::from_millis(5),
        sync_interval: Duration::from_millis(5),
        // For hangs, where a test does not say otherwise.
        timeout_booting: Duration::from_secs(300),
    }
}

impl InstanceSet for Stub {
    fn create(&self, new: &NewInstance) -> Result<CloudInstance, CloudError> {
        let mut state = self.state.lock();
        state.calls.push("create");
        let tags = if self.faults.loses_tags { Tags::new() } else { new.tags.clone() };
        let mut made = CloudInstance { tags, ..instance("i-new", SET) };
        made.tags.insert("ArvadosInstanceSetID".to_owned(), SET.to_owned());
        if self.faults.address_in_list > 0 {
            made.address.clear();
        }
        if !self.faults.create_fails || self.faults.create_makes {
            state.instances.push(made.clone());
            state.lists_since_create = Some(0);
        }
        match self.faults.create_fails {
            true => Err(CloudError::Capacity { message: "none left".to_owned(), scope: CapacityScope::Type }),
            false => Ok(made),
        }
    }

    fn list(&self, _tags: &Tags) -> Result<Vec<CloudInstance>, CloudError> {
        let mut state = self.state.lock();
        let number = state.lists;
        state.lists += 1;
        state.calls.push("list");
        if self.faults.stops_in_list == Some(number) {
            self.stop.lock().take();
        }
        if self.faults.list_fails == Some(number) {
            return Err(CloudError::Other { message: "no list".to_owned(), source: None });
        }
        if state.lists >= self.faults.address_in_list {
            state.instances.iter_mut().for_each(|one| one.address = "127.0.0.1".to_owned());
        }
        let since = state.lists_since_create.unwrap_or(usize::MAX);
        state.lists_since_create = state.lists_since_create.map(|lists| lists + 1);
        let hidden = since < self.faults.hidden_lists;
        let mut listed = state.instances.clone();
        listed.retain(|one| !(hidden && one.id.as_str() == "i-new"));
        if let Some(id) = state.lingering.pop_front() {
            listed.push(CloudInstance { id, ..instance("", SET) });
        }
        Ok(listed)
    }

    fn destroy(&self, id: &InstanceId, _secret: Option<&InstanceSecret>, _ending: Ending) -> Result<(), CloudError> {
        let mut state = self.state.lock();
        state.calls.push("destroy");
        state.destroys += 1;
        if self.faults.destroys_fail && state.destroys % 2 == 1 {
            return Err(CloudError::Other { message: "try again".to_owned(), source: None });
        }
        let before = state.instances.len();
        state.instances.retain(|one| one.id != *id);
        if self.faults.lingers && state.instances.len() < before {
            state.lingering.push_back(id.clone());
        }
        Ok(())
    }

    fn set_tags(&self, _id: &InstanceId, _tags: &Tags) -> Result<(), CloudError> {
        self.state.lock().calls.push("set_tags");
        Ok(())
    }

    fn quota_group(&self, _instance_type: &InstanceType) -> String {
        String::new()
    }

    fn traits(&self) -> Traits {
        Traits::default()
    }

    fn open(&self, _id: &InstanceId, _secret: Option<&InstanceSecret>) -> std::io::Result<Access> {
        self.state.lock().calls.push("open");
        let executor = Arc::new(LocalExecutor::new("/".to_owned())?);
        Ok(Access { executor, places: RunnerPlaces::default() })
    }
}
