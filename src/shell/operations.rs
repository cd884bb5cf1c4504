//! Cloud calls in the background: creates, destroys and tag saves have threads of their own, so that slow creates never hold up a
//! destroy, and a hung call never the central thread (spec 20 §1).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Sender;
use parking_lot::Mutex;

use super::fault_point::{FaultPoint, reached};
use super::pool::PoolDoor;
use super::work_pool::WorkPool;
use crate::cloud::{CloudError, CloudInstance, InstanceSet, NewInstance};
use crate::core::effect::{Ending, Level, Note, Tags};
use crate::core::errors::chain;
use crate::core::ids::{InstanceId, InstanceSecret, OperationId};
use crate::core::pool::create::InstanceReport;
use crate::core::pool::limits::CloudRefusal;
use crate::core::time::Moment;
use crate::log::write_note;

/// Creates in flight (spec 20 §1), and those that may wait for a thread: the core has at most 64 open by default.
const CREATE_THREADS: usize = 64;
const CREATES_WAITING: usize = 10_000;
/// Destroys and tag saves in flight; each instance waits at most once for each.
const CHANGE_THREADS: usize = 4;
const CHANGES_WAITING: usize = 25_000;

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

type Waiting = Mutex<BTreeMap<(InstanceId, Kind), Change>>;

/// See the module.
#[derive(Debug)]
pub struct Operations {
    creates: WorkPool<(OperationId, NewInstance)>,
    changes: WorkPool<(InstanceId, Kind)>,
    /// Asked for and not begun: a second request for the same is the same, with the newest tags.
    waiting: Arc<Waiting>,
}

impl Operations {
    /// `list_soon` asks for a list after each destroy, if lists are cheap.
    pub fn new(cloud: Arc<dyn InstanceSet>, door: Arc<PoolDoor>, list_soon: Sender<()>) -> Self {
        let (create_cloud, change_cloud) = (cloud.clone(), cloud);
        let creates = WorkPool::new("create", CREATE_THREADS, CREATES_WAITING, move |(operation, new)| {
            create(&*create_cloud, &door, operation, &new);
        });
        let waiting = Arc::new(Waiting::default());
        let of_thread = waiting.clone();
        let changes = WorkPool::new("cloud", CHANGE_THREADS, CHANGES_WAITING, move |key: (InstanceId, Kind)| {
            // Taken before the call: what is asked for during the call is done after it.
            let wanted = of_thread.lock().remove(&key);
            if let Some(wanted) = wanted {
                change(&*change_cloud, &key.0, &wanted);
                if key.1 == Kind::Destroy && change_cloud.traits().cheap_list {
                    let _ = list_soon.try_send(());
                }
            }
        });
        Self { creates, changes, waiting }
    }

    /// An order that is dropped runs into its deadline in the core.
    pub fn create(&self, operation: OperationId, new: NewInstance) {
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

    fn ask(&self, key: (InstanceId, Kind), change: Change) {
        if self.waiting.lock().insert(key.clone(), change).is_some() {
            return;
        }
        if self.changes.submit(key.clone()).is_err() {
            // The sync asks again.
            self.waiting.lock().remove(&key);
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
    match cloud.create(new) {
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
