//! The dead man's switch (spec 52 §2): a machine that nobody has asked for its list for too long, and on which nothing runs, powers
//! itself off, so that a lost dispatcher does not cost money for ever.
//!
//! `--list --self-destruct SECONDS` says that somebody is there, by touching a file, and sees to it that a process watches: one for each
//! set, which holds a lock and outlives the connection. A list without the flag takes the file away, and with it the watching. Time is
//! counted by a clock that nobody sets: a machine that gets its time of day after booting is not late.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{geteuid, setsid};
use rustix::system::{RebootCommand, reboot};

use crate::args::Args;
use crate::error::{Error, Result};
use crate::lock::All;
use crate::place::Place;
use crate::poll;
use crate::release;

/// Between two looks; a tenth of the time if that is less.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// For a machine to go down, before it is told so in another way.
const POWER_OFF_PATIENCE: Duration = Duration::from_secs(120);

fn asked_file(place: &Place) -> PathBuf {
    place.state_dir().join(format!("asked-{}", place.set))
}

/// Somebody has asked for a list, and with it for the switch, or not.
///
/// # Errors
/// Nobody watches.
pub(crate) fn asked(args: &Args, place: &Place) -> Result<()> {
    let path = asked_file(place);
    let after_s = args.self_destruct_s.unwrap_or(0);
    if after_s == 0 {
        return match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("cannot remove", &path, e)),
            _ => Ok(()),
        };
    }
    if !geteuid().is_root() {
        return Err(Error::Refused("--self-destruct: only root can power a machine off".into()));
    }
    // A new file each time: what a watcher compares is never the same.
    let temporary = path.with_extension("new");
    let _ = fs::remove_file(&temporary);
    fs::write(&temporary, format!("{after_s}\n"))
        .and_then(|()| fs::rename(&temporary, &path))
        .map_err(|e| Error::io("cannot write", &path, e))?;
    watch_in_background(args, place).map_err(|e| Error::io("cannot watch", &path, e))
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
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map(drop)
}

/// The process that watches. Ends when nobody wants that any more; else the machine goes down.
pub(crate) fn watch(place: &Place) -> Result<()> {
    setsid().map_err(|e| Error::Io { what: "cannot make a session".into(), source: e.into() })?;
    let path = asked_file(place);
    let mut last = None;
    let mut since = Instant::now();
    loop {
        let Some((seen, after)) = read(&path) else { return Ok(()) };
        if last != Some(seen) {
            last = Some(seen);
            since = Instant::now();
        }
        if since.elapsed() >= after && power_off_if_idle(place)? {
            // It may be refused, or hang.
            since = Instant::now();
        }
        let _ = poll::wait(&[], Some(Instant::now() + LOOK_AGAIN.min(after / 10)));
    }
}

/// Which file it is, and after how long without another one the machine is to go.
fn read(path: &Path) -> Option<(u64, Duration)> {
    let inode = fs::metadata(path).ok()?;
    let seconds: u32 = fs::read_to_string(path).ok()?.trim().parse().ok()?;
    let seen = inode.ino().wrapping_mul(31).wrapping_add(u64::try_from(inode.ctime_nsec()).unwrap_or(0));
    Some((seen, Duration::from_secs(seconds.into())))
}

/// False if something runs. Nothing can start meanwhile: that takes the lock that is held here.
fn power_off_if_idle(place: &Place) -> Result<bool> {
    let all = All::take(&place.lock_dir)?;
    if release::runs_anything(&all, place)? {
        return Ok(false);
    }
    let succeeded = |program: &str, argument: Option<&str>| {
        Command::new(program).args(argument).stdin(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    // In an orderly way, as far as the machine knows one.
    let ordered =
        succeeded("poweroff", None) || succeeded("shutdown", Some("now")) || succeeded("systemctl", Some("poweroff"));
    if ordered {
        let _ = poll::wait(&[], Some(Instant::now() + POWER_OFF_PATIENCE));
    }
    rustix::fs::sync();
    reboot(RebootCommand::PowerOff)
        .map(|()| true)
        .map_err(|e| Error::Io { what: "cannot power the machine off".into(), source: e.into() })
}
