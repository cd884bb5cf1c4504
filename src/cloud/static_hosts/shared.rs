//! The table of hosts behind one lock, under which nothing waits: not for a disk, not for a host. How a change gets to the state file
//! is in [`super::commit`].
//!
//! A change is written before anybody acts on it: where that fails, it has not happened. What has happened in the world anyway (a
//! claim or clean-up that failed) stays in memory, and is written again later; the older text is then as good for a restart.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::HostStep;
use super::commit::{Keep, State, stopped};
use super::host::{Event, Host, HostSpec, Lease};
use super::owner::LeaseId;
use super::table::{Shortage, Table};
use super::trust::{Check, PinAnswer};
use crate::cloud::{CloudError, CloudEvent, CloudEvents, CloudInstance};
use crate::core::effect::{Level, Note};
use crate::core::errors::chain;
use crate::core::ids::InstanceId;
use crate::core::time::Moment;
use crate::log::write_note;
use crate::remote::identity::HostKey;
use crate::remote::{Connector, Executor, HostAccess};

/// The time, as the core takes it.
pub type Clock = Arc<dyn Fn() -> Moment + Send + Sync>;

/// Clean-ups at once.
const CLEANINGS_AT_ONCE: usize = 16;
/// With nothing due the thread still looks this often; a state file that could not be written is tried again then.
const IDLE_WAIT: Duration = Duration::from_secs(60);
/// A clean-up whose connection was cut ends at once; what takes longer than this ends with the process.
const STOP_LIMIT: Duration = Duration::from_millis(250);

pub(super) struct Shared {
    pub(super) set: String,
    pub(super) connector: Arc<dyn Connector>,
    pub(super) clock: Clock,
    pub(super) reached: fn(HostStep),
    pub(super) file: Box<dyn Keep>,
    /// Of the state file, for messages.
    pub(super) path: PathBuf,
    events: CloudEvents,
    state: Mutex<State>,
    /// Something is due earlier than it was, or the end has come.
    changed: Condvar,
    /// A batch of changes has been written or has failed, or the end has come.
    pub(super) settled: Condvar,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("set", &self.set).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(
        set: String,
        connector: Arc<dyn Connector>,
        clock: Clock,
        events: CloudEvents,
        (table, file, path): (Table, Box<dyn Keep>, PathBuf),
        reached: fn(HostStep),
    ) -> Self {
        let state = Mutex::new(State::new(table));
        let (changed, settled) = (Condvar::new(), Condvar::new());
        Self { set, connector, clock, reached, file, path, events, state, changed, settled }
    }

    pub(super) fn read<T>(&self, look: impl FnOnce(&Table, Moment) -> T) -> T {
        let state = self.state.lock();
        look(&state.table, (self.clock)())
    }

    /// What is listed. A host that is not in it any more may be given out again.
    pub(super) fn list(&self) -> Vec<CloudInstance> {
        let mut state = self.state.lock();
        let now = (self.clock)();
        let unseen = state.table.hosts.values().filter(|host| host.unseen);
        let unseen: Vec<InstanceId> = unseen.map(|host| host.spec.id.clone()).collect();
        for id in unseen {
            let Some(before) = state.table.hosts.get(&id).cloned() else { continue };
            state.apply(&id, Event::ListMade, now);
            self.tell(&state, &id, &before);
        }
        let listed = state.table.hosts.values().filter_map(|host| Some(instance(&host.spec, host.listed()?)));
        listed.collect()
    }

    /// The host of ours, other than `asking`, that has a lease.
    pub(super) fn holder(&self, lease: &LeaseId, asking: &InstanceId) -> Option<String> {
        self.read(|table, _| table.holder(lease, asking).map(ToString::to_string))
    }

    pub(super) fn lease(&self, id: &InstanceId) -> Option<LeaseId> {
        self.read(|table, _| table.hosts.get(id)?.lease().map(|lease| lease.id.clone()))
    }

    pub(super) fn spec(&self, id: &InstanceId) -> Option<HostSpec> {
        self.read(|table, _| table.hosts.get(id).map(|host| host.spec.clone()))
    }

    /// Writes the file as the table is now.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn save(&self) -> Result<(), CloudError> {
        let mut state = self.state.lock();
        let batch = state.next_batch();
        self.settle(&mut state, &batch)
    }

    /// Takes a free host of the type for a create; what the others are doing if there is none.
    ///
    /// # Errors
    /// The file cannot be written: no host was taken.
    pub(super) fn take(&self, lease: &Lease) -> Result<Result<HostSpec, Shortage>, CloudError> {
        let mut state = self.state.lock();
        if state.stopped {
            return Err(stopped());
        }
        let now = (self.clock)();
        self.end_pauses(&mut state, now);
        let Some(id) = state.table.free_host(&lease.type_name) else {
            return Ok(Err(state.table.shortage(&lease.type_name)));
        };
        self.change_in(&mut state, &id, Event::Chosen(lease.clone()))?;
        let spec = state.table.hosts.get(&id).map(|host| host.spec.clone());
        spec.map(Ok).ok_or_else(|| gone(&id))
    }

    /// Returns when the change is on disk.
    ///
    /// # Errors
    /// The file cannot be written, or the driver has stopped: nothing has changed.
    pub(super) fn change(&self, id: &InstanceId, event: Event) -> Result<(), CloudError> {
        self.change_in(&mut self.state.lock(), id, event)
    }

    fn change_in(&self, state: &mut MutexGuard<'_, State>, id: &InstanceId, event: Event) -> Result<(), CloudError> {
        self.wait_for_plans(state, |table| table.planned.contains_key(id))?;
        let now = (self.clock)();
        if let Some(batch) = state.plan(id, &event, now) {
            return self.settle(state, &batch);
        }
        if let Some(before) = state.table.hosts.get(id).cloned() {
            state.apply(id, event, now);
            self.tell(state, id, &before);
        }
        Ok(())
    }

    /// For what has happened whether or not it can be written. Waits for the disk all the same: the caller's next step may need it.
    pub(super) fn note(&self, id: &InstanceId, event: Event) {
        let mut state = self.state.lock();
        if state.stopped {
            return;
        }
        let now = (self.clock)();
        let Some(before) = state.table.hosts.get(id).cloned() else { return };
        state.apply(id, event, now);
        self.tell(&state, id, &before);
        if !state.record_differs(id, &before) {
            return;
        }
        let batch = state.next_batch();
        let result = self.settle(&mut state, &batch);
        let told = !state.stopped;
        drop(state);
        if let Err(error) = result
            && told
        {
            write_note(&Note::new(Level::Error, "hosts", "cannot write the state file").with("error", chain(&error)));
        }
    }

    /// Events and work that follow from a change. A hint that finds no room is lost, which costs time and nothing else.
    pub(super) fn tell(&self, state: &State, id: &InstanceId, before: &Host) {
        let now = state.table.hosts.get(id);
        if before.listed().is_some() && now.is_none_or(|host| host.listed().is_none()) {
            let _ = self.events.try_send(CloudEvent::ListChanged);
        }
        if let Some(host) = now.filter(|host| host.can_be_taken() && !before.can_be_taken()) {
            let _ = self.events.try_send(CloudEvent::Freed(host.spec.type_name.clone()));
        }
        self.changed.notify_all();
    }

    fn end_pauses(&self, state: &mut State, now: Moment) {
        for id in state.table.ended_pauses(now) {
            let Some(before) = state.table.hosts.get(&id).cloned() else { continue };
            state.apply(&id, Event::Tick, now);
            self.tell(state, &id, &before);
        }
    }

    /// Waits until clean-ups are due; they count as running from then on. `None`: the driver has stopped.
    pub(super) fn next_cleanings(&self) -> Option<Vec<HostSpec>> {
        let mut state = self.state.lock();
        // Once before each wait: what has changed meanwhile is looked at first.
        let mut tried = false;
        loop {
            if state.stopped {
                return None;
            }
            let now = (self.clock)();
            self.end_pauses(&mut state, now);
            let due = state.table.due_cleanings(CLEANINGS_AT_ONCE, now);
            if !due.is_empty() {
                for id in &due {
                    state.apply(id, Event::CleaningBegan, now);
                }
                let hosts = due.iter().filter_map(|id| state.table.hosts.get(id));
                return Some(hosts.map(|host| host.spec.clone()).collect());
            }
            if state.unsaved && !std::mem::replace(&mut tried, true) {
                self.save_again(&mut state);
                continue;
            }
            tried = false;
            let wait = state.table.next_due(now).map_or(IDLE_WAIT, |due| due.since(now).min(IDLE_WAIT));
            self.changed.wait_for(&mut state, wait);
        }
    }

    fn save_again(&self, state: &mut MutexGuard<'_, State>) {
        let batch = state.next_batch();
        if self.settle(state, &batch).is_ok() {
            let note = Note::new(Level::Info, "hosts", "the state file is complete again");
            MutexGuard::unlocked(state, || write_note(&note));
        }
    }

    /// Has [`Shared::next_cleanings`] look again.
    pub(super) fn look(&self) {
        // With the lock: between its look and its wait the thread would not hear it.
        let _state = self.state.lock();
        self.changed.notify_all();
    }

    /// After this no write begins, and nothing is sent. A write that hangs is not waited for: it ends with the process.
    pub(super) fn stop(&self) {
        let sessions = {
            let mut state = self.state.lock();
            if std::mem::replace(&mut state.stopped, true) {
                return;
            }
            self.changed.notify_all();
            self.settled.notify_all();
            std::mem::take(&mut state.sessions)
        };
        for executor in sessions.into_values() {
            executor.close();
        }
        let late = self.late_threads(Instant::now() + STOP_LIMIT);
        if !late.is_empty() {
            let note = Note::new(Level::Warn, "hosts", "threads are late and end with the process");
            write_note(&note.with("Threads", late.join(",")));
        }
    }

    /// Waits for the driver's threads; the names of those that go on. (Whoever calls is not waited for.)
    fn late_threads(&self, deadline: Instant) -> Vec<String> {
        let own = std::thread::current().id();
        let mut state = self.state.lock();
        let others = |state: &State| -> Vec<String> {
            let others = state.threads.values().filter(|(_, thread)| *thread != own);
            others.map(|(name, _)| name.clone()).collect()
        };
        while !others(&state).is_empty() && !self.settled.wait_until(&mut state, deadline).timed_out() {}
        others(&state)
    }

    /// For a thread of the driver's, at its beginning: it counts as running until the guard is dropped.
    pub(super) fn thread_begun(self: &Arc<Self>, name: &str) -> ThreadGuard {
        let mut state = self.state.lock();
        let number = state.threads_begun;
        state.threads_begun += 1;
        state.threads.insert(number, (name.to_owned(), std::thread::current().id()));
        ThreadGuard { number, shared: self.clone() }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.state.lock().stopped
    }

    /// Waits, but not beyond the driver's end.
    pub(super) fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut state = self.state.lock();
        while !state.stopped && !self.changed.wait_until(&mut state, until).timed_out() {}
    }

    /// How commands get to a host; connects to nothing.
    pub(super) fn executor(self: &Arc<Self>, spec: &HostSpec) -> std::io::Result<Arc<dyn Executor>> {
        let check = Arc::new(Check::new(spec, Arc::downgrade(self)));
        self.connector.executor(HostAccess { check, secret: None, sudo: spec.sudo })
    }

    /// An executor of the driver's own, for a claim or a clean-up.
    pub(super) fn session(self: &Arc<Self>, spec: &HostSpec) -> std::io::Result<Session> {
        let executor = self.executor(spec)?;
        executor.set_target(&spec.address.to_string(), &spec.user);
        let mut state = self.state.lock();
        if state.stopped {
            return Err(std::io::Error::other("the driver has stopped"));
        }
        let number = state.sessions_opened;
        state.sessions_opened += 1;
        state.sessions.insert(number, executor.clone());
        drop(state);
        Ok(Session { executor, number, shared: self.clone() })
    }

    /// What is known of the key of a host that is trusted on first use; remembers the first.
    pub(super) fn pin(&self, id: &InstanceId, key: &HostKey) -> PinAnswer {
        let mut state = self.state.lock();
        let waited = self.wait_for_plans(&mut state, |table| table.planned_pins.contains_key(id));
        if let Some(pin) = state.table.pins.get(id) {
            let file = self.path.clone();
            return if pin == key { PinAnswer::Same } else { PinAnswer::Other { pin: pin.clone(), file } };
        }
        let written = waited.and_then(|()| {
            let batch = state.plan_pin(id, key);
            self.settle(&mut state, &batch)
        });
        match written {
            Ok(()) => PinAnswer::First,
            Err(error) => PinAnswer::NotKept(chain(&error)),
        }
    }

    pub(super) fn pinned(&self, id: &InstanceId) -> Option<HostKey> {
        self.state.lock().table.pins.get(id).cloned()
    }
}

/// A host as the instance that it is while it is taken.
pub(super) fn instance(spec: &HostSpec, lease: &Lease) -> CloudInstance {
    CloudInstance {
        id: spec.id.clone(),
        provider_type: lease.provider_type.clone(),
        address: spec.address.to_string(),
        remote_user: spec.user.clone(),
        tags: lease.tags.clone(),
    }
}

fn gone(id: &InstanceId) -> CloudError {
    CloudError::Other { message: format!("the host {id} is gone from the table"), source: None }
}

/// See [`Shared::session`]. Closes its connections at its end.
pub(super) struct Session {
    pub(super) executor: Arc<dyn Executor>,
    number: u64,
    shared: Arc<Shared>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.executor.close();
        self.shared.state.lock().sessions.remove(&self.number);
    }
}

/// See [`Shared::thread_begun`].
pub(super) struct ThreadGuard {
    number: u64,
    shared: Arc<Shared>,
}

impl Drop for ThreadGuard {
    fn drop(&mut self) {
        self.shared.state.lock().threads.remove(&self.number);
        self.shared.settled.notify_all();
    }
}
