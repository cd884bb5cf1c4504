//! A pool on virtual time, driven by a small language of events, with every invariant checked after each of them.
//!
//! Events are separated by `;`; the words are in [`events`]. Containers are single letters (`a@2` = its attempt 2; attempt 1 is
//! understood), instances are `i1`, `i2` …, creates are numbered from 1, times are seconds. Each event takes a millisecond.

mod events;
mod show;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use muster::core::effect::{Effect, Effects, RunnerOrder};
use muster::core::ids::{InstanceId, OperationId, TypeName};
use muster::core::instance_type::InstanceType;
use muster::core::pool::Pool;
use muster::core::pool::create::InstanceReport;
use muster::core::pool::invariants::{self, Cause, Snapshot};
use muster::core::settings::Settings;
use muster::core::time::Moment;
use muster::core::vocabulary::WorkerState;
use muster::core::worker::collect::StorageFault;
use muster::core::worker::diagram::{Arrow, DIAGRAM, Event};
use muster::core::worker::facts::HostFacts;
use muster::core::worker::round::{NextRound, RoundPlan};

/// One row: the events before, the events under test, the effects of the latter, and the pool afterwards.
pub(crate) type Row<'a> = (&'a str, &'a str, &'a str, &'a str);

/// Runs rows, and shows every one that differs.
pub(crate) fn check(rows: &[Row<'_>]) {
    let mut wrong = String::new();
    for (before, events, effects, state) in rows {
        let mut world = World::new();
        world.run(before);
        world.seen.clear();
        world.run(events);
        let (got_effects, got_state) = (world.effects(), world.show());
        if got_effects != *effects || got_state != *state {
            wrong += &format!(
                "{before}\n  -- {events}\n  expected {effects}\n  got      {got_effects}\n  expected {state}\n  got      {got_state}\n"
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

pub(crate) struct World {
    pub(crate) pool: Pool,
    pub(crate) now: Moment,
    settings: Settings,
    types: BTreeMap<TypeName, Arc<InstanceType>>,
    /// What the last events gave: effects, and `no` for a call that was refused.
    seen: Vec<String>,
    /// The instances that were mentioned, as the cloud shows them.
    reports: BTreeMap<InstanceId, InstanceReport>,
    /// The last order of each kind for each container on each worker.
    orders: BTreeMap<(&'static str, String), BTreeMap<InstanceId, RunnerOrder>>,
    pub(crate) creates: Vec<OperationId>,
    pub(crate) rounds: BTreeMap<InstanceId, RoundPlan>,
    pub(crate) next_round: Option<NextRound>,
    list_began: Option<Moment>,
    facts: Option<HostFacts>,
    /// What the scheduler knew when it was last notified.
    known: String,
    history: Vec<String>,
    /// The kind of the event that is being carried out.
    event: Option<Event>,
    /// The changes of workers' states so far.
    pub(crate) arrows: BTreeSet<Arrow>,
}

impl World {
    pub(crate) fn new() -> Self {
        let of_type = |name: &str, provider_type: &str, preemptible| InstanceType {
            name: name.to_owned(),
            provider_type: provider_type.to_owned(),
            vcpus: 4,
            ram: 1000,
            included_scratch: 100,
            preemptible,
            ..InstanceType::default()
        };
        // `spot` is the same machine as `t`; `u` is another one of the same quota group.
        let types: BTreeMap<_, _> = [of_type("t", "p1", false), of_type("spot", "p1", true), of_type("u", "p2", false)]
            .into_iter()
            .map(|instance_type| (TypeName::new(&instance_type.name), Arc::new(instance_type)))
            .collect();
        let settings = Settings { max_instances: 5, ..Settings::default() };
        Self {
            pool: Pool::new(settings.clone(), types.clone()),
            now: Moment::since_start(Duration::from_secs(1000)),
            settings,
            types,
            seen: Vec::new(),
            reports: BTreeMap::new(),
            orders: BTreeMap::new(),
            creates: Vec::new(),
            rounds: BTreeMap::new(),
            next_round: None,
            list_began: None,
            facts: None,
            known: String::new(),
            history: Vec::new(),
            event: None,
            arrows: BTreeSet::new(),
        }
    }

    pub(crate) fn run(&mut self, events: &str) {
        for event in events.split(';').map(str::trim).filter(|event| !event.is_empty()) {
            self.now = self.now + Duration::from_millis(1);
            if self.pool.next_deadline().is_some_and(|at| at <= self.now) {
                self.event = Some(Event::DeadlinePassed);
                self.step(Cause::Other, |pool, now, effects| pool.tick(now, effects));
            }
            self.history.push(event.to_owned());
            self.event(event);
        }
    }

    /// Runs one change of the pool with all checks around it; what it answers is returned.
    fn step<R>(&mut self, cause: Cause, change: impl FnOnce(&mut Pool, Moment, &mut Effects) -> R) -> R {
        let before = Snapshot::of(&self.pool);
        let states: BTreeMap<_, _> = self.pool.workers().map(|worker| (worker.id.clone(), worker.state)).collect();
        let mut effects = Effects::new();
        let answer = change(&mut self.pool, self.now, &mut effects);
        let effects = effects.into_vec();
        let notified = effects.contains(&Effect::NotifySubscribers);
        for effect in &effects {
            self.take_order(effect);
            self.seen.push(show::effect(effect));
        }
        let in_flight = self.rounds.keys().filter(|id| self.round_is_of_worker(id));
        let in_flight = in_flight.map(|id| (id.clone(), 1)).collect();
        let checked = invariants::check(&self.pool)
            .and_then(|()| invariants::check_step(&before, &self.pool, cause))
            .and_then(|()| invariants::check_rounds(&in_flight, &self.pool));
        self.demand(checked);
        self.no_lost_wakeup(notified);
        self.state_changes_are_logged_once(&states, &effects);
        self.take_arrows(&states);
        answer
    }

    /// The round in flight is of the worker that there is now, and not of an earlier record of the same instance.
    fn round_is_of_worker(&self, instance: &InstanceId) -> bool {
        let began = self.rounds.get(instance).map(|plan| plan.began);
        self.pool.worker(instance).is_some_and(|worker| began.is_some_and(|began| worker.appeared <= began))
    }

    fn demand(&self, checked: Result<(), invariants::Violation>) {
        if let Err(violation) = checked {
            panic!("{violation}\nafter {}\nstate {}", self.history.join("; "), self.show());
        }
    }

    /// Spec 80 §4: each change of a worker's state is exactly one line with its id. (One round can both enter service and end.)
    fn state_changes_are_logged_once(&self, states: &BTreeMap<InstanceId, WorkerState>, effects: &[Effect]) {
        for worker in self.pool.workers() {
            let was = states.get(&worker.id);
            let lines: Vec<_> = effects.iter().filter_map(|effect| show::state_line(effect, &worker.id)).collect();
            let before_service = matches!(was, Some(WorkerState::Booting | WorkerState::Unknown));
            let most = 1 + usize::from(worker.state == WorkerState::Shutdown && before_service);
            let changed = was != Some(&worker.state);
            let right =
                if changed { (1..=most).contains(&lines.len()) } else { !lines.contains(&"worker state changed") };
            assert!(right, "{was:?} to {} is logged as {lines:?} after {}", worker.state, self.history.join("; "));
        }
    }

    /// Spec 20 §6: whatever changed in what the scheduler sees, it was notified.
    fn no_lost_wakeup(&mut self, notified: bool) {
        let seen = show::what_the_scheduler_sees(&self.pool, self.now);
        if !notified && !self.known.is_empty() && self.known != seen {
            panic!("no wake-up after {}\nwas {}\nis  {seen}", self.history.join("; "), self.known);
        }
        self.known = seen;
    }

    /// Notes the changes of state between `before` and now. Each must be an arrow of the diagram.
    fn take_arrows(&mut self, before: &BTreeMap<InstanceId, WorkerState>) {
        let after: BTreeMap<_, _> = self.pool.workers().map(|worker| (worker.id.clone(), worker.state)).collect();
        let ids: BTreeSet<_> = before.keys().chain(after.keys()).collect();
        for id in ids {
            let (from, to) = (before.get(id).copied(), after.get(id).copied());
            if from == to {
                continue;
            }
            let event = match (self.event, to) {
                (Some(Event::Listed), None) => Event::NotListed,
                (event, _) => event.unwrap_or_else(|| panic!("{from:?} to {to:?} after {}", self.history.join("; "))),
            };
            let arrow = Arrow { from, event, to };
            let known = DIAGRAM.iter().any(|row| row.arrow == arrow);
            assert!(known, "not in the diagram: {arrow:?} after {}", self.history.join("; "));
            self.arrows.insert(arrow);
        }
    }

    fn take_order(&mut self, effect: &Effect) {
        let (kind, order) = match effect {
            Effect::StartContainer(order) => ("start", order),
            Effect::KillRunner(order) => ("kill", order),
            Effect::CollectResult(order) => ("collect", order),
            Effect::ReapRunner(order) => ("reap", order),
            Effect::CreateInstance { operation, .. } => {
                self.creates.push(*operation);
                return;
            }
            _ => return,
        };
        let orders = self.orders.entry((kind, show::letter(&order.uuid))).or_default();
        orders.insert(order.instance.clone(), order.clone());
    }

    fn refused(&mut self, done: bool) {
        if !done {
            self.seen.push("no".to_owned());
        }
    }

    pub(crate) fn storage_fault(&self) -> Option<StorageFault> {
        self.pool.view(self.now).storage_fault
    }

    /// What was seen since it was cleared. Notifications count once, at the end: more while one is pending mean nothing.
    pub(crate) fn effects(&self) -> String {
        let notified = self.seen.iter().any(|seen| seen == "notify");
        let others = self.seen.iter().map(String::as_str).filter(|seen| *seen != "notify");
        others.chain(notified.then_some("notify")).collect::<Vec<_>>().join(" | ")
    }

    pub(crate) fn show(&self) -> String {
        show::pool(&self.pool, self.now)
    }
}

pub(crate) fn id(name: &str) -> InstanceId {
    InstanceId::new(name)
}
