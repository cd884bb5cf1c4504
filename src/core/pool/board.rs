//! What views are made of, kept in step with the workers event by event: a view of a large pool must not hold the lock for as long as
//! it takes to look at every worker.
//!
//! Whoever changes what a view shows (a worker, a create, the exited map) tells the board in the same event; an invariant compares it
//! with a view that is made from nothing.

use std::collections::BTreeMap;

use imbl::OrdMap;

use super::create::PendingCreate;
use super::view::{Exit, InstanceKey, InstanceView, Phase, Place, Whereabouts};
use crate::core::ids::{ContainerUuid, InstanceId, OperationId};
use crate::core::versioned::Versioned;
use crate::core::vocabulary::{IdleBehavior, WorkerState};
use crate::core::worker::collect::StorageFault;
use crate::core::worker::kill::KillState;
use crate::core::worker::{Runner, Worker};

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Board {
    pub(super) instances: OrdMap<InstanceKey, Versioned<InstanceView>>,
    pub(super) containers: OrdMap<ContainerUuid, Versioned<Whereabouts>>,
    /// How many instances have a result that we cannot store, by what is wrong; none is 0.
    pub(super) storage_faults: BTreeMap<StorageFault, usize>,
}

/// The exited map of the pool.
type Exited = BTreeMap<ContainerUuid, Exit>;

impl Board {
    /// A worker is new or may have changed.
    pub(super) fn show(&mut self, worker: &Worker, exited: &Exited) {
        let view = view_of(worker);
        let known = self.instances.get(&view.key).cloned();
        let before = known.iter().flat_map(|known| known.containers.iter().chain(&known.collecting));
        for uuid in before.chain(&view.containers).chain(&view.collecting) {
            self.update(uuid, &worker.id, place_of(worker, uuid), exited);
        }
        self.count_fault(known.as_ref().and_then(|known| known.storage_fault), view.storage_fault);
        if known.is_none_or(|known| *known != view) {
            self.instances.insert(view.key.clone(), Versioned::new(view));
        }
    }

    /// A worker is no more.
    pub(super) fn remove(&mut self, instance: &InstanceId, exited: &Exited) {
        let Some(known) = self.instances.remove(&InstanceKey::Instance(instance.clone())) else {
            return;
        };
        for uuid in known.containers.iter().chain(&known.collecting) {
            self.update(uuid, instance, None, exited);
        }
        self.count_fault(known.storage_fault, None);
    }

    fn count_fault(&mut self, before: Option<StorageFault>, now: Option<StorageFault>) {
        if let Some(fault) = now {
            *self.storage_faults.entry(fault).or_default() += 1;
        }
        if let Some(fault) = before {
            self.storage_faults.entry(fault).and_modify(|count| *count -= 1);
            self.storage_faults.retain(|_, count| *count > 0);
        }
    }

    pub(super) fn show_create(&mut self, operation: OperationId, create: &PendingCreate) {
        let view = view_of_create(operation, create);
        self.instances.insert(view.key.clone(), Versioned::new(view));
    }

    pub(super) fn remove_create(&mut self, operation: OperationId) {
        self.instances.remove(&InstanceKey::Create(operation));
    }

    /// The container has left the exited map.
    pub(super) fn forget(&mut self, uuid: &ContainerUuid) {
        let Some(known) = self.containers.get_mut(uuid).filter(|known| known.exited.is_some()) else {
            return;
        };
        if known.places.is_empty() {
            self.containers.remove(uuid);
        } else {
            known.make_mut().exited = None;
        }
    }

    /// `place`: what the container is doing on this instance now.
    fn update(&mut self, uuid: &ContainerUuid, instance: &InstanceId, place: Option<Place>, exited: &Exited) {
        let known = self.containers.get(uuid);
        let others = known.into_iter().flat_map(|known| &known.places).filter(|other| other.instance != *instance);
        let is_as_known = || {
            let here = known.and_then(|known| known.places.iter().find(|other| other.instance == *instance));
            here == place.as_ref() && place.is_some()
        };
        if is_as_known() {
            return;
        }
        let mut places: Vec<Place> = others.cloned().chain(place.clone()).collect();
        places.sort();
        let exit = exited.get(uuid).filter(|_| places.is_empty()).copied();
        if places.is_empty() && exit.is_none() {
            self.containers.remove(uuid);
        } else if known.is_none_or(|known| known.places != places || known.exited != exit) {
            self.containers.insert(uuid.clone(), Versioned::new(Whereabouts { places, exited: exit }));
        }
    }
}

pub(super) fn view_of_create(operation: OperationId, create: &PendingCreate) -> InstanceView {
    InstanceView {
        key: InstanceKey::Create(operation),
        address: String::new(),
        type_name: create.type_name.clone(),
        instance_type: Some(create.instance_type.clone()),
        state: WorkerState::Booting,
        idle_behavior: IdleBehavior::Run,
        containers: Vec::new(),
        collecting: Vec::new(),
        last_container: None,
        last_busy: None,
        storage_fault: None,
    }
}

pub(super) fn view_of(worker: &Worker) -> InstanceView {
    let mut containers: Vec<_> = worker.starting.keys().chain(worker.running.keys()).cloned().collect();
    containers.sort();
    InstanceView {
        key: InstanceKey::Instance(worker.id.clone()),
        address: worker.address.clone(),
        type_name: worker.type_name.clone(),
        instance_type: worker.instance_type.clone(),
        state: worker.state,
        idle_behavior: worker.idle_behavior,
        containers,
        collecting: worker.collecting.keys().cloned().collect(),
        last_container: worker.last_container.clone(),
        last_busy: Some(worker.busy),
        storage_fault: storage_fault(worker),
    }
}

/// Of a worker that is being shut down nothing is fetched any more, so that nobody would find out that there is room again.
fn storage_fault(worker: &Worker) -> Option<StorageFault> {
    let faults = worker.collecting.values().filter_map(|collecting| collecting.storage_fault);
    faults.max().filter(|_| worker.state != WorkerState::Shutdown)
}

/// A container is starting, running or collecting on a worker, never two of these (spec 10 §2).
pub(super) fn place_of(worker: &Worker, uuid: &ContainerUuid) -> Option<Place> {
    let of_runner = |runner: &Runner| Place {
        instance: worker.id.clone(),
        attempt: runner.attempt,
        phase: if runner.listed { Phase::Running } else { Phase::Starting },
        killing: matches!(runner.kill, KillState::Asked { .. }),
        given_up: runner.kill == KillState::GivenUp,
    };
    let runner = worker.starting.get(uuid).or_else(|| worker.running.get(uuid)).map(of_runner);
    runner.or_else(|| {
        let attempt = worker.collecting.get(uuid)?.attempt;
        let instance = worker.id.clone();
        Some(Place { instance, attempt, phase: Phase::Collecting, killing: false, given_up: false })
    })
}
