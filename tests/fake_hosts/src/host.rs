//! One host: what its connections share, and what a test may see and do.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use russh::keys::PublicKey;
use russh::server::Config;
use tokio::runtime::Handle as Runtime;
use tokio::sync::watch;

use crate::options::{Answer, ConnectFault, Faults, HostOptions, JobPlan, Turn};
use crate::transport::Link;
use crate::worker::{End, Key, Phase, Worker};

/// Commands whose text is kept.
const COMMANDS_KEPT: usize = 1000;
/// The listener follows a change within milliseconds; a busy machine may need longer.
pub(crate) const LISTENER_LIMIT: Duration = Duration::from_secs(60);

/// What a host has seen so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Accepted, also those that a fault closed at once.
    pub connections: u64,
    pub connections_now: usize,
    /// Most connections at one time.
    pub connections_most: usize,
    /// Key exchanges after which the client went on to authentication.
    pub handshakes: u64,
    pub auths: u64,
    /// Keys that were refused.
    pub auths_refused: u64,
    pub commands: u64,
    /// Channels that are open now.
    pub channels_now: usize,
    /// Most channels at one time.
    pub channels_most: usize,
    /// What scripts of the deployment were given on standard input.
    pub uploaded_bytes: u64,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) worker: Worker,
    pub(crate) counters: Counters,
    /// Content by path.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) deployed: bool,
    pub(crate) listening: bool,
    pub(crate) lines: VecDeque<String>,
    answers: Vec<(String, Answer)>,
    links: Vec<Weak<Link>>,
}

/// What all connections of a host share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) address: SocketAddr,
    pub(crate) options: HostOptions,
    pub(crate) client_key: Option<PublicKey>,
    /// With the host's key, and with another one.
    pub(crate) configs: [Arc<Config>; 2],
    pub(crate) faults: watch::Sender<Faults>,
    /// Counts changes of what `--list` says.
    pub(crate) list_changes: watch::Sender<u64>,
    pub(crate) runtime: Runtime,
    state: Mutex<State>,
    changed: Condvar,
}

const SECRET_FILE: &str = "/var/run/arvados-instance-secret";

pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

impl Shared {
    pub(crate) fn new(
        address: SocketAddr,
        options: HostOptions,
        client_key: Option<PublicKey>,
        configs: [Arc<Config>; 2],
        runtime: Runtime,
    ) -> Arc<Self> {
        let journal = options.journal.clone().map(|journal| (journal, address));
        let secret = options.secret.iter().map(|secret| (SECRET_FILE.to_owned(), secret.clone().into_bytes()));
        let state = State {
            worker: Worker::new(options.plain_runner, options.job.clone(), journal),
            counters: Counters::default(),
            files: secret.collect(),
            deployed: options.deployed,
            listening: false,
            lines: VecDeque::new(),
            answers: Vec::new(),
            links: Vec::new(),
        };
        let faults = watch::Sender::new(options.faults.clone());
        let (list_changes, changed) = (watch::Sender::new(0), Condvar::new());
        let state = Mutex::new(state);
        Arc::new(Self { address, options, client_key, configs, faults, list_changes, runtime, state, changed })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something that a list does not show.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let value = change(&mut self.state());
        self.changed.notify_all();
        value
    }

    /// Changes something that a list may show: waiting listers look again.
    pub(crate) fn change_list<T>(&self, change: impl FnOnce(&mut Worker) -> T) -> T {
        let value = self.change(|state| change(&mut state.worker));
        self.list_changes.send_modify(|count| *count += 1);
        value
    }

    /// The answer that a test has set for a command.
    pub(crate) fn answer(&self, command: &str) -> Option<Answer> {
        let state = self.state();
        state.answers.iter().find(|(text, _)| command.contains(text)).map(|(_, answer)| answer.clone())
    }

    pub(crate) fn end(&self, key: &Key, end: End) -> bool {
        let now = now_ms();
        self.change_list(|worker| worker.finish(key, end, now))
    }

    /// Ends a container once `after` has passed.
    pub(crate) fn end_later(self: &Arc<Self>, key: &Key, end: End, after: Duration) {
        if after.is_zero() {
            self.end(key, end);
            return;
        }
        let (shared, key) = (Arc::downgrade(self), key.clone());
        self.runtime.spawn(async move {
            tokio::time::sleep(after).await;
            if let Some(shared) = shared.upgrade() {
                shared.end(&key, end);
            }
        });
    }

    /// A container that was started ends by itself when its plan says so.
    pub(crate) fn finish_in_time(self: &Arc<Self>, key: &Key) {
        let planned =
            self.state().worker.entries.get(key).and_then(|entry| Some((entry.plan.time?, entry.crashes(key.1))));
        if let Some((time, crashes)) = planned {
            self.end_later(key, if crashes { End::Crash } else { End::ByItself }, time);
        }
    }

    /// A new connection; none beyond the allowed number.
    pub(crate) fn connected(&self) -> Option<Arc<Link>> {
        self.change(|state| {
            // Read under the lock: whoever sets faults looks for links after that.
            let faults = self.faults.borrow();
            let counters = &mut state.counters;
            counters.connections += 1;
            if faults.connections_max.is_some_and(|most| counters.connections_now >= most) {
                return None;
            }
            counters.connections_now += 1;
            counters.connections_most = counters.connections_most.max(counters.connections_now);
            let link = Arc::new(Link::default());
            link.freeze(faults.frozen);
            state.links.retain(|link| link.strong_count() > 0);
            state.links.push(Arc::downgrade(&link));
            Some(link)
        })
    }

    fn links(&self) -> Vec<Arc<Link>> {
        self.state().links.iter().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn command(&self, line: &str) {
        let number = self.change(|state| {
            state.counters.commands += 1;
            if state.lines.len() == COMMANDS_KEPT {
                state.lines.pop_front();
            }
            state.lines.push_back(line.to_owned());
            state.counters.commands
        });
        let turns = self.faults.borrow().turns;
        if let Some((_, turn)) = turns.filter(|(at, _)| number >= *at) {
            self.turn(turn);
        }
    }

    /// Returns at once, unlike [`Host::set_faults`]: the listener follows.
    fn turn(&self, turn: Turn) {
        self.faults.send_modify(|faults| {
            faults.turns = None;
            match turn {
                Turn::Silent => faults.frozen = true,
                Turn::Refusing => faults.connect = Some(ConnectFault::Refuse),
                Turn::Broken => {}
            }
        });
        match turn {
            Turn::Silent => self.links().iter().for_each(|link| link.freeze(true)),
            Turn::Refusing => self.links().iter().for_each(|link| link.cut()),
            Turn::Broken => self.change_list(|worker| worker.broken = true),
        }
    }

    fn wait(&self, limit: Duration, mut condition: impl FnMut(&State) -> bool) -> bool {
        let state = self.state();
        let waited = self.changed.wait_timeout_while(state, limit, |state| !condition(state));
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

/// One host, from outside. Cheap to clone; all methods may be called from any thread that is not the fleet's.
#[derive(Clone, Debug)]
pub struct Host {
    pub(crate) shared: Arc<Shared>,
}

impl Host {
    /// `127.0.0.1` and its port.
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// `ssh-ed25519 AAAA…`: the one it presents unless [`Faults::other_host_key`] is set.
    pub fn host_key_openssh(&self) -> String {
        self.key_text(0)
    }

    /// The one it presents when [`Faults::other_host_key`] is set.
    pub fn other_host_key_openssh(&self) -> String {
        self.key_text(1)
    }

    fn key_text(&self, which: usize) -> String {
        let key = self.shared.configs[which].keys.first().expect("a host has a key");
        crate::keys::public_text(key.public_key())
    }

    /// Changes what goes wrong. When this returns, the port listens or refuses as asked.
    pub fn set_faults(&self, faults: Faults) {
        let listening = faults.connect != Some(ConnectFault::Refuse);
        let frozen = faults.frozen;
        self.shared.faults.send_replace(faults);
        for link in self.shared.links() {
            link.freeze(frozen);
        }
        self.wait_listener(listening);
    }

    fn wait_listener(&self, listening: bool) {
        let follows = self.shared.wait(LISTENER_LIMIT, |state| state.listening == listening);
        assert!(follows, "the listener of {} does not follow", self.shared.address);
    }

    pub fn faults(&self) -> Faults {
        self.shared.faults.borrow().clone()
    }

    /// Drops all connections; the client sees their end.
    pub fn cut_connections(&self) {
        self.shared.links().iter().for_each(|link| link.cut());
    }

    /// What commands whose words (joined by spaces) contain `text` answer from now on; none = as usual again. They read nothing.
    pub fn set_answer(&self, text: &str, answer: Option<Answer>) {
        self.shared.change(|state| {
            state.answers.retain(|(other, _)| other != text);
            state.answers.extend(answer.map(|answer| (text.to_owned(), answer)));
        });
    }

    /// Content of the file `/var/run/arvados-instance-secret`; none removes it.
    pub fn set_secret(&self, secret: Option<&str>) {
        self.set_file(SECRET_FILE, secret.map(str::as_bytes));
    }

    /// A file that `cat` can show; none removes it.
    pub fn set_file(&self, path: &str, content: Option<&[u8]>) {
        self.shared.change(|state| match content {
            Some(content) => drop(state.files.insert(path.to_owned(), content.to_vec())),
            None => drop(state.files.remove(path)),
        });
    }

    /// The broken mark.
    pub fn set_broken(&self, broken: bool) {
        self.shared.change_list(|worker| worker.broken = broken);
    }

    /// For containers that start after this.
    pub fn set_job(&self, job: JobPlan) {
        self.shared.change(|state| state.worker.job = Arc::new(job));
    }

    /// The container's process ends by itself. False if it does not run here.
    pub fn finish(&self, uuid: &str) -> bool {
        self.running_attempt(uuid).is_some_and(|key| self.shared.end(&key, End::ByItself))
    }

    /// The runner dies without a result, and nothing is left. False if it does not run here.
    pub fn crash(&self, uuid: &str) -> bool {
        self.set_phase(uuid, Phase::Crashed)
    }

    /// The runner dies, but something holds its lock. False if it does not run here.
    pub fn make_stale(&self, uuid: &str) -> bool {
        self.set_phase(uuid, Phase::Stale)
    }

    fn set_phase(&self, uuid: &str, phase: Phase) -> bool {
        let key = self.running_attempt(uuid);
        key.is_some_and(|key| self.shared.change_list(|worker| worker.set_phase(&key, Phase::Running, phase)))
    }

    fn running_attempt(&self, uuid: &str) -> Option<Key> {
        let state = self.shared.state();
        let mut running = state.worker.entries.iter().filter(|(_, entry)| entry.phase == Phase::Running);
        running.find(|(key, _)| key.0 == uuid).map(|(key, _)| key.clone())
    }

    /// As if the machine was reset: connections end, runners are gone, results and tombstones stay.
    pub fn reboot(&self) {
        self.cut_connections();
        self.shared.change_list(Worker::reboot);
    }

    /// The machine is gone for good: connections end, nobody listens, what ran has ended, and nothing starts any more. So it is when this
    /// returns.
    pub fn switch_off(&self) {
        self.shared.change_list(Worker::switch_off);
        self.shared.turn(Turn::Refusing);
        self.wait_listener(false);
    }

    fn in_phase(&self, phase: Phase) -> Vec<Key> {
        let state = self.shared.state();
        let entries = state.worker.entries.iter().filter(|(_, entry)| entry.phase == phase);
        entries.map(|(key, _)| key.clone()).collect()
    }

    /// Uuid and attempt of what runs now, sorted.
    pub fn running(&self) -> Vec<(String, u32)> {
        self.in_phase(Phase::Running)
    }

    /// What waits to be collected or forgotten, sorted.
    pub fn finished(&self) -> Vec<(String, u32)> {
        self.in_phase(Phase::Finished)
    }

    /// How often each attempt was started here.
    pub fn starts(&self) -> BTreeMap<(String, u32), u32> {
        self.shared.state().worker.starts.clone()
    }

    /// The document that an attempt was started with; none if it is not here (any more), or came by the plain protocol.
    pub fn container(&self, uuid: &str, attempt: u32) -> Option<muster_runner::protocol::ContainerSpec> {
        let state = self.shared.state();
        state.worker.entries.get(&(uuid.to_owned(), attempt)).and_then(|entry| entry.spec.clone())
    }

    /// The runner's program is there.
    pub fn deployed(&self) -> bool {
        self.shared.state().deployed
    }

    /// The dispatcher that has taken the host: content of its owner file.
    pub fn owner(&self) -> Option<String> {
        self.shared.state().files.get(crate::runner::OWNER).map(|text| String::from_utf8_lossy(text).into_owned())
    }

    pub fn counters(&self) -> Counters {
        self.shared.state().counters.clone()
    }

    /// Command lines as they came, the last 1,000.
    pub fn commands(&self) -> Vec<String> {
        self.shared.state().lines.iter().cloned().collect()
    }

    /// Waits until `condition` holds; it is asked again after each change of this host. False when `limit` has passed.
    pub fn wait_until(&self, limit: Duration, mut condition: impl FnMut(&Counters) -> bool) -> bool {
        self.shared.wait(limit, |state| condition(&state.counters))
    }

    /// Waits until an attempt of the container runs here. False when `limit` has passed.
    pub fn wait_until_running(&self, uuid: &str, limit: Duration) -> bool {
        self.wait_for_phase(uuid, Phase::Running, limit)
    }

    /// Waits until a result of the container can be collected here. False when `limit` has passed.
    pub fn wait_until_finished(&self, uuid: &str, limit: Duration) -> bool {
        self.wait_for_phase(uuid, Phase::Finished, limit)
    }

    fn wait_for_phase(&self, uuid: &str, phase: Phase, limit: Duration) -> bool {
        self.shared.wait(limit, |state| {
            let mut entries = state.worker.entries.iter();
            entries.any(|(key, entry)| key.0 == uuid && entry.phase == phase)
        })
    }
}
