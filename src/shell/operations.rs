//! Cloud calls in the background: creates, destroys and tag saves have threads of their own, so that slow creates never hold up a
//! destroy, and a hung call never the central thread (spec 20 §1).
//!
//! Each has a deadline from when it was asked for. What has waited longer is not begun: a create has failed for the core by then,
//! and of the others the sync asks again for what is still wanted. A call cannot be ended from outside; one that is at it for longer
//! keeps its thread, and another thread takes its place.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use parking_lot::Mutex;

use super::fault_point::{FaultPoint, reached};
use super::pool::PoolDoor;
use super::work_pool::{Overtime, WorkPool};
use crate::cloud::{CloudError, CloudInstance, InstanceSet, NewInstance};
use crate::core::effect::{Ending, Level, Note, Tags, seconds};
use crate::core::errors::chain;
use crate::core::ids::{InstanceId, InstanceSecret, OperationId};
use crate::core::pool::create::InstanceReport;
use crate::core::pool::limits::CloudRefusal;
use crate::core::settings::CREATE_DEADLINE;
use crate::core::time::Moment;
use crate::log::write_note;

/// Creates in flight (spec 20 §1), and those that may wait for a thread: the core has at most 64 open by default.
const CREATE_THREADS: usize = 64;
const CREATES_WAITING: usize = 10_000;
/// Creates and other changes that may hang beside those in flight.
const HANGING: usize = 60;
/// Destroys and tag saves in flight; each instance waits at most once for each.
const CHANGE_THREADS: usize = 4;
const CHANGES_WAITING: usize = 25_000;
/// Of one kind for one instance: one that hangs, and another try.
const SAME_CHANGES: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Destroy,
    SaveTags,
}

#[derive(Clone, Debug)]
enum Change {
    Destroy(Option<InstanceSecret>, Ending),
    SaveTags(Tags),
}

type Key = (InstanceId, Kind);

/// The changes that were asked for.
#[derive(Debug, Default)]
struct Changes {
    /// Not begun, with when it was asked for last: a second request for the same is the same, with the newest tags.
    waiting: BTreeMap<Key, (Change, Instant)>,
    /// Since when each call goes on that has not returned.
    in_flight: BTreeMap<Key, Vec<Instant>>,
}

/// See the module.
#[derive(Debug)]
pub struct Operations {
    creates: WorkPool<(OperationId, NewInstance)>,
    changes: WorkPool<Key>,
    asked: Arc<Mutex<Changes>>,
    /// How many hung when it was last logged.
    hanging: AtomicUsize,
}

impl Operations {
    /// `list_soon` asks for a list after each destroy, if lists are cheap; `deadline` is that of destroys and tag saves.
    pub fn new(cloud: Arc<dyn InstanceSet>, door: Arc<PoolDoor>, list_soon: Sender<()>, deadline: Duration) -> Self {
        let (create_cloud, change_cloud) = (cloud.clone(), cloud);
        let overtime = |after| Overtime { after, threads_max: HANGING };
        let creates = WorkPool::with_overtime(
            "create",
            CREATE_THREADS,
            CREATES_WAITING,
            overtime(CREATE_DEADLINE),
            move |(operation, new)| create(&*create_cloud, &door, operation, &new),
        );
        let asked = Arc::new(Mutex::new(Changes::default()));
        let of_thread = asked.clone();
        let carry_out = move |key: Key| {
            // Taken before the call: what is asked for during the call is done after it.
            while let Some((wanted, since, began)) = { of_thread.lock().begin(&key, deadline) } {
                change(&*change_cloud, &key.0, &wanted);
                of_thread.lock().end(&key, began);
                if since.elapsed() > deadline {
                    let note = Note::new(Level::Warn, "cloud", "a cloud call has returned after its deadline");
                    write_note(&note.with("Instance", &key.0).with("Duration", seconds(since.elapsed())));
                }
                if key.1 == Kind::Destroy && change_cloud.traits().cheap_list {
                    let _ = list_soon.try_send(());
                }
            }
        };
        let changes = WorkPool::with_overtime("cloud", CHANGE_THREADS, CHANGES_WAITING, overtime(deadline), carry_out);
        Self { creates, changes, asked, hanging: AtomicUsize::new(0) }
    }

    /// An order that is dropped runs into its deadline in the core.
    pub fn create(&self, operation: OperationId, new: NewInstance) {
        self.creates.relieve();
        if self.creates.submit((operation, new)).is_err() {
            write_note(&Note::new(Level::Error, "cloud", "too many creates wait; one is dropped"));
        }
    }

    pub fn destroy(&self, instance: &InstanceId, secret: Option<InstanceSecret>, ending: Ending) {
        self.ask((instance.clone(), Kind::Destroy), Change::Destroy(secret, ending));
    }

    pub fn save_tags(&self, instance: &InstanceId, tags: Tags) {
        self.ask((instance.clone(), Kind::SaveTags), Change::SaveTags(tags));
    }

    fn ask(&self, key: Key, change: Change) {
        let must_submit = {
            let mut asked = self.asked.lock();
            let is_new = asked.waiting.insert(key.clone(), (change, Instant::now())).is_none();
            // Its place in the queue may be gone: it was found waiting for a call that hangs.
            is_new || asked.in_flight.contains_key(&key)
        };
        if must_submit && self.changes.submit(key.clone()).is_err() {
            // The sync asks again.
            self.asked.lock().waiting.remove(&key);
        }
        let hanging = self.changes.relieve();
        if hanging > self.hanging.swap(hanging, Ordering::Relaxed) {
            let note =
                Note::new(Level::Warn, "cloud", "cloud calls have not returned in time; others go on beside them");
            write_note(&note.with("Calls", hanging));
        }
    }

    /// See [`WorkPool::stop`].
    ///
    /// # Errors
    /// Names of the threads that are late.
    pub fn stop(&self, deadline: Instant) -> Result<(), Vec<String>> {
        let mut late = Vec::new();
        late.extend(self.creates.stop(deadline).err().into_iter().flatten());
        late.extend(self.changes.stop(deadline).err().into_iter().flatten());
        if late.is_empty() { Ok(()) } else { Err(late) }
    }
}

impl Changes {
    /// What is to be done now for this key, when it was asked for, and when it begins, which names the call. `None` if it has waited for too long, and while another call
    /// for the same goes on, so that of two saves of tags the later one is the last: it waits for that, or until that hangs.
    fn begin(&mut self, key: &Key, deadline: Duration) -> Option<(Change, Instant, Instant)> {
        let calls = self.in_flight.get(key).map_or(&[][..], Vec::as_slice);
        if calls.len() >= SAME_CHANGES || calls.iter().any(|since| since.elapsed() <= deadline) {
            return None;
        }
        let (change, since) = self.waiting.remove(key)?;
        if since.elapsed() > deadline {
            return None;
        }
        let began = Instant::now();
        self.in_flight.entry(key.clone()).or_default().push(began);
        Some((change, since, began))
    }

    /// The call that began then has returned.
    fn end(&mut self, key: &Key, began: Instant) {
        if let Some(calls) = self.in_flight.get_mut(key) {
            calls.retain(|other| *other != began);
            if calls.is_empty() {
                self.in_flight.remove(key);
            }
        }
    }
}

/// What the pool is told of an instance.
pub fn report_of(instance: &CloudInstance) -> InstanceReport {
    InstanceReport {
        address: instance.address.clone(),
        remote_user: instance.remote_user.clone(),
        provider_type: instance.provider_type.clone(),
        tags: instance.tags.clone(),
    }
}

fn create(cloud: &dyn InstanceSet, door: &PoolDoor, operation: OperationId, new: &NewInstance) {
    // Its deadline has passed while it waited: it was given up, and another one may have been asked for.
    if !door.create_is_open(operation) {
        return;
    }
    // It has waited for this thread, and one like it may have been refused meanwhile.
    let result = new.still_wanted().and_then(|()| cloud.create(new));
    if let Err(error) = &result {
        new.refusals.note(&new.instance_type, error);
    }
    match result {
        Ok(made) => {
            reached(FaultPoint::CreateWritten);
            door.create_succeeded(operation, &made.id, &report_of(&made));
        }
        Err(error) => door.create_failed(operation, |now| refusal(&error, now), &chain(&error)),
    }
}

fn refusal(error: &CloudError, now: Moment) -> CloudRefusal {
    match error {
        CloudError::RateLimit { retry_after, .. } => CloudRefusal::RateLimit { until: now + *retry_after },
        CloudError::Quota { .. } => CloudRefusal::Quota,
        CloudError::Capacity { scope, .. } => CloudRefusal::Capacity(*scope),
        CloudError::Other { .. } => CloudRefusal::Other,
    }
}

fn change(cloud: &dyn InstanceSet, instance: &InstanceId, change: &Change) {
    let (result, message) = match change {
        Change::Destroy(secret, ending) => (
            cloud.destroy(instance, secret.as_ref(), *ending),
            "destroy failed; it is repeated while the instance is listed",
        ),
        Change::SaveTags(tags) => {
            (cloud.set_tags(instance, tags), "saving tags failed; it is repeated at the next sync")
        }
    };
    if let Err(error) = result {
        write_note(&Note::new(Level::Warn, "cloud", message).with("Instance", instance).with("error", chain(&error)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(3600);

    fn key() -> Key {
        (InstanceId::new("i-1"), Kind::Destroy)
    }

    fn asked(changes: &mut Changes, since: Instant) {
        changes.waiting.insert(key(), (Change::Destroy(None, Ending::Unwanted), since));
    }

    #[test]
    fn what_has_waited_longer_than_its_deadline_is_dropped() {
        let mut changes = Changes::default();
        let now = Instant::now();
        asked(&mut changes, now);
        assert!(changes.begin(&key(), Duration::ZERO).is_none());
        assert!(changes.waiting.is_empty() && changes.in_flight.is_empty());
        asked(&mut changes, now);
        assert!(changes.begin(&key(), DEADLINE).is_some());
    }

    #[test]
    fn of_one_kind_there_is_one_call_and_another_try_if_it_hangs() {
        let mut changes = Changes::default();
        asked(&mut changes, Instant::now());
        let (.., first) = changes.begin(&key(), DEADLINE).expect("free");
        asked(&mut changes, Instant::now());
        assert!(changes.begin(&key(), DEADLINE).is_none(), "it waits for the first");
        changes.end(&key(), first);
        let (.., second) = changes.begin(&key(), DEADLINE).expect("free again");
        assert!(changes.begin(&key(), DEADLINE).is_none(), "nothing more is asked for");
        changes.end(&key(), second);
        assert!(changes.in_flight.is_empty());

        // The one that hung returns first: the other is still one to wait for.
        let hung = Instant::now().checked_sub(Duration::from_millis(1)).expect("the machine is up");
        changes.in_flight.insert(key(), vec![hung]);
        changes.waiting.insert(key(), (Change::Destroy(None, Ending::Unwanted), Instant::now() + DEADLINE));
        let (.., third) = changes.begin(&key(), Duration::ZERO).expect("the first hangs");
        changes.end(&key(), hung);
        asked(&mut changes, Instant::now());
        assert!(changes.begin(&key(), DEADLINE).is_none(), "it waits for the other");
        changes.end(&key(), third);
        changes.waiting.clear();

        let long_ago = Instant::now().checked_sub(Duration::from_millis(1)).expect("the machine is up");
        for (hanging, begins) in [(1, true), (SAME_CHANGES, false)] {
            changes.in_flight.insert(key(), vec![long_ago; hanging]);
            changes.waiting.insert(key(), (Change::Destroy(None, Ending::Unwanted), Instant::now() + DEADLINE));
            assert_eq!(changes.begin(&key(), Duration::ZERO).is_some(), begins, "{hanging}");
        }
    }
}
