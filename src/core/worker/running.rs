//! Which containers are on a worker: starts, adoption, and reconciling with a list (spec 10 §7, §12, §14).

use std::collections::BTreeSet;

use super::kill::KillState;
use super::listing::{Listed, Listing, RunnerState};
use super::{Context, Runner, Worker};
use crate::core::effect::{Effect, Figure, Level};
use crate::core::ids::{Attempt, ContainerUuid, OperationId};
use crate::core::pool::view::Exit;
use crate::core::settings::{COMMAND_DEADLINE, Settings};
use crate::core::timer::Timer;
use crate::core::vocabulary::{IdleBehavior, WorkerState};

/// What a start command came back with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartReturn {
    /// It has ended on the worker, well or not, or was never sent: the next list shows the truth.
    Settled,
    /// The connection was lost, its deadline has passed, or it failed where the same attempt had been sent before: a start may still be
    /// on its way.
    Unknown,
}

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
        let (listed, settled, has_run, kill) = (false, false, false, KillState::None);
        let runner = Runner { attempt, start: Some(operation), listed, settled, has_run, kill };
        self.starting.insert(uuid.clone(), runner);
        cx.index.add(uuid, &self.id);
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
    pub fn start_returned(
        &mut self,
        uuid: &ContainerUuid,
        operation: OperationId,
        answer: StartReturn,
        cx: &mut Context<'_>,
    ) {
        if !self.end_start(uuid, operation, cx) {
            return;
        }
        if let Some(runner) = self.runner_mut(uuid) {
            runner.settled |= answer == StartReturn::Settled;
        }
        // If a probe listed it before the command returned, what we believe does not change.
        if let Some(runner) = self.starting.remove(uuid) {
            self.running.insert(uuid.clone(), runner);
            self.changed(uuid);
        }
        self.busy = cx.now;
        self.last_container = Some(uuid.clone());
        cx.order(Effect::Observe(Figure::StartReturned(uuid.clone())));
        cx.order(Effect::ProbeSoon { instance: self.id.clone() });
        self.kill_step(uuid, cx);
    }

    /// The start was never sent (the queue did not allow it any more).
    pub fn start_refused(&mut self, uuid: &ContainerUuid, operation: OperationId, cx: &mut Context<'_>) {
        if !self.end_start(uuid, operation, cx) {
            return;
        }
        if self.starting.contains_key(uuid) {
            self.remove_runner(uuid, cx);
            self.changed(uuid);
            self.settle(cx);
            self.shut_down_if_eligible(cx);
            cx.effects.notify();
        } else {
            // A list showed it all the same: somebody else's start, that a kill may be waiting for.
            self.kill_step(uuid, cx);
        }
    }

    /// Takes note that the start `operation` is over. False if it is not the one that is awaited.
    fn end_start(&mut self, uuid: &ContainerUuid, operation: OperationId, cx: &mut Context<'_>) -> bool {
        let now = cx.now;
        let Some(runner) = self.runner_mut(uuid).filter(|runner| runner.start == Some(operation)) else {
            return false;
        };
        runner.start = None;
        if let KillState::Asked { in_flight, gone, .. } = runner.kill {
            // TimeoutTERM counts from when a signal can be sent: one that was never sent proves nothing.
            runner.kill = KillState::Asked { since: now, in_flight, next: now, gone };
        }
        cx.timers.cancel(&Timer::StartDeadline(self.id.clone(), uuid.clone(), operation));
        true
    }

    /// The start's answer is still awaited: otherwise it must not be sent any more.
    pub fn start_is_open(&self, uuid: &ContainerUuid, operation: OperationId) -> bool {
        self.starting.get(uuid).is_some_and(|runner| runner.start == Some(operation))
    }

    /// Takes a runner out of the record, with everything that was open for it.
    pub(super) fn remove_runner(&mut self, uuid: &ContainerUuid, cx: &mut Context<'_>) -> Option<Runner> {
        let runner = self.starting.remove(uuid).or_else(|| self.running.remove(uuid))?;
        cx.index.remove(uuid, &self.id);
        if let Some(operation) = runner.start {
            cx.timers.cancel(&Timer::StartDeadline(self.id.clone(), uuid.clone(), operation));
        }
        if runner.kill != KillState::None {
            cx.timers.cancel(&Timer::Kill(self.id.clone(), uuid.clone()));
        }
        if let Some(operation) = self.reaping.remove(uuid) {
            cx.timers.cancel(&Timer::ReapDeadline(self.id.clone(), uuid.clone(), operation));
        }
        Some(runner)
    }

    /// This uuid changed after the counter stood at `began`: a list from then says nothing about it.
    pub(super) fn changed_after(&self, uuid: &ContainerUuid, began: u64) -> bool {
        self.last_change.get(uuid).is_some_and(|change| *change > began)
    }

    /// Compares what a list shows with what we believe. True if anything changed.
    ///
    /// `began` is the change counter when the list began: the list says nothing about a uuid that changed
    /// later (spec 10 §4.4). The second value has those that were passed over for that.
    pub(super) fn reconcile(
        &mut self,
        listing: &Listing,
        began: u64,
        cx: &mut Context<'_>,
    ) -> (bool, BTreeSet<ContainerUuid>) {
        let mut late: BTreeSet<ContainerUuid> =
            self.last_change.iter().filter(|(_, change)| **change > began).map(|(uuid, _)| uuid.clone()).collect();
        let fate = |(uuid, runner): (&ContainerUuid, &Runner)| {
            (uuid.clone(), fate_of(listing.runners.get(uuid), runner, cx.settings))
        };
        let known = self.running.iter().filter(|(uuid, _)| !late.contains(*uuid));
        let fates: Vec<(ContainerUuid, Fate)> = known.map(fate).filter(|(_, fate)| *fate != Fate::Stays).collect();
        let mut changed = !fates.is_empty();
        for (uuid, fate) in &fates {
            if *fate == Fate::Ended {
                self.close(uuid, cx);
            } else {
                self.rule_out_late_start(uuid, cx);
            }
        }
        changed |= self.drop_vanished_results(listing, began, cx);
        for (uuid, listed) in listing.runners.iter().filter(|(uuid, _)| !late.contains(*uuid)) {
            changed |= match listed.state {
                RunnerState::Alive => self.listed_alive(uuid, listed.attempt, cx),
                RunnerState::Finished => self.listed_finished(uuid, listed.attempt, cx),
                RunnerState::Stale => self.listed_stale(uuid, listed.attempt, cx),
            };
        }
        self.drop_old_changes(began);
        late.retain(|uuid| listing.runners.contains_key(uuid) || self.running.contains_key(uuid));
        (changed, late)
    }

    fn rule_out_late_start(&mut self, uuid: &ContainerUuid, cx: &mut Context<'_>) {
        if let Some(runner) = self.runner_mut(uuid) {
            runner.kill = KillState::None;
        }
        self.kill(uuid, "its start may still be on its way", cx);
    }

    fn listed_alive(&mut self, uuid: &ContainerUuid, attempt: Attempt, cx: &mut Context<'_>) -> bool {
        if let Some(runner) = self.running.get_mut(uuid) {
            let mut news = !runner.listed;
            runner.listed = true;
            // An older one that is there says nothing of the one that a kill is to rule out.
            runner.settled |= !is_older(attempt, runner.attempt);
            // The host knows which attempt runs there. (A kill keeps the attempt that it must rule out.)
            let told = attempt != 0 && runner.start.is_none() && runner.kill == KillState::None;
            if (told || runner.attempt == 0) && runner.attempt != attempt {
                runner.attempt = attempt;
                news = true;
            }
            if let KillState::Asked { since, in_flight, next, gone: true } = runner.kill {
                // It was reported gone, and a list that began later shows it alive: the signals go on.
                runner.kill = KillState::Asked { since, in_flight, next, gone: false };
                self.kill_step(uuid, cx);
            }
            return news;
        }
        if self.starting.get(uuid).is_some_and(|runner| is_older(attempt, runner.attempt)) {
            // The start on its way will find the older attempt's lock; what is here shows when it has returned.
            return false;
        }
        if let Some(mut runner) = self.starting.remove(uuid) {
            runner.listed = true;
            runner.settled = true;
            self.running.insert(uuid.clone(), runner);
            return true;
        }
        if self.collecting.contains_key(uuid) || self.forgetting.contains_key(uuid) {
            // An older attempt's result is being fetched; the live runner is adopted by the list after that.
            return false;
        }
        self.adopt(uuid, attempt, (true, true), cx);
        cx.note(self.note(Level::Info, "runner process detected").with("ContainerUUID", uuid).with("Attempt", attempt));
        true
    }

    /// A runner that was not started by this process (spec 10 §7). `settled`: a list shows it, or what is left of it.
    pub fn adopt(
        &mut self,
        uuid: &ContainerUuid,
        attempt: Attempt,
        (listed, settled): (bool, bool),
        cx: &mut Context<'_>,
    ) {
        let kill = KillState::None;
        self.running.insert(uuid.clone(), Runner { attempt, start: None, listed, settled, has_run: listed, kill });
        cx.index.add(uuid, &self.id);
        cx.exited.remove(uuid);
        self.changed(uuid);
    }

    fn listed_stale(&mut self, uuid: &ContainerUuid, attempt: Attempt, cx: &mut Context<'_>) -> bool {
        let here = self.starting.contains_key(uuid)
            || self.collecting.contains_key(uuid)
            || self.forgetting.contains_key(uuid);
        if !cx.settings.runner_keeps_results || here {
            // A start on its way decides first, as does a result that is being fetched.
            return false;
        }
        let news = self.runner(uuid).is_none();
        if news {
            self.adopt(uuid, attempt, (false, true), cx);
        }
        if let Some(runner) = self.runner_mut(uuid) {
            // It ran, and its runner crashed.
            let is_this = !is_older(attempt, runner.attempt);
            runner.settled |= is_this;
            runner.has_run |= is_this;
        }
        if !self.reaping.contains_key(uuid) {
            let known = self.runner(uuid).map_or(0, |runner| runner.attempt);
            let attempt = if attempt == 0 { known } else { attempt };
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
        cx.timers.cancel(&Timer::ReapDeadline(self.id.clone(), uuid.clone(), operation));
        if done {
            self.changed(uuid);
            cx.order(Effect::ProbeSoon { instance: self.id.clone() });
        } else if self.stale_since.is_none() {
            // No probe at once: each one orders another reap, and a lock that resists would keep both busy.
            self.stale_since = Some(cx.now);
        }
    }

    /// The runner of this container has ended (spec 10 §7, "closing a runner"). The caller settles the state afterwards, so
    /// that a list which closes one and adopts another shows as no change of state.
    pub(super) fn close(&mut self, uuid: &ContainerUuid, cx: &mut Context<'_>) {
        let Some(runner) = self.remove_runner(uuid, cx) else {
            return;
        };
        cx.note(self.note(Level::Info, "runner process ended").with("ContainerUUID", uuid));
        self.busy = cx.now;
        self.changed(uuid);
        cx.exited.insert(
            uuid.clone(),
            Exit { at: cx.now, attempt: runner.attempt, has_run: runner.listed || runner.has_run },
        );
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
        let uuids: Vec<ContainerUuid> = self.starting.keys().chain(self.running.keys()).cloned().collect();
        for uuid in &uuids {
            cx.note(self.note(Level::Info, "runner process abandoned").with("ContainerUUID", uuid));
            self.remove_runner(uuid, cx);
        }
        for uuid in std::mem::take(&mut self.collecting).into_keys() {
            cx.timers.cancel(&Timer::Collect(self.id.clone(), uuid));
        }
        for uuid in std::mem::take(&mut self.forgetting).into_keys() {
            cx.timers.cancel(&Timer::ForgetDeadline(self.id.clone(), uuid));
        }
    }
}

/// `attempt` is known to be an earlier one than `than` (0 = not known, never earlier).
pub(super) fn is_older(attempt: Attempt, than: Attempt) -> bool {
    attempt != 0 && attempt < than
}

/// What a list means for a running runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    Ended,
    /// It was not seen, and may still come: a kill rules that out.
    InDoubt,
}

fn fate_of(listed: Option<&Listed>, runner: &Runner, settings: &Settings) -> Fate {
    match listed {
        Some(Listed { state: RunnerState::Alive, .. }) => Fate::Stays,
        // With a runner that can reap, a stale one may still have live processes: it stays until that succeeded.
        Some(Listed { state: RunnerState::Stale, .. }) if settings.runner_keeps_results => Fate::Stays,
        Some(Listed { state: RunnerState::Stale, .. }) => Fate::Ended,
        // Decided with the others that are finished.
        Some(Listed { state: RunnerState::Finished, attempt }) if !is_older(*attempt, runner.attempt) => Fate::Stays,
        // Not there, or only an older attempt's result: this one has ended without any, or has not come yet.
        Some(Listed { state: RunnerState::Finished, .. }) | None => unseen(runner, settings),
    }
}

fn unseen(runner: &Runner, settings: &Settings) -> Fate {
    // Without tombstones nothing can be ruled out.
    if runner.settled || !settings.runner_keeps_results {
        return Fate::Ended;
    }
    match runner.kill {
        // Also after it was given up: the host answers again.
        KillState::None | KillState::GivenUp => Fate::InDoubt,
        KillState::Asked { gone: true, .. } => Fate::Ended,
        KillState::Asked { .. } => Fate::Stays,
    }
}
