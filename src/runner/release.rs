//! `--release`: the machine is given back by who has it (spec 46 §1). Under the lock that starts take, so that none can slip through.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::Path;

use crate::attempts::{self, Spared};
use crate::error::{Error, Result};
use crate::lock::{self, All, Found};
use crate::owner;
use crate::place::Place;

/// Removes what crashed attempts left, the broken mark, and at last the owner file; writes `released`, or `not held` if the machine is
/// not the lease's (any more): then nothing was touched. Results that wait to be collected stay for the set's next lease.
///
/// # Errors
/// [`Error::Refused`] while anything of the set runs, or may be starting.
pub(crate) fn release(place: &Place, lease: &str) -> Result<()> {
    let all = All::take(&place.lock_dir)?;
    if !owner::is(place, lease)? {
        return say("not held");
    }
    refuse_busy(&all, place)?;
    let useless = attempts::useless(place)?;
    for (uuid, attempt) in &useless {
        if attempts::bury(&all, place, uuid, *attempt).is_err() {
            // The disk may be full of just that: no start can come before the mark as long as the lock is held.
            attempts::remove(place, uuid, *attempt, Spared::default())?;
            attempts::bury(&all, place, uuid, *attempt)?;
        }
    }
    // Large trees take long, and others wait for the lock; what has a tombstone does not start.
    drop(all);
    for (uuid, attempt) in &useless {
        attempts::remove(place, uuid, *attempt, Spared::default())?;
    }
    let all = All::take(&place.lock_dir)?;
    if !owner::is(place, lease)? {
        return say("not held");
    }
    refuse_busy(&all, place)?;
    remove(&place.broken_mark())?;
    remove(&place.owner_file())?;
    let _ = fs::remove_dir(place.set_dir());
    drop(all);
    say("released")
}

/// Whether anything of any set runs, or may be starting. What a crashed runner has left counts for nothing.
pub(crate) fn runs_anything(place: &Place) -> Result<bool> {
    let all = All::take(&place.lock_dir)?;
    for uuid in uuids(place)? {
        if !matches!(attempts::examine(&all, place, &uuid)?, Found::Absent | Found::Foreign(_) | Found::Stale(_)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Of all that has a lock file, and of the set's that have a directory: an engine's container may be without the first.
fn uuids(place: &Place) -> Result<BTreeSet<String>> {
    let error = |e| Error::io("cannot read", &place.lock_dir, e);
    let mut uuids: BTreeSet<String> = attempts::containers(place)?.into_iter().collect();
    for entry in fs::read_dir(&place.lock_dir).map_err(error)? {
        let name = entry.map_err(error)?.file_name();
        uuids.extend(name.to_str().and_then(lock::uuid_of).map(str::to_owned));
    }
    Ok(uuids)
}

fn refuse_busy(all: &All, place: &Place) -> Result<()> {
    for uuid in uuids(place)? {
        let why = match attempts::examine(all, place, &uuid)? {
            // Another user's file is no lock of ours, and any user may put one there (the directory is often everybody's).
            Found::Absent | Found::Foreign(_) => continue,
            Found::Alive(holder) | Found::Stale(holder) if holder.set != place.set => continue,
            Found::Alive(_) => "runs".to_owned(),
            Found::Stale(_) => "has left processes".to_owned(),
            Found::Starting => "is just being started".to_owned(),
            Found::Strange(text) => text,
        };
        return Err(Error::Refused(format!("{uuid}: {why}: the machine is not given back")));
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("cannot remove", path, e)),
        _ => Ok(()),
    }
}

fn say(word: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{word}")
        .map_err(|source| Error::Io { what: "cannot write to standard output".into(), source })
}
