//! The container record of spec 70 §2: the same fields and meanings for every queue, so that one scheduler serves all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::ids::{Attempt, ContainerUuid, InstanceId, TypeName};
use super::time::WallMillis;
use super::vocabulary::ContainerState;

/// Accelerators that a container asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GpuRequest {
    /// `cuda`, `rocm`, or empty for none.
    pub stack: String,
    /// The least driver version, `X.Y`; looked at only with devices.
    pub driver_version: String,
    /// cuda: one = the least capability, several = exactly one of them; rocm: one of them.
    pub hardware_target: Vec<String>,
    pub device_count: i64,
    /// Bytes per device, at least.
    pub vram: i64,
}

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
    /// Where the last attempt was sent. Set together with `attempt`, before the start is sent; `None` again once the container
    /// is back to Queued, so a Locked container without it has nothing that could be running.
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

/// Why an attempt ended without a result (spec 70 §3, "lost attempt").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostReason {
    /// Neither listed nor finished after its start returned: the runner crashed.
    RunnerCrashed,
    /// Its instance is gone from the cloud's list, or was written off.
    InstanceGone,
}

impl LostReason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RunnerCrashed => "its runner ended without a result",
            Self::InstanceGone => "its instance is gone",
        }
    }
}
