//! A pool view and a queue snapshot built by hand, and one pass over them with the invariants checked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use muster::core::container::GpuRequest;
use muster::core::container::{Container, ContainerRequest, RuntimeStatus};
use muster::core::entry::{QueueEntry, QueueSnapshot};
use muster::core::ids::{Attempt, ContainerUuid, InstanceId, OperationId, TypeName};
use muster::core::instance_type::InstanceType;
use muster::core::pool::view::{Exit, InstanceKey, InstanceView, Phase, Place, PoolView, Whereabouts};
use muster::core::resources::Resources;
use muster::core::scheduler::{Action, Pass, PassInput, Scheduler, SchedulerSettings, invariants};
use muster::core::time::Moment;
use muster::core::versioned::Versioned;
use muster::core::vocabulary::{ContainerState, IdleBehavior, WorkerState};

pub(crate) const GIB: i64 = 1 << 30;

pub(crate) fn at(seconds: u64) -> Moment {
    Moment::since_start(Duration::from_secs(seconds))
}

pub(crate) fn uuid(number: usize) -> ContainerUuid {
    ContainerUuid::parse(&format!("local-dz642-{number:015}")).expect("well formed")
}

pub(crate) fn instance_id(name: &str) -> InstanceId {
    InstanceId::new(name)
}

/// `N` cores, `N` × 4 GiB, price `N`; named `typeN`.
pub(crate) fn instance_type(cores: i64) -> Arc<InstanceType> {
    Arc::new(InstanceType {
        name: format!("type{cores}"),
        provider_type: format!("provider{cores}"),
        vcpus: cores,
        ram: cores * 4 * GIB,
        included_scratch: 100 * GIB,
        #[expect(clippy::cast_precision_loss, reason = "a handful of cores")]
        price: cores as f64,
        ..InstanceType::default()
    })
}

pub(crate) fn request() -> ContainerRequest {
    ContainerRequest {
        name: String::new(),
        command: vec!["true".to_owned()],
        cwd: String::new(),
        environment: BTreeMap::new(),
        stdin: String::new(),
        container_image: String::new(),
        priority: 1,
        vcpus: 1,
        ram: GIB,
        keep_cache_ram: 0,
        keep_cache_disk: 0,
        scratch: 0,
        gpu: GpuRequest::default(),
        preemptible: false,
        supervisor: false,
        max_run_time: None,
        max_attempts: 3,
        array_index: None,
        outputs: Vec::new(),
        after: Vec::new(),
    }
}

/// One core, one GiB, priority 1, only `type1`.
pub(crate) fn entry(number: usize, state: ContainerState) -> QueueEntry {
    QueueEntry {
        container: Container {
            uuid: uuid(number),
            state,
            request: Arc::new(request()),
            priority: 1,
            created_at: i64::try_from(number).expect("small") * 1000,
            started_at: None,
            finished_at: None,
            attempt: 0,
            instance: None,
            instance_type: None,
            exit_code: None,
            runtime_status: RuntimeStatus::default(),
            cancel_requested: false,
            locked_by_uuid: String::new(),
            cost: 0.0,
        },
        resources: Resources { vcpus: 1, ram: GIB, ..Resources::default() },
        instance_types: Arc::from([instance_type(1)]),
        first_seen: number as u64,
        ready: true,
    }
}

/// Makes it one.
pub(crate) fn supervisor(entry: &mut QueueEntry) {
    let mut request = (*entry.container.request).clone();
    request.supervisor = true;
    entry.container.request = Arc::new(request);
}

/// Name, arrangement, what the first pass does.
pub(crate) type Row<'a> = (&'a str, &'a dyn Fn(&mut World), &'a [&'a str]);

/// Lists of types that are equal are the same, as a queue hands them out.
#[derive(Debug, Default)]
pub(crate) struct Lists(Vec<Arc<[Arc<InstanceType>]>>);

impl Lists {
    fn share(&mut self, list: Arc<[Arc<InstanceType>]>) -> Arc<[Arc<InstanceType>]> {
        if let Some(known) = self.0.iter().find(|known| **known == list) {
            return known.clone();
        }
        self.0.push(list.clone());
        list
    }
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) settings: SchedulerSettings,
    pub(crate) pool: PoolView,
    pub(crate) queue: QueueSnapshot,
    pub(crate) busy: BTreeSet<ContainerUuid>,
    pub(crate) last_busy_answer: Option<Moment>,
    pub(crate) may_start: bool,
    pub(crate) now: Moment,
    pub(crate) lists: Lists,
}

impl World {
    /// An empty, willing cloud at 100 s, a local queue that was refreshed just now.
    pub(crate) fn new() -> Self {
        let pool = PoolView {
            creates_accepted: 10,
            quota_room: usize::MAX,
            loaded: true,
            first_list: Some(at(1)),
            last_list: Some(at(1)),
            ..PoolView::default()
        };
        Self {
            settings: SchedulerSettings::default(),
            pool,
            queue: QueueSnapshot { as_of: at(100), ..QueueSnapshot::default() },
            busy: BTreeSet::new(),
            last_busy_answer: None,
            may_start: true,
            now: at(100),
            lists: Lists::default(),
        }
    }

    pub(crate) fn remote() -> Self {
        let mut world = Self::new();
        world.settings.keeps_attempts = false;
        world
    }

    pub(crate) fn add(&mut self, number: usize, state: ContainerState, change: impl FnOnce(&mut QueueEntry)) {
        let mut new = entry(number, state);
        change(&mut new);
        new.instance_types = self.lists.share(new.instance_types);
        self.queue.entries.insert(new.container.uuid.clone(), Versioned::new(new));
    }

    pub(crate) fn edit(&mut self, number: usize, change: impl FnOnce(&mut QueueEntry)) {
        let slot = self.queue.entries.get_mut(&uuid(number)).expect("an entry of this number");
        let entry = slot.make_mut();
        change(entry);
        entry.instance_types = self.lists.share(entry.instance_types.clone());
    }

    pub(crate) fn instance(&mut self, name: &str, cores: i64, state: WorkerState) -> &mut InstanceView {
        self.view(InstanceKey::Instance(instance_id(name)), cores, state)
    }

    pub(crate) fn create(&mut self, number: u64, cores: i64) {
        self.view(InstanceKey::Create(OperationId(number)), cores, WorkerState::Booting);
    }

    fn view(&mut self, key: InstanceKey, cores: i64, state: WorkerState) -> &mut InstanceView {
        let instance_type = instance_type(cores);
        let view = InstanceView {
            key: key.clone(),
            address: String::new(),
            type_name: TypeName::new(&instance_type.name),
            instance_type: Some(instance_type),
            state,
            idle_behavior: IdleBehavior::Run,
            containers: Vec::new(),
            collecting: Vec::new(),
            last_container: None,
            last_busy: None,
            storage_fault: None,
        };
        self.pool.instances.insert(key.clone(), Versioned::new(view));
        self.pool.instances.get_mut(&key).expect("just added").make_mut()
    }

    /// The one at this place in the order of the keys.
    pub(crate) fn nth(&mut self, index: usize) -> &mut InstanceView {
        let key = self.pool.instances.keys().nth(index).expect("so many instances").clone();
        self.pool.instances.get_mut(&key).expect("its key was there").make_mut()
    }

    pub(crate) fn each_instance(&mut self, mut change: impl FnMut(&mut InstanceView)) {
        (0..self.pool.instances.len()).for_each(|index| change(self.nth(index)));
    }

    pub(crate) fn whereabouts(&mut self, uuid: &ContainerUuid) -> &mut Whereabouts {
        self.pool.containers.entry(uuid.clone()).or_default().make_mut()
    }

    /// Puts a runner on an instance.
    pub(crate) fn place(&mut self, number: usize, instance: &str, attempt: Attempt, phase: Phase) -> &mut Place {
        let key = InstanceKey::Instance(instance_id(instance));
        let view = self.pool.instances.get_mut(&key).expect("an instance of this name").make_mut();
        let list = if phase == Phase::Collecting { &mut view.collecting } else { &mut view.containers };
        list.push(uuid(number));
        list.sort();
        if phase != Phase::Collecting && view.state == WorkerState::Idle {
            view.state = WorkerState::Running;
        }
        let place = Place { instance: instance_id(instance), attempt, phase, killing: false, given_up: false };
        let places = &mut self.whereabouts(&uuid(number)).places;
        places.push(place);
        places.last_mut().expect("just added")
    }

    pub(crate) fn exited(&mut self, number: usize, attempt: Attempt, when: Moment) {
        self.whereabouts(&uuid(number)).exited = Some(Exit { at: when, attempt, has_run: false });
    }

    pub(crate) fn input(&self) -> PassInput<'_> {
        PassInput {
            pool: &self.pool,
            queue: &self.queue,
            busy: &self.busy,
            last_busy_answer: self.last_busy_answer,
            may_start: self.may_start,
            now: self.now,
        }
    }

    pub(crate) fn scheduler(&self) -> Scheduler {
        Scheduler::new(self.settings.clone())
    }

    /// One pass of this scheduler, with the invariants checked.
    pub(crate) fn pass(&self, scheduler: &mut Scheduler) -> Pass {
        let from_nothing = scheduler.pass_from_nothing(&self.input());
        let pass = scheduler.pass(&self.input());
        if let Err(violation) = invariants::check_memory(&from_nothing, &pass) {
            panic!("{violation}");
        }
        if let Err(violation) = invariants::check(&self.settings, &self.input(), &pass) {
            panic!("{violation}\n{:#?}", pass.actions);
        }
        pass
    }

    /// What the first pass of a new scheduler does, in short words.
    pub(crate) fn plan(&self) -> Vec<String> {
        shown(&self.pass(&mut self.scheduler()).actions)
    }

    /// The texts of the first pass of a new scheduler, in scheduling order.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.pass(&mut self.scheduler()).outlook.statuses().into_iter().map(|status| status.text).collect()
    }
}

fn number(uuid: &ContainerUuid) -> &str {
    let digits = uuid.as_str()[12..].trim_start_matches('0');
    if digits.is_empty() { "0" } else { digits }
}

/// `lock 1`, `start 1#2 on a`, `create type1`…
pub(crate) fn shown(actions: &[Action]) -> Vec<String> {
    let show = |action: &Action| match action {
        Action::Lock { uuid } => format!("lock {}", number(uuid)),
        Action::Unlock { uuid } => format!("unlock {}", number(uuid)),
        Action::Start { uuid, attempt, instance, .. } => format!("start {}#{attempt} on {instance}", number(uuid)),
        Action::Kill { uuid, instance, .. } => {
            format!("kill {} on {}", number(uuid), instance.as_ref().map_or("all", InstanceId::as_str))
        }
        Action::RuleOut { uuid, attempt, instance } => format!("rule out {}#{attempt} on {instance}", number(uuid)),
        Action::Create { instance_type } => format!("create {instance_type}"),
        Action::Shutdown { instance } => format!("shutdown {instance}"),
        Action::Cancel { uuid, why } => format!("cancel {}: {why}", number(uuid)),
        Action::SeenRunning { uuid, attempt } => format!("running {}#{attempt}", number(uuid)),
        Action::AttemptLost { uuid, attempt, reason } => {
            format!("lost {}#{attempt}: {}", number(uuid), reason.as_str())
        }
        Action::ForgetInPool { uuid } => format!("forget {} in pool", number(uuid)),
        Action::ForgetInQueue { uuid } => format!("forget {} in queue", number(uuid)),
    };
    actions.iter().map(show).collect()
}
