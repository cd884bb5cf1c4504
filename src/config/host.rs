//! What the loader asks of this host: its size, for the loopback driver's one type (spec 60 §5.3), and who runs it.

use std::path::Path;

use crate::core::instance_type::InstanceType;

/// The facts that defaults depend on; handed in, so that tests can set them.
#[derive(Clone, Debug)]
pub struct Host {
    pub is_root: bool,
    pub cpus: i64,
    /// Bytes.
    pub ram: i64,
    /// Size in bytes of the file system of the temporary directory.
    pub disk: i64,
}

impl Host {
    /// This host. What cannot be found out is 1 CPU, or nothing.
    pub fn this() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, |cpus| i64::try_from(cpus.get()).unwrap_or(i64::MAX));
        Self {
            is_root: rustix::process::geteuid().is_root(),
            cpus,
            ram: memory_total().unwrap_or(0),
            disk: disk_size(&std::env::temp_dir()).unwrap_or(0),
        }
    }

    /// The type that stands for this host.
    pub(super) fn instance_type(&self) -> InstanceType {
        InstanceType {
            name: "localhost".to_owned(),
            provider_type: "localhost".to_owned(),
            vcpus: self.cpus,
            ram: self.ram,
            included_scratch: self.disk,
            price: 1.0,
            ..InstanceType::default()
        }
    }
}

fn memory_total() -> Option<i64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<i64>().ok()?.checked_mul(1024)
}

fn disk_size(path: &Path) -> Option<i64> {
    let found = rustix::fs::statvfs(path).ok()?;
    i64::try_from(found.f_blocks.checked_mul(found.f_frsize)?).ok()
}
