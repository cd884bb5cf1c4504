//! Nothing goes wrong: what many hosts cost in threads, descriptors and connections, and that nothing grows.

use muster_fake_hosts::HostOptions;

use crate::fixture::{Cluster, Process, quick};

const HOSTS: usize = 100;
/// Threads beside those of workers and lanes: main, central, scheduler, sync, keeper, hosts, the queue's, the listeners', and
/// connections of commands.
const OTHER_THREADS: usize = 40;
const CREATES_MAX: usize = 64;
const LANES_MAX: usize = 256;

/// Two eventfds and a socket for probes; while something is done there, a socket for starts and one for results.
const DESCRIPTORS_IDLE: usize = 3;
const DESCRIPTORS_BUSY: usize = 5;
/// Of a worker in this unoptimised build, what its lanes leave behind included; how much it is without that, `bench fleet` measures.
const MEMORY_KIB: u64 = 1024;
/// Log, database, listeners and so on.
const OTHER_DESCRIPTORS: usize = 60;

fn assert_threads(process: &Process, workers: usize) {
    assert_eq!(process.threads_called("probe"), workers, "one permanent thread each: {process:?}");
    assert!(process.threads_called("lane") <= LANES_MAX, "{process:?}");
    assert!(process.threads_called("create") <= CREATES_MAX, "{process:?}");
    assert!(process.all_threads() <= workers + LANES_MAX + CREATES_MAX + OTHER_THREADS, "{process:?}");
}

/// A hundred at once: taken, used, found again after a crash, and quiet when there is nothing to do.
#[test]
fn a_hundred_hosts() {
    let mut cluster = Cluster::of(HOSTS, HostOptions::default(), "    MaxConcurrentInstanceCreateOps: 0\n");
    cluster.site.start();
    let before = Process::of(cluster.site.pid());
    let uuids = cluster.submit(HOSTS);
    cluster.wait_count("containers", "Running", HOSTS);
    assert_eq!(cluster.count("instances", "running"), HOSTS);
    let busy = Process::of(cluster.site.pid());
    assert_threads(&busy, HOSTS);
    let descriptors = busy.descriptors - before.descriptors.min(OTHER_DESCRIPTORS);
    assert!(descriptors <= HOSTS * DESCRIPTORS_BUSY + OTHER_DESCRIPTORS, "{busy:?}");
    // Nothing is taken twice, and nobody has two.
    assert!(cluster.fleet.hosts().iter().all(|host| host.running().len() == 1));

    // Killed, and started again: the hosts are found, the containers are adopted.
    cluster.site.kill_9();
    cluster.site.start();
    cluster.wait_count("instances", "running", HOSTS);
    assert_threads(&Process::of(cluster.site.pid()), HOSTS);
    for (host, uuid) in cluster.fleet.hosts().iter().map(|host| (host, host.running()[0].0.clone())) {
        assert!(host.finish(&uuid));
    }
    cluster.wait_count("containers", "Complete", HOSTS);
    cluster.assert_once(&uuids);

    // Connections for starts and results close; that of the probe stays.
    let quiet = |counters: &[muster_fake_hosts::Counters]| counters.iter().all(|one| one.connections_now == 1);
    let fleet = &cluster.fleet;
    let counters = || fleet.hosts().iter().map(muster_fake_hosts::Host::counters).collect::<Vec<_>>();
    cluster.site.wait_until("connections without use are closed", |_| quiet(&counters()));
    cluster.site.wait_until("threads without work have ended", |site| {
        let process = Process::of(site.pid());
        process.threads_called("lane") + process.threads_called("create") + process.threads_called("queue-") == 0
    });
    let idle = Process::of(cluster.site.pid());
    assert_threads(&idle, HOSTS);
    assert!(idle.all_threads() <= HOSTS + OTHER_THREADS, "{idle:?}");
    assert!(idle.descriptors <= HOSTS * DESCRIPTORS_IDLE + OTHER_DESCRIPTORS, "{idle:?}");
    assert!(idle.memory <= before.memory + HOSTS as u64 * MEMORY_KIB, "{before:?}\n{idle:?}");
    for one in cluster.counters() {
        // Two daemons and the claim: never more than three at a time from one daemon, whose predecessor's were closed with it.
        assert!(one.connections_most <= 3, "{one:?}");
        assert!(one.channels_most <= 3, "{one:?}");
        assert_eq!(one.auths_refused, 0, "{one:?}");
    }
    cluster.site.stop();
    cluster.site.wait_until("no connection is left", |_| {
        cluster.fleet.hosts().iter().all(|host| host.counters().connections_now == 0)
    });
}

/// Work without end: descriptors, threads and memory are those after the first part of it.
#[test]
fn nothing_grows_with_the_number_of_containers() {
    const MANY: usize = 400;
    /// Of memory, for all the containers together: pages of the database's cache, buffers that have found their size.
    const SLACK_KIB: u64 = 16 * 1024;
    let mut cluster = Cluster::of(10, quick(), "    MaxConcurrentInstanceCreateOps: 0\n");
    cluster.site.start();
    let mut uuids = cluster.submit(MANY);
    cluster.wait_count("containers", "Complete", MANY);
    let first = Process::of(cluster.site.pid());
    for part in 2..=4 {
        uuids.extend(cluster.submit(MANY));
        cluster.wait_count("containers", "Complete", part * MANY);
    }
    let last = Process::of(cluster.site.pid());
    cluster.assert_once(&uuids);
    assert!(last.descriptors <= 10 * DESCRIPTORS_BUSY + OTHER_DESCRIPTORS, "{first:?}\n{last:?}");
    assert!(last.all_threads() <= first.all_threads() + OTHER_THREADS, "{first:?}\n{last:?}");
    assert!(last.memory <= first.memory + SLACK_KIB, "{first:?}\n{last:?}");
    for host in cluster.fleet.hosts() {
        let counters = host.counters();
        assert!(counters.connections_most <= 3 && counters.channels_now <= 1, "{counters:?}");
        // All were fetched and forgotten; the last one's order to forget it may still be on its way.
        assert!(host.wait_until(crate::harness::LIMIT, |_| true));
    }
    let fleet = &cluster.fleet;
    cluster.site.wait_until("results are forgotten", |_| fleet.hosts().iter().all(|host| host.finished().is_empty()));
    cluster.site.stop();
}

/// The runner is brought to hosts that have none, and they are given back when nobody needs them.
#[test]
fn bare_hosts_are_deployed_to_and_given_back() {
    let options = HostOptions { deployed: false, ..quick() };
    let mut cluster = Cluster::of(12, options, "    TimeoutIdle: 2s\n    ProbeInterval: 1s\n");
    cluster.site.start();
    let uuids = cluster.submit(36);
    cluster.wait_count("containers", "Complete", 36);
    cluster.assert_once(&uuids);
    assert!(cluster.counters().iter().any(|one| one.uploaded_bytes > 100_000));
    let fleet = &cluster.fleet;
    cluster.site.wait_until("all are free", |_| fleet.hosts().iter().all(|host| host.owner().is_none()));
    cluster.site.wait_until("no thread is left of them", |site| {
        let process = Process::of(site.pid());
        process.threads_called("probe") + process.threads_called("clean") == 0
    });
    cluster.site.stop();
}
