//! Results on our own disk: `StateDir/containers/UUID/ATTEMPT` (spec 70 §3-4). Blocking.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use muster_runner::protocol::ResultRecord;

use crate::core::errors::chain;
use crate::core::ids::{Attempt, ContainerUuid, OperationId};
use crate::core::time::WallMillis;
use crate::core::worker::collect::StorageFault;
use crate::queue::RECORD_BYTES_MAX;
use crate::remote::ExecuteError;
use crate::remote::runner::CommandError;
use crate::remote::unpack::{UnpackError, UnpackLimits, Unpacked};

/// Whose fault a failed collection is.
#[derive(Debug)]
pub(super) enum CollectError {
    Worker(String),
    /// All of it arrived, and is not acceptable.
    Refused(String),
    /// Ours. With a fault, other results cannot be stored either.
    Storage(String, Option<StorageFault>),
}

pub(super) fn storage(path: &Path, error: &io::Error) -> CollectError {
    CollectError::Storage(format!("{}: {error}", path.display()), fault(error))
}

/// What an error says of the whole disk.
fn fault(error: &io::Error) -> Option<StorageFault> {
    match error.kind() {
        ErrorKind::StorageFull => Some(StorageFault::Full),
        ErrorKind::QuotaExceeded => Some(StorageFault::Quota),
        ErrorKind::ReadOnlyFilesystem => Some(StorageFault::ReadOnly),
        _ if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => Some(StorageFault::Io),
        _ => None,
    }
}

/// Directory of one attempt's result below `results`.
pub fn result_dir(results: &Path, uuid: &ContainerUuid, attempt: Attempt) -> PathBuf {
    results.join(uuid.as_str()).join(attempt.to_string())
}

pub(super) fn remove_tree(path: &Path) -> Result<(), CollectError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(storage(path, &error)),
        _ => Ok(()),
    }
}

/// Of one operation: a fetch that was given up and still runs must not meet the one that took its place.
pub(super) fn temporary_dir(place: &Path, attempt: Attempt, operation: OperationId) -> PathBuf {
    place.with_file_name(format!(".{attempt}.{}.new", operation.0))
}

/// In one step, durable when it returns. What is there already is no whole result: it goes.
pub(super) fn put_in_place(temporary: &Path, place: &Path) -> Result<(), CollectError> {
    remove_tree(place)?;
    fs::rename(temporary, place).map_err(|error| storage(place, &error))?;
    settle(place)
}

/// A result that was put in place is durable when this returns, also if whoever did so was cut off just then.
pub(super) fn settle(place: &Path) -> Result<(), CollectError> {
    let parent = place.parent().unwrap_or(place);
    // The parent's own entry too: it may have been made for this result.
    for directory in [parent, parent.parent().unwrap_or(parent)] {
        sync(directory).map_err(|error| storage(directory, &error))?;
    }
    remove_leftovers(parent);
    Ok(())
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// What fetches have left that a crash, or a later fetch, has made pointless.
pub(super) fn remove_leftovers(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with('.') {
            let path = entry.path();
            let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
        }
    }
}

/// Before an attempt of this number is made for the first time: a result that is there already is another's, of a time that the
/// database has forgotten since a backup was restored. It would pass for the new one's. Where it is now, if there was one.
///
/// # Errors
/// It is still there, or may be again after a loss of power.
pub(super) fn set_aside(place: &Path, now: WallMillis) -> io::Result<Option<PathBuf>> {
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    let aside = place.with_file_name(format!("{name}.old-{now}"));
    match fs::rename(place, &aside) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        renamed => renamed?,
    }
    sync(place.parent().unwrap_or(place))?;
    Ok(Some(aside))
}

/// A record of a result, durable when it returns.
///
/// # Errors
/// Our storage failed.
pub(super) fn write_record(directory: &Path, record: &ResultRecord) -> Result<(), CollectError> {
    let path = directory.join("result.json");
    let text = serde_json::to_vec(record).map_err(|error| storage(&path, &error.into()))?;
    // Beside it: what is inside has names of the worker's choice. It is cleared away with other leftovers.
    let new = directory.with_extension("record");
    let written = File::create(&new).and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()));
    let renamed = written.and_then(|()| fs::rename(&new, &path)).and_then(|()| sync(directory));
    renamed.map_err(|error| {
        let _ = fs::remove_file(&new);
        storage(&path, &error)
    })
}

/// The record says that outputs are too large.
pub(super) fn outputs_stay(directory: &Path) -> bool {
    read_record(directory).is_some_and(|record| record.outputs_too_large)
}

/// `None` if there is none that can be used, as the queue sees it.
fn read_record(directory: &Path) -> Option<ResultRecord> {
    let mut text = Vec::new();
    let length =
        File::open(directory.join("result.json")).ok()?.take(RECORD_BYTES_MAX + 1).read_to_end(&mut text).ok()?;
    if length as u64 > RECORD_BYTES_MAX { None } else { serde_json::from_slice(&text).ok() }
}

/// The worker sent more outputs than we take now, since the limit was lowered after it had begun: its result says so (spec 70 §4).
///
/// # Errors
/// Our storage failed.
pub(super) fn note_too_large(directory: &Path, limits: UnpackLimits) -> Result<(), CollectError> {
    // One that cannot be read is judged as such, later.
    let Some(mut record) = read_record(directory) else { return Ok(()) };
    let why = format!(
        "outputs are above the limit of {} bytes (MaxOutputBytes): not brought back, kept on the worker",
        limits.output_bytes
    );
    record.detail = [record.detail, why].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ");
    record.outputs_too_large = true;
    write_record(directory, &record)
}

/// What was unpacked, if a whole result has arrived.
pub(super) fn check_fetched(
    fetched: Result<(), CommandError>,
    unpacked: Result<Unpacked, UnpackError>,
    temporary: &Path,
) -> Result<Unpacked, CollectError> {
    match (unpacked, fetched) {
        (Err(UnpackError::Storage { path, source }), _) => Err(storage(&path, &source)),
        // The consumer's own error comes back as the command's: what it refused is known better here.
        (Err(error), Err(CommandError::Execute(ExecuteError::Consumer(_))) | Ok(())) => {
            Err(CollectError::Refused(chain(&error)))
        }
        // The rest of it was not wanted.
        (Ok(unpacked), Err(CommandError::Execute(ExecuteError::Consumer(_)))) if unpacked.outputs_too_large => {
            Ok(unpacked)
        }
        (_, Err(error)) => Err(CollectError::Worker(error.text())),
        (Ok(_), Ok(())) if !temporary.join("result.json").is_file() => {
            Err(CollectError::Refused("the archive has no result.json".to_owned()))
        }
        (Ok(unpacked), Ok(())) => Ok(unpacked),
    }
}
