//! The part of the configuration that the worker and pool rules read. Replaced as a whole on reload.

use std::time::Duration;

/// Names are the configuration keys of spec 60 §3.3 and 62 §2.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub cluster_id: String,
    pub instance_set_id: String,
    pub tag_key_prefix: String,
    pub probe_interval: Duration,
    /// Rounds a second that ticks and boot retries may start, over all workers; `None` = max(10, 2 × workers / ProbeInterval).
    pub max_probes_per_second: Option<f64>,
    pub sync_interval: Duration,
    pub timeout_idle: Duration,
    pub timeout_booting: Duration,
    pub timeout_probe: Duration,
    pub timeout_shutdown: Duration,
    pub timeout_signal: Duration,
    pub timeout_term: Duration,
    pub timeout_stale_run_lock: Duration,
    pub timeout_collect: Duration,
    /// 0 = no limit.
    pub max_instances: usize,
    /// 0 = no limit.
    pub max_concurrent_create_ops: usize,
    /// Instances watched by one process.
    pub max_workers: usize,
    /// The runner keeps results that must be collected (muster-runner), and can be asked to reap.
    pub runner_keeps_results: bool,
    /// The driver's list costs little: list again after each create and destroy.
    pub cheap_list: bool,
    /// An instance that is smaller than its type says is drained (spec 52 §1).
    pub judge_hosts: bool,
    /// Instances of a type are alike: several that do not boot speak against the others (spec 20 §6, circuit breaker).
    pub instances_alike: bool,
    /// Clouds list with a delay: an instance whose create finished less than this ago and that was never listed is not gone
    /// (spec 20 §5). Zero for a driver whose lists are exact.
    pub list_delay: Duration,
}

impl Default for Settings {
    /// The defaults of the configuration keys, for one host with our own runner.
    fn default() -> Self {
        Self {
            cluster_id: "local".to_owned(),
            instance_set_id: "local".to_owned(),
            tag_key_prefix: "Arvados".to_owned(),
            probe_interval: Duration::from_secs(10),
            max_probes_per_second: None,
            sync_interval: Duration::from_secs(60),
            timeout_idle: Duration::from_secs(60),
            timeout_booting: Duration::from_secs(600),
            timeout_probe: Duration::from_secs(600),
            timeout_shutdown: Duration::from_secs(10),
            timeout_signal: Duration::from_secs(5),
            timeout_term: Duration::from_secs(120),
            timeout_stale_run_lock: Duration::from_secs(5),
            timeout_collect: Duration::from_secs(300),
            max_instances: 64,
            max_concurrent_create_ops: 10,
            max_workers: 10_000,
            runner_keeps_results: true,
            cheap_list: false,
            judge_hosts: true,
            instances_alike: true,
            list_delay: LIST_DELAY,
        }
    }
}

/// How long a cloud may take to list a new instance (spec 20 §5).
pub const LIST_DELAY: Duration = Duration::from_secs(60);
/// A start, kill or reap that has not returned by then is taken as returned without success (spec 10 §4, 20 §10.7).
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(60);
/// A create that has not returned by then has failed with unknown outcome (spec 20 §1).
pub const CREATE_DEADLINE: Duration = Duration::from_secs(15 * 60);
/// A list, destroy or tag call that has not returned by then has failed (spec 20 §1).
pub const CALL_DEADLINE: Duration = Duration::from_secs(2 * 60);
/// Most that MaxLogBytes may be: a worker's stream that is longer has never been within its limit.
pub const LOG_BYTES_MAX: u64 = 16 << 30;
/// One try to fetch a result; after it another try begins.
pub const COLLECT_DEADLINE: Duration = Duration::from_secs(10 * 60);
/// Two rounds of one worker are at least this far apart (spec 10 §3).
pub const ROUND_SPACING: Duration = Duration::from_millis(20);
