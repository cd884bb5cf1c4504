//! The shell as the daemon has it, around a cloud of ours: pool, central thread, workers, lanes, operations, sync, scheduler and the local
//! queue on disk. Only the configuration's reading and the API are left out.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use muster::cloud::InstanceSet;
use muster::cloud::boot::Boot;
use muster::core::effect::RunnerOrder;
use muster::core::ids::{ContainerUuid, InstanceId, OperationId, TypeName};
use muster::core::instance_type::{self, InstanceType};
use muster::core::pool::Pool;
use muster::core::resources::resources_needed;
use muster::core::scheduler::SchedulerSettings;
use muster::core::settings::{CALL_DEADLINE, Settings};
use muster::management::metrics::Metrics;
use muster::queue::local::{LocalQueue, LocalQueueOptions, Selector};
use muster::remote::supply::{RunnerBinary, RunnerSupply};
use muster::remote::unpack::UnpackLimits;
use muster::shell::central::Central;
use muster::shell::clock::{Clock, wall_now};
use muster::shell::containers::{Containers, JobSettings};
use muster::shell::lanes::{Lanes, Work};
use muster::shell::lists::Lists;
use muster::shell::operations::Operations;
use muster::shell::pool::PoolDoor;
use muster::shell::scheduler::{self, SchedulerShared};
use muster::shell::stop::StopSource;
use muster::shell::sync::{CLOUD_EVENTS_MAX, Sync};
use muster::shell::threads::{Thread, spawn, start_part};
use muster::shell::transitions::Transitions;
use muster::shell::wakeups::{Subscribers, Wakeups};
use muster::shell::workers::{WorkerParts, Workers};
use parking_lot::{Mutex, RwLock};

use super::cloud::{ChaosCloud, SCARCE};

pub(crate) const INSTANCES_MAX: usize = 10;
pub(crate) const VCPUS: i64 = 4;
/// A pass of the safety net that finds something to do counts as a missed wake-up.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
const BYTES_MAX: u64 = 1 << 20;

/// See the module.
pub(crate) struct Shell {
    pub(crate) door: Arc<PoolDoor>,
    pub(crate) queue: Arc<LocalQueue>,
    pub(crate) scheduler: Arc<SchedulerShared>,
    workers: Arc<Workers>,
    lanes: Lanes,
    operations: Arc<Operations>,
    /// In the order in which they end.
    threads: [Vec<Thread>; 2],
    stops: [StopSource; 2],
}

fn types() -> BTreeMap<TypeName, Arc<InstanceType>> {
    let of = |name: &str, price| InstanceType {
        name: name.to_owned(),
        provider_type: name.to_owned(),
        vcpus: VCPUS,
        ram: 4 << 30,
        included_scratch: 10 << 30,
        price,
        ..InstanceType::default()
    };
    let both = [of(SCARCE, 1.0), of("usual", 1.2)];
    both.into_iter().map(|one| (TypeName::new(&one.name), Arc::new(one))).collect()
}

/// The types that have room for a container, the scarce one first.
fn selector() -> Selector {
    let types = types();
    Arc::new(move |request| {
        let need = resources_needed(request, 0, 0);
        let chosen = instance_type::choose(types.values(), &need, request, 2.0);
        chosen.map(|types| (need, types)).map_err(|unsatisfiable| unsatisfiable.for_people())
    })
}

/// Intervals of milliseconds; limits of `patience` where a busy machine needs time.
fn settings(patience: u32) -> Settings {
    let millis = Duration::from_millis;
    Settings {
        probe_interval: millis(50),
        max_probes_per_second: Some(100_000.0),
        sync_interval: millis(25),
        timeout_idle: millis(100),
        timeout_booting: millis(250) * patience,
        timeout_probe: millis(150) * patience,
        // What is wrong is wrong with one machine, not with the image of its type: three in a row are chance.
        instances_alike: false,
        timeout_shutdown: millis(20),
        timeout_signal: millis(20),
        timeout_term: millis(200),
        timeout_stale_run_lock: millis(50),
        timeout_collect: millis(300) * patience,
        max_instances: INSTANCES_MAX,
        max_concurrent_create_ops: 0,
        cheap_list: true,
        list_delay: Duration::ZERO,
        ..Settings::default()
    }
}

impl Shell {
    /// All threads run when this returns. `folder` is for queue and results.
    pub(crate) fn start(cloud: &Arc<ChaosCloud>, folder: &Path, patience: u32) -> Self {
        let clock = Clock::start();
        let pool_settings = settings(patience);
        let (door, batches) = PoolDoor::new(Pool::new(pool_settings.clone(), types()), clock);
        let metrics = Arc::new(Metrics::new("chaos", "0").expect("a prefix"));
        let set: Arc<dyn InstanceSet> = cloud.clone();
        let queue = open_queue(folder);
        let workers = Arc::new(Workers::new(WorkerParts {
            door: door.clone(),
            cloud: set.clone(),
            set: "local".into(),
            cluster_id: "local".into(),
            boot_probe_command: "true".into(),
            engine: "process".into(),
            self_destruct_after: None,
            supply: Arc::new(RunnerSupply::of_binary(RunnerBinary::new(b"a runner".to_vec()), None)),
            metrics: metrics.clone(),
        }));
        let lanes = lanes(&door, &workers, &queue, folder);
        let (list_soon, list_asked) = bounded(1);
        let operations = Arc::new(Operations::new(set.clone(), door.clone(), list_soon.clone(), CALL_DEADLINE));
        let (changed, done) = (Arc::new(Subscribers::default()), Arc::new(Subscribers::default()));
        let wakeups = Wakeups::subscribe(&changed, &*queue, &done);
        let scheduler = Arc::new(SchedulerShared {
            door: door.clone(),
            clock,
            queue: queue.clone(),
            transitions: Transitions::new(queue.clone(), done, discard(&lanes)),
            metrics: metrics.clone(),
            report: RwLock::new(None),
            missed_wakeups: AtomicU64::new(0),
            new_settings: Mutex::new(None),
        });
        let central = Central {
            door: door.clone(),
            clock,
            workers: workers.clone(),
            lanes: lanes.clone(),
            operations: operations.clone(),
            boot: Boot::default(),
            queue: queue.clone(),
            metrics,
            subscribers: changed,
            list_soon,
        };
        let stops = [StopSource::new(), StopSource::new()];
        let [stop_first, stop_last] = [stops[0].token(), stops[1].token()];
        let central = start_part("central", move || central.run(&batches, &stop_last)).expect("room");
        let (events_open, events) = bounded(CLOUD_EVENTS_MAX);
        let lists = Lists::new(set, CALL_DEADLINE);
        let sync = Sync {
            door: door.clone(),
            clock,
            lists,
            list_fault: Default::default(),
            workers: workers.clone(),
            events,
            events_open,
        };
        let stop_sync = stops[1].token();
        let sync = start_part("sync", move || sync.run(&list_asked, &stop_sync)).expect("room");
        let of_thread = scheduler.clone();
        let settings = SchedulerSettings { max_instances: INSTANCES_MAX, ..SchedulerSettings::default() };
        let body = move || scheduler::run(&of_thread, settings, &wakeups, POLL_INTERVAL, &stop_first);
        let threads = [vec![start_part("scheduler", body).expect("room")], vec![central, sync]];
        Self { door, queue, scheduler, workers, lanes, operations, threads, stops }
    }

    /// All threads end. The queue's, when the last of it is dropped.
    pub(crate) fn stop(self, limit: Duration) -> Result<(), Vec<String>> {
        let until = Instant::now() + limit;
        let [first, last] = self.threads;
        let [stop_first, stop_last] = self.stops;
        let mut late = Vec::new();
        let mut join =
            |threads: Vec<Thread>| late.extend(threads.into_iter().filter_map(|one| one.join_until(until).err()));
        drop(stop_first);
        join(first);
        let pools = [
            self.scheduler.transitions.stop(until),
            self.workers.stop(until),
            self.lanes.stop(until),
            self.operations.stop(until),
        ];
        drop(stop_last);
        join(last);
        late.extend(pools.into_iter().filter_map(Result::err).flatten());
        if late.is_empty() { Ok(()) } else { Err(late) }
    }
}

fn open_queue(folder: &Path) -> Arc<LocalQueue> {
    let options = LocalQueueOptions {
        path: folder.join("queue.db"),
        cluster_id: "local".to_owned(),
        max_queued: 100_000,
        default_max_attempts: 3,
        images_allowed: false,
        selector: selector(),
    };
    LocalQueue::open(options, Arc::new(wall_now), &spawn).expect("it opens")
}

fn lanes(door: &Arc<PoolDoor>, workers: &Arc<Workers>, queue: &Arc<LocalQueue>, folder: &Path) -> Lanes {
    let limits = UnpackLimits { log_bytes: BYTES_MAX, output_bytes: BYTES_MAX };
    let results = folder.join("containers");
    let containers = Containers {
        door: door.clone(),
        workers: workers.clone(),
        queue: queue.clone(),
        jobs: JobSettings { user: String::new(), engine: String::new(), engine_arguments: Vec::new(), limits, results },
        refusals: Mutex::default(),
    };
    Lanes::new(move |work| containers.carry_out(&work))
}

/// As the daemon does with what a lost attempt has left.
fn discard(lanes: &Lanes) -> impl Fn(&InstanceId, &ContainerUuid, u32) + Send + std::marker::Sync + use<> {
    let lanes = lanes.clone();
    move |instance, uuid, attempt| {
        let operation = OperationId(0);
        let order = RunnerOrder { operation, instance: instance.clone(), uuid: uuid.clone(), attempt };
        let _ = lanes.submit(Work::Discard(order), 1);
    }
}
