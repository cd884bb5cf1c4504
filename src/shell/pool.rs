//! The one door to the pool's state: every event reads the clock, takes the lock, runs the core, passes the effects on and releases
//! the lock. No guard leaves this file and nothing blocks under it (spec 20 §10.6).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;

use super::clock::Clock;
use super::outbox::{Outbox, Timed};
use crate::core::effect::{Effect, Effects, RunnerOrder};
use crate::core::ids::{Attempt, ContainerUuid, InstanceId, InstanceSecret, OperationId, TypeName};
use crate::core::instance_type::InstanceType;
use crate::core::pool::Pool;
use crate::core::pool::create::InstanceReport;
use crate::core::pool::limits::{CallKind, CloudRefusal, LimitInForce};
use crate::core::pool::view::PoolView;
use crate::core::settings::Settings;
use crate::core::time::Moment;
use crate::core::vocabulary::{IdleBehavior, WorkerState};
use crate::core::worker::collect::CollectReturn;
use crate::core::worker::kill::KillReturn;
use crate::core::worker::round::{NextRound, RoundPlan, RoundReport};
use crate::core::worker::running::StartReturn;

/// Batches of effects that wait for the central thread. Each event makes one batch; an event of each of 10,000 workers (the most
/// that is watched) at once fits several times. A full channel is a fault of ours: counted, logged, and healed by the sync.
const BATCHES_MAX: usize = 65_536;

/// The pool behind its lock. Shared by all threads.
#[derive(Debug)]
pub struct PoolDoor {
    outbox: Outbox<Pool, Effect>,
    clock: Clock,
}

impl Timed for Pool {
    type Moment = Moment;

    fn next_deadline(&self) -> Option<Moment> {
        Self::next_deadline(self)
    }
}

/// A worker that the pool has, for those who keep threads for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerTarget {
    pub instance: InstanceId,
    pub address: String,
    pub remote_user: String,
    pub secret: Option<InstanceSecret>,
}

impl PoolDoor {
    /// The door, and the effects in the order of the events that caused them. An empty batch says that an earlier deadline was set.
    pub fn new(pool: Pool, clock: Clock) -> (Arc<Self>, Receiver<Vec<Effect>>) {
        let (outbox, batches) = Outbox::new(pool, BATCHES_MAX);
        (Arc::new(Self { outbox, clock }), batches)
    }

    fn apply<R>(&self, event: impl FnOnce(&mut Pool, Moment, &mut Effects) -> R) -> R {
        self.outbox.apply(|pool| {
            let mut effects = Effects::new();
            // Read under the lock, so that events have the order of their times.
            let result = event(pool, self.clock.now(), &mut effects);
            check(pool);
            (result, effects.into_vec())
        })
    }

    fn read<R>(&self, question: impl FnOnce(&Pool, Moment) -> R) -> R {
        self.outbox.read(|pool| question(pool, self.clock.now()))
    }

    /// Batches of effects that were lost since the start; 0 unless something is wrong.
    pub fn overflowed(&self) -> u64 {
        self.outbox.overflowed()
    }

    pub fn next_deadline(&self) -> Option<Moment> {
        self.read(|pool, _| pool.next_deadline())
    }

    /// Handles what has become due.
    pub fn tick(&self) {
        self.apply(|pool, now, effects| pool.tick(now, effects));
    }

    // The scheduler's and operators' calls (spec 20 §6).

    pub fn view(&self) -> PoolView {
        self.read(|pool, now| pool.view(now))
    }

    /// `None`: refused now.
    pub fn create(&self, type_name: &TypeName, secret: InstanceSecret) -> Option<OperationId> {
        self.apply(|pool, now, effects| pool.create(type_name, secret, now, effects))
    }

    pub fn start_container(&self, instance: &InstanceId, uuid: &ContainerUuid, attempt: Attempt) -> bool {
        self.apply(|pool, now, effects| pool.start_container(instance, uuid, attempt, now, effects))
    }

    pub fn kill_container(&self, uuid: &ContainerUuid, instance: Option<&InstanceId>, reason: &str) -> bool {
        self.apply(|pool, now, effects| pool.kill_container(uuid, instance, reason, now, effects))
    }

    pub fn rule_out(&self, uuid: &ContainerUuid, attempt: Attempt, instance: &InstanceId) -> bool {
        self.apply(|pool, now, effects| pool.rule_out(uuid, attempt, instance, now, effects))
    }

    pub fn forget_container(&self, uuid: &ContainerUuid) {
        self.apply(|pool, _, effects| pool.forget_container(uuid, effects));
    }

    pub fn shutdown(&self, instance: &InstanceId) -> bool {
        self.apply(|pool, now, effects| pool.shutdown(instance, now, effects))
    }

    pub fn kill_instance(&self, instance: &InstanceId, reason: &str) -> bool {
        self.apply(|pool, now, effects| pool.kill_instance(instance, reason, now, effects))
    }

    /// `None` if there is no such instance, false if it is being shut down.
    pub fn set_idle_behavior(&self, instance: &InstanceId, behavior: IdleBehavior) -> Option<bool> {
        self.apply(|pool, now, effects| pool.set_idle_behavior(instance, behavior, now, effects))
    }

    pub fn reconfigure(&self, settings: Settings, types: BTreeMap<TypeName, Arc<InstanceType>>) {
        self.apply(|pool, _, effects| pool.reconfigure(settings, types, effects));
    }

    pub fn set_runner_fault(&self, fault: Option<String>) {
        self.apply(|pool, _, effects| pool.set_runner_fault(fault, effects));
    }

    pub fn reset_breaker(&self, type_name: &TypeName) {
        self.apply(|pool, _, effects| pool.reset_breaker(type_name, effects));
    }

    pub fn limits_in_force(&self) -> Vec<LimitInForce> {
        self.read(Pool::limits_in_force)
    }

    pub fn settings(&self) -> Arc<Settings> {
        self.read(|pool, _| pool.settings().clone())
    }

    /// For each worker that is not being shut down: time since its last successful probe.
    pub fn probe_ages(&self) -> Vec<Duration> {
        self.read(|pool, now| {
            let watched = pool.workers().filter(|worker| worker.state != WorkerState::Shutdown);
            watched.map(|worker| now.since(worker.probed)).collect()
        })
    }

    // The workers' threads.

    pub fn tick_worker(&self, instance: &InstanceId) {
        self.apply(|pool, now, effects| pool.tick_worker(instance, now, effects));
    }

    pub fn reserve_probe(&self) -> Duration {
        self.apply(|pool, now, _| pool.reserve_probe(now))
    }

    pub fn begin_round(&self, instance: &InstanceId) -> Option<RoundPlan> {
        self.apply(|pool, now, _| pool.begin_round(instance, now))
    }

    pub fn finish_round(&self, instance: &InstanceId, plan: &RoundPlan, report: &RoundReport) -> NextRound {
        self.apply(|pool, now, effects| pool.finish_round(instance, plan, report, now, effects))
    }

    pub fn connected(&self, instance: &InstanceId) {
        self.apply(|pool, now, effects| pool.connected(instance, now, effects));
    }

    pub fn worker_state(&self, instance: &InstanceId) -> Option<WorkerState> {
        self.read(|pool, _| pool.worker(instance).map(|worker| worker.state))
    }

    /// All workers, in the order of their ids.
    pub fn targets(&self) -> Vec<WorkerTarget> {
        self.read(|pool, _| {
            let target = |worker: &crate::core::worker::Worker| WorkerTarget {
                instance: worker.id.clone(),
                address: worker.address.clone(),
                remote_user: worker.remote_user.clone(),
                secret: worker.secret.clone(),
            };
            pool.workers().map(target).collect()
        })
    }

    /// The configured type of a worker, if it still is one.
    pub fn configured_type(&self, instance: &InstanceId) -> Option<Arc<InstanceType>> {
        self.read(|pool, _| pool.worker(instance).and_then(|worker| worker.instance_type.clone()))
    }

    /// Which type a worker is of.
    pub fn type_of(&self, instance: &InstanceId) -> Option<TypeName> {
        self.read(|pool, _| pool.worker(instance).map(|worker| worker.type_name.clone()))
    }

    // Answers to effects.

    pub fn create_succeeded(&self, operation: OperationId, id: &InstanceId, report: &InstanceReport) {
        self.apply(|pool, now, effects| pool.create_succeeded(operation, id, report, now, effects));
    }

    pub fn create_failed(&self, operation: OperationId, refusal: impl FnOnce(Moment) -> CloudRefusal, error: &str) {
        self.apply(|pool, now, effects| pool.create_failed(operation, &refusal(now), error, now, effects));
    }

    pub fn create_is_open(&self, operation: OperationId) -> bool {
        self.read(|pool, _| pool.create_is_open(operation))
    }

    pub fn start_is_open(&self, order: &RunnerOrder) -> bool {
        self.read(|pool, _| pool.start_is_open(order))
    }

    pub fn kill_is_open(&self, order: &RunnerOrder) -> bool {
        self.read(|pool, _| pool.kill_is_open(order))
    }

    pub fn start_returned(&self, order: &RunnerOrder, answer: StartReturn) {
        self.apply(|pool, now, effects| pool.start_returned(order, answer, now, effects));
    }

    pub fn start_refused(&self, order: &RunnerOrder) {
        self.apply(|pool, now, effects| pool.start_refused(order, now, effects));
    }

    pub fn kill_returned(&self, order: &RunnerOrder, answer: KillReturn) {
        self.apply(|pool, now, effects| pool.kill_returned(order, answer, now, effects));
    }

    pub fn reap_returned(&self, order: &RunnerOrder, done: bool) {
        self.apply(|pool, now, effects| pool.reap_returned(order, done, now, effects));
    }

    pub fn collect_returned(&self, order: &RunnerOrder, answer: CollectReturn) {
        self.apply(|pool, now, effects| pool.collect_returned(order, answer, now, effects));
    }

    pub fn forget_returned(&self, order: &RunnerOrder) {
        self.apply(|pool, now, effects| pool.forget_returned(order, now, effects));
    }

    // The sync.

    pub fn lists_suspended(&self) -> bool {
        self.read(|pool, now| pool.calls_suspended(CallKind::List, now))
    }

    pub fn list_interval(&self) -> Duration {
        self.read(|pool, _| pool.list_interval())
    }

    pub fn apply_list(&self, began: Moment, listed: &BTreeMap<InstanceId, InstanceReport>) {
        self.apply(|pool, now, effects| pool.apply_list(began, listed, now, effects));
    }

    pub fn suspend_lists(&self, pause: Duration) {
        self.apply(|pool, now, effects| pool.suspend_calls(CallKind::List, now + pause, now, effects));
    }

    pub fn capacity_freed(&self, type_name: &TypeName) {
        self.apply(|pool, now, effects| pool.capacity_freed(type_name, now, effects));
    }

    pub fn set_quota_groups(&self, groups: BTreeMap<TypeName, String>) {
        self.apply(|pool, _, _| pool.set_quota_groups(groups));
    }
}

/// The invariants of the specification, after every event of a debug build with a small pool (they look at all of it).
fn check(pool: &Pool) {
    if cfg!(debug_assertions) && pool.instance_count() <= 64 {
        let result = crate::core::pool::invariants::check(pool);
        debug_assert!(result.is_ok(), "{result:?}");
    }
}
