//! Putting the daemon together from a configuration.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crossbeam_channel::{Receiver, bounded};
use parking_lot::{Mutex, RwLock};

use super::runner::{runner_supply, tell_runner_fault};
use super::running::{Daemon, Ends, Parts, Threads};
use super::settings::{quota_groups, scheduler_settings, selector, settings};
use super::{DaemonError, keeper};
use crate::cloud::{CloudEvent, CloudEvents, InstanceSet};
use crate::config::{Config, QueueDriver};
use crate::core::effect::{Level, Note, RunnerOrder};
use crate::core::ids::{ContainerUuid, InstanceId, OperationId};
use crate::core::pool::Pool;
use crate::core::settings::CALL_DEADLINE;
use crate::log::write_note;
use crate::management::metrics::Metrics;
use crate::management::server::{CONNECTIONS_MAX, Server, ServerOptions};
use crate::management::token::Token;
use crate::queue::ContainerQueue;
use crate::queue::local::{LocalQueue, LocalQueueOptions};
use crate::remote::supply::RunnerSupply;
use crate::remote::unpack::UnpackLimits;
use crate::shell::backend::DaemonBackend;
use crate::shell::central::Central;
use crate::shell::clock::{Clock, wall_now};
use crate::shell::containers::{Containers, JobSettings};
use crate::shell::drivers::{self, Driver, DriverParts};
use crate::shell::instance_set;
use crate::shell::lanes::{Lanes, Work};
use crate::shell::lists::{ListFault, Lists};
use crate::shell::operations::Operations;
use crate::shell::pool::PoolDoor;
use crate::shell::scheduler::{self, SchedulerShared};
use crate::shell::state_dir::StateDir;
use crate::shell::stop::StopSource;
use crate::shell::sync::{CLOUD_EVENTS_MAX, Sync};
use crate::shell::threads::{self};
use crate::shell::transitions::Transitions;
use crate::shell::wakeups::{Subscribers, Wakeups};
use crate::shell::workers::{WorkerParts, Workers};

/// Everything is running when this returns.
pub(super) fn start(config: Arc<Config>) -> Result<Daemon, DaemonError> {
    refuse_what_is_not_built(&config)?;
    let state_dir = StateDir::open(&config.state_dir)?;
    let set = instance_set::id(&config, &state_dir)?;
    let version = env!("CARGO_PKG_VERSION");
    let metrics =
        Arc::new(Metrics::new(&format!("{}_", config.metrics_prefix), version).map_err(DaemonError::Metrics)?);
    let (cloud_events, events) = bounded(CLOUD_EVENTS_MAX);
    let clock = Clock::start();
    let supply = Arc::new(runner_supply(&config));
    let key = config.cloud.driver.uses_ssh().then(|| state_dir.dispatch_key(&config.containers.dispatch_private_key));
    let driver = drivers::bare(DriverParts {
        config: &config,
        set: &set,
        clock,
        key: key.transpose()?,
        supply: &supply,
        events: &cloud_events,
        metrics: Some(&metrics),
    })
    .map_err(DaemonError::Driver)?;
    let driver = Driver { cloud: drivers::wrapped(&config, driver.cloud, &metrics), ..driver };
    let wall: crate::queue::local::WallClock = Arc::new(wall_now);
    let queue = LocalQueue::open(queue_options(&config, &state_dir), wall, &threads::spawn)?;
    let parts = connect(&config, &set, clock, driver, queue, supply, (metrics, state_dir.results()));
    tell_runner_fault(&parts.backend);
    let events = (cloud_events, events);
    // Before any thread acts: an address that is taken must not leave half-started containers behind.
    let server = listen(&config, &state_dir, &parts)?;
    let (stop_first, stop_last) = (StopSource::new(), StopSource::new());
    let threads = start_threads(&config, &parts, events, &stop_first, &stop_last).map_err(DaemonError::Thread)?;
    let address = server.local_addr().map(|address| address.to_string()).unwrap_or_default();
    let note = Note::new(Level::Info, "daemon", "muster daemon ready").with("Address", address);
    write_note(&note.with("Socket", state_dir.socket().display()));
    Ok(Daemon { parts, threads, server, stop_first, stop_last, state_dir })
}

/// Later issues delete lines here.
fn refuse_what_is_not_built(config: &Config) -> Result<(), DaemonError> {
    let faults = crate::config::not_built_yet(config);
    match faults.first() {
        None => Ok(()),
        Some(fault) => Err(DaemonError::NotBuilt(fault.to_string())),
    }
}

fn queue_options(config: &Arc<Config>, state_dir: &StateDir) -> LocalQueueOptions {
    debug_assert_eq!(config.queue.driver, QueueDriver::Local);
    LocalQueueOptions {
        path: state_dir.queue_file(),
        cluster_id: config.cluster_id.clone(),
        max_queued: config.queue.max_queued,
        default_max_attempts: config.queue.max_attempts,
        images_allowed: config.runner.engine != "process",
        selector: selector(config),
    }
}

/// What everything else is made from.
struct Base {
    config: Arc<Config>,
    clock: Clock,
    door: Arc<PoolDoor>,
    cloud: Arc<dyn InstanceSet>,
    queue: Arc<LocalQueue>,
    workers: Arc<Workers>,
    metrics: Arc<Metrics>,
    results: PathBuf,
}

fn connect(
    config: &Arc<Config>,
    set: &str,
    clock: Clock,
    Driver { cloud, boot }: Driver,
    queue: Arc<LocalQueue>,
    supply: Arc<RunnerSupply>,
    (metrics, results): (Arc<Metrics>, PathBuf),
) -> Parts {
    let pool = Pool::new(settings(config, set, &*cloud), config.instance_types.clone());
    let (door, batches) = PoolDoor::new(pool, clock);
    door.set_quota_groups(quota_groups(config, &*cloud));
    let workers = Arc::new(Workers::new(WorkerParts {
        door: door.clone(),
        cloud: cloud.clone(),
        set: set.into(),
        cluster_id: config.cluster_id.as_str().into(),
        boot_probe_command: config.cloud.boot_probe_command.as_str().into(),
        engine: config.runner.engine.as_str().into(),
        self_destruct_after: config.runner.self_destruct_after,
        supply,
        metrics: metrics.clone(),
    }));
    let base = Base { config: config.clone(), clock, door, cloud, queue, workers, metrics, results };
    let lanes = lanes(&base);
    let (list_soon, list_asked) = bounded(1);
    let operations = Arc::new(Operations::new(base.cloud.clone(), base.door.clone(), list_soon.clone(), CALL_DEADLINE));
    let (changed, done) = (Arc::new(Subscribers::default()), Arc::new(Subscribers::default()));
    let wakeups = Wakeups::subscribe(&changed, &*base.queue, &done);
    let central = Central {
        door: base.door.clone(),
        clock,
        workers: base.workers.clone(),
        lanes: lanes.clone(),
        operations: operations.clone(),
        boot,
        queue: base.queue.clone(),
        metrics: base.metrics.clone(),
        subscribers: changed,
        list_soon,
    };
    Parts {
        backend: Arc::new(backend(&base, done, lanes.clone())),
        cloud: base.cloud,
        central: Arc::new(central),
        lanes,
        operations,
        queue: base.queue,
        metrics: base.metrics,
        set: set.to_owned(),
        ends: Mutex::new(Some(Ends { batches, list_asked, wakeups })),
    }
}

fn lanes(base: &Base) -> Lanes {
    let config = &base.config;
    let limits = UnpackLimits { log_bytes: config.queue.max_log_bytes, output_bytes: config.queue.max_output_bytes };
    let containers = Containers {
        door: base.door.clone(),
        workers: base.workers.clone(),
        queue: base.queue.clone(),
        jobs: JobSettings {
            user: config.runner.user.clone(),
            engine: config.runner.engine.clone(),
            engine_arguments: config.runner.engine_arguments.clone(),
            limits,
            results: base.results.clone(),
        },
        refusals: Mutex::default(),
    };
    Lanes::new(move |work| containers.carry_out(&work))
}

fn backend(base: &Base, done: Arc<Subscribers>, lanes: Lanes) -> DaemonBackend {
    let queue: Arc<dyn ContainerQueue> = base.queue.clone();
    let discard = move |instance: &InstanceId, uuid: &ContainerUuid, attempt| {
        // No operation of the core: nobody waits for it. What cannot be taken on is left there.
        let operation = OperationId(0);
        let order = RunnerOrder { operation, instance: instance.clone(), uuid: uuid.clone(), attempt };
        let _ = lanes.submit(Work::Discard(order), 1);
    };
    let scheduler = SchedulerShared {
        door: base.door.clone(),
        clock: base.clock,
        queue: queue.clone(),
        transitions: Transitions::new(queue, done, discard),
        metrics: base.metrics.clone(),
        report: RwLock::new(None),
        missed_wakeups: AtomicU64::new(0),
        new_settings: Mutex::new(None),
    };
    DaemonBackend {
        door: base.door.clone(),
        cloud: base.cloud.clone(),
        clock: base.clock,
        queue: base.queue.clone(),
        workers: base.workers.clone(),
        scheduler: Arc::new(scheduler),
        config: Arc::new(RwLock::new(base.config.clone())),
        results: base.results.clone(),
        started_at: wall_now(),
        list_fault: ListFault::default(),
        waiting: RwLock::new(Some(StopSource::new())),
    }
}

fn start_threads(
    config: &Arc<Config>,
    parts: &Parts,
    (events_open, events): (CloudEvents, Receiver<CloudEvent>),
    stop_first: &StopSource,
    stop_last: &StopSource,
) -> std::io::Result<Threads> {
    let Some(Ends { batches, list_asked, wakeups }) = parts.ends.lock().take() else {
        return Err(std::io::ErrorKind::AlreadyExists.into());
    };
    let (central, stop) = (parts.central.clone(), stop_last.token());
    let central = threads::start_part("central", move || central.run(&batches, &stop))?;
    let backend = &parts.backend;
    let sync = Sync {
        door: backend.door.clone(),
        clock: backend.clock,
        lists: Lists::new(parts.cloud.clone(), CALL_DEADLINE),
        list_fault: backend.list_fault.clone(),
        workers: backend.workers.clone(),
        events,
        events_open,
    };
    let stop = stop_first.token();
    let sync = threads::start_part("sync", move || sync.run(&list_asked, &stop))?;
    let (shared, stop, poll) = (backend.scheduler.clone(), stop_first.token(), config.cloud.poll_interval);
    let first_settings = scheduler_settings(config, &backend.door.settings());
    let scheduler =
        threads::start_part("scheduler", move || scheduler::run(&shared, first_settings, &wakeups, poll, &stop))?;
    let (queue, config, stop) = (parts.queue.clone(), backend.config.clone(), stop_first.token());
    let keeper = threads::start_part("keeper", move || keeper::run(&queue, &config, &stop))?;
    Ok(Threads { first: vec![scheduler, keeper], last: vec![central, sync] })
}

fn listen(config: &Config, state_dir: &StateDir, parts: &Parts) -> Result<Server, DaemonError> {
    let token = if config.management_token.is_empty() {
        state_dir.management_token()?
    } else {
        config.management_token.reveal().to_owned()
    };
    let options = ServerOptions {
        tcp: config.listen.clone(),
        socket: Some(state_dir.socket()),
        token: Token::new(&token),
        connections_max: CONNECTIONS_MAX,
    };
    let spawn = Arc::new(threads::spawn);
    Server::start(options, parts.backend.clone(), parts.metrics.clone(), spawn).map_err(DaemonError::Listen)
}
