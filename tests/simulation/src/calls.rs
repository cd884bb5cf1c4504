//! Cloud calls: creates, destroys, tag saves and lists, with what the cloud makes of them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::cloud::{Cloud, SET_TAG, report};
use crate::core::effect::Tags;
use crate::core::ids::{InstanceId, OperationId, TypeName};
use crate::core::instance_type::InstanceType;
use crate::core::pool::create::InstanceReport;
use crate::core::pool::invariants::{self, Cause};
use crate::core::pool::limits::{CallKind, CapacityScope, CloudRefusal};
use crate::core::time::Moment;
use crate::faults::Fault;
use crate::world::World;

/// Destroys and tag saves at once.
const CHANGE_THREADS: usize = 4;
/// A list, destroy or tag call that takes longer has failed (spec 20 §1).
const CALL_DEADLINE: Duration = Duration::from_secs(120);
/// Lists that were asked for are at least this far apart.
const SPACING: Duration = Duration::from_millis(200);
/// Pause until the first list has succeeded.
const FIRST_RETRY: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    Destroy,
    SaveTags(Tags2),
}

/// Tags as they are ordered; comparable, unlike the core's.
pub type Tags2 = Vec<(String, String)>;

/// Destroys and tag saves that were asked for: one of each per instance waits at most.
#[derive(Debug, Default)]
pub struct Changes {
    queue: VecDeque<(InstanceId, bool)>,
    waiting: BTreeMap<(InstanceId, bool), Change>,
    running: usize,
}

#[derive(Debug, Default)]
pub struct SyncState {
    /// A call is under way.
    listing: bool,
    asked: bool,
    loaded: bool,
    next_at: Option<Moment>,
    last_began: Moment,
}

impl World {
    pub fn call_create(&mut self, operation: OperationId, instance_type: &Arc<InstanceType>, tags: Tags) {
        self.check_create(&TypeName::new(&instance_type.name));
        let slow = self.fault(Fault::CreateSlow);
        let takes = if slow { self.random.seconds(60, 1200) } else { self.random.millis(300, 40_000) };
        let answers_in = self.random.millis(5, 500);
        let process = self.process_id();
        let instance_type = instance_type.clone();
        // The request is on its way: the cloud acts on it, whether or not we live to hear of it.
        self.after(takes, move |world| {
            let outcome = world.cloud_creates(&instance_type, tags);
            if world.fault(Fault::CreateSilent) || process != world.process_id() || process.is_none() {
                return;
            }
            world.in_process(answers_in, move |world| world.create_answered(operation, outcome));
        });
    }

    fn cloud_creates(&mut self, instance_type: &InstanceType, tags: Tags) -> Result<InstanceId, CloudRefusal> {
        if self.fault(Fault::CreateRateLimited) {
            let pause = self.random.seconds(1, 120);
            return Err(CloudRefusal::RateLimit { until: self.now + pause });
        }
        if self.fault(Fault::Quota) || self.cloud.count(self.now) >= self.cloud.quota {
            return Err(CloudRefusal::Quota);
        }
        if let Some(scope) = self.out_of_capacity(instance_type) {
            return Err(CloudRefusal::Capacity(scope));
        }
        if self.fault(Fault::CreateFails) {
            return Err(CloudRefusal::Other);
        }
        let type_name = TypeName::new(&instance_type.name);
        let id = self.make_instance(&type_name, &instance_type.provider_type, tags);
        if self.fault(Fault::CreateMadeButFailed) {
            self.truth.unreported.insert(id);
            return Err(CloudRefusal::Other);
        }
        Ok(id)
    }

    fn out_of_capacity(&mut self, instance_type: &InstanceType) -> Option<CapacityScope> {
        let provider_type = &instance_type.provider_type;
        if self.fault(Fault::Capacity) {
            let until = self.now + self.random.seconds(10, 900);
            self.cloud.out_of_capacity.insert(provider_type.clone(), until);
            return Some(*self.random.pick(&[CapacityScope::Type, CapacityScope::Type, CapacityScope::Everything]));
        }
        let until = self.cloud.out_of_capacity.get(provider_type).copied();
        (self.faults_on && until.is_some_and(|until| self.now < until)).then_some(CapacityScope::Type)
    }

    fn create_answered(&mut self, operation: OperationId, outcome: Result<InstanceId, CloudRefusal>) {
        self.say(|| format!("cloud answers create {operation:?}: {outcome:?}"));
        match outcome {
            Ok(id) => {
                let Some(instance) = self.cloud.instances.get(&id) else { return };
                let seen = report(&id, instance, self.now);
                self.pool(Cause::Other, |pool, now, effects| {
                    pool.create_succeeded(operation, &id, &seen, now, effects);
                });
            }
            Err(refusal) => {
                self.pool(Cause::Other, |pool, now, effects| {
                    pool.create_failed(operation, &refusal, "the cloud refuses", now, effects);
                });
            }
        }
    }

    pub fn ask_destroy(&mut self, id: &InstanceId) {
        self.ask_change(id, Change::Destroy);
    }

    pub fn ask_tags(&mut self, id: &InstanceId, tags: Tags) {
        self.ask_change(id, Change::SaveTags(tags.into_iter().collect()));
    }

    fn ask_change(&mut self, id: &InstanceId, change: Change) {
        let Some(process) = &mut self.process else { return };
        let key = (id.clone(), change == Change::Destroy);
        if process.changes.waiting.insert(key.clone(), change).is_none() {
            process.changes.queue.push_back(key);
        }
        self.next_change();
    }

    fn next_change(&mut self) {
        let Some(changes) = self.process.as_mut().map(|process| &mut process.changes) else { return };
        if changes.running >= CHANGE_THREADS {
            return;
        }
        let Some(key) = changes.queue.pop_front() else { return };
        let Some(change) = changes.waiting.remove(&key) else { return };
        changes.running += 1;
        let takes = self.random.millis(5, 2000);
        let id = key.0;
        self.after(takes, {
            let (id, change) = (id.clone(), change.clone());
            move |world| world.cloud_changes(&id, &change)
        });
        self.in_process(takes, move |world| {
            let Some(process) = &mut world.process else { return };
            process.changes.running -= 1;
            if change == Change::Destroy && process.pool.settings().cheap_list {
                world.list_soon();
            }
            world.next_change();
        });
    }

    fn cloud_changes(&mut self, id: &InstanceId, change: &Change) {
        if self.cloud.instances.get(id).is_some_and(|instance| !Cloud::ours(instance)) {
            self.violated("20.3", format!("{change:?} of {id}, which is another's"));
        }
        if !self.cloud.alive(id, self.now) {
            return;
        }
        match change {
            Change::Destroy => {
                if self.fault(Fault::DestroyFails) {
                    return;
                }
                let slow = self.fault(Fault::DestroySlow);
                let after = if slow { self.random.seconds(30, 300) } else { self.random.millis(500, 30_000) };
                self.remove_instance(id, after);
            }
            Change::SaveTags(tags) => {
                if self.fault(Fault::TagsFail) {
                    self.counts.notice(Fault::TagsFail);
                    return;
                }
                if let Some(instance) = self.cloud.instances.get_mut(id) {
                    instance.tags = tags.iter().cloned().collect();
                }
            }
        }
    }

    pub fn list_soon(&mut self) {
        let Some(sync) = self.process.as_mut().map(|process| &mut process.sync) else { return };
        sync.asked = true;
        if !sync.listing {
            let spacing = (sync.last_began + SPACING).since(self.now);
            self.list_after(spacing);
        }
    }

    /// The sync thread's wait; an earlier one wins.
    pub fn list_after(&mut self, wait: Duration) {
        let at = self.now + wait;
        let Some(sync) = self.process.as_mut().map(|process| &mut process.sync) else { return };
        if sync.next_at.is_some_and(|next| next <= at) {
            return;
        }
        sync.next_at = Some(at);
        self.in_process(wait, move |world| {
            let due = world.process.as_ref().is_some_and(|it| it.sync.next_at == Some(at) && !it.sync.listing);
            if due {
                world.list();
            }
        });
    }

    fn list(&mut self) {
        let Some(process) = &mut self.process else { return };
        process.sync.next_at = None;
        process.sync.asked = false;
        process.sync.listing = true;
        process.sync.last_began = self.now;
        let began = self.now;
        if process.pool.calls_suspended(CallKind::List, self.now) {
            self.list_ended();
            return;
        }
        let slow = self.fault(Fault::ListSlow);
        let takes = if slow { self.random.seconds(10, 240) } else { self.random.millis(5, 2000) };
        if takes > CALL_DEADLINE {
            self.counts.notice(Fault::ListSlow);
            self.in_process(CALL_DEADLINE, Self::list_ended);
            return;
        }
        // The cloud looks at some moment of the call.
        let looks_in = takes.mul_f64(self.random.share());
        self.in_process(looks_in, move |world| {
            let late = world.fault(Fault::ListStale);
            let age = if late { Duration::from_millis(world.random.between(0, 28_000)) } else { Duration::ZERO };
            let listed = world.cloud.list(age, world.now);
            world.in_process(takes - looks_in, move |world| world.list_answered(began, listed));
        });
    }

    fn list_answered(&mut self, began: Moment, mut listed: BTreeMap<InstanceId, InstanceReport>) {
        if self.fault(Fault::ListRateLimited) {
            let until = self.now + self.random.seconds(1, 120);
            self.pool(Cause::Other, |pool, now, effects| pool.suspend_calls(CallKind::List, until, now, effects));
        } else if self.fault(Fault::ListFails) {
            self.counts.notice(Fault::ListFails);
        } else {
            listed.retain(|_, report| report.tags.get(SET_TAG).is_some_and(|set| set == "local"));
            self.say(|| format!("list: {:?}", listed.keys().collect::<Vec<_>>()));
            self.notice_list(&listed);
            self.pool(Cause::ListApplied, |pool, now, effects| pool.apply_list(began, &listed, now, effects));
            if let Some(process) = &mut self.process {
                process.sync.loaded = true;
                let checked = invariants::check_list(&listed, &process.pool);
                self.demand(checked);
            }
            self.open_missing();
        }
        self.list_ended();
    }

    fn notice_list(&mut self, listed: &BTreeMap<InstanceId, InstanceReport>) {
        let Some(process) = &self.process else { return };
        let unlisted = process.pool.workers().any(|worker| !listed.contains_key(&worker.id) && !worker.ever_listed);
        let late = process.pool.workers().any(|worker| {
            worker.address.is_empty() && listed.get(&worker.id).is_some_and(|report| !report.address.is_empty())
        });
        if unlisted {
            self.counts.notice(Fault::ListStale);
        }
        if late {
            self.counts.notice(Fault::AddressLate);
        }
    }

    fn list_ended(&mut self) {
        let Some(process) = &mut self.process else { return };
        process.sync.listing = false;
        let interval = process.pool.list_interval();
        let wait = if process.sync.loaded { interval } else { interval.min(FIRST_RETRY) };
        let asked = process.sync.asked;
        self.list_after(if asked { SPACING } else { wait.max(SPACING) });
    }

    /// Another dispatcher's machine on the same account.
    pub fn foreign_instance(&mut self) {
        let tags: Tags = [(SET_TAG.to_owned(), "another".to_owned())].into_iter().collect();
        self.make_instance(&TypeName::new("t1"), "p1", tags);
    }
}
