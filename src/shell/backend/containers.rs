//! Submitting containers, and what users do to them afterwards.

use super::records::{attempt_record, container_record, history_record, runtime_status};
use super::{DaemonBackend, api_error};
use crate::core::container::{Container, ContainerRequest};
use crate::core::effect::{Level, Note};
use crate::core::ids::ContainerUuid;
use crate::core::vocabulary::ContainerState;
use crate::log::write_note;
use crate::management::backend::{ApiError, ListQuery};
use crate::management::records::{ContainerDetail, ContainerList, Outcome, Outcomes, Selection, Submission, Submitted};
use crate::queue::local::{CancelOutcome, CommandError, ListFilter, MAX_RECORD, expand_array, parse_value, to_value};
use crate::shell::allocator;

/// Most bytes of an array: its record as JSON, times its elements. They are in memory until they are stored.
const MAX_ARRAY_BYTES: usize = 256 * 1024 * 1024;

impl DaemonBackend {
    pub(super) fn submit_records(&self, submission: Submission) -> Result<Submitted, ApiError> {
        if submission.records.is_empty() {
            return Err(ApiError::bad_request("records: at least one is needed"));
        }
        let default_max_attempts = self.config.read().queue.max_attempts;
        let several = submission.records.len() > 1;
        let mut requests: Vec<ContainerRequest> = Vec::with_capacity(submission.records.len());
        for (index, record) in submission.records.iter().enumerate() {
            let place = if several { format!("line {}: ", index + 1) } else { String::new() };
            let bytes = record.to_string().len();
            if bytes > MAX_RECORD {
                return Err(ApiError::unprocessable(format!("{place}record: longer than {MAX_RECORD} bytes")));
            }
            let request = parse_value(record, default_max_attempts)
                .map_err(|error| ApiError::unprocessable(format!("{place}{error}")))?;
            requests.push(request);
        }
        if let Some((first, last)) = submission.array {
            let [only] = requests.as_slice() else {
                return Err(ApiError::bad_request("array: needs exactly one record"));
            };
            let count = usize::try_from(last.saturating_sub(first).saturating_add(1)).unwrap_or(0);
            if submission.records[0].to_string().len().saturating_mul(count) > MAX_ARRAY_BYTES {
                let text = format!("array: {count} copies of this record are more than {MAX_ARRAY_BYTES} bytes");
                return Err(ApiError::unprocessable(format!("{text}: shorten its environment and stdin, or split it")));
            }
            let array = expand_array(only, first, last).map_err(|error| ApiError::unprocessable(error.to_string()))?;
            return self.submitted(self.queue.submit(array, submission.token.as_deref()));
        }
        self.submitted(self.queue.submit(requests, submission.token.as_deref()))
    }

    /// The answer to a submission. A line of the log for each (spec 80 §4).
    pub(super) fn submitted(&self, stored: Result<Vec<ContainerUuid>, CommandError>) -> Result<Submitted, ApiError> {
        let uuids = stored.map_err(|error| api_error(&error))?;
        let tell = |uuid: ContainerUuid| {
            let note = Note::new(Level::Info, "queue", "container submitted").with("ContainerUUID", &uuid);
            write_note(&note.with("State", ContainerState::Queued));
            uuid.to_string()
        };
        let submitted = Submitted { uuids: uuids.into_iter().map(tell).collect() };
        give_back_after(submitted.uuids.len());
        Ok(submitted)
    }

    pub(super) fn append_lines(&self, batch: &str, lines: Vec<u8>) -> Result<u64, ApiError> {
        let so_far = self.queue.append_batch(batch, lines).map_err(|error| api_error(&error))?;
        Ok(u64::try_from(so_far).unwrap_or(u64::MAX))
    }

    pub(super) fn list_containers(&self, query: &ListQuery) -> Result<ContainerList, ApiError> {
        let after = query.before.as_deref().map(str::parse).transpose();
        let after = after.map_err(|_| ApiError::bad_request("before: not the `next` of another page"))?;
        let filter =
            ListFilter { state: query.state, name_glob: query.name.clone(), uuids: None, limit: query.limit, after };
        let page = self.queue.list(&filter).map_err(|error| api_error(&error))?;
        let reasons = self.reasons();
        let record =
            |one: &Container| container_record(one, if one.state.is_final() { None } else { reasons.of(&one.uuid) });
        Ok(ContainerList {
            items: page.containers.iter().map(record).collect(),
            next: page.next.map(|next| next.to_string()),
        })
    }

    pub(super) fn show_container(&self, uuid: &ContainerUuid) -> Result<ContainerDetail, ApiError> {
        let detail = self.queue.show(uuid).map_err(|error| api_error(&error))?;
        let detail = detail.ok_or_else(|| no_container(uuid.as_str()))?;
        let container = &detail.container;
        Ok(ContainerDetail {
            container: container_record(container, self.reasons().of(uuid)),
            request: to_value(&container.request),
            runtime_status: runtime_status(container),
            attempts: detail.attempts.iter().map(|one| attempt_record(uuid, one, &self.results)).collect(),
            history: detail.history.iter().map(history_record).collect(),
        })
    }

    pub(super) fn cancel_selected(&self, selection: &Selection) -> Result<Outcomes, ApiError> {
        let told = |uuid: &ContainerUuid, outcome| {
            let note = Note::new(Level::Info, "queue", "cancel requested").with("ContainerUUID", uuid);
            let (state, message) = match outcome {
                CancelOutcome::Cancelled => (ContainerState::Cancelled.as_str(), "cancelled"),
                CancelOutcome::Requested => ("", "will be killed"),
            };
            write_note(&note.with("State", state));
            message.to_owned()
        };
        let texts = self.selected_waiting(selection)?;
        let outcomes = outcomes(&texts, |uuids| self.queue.request_cancels(uuids), told);
        give_back_after(texts.len());
        Ok(outcomes)
    }

    pub(super) fn prioritise_selected(&self, selection: &Selection) -> Result<Outcomes, ApiError> {
        let priority = selection.priority.unwrap_or_default();
        if !(0..=1000).contains(&priority) {
            return Err(ApiError::bad_request(format!("priority: {priority} is not between 0 and 1000")));
        }
        let told = |uuid: &ContainerUuid, ()| {
            let note = Note::new(Level::Info, "queue", "priority changed").with("ContainerUUID", uuid);
            write_note(&note.with("Priority", priority));
            if priority == 0 { "on hold".to_owned() } else { format!("priority {priority}") }
        };
        let texts = self.selected_waiting(selection)?;
        let outcomes = outcomes(&texts, |uuids| self.queue.set_priorities(uuids, priority), told);
        give_back_after(texts.len());
        Ok(outcomes)
    }

    pub(super) fn rerun_selected(&self, selection: &Selection) -> Outcomes {
        let items = selection.uuids.iter().map(|text| {
            outcome(text, |uuid| {
                let new = self.queue.rerun(uuid)?;
                let note = Note::new(Level::Info, "queue", "container submitted").with("ContainerUUID", &new);
                write_note(&note.with("State", ContainerState::Queued));
                Ok((format!("submitted again as {new}"), Some(new.to_string())))
            })
        });
        Outcomes { items: items.collect() }
    }

    /// Those that are named, and of those that the filters find what has not ended.
    fn selected_waiting(&self, selection: &Selection) -> Result<Vec<String>, ApiError> {
        self.selected(&selection.uuids, selection.name.as_deref(), selection.state.as_deref(), true)
    }

    /// The uuids asked for, then those that both filters match, oldest first, each once.
    pub(super) fn selected(
        &self,
        uuids: &[String],
        name: Option<&str>,
        state: Option<&str>,
        waiting_only: bool,
    ) -> Result<Vec<String>, ApiError> {
        let mut selected: Vec<String> = uuids.to_vec();
        if name.is_some() || state.is_some() {
            let known = |text| ContainerState::parse(text).ok_or_else(|| ApiError::bad_request(unknown_state(text)));
            let state = state.map(known).transpose()?;
            let found = self.queue.matching(state, name, waiting_only).map_err(|error| api_error(&error))?;
            selected.extend(found.iter().map(ToString::to_string));
        } else if uuids.is_empty() {
            return Err(ApiError::bad_request("nothing is selected: give uuids, a name or a state"));
        }
        let mut seen = std::collections::BTreeSet::new();
        selected.retain(|uuid| seen.insert(uuid.clone()));
        Ok(selected)
    }
}

fn unknown_state(text: &str) -> String {
    let known: Vec<_> = ContainerState::ALL.iter().map(|state| state.as_str()).collect();
    format!("state: {text:?} is none of {}", known.join(", "))
}

pub(super) fn no_container(uuid: &str) -> ApiError {
    ApiError::not_found(format!("there is no container {uuid}"))
}

/// What became of each, in the order of the texts; `act` answers for the uuids among them in their order, `told` says it.
fn outcomes<T>(
    texts: &[String],
    act: impl FnOnce(&[ContainerUuid]) -> Vec<Result<T, CommandError>>,
    told: impl Fn(&ContainerUuid, T) -> String,
) -> Outcomes {
    let uuids: Vec<ContainerUuid> = texts.iter().filter_map(|text| ContainerUuid::parse(text)).collect();
    let mut answers = act(&uuids).into_iter();
    let mut items = Vec::with_capacity(texts.len());
    for text in texts {
        items.push(outcome(text, |uuid| match answers.next() {
            Some(answer) => Ok((told(uuid, answer?), None)),
            None => unreachable!("there is an answer for each uuid"),
        }));
    }
    Outcomes { items }
}

fn outcome(text: &str, act: impl FnOnce(&ContainerUuid) -> Result<(String, Option<String>), CommandError>) -> Outcome {
    let result = match ContainerUuid::parse(text) {
        None => Err(no_container(text)),
        Some(uuid) => act(&uuid).map_err(|error| api_error(&error)),
    };
    match result {
        Ok((message, new_uuid)) => Outcome { uuid: text.to_owned(), code: 200, message, new_uuid },
        Err(error) => Outcome { uuid: text.to_owned(), code: error.status, message: error.message, new_uuid: None },
    }
}

fn give_back_after(containers: usize) {
    if containers >= allocator::MANY {
        allocator::give_back();
    }
}
