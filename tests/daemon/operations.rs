//! Signals, log, reload.

use rustix::process::Signal;

use crate::harness::Site;

#[test]
fn log_lines_are_logfmt_and_tell_each_container_and_instance_story() {
    let mut site = Site::started();
    let uuid = site.submit(&["--", "true"]);
    site.ok(&["wait", &uuid]);
    site.stop();
    let log = site.log();
    for line in log.lines() {
        assert!(line.starts_with("time=") && line.contains(" level=") && line.contains(" msg="), "{line}");
    }
    let of_container = |message: &str| {
        let found = |line: &&str| line.contains(&uuid) && line.contains(message) && line.contains("level=info");
        log.lines().filter(found).count()
    };
    for message in ["container submitted", "container locked", "container finished"] {
        assert_eq!(of_container(message), 1, "{message}: {log}");
    }
    for message in ["creating instance", "instance appeared in cloud", "probes succeeded, instance is in service"] {
        assert_eq!(log.lines().filter(|line| line.contains(message)).count(), 1, "{message}: {log}");
    }
    let secret = std::fs::read_to_string(site.state_dir().join("loopback.json")).expect("taken");
    let secret = serde_json::from_str::<serde_json::Value>(&secret).expect("JSON");
    let secret = secret["tags"]["ArvadosInstanceSecret"].as_str().expect("drawn").to_owned();
    assert!(!log.contains(&secret), "secrets are never logged");
}

#[test]
fn hangup_reopens_the_log_and_takes_over_what_can_change() {
    let mut site = Site::started();
    let moved = site.folder().join("muster.log.1");
    std::fs::rename(site.log_file(), &moved).expect("renamed");
    site.configure("Containers: {CloudVMs: {TimeoutIdle: 30s, Driver: loopback}}\n");
    site.signal(Signal::HUP);
    site.wait_until("the change is logged", |site| site.log().contains("TimeoutIdle"));
    std::fs::write(site.config(), "Muster: [\n").expect("written");
    site.signal(Signal::HUP);
    site.wait_until("the fault is logged", |site| site.log().contains("keeping the old one"));
    // The commands need a configuration that can be read; the daemon goes on with the one it has.
    site.configure("");
    let uuid = site.submit(&["--", "true"]);
    site.ok(&["wait", &uuid]);
    site.stop();
}

#[test]
fn usr1_writes_the_state() {
    let mut site = Site::started();
    let running = site.submit(&["--", "sleep", "1000"]);
    site.wait_state(&running, "Running");
    site.signal(Signal::USR1);
    site.wait_until("the instance is described", |site| {
        site.log().lines().any(|line| line.contains("target=state") && line.contains(&running))
    });
    site.ok(&["cancel", &running]);
    site.wait_state(&running, "Cancelled");
    site.stop();
}
