//! The table at the end.

use std::time::Duration;

use crate::check::Report;

pub(crate) fn print(containers: usize, took: Duration, report: &Report) {
    let per_second = f64::from(u32::try_from(containers).unwrap_or(u32::MAX)) / took.as_secs_f64();
    let rows = [
        ("containers", format!("{containers}")),
        ("attempts (all containers of the demo)", format!("{}", report.attempts)),
        ("time, the restart included", format!("{:.1} s", took.as_secs_f64())),
        ("containers per second, the restart included", format!("{per_second:.0}")),
        ("submit to start, one at a time: median", milliseconds(median(&report.start_latencies))),
        ("submit to start, one at a time: worst", milliseconds(worst(&report.start_latencies))),
        ("process's end to Complete, all: median", milliseconds(median(&report.end_latencies))),
        ("process's end to Complete, all: worst", milliseconds(worst(&report.end_latencies))),
        ("problems", format!("{}", report.problems.len())),
    ];
    rows_and_problems(&rows, &report.problems);
}

pub(crate) fn rows_and_problems(rows: &[(&str, String)], problems: &[String]) {
    println!();
    for (name, value) in rows {
        println!("   {name:<58} {value:>10}");
    }
    println!();
    for problem in problems.iter().take(20) {
        println!("   PROBLEM: {problem}");
    }
}

pub(crate) fn milliseconds(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "-".to_owned(), |duration| format!("{} ms", duration.as_millis()))
}

pub(crate) fn median(durations: &[Duration]) -> Option<Duration> {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

fn worst(durations: &[Duration]) -> Option<Duration> {
    durations.iter().max().copied()
}
