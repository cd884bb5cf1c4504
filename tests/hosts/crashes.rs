//! `kill -9` of the daemon with hosts over SSH, and connections that break: nothing is lost, nothing runs twice, no host is forgotten.
//!
//! Each job writes its attempt's number in a file of its container's as the first thing it does. An attempt number is executed at most
//! once (spec 52), and a new attempt begins only where the one before was ruled out (70 §3): it can have run, and not have ended, only
//! on a host that was written off.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use muster::shell::fault_point::{FaultPoint, VARIABLE};

use crate::fixture::{Cluster, Wishes, attempts_run, mark};
use crate::harness::Site;
use crate::random::Random;

/// Hosts are given back soon after their last job, so that crashes meet that, too.
const BRIEF: Wishes = Wishes { cloud: "    TimeoutIdle: 1s\n", top: "" };
const KILLS: usize = 100;
const CONTAINERS: usize = 300;
const CUTS_MIN: usize = 20;

/// Jobs that have begun, of those that mark it.
fn begun(site: &Site) -> usize {
    std::fs::read_dir(site.folder().join("runs")).expect("there").count()
}

/// Three hundred of mixed sizes and priorities; most take a quarter of a second, some none and some one.
fn submit_many(site: &Site) -> Vec<String> {
    let script = format!("{}; case $MUSTER_ARRAY_INDEX in *7) sleep 1;; *3) ;; *) sleep 0.25;; esac", mark(site));
    let submit = |options: &[&str]| {
        let text = site.ok(&[&["submit", "--max-attempts", "10"], options, &["--", "sh", "-c", &script]].concat());
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let mut uuids = submit(&["--array", "1-220"]);
    uuids.extend(submit(&["--array", "1-50", "--vcpus", "2", "--ram", "512MiB"]));
    uuids.extend(submit(&["--array", "1-30", "--priority", "900", "--output", "none"]));
    assert_eq!(uuids.len(), CONTAINERS);
    uuids
}

/// Every one Complete with exit code 0 after exactly one run: of the attempt that the record ends with.
fn assert_one_run(site: &Site, uuids: &[String]) {
    for uuid in uuids {
        let detail = site.show(uuid);
        assert_eq!(detail["container"]["state"], "Complete", "{detail:#}\n{}", site.log());
        assert_eq!(detail["container"]["exit_code"], 0, "{detail:#}");
        let attempt = detail["container"]["attempt"].as_u64().expect("a number");
        assert_eq!(attempts_run(site, uuid), [attempt], "{detail:#}\n{}", site.log());
    }
}

/// How many attempts ended why, but for those that completed.
fn lost_attempts(site: &Site, uuids: &[String]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for uuid in uuids {
        let detail = site.show(uuid);
        let attempts = detail["attempts"].as_array().expect("a list").clone();
        for attempt in attempts.iter().rev().skip(1) {
            *counts.entry(attempt["ended_because"].to_string()).or_default() += 1;
        }
    }
    counts
}

/// Injected stops: after each named step, at its first and at a later occurrence. The same hosts are taken, used and given back each time.
#[test]
fn at_each_named_point() {
    let mut cluster = Cluster::of(3, BRIEF);
    for point in FaultPoint::ALL.into_iter().chain(FaultPoint::OF_HOSTS) {
        // Changes that come together are written together: what is sure to happen is counted, not more.
        let counts: &[u32] = match point {
            FaultPoint::HostWritten => &[1, 2, 4],
            FaultPoint::CreateWritten | FaultPoint::HostClaimed => &[1, 3],
            // Later occurrences are tested on one host.
            _ => &[1],
        };
        for count in counts {
            stop_at(&mut cluster, point, *count);
        }
    }
}

fn stop_at(cluster: &mut Cluster, point: FaultPoint, count: u32) {
    let what = format!("{}:{count}", point.as_str());
    let site = &mut cluster.site;
    site.start_with(&[(VARIABLE, &what)]);
    // Enough for three hosts. A submission that the stop has cut off is repeated with its token.
    let script = format!("{}; sleep 0.1", mark(site));
    let submit = ["submit", "--token", &what, "--array", "1-9", "--", "sh", "-c", &script];
    if !site.is_dead() {
        site.run(&submit);
    }
    site.wait_until(&format!("the stop at {what}"), Site::is_dead);
    let status = site.reap();
    assert_eq!(status.signal(), Some(9), "{what}: {status}\n{}", site.log());
    site.start();
    let uuids: Vec<String> = site.ok(&submit).lines().map(str::to_owned).collect();
    cluster.wait_for(&uuids);
    assert_one_run(&cluster.site, &uuids);
    for uuid in &uuids {
        assert_eq!(cluster.site.show(uuid)["container"]["attempt"], 1, "{what}: {:#}", cluster.site.show(uuid));
    }
    cluster.wait_until_released();
    cluster.site.stop();
}

/// A hundred moments, spread over all of it: while the daemon starts, while containers start, run, end and are collected, and while
/// hosts are given back.
#[test]
fn at_a_hundred_moments() {
    let mut random = Random::new();
    let mut cluster = Cluster::of(3, BRIEF);
    cluster.site.start();
    let uuids = submit_many(&cluster.site);
    for kill in 0..KILLS {
        random.pause(Duration::from_millis(300));
        // By now so many should have begun: the kills can neither come all at the beginning nor keep the work from going on.
        let due = CONTAINERS * kill / (KILLS - 10);
        cluster.site.wait_until("containers begin", |site| begun(site) >= due.min(CONTAINERS));
        random.pause(Duration::from_millis(100));
        cluster.site.kill_9();
        cluster.site.launch(&[]);
    }
    cluster.site.wait_until("the daemon answers", |site| site.run(&["status"]).status.success());
    cluster.wait_for(&uuids);
    assert_one_run(&cluster.site, &uuids);
    assert_eq!(lost_attempts(&cluster.site, &uuids), BTreeMap::new(), "{}", cluster.site.log());
    cluster.wait_until_released();
    cluster.site.stop();
}

/// Sessions are cut and servers restarted all the time. No runner dies of it and no host is silent for as long as TimeoutProbe: a start
/// that was cut off may cost an attempt that never ran, and nothing else.
#[test]
fn connections_break() {
    let mut random = Random::new();
    let mut cluster = Cluster::of(3, BRIEF);
    cluster.site.start();
    let mut uuids = submit_many(&cluster.site);
    let in_service = |site: &Site| {
        let list = site.ok(&["instance", "list"]);
        let states = list.lines().filter_map(|line| line.split('\t').nth(2));
        states.filter(|state| matches!(*state, "idle" | "running")).count()
    };
    // More of them where one machine is quick and another slow: there is work for each host, and at each cut.
    let more_when_all_have_begun = |site: &Site, uuids: &mut Vec<String>| {
        if begun(site) >= uuids.len() {
            uuids.extend(submit_many(site));
        }
    };
    cluster.site.wait_until("all hosts are in service", |site| {
        more_when_all_have_begun(site, &mut uuids);
        in_service(site) == 3
    });
    let until = Instant::now() + crate::harness::LIMIT;
    let mut cuts = 0;
    while cuts < CUTS_MIN || begun(&cluster.site) < uuids.len() && Instant::now() < until {
        more_when_all_have_begun(&cluster.site, &mut uuids);
        random.pause(Duration::from_millis(400));
        let host = &cluster.hosts[random.index(3)].host;
        match random.number(4) {
            0 => host.restart().expect("starts"),
            1 => {
                host.kill_listener().expect("killed");
                random.pause(Duration::from_millis(200));
                host.restart().expect("starts");
            }
            _ => drop(host.cut_connections().expect("cut")),
        }
        cuts += 1;
    }
    cluster.wait_for(&uuids);
    assert_one_run(&cluster.site, &uuids);
    for name in cluster.in_use() {
        // One whose taking was cut is listed as unreachable until it is wanted, or the operator says so.
        cluster.site.run(&["instance", "run", &name]);
    }
    cluster.wait_until_released();
    cluster.site.stop();
}
