//! The container record of spec 70 §2: the same fields and meanings for every queue, so that one scheduler serves all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::ids::{Attempt, ContainerUuid, InstanceId, TypeName};
use super::instance_type::{GpuRequest, InstanceType};
use super::resources::Resources;
use super::time::{Moment, WallMillis};
use super::vocabulary::ContainerState;

/// What a container asks for: everything that the user decides, nothing that happens later.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerRequest {
    pub name: String,
    /// Program and arguments; never interpreted by a shell. Not empty.
    pub command: Vec<String>,
    /// Working directory; empty = the fresh one of the attempt.
    pub cwd: String,
    pub environment: BTreeMap<String, String>,
    pub stdin: String,
    /// Empty = no image (process engine).
    pub container_image: String,
    /// 0–1000 for the local queue (higher is more urgent, 0 = on hold); Arvados' computed ones reach 10^18.
    pub priority: i64,
    pub vcpus: i64,
    /// Bytes.
    pub ram: i64,
    pub keep_cache_ram: i64,
    pub keep_cache_disk: i64,
    /// Bytes: the sum of the capacities of mounts of kind `tmp`.
    pub scratch: i64,
    pub gpu: GpuRequest,
    pub preemptible: bool,
    pub supervisor: bool,
    /// `None` = no limit.
    pub max_run_time: Option<Duration>,
    /// At least 1.
    pub max_attempts: u32,
    pub array_index: Option<i64>,
    /// Paths below the working directory to bring back.
    pub outputs: Vec<String>,
    /// Containers that must be Complete with exit code 0 first.
    pub after: Vec<ContainerUuid>,
}

/// Texts for people about a container's fate, and Arvados' well-known keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeStatus {
    pub error: String,
    pub warning: String,
    pub activity: String,
}

/// One container as the queue knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    pub uuid: ContainerUuid,
    pub state: ContainerState,
    /// Shared with older snapshots: it never changes, only [`Container::priority`] does.
    pub request: Arc<ContainerRequest>,
    /// The current priority (the request's one is where it began).
    pub priority: i64,
    pub created_at: WallMillis,
    pub started_at: Option<WallMillis>,
    pub finished_at: Option<WallMillis>,
    /// Number of the last attempt whose start was decided; 0 = none yet.
    pub attempt: Attempt,
    /// Where the last attempt was sent. Set together with `attempt`, before the start is sent.
    pub instance: Option<InstanceId>,
    pub instance_type: Option<TypeName>,
    pub exit_code: Option<i32>,
    pub runtime_status: RuntimeStatus,
    pub cancel_requested: bool,
    /// Empty unless Locked or Running.
    pub locked_by_uuid: String,
    /// Price × time of all attempts, in price units.
    pub cost: f64,
}

/// What the scheduler works on: a container and what was computed once when it was first seen.
#[derive(Clone, Debug)]
pub struct QueueEntry {
    pub container: Container,
    pub resources: Resources,
    /// Eligible types, cheapest first. Empty only for a container that is Running although no configured type fits any more.
    pub instance_types: Arc<[Arc<InstanceType>]>,
    /// Order of arrival: smaller came earlier. The local queue uses its row number, which survives a restart.
    pub first_seen: u64,
    /// False while something in `after` is not Complete yet: the entry is listed but not scheduled.
    pub ready: bool,
}

/// A snapshot of the queue.
#[derive(Clone, Debug, Default)]
pub struct QueueSnapshot {
    /// Sorted by uuid.
    pub entries: BTreeMap<ContainerUuid, Arc<QueueEntry>>,
    /// When the last complete refresh *began*: a decision based on an exit that was seen at T is valid only if this is later
    /// than T (spec 20 §6).
    pub as_of: Moment,
}
