//! Hosts that fail in many ways, each while others are well: nobody waits for them, and nothing runs twice.

use std::time::Duration;

use muster_fake_hosts::{Answer, ConnectFault, ExecFault, Faults, HostOptions, JobPlan};

use crate::fixture::{Cluster, connect, count, quick};

const HOSTS: usize = 30;
const ALL_CREATES: &str = "    MaxConcurrentInstanceCreateOps: 0\n";

/// Every third host, each kind of trouble in turn.
fn third(number: usize, kinds: &[Faults]) -> Option<Faults> {
    number.is_multiple_of(3).then(|| kinds[number / 3 % kinds.len()].clone())
}

fn exec(fault: ExecFault, only: &str) -> Faults {
    Faults { exec: Some(fault), exec_if: only.to_owned(), ..Faults::default() }
}

/// A third of the hosts cannot be taken, in as many ways as there are: the others do all the work meanwhile. When the trouble is over
/// they are used as well.
#[test]
fn a_third_cannot_be_taken() {
    let mut cluster = Cluster::of(HOSTS, HostOptions::default(), ALL_CREATES);
    let kinds = [
        connect(ConnectFault::Refuse),
        connect(ConnectFault::Silent),
        connect(ConnectFault::Close),
        connect(ConnectFault::HangInHandshake),
        connect(ConnectFault::NoSsh),
        connect(ConnectFault::CloseAfterBanner),
        Faults { frozen: true, ..Faults::default() },
        Faults { refuse_auth: true, ..Faults::default() },
        Faults { other_host_key: true, ..Faults::default() },
        Faults { refuse_channels: true, ..Faults::default() },
    ];
    cluster.set_faults(|number| third(number, &kinds));
    cluster.site.start();
    let uuids = cluster.submit(120);
    let well = HOSTS - HOSTS / 3;
    // One that is slow to be taken finds work, too.
    cluster.wait_count("containers", "Running", well);
    for host in cluster.fleet.hosts() {
        host.set_job(quick().job);
        for (uuid, _) in host.running() {
            assert!(host.finish(&uuid));
        }
    }
    cluster.wait_count("containers", "Complete", 120);
    cluster.assert_once(&uuids);
    assert!(cluster.fleet.hosts().iter().enumerate().all(|(number, host)| {
        number % 3 != 0 || host.starts().is_empty() && (host.owner().is_none() || host.faults().refuse_channels)
    }));
    let used = cluster.fleet.hosts().iter().filter(|host| !host.starts().is_empty()).count();
    assert_eq!(used, well);
    let log = cluster.site.log();
    // It may have been tried more than once.
    let mut mismatches = log.lines().filter(|line| line.contains("HOST KEY MISMATCH")).peekable();
    assert!(mismatches.peek().is_some() && mismatches.all(|line| line.contains("host24")), "{log}");
    // Nothing was sent to the host with another key, not even an attempt to log in.
    assert_eq!(cluster.counters()[24].auths + cluster.counters()[24].auths_refused, 0);

    cluster.set_faults(|_| None);
    // More than the others can hold: those that failed are tried again, and at once, whatever their pause has grown to.
    for host in cluster.fleet.hosts() {
        host.set_job(JobPlan::default());
    }
    let held = cluster.submit(HOSTS);
    let faulty: Vec<String> = (0..HOSTS).step_by(3).map(|number| format!("host{number}")).collect();
    cluster.site.wait_until("all are used", |site| {
        for name in &faulty {
            // One that is being taken cannot be asked for.
            site.run(&["instance", "run", name]);
        }
        count(site, "containers", "Running") == HOSTS
    });
    for host in cluster.fleet.hosts() {
        for (uuid, _) in host.running() {
            assert!(host.finish(&uuid));
        }
    }
    cluster.wait_count("containers", "Complete", 120 + HOSTS);
    cluster.assert_once(&held);
    cluster.site.stop();
}

/// A third of the hosts stops answering while containers run and start everywhere: those of the others are not delayed, and those of the
/// faulty ones end when they are back.
#[test]
fn a_third_stops_answering() {
    let mut cluster = Cluster::of(HOSTS, HostOptions::default(), ALL_CREATES);
    cluster.site.start();
    let first = cluster.submit(HOSTS);
    cluster.wait_count("containers", "Running", HOSTS);
    let kinds = [
        connect(ConnectFault::Refuse),
        Faults { frozen: true, ..Faults::default() },
        exec(ExecFault::Hang, ""),
        connect(ConnectFault::Silent),
        Faults { refuse_channels: true, ..Faults::default() },
    ];
    cluster.set_faults(|number| third(number, &kinds));
    for host in cluster.fleet.hosts().iter().enumerate().filter(|(number, _)| number % 3 == 0).map(|(_, host)| host) {
        if !host.faults().frozen {
            host.cut_connections();
        }
    }
    // What runs on the faulty ones ends meanwhile, and nobody can be told.
    for host in cluster.fleet.hosts() {
        assert!(host.finish(&host.running()[0].0));
        host.set_job(quick().job);
    }
    let well = HOSTS - HOSTS / 3;
    let more = cluster.submit(5 * well);
    cluster.wait_count("containers", "Complete", 6 * well);
    assert!(cluster.count("containers", "Complete") < HOSTS + 5 * well, "the faulty ones cannot have ended");
    cluster.set_faults(|_| None);
    cluster.wait_count("containers", "Complete", HOSTS + 5 * well);
    cluster.assert_once(&first);
    cluster.assert_once(&more);
    cluster.wait_count("instances", "idle", HOSTS);
    cluster.site.stop();
}

/// The connection goes in the middle of a start: its command has run, and its answer never came. Nothing starts twice.
#[test]
fn starts_that_are_cut() {
    let mut cluster = Cluster::of(20, quick(), ALL_CREATES);
    let kinds = [
        exec(ExecFault::Cut(0), "--detach"),
        exec(ExecFault::Cut(40), "--detach"),
        exec(ExecFault::NoStatus, "--detach"),
        exec(ExecFault::Signal("KILL".to_owned()), "--detach"),
        exec(ExecFault::Refuse, "--detach"),
    ];
    cluster.set_faults(|number| Some(kinds[number % kinds.len()].clone()));
    cluster.site.start();
    let uuids = cluster.submit(100);
    // Of those that refuse nothing can come.
    cluster.wait_count("containers", "Complete", 60);
    cluster.set_faults(|_| None);
    cluster.wait_count("containers", "Complete", 100);
    cluster.assert_once(&uuids);
    assert!(cluster.site.log().contains("start"), "{}", cluster.site.log());
    cluster.site.stop();
}

/// Results that do not come through are fetched again, until they do.
#[test]
fn collections_that_are_cut() {
    let mut job = quick().job;
    job.stdout = vec![b'x'; 100_000];
    let mut cluster = Cluster::of(10, HostOptions { job, ..HostOptions::default() }, ALL_CREATES);
    cluster.set_faults(|number| number.is_multiple_of(2).then(|| exec(ExecFault::Cut(50_000), "--collect")));
    cluster.site.start();
    let uuids = cluster.submit(20);
    let fleet = &cluster.fleet;
    // The rest waits on hosts where nothing can be fetched.
    cluster.site.wait_until("all have ended", |site| {
        let waiting: usize = fleet.hosts().iter().step_by(2).map(|host| host.finished().len()).sum();
        waiting > 0 && waiting + count(site, "containers", "Complete") == 20
    });
    assert!(cluster.site.log().contains("collecting the result failed"));
    cluster.set_faults(|_| None);
    cluster.wait_count("containers", "Complete", 20);
    cluster.assert_once(&uuids);
    for uuid in &uuids {
        assert_eq!(cluster.site.ok(&["logs", uuid]).len(), 100_000);
    }
    cluster.site.stop();
}

/// A server that takes one connection only, for a while: what does not fit waits and is tried again.
#[test]
fn servers_that_take_few_connections() {
    let mut cluster = Cluster::of(10, quick(), ALL_CREATES);
    cluster.set_faults(|_| Some(Faults { connections_max: Some(1), ..Faults::default() }));
    cluster.site.start();
    let uuids = cluster.submit(20);
    cluster.wait_count("instances", "running", 10);
    let fleet = &cluster.fleet;
    cluster
        .site
        .wait_until("connections were refused", |_| fleet.hosts().iter().all(|host| host.counters().connections > 4));
    assert!(cluster.fleet.starts().is_empty());
    cluster.set_faults(|_| None);
    cluster.wait_count("containers", "Complete", 20);
    cluster.assert_once(&uuids);
    cluster.site.stop();
}

/// Another key than before, on a host that is in service: the next connection is refused loudly, and nothing is started there until
/// the right one is back.
#[test]
fn a_host_key_that_changes_in_service() {
    let mut cluster = Cluster::of(2, HostOptions::default(), ALL_CREATES);
    cluster.site.start();
    let uuids = cluster.submit(2);
    cluster.wait_count("containers", "Running", 2);
    let changed = cluster.fleet.host(0).clone();
    changed.set_faults(Faults { other_host_key: true, ..Faults::default() });
    let before = changed.counters();
    changed.cut_connections();
    cluster.site.wait_until("the change is refused", |site| site.log().contains("HOST KEY MISMATCH"));
    // Spec 45 §4.
    assert!(cluster.site.log().contains("host key has changed; verifying the host again"), "{}", cluster.site.log());
    let after = changed.counters();
    assert_eq!((after.auths, after.commands), (before.auths, before.commands));
    for host in cluster.fleet.hosts() {
        assert!(host.finish(&host.running()[0].0));
    }
    cluster.wait_count("containers", "Complete", 1);
    changed.set_faults(Faults::default());
    cluster.wait_count("containers", "Complete", 2);
    cluster.assert_once(&uuids);
    cluster.site.stop();
}

/// A list that fails is shown with all that there is to know (spec 10 §6), and is not believed.
#[test]
fn lists_that_fail() {
    let mut cluster = Cluster::of(2, HostOptions::default(), ALL_CREATES);
    cluster.site.start();
    let uuids = cluster.submit(2);
    cluster.wait_count("containers", "Running", 2);
    let faulty = |stdout: &str, exit_code| Answer {
        stdout: stdout.as_bytes().to_vec(),
        stderr: b"the disk is\nfull".to_vec(),
        exit_code,
    };
    let answers = [faulty("half a list", 3), faulty("whole, but without its last line\n", 0)];
    for (host, answer) in cluster.fleet.hosts().iter().zip(answers) {
        host.set_answer("--list", Some(answer));
        // Ends the long poll that waits there.
        host.cut_connections();
    }
    for (number, parts) in [
        ["error=\"the list command failed: exit status 3: the disk is\\nfull\"", "stdout=\"half a list\""],
        ["error=\"the list lacks its final token line\"", "stdout=\"whole, but without its last line\""],
    ]
    .iter()
    .enumerate()
    {
        let host = format!("Instance=host{number} ");
        let shown = |line: &str| {
            let all = ["level=warn", "msg=\"run probe failed\"", " --list ", "stderr=\"the disk is\\nfull\"", &host];
            parts.iter().chain(&all).all(|part| line.contains(part))
        };
        cluster.site.wait_until(&format!("{host} is warned about"), |site| site.log().lines().any(shown));
    }
    for host in cluster.fleet.hosts() {
        host.set_answer("--list", None);
        assert!(host.finish(&host.running()[0].0));
    }
    cluster.wait_count("containers", "Complete", 2);
    cluster.assert_once(&uuids);
    cluster.site.stop();
}

/// Slow hosts: each answer takes a while, and everything comes to its end.
#[test]
fn slow_hosts() {
    let mut cluster = Cluster::of(12, quick(), "");
    let slow = Faults { delay: Duration::from_millis(700), ..Faults::default() };
    let banner = connect(ConnectFault::SlowBanner(Duration::from_secs(2)));
    cluster.set_faults(|number| Some(if number.is_multiple_of(2) { slow.clone() } else { banner.clone() }));
    cluster.site.start();
    let uuids = cluster.submit(36);
    cluster.wait_count("containers", "Complete", 36);
    cluster.assert_once(&uuids);
    cluster.site.stop();
}

/// Hosts that take the list's command and never answer: each probe ends with its deadline (that of TimeoutProbe here), so the worker is
/// written off like any other that is unresponsive, while the others' work goes on.
#[test]
fn a_hung_probe_never_outlives_its_deadline() {
    let mut cluster = Cluster::of(4, HostOptions::default(), "    ProbeInterval: 1s\n    TimeoutProbe: 10s\n");
    cluster.site.start();
    cluster.submit(4);
    cluster.wait_count("containers", "Running", 4);
    cluster.set_faults(|number| (number < 2).then(|| exec(ExecFault::Hang, "--list")));
    for host in cluster.fleet.hosts() {
        // What runs ends, and its end ends the long polls that are under way: the next ones hang.
        assert!(host.finish(&host.running()[0].0));
        // A result that could not be fetched in time means another attempt, which ends at once.
        host.set_job(quick().job);
    }
    for number in 0..2 {
        let given_up = ["instance unresponsive, shutting down", &format!("Instance=host{number} ")];
        cluster.site.wait_until(&format!("host{number} is written off"), |site| site.has_logged(&given_up));
    }
    let log = cluster.site.log();
    let hung = log.lines().filter(|line| line.contains("run probe failed") && line.contains("deadline passed"));
    let hung: std::collections::BTreeSet<&str> = ["Instance=host0", "Instance=host1"]
        .into_iter()
        .filter(|name| hung.clone().any(|line| line.contains(name)))
        .collect();
    assert_eq!(hung.len(), 2, "{log}");
    cluster.set_faults(|_| None);
    cluster.wait_count("containers", "Complete", 4);
    cluster.site.stop();
}
