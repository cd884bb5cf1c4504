//! A tiny world around the scheduler: what really runs on the hosts, what the pool knows of it, and a queue that commits
//! at once. The actions of a pass are applied to it; `events` says what happens to it by itself.

use std::collections::{BTreeMap, BTreeSet};

use muster::core::entry::QueueEntry;
use muster::core::ids::{Attempt, ContainerUuid, InstanceId, TypeName};
use muster::core::instance_type::InstanceType;
use muster::core::pool::view::{Exit, InstanceKey, InstanceView, Phase, Place, Whereabouts};
use muster::core::scheduler::{Action, Scheduler};
use muster::core::time::Moment;
use muster::core::versioned::Versioned;
use muster::core::vocabulary::{ContainerState, IdleBehavior, WorkerState};
use std::sync::Arc;
use std::time::Duration;

use crate::fixture::{World, instance_type};

/// Passes without any event in between until one has nothing to do: more would be churn.
const SETTLE_PASSES_MAX: usize = 40;

/// A start on its way to its instance.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    uuid: ContainerUuid,
    attempt: Attempt,
    instance: InstanceId,
    instance_type: TypeName,
}

#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) world: World,
    pub(crate) scheduler: Scheduler,
    /// Live runners.
    pub(crate) alive: BTreeMap<InstanceId, BTreeMap<ContainerUuid, Attempt>>,
    /// The highest attempt that each host has ever seen or been told to refuse.
    pub(crate) seen: BTreeMap<(InstanceId, ContainerUuid), Attempt>,
    pub(crate) sent: Vec<Sent>,
    /// Instances that exist and that the cloud's lists lack since a restart.
    pub(crate) unlisted: Vec<Versioned<InstanceView>>,
    /// Queue operations in progress.
    pub(crate) pending: Vec<Action>,
    /// Complete operations at once.
    pub(crate) immediate: bool,
    pub(crate) at_quota: bool,
    pub(crate) max_instances: usize,
    next_instance: u64,
    pub(crate) next_container: usize,
    pub(crate) history: Vec<String>,
}

fn sizes(cores: i64) -> Arc<[Arc<InstanceType>]> {
    [1, 2, 4].into_iter().filter(|size| *size >= cores).map(instance_type).collect()
}

impl Model {
    pub(crate) fn new(mut world: World, max_instances: usize) -> Self {
        world.settings.max_instances = max_instances;
        Self {
            scheduler: world.scheduler(),
            world,
            alive: BTreeMap::new(),
            seen: BTreeMap::new(),
            sent: Vec::new(),
            unlisted: Vec::new(),
            pending: Vec::new(),
            immediate: true,
            at_quota: false,
            max_instances,
            next_instance: 0,
            next_container: 0,
            history: Vec::new(),
        }
    }

    fn keeps_attempts(&self) -> bool {
        self.world.settings.keeps_attempts
    }

    pub(crate) fn submit(&mut self, cores: i64, priority: i64, change: impl FnOnce(&mut QueueEntry)) {
        self.next_container += 1;
        self.world.add(self.next_container, ContainerState::Queued, |entry| {
            entry.container.priority = priority;
            entry.resources.vcpus = cores;
            entry.instance_types = sizes(cores);
            change(entry);
        });
    }

    /// Time passes, the view is taken and the queue refreshed; then one pass, whose actions are carried out.
    pub(crate) fn pass(&mut self) -> usize {
        self.world.now = self.world.now + Duration::from_secs(1);
        self.world.queue.as_of = self.world.now;
        self.refresh_view();
        let pass = self.world.pass(&mut self.scheduler);
        for action in &pass.actions {
            self.history.push(crate::fixture::shown(std::slice::from_ref(action)).remove(0));
            self.apply(action.clone());
        }
        pass.actions.len()
    }

    /// Planning on an applied plan yields nothing: without events the passes come to an end.
    pub(crate) fn settle(&mut self) {
        for _ in 0..SETTLE_PASSES_MAX {
            if self.pass() == 0 {
                return;
            }
        }
        panic!("the passes do not come to an end:\n{}", self.history.join("\n"));
    }

    fn refresh_view(&mut self) {
        let pool = &mut self.world.pool;
        if self.unlisted.is_empty() {
            pool.last_list = Some(self.world.now);
        }
        let creates = pool.instances.values().filter(|view| view.id().is_none()).count();
        pool.quota_room = self.max_instances.saturating_sub(pool.instances.len());
        pool.at_quota = self.at_quota || pool.quota_room == 0;
        pool.creates_accepted = if pool.at_quota { 0 } else { pool.quota_room.min(3_usize.saturating_sub(creates)) };
        let nowhere = |found: &Whereabouts| found.places.is_empty() && found.exited.is_none();
        for (uuid, found) in pool.containers.clone() {
            if nowhere(&found) {
                pool.containers.remove(&uuid);
            }
        }
        self.world.each_instance(|view| {
            view.state = match view.state {
                WorkerState::Idle | WorkerState::Running if view.containers.is_empty() => WorkerState::Idle,
                WorkerState::Idle => WorkerState::Running,
                other => other,
            };
        });
        self.world.busy = self.pending.iter().filter_map(|action| action.uuid().cloned()).collect();
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::Start { uuid, attempt, instance, instance_type } => {
                self.world.pool.containers.remove(&uuid);
                self.put(&uuid, &instance, attempt, Phase::Starting);
                self.sent.push(Sent { uuid, attempt, instance, instance_type });
            }
            Action::Kill { uuid, instance, .. } => {
                self.each_place(&uuid, |place| place.killing |= Some(&place.instance) == instance.as_ref());
            }
            Action::RuleOut { uuid, attempt, instance } => {
                self.put(&uuid, &instance, attempt, Phase::Starting);
                self.each_place(&uuid, |place| place.killing = true);
            }
            Action::Create { instance_type } => {
                self.next_instance += 1;
                let cores = instance_type.as_str()["type".len()..].parse().expect("typeN");
                self.world.create(self.next_instance, cores);
            }
            Action::Shutdown { instance } => {
                self.view_of(&instance).expect("the instance is in the view").state = WorkerState::Shutdown;
            }
            Action::ForgetInPool { uuid } => {
                self.world.whereabouts(&uuid).exited = None;
            }
            on_queue if self.immediate => self.commit(&on_queue),
            on_queue => self.pending.push(on_queue),
        }
    }

    /// What the queue does, with the conditions of its interface: an operation that does not apply is our error here.
    pub(crate) fn commit(&mut self, action: &Action) {
        let uuid = action.uuid().expect("queue operations have one");
        let Some(slot) = self.world.queue.entries.get_mut(uuid) else {
            return;
        };
        let container = &mut slot.make_mut().container;
        match action {
            Action::Lock { .. } if container.state == ContainerState::Queued => {
                container.state = ContainerState::Locked
            }
            Action::Unlock { .. } if container.state == ContainerState::Locked => {
                container.state = ContainerState::Queued;
                container.instance = None;
            }
            Action::Cancel { .. } if !container.state.is_final() => container.state = ContainerState::Cancelled,
            Action::SeenRunning { attempt, .. }
                if container.state == ContainerState::Locked && container.attempt == *attempt =>
            {
                container.state = ContainerState::Running;
            }
            Action::AttemptLost { attempt, .. }
                if container.attempt == *attempt && !container.state.is_final() && container.instance.is_some() =>
            {
                let left = *attempt < container.request.max_attempts;
                container.state = if left { ContainerState::Queued } else { ContainerState::Cancelled };
                container.instance = None;
            }
            Action::ForgetInQueue { .. } if container.state.is_final() || container.priority < 1 => {
                self.world.queue.entries.remove(uuid);
            }
            _ => {}
        }
    }

    pub(crate) fn put(&mut self, uuid: &ContainerUuid, instance: &InstanceId, attempt: Attempt, phase: Phase) {
        let Some(view) = self.view_of(instance) else {
            return;
        };
        let list = if phase == Phase::Collecting { &mut view.collecting } else { &mut view.containers };
        if !list.contains(uuid) {
            list.push(uuid.clone());
            list.sort();
            let place = Place { instance: instance.clone(), attempt, phase, killing: false, given_up: false };
            self.world.whereabouts(uuid).places.push(place);
        }
    }

    fn each_place(&mut self, uuid: &ContainerUuid, change: impl FnMut(&mut Place)) {
        self.world.whereabouts(uuid).places.iter_mut().for_each(change);
    }

    /// Takes a place away; `exit` enters it in the exited map.
    pub(crate) fn take_away(&mut self, uuid: &ContainerUuid, instance: &InstanceId, exit: bool) {
        if let Some(view) = self.view_of(instance) {
            view.containers.retain(|other| other != uuid);
            view.collecting.retain(|other| other != uuid);
        }
        let at: Moment = self.world.now;
        if self.world.pool.containers.contains_key(uuid) {
            let whereabouts = self.world.whereabouts(uuid);
            let attempt = whereabouts.places.iter().find(|place| place.instance == *instance).map_or(0, |p| p.attempt);
            whereabouts.places.retain(|place| place.instance != *instance);
            if exit && whereabouts.places.is_empty() {
                whereabouts.exited = Some(Exit { at, attempt, has_run: false });
            }
        }
    }

    /// The start's thread: commits where it goes, then sends it; refused if the queue says so. `send` false: it gets lost.
    pub(crate) fn run_start(&mut self, sent: &Sent, send: bool) {
        let keeps_attempts = self.keeps_attempts();
        let entry = self.world.queue.entries.get_mut(&sent.uuid);
        let allowed = entry.is_some_and(|slot| {
            let container = &mut slot.make_mut().container;
            let same = container.instance.as_ref() == Some(&sent.instance) && container.attempt == sent.attempt;
            let next = container.instance.is_none() && sent.attempt == container.attempt + 1;
            let allowed = container.state == ContainerState::Locked && (!keeps_attempts || same || next);
            if allowed && keeps_attempts {
                container.attempt = sent.attempt;
                container.instance = Some(sent.instance.clone());
                container.instance_type = Some(sent.instance_type.clone());
            }
            allowed
        });
        if !allowed {
            self.take_away(&sent.uuid, &sent.instance, false);
            return;
        }
        let exists = self.world.pool.instance(&sent.instance).is_some();
        let seen = self.seen.entry((sent.instance.clone(), sent.uuid.clone())).or_default();
        let refused = keeps_attempts && *seen >= sent.attempt;
        if send && exists && !refused {
            *seen = sent.attempt;
            self.alive.entry(sent.instance.clone()).or_default().insert(sent.uuid.clone(), sent.attempt);
        }
    }

    fn view_of(&mut self, instance: &InstanceId) -> Option<&mut InstanceView> {
        let key = InstanceKey::Instance(instance.clone());
        self.world.pool.instances.get_mut(&key).map(Versioned::make_mut)
    }

    pub(crate) fn nth_place(&self, choice: usize) -> Option<(ContainerUuid, Place)> {
        let in_service = |place: &Place| {
            let state = self.world.pool.instance(&place.instance).map(|view| view.state);
            matches!(state, Some(WorkerState::Running | WorkerState::Idle))
        };
        let not_starting = |uuid: &ContainerUuid| self.sent.iter().all(|sent| sent.uuid != *uuid);
        let places: Vec<_> = (self.world.pool.containers.iter())
            .flat_map(|(uuid, whereabouts)| whereabouts.places.iter().map(move |place| (uuid, place)))
            .filter(|(uuid, place)| in_service(place) && not_starting(uuid))
            .collect();
        let (uuid, place) = places.get(choice.checked_rem(places.len())?)?;
        Some(((*uuid).clone(), (*place).clone()))
    }

    pub(crate) fn is_alive(&self, uuid: &ContainerUuid, instance: &InstanceId) -> bool {
        self.alive.get(instance).is_some_and(|runners| runners.contains_key(uuid))
    }

    /// A probe of the instance that has this place.
    pub(crate) fn probe(&mut self, uuid: &ContainerUuid, place: &Place) {
        if place.phase == Phase::Collecting {
            self.collected(uuid, place);
        } else if !self.is_alive(uuid, &place.instance) {
            if place.killing {
                // The kill left a tombstone.
                let seen = self.seen.entry((place.instance.clone(), uuid.clone())).or_default();
                *seen = (*seen).max(place.attempt);
            }
            self.take_away(uuid, &place.instance, true);
        } else if place.killing {
            self.end(uuid, place);
        } else {
            self.each_place(uuid, |other| {
                if other.instance == place.instance {
                    other.phase = Phase::Running;
                }
            });
            if !self.keeps_attempts() {
                self.remote_state(uuid, ContainerState::Locked, ContainerState::Running);
            }
        }
    }

    fn remote_state(&mut self, uuid: &ContainerUuid, from: ContainerState, to: ContainerState) {
        if let Some(slot) = self.world.queue.entries.get_mut(uuid).filter(|slot| slot.container.state == from) {
            slot.make_mut().container.state = to;
        }
    }

    /// The process ends; its result waits (local queue), or the runner has recorded it (remote).
    pub(crate) fn end(&mut self, uuid: &ContainerUuid, place: &Place) {
        if self.alive.get_mut(&place.instance).and_then(|runners| runners.remove(uuid)).is_none() {
            return;
        }
        if self.keeps_attempts() {
            self.take_away(uuid, &place.instance, false);
            self.put(uuid, &place.instance, place.attempt, Phase::Collecting);
        } else {
            self.remote_state(uuid, ContainerState::Running, ContainerState::Complete);
            self.take_away(uuid, &place.instance, true);
        }
    }

    fn collected(&mut self, uuid: &ContainerUuid, place: &Place) {
        if let Some(slot) = self.world.queue.entries.get_mut(uuid) {
            let container = &mut slot.make_mut().container;
            let current = container.instance.as_ref() == Some(&place.instance) && container.attempt == place.attempt;
            if current && !container.state.is_final() {
                container.state = ContainerState::Complete;
            }
        }
        self.take_away(uuid, &place.instance, false);
    }

    pub(crate) fn remove_instance(&mut self, id: &InstanceId) {
        self.alive.remove(id);
        self.world.pool.instances.remove(&InstanceKey::Instance(id.clone()));
        self.world.pool.departed.insert(id.clone());
        for uuid in self.world.pool.containers.clone().keys() {
            self.world.whereabouts(uuid).places.retain(|place| place.instance != *id);
        }
    }

    /// Never: two live runners of one container.
    pub(crate) fn check_truth(&self) {
        let mut seen = BTreeSet::new();
        for uuid in self.alive.values().flat_map(BTreeMap::keys) {
            assert!(seen.insert(uuid), "{uuid} runs twice:\n{}", self.history.join("\n"));
        }
    }

    /// Faults end, everything that is under way comes to its end: after this nothing may wait any more.
    pub(crate) fn fair_end(&mut self) {
        self.history.push("-- faults end".to_owned());
        self.immediate = true;
        self.at_quota = false;
        self.world.pool.at_capacity.clear();
        self.list_all();
        self.world.each_instance(|view| view.idle_behavior = IdleBehavior::Run);
        for action in std::mem::take(&mut self.pending) {
            self.commit(&action);
        }
        for round in 0..400 {
            self.settle();
            for sent in std::mem::take(&mut self.sent) {
                self.run_start(&sent, true);
            }
            for index in 0..self.world.pool.instances.len() {
                if index < self.world.pool.instances.len() {
                    self.advance_instance(index);
                }
            }
            while let Some((uuid, place)) = self.nth_place(0) {
                self.probe(&uuid, &place);
                if self.is_alive(&uuid, &place.instance) {
                    self.end(&uuid, &place);
                }
            }
            self.check_truth();
            let open = |entry: &QueueEntry| entry.container.priority > 0 && !entry.container.state.is_final();
            let quiet = !self.world.queue.entries.values().any(|entry| open(entry));
            if quiet && round > 0 && self.pass() == 0 {
                return;
            }
        }
        panic!("something waits for ever: {:#?}\n{}", self.world.queue.entries, self.history.join("\n"));
    }
}
