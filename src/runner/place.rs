//! Where locks and state are, and who may own those directories (spec 52 §2).
//!
//! ```text
//! LOCKDIR/crunch-run-UUID.lock …              spec 50 §4
//! STATEDIR/owner                              who has the machine, if that is said (spec 46 §1)
//! STATEDIR/set-SET/UUID/ATTEMPT/              0711: the job's user may pass through
//!     stdout, stderr, result.json             0600; `kept` is what `--forget` leaves of a result whose outputs are too large
//!     container, environment, pid             of a container that an engine keeps, while there is one
//!     work/, tmp/                             0700, the job's
//! STATEDIR/tombstones-SET/DAY/UUID            highest attempt that may never start again
//! STATEDIR/asked, switch-SET, watchdog-SET.lock  the dead man's switch
//! ```

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use rustix::process::geteuid;

use crate::args::Args;
use crate::error::{Error, Result};

/// The form of spec 70 §2: what passes is safe in file names.
pub(crate) fn is_uuid(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 27
        && &bytes[5..12] == b"-dz642-"
        && bytes[..5].iter().chain(&bytes[12..]).all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
}

/// Both directories exist when a value of this type does.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) lock_dir: PathBuf,
    pub(crate) set: String,
    state_dir: PathBuf,
}

impl Place {
    /// Finds the directories; creates those that are the runner's own.
    ///
    /// # Errors
    /// When one is missing, cannot be created, or belongs to someone who could mislead us.
    pub(crate) fn open(args: &Args) -> Result<Self> {
        let lock_dir = match &args.lock_dir {
            Some(dir) => own(dir, 0o700)?,
            None => default_lock_dir()?,
        };
        let state_dir = own(&args.state_dir.clone().map_or_else(default_state_dir, Ok)?, 0o711)?;
        Ok(Self { lock_dir, set: args.set.clone(), state_dir })
    }

    pub(crate) fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    pub(crate) fn set_dir(&self) -> PathBuf {
        self.state_dir.join(format!("set-{}", self.set))
    }

    pub(crate) fn container_dir(&self, uuid: &str) -> PathBuf {
        self.set_dir().join(uuid)
    }

    pub(crate) fn attempt_dir(&self, uuid: &str, attempt: u32) -> PathBuf {
        self.container_dir(uuid).join(attempt.to_string())
    }

    pub(crate) fn tombstone_dir(&self) -> PathBuf {
        self.state_dir.join(format!("tombstones-{}", self.set))
    }

    pub(crate) fn owner_file(&self) -> PathBuf {
        self.state_dir.join("owner")
    }

    /// Why nothing can be started here, if that shows: a disk that is full of errors is made read-only, with all that runs.
    pub(crate) fn unusable(&self) -> Option<String> {
        let fault = |dir: &PathBuf| access(dir, Access::WRITE_OK | Access::EXEC_OK).err().map(|e| (dir.clone(), e));
        let (dir, e) = [&self.lock_dir, &self.state_dir].into_iter().find_map(fault)?;
        Some(format!("nothing can be written in {}: {}", dir.display(), std::io::Error::from(e)))
    }

    /// Existence means that this machine cannot run containers, if it is the runner's own.
    pub(crate) fn broken_mark(&self) -> PathBuf {
        self.lock_dir.join("crunch-run-broken")
    }

    /// The directory of locks is often everybody's: a mark that a job made there says nothing.
    pub(crate) fn is_marked_broken(&self) -> bool {
        fs::symlink_metadata(self.broken_mark()).is_ok_and(|mark| mark.uid() == geteuid().as_raw())
    }
}

fn default_lock_dir() -> Result<PathBuf> {
    if !geteuid().is_root() {
        // Not $XDG_RUNTIME_DIR: it is set in some sessions only and removed with the last one, and the locks with it.
        let dir = PathBuf::from(format!("/tmp/muster-runner-{}", geteuid().as_raw()));
        if fs::symlink_metadata(&dir).is_ok_and(|metadata| metadata.is_symlink()) {
            return Err(Error::Refused(format!("{} is a link: remove it", dir.display())));
        }
        return own(&dir, 0o700);
    }
    // The first that is a directory, also where only the other could be used: whoever looks for locks must look where they are, before
    // and after one of the two became read-only, or what runs would be invisible, given up for lost, and started again.
    ["/run/lock", "/var/lock"].into_iter().map(PathBuf::from).find(|dir| dir.is_dir()).ok_or_else(|| {
        Error::Refused("neither /run/lock nor /var/lock is a directory: create one or give --lock-dir".into())
    })
}

fn default_state_dir() -> Result<PathBuf> {
    if geteuid().is_root() {
        return Ok("/var/lib/muster-runner".into());
    }
    match std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute()) {
        // Machines may share home directories; each has a directory of its own.
        Some(home) => {
            let machine = OsStr::from_bytes(rustix::system::uname().nodename().to_bytes()).to_owned();
            Ok(home.join(".local/state/muster-runner").join(machine))
        }
        None => Err(Error::Refused("HOME is not set: give --state-dir".into())),
    }
}

/// Creates `dir` unless it exists, and checks that no other user can put files there in our name. (A sticky directory of root
/// passes: every file in it is checked for its owner.)
fn own(dir: &Path, mode: u32) -> Result<PathBuf> {
    make_dir(dir, mode)?;
    let metadata = fs::metadata(dir).map_err(|e| Error::io("cannot examine", dir, e))?;
    let sticky = metadata.uid() == 0 && metadata.mode() & 0o1000 != 0;
    if !metadata.is_dir() {
        return Err(Error::Refused(format!("{} is not a directory", dir.display())));
    }
    if metadata.uid() != geteuid().as_raw() && !sticky {
        let (path, owner) = (dir.display(), metadata.uid());
        return Err(Error::Refused(format!("{path} belongs to user {owner}: remove it or give another directory")));
    }
    if metadata.mode() & 0o022 != 0 && !sticky {
        return Err(Error::Refused(format!("{} can be written by other users: chmod go-w it", dir.display())));
    }
    Ok(dir.to_owned())
}

/// `mkdir` with parents; one that exists is left as it is.
pub(crate) fn make_dir(dir: &Path, mode: u32) -> Result<()> {
    let mut builder = fs::DirBuilder::new();
    match builder.mode(mode).create(dir) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            builder.recursive(true).create(dir).map_err(|e| Error::io("cannot create", dir, e))
        }
        Err(e) => Err(Error::io("cannot create", dir, e)),
    }
}
