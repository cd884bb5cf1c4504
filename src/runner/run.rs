//! The detached runner: one attempt from its lock file to its result (spec 52 §2).
//!
//! The result is on disk before the lock is released, so at every instant a container is listed as running, or its result
//! exists, or it crashed. One thread, which mostly waits in [`crate::job`].

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FallocateFlags, fallocate, syncfs};
use rustix::process::{getpid, set_child_subreaper, setsid};

use crate::args::Args;
use crate::attempts;
use crate::error::{Error, Result};
use crate::execute::{self, Ended, Setup};
use crate::lock::{self, Holder};
use crate::outputs;
use crate::place::{Place, make_dir};
use crate::procs;
use crate::signals::Signals;
use crate::start;
use crate::stream::Stream;
use crate::user::{self, User};
use muster_runner::protocol::{ContainerSpec, Reason, ResultRecord};

/// Runs the attempt whose lock this process inherited and whose configuration comes on standard input.
pub(crate) fn supervise(args: &Args, uuid: &str) -> Result<()> {
    let signals = Signals::install()
        .map_err(|source| Error::Io { what: "cannot handle signals".into(), source })
        .inspect_err(|e| answer(&e.to_string()))?;
    let (place, spec, setup) = prepare(args, uuid).inspect_err(|e| answer(&e.to_string()))?;
    let dir = place.attempt_dir(uuid, spec.attempt);
    let mut attempt = Attempt { place: &place, spec: &spec, dir: &dir, setup: &setup, streams: None };
    // Whatever a job starts shares the lock, so that it is stale as long as something is left. Not an engine's programs: they may start
    // helpers for all their containers, and what is left of this one stands in the lock file.
    let _shared = if setup.handle.is_none() { rustix::io::dup(io::stdout()).ok() } else { None };
    let ended = attempt.execute(&signals);
    setup.clear(&ended, &dir);
    if !ended.left_behind {
        attempts::forget_container(&place, uuid, spec.attempt);
    }
    attempt.record(&ended)?;
    if !ended.left_behind {
        // The container is seen as finished from here on. (With something left the lock stays taken: stale, to be reaped.)
        let _ = fs::remove_file(lock::path(&place.lock_dir, uuid));
    }
    Ok(())
}

/// One line for the process that started us; it may be gone.
fn answer(line: &str) {
    let _ = rustix::io::write(io::stdin(), format!("{line}\n").as_bytes());
    let _ = rustix::net::shutdown(io::stdin(), rustix::net::Shutdown::Both);
}

fn prepare(args: &Args, uuid: &str) -> Result<(Place, ContainerSpec, Setup)> {
    let io = |what: &str, source: io::Error| Error::Io { what: what.to_owned(), source };
    let mut config = Vec::new();
    let mut stdin = io::stdin().lock().take(start::CONFIG_BYTES_MAX + 1);
    stdin.read_to_end(&mut config).map_err(|e| io("cannot read the configuration", e))?;
    let spec = start::parse(&config, uuid, args.attempt)?;
    let place = Place::open(args)?;
    // A disk that is full already would have no room for a result that says so either: then nothing has started, and the
    // dispatcher is told now.
    let dir = place.attempt_dir(uuid, spec.attempt);
    reserve(&dir).map_err(|e| Error::io("cannot reserve room for the result in", &dir, e)).inspect_err(|e| {
        if matches!(e, Error::Io { source, .. } if is_full(source)) {
            let _ = lock::mark_broken(&place.broken_mark());
        }
    })?;
    // Away from the dispatcher's connection: its end signals a process group.
    setsid().map_err(|e| io("cannot make a session", e.into()))?;
    // What leaves the session is still our descendant, and its end is told to us.
    set_child_subreaper(Some(getpid())).map_err(|e| io("cannot adopt orphans", e.into()))?;
    let pid = getpid().as_raw_nonzero().get();
    let start = procs::read(pid).map_or(0, |process| process.start);
    let setup = Setup::new(&spec, &dir);
    let groups = setup.group.as_ref().map(|group| group.dirs().to_vec()).unwrap_or_default();
    let container = setup.handle.clone();
    let (set, attempt) = (place.set.clone(), spec.attempt);
    let holder = Holder { uuid: uuid.to_owned(), pid, set, attempt, start, groups, container };
    if holder.container.is_some() {
        attempts::keep_container(&place, &holder)?;
    }
    holder.publish(&place.lock_dir)?;
    answer(&format!(r#"{{"UUID":"{uuid}","PID":{pid}}}"#));
    Ok((place, spec, setup))
}

struct Attempt<'a> {
    place: &'a Place,
    spec: &'a ContainerSpec,
    dir: &'a Path,
    setup: &'a Setup,
    streams: Option<[Stream; 2]>,
}

impl Attempt<'_> {
    fn execute(&mut self, signals: &Signals) -> Ended {
        let mut ended = match self.furnish() {
            Ok((user, streams)) => {
                let streams = self.streams.insert(streams);
                execute::run(self.setup, self.spec, self.dir, user, streams, signals)
            }
            Err(Error::Io { source, what }) if is_full(&source) => {
                Ended::never(Reason::DiskFull, format!("{what}: {source}"))
            }
            Err(e) => Ended::never(Reason::EngineError, e.to_string()),
        };
        for stream in self.streams.iter_mut().flatten() {
            if let Err(e) = stream.finish() {
                ended.reason = if is_full(&e) { Reason::DiskFull } else { Reason::EngineError };
                ended.detail = format!("cannot write the job's output: {e}");
            }
        }
        if ended.broken || ended.reason == Reason::DiskFull {
            let _ = lock::mark_broken(&self.place.broken_mark());
        }
        if ended.reason == Reason::DiskFull {
            self.streams.iter_mut().flatten().for_each(Stream::make_room);
        }
        ended
    }

    /// Working directory and streams.
    fn furnish(&self) -> Result<(User, [Stream; 2])> {
        let user = user::find(&self.spec.user)?;
        for name in ["work", "tmp"] {
            let dir = self.dir.join(name);
            make_dir(&dir, 0o700)?;
            if user.switch {
                std::os::unix::fs::chown(&dir, Some(user.uid), Some(user.gid))
                    .map_err(|e| Error::io("cannot give away", &dir, e))?;
            }
        }
        reachable(self.dir, user)?;
        let stream = |name| {
            let path = self.dir.join(name);
            Stream::create(&path, self.spec.limits.log_bytes).map_err(|e| Error::io("cannot create", &path, e))
        };
        Ok((user, [stream("stdout")?, stream("stderr")?]))
    }

    fn record(&mut self, ended: &Ended) -> Result<()> {
        let work = self.dir.join("work");
        let found = outputs::examine(&work, &self.spec.outputs, self.spec.limits.output_bytes);
        if !found.found.is_empty()
            && let Ok(work) = File::open(&work)
        {
            // The result says that they are there, also after a loss of power. One call, however many files they are.
            let _ = syncfs(&work);
        }
        let mut detail = ended.detail.clone();
        if found.too_large {
            let (bytes, limit) = (found.bytes, self.spec.limits.output_bytes);
            let text = format!(
                "outputs of {bytes} bytes are above the limit of {limit}: not brought back, kept on the worker"
            );
            detail = [detail, text].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ");
        }
        let began = ended.exit_code.is_some() || ended.signal.is_some();
        let result = ResultRecord {
            uuid: self.spec.uuid.clone(),
            attempt: self.spec.attempt,
            reason: ended.reason,
            exit_code: ended.exit_code,
            signal: ended.signal,
            started_at: ended.started_at,
            finished_at: ended.finished_at,
            peak_memory: ended.peak_memory.filter(|_| began),
            cpu_seconds: ended.cpu_seconds.filter(|_| began),
            detail,
            stdout_bytes: self.streams.as_ref().map_or(0, |streams| streams[0].total_bytes()),
            stderr_bytes: self.streams.as_ref().map_or(0, |streams| streams[1].total_bytes()),
            outputs: found.found,
            skipped: found.skipped,
            outputs_too_large: found.too_large,
        };
        match write_result(self.dir, &result) {
            Err(e) if is_full(&e) => {
                let _ = lock::mark_broken(&self.place.broken_mark());
                self.streams.iter_mut().flatten().for_each(Stream::make_room);
                // Short enough for the room that is reserved.
                let (outputs, skipped) = (Vec::new(), vec!["all: the disk is full".to_owned()]);
                write_result(self.dir, &ResultRecord { reason: Reason::DiskFull, outputs, skipped, ..result })
            }
            other => other,
        }
        .map_err(|e| Error::io("cannot write the result in", self.dir, e))
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

const RESULT_TEMPORARY: &str = "result.json~";
/// A result without long lists of outputs is shorter.
const RESULT_BYTES_RESERVED: u64 = 16 << 10;

/// Takes disk space for the result while there is some: the job may fill the disk.
fn reserve(dir: &Path) -> io::Result<()> {
    let file = open_temporary(dir)?;
    match fallocate(&file, FallocateFlags::empty(), 0, RESULT_BYTES_RESERVED) {
        Err(e) if is_full(&e.into()) => Err(e.into()),
        // Some file systems cannot; then the result has to find room like any other file.
        _ => Ok(()),
    }
}

fn open_temporary(dir: &Path) -> io::Result<File> {
    fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(dir.join(RESULT_TEMPORARY))
}

/// Complete and durable, or not there.
fn write_result(dir: &Path, result: &ResultRecord) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(result)?;
    text.push(b'\n');
    let mut file = open_temporary(dir)?;
    file.write_all(&text)?;
    file.set_len(text.len() as u64)?;
    file.sync_all()?;
    fs::rename(dir.join(RESULT_TEMPORARY), dir.join("result.json"))?;
    File::open(dir)?.sync_all()
}

/// The job's user must be able to use its working directory by its path.
fn reachable(dir: &Path, user: User) -> Result<()> {
    if !user.switch || user.uid == 0 {
        return Ok(());
    }
    for ancestor in dir.ancestors() {
        let metadata = fs::metadata(ancestor).map_err(|e| Error::io("cannot examine", ancestor, e))?;
        let bit = match () {
            () if metadata.uid() == user.uid => 0o100,
            () if metadata.gid() == user.gid => 0o010,
            () => 0o001,
        };
        if metadata.mode() & bit == 0 {
            let (ancestor, uid) = (ancestor.display(), user.uid);
            let text = format!(
                "the job's user {uid} cannot pass through {ancestor}: chmod o+x it, or choose another Muster.Runner.User"
            );
            return Err(Error::Refused(text));
        }
    }
    Ok(())
}
