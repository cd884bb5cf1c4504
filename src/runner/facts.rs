//! `--facts`: what this machine is (spec 52 §1).

use std::io::Write;

use rustix::fs::statvfs;
use rustix::process::geteuid;
use rustix::system::{sysinfo, uname};

use crate::cgroup;
use crate::engine;
use crate::error::{Error, Result};
use crate::place::Place;
use muster_runner::protocol::{Facts, PROTOCOL};

/// Writes them as one line of JSON.
pub(crate) fn facts(place: &Place) -> Result<()> {
    let memory = sysinfo();
    let system = uname();
    let disk = statvfs(place.state_dir()).map_err(|e| Error::io("cannot examine", place.state_dir(), e))?;
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let facts = Facts {
        version: env!("CARGO_PKG_VERSION").into(),
        protocol: PROTOCOL,
        architecture: system.machine().to_string_lossy().into_owned(),
        kernel: system.release().to_string_lossy().into_owned(),
        cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
        ram: memory.totalram.saturating_mul(memory.mem_unit.into()),
        free_disk: disk.f_bavail.saturating_mul(disk.f_frsize),
        engines: engine::available(),
        cgroup: cgroup::version().into(),
        isolates_user: geteuid().is_root(),
    };
    let mut line = serde_json::to_vec(&facts).expect("plain data serialises");
    line.push(b'\n');
    std::io::stdout()
        .lock()
        .write_all(&line)
        .map_err(|source| Error::Io { what: "cannot write the facts".into(), source })
}
