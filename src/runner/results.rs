//! `--collect`, `--forget` and `--tail`: the files of an attempt (spec 52 §1, 70 §4).

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

use crate::attempts::{self, Spared};
use crate::error::{Error, Result};
use crate::lock::{All, Found};
use crate::outputs::{Skipped, Walk};
use crate::place::Place;
use crate::poll;
use muster_runner::protocol::ResultRecord;

/// Bytes of one answer of `--tail`.
const TAIL_BYTES_MAX: u64 = 1 << 20;
const RESULT_BYTES_MAX: u64 = 4 << 20;
/// Between two looks at a stream that cannot be watched.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

pub(crate) fn read_result(dir: &Path) -> Result<ResultRecord> {
    let path = dir.join("result.json");
    let mut text = Vec::new();
    File::open(&path)
        .and_then(|file| file.take(RESULT_BYTES_MAX).read_to_end(&mut text))
        .map_err(|e| Error::io("cannot read", &path, e))?;
    serde_json::from_slice(&text).map_err(|e| Error::io("cannot understand", &path, e))
}

/// Writes the attempt's results to standard output as a tar stream.
pub(crate) fn collect(place: &Place, uuid: &str, attempt: u32) -> Result<()> {
    let dir = place.attempt_dir(uuid, attempt);
    let result = read_result(&dir)?;
    archive(&dir, &result).map_err(|e| Error::io("cannot send", &dir, e))
}

fn archive(dir: &Path, result: &ResultRecord) -> io::Result<()> {
    let mut archive = Builder::new(BufWriter::with_capacity(64 << 10, io::stdout().lock()));
    for name in ["result.json", "stdout", "stderr"] {
        match File::open(dir.join(name)) {
            Ok(file) => append(&mut archive, Path::new(name), Some(&file), &file.metadata()?)?,
            // A job that never began has no streams.
            Err(e) if e.kind() == io::ErrorKind::NotFound && name != "result.json" => {}
            Err(e) => return Err(e),
        }
    }
    let mut walk = Walk::new(&dir.join("work"), |entry| {
        append(&mut archive, &Path::new("outputs").join(entry.path), entry.file, entry.metadata)
    });
    // They are in the result already.
    let mut skipped = Skipped::default();
    for path in &result.outputs {
        walk.output(path, &mut skipped)?;
    }
    drop(walk);
    archive.into_inner()?.flush()
}

fn append(
    archive: &mut Builder<impl Write>,
    path: &Path,
    file: Option<&File>,
    metadata: &fs::Metadata,
) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_mode(if file.is_none() || metadata.mode() & 0o100 != 0 { 0o755 } else { 0o644 });
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
    let Some(file) = file else {
        header.set_entry_type(EntryType::Directory);
        header.set_size(0);
        return archive.append_data(&mut header, path, io::empty());
    };
    header.set_entry_type(EntryType::Regular);
    header.set_size(metadata.size());
    // Exactly as long as announced, also if something still writes to it.
    archive.append_data(&mut header, path, file.chain(io::repeat(0)).take(metadata.size()))
}

/// Removes a collected attempt's files for good: it can never start here again. And what crashed attempts before it have left. One that
/// has ended and could not end all of its processes, or its engine's container, is listed as stale from then on.
///
/// The working directory of one with a result stays if that is asked for, or its outputs were too large to be collected.
///
/// # Errors
/// [`Error::Refused`] while it runs, or its remains do and there is no result.
pub(crate) fn forget(place: &Place, uuid: &str, attempt: u32, keep_outputs: bool) -> Result<()> {
    let dir = place.attempt_dir(uuid, attempt);
    let all = All::take(&place.lock_dir)?;
    if !dir.exists() {
        return Ok(());
    }
    let found = attempts::examine(&all, place, uuid)?;
    let earlier = match found {
        Found::Absent => attempts::useless_before(place, uuid, attempt),
        _ => Vec::new(),
    };
    // What is left of it stays to be reaped: the lock file says what it is, and what an engine may have stands in a file, too.
    let is_left = matches!(&found, Found::Stale(holder) if holder.set == place.set && holder.attempt == attempt);
    let busy = match found {
        Found::Absent | Found::Foreign(_) => false,
        Found::Starting | Found::Strange(_) => !dir.join("result.json").exists(),
        Found::Alive(holder) => holder.set == place.set && holder.attempt == attempt,
        Found::Stale(_) => is_left && !attempts::has_ended(place, uuid, attempt),
    };
    if busy {
        return Err(Error::Refused(format!("attempt {attempt} of {uuid} has not ended: nothing was removed")));
    }
    // Also the second time.
    let keep_work = attempts::is_kept(place, uuid, attempt)
        || keep_outputs && dir.join("result.json").exists()
        || read_result(&dir).is_ok_and(|result| result.outputs_too_large);
    let spared = Spared { work: keep_work, container: is_left };
    if attempts::bury(&all, place, uuid, attempt).is_err() {
        // The disk may be full of just that: no start can come before the mark as long as the lock is held.
        attempts::remove(place, uuid, attempt, spared)?;
        return attempts::bury(&all, place, uuid, attempt);
    }
    drop(all);
    for earlier in earlier {
        attempts::remove(place, uuid, earlier, Spared::default())?;
    }
    attempts::remove(place, uuid, attempt, spared)
}

/// Writes what a stream of the attempt has from `offset` on, at most 1 MiB. If there is nothing yet and the attempt has not
/// ended, waits up to `wait_s` for something. Of a stream that is being cut only the first half is there until the end.
pub(crate) fn tail(place: &Place, uuid: &str, attempt: u32, stream: &str, offset: u64, wait_s: f64) -> Result<()> {
    let path = place.attempt_dir(uuid, attempt).join(stream);
    let deadline = Instant::now() + Duration::try_from_secs_f64(wait_s).unwrap_or_default();
    let error = |e: io::Error| Error::io("cannot read", &path, e);
    let mut file = File::open(&path).map_err(error)?;
    let dir = place.attempt_dir(uuid, attempt);
    let changes = watch(&path, &dir)
        // Other programs of the user may have taken all that the kernel grants.
        .inspect_err(|e| {
            let e = io::Error::from(*e);
            let _ = writeln!(io::stderr(), "cannot watch {}: {e}: it is looked at again and again", path.display());
        })
        .ok();
    let fds: Vec<(BorrowedFd<'_>, PollFlags)> =
        changes.iter().map(|changes| (changes.as_fd(), PollFlags::IN)).collect();
    while file.metadata().map_err(error)?.len() <= offset && !dir.join("result.json").exists() {
        let until = if changes.is_none() { deadline.min(Instant::now() + LOOK_AGAIN) } else { deadline };
        let is_told = poll::wait(&fds, Some(until)).map_err(error)?.iter().any(|ready| !ready.is_empty());
        if !is_told && until == deadline {
            break;
        }
        if let Some(changes) = &changes {
            let mut events = [0; 4096];
            // Which ones does not matter.
            let _ = rustix::io::read(changes, &mut events);
        }
    }
    file.seek(SeekFrom::Start(offset)).map_err(error)?;
    io::copy(&mut file.take(TAIL_BYTES_MAX), &mut io::stdout().lock()).map(drop).map_err(error)
}

fn watch(stream: &Path, dir: &Path) -> std::result::Result<OwnedFd, Errno> {
    let changes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    inotify::add_watch(&changes, stream, WatchFlags::MODIFY)?;
    // The result comes by a rename in the directory.
    inotify::add_watch(&changes, dir, WatchFlags::MOVED_TO)?;
    Ok(changes)
}
