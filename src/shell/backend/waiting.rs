//! Calls that wait: for containers to end, and for more of their output.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select_biased};

use super::containers::no_container;
use super::records::container_record;
use super::{DaemonBackend, api_error, seconds};
use crate::core::container::Container;
use crate::core::ids::{Attempt, ContainerUuid, InstanceId};
use crate::core::vocabulary::ContainerState;
use crate::management::backend::{ApiError, LOG_CHUNK_BYTES_MAX, LogChunk, LogQuery};
use crate::management::records::{Wait, WaitAnswer};
use crate::queue::ContainerQueue;
use crate::queue::local::ListFilter;
use crate::shell::results::result_dir;
use crate::shell::stop::Stop;

/// Two looks at the same question are at least this far apart, and ten times as far as a look takes.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a runner is asked to wait for more output.
const TAIL_WAIT: Duration = Duration::from_millis(900);

/// Waits for a change of the queue, but not beyond `until`. False when that has come, or the daemon stops.
fn change(changes: &Receiver<()>, until: Instant, stop: &Stop) -> bool {
    select_biased! {
        recv(stop.channel()) -> _ => false,
        recv(changes) -> _ => true,
        default(until.saturating_duration_since(Instant::now())) => false,
    }
}

fn pause(length: Duration, stop: &Stop) {
    let _ = stop.channel().recv_timeout(length);
}

impl DaemonBackend {
    pub(super) fn wait_for(&self, wait: &Wait) -> Result<WaitAnswer, ApiError> {
        let until = Instant::now() + seconds(wait.wait_s);
        let stop = self.waiting_token();
        // Before the first look: a change after that is announced.
        let changes = self.queue.subscribe();
        let uuids = self.selected(&wait.uuids, wait.name.as_deref(), wait.state.as_deref(), false)?;
        loop {
            let began = Instant::now();
            let answer = self.progress(&uuids)?;
            let done = answer.finished > wait.known_final || answer.finished + answer.unknown.len() >= answer.total;
            if done || Instant::now() >= until {
                return Ok(answer);
            }
            let left = until.saturating_duration_since(Instant::now());
            pause(PAUSE.max(began.elapsed() * 10).min(left), &stop);
            if !change(&changes, until, &stop) {
                return self.progress(&uuids);
            }
        }
    }

    fn progress(&self, asked: &[String]) -> Result<WaitAnswer, ApiError> {
        let mut answer = WaitAnswer { total: asked.len(), ..WaitAnswer::default() };
        let uuids: Vec<ContainerUuid> = asked.iter().filter_map(|text| ContainerUuid::parse(text)).collect();
        answer.unknown = asked.iter().filter(|text| ContainerUuid::parse(text).is_none()).cloned().collect();
        let states = self.queue.states(&uuids).map_err(|error| api_error(&error))?;
        let mut failed = std::collections::BTreeSet::new();
        for (uuid, state) in states {
            match state {
                None => answer.unknown.push(uuid.to_string()),
                Some((ContainerState::Running, _)) => answer.running += 1,
                Some((state, exit_code)) if state.is_final() => {
                    answer.finished += 1;
                    if (state, exit_code) != (ContainerState::Complete, Some(0)) {
                        failed.insert(uuid);
                    }
                }
                Some(_) => {}
            }
        }
        if !failed.is_empty() {
            let filter = ListFilter { uuids: Some(failed), ..ListFilter::default() };
            let page = self.queue.list(&filter).map_err(|error| api_error(&error))?;
            answer.failed = page.containers.iter().rev().map(|one| container_record(one, None)).collect();
        }
        if let [only] = uuids.as_slice() {
            let filter = ListFilter { uuids: Some([only.clone()].into()), limit: 1, ..ListFilter::default() };
            let page = self.queue.list(&filter).map_err(|error| api_error(&error))?;
            answer.only = page.containers.first().map(|one| container_record(one, self.reasons().of(only)));
        }
        Ok(answer)
    }

    pub(super) fn read_log(&self, query: &LogQuery) -> Result<LogChunk, ApiError> {
        let until = Instant::now() + query.wait;
        let stop = self.waiting_token();
        let changes = self.queue.subscribe();
        loop {
            let container = self.container(&query.uuid)?;
            let chunk = self.log_now(query, &container, until)?;
            if !chunk.bytes.is_empty() || chunk.end || Instant::now() >= until || stop.is_stopped() {
                return Ok(chunk);
            }
            // A running one waits at its worker; a waiting one for any change.
            let waits = matches!(container.state, ContainerState::Queued | ContainerState::Locked);
            if waits && !change(&changes, until, &stop) {
                return Ok(chunk);
            }
            pause(PAUSE, &stop);
        }
    }

    /// As the queue knows it now, finished or not.
    fn container(&self, uuid: &ContainerUuid) -> Result<Container, ApiError> {
        if let Some(container) = self.queue.get(uuid) {
            return Ok(container);
        }
        let filter = ListFilter { uuids: Some([uuid.clone()].into()), limit: 1, ..ListFilter::default() };
        let page = self.queue.list(&filter).map_err(|error| api_error(&error))?;
        page.containers.into_iter().next().ok_or_else(|| no_container(uuid.as_str()))
    }

    fn log_now(&self, query: &LogQuery, container: &Container, until: Instant) -> Result<LogChunk, ApiError> {
        let attempt = query.attempt.unwrap_or(container.attempt);
        let nothing = |end| LogChunk { bytes: Vec::new(), next_offset: query.offset, end, attempt };
        if attempt == 0 {
            return Ok(nothing(container.state.is_final()));
        }
        if attempt == container.attempt.saturating_add(1) && !query.wait.is_zero() {
            // The one after a lost one: it is waited for.
            return Ok(nothing(container.state.is_final()));
        }
        if attempt > container.attempt {
            return Err(ApiError::not_found(format!("container {} has no attempt {attempt}", container.uuid)));
        }
        // Only then: a result is in its place a moment before the queue knows of it, and what follows on it is asked of the queue.
        let is_closed = attempt < container.attempt || container.state.is_final() || container.instance.is_none();
        let file = result_dir(&self.results, &container.uuid, attempt).join(query.stream.as_str());
        if let Some((bytes, length)) = read_piece(&file, query.offset)? {
            let next_offset = query.offset + bytes.len() as u64;
            return Ok(LogChunk { bytes, next_offset, end: is_closed && next_offset >= length, attempt });
        }
        let Some(instance) = container.instance.as_ref().filter(|_| !is_closed) else {
            // It ended without a result: nothing will ever come.
            return Ok(nothing(true));
        };
        let wait = until.saturating_duration_since(Instant::now()).min(TAIL_WAIT);
        match self.tail(instance, query, attempt, wait) {
            Some(bytes) => {
                let next_offset = query.offset + bytes.len() as u64;
                Ok(LogChunk { bytes, next_offset, end: false, attempt })
            }
            None => {
                // Not started yet, being collected, or its worker does not answer: what there is comes later.
                pause(wait.min(PAUSE * 5), &self.waiting_token());
                Ok(nothing(false))
            }
        }
    }

    fn tail(&self, instance: &InstanceId, query: &LogQuery, attempt: Attempt, wait: Duration) -> Option<Vec<u8>> {
        let worker = self.workers.get(instance)?;
        worker.runner.tail(&query.uuid, attempt, query.stream.as_str(), query.offset, wait).ok()
    }
}

/// A piece of a collected stream, and the stream's length; `None` if it was not collected.
fn read_piece(path: &Path, offset: u64) -> Result<Option<(Vec<u8>, u64)>, ApiError> {
    let failed = |error: std::io::Error| ApiError::unavailable(format!("cannot read {}: {error}", path.display()));
    let mut file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed)?,
    };
    let length = file.metadata().map_err(failed)?.len();
    let mut bytes = Vec::new();
    if offset < length {
        file.seek(SeekFrom::Start(offset)).map_err(failed)?;
        file.take(LOG_CHUNK_BYTES_MAX as u64).read_to_end(&mut bytes).map_err(failed)?;
    }
    Ok(Some((bytes, length)))
}
