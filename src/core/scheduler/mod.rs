//! Which container goes where, and when to create or drop an instance (spec 30).
//!
//! A pass looks at one view of the pool and one snapshot of the queue and answers with the actions to carry out; it changes
//! nothing but the [`Scheduler`]'s own small memory. The scheduler thread runs it; the shell takes the pool's view *first* and the queue's
//! snapshot *after* it: then a container that left the pool because its end is in the queue shows that end.
//!
//! Reading order: the types here, [`order`] (who comes first), [`sync`] (the table of §4: what queue and pool disagree about),
//! [`stale`] (§1), [`limits`] (§3, dynamic limits), [`slots`] (instances and their free resources), [`plan`] (§3, the steps per
//! container), [`room`] (after the pass), [`status`] (texts for people), [`invariants`].

mod first_fit;
pub mod invariants;
mod limits;
mod order;
mod plan;
mod room;
mod slots;
mod stale;
mod status;
mod sync;

use std::collections::BTreeSet;
use std::time::Duration;

use super::container::LostReason;
use super::effect::{Level, Note};
use super::entry::{QueueEntry, QueueSnapshot};
use super::ids::{Attempt, ContainerUuid, InstanceId, TypeName};
use super::pool::view::PoolView;
use super::time::{Moment, WallMillis};
use super::vocabulary::ContainerState;
use limits::{Circumstances, DynamicLimits};
use order::{Item, Standing};
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
    /// The queue reports no trouble (`ContainerQueue::trouble`): false = nothing new is locked, started or created.
    pub may_start: bool,
    pub now: Moment,
}

/// One thing to do. Those on the pool (create, start, kill, rule out, shutdown, forget in pool) are carried out at once and in
/// order, under the pool's lock; those on the queue by threads in the background, at most one per container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Queue: Queued → Locked.
    Lock { uuid: ContainerUuid },
    /// Queue: Locked → Queued.
    Unlock { uuid: ContainerUuid },
    /// Pool: start it there. With a queue that keeps attempts, the start's thread first commits `assign`.
    Start { uuid: ContainerUuid, attempt: Attempt, instance: InstanceId, instance_type: TypeName },
    /// Pool: `kill_container`; `None` = wherever it is. (A pass always names the instance.)
    Kill { uuid: ContainerUuid, instance: Option<InstanceId>, reason: &'static str },
    /// Pool: make sure that an attempt which may have been sent there can never run.
    RuleOut { uuid: ContainerUuid, attempt: Attempt, instance: InstanceId },
    /// Pool: one more instance of this type.
    Create { instance_type: TypeName },
    /// Pool: drop an idle instance to make room for another type.
    Shutdown { instance: InstanceId },
    /// Queue: any state that is not final → Cancelled.
    Cancel { uuid: ContainerUuid, why: String },
    /// Queue: a probe listed this attempt: Locked → Running.
    SeenRunning { uuid: ContainerUuid, attempt: Attempt },
    /// Queue: the attempt ended without a result.
    AttemptLost { uuid: ContainerUuid, attempt: Attempt, reason: LostReason },
    /// Pool: `forget_container`.
    ForgetInPool { uuid: ContainerUuid },
    /// Queue: `forget`.
    ForgetInQueue { uuid: ContainerUuid },
}

impl Action {
    /// The container it is about, if any.
    pub fn uuid(&self) -> Option<&ContainerUuid> {
        match self {
            Self::Lock { uuid }
            | Self::Unlock { uuid }
            | Self::Start { uuid, .. }
            | Self::Kill { uuid, .. }
            | Self::RuleOut { uuid, .. }
            | Self::Cancel { uuid, .. }
            | Self::SeenRunning { uuid, .. }
            | Self::AttemptLost { uuid, .. }
            | Self::ForgetInPool { uuid }
            | Self::ForgetInQueue { uuid } => Some(uuid),
            Self::Create { .. } | Self::Shutdown { .. } => None,
        }
    }

    /// An operation on the queue, to be carried out in the background; all others are the pool's.
    pub fn is_on_queue(&self) -> bool {
        matches!(
            self,
            Self::Lock { .. }
                | Self::Unlock { .. }
                | Self::Cancel { .. }
                | Self::SeenRunning { .. }
                | Self::AttemptLost { .. }
                | Self::ForgetInQueue { .. }
        )
    }
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
    /// Every entry of the queue, in scheduling order.
    pub statuses: Vec<EntryStatus>,
    pub figures: PassFigures,
    pub notes: Vec<Note>,
    /// Something was left out because its container was busy; [`Scheduler::next_deadline`] covers it.
    pub refused_because_busy: bool,
}

/// The little that is remembered from pass to pass. Losing it (a restart) costs at most a repeated step.
#[derive(Debug)]
pub struct Scheduler {
    settings: SchedulerSettings,
    limits: DynamicLimits,
    stale: StaleLocks,
    ruled_out: RuledOut,
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
    }

    /// Plans what to do now. Before the pool's first list was applied nothing is decided and the answer is empty.
    pub fn pass(&mut self, input: &PassInput<'_>) -> Pass {
        let mut draft = Draft { input: *input, keeps_attempts: self.settings.keeps_attempts, pass: Pass::default() };
        if !input.pool.loaded {
            return draft.pass;
        }
        let running = self.learn_limits(input);
        let stale = self.stale_step(input);
        let mut items = self.judge_all(&mut draft, stale);
        draft.judge_strangers();
        order::sort(&mut items);
        let paused = !input.may_start || stale == StaleStep::Wait;
        self.run_queue(&mut draft, &items, running, paused);
        self.retry_at = draft.pass.refused_because_busy.then(|| input.now + BUSY_RETRY);
        self.limits_at = self.limits.deadline(input.now);
        draft.pass
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

    fn stale_step(&mut self, input: &PassInput<'_>) -> StaleStep {
        let known = |uuid: &ContainerUuid| input.pool.containers.contains_key(uuid);
        let locked = |entry: &QueueEntry| entry.container.state == ContainerState::Locked;
        let present = !self.settings.keeps_attempts
            && input.pool.has_unknown()
            && input.queue.entries.iter().any(|(uuid, entry)| locked(entry) && !known(uuid));
        self.stale.step(present, self.settings.stale_lock_timeout, input.now)
    }

    fn judge_all<'a>(&mut self, draft: &mut Draft<'a>, stale: StaleStep) -> Vec<Item<'a>> {
        let queue = draft.input.queue;
        self.ruled_out.retain(|uuid, _| {
            queue.entries.get(uuid).is_some_and(|entry| entry.container.state == ContainerState::Locked)
        });
        let judged = queue.entries.values().map(|entry| {
            let standing = draft.judge(entry, stale, &mut self.ruled_out);
            Item { entry, standing, busy: draft.input.busy.contains(&entry.container.uuid) }
        });
        judged.collect()
    }

    fn run_queue<'a>(&mut self, draft: &mut Draft<'a>, items: &[Item<'a>], running: usize, paused: bool) {
        let settings = &self.settings;
        let max_containers = settings.max_running_containers_per_instance;
        let mut plan = Plan::new(draft, &self.limits, settings.supervisor_fraction, max_containers, running, paused);
        let statuses = plan.walk(items, &mut self.ruled_out);
        let at_quota = plan.at_quota();
        let figures = PassFigures {
            allocated_not_started: plan.allocated_not_started,
            not_allocated_over_quota: plan.over_quota.len() + plan.over_supervisors.len(),
            longest_wait_since: items.iter().filter(|item| waits(item)).map(|i| i.entry.container.created_at).min(),
            max_concurrent_containers: self.limits.tighter(),
        };
        plan.unlock_excess(items);
        plan.make_room(items);
        let too_small = std::mem::take(&mut plan.slots.too_small);
        draft.pass.figures = figures;
        let texts = status::texts(items, &statuses, at_quota);
        let entry_status = |(item, text): (&Item<'_>, String)| EntryStatus { uuid: item.uuid().clone(), text };
        draft.pass.statuses = items.iter().zip(texts).map(entry_status).collect();
        self.report_too_small(draft, too_small);
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
    pass: Pass,
}

impl Draft<'_> {
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
