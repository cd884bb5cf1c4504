//! Reading `result.json`, which a worker wrote: untrusted, limited in size, and never a reason to fail for good.
//!
//! Runs in the caller's thread, before the writer is asked. A record that cannot be understood counts as an engine error, so the
//! attempt is lost and tried again.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use muster_runner::protocol::{Reason, ResultRecord};

use crate::core::ids::{Attempt, ContainerUuid};
use crate::core::lifecycle::AttemptEnd;
use crate::core::time::WallMillis;
use crate::queue::RECORD_BYTES_MAX;

/// Most characters of its free text that are kept.
const MAX_DETAIL: usize = 1000;

/// What is used of a result. An exited one has an exit code, a signaled one a signal.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AttemptResult {
    pub(super) reason: Reason,
    pub(super) exit_code: Option<i32>,
    pub(super) signal: Option<i32>,
    pub(super) started_at: Option<WallMillis>,
    pub(super) finished_at: Option<WallMillis>,
    /// Bytes.
    pub(super) peak_memory: Option<u64>,
    pub(super) cpu_seconds: Option<f64>,
    pub(super) detail: String,
    /// Outputs that were not brought back, in a few words; empty if all were.
    pub(super) left_out: String,
    /// They are larger than MaxOutputBytes and stay on the worker.
    pub(super) outputs_too_large: bool,
}

impl AttemptResult {
    fn broken(detail: String) -> Self {
        Self {
            reason: Reason::EngineError,
            exit_code: None,
            signal: None,
            started_at: None,
            finished_at: None,
            peak_memory: None,
            cpu_seconds: None,
            detail,
            left_out: String::new(),
            outputs_too_large: false,
        }
    }

    /// What the rules need of it.
    pub(super) fn end(&self) -> AttemptEnd {
        match self.reason {
            Reason::Exited => AttemptEnd::Exited(self.exit_code.unwrap_or(0)),
            Reason::Signaled => AttemptEnd::Signaled(self.signal.unwrap_or(0)),
            Reason::Killed => AttemptEnd::Killed,
            Reason::MaxRunTime => AttemptEnd::MaxRunTime,
            Reason::Oom => AttemptEnd::Oom,
            Reason::EngineError => AttemptEnd::EngineError(self.detail.clone()),
            Reason::DiskFull => AttemptEnd::DiskFull(self.detail.clone()),
        }
    }

    /// A few words for the attempt's record.
    pub(super) fn summary(&self) -> String {
        let text = match self.reason {
            Reason::Exited => format!("exited with code {}", self.exit_code.unwrap_or(0)),
            Reason::Signaled => format!("ended by signal {}", self.signal.unwrap_or(0)),
            Reason::Killed => "killed".to_owned(),
            Reason::MaxRunTime => "ran longer than max_run_time".to_owned(),
            Reason::Oom => "out of memory".to_owned(),
            Reason::EngineError => "engine error".to_owned(),
            Reason::DiskFull => "disk full".to_owned(),
        };
        if self.detail.is_empty() { text } else { format!("{text}: {}", self.detail) }
    }
}

/// Reads the result of this attempt from its directory.
///
/// # Errors
/// Only when our own storage cannot be read; a missing or bad record is an engine error.
pub(super) fn read(result_dir: &Path, uuid: &ContainerUuid, attempt: Attempt) -> io::Result<AttemptResult> {
    let mut bytes = Vec::new();
    match File::open(result_dir.join("result.json")) {
        Ok(file) => file.take(RECORD_BYTES_MAX + 1).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(AttemptResult::broken("its result has no result.json".to_owned()));
        }
        Err(error) => return Err(error),
    };
    Ok(parse(&bytes, uuid, attempt).unwrap_or_else(|why| AttemptResult::broken(format!("its result.json {why}"))))
}

fn parse(bytes: &[u8], uuid: &ContainerUuid, attempt: Attempt) -> Result<AttemptResult, String> {
    if bytes.len() as u64 > RECORD_BYTES_MAX {
        return Err(format!("is larger than {RECORD_BYTES_MAX} bytes"));
    }
    let record: ResultRecord = serde_json::from_slice(bytes).map_err(|error| format!("cannot be read: {error}"))?;
    if record.uuid != uuid.as_str() || record.attempt != attempt {
        return Err(format!("belongs to attempt {} of {:?}", record.attempt, cut(&record.uuid)));
    }
    let reason = record.reason;
    if reason == Reason::Exited && !record.exit_code.is_some_and(|code| (0..=255).contains(&code)) {
        return Err("says exited without an exit code from 0 to 255".to_owned());
    }
    if reason == Reason::Signaled && !record.signal.is_some_and(|signal| (1..=127).contains(&signal)) {
        return Err("says signaled without a signal from 1 to 127".to_owned());
    }
    Ok(AttemptResult {
        reason,
        exit_code: record.exit_code,
        signal: record.signal,
        started_at: said(record.started_at),
        finished_at: said(record.finished_at),
        peak_memory: record.peak_memory,
        cpu_seconds: record.cpu_seconds.filter(|seconds| seconds.is_finite()),
        detail: cut(&record.detail),
        left_out: left_out(&record.skipped),
        outputs_too_large: record.outputs_too_large,
    })
}

fn said(at: WallMillis) -> Option<WallMillis> {
    (at > 0).then_some(at)
}

/// The first output that was left out, with the reason, and how many more.
fn left_out(skipped: &[String]) -> String {
    match skipped {
        [] => String::new(),
        [one] => format!("output left out: {}", cut(one)),
        [first, more @ ..] => format!("outputs left out: {}; and {} more", cut(first), more.len()),
    }
}

/// Limited, and without control characters: it is shown on terminals.
fn cut(text: &str) -> String {
    text.chars().take(MAX_DETAIL).map(|character| if character.is_control() { ' ' } else { character }).collect()
}
