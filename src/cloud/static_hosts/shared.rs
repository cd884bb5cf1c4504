//! The table of hosts behind one lock, with the state file that says the same.
//!
//! A change is written before anybody acts on it, or sees it: where that fails, it has not happened. The file is replaced as a whole,
//! and without the lock; changes that come meanwhile are written together as soon as that is done ([`Batch`]), so that hundreds of
//! hosts can be taken at once. What has happened in the world anyway (a claim or clean-up that failed) is in memory at once, and
//! written with the next change; the older text is then as good for a restart.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::host::{Event, Host, HostSpec, Lease};
use super::record::{Changes, record_of, write};
use super::state_file::StateFile;
use super::table::{Shortage, Table};
use super::trust::{Check, PinAnswer};
use crate::cloud::{CloudError, CloudEvent, CloudEvents, CloudInstance};
use crate::core::effect::{Level, Note};
use crate::core::errors::chain;
use crate::core::ids::{InstanceId, TypeName};
use crate::core::time::Moment;
use crate::log::write_note;
use crate::remote::identity::HostKey;
use crate::remote::{Connector, Executor, HostAccess};

/// The time, as the core takes it.
pub type Clock = Arc<dyn Fn() -> Moment + Send + Sync>;

const STOPPED: &str = "the driver has stopped";
/// Clean-ups at once.
const CLEANINGS_AT_ONCE: usize = 16;
/// With nothing due the thread still looks this often; a state file that could not be written is tried again then.
const IDLE_WAIT: Duration = Duration::from_secs(60);

pub(super) struct Shared {
    pub(super) set: String,
    pub(super) connector: Arc<dyn Connector>,
    pub(super) clock: Clock,
    events: CloudEvents,
    state: Mutex<State>,
    /// Something is due earlier than it was, or the end has come.
    changed: Condvar,
    /// A batch has been written, or could not be.
    written: Condvar,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("set", &self.set).finish_non_exhaustive()
    }
}

/// Changes that go into the file together. At most one for each host.
#[derive(Debug, Default)]
struct Batch {
    changes: Changes,
    /// Keys that are trusted once this is written.
    pins: BTreeMap<InstanceId, HostKey>,
    /// Set when it is done: why it could not be written.
    outcome: Arc<OnceLock<Result<(), String>>>,
}

impl Batch {
    fn concerns(&self, id: &InstanceId) -> bool {
        self.changes.contains_key(id) || self.pins.contains_key(id)
    }
}

struct State {
    /// What the file says, and what has happened anyway.
    table: Table,
    file: Arc<StateFile>,
    /// To be written next.
    next: Batch,
    /// Being written, without the lock.
    writing: Option<Batch>,
    /// The file lacks a change.
    unsaved: bool,
    stopped: bool,
    /// Executors at work, by number: closed at the end.
    sessions: BTreeMap<u64, Arc<dyn Executor>>,
    sessions_opened: u64,
}

impl Shared {
    pub(super) fn new(
        set: String,
        connector: Arc<dyn Connector>,
        clock: Clock,
        events: CloudEvents,
        (table, file): (Table, StateFile),
    ) -> Self {
        let state = State {
            table,
            file: Arc::new(file),
            next: Batch::default(),
            writing: None,
            unsaved: false,
            stopped: false,
            sessions: BTreeMap::new(),
            sessions_opened: 0,
        };
        let (changed, written) = (Condvar::new(), Condvar::new());
        Self { set, connector, clock, events, state: Mutex::new(state), changed, written }
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

    pub(super) fn spec(&self, id: &InstanceId) -> Option<HostSpec> {
        self.read(|table, _| table.hosts.get(id).map(|host| host.spec.clone()))
    }

    /// Writes the file as the table is now.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn save(&self) -> Result<(), CloudError> {
        self.commit(&mut self.state.lock())
    }

    /// How often the file was written.
    pub(super) fn writes(&self) -> u64 {
        self.state.lock().file.writes()
    }

    /// Takes a free host of the type for a create; what the others are doing if there is none.
    ///
    /// # Errors
    /// The file cannot be written: no host was taken.
    pub(super) fn take(&self, lease: &Lease) -> Result<Result<HostSpec, Shortage>, CloudError> {
        let mut state = self.state.lock();
        let now = (self.clock)();
        self.end_pauses(&mut state, now);
        let is_pending = |id: &InstanceId| state.is_pending(id);
        let Some(id) = state.table.free_host(&lease.type_name, is_pending) else {
            return Ok(Err(state.table.shortage(&lease.type_name, is_pending)));
        };
        self.change_in(&mut state, &id, Event::Chosen(lease.clone()))?;
        let spec = state.table.hosts.get(&id).map(|host| host.spec.clone());
        spec.map(Ok).ok_or_else(|| gone(&id))
    }

    /// What the hosts of a type are doing.
    pub(super) fn shortage(&self, type_name: &TypeName) -> Shortage {
        let state = self.state.lock();
        state.table.shortage(type_name, |id| state.is_pending(id))
    }

    /// # Errors
    /// The file cannot be written, or the driver has stopped: nothing has changed.
    pub(super) fn change(&self, id: &InstanceId, event: Event) -> Result<(), CloudError> {
        self.change_in(&mut self.state.lock(), id, event)
    }

    fn change_in(&self, state: &mut MutexGuard<'_, State>, id: &InstanceId, event: Event) -> Result<(), CloudError> {
        self.await_change(state, id);
        if state.stopped {
            return Err(other(STOPPED));
        }
        let now = (self.clock)();
        let Some(before) = state.table.hosts.get(id).cloned() else { return Ok(()) };
        let mut after = before.clone();
        after.apply(event.clone(), now);
        if record_of(&after) == record_of(&before) {
            state.apply(id, event, now);
            self.tell(state, id, &before);
            return Ok(());
        }
        state.next.changes.insert(id.clone(), (event, now));
        self.commit(state)
    }

    /// For what has happened whether or not it can be written.
    pub(super) fn note(&self, id: &InstanceId, event: Event) {
        let mut state = self.state.lock();
        self.await_change(&mut state, id);
        if state.stopped {
            return;
        }
        let now = (self.clock)();
        let Some(before) = state.table.hosts.get(id).cloned() else { return };
        state.apply(id, event, now);
        let differs = state.table.hosts.get(id).and_then(record_of) != record_of(&before);
        self.tell(&state, id, &before);
        if differs && let Err(error) = self.commit(&mut state) {
            state.unsaved = true;
            write_note(&Note::new(Level::Error, "hosts", "cannot write the state file").with("error", chain(&error)));
        }
    }

    /// Until no change of the host is on its way, so that each is decided on what the one before has made of it.
    fn await_change(&self, state: &mut MutexGuard<'_, State>, id: &InstanceId) {
        while state.is_pending(id) {
            self.written.wait(state);
        }
    }

    /// Returns when everything in the next batch, and all that was noted before, is in the file.
    ///
    /// # Errors
    /// It cannot be written: nothing of the batch has happened.
    fn commit(&self, state: &mut MutexGuard<'_, State>) -> Result<(), CloudError> {
        let outcome = state.next.outcome.clone();
        loop {
            if let Some(result) = outcome.get() {
                return result.clone().map_err(other);
            }
            match state.writing {
                // Whoever waits first writes for all.
                None => self.write_batch(state),
                Some(_) => self.written.wait(state),
            }
        }
    }

    fn write_batch(&self, state: &mut MutexGuard<'_, State>) {
        let batch = std::mem::take(&mut state.next);
        let text = match state.stopped {
            true => Err(STOPPED.to_owned()),
            false => write(&state.table, (&batch.changes, &batch.pins), &self.set)
                .map_err(|error| format!("cannot write the state: {error}")),
        };
        let (outcome, file) = (batch.outcome.clone(), state.file.clone());
        state.writing = Some(batch);
        let result = text.and_then(|text| {
            MutexGuard::unlocked(state, || file.replace(&text))
                .map_err(|error| format!("cannot keep in {} which hosts are taken: {error}", file.path().display()))
        });
        if let Some(Batch { changes, mut pins, .. }) = state.writing.take()
            && result.is_ok()
        {
            state.unsaved = false;
            state.table.pins.append(&mut pins);
            for (id, (event, now)) in changes {
                let Some(before) = state.table.hosts.get(&id).cloned() else { continue };
                state.apply(&id, event, now);
                self.tell(state, &id, &before);
            }
        }
        // Nobody else sets it.
        let _ = outcome.set(result);
        self.written.notify_all();
    }

    /// Events and work that follow from a change. A hint that finds no room is lost, which costs time and nothing else.
    fn tell(&self, state: &State, id: &InstanceId, before: &Host) {
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
        loop {
            if state.stopped {
                return None;
            }
            let now = (self.clock)();
            self.end_pauses(&mut state, now);
            if state.unsaved && self.commit(&mut state).is_ok() {
                write_note(&Note::new(Level::Info, "hosts", "the state file is complete again"));
            }
            let due = state.table.due_cleanings(CLEANINGS_AT_ONCE, now);
            if !due.is_empty() {
                for id in &due {
                    state.apply(id, Event::CleaningBegan, now);
                }
                let hosts = due.iter().filter_map(|id| state.table.hosts.get(id));
                return Some(hosts.map(|host| host.spec.clone()).collect());
            }
            let wait = state.table.next_due(now).map_or(IDLE_WAIT, |due| due.since(now).min(IDLE_WAIT));
            self.changed.wait_for(&mut state, wait);
        }
    }

    /// Has [`Shared::next_cleanings`] look again.
    pub(super) fn look(&self) {
        self.changed.notify_all();
    }

    /// After this nothing is written, and nothing is in flight.
    pub(super) fn stop(&self) {
        let sessions = {
            let mut state = self.state.lock();
            state.stopped = true;
            self.changed.notify_all();
            while state.writing.is_some() {
                self.written.wait(&mut state);
            }
            std::mem::take(&mut state.sessions)
        };
        for executor in sessions.into_values() {
            executor.close();
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.state.lock().stopped
    }

    /// Waits, but not beyond the driver's end.
    pub(super) fn pause(&self, pause: Duration) {
        let until = std::time::Instant::now() + pause;
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
        self.await_change(&mut state, id);
        if let Some(pin) = state.table.pins.get(id) {
            let file = state.file.path().to_owned();
            return if pin == key { PinAnswer::Same } else { PinAnswer::Other { pin: pin.clone(), file } };
        }
        state.next.pins.insert(id.clone(), key.clone());
        match self.commit(&mut state) {
            Ok(()) => PinAnswer::First,
            Err(error) => PinAnswer::NotKept(chain(&error)),
        }
    }

    pub(super) fn pinned(&self, id: &InstanceId) -> Option<HostKey> {
        self.state.lock().table.pins.get(id).cloned()
    }
}

impl State {
    fn apply(&mut self, id: &InstanceId, event: Event, now: Moment) {
        let Some(host) = self.table.hosts.get_mut(id) else { return };
        host.apply(event, now);
        if host.is_over() {
            self.table.hosts.remove(id);
        }
    }

    /// A change of the host is on its way to the file.
    fn is_pending(&self, id: &InstanceId) -> bool {
        self.next.concerns(id) || self.writing.as_ref().is_some_and(|batch| batch.concerns(id))
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
    other(format!("the host {id} is gone from the table"))
}

fn other(message: impl Into<String>) -> CloudError {
    CloudError::Other { message: message.into(), source: None }
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
