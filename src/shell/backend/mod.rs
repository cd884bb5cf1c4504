//! What the management API asks for, answered from the daemon's parts (spec 80 §1, 82 §3). Runs on connection threads.
//!
//! Reading order: the parts here, [`containers`] (submitting and changing), [`records`] (core data as API documents), [`waiting`]
//! (waiting and logs), [`reasons`] (why a container waits), [`overview`] (status, types, gauges).

mod containers;
mod overview;
mod reasons;
mod records;
mod waiting;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;

use super::clock::Clock;
use super::lists::ListFault;
use super::pool::PoolDoor;
use super::scheduler::SchedulerShared;
use super::stop::{Stop, StopSource};
use super::workers::Workers;
use crate::cloud::InstanceSet;
use crate::config::Config;
use crate::core::errors::chain;
use crate::core::ids::{ContainerUuid, InstanceId, TypeName};
use crate::core::pool::view::InstanceView;
use crate::core::scheduler::outlook::Listed;
use crate::core::time::WallMillis;
use crate::core::vocabulary::IdleBehavior;
use crate::management::arvados::{InstanceRecord, QueueEntryRecord};
use crate::management::backend::{ApiError, Backend, Gauges, ListQuery, LogChunk, LogQuery};
use crate::management::records::{
    API_VERSION, Backup, Batch, Commit, ContainerDetail, ContainerList, InstanceRow, InstanceTypeList, Outcomes,
    Selection, Status, Submission, Submitted, Version, Wait, WaitAnswer,
};
use crate::queue::local::{CommandError, LocalQueue};
use crate::queue::{ContainerQueue, QueueError};

/// The daemon as the listener sees it.
#[derive(Debug)]
pub struct DaemonBackend {
    pub door: Arc<PoolDoor>,
    pub cloud: Arc<dyn InstanceSet>,
    pub clock: Clock,
    pub queue: Arc<LocalQueue>,
    pub workers: Arc<Workers>,
    pub scheduler: Arc<SchedulerShared>,
    pub config: Arc<RwLock<Arc<Config>>>,
    /// `StateDir/containers`.
    pub results: PathBuf,
    pub started_at: WallMillis,
    pub list_fault: ListFault,
    /// Ends calls that wait.
    pub waiting: RwLock<Option<StopSource>>,
}

impl DaemonBackend {
    /// A token that is stopped when calls must not wait any more.
    fn waiting_token(&self) -> Stop {
        self.waiting.read().as_ref().map_or_else(|| StopSource::new().token(), StopSource::token)
    }

    fn wall_of(&self, moment: crate::core::time::Moment) -> WallMillis {
        self.clock.wall_of(moment)
    }
}

/// A failed command on the queue, as the API says it.
fn api_error(error: &CommandError) -> ApiError {
    let text = chain(error);
    match error {
        CommandError::Queue(error) => queue_error(error),
        CommandError::Refused { .. } => ApiError::conflict(text),
        CommandError::Invalid { .. } => ApiError::unprocessable(text),
        CommandError::TooMany { .. } => ApiError::unavailable(text),
        CommandError::NoSuchBatch(_) => ApiError::not_found(text),
        CommandError::TooLarge(_) => ApiError::too_large(text),
        CommandError::Backup { .. } => ApiError::conflict(text),
    }
}

fn queue_error(error: &QueueError) -> ApiError {
    let text = chain(error);
    match error {
        QueueError::NotFound(_) => ApiError::not_found(text),
        QueueError::WrongState { .. } => ApiError::conflict(text),
        QueueError::Storage { .. } | QueueError::Busy => ApiError::unavailable(text),
    }
}

impl Backend for DaemonBackend {
    fn version(&self) -> Version {
        let config = self.config.read();
        Version {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            api: API_VERSION,
            cluster_id: config.cluster_id.clone(),
            pid: std::process::id(),
            state_dir: config.state_dir.to_string_lossy().into_owned(),
        }
    }

    fn status(&self) -> Result<Status, ApiError> {
        self.overview()
    }

    fn list(&self, query: &ListQuery) -> Result<ContainerList, ApiError> {
        self.list_containers(query)
    }

    fn submit(&self, submission: Submission) -> Result<Submitted, ApiError> {
        self.submit_records(submission)
    }

    fn show(&self, uuid: &ContainerUuid) -> Result<ContainerDetail, ApiError> {
        self.show_container(uuid)
    }

    fn logs(&self, query: &LogQuery) -> Result<LogChunk, ApiError> {
        self.read_log(query)
    }

    fn cancel(&self, selection: &Selection) -> Result<Outcomes, ApiError> {
        self.cancel_selected(selection)
    }

    fn set_priority(&self, selection: &Selection) -> Result<Outcomes, ApiError> {
        self.prioritise_selected(selection)
    }

    fn rerun(&self, selection: &Selection) -> Result<Outcomes, ApiError> {
        Ok(self.rerun_selected(selection))
    }

    fn wait(&self, wait: &Wait) -> Result<WaitAnswer, ApiError> {
        self.wait_for(wait)
    }

    fn create_batch(&self) -> Result<Batch, ApiError> {
        self.queue.create_batch().map(|batch| Batch { batch }).map_err(|error| api_error(&error))
    }

    fn append_batch(&self, batch: &str, lines: Vec<u8>) -> Result<u64, ApiError> {
        self.append_lines(batch, lines)
    }

    fn commit_batch(&self, batch: &str, commit: Commit) -> Result<Submitted, ApiError> {
        self.submitted(self.queue.commit_batch(batch, commit.token.as_deref()))
    }

    fn instance_types(&self) -> Result<InstanceTypeList, ApiError> {
        Ok(self.list_instance_types())
    }

    fn reset_instance_type(&self, name: &str) -> Result<(), ApiError> {
        if !self.config.read().instance_types.contains_key(name) {
            return Err(ApiError::not_found(format!("there is no instance type {name:?}")));
        }
        self.door.reset_breaker(&TypeName::new(name));
        Ok(())
    }

    fn backup(&self, backup: &Backup) -> Result<(), ApiError> {
        let path = std::path::Path::new(&backup.file);
        if !path.is_absolute() {
            return Err(ApiError::bad_request("file: the daemon needs an absolute path"));
        }
        self.queue.backup(path).map_err(|error| api_error(&error))
    }

    fn queue_entries(&self) -> Option<Vec<QueueEntryRecord>> {
        let report = self.scheduler.report.read().clone()?;
        let queue = self.queue.snapshot();
        let listing = report.listing();
        let entry = |one: &Listed| {
            let entry = queue.entries.get(&one.entry.container.uuid)?;
            Some(QueueEntryRecord::new(entry, entry.container.created_at, &listing.text(one)))
        };
        Some(listing.items.iter().filter_map(entry).collect())
    }

    fn queue_entry(&self, uuid: &ContainerUuid) -> Option<QueueEntryRecord> {
        let report = self.scheduler.report.read().clone()?;
        let queue = self.queue.snapshot();
        let entry = queue.entries.get(uuid)?;
        let listing = report.listing();
        let text = listing.find(uuid).map(|one| listing.text(one)).unwrap_or_default();
        Some(QueueEntryRecord::new(entry, entry.container.created_at, &text))
    }

    fn kill_container(&self, uuid: &ContainerUuid, reason: &str) -> Result<bool, ApiError> {
        let running = |view: &InstanceView| view.containers.contains(uuid);
        if self.door.view().instances.values().any(|view| running(view)) {
            // Noted first: a result `killed` then means what the operator wanted, and is no lost attempt. Only for one that runs:
            // a later loss of another is a loss.
            if let Err(error @ QueueError::Storage { .. }) = self.queue.note_kill(uuid) {
                return Err(queue_error(&error));
            }
            // Refused for what the queue has ended or forgotten: that is killed all the same.
        }
        Ok(self.door.kill_container(uuid, None, reason))
    }

    fn instances(&self) -> Vec<InstanceRecord> {
        let view = self.door.view();
        view.instances.values().map(|view| InstanceRecord::new(view, |moment| self.wall_of(moment))).collect()
    }

    fn unlisted_instances(&self) -> Vec<InstanceRow> {
        self.cloud.unlisted().into_iter().map(reasons::row).collect()
    }

    fn set_idle_behavior(&self, instance: &InstanceId, behavior: IdleBehavior) -> bool {
        // To run again is also what a machine is told that is no instance now since something was wrong with it.
        let retried = || behavior == IdleBehavior::Run && self.cloud.retry(instance);
        self.door.set_idle_behavior(instance, behavior).is_some() || retried()
    }

    fn kill_instance(&self, instance: &InstanceId, reason: &str) -> bool {
        self.door.kill_instance(instance, reason)
    }

    fn health(&self) -> Result<(), String> {
        let results = || {
            let fault = self.door.view().storage_fault?;
            Some(format!(
                "results cannot be stored in {}: {fault}; nothing new is started until that is over",
                self.results.display()
            ))
        };
        self.queue.trouble().or_else(results).or_else(|| self.workers.supply().fault()).map_or(Ok(()), Err)
    }

    fn gauges(&self) -> Gauges {
        self.read_gauges()
    }

    fn stop_waiting(&self) {
        self.waiting.write().take();
    }
}

/// A whole number of seconds that may have a fraction, as a duration; the listener has checked its range.
fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or_default()
}
