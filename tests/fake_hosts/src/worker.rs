//! What a runner keeps on a worker's disk, in memory: locks, attempts, results, tombstones (spec 50 §4–6, 52 §1).
//!
//! Plain data without clock, threads or connections; `runner` turns command lines into calls of this.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use muster_runner::protocol::{ContainerSpec, Reason, ResultRecord, StartConfig};

use crate::journal::{Journal, JournalEvent};
use crate::options::JobPlan;

/// Uuid and attempt.
pub(crate) type Key = (String, u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    /// The runner is dead, something holds its lock.
    Stale,
    /// Its result waits to be collected.
    Finished,
    /// Ended without a result; its files say that it ran.
    Crashed,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) set: String,
    pub(crate) phase: Phase,
    pub(crate) pid: u32,
    pub(crate) plan: Arc<JobPlan>,
    /// None for a crash, and while it runs.
    pub(crate) result: Option<ResultRecord>,
    /// What it was asked to run; none from a dispatcher that speaks the plain protocol.
    pub(crate) spec: Option<ContainerSpec>,
    started_at: i64,
}

impl Entry {
    pub(crate) fn crashes(&self, attempt: u32) -> bool {
        let command = self.spec.as_ref().map(|spec| spec.command.as_slice()).unwrap_or_default();
        self.plan.crashes.is_some_and(|crashes| crashes.hit(command, attempt))
    }

    fn holds_lock(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Stale)
    }
}

/// How a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    ByItself,
    Killed,
    /// Of its runner: without a result.
    Crash,
}

/// What a kill found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Killed {
    Nothing,
    Gone(u32),
    Signalled { key: Key, pid: u32, after: Duration, ignored: bool },
}

#[derive(Debug, Default)]
pub(crate) struct Worker {
    /// A crunch-run: without attempts, results and tombstones.
    plain: bool,
    pub(crate) broken: bool,
    pub(crate) job: Arc<JobPlan>,
    pub(crate) entries: BTreeMap<Key, Entry>,
    /// How often each attempt was started: never more than once with our runner.
    pub(crate) starts: BTreeMap<Key, u32>,
    /// By set and uuid: the highest attempt that may not start any more.
    tombstones: BTreeMap<(String, String), u32>,
    pids: u32,
    /// With the address of the host.
    journal: Option<(Journal, SocketAddr)>,
    /// Nothing starts any more.
    off: bool,
}

impl Worker {
    pub(crate) fn new(plain: bool, job: JobPlan, journal: Option<(Journal, SocketAddr)>) -> Self {
        Self { plain, job: Arc::new(job), journal, ..Self::default() }
    }

    fn note(&self, key: &Key, event: JournalEvent) {
        if let Some((journal, address)) = &self.journal {
            journal.note(*address, key, event);
        }
    }

    /// Starts what `config` describes. The answer is the key of the attempt, and the number of its process.
    pub(crate) fn start(
        &mut self,
        set: &str,
        uuid: &str,
        attempt: Option<u32>,
        config: &[u8],
        now_ms: i64,
    ) -> Result<(Key, u32), String> {
        let config: StartConfig = serde_json::from_slice(config).map_err(|error| {
            format!("the configuration is not valid at line {} column {}", error.line(), error.column())
        })?;
        let newest = self.attempts(uuid).next_back();
        let attempt = match &config.container {
            _ if self.plain => newest.unwrap_or(0) + 1,
            None => return Err("the configuration lacks Container".into()),
            Some(spec) if spec.uuid != uuid => {
                return Err(format!("Container.uuid {:?} is not the uuid on the command line", spec.uuid));
            }
            Some(spec) if spec.attempt == 0 || attempt.is_some_and(|attempt| attempt != spec.attempt) => {
                return Err(format!("Container.attempt {} must be at least 1 and equal to --attempt", spec.attempt));
            }
            Some(spec) => spec.attempt,
        };
        if self.off {
            return Err("the machine is off".into());
        }
        if self.holder(uuid).is_some() {
            return Err(format!("lock /run/lock/crunch-run-{uuid}.lock: resource temporarily unavailable"));
        }
        let refused = |why: String| Err(format!("attempt {attempt} of {uuid} may not start here: {why}"));
        if let Some(last) = self.tombstone(set, uuid).filter(|last| *last >= attempt) {
            return refused(format!("attempts up to {last} were given up or forgotten"));
        }
        if let Some(last) = newest.filter(|last| *last >= attempt) {
            return refused(format!("attempt {last} has run here"));
        }
        self.pids += 1;
        let pid = 1000 + self.pids;
        let (set, plan) = (set.to_owned(), Arc::clone(&self.job));
        let spec = config.container;
        let entry = Entry { set, phase: Phase::Running, pid, plan, result: None, spec, started_at: now_ms };
        let key = (uuid.to_owned(), attempt);
        self.entries.insert(key.clone(), entry);
        *self.starts.entry(key.clone()).or_default() += 1;
        self.note(&key, JournalEvent::Started);
        Ok((key, pid))
    }

    fn attempts(&self, uuid: &str) -> impl DoubleEndedIterator<Item = u32> {
        self.entries.range((uuid.to_owned(), 0)..=(uuid.to_owned(), u32::MAX)).map(|((_, attempt), _)| *attempt)
    }

    fn tombstone(&self, set: &str, uuid: &str) -> Option<u32> {
        self.tombstones.get(&(set.to_owned(), uuid.to_owned())).copied()
    }

    fn bury(&mut self, set: &str, uuid: &str, attempt: u32) {
        let last = self.tombstones.entry((set.to_owned(), uuid.to_owned())).or_default();
        *last = attempt.max(*last);
    }

    /// Who has the lock of `uuid`.
    fn holder(&self, uuid: &str) -> Option<(Key, &Entry)> {
        let of_uuid = self.entries.range((uuid.to_owned(), 0)..=(uuid.to_owned(), u32::MAX));
        of_uuid.filter(|(_, entry)| entry.holds_lock()).map(|(key, entry)| (key.clone(), entry)).next_back()
    }

    /// The list of one set and its token.
    pub(crate) fn list(&self, set: &str) -> (String, String) {
        // Later attempts come later and win: an attempt starts only after all before it have ended.
        let mut lines: BTreeMap<&str, (&Entry, u32)> = BTreeMap::new();
        for ((uuid, attempt), entry) in self.entries.iter().filter(|(_, entry)| entry.set == set) {
            if entry.phase != Phase::Crashed {
                lines.insert(uuid, (entry, *attempt));
            }
        }
        let mut text = String::new();
        if self.broken {
            text.push_str("broken\n");
        }
        for (uuid, (entry, attempt)) in lines {
            let word = match entry.phase {
                Phase::Stale => " stale",
                Phase::Finished => " finished",
                Phase::Running | Phase::Crashed => "",
            };
            text.push_str(uuid);
            text.push_str(word);
            text.push('\n');
            if !self.plain {
                writeln!(text, "#attempt {uuid} {attempt}").expect("a string takes all");
            }
        }
        let token = token(&text);
        (text, token)
    }

    /// Signals the runner of `uuid`, after a tombstone.
    pub(crate) fn kill(&mut self, set: &str, uuid: &str, attempt: Option<u32>) -> Killed {
        if let Some(attempt) = attempt {
            self.bury(set, uuid, attempt);
        }
        match self.concerned(set, uuid, attempt) {
            None => Killed::Nothing,
            Some((_, entry)) if entry.phase == Phase::Stale => Killed::Gone(entry.pid),
            Some((key, entry)) => {
                let (pid, after, ignored) = (entry.pid, entry.plan.kill_time, entry.plan.ignores_kill);
                Killed::Signalled { key, pid, after, ignored }
            }
        }
    }

    /// This very attempt was started, and has not been forgotten.
    pub(crate) fn has_run(&self, set: &str, uuid: &str, attempt: u32) -> bool {
        self.entries.get(&(uuid.to_owned(), attempt)).is_some_and(|entry| entry.set == set)
    }

    /// The holder of the lock, unless it is another set's or a later attempt.
    fn concerned(&self, set: &str, uuid: &str, attempt: Option<u32>) -> Option<(Key, &Entry)> {
        self.holder(uuid).filter(|(key, entry)| entry.set == set && attempt.is_none_or(|attempt| key.1 <= attempt))
    }

    /// Ends what a dead runner left.
    pub(crate) fn reap(&mut self, set: &str, uuid: &str, attempt: Option<u32>) -> Result<(), String> {
        match self.concerned(set, uuid, attempt) {
            None => Ok(()),
            Some((_, entry)) if entry.phase == Phase::Running => {
                Err(format!("{uuid}: its runner {} lives: use --kill 15", entry.pid))
            }
            Some((key, _)) => {
                self.set_phase(&key, Phase::Stale, Phase::Crashed);
                Ok(())
            }
        }
    }

    /// False if it is in another phase, or not there.
    pub(crate) fn set_phase(&mut self, key: &Key, from: Phase, to: Phase) -> bool {
        match self.entries.get_mut(key) {
            Some(entry) if entry.phase == from => {
                entry.phase = to;
                if from == Phase::Running {
                    self.note(key, JournalEvent::Crashed);
                }
                true
            }
            _ => false,
        }
    }

    /// A container's process ends, with a result. False if it does not run.
    pub(crate) fn finish(&mut self, key: &Key, end: End, now_ms: i64) -> bool {
        if self.plain || end == End::Crash {
            // Nothing is left of it but that it ran.
            return self.set_phase(key, Phase::Running, Phase::Crashed);
        }
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.phase == Phase::Running) else {
            return false;
        };
        let plan = &entry.plan;
        let by_itself = end == End::ByItself;
        entry.result = Some(ResultRecord {
            uuid: key.0.clone(),
            attempt: key.1,
            reason: if by_itself { Reason::Exited } else { Reason::Killed },
            exit_code: by_itself.then_some(plan.exit_code),
            signal: (!by_itself).then_some(15),
            started_at: entry.started_at,
            finished_at: now_ms.max(entry.started_at),
            peak_memory: Some(1 << 20),
            cpu_seconds: Some(0.01),
            detail: String::new(),
            stdout_bytes: plan.stdout.len() as u64,
            stderr_bytes: plan.stderr.len() as u64,
            outputs: plan.outputs.keys().cloned().collect(),
            skipped: Vec::new(),
            outputs_too_large: false,
        });
        entry.phase = Phase::Finished;
        self.note(key, JournalEvent::Finished);
        true
    }

    /// The entry of an attempt, of this set.
    pub(crate) fn entry(&self, set: &str, uuid: &str, attempt: u32) -> Option<&Entry> {
        self.entries.get(&(uuid.to_owned(), attempt)).filter(|entry| entry.set == set)
    }

    /// Removes a collected attempt for good.
    pub(crate) fn forget(&mut self, set: &str, uuid: &str, attempt: u32) -> Result<(), String> {
        match self.entry(set, uuid, attempt) {
            None => return Ok(()),
            Some(entry) if entry.holds_lock() => {
                return Err(format!("attempt {attempt} of {uuid} has not ended: nothing was removed"));
            }
            Some(_) => {}
        }
        self.bury(set, uuid, attempt);
        self.entries.remove(&(uuid.to_owned(), attempt));
        Ok(())
    }

    /// Everything that does not survive a restart of the machine goes.
    pub(crate) fn reboot(&mut self) {
        self.broken = false;
        let ended: Vec<Key> =
            self.entries.iter().filter(|(_, entry)| entry.holds_lock()).map(|(key, _)| key.clone()).collect();
        for key in ended {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.phase = Phase::Crashed;
            }
            self.note(&key, JournalEvent::SwitchedOff);
        }
    }

    /// For good.
    pub(crate) fn switch_off(&mut self) {
        self.reboot();
        self.off = true;
    }
}

/// FNV-1a, as the runner's: lists that follow each other differ in it.
fn token(text: &str) -> String {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{hash:016x}")
}
