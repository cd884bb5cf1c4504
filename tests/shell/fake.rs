//! Hosts that do as they are told, and the shell's threads around them and their cloud.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use muster::cloud::boot::Boot;
use muster::cloud::{CloudEvents, InstanceSet};
use muster::core::ids::{ContainerUuid, InstanceId, InstanceSecret, TypeName};
use muster::core::instance_type::InstanceType;
use muster::core::pool::Pool;
use muster::core::settings::{CALL_DEADLINE, Settings};
use muster::core::vocabulary::WorkerState;
use muster::management::metrics::Metrics;
use muster::queue::ContainerQueue;
use muster::remote::supply::{RunnerBinary, RunnerSupply};
use muster::remote::{Command, Consume, ExecuteError, Executor, Lane, Output, Program};
use muster::shell::central::Central;
use muster::shell::clock::Clock;
use muster::shell::containers::{Containers, JobSettings};
use muster::shell::lanes::Lanes;
use muster::shell::lists::Lists;
use muster::shell::operations::Operations;
use muster::shell::pool::PoolDoor;
use muster::shell::stop::StopSource;
use muster::shell::sync::Sync;
use muster::shell::threads::{Thread, start_part};
use muster::shell::wakeups::Subscribers;
use muster::shell::workers::{WorkerParts, Workers};
use parking_lot::{Condvar, Mutex};

use crate::cloud::Cloud;
use crate::queue::AnyQueue;

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// One host: a runner that keeps its state in memory.
#[derive(Debug, Default)]
pub(crate) struct Host {
    state: Mutex<HostState>,
    changed: Condvar,
    /// Commands never return, until the executor is closed.
    pub(crate) hang: AtomicBool,
    pub(crate) refuse_starts: AtomicBool,
    /// Every third command fails.
    pub(crate) flaky: AtomicBool,
    commands: AtomicUsize,
    /// What came with the last list that told prices, and whether that was a long poll.
    pub(crate) prices: Mutex<Option<(String, bool)>>,
    /// A long poll waits.
    pub(crate) polling: AtomicBool,
    pub(crate) waits_cut: AtomicUsize,
    pub(crate) forgotten: Mutex<BTreeSet<ContainerUuid>>,
    /// What each result is; `None`: hardly anything.
    pub(crate) archive: Mutex<Option<Vec<u8>>>,
    /// Some of `forgotten` whose outputs were to be kept.
    pub(crate) kept: Mutex<BTreeSet<ContainerUuid>>,
    /// Half of what its type says.
    pub(crate) weak: AtomicBool,
}

#[derive(Debug, Default)]
struct HostState {
    alive: BTreeSet<ContainerUuid>,
    finished: BTreeSet<ContainerUuid>,
    address: String,
    version: u64,
    closed: bool,
}

impl Host {
    /// A container's process ends with a result. False if it is not alive here.
    pub(crate) fn finish(&self, uuid: &ContainerUuid) -> bool {
        let mut state = self.state.lock();
        if !state.alive.remove(uuid) {
            return false;
        }
        state.finished.insert(uuid.clone());
        state.version += 1;
        self.changed.notify_all();
        true
    }

    fn list(&self, words: &[String], command: &Command<'_>) -> String {
        let known = words.iter().position(|word| word == "--known").and_then(|at| words.get(at + 1));
        if words.iter().any(|word| word == "--stdin-prices") {
            let text = String::from_utf8_lossy(command.stdin).into_owned();
            *self.prices.lock() = Some((text, known.is_some()));
        }
        let mut state = self.state.lock();
        while known.is_some_and(|known| *known == state.version.to_string())
            && !state.closed
            && Instant::now() < command.deadline
        {
            self.polling.store(true, Ordering::SeqCst);
            let woken = command.open_until.is_some_and(|wake| {
                let mut fds = [rustix::event::PollFd::new(wake, rustix::event::PollFlags::IN)];
                let no_wait = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
                rustix::event::poll(&mut fds, Some(&no_wait)).unwrap_or(0) > 0
            });
            if woken {
                self.waits_cut.fetch_add(1, Ordering::SeqCst);
                break;
            }
            self.changed.wait_for(&mut state, Duration::from_millis(2));
        }
        self.polling.store(false, Ordering::SeqCst);
        let mut text = String::new();
        for (uuids, word) in [(&state.alive, ""), (&state.finished, " finished")] {
            for uuid in uuids {
                text.push_str(&format!("{uuid}{word}\n#attempt {uuid} 1\n"));
            }
        }
        text + &format!("# {}\n", state.version)
    }

    fn change(&self, change: impl FnOnce(&mut HostState)) -> String {
        let mut state = self.state.lock();
        change(&mut state);
        state.version += 1;
        self.changed.notify_all();
        String::new()
    }

    /// Standard output of a command, or none if it fails.
    fn answer(&self, command: &Command<'_>) -> Option<String> {
        let Program::Arguments(words) = &command.program else { return Some(String::new()) };
        let has = |flag: &str| words.iter().any(|word| word == flag);
        let uuid = words.last().and_then(|word| ContainerUuid::parse(word));
        let number = self.commands.fetch_add(1, Ordering::SeqCst);
        if self.flaky.load(Ordering::SeqCst) && number.is_multiple_of(3) {
            return None;
        }
        match uuid {
            // The deployment's script: there already, with version and facts.
            _ if has("sh") => {
                let cpus = if self.weak.load(Ordering::SeqCst) { 1 } else { 2 };
                Some(format!("ok /bin/r\nmuster-runner 0.0.0 protocol 1\n{{\"cpus\":{cpus},\"ram\":1000}}\n"))
            }
            _ if has("--list") => Some(self.list(words, command)),
            Some(_) if has("--detach") && self.refuse_starts.load(Ordering::SeqCst) => None,
            Some(uuid) if has("--detach") => Some(self.change(|state| {
                state.alive.insert(uuid);
            })),
            Some(uuid) if has("--kill") => Some(self.change(|state| {
                state.alive.remove(&uuid);
            })),
            Some(uuid) if has("--forget") => {
                if has("--keep-outputs") {
                    self.kept.lock().insert(uuid.clone());
                }
                self.forgotten.lock().insert(uuid.clone());
                Some(self.change(|state| {
                    state.finished.remove(&uuid);
                }))
            }
            _ => None,
        }
    }
}

impl Executor for Host {
    fn execute(&self, _lane: Lane, command: &Command<'_>) -> Result<Output, ExecuteError> {
        let mut state = self.state.lock();
        while self.hang.load(Ordering::SeqCst) && !state.closed {
            self.changed.wait_for(&mut state, Duration::from_millis(5));
        }
        if state.closed {
            return Err(ExecuteError::Cancelled);
        }
        if state.address.is_empty() {
            return Err(ExecuteError::NoAddress);
        }
        drop(state);
        let answer = self.answer(command);
        let exit_code = Some(i32::from(answer.is_none()));
        Ok(Output { stdout: answer.unwrap_or_default().into_bytes(), exit_code, ..Output::default() })
    }

    fn stream(&self, _lane: Lane, _command: &Command<'_>, consume: &mut Consume<'_>) -> Result<Output, ExecuteError> {
        let bytes = self.archive.lock().clone().unwrap_or_else(|| archive(&[("result.json", b"{}")]));
        let mut reader: &[u8] = &bytes;
        consume(&mut reader as &mut dyn Read).map_err(ExecuteError::Consumer)?;
        Ok(Output { exit_code: Some(0), ..Output::default() })
    }

    fn width(&self, _lane: Lane) -> usize {
        2
    }

    fn set_target(&self, address: &str, _remote_user: &str) {
        self.state.lock().address = address.to_owned();
    }

    fn has_connected(&self) -> bool {
        true
    }

    fn runs_as_root(&self) -> bool {
        true
    }

    fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }
}

/// Files by name and content as a runner sends them, whatever the names are.
pub(crate) fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        archive.append(&header, *content).expect("appended");
    }
    archive.into_inner().expect("complete")
}

/// Pool, central thread, sync thread, workers and lanes.
pub(crate) struct Fake {
    pub(crate) cloud: Arc<Cloud>,
    pub(crate) door: Arc<PoolDoor>,
    pub(crate) clock: Clock,
    /// What a driver tells.
    pub(crate) cloud_events: CloudEvents,
    pub(crate) ask_for_list: Sender<()>,
    workers: Arc<Workers>,
    lanes: Lanes,
    pub(crate) operations: Arc<Operations>,
    threads: Vec<Thread>,
    stop: StopSource,
    pub(crate) containers: Arc<Containers>,
    pub(crate) results: tempfile::TempDir,
}

impl Fake {
    pub(crate) fn uuid(number: usize) -> ContainerUuid {
        ContainerUuid::parse(&format!("local-dz642-{number:015}")).expect("well formed")
    }

    pub(crate) fn start(prepare: impl FnOnce(&Cloud)) -> Self {
        Self::start_with(CALL_DEADLINE, prepare)
    }

    pub(crate) fn start_with(call_deadline: Duration, prepare: impl FnOnce(&Cloud)) -> Self {
        let cloud = Arc::new(Cloud::default());
        prepare(&cloud);
        let small = InstanceType {
            name: "small".to_owned(),
            provider_type: "small".to_owned(),
            vcpus: 2,
            ram: 1000,
            ..InstanceType::default()
        };
        let types = BTreeMap::from([(TypeName::new("small"), Arc::new(small))]);
        let dear_lists = cloud.dear_lists.load(Ordering::SeqCst);
        let settings = Settings {
            probe_interval: Duration::from_millis(500),
            sync_interval: if dear_lists { Duration::from_secs(3600) } else { Duration::from_millis(300) },
            max_probes_per_second: Some(10_000.0),
            cheap_list: !dear_lists,
            max_instances: 0,
            max_concurrent_create_ops: 0,
            ..Settings::default()
        };
        let clock = Clock::start();
        let (door, batches) = PoolDoor::new(Pool::new(settings, types), clock);
        let metrics = Arc::new(Metrics::new("test", "0").expect("a prefix"));
        let set: Arc<dyn InstanceSet> = cloud.clone();
        let workers = Arc::new(Workers::new(WorkerParts {
            door: door.clone(),
            cloud: set.clone(),
            set: "local".into(),
            cluster_id: "local".into(),
            boot_probe_command: "true".into(),
            engine: "process".into(),
            self_destruct_after: None,
            supply: Arc::new(RunnerSupply::of_binary(RunnerBinary::new(b"x".to_vec()), None)),
            metrics: metrics.clone(),
        }));
        let queue: Arc<dyn ContainerQueue> = Arc::new(AnyQueue);
        let results = tempfile::tempdir().expect("a folder");
        let limits = muster::remote::unpack::UnpackLimits { log_bytes: 1000, output_bytes: 1000 };
        let jobs = JobSettings {
            user: String::new(),
            engine: String::new(),
            engine_arguments: Vec::new(),
            limits,
            results: results.path().to_owned(),
        };
        let containers = Containers {
            door: door.clone(),
            workers: workers.clone(),
            queue: queue.clone(),
            jobs,
            refusals: Mutex::default(),
        };
        let containers = Arc::new(containers);
        let of_lanes = containers.clone();
        let lanes = Lanes::new(move |work| of_lanes.carry_out(&work));
        let (list_soon, list_asked) = bounded(1);
        let operations = Arc::new(Operations::new(set.clone(), door.clone(), list_soon.clone(), call_deadline));
        let ask_for_list = list_soon.clone();
        let central = Central {
            door: door.clone(),
            clock,
            workers: workers.clone(),
            lanes: lanes.clone(),
            operations: operations.clone(),
            boot: Boot::default(),
            queue,
            metrics,
            subscribers: Arc::new(Subscribers::default()),
            list_soon,
        };
        let stop = StopSource::new();
        let token = stop.token();
        let mut threads = vec![start_part("central", move || central.run(&batches, &token)).expect("room")];
        let (events_open, events) = bounded(1);
        let cloud_events = events_open.clone();
        let sync = Sync {
            door: door.clone(),
            clock,
            lists: Lists::new(set, call_deadline),
            list_fault: Default::default(),
            workers: workers.clone(),
            events,
            events_open,
        };
        let token = stop.token();
        threads.push(start_part("sync", move || sync.run(&list_asked, &token)).expect("room"));
        let fake = Self {
            cloud,
            door,
            clock,
            cloud_events,
            ask_for_list,
            workers,
            lanes,
            operations,
            threads,
            stop,
            containers,
            results,
        };
        wait_until("the first list", || fake.door.view().loaded);
        fake
    }

    pub(crate) fn create(&self) -> bool {
        let number = self.cloud.creates.load(Ordering::SeqCst);
        self.door.create(&TypeName::new("small"), InstanceSecret::new(&format!("secret-{number}"))).is_some()
    }

    pub(crate) fn instances(&self) -> usize {
        self.door.view().instances.len()
    }

    /// The instance of create call `number`, once it is in service and was listed (one that never was is waited for a minute).
    pub(crate) fn wait_idle(&self, number: usize) -> InstanceId {
        let id = InstanceId::new(&format!("i-{number}"));
        wait_until("it is idle", || self.state(&id) == Some(WorkerState::Idle));
        let lists = self.cloud.lists.load(Ordering::SeqCst);
        wait_until("it was listed", || self.cloud.lists.load(Ordering::SeqCst) > lists + 1);
        id
    }

    pub(crate) fn state(&self, id: &InstanceId) -> Option<WorkerState> {
        self.door.worker_state(id)
    }

    pub(crate) fn host(&self, id: &InstanceId) -> Arc<Host> {
        self.cloud.hosts.lock()[id.as_str()].clone()
    }

    /// A probe has listed it.
    pub(crate) fn wait_runs(&self, uuid: &ContainerUuid) {
        use muster::core::pool::view::Phase;
        wait_until("it runs", || {
            let view = self.door.view();
            view.containers.get(uuid).is_some_and(|one| one.places.iter().any(|place| place.phase == Phase::Running))
        });
    }

    pub(crate) fn exited(&self, uuid: &ContainerUuid) -> bool {
        self.door.view().containers.get(uuid).is_some_and(|one| one.exited.is_some())
    }

    /// All threads end.
    pub(crate) fn stop(self) {
        let until = Instant::now() + LIMIT;
        self.workers.stop(until).expect("probes end");
        self.lanes.stop(until).expect("lanes end");
        self.operations.stop(until).expect("operations end");
        drop(self.stop);
        for thread in self.threads {
            thread.join_until(until).expect("ends");
        }
        assert_eq!(self.door.overflowed(), 0);
    }
}
