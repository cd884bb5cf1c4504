//! The directory that survives restarts (spec 80 §2): one daemon at a time, readable for its owner only.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

/// A child of a killed daemon holds its lock from fork to exec: milliseconds, unless the machine is very busy.
const DEAD_HOLDER_PATIENCE: Duration = Duration::from_secs(10);
const DEAD_HOLDER_PAUSE: Duration = Duration::from_millis(5);
/// File with what marks our instances.
const SET_ID: &str = "instance-set-id";
/// Longest content of the small files kept here.
const SMALL_FILE_BYTES_MAX: u64 = 4096;

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    #[error("cannot {action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the state directory {path} is in use by another muster daemon or cloudtest (process {holder}); stop that one or wait for its end, or set Muster.StateDir"
    )]
    InUse { path: PathBuf, holder: String },
    #[error(
        "the state directory {path} belongs to user {owner}, this is user {user}: run muster as its owner, or set Muster.StateDir"
    )]
    Foreign { path: PathBuf, owner: u32, user: u32 },
    #[error("{path} does not contain what belongs there; move it away to have a new one made")]
    Damaged { path: PathBuf },
    #[error("no random numbers from the system: {0}")]
    Random(getrandom::Error),
}

/// The locked directory. Dropping it releases the lock.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateDirError {
    move |source| StateDirError::Io { action, path: path.to_owned(), source }
}

impl StateDir {
    /// Makes the directory (mode 0700) if there is none, and takes its lock.
    ///
    /// # Errors
    /// By variant; nothing of it is changed then.
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make", path))?;
        let metadata = std::fs::metadata(path).map_err(failed("look at", path))?;
        let user = rustix::process::geteuid().as_raw();
        if metadata.uid() != user {
            return Err(StateDirError::Foreign { path: path.to_owned(), owner: metadata.uid(), user });
        }
        if metadata.permissions().mode() & 0o077 != 0 {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(failed("protect", path))?;
        }
        let lock = take_lock(path)?;
        let state_dir = Self { path: path.to_owned(), _lock: lock };
        let results = state_dir.results();
        match DirBuilder::new().mode(0o700).create(&results) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed("make", &results)(error)),
            _ => Ok(state_dir),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Results of containers.
    pub fn results(&self) -> PathBuf {
        self.path.join("containers")
    }

    pub fn queue_file(&self) -> PathBuf {
        self.path.join("queue.db")
    }

    pub fn socket(&self) -> PathBuf {
        self.path.join("muster.sock")
    }

    /// Marks our instances: drawn once and kept (spec 62 §3).
    ///
    /// # Errors
    /// The file cannot be read or written, or is damaged: then instances of a former life would be forgotten.
    pub fn instance_set_id(&self) -> Result<String, StateDirError> {
        self.kept(SET_ID)
    }

    /// For clients on the management address, made at first start.
    ///
    /// # Errors
    /// As [`StateDir::instance_set_id`].
    pub fn management_token(&self) -> Result<String, StateDirError> {
        self.kept("management-token")
    }

    /// 40 random hexadecimal digits in a file of mode 0600, written once.
    fn kept(&self, name: &str) -> Result<String, StateDirError> {
        let path = self.path.join(name);
        if let Some(text) = read_kept(&path)? {
            return Ok(text);
        }
        let mut bytes = [0; 20];
        getrandom::fill(&mut bytes).map_err(StateDirError::Random)?;
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        write_once(&path, &text)?;
        Ok(text)
    }
}

/// The instance set id of whoever has, or had, this directory: without its lock, and nothing is made. `None`: none was drawn.
pub(super) fn kept_instance_set_id(state_dir: &Path) -> Result<Option<String>, StateDirError> {
    read_kept(&state_dir.join(SET_ID))
}

fn read_kept(path: &Path) -> Result<Option<String>, StateDirError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result.map_err(failed("read", path))?,
    };
    let mut text = String::new();
    file.take(SMALL_FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed("read", path))?;
    let text = text.trim();
    let acceptable = (16..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if acceptable { Ok(Some(text.to_owned())) } else { Err(StateDirError::Damaged { path: path.to_owned() }) }
}

/// A file of mode 0600 with this text and a line feed: complete or not at all, also across a power failure.
pub(super) fn write_once(path: &Path, text: &str) -> Result<(), StateDirError> {
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(failed("write", &temporary))?;
    writeln!(file, "{text}").and_then(|()| file.sync_all()).map_err(failed("write", &temporary))?;
    std::fs::rename(&temporary, path).map_err(failed("write", path))?;
    let directory = path.parent().unwrap_or(path);
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed("sync", directory))
}

/// The lock belongs to the open file: it is gone with the process, however that ends.
fn take_lock(directory: &Path) -> Result<File, StateDirError> {
    let path = directory.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed("open", &path))?;
    let mut waited = Duration::ZERO;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let holder = holder(&mut file).map_err(failed("read", &path))?;
                if is_alive(&holder) || waited >= DEAD_HOLDER_PATIENCE {
                    return Err(StateDirError::InUse { path: directory.to_owned(), holder });
                }
                std::thread::park_timeout(DEAD_HOLDER_PAUSE);
                waited += DEAD_HOLDER_PAUSE;
            }
            Err(error) => return Err(failed("lock", &path)(error.into())),
        }
    }
    // From the beginning: the holder before may have been read.
    let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(failed("write", &path))?;
    Ok(file)
}

/// What the holder of the lock wrote into it: its process id.
fn holder(file: &mut File) -> io::Result<String> {
    let mut holder = String::new();
    file.rewind()?;
    file.take(SMALL_FILE_BYTES_MAX).read_to_string(&mut holder)?;
    let holder = holder.trim();
    Ok(if holder.is_empty() { "unknown".to_owned() } else { holder.to_owned() })
}

/// Whoever cannot be asked after counts as alive.
fn is_alive(holder: &str) -> bool {
    let pid = holder.parse().ok().and_then(rustix::process::Pid::from_raw);
    pid.is_none_or(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_who_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deep/state");
        let first = StateDir::open(&path).expect("free");
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o700);
        let error = StateDir::open(&path).expect_err("taken").to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        // A process that another test is just starting holds the lock as well, until it runs its program.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while let Err(error) = StateDir::open(&path) {
            assert!(std::time::Instant::now() < until, "free again, but {error}");
            std::thread::yield_now();
        }
    }

    /// The child keeps the open file, as one does that a daemon was starting when it was killed.
    #[test]
    fn a_child_of_a_killed_daemon_is_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lock");
        let script = format!("exec 9>{0}; flock 9; sh -c 'echo $$' >{0}; echo held; read go; exit 0", path.display());
        let mut child = std::process::Command::new("sh")
            .args(["-c", &script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("starts");
        let mut said = [0; 5];
        child.stdout.take().expect("piped").read_exact(&mut said).expect("held");
        let waiting = std::thread::scope(|scope| {
            let opening = scope.spawn(|| StateDir::open(folder.path()));
            drop(child.stdin.take());
            opening.join().expect("no panic")
        });
        let state_dir = waiting.expect("free once the child is gone");
        let text = std::fs::read_to_string(&path).expect("there");
        assert_eq!(text.trim(), std::process::id().to_string());
        drop(state_dir);
        child.wait().expect("a child");
    }

    #[test]
    fn ids_are_drawn_once_and_damage_is_not_papered_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let state_dir = StateDir::open(folder.path()).expect("free");
        let id = state_dir.instance_set_id().expect("drawn");
        assert_eq!(id.len(), 40);
        assert_eq!(state_dir.instance_set_id().expect("kept"), id);
        assert_ne!(state_dir.management_token().expect("drawn"), id);
        let token = folder.path().join("management-token");
        assert_eq!(std::fs::metadata(&token).expect("there").permissions().mode() & 0o777, 0o600);
        std::fs::write(folder.path().join("instance-set-id"), b"").expect("written");
        let error = state_dir.instance_set_id().expect_err("damaged").to_string();
        assert!(error.contains("instance-set-id"), "{error}");
    }
}
