//! From a route and its parameters to a typed operation: everything about a request that can be checked without the daemon.
//! Pure. Acting on it is in `act.rs`.

use std::time::Duration;

use serde::de::{DeserializeOwned, IgnoredAny};

use super::backend::{ApiError, ListQuery, LogQuery, LogStream};
use super::query::{first, parse_form};
use super::records::{Backup, Commit, Selection, Submission, WAIT_SECONDS_MAX, Wait};
use super::routes::Route;
use crate::core::ids::{ContainerUuid, InstanceId};
use crate::core::vocabulary::{ContainerState, IdleBehavior};

const LIST_LIMIT_DEFAULT: usize = 1000;
const LIST_LIMIT_MAX: usize = 10_000;

/// A request that is well-formed.
#[derive(Clone, Debug)]
pub enum Operation {
    Version,
    Status,
    List(ListQuery),
    Submit(Submission),
    Show(ContainerUuid),
    Logs(LogQuery),
    Cancel(Selection),
    SetPriority(Selection),
    Rerun(Selection),
    Wait(Wait),
    CreateBatch,
    /// Whole lines.
    AppendBatch(String, Vec<u8>),
    CommitBatch(String, Commit),
    Instances,
    InstanceTypes,
    ResetInstanceType(String),
    Backup(Backup),
    ArvadosContainers,
    ArvadosContainer(ContainerUuid),
    ArvadosKillContainer {
        uuid: ContainerUuid,
        reason: String,
    },
    ArvadosInstances,
    SetIdleBehavior(InstanceId, IdleBehavior),
    KillInstance {
        instance: InstanceId,
        reason: String,
    },
}

impl Operation {
    /// `segment` is what stands for `UUID` or `ID` in the path, `query` the query string as sent.
    pub fn parse(route: Route, segment: &str, query: &str, body: &[u8]) -> Result<Self, ApiError> {
        let params = Params(parse_form(query.as_bytes()));
        let idle = |behavior| Ok(Self::SetIdleBehavior(params.with_form(body).instance()?, behavior));
        match route {
            Route::Version => params.only(&[]).map(|()| Self::Version),
            Route::Status => params.only(&[]).map(|()| Self::Status),
            Route::List => params.list_query().map(Self::List),
            Route::Submit => submission(body).map(Self::Submit),
            Route::Show => uuid(segment).map(Self::Show),
            Route::Logs => params.log_query(uuid(segment)?).map(Self::Logs),
            Route::Cancel => selection(body).and_then(without_priority).map(Self::Cancel),
            Route::SetPriority => selection(body).and_then(with_priority).map(Self::SetPriority),
            Route::Rerun => selection(body).and_then(only_uuids).map(Self::Rerun),
            Route::Wait => wait(body).map(Self::Wait),
            Route::CreateBatch => Ok(Self::CreateBatch),
            Route::AppendBatch => Ok(Self::AppendBatch(batch(segment)?, json_lines(body)?)),
            Route::CommitBatch => {
                let commit = if body.trim_ascii().is_empty() { Commit::default() } else { json(body)? };
                Ok(Self::CommitBatch(batch(segment)?, commit))
            }
            Route::Instances => params.only(&[]).map(|()| Self::Instances),
            Route::InstanceTypes => params.only(&[]).map(|()| Self::InstanceTypes),
            Route::ResetInstanceType => match params.with_form(body).filled("name") {
                Some(name) => Ok(Self::ResetInstanceType(name)),
                None => Err(ApiError::bad_request("name: the parameter is missing")),
            },
            Route::Backup => json(body).and_then(backup).map(Self::Backup),
            Route::ArvadosContainers => Ok(Self::ArvadosContainers),
            Route::ArvadosContainer => params.arvados_container().map(Self::ArvadosContainer),
            Route::ArvadosKillContainer => {
                let params = params.with_form(body);
                if params.filled("container_uuid").is_none() {
                    return Err(ApiError::bad_request("container_uuid parameter not provided"));
                }
                Ok(Self::ArvadosKillContainer { uuid: params.arvados_container()?, reason: params.reason() })
            }
            Route::ArvadosInstances => Ok(Self::ArvadosInstances),
            Route::ArvadosHold => idle(IdleBehavior::Hold),
            Route::ArvadosDrain => idle(IdleBehavior::Drain),
            Route::ArvadosRun => idle(IdleBehavior::Run),
            Route::ArvadosKillInstance => {
                let params = params.with_form(body);
                Ok(Self::KillInstance { instance: params.instance()?, reason: params.reason() })
            }
        }
    }
}

/// Parameters of the query string and, before them, of a form body.
struct Params(Vec<(String, String)>);

impl Params {
    fn with_form(&self, body: &[u8]) -> Self {
        let mut pairs = parse_form(body);
        pairs.extend(self.0.iter().cloned());
        Self(pairs)
    }

    fn filled(&self, name: &str) -> Option<String> {
        first(&self.0, name).filter(|value| !value.is_empty()).map(str::to_owned)
    }

    /// Refuses parameters with other names: a misspelt filter must not mean "all".
    fn only(&self, names: &[&str]) -> Result<(), ApiError> {
        match self.0.iter().find(|(name, _)| name != "api_token" && !names.contains(&name.as_str())) {
            Some((name, _)) if names.is_empty() => {
                Err(ApiError::bad_request(format!("{}: there are no parameters here", shown(name))))
            }
            Some((name, _)) => Err(ApiError::bad_request(format!(
                "{}: there is no such parameter; known are {}",
                shown(name),
                names.join(", ")
            ))),
            None => Ok(()),
        }
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        self.filled(name).map(|text| text.parse().map_err(|_| bad_value(name, &text))).transpose()
    }

    fn list_query(&self) -> Result<ListQuery, ApiError> {
        self.only(&["state", "name", "limit", "before"])?;
        let limit = self.number("limit")?.unwrap_or(LIST_LIMIT_DEFAULT);
        if !(1..=LIST_LIMIT_MAX).contains(&limit) {
            return Err(ApiError::bad_request(format!("limit: must be from 1 to {LIST_LIMIT_MAX}")));
        }
        let state = self.filled("state").map(|text| state(&text)).transpose()?;
        Ok(ListQuery { state, name: self.filled("name"), limit, before: self.filled("before") })
    }

    fn log_query(&self, uuid: ContainerUuid) -> Result<LogQuery, ApiError> {
        self.only(&["stream", "attempt", "offset", "wait_s"])?;
        let stream = match self.filled("stream") {
            None => LogStream::Stdout,
            Some(text) => LogStream::parse(&text).ok_or_else(|| bad_value("stream", &text))?,
        };
        let wait = wait_seconds(self.number("wait_s")?.unwrap_or(0.0))?;
        Ok(LogQuery {
            uuid,
            stream,
            attempt: self.number("attempt")?,
            offset: self.number("offset")?.unwrap_or(0),
            wait: Duration::from_secs_f64(wait),
        })
    }

    fn arvados_container(&self) -> Result<ContainerUuid, ApiError> {
        let text = self.filled("container_uuid").unwrap_or_default();
        ContainerUuid::parse(&text).ok_or_else(|| ApiError::not_found("container not found"))
    }

    fn instance(&self) -> Result<InstanceId, ApiError> {
        let text = self.filled("instance_id");
        text.map(|id| InstanceId::new(&id)).ok_or_else(|| ApiError::bad_request("instance_id parameter not provided"))
    }

    fn reason(&self) -> String {
        format!("via management API: {}", self.filled("reason").unwrap_or_default())
    }
}

/// A text from outside, short enough for an error message.
fn shown(text: &str) -> String {
    let short: String = text.chars().take(64).collect();
    if short.len() < text.len() { format!("{short}…") } else { short }
}

fn bad_value(name: &str, text: &str) -> ApiError {
    ApiError::bad_request(format!("{name}: bad value \"{}\"", shown(text)))
}

fn state(text: &str) -> Result<ContainerState, ApiError> {
    ContainerState::parse(text).ok_or_else(|| {
        let known: Vec<_> = ContainerState::ALL.iter().map(|state| state.as_str()).collect();
        ApiError::bad_request(format!("state: \"{}\" is none of {}", shown(text), known.join(", ")))
    })
}

fn uuid(segment: &str) -> Result<ContainerUuid, ApiError> {
    ContainerUuid::parse(segment)
        .ok_or_else(|| ApiError::not_found(format!("there is no container \"{}\"", shown(segment))))
}

fn batch(segment: &str) -> Result<String, ApiError> {
    let plain = segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if plain && segment.len() <= 64 {
        Ok(segment.to_owned())
    } else {
        Err(ApiError::not_found(format!("there is no batch \"{}\"", shown(segment))))
    }
}

fn wait_seconds(seconds: f64) -> Result<f64, ApiError> {
    if (0.0..=WAIT_SECONDS_MAX).contains(&seconds) {
        Ok(seconds)
    } else {
        Err(ApiError::bad_request(format!("wait_s: must be from 0 to {WAIT_SECONDS_MAX}")))
    }
}

/// The error names line, column and field.
fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::bad_request(format!("body: {error}")))
}

/// Checked, but not taken apart: a piece of a large file is in memory as it is. Blank lines stay, so that numbers of lines are true.
fn json_lines(body: &[u8]) -> Result<Vec<u8>, ApiError> {
    for (index, line) in body.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let fault = |text: String| ApiError::bad_request(format!("body, record in line {}: {text}", index + 1));
        let text = std::str::from_utf8(line).map_err(|error| fault(error.to_string()))?;
        serde_json::from_str::<IgnoredAny>(text).map_err(|error| fault(error.to_string()))?;
    }
    let mut lines = Vec::with_capacity(body.len() + 1);
    lines.extend_from_slice(body);
    if lines.last().is_some_and(|byte| *byte != b'\n') {
        lines.push(b'\n');
    }
    Ok(lines)
}

fn submission(body: &[u8]) -> Result<Submission, ApiError> {
    let submission: Submission = json(body)?;
    match (&submission.array, submission.records.len()) {
        (_, 0) => Err(ApiError::bad_request("records: is empty")),
        (Some(_), 2..) => Err(ApiError::bad_request("array: goes with a single record only")),
        (Some((begin, end)), _) if begin > end => Err(ApiError::bad_request("array: ends before it begins")),
        _ => Ok(submission),
    }
}

/// Checks the form of a selection; uuids are left to the daemon, which answers for each.
fn selection(body: &[u8]) -> Result<Selection, ApiError> {
    let selection: Selection = json(body)?;
    check_filters(&selection.uuids, selection.name.as_deref(), selection.state.as_deref())?;
    Ok(selection)
}

fn check_filters(uuids: &[String], name: Option<&str>, wanted: Option<&str>) -> Result<(), ApiError> {
    if let Some(text) = wanted {
        state(text)?;
    }
    let filtered = name.is_some() || wanted.is_some();
    match (uuids.is_empty(), filtered) {
        (true, false) => Err(ApiError::bad_request("uuids: is empty, and there is neither name nor state")),
        (false, true) => Err(ApiError::bad_request("uuids: cannot be combined with name or state")),
        _ => Ok(()),
    }
}

fn without_priority(selection: Selection) -> Result<Selection, ApiError> {
    if selection.priority.is_some() {
        return Err(ApiError::bad_request("priority: is for containers/priority only"));
    }
    Ok(selection)
}

fn with_priority(selection: Selection) -> Result<Selection, ApiError> {
    if selection.priority.is_none() {
        return Err(ApiError::bad_request("priority: is missing"));
    }
    Ok(selection)
}

fn only_uuids(selection: Selection) -> Result<Selection, ApiError> {
    if selection.uuids.is_empty() {
        return Err(ApiError::bad_request("uuids: is empty; name and state cannot be used here"));
    }
    without_priority(selection)
}

fn wait(body: &[u8]) -> Result<Wait, ApiError> {
    let wait: Wait = json(body)?;
    check_filters(&wait.uuids, wait.name.as_deref(), wait.state.as_deref())?;
    wait_seconds(wait.wait_s)?;
    Ok(wait)
}

fn backup(backup: Backup) -> Result<Backup, ApiError> {
    if std::path::Path::new(&backup.file).is_absolute() {
        Ok(backup)
    } else {
        Err(ApiError::bad_request("file: must be an absolute path on the daemon's host"))
    }
}
