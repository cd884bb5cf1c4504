//! The queue of containers as the scheduler and the result path see it (spec 70 §1), and the stores that serve it.

pub mod local;

use std::path::Path;

use crossbeam_channel::Receiver;

use crate::core::container::Container;
pub use crate::core::container::LostReason;
use crate::core::entry::QueueSnapshot;
use crate::core::ids::{Attempt, ContainerUuid, InstanceId, TypeName};
use crate::core::time::Moment;

/// Most bytes of a result.json. A real one has a few hundred; its longest part is the names of outputs, at most 1000 of 4 KiB.
pub const RECORD_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// A failure of one queue operation. What the caller does with each is said at the variant.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// No such container (any more).
    #[error("there is no container {0}")]
    NotFound(ContainerUuid),
    /// The operation does not apply to the state the container is in by now. The reason for it has gone: do nothing.
    #[error("container {uuid}: cannot {operation} when {state}")]
    WrongState { uuid: ContainerUuid, operation: &'static str, state: &'static str },
    /// The store cannot be written now (disk full, locked, damaged). Try again later; nothing was changed.
    #[error("the queue's storage failed to {operation}")]
    Storage {
        operation: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The remote queue asks for fewer requests (503).
    #[error("the queue is busy")]
    Busy,
}

/// Where an attempt goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    pub instance: InstanceId,
    pub instance_type: TypeName,
    /// What the instance costs per hour now, where its driver knows that; else the type's price counts.
    pub price: Option<f64>,
}

/// What the queue expects of a started attempt: given back by [`ContainerQueue::assign`].
#[derive(Clone, Debug)]
pub struct Assignment {
    pub container: Container,
    pub attempt: Attempt,
    /// It was assigned before: a start of it may have been sent already, and may still come.
    pub repeated: bool,
}

/// A store of containers. Every operation is safe to call from any thread.
///
/// Transitions are durable when the call returns and the snapshot shows them at once; a refresh that
/// began earlier does not undo them. `snapshot`, `get` and `subscribe` never block on I/O; the others may,
/// and must not be called while the pool's lock is held.
pub trait ContainerQueue: Send + Sync + std::fmt::Debug {
    fn snapshot(&self) -> QueueSnapshot;

    /// One container of the snapshot.
    fn get(&self, uuid: &ContainerUuid) -> Option<Container>;

    /// Queued → Locked.
    fn lock(&self, uuid: &ContainerUuid) -> Result<(), QueueError>;

    /// Locked → Queued (Cancelled if a cancel was asked for meanwhile). Local queue: only for an attempt that was never sent, or that a kill has ruled out.
    fn unlock(&self, uuid: &ContainerUuid) -> Result<(), QueueError>;

    /// Any state that is not final → Cancelled with this reason in `runtime_status.error`.
    fn cancel(&self, uuid: &ContainerUuid, why: &str) -> Result<(), QueueError>;

    /// Drops the container from the snapshot: only in a final state, or Queued with priority 0 (otherwise no effect).
    fn forget(&self, uuid: &ContainerUuid);

    /// Refreshes the snapshot from the store; `now` is the time of the call. On failure snapshot and `as_of` stay.
    fn update(&self, now: Moment) -> Result<(), QueueError>;

    /// A one-slot channel that becomes ready after any change; more changes while it is ready are dropped.
    fn subscribe(&self) -> Receiver<()>;

    /// Whether attempts are counted and results collected here (the local queue) or by the runner's own API calls (Arvados).
    fn keeps_attempts(&self) -> bool;

    /// Writes instance and attempt number of a Locked container, *before* its start is sent (spec 70 §3). Calling it again for
    /// the same attempt and instance changes nothing and succeeds: the start is simply repeated.
    fn assign(&self, uuid: &ContainerUuid, attempt: Attempt, placement: &Placement) -> Result<Assignment, QueueError>;

    /// A probe listed this attempt for the first time: Locked → Running. No effect for any other attempt or state.
    fn seen_running(&self, uuid: &ContainerUuid, attempt: Attempt) -> Result<(), QueueError>;

    /// The result directory of an attempt (`StateDir/containers/UUID/ATTEMPT`) holds a complete, synced result:
    /// record it in one transaction. An attempt that is closed already keeps the result as *late*, the container does not change.
    fn finish(&self, uuid: &ContainerUuid, attempt: Attempt, result_dir: &Path) -> Result<(), QueueError>;

    /// The attempt ended without a result: Queued again while attempts are left, else Cancelled. Repeating it, or naming an
    /// attempt that is not the current one, changes nothing.
    fn attempt_lost(&self, uuid: &ContainerUuid, attempt: Attempt, reason: LostReason) -> Result<(), QueueError>;

    /// Why new work must not start now (disk full, damage), if so: one sentence for the log and the health check.
    fn trouble(&self) -> Option<String>;

    /// Time of the last "too busy" answer of a remote queue, if ever; the scheduler's API limit follows it (spec 30 §3).
    fn last_busy_answer(&self) -> Option<Moment> {
        None
    }
}
