//! `--kill` and `--reap`: ending a runner, and what a dead one left behind (spec 50 §6, 52 §1).

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::process::Signal;

use crate::attempts;
use crate::cgroup;
use crate::error::{Error, Result};
use crate::handle::Handle;
use crate::lock::{self, All, Found, Holder};
use crate::place::Place;
use crate::poll;
use crate::procs::{self, Process};
use muster_runner::protocol::HAS_RUN;

/// How long one call waits at most for the runner to be gone; the dispatcher repeats it.
const GONE_TIMEOUT: Duration = Duration::from_secs(1);
const REAP_TIMEOUT: Duration = Duration::from_secs(5);

/// Signals the runner of `uuid` and waits a little (`wait_s`, at most and by default a second). With `attempt` it first makes sure
/// that no attempt up to this one can start any more, and spares a later one that runs; at last it says whether that attempt was here,
/// which a dispatcher that has not seen it run cannot know (its runner may have crashed before anybody looked).
///
/// # Errors
/// [`Error::Refused`] while it is (or may be) still there.
pub(crate) fn kill(place: &Place, uuid: &str, attempt: Option<u32>, signal: i32, wait_s: Option<f64>) -> Result<()> {
    // KILL would leave the container without its runner, for nobody to see.
    let signal = match signal {
        0 => None,
        15 => Some(Signal::TERM),
        2 => Some(Signal::INT),
        3 => Some(Signal::QUIT),
        _ => return Err(Error::Refused(format!("signal {signal} does not end a container properly: use 15"))),
    };
    let all = All::take(&place.lock_dir)?;
    // On a full disk there may be no room for it. That must not keep the signal from a runner, but nothing is ruled out then.
    let buried = attempt.map_or(Ok(()), |attempt| attempts::bury(&all, place, uuid, attempt));
    let has_run = attempt.is_some_and(|attempt| attempts::has_run(&all, place, uuid, attempt));
    end(all, place, (uuid, attempt), signal, wait_s).and(buried)?;
    if has_run {
        writeln!(std::io::stdout(), "{HAS_RUN}")
            .map_err(|source| Error::Io { what: "cannot write to standard output".into(), source })?;
    }
    Ok(())
}

fn end(
    all: All,
    place: &Place,
    (uuid, attempt): (&str, Option<u32>),
    signal: Option<Signal>,
    wait_s: Option<f64>,
) -> Result<()> {
    let holder = match attempts::examine(&all, place, uuid)? {
        Found::Absent => return Ok(()),
        Found::Starting => return Err(Error::Refused(format!("{uuid}: is just being started, try again"))),
        Found::Strange(text) | Found::Foreign(text) => return Err(Error::Refused(format!("{uuid}: {text}"))),
        Found::Alive(holder) | Found::Stale(holder) => holder,
    };
    if !concerns(&holder, place, attempt) {
        return Ok(());
    }
    let pid = holder.pid;
    let Some(runner) = Handle::open(pid, holder.start) else {
        return gone(uuid, pid, "is gone");
    };
    // The lock was taken a moment ago and is tested under the `all` lock: this is the runner.
    if let Some(signal) = signal {
        match runner.signal(signal) {
            Ok(()) => {}
            Err(Errno::SRCH) => return gone(uuid, pid, "is gone"),
            Err(e) => return Err(Error::Refused(format!("{uuid}: pid {pid}: {}", std::io::Error::from(e)))),
        }
    }
    drop(all);
    let wait = wait_s.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let deadline = Instant::now() + wait.unwrap_or(GONE_TIMEOUT).min(GONE_TIMEOUT);
    let ended = runner
        .ends_before(deadline)
        .map_err(|source| Error::Io { what: format!("cannot wait for pid {pid}"), source })?;
    if !ended {
        let sent = signal.map_or(0, Signal::as_raw);
        return Err(Error::Refused(format!("{uuid}: pid {pid}: sent signal {sent} but process is still alive")));
    }
    gone(uuid, pid, "has ended")
}

fn gone(uuid: &str, pid: i32, how: &str) -> Result<()> {
    let _ = writeln!(std::io::stderr(), "{uuid}: pid {pid}: {how}");
    Ok(())
}

fn concerns(holder: &Holder, place: &Place, attempt: Option<u32>) -> bool {
    holder.set == place.set && attempt.is_none_or(|attempt| holder.attempt <= attempt)
}

/// Kills everything that a dead runner of `uuid` left.
///
/// # Errors
/// [`Error::Refused`] if the runner lives, or something is still there.
pub(crate) fn reap(place: &Place, uuid: &str, attempt: Option<u32>) -> Result<()> {
    let mut deadline = Instant::now() + REAP_TIMEOUT;
    let mut removed = false;
    loop {
        // Taken anew each time: nobody may wait for our patience.
        let all = All::take(&place.lock_dir)?;
        let holder = match attempts::examine(&all, place, uuid)? {
            Found::Absent => return Ok(()),
            Found::Starting => return Err(Error::Refused(format!("{uuid}: is just being started, try again"))),
            Found::Strange(text) | Found::Foreign(text) => return Err(Error::Refused(format!("{uuid}: {text}"))),
            Found::Alive(holder) | Found::Stale(holder) if !concerns(&holder, place, attempt) => return Ok(()),
            Found::Alive(holder) => {
                return Err(Error::Refused(format!("{uuid}: its runner {} lives: use --kill 15", holder.pid)));
            }
            Found::Stale(holder) => holder,
        };
        let left = leftovers(place, &holder)?;
        // Not before all that might still make one has ended.
        if let Some(container) = holder.container.as_ref().filter(|_| !removed && left.is_empty()) {
            // An engine may take long; others wait for the lock.
            drop(all);
            container.remove().map_err(|e| Error::Refused(format!("{uuid}: {e}")))?;
            removed = true;
            deadline = Instant::now() + REAP_TIMEOUT;
            continue;
        }
        if removed && left.is_empty() && all.acquire(uuid)?.is_some() {
            // Only we know that the engine has nothing any more.
            attempts::forget_container(place, uuid, holder.attempt);
            lock::discard(&all, &holder)?;
            // Large trees take long, and others wait for the lock.
            drop(all);
            attempts::clear_forgotten(place, uuid, holder.attempt);
            return Ok(());
        }
        let killed: Vec<Handle> = left.iter().filter_map(kill_process).collect();
        // Not earlier: a runner that lists has lock files open for a moment, and would look like one of those left.
        drop(all);
        let fds: Vec<_> = killed.iter().filter_map(|one| Some((one.descriptor()?, PollFlags::IN))).collect();
        // Until the first of them has ended, or a moment has passed; then look what is left.
        poll::wait(&fds, Some(deadline.min(Instant::now() + Duration::from_millis(100))))
            .map_err(|source| Error::Io { what: format!("cannot wait for the processes of {uuid}"), source })?;
        if Instant::now() >= deadline {
            let pids: Vec<String> = left.iter().map(|process| process.pid.to_string()).collect();
            let text = format!("{uuid}: processes {} do not end: the machine needs a look", pids.join(", "));
            return Err(Error::Refused(text));
        }
    }
}

/// Who holds the lock, and who is left of the runner's session and of the job's control groups.
fn leftovers(place: &Place, holder: &Holder) -> Result<Vec<Process>> {
    let path = lock::path(&place.lock_dir, &holder.uuid);
    let io = |source| Error::Io { what: "cannot read /proc".into(), source };
    let mut left = match fs::metadata(&path) {
        Ok(_) => procs::holders(&path).map_err(io)?,
        Err(_) => Vec::new(),
    };
    left.extend(procs::survivors(holder.pid, holder.start).map_err(io)?);
    left.extend(cgroup::members(&holder.groups));
    Ok(left)
}

fn kill_process(process: &Process) -> Option<Handle> {
    let handle = Handle::open(process.pid, process.start)?;
    handle.signal(Signal::KILL).is_ok().then_some(handle)
}
