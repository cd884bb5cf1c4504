//! Time, events, and what all parts of the simulation share.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use crate::cloud::Cloud;
use crate::core::effect::Effects;
use crate::core::ids::InstanceId;
use crate::core::pool::Pool;
use crate::core::pool::invariants::{self, Cause, Snapshot, Violation};
use crate::core::time::Moment;
use crate::faults::{Counts, Fault};
use crate::plan::{Plan, Types};
use crate::process::Process;
use crate::random::Random;
use crate::store::Store;
use crate::truth::Truth;

type Action = Box<dyn FnOnce(&mut World)>;

struct Event {
    at: Moment,
    number: u64,
    action: Action,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The earliest is the greatest: a heap gives it first.
impl Ord for Event {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// Lines of the log that are kept.
const LOG_MAX: usize = 200_000;

pub struct World {
    pub now: Moment,
    pub random: Random,
    pub plan: Plan,
    /// The configuration's types now; a reload may have removed some.
    pub types: Types,
    pub counts: Counts,
    pub cloud: Cloud,
    pub store: Store,
    /// `None` while the dispatcher is down.
    pub process: Option<Process>,
    pub truth: Truth,
    pub faults_on: bool,
    /// Our disk is full until then.
    pub storage_fails_until: Moment,
    pub violation: Option<Violation>,
    /// What happened, if somebody wants to read it.
    pub log: Option<Vec<String>>,
    /// Events handled.
    pub handled: u64,
    events: BinaryHeap<Event>,
    numbers: u64,
    processes: u64,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("now", &self.now).field("handled", &self.handled).finish_non_exhaustive()
    }
}

impl World {
    pub fn new(seed: u64, log: bool) -> Self {
        let mut random = Random::new(seed);
        let plan = Plan::of(&mut random);
        Self {
            now: Moment::since_start(Duration::from_secs(1000)),
            types: plan.types.clone(),
            counts: Counts::default(),
            cloud: Cloud::new(plan.cloud_quota),
            store: Store::default(),
            process: None,
            truth: Truth::default(),
            faults_on: true,
            storage_fails_until: Moment::ZERO,
            violation: None,
            log: log.then(Vec::new),
            handled: 0,
            events: BinaryHeap::new(),
            numbers: 0,
            processes: 0,
            random,
            plan,
        }
    }

    /// A line of the log; made only if somebody wants it.
    pub fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            if log.len() >= LOG_MAX {
                log.drain(..LOG_MAX / 2);
            }
            log.push(format!("{:10.3} {}", self.now.elapsed_since_start().as_secs_f64(), line()));
        }
    }

    /// Whether this fault happens now; it counts as injected.
    pub fn fault(&mut self, fault: Fault) -> bool {
        let likelihood = self.plan.likelihood(fault);
        let happens = self.faults_on && likelihood > 0.0 && self.random.chance(likelihood);
        if happens {
            self.counts.inject(fault);
            self.say(|| format!("  fault: {fault}"));
        }
        happens
    }

    /// How long until a thread of the dispatcher gets to what it has to do, at most `usual` milliseconds, unless it is slow.
    pub fn turn_of_thread(&mut self, usual: u64) -> Duration {
        if self.fault(Fault::SlowThread) {
            self.counts.notice(Fault::SlowThread);
            return self.random.millis(50, 5000);
        }
        self.random.millis(1, usual)
    }

    /// Something of the world: it happens whether or not the dispatcher lives.
    pub fn after(&mut self, delay: Duration, action: impl FnOnce(&mut Self) + 'static) {
        self.numbers += 1;
        let event = Event { at: self.now + delay, number: self.numbers, action: Box::new(action) };
        self.events.push(event);
    }

    /// Something of the present life of the dispatcher: it does not happen any more once that has ended.
    pub fn in_process(&mut self, delay: Duration, action: impl FnOnce(&mut Self) + 'static) {
        let id = self.process_id();
        self.after(delay, move |world| {
            if id.is_some() && world.process_id() == id {
                action(world);
            }
        });
    }

    pub fn process_id(&self) -> Option<u64> {
        self.process.as_ref().map(|process| process.id)
    }

    pub fn next_process_id(&mut self) -> u64 {
        self.processes += 1;
        self.processes
    }

    /// How many lives the dispatcher has had.
    pub fn lives(&self) -> u64 {
        self.processes
    }

    /// Handles the next event, if it is due by then.
    pub fn step(&mut self, until: Moment) -> bool {
        if self.violation.is_some() || self.events.peek().is_none_or(|event| event.at > until) {
            return false;
        }
        let Some(event) = self.events.pop() else { return false };
        self.now = event.at;
        self.handled += 1;
        (event.action)(self);
        true
    }

    /// Handles everything until then.
    pub fn run_until(&mut self, until: Moment) {
        while self.step(until) {}
        self.now = self.now.max(until);
    }

    /// Records the first violation; the simulation ends with it.
    pub fn demand(&mut self, checked: Result<(), Violation>) {
        if let Err(violation) = checked
            && self.violation.is_none()
        {
            self.say(|| format!("VIOLATION: {violation}"));
            self.violation = Some(violation);
        }
    }

    pub fn violated(&mut self, number: &'static str, detail: String) {
        self.demand(Err(Violation { number, detail }));
    }

    /// One event of the pool, with every invariant checked around it. `None` while the dispatcher is down.
    pub fn pool<R>(&mut self, cause: Cause, event: impl FnOnce(&mut Pool, Moment, &mut Effects) -> R) -> Option<R> {
        let process = self.process.as_mut()?;
        let before = Snapshot::of(&process.pool);
        let mut effects = Effects::new();
        let answer = event(&mut process.pool, self.now, &mut effects);
        let effects = effects.into_vec();
        let has_effects = !effects.is_empty();
        process.effects.extend(effects);
        let pool = &process.pool;
        let in_flight: BTreeMap<InstanceId, usize> = process.rounds_in_flight();
        let checked = invariants::check(pool)
            .and_then(|()| invariants::check_step(&before, pool, cause))
            .and_then(|()| invariants::check_rounds(&in_flight, pool));
        self.demand(checked);
        if has_effects {
            self.central_soon();
        }
        self.arm_timers();
        Some(answer)
    }
}
