//! Long polls over SSH (real sshd, loopback): how soon the end of a job is known, and what dropped connections leave behind.
//!
//! How it is measured: a job sleeps a little and becomes `date`, which prints the time and ends; the difference to when the answer of
//! the long poll has been read and understood here, by the same clock (the host is this machine), is one sample. So it has in it the
//! end of `date`, all that the runner does until its result is safely on disk, and the way back. Then connections are reset while a
//! long poll waits in each; the processes that still wait on the host afterwards are counted.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use muster::core::ids::ContainerUuid;
use muster::core::worker::listing::{Listing, RunnerState};
use muster::remote::deploy::deploy;
use muster::remote::identity::HostKey;
use muster::remote::runner::{ListError, Runner, RunnerPlaces};
use muster::remote::ssh::key::PrivateKey;
use muster::remote::ssh::{SshClient, SshExecutor};
use muster::remote::supply::{RunnerFiles, RunnerSupply};
use muster::remote::wake::Wake;
use muster::remote::{ExecuteError, HostAccess};
use muster_runner::protocol::{ContainerSpec, StartConfig};
use muster_ssh_hosts::{ClientKey, FaultProxy, HostOptions, SshHost, client_key};

use crate::daemon::Failure;
use crate::ssh::{Pinned, wrong};

const SAMPLES: usize = 500;
const DROPPED: usize = 1000;
/// Connections at once.
const BATCH: usize = 50;
const LIMIT: Duration = Duration::from_secs(60);
/// Of one long poll: far longer than anything here takes.
const WAIT: Duration = Duration::from_secs(300);
const JOB: &str = "sleep 0.1; exec date +%s%N";

struct Bench {
    key: ClientKey,
    host: SshHost,
    supply: Arc<RunnerSupply>,
}

pub(crate) fn run() -> Result<(), Failure> {
    let key = client_key()?;
    let host = HostOptions::new(key.public()).max_startups(1000).start()?;
    let supply = Arc::new(RunnerSupply::new(RunnerFiles::One(program()?), None));
    let bench = Bench { key, host, supply };
    println!("long polls over SSH (real sshd, loopback)");
    let runner = bench.runner(&bench.host.address())?;
    let program = deploy(&runner).map_err(wrong)?.program;
    ends(&runner)?;
    bench.drops(&program)
}

/// The runner's program, beside this one.
fn program() -> Result<PathBuf, Failure> {
    let this = std::env::current_exe()?;
    let found = this.ancestors().skip(1).take(3).map(|folder| folder.join("muster-runner")).find(|path| path.is_file());
    found.ok_or_else(|| Failure::Wrong("no program `muster-runner` beside this one: build it first".to_owned()))
}

impl Bench {
    /// With a connection of its own to `address`.
    fn runner(&self, address: &str) -> Result<Runner, Failure> {
        let key = PrivateKey::parse(self.key.private()).map_err(wrong)?;
        let client = Arc::new(SshClient::new(key, 22, Arc::new(muster::shell::threads::spawn)));
        let pinned = HostKey::parse(&self.host.host_key_openssh()).map_err(Failure::Wrong)?;
        let executor =
            SshExecutor::new(client, HostAccess { check: Arc::new(Pinned(pinned)), secret: None, sudo: false })?;
        let places = Arc::new(RunnerPlaces::default());
        let runner = Runner::new(Arc::new(executor), places, self.supply.clone(), "bench".into(), "".into());
        runner.retarget(address, self.host.user());
        Ok(runner)
    }

    /// `program`: the runner on the host. In batches; none begins before the waiters of the one before have ended, or had time enough.
    fn drops(&self, program: &str) -> Result<(), Failure> {
        let proxy = FaultProxy::start(&self.host.address())?;
        let (mut left, mut slowest) = (0, Duration::ZERO);
        for _ in 0..DROPPED / BATCH {
            let runner = |_| {
                let fresh = self.runner(&proxy.address())?;
                let runner = Runner::at(program, fresh.executor, fresh.places, fresh.set, fresh.cluster_id);
                runner.retarget(&proxy.address(), self.host.user());
                Ok(runner)
            };
            let runners: Vec<Runner> = (0..BATCH).map(runner).collect::<Result<_, Failure>>()?;
            std::thread::scope(|scope| {
                let polls: Vec<_> = runners.iter().map(|runner| scope.spawn(|| broken_poll(runner))).collect();
                let all_wait = self.wait_for_waiters(|waiting| waiting >= BATCH);
                proxy.cut();
                let join = |poll: std::thread::ScopedJoinHandle<'_, Result<(), Failure>>| {
                    poll.join().map_err(|_| Failure::Wrong("a thread has panicked".to_owned()))?
                };
                polls.into_iter().try_for_each(join).and(all_wait.map(drop))
            })?;
            let began = Instant::now();
            left = self.wait_for_waiters(|waiting| waiting == 0).or_else(|_| self.waiters())?;
            slowest = slowest.max(began.elapsed());
            if left > 0 {
                break;
            }
        }
        let title = format!("waiters left of {DROPPED} that were cut");
        println!("  {title:<38} {left}, the last of {BATCH} after {:.0} ms at most", milliseconds(&slowest));
        if left == 0 { Ok(()) } else { Err(Failure::Wrong(format!("{left} waiters are left"))) }
    }

    /// Processes of the host that wait for a change of its list.
    fn waiters(&self) -> Result<usize, Failure> {
        let waits = |pid: i32| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.split(|byte| *byte == 0).any(|word| word == b"--wait")
        };
        Ok(self.host.jobs()?.iter().filter(|process| waits(process.pid)).count())
    }

    fn wait_for_waiters(&self, enough: impl Fn(usize) -> bool) -> Result<usize, Failure> {
        let until = Instant::now() + LIMIT;
        loop {
            let waiting = self.waiters()?;
            if enough(waiting) {
                return Ok(waiting);
            }
            if Instant::now() > until {
                return Err(Failure::Wrong(format!("{waiting} long polls wait")));
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

fn milliseconds(time: &Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn ends(runner: &Runner) -> Result<(), Failure> {
    let mut times = (0..SAMPLES).map(|number| sample(runner, number)).collect::<Result<Vec<_>, _>>()?;
    times.sort_unstable();
    let at = |share: usize| times.get(times.len() * share / 100).or(times.last()).map_or(0.0, milliseconds);
    let (median, most, worst) = (at(50), at(90), at(100));
    println!("  {:<38} median {median:.1} ms, 90 % {most:.1}, worst {worst:.1}", "a job's end until it is known");
    Ok(())
}

/// From the time that a job printed last until it was known to have ended.
fn sample(runner: &Runner, number: usize) -> Result<Duration, Failure> {
    let uuid = format!("bench-dz642-{number:015}");
    let spec = ContainerSpec {
        uuid: uuid.clone(),
        attempt: 1,
        command: ["sh", "-c", JOB].map(str::to_owned).into(),
        ..ContainerSpec::default()
    };
    let uuid = ContainerUuid::parse(&uuid).ok_or_else(|| Failure::Wrong(format!("{uuid} is no uuid")))?;
    runner.start(&uuid, 1, &StartConfig { container: Some(spec), ..StartConfig::default() }).map_err(wrong)?;
    let wake = Wake::new()?;
    let mut list = Listing::default();
    while list.runners.get(&uuid).is_none_or(|listed| listed.state != RunnerState::Finished) {
        list = runner.list(list.token.as_deref(), WAIT, LIMIT, &wake).map_err(wrong)?;
    }
    let known = since_1970();
    let printed = output(runner, &uuid)?;
    runner.forget(&uuid, 1, false).map_err(wrong)?;
    let printed = printed.trim().parse().map_err(|_| Failure::Wrong(format!("no time: {printed:?}")))?;
    Ok(known.saturating_sub(Duration::from_nanos(printed)))
}

fn output(runner: &Runner, uuid: &ContainerUuid) -> Result<String, Failure> {
    let mut text = String::new();
    let mut consume = |from: &mut dyn Read| {
        for entry in tar::Archive::new(from).entries()? {
            let mut entry = entry?;
            if entry.path()?.as_os_str() == "stdout" {
                entry.read_to_string(&mut text)?;
            }
        }
        Ok(())
    };
    runner.collect(uuid, 1, LIMIT, &mut consume).map_err(wrong)?;
    Ok(text)
}

/// A long poll whose connection breaks.
fn broken_poll(runner: &Runner) -> Result<(), Failure> {
    let wake = Wake::new()?;
    let list = runner.list(None, Duration::ZERO, LIMIT, &wake).map_err(wrong)?;
    match runner.list(list.token.as_deref(), WAIT, LIMIT, &wake) {
        Err(ListError::Execute(ExecuteError::Channel(_))) => Ok(()),
        other => Err(Failure::Wrong(format!("its connection was not cut: {other:?}"))),
    }
}
