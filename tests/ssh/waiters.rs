//! Long polls whose connection breaks (spec 52 §1): the waiter's standard input hangs up, and it ends.

use std::sync::Arc;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use muster::remote::ExecuteError;
use muster::remote::runner::{ListError, Runner, RunnerPlaces};
use muster::remote::wake::Wake;
use muster_ssh_hosts::{FaultProxy, SshHost};

use crate::fixture::{LIMIT, Remote, SERVERS, client, pin, wait_until};

const BATCH: usize = 10;
const BATCHES: usize = 5;

/// The program as the host has it, and where it keeps its files there: not where those of this machine are.
const PROGRAM: &str = "/var/lib/muster-runner-here";

fn install(host: &SshHost) -> Arc<RunnerPlaces> {
    let built = std::path::Path::new(env!("CARGO_BIN_EXE_muster")).with_file_name("muster-runner");
    std::fs::copy(built, host.path(PROGRAM)).expect("built with all programs of the workspace");
    let (lock_dir, state_dir) = (Some("/var/lib/locks".into()), Some("/var/lib/runner".into()));
    Arc::new(RunnerPlaces { lock_dir, state_dir, ..RunnerPlaces::default() })
}

/// Processes of the host that wait for a change of its list, and in `all` also those that wait for such a one.
fn waiters(host: &SshHost, all: bool) -> usize {
    let waits = |pid: i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        // A shell has the whole command in one word.
        line.split('\0').any(|word| if all { word.contains("--wait") } else { word == "--wait" })
    };
    host.jobs().expect("readable").iter().filter(|process| waits(process.pid)).count()
}

/// Fifty connections are reset while a long poll waits in each; long before its time is over no waiter is left.
#[test]
fn dropped_connections_leave_no_waiter() {
    for server in SERVERS {
        let remote = Remote::on(server);
        let proxy = FaultProxy::start(&remote.host.address()).expect("starts");
        let places = install(&remote.host);
        for _ in 0..BATCHES {
            let runners = [(); BATCH].map(|()| {
                let access = pin(&remote.host);
                let executor =
                    muster::remote::ssh::SshExecutor::new(client(&remote.key), access).expect("a descriptor");
                let (set, cluster) = ("set".into(), "".into());
                let runner = Runner::at(PROGRAM, Arc::new(executor), places.clone(), set, cluster);
                runner.retarget(&proxy.address(), remote.host.user());
                runner
            });
            cut_while_waiting(&runners, &remote.host, &proxy);
            wait_until("no waiter is left", || waiters(&remote.host, true) == 0);
        }
    }
}

fn cut_while_waiting(runners: &[Runner], host: &SshHost, proxy: &FaultProxy) {
    let wake = Wake::new().expect("a descriptor");
    // One after the other: Dropbear has at most five connections of one address that have not logged in yet.
    let list = |runner: &Runner| runner.list(None, Duration::ZERO, LIMIT, &wake).expect("listed").token;
    let tokens: Vec<_> = runners.iter().map(list).collect();
    // Far longer than anybody waits for this test.
    let poll = &|(runner, token): (&Runner, &Option<String>)| {
        runner.list(token.as_deref(), Duration::from_secs(3600), LIMIT, &wake)
    };
    std::thread::scope(|scope| {
        let polls: Vec<_> = runners.iter().zip(&tokens).map(|both| scope.spawn(move || poll(both))).collect();
        let until = Instant::now() + LIMIT;
        while waiters(host, false) < BATCH && Instant::now() < until && !polls.iter().any(ScopedJoinHandle::is_finished)
        {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        let waiting = waiters(host, false);
        // Whatever has come of it: else the polls would go on.
        proxy.cut();
        for poll in polls {
            let end = poll.join().expect("no panic");
            assert!(matches!(end, Err(ListError::Execute(ExecuteError::Channel(_)))), "not cut: {end:?}");
        }
        assert_eq!(waiting, BATCH);
    });
}
