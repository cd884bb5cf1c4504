//! Which containers are on a worker: starts, adoption, and reconciling with a list (spec 10 §7, §12, §14).

use std::collections::BTreeSet;

use super::kill::KillState;
use super::listing::{Listing, RunnerState};
use super::{Context, Runner, Worker};
use crate::core::effect::{Effect, Figure, Level};
use crate::core::ids::{Attempt, ContainerUuid, OperationId};
use crate::core::pool::view::Exit;
use crate::core::settings::COMMAND_DEADLINE;
use crate::core::timer::Timer;
use crate::core::vocabulary::{IdleBehavior, WorkerState};

impl Worker {
    /// Spec 10 §12: only in service and with behavior `run`, and never a second time.
    pub fn accepts_containers(&self) -> bool {
        matches!(self.state, WorkerState::Idle | WorkerState::Running) && self.idle_behavior == IdleBehavior::Run
    }

    /// Orders the start of a container. False unless this worker accepts it now.
    pub fn start(&mut self, uuid: &ContainerUuid, attempt: Attempt, cx: &mut Context<'_>) -> bool {
        let here = self.runner(uuid).is_some() || self.collecting.contains_key(uuid);
        if !self.accepts_containers() || here {
            return false;
        }
        let operation = cx.operation();
        let runner = Runner { attempt, start: Some(operation), listed: false, kill: KillState::None };
        self.starting.insert(uuid.clone(), runner);
        if self.state == WorkerState::Idle {
            self.set_state(WorkerState::Running, cx);
        }
        cx.note(self.note(Level::Debug, "starting container").with("ContainerUUID", uuid));
        cx.timer(cx.now + COMMAND_DEADLINE, Timer::StartDeadline(self.id.clone(), uuid.clone(), operation));
        cx.order(Effect::StartContainer(self.order_for(uuid, attempt, operation)));
        cx.effects.notify();
        true
    }

    /// The start command returned, well or not, or its deadline passed: the process may be there, the next probe finds out.
    pub fn start_returned(&mut self, uuid: &ContainerUuid, operation: OperationId, cx: &mut Context<'_>) {
        if let Some(runner) = self.running.get_mut(uuid).filter(|runner| runner.start == Some(operation)) {
            // A probe listed it before the command returned: what we believe does not change.
            runner.start = None;
        } else if self.starting.get(uuid).is_some_and(|runner| runner.start == Some(operation)) {
            self.move_to_running(uuid);
            self.changed(uuid);
        } else {
            return;
        }
        self.busy = cx.now;
        self.last_container = Some(uuid.clone());
        cx.order(Effect::Observe(Figure::StartReturned(uuid.clone())));
        cx.order(Effect::ProbeSoon { instance: self.id.clone() });
        self.kill_step(uuid, cx);
    }

    /// The start was never sent (the queue did not allow it any more).
    pub fn start_refused(&mut self, uuid: &ContainerUuid, operation: OperationId, cx: &mut Context<'_>) {
        if self.starting.get(uuid).is_none_or(|runner| runner.start != Some(operation)) {
            return;
        }
        self.starting.remove(uuid);
        self.changed(uuid);
        self.settle(cx);
        cx.effects.notify();
    }

    /// The start's answer is still awaited: otherwise it must not be sent any more.
    pub fn start_is_open(&self, uuid: &ContainerUuid, operation: OperationId) -> bool {
        self.starting.get(uuid).is_some_and(|runner| runner.start == Some(operation))
    }

    fn move_to_running(&mut self, uuid: &ContainerUuid) {
        if let Some(mut runner) = self.starting.remove(uuid) {
            runner.start = None;
            self.running.insert(uuid.clone(), runner);
        }
    }

    /// Compares what a list shows with what we believe. True if anything changed.
    ///
    /// `began` is the change counter when the list began: the list says nothing about a uuid that changed
    /// later (spec 10 §4.4); those are returned in the second value.
    pub(super) fn reconcile(
        &mut self,
        listing: &Listing,
        began: u64,
        cx: &mut Context<'_>,
    ) -> (bool, BTreeSet<ContainerUuid>) {
        let late: BTreeSet<ContainerUuid> =
            self.last_change.iter().filter(|(_, change)| **change > began).map(|(uuid, _)| uuid.clone()).collect();
        let mut changed = false;
        for (uuid, listed) in &listing.runners {
            if late.contains(uuid) {
                continue;
            }
            changed |= match listed.state {
                RunnerState::Alive => self.listed_alive(uuid, listed.attempt, cx),
                RunnerState::Finished => self.listed_finished(uuid, listed.attempt, cx),
                RunnerState::Stale => self.listed_stale(uuid, listed.attempt, cx),
            };
        }
        let stays = |uuid: &ContainerUuid| match listing.runners.get(uuid).map(|listed| listed.state) {
            Some(RunnerState::Alive | RunnerState::Finished) => true,
            // With a runner that can reap, a stale one may still have live processes: it stays until that succeeded.
            Some(RunnerState::Stale) => cx.settings.runner_keeps_results,
            None => false,
        };
        let ended: Vec<ContainerUuid> =
            self.running.keys().filter(|uuid| !late.contains(*uuid) && !stays(uuid)).cloned().collect();
        for uuid in &ended {
            self.close(uuid, cx);
            changed = true;
        }
        self.drop_old_changes(began);
        (changed, late)
    }

    fn listed_alive(&mut self, uuid: &ContainerUuid, attempt: Attempt, cx: &mut Context<'_>) -> bool {
        if let Some(runner) = self.running.get_mut(uuid) {
            let news = !runner.listed;
            runner.listed = true;
            if runner.attempt == 0 {
                runner.attempt = attempt;
            }
            return news;
        }
        if let Some(mut runner) = self.starting.remove(uuid) {
            runner.listed = true;
            self.running.insert(uuid.clone(), runner);
            self.kill_step(uuid, cx);
            return true;
        }
        if self.collecting.contains_key(uuid) || self.forgetting.contains_key(uuid) {
            // An older attempt's result is being fetched; the live runner is adopted by the list after that.
            return false;
        }
        self.adopt(uuid, attempt, true, cx);
        cx.note(self.note(Level::Info, "runner process detected").with("ContainerUUID", uuid).with("Attempt", attempt));
        true
    }

    /// A runner that was not started by this process (spec 10 §7).
    pub fn adopt(&mut self, uuid: &ContainerUuid, attempt: Attempt, listed: bool, cx: &mut Context<'_>) {
        self.running.insert(uuid.clone(), Runner { attempt, start: None, listed, kill: KillState::None });
        cx.exited.remove(uuid);
        self.changed(uuid);
    }

    fn listed_stale(&mut self, uuid: &ContainerUuid, attempt: Attempt, cx: &mut Context<'_>) -> bool {
        if !cx.settings.runner_keeps_results {
            return false;
        }
        let news = self.runner(uuid).is_none();
        if news {
            self.adopt(uuid, attempt, false, cx);
        }
        if !self.reaping.contains_key(uuid) {
            let attempt = self.runner(uuid).map_or(attempt, |runner| runner.attempt);
            let operation = cx.operation();
            self.reaping.insert(uuid.clone(), operation);
            cx.timer(cx.now + COMMAND_DEADLINE, Timer::ReapDeadline(self.id.clone(), uuid.clone(), operation));
            cx.order(Effect::ReapRunner(self.order_for(uuid, attempt, operation)));
        }
        news
    }

    /// A reap returned or its deadline passed. After a success the next list shows nothing and closes the runner; the time
    /// that a stale lock may resist counts from the first failure.
    pub fn reap_returned(&mut self, uuid: &ContainerUuid, operation: OperationId, done: bool, cx: &mut Context<'_>) {
        if self.reaping.get(uuid) != Some(&operation) {
            return;
        }
        self.reaping.remove(uuid);
        if done {
            self.changed(uuid);
        } else if self.stale_since.is_none() {
            self.stale_since = Some(cx.now);
        }
        cx.order(Effect::ProbeSoon { instance: self.id.clone() });
    }

    /// The runner of this container has ended (spec 10 §7, "closing a runner").
    pub(super) fn close(&mut self, uuid: &ContainerUuid, cx: &mut Context<'_>) {
        let Some(runner) = self.starting.remove(uuid).or_else(|| self.running.remove(uuid)) else {
            return;
        };
        cx.note(self.note(Level::Info, "runner process ended").with("ContainerUUID", uuid));
        self.reaping.remove(uuid);
        self.changed(uuid);
        cx.exited.insert(uuid.clone(), Exit { at: cx.now, attempt: runner.attempt });
        self.settle(cx);
    }

    /// `idle` ⇔ nothing starting or running, for a worker in service.
    pub fn settle(&mut self, cx: &mut Context<'_>) {
        match (self.state, self.occupied()) {
            (WorkerState::Running, false) => self.set_state(WorkerState::Idle, cx),
            (WorkerState::Idle, true) => self.set_state(WorkerState::Running, cx),
            _ => {}
        }
    }

    /// Forgets the changes of closed uuids that this list is later than: no list that began earlier can still arrive,
    /// since at most one round is in flight.
    fn drop_old_changes(&mut self, began: u64) {
        let (starting, running) = (&self.starting, &self.running);
        let (collecting, forgetting) = (&self.collecting, &self.forgetting);
        self.last_change.retain(|uuid, change| {
            *change > began
                || starting.contains_key(uuid)
                || running.contains_key(uuid)
                || collecting.contains_key(uuid)
                || forgetting.contains_key(uuid)
        });
    }

    /// The instance is gone: its runners are abandoned, and not entered in the exited map (spec 10 §14).
    pub fn abandon_runners(&mut self, cx: &mut Context<'_>) {
        for uuid in self.starting.keys().chain(self.running.keys()) {
            cx.note(self.note(Level::Info, "runner process abandoned").with("ContainerUUID", uuid));
        }
        self.starting.clear();
        self.running.clear();
        self.collecting.clear();
        self.forgetting.clear();
        self.reaping.clear();
    }
}
