//! Sync queue and pool: the table of spec 30 §4, and the lost attempts of 70 §3.
//!
//! Each entry is judged once per pass. What the table says is ordered here; what is left for the steps of §3 is the answer.
//!
//! With a queue that keeps attempts, an attempt is *current* from the moment its start is decided: number `attempt` on
//! `instance` once that is committed, the next number before. Anything else that lives is an older attempt. With a remote queue
//! the runner itself claims the container, so whatever lives of a Locked or Running one is current.

use std::collections::{BTreeMap, BTreeSet};

use super::order::Standing;
use super::stale::StaleStep;
use super::{Action, Draft};
use crate::core::container::{Container, LostReason};
use crate::core::entry::QueueEntry;
use crate::core::ids::{Attempt, ContainerUuid, InstanceId};
use crate::core::pool::view::{Exit, Phase, Place, Whereabouts};
use crate::core::vocabulary::{ContainerState, WorkerState};

const NOT_RUNNING: &str = "not running on any worker";
const RUNNER_EXITED: &str = "still Running after its runner exited";
const CANCELLED: &str = "cancelled on request";
/// Spec 72 §7.
const UNSATISFIABLE: &str = "constraints not satisfiable by any configured instance type";

const NOT_IN_QUEUE: &str = "not in queue";
const FINAL: &str = "container is final";
const QUEUED: &str = "state is Queued: an old attempt";
const OTHER_ATTEMPT: &str = "an older attempt, or on another instance";
const PRIORITY_ZERO: &str = "priority is 0";

/// Attempts that were asked to end and that no probe has listed: they never ran, as far as can be known, so an exit
/// without a result is not a crash of their runner.
pub(super) type RuledOut = BTreeMap<ContainerUuid, Attempt>;

/// Where the current attempt is, and what else lives.
struct Places<'a> {
    current: Vec<&'a Place>,
    others: Vec<&'a Place>,
    /// The result of the current attempt is being fetched.
    collecting: bool,
    /// The result of an older one is.
    late_result: bool,
}

fn is_current(container: &Container, place: &Place, keeps_attempts: bool) -> bool {
    if container.state == ContainerState::Queued {
        return false;
    }
    match &container.instance {
        _ if !keeps_attempts => true,
        Some(instance) => place.instance == *instance && (place.attempt == 0 || place.attempt >= container.attempt),
        None => place.attempt > container.attempt,
    }
}

impl<'a> Places<'a> {
    fn of(container: &Container, whereabouts: Option<&'a Whereabouts>, keeps_attempts: bool) -> Self {
        let mut found = Self { current: Vec::new(), others: Vec::new(), collecting: false, late_result: false };
        for place in whereabouts.into_iter().flat_map(|whereabouts| &whereabouts.places) {
            match (is_current(container, place, keeps_attempts), place.phase) {
                (true, Phase::Collecting) => found.collecting = true,
                (false, Phase::Collecting) => found.late_result = true,
                (true, _) => found.current.push(place),
                (false, _) => found.others.push(place),
            }
        }
        found
    }

    fn others_present(&self) -> bool {
        !self.others.is_empty() || self.late_result
    }
}

fn is_unwanted(container: &Container) -> bool {
    container.priority < 1 || container.cancel_requested
}

impl<'a> Draft<'a> {
    /// Orders what the table says about this entry.
    pub(super) fn judge(&mut self, entry: &'a QueueEntry, stale: StaleStep, ruled_out: &mut RuledOut) -> Standing<'a> {
        let container = &entry.container;
        let whereabouts = self.input.pool.containers.get(&container.uuid).map(|whereabouts| &**whereabouts);
        let places = Places::of(container, whereabouts, self.keeps_attempts);
        let exited = whereabouts.and_then(|whereabouts| whereabouts.exited);
        match container.state {
            ContainerState::Complete | ContainerState::Cancelled => self.judge_final(container, &places, exited),
            ContainerState::Queued => self.judge_queued(entry, &places, exited),
            ContainerState::Locked => {
                remember_ruled_out(container, &places, ruled_out);
                self.judge_locked(entry, &places, exited, stale, ruled_out)
            }
            ContainerState::Running => self.judge_running(container, &places, exited),
        }
    }

    fn judge_final(&mut self, container: &Container, places: &Places<'_>, exited: Option<Exit>) -> Standing<'a> {
        let uuid = &container.uuid;
        for place in places.current.iter().chain(&places.others) {
            self.kill(uuid, place, FINAL);
        }
        let present = !places.current.is_empty() || places.collecting || places.others_present();
        if !present {
            if exited.is_some() {
                self.forget_in_pool(uuid);
            }
            self.unless_busy(uuid, Action::ForgetInQueue { uuid: uuid.clone() });
        }
        Standing::Ended
    }

    fn judge_queued(&mut self, entry: &'a QueueEntry, places: &Places<'_>, exited: Option<Exit>) -> Standing<'a> {
        let container = &entry.container;
        for place in &places.others {
            self.kill(&container.uuid, place, QUEUED);
        }
        if container.cancel_requested {
            self.cancel(container, CANCELLED);
            return Standing::Settling;
        }
        if self.cancelled_as_unsatisfiable(entry) {
            return Standing::Settling;
        }
        if places.others_present() {
            return Standing::PreviousAlive;
        }
        match exited {
            // The queue may not know yet how that ended.
            Some(exit) if !self.refreshed_after(exit) => return Standing::Settling,
            Some(_) => self.forget_in_pool(&container.uuid),
            None => {}
        }
        if container.priority < 1 {
            // On hold in the local queue it stays listed (70 §3); a remote queue shows it again when it is raised.
            if !self.keeps_attempts {
                self.unless_busy(&container.uuid, Action::ForgetInQueue { uuid: container.uuid.clone() });
            }
            return Standing::OnHold;
        }
        if entry.ready { Standing::Free } else { Standing::NotReady }
    }

    fn judge_locked(
        &mut self,
        entry: &'a QueueEntry,
        places: &Places<'_>,
        exited: Option<Exit>,
        stale: StaleStep,
        ruled_out: &mut RuledOut,
    ) -> Standing<'a> {
        let container = &entry.container;
        let uuid = &container.uuid;
        for place in &places.others {
            self.kill(uuid, place, OTHER_ATTEMPT);
        }
        if places.collecting {
            return Standing::OnWorker;
        }
        if !places.current.is_empty() {
            self.attend_locked(container, places, ruled_out);
            return Standing::OnWorker;
        }
        match exited {
            Some(exit) if self.is_exit_of_current(container, exit) => {
                if self.refreshed_after(exit) {
                    self.locked_has_exited(container, exit, ruled_out);
                }
                return Standing::Settling;
            }
            Some(_) => self.forget_in_pool(uuid),
            None => {}
        }
        if let Some(instance) = container.instance.as_ref().filter(|_| self.keeps_attempts) {
            return self.judge_sent(container, instance, places);
        }
        if places.others_present() {
            return Standing::PreviousAlive;
        }
        self.judge_unsent(entry, stale)
    }

    /// Locked, and its runner is alive.
    fn attend_locked(&mut self, container: &Container, places: &Places<'_>, ruled_out: &mut RuledOut) {
        let uuid = &container.uuid;
        let listed = places.current.iter().any(|place| place.phase == Phase::Running);
        if listed && self.keeps_attempts && container.instance.is_some() {
            self.unless_busy(uuid, Action::SeenRunning { uuid: uuid.clone(), attempt: container.attempt });
        }
        if is_unwanted(container) {
            if !listed {
                ruled_out.insert(uuid.clone(), self.current_attempt(container));
            }
            for place in &places.current {
                self.kill(uuid, place, PRIORITY_ZERO);
            }
        }
    }

    /// Locked, and its attempt ended without a result.
    fn locked_has_exited(&mut self, container: &Container, exit: Exit, ruled_out: &RuledOut) {
        let uuid = &container.uuid;
        // Its runner may have crashed before any list showed it: then the host knows better.
        let never_ran = ruled_out.get(uuid) == Some(&container.attempt) && !exit.has_run;
        if container.cancel_requested && self.keeps_attempts {
            self.cancel(container, CANCELLED);
        } else if !self.keeps_attempts || never_ran {
            self.unless_busy(uuid, Action::Unlock { uuid: uuid.clone() });
        } else {
            self.lost(container, LostReason::RunnerCrashed);
        }
    }

    /// Locked, and its attempt may have been sent to `instance`, which shows nothing of it.
    fn judge_sent(&mut self, container: &Container, instance: &'a InstanceId, places: &Places<'_>) -> Standing<'a> {
        let pool = self.input.pool;
        if self.is_gone(instance) {
            self.lost(container, LostReason::InstanceGone);
            return Standing::Settling;
        }
        let state = pool.instance(instance).map(|view| view.state);
        if !matches!(state, Some(WorkerState::Idle | WorkerState::Running)) {
            return Standing::Expected(instance);
        }
        if places.others_present() {
            return Standing::PreviousAlive;
        }
        Standing::Sent(instance)
    }

    /// Locked, and sent nowhere.
    fn judge_unsent(&mut self, entry: &QueueEntry, stale: StaleStep) -> Standing<'a> {
        let container = &entry.container;
        let uuid = &container.uuid;
        let unlock = Action::Unlock { uuid: uuid.clone() };
        match stale {
            StaleStep::Wait => Standing::Settling,
            StaleStep::Unlock => {
                self.unless_busy(uuid, unlock);
                Standing::Settling
            }
            StaleStep::Schedule if container.cancel_requested => {
                self.cancel(container, CANCELLED);
                Standing::Settling
            }
            StaleStep::Schedule if container.priority < 1 => {
                self.unless_busy(uuid, unlock);
                Standing::OnHold
            }
            StaleStep::Schedule if self.cancelled_as_unsatisfiable(entry) => Standing::Settling,
            StaleStep::Schedule => Standing::Free,
        }
    }

    fn judge_running(&mut self, container: &'a Container, places: &Places<'_>, exited: Option<Exit>) -> Standing<'a> {
        let uuid = &container.uuid;
        for place in &places.others {
            self.kill(uuid, place, OTHER_ATTEMPT);
        }
        if !places.current.is_empty() || places.collecting {
            if is_unwanted(container) {
                for place in &places.current {
                    self.kill(uuid, place, PRIORITY_ZERO);
                }
            }
            return Standing::OnWorker;
        }
        match exited {
            Some(exit) if self.is_exit_of_current(container, exit) => {
                if !self.refreshed_after(exit) {
                    return Standing::OnWorker;
                }
                self.ended_without_result(container, LostReason::RunnerCrashed, RUNNER_EXITED);
                return Standing::Settling;
            }
            Some(_) => self.forget_in_pool(uuid),
            None => {}
        }
        match container.instance.as_ref().filter(|_| self.keeps_attempts) {
            Some(instance) => self.judge_running_on(container, instance, places),
            None if self.has_unknown || !self.refreshed_after_unknown() => Standing::OnWorker,
            None => {
                self.ended_without_result(container, LostReason::RunnerCrashed, NOT_RUNNING);
                Standing::Settling
            }
        }
    }

    /// Running in the queue, and its instance does not show it (70 §3: only an attempt's own instance is waited for).
    fn judge_running_on(
        &mut self,
        container: &Container,
        instance: &'a InstanceId,
        places: &Places<'_>,
    ) -> Standing<'a> {
        let pool = self.input.pool;
        if self.is_gone(instance) {
            self.lost(container, LostReason::InstanceGone);
            return Standing::Settling;
        }
        let state = pool.instance(instance).map(|view| view.state);
        let in_service = matches!(state, Some(WorkerState::Idle | WorkerState::Running));
        // A worker shows one runner per container: an older attempt there may hide this one until it has ended.
        if in_service && self.refreshed_after_unknown() && !places.others_present() {
            self.lost(container, LostReason::RunnerCrashed);
            return Standing::Settling;
        }
        Standing::Expected(instance)
    }

    /// No type can ever satisfy it (any more: a queue admits none such, but types may go with a reload). Spec 30 §2.
    fn cancelled_as_unsatisfiable(&mut self, entry: &QueueEntry) -> bool {
        if !entry.instance_types.is_empty() {
            return false;
        }
        let need = &entry.resources;
        let why = format!(
            "{UNSATISFIABLE}; needed: {} VCPUs, {} bytes of RAM, {} bytes of scratch, {} GPUs",
            need.vcpus, need.ram, need.scratch, need.gpus
        );
        self.cancel(&entry.container, &why);
        true
    }

    fn ended_without_result(&mut self, container: &Container, reason: LostReason, why: &str) {
        if self.keeps_attempts {
            self.lost(container, reason);
        } else {
            self.cancel(container, why);
        }
    }

    fn lost(&mut self, container: &Container, reason: LostReason) {
        if container.cancel_requested {
            self.cancel(container, CANCELLED);
            return;
        }
        let (uuid, attempt) = (container.uuid.clone(), container.attempt);
        self.unless_busy(&container.uuid, Action::AttemptLost { uuid, attempt, reason });
    }

    fn cancel(&mut self, container: &Container, why: &str) {
        let uuid = container.uuid.clone();
        self.unless_busy(&container.uuid, Action::Cancel { uuid, why: why.to_owned() });
    }

    fn is_exit_of_current(&self, container: &Container, exit: Exit) -> bool {
        !self.keeps_attempts || container.instance.is_some() && (exit.attempt == 0 || exit.attempt >= container.attempt)
    }

    /// The number that the current attempt has, or will have once its start is committed.
    fn current_attempt(&self, container: &Container) -> Attempt {
        match container.instance {
            Some(_) => container.attempt,
            None => container.attempt.saturating_add(1),
        }
    }

    fn refreshed_after(&mut self, exit: Exit) -> bool {
        let refreshed = self.input.queue.as_of > exit.at;
        self.waits_for_refresh |= !refreshed;
        refreshed
    }

    fn refreshed_after_unknown(&mut self) -> bool {
        let resolved = self.input.pool.last_unknown_resolved;
        let refreshed = resolved.is_none_or(|resolved| self.input.queue.as_of > resolved);
        self.waits_for_refresh |= !refreshed;
        refreshed
    }

    fn is_gone(&mut self, instance: &InstanceId) -> bool {
        let gone = self.input.pool.is_gone(instance);
        self.waits_for_list |= !gone;
        gone
    }

    /// What the pool has and the queue does not know.
    pub(super) fn judge_strangers(&mut self, strangers: &BTreeSet<ContainerUuid>) {
        let pool = self.input.pool;
        for (uuid, whereabouts) in strangers.iter().filter_map(|uuid| Some((uuid, pool.containers.get(uuid)?))) {
            for place in &whereabouts.places {
                self.kill(uuid, place, NOT_IN_QUEUE);
            }
            if whereabouts.exited.is_some() {
                self.forget_in_pool(uuid);
            }
        }
    }

    /// Kills the runner there, unless that was asked already, or given up.
    fn kill(&mut self, uuid: &ContainerUuid, place: &Place, reason: &'static str) {
        if place.phase != Phase::Collecting && !place.killing && !place.given_up {
            let instance = Some(place.instance.clone());
            self.unless_busy(uuid, Action::Kill { uuid: uuid.clone(), instance, reason });
        }
    }

    fn forget_in_pool(&mut self, uuid: &ContainerUuid) {
        self.push(Action::ForgetInPool { uuid: uuid.clone() });
    }
}

/// A listed attempt did run; one that is being killed and was never listed (also on an operator's request) did not.
fn remember_ruled_out(container: &Container, places: &Places<'_>, ruled_out: &mut RuledOut) {
    let uuid = &container.uuid;
    for place in &places.current {
        if place.phase == Phase::Running {
            ruled_out.remove(uuid);
        } else if place.killing && container.instance.is_some() {
            ruled_out.insert(uuid.clone(), container.attempt);
        }
    }
}
