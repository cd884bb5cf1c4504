//! Control groups: limits on a container's CPU and memory, its figures, and all of its processes, also those that have left its
//! session while no runner watched (spec 52 §2).
//!
//! Version 1 has a directory per controller and version 2 one for all; both occur, and where both are mounted the one that has the
//! memory controller counts. A v1 group is made beneath the runner's own, so limits of the administrator stay in force. In v2 a
//! group with processes cannot have groups with controllers beneath it; there it is made beneath `muster` at the hierarchy's root.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::poll;
use crate::procs::{self, Process};

/// With less a process cannot even begin; the runner itself is in the group for the moment of a fork.
const RAM_MIN: i64 = 16 << 20;
/// Of the time that `vcpus` is a share of; the kernel's default.
const PERIOD_US: i64 = 100_000;
/// A process that has just been killed keeps its group for a moment.
const REMOVE_PATIENCE: Duration = Duration::from_secs(1);
const REMOVE_AGAIN: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

/// Where groups are made.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchies {
    version: Version,
    /// The runner's own group and the parent of new ones, for each hierarchy; the memory controller's first.
    places: Vec<(PathBuf, PathBuf)>,
}

/// A group of a job. Dropping it leaves it: see [`Group::remove`].
#[derive(Debug)]
pub(crate) struct Group {
    version: Version,
    dirs: Vec<PathBuf>,
    homes: Vec<PathBuf>,
}

/// What a group has used so far; what the kernel does not tell is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// Bytes of anonymous and shared memory now: without the page cache, which gives way.
    pub(crate) memory: Option<u64>,
    pub(crate) cpu_seconds: Option<f64>,
    /// Processes killed because the group was out of memory.
    pub(crate) oom_kills: u64,
}

impl Usage {
    /// The larger of each.
    pub(crate) fn max(self, other: Self) -> Self {
        Self {
            memory: self.memory.max(other.memory),
            cpu_seconds: other
                .cpu_seconds
                .filter(|new| self.cpu_seconds.is_none_or(|old| old < *new))
                .or(self.cpu_seconds),
            oom_kills: self.oom_kills.max(other.oom_kills),
        }
    }
}

/// `v1`, `v2` or `none`: found out by making a group.
pub(crate) fn version() -> &'static str {
    let group = Group::create(&format!("muster-facts-{}", std::process::id()));
    match group.map(|group| (group.remove(), group.version).1) {
        Some(Version::V1) => "v1",
        Some(Version::V2) => "v2",
        None => "none",
    }
}

impl Group {
    /// `None` if this machine has no hierarchy with a memory controller in which we may make one.
    pub(crate) fn create(name: &str) -> Option<Self> {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let mounts = read(PathBuf::from("/proc/self/mountinfo"));
        let found = Hierarchies::of(&mounts, &read(PathBuf::from("/proc/self/cgroup")), has_memory)?;
        found.make(name).ok()
    }

    /// The group of a container that an engine has made, by its first process; only to be read.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let read = |path: String| fs::read_to_string(path).unwrap_or_default();
        let found =
            Hierarchies::of(&read("/proc/self/mountinfo".into()), &read(format!("/proc/{pid}/cgroup")), has_memory)?;
        let dirs: Vec<PathBuf> = found.places.into_iter().map(|(own, _)| own).collect();
        Some(Self { version: found.version, homes: dirs.clone(), dirs })
    }

    /// The directories, to be kept where others find them.
    pub(crate) fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// `vcpus` and `ram` in bytes; 0 = no limit. What runs in the group gets as much CPU time as `vcpus` have, and no swap.
    pub(crate) fn limit(&self, vcpus: i64, ram: i64) -> io::Result<()> {
        let quota = vcpus.saturating_mul(PERIOD_US);
        let ram = (ram > 0).then(|| ram.max(RAM_MIN).to_string());
        match self.version {
            Version::V1 => {
                if let Some(ram) = ram {
                    self.write("memory.limit_in_bytes", &ram)?;
                    // Without swap accounting there is no such file.
                    let _ = self.write("memory.memsw.limit_in_bytes", &ram);
                }
                if vcpus > 0 && self.file("cpu.cfs_quota_us").is_some() {
                    self.write("cpu.cfs_period_us", &PERIOD_US.to_string())?;
                    self.write("cpu.cfs_quota_us", &quota.to_string())?;
                }
            }
            Version::V2 => {
                if let Some(ram) = ram {
                    self.write("memory.max", &ram)?;
                    let _ = self.write("memory.swap.max", "0");
                }
                if vcpus > 0 && self.file("cpu.max").is_some() {
                    self.write("cpu.max", &format!("{quota} {PERIOD_US}"))?;
                }
            }
        }
        Ok(())
    }

    /// Runs `spawn` within the group: what it starts is in it from its first instruction.
    ///
    /// # Errors
    /// The group could not be entered or left; in the second case `spawn` has run.
    pub(crate) fn around<T>(&self, spawn: impl FnOnce() -> T) -> io::Result<T> {
        let enter = |dirs: &[PathBuf]| dirs.iter().try_for_each(|dir| fs::write(dir.join("cgroup.procs"), "0"));
        let outcome = enter(&self.dirs).map(|()| spawn());
        // Even if not all of it was entered. A runner that stays would count as a process of the job, and be killed as one.
        enter(&self.homes).and(outcome)
    }

    pub(crate) fn usage(&self) -> Usage {
        let read = |name| self.file(name).and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        let (memory, kills) = match self.version {
            Version::V1 => (sum(&read("memory.stat"), &["total_rss", "total_shmem"]), read("memory.oom_control")),
            Version::V2 => (sum(&read("memory.stat"), &["anon", "shmem"]), read("memory.events")),
        };
        let nanoseconds = match self.version {
            Version::V1 => read("cpuacct.usage").trim().parse().ok(),
            Version::V2 => sum(&read("cpu.stat"), &["usage_usec"]).map(|micros| micros.saturating_mul(1000)),
        };
        #[expect(clippy::cast_precision_loss, reason = "2^53 nanoseconds are 104 days of CPU; then some are lost")]
        let cpu_seconds = nanoseconds.map(|nanoseconds| nanoseconds as f64 / 1e9);
        Usage { memory, cpu_seconds, oom_kills: sum(&kills, &["oom_kill"]).unwrap_or(0) }
    }

    /// The path of a file of the group, in the hierarchy that has it.
    fn file(&self, name: &str) -> Option<PathBuf> {
        self.dirs.iter().map(|dir| dir.join(name)).find(|path| path.exists())
    }

    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let path = self.file(name).ok_or_else(|| io::Error::new(ErrorKind::NotFound, format!("no {name}")))?;
        fs::write(&path, text).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
    }

    /// Removes it, if nothing is left in it.
    pub(crate) fn remove(&self) {
        remove(&self.dirs);
    }
}

/// Whether the v2 hierarchy mounted there has the memory controller.
fn has_memory(mount: &Path) -> bool {
    let controllers = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
    controllers.split_whitespace().any(|controller| controller == "memory")
}

/// The sum of these lines of a file with a name and a number in each; `None` if it has none of them.
fn sum(text: &str, names: &[&str]) -> Option<u64> {
    let number = |line: &str| {
        let (name, number) = line.split_once(' ')?;
        names.contains(&name).then(|| number.trim().parse::<u64>().ok())?
    };
    text.lines().filter_map(number).reduce(u64::saturating_add)
}

/// The running processes in these groups.
pub(crate) fn members(dirs: &[PathBuf]) -> Vec<Process> {
    let texts = dirs.iter().filter_map(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok());
    let mut pids: Vec<i32> =
        texts.flat_map(|text| text.lines().map(str::parse).collect::<Vec<_>>()).flatten().collect();
    pids.sort_unstable();
    pids.dedup();
    pids.into_iter().filter_map(procs::read).filter(|process| !process.zombie).collect()
}

/// Removes these groups, if nothing is left in them.
pub(crate) fn remove(dirs: &[PathBuf]) {
    for dir in dirs {
        let mut patience = REMOVE_PATIENCE;
        while fs::remove_dir(dir).is_err_and(|e| e.kind() == ErrorKind::ResourceBusy) && !patience.is_zero() {
            // The kernel announces this to nobody in version 1.
            let _ = poll::wait(&[], Some(std::time::Instant::now() + REMOVE_AGAIN));
            patience = patience.saturating_sub(REMOVE_AGAIN);
        }
    }
}

/// Removes the empty groups of processes that are gone: a runner may crash after it has made one and before it could say so.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let maker =
            name.to_str().and_then(|name| name.strip_prefix("muster-")?.rsplit('-').next()?.parse::<i32>().ok());
        if maker.is_some_and(|maker| procs::read(maker).is_none()) {
            // Fails while anything is in it.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

impl Hierarchies {
    /// From `/proc/self/mountinfo` and `/proc/self/cgroup`. `has_memory` tells it of the v2 hierarchy mounted there.
    fn of(mounts: &str, own: &str, has_memory: impl Fn(&Path) -> bool) -> Option<Self> {
        let mounts: Vec<Mount<'_>> = mounts.lines().filter_map(Mount::parse).collect();
        let unified = mounts.iter().find(|mount| mount.kind == "cgroup2").filter(|mount| has_memory(mount.point));
        if let Some(mount) = unified {
            let places = vec![(mount.own(own, "")?, mount.point.join("muster"))];
            return Some(Self { version: Version::V2, places });
        }
        let mut places: Vec<(PathBuf, PathBuf)> = Vec::new();
        for controller in ["memory", "cpu", "cpuacct"] {
            let mount =
                mounts.iter().find(|mount| mount.kind == "cgroup" && mount.options.split(',').any(|o| o == controller));
            let home = mount.and_then(|mount| mount.own(own, controller));
            if controller == "memory" && home.is_none() {
                return None;
            }
            // Two controllers may share a hierarchy.
            places.extend(home.filter(|home| places.iter().all(|(other, _)| other != home)).map(|h| (h.clone(), h)));
        }
        Some(Self { version: Version::V1, places })
    }

    /// All of them or none.
    fn make(&self, name: &str) -> io::Result<Group> {
        let mut group = Group { version: self.version, dirs: Vec::new(), homes: Vec::new() };
        for (home, parent) in &self.places {
            let dir = parent.join(name);
            let made = self.furnish(parent).and_then(|()| {
                sweep(parent);
                fs::create_dir(&dir)
            });
            if let Err(e) = made {
                group.remove();
                return Err(e);
            }
            group.dirs.push(dir);
            group.homes.push(home.clone());
        }
        let limits = if self.version == Version::V1 { "memory.limit_in_bytes" } else { "memory.max" };
        match group.file(limits) {
            Some(_) => Ok(group),
            None => {
                group.remove();
                Err(io::Error::new(ErrorKind::Unsupported, "the memory controller is not delegated"))
            }
        }
    }

    /// In v2 a controller is used beneath a group only where it is switched on.
    fn furnish(&self, parent: &Path) -> io::Result<()> {
        if self.version == Version::V1 {
            return Ok(());
        }
        match fs::create_dir(parent) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        for dir in parent.parent().into_iter().chain([parent]) {
            let path = dir.join("cgroup.subtree_control");
            let on = fs::read_to_string(&path)?;
            for controller in ["memory", "cpu"] {
                if on.split_whitespace().all(|other| other != controller) {
                    let written = fs::write(&path, format!("+{controller}"));
                    // CPU time may be beyond us; memory is what a neighbour dies of.
                    if controller == "memory" {
                        written?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// A line of mountinfo that is about control groups.
struct Mount<'a> {
    /// Which part of the hierarchy is mounted.
    root: &'a str,
    point: &'a Path,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, kind) = line.split_once(" - ")?;
        let mut words = mount.split(' ').skip(3);
        let (root, point) = (words.next()?, words.next()?);
        let mut words = kind.split(' ');
        let (kind, options) = (words.next()?, words.nth(1)?);
        // A path with blanks is escaped; nobody mounts these there.
        let usable = kind.starts_with("cgroup") && !point.contains('\\');
        usable.then_some(Self { root, point: Path::new(point), kind, options })
    }

    /// The directory of our own group; `controller` is empty in v2.
    fn own(&self, own: &str, controller: &str) -> Option<PathBuf> {
        let path = own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            controllers.split(',').any(|other| other == controller).then_some(path)
        })?;
        // What lies outside of what is mounted cannot be named; the mounted part then is the nearest.
        let inside = Path::new(path).strip_prefix(self.root).ok().filter(|path| !path.starts_with(".."));
        Some(inside.map_or_else(|| self.point.to_owned(), |inside| self.point.join(inside)))
    }
}

#[cfg(test)]
mod tests;
