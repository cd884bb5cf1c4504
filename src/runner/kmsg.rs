//! The kernel's log: whether it has killed a process because memory ran out. For engines that do not say it.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use rustix::time::{ClockId, clock_gettime};

/// Records that are looked at; the kernel's buffer usually has some thousands.
const RECORDS_MAX: usize = 100_000;
/// The log's clock and the system's differ a little.
const SLACK_US: i64 = 2_000_000;

/// A moment, by which what was logged before it can be left out. Microseconds.
pub(crate) fn now_us() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}

/// Whether this process, or one of the control group with a directory of this name, was killed since then. False where the log cannot be
/// read.
pub(crate) fn tells_of_oom(pid: Option<i32>, group: Option<&str>, since_us: i64) -> bool {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let Ok(mut log) = OpenOptions::new().read(true).custom_flags(flags).open("/dev/kmsg") else { return false };
    // Each read gives one record.
    let mut record = [0; 8192];
    for _ in 0..RECORDS_MAX {
        match log.read(&mut record) {
            Ok(0) => return false,
            Ok(length) => {
                let text = String::from_utf8_lossy(&record[..length]);
                if tells(&text, pid, group, since_us) {
                    return true;
                }
            }
            // Some records were overwritten meanwhile.
            Err(e) if e.kind() == ErrorKind::BrokenPipe || e.kind() == ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
    false
}

/// `LEVEL,NUMBER,MICROSECONDS,FLAGS;TEXT`.
fn tells(record: &str, pid: Option<i32>, group: Option<&str>, since_us: i64) -> bool {
    let Some((head, text)) = record.split_once(';') else { return false };
    let is_new =
        head.split(',').nth(2).and_then(|at| at.parse::<i64>().ok()).is_some_and(|at| at + SLACK_US >= since_us);
    let of_pid = pid.is_some_and(|pid| text.contains(&format!("Killed process {pid} (")));
    // Not for each of many that come at once.
    let of_group = group.is_some_and(|group| text.contains("oom-kill:") && text.contains(&format!("/{group},")));
    is_new && (of_pid || of_group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_the_kernel() {
        let killed =
            "3,901,16684902147,-;Memory cgroup out of memory: Killed process 1917 (dd) total-vm:104956kB, UID:65534\n";
        let group = "6,900,16685081855,-;oom-kill:constraint=CONSTRAINT_MEMCG,oom_memcg=/a/libpod-1,task_memcg=/a/libpod-1,task=dd";
        for (record, pid, name, since, expected) in [
            (killed, Some(1917), None, 16_684_000_000, true),
            (killed, Some(191), None, 0, false),
            (killed, None, Some("libpod-1"), 0, false),
            (killed, Some(1917), None, 16_690_000_000, false),
            (group, Some(1), Some("libpod-1"), 0, true),
            (group, Some(1), Some("libpod-2"), 0, false),
            ("no record", Some(1917), Some("a"), 0, false),
            ("", None, None, 0, false),
        ] {
            assert_eq!(tells(record, pid, name, since), expected, "{record} {pid:?} {name:?}");
        }
    }
}
