//! The owner file: who has a machine that comes back (spec 46 §1). Two lines, the set's id and `NAME LEASE`; the lease stands for one
//! life of the machine, from when a dispatcher takes it until it gives it back.
//!
//! The dispatcher makes it, complete from the moment it is there, before a runner is here. `--detach --lease` and `--release` read it
//! under the `all` lock: so a start that was on its way when its machine was given back finds that out.

use std::fs::File;
use std::io::{ErrorKind, Read};

use crate::error::{Error, Result};
use crate::place::Place;

const OWNER_BYTES_MAX: u64 = 1024;

/// True if the set has the machine under this lease.
pub(crate) fn is(place: &Place, lease: &str) -> Result<bool> {
    let path = place.owner_file();
    let mut text = String::new();
    match File::open(&path).and_then(|file| file.take(OWNER_BYTES_MAX).read_to_string(&mut text)) {
        Ok(_) => {}
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(Error::io("cannot read", &path, e)),
    }
    let mut lines = text.lines();
    let set = lines.next().unwrap_or_default();
    let held_by = lines.next().and_then(|line| line.split_whitespace().nth(1));
    Ok(set == place.set && held_by == Some(lease))
}

/// # Errors
/// [`Error::Refused`] if there is a lease, and the machine is not held by it.
pub(crate) fn require(place: &Place, lease: Option<&str>) -> Result<()> {
    match lease {
        Some(lease) if !is(place, lease)? => Err(Error::Refused(format!(
            "this machine is not held by the set {:?} under the lease {lease} (any more), says {}: nothing was started",
            place.set,
            place.owner_file().display()
        ))),
        _ => Ok(()),
    }
}
