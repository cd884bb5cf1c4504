//! All metrics of spec 82 §5, under their exact names, and Muster's few own. Counters and histograms are fed as things
//! happen, from any thread; gauges are set when the metrics are read.
//!
//! Summaries are histograms here (spec 80 §5): the `_sum` and `_count` series have the same names.
//! Counters carry no `_total` suffix, as dashboards expect.

use std::collections::BTreeSet;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
    TextEncoder,
};
use serde_json::Value;

use super::backend::Gauges;
use super::gauges::CATEGORIES;
use super::metrics_json::families_json;
use crate::core::effect::Figure;
use crate::core::vocabulary::{BootOutcome, ContainerState, WorkerState};

/// The prefix that Arvados' dashboards look for.
pub const DEFAULT_PREFIX: &str = "arvados_dispatchcloud_";

/// Seconds: boots take half a minute to many minutes.
const BOOT_BUCKETS: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0, 1200.0, 3600.0];
/// Seconds: from a container that finds a free instance to one that waits for days.
const QUEUE_BUCKETS: &[f64] =
    &[0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 10800.0, 43200.0, 86400.0];
/// Seconds: calls and passes, from a millisecond to a timeout.
const CALL_BUCKETS: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// The registry and its series.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Set by scrapes; the lock keeps two scrapes apart. Holds the queue label pairs seen so far.
    scrape: Mutex<BTreeSet<(ContainerState, String)>>,
    boot_outcomes: IntCounterVec,
    instances_disappeared: IntCounterVec,
    driver_operations: IntCounterVec,
    time_to_ssh: Histogram,
    time_to_ready: Histogram,
    time_from_shutdown: Histogram,
    queue_to_crunch_run: Histogram,
    run_probe: HistogramVec,
    missed_wakeups: IntCounter,
    effects_overflow: IntCounter,
    scheduler_pass: Histogram,
    request_duration: HistogramVec,
    time_to_status: HistogramVec,
    queue_entries: GaugeVec,
    instances_total: GaugeVec,
    by_category: [GaugeVec; 3],
    plain: PlainGauges,
    version: GaugeVec,
    config_source: GaugeVec,
    config_load: GaugeVec,
    concurrent_requests: GaugeVec,
    concurrent_requests_max: GaugeVec,
    request_age_max: Gauge,
}

#[derive(Debug)]
struct PlainGauges {
    containers_running: Gauge,
    probe_age_max: Gauge,
    probe_age_median: Gauge,
    allocated_not_started: Gauge,
    over_quota: Gauge,
    longest_wait: Gauge,
    last_503: Gauge,
    max_concurrent: Gauge,
    at_quota: Gauge,
}

/// Makes series and registers them.
struct Maker<'a> {
    registry: &'a Registry,
    prefix: &'a str,
}

type Made<T> = Result<T, prometheus::Error>;

impl Maker<'_> {
    fn add<T: prometheus::core::Collector + Clone + 'static>(&self, made: Made<T>) -> Made<T> {
        let series = made?;
        self.registry.register(Box::new(series.clone()))?;
        Ok(series)
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn gauge(&self, name: &str, help: &str) -> Made<Gauge> {
        self.add(Gauge::new(self.name(name), help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Made<GaugeVec> {
        self.add(GaugeVec::new(Opts::new(self.name(name), help), labels))
    }

    fn counter(&self, name: &str, help: &str) -> Made<IntCounter> {
        self.add(IntCounter::new(self.name(name), help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Made<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(self.name(name), help), labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Made<Histogram> {
        self.add(Histogram::with_opts(HistogramOpts::new(self.name(name), help).buckets(buckets.to_vec())))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> Made<HistogramVec> {
        let options = HistogramOpts::new(self.name(name), help).buckets(CALL_BUCKETS.to_vec());
        self.add(HistogramVec::new(options, labels))
    }
}

impl PlainGauges {
    fn new(own: &Maker<'_>) -> Made<Self> {
        Ok(Self {
            containers_running: own.gauge("containers_running", "Containers starting or running on workers.")?,
            probe_age_max: own.gauge("probe_age_seconds_max", "Age of the oldest last successful probe.")?,
            probe_age_median: own.gauge("probe_age_seconds_median", "Median age of last successful probes.")?,
            allocated_not_started: own
                .gauge("containers_allocated_not_started", "Containers assigned to an instance that is not ready.")?,
            over_quota: own
                .gauge("containers_not_allocated_over_quota", "Containers unplaced because of a quota or limit.")?,
            longest_wait: own
                .gauge("containers_longest_wait_time_seconds", "Age of the oldest container without a process.")?,
            last_503: own.gauge("last_503_time", "Unix time of the last 503 of the queue's API; 0 = never.")?,
            max_concurrent: own.gauge("max_concurrent_containers", "Limit in force; 0 = unlimited.")?,
            at_quota: own.gauge("at_quota", "1 if instances are not created for quota reasons.")?,
        })
    }

    fn set(&self, gauges: &Gauges) {
        let mut ages: Vec<f64> = gauges.probe_ages.iter().map(Duration::as_secs_f64).collect();
        ages.sort_by(f64::total_cmp);
        self.containers_running.set(float(gauges.containers_running));
        self.probe_age_max.set(ages.last().copied().unwrap_or(0.0));
        self.probe_age_median.set(ages.get(ages.len() / 2).copied().unwrap_or(0.0));
        self.allocated_not_started.set(float(gauges.containers_allocated_not_started));
        self.over_quota.set(float(gauges.containers_not_allocated_over_quota));
        self.longest_wait.set(gauges.containers_longest_wait.map_or(0.0, |wait| wait.as_secs_f64()));
        self.last_503.set(gauges.last_503_time);
        self.max_concurrent.set(float(gauges.max_concurrent_containers));
        self.at_quota.set(if gauges.at_quota { 1.0 } else { 0.0 });
    }
}

/// Counts far below 2^53.
fn float(count: u64) -> f64 {
    count as f64
}

impl Metrics {
    /// For series of others that are served with ours.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// `prefix` is normally [`DEFAULT_PREFIX`]; `version` is reported as `arvados_version_running`.
    ///
    /// # Errors
    /// `prefix` is not one of a metric name.
    pub fn new(prefix: &str, version: &str) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let own = Maker { registry: &registry, prefix };
        let service = Maker { registry: &registry, prefix: "" };
        let by_category = |name, help| own.gauges(name, help, &["category"]);
        let metrics = Self {
            scrape: Mutex::default(),
            boot_outcomes: own.counters("boot_outcomes", "Outcomes of boots.", &["outcome"])?,
            instances_disappeared: own.counters(
                "instances_disappeared",
                "Instances that left the provider's list.",
                &["state"],
            )?,
            driver_operations: own.counters(
                "driver_operations",
                "Calls of the cloud driver.",
                &["operation", "error"],
            )?,
            time_to_ssh: own.histogram("instances_time_to_ssh_seconds", "First seen to first SSH.", BOOT_BUCKETS)?,
            time_to_ready: own.histogram(
                "instances_time_to_ready_for_container_seconds",
                "First SSH connection to in service.",
                BOOT_BUCKETS,
            )?,
            time_from_shutdown: own.histogram(
                "instances_time_from_shutdown_request_to_disappearance_seconds",
                "Last shutdown attempt to gone.",
                BOOT_BUCKETS,
            )?,
            queue_to_crunch_run: own.histogram(
                "containers_time_from_queue_to_crunch_run_seconds",
                "Container creation to start command finished.",
                QUEUE_BUCKETS,
            )?,
            run_probe: own.histograms(
                "instances_run_probe_duration_seconds",
                "Duration of list commands.",
                &["outcome"],
            )?,
            missed_wakeups: own.counter("missed_wakeups", "Safety passes of the scheduler that found work.")?,
            effects_overflow: own.counter("effects_overflow", "Effects dropped because their channel was full.")?,
            scheduler_pass: own.histogram("scheduler_pass_seconds", "Duration of scheduling passes.", CALL_BUCKETS)?,
            request_duration: service.histograms(
                "request_duration_seconds",
                "Duration of API requests.",
                &["code", "method"],
            )?,
            time_to_status: service.histograms(
                "time_to_status_seconds",
                "Time until the status is known.",
                &["code", "method"],
            )?,
            queue_entries: own.gauges("queue_entries", "Queue entries.", &["state", "instance_type"])?,
            instances_total: own.gauges("instances_total", "Instances.", &["category", "instance_type"])?,
            by_category: [
                by_category("instances_price", "Sum of hourly prices.")?,
                by_category("vcpus_total", "Sum of VCPUs.")?,
                by_category("memory_bytes_total", "Sum of RAM.")?,
            ],
            plain: PlainGauges::new(&own)?,
            version: service.gauges("arvados_version_running", "1 for the version that runs.", &["version"])?,
            config_source: service.gauges(
                "arvados_config_source_timestamp_seconds",
                "Time of the config file.",
                &["sha256"],
            )?,
            config_load: service.gauges(
                "arvados_config_load_timestamp_seconds",
                "When the config was loaded.",
                &["sha256"],
            )?,
            concurrent_requests: service.gauges("arvados_concurrent_requests", "Requests in work.", &["queue"])?,
            concurrent_requests_max: service.gauges(
                "arvados_max_concurrent_requests",
                "Limit of requests in work.",
                &["queue"],
            )?,
            request_age_max: service.gauge("arvados_max_active_request_age_seconds", "Age of the oldest request.")?,
            registry,
        };
        metrics.begin(version);
        Ok(metrics)
    }

    /// The series that exist before their first use.
    fn begin(&self, version: &str) {
        for outcome in BootOutcome::ALL {
            self.boot_outcomes.with_label_values(&[outcome.as_str()]);
        }
        for state in WorkerState::ALL {
            self.instances_disappeared.with_label_values(&[state.as_str()]);
        }
        for operation in ["Create", "List", "Destroy", "SetTags"] {
            for error in ["0", "1"] {
                self.driver_operations.with_label_values(&[operation, error]);
            }
        }
        self.version.with_label_values(&[version]).set(1.0);
    }

    /// Records what the core observed. [`Figure::StartReturned`] has no effect here: its time is given to
    /// [`queue_to_crunch_run`](Self::queue_to_crunch_run) by whoever knows the container.
    pub fn observe(&self, figure: &Figure) {
        match figure {
            Figure::BootOutcome(outcome) => self.boot_outcomes.with_label_values(&[outcome.as_str()]).inc(),
            Figure::Disappeared(state) => self.instances_disappeared.with_label_values(&[state.as_str()]).inc(),
            Figure::TimeToSsh(time) => self.time_to_ssh.observe(time.as_secs_f64()),
            Figure::TimeToReady(time) => self.time_to_ready.observe(time.as_secs_f64()),
            Figure::TimeFromShutdownToDisappearance(time) => self.time_from_shutdown.observe(time.as_secs_f64()),
            Figure::StartReturned(_) => {}
        }
    }

    /// A start command finished this long after its container was created.
    pub fn queue_to_crunch_run(&self, time: Duration) {
        self.queue_to_crunch_run.observe(time.as_secs_f64());
    }

    /// `operation` is `Create`, `List`, `Destroy` or `SetTags`.
    pub fn driver_operation(&self, operation: &'static str, error: bool) {
        self.driver_operations.with_label_values(&[operation, if error { "1" } else { "0" }]).inc();
    }

    /// A list command on a worker ended.
    pub fn run_probe(&self, success: bool, time: Duration) {
        self.run_probe.with_label_values(&[if success { "success" } else { "fail" }]).observe(time.as_secs_f64());
    }

    pub fn missed_wakeup(&self) {
        self.missed_wakeups.inc();
    }

    /// How often [`missed_wakeup`](Self::missed_wakeup) was called.
    pub fn missed_wakeups(&self) -> u64 {
        self.missed_wakeups.get()
    }

    pub fn effects_overflow(&self) {
        self.effects_overflow.inc();
    }

    pub fn scheduler_pass(&self, time: Duration) {
        self.scheduler_pass.observe(time.as_secs_f64());
    }

    /// An API request was answered.
    pub fn request(&self, method: &str, status: u16, time: Duration) {
        const METHODS: [&str; 5] = ["get", "head", "post", "put", "delete"];
        let lower = method.to_ascii_lowercase();
        // Whoever connects may invent methods; they must not make series.
        let method = METHODS.into_iter().find(|known| *known == lower).unwrap_or("other");
        let code = status.to_string();
        for series in [&self.request_duration, &self.time_to_status] {
            series.with_label_values(&[code.as_str(), method]).observe(time.as_secs_f64());
        }
    }

    /// A configuration came into force: hash of the file's bytes, its time and now, both in Unix seconds.
    pub fn config_loaded(&self, sha256: &str, source_time: f64, load_time: f64) {
        self.config_source.reset();
        self.config_load.reset();
        self.config_source.with_label_values(&[sha256]).set(source_time);
        self.config_load.with_label_values(&[sha256]).set(load_time);
    }

    pub(super) fn set_connections_max(&self, connections: usize) {
        self.concurrent_requests_max.with_label_values(&["api"]).set(float(connections as u64));
    }

    pub(super) fn set_requests(&self, requests: usize, oldest: Duration) {
        self.concurrent_requests.with_label_values(&["api"]).set(float(requests as u64));
        self.request_age_max.set(oldest.as_secs_f64());
    }

    /// The Prometheus text format.
    pub fn text(&self, gauges: &Gauges) -> Vec<u8> {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.gather(gauges), &mut text) {
            crate::log::event(log::Level::Error, "management", "cannot write metrics").with("error", error).emit();
        }
        text
    }

    /// An array of metric families in protobuf's JSON mapping.
    pub fn json(&self, gauges: &Gauges) -> Value {
        families_json(&self.gather(gauges))
    }

    fn gather(&self, gauges: &Gauges) -> Vec<prometheus::proto::MetricFamily> {
        let mut seen = self.scrape.lock();
        seen.extend(gauges.queue_entries.keys().cloned());
        for (state, instance_type) in seen.iter() {
            let count = gauges.queue_entries.get(&(*state, instance_type.clone())).copied().unwrap_or(0);
            self.queue_entries.with_label_values(&[state.as_str(), instance_type]).set(float(count));
        }
        self.instances_total.reset();
        for ((category, instance_type), sum) in &gauges.instances {
            self.instances_total.with_label_values(&[*category, instance_type]).set(float(sum.instances));
        }
        for category in CATEGORIES {
            let sums = gauges.instances.iter().filter(|((one, _), _)| *one == category).map(|(_, sum)| sum);
            let totals = sums.fold([0.0; 3], |[price, vcpus, ram], sum| {
                [price + sum.price, vcpus + sum.vcpus as f64, ram + sum.ram as f64]
            });
            for (series, total) in self.by_category.iter().zip(totals) {
                series.with_label_values(&[category]).set(total);
            }
        }
        self.plain.set(gauges);
        self.registry.gather()
    }
}
