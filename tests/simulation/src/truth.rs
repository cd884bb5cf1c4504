//! What really happened, and what must never have: seen from outside, where no mistake of the dispatcher's own records counts.

use std::collections::{BTreeMap, BTreeSet};

use crate::cloud::Cloud;
use crate::core::effect::Ending;
use crate::core::ids::{Attempt, ContainerUuid, InstanceId, TypeName};
use crate::core::lifecycle::{AttemptEnd, Lifecycle};
use crate::core::resources::Packing;
use crate::core::time::Moment;
use crate::core::vocabulary::ContainerState;
use crate::core::worker::kill::KillState;
use crate::faults::Fault;
use crate::host::Lock;
use crate::world::World;

#[derive(Debug, Default)]
pub struct Truth {
    /// Attempts that were executed.
    pub executed: BTreeSet<(ContainerUuid, Attempt)>,
    pub vanished: BTreeSet<InstanceId>,
    /// Types that the circuit breaker keeps from being created, at least until then.
    pub tripped: BTreeMap<TypeName, Moment>,
    /// Made by creates that reported failure.
    pub unreported: BTreeSet<InstanceId>,
    /// An operator wants them gone, whatever they do.
    pub asked_to_kill: BTreeSet<InstanceId>,
    /// Containers that ended.
    pub ended: BTreeSet<ContainerUuid>,
    pub started: u64,
}

impl World {
    /// A job has begun on a machine.
    pub fn check_start(&mut self, id: &InstanceId, uuid: &ContainerUuid, attempt: Attempt) {
        self.truth.started += 1;
        if !self.truth.executed.insert((uuid.clone(), attempt)) {
            self.violated("52 §1", format!("attempt {attempt} of {uuid} is executed twice"));
        }
        let open =
            self.store.life(uuid).is_some_and(|life| life.is_open(attempt) && life.instance.as_ref() == Some(id));
        if !open {
            let life = self.store.life(uuid).cloned();
            self.violated("70 §3", format!("attempt {attempt} of {uuid} begins on {id}; the queue says {life:?}"));
        }
        let now = self.now;
        let elsewhere = self.cloud.instances.iter().find(|(other, instance)| {
            *other != id && self.cloud.alive(other, now) && instance.host.living().contains(uuid)
        });
        if let Some((other, _)) = elsewhere {
            let detail = format!("{uuid} begins on {id} and lives on {other}");
            self.violated("30.1", detail);
        }
        self.check_load(id);
    }

    /// 30.2, in truth: what lives on a machine fits there.
    fn check_load(&mut self, id: &InstanceId) {
        let Some(instance) = self.cloud.instances.get(id) else { return };
        let Some(instance_type) = self.plan.types.get(&instance.type_name) else { return };
        let mut packing = Packing::new(instance_type.capacity());
        let mut too_many = false;
        for uuid in instance.host.living() {
            let need = self.store.records.get(uuid).map(|record| record.need).unwrap_or_default();
            too_many |= !packing.fits(&need);
            packing.place(&need);
        }
        if too_many {
            let detail = format!("{id} of {} has {:?}", instance.type_name, instance.host.living());
            self.violated("30.2", detail);
        }
    }

    /// What is destroyed because it has nothing to do has nothing to do, and nothing that waits to be collected (10 §9).
    pub fn check_destroy(&mut self, id: &InstanceId, ending: Ending) {
        let (now, patience) = (self.now, self.plan.settings.timeout_collect);
        let Some(worker) = self.process.as_ref().and_then(|process| process.pool.worker(id)) else { return };
        let first = worker.last_destroy == worker.destroyed;
        // What is given up as unkillable goes with its machine.
        let runners = worker.starting.values().chain(worker.running.values());
        let known = worker.occupied() && runners.into_iter().all(|runner| runner.kill == KillState::GivenUp);
        if !first || known || ending != Ending::Unwanted || self.truth.asked_to_kill.contains(id) {
            return;
        }
        let Some(host) = self.cloud.host(id, now) else { return };
        let lives = host.runners.iter().find(|(_, runner)| runner.lock == Lock::Alive).map(|(uuid, _)| uuid);
        let waits = |(key, (_, written)): &(&(ContainerUuid, Attempt), &(AttemptEnd, Moment))| {
            !self.store.results.contains_key(*key) && now.since(*written) < patience
        };
        let result = host.results.iter().find(waits).map(|((uuid, _), _)| uuid);
        if let Some(uuid) = lives.or(result) {
            let detail = format!("{id} is destroyed as idle, and has {uuid}");
            self.violated("10 §9", detail);
        }
    }

    /// A bad image costs three instances, not a night (20 §6): none is created during the breaker's pause.
    pub fn check_create(&mut self, type_name: &TypeName) {
        if self.truth.tripped.get(type_name).is_some_and(|until| self.now < *until) {
            self.violated("20 §6", format!("{type_name} is created although its instances do not boot"));
        }
    }

    /// An attempt is given up, as lost or never run: nothing of it lives, it cannot begin any more, and it left no result (70 §3).
    pub fn check_given_up(&mut self, uuid: &ContainerUuid, attempt: Attempt) {
        let Some(life) = self.store.life(uuid).filter(|life| life.is_open(attempt)) else { return };
        let Some(id) = life.instance.clone() else { return };
        // Without its machine nothing can be left.
        let Some(host) = self.cloud.host(&id, self.now) else { return };
        let lives = host.runners.get(uuid).is_some_and(|runner| runner.attempt == attempt);
        let key = (uuid.clone(), attempt);
        let result = host.results.contains_key(&key) && !self.store.results.contains_key(&key);
        if lives || result {
            let detail =
                format!("attempt {attempt} of {uuid} is given up; on {id} it lives {lives}, has a result {result}");
            self.violated("70 §3", detail);
        }
    }

    /// A container's record has changed.
    pub fn check_transition(&mut self, uuid: &ContainerUuid, before: &Lifecycle, after: &Lifecycle) {
        if before.state.is_final() && before.state != after.state {
            self.violated("70 §2", format!("{uuid} left {} for {}", before.state, after.state));
        }
        if after.state.is_final() && !self.truth.ended.insert(uuid.clone()) {
            self.violated("70 §2", format!("{uuid} ended twice"));
        }
        let executed = self.truth.executed.contains(&(uuid.clone(), after.attempt));
        let claims_to_run = matches!(after.state, ContainerState::Running | ContainerState::Complete);
        if claims_to_run && !executed {
            self.violated("70 §3", format!("{uuid} is {} and attempt {} never ran", after.state, after.attempt));
        }
        if after.attempt > before.attempt + 1 || after.attempt < before.attempt {
            self.violated("70 §3", format!("{uuid}: attempt {} after {}", after.attempt, before.attempt));
        }
    }

    /// Why this is not settled yet; `None` = it is. Faults have ended.
    pub fn unsettled(&self) -> Option<String> {
        let Some(process) = &self.process else { return Some("the dispatcher is down".to_owned()) };
        if let Some(uuid) = self.store.open_containers().into_iter().next() {
            return Some(format!("{uuid} has not ended: {:?}", self.store.life(uuid)));
        }
        let left = self.cloud.instances.iter();
        let mut left = left.filter(|(id, instance)| Cloud::ours(instance) && self.cloud.alive(id, self.now));
        if let Some((id, _)) = left.next() {
            return Some(format!(
                "{id} still exists: {:?}",
                process.pool.worker(id).map(|it| (it.state, it.idle_behavior))
            ));
        }
        if let Some(worker) = process.pool.workers().next() {
            return Some(format!("{} is still a worker", worker.id));
        }
        let view = process.pool.view(self.now);
        if !view.instances.is_empty() || !view.containers.is_empty() {
            return Some(format!("the pool still has {:?} {:?}", view.instances, view.containers));
        }
        if !process.busy.is_empty() || !process.lanes.is_empty() {
            return Some(format!("something is under way: {:?} {:?}", process.busy, process.lanes));
        }
        None
    }

    /// After the end: nobody else's machine was touched, and what was injected and cannot be seen otherwise is counted.
    pub fn check_end(&mut self) {
        let gone =
            self.cloud.instances.iter().find(|(_, instance)| !Cloud::ours(instance) && instance.gone_at.is_some());
        if let Some((id, _)) = gone {
            let detail = format!("{id} is another's, and goes");
            self.violated("20.3", detail);
        }
        self.notice_restarts();
    }

    /// Lives that began after a kill: they found again what was there.
    fn notice_restarts(&mut self) {
        for fault in [Fault::KilledAtRandom, Fault::KilledAfterStart, Fault::KilledBetweenEffects] {
            for _ in 0..self.counts.injected(fault).min(self.lives() - 1) {
                self.counts.notice(fault);
            }
        }
    }
}
