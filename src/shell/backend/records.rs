//! Core and queue data as documents of the API. Translation only.

use std::collections::BTreeMap;
use std::path::Path;

use crate::core::container::Container;
use crate::core::ids::ContainerUuid;
use crate::core::vocabulary::ContainerState;
use crate::management::records::{AttemptRecord, ContainerRecord, HistoryRecord};
use crate::queue::local;
use crate::shell::results::result_dir;

/// Why a container waits: the text of spec 82 §3.2, and what stands in its way.
#[derive(Clone, Debug, Default)]
pub(super) struct Waits {
    pub(super) text: String,
    pub(super) explanation: String,
}

pub(super) fn container_record(container: &Container, waits: Option<Waits>) -> ContainerRecord {
    let request = &container.request;
    let Waits { text: status, explanation } = match container.state {
        ContainerState::Queued | ContainerState::Locked => waits.unwrap_or_default(),
        _ => Waits { text: container.runtime_status.error.clone(), explanation: String::new() },
    };
    ContainerRecord {
        uuid: container.uuid.to_string(),
        name: request.name.clone(),
        state: container.state.as_str().to_owned(),
        priority: container.priority,
        created_at: container.created_at,
        started_at: container.started_at,
        finished_at: container.finished_at,
        exit_code: container.exit_code,
        attempt: container.attempt,
        max_attempts: request.max_attempts,
        array_index: request.array_index,
        instance: container.instance.as_ref().map(ToString::to_string),
        instance_type: container.instance_type.as_ref().map(ToString::to_string),
        cancel_requested: container.cancel_requested,
        cost: container.cost,
        status,
        explanation,
    }
}

/// `results`: `StateDir/containers`.
pub(super) fn attempt_record(uuid: &ContainerUuid, attempt: &local::AttemptRecord, results: &Path) -> AttemptRecord {
    let directory = result_dir(results, uuid, attempt.attempt);
    AttemptRecord {
        attempt: attempt.attempt,
        instance: attempt.instance.to_string(),
        instance_type: attempt.instance_type.to_string(),
        assigned_at: attempt.started_at,
        started_at: Some(attempt.started_at),
        finished_at: attempt.ended_at,
        exit_code: attempt.exit_code,
        signal: attempt.signal,
        ended_because: attempt.reason.clone(),
        peak_memory: attempt.peak_memory,
        cpu_seconds: attempt.cpu_seconds,
        cost: attempt.cost,
        collected: Some(attempt.collected),
        late: attempt.late_result.is_some(),
        result_dir: directory.is_dir().then(|| directory.to_string_lossy().into_owned()),
    }
}

pub(super) fn history_record(record: &local::HistoryRecord) -> HistoryRecord {
    HistoryRecord { at: record.time, event: record.event.clone(), detail: record.detail.clone() }
}

/// The well-known keys that are set.
pub(super) fn runtime_status(container: &Container) -> BTreeMap<String, String> {
    let status = &container.runtime_status;
    [("error", &status.error), ("warning", &status.warning), ("activity", &status.activity)]
        .into_iter()
        .filter(|(_, text)| !text.is_empty())
        .map(|(key, text)| (key.to_owned(), text.clone()))
        .collect()
}
