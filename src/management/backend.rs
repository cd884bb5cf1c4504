//! What the management API asks of the daemon: one method per operation, and the answers' types.
//!
//! The listener parses and answers, the daemon acts; neither knows the other's insides. The methods are called by
//! connection threads, several at once. They may read files and the database, and must not take longer than a few
//! seconds, except where waiting is the purpose (`logs`, `wait`).
//! Spec 82 §3, `API.md`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::arvados::{InstanceRecord, QueueEntryRecord};
use super::records::{
    Backup, Batch, Commit, ContainerDetail, ContainerList, InstanceRow, InstanceTypeList, Outcomes, Selection, Status,
    Submission, Submitted, Version, Wait, WaitAnswer,
};
use crate::core::ids::{Attempt, ContainerUuid, InstanceId};
use crate::core::vocabulary::{ContainerState, IdleBehavior};

/// An answer that is not a success: HTTP status and one text for people, sent as `{"errors": ["text"]}`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub status: u16,
    pub message: String,
}

impl ApiError {
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// 400: malformed; the text names the field.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    /// 404: no such container, instance, batch or path.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(404, message)
    }

    /// 409: not in this state.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(409, message)
    }

    /// 413: over a limit.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, message)
    }

    /// 422: a record that can never run.
    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(422, message)
    }

    /// 503: storage trouble, or too much at once; try again.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, message)
    }

    /// 500: a fault of ours.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, message)
    }
}

/// `GET containers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListQuery {
    pub state: Option<ContainerState>,
    /// A glob over the whole name.
    pub name: Option<String>,
    /// 1–10000.
    pub limit: usize,
    /// [`ContainerList::next`] of the page before; not checked here.
    pub before: Option<String>,
}

/// Which output of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    Stdout,
    Stderr,
}

impl LogStream {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    /// The inverse of `as_str`.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Stdout, Self::Stderr].into_iter().find(|stream| stream.as_str() == text)
    }
}

/// `GET containers/UUID/logs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogQuery {
    pub uuid: ContainerUuid,
    pub stream: LogStream,
    /// `None` = the last one.
    pub attempt: Option<Attempt>,
    /// Bytes from the beginning of the stream.
    pub offset: u64,
    /// How long to wait for a byte beyond `offset` (or the end); at most
    /// [`WAIT_SECONDS_MAX`](super::records::WAIT_SECONDS_MAX).
    pub wait: Duration,
}

/// Largest [`LogChunk::bytes`].
pub const LOG_CHUNK_BYTES_MAX: usize = 1024 * 1024;

/// A piece of a container's output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogChunk {
    /// At most [`LOG_CHUNK_BYTES_MAX`]; empty if nothing came while waiting, or at the end.
    pub bytes: Vec<u8>,
    pub next_offset: u64,
    /// Nothing will ever follow `next_offset`.
    pub end: bool,
    pub attempt: Attempt,
}

/// One cell of `instances_total`, `instances_price`, `vcpus_total` and `memory_bytes_total`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct InstanceSum {
    pub instances: u64,
    /// Per hour.
    pub price: f64,
    pub vcpus: i64,
    /// Bytes.
    pub ram: i64,
}

/// All gauges of spec 82 §5, as they are when the metrics are read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gauges {
    /// Entries by state and first candidate type (empty if there is none): see
    /// [`count_queue`](super::gauges::count_queue).
    pub queue_entries: BTreeMap<(ContainerState, String), u64>,
    /// Sums by category and type: see [`sum_instances`](super::gauges::sum_instances).
    pub instances: BTreeMap<(&'static str, String), InstanceSum>,
    /// Starting or running on workers.
    pub containers_running: u64,
    /// For each worker that is probed: time since its last successful probe, in any order.
    pub probe_ages: Vec<Duration>,
    pub containers_allocated_not_started: u64,
    pub containers_not_allocated_over_quota: u64,
    /// `None` if no container waits.
    pub containers_longest_wait: Option<Duration>,
    /// Unix time in seconds; 0 = never.
    pub last_503_time: f64,
    /// 0 = unlimited.
    pub max_concurrent_containers: u64,
    pub at_quota: bool,
}

/// The daemon, as seen by the listener.
pub trait Backend: Send + Sync {
    fn version(&self) -> Version;

    fn status(&self) -> Result<Status, ApiError>;

    /// Newest first.
    fn list(&self, query: &ListQuery) -> Result<ContainerList, ApiError>;

    /// All or nothing. 422 names the record (by its index, from 0) and its field.
    fn submit(&self, submission: Submission) -> Result<Submitted, ApiError>;

    fn show(&self, uuid: &ContainerUuid) -> Result<ContainerDetail, ApiError>;

    /// Waits up to `query.wait`.
    fn logs(&self, query: &LogQuery) -> Result<LogChunk, ApiError>;

    /// `selection.priority` is `None`. 400 for a selection that names nothing.
    fn cancel(&self, selection: &Selection) -> Result<Outcomes, ApiError>;

    /// `selection.priority` is `Some`; its range is checked by the callee.
    fn set_priority(&self, selection: &Selection) -> Result<Outcomes, ApiError>;

    /// Only `selection.uuids` is filled, and it is not empty.
    fn rerun(&self, selection: &Selection) -> Result<Outcomes, ApiError>;

    /// Waits up to `wait.wait_s`, which is finite and between 0 and
    /// [`WAIT_SECONDS_MAX`](super::records::WAIT_SECONDS_MAX).
    fn wait(&self, wait: &Wait) -> Result<WaitAnswer, ApiError>;

    fn create_batch(&self) -> Result<Batch, ApiError>;

    /// Adds lines to a batch that is not committed, each well-formed JSON or blank, the last one ended too; the number of lines it has
    /// then.
    fn append_batch(&self, batch: &str, lines: Vec<u8>) -> Result<u64, ApiError>;

    fn commit_batch(&self, batch: &str, commit: Commit) -> Result<Submitted, ApiError>;

    /// Cheapest first.
    fn instance_types(&self) -> Result<InstanceTypeList, ApiError>;

    /// Ends the circuit breaker's pause of a type (spec 20 §6). 404 if it is not configured.
    fn reset_instance_type(&self, name: &str) -> Result<(), ApiError>;

    /// Returns when the copy is complete.
    fn backup(&self, backup: &Backup) -> Result<(), ApiError>;

    /// In scheduling order, as of the scheduler's last pass; `None` before the first one.
    fn queue_entries(&self) -> Option<Vec<QueueEntryRecord>>;

    fn queue_entry(&self, uuid: &ContainerUuid) -> Option<QueueEntryRecord>;

    /// Starts the kill and returns at once. `reason` begins with `via management API: `. False if no worker has the
    /// container. An error if the wish could not be stored; then nothing is killed.
    fn kill_container(&self, uuid: &ContainerUuid, reason: &str) -> Result<bool, ApiError>;

    /// In any order: the listener sorts.
    fn instances(&self) -> Vec<InstanceRecord>;

    /// Machines of the driver that are no instances now and not simply free (spec 46 §1), in any order.
    fn unlisted_instances(&self) -> Vec<InstanceRow>;

    /// False if there is no such instance.
    fn set_idle_behavior(&self, instance: &InstanceId, behavior: IdleBehavior) -> bool;

    /// Destroys it whatever its state. `reason` begins with `via management API: `. False if there is no such instance.
    fn kill_instance(&self, instance: &InstanceId, reason: &str) -> bool;

    /// Spec 82 §4; the text says what is wrong.
    fn health(&self) -> Result<(), String>;

    fn gauges(&self) -> Gauges;

    /// The listener stops: calls that wait must return at once, and later ones must not wait.
    fn stop_waiting(&self);
}
