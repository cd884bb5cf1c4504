//! The state file on disk: one process has it, and it is replaced as a whole.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

/// 10,000 hosts with their tags need a tenth of it.
const BYTES_MAX: u64 = 64 * 1024 * 1024;
const PID_BYTES_MAX: u64 = 32;
/// A child that the dead holder was just starting keeps the lock for a moment.
const DEAD_HOLDER_PATIENCE: Duration = Duration::from_secs(5);
const DEAD_HOLDER_PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    writes: AtomicU64,
    /// The lock is gone with the open file, however the process ends.
    _lock: File,
}

fn named(path: &Path, what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {what} {}: {error}", path.display()))
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(end);
    path.with_file_name(name)
}

impl StateFile {
    /// The file, locked, and what is in it; `None` if it is not there yet.
    ///
    /// # Errors
    /// Another process has it, or it cannot be read; the text names it.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Option<Vec<u8>>)> {
        let lock = take_lock(path)?;
        let mut bytes = Vec::new();
        let found = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(named(path, "open", &error)),
            Ok(file) => {
                file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| named(path, "read", &error))?;
                Some(bytes)
            }
        };
        if found.as_ref().is_some_and(|bytes| bytes.len() as u64 > BYTES_MAX) {
            let error = io::Error::new(io::ErrorKind::InvalidData, "too large to be a list of hosts");
            return Err(named(path, "read", &error));
        }
        Ok((Self { path: path.to_owned(), writes: AtomicU64::new(0), _lock: lock }, found))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How often [`StateFile::replace`] was called.
    pub(super) fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// The old content or the new, never anything else, also across a power failure. Readable for its owner only: the tags hold
    /// secrets.
    ///
    /// # Errors
    /// The old content is still there.
    pub(super) fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        let temporary = beside(&self.path, ".new");
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&temporary, &self.path))
            .and_then(|()| File::open(self.path.parent().unwrap_or(Path::new("/")))?.sync_all());
        written.map_err(|error| named(&self.path, "write", &error))
    }
}

fn take_lock(path: &Path) -> io::Result<File> {
    let lock = beside(path, ".lock");
    let failed = |error: &io::Error| named(&lock, "lock", error);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&lock)
        .map_err(|error| failed(&error))?;
    let mut waited = Duration::ZERO;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let holder = holder(&mut file).map_err(|error| failed(&error))?;
                if is_alive(&holder) || waited >= DEAD_HOLDER_PATIENCE {
                    let text = format!(
                        "{} is used by another daemon (process {holder}): stop it, or give each a StateFile of its own",
                        path.display()
                    );
                    return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
                }
                std::thread::park_timeout(DEAD_HOLDER_PAUSE);
                waited += DEAD_HOLDER_PAUSE;
            }
            Err(error) => return Err(failed(&error.into())),
        }
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(|error| failed(&error))?;
    Ok(file)
}

fn holder(file: &mut File) -> io::Result<String> {
    let mut holder = String::new();
    file.rewind()?;
    file.take(PID_BYTES_MAX).read_to_string(&mut holder)?;
    Ok(if holder.trim().is_empty() { "unknown".to_owned() } else { holder.trim().to_owned() })
}

/// Whoever cannot be asked after counts as alive.
fn is_alive(holder: &str) -> bool {
    let pid = holder.parse().ok().and_then(rustix::process::Pid::from_raw);
    pid.is_none_or(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}
