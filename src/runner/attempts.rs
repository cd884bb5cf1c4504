//! Which attempts ran here, wait to be collected, or must never start: an attempt number is executed at most once per machine.
//!
//! An attempt's directory says that it ran, also after a crash. When it is removed, and when a start must be prevented, a
//! tombstone stays: the highest attempt that may not start any more. Tombstones are kept by the day so that old ones go without
//! looking at young ones. Starting, killing and forgetting hold the `all` lock (spec 52 §1) while they use this.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};
use crate::lock::{All, Found, Holder};
use crate::place::{Place, is_uuid, make_dir};
use crate::procs;
use crate::remove;

/// A start cannot be on its way for longer than this.
const TOMBSTONE_DAYS: u64 = 30;
/// A result that nobody has collected for so long is removed when the machine is given back, or a later attempt of its container is
/// forgotten.
const KEPT_DAYS: u64 = 30;
/// Old tombstones removed for each new one; above 1, so that they cannot pile up.
const REMOVED_PER_NEW: usize = 20;

/// Creates the directory of an attempt that has never been here.
///
/// # Errors
/// [`Error::Refused`] if this attempt or a later one ran here, or a tombstone forbids it.
pub(crate) fn create(_all: &All, place: &Place, uuid: &str, attempt: u32) -> Result<()> {
    if let Some(last) = tombstone(place, uuid).filter(|last| *last >= attempt) {
        let text =
            format!("attempt {attempt} of {uuid} may not start here: attempts up to {last} were given up or forgotten");
        return Err(Error::Refused(text));
    }
    if let Some(last) = numbers(&place.container_dir(uuid)).last().filter(|last| **last >= attempt) {
        return Err(Error::Refused(format!(
            "attempt {attempt} of {uuid} may not start here: attempt {last} has run here"
        )));
    }
    let dir = place.attempt_dir(uuid, attempt);
    match make_dir(&dir, 0o711) {
        // `remove` may take the container's empty directory away at the same moment.
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => make_dir(&dir, 0o711),
        other => other,
    }
}

/// This very attempt has been started here; nobody has removed its files.
pub(crate) fn has_run(_all: &All, place: &Place, uuid: &str, attempt: u32) -> bool {
    place.attempt_dir(uuid, attempt).exists()
}

/// Which container an engine keeps for an attempt, in the attempt's own directory too: other runner versions delete lock files that
/// nobody holds, and with it the only word of a container whose runner has crashed.
const CONTAINER: &str = "container";
/// What `remove` has kept of an attempt whose outputs stay: its result, so that it is not forgotten twice.
const KEPT: &str = "kept";
/// The same of one that was forgotten while something of it was left, if an engine may have its container: until that was reaped.
const FORGOTTEN: &str = "forgotten";

/// What an attempt has beside the result, its directory of work and the marks above: files, and a directory.
const OF_RESULT: [&str; 7] = ["stdout", "stderr", "environment", "pid", "made", "result.json~", "tmp"];

/// What a removal leaves of an attempt.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spared {
    /// Its working directory.
    pub(crate) work: bool,
    /// The word of a container that an engine may have.
    pub(crate) container: bool,
}

/// Says it before there can be such a container.
pub(crate) fn keep_container(place: &Place, holder: &Holder) -> Result<()> {
    let dir = place.attempt_dir(&holder.uuid, holder.attempt);
    let path = dir.join(CONTAINER);
    let text = serde_json::to_vec(holder).expect("plain data serialises");
    File::create(&path)
        .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
        .and_then(|()| File::open(&dir)?.sync_all())
        .map_err(|e| Error::io("cannot write", &path, e))
}

/// The engine has none (any more).
pub(crate) fn forget_container(place: &Place, uuid: &str, attempt: u32) {
    // One that stays is asked for again.
    let _ = fs::remove_file(place.attempt_dir(uuid, attempt).join(CONTAINER));
}

/// Nothing of it is left any more: removes what was spared when it was forgotten, if it was.
pub(crate) fn clear_forgotten(place: &Place, uuid: &str, attempt: u32) {
    if place.attempt_dir(uuid, attempt).join(FORGOTTEN).exists() {
        // What stays is removed with the dispatcher's next first list.
        let _ = remove(place, uuid, attempt, Spared::default());
    }
}

/// Of the newest attempt that has one.
fn container_of(place: &Place, uuid: &str) -> Option<Holder> {
    let read = |attempt| serde_json::from_slice(&fs::read(place.attempt_dir(uuid, attempt).join(CONTAINER)).ok()?).ok();
    numbers(&place.container_dir(uuid)).into_iter().rev().find_map(read)
}

/// [`All::examine`], and what an engine keeps although there is no lock file.
pub(crate) fn examine(all: &All, place: &Place, uuid: &str) -> Result<Found> {
    Ok(match all.examine(uuid)? {
        Found::Absent => without_lock(place, uuid).unwrap_or(Found::Absent),
        other => other,
    })
}

/// What an engine keeps of a container that has no lock file.
pub(crate) fn without_lock(place: &Place, uuid: &str) -> Option<Found> {
    let holder = container_of(place, uuid)?;
    Some(if procs::lives(holder.pid, holder.start) { Found::Alive(holder) } else { Found::Stale(holder) })
}

/// Takes back what [`create`] made for an attempt that did not start; others' directories stay.
pub(crate) fn undo(_all: &All, place: &Place, uuid: &str, attempt: u32) {
    for dir in [place.attempt_dir(uuid, attempt), place.container_dir(uuid), place.set_dir()] {
        let _ = fs::remove_dir(dir);
    }
}

/// Attempts of the set that are of no use to anybody once nothing runs: they crashed, or have been kept for too long. What waits to be
/// collected stays, and so do outputs that were too large to be.
pub(crate) fn useless(place: &Place) -> Result<Vec<(String, u32)>> {
    let mut found = Vec::new();
    for uuid in containers(place)? {
        let numbers = numbers(&place.container_dir(&uuid));
        found.extend(
            numbers
                .into_iter()
                .filter(|attempt| !is_of_use(&place.attempt_dir(&uuid, *attempt)))
                .map(|n| (uuid.clone(), n)),
        );
    }
    Ok(found)
}

/// Those of the container before `attempt` that are of no use, when nothing of it runs. Whoever was to remove the files of one that
/// crashed may have crashed as well.
pub(crate) fn useless_before(place: &Place, uuid: &str, attempt: u32) -> Vec<u32> {
    let mut numbers = numbers(&place.container_dir(uuid));
    numbers.retain(|number| *number < attempt && !is_of_use(&place.attempt_dir(uuid, *number)));
    numbers
}

/// Removes one attempt that has been forgotten and is still there. Failures are left to the next time.
pub(crate) fn go_on_removing(place: &Place) {
    let Ok(all) = All::take(&place.lock_dir) else { return };
    let is_left = |uuid: &String, attempt: u32| {
        let dir = place.attempt_dir(uuid, attempt);
        let has = |names: &[&str]| names.iter().any(|name| dir.join(name).exists());
        // What stays of one whose outputs were too large is its directory of work.
        !has(&["result.json"])
            && (!has(&[KEPT]) || has(&OF_RESULT))
            && tombstone(place, uuid).is_some_and(|last| last >= attempt)
            && matches!(examine(&all, place, uuid), Ok(Found::Absent))
    };
    let uuids = containers(place).unwrap_or_default();
    let found = uuids.into_iter().find_map(|uuid| {
        let number = numbers(&place.container_dir(&uuid)).into_iter().find(|attempt| is_left(&uuid, *attempt))?;
        Some((uuid, number))
    });
    drop(all);
    if let Some((uuid, attempt)) = found {
        let spared = Spared { work: is_kept(place, &uuid, attempt), container: false };
        let _ = remove(place, &uuid, attempt, spared);
    }
}

fn is_of_use(dir: &Path) -> bool {
    // What has neither crashed, or its removal was cut short.
    let age = |name| Some(fs::metadata(dir.join(name)).ok()?.modified().ok()?.elapsed().unwrap_or_default());
    age("result.json").or_else(|| age(KEPT)).is_some_and(|age| age.as_secs() < KEPT_DAYS * 86_400)
}

/// Its outputs stay, being too large to be collected or because the dispatcher wanted it; the rest of it has been forgotten.
pub(crate) fn is_kept(place: &Place, uuid: &str, attempt: u32) -> bool {
    place.attempt_dir(uuid, attempt).join(KEPT).exists()
}

/// It has left a result, which perhaps was forgotten already.
pub(crate) fn has_ended(place: &Place, uuid: &str, attempt: u32) -> bool {
    let dir = place.attempt_dir(uuid, attempt);
    ["result.json", KEPT, FORGOTTEN].iter().any(|name| dir.join(name).exists())
}

/// The attempts that have a directory, in rising order.
pub(crate) fn numbers(container_dir: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(container_dir) else {
        return Vec::new();
    };
    let mut numbers: Vec<u32> = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// The containers of the set that have a directory; those forgotten cost nothing.
pub(crate) fn containers(place: &Place) -> Result<Vec<String>> {
    let dir = place.set_dir();
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("cannot read", &dir, e)),
    };
    let mut uuids = Vec::new();
    for entry in entries {
        let name = entry.map_err(|e| Error::io("cannot read", &dir, e))?.file_name();
        uuids.extend(name.to_str().filter(|name| is_uuid(name)).map(str::to_owned));
    }
    Ok(uuids)
}

/// The newest attempt of the container that has a result.
pub(crate) fn finished(place: &Place, uuid: &str) -> Option<u32> {
    let has_result = |attempt: &u32| place.attempt_dir(uuid, *attempt).join("result.json").exists();
    numbers(&place.container_dir(uuid)).into_iter().rev().find(has_result)
}

fn today() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400)
}

/// The days that have tombstones, in rising order.
fn days(place: &Place) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(place.tombstone_dir()) else {
        return Vec::new();
    };
    let mut days: Vec<u64> = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    days.sort_unstable();
    days
}

/// The highest attempt that may not start any more.
fn tombstone(place: &Place, uuid: &str) -> Option<u32> {
    let read = |day: u64| {
        let path = place.tombstone_dir().join(day.to_string()).join(uuid);
        fs::read_to_string(path).ok()?.trim().parse::<u32>().ok()
    };
    days(place).into_iter().filter_map(read).max()
}

/// Attempts up to `attempt` may not start from now on. Removes a few tombstones that are too old.
pub(crate) fn bury(_all: &All, place: &Place, uuid: &str, attempt: u32) -> Result<()> {
    if tombstone(place, uuid).is_none_or(|last| last < attempt) {
        let dir = place.tombstone_dir().join(today().to_string());
        make_dir(&dir, 0o700)?;
        let temporary = dir.join(format!("{uuid}~"));
        let path = dir.join(uuid);
        fs::write(&temporary, format!("{attempt}\n"))
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|e| Error::io("cannot write", &path, e))?;
    }
    sweep(place);
    Ok(())
}

/// Failures are left to the next one.
fn sweep(place: &Place) {
    let Some(oldest) = days(place).first().copied().filter(|day| day + TOMBSTONE_DAYS < today()) else {
        return;
    };
    let dir = place.tombstone_dir().join(oldest.to_string());
    let Ok(entries) = fs::read_dir(&dir) else {
        return;
    };
    for entry in entries.flatten().take(REMOVED_PER_NEW) {
        let _ = fs::remove_file(entry.path());
    }
    // Succeeds once it is empty.
    let _ = fs::remove_dir(&dir);
}

/// Removes the files of an attempt but for those that are `spared`. For one that has a tombstone and no runner.
pub(crate) fn remove(place: &Place, uuid: &str, attempt: u32, spared: Spared) -> Result<()> {
    let dir = place.attempt_dir(uuid, attempt);
    let result = dir.join("result.json");
    // First, so that a removal cut short is no result with half its files.
    let aside = if spared.work { Some(KEPT) } else { spared.container.then_some(FORGOTTEN) };
    let Some(aside) = aside else {
        remove_file(&result)?;
        return remove_all(place, uuid, attempt);
    };
    match fs::rename(&result, dir.join(aside)) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::io("cannot rename", &result, e)),
        _ => {}
    }
    let [files @ .., tmp] = OF_RESULT;
    for name in files {
        remove_file(&dir.join(name))?;
    }
    remove::tree(&dir.join(tmp))?;
    if !spared.container {
        remove_file(&dir.join(CONTAINER))?;
    }
    if !spared.work {
        remove::tree(&dir.join("work"))?;
    }
    if spared.work || dir.join(CONTAINER).exists() { Ok(()) } else { remove_all(place, uuid, attempt) }
}

fn remove_all(place: &Place, uuid: &str, attempt: u32) -> Result<()> {
    remove::tree(&place.attempt_dir(uuid, attempt))?;
    // Fails while another attempt has files there.
    let _ = fs::remove_dir(place.container_dir(uuid));
    Ok(())
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("cannot remove", path, e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args;

    const U: &str = "local-dz642-00000000000000a";

    fn place(dir: &Path) -> Place {
        let words = ["--list", "--lock-dir", dir.to_str().unwrap(), "--state-dir", dir.to_str().unwrap()];
        Place::open(&args::parse(&words.map(str::to_owned)).unwrap()).unwrap()
    }

    #[test]
    fn an_attempt_starts_once_and_never_after_its_tombstone() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        let all = All::take(dir.path()).unwrap();
        create(&all, &place, U, 2).unwrap();
        for attempt in [1, 2] {
            assert!(create(&all, &place, U, attempt).is_err(), "{attempt} after 2");
        }
        bury(&all, &place, U, 4).unwrap();
        bury(&all, &place, U, 3).unwrap();
        assert!(create(&all, &place, U, 4).is_err());
        remove(&place, U, 2, Spared::default()).unwrap();
        assert_eq!(containers(&place).unwrap(), Vec::<String>::new());
        assert!(create(&all, &place, U, 2).is_err());
        create(&all, &place, U, 5).unwrap();
    }

    #[test]
    fn old_tombstones_go_and_young_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        let all = All::take(dir.path()).unwrap();
        let old = place.tombstone_dir().join((today() - TOMBSTONE_DAYS - 1).to_string());
        let young = place.tombstone_dir().join((today() - TOMBSTONE_DAYS).to_string());
        fs::create_dir_all(&young).unwrap();
        fs::create_dir_all(&old).unwrap();
        for n in 0..=REMOVED_PER_NEW {
            fs::write(old.join(n.to_string()), "1").unwrap();
        }
        fs::write(young.join(U), "9").unwrap();
        bury(&all, &place, U, 1).unwrap();
        assert!(old.exists());
        bury(&all, &place, U, 1).unwrap();
        assert!(!old.exists());
        assert_eq!(tombstone(&place, U), Some(9));
    }
}
