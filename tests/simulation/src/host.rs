//! A machine as its runners see it: locks, attempts, results, tombstones, and what it lists (spec 50, 52).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use crate::core::ids::{Attempt, ContainerUuid, InstanceId};
use crate::core::lifecycle::AttemptEnd;
use crate::core::time::Moment;
use crate::core::worker::kill::KillReturn;
use crate::faults::Fault;
use crate::world::World;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    Alive,
    /// The runner has crashed, something of the job lives.
    Stale {
        resists: bool,
    },
}

#[derive(Clone, Debug)]
pub struct Runner {
    pub attempt: Attempt,
    pub lock: Lock,
    pub unkillable: bool,
    /// It was told to end.
    pub ending: bool,
}

/// A long poll that waits for the list to change.
#[derive(Clone, Debug)]
pub struct Waiter {
    pub process: u64,
    /// Of the worker's thread.
    pub generation: u64,
    pub known: String,
}

#[derive(Debug, Default)]
pub struct Host {
    /// SSH answers from then on; `None` = never.
    pub boots_at: Option<Moment>,
    pub runner_fails: bool,
    /// The runner can be installed, and its lists fail.
    pub list_fails: bool,
    pub too_small: bool,
    pub broken: bool,
    /// It cannot be reached, or is not what it was, until then.
    pub trouble: Option<(Fault, Moment)>,
    pub runners: BTreeMap<ContainerUuid, Runner>,
    /// With the time when they were written.
    pub results: BTreeMap<(ContainerUuid, Attempt), (AttemptEnd, Moment)>,
    /// The highest attempt of each container that may not start (again).
    pub tombstones: BTreeMap<ContainerUuid, Attempt>,
    pub waiters: Vec<Waiter>,
}

impl Host {
    /// A live or stale runner wins over an older attempt's result. The last line is the token.
    pub fn list(&self) -> (String, String) {
        let mut text = String::new();
        if self.broken {
            text.push_str("broken\n");
        }
        let mut lines: BTreeMap<&ContainerUuid, (&str, Attempt)> = BTreeMap::new();
        // In the order of the attempts: the newest stays.
        for (uuid, attempt) in self.results.keys() {
            lines.insert(uuid, (" finished", *attempt));
        }
        for (uuid, runner) in &self.runners {
            let word = if runner.lock == Lock::Alive { "" } else { " stale" };
            lines.insert(uuid, (word, runner.attempt));
        }
        for (uuid, (word, attempt)) in lines {
            let _ = writeln!(text, "{uuid}{word}\n#attempt {uuid} {attempt}");
        }
        let hash = text
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        let token = format!("{hash:016x}");
        let _ = writeln!(text, "# {token}");
        (text, token)
    }

    fn may_start(&self, uuid: &ContainerUuid, attempt: Attempt) -> bool {
        !self.runners.contains_key(uuid) && self.tombstones.get(uuid).is_none_or(|last| *last < attempt)
    }

    fn bury(&mut self, uuid: &ContainerUuid, attempt: Attempt) {
        let last = self.tombstones.entry(uuid.clone()).or_default();
        *last = attempt.max(*last);
    }

    pub fn forget(&mut self, uuid: &ContainerUuid, attempt: Attempt) {
        self.results.remove(&(uuid.clone(), attempt));
        self.bury(uuid, attempt);
    }

    /// Uuids of jobs of which something lives.
    pub fn living(&self) -> BTreeSet<&ContainerUuid> {
        self.runners.keys().collect()
    }
}

impl World {
    /// `--detach`: false if the runner refuses.
    pub fn host_start(&mut self, id: &InstanceId, uuid: &ContainerUuid, attempt: Attempt) -> bool {
        let full = self.fault(Fault::HostDiskFull);
        let Some(host) = self.cloud.host_mut(id, self.now) else { return false };
        if full || !host.may_start(uuid, attempt) {
            return false;
        }
        // An attempt's number is executed at most once on a machine.
        host.bury(uuid, attempt);
        let job = self.draw_job(uuid);
        if let Some(host) = self.cloud.host_mut(id, self.now) {
            let runner = Runner { attempt, lock: Lock::Alive, unkillable: job.unkillable, ending: false };
            host.runners.insert(uuid.clone(), runner);
        }
        self.say(|| format!("host {id}: {uuid} attempt {attempt} runs for {:?}, then {:?}", job.lasts, job.end));
        self.check_start(id, uuid, attempt);
        if self.process.is_some() && self.fault(Fault::KilledAfterStart) {
            self.kill_process();
        }
        let (id, uuid) = (id.clone(), uuid.clone());
        self.host_changed(&id);
        self.after(job.lasts, move |world| world.job_ends(&id, &uuid, attempt, job.end));
        true
    }

    fn draw_job(&mut self, uuid: &ContainerUuid) -> Job {
        let usual = self.store.usual_duration(uuid);
        let lasts = usual.mul_f64(0.5 + self.random.share());
        if self.fault(Fault::Unkillable) {
            return Job {
                lasts: Duration::from_secs(10 * 3600),
                end: JobEnd::Result(AttemptEnd::Exited(0)),
                unkillable: true,
            };
        }
        let end = if self.fault(Fault::CrashBeforeResult) {
            JobEnd::Crash
        } else if self.fault(Fault::StaleLock) {
            JobEnd::Stale { resists: self.fault(Fault::StaleResists) }
        } else if self.fault(Fault::JobKilled) {
            JobEnd::Result(AttemptEnd::Killed)
        } else if self.fault(Fault::CrashAfterResult) {
            JobEnd::StaleWithResult(AttemptEnd::Exited(0))
        } else if self.fault(Fault::HostDiskFull) {
            JobEnd::Result(AttemptEnd::DiskFull(String::new()))
        } else {
            let code = i32::from(self.random.chance(0.1));
            let end = if self.random.chance(0.03) { AttemptEnd::Oom } else { AttemptEnd::Exited(code) };
            JobEnd::Result(end)
        };
        Job { lasts, end, unkillable: false }
    }

    fn job_ends(&mut self, id: &InstanceId, uuid: &ContainerUuid, attempt: Attempt, end: JobEnd) {
        let now = self.now;
        let Some(host) = self.cloud.host_mut(id, now) else { return };
        let Some(runner) = host.runners.get_mut(uuid).filter(|runner| runner.attempt == attempt) else { return };
        if runner.lock != Lock::Alive {
            return;
        }
        match end {
            JobEnd::Stale { resists } => runner.lock = Lock::Stale { resists },
            JobEnd::StaleWithResult(ref end) => {
                runner.lock = Lock::Stale { resists: false };
                host.results.insert((uuid.clone(), attempt), (end.clone(), now));
            }
            JobEnd::Crash => drop(host.runners.remove(uuid)),
            JobEnd::Result(ref end) => {
                host.runners.remove(uuid);
                host.results.insert((uuid.clone(), attempt), (end.clone(), now));
            }
        }
        self.say(|| format!("host {id}: {uuid} attempt {attempt} ends: {end:?}"));
        self.host_changed(id);
    }

    /// `--kill 15`.
    pub fn host_kill(&mut self, id: &InstanceId, uuid: &ContainerUuid, attempt: Attempt) -> KillReturn {
        let has_run = self.truth.executed.contains(&(uuid.clone(), attempt));
        let gone = if has_run { KillReturn::GoneAfterRun } else { KillReturn::Gone };
        let Some(host) = self.cloud.host_mut(id, self.now) else { return KillReturn::Failed };
        if attempt > 0 {
            host.bury(uuid, attempt);
        }
        let Some(runner) = host.runners.get_mut(uuid).filter(|it| attempt == 0 || it.attempt <= attempt) else {
            return gone;
        };
        if runner.lock != Lock::Alive {
            // The runner itself is gone.
            return gone;
        }
        let ends = !runner.unkillable && !runner.ending;
        runner.ending |= ends;
        let attempt = runner.attempt;
        if ends {
            let (after, id, uuid) = (self.random.millis(20, 12_000), id.clone(), uuid.clone());
            self.after(after, move |world| {
                world.job_ends(&id, &uuid, attempt, JobEnd::Result(AttemptEnd::Killed));
            });
        }
        KillReturn::Failed
    }

    /// `--reap`: true if nothing is left of a dead runner.
    pub fn host_reap(&mut self, id: &InstanceId, uuid: &ContainerUuid) -> bool {
        let Some(host) = self.cloud.host_mut(id, self.now) else { return false };
        let stale = match host.runners.get(uuid).map(|runner| runner.lock) {
            None => return true,
            Some(Lock::Alive | Lock::Stale { resists: true }) => false,
            Some(Lock::Stale { resists: false }) => true,
        };
        if stale {
            host.runners.remove(uuid);
            self.host_changed(id);
        }
        stale
    }
}

/// What an attempt will be like.
#[derive(Clone, Debug)]
struct Job {
    lasts: Duration,
    end: JobEnd,
    unkillable: bool,
}

#[derive(Clone, Debug)]
enum JobEnd {
    Result(AttemptEnd),
    Crash,
    /// The runner crashes, something of the job holds its lock.
    Stale {
        resists: bool,
    },
    StaleWithResult(AttemptEnd),
}
