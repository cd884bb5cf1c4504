//! Carries a parsed operation out and turns its outcome into an answer. Runs on connection threads.
//! Texts and codes of spec 82 §3 and `API.md`.

use serde::Serialize;
use serde_json::json;

use super::backend::{ApiError, Backend, LogChunk};
use super::http::response::Response;
use super::operation::Operation;
use super::records::{ATTEMPT_HEADER, END_HEADER, InstanceList, InstanceRow, NEXT_OFFSET_HEADER};

/// Answers never fail: an error is an answer too.
pub fn act(operation: Operation, backend: &dyn Backend) -> Response {
    match operation {
        Operation::Version => Response::json(200, &backend.version()),
        Operation::Status => answer(backend.status()),
        Operation::List(query) => answer(backend.list(&query)),
        Operation::Submit(submission) => answer(backend.submit(submission)),
        Operation::Show(uuid) => answer(backend.show(&uuid)),
        Operation::Logs(query) => backend.logs(&query).map_or_else(|error| failure(&error), log_chunk),
        Operation::Cancel(selection) => answer(backend.cancel(&selection)),
        Operation::SetPriority(selection) => answer(backend.set_priority(&selection)),
        Operation::Rerun(selection) => answer(backend.rerun(&selection)),
        Operation::Wait(wait) => answer(backend.wait(&wait)),
        Operation::CreateBatch => answer(backend.create_batch()),
        Operation::AppendBatch(batch, lines) => {
            answer(backend.append_batch(&batch, lines).map(|records| json!({"records": records})))
        }
        Operation::CommitBatch(batch, commit) => answer(backend.commit_batch(&batch, commit)),
        Operation::Instances => Response::json(200, &all_instances(backend)),
        Operation::InstanceTypes => answer(backend.instance_types()),
        Operation::ResetInstanceType(name) => done(backend.reset_instance_type(&name)),
        Operation::Backup(backup) => done(backend.backup(&backup)),
        Operation::ArvadosContainers => Response::json(200, &json!({"items": backend.queue_entries()})),
        Operation::ArvadosContainer(uuid) => {
            answer(backend.queue_entry(&uuid).ok_or_else(|| ApiError::not_found("container not found")))
        }
        Operation::ArvadosKillContainer { uuid, reason } => match backend.kill_container(&uuid, &reason) {
            Ok(killed) => found(killed, "container not found"),
            Err(error) => failure(&error),
        },
        Operation::ArvadosInstances => instances(backend),
        Operation::SetIdleBehavior(instance, behavior) => {
            found(backend.set_idle_behavior(&instance, behavior), "requested instance does not exist")
        }
        Operation::KillInstance { instance, reason } => {
            found(backend.kill_instance(&instance, &reason), "instance not found")
        }
    }
}

/// The answer for an operation that was refused.
pub fn failure(error: &ApiError) -> Response {
    Response::errors(error.status, &error.message)
}

fn answer(outcome: Result<impl Serialize, ApiError>) -> Response {
    outcome.map_or_else(|error| failure(&error), |document| Response::json(200, &document))
}

fn done(outcome: Result<(), ApiError>) -> Response {
    outcome.map_or_else(|error| failure(&error), |()| Response::empty())
}

fn found(found: bool, otherwise: &str) -> Response {
    if found { Response::empty() } else { Response::errors(404, otherwise) }
}

fn log_chunk(chunk: LogChunk) -> Response {
    Response::new(200, "application/octet-stream", chunk.bytes)
        .with(NEXT_OFFSET_HEADER, chunk.next_offset.to_string())
        .with(END_HEADER, chunk.end.to_string())
        .with(ATTEMPT_HEADER, chunk.attempt.to_string())
}

/// Machines that are no instances stand between those that are: an operator looks for a name.
fn all_instances(backend: &dyn Backend) -> InstanceList {
    let mut items: Vec<InstanceRow> = backend.instances().into_iter().map(InstanceRow::from).collect();
    items.extend(backend.unlisted_instances());
    items.sort_by(|a, b| (&a.instance, &a.arvados_instance_type).cmp(&(&b.instance, &b.arvados_instance_type)));
    InstanceList { items }
}

fn instances(backend: &dyn Backend) -> Response {
    let mut items = backend.instances();
    items.sort_by(|a, b| (&a.instance, &a.arvados_instance_type).cmp(&(&b.instance, &b.arvados_instance_type)));
    Response::json(200, &json!({"items": items}))
}
