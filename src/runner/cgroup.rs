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

use crate::execute::OutOfMemory;
use crate::poll;
use crate::procs::{self, Process};

/// With less a process cannot even begin; the runner itself is in the group for the moment of a fork.
const RAM_MIN: i64 = 16 << 20;
/// Of the time that `vcpus` is a share of; the kernel's default.
const PERIOD_US: i64 = 100_000;
/// A process that has just been killed keeps its group for a moment.
const REMOVE_PATIENCE: Duration = Duration::from_secs(1);
const REMOVE_AGAIN: Duration = Duration::from_millis(10);
const GROUPS_MAX: usize = 1000;
/// Kernels charge memory in pieces, for each CPU: usage may be that much below the limit when it is hit.
const CHARGED_AT_ONCE: u64 = 2 << 20;

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
    pub(crate) oom: OutOfMemory,
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
            oom: OutOfMemory {
                own_limit: self.oom.own_limit || other.oom.own_limit,
                killed: self.oom.killed || other.oom.killed,
            },
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

    /// The same by a number of the container's that stands in the groups' names. `None` until its processes are in all of them.
    pub(crate) fn of_container(id: &str) -> Option<Self> {
        let found = Self::of(procs::in_group_named(id)?)?;
        let is_named = |dir: &&Path| dir.file_name().is_some_and(|name| name.to_string_lossy().contains(id));
        // The container may have groups of its own below.
        let whole = found.dirs.iter().map(|dir| Some(dir.ancestors().find(is_named)?.to_owned()));
        let dirs: Vec<PathBuf> = whole.collect::<Option<_>>()?;
        Some(Self { homes: dirs.clone(), dirs, ..found })
    }

    pub(crate) fn name(&self) -> Option<String> {
        Some(self.dirs.first()?.file_name()?.to_str()?.to_owned())
    }

    /// The directories, to be kept where others find them.
    pub(crate) fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// `vcpus` and `ram` in bytes; 0 = no limit. What runs in the group gets as much CPU time as `vcpus` have, as far as the kernel has
    /// it, and no swap.
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
                if vcpus > 0 {
                    // Refused where a group above has less: that one holds then.
                    let _ = self.write("cpu.cfs_period_us", &PERIOD_US.to_string());
                    let _ = self.write("cpu.cfs_quota_us", &quota.to_string());
                }
            }
            Version::V2 => {
                if let Some(ram) = ram {
                    self.write("memory.max", &ram)?;
                    let _ = self.write("memory.swap.max", "0");
                }
                if vcpus > 0 {
                    let _ = self.write("cpu.max", &format!("{quota} {PERIOD_US}"));
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
        let enter = |dir: &Path| fs::write(dir.join("cgroup.procs"), "0");
        let outcome = self.dirs.iter().try_for_each(|dir| enter(dir)).map(|()| spawn());
        // Even if not all of it was entered. A runner that stays would count as a process of the job, and be killed as one.
        let left =
            self.homes.iter().zip(&self.dirs).try_for_each(|(home, dir)| match (enter(home), dir.ancestors().nth(2)) {
                // A session's group goes with its last process, which may have been this one: the hierarchy's root is always there.
                (Err(_), Some(above)) if self.version == Version::V2 => enter(above),
                (outcome, _) => outcome,
            });
        left.and(outcome)
    }

    pub(crate) fn usage(&self) -> Usage {
        let read = |name| self.file(name).and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        let memory = read("memory.stat");
        // A process may also be killed because a group above, or the machine, has no more.
        let (memory, kills, own_limit) = match self.version {
            Version::V1 => {
                // Not by `memory.failcnt`: newer kernels leave it at 0 although they kill (Linux 6.18, seen).
                let number = |name| read(name).trim().parse::<u64>().ok();
                let most = number("memory.max_usage_in_bytes").unwrap_or(0).saturating_add(CHARGED_AT_ONCE);
                let own_limit = number("memory.limit_in_bytes").is_some_and(|limit| most >= limit);
                (sum(&memory, &["total_rss", "total_shmem"]), read("memory.oom_control"), own_limit)
            }
            Version::V2 => {
                let events = read("memory.events");
                let own_limit = sum(&events, &["oom"]).is_some_and(|times| times > 0);
                (sum(&memory, &["anon", "shmem"]), events, own_limit)
            }
        };
        let nanoseconds = match self.version {
            Version::V1 => read("cpuacct.usage").trim().parse().ok(),
            Version::V2 => sum(&read("cpu.stat"), &["usage_usec"]).map(|micros| micros.saturating_mul(1000)),
        };
        #[expect(clippy::cast_precision_loss, reason = "2^53 nanoseconds are 104 days of CPU; then some are lost")]
        let cpu_seconds = nanoseconds.map(|nanoseconds| nanoseconds as f64 / 1e9);
        let killed = sum(&kills, &["oom_kill"]).is_some_and(|times| times > 0);
        Usage { memory, cpu_seconds, oom: OutOfMemory { own_limit, killed } }
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
        remove(&self.dirs, REMOVE_PATIENCE);
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
    let mut all = dirs.to_vec();
    dirs.iter().for_each(|dir| add_subgroups(dir, &mut all));
    let texts = all.iter().filter_map(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok());
    let mut pids: Vec<i32> =
        texts.flat_map(|text| text.lines().map(str::parse).collect::<Vec<_>>()).flatten().collect();
    pids.sort_unstable();
    pids.dedup();
    pids.into_iter().filter_map(procs::read).filter(|process| !process.zombie).collect()
}

/// A job that is root may have made some. Those above come first.
fn add_subgroups(dir: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if all.len() < GROUPS_MAX && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            all.push(entry.path());
            add_subgroups(&entry.path(), all);
        }
    }
}

/// Removes these groups, if nothing is left in them. Waits for processes that have just been killed, unless others wait for us:
/// then the next one that makes a group finds them.
pub(crate) fn remove(dirs: &[PathBuf], patience: Duration) {
    let mut all = dirs.to_vec();
    dirs.iter().for_each(|dir| add_subgroups(dir, &mut all));
    for dir in all.iter().rev() {
        let mut patience = patience;
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
