//! All workers, and the cloud behind them (spec 20): creates, lists, limits, and the scheduler's calls.
//!
//! Reading order: the record here, [`create`], [`sync`], [`limits`] (quota, capacity, rate limits), [`breaker`] (types that do not
//! boot), [`calls`] (the scheduler's and operators' calls, and the answers to effects), [`view`] (the snapshot), [`board`] (what it is made of),
//! [`index`] (where a container is), [`invariants`].
//!
//! Whoever holds `&mut Pool` has the lock; nothing here waits for anything.

mod board;
mod breaker;
pub mod budget;
pub mod calls;
pub mod create;
pub mod index;
pub mod invariants;
pub mod limits;
pub mod sync;
pub mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdSet;

use super::effect::{Effect, Effects, Level};
use super::ids::{ContainerUuid, InstanceId, InstanceSecret, OperationId, TypeName};
use super::instance_type::InstanceType;
use super::settings::Settings;
use super::time::Moment;
use super::timer::{Timer, Timers};
use super::vocabulary::WorkerState;
use super::worker::running::StartReturn;
use super::worker::{Context, Worker};
use board::Board;
use breaker::Breaker;
use budget::ProbeBudget;
use create::PendingCreate;
use index::RunnerIndex;
use limits::Limits;
use view::Exit;

/// The state behind the one lock.
#[derive(Debug)]
pub struct Pool {
    pub(super) settings: Arc<Settings>,
    pub(super) types: BTreeMap<TypeName, Arc<InstanceType>>,
    pub(super) workers: BTreeMap<InstanceId, Worker>,
    pub(super) creates: BTreeMap<OperationId, PendingCreate>,
    /// Secrets of creates that were given up, with the time: their instances are known again if they appear late.
    pub(super) given_up_creates: BTreeMap<InstanceSecret, Moment>,
    pub(super) index: RunnerIndex,
    board: Board,
    /// Runners that ended without a result waiting, until the scheduler forgets them.
    pub(super) exited: BTreeMap<ContainerUuid, Exit>,
    pub(super) limits: Limits,
    breakers: BTreeMap<TypeName, Breaker>,
    pub(super) timers: Timers,
    pub(super) budget: ProbeBudget,
    pub(super) next_operation: u64,
    pub(super) loaded: bool,
    pub(super) first_list: Option<Moment>,
    pub(super) last_list: Option<Moment>,
    /// Instances we saw and that disappeared; needed only until two lists are far enough apart to tell without it.
    pub(super) departed: OrdSet<InstanceId>,
    pub(super) last_unknown_resolved: Option<Moment>,
    /// Types whose instances were found to be smaller than they say: warned of once.
    pub(super) short_types: BTreeSet<TypeName>,
    /// Why no runner can be put on a worker, if so (spec 20 §7): then no instance is created.
    pub(super) runner_fault: Option<String>,
    pub(super) max_instances_logged: bool,
}

impl Pool {
    pub fn new(settings: Settings, types: BTreeMap<TypeName, Arc<InstanceType>>) -> Self {
        Self {
            settings: Arc::new(settings),
            types,
            workers: BTreeMap::new(),
            creates: BTreeMap::new(),
            given_up_creates: BTreeMap::new(),
            index: RunnerIndex::default(),
            board: Board::default(),
            exited: BTreeMap::new(),
            limits: Limits::default(),
            breakers: BTreeMap::new(),
            timers: Timers::default(),
            budget: ProbeBudget::default(),
            next_operation: 0,
            loaded: false,
            first_list: None,
            last_list: None,
            departed: OrdSet::new(),
            last_unknown_resolved: None,
            short_types: BTreeSet::new(),
            runner_fault: None,
            max_instances_logged: false,
        }
    }

    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    pub fn worker(&self, id: &InstanceId) -> Option<&Worker> {
        self.workers.get(id)
    }

    /// In the order of their ids.
    pub fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values()
    }

    /// When [`Pool::tick`] has something to do next.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.timers.next()
    }

    /// Handles everything that has become due.
    pub fn tick(&mut self, now: Moment, effects: &mut Effects) {
        while let Some(timer) = self.timers.pop_due(now) {
            self.fire(timer, now, effects);
        }
    }

    fn fire(&mut self, timer: Timer, now: Moment, effects: &mut Effects) {
        match timer {
            Timer::CreateDeadline(operation) => self.create_deadline_passed(operation, now, effects),
            Timer::StartDeadline(instance, uuid, operation) => {
                self.start_deadline_passed(&instance, &uuid, operation, now, effects)
            }
            Timer::Kill(instance, uuid) => {
                self.with_worker(&instance, now, effects, |worker, cx| worker.kill_step(&uuid, cx));
            }
            Timer::Collect(instance, uuid) => {
                self.with_worker(&instance, now, effects, |worker, cx| worker.collect_step(&uuid, cx));
            }
            Timer::ForgetDeadline(instance, uuid) => {
                self.with_worker(&instance, now, effects, |worker, cx| worker.forget_deadline_passed(&uuid, cx));
            }
            Timer::ReapDeadline(instance, uuid, operation) => {
                self.with_worker(&instance, now, effects, |worker, cx| {
                    worker.reap_returned(&uuid, operation, false, cx)
                });
            }
            Timer::Quota => {
                self.arm_quota(now);
                effects.notify();
            }
            Timer::Capacity => {
                self.arm_capacity(now);
                effects.notify();
            }
            Timer::Breaker(type_name) => self.breaker_pause_ended(&type_name, effects),
            Timer::Address => self.look_for_address(effects),
            Timer::CreatesResume => {
                self.arm_creates(now);
                effects.notify();
            }
            Timer::ListsResume => {
                effects.push(Effect::ListSoon);
                effects.notify();
            }
        }
    }

    /// The start may still come true: with a runner that keeps tombstones a kill makes sure that it never does (70 §3).
    fn start_deadline_passed(
        &mut self,
        instance: &InstanceId,
        uuid: &ContainerUuid,
        operation: OperationId,
        now: Moment,
        effects: &mut Effects,
    ) {
        self.with_worker(instance, now, effects, |worker, cx| {
            let open = worker.state != WorkerState::Shutdown
                && worker.runner(uuid).is_some_and(|runner| runner.start == Some(operation));
            if open {
                let note = worker.note(Level::Error, "start command has not returned in time");
                cx.note(note.with("ContainerUUID", uuid));
            }
            worker.start_returned(uuid, operation, StartReturn::Unknown, cx);
            let unseen = worker.runner(uuid).is_some_and(|runner| !runner.listed);
            if open && unseen && cx.settings.runner_keeps_results {
                worker.kill(uuid, "its start has not returned in time", cx);
            }
        });
    }

    /// Runs an event of one worker. `None` if there is no such worker (any more).
    pub(super) fn with_worker<R>(
        &mut self,
        id: &InstanceId,
        now: Moment,
        effects: &mut Effects,
        event: impl FnOnce(&mut Worker, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let worker = self.workers.get_mut(id)?;
        let mut cx = Context {
            now,
            settings: &self.settings,
            effects,
            exited: &mut self.exited,
            index: &mut self.index,
            timers: &mut self.timers,
            next_operation: &mut self.next_operation,
            last_unknown_resolved: &mut self.last_unknown_resolved,
            short_types: &mut self.short_types,
        };
        let (before, boot_was_open) = ((worker.state, worker.idle_behavior), worker.boot_outcome.is_none());
        let result = event(worker, &mut cx);
        self.board.show(worker, &*cx.exited);
        if before != (worker.state, worker.idle_behavior) {
            cx.effects.notify();
        }
        if let Some(outcome) = worker.boot_outcome.filter(|_| boot_was_open) {
            let (type_name, why) = (worker.type_name.clone(), worker.boot_error());
            self.boot_ended(&type_name, outcome, &why, now, effects);
        }
        Some(result)
    }

    pub(super) fn operation(&mut self) -> OperationId {
        self.next_operation += 1;
        OperationId(self.next_operation)
    }

    /// Workers + creates that are not among them yet: what MaxInstances and quotas count.
    pub fn instance_count(&self) -> usize {
        self.workers.len() + self.creates.len()
    }

    /// Number of workers in each state, in the order of [`WorkerState::ALL`]; `None` before the first list.
    pub fn count_workers(&self) -> Option<BTreeMap<WorkerState, usize>> {
        self.loaded.then(|| {
            let mut counts: BTreeMap<_, _> = WorkerState::ALL.iter().map(|state| (*state, 0)).collect();
            for worker in self.workers.values() {
                *counts.entry(worker.state).or_default() += 1;
            }
            counts
        })
    }
}
