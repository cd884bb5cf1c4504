//! Which container goes where, and when to create or drop an instance (spec 30).
//!
//! A pass looks at one view of the pool and one snapshot of the queue and answers with the actions to carry out; it changes
//! nothing but the [`Scheduler`]'s own small memory. The scheduler thread runs it; the shell takes the pool's view *first* and the queue's
//! snapshot *after* it: then a container that left the pool because its end is in the queue shows that end.
//!
//! Reading order: [`action`] (what a pass may order), the types here, [`backlog`] (what waits, from pass to pass), [`order`] (who comes
//! first), [`sync`] (the table of §4: what queue and pool disagree about), [`stale`] (§1), [`limits`] (§3, dynamic limits), [`slots`] and
//! [`first_fit`] (instances and their free resources), [`plan`] and [`lineup`] (§3, the steps per container), [`room`] (after the pass),
//! [`outlook`], [`status`] and [`explain`] (what people are told), [`memory`] (passes in which nothing changed), [`invariants`].
//!
//! A pass costs what has changed since the last one, what is on workers or Locked, the instances, and what it places; what waits for its
//! turn costs nothing (§5). When nothing changed that the last pass looked at, its answer stands.

pub mod action;
mod backlog;
mod explain;
mod first_fit;
pub mod invariants;
mod limits;
mod lineup;
mod memory;
mod order;
pub mod outlook;
mod plan;
mod room;
mod slots;
mod stale;
mod status;
mod sync;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::effect::{Level, Note};
use super::entry::{QueueEntry, QueueSnapshot};
use super::ids::{ContainerUuid, TypeName};
use super::pool::view::PoolView;
use super::time::{Moment, WallMillis};
use super::versioned::Versioned;
use super::vocabulary::ContainerState;
pub use action::Action;
use backlog::Backlog;
use explain::Grounds;
use limits::{Circumstances, DynamicLimits};
use memory::LastPass;
use order::{Item, Standing, Turn};
use outlook::{Judged, Outlook};
use plan::Plan;
use slots::TooSmall;
use stale::{StaleLocks, StaleStep};
use sync::RuledOut;

/// After an action was left out because another operation on its container was in progress, the next pass comes this soon.
pub const BUSY_RETRY: Duration = Duration::from_millis(250);

/// Names are the configuration keys of spec 60. Replaced as a whole on reload.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerSettings {
    /// 0 = no limit.
    pub max_running_containers_per_instance: usize,
    /// 0 = start with `max_instances`.
    pub initial_quota_estimate: usize,
    /// 0 = no limit.
    pub max_instances: usize,
    /// 0 = no limit on supervisors.
    pub supervisor_fraction: f64,
    pub stale_lock_timeout: Duration,
    /// The queue counts attempts and knows the instance of each (the local queue): `ContainerQueue::keeps_attempts`.
    pub keeps_attempts: bool,
}

impl Default for SchedulerSettings {
    /// The defaults of the configuration keys, for the local queue.
    fn default() -> Self {
        Self {
            max_running_containers_per_instance: 0,
            initial_quota_estimate: 0,
            max_instances: 64,
            supervisor_fraction: 0.5,
            stale_lock_timeout: Duration::from_secs(60),
            keeps_attempts: true,
        }
    }
}

/// What a pass looks at.
#[derive(Clone, Copy, Debug)]
pub struct PassInput<'a> {
    /// Taken before the queue's snapshot.
    pub pool: &'a PoolView,
    pub queue: &'a QueueSnapshot,
    /// Containers with a queue operation in progress: nothing is done to them, but their resources stay reserved.
    pub busy: &'a BTreeSet<ContainerUuid>,
    /// Time of the remote queue's last "too busy" answer (503), if ever.
    pub last_busy_answer: Option<Moment>,
    /// The queue reports no trouble (`ContainerQueue::trouble`) and results can be stored: false = nothing new is locked, started or created.
    pub may_start: bool,
    pub now: Moment,
}

/// What people are told about one container (spec 82 §3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryStatus {
    pub uuid: ContainerUuid,
    /// Empty once it runs or has ended.
    pub text: String,
}

/// Numbers for the metrics (spec 82 §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PassFigures {
    /// Containers with room on an instance that is not in service yet.
    pub allocated_not_started: usize,
    /// Containers without room because of quota or the supervisor limit.
    pub not_allocated_over_quota: usize,
    /// `created_at` of the oldest container of priority > 0 that is Queued or Locked, ready, and has no process; `None` if none.
    pub longest_wait_since: Option<WallMillis>,
    /// The tighter of the two dynamic limits; 0 = none.
    pub max_concurrent_containers: usize,
}

/// What a pass decided.
#[must_use = "a pass only plans: its actions have to be carried out"]
#[derive(Clone, Debug, Default)]
pub struct Pass {
    /// In the order they are to be carried out.
    pub actions: Vec<Action>,
    /// What there is to say about every entry of the queue.
    pub outlook: Arc<Outlook>,
    pub figures: PassFigures,
    pub notes: Vec<Note>,
    /// Something was left out because its container was busy; [`Scheduler::next_deadline`] covers it.
    pub refused_because_busy: bool,
}

/// The little that is remembered from pass to pass. Losing it (a restart) costs at most a repeated step.
#[derive(Clone, Debug)]
pub struct Scheduler {
    settings: SchedulerSettings,
    limits: DynamicLimits,
    stale: StaleLocks,
    ruled_out: RuledOut,
    backlog: Backlog,
    last: Option<LastPass>,
    /// Types whose idle instances were reported as too small.
    reported_types: BTreeSet<TypeName>,
    retry_at: Option<Moment>,
    limits_at: Option<Moment>,
}

impl Scheduler {
    pub fn new(settings: SchedulerSettings) -> Self {
        Self {
            limits: DynamicLimits::new(&settings),
            settings,
            stale: StaleLocks::NotLooked,
            ruled_out: RuledOut::new(),
            backlog: Backlog::default(),
            last: None,
            reported_types: BTreeSet::new(),
            retry_at: None,
            limits_at: None,
        }
    }

    /// New settings, after a reload. What was learned about limits is forgotten: they may have been raised.
    pub fn reconfigure(&mut self, settings: SchedulerSettings) {
        self.limits = DynamicLimits::new(&settings);
        self.reported_types.clear();
        self.settings = settings;
        self.last = None;
    }

    /// Plans what to do now. Before the pool's first list was applied nothing is decided and the answer is empty.
    pub fn pass(&mut self, input: &PassInput<'_>) -> Pass {
        if !input.pool.loaded {
            return Pass::default();
        }
        let is_due = self.next_deadline().is_some_and(|deadline| deadline <= input.now);
        if let Some(last) = self.last.as_mut().filter(|_| !is_due)
            && last.still_stands(input)
        {
            return last.answer();
        }
        let mut backlog = std::mem::take(&mut self.backlog);
        backlog.refresh(input.queue, input.pool, self.settings.keeps_attempts);
        let pass = self.decide(input, &backlog);
        self.backlog = backlog;
        self.retry_at = pass.refused_because_busy.then(|| input.now + BUSY_RETRY);
        self.limits_at = self.limits.deadline(input.now);
        pass
    }

    /// What a scheduler with the same knowledge would do that sees everything for the first time: the same as [`Scheduler::pass`] will.
    pub fn pass_from_nothing(&self, input: &PassInput<'_>) -> Pass {
        let mut fresh = Self { backlog: Backlog::default(), last: None, ..self.clone() };
        fresh.pass(input)
    }

    fn decide(&mut self, input: &PassInput<'_>, backlog: &Backlog) -> Pass {
        let running = self.learn_limits(input);
        let stale = self.stale_step(input, backlog);
        let mut draft = Draft::new(input, self.settings.keeps_attempts);
        let mut items = self.judge_all(&mut draft, backlog, stale);
        draft.judge_strangers(&backlog.strangers);
        order::sort(&mut items);
        self.run_queue(draft, backlog, &items, running, stale)
    }

    /// When a pass is due even if nothing happens: the end of the stale-lock wait, the minute after a 503, the retry for a
    /// busy container.
    pub fn next_deadline(&self) -> Option<Moment> {
        let stale = self.stale.deadline(self.settings.stale_lock_timeout);
        [stale, self.retry_at, self.limits_at].into_iter().flatten().min()
    }

    /// The number of containers on workers.
    fn learn_limits(&mut self, input: &PassInput<'_>) -> usize {
        let pool = input.pool;
        let running = pool.containers.values().filter(|whereabouts| whereabouts.is_alive()).count();
        let seen = Circumstances {
            running,
            existing: pool.instances.values().filter(|view| view.id().is_some()).count(),
            instances: pool.instances.len(),
            at_quota: pool.at_quota,
            last_busy_answer: input.last_busy_answer,
            now: input.now,
        };
        self.limits.learn(&self.settings, &seen);
        running
    }

    fn stale_step(&mut self, input: &PassInput<'_>, backlog: &Backlog) -> StaleStep {
        let known = |uuid: &ContainerUuid| input.pool.containers.contains_key(uuid);
        let locked = |entry: &Versioned<QueueEntry>| entry.container.state == ContainerState::Locked;
        let present = !self.settings.keeps_attempts
            && input.pool.has_unknown()
            && backlog.active.iter().any(|uuid| !known(uuid) && input.queue.entries.get(uuid).is_some_and(locked));
        self.stale.step(present, self.settings.stale_lock_timeout, input.now)
    }

    fn judge_all<'a>(&mut self, draft: &mut Draft<'a>, backlog: &Backlog, stale: StaleStep) -> Vec<Item<'a>> {
        let queue = draft.input.queue;
        self.ruled_out.retain(|uuid, _| {
            queue.entries.get(uuid).is_some_and(|entry| entry.container.state == ContainerState::Locked)
        });
        let active = backlog.active.iter().filter_map(|uuid| queue.entries.get(uuid));
        let judged = active.map(|entry| {
            let standing = draft.judge(entry, stale, &mut self.ruled_out);
            Item { entry, standing, busy: draft.input.busy.contains(&entry.container.uuid) }
        });
        judged.collect()
    }

    fn run_queue<'a>(
        &mut self,
        mut draft: Draft<'a>,
        backlog: &'a Backlog,
        items: &[Item<'a>],
        running: usize,
        stale: StaleStep,
    ) -> Pass {
        let (settings, input) = (&self.settings, draft.input);
        let paused = !input.may_start || stale == StaleStep::Wait;
        let mut plan = Plan::new(&mut draft, backlog, &self.limits, settings, running, paused);
        let walked = plan.walk(items, &mut self.ruled_out);
        let waiting = items.iter().filter(|item| waits(item)).map(|item| item.entry.container.created_at);
        let figures = PassFigures {
            allocated_not_started: plan.allocated_not_started,
            not_allocated_over_quota: plan.over_limits(),
            longest_wait_since: waiting.chain(backlog.oldest()).min(),
            max_concurrent_containers: self.limits.tighter(),
        };
        let queued_over_quota = walked.quota_from.as_ref().map(Turn::uuid);
        let grounds = Grounds {
            pool: input.pool.clone(),
            trouble: !input.may_start,
            stale: stale == StaleStep::Wait,
            at_quota: plan.at_quota(),
            api_limit: self.limits.api,
            quota_limit: self.limits.quota,
            supervisors_max: self.limits.supervisors(settings.supervisor_fraction),
            first_over_quota: plan.over.quota.first().map(|index| items[*index].uuid()).or(queued_over_quota).cloned(),
        };
        plan.unlock_excess(items);
        plan.make_room(items);
        let too_small = std::mem::take(&mut plan.slots.too_small);
        let judged = |(item, status): (&Item<'_>, &status::Status)| Judged {
            turn: Turn::of(item.entry),
            entry: item.entry.clone(),
            rank: item.rank(),
            status: status.clone(),
        };
        let outlook = Outlook {
            entries: input.queue.entries.clone(),
            judged: items.iter().zip(&walked.statuses).map(judged).collect(),
            groups: backlog.groups.clone(),
            on_hold: backlog.on_hold.clone(),
            not_ready: backlog.not_ready.clone(),
            walked,
            grounds: Arc::new(grounds),
        };
        (draft.pass.figures, draft.pass.outlook) = (figures, Arc::new(outlook));
        self.report_too_small(&mut draft, too_small);
        self.last = LastPass::of(&draft);
        draft.pass
    }

    /// Once per type: every pass would find it again.
    fn report_too_small(&mut self, draft: &mut Draft<'_>, found: Vec<TooSmall>) {
        for bug in found {
            if self.reported_types.insert(bug.type_name.clone()) {
                let text = "bug: an idle instance has no room for a container of its own type";
                let note = Note::new(Level::Error, "scheduler", text).with("Instance", &bug.instance);
                draft.pass.notes.push(note.with("InstanceType", &bug.type_name).with("ContainerUUID", &bug.uuid));
            }
        }
    }
}

/// Wants to run, could, and has no process.
fn waits(item: &Item<'_>) -> bool {
    !item.is_placed()
        && !matches!(item.standing, Standing::Ended | Standing::NotReady)
        && item.entry.container.priority >= 1
}

/// A pass in the making.
struct Draft<'a> {
    input: PassInput<'a>,
    keeps_attempts: bool,
    has_unknown: bool,
    /// Something is as it is because the queue was not refreshed lately enough, or because no list has told that an instance is gone.
    waits_for_refresh: bool,
    waits_for_list: bool,
    pass: Pass,
}

impl<'a> Draft<'a> {
    fn new(input: &PassInput<'a>, keeps_attempts: bool) -> Self {
        let has_unknown = input.pool.has_unknown();
        let (waits_for_refresh, waits_for_list) = (false, false);
        Self { input: *input, keeps_attempts, has_unknown, waits_for_refresh, waits_for_list, pass: Pass::default() }
    }

    fn push(&mut self, action: Action) {
        self.pass.actions.push(action);
    }

    /// At most one operation on a container at a time: while one is in progress its reason may be about to go.
    fn unless_busy(&mut self, uuid: &ContainerUuid, action: Action) {
        if self.input.busy.contains(uuid) {
            self.pass.refused_because_busy = true;
        } else {
            self.push(action);
        }
    }
}
