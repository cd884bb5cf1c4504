//! The dead man's switch (spec 52 §2): a machine that nobody has asked for its list for too long, and on which nothing runs, powers
//! itself off, so that a lost dispatcher does not cost money for ever.
//!
//! `--list --self-destruct SECONDS` turns it on for a set, and sees to it that a process watches, which holds a lock and outlives the
//! connection. Each list, of whatever set, shows that somebody is there. A list of the set without the flag turns its switch off.
//! Time is counted by a clock that nobody sets, and not while the machine was suspended.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FlockOperation, Timespec, Timestamps, UTIME_NOW, flock, utimensat};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::process::{geteuid, setsid};
use rustix::system::{RebootCommand, reboot};

use crate::args::Args;
use crate::attempts;
use crate::error::{Error, Result};
use crate::null;
use crate::place::Place;
use crate::poll;
use crate::program;
use crate::release;

/// Between two looks; a tenth of the time if that is less.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// For a program that is to power the machine off.
const PROGRAM_PATIENCE: Duration = Duration::from_secs(30);
/// For the machine to go down then, before it is told so in another way.
const POWER_OFF_PATIENCE: Duration = Duration::from_secs(120);
const POWER_OFF_LOOK: Duration = Duration::from_secs(1);

/// Changed by each list of whatever set; there as soon as one of them has a switch.
fn asked_file(place: &Place) -> PathBuf {
    place.state_dir().join("asked")
}

/// Holds the seconds.
fn switch_file(place: &Place) -> PathBuf {
    place.state_dir().join(format!("switch-{}", place.set))
}

/// Somebody has asked for a list, and with it for the switch, or not.
///
/// # Errors
/// Nobody watches.
pub(crate) fn asked(args: &Args, place: &Place) -> Result<()> {
    let (asked, switch) = (asked_file(place), switch_file(place));
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    let touched = utimensat(CWD, &asked, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
    let after_s = args.self_destruct_s.unwrap_or(0);
    if after_s == 0 {
        return match fs::remove_file(&switch) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("cannot remove", &switch, e)),
            _ => Ok(()),
        };
    }
    if !geteuid().is_root() {
        return Err(Error::Refused("--self-destruct: only root can power a machine off".into()));
    }
    if touched.is_err() {
        File::create(&asked).map_err(|e| Error::io("cannot create", &asked, e))?;
    }
    let text = format!("{after_s}\n");
    if fs::read_to_string(&switch).ok().as_ref() != Some(&text) {
        let temporary = place.state_dir().join(format!("switch-{}~{}", place.set, std::process::id()));
        fs::write(&temporary, text)
            .and_then(|()| fs::rename(&temporary, &switch))
            .map_err(|e| Error::io("cannot write", &switch, e))?;
    }
    watch_in_background(args, place).map_err(|e| Error::io("cannot watch", &switch, e))
}

/// Unless somebody does.
fn watch_in_background(args: &Args, place: &Place) -> io::Result<()> {
    let path = place.state_dir().join(format!("watchdog-{}.lock", place.set));
    let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(()),
        Err(e) => return Err(e.into()),
    }
    fcntl_setfd(&file, FdFlags::empty())?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("muster-runner").arg("--watchdog").args(["--set", &place.set]);
    for (flag, dir) in [("--lock-dir", &args.lock_dir), ("--state-dir", &args.state_dir)] {
        command.args(dir.iter().flat_map(|dir| [flag.as_ref(), dir.as_os_str()]));
    }
    let streams = (null::input()?, null::output()?, null::output()?);
    command.current_dir("/").stdin(streams.0).stdout(streams.1).stderr(streams.2).spawn().map(drop)
}

/// The process that watches. Ends when nobody wants that any more; else the machine goes down. What fails is tried again: nobody would
/// start another one.
pub(crate) fn watch(place: &Place) -> Result<()> {
    setsid().map_err(|e| Error::Io { what: "cannot make a session".into(), source: e.into() })?;
    let mut alone = Duration::ZERO;
    let (mut seen, mut looked) = (None, Instant::now());
    let mut after_s = None;
    while let Some(after) = wanted(&switch_file(place), after_s) {
        after_s = Some(after.as_secs());
        let found = mark(&asked_file(place));
        // A machine that was suspended was not alone for all that time.
        alone = if found == seen { alone + looked.elapsed().min(2 * LOOK_AGAIN) } else { Duration::ZERO };
        (seen, looked) = (found, Instant::now());
        if alone >= after {
            match release::runs_anything(place) {
                Ok(true) => alone = Duration::ZERO,
                // Its dispatcher may be about to come back for it.
                Ok(false) if alone < 2 * after && has_results(place) => {}
                Ok(false) => {
                    power_off(&|| {
                        mark(&asked_file(place)) == seen && release::runs_anything(place).is_ok_and(|runs| !runs)
                    });
                    alone = Duration::ZERO;
                }
                Err(_) => {}
            }
        }
        let _ = poll::wait(&[], Some(Instant::now() + LOOK_AGAIN.min(after / 10)));
    }
    Ok(())
}

/// `None` only if it is switched off; what cannot be read is as it was.
fn wanted(switch: &Path, before: Option<u64>) -> Option<Duration> {
    match fs::read_to_string(switch) {
        Ok(text) => text.trim().parse().ok().or(before),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(_) => before,
    }
    .map(Duration::from_secs)
}

/// Different after each list.
fn mark(asked: &Path) -> Option<(u64, i64, i64)> {
    fs::metadata(asked).ok().map(|metadata| (metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
}

fn has_results(place: &Place) -> bool {
    let uuids = attempts::containers(place).unwrap_or_default();
    uuids.iter().any(|uuid| attempts::finished(place, uuid).is_some())
}

/// In an orderly way, as far as the machine knows one, as long as it `may` go; returns if nothing has helped, or somebody has come back.
fn power_off(may: &dyn Fn() -> bool) {
    for words in [&["poweroff"][..], &["shutdown", "-P", "now"], &["systemctl", "poweroff"]] {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        if program::run(command, PROGRAM_PATIENCE).is_ok_and(|answer| answer.exit_code == Some(0)) {
            let until = Instant::now() + POWER_OFF_PATIENCE;
            while may() && Instant::now() < until {
                let _ = poll::wait(&[], Some(Instant::now() + POWER_OFF_LOOK));
            }
        }
        if !may() {
            return;
        }
    }
    // A file system that hangs must not keep the machine on.
    let _ = program::run(Command::new("sync"), PROGRAM_PATIENCE);
    if may() {
        let _ = reboot(RebootCommand::PowerOff);
    }
}
