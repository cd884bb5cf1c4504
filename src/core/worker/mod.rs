//! One instance: its record, and what each event does to it (spec 10).
//!
//! Reading order: the record here, [`round`] (a probe round from plan to report), [`running`] (which containers are here),
//! [`facts`] (is it what its type says), [`kill`], [`collect`], [`shutdown`] (eligibility, unresponsive, destroy, tags), [`listing`] (the runner's output).
//!
//! A worker never looks at another one. What it shares with the pool (settings, the exited map, timers, effects) comes in as
//! [`Context`].

pub mod collect;
pub mod diagram;
pub mod facts;
pub mod kill;
pub mod listing;
pub mod round;
pub mod running;
pub mod shutdown;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::effect::{Effect, Effects, Figure, Level, Note, RunnerOrder, Tags};
use super::ids::{Attempt, ContainerUuid, InstanceId, InstanceSecret, OperationId, TypeName};
use super::instance_type::InstanceType;
use super::pool::index::RunnerIndex;
use super::pool::view::Exit;
use super::settings::Settings;
use super::time::Moment;
use super::timer::{Timer, Timers};
use super::vocabulary::{BootOutcome, IdleBehavior, WorkerState};
use collect::{Collecting, Forgetting};
use kill::KillState;

/// A runner that was started, or adopted from a list.
#[derive(Clone, Debug)]
pub struct Runner {
    /// 0 = not known.
    pub attempt: Attempt,
    /// The start whose return is awaited; `None` once it returned, or for an adopted runner.
    pub start: Option<OperationId>,
    /// A probe has listed it.
    pub listed: bool,
    /// Whether it came about is settled: a list has shown it, or its start has ended one way or the other. Otherwise a list that lacks
    /// it proves nothing (the start may still be on its way), and only a kill with a tombstone does.
    pub settled: bool,
    /// The host says that it has been there. (One that a list has shown, has.)
    pub has_run: bool,
    pub kill: KillState,
}

/// The last good list, as evidence that nothing of ours is here (spec 10 §9).
#[derive(Clone, Copy, Debug)]
pub struct Evidence {
    pub began: Moment,
    pub changes: u64,
    pub empty: bool,
}

/// The pool's record of one instance.
#[derive(Clone, Debug)]
pub struct Worker {
    pub id: InstanceId,
    pub address: String,
    pub remote_user: String,
    /// As the cloud reported them last.
    pub tags: Tags,
    /// What was ordered to be saved since that report, which does not show it yet.
    pub saved_tags: Option<Tags>,
    pub secret: Option<InstanceSecret>,
    pub type_name: TypeName,
    /// `None` if the type is not configured any more.
    pub instance_type: Option<Arc<InstanceType>>,
    pub state: WorkerState,
    pub idle_behavior: IdleBehavior,
    /// First seen.
    pub appeared: Moment,
    /// A list of the cloud has shown it. Until then, for a while, a list that lacks it proves nothing (spec 20 §5).
    pub ever_listed: bool,
    /// Last successful probe; initially `appeared`.
    pub probed: Moment,
    /// Last time it was known to run something, or entered service: the idle time counts from here. Initially `appeared`.
    pub busy: Moment,
    /// First shutdown request.
    pub destroyed: Option<Moment>,
    /// Last destroy that was asked for.
    pub last_destroy: Option<Moment>,
    pub first_connection: Option<Moment>,
    pub last_container: Option<ContainerUuid>,
    pub starting: BTreeMap<ContainerUuid, Runner>,
    pub running: BTreeMap<ContainerUuid, Runner>,
    pub collecting: BTreeMap<ContainerUuid, Collecting>,
    /// Collected, and the worker's copy is being removed: `finished` lines for these say nothing new.
    pub forgetting: BTreeMap<ContainerUuid, Forgetting>,
    /// Since when a stale lock has resisted.
    pub stale_since: Option<Moment>,
    /// Stale ones that are being reaped.
    pub reaping: BTreeMap<ContainerUuid, OperationId>,
    /// At most one in a worker's life.
    pub boot_outcome: Option<BootOutcome>,
    pub booted_logged: bool,
    /// The last error of the round that was the last of a boot.
    pub last_error: Option<String>,
    /// What was found wrong first.
    pub fault: Option<crate::core::effect::Fault>,
    /// Raised by every event that changes which containers we believe to be here.
    pub changes: u64,
    /// Value of `changes` at each uuid's last change; closed uuids stay until a list that began later was applied.
    pub last_change: BTreeMap<ContainerUuid, u64>,
    pub evidence: Option<Evidence>,
    /// A probe round is in flight (the guard of the shell is taken).
    pub in_round: bool,
    /// Rounds in a row that failed, or that succeeded without a boot probe: sets the pause before the next.
    pub failed_rounds: u32,
}

/// What a worker shares with its pool while it handles one event.
#[derive(Debug)]
pub struct Context<'a> {
    pub now: Moment,
    pub settings: &'a Settings,
    pub effects: &'a mut Effects,
    pub exited: &'a mut BTreeMap<ContainerUuid, Exit>,
    /// Which workers have a container; every change of `starting` and `running` keeps it in step.
    pub index: &'a mut RunnerIndex,
    pub timers: &'a mut Timers,
    pub next_operation: &'a mut u64,
    /// Set when a worker leaves `unknown`.
    pub last_unknown_resolved: &'a mut Option<Moment>,
    /// Types whose instances are known to be smaller than they say.
    pub short_types: &'a mut BTreeSet<TypeName>,
}

impl Context<'_> {
    pub fn operation(&mut self) -> OperationId {
        *self.next_operation += 1;
        OperationId(*self.next_operation)
    }

    pub fn note(&mut self, note: Note) {
        self.effects.log(note);
    }

    pub fn order(&mut self, order: Effect) {
        self.effects.push(order);
    }

    pub fn timer(&mut self, at: Moment, timer: Timer) {
        self.timers.set(at, timer);
    }
}

impl Worker {
    /// A record of an instance that was just seen for the first time.
    pub fn new(id: InstanceId, type_name: TypeName, state: WorkerState, now: Moment) -> Self {
        Self {
            id,
            address: String::new(),
            remote_user: String::new(),
            tags: Tags::new(),
            saved_tags: None,
            secret: None,
            type_name,
            instance_type: None,
            state,
            idle_behavior: IdleBehavior::Run,
            appeared: now,
            ever_listed: false,
            probed: now,
            busy: now,
            destroyed: None,
            last_destroy: None,
            first_connection: None,
            last_container: None,
            starting: BTreeMap::new(),
            running: BTreeMap::new(),
            collecting: BTreeMap::new(),
            forgetting: BTreeMap::new(),
            stale_since: None,
            reaping: BTreeMap::new(),
            boot_outcome: None,
            booted_logged: false,
            last_error: None,
            fault: None,
            changes: 0,
            last_change: BTreeMap::new(),
            evidence: None,
            in_round: false,
            failed_rounds: 0,
        }
    }

    /// Starting or running containers.
    pub fn occupied(&self) -> bool {
        !self.starting.is_empty() || !self.running.is_empty()
    }

    /// The uuid's runner, wherever it is recorded.
    pub fn runner(&self, uuid: &ContainerUuid) -> Option<&Runner> {
        self.starting.get(uuid).or_else(|| self.running.get(uuid))
    }

    pub fn runner_mut(&mut self, uuid: &ContainerUuid) -> Option<&mut Runner> {
        self.starting.get_mut(uuid).or_else(|| self.running.get_mut(uuid))
    }

    /// Raises the change counter for this uuid (spec 10 §2).
    pub fn changed(&mut self, uuid: &ContainerUuid) {
        self.changes += 1;
        self.last_change.insert(uuid.clone(), self.changes);
    }

    /// A log line about this worker.
    pub fn note(&self, level: Level, message: &'static str) -> Note {
        Note::new(level, "worker", message).with("Instance", &self.id)
    }

    /// Reports how the boot ended; only the first report counts (spec 10 §15.2).
    pub fn report_boot_outcome(&mut self, outcome: BootOutcome, cx: &mut Context<'_>) {
        if self.boot_outcome.is_none() {
            self.boot_outcome = Some(outcome);
            cx.order(Effect::Observe(Figure::BootOutcome(outcome)));
        }
    }

    /// Why the boot failed, for people; empty if it did not.
    pub fn boot_error(&self) -> String {
        let fault = || self.fault.as_ref().map(ToString::to_string);
        self.last_error.clone().or_else(fault).unwrap_or_default()
    }

    /// Changes the state, with its one log line (spec 80 §4).
    pub fn set_state(&mut self, state: WorkerState, cx: &mut Context<'_>) {
        self.set_state_logged_elsewhere(state, cx);
        cx.note(self.note(Level::Info, "worker state changed").with("State", state));
    }

    /// Changes the state where the caller writes a line of its own: entering service, and every reason for a shutdown.
    pub(super) fn set_state_logged_elsewhere(&mut self, state: WorkerState, cx: &mut Context<'_>) {
        if self.state == WorkerState::Unknown && state != WorkerState::Unknown {
            *cx.last_unknown_resolved = Some(cx.now);
        }
        self.state = state;
    }

    pub fn order_for(&self, uuid: &ContainerUuid, attempt: Attempt, operation: OperationId) -> RunnerOrder {
        RunnerOrder { operation, instance: self.id.clone(), uuid: uuid.clone(), attempt }
    }
}
