//! The scheduler's thread (spec 30): waits for something to change, looks at pool and queue, has the core plan, carries the plan out.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use super::clock::Clock;
use super::pool::PoolDoor;
use super::stop::Stop;
use super::transitions::{Transition, Transitions};
use super::wakeups::{Subscribers, Wakeups};
use crate::core::effect::{Level, Note};
use crate::core::errors::chain;
use crate::core::ids::InstanceSecret;
use crate::core::scheduler::outlook::{Listing, Outlook};
use crate::core::scheduler::{Action, PassFigures, PassInput, Scheduler, SchedulerSettings};
use crate::log::write_note;
use crate::management::metrics::Metrics;
use crate::queue::ContainerQueue;

/// A notification that is on its way is no missed wake-up: so long it may take from the change to the thread.
const NOTIFICATION_DELAY: Duration = Duration::from_secs(1);

/// A pass that took at least this long is followed by a rest as long as it took, up to the second.
const REST_ABOVE: Duration = Duration::from_millis(1);
const REST_MAX: Duration = Duration::from_millis(100);

/// What the last pass decided: for the API.
#[derive(Debug)]
pub struct Report {
    outlook: Arc<Outlook>,
    pub figures: PassFigures,
    /// Made for the first who asks.
    listing: OnceLock<Listing>,
}

impl Report {
    fn new(outlook: Arc<Outlook>, figures: PassFigures) -> Self {
        Self { outlook, figures, listing: OnceLock::new() }
    }

    /// Every entry of the queue that the pass saw, in scheduling order.
    pub fn listing(&self) -> &Listing {
        self.listing.get_or_init(|| self.outlook.listing())
    }
}

/// What the thread shares with others.
#[derive(Debug)]
pub struct SchedulerShared {
    pub door: Arc<PoolDoor>,
    pub clock: Clock,
    pub queue: Arc<dyn ContainerQueue>,
    pub transitions: Transitions,
    pub metrics: Arc<Metrics>,
    /// `None` before the first pass.
    pub report: RwLock<Option<Arc<Report>>>,
    pub missed_wakeups: AtomicU64,
    /// New settings, to be taken over by the next pass.
    pub new_settings: Mutex<Option<SchedulerSettings>>,
}

impl Wakeups {
    pub fn subscribe(pool: &Subscribers, queue: &dyn ContainerQueue, done: &Subscribers) -> Self {
        Self { pool: pool.subscribe(), queue: queue.subscribe(), done: done.subscribe() }
    }
}

/// The thread's body: until `stop`. As a net a pass also runs every `poll_interval`; if it finds work, a wake-up was missed.
pub fn run(
    shared: &SchedulerShared,
    settings: SchedulerSettings,
    wakeups: &Wakeups,
    poll_interval: Duration,
    stop: &Stop,
) {
    let mut scheduler = Scheduler::new(settings);
    let mut next_net = Instant::now() + poll_interval;
    // The first pass runs at once.
    let mut told = true;
    loop {
        let deadline = scheduler.next_deadline().map(|moment| shared.clock.instant_of(moment));
        let Some(woken) = wakeups.await_pass(told, deadline, next_net, stop) else {
            return;
        };
        let began = Instant::now();
        let actions = plan(shared, &mut scheduler);
        // Before anything is carried out: what that announces must not pass for an announcement of what was found.
        let mut announced = false;
        if !actions.is_empty() && !woken {
            announced = wakeups.announced_within(NOTIFICATION_DELAY, stop);
            if !announced {
                shared.missed_wakeups.fetch_add(1, Ordering::Relaxed);
                shared.metrics.missed_wakeup();
                write_note(&Note::new(Level::Warn, "scheduler", "missed wake-up: the safety net found work"));
            }
        }
        for action in actions {
            carry_out(shared, action);
        }
        rest(began.elapsed(), stop);
        // What was announced may be about something that this pass did not see.
        told = announced;
        next_net = Instant::now() + poll_interval;
    }
}

/// Passes over a long queue may take half of a processor, and no more: what is announced meanwhile is seen by one pass.
fn rest(took: Duration, stop: &Stop) {
    if took >= REST_ABOVE {
        let _ = stop.channel().recv_timeout(took.min(REST_MAX));
    }
}

/// Looks and decides; what is to be done is the answer.
fn plan(shared: &SchedulerShared, scheduler: &mut Scheduler) -> Vec<Action> {
    let began = Instant::now();
    if let Some(settings) = shared.new_settings.lock().take() {
        scheduler.reconfigure(settings);
    }
    // The pool first and the queue after it: then a container that left the pool because its end is in the queue shows that end.
    let pool = shared.door.view();
    if shared.queue.keeps_attempts()
        && let Err(error) = shared.queue.update(shared.clock.now())
    {
        write_note(&Note::new(Level::Debug, "scheduler", "cannot refresh the queue").with("error", chain(&error)));
    }
    // Before the snapshot: a transition that ends between the two is seen in it, and not ordered again.
    let busy = shared.transitions.busy();
    let queue = shared.queue.snapshot();
    let input = PassInput {
        pool: &pool,
        queue: &queue,
        busy: &busy,
        last_busy_answer: shared.queue.last_busy_answer(),
        may_start: pool.storage_fault.is_none() && shared.queue.trouble().is_none(),
        now: shared.clock.now(),
    };
    let pass = scheduler.pass(&input);
    for note in &pass.notes {
        write_note(note);
    }
    drop(queue);
    let is_news = |known: &Option<Arc<Report>>| {
        known.as_ref().is_none_or(|known| !Arc::ptr_eq(&known.outlook, &pass.outlook) || known.figures != pass.figures)
    };
    if is_news(&shared.report.read()) {
        *shared.report.write() = Some(Arc::new(Report::new(pass.outlook.clone(), pass.figures)));
    }
    shared.metrics.scheduler_pass(began.elapsed());
    pass.actions
}

fn carry_out(shared: &SchedulerShared, action: Action) {
    let door = &shared.door;
    match action {
        Action::Lock { uuid } => shared.transitions.begin(&uuid, Transition::Lock),
        Action::Unlock { uuid } => shared.transitions.begin(&uuid, Transition::Unlock),
        Action::Cancel { uuid, why } => shared.transitions.begin(&uuid, Transition::Cancel { why }),
        Action::SeenRunning { uuid, attempt } => shared.transitions.begin(&uuid, Transition::SeenRunning { attempt }),
        Action::AttemptLost { uuid, attempt, reason } => {
            shared.transitions.begin(&uuid, Transition::AttemptLost { attempt, reason });
        }
        Action::ForgetInQueue { uuid } => shared.queue.forget(&uuid),
        Action::Start { uuid, attempt, instance, .. } => {
            door.start_container(&instance, &uuid, attempt);
        }
        Action::Kill { uuid, instance, reason } => {
            door.kill_container(&uuid, instance.as_ref(), reason);
        }
        Action::RuleOut { uuid, attempt, instance } => {
            door.rule_out(&uuid, attempt, &instance);
        }
        Action::Create { instance_type } => match new_secret() {
            Ok(secret) => {
                door.create(&instance_type, secret);
            }
            Err(error) => {
                let note = Note::new(Level::Error, "scheduler", "no random numbers for an instance's secret");
                write_note(&note.with("error", error));
            }
        },
        Action::Shutdown { instance } => {
            door.shutdown(&instance);
        }
        Action::ForgetInPool { uuid } => door.forget_container(&uuid),
    }
}

/// 40 hexadecimal digits from the system's generator (spec 20 §1).
pub(super) fn new_secret() -> Result<InstanceSecret, getrandom::Error> {
    let mut bytes = [0; 20];
    getrandom::fill(&mut bytes)?;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(InstanceSecret::new(&digits))
}
