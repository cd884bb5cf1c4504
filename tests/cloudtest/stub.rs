//! A driver in memory whose commands run on this host, and whose calls can be made to fail.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use muster::cloud::boot::Boot;
use muster::cloud::{Access, CloudError, CloudInstance, InstanceSet, NewInstance, Traits, UnlistedInstance};
use muster::core::effect::{Ending, Tags};
use muster::core::ids::{InstanceId, InstanceSecret, TypeName};
use muster::core::instance_type::InstanceType;
use muster::core::pool::limits::CapacityScope;
use muster::remote::local::LocalExecutor;
use muster::remote::runner::RunnerPlaces;
use muster::shell::cloudtest::tester::{Plan, Tester};
use muster::shell::stop::StopSource;
use parking_lot::Mutex;

/// What goes wrong. Lists are counted from 0.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// A create fails, and has made the instance all the same, or not.
    pub(crate) create_fails: bool,
    pub(crate) create_makes: bool,
    /// With the create another test's instance of the same set appears.
    pub(crate) other_test: bool,
    /// So many lists after the create do not show it; until one has, a destroy of it succeeds and does nothing.
    pub(crate) hidden_lists: usize,
    /// Each second destroy fails.
    pub(crate) destroys_fail: bool,
    /// A destroyed instance is listed once more.
    pub(crate) lingers: bool,
    /// A destroyed instance is still being given up for so many looks.
    pub(crate) given_up_for: usize,
    /// Tags are lost on the way.
    pub(crate) loses_tags: bool,
    /// Lists show the new instance without any.
    pub(crate) lists_no_tags: bool,
    pub(crate) lists_fail: Range<usize>,
    /// The address comes with this list.
    pub(crate) address_in_list: usize,
    /// The wish to stop comes with this list, or with the create.
    pub(crate) stops_in_list: Option<usize>,
    pub(crate) stops_in_create: bool,
    /// Lists show every create at once.
    pub(crate) exact: bool,
}

#[derive(Debug, Default)]
struct State {
    instances: Vec<CloudInstance>,
    /// Destroyed, and listed once more.
    lingering: VecDeque<InstanceId>,
    /// Destroyed, and how often that is still told.
    given_up: Vec<(InstanceId, usize)>,
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
const SECRET: &str = "5ec4e7";

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

    /// `list all` is a list without a filter, `list` one of the set.
    pub(crate) fn calls(&self) -> Vec<&'static str> {
        self.state.lock().calls.clone()
    }

    pub(crate) fn count(&self, name: &str) -> usize {
        self.state.lock().calls.iter().filter(|call| **call == name).count()
    }

    pub(crate) fn left(&self) -> Vec<String> {
        self.state.lock().instances.iter().map(|instance| instance.id.to_string()).collect()
    }

    pub(crate) fn stop(&self) {
        self.stop.lock().take();
    }

    /// The test's result.
    pub(crate) fn run(&self, plan: &Plan) -> bool {
        let stop = self.stop.lock().as_ref().expect("not stopped yet").token();
        let pause = |_: &_| self.state.lock().calls.push("pause");
        Tester { cloud: self, plan, secret: InstanceSecret::new(SECRET), stop: &stop, pause: &pause }.run()
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
        login: None,
        probe_interval: Duration::from_millis(5),
        sync_interval: Duration::from_millis(5),
        // For hangs, where a test does not say otherwise.
        timeout_booting: Duration::from_secs(300),
        appears_within: Duration::from_secs(300),
    }
}

impl State {
    fn is_hidden(&self, faults: &Faults) -> bool {
        self.lists_since_create.is_some_and(|lists| lists < faults.hidden_lists)
    }

    /// It has never been listed.
    fn is_unknown(&self, faults: &Faults) -> bool {
        faults.hidden_lists > 0 && self.lists_since_create.is_some_and(|lists| lists <= faults.hidden_lists)
    }
}

impl InstanceSet for Stub {
    fn create(&self, new: &NewInstance) -> Result<CloudInstance, CloudError> {
        let mut state = self.state.lock();
        state.calls.push("create");
        assert_eq!(new.tags["ArvadosInstanceSecret"], SECRET);
        let mut made = CloudInstance { tags: new.tags.clone(), ..instance("i-new", SET) };
        if self.faults.loses_tags {
            made.tags.remove("site");
        }
        if self.faults.address_in_list > 0 {
            made.address.clear();
        }
        if self.faults.other_test {
            state.instances.push(instance("i-other", SET));
        }
        if self.faults.stops_in_create {
            self.stop();
        }
        state.lists_since_create = Some(0);
        if !self.faults.create_fails || self.faults.create_makes {
            state.instances.push(made.clone());
        }
        match self.faults.create_fails {
            true => Err(CloudError::Capacity { message: "none left".to_owned(), scope: CapacityScope::Type }),
            false => Ok(made),
        }
    }

    fn list(&self, tags: &Tags) -> Result<Vec<CloudInstance>, CloudError> {
        let mut state = self.state.lock();
        let number = state.lists;
        state.lists += 1;
        let of_set = Tags::from_iter([("ArvadosInstanceSetID".to_owned(), SET.to_owned())]);
        assert!(tags.is_empty() || *tags == of_set, "{tags:?}");
        state.calls.push(if tags.is_empty() { "list all" } else { "list" });
        if self.faults.stops_in_list == Some(number) {
            self.stop();
        }
        if self.faults.lists_fail.contains(&number) {
            return Err(CloudError::Other { message: "no list".to_owned(), source: None });
        }
        if state.lists >= self.faults.address_in_list {
            state.instances.iter_mut().for_each(|one| one.address = "127.0.0.1".to_owned());
        }
        let hidden = state.is_hidden(&self.faults);
        state.lists_since_create = state.lists_since_create.map(|lists| lists + 1);
        let mut listed = state.instances.clone();
        listed.retain(|one| !(hidden && one.id.as_str() == "i-new"));
        if let Some(id) = state.lingering.pop_front() {
            listed.push(CloudInstance { id, ..instance("", SET) });
        }
        if self.faults.lists_no_tags {
            listed.iter_mut().filter(|one| one.id.as_str() == "i-new").for_each(|one| one.tags = Tags::new());
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
        if id.as_str() == "i-new" && state.is_unknown(&self.faults) {
            return Ok(());
        }
        let before = state.instances.len();
        state.instances.retain(|one| one.id != *id);
        if state.instances.len() < before {
            if self.faults.lingers {
                state.lingering.push_back(id.clone());
            }
            state.given_up.push((id.clone(), self.faults.given_up_for));
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
        Traits { exact_list: self.faults.exact, ..Traits::default() }
    }

    fn open(&self, _id: &InstanceId, secret: Option<&InstanceSecret>) -> std::io::Result<Access> {
        self.state.lock().calls.push("open");
        assert_eq!(secret.map(InstanceSecret::reveal), Some(SECRET));
        let executor = Arc::new(LocalExecutor::new("/".to_owned())?);
        Ok(Access { executor, places: RunnerPlaces::default() })
    }

    /// Besides what is given up, one that nobody gives up: it is of no concern.
    fn unlisted(&self) -> Vec<UnlistedInstance> {
        let mut state = self.state.lock();
        state.given_up.retain(|(_, looks)| *looks > 0);
        let unlisted = |id: &InstanceId, being_given_up| UnlistedInstance {
            id: id.clone(),
            address: String::new(),
            type_name: TypeName::new("t"),
            provider_type: "p".to_owned(),
            state: "unreachable",
            detail: "a detail".to_owned(),
            being_given_up,
        };
        let shown = state.given_up.iter_mut().map(|(id, looks)| {
            *looks -= 1;
            unlisted(id, true)
        });
        shown.chain([unlisted(&InstanceId::new("i-unreachable"), false)]).collect()
    }
}
