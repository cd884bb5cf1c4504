//! What the local queue's callers hand in and get back, beyond the scheduler's [`crate::queue::ContainerQueue`] (spec 70 §3,
//! 80 §1). Plain data; no thread of its own.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::core::container::{Container, ContainerRequest};
use crate::core::ids::{Attempt, ContainerUuid, InstanceId, TypeName};
use crate::core::instance_type::InstanceType;
use crate::core::resources::Resources;
use crate::core::time::WallMillis;
use crate::core::vocabulary::ContainerState;
use crate::queue::QueueError;

/// What a container needs and the types that offer it, cheapest first; or the sentence that tells the user why none does.
pub type Selection = Result<(Resources, Arc<[Arc<InstanceType>]>), String>;

/// Computes a [`Selection`]. It may look only at what the request says about the machine: vcpus, ram, keep caches, scratch, gpu,
/// preemptible and image (containers of one submission that agree in these share one answer). Never called with a lock held.
pub type Selector = Arc<dyn Fn(&ContainerRequest) -> Selection + Send + Sync>;

/// The wall clock: milliseconds since the Unix epoch.
pub type WallClock = Arc<dyn Fn() -> WallMillis + Send + Sync>;

/// Starts a thread of this name: threads begin in one file of the shell, which sets the stack size.
pub type Spawn<'a> = &'a dyn Fn(String, Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>>;

/// How to open a local queue.
#[derive(Clone)]
pub struct LocalQueueOptions {
    /// `StateDir/queue.db`; results are kept beside it in `containers/`.
    pub path: PathBuf,
    /// Five characters of `0-9a-z`: the first part of new uuids.
    pub cluster_id: String,
    /// Submissions that would bring more waiting (Queued) containers than this are refused.
    pub max_queued: usize,
    /// `max_attempts` of a record that does not say.
    pub default_max_attempts: u32,
    /// The worker's engine runs images; otherwise a request with one is refused.
    pub images_allowed: bool,
    pub selector: Selector,
}

impl fmt::Debug for LocalQueueOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalQueueOptions")
            .field("path", &self.path)
            .field("cluster_id", &self.cluster_id)
            .finish_non_exhaustive()
    }
}

/// Why the queue could not be opened. The file is left as it is in every case.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the cluster id {0:?} is not five characters of 0-9 and a-z, so container uuids cannot be made from it")]
    ClusterId(String),
    #[error("failed to open the queue {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(
        "{path} is damaged ({detail}); nothing was changed: restore a backup in its place, or move it away to begin with an empty queue"
    )]
    Damaged { path: PathBuf, detail: String },
    #[error("{path} is an SQLite file but not a queue of Muster; nothing was changed")]
    Foreign { path: PathBuf },
    #[error("{path} has schema version {found}, this program knows up to {known}: use the newer program that wrote it")]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("failed to start the queue's writer thread")]
    Thread(#[source] io::Error),
}

/// One field of a record is wrong. The message says what is expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct FieldError {
    /// Name as in the record, e.g. `runtime_constraints.ram`.
    pub field: String,
    pub message: String,
}

impl FieldError {
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// A user's or operator's command was not carried out; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// `NotFound`, `WrongState` or `Storage`, as for the scheduler's operations.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Not possible with this container now; `why` says what to do instead.
    #[error("container {uuid}: {why}")]
    Refused { uuid: ContainerUuid, why: String },
    /// Record number `line` (from 1) of the submission is wrong; `None` when there is only one.
    #[error("{}{field}", line_prefix(*.line))]
    Invalid { line: Option<usize>, field: FieldError },
    #[error("{adding} more would make {waiting} waiting containers, above MaxQueued {limit}: submit fewer, or later")]
    TooMany { adding: usize, waiting: usize, limit: usize },
    #[error("there is no batch {0:?}: it was committed, or has vanished 10 minutes after its last piece")]
    NoSuchBatch(String),
    /// A piece or a batch is above its limit; the text says which.
    #[error("{0}")]
    TooLarge(String),
    /// A backup could not be written.
    #[error("failed to write the backup {path}")]
    Backup {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn line_prefix(line: Option<usize>) -> String {
    line.map(|line| format!("line {line}: ")).unwrap_or_default()
}

/// What became of a request to cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelOutcome {
    /// It waited: it is Cancelled now.
    Cancelled,
    /// It is locked or runs: it will be killed. Asking again changes nothing.
    Requested,
}

/// Which containers to list. The default lists all, without end: set `limit`.
#[derive(Clone, Debug, Default)]
pub struct ListFilter {
    pub state: Option<ContainerState>,
    /// Shell pattern for the whole name (`*`, `?`, `[a-z]`, `{a,b}`).
    pub name_glob: Option<String>,
    pub uuids: Option<BTreeSet<ContainerUuid>>,
    /// Most to return; 0 = no limit.
    pub limit: usize,
    /// The `next` of the page before.
    pub after: Option<u64>,
}

/// Some containers, newest first.
#[derive(Clone, Debug, Default)]
pub struct Page {
    pub containers: Vec<Container>,
    /// Where the next page begins; `None` when there is no more.
    pub next: Option<u64>,
}

/// All that is known of one container.
#[derive(Clone, Debug)]
pub struct Detail {
    pub container: Container,
    /// By number.
    pub attempts: Vec<AttemptRecord>,
    /// In order of time, the submission first.
    pub history: Vec<HistoryRecord>,
}

/// One attempt to run a container.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptRecord {
    pub attempt: Attempt,
    pub instance: InstanceId,
    pub instance_type: TypeName,
    /// When the start was decided.
    pub started_at: WallMillis,
    pub ended_at: Option<WallMillis>,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    /// Why it ended; empty while it has not.
    pub reason: String,
    /// Bytes.
    pub peak_memory: Option<u64>,
    pub cpu_seconds: Option<f64>,
    /// Price × time, in price units; 0 while it has not ended.
    pub cost: f64,
    /// It was closed by its result.
    pub collected: bool,
    /// The result that came after the attempt had been closed, if one did: what it said.
    pub late_result: Option<String>,
}

/// One line of a container's story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryRecord {
    pub time: WallMillis,
    /// `submitted`, `locked`, `unlocked`, `assigned`, `running`, `finished`, `lost`, `requeued`, `cancelled`, `cancel requested`,
    /// `kill asked`, `priority changed`, `ready` or `late result`.
    pub event: String,
    pub detail: String,
}

/// A container's state and, when Complete, its exit code; `None` for an unknown uuid.
pub type StateOf = Option<(ContainerState, Option<i32>)>;
