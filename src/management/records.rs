//! The JSON documents of `/muster/v1/` (see `API.md`): what the daemon writes and the commands read. No logic.
//!
//! Fields are only ever added; unknown ones are ignored by readers. Times are milliseconds since the Unix epoch, sizes bytes,
//! durations seconds. Absent values are `null`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Version of this API: the commands refuse a daemon that speaks another one.
pub const API_VERSION: u32 = 1;
/// Request and answer header that carries [`API_VERSION`].
pub const API_HEADER: &str = "Muster-API";
/// Answer headers of a log chunk: where the next one begins, whether the stream is complete, and the attempt it is of.
pub const NEXT_OFFSET_HEADER: &str = "Muster-Next-Offset";
pub const END_HEADER: &str = "Muster-End";
pub const ATTEMPT_HEADER: &str = "Muster-Attempt";
/// Largest body of a request.
pub const BODY_BYTES_MAX: usize = 10 * 1024 * 1024;
/// Longest wait of one `containers/wait` or log request.
pub const WAIT_SECONDS_MAX: f64 = 30.0;

/// `GET version`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Version {
    pub version: String,
    pub api: u32,
    pub cluster_id: String,
    pub pid: u32,
    pub state_dir: String,
}

/// `POST containers`: one record or several (fields of spec 70 §2 and the short forms that `muster submit` uses).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Submission {
    pub records: Vec<serde_json::Value>,
    /// Inclusive range: the single record is submitted once per index.
    pub array: Option<(i64, i64)>,
    /// The same token again gives the same uuids.
    pub token: Option<String>,
}

/// Answer of `POST containers` and `POST batches/ID/commit`: in the order of the records.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Submitted {
    pub uuids: Vec<String>,
}

/// Answer of `POST batches`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Batch {
    pub batch: String,
}

/// Body of `POST batches/ID/commit`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Commit {
    pub token: Option<String>,
}

/// One container as lists show it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerRecord {
    pub uuid: String,
    pub name: String,
    pub state: String,
    pub priority: i64,
    pub created_at: i64,
    pub started_at: Option<i64>,
    pub finished_at: Option<i64>,
    pub exit_code: Option<i32>,
    pub attempt: u32,
    pub max_attempts: u32,
    pub array_index: Option<i64>,
    pub instance: Option<String>,
    pub instance_type: Option<String>,
    pub cancel_requested: bool,
    pub cost: f64,
    /// Why it waits, or why it ended as it did: one sentence for people; empty while it runs.
    pub status: String,
    /// While it waits: what it needs, what stands in its way, and until when. For people; empty if there is nothing to say.
    pub explanation: String,
}

/// `GET containers`: newest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerList {
    pub items: Vec<ContainerRecord>,
    /// Pass it as `before` to get the next page; `None` = this was the last.
    pub next: Option<String>,
}

/// One try to run a container.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AttemptRecord {
    pub attempt: u32,
    pub instance: String,
    pub instance_type: String,
    pub assigned_at: i64,
    pub started_at: Option<i64>,
    pub finished_at: Option<i64>,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    /// Why it ended; empty while it is open.
    pub ended_because: String,
    pub peak_memory: Option<u64>,
    pub cpu_seconds: Option<f64>,
    pub cost: f64,
    /// It ended with a result, which was brought back; it may have been lost all the same (killed on the host, for instance). False
    /// while it is open. `None` from a daemon that does not say it.
    pub collected: Option<bool>,
    /// Its result came after the attempt had been closed, and changed nothing.
    pub late: bool,
    /// Directory on the daemon's host that holds `stdout`, `stderr`, `outputs/` and `result.json`, if collected.
    pub result_dir: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HistoryRecord {
    pub at: i64,
    pub event: String,
    pub detail: String,
}

/// Whether a container in this state changes no more.
pub fn is_final_state(state: &str) -> bool {
    matches!(state, "Complete" | "Cancelled")
}

/// `GET containers/UUID`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerDetail {
    pub container: ContainerRecord,
    /// The record as it was submitted, in the form that `POST containers` takes; values of `environment` are included.
    pub request: serde_json::Value,
    pub runtime_status: BTreeMap<String, String>,
    /// Oldest first.
    pub attempts: Vec<AttemptRecord>,
    /// Oldest first.
    pub history: Vec<HistoryRecord>,
}

/// Which containers an operation is for: the listed ones, or all that match (both filters together).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Selection {
    pub uuids: Vec<String>,
    pub name: Option<String>,
    pub state: Option<String>,
    /// Only for `containers/priority`.
    pub priority: Option<i64>,
}

/// What an operation did to one container.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Outcome {
    pub uuid: String,
    /// HTTP-like: 200 done, 404 no such container, 409 not in this state.
    pub code: u16,
    /// For people: what was done, or why not.
    pub message: String,
    /// The new container of `containers/rerun`.
    pub new_uuid: Option<String>,
}

/// Answer of `containers/cancel`, `containers/priority`, `containers/rerun`: in the order asked for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcomes {
    pub items: Vec<Outcome>,
}

/// `POST containers/wait`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wait {
    pub uuids: Vec<String>,
    pub name: Option<String>,
    pub state: Option<String>,
    /// Answer as soon as more than this many are final, or after `wait_s`.
    pub known_final: usize,
    pub wait_s: f64,
}

/// Answer of `containers/wait`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct WaitAnswer {
    pub total: usize,
    pub finished: usize,
    pub running: usize,
    /// Final ones that are not Complete with exit code 0, in the order asked for.
    pub failed: Vec<ContainerRecord>,
    /// Asked-for uuids that do not exist.
    pub unknown: Vec<String>,
    /// State and exit code of the only container, if one was asked for.
    pub only: Option<ContainerRecord>,
}

/// A limit in force (spec 20 §2–§4, §6).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitRecord {
    pub what: String,
    pub detail: String,
    pub until: Option<i64>,
}

/// `GET status`: one screen.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    pub version: String,
    pub cluster_id: String,
    pub started_at: i64,
    pub now: i64,
    /// Containers by state.
    pub containers: BTreeMap<String, usize>,
    /// Instances by state; unfinished creates count as `booting`.
    pub instances: BTreeMap<String, usize>,
    pub price_per_hour: f64,
    pub limits: Vec<LimitRecord>,
    /// The waiting container that was created first, and why it waits.
    pub oldest_waiting: Option<ContainerRecord>,
    /// What keeps the daemon from doing its work (disk full, runner cannot be loaded …), one sentence each.
    pub trouble: Vec<String>,
    /// The first few machines that cannot be used now (or could not, when it was tried last), with the reason.
    pub unusable: Vec<InstanceRow>,
    pub unusable_count: usize,
    /// Scheduling passes of the safety net that found work (spec 20 §6); 0 in a healthy daemon.
    pub missed_wakeups: u64,
}

/// One configured instance type with what holds it back now.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceTypeRecord {
    pub name: String,
    pub provider_type: String,
    pub vcpus: i64,
    pub ram: i64,
    pub scratch: i64,
    pub price: f64,
    pub preemptible: bool,
    /// Existing instances and unfinished creates of it.
    pub instances: usize,
    pub limits: Vec<LimitRecord>,
    /// Instances that failed to boot since the last one that did not.
    pub boot_failures: u32,
    /// What was wrong with the last of these; empty if there is none.
    pub last_boot_error: String,
}

/// `GET instance-types`: cheapest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct InstanceTypeList {
    pub items: Vec<InstanceTypeRecord>,
}

/// An instance, or a machine that is none now: the fields of Arvados' list (spec 82 §3.3), and why it is as it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceRow {
    /// Empty while the create is pending.
    pub instance: String,
    pub address: String,
    pub price: f64,
    pub arvados_instance_type: String,
    pub provider_instance_type: String,
    pub last_container_uuid: String,
    pub last_busy: String,
    /// `null` for a pending create, and for what is no instance.
    pub running_container_uuids: Option<Vec<String>>,
    /// A worker's state; or of what is no instance `unreachable`, `failed`, `foreign`, `cleaning`.
    pub worker_state: String,
    /// Empty for what is no instance.
    pub idle_behavior: String,
    /// One sentence for people; empty for instances.
    pub detail: String,
}

/// `GET instances`: by instance, then type.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceList {
    pub items: Vec<InstanceRow>,
}

/// `POST backup`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    /// Absolute path on the daemon's host; must not exist.
    pub file: String,
}
