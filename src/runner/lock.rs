//! Lock files: which containers have a runner (spec 50 §4, a compatibility interface).
//!
//! A `flock` belongs to the open file: the runner and all processes of its job inherit it (read-only, so that the job cannot
//! rewrite the content), and it is released when the last of them is gone. (Programs of an engine do not inherit it: see
//! [`Holder::container`].) Everyone who tests or takes a container's lock holds
//! the `all` lock meanwhile; that is what [`All`] stands for. Only the runner itself removes its file without it, as its last act.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use crate::cgroup;
use crate::engine::handle::Handle;
use crate::error::{Error, Result};
use crate::place::is_uuid;
use crate::procs;

/// Of what is read of a lock file: the arguments of an engine may be long.
const CONTENT_BYTES_MAX: u64 = 64 << 10;

/// Content of a lock file. A crunch-run writes the first two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Holder {
    #[serde(rename = "UUID")]
    pub(crate) uuid: String,
    /// The runner; also the number of its session.
    #[serde(rename = "PID")]
    pub(crate) pid: i32,
    pub(crate) set: String,
    /// 0 = not said.
    pub(crate) attempt: u32,
    /// When the process started, in clock ticks since boot: tells it from a later one with its number. 0 = not said.
    pub(crate) start: u64,
    /// The job's control groups: who has left the session, and closed the lock, is still in them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) groups: Vec<PathBuf>,
    /// A container that an engine keeps; it may outlive all processes of ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) container: Option<Handle>,
}

/// What a container's lock file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// No runner.
    Absent,
    /// Taken, but the runner has not written its content yet.
    Starting,
    /// Taken by someone we cannot make out.
    Strange(String),
    /// The file is another user's: no runner of ours can be behind it.
    Foreign(String),
    Alive(Holder),
    /// The runner is gone, something that inherited its lock is not.
    Stale(Holder),
}

/// The `all` lock, held until dropped.
#[derive(Debug)]
pub(crate) struct All {
    dir: PathBuf,
    _file: OwnedFd,
}

pub(crate) fn path(dir: &Path, uuid: &str) -> PathBuf {
    dir.join(format!("crunch-run-{uuid}.lock"))
}

/// The uuid in a lock file's name.
pub(crate) fn uuid_of(name: &str) -> Option<&str> {
    name.strip_prefix("crunch-run-")?.strip_suffix(".lock").filter(|uuid| is_uuid(uuid))
}

impl All {
    /// Blocks until it is ours; its holders keep it for milliseconds.
    pub(crate) fn take(dir: &Path) -> Result<Self> {
        let path = dir.join("crunch-run-all.lock");
        let file = open(&path, OFlags::CREATE).map_err(|e| Error::io("cannot open", &path, e))?;
        refuse_strangers(&file, &path)?;
        let file = OwnedFd::from(file);
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(Self { dir: dir.to_owned(), _file: file }),
                Err(Errno::INTR) => {}
                Err(e) => return Err(Error::io("cannot lock", &path, e)),
            }
        }
    }

    /// Takes the lock of `uuid` and empties its file. The descriptor is read-only and close-on-exec. `None`: it is taken.
    pub(crate) fn acquire(&self, uuid: &str) -> Result<Option<OwnedFd>> {
        let path = path(&self.dir, uuid);
        loop {
            let file = open(&path, OFlags::CREATE).map_err(|e| Error::io("cannot open", &path, e))?;
            refuse_strangers(&file, &path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(e) => return Err(Error::io("cannot lock", &path, e)),
            }
            let metadata = file.metadata().map_err(|e| Error::io("cannot examine", &path, e))?;
            if metadata.nlink() == 0 {
                continue; // A runner that was ending removed the file between our two calls: this lock would be invisible.
            }
            if metadata.size() > 0 {
                fs::OpenOptions::new()
                    .write(true)
                    .truncate(true)
                    .open(&path)
                    .map_err(|e| Error::io("cannot empty", &path, e))?;
            }
            return Ok(Some(file.into()));
        }
    }

    /// Looks at the lock of `uuid`; removes its file if it is abandoned.
    pub(crate) fn examine(&self, uuid: &str) -> Result<Found> {
        let path = path(&self.dir, uuid);
        let mut file = match open(&path, OFlags::empty()) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Found::Absent),
            Err(e) => return Ok(strange(&path, format!("cannot open {}: {e}", path.display()))),
        };
        if let Err(e) = refuse_strangers(&file, &path) {
            return Ok(strange(&path, e.to_string()));
        }
        let free = match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => true,
            Err(Errno::WOULDBLOCK) => false,
            Err(e) => return Err(Error::io("cannot test the lock", &path, e)),
        };
        let mut content = Vec::new();
        (&mut file)
            .take(CONTENT_BYTES_MAX)
            .read_to_end(&mut content)
            .map_err(|e| Error::io("cannot read", &path, e))?;
        // One line; what a job of the runner's own user may have added does not hide its runner.
        let line = content.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let holder = serde_json::from_slice::<Holder>(line);
        if free {
            let removed = file.metadata().is_ok_and(|metadata| metadata.nlink() == 0);
            // Session 0, for one, is that of all of the kernel's own processes.
            let holder = holder.ok().filter(|holder| holder.uuid == uuid && holder.pid > 0);
            return Ok(if removed { Found::Absent } else { abandoned(&path, holder) });
        }
        if content.is_empty() {
            return Ok(Found::Starting);
        }
        Ok(match holder {
            Ok(holder) if holder.uuid != uuid || holder.pid <= 0 => {
                Found::Strange(format!("{} names another container or no process", path.display()))
            }
            Ok(holder) if procs::lives(holder.pid, holder.start) => Found::Alive(holder),
            Ok(holder) => Found::Stale(holder),
            Err(e) => Found::Strange(format!("cannot understand {}: {e}", path.display())),
        })
    }
}

fn strange(path: &Path, text: String) -> Found {
    match fs::symlink_metadata(path).is_ok_and(|metadata| metadata.uid() != geteuid().as_raw()) {
        true => Found::Foreign(text),
        false => Found::Strange(text),
    }
}

/// A lock file that nobody holds. A runner that ended properly has removed its own; so this one's crashed, and a job that has
/// closed the files it inherited may still run without holding the lock.
///
/// A job may also have unlocked the descriptor it inherited, which is its runner's lock too: a runner that lives has its container,
/// whatever the lock says. (Without a start time, any later process may have its number.)
fn abandoned(path: &Path, holder: Option<Holder>) -> Found {
    if let Some(holder) = holder.as_ref().filter(|holder| holder.start != 0 && procs::lives(holder.pid, holder.start)) {
        return Found::Alive(holder.clone());
    }
    // What an engine keeps is not visible here: it is there until `--reap` has had it removed.
    let is_left = |holder: &Holder| {
        holder.container.is_some()
            || procs::survivors(holder.pid, holder.start).is_ok_and(|left| !left.is_empty())
            || !cgroup::members(&holder.groups).is_empty()
    };
    match holder {
        Some(holder) if is_left(&holder) => Found::Stale(holder),
        holder => {
            // Others wait for the `all` lock.
            cgroup::remove(&holder.unwrap_or_default().groups, Duration::ZERO);
            // Not ours to report: perhaps the runner has removed it just now.
            let _ = fs::remove_file(path);
            Found::Absent
        }
    }
}

/// Removes the lock file and the control groups of one of which nothing is left.
pub(crate) fn discard(all: &All, holder: &Holder) -> Result<()> {
    cgroup::remove(&holder.groups, Duration::ZERO);
    let path = path(&all.dir, &holder.uuid);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("cannot remove", &path, e)),
        _ => Ok(()),
    }
}

impl Holder {
    /// Writes the content, with one call, so that a reader sees nothing or all of it. For the runner that has the lock.
    pub(crate) fn publish(&self, dir: &Path) -> Result<()> {
        let path = path(dir, &self.uuid);
        let mut text = serde_json::to_vec(self).expect("plain data serialises");
        text.push(b'\n');
        if text.len() as u64 > CONTENT_BYTES_MAX {
            return Err(Error::Refused(format!("the engine's arguments make {} longer than is read", path.display())));
        }
        fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut file| file.write_all(&text))
            .map_err(|e| Error::io("cannot write", &path, e))
    }
}

fn open(path: &Path, more: OFlags) -> std::io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | more;
    // 0700 is what crunch-run uses; the owner is what matters.
    Ok(rustix::fs::open(path, OFlags::RDONLY | flags, Mode::from_raw_mode(0o700))?.into())
}

/// Lock directories may be writable for everyone: a file that another user put there must not lead us.
fn refuse_strangers(file: &File, path: &Path) -> Result<()> {
    let metadata = file.metadata().map_err(|e| Error::io("cannot examine", path, e))?;
    if metadata.uid() == geteuid().as_raw() && metadata.is_file() {
        return Ok(());
    }
    let (path, owner) = (path.display(), metadata.uid());
    Err(Error::Refused(format!("{path} belongs to user {owner} or is no plain file: remove it")))
}

/// Creates the mark that this machine cannot run containers; nothing removes it. One of another user, which counts for nothing, makes room.
pub(crate) fn mark_broken(mark: &Path) -> std::io::Result<()> {
    if fs::symlink_metadata(mark).is_ok_and(|metadata| metadata.uid() != geteuid().as_raw()) {
        fs::remove_file(mark)?;
    }
    let nofollow = i32::try_from(OFlags::NOFOLLOW.bits()).expect("a flag of open(2)");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o700).custom_flags(nofollow).open(mark).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const U: &str = "local-dz642-00000000000000a";

    #[test]
    fn a_mark_of_another_user_is_none_and_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("crunch-run-broken");
        let ours = || fs::symlink_metadata(&mark).unwrap().uid() == geteuid().as_raw();
        if geteuid().is_root() {
            fs::write(&mark, "").unwrap();
            std::os::unix::fs::chown(&mark, Some(65_534), Some(65_534)).unwrap();
            assert!(!ours());
        }
        for _ in 0..2 {
            mark_broken(&mark).unwrap();
            assert!(ours());
        }
    }

    /// A job inherits the descriptor, and with it may unlock what its runner has locked.
    #[test]
    fn a_runner_that_lives_has_its_container_without_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let all = All::take(dir.path()).unwrap();
        let own = procs::read(i32::try_from(std::process::id()).unwrap()).unwrap();
        let lock = all.acquire(U).unwrap().unwrap();
        let holder = Holder { uuid: U.into(), pid: own.pid, start: own.start, ..Holder::default() };
        holder.publish(dir.path()).unwrap();
        flock(&lock, FlockOperation::Unlock).unwrap();
        assert_eq!(all.examine(U).unwrap(), Found::Alive(holder));
        let dead = Holder { uuid: U.into(), pid: own.pid, start: own.start + 1, ..Holder::default() };
        fs::write(path(dir.path(), U), serde_json::to_vec(&dead).unwrap()).unwrap();
        assert_eq!(all.examine(U).unwrap(), Found::Absent);
        assert!(!path(dir.path(), U).exists());
    }
}
