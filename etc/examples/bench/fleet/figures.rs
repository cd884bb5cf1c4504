//! What `/proc` says of a process.

use std::collections::BTreeMap;

use crate::daemon::Failure;

/// Of `/proc/PID/stat`; the same on every Linux (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// A process at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub(crate) threads: usize,
    pub(crate) descriptors: usize,
    /// KiB of memory that is the process's own.
    pub(crate) memory: u64,
    /// Seconds of processor time since its start.
    pub(crate) processor: f64,
}

impl Figures {
    pub(crate) fn of(pid: u32) -> Result<Self, Failure> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_ascii_whitespace().next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0)
        };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // After the program's name, which may contain anything: state is the first, utime and stime the 12th and 13th.
        let after = stat.rsplit_once(')').map(|(_, after)| after).unwrap_or_default();
        let ticks = after.split_ascii_whitespace().skip(11).take(2).filter_map(|text| text.parse::<f64>().ok());
        Ok(Self {
            threads: std::fs::read_dir(format!("/proc/{pid}/task"))?.count(),
            descriptors: std::fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
            memory: field("RssAnon:"),
            processor: ticks.sum::<f64>() / TICKS_PER_SECOND,
        })
    }
}

/// Threads by the first word of their names, without numbers: `probe`, `lane`, `create` …
pub(crate) fn threads(pid: u32) -> Result<String, Failure> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // One that has just ended is no more.
        let Ok(name) = std::fs::read_to_string(task?.path().join("comm")) else { continue };
        let name = name.trim().split(' ').next().unwrap_or_default();
        let name = name.trim_end_matches(|letter: char| letter.is_ascii_digit()).trim_end_matches('-').to_owned();
        *counts.entry(name).or_default() += 1;
    }
    let words: Vec<String> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
    Ok(words.join(", "))
}
