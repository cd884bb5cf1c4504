//! A queue that agrees to everything.

use std::path::Path;
use std::sync::Arc;

use crossbeam_channel::Receiver;
use muster::core::container::GpuRequest;
use muster::core::container::{Container, ContainerRequest, LostReason, RuntimeStatus};
use muster::core::entry::QueueSnapshot;
use muster::core::ids::{Attempt, ContainerUuid};
use muster::core::time::Moment;
use muster::core::vocabulary::ContainerState;
use muster::queue::{Assignment, ContainerQueue, Placement, QueueError};

#[derive(Debug)]
pub(crate) struct AnyQueue;

fn container(uuid: &ContainerUuid, attempt: Attempt) -> Container {
    let request = ContainerRequest {
        name: String::new(),
        command: vec!["true".to_owned()],
        cwd: String::new(),
        environment: std::collections::BTreeMap::new(),
        stdin: String::new(),
        container_image: String::new(),
        priority: 500,
        vcpus: 1,
        ram: 0,
        keep_cache_ram: 0,
        keep_cache_disk: 0,
        scratch: 0,
        gpu: GpuRequest::default(),
        preemptible: false,
        supervisor: false,
        max_run_time: None,
        max_attempts: 3,
        array_index: None,
        outputs: Vec::new(),
        after: Vec::new(),
    };
    Container {
        uuid: uuid.clone(),
        state: ContainerState::Locked,
        priority: request.priority,
        request: Arc::new(request),
        created_at: 0,
        started_at: None,
        finished_at: None,
        attempt,
        instance: None,
        instance_type: None,
        exit_code: None,
        runtime_status: RuntimeStatus::default(),
        cancel_requested: false,
        locked_by_uuid: String::new(),
        cost: 0.0,
    }
}

impl ContainerQueue for AnyQueue {
    fn snapshot(&self) -> QueueSnapshot {
        QueueSnapshot::default()
    }
    fn get(&self, uuid: &ContainerUuid) -> Option<Container> {
        Some(container(uuid, 0))
    }
    fn lock(&self, _uuid: &ContainerUuid) -> Result<(), QueueError> {
        Ok(())
    }
    fn unlock(&self, _uuid: &ContainerUuid) -> Result<(), QueueError> {
        Ok(())
    }
    fn cancel(&self, _uuid: &ContainerUuid, _why: &str) -> Result<(), QueueError> {
        Ok(())
    }
    fn forget(&self, _uuid: &ContainerUuid) {}
    fn update(&self, _now: Moment) -> Result<(), QueueError> {
        Ok(())
    }
    fn subscribe(&self) -> Receiver<()> {
        crossbeam_channel::never()
    }
    fn keeps_attempts(&self) -> bool {
        true
    }
    fn assign(&self, uuid: &ContainerUuid, attempt: Attempt, _placement: &Placement) -> Result<Assignment, QueueError> {
        Ok(Assignment { container: container(uuid, attempt), attempt, repeated: false })
    }
    fn seen_running(&self, _uuid: &ContainerUuid, _attempt: Attempt) -> Result<(), QueueError> {
        Ok(())
    }
    fn finish(&self, _uuid: &ContainerUuid, _attempt: Attempt, _result_dir: &Path) -> Result<(), QueueError> {
        Ok(())
    }
    fn attempt_lost(&self, _uuid: &ContainerUuid, _attempt: Attempt, _reason: LostReason) -> Result<(), QueueError> {
        Ok(())
    }
    fn trouble(&self) -> Option<String> {
        None
    }
}
