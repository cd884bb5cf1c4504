//! Restarts, stops and changes of the configuration while something goes on with a host.

use std::time::{Duration, Instant};

use crate::fixture::{Cluster, Wishes, gate};
use crate::harness::Site;

const QUICK: Wishes = Wishes { cloud: "    TimeoutIdle: 2s\n", top: "" };
const KEPT: Wishes = Wishes { cloud: "    TimeoutIdle: 1h\n", top: "" };

/// The daemon's own limit is 5 s (spec 20 §9); the rest is for a machine that has other things to do.
const STOP_LIMIT: Duration = Duration::from_secs(30);

fn wait_all(site: &Site, uuids: &[String]) {
    let uuids: Vec<&str> = uuids.iter().map(String::as_str).collect();
    assert!(site.run(&[&["wait"], &*uuids].concat()).status.success());
}

/// What waits for a gate in the daemon's folder.
fn gated(site: &Site, count: usize) -> (std::path::PathBuf, Vec<String>) {
    let (gate, script) = gate(site);
    let uuids = site.submit_counted(&["--array", &format!("1-{count}")], &script);
    (gate, uuids)
}

/// A stop that says itself how long it took.
fn stops_in_time(site: &mut Site) {
    let began = Instant::now();
    site.stop();
    assert!(began.elapsed() < STOP_LIMIT, "{:?}", began.elapsed());
}

/// A clean-up whose host stands still has 15 s: the stop does not wait for it, and the next daemon cleans up.
#[test]
fn a_stop_during_a_clean_up() {
    let mut cluster = Cluster::of(1, KEPT);
    cluster.site.start();
    let uuid = cluster.site.submit(&["--", "true"]);
    wait_all(&cluster.site, &[uuid]);
    // Else it would stay there: it could be one that was never collected.
    cluster.wait_until_forgotten("ada");
    cluster.host("ada").stop_server().expect("stops");
    cluster.site.ok(&["instance", "kill", "ada"]);
    let state = cluster.site.state_dir().join("static-hosts.json");
    let cleaning = |_: &mut Site| std::fs::read_to_string(&state).is_ok_and(|text| text.contains("\"cleaning\""));
    cluster.site.wait_until("the clean-up has begun", cleaning);
    stops_in_time(&mut cluster.site);
    assert!(cluster.runner_dir("ada").join("owner").exists());
    cluster.host("ada").continue_server().expect("continues");
    cluster.configure(QUICK);
    cluster.site.start();
    cluster.wait_until_released();
    let uuid = cluster.site.submit(&["--", "true"]);
    wait_all(&cluster.site, &[uuid]);
    cluster.site.stop();
}

/// The same while a host is taken: it is written down before it is touched, so that the next daemon cleans up and begins anew.
#[test]
fn a_stop_while_a_host_is_taken() {
    let mut cluster = Cluster::of(1, QUICK);
    cluster.host("ada").stop_server().expect("stops");
    cluster.site.start();
    let uuids = cluster.site.submit_counted(&[], "true");
    let state = cluster.site.state_dir().join("static-hosts.json");
    let claiming = |_: &mut Site| std::fs::read_to_string(&state).is_ok_and(|text| text.contains("\"claiming\""));
    cluster.site.wait_until("the host is being taken", claiming);
    stops_in_time(&mut cluster.site);
    cluster.host("ada").continue_server().expect("continues");
    cluster.site.start();
    wait_all(&cluster.site, &uuids);
    cluster.site.assert_once(&uuids);
    cluster.wait_until_released();
    cluster.site.stop();
}

/// Killed while a host with containers cannot be reached: the next daemon has it still, the containers lose nothing if it comes back.
#[test]
fn a_restart_while_a_host_is_unreachable() {
    let mut cluster = Cluster::of(2, QUICK);
    cluster.site.start();
    let (gate, uuids) = gated(&cluster.site, 4);
    for uuid in &uuids {
        cluster.site.wait_state(uuid, "Running");
    }
    cluster.host("ada").kill_server().expect("killed");
    cluster.site.kill_9();
    cluster.site.start();
    cluster.site.wait_until("it is tried", |site| site.has_logged(&["probe failed", "Instance=ada"]));
    assert_eq!(cluster.in_use(), ["ada", "bob"]);
    assert!(uuids.iter().all(|uuid| cluster.site.show(uuid)["container"]["attempt"] == 1), "nobody was given up");
    cluster.host("ada").restart().expect("starts");
    std::fs::write(&gate, b"").expect("written");
    wait_all(&cluster.site, &uuids);
    cluster.site.assert_once(&uuids);
    cluster.wait_until_released();
    cluster.site.stop();
}

/// The same with a host that was written off: it stays off the list over the restart, its containers ran elsewhere, and what runs
/// there is ended before it is used again.
#[test]
fn a_restart_while_a_written_off_host_is_unreachable() {
    let wishes = Wishes {
        cloud: "    TimeoutIdle: 1h\n    TimeoutProbe: 20s\n    ProbeInterval: 1s\n    SyncInterval: 1s\n",
        top: "",
    };
    let mut cluster = Cluster::of(2, wishes);
    // Otherwise the next daemon looks for the containers' host for a minute.
    let text = std::fs::read_to_string(cluster.site.config()).expect("there");
    std::fs::write(cluster.site.config(), text.replace("Containers:\n", "Containers:\n  StaleLockTimeout: 5s\n"))
        .expect("written");
    cluster.site.start();
    let (gate, uuids) = gated(&cluster.site, 4);
    for uuid in &uuids {
        cluster.site.wait_state(uuid, "Running");
    }
    cluster.host("ada").kill_listener().expect("killed");
    cluster.host("ada").cut_connections().expect("cut");
    cluster.site.ok(&["instance", "kill", "ada"]);
    let unreachable = |site: &mut Site| {
        site.ok(&["instance", "list"]).lines().any(|line| line.starts_with("ada\t") && line.contains("unreachable"))
    };
    cluster.site.wait_until("it is unreachable", unreachable);
    cluster.site.kill_9();
    cluster.site.start();
    cluster.site.wait_until("it is unreachable still", unreachable);
    assert!(!cluster.host("ada").jobs().expect("readable").is_empty(), "nobody could end them");
    std::fs::write(&gate, b"").expect("written");
    wait_all(&cluster.site, &uuids);
    let attempts = |attempt: u64| {
        uuids.iter().filter(|uuid| cluster.site.show(uuid)["container"]["attempt"].as_u64() == Some(attempt)).count()
    };
    assert_eq!((attempts(1), attempts(2)), (2, 2));
    cluster.host("ada").restart().expect("starts");
    cluster.site.wait_until("the host is cleaned up", |site| site.has_logged(&["host cleaned up", "Instance=ada"]));
    assert!(cluster.host("ada").jobs().expect("readable").is_empty());
    cluster.site.stop();
}

/// Removed from the configuration: what runs goes on, nothing new is begun, then it is given back and forgotten.
#[test]
fn a_host_that_is_removed_from_the_configuration() {
    let mut cluster = Cluster::of(2, KEPT);
    cluster.site.start();
    let (gate, uuids) = gated(&cluster.site, 4);
    for uuid in &uuids {
        cluster.site.wait_state(uuid, "Running");
    }
    cluster.site.stop();
    let removed = cluster.hosts.remove(0);
    cluster.configure(KEPT);
    cluster.site.start();
    assert!(cluster.site.has_logged(&["not configured any more", "Instance=ada"]));
    cluster.wait_until_in_use(&["ada", "bob"]);
    // Those of ada, and those of bob, who has no room until they end: then they go to bob.
    let more = cluster.site.submit_counted(&["--array", "1-3"], "hostname");
    std::fs::write(&gate, b"").expect("written");
    wait_all(&cluster.site, &uuids);
    wait_all(&cluster.site, &more);
    cluster.site.assert_once(&uuids);
    cluster.site.assert_once(&more);
    assert!(more.iter().all(|uuid| cluster.site.ok(&["logs", uuid]) == "bob\n"));
    cluster.site.wait_until("it is given back", |site| !site.ok(&["instance", "list"]).contains("ada\t"));
    assert!(removed.host.jobs().expect("readable").is_empty());
    cluster.hosts.push(removed);
    assert!(!cluster.runner_dir("ada").join("owner").exists());
    let state = std::fs::read_to_string(cluster.site.state_dir().join("static-hosts.json")).expect("there");
    assert!(!state.contains("\"ada\"") && state.contains("\"bob\""), "{state}");
    cluster.site.stop();
}

/// `TimeoutIdle: never` in the type: a host that has nothing to do stays taken, another type's is given back.
#[test]
fn hosts_that_are_kept() {
    let mut cluster = Cluster::of(2, QUICK);
    let text = std::fs::read_to_string(cluster.site.config()).expect("there");
    let bob = "InstanceType: small";
    let at = text.rfind(bob).expect("two hosts");
    let text = format!("{}InstanceType: kept{}", &text[..at], &text[at + bob.len()..]);
    let text = text.replace(
        "InstanceTypes:\n",
        "InstanceTypes:\n  kept: {VCPUs: 2, RAM: 2GiB, IncludedScratch: 1GiB, Price: 0.2, TimeoutIdle: never}\n",
    );
    std::fs::write(cluster.site.config(), text).expect("written");
    cluster.site.start();
    let (gate, script) = gate(&cluster.site);
    let small = cluster.site.submit(&["--", "sh", "-c", &script]);
    // All of its host, so that the other container needs the other host.
    let large = cluster.site.submit(&["--ram", "1500MiB", "--vcpus", "2", "--", "sh", "-c", &script]);
    cluster.wait_until_all_work();
    std::fs::write(&gate, b"").expect("written");
    wait_all(&cluster.site, &[small, large]);
    cluster.site.wait_until("the other is given back", |site| !site.ok(&["instance", "list"]).contains("ada\t"));
    assert_eq!(cluster.in_use(), ["bob"]);
    // The other was idle for no longer than this one.
    assert!(cluster.line("bob").is_some_and(|line| line.contains("idle")));
    cluster.site.ok(&["instance", "drain", "bob"]);
    cluster.wait_until_released();
    cluster.site.stop();
}

/// The host is rebooted: its jobs are gone and get another attempt, on that host too.
#[test]
fn a_host_that_is_rebooted() {
    let mut cluster = Cluster::of(1, QUICK);
    cluster.site.start();
    let (gate, uuids) = gated(&cluster.site, 2);
    for uuid in &uuids {
        cluster.site.wait_state(uuid, "Running");
    }
    cluster.host("ada").reboot().expect("boots");
    std::fs::write(&gate, b"").expect("written");
    wait_all(&cluster.site, &uuids);
    for uuid in &uuids {
        let shown = cluster.site.show(uuid);
        assert_eq!(shown["container"]["state"], "Complete", "{shown}");
        assert_eq!(shown["container"]["attempt"], 2, "{shown}");
    }
    cluster.wait_until_released();
    cluster.site.stop();
}
