//! The scheduler's and operators' calls (spec 20 §6), the worker threads' calls, and the answers to effects.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Pool;
use super::budget::rounds_per_second;
use super::view::PoolView;
use crate::core::effect::{Effect, Effects, Figure, Level, RunnerOrder};
use crate::core::ids::{Attempt, ContainerUuid, InstanceId, OperationId, TypeName};
use crate::core::instance_type::InstanceType;
use crate::core::settings::Settings;
use crate::core::time::Moment;
use crate::core::vocabulary::{BootOutcome, IdleBehavior, WorkerState};
use crate::core::worker::collect::CollectReturn;
use crate::core::worker::kill::KillReturn;
use crate::core::worker::round::{NextRound, RoundPlan, RoundReport};
use crate::core::worker::running::StartReturn;

impl Pool {
    /// False unless spec 10 §12 allows it: the worker is in service with behavior `run`, and no worker has the uuid.
    pub fn start_container(
        &mut self,
        instance: &InstanceId,
        uuid: &ContainerUuid,
        attempt: Attempt,
        now: Moment,
        effects: &mut Effects,
    ) -> bool {
        if !self.index.holders(uuid).is_empty() {
            return false;
        }
        let started = self.with_worker(instance, now, effects, |worker, cx| worker.start(uuid, attempt, cx));
        if started == Some(true) {
            self.exited.remove(uuid);
        }
        started.unwrap_or(false)
    }

    /// Starts the kill of a container, on one instance or wherever it runs. False if it runs nowhere (there).
    pub fn kill_container(
        &mut self,
        uuid: &ContainerUuid,
        instance: Option<&InstanceId>,
        reason: &str,
        now: Moment,
        effects: &mut Effects,
    ) -> bool {
        let holders = self.index.holders(uuid).iter().filter(|holder| instance.is_none_or(|wanted| wanted == *holder));
        let holders: Vec<InstanceId> = holders.cloned().collect();
        for id in &holders {
            self.with_worker(id, now, effects, |worker, cx| worker.kill(uuid, reason, cx));
        }
        !holders.is_empty()
    }

    /// Makes sure that an attempt which may have been sent to this instance can never run (70 §3): a kill with a tombstone.
    /// When that is confirmed, and no list shows it, the uuid appears as exited. False if the worker cannot be asked.
    pub fn rule_out(
        &mut self,
        uuid: &ContainerUuid,
        attempt: Attempt,
        instance: &InstanceId,
        now: Moment,
        effects: &mut Effects,
    ) -> bool {
        let asked = self.with_worker(instance, now, effects, |worker, cx| {
            let in_service = matches!(worker.state, WorkerState::Idle | WorkerState::Running);
            if !in_service || worker.collecting.contains_key(uuid) || worker.forgetting.contains_key(uuid) {
                return false;
            }
            worker.expect_attempt(uuid, attempt, cx);
            worker.kill(uuid, "ruling out an attempt that may have been sent", cx)
        });
        asked.unwrap_or(false)
    }

    /// Drops an ended container from the exited map; no effect while it lives.
    pub fn forget_container(&mut self, uuid: &ContainerUuid, effects: &mut Effects) {
        if self.exited.remove(uuid).is_some() {
            self.board.forget(uuid);
            effects.notify();
        }
    }

    /// The scheduler has no use for this instance: only `booting` or `idle`, not held, nothing collecting.
    pub fn shutdown(&mut self, instance: &InstanceId, now: Moment, effects: &mut Effects) -> bool {
        let done = self.with_worker(instance, now, effects, |worker, cx| {
            let may = matches!(worker.state, WorkerState::Booting | WorkerState::Idle)
                && worker.idle_behavior != IdleBehavior::Hold
                && worker.collecting.is_empty();
            if may {
                let note = worker.note(Level::Info, "shutdown worker").with("State", worker.state);
                cx.note(note.with("Reason", "making room for other instances"));
                worker.report_boot_outcome(BootOutcome::Aborted, cx);
                worker.shut_down(cx);
            }
            may
        });
        done.unwrap_or(false)
    }

    /// Destroys an instance whatever its state and behavior. False if there is none.
    pub fn kill_instance(&mut self, instance: &InstanceId, reason: &str, now: Moment, effects: &mut Effects) -> bool {
        let done = self.with_worker(instance, now, effects, |worker, cx| {
            cx.note(worker.note(Level::Info, "killing instance").with("State", worker.state).with("Reason", reason));
            worker.report_boot_outcome(BootOutcome::Aborted, cx);
            worker.shut_down(cx);
        });
        done.is_some()
    }

    /// `None` if there is no such instance, false if it is being shut down.
    pub fn set_idle_behavior(
        &mut self,
        instance: &InstanceId,
        behavior: IdleBehavior,
        now: Moment,
        effects: &mut Effects,
    ) -> Option<bool> {
        self.with_worker(instance, now, effects, |worker, cx| {
            let done = worker.set_idle_behavior(behavior, cx);
            worker.shut_down_if_eligible(cx);
            done
        })
    }

    /// New settings and types, after a reload.
    pub fn reconfigure(
        &mut self,
        settings: Settings,
        types: BTreeMap<TypeName, Arc<InstanceType>>,
        effects: &mut Effects,
    ) {
        self.settings = Arc::new(settings);
        for worker in self.workers.values_mut() {
            worker.instance_type = types.get(&worker.type_name).cloned();
            self.board.show(worker, &self.exited);
        }
        if self.types != types {
            self.short_types.clear();
            self.keep_breakers_of(&types, effects);
        }
        self.types = types;
        effects.notify();
    }

    /// Whether a runner can be put on workers; `Some(why)` stops creates until it can.
    pub fn set_runner_fault(&mut self, fault: Option<String>, effects: &mut Effects) {
        self.runner_fault = fault;
        effects.notify();
    }

    /// A tick of a worker's ticker: the eligibility check of spec 10 §9, whether or not a round is in flight.
    pub fn tick_worker(&mut self, instance: &InstanceId, now: Moment, effects: &mut Effects) {
        self.with_worker(instance, now, effects, |worker, cx| worker.shut_down_if_eligible(cx));
    }

    /// Pause before a round that a tick or a boot retry starts (MaxProbesPerSecond).
    pub fn reserve_probe(&mut self, now: Moment) -> Duration {
        let rate =
            rounds_per_second(self.settings.max_probes_per_second, self.workers.len(), self.settings.probe_interval);
        self.budget.reserve(now, rate)
    }

    /// Begins a probe round; `None` in `shutdown`, or for an instance that is gone.
    ///
    /// # Panics
    /// In debug builds if a round of this worker is in flight (spec 10 §15.1): the guard is taken first.
    pub fn begin_round(&mut self, instance: &InstanceId, now: Moment) -> Option<RoundPlan> {
        let worker = self.workers.get_mut(instance)?;
        debug_assert!(!worker.in_round, "two probe rounds of {instance}");
        let plan = worker.plan_round(now);
        worker.in_round = plan.is_some();
        plan
    }

    pub fn finish_round(
        &mut self,
        instance: &InstanceId,
        plan: &RoundPlan,
        report: &RoundReport,
        now: Moment,
        effects: &mut Effects,
    ) -> NextRound {
        let next = self.with_worker(instance, now, effects, |worker, cx| {
            if plan.began < worker.appeared {
                // A round of an earlier record of this instance, which had disappeared meanwhile.
                return NextRound::Never;
            }
            worker.in_round = false;
            worker.finish_round(plan, report, cx)
        });
        next.unwrap_or(NextRound::Never)
    }

    /// A verified connection to the instance was made (spec 20 §5, the connection check).
    pub fn connected(&mut self, instance: &InstanceId, now: Moment, effects: &mut Effects) {
        self.with_worker(instance, now, effects, |worker, cx| {
            if worker.state == WorkerState::Booting && worker.first_connection.is_none() {
                worker.first_connection = Some(cx.now);
                cx.order(Effect::Observe(Figure::TimeToSsh(cx.now.since(worker.appeared))));
            }
        });
    }

    /// Whether the start's answer is still awaited. If not (deadline, shutdown), it must not be sent any more.
    pub fn start_is_open(&self, order: &RunnerOrder) -> bool {
        self.workers.get(&order.instance).is_some_and(|worker| {
            worker.state != WorkerState::Shutdown && worker.start_is_open(&order.uuid, order.operation)
        })
    }

    /// Whether the kill's answer is still awaited. If not (deadline, shutdown), another one was ordered, or none is wanted.
    pub fn kill_is_open(&self, order: &RunnerOrder) -> bool {
        self.workers.get(&order.instance).is_some_and(|worker| {
            worker.state != WorkerState::Shutdown && worker.kill_is_open(&order.uuid, order.operation)
        })
    }

    pub fn start_returned(&mut self, order: &RunnerOrder, answer: StartReturn, now: Moment, effects: &mut Effects) {
        self.with_worker(&order.instance, now, effects, |worker, cx| {
            worker.start_returned(&order.uuid, order.operation, answer, cx);
        });
    }

    /// The start was not sent: the queue did not allow it any more.
    pub fn start_refused(&mut self, order: &RunnerOrder, now: Moment, effects: &mut Effects) {
        self.with_worker(&order.instance, now, effects, |worker, cx| {
            worker.start_refused(&order.uuid, order.operation, cx);
        });
    }

    pub fn kill_returned(&mut self, order: &RunnerOrder, answer: KillReturn, now: Moment, effects: &mut Effects) {
        self.with_worker(&order.instance, now, effects, |worker, cx| {
            worker.kill_returned(&order.uuid, order.operation, answer, cx);
        });
    }

    pub fn reap_returned(&mut self, order: &RunnerOrder, done: bool, now: Moment, effects: &mut Effects) {
        self.with_worker(&order.instance, now, effects, |worker, cx| {
            worker.reap_returned(&order.uuid, order.operation, done, cx);
        });
    }

    pub fn collect_returned(&mut self, order: &RunnerOrder, answer: CollectReturn, now: Moment, effects: &mut Effects) {
        self.with_worker(&order.instance, now, effects, |worker, cx| {
            worker.collect_returned(&order.uuid, order.operation, answer, cx);
        });
    }

    pub fn forget_returned(&mut self, order: &RunnerOrder, now: Moment, effects: &mut Effects) {
        self.with_worker(&order.instance, now, effects, |worker, cx| {
            worker.forget_returned(&order.uuid, order.operation, cx);
        });
    }

    /// The snapshot for the scheduler and the API.
    pub fn view(&self, now: Moment) -> PoolView {
        PoolView {
            instances: self.board.instances.clone(),
            containers: self.board.containers.clone(),
            storage_fault: self.board.storage_faults.keys().max().copied(),
            at_quota: self.at_quota(now),
            creates_accepted: self.creates_accepted(now),
            creates_refused: self.creates_refused(),
            quota_room: self.quota_room(),
            at_capacity: self
                .types
                .values()
                .filter(|instance_type| self.at_capacity(instance_type, now))
                .map(|instance_type| TypeName::new(&instance_type.name))
                .collect(),
            capacity_until: self.capacity_pauses(now),
            failing_until: self.failing_types(now),
            limits: self.limits_in_force(now),
            breakers: self.breaker_views(now),
            loaded: self.loaded,
            first_list: self.first_list,
            last_list: self.last_list,
            departed: self.departed.clone(),
            last_unknown_resolved: self.last_unknown_resolved,
        }
    }

    /// Whether the create's answer is still awaited. If not (deadline, or its instance was listed), the call must not be made.
    pub fn create_is_open(&self, operation: OperationId) -> bool {
        self.creates.contains_key(&operation)
    }

    pub fn instance_type(&self, name: &TypeName) -> Option<&Arc<InstanceType>> {
        self.types.get(name)
    }
}
