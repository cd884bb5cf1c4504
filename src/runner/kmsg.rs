//! The kernel's log: whether it has killed a process because memory ran out. For engines that do not say it.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;

/// Records that are looked at; the kernel's buffer usually has some thousands.
const RECORDS_MAX: usize = 100_000;

/// The log from when it was opened.
#[derive(Debug)]
pub(crate) struct Log(File);

impl Log {
    /// `None` where it cannot be read.
    pub(crate) fn from_now() -> Option<Self> {
        let flags = i32::try_from((OFlags::NONBLOCK | OFlags::CLOEXEC).bits()).ok()?;
        let mut log = OpenOptions::new().read(true).custom_flags(flags).open("/dev/kmsg").ok()?;
        log.seek(SeekFrom::End(0)).ok()?;
        Some(Self(log))
    }

    /// Whether this process, for a limit of its groups, or one of the control group with a directory of this name, for that group's limit,
    /// was killed since then.
    pub(crate) fn tells_of_oom(&self, pid: Option<i32>, group: Option<&str>) -> bool {
        let mut log = &self.0;
        // Each read gives one record.
        let mut record = [0; 8192];
        for _ in 0..RECORDS_MAX {
            match log.read(&mut record) {
                Ok(length @ 1..) if tells(&String::from_utf8_lossy(&record[..length]), pid, group) => return true,
                Ok(1..) => {}
                // Some records were overwritten meanwhile.
                Err(e) if e.kind() == ErrorKind::BrokenPipe || e.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return false,
            }
        }
        false
    }
}

/// `LEVEL,NUMBER,MICROSECONDS,FLAGS;TEXT`.
fn tells(record: &str, pid: Option<i32>, group: Option<&str>) -> bool {
    let Some((_, text)) = record.split_once(';') else { return false };
    // A machine that has no memory left ("Out of memory: Killed…", CONSTRAINT_NONE) is not the container's fault.
    let is_limit = text.contains("Memory cgroup out of memory: Kill");
    let of_pid = pid.is_some_and(|pid| is_limit && text.contains(&format!(" process {pid} (")));
    // Not for each of many that come at once.
    let limited =
        text.split_once("oom-kill:constraint=CONSTRAINT_MEMCG").and_then(|(_, text)| text.split_once("oom_memcg="));
    let limited = limited.map(|(_, text)| text.split(',').next().unwrap_or_default());
    let of_group = group.is_some_and(|group| limited.is_some_and(|path| path.rsplit('/').next() == Some(group)));
    of_pid || of_group
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_the_kernel() {
        let killed =
            "3,901,16684902147,-;Memory cgroup out of memory: Killed process 1917 (dd) total-vm:104956kB, UID:65534\n";
        let group = "6,900,16685081855,-;oom-kill:constraint=CONSTRAINT_MEMCG,oom_memcg=/a/libpod-1,task_memcg=/a/libpod-1,task=dd";
        let global = "3,901,16684902147,-;Out of memory: Killed process 1917 (dd) total-vm:104956kB, UID:65534\n";
        let all =
            "6,900,1,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),global_oom,task_memcg=/a/libpod-1,task=dd";
        let parent = "6,900,1,-;oom-kill:constraint=CONSTRAINT_MEMCG,oom_memcg=/a,task_memcg=/a/libpod-1,task=dd";
        for (record, pid, name, expected) in [
            (killed, Some(1917), None, true),
            (killed, Some(191), None, false),
            (killed, None, Some("libpod-1"), false),
            (group, Some(1), Some("libpod-1"), true),
            (group, Some(1), Some("libpod-2"), false),
            (global, Some(1917), None, false),
            (all, Some(1), Some("libpod-1"), false),
            (parent, Some(1), Some("libpod-1"), false),
            ("no record", Some(1917), Some("a"), false),
            ("", None, None, false),
        ] {
            assert_eq!(tells(record, pid, name), expected, "{record} {pid:?} {name:?}");
        }
    }
}
