//! `--list`: which containers have a runner here, or a result to collect; with `--wait` as a long poll (spec 50 §5, 52 §1).
//!
//! One line for each uuid: a live or stale runner wins over an older attempt's result, and an attempt's own result, if it is final, over
//! what a runner that is gone has left. `#attempt UUID N` follows it. `#broken WHY` may follow `broken`. The last line is `# TOKEN`, a hash of the list, so that a list cut short is never taken for a short one.
//!
//! Waiting is for inotify on the lock directory (starts, regular ends, the broken mark), for the exit of the runners listed (a
//! crash), and for standard input's end. The watch is set before the scan. Opening and closing lock files is not watched: two
//! waiting listers would wake each other for ever. The existence of a runner is asked of /proc and not with SIGUSR2: that
//! signal is for prices, which muster's runner does not need. `--forget` wakes nobody: who asked for it knows.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::attempts;
use crate::error::{Error, Result};
use crate::lock::{self, All, Found, Holder};
use crate::owner;
use crate::place::Place;
use crate::poll;
use crate::results;
use muster_runner::protocol::Reason;

const PRICES_BYTES_MAX: u64 = 1 << 20;
/// Runners whose exit is watched; beyond, while something is stale, and where the directory cannot be watched, the list is looked at again
/// every [`LOOK_AGAIN`].
const WATCHED_MAX: usize = 500;
const LOOK_AGAIN: Duration = Duration::from_secs(1);

pub(crate) struct Options<'a> {
    pub(crate) prices: bool,
    /// 0 = answer at once.
    pub(crate) wait_s: f64,
    pub(crate) known: Option<&'a str>,
    /// Without the machine under this lease it is as good as broken: nothing would start.
    pub(crate) lease: Option<&'a str>,
}

/// Writes the list to standard output.
pub(crate) fn list(place: &Place, options: &Options<'_>) -> Result<()> {
    let io = |what: &str, source| Error::Io { what: what.to_owned(), source };
    let waits = options.wait_s > 0.0;
    if options.prices {
        keep_prices(place, waits);
    }
    let deadline = Instant::now() + Duration::try_from_secs_f64(options.wait_s).unwrap_or_default();
    if options.known.is_none() {
        // A dispatcher's first look: what a removal that was cut short has left is on no list, and nobody would ask for it.
        attempts::go_on_removing(place);
    }
    let waiter = if waits && options.known.is_some() { Some(Waiter::new(place)) } else { None };
    let mut scan = Scan::new(place, options.lease)?;
    if let Some(waiter) = waiter {
        while options.known == Some(scan.token.as_str()) && waiter.wait(&scan, deadline)? {
            scan = Scan::new(place, options.lease)?;
        }
    }
    let mut stderr = std::io::stderr().lock();
    for text in &scan.strange {
        let _ = writeln!(stderr, "{text}");
    }
    let text = format!("{}# {}\n", scan.text, scan.token);
    std::io::stdout().lock().write_all(text.as_bytes()).map_err(|e| io("cannot write the list", e))
}

/// Prices are one line when standard input stays open for a long poll, else all of it. Failures are messages only.
fn keep_prices(place: &Place, one_line: bool) {
    let mut text = Vec::new();
    let input = std::io::stdin().lock().take(PRICES_BYTES_MAX).bytes();
    for byte in input.map_while(std::result::Result::ok) {
        text.push(byte);
        if one_line && byte == b'\n' {
            break;
        }
    }
    if text.trim_ascii().is_empty() {
        return;
    }
    let path = place.lock_dir.join("crunch-run-prices.json");
    let temporary = place.lock_dir.join(format!("crunch-run-prices.json~{}", std::process::id()));
    // A new file: the directory may be writable for everyone, and what lies there already may be a link.
    let _ = std::fs::remove_file(&temporary);
    let written = std::fs::File::create_new(&temporary).and_then(|mut file| file.write_all(&text));
    if let Err(e) = written.and_then(|()| std::fs::rename(&temporary, &path)) {
        let _ = writeln!(std::io::stderr(), "cannot write {}: {e}", path.display());
    }
}

/// The list at one moment.
struct Scan {
    text: String,
    token: String,
    runners: Vec<i32>,
    stale: bool,
    /// Lock files that cannot be made out; for standard error.
    strange: Vec<String>,
}

enum Line {
    Alive,
    Stale,
    Finished,
}

impl Scan {
    fn new(place: &Place, lease: Option<&str>) -> Result<Self> {
        let mut scan =
            Self { text: String::new(), token: String::new(), runners: Vec::new(), stale: false, strange: Vec::new() };
        // Locks first: a container that ends between the two has its result already.
        let mut lines = scan.locks(place)?;
        for uuid in attempts::containers(place)? {
            if lines.contains_key(&uuid) {
                continue;
            }
            match attempts::without_lock(place, &uuid) {
                Some(Found::Alive(holder)) => {
                    scan.runners.push(holder.pid);
                    lines.insert(uuid, (Line::Alive, holder.attempt));
                }
                Some(Found::Stale(holder)) => {
                    lines.insert(uuid, scan.left(place, &holder));
                }
                _ => {
                    if let Some(attempt) = attempts::finished(place, &uuid) {
                        lines.insert(uuid, (Line::Finished, attempt));
                    }
                }
            }
        }
        let held = lease.map_or(Ok(true), |lease| owner::is(place, lease))?;
        let unusable = place.unusable();
        if !held || unusable.is_some() || place.is_marked_broken() {
            scan.text.push_str("broken\n");
        }
        if let Some(why) = unusable {
            let _ = writeln!(scan.text, "#broken {why}");
        }
        for (uuid, (line, attempt)) in lines {
            let word = match line {
                Line::Alive => "",
                Line::Stale => " stale",
                Line::Finished => " finished",
            };
            // Writing to a string does not fail.
            let _ = writeln!(scan.text, "{uuid}{word}\n#attempt {uuid} {attempt}");
        }
        scan.token = token(&scan.text);
        Ok(scan)
    }

    /// Of one whose runner is gone and has left something. (A result is there before its runner is gone, so it is not overlooked.)
    fn left(&mut self, place: &Place, holder: &Holder) -> (Line, u32) {
        self.stale = true;
        (if is_final(place, holder) { Line::Finished } else { Line::Stale }, holder.attempt)
    }

    fn locks(&mut self, place: &Place) -> Result<BTreeMap<String, (Line, u32)>> {
        let mut lines = BTreeMap::new();
        let all = All::take(&place.lock_dir)?;
        let error = |e| Error::io("cannot read", &place.lock_dir, e);
        for entry in std::fs::read_dir(&place.lock_dir).map_err(error)? {
            let name = entry.map_err(error)?.file_name();
            let Some(uuid) = name.to_str().and_then(lock::uuid_of) else {
                continue;
            };
            match all.examine(uuid)? {
                Found::Alive(holder) if holder.set == place.set => {
                    self.runners.push(holder.pid);
                    lines.insert(holder.uuid, (Line::Alive, holder.attempt));
                }
                Found::Stale(holder) if holder.set == place.set => {
                    let line = self.left(place, &holder);
                    lines.insert(holder.uuid, line);
                }
                Found::Strange(text) | Found::Foreign(text) => self.strange.push(text),
                Found::Absent | Found::Starting | Found::Alive(_) | Found::Stale(_) => {}
            }
        }
        Ok(lines)
    }
}

/// The attempt has ended and is not tried again, whatever its runner could not end. After another result it may be: then what is left
/// goes first, or two attempts could run at once.
fn is_final(place: &Place, holder: &Holder) -> bool {
    results::read_result(&place.attempt_dir(&holder.uuid, holder.attempt)).is_ok_and(|result| match result.reason {
        Reason::Exited | Reason::Signaled | Reason::MaxRunTime | Reason::Oom => true,
        Reason::Killed | Reason::EngineError | Reason::DiskFull => false,
    })
}

/// FNV-1a. Two lists that follow each other must differ in it; nobody gains from making them equal.
fn token(text: &str) -> String {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{hash:016x}")
}

struct Waiter {
    /// `None`: nothing tells us of changes.
    inotify: Option<OwnedFd>,
}

impl Waiter {
    fn new(place: &Place) -> Self {
        let dir = &place.lock_dir;
        let flags = WatchFlags::CREATE | WatchFlags::MODIFY | WatchFlags::DELETE | WatchFlags::MOVE;
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .and_then(|inotify| inotify::add_watch(&inotify, dir, flags).map(|_| inotify))
            // Other programs of the user may have taken all that the kernel grants.
            .inspect_err(|e| {
                let e = std::io::Error::from(*e);
                let _ =
                    writeln!(std::io::stderr(), "cannot watch {}: {e}: it is looked at every second", dir.display());
            });
        Self { inotify: inotify.ok() }
    }

    /// Waits until the list may have changed. False when it is time to answer: the deadline has passed or standard input ended.
    fn wait(&self, scan: &Scan, deadline: Instant) -> Result<bool> {
        let stdin = std::io::stdin();
        let runners: Vec<OwnedFd> = scan.runners.iter().take(WATCHED_MAX).filter_map(|pid| handle(*pid)).collect();
        let look_again = scan.stale || self.inotify.is_none() || runners.len() < scan.runners.len();
        let until = if look_again { deadline.min(Instant::now() + LOOK_AGAIN) } else { deadline };
        let mut fds: Vec<(BorrowedFd<'_>, PollFlags)> = vec![(stdin.as_fd(), PollFlags::IN)];
        fds.extend(runners.iter().map(|runner| (runner.as_fd(), PollFlags::IN)));
        fds.extend(self.inotify.iter().map(|inotify| (inotify.as_fd(), PollFlags::IN)));
        loop {
            let ready = poll::wait(&fds, Some(until))
                .map_err(|source| Error::Io { what: "cannot wait for a change".into(), source })?;
            if !ready[0].is_empty() && ended(&stdin) {
                return Ok(false);
            }
            let (exits, events) = ready[1..].split_at(runners.len());
            let changed = match &self.inotify {
                Some(inotify) if events.iter().any(|ready| !ready.is_empty()) => about_us(inotify)?,
                _ => false,
            };
            if changed || exits.iter().any(|ready| !ready.is_empty()) {
                return Ok(true);
            }
            if until <= Instant::now() {
                return Ok(until < deadline);
            }
        }
    }
}

/// Reads all events; true if one of them can change a list.
fn about_us(inotify: &OwnedFd) -> Result<bool> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(inotify, &mut buffer);
    let mut any = false;
    loop {
        match reader.next() {
            Ok(event) => {
                let name = event.file_name().and_then(|name| name.to_str().ok()).unwrap_or_default();
                // A lock file that was just created is still empty; its content comes with a change.
                let created = event.events().contains(ReadFlags::CREATE);
                let lost = event.events().contains(ReadFlags::QUEUE_OVERFLOW);
                any |= lost || name == "crunch-run-broken" || (!created && lock::uuid_of(name).is_some());
            }
            Err(Errno::AGAIN) => return Ok(any),
            Err(Errno::INTR) => {}
            Err(e) => return Err(Error::Io { what: "cannot read events".into(), source: e.into() }),
        }
    }
}

fn handle(pid: i32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

/// True at the end of standard input; what comes before it is thrown away.
fn ended(stdin: &std::io::Stdin) -> bool {
    let mut buffer = [0; 4096];
    match rustix::io::read(stdin, &mut buffer) {
        Ok(0) => true,
        Ok(_) | Err(Errno::INTR | Errno::AGAIN) => false,
        Err(_) => true,
    }
}
