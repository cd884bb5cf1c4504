//! The driver `static` as a user has it: real SSH servers, the daemon, jobs, restarts, and what the commands show.

use std::fmt::Write;

use muster_ssh_hosts::{ClientKey, HostOptions, SshHost, caller_is_root, client_key};

use crate::harness::Site;

fn start_hosts<const N: usize>(key: &ClientKey) -> [SshHost; N] {
    let options = || HostOptions::new(key.public());
    // Runners without root have their locks in /tmp: two hosts must not share them.
    let options = || if caller_is_root() { options() } else { options().private_tmp() };
    std::array::from_fn(|_| options().start().expect("starts"))
}

/// Hosts `node1`, `node2` … of the type `big`.
fn configure(site: &Site, key: &ClientKey, hosts: &[&SshHost], more: &str) {
    let mut text = format!(
        "Containers:\n  DispatchPrivateKey: file://{}\n  CloudVMs:\n    Driver: static\n",
        key.path().display()
    );
    let _ = write!(text, "    ProbeInterval: 1s\n    SyncInterval: 1s\n    TimeoutShutdown: 1s\n{more}");
    if !caller_is_root() {
        let _ = writeln!(text, "    DeployRunnerDirectory: {}/.cache/muster-runner/bin", hosts[0].home());
    }
    let _ =
        write!(text, "    DriverParameters:\n      User: {}\n      UseSudo: false\n      Hosts:\n", hosts[0].user());
    for (number, host) in hosts.iter().enumerate() {
        let (address, key) = (host.address(), host.host_key_openssh());
        let number = number + 1;
        let _ = writeln!(
            text,
            "      - {{Name: node{number}, Address: \"{address}\", InstanceType: big, HostKey: \"{key}\"}}"
        );
    }
    text.push_str("InstanceTypes: {big: {VCPUs: 2, RAM: 1GiB, Price: 0.5}}\n");
    site.configure(&text);
}

fn owner(host: &SshHost) -> Option<String> {
    let inside = match caller_is_root() {
        true => "/var/lib/muster-runner/owner".to_owned(),
        false => format!("{}/.local/state/muster-runner/{}/owner", host.home(), host.name()),
    };
    std::fs::read_to_string(host.path(&inside)).ok()
}

fn rows(site: &Site) -> Vec<Vec<String>> {
    let text = site.ok(&["instance", "list"]);
    text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

fn row(site: &Site, name: &str) -> Option<Vec<String>> {
    rows(site).into_iter().find(|row| row[0] == name)
}

/// Jobs run on both, idle hosts are given back clean, and the next job takes one again.
#[test]
fn jobs_run_on_hosts_and_idle_hosts_are_given_back() {
    let key = client_key().expect("made");
    let hosts: [SshHost; 2] = start_hosts(&key);
    let mut site = Site::new();
    configure(&site, &key, &hosts.each_ref(), "    TimeoutIdle: 2s\n");
    let checked = site.ok(&["check"]);
    assert!(checked.contains("hosts            2 (2 big)"), "{checked}");
    site.start();
    // A host that is slow to be taken finds work, too.
    let gate = site.folder().join("runs/gate");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display());
    let uuids = site.submit_counted(&["--vcpus", "2", "--array", "1-6"], &script);
    let count = |site: &Site| rows(site).iter().filter(|row| row[2] == "running").count();
    site.wait_until("both work", |site| count(site) == 2);
    let shown = row(&site, "node1").expect("taken");
    let address = hosts[0].address();
    assert_eq!([&shown[1], &shown[4], &shown[5], &shown[6]], [address.as_str(), "big", "big", "0.500000"]);
    assert!(hosts.iter().all(|host| owner(host).is_some()));
    std::fs::write(&gate, b"").expect("written");
    for uuid in &uuids {
        site.wait_state(uuid, "Complete");
    }
    site.assert_once(&uuids);
    site.wait_until("both are given back", |site| rows(site).is_empty());
    site.wait_until("both are clean", |_| hosts.iter().all(|host| owner(host).is_none()));
    let again = site.submit_counted(&[], "true");
    site.wait_state(&again[0], "Complete");
    site.stop();
}

/// More work than hosts: what waits says why, and a host that is freed is used at once, not after a pause.
#[test]
fn a_freed_host_ends_the_wait_for_capacity() {
    let key = client_key().expect("made");
    let [host] = start_hosts(&key);
    let mut site = Site::new();
    configure(&site, &key, &[&host], "    TimeoutIdle: 1h\n");
    site.start();
    let first = site.submit(&["--vcpus", "2", "--max-attempts", "1", "--", "sleep", "1000"]);
    site.wait_state(&first, "Running");
    let second = site.submit(&["--vcpus", "2", "--", "true"]);
    site.wait_until("no host is free", |site| site.log().contains("no free host of the type big: 1 busy"));
    site.ok(&["instance", "kill", "node1"]);
    // That the news end the pause, and not its clock, is tested without waiting: spec 46 §1 in tests/spec and tests/shell.
    site.wait_state(&second, "Complete");
    assert!(site.log().contains("msg=\"host cleaned up\" Instance=node1"), "{}", site.log());
    site.wait_state(&first, "Cancelled");
    site.stop();
}

/// Killed while a job runs: the next daemon finds the host taken and adopts the job.
#[test]
fn a_killed_daemon_finds_its_hosts_again() {
    let key = client_key().expect("made");
    let [host] = start_hosts(&key);
    let mut site = Site::new();
    configure(&site, &key, &[&host], "");
    site.start();
    let go = site.folder().join("runs/go");
    let uuids = site.submit_counted(&[], &format!("while ! test -e {}; do sleep 0.1; done", go.display()));
    site.wait_state(&uuids[0], "Running");
    site.kill_9();
    site.start();
    site.wait_until("the host is adopted", |site| row(site, "node1").is_some_and(|row| row[2] == "running"));
    std::fs::write(&go, "").expect("written");
    site.wait_state(&uuids[0], "Complete");
    site.assert_once(&uuids);
    site.stop();
}

/// One that goes away is shown with the reason until it is back and clean.
#[test]
fn an_unreachable_host_is_shown_and_not_used() {
    let key = client_key().expect("made");
    let [host] = start_hosts(&key);
    let mut site = Site::new();
    configure(&site, &key, &[&host], "    TimeoutIdle: 1h\n");
    site.start();
    let first = site.submit(&["--", "true"]);
    site.wait_state(&first, "Complete");
    host.kill_server().expect("killed");
    site.ok(&["instance", "kill", "node1"]);
    site.wait_until("it is unreachable", |site| row(site, "node1").is_some_and(|row| row[2] == "unreachable"));
    let shown = row(&site, "node1").expect("shown");
    assert_eq!(shown.len(), 9, "{shown:?}");
    assert_eq!([&shown[3], &shown[4], &shown[7]], ["-", "big", "-"]);
    assert!(shown[8].contains("cannot connect to") && shown[8].contains("clean-up is tried in"), "{shown:?}");
    let json = site.json(&["instance", "list"]);
    assert_eq!(json["items"][0]["worker_state"], "unreachable");
    assert!(json["items"][0]["detail"].as_str().expect("text").contains("cannot connect"), "{json}");
    let counted = site.json(&["status"])["instances"].clone();
    assert!(counted.as_object().expect("a map").values().all(|count| count == 0), "it is no instance: {counted}");
    let second = site.submit(&["--", "true"]);
    host.restart().expect("starts");
    site.wait_state(&second, "Complete");
    site.stop();
}
