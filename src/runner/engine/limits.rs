//! Which limits an engine can be asked for. One that it cannot set is an error to it, and the container would not start.

use std::fs;
use std::path::Path;

use rustix::process::geteuid;

use super::Kind;
use muster_runner::protocol::Limits;

const ROOT: &str = "/sys/fs/cgroup";
/// As for processes: with less nothing can begin, and engines refuse it.
const RAM_MIN: i64 = 16 << 20;

/// Only the second version of control groups is here.
pub(crate) fn is_v2() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

pub(crate) fn on_memory(kind: Kind) -> bool {
    is_possible(kind, "memory")
}

/// Docker's daemon is root. A podman without root can use what systemd delegates to the user, in the second version only.
fn is_possible(kind: Kind, controller: &str) -> bool {
    if kind == Kind::Docker || geteuid().is_root() {
        return true;
    }
    let user = geteuid().as_raw();
    let path = format!("{ROOT}/user.slice/user-{user}.slice/user@{user}.service/cgroup.controllers");
    fs::read_to_string(path).is_ok_and(|controllers| controllers.split_whitespace().any(|other| other == controller))
}

/// The options of `run`.
pub(crate) fn options(kind: Kind, limits: &Limits) -> Vec<String> {
    let mut options = Vec::new();
    if limits.ram > 0 && on_memory(kind) {
        let ram = format!("{}b", limits.ram.max(RAM_MIN));
        options.extend(["--memory".to_owned(), ram.clone()]);
        // As for processes: no swap on top. Where swap is not counted, an engine warns on the job's standard error.
        if is_v2() || Path::new(ROOT).join("memory/memory.memsw.limit_in_bytes").exists() {
            options.extend(["--memory-swap".to_owned(), ram]);
        }
    }
    if limits.vcpus > 0 && is_possible(kind, "cpu") {
        // More than there are is an error to docker.
        let there = std::thread::available_parallelism().map_or(i64::MAX, |n| i64::try_from(n.get()).unwrap_or(1));
        options.extend(["--cpus".to_owned(), limits.vcpus.min(there).to_string()]);
    }
    options
}
