//! Part 2: are the results right, and did each container run as often as the rules allow?
//!
//! The rule: one attempt and one run. But a host that cannot be reached cannot be asked: what ran there when it was written off gets
//! a second attempt elsewhere, and may have run twice.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::check::{between, checksum, normal};
use crate::cluster::Cluster;
use crate::daemon::{Demo, Failure};
use crate::hosts::STOPPED;
use crate::jobs::Work;
use crate::table::{median, milliseconds, rows_and_problems};

/// What was found.
#[derive(Default)]
pub(crate) struct Report {
    /// One sentence each; empty if all is well.
    pub(crate) problems: Vec<String>,
    hosts: BTreeSet<String>,
    attempts: usize,
    /// Containers with a second attempt.
    second_attempts: BTreeSet<String>,
    results_kept: usize,
    ran_twice: usize,
    start_latencies: Vec<Duration>,
    end_latencies: Vec<Duration>,
}

pub(crate) fn check_results(demo: &Demo, work: &Work, uuids: &[String]) -> Result<Report, Failure> {
    let mut report = Report::default();
    for (uuid, file) in uuids.iter().zip(&work.files) {
        let detail = demo.json(&["show", uuid])?;
        report.check_state_and_output(uuid, &detail, &checksum(file)?);
        let runs = std::fs::read_to_string(work.runs.join(uuid)).unwrap_or_default().lines().count();
        report.check_runs(uuid, &detail, runs);
        report.measure(&detail);
    }
    if report.second_attempts.is_empty() {
        report.problems.push(format!("nothing ran on {STOPPED} when it was written off: the demo has not shown that"));
    }
    let missed = &demo.json(&["status"])?["missed_wakeups"];
    if *missed != 0 {
        report.problems.push(format!("the daemon missed {missed} wake-ups"));
    }
    Ok(report)
}

fn attempts_of(detail: &Value) -> &[Value] {
    detail["attempts"].as_array().map(Vec::as_slice).unwrap_or_default()
}

impl Report {
    fn check_state_and_output(&mut self, uuid: &str, detail: &Value, expected: &str) {
        let container = &detail["container"];
        if container["state"] != "Complete" || container["exit_code"] != 0 {
            self.problems.push(format!("{uuid} is {} with exit code {}", container["state"], container["exit_code"]));
            return;
        }
        let last = attempts_of(detail).last();
        let directory = last.and_then(|attempt| attempt["result_dir"].as_str()).unwrap_or_default();
        let found = std::fs::read_to_string(Path::new(directory).join("stdout")).unwrap_or_default();
        if normal(&found) != normal(expected) {
            self.problems.push(format!("{uuid}: its output is {found:?}, expected {expected:?}"));
        }
    }

    /// After they were given back.
    pub(crate) fn check_hosts(&mut self, cluster: &Cluster) -> Result<(), Failure> {
        let (left, kept) = cluster.leftovers(&self.second_attempts)?;
        self.problems.extend(left.into_iter().map(|left| format!("left on {left}")));
        self.results_kept = kept;
        Ok(())
    }

    fn check_runs(&mut self, uuid: &str, detail: &Value, runs: usize) {
        let attempts = attempts_of(detail);
        self.attempts += attempts.len();
        self.hosts.extend(attempts.iter().filter_map(|attempt| attempt["instance"].as_str()).map(str::to_owned));
        let first = attempts.first().unwrap_or(&Value::Null);
        match (attempts.len(), runs) {
            (1, 1) => {}
            (2, 1 | 2) if first["instance"] == STOPPED => {
                self.second_attempts.insert(uuid.to_owned());
                self.ran_twice += runs - 1;
            }
            (attempts, runs) => {
                let (host, why) = (&first["instance"], &first["ended_because"]);
                let text = format!("{attempts} attempts, {runs} runs; the first was on {host}, and ended: {why}");
                self.problems.push(format!("{uuid}: {text}"));
            }
        }
    }

    /// By the runner's clock and the daemon's, which are the same here.
    fn measure(&mut self, detail: &Value) {
        let history = detail["history"].as_array().map(Vec::as_slice).unwrap_or_default();
        let last = |event: &str| history.iter().rfind(|line| line["event"] == event).map(|line| &line["at"]);
        let container = &detail["container"];
        self.start_latencies.extend(last("running").and_then(|at| between(&container["started_at"], at)));
        self.end_latencies.extend(last("finished").and_then(|at| between(&container["finished_at"], at)));
    }

    pub(crate) fn print(&self, containers: usize, took: Duration) {
        let per_second = f64::from(u32::try_from(containers).unwrap_or(u32::MAX)) / took.as_secs_f64();
        let rows = [
            ("containers", format!("{containers}")),
            ("hosts that ran them", format!("{}", self.hosts.len())),
            ("time until all were Complete, all troubles included", format!("{:.1} s", took.as_secs_f64())),
            ("containers per second", format!("{per_second:.1}")),
            ("process's start to known as running: median", milliseconds(median(&self.start_latencies))),
            ("process's end to Complete: median", milliseconds(median(&self.end_latencies))),
            ("attempts", format!("{}", self.attempts)),
            ("containers with a second attempt, all of them by the rule", format!("{}", self.second_attempts.len())),
            ("of these really ran twice", format!("{}", self.ran_twice)),
            ("results of given-up attempts, kept for a host's next use", format!("{}", self.results_kept)),
            ("problems", format!("{}", self.problems.len())),
        ];
        rows_and_problems(&rows, &self.problems);
    }
}
