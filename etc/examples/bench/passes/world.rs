//! Pools and queues for the measurements: a view and a snapshot as the daemon would hand them to a pass.

use std::collections::BTreeMap;
use std::sync::Arc;

use muster::core::container::{Container, ContainerRequest, GpuRequest, RuntimeStatus};
use muster::core::entry::{QueueEntry, QueueSnapshot};
use muster::core::ids::{ContainerUuid, InstanceId, TypeName};
use muster::core::instance_type::InstanceType;
use muster::core::pool::view::{InstanceKey, InstanceView, Phase, Place, PoolView, Whereabouts};
use muster::core::resources::Resources;
use muster::core::time::Moment;
use muster::core::versioned::Versioned;
use muster::core::vocabulary::{ContainerState, IdleBehavior, WorkerState};

const GIB: i64 = 1 << 30;

impl World {
    /// One of the containers that run has ended, and its instance is idle; or one more is submitted, where nothing runs.
    pub(crate) fn change(&mut self, number: usize) {
        let running =
            self.pool.containers.iter().next().map(|(uuid, found)| (uuid.clone(), found.places[0].instance.clone()));
        let Some((uuid, instance)) = running else {
            let like = self.queue.entries.values().next().map(|entry| entry.instance_types.clone()).unwrap_or_default();
            let new = entry(1_000_000 + number, ContainerState::Queued, 1, &like);
            self.queue.entries.insert(new.container.uuid.clone(), Versioned::new(new));
            return;
        };
        self.pool.containers.remove(&uuid);
        self.queue.entries.remove(&uuid);
        if let Some(view) = self.pool.instances.get_mut(&InstanceKey::Instance(instance)) {
            let view = view.make_mut();
            view.containers.clear();
            view.state = WorkerState::Idle;
        }
    }
}

/// What a pass has to do in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    /// Every instance is full and no more can be had.
    NothingPlaceable,
    /// Every instance is idle and takes its share of the queue, which is `Queued`.
    AllLocked,
    /// The same, and the queue is `Locked`.
    AllStarted,
    /// 50 types and 20 shapes; half of the instances are full, creates are welcome.
    Mix,
}

impl Case {
    pub(crate) const ALL: [Self; 4] = [Self::NothingPlaceable, Self::AllLocked, Self::AllStarted, Self::Mix];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NothingPlaceable => "nothing placeable",
            Self::AllLocked => "all locked",
            Self::AllStarted => "all started",
            Self::Mix => "50 types, 20 shapes",
        }
    }
}

#[derive(Clone)]
pub(crate) struct World {
    pub(crate) pool: PoolView,
    pub(crate) queue: QueueSnapshot,
}

fn uuid(number: usize) -> ContainerUuid {
    // Spread over the order of the uuids, as random ones are.
    let spread = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let text = format!("local-dz642-{:015}", spread * 10 % 1_000_000_000_000_000);
    ContainerUuid::parse(&text).unwrap_or_else(|| unreachable!("{text:?} is well formed"))
}

fn sized(vcpus: i64, number: i64) -> Arc<InstanceType> {
    Arc::new(InstanceType {
        name: format!("type-{vcpus}-{number}"),
        provider_type: format!("provider-{vcpus}-{number}"),
        vcpus,
        ram: vcpus * 4 * GIB,
        included_scratch: 100 * GIB,
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        price: vcpus as f64 * (1.0 + number as f64 / 1000.0),
        ..InstanceType::default()
    })
}

fn request() -> Arc<ContainerRequest> {
    Arc::new(ContainerRequest {
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
    })
}

fn entry(number: usize, state: ContainerState, need: i64, types: &Arc<[Arc<InstanceType>]>) -> QueueEntry {
    QueueEntry {
        container: Container {
            uuid: uuid(number),
            state,
            request: request(),
            priority: i64::try_from(number % 7).unwrap_or(0) + 1,
            created_at: i64::try_from(number).unwrap_or(0),
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
        resources: Resources { vcpus: need, ram: need * GIB, ..Resources::default() },
        instance_types: Arc::clone(types),
        first_seen: number as u64,
        ready: true,
    }
}

fn view(number: usize, instance_type: &Arc<InstanceType>, container: Option<&ContainerUuid>) -> InstanceView {
    InstanceView {
        key: InstanceKey::Instance(InstanceId::new(&format!("i-{number:017x}"))),
        address: "192.0.2.1".to_owned(),
        type_name: TypeName::new(&instance_type.name),
        instance_type: Some(Arc::clone(instance_type)),
        state: if container.is_some() { WorkerState::Running } else { WorkerState::Idle },
        idle_behavior: IdleBehavior::Run,
        containers: container.into_iter().cloned().collect(),
        collecting: Vec::new(),
        last_container: container.cloned(),
        last_busy: Some(Moment::default()),
        storage_fault: None,
    }
}

impl World {
    /// So many containers that wait, and so many instances; the containers on those that are full come on top.
    pub(crate) fn new(case: Case, containers: usize, instances: usize) -> Self {
        let room = instances.max(1);
        let share = i64::try_from(containers.div_ceil(room)).unwrap_or(1);
        let types: Vec<Arc<InstanceType>> = match case {
            Case::Mix => (0..50).map(|number| sized(2 << (number % 5), number)).collect(),
            Case::NothingPlaceable => vec![sized(1, 0)],
            Case::AllLocked | Case::AllStarted => vec![sized(share, 0)],
        };
        let mut world = Self { pool: PoolView::default(), queue: QueueSnapshot::default() };
        let shapes: Vec<(i64, Arc<[Arc<InstanceType>]>)> = (0..if case == Case::Mix { 20 } else { 1 })
            .map(|shape| {
                let need = shape % 16 + 1;
                (need, types.iter().filter(|it| it.vcpus >= need).cloned().collect())
            })
            .collect();
        let waits = if case == Case::AllStarted { ContainerState::Locked } else { ContainerState::Queued };
        let mut entries: Vec<QueueEntry> = (1..=containers)
            .map(|number| {
                let (need, types) = &shapes[number % shapes.len()];
                entry(number, waits, *need, types)
            })
            .collect();
        let mut views = Vec::new();
        for number in 0..instances {
            let instance_type = &types[number % types.len()];
            let is_full = case == Case::NothingPlaceable || case == Case::Mix && number % 2 == 0;
            let mut running =
                entry(containers + 1 + number, ContainerState::Running, instance_type.vcpus, &shapes[0].1);
            let view = view(number, instance_type, is_full.then_some(&running.container.uuid));
            if let Some(instance) = view.id().filter(|_| is_full) {
                running.container.instance = Some(instance.clone());
                running.container.attempt = 1;
                let place = Place {
                    instance: instance.clone(),
                    attempt: 1,
                    phase: Phase::Running,
                    killing: false,
                    given_up: false,
                };
                let whereabouts = Whereabouts { places: vec![place], exited: None };
                world.pool.containers.insert(running.container.uuid.clone(), Versioned::new(whereabouts));
                entries.push(running);
            }
            views.push((view.key.clone(), Versioned::new(view)));
        }
        world.pool.instances = views.into_iter().collect();
        world.pool.at_quota = case == Case::NothingPlaceable;
        world.pool.quota_room = if case == Case::Mix { usize::MAX } else { 0 };
        world.pool.creates_accepted = if case == Case::Mix { 64 } else { 0 };
        world.pool.loaded = true;
        world.pool.first_list = Some(Moment::default());
        world.pool.last_list = Some(Moment::default());
        world.queue.entries =
            entries.into_iter().map(|entry| (entry.container.uuid.clone(), Versioned::new(entry))).collect();
        world
    }
}
