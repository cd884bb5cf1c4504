//! What the scheduler wants of the queue, done by a few threads: at most one operation per container at a time (spec 30 §4).
//! Several threads, because the queue groups the commits of those who ask at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::fault_point::{FaultPoint, reached};
use super::wakeups::Subscribers;
use super::work_pool::WorkPool;
use crate::core::container::LostReason;
use crate::core::effect::{Level, Note};
use crate::core::errors::chain;
use crate::core::ids::{Attempt, ContainerUuid, InstanceId};
use crate::log::write_note;
use crate::queue::{ContainerQueue, QueueError};

const THREADS: usize = 16;
/// The scheduler asks again for what finds no room.
const WAITING_MAX: usize = 4096;
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// One change of a container's state in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transition {
    Lock,
    Unlock,
    Cancel { why: String },
    SeenRunning { attempt: Attempt },
    AttemptLost { attempt: Attempt, reason: LostReason },
}

impl Transition {
    const fn name(&self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Unlock => "unlock",
            Self::Cancel { .. } => "cancel",
            Self::SeenRunning { .. } => "mark as running",
            Self::AttemptLost { .. } => "give up an attempt of",
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Transitions {
    threads: WorkPool<(ContainerUuid, Transition)>,
    busy: Arc<Mutex<Busy>>,
}

/// Containers with an operation in progress (`None`), or whose last one failed and which are left alone until then: the scheduler
/// asks again and again, and a full disk must not become a busy loop.
type Busy = BTreeMap<ContainerUuid, Option<Instant>>;

impl Transitions {
    /// `done` is notified after each one. `lost` is told of attempts whose loss was committed, and where they were.
    pub fn new(
        queue: Arc<dyn ContainerQueue>,
        done: Arc<Subscribers>,
        lost: impl Fn(&InstanceId, &ContainerUuid, Attempt) + Send + Sync + 'static,
    ) -> Self {
        let busy = Arc::new(Mutex::new(Busy::new()));
        let of_thread = busy.clone();
        let threads = WorkPool::new("queue", THREADS, WAITING_MAX, move |(uuid, transition): (ContainerUuid, _)| {
            let place = queue.get(&uuid).and_then(|container| container.instance);
            if carry_out(&*queue, &uuid, &transition) {
                if let (Transition::AttemptLost { attempt, .. }, Some(instance)) = (&transition, place) {
                    lost(&instance, &uuid, *attempt);
                }
                of_thread.lock().remove(&uuid);
            } else {
                of_thread.lock().insert(uuid, Some(Instant::now() + PAUSE_AFTER_FAILURE));
            }
            done.notify();
        });
        Self { threads, busy }
    }

    /// Containers to leave alone now. While there are any, the scheduler looks again soon (`BUSY_RETRY`).
    pub fn busy(&self) -> BTreeSet<ContainerUuid> {
        let now = Instant::now();
        let mut busy = self.busy.lock();
        busy.retain(|_, until| until.is_none_or(|until| now < until));
        busy.keys().cloned().collect()
    }

    /// Begins one in the background; nothing happens if the container is busy or there is no room.
    pub fn begin(&self, uuid: &ContainerUuid, transition: Transition) {
        {
            let mut busy = self.busy.lock();
            if busy.contains_key(uuid) {
                return;
            }
            busy.insert(uuid.clone(), None);
        }
        if self.threads.submit((uuid.clone(), transition)).is_err() {
            self.busy.lock().remove(uuid);
        }
    }

    /// See [`WorkPool::stop`].
    ///
    /// # Errors
    /// Names of the threads that are late.
    pub fn stop(&self, deadline: Instant) -> Result<(), Vec<String>> {
        self.threads.stop(deadline)
    }
}

/// False if the queue could not do it now; one that has become pointless counts as done.
fn carry_out(queue: &dyn ContainerQueue, uuid: &ContainerUuid, transition: &Transition) -> bool {
    let result = match transition {
        Transition::Lock => queue.lock(uuid),
        Transition::Unlock => queue.unlock(uuid),
        Transition::Cancel { why } => queue.cancel(uuid, why),
        Transition::SeenRunning { attempt } => queue.seen_running(uuid, *attempt),
        Transition::AttemptLost { attempt, reason } => queue.attempt_lost(uuid, *attempt, *reason),
    };
    match result {
        Ok(()) => {
            log_done(queue, uuid, transition);
            if *transition == Transition::Lock {
                reached(FaultPoint::LockCommitted);
            }
            true
        }
        Err(error) => {
            let pointless = matches!(error, QueueError::WrongState { .. } | QueueError::NotFound(_));
            let level = if pointless { Level::Debug } else { Level::Warn };
            let note = Note::new(level, "queue", "queue operation failed").with("ContainerUUID", uuid);
            write_note(&note.with("Operation", transition.name()).with("error", chain(&error)));
            pointless
        }
    }
}

/// Each change of a container's state is one info line with its uuid (spec 80 §4).
fn log_done(queue: &dyn ContainerQueue, uuid: &ContainerUuid, transition: &Transition) {
    let state = queue.get(uuid).map(|container| container.state.as_str()).unwrap_or_default();
    let (level, message) = match transition {
        Transition::Lock => (Level::Info, "container locked"),
        Transition::Unlock => (Level::Info, "container unlocked"),
        Transition::Cancel { .. } => (Level::Info, "container cancelled"),
        Transition::SeenRunning { .. } => (Level::Info, "container running"),
        Transition::AttemptLost { .. } => (Level::Warn, "attempt lost"),
    };
    let note = Note::new(level, "queue", message).with("ContainerUUID", uuid).with("State", state);
    let note = match transition {
        Transition::Cancel { why } => note.with("Reason", why),
        Transition::AttemptLost { attempt, reason } => note.with("Attempt", attempt).with("Reason", reason.as_str()),
        Transition::SeenRunning { attempt } => note.with("Attempt", attempt),
        Transition::Lock | Transition::Unlock => note,
    };
    write_note(&note);
}
