//! Are the results right, did each container run exactly once, and how long did things take?

use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::daemon::{Demo, Failure};
use crate::jobs::{ARRAY, FAILS_WITH, Work};

/// What was found.
#[derive(Default)]
pub(crate) struct Report {
    /// One sentence each; empty if all is well.
    pub(crate) problems: Vec<String>,
    /// Of the containers that were submitted one at a time: from submission to the process's start.
    pub(crate) start_latencies: Vec<Duration>,
    /// Of all: from the process's end to the committed state Complete.
    pub(crate) end_latencies: Vec<Duration>,
    pub(crate) attempts: usize,
}

pub(crate) fn check_results(
    demo: &Demo,
    work: &Work,
    uuids: &[String],
    fails: &str,
    singles: &[String],
) -> Result<Report, Failure> {
    let mut report = Report::default();
    for (index, (uuid, file)) in uuids.iter().zip(&work.files).enumerate() {
        let (output, expected) = match index < ARRAY {
            true => ("stdout", checksum(file)?),
            false => ("outputs/count.txt", count(file)?),
        };
        check_one(demo, work, uuid, 0, Some((output, &expected)), &mut report)?;
    }
    check_one(demo, work, fails, FAILS_WITH, None, &mut report)?;
    for (index, uuid) in singles.iter().enumerate() {
        check_one(demo, work, uuid, 0, Some(("stdout", &format!("{index}\n"))), &mut report)?;
        let detail = demo.json(&["show", uuid])?;
        let (created, started) = (&detail["container"]["created_at"], &detail["container"]["started_at"]);
        report.start_latencies.extend(between(created, started));
    }
    Ok(report)
}

fn check_one(
    demo: &Demo,
    work: &Work,
    uuid: &str,
    exit_code: i32,
    output: Option<(&str, &str)>,
    report: &mut Report,
) -> Result<(), Failure> {
    let detail = demo.json(&["show", uuid])?;
    let container = &detail["container"];
    if container["state"] != "Complete" || container["exit_code"] != exit_code {
        report.problems.push(format!("{uuid} is {} with exit code {}", container["state"], container["exit_code"]));
        return Ok(());
    }
    let attempts = detail["attempts"].as_array().map(Vec::as_slice).unwrap_or_default();
    report.attempts += attempts.len();
    let runs = std::fs::read_to_string(work.runs.join(uuid)).unwrap_or_default();
    if runs.lines().count() != 1 {
        report.problems.push(format!("{uuid} ran {} times: {runs:?}", runs.lines().count()));
    }
    let directory = attempts.last().and_then(|attempt| attempt["result_dir"].as_str()).unwrap_or_default().to_owned();
    if let Some((name, expected)) = output {
        let found = std::fs::read_to_string(Path::new(&directory).join(name)).unwrap_or_default();
        if normal(&found) != normal(expected) {
            report.problems.push(format!("{uuid}: {name} is {found:?}, expected {expected:?}"));
        }
    }
    let history = detail["history"].as_array().map(Vec::as_slice).unwrap_or_default();
    let committed = history.iter().find(|line| line["event"] == "finished").map(|line| &line["at"]);
    report.end_latencies.extend(committed.and_then(|at| between(&container["finished_at"], at)));
    Ok(())
}

/// `wc` pads its numbers differently on different systems.
pub(crate) fn normal(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

pub(crate) fn between(from: &serde_json::Value, to: &serde_json::Value) -> Option<Duration> {
    let span = to.as_i64()?.saturating_sub(from.as_i64()?);
    Some(Duration::from_millis(u64::try_from(span).unwrap_or(0)))
}

pub(crate) fn checksum(file: &Path) -> Result<String, Failure> {
    let digest = Sha256::digest(std::fs::read(file)?);
    let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{digits}  -\n"))
}

fn count(file: &Path) -> Result<String, Failure> {
    let bytes = std::fs::read(file)?;
    let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
    Ok(format!("{lines} {}\n", bytes.len()))
}
