//! The scheduler's thread, and the queue's transitions, as `shell/scheduler` and `shell/transitions` have them.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::core::container::LostReason;
use crate::core::effect::Effect;
use crate::core::ids::{Attempt, ContainerUuid, InstanceSecret};
use crate::core::pool::invariants::Cause;
use crate::core::scheduler::{Action, PassInput, invariants};
use crate::faults::Fault;
use crate::store::{Record, StoreError};
use crate::world::World;

const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
enum Transition {
    Lock,
    Unlock,
    Cancel,
    SeenRunning(Attempt),
    Lost(Attempt, LostReason),
}

impl World {
    /// Something changed that may matter for scheduling.
    pub fn notify_scheduler(&mut self) {
        let Some(process) = &mut self.process else { return };
        process.told = true;
        let delay = self.turn_of_thread(8);
        self.pass_soon(delay);
    }

    /// The thread's next look; an earlier one wins.
    pub fn pass_soon(&mut self, delay: Duration) {
        let at = self.now + delay;
        let Some(process) = &mut self.process else { return };
        if process.pass_at.is_some_and(|planned| planned <= at) {
            return;
        }
        process.pass_at = Some(at);
        self.in_process(delay, move |world| {
            if world.process.as_ref().is_some_and(|process| process.pass_at == Some(at)) {
                world.pass();
            }
        });
    }

    fn pass(&mut self) {
        let now = self.now;
        let Some(process) = &mut self.process else { return };
        process.pass_at = None;
        let due = process.scheduler.next_deadline().is_some_and(|deadline| deadline <= now);
        let woken = std::mem::take(&mut process.told) | due;
        let actions = self.plan_pass();
        self.missed_wakeup(woken, &actions);
        if let Some(process) = &mut self.process {
            process.last_pass = now;
        }
        for action in actions {
            self.say(|| format!("pass: {action:?}"));
            self.act(action);
            if self.violation.is_some() || self.process.is_none() {
                return;
            }
        }
        self.plan_next_pass();
    }

    fn plan_next_pass(&mut self) {
        let poll_interval = self.plan.poll_interval;
        let Some(process) = &self.process else { return };
        let net = process.last_pass + poll_interval;
        let next = process.scheduler.next_deadline().map_or(net, |deadline| deadline.min(net));
        self.pass_soon(next.since(self.now));
    }

    /// Looks and decides, with every invariant checked.
    fn plan_pass(&mut self) -> Vec<Action> {
        let now = self.now;
        let fails = self.now < self.storage_fails_until;
        let settings = self.plan.scheduler.clone();
        let Some(process) = &mut self.process else { return Vec::new() };
        let pool = process.pool.view(now);
        if process.trouble && !fails {
            process.trouble = false;
            process.told = true;
        }
        if !process.trouble {
            process.as_of = now;
        }
        process.busy.retain(|_, until| until.is_none_or(|until| now < until));
        let busy: BTreeSet<ContainerUuid> = process.busy.keys().cloned().collect();
        let queue = self.store.snapshot(process.as_of);
        let may_start = !process.trouble && pool.storage_fault.is_none();
        let input = PassInput { pool: &pool, queue: &queue, busy: &busy, last_busy_answer: None, may_start, now };
        let from_nothing = process.scheduler.pass_from_nothing(&input);
        let pass = process.scheduler.pass(&input);
        self.demand(invariants::check(&settings, &input, &pass));
        self.demand(invariants::check_memory(&from_nothing, &pass));
        pass.actions
    }

    /// The net found work, and nothing that would have told of it is on its way: a wake-up was lost.
    fn missed_wakeup(&mut self, woken: bool, actions: &[Action]) {
        let Some(process) = &self.process else { return };
        let announced = process.told || process.effects.contains(&Effect::NotifySubscribers);
        if !woken && !announced && !actions.is_empty() {
            self.violated("20 §6", format!("missed wake-up: {actions:?}"));
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Lock { uuid } => self.begin(&uuid, Transition::Lock),
            Action::Unlock { uuid } => self.begin(&uuid, Transition::Unlock),
            Action::Cancel { uuid, .. } => self.begin(&uuid, Transition::Cancel),
            Action::SeenRunning { uuid, attempt } => self.begin(&uuid, Transition::SeenRunning(attempt)),
            Action::AttemptLost { uuid, attempt, reason } => self.begin(&uuid, Transition::Lost(attempt, reason)),
            Action::ForgetInQueue { uuid } => self.store.forget(&uuid),
            Action::Start { uuid, attempt, instance, .. } => {
                self.pool(Cause::Other, |pool, now, effects| {
                    pool.start_container(&instance, &uuid, attempt, now, effects)
                });
            }
            Action::Kill { uuid, instance, reason } => {
                self.pool(Cause::Other, |pool, now, effects| {
                    pool.kill_container(&uuid, instance.as_ref(), reason, now, effects)
                });
            }
            Action::RuleOut { uuid, attempt, instance } => {
                self.pool(Cause::Other, |pool, now, effects| pool.rule_out(&uuid, attempt, &instance, now, effects));
            }
            Action::Create { instance_type } => {
                let secret = InstanceSecret::new(&format!("{:040x}", self.random.draw()));
                self.pool(Cause::Other, |pool, now, effects| pool.create(&instance_type, secret, now, effects));
            }
            Action::Shutdown { instance } => {
                self.pool(Cause::Other, |pool, now, effects| pool.shutdown(&instance, now, effects));
            }
            Action::ForgetInPool { uuid } => {
                self.pool(Cause::Other, |pool, _, effects| pool.forget_container(&uuid, effects));
            }
        }
    }

    /// In the background; nothing happens if the container is busy.
    fn begin(&mut self, uuid: &ContainerUuid, transition: Transition) {
        let Some(process) = &mut self.process else { return };
        if process.busy.contains_key(uuid) {
            return;
        }
        process.busy.insert(uuid.clone(), None);
        let delay = self.turn_of_thread(30);
        let uuid = uuid.clone();
        self.in_process(delay, move |world| world.carry_out_transition(&uuid, &transition));
    }

    fn carry_out_transition(&mut self, uuid: &ContainerUuid, transition: &Transition) {
        if let Transition::Lost(attempt, _) = transition {
            self.check_given_up(uuid, *attempt);
        }
        if let (Transition::Unlock, Some(life)) = (transition, self.store.life(uuid)) {
            let (attempt, sent) = (life.attempt, life.instance.is_some());
            self.check_given_up(uuid, attempt);
            if sent && self.truth.executed.contains(&(uuid.clone(), attempt)) {
                self.violated("70 §3", format!("{uuid} is unlocked as if its attempt {attempt} had not run"));
            }
        }
        let apply = transition.clone();
        let result = self.write(uuid, move |record| match apply {
            Transition::Lock => record.life.lock().is_ok(),
            Transition::Unlock => record.life.unlock().is_ok(),
            Transition::Cancel => record.life.cancel().is_ok(),
            Transition::SeenRunning(attempt) => {
                record.life.seen_running(attempt);
                true
            }
            Transition::Lost(attempt, _) => {
                record.life.lost(attempt);
                true
            }
        });
        if let (Transition::Lost(_, LostReason::RunnerCrashed), Ok(())) = (transition, result) {
            self.counts.notice(Fault::CrashBeforeResult);
        }
        let until = self.now + PAUSE_AFTER_FAILURE;
        if let Some(process) = &mut self.process {
            if result == Err(StoreError::Storage) {
                process.busy.insert(uuid.clone(), Some(until));
            } else {
                process.busy.remove(uuid);
            }
        }
        self.notify_scheduler();
    }

    /// A transaction that may fail: for want of space, or because the rules refuse it (`false`).
    pub fn write(&mut self, uuid: &ContainerUuid, change: impl FnOnce(&mut Record) -> bool) -> Result<(), StoreError> {
        if self.storage_fails() {
            self.counts.notice(Fault::StorageFails);
            if let Some(process) = &mut self.process {
                process.trouble = true;
            }
            return Err(StoreError::Storage);
        }
        if let Some(process) = self.process.as_mut().filter(|process| process.trouble) {
            process.trouble = false;
            process.told = true;
        }
        match self.commit(uuid, change) {
            Some(true) => Ok(()),
            Some(false) | None => Err(StoreError::Refused),
        }
    }
}
