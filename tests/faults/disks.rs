//! Disks that are full: a host's, and the daemon's own.

use muster_ssh_hosts::{HostOptions, Server};

use crate::fixture::{Cluster, OPENSSH, Wish, line};
use crate::harness::Site;

/// Enough for the runner's program, and less than a job may print.
const SMALL: Wish = |options: HostOptions| options.small_disk(24);
const SMALL_DROPBEAR: Wish = |options: HostOptions| options.small_disk(24).server(Server::Dropbear);
const CLOUD: &str = "    TimeoutIdle: 1h\n    ProbeInterval: 1s\n    TimeoutProbe: 10m\n";

/// The disk is full before a job comes: the start is refused with the reason in the log, nothing is begun, the attempt is lost, and the host,
/// marked broken, gets no more until somebody has made room and says so.
fn full_before_a_start(small: Wish) {
    let mut cluster = Cluster::linked(&[small], CLOUD);
    cluster.site.start();
    let first = cluster.submit(&[], "true");
    cluster.wait_for_all(&first);
    cluster.host("ada").fill_disk().expect("filled");
    let uuids = cluster.submit(&["--max-attempts", "10"], "true");
    cluster.wait_until_said("ada", "start command failed");
    assert!(cluster.site.has_logged(&["start command failed", "Instance=ada", "No space left on device"]));
    let told = |site: &mut Site| line(site, "ada").is_some_and(|line| line.contains("reported it as broken"));
    cluster.site.wait_until("the host is shown with the reason", told);
    let status = cluster.site.ok(&["status"]);
    assert!(status.contains("ada is failed") && status.contains("muster instance run ada"), "{status}");
    assert_eq!(cluster.runs(&uuids[0]), Vec::<u64>::new(), "it was never begun");
    cluster.assert_quiet("ada");
    cluster.host("ada").empty_disk().expect("emptied");
    cluster.site.ok(&["instance", "run", "ada"]);
    cluster.wait_for_all(&uuids);
    assert_eq!((cluster.runs(&uuids[0]), cluster.attempt(&uuids[0])), (vec![2], 2));
    cluster.end();
}

#[test]
fn full_before_a_start_openssh() {
    full_before_a_start(SMALL);
}

#[test]
fn full_before_a_start_dropbear() {
    full_before_a_start(SMALL_DROPBEAR);
}

/// Jobs print more than the disk holds: they end as `disk full`, which is a lost attempt, and are retried where there is room. The hosts are
/// marked broken and given back.
#[test]
fn filled_by_a_job() {
    let mut cluster = Cluster::linked(&[SMALL, SMALL_DROPBEAR, OPENSSH], CLOUD);
    cluster.site.start();
    // One on each host, all at once.
    let script = format!("{}; if [ $(uname -n) != cyd ]; then exec yes; fi", cluster.until_gate());
    let uuids = cluster.submit(&["--array", "1-3", "--vcpus", "2", "--max-attempts", "10"], &script);
    for uuid in &uuids {
        cluster.site.wait_state(uuid, "Running");
    }
    for name in ["ada", "bob"] {
        cluster.open_gate(name);
        cluster.wait_until_said(name, "instance reports itself broken; draining it");
    }
    cluster.open_gate("cyd");
    cluster.wait_for_all(&uuids);
    assert!(uuids.iter().all(|uuid| cluster.place(uuid) == "cyd"));
    let mut lost = Vec::new();
    for uuid in &uuids {
        let detail = cluster.site.show(uuid);
        let attempts = detail["attempts"].as_array().expect("a list").clone();
        assert_eq!(cluster.runs(uuid).len(), attempts.len(), "each ran once: {detail:#}");
        lost.extend(attempts.into_iter().rev().skip(1));
    }
    let instance = |lost: &serde_json::Value| lost["instance"].as_str().unwrap_or_default().to_owned();
    assert!(["ada", "bob"].iter().all(|name| lost.iter().any(|lost| instance(lost) == *name)), "{lost:#?}");
    for lost in &lost {
        assert!(lost["ended_because"].as_str().is_some_and(|why| why.contains("disk full")), "{lost:#}");
    }
    for name in ["ada", "bob"] {
        cluster.wait_until_said(name, "host cleaned up");
        cluster.assert_quiet(name);
    }
    cluster.end();
}

/// The daemon cannot write any more: it says so, where people look, starts nothing new, refuses what it could not keep, goes on watching what
/// runs, and goes on by itself once there is room; results that came meanwhile are whole.
#[test]
fn a_full_state_directory() {
    let mut cluster = Cluster::on_small_disk(24, &[OPENSSH, |options| options.server(Server::Dropbear)], CLOUD);
    cluster.site.start();
    let script = format!("{}; head -c 200000 /dev/zero > out", cluster.until_gate());
    let held = cluster.submit(&["--array", "1-4", "--output", "out"], &script);
    for uuid in &held {
        cluster.site.wait_state(uuid, "Running");
    }
    let waiting = cluster.submit(&["--array", "1-2"], "true");
    let network = cluster.network.clone().expect("a network");
    let filler = cluster.site.state_dir().join("filler");
    let fill = format!("cat /dev/zero > {0}; while echo >> {0}; do :; done; test -s {0}", filler.display());
    let filled = network.command("sh").args(["-c", &fill]).stderr(std::process::Stdio::null()).status().expect("runs");
    assert!(filled.success());
    ["ada", "bob"].iter().for_each(|name| cluster.open_gate(name));
    let says_so = |site: &mut Site| site.ok(&["status"]).contains("TROUBLE") && site.ok(&["status"]).contains("full");
    cluster.site.wait_until("status says what is wrong", says_so);
    assert!(cluster.site.has_logged(&["full", "level=error"]), "{}", cluster.site.log());
    let refused = cluster.site.run(&["submit", "--", "true"]);
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && text.contains("full"), "{text}");
    assert!(held.iter().all(|uuid| cluster.site.state(uuid) == "Running"), "nothing has ended that could not be kept");
    assert!(waiting.iter().all(|uuid| cluster.runs(uuid).is_empty()), "nothing new was started");
    // Half a copy is worse than none; where there is room a whole one can be made now.
    let copy = cluster.site.state_dir().join("copy.db");
    let (code, text) = cluster.site.fails(&["backup", &copy.to_string_lossy()]);
    assert!(code == 1 && text.contains("copy.db") && text.contains("full"), "{code} {text}");
    assert!(!network.command("test").arg("-e").arg(&copy).status().expect("runs").success());
    let elsewhere = cluster.site.folder().join("copy.db");
    cluster.site.ok(&["backup", &elsewhere.to_string_lossy()]);
    let emptied = network.command("rm").arg(&filler).status().expect("runs");
    assert!(emptied.success());
    cluster.wait_for_all(&held);
    cluster.wait_for_all(&waiting);
    cluster.assert_undisturbed(&held);
    cluster.assert_undisturbed(&waiting);
    assert!(!cluster.site.ok(&["status"]).contains("TROUBLE"));
    for uuid in &held {
        let out = cluster.site.state_dir().join(format!("containers/{uuid}/1/outputs/out"));
        let size = network.command("stat").args(["-c", "%s"]).arg(&out).output().expect("runs").stdout;
        assert_eq!(String::from_utf8_lossy(&size).trim(), "200000");
    }
    cluster.end();
}

/// The disk has room for the queue and not for a result: people are told, nothing new is started, and all goes on once there is room. What
/// was started before then is not disturbed.
#[test]
fn a_result_that_does_not_fit() {
    let mut cluster = Cluster::on_small_disk(24, &[OPENSSH], CLOUD);
    cluster.site.start();
    let script = format!("{}; head -c 12000000 /dev/zero > out", cluster.until_gate());
    let large = cluster.submit(&["--output", "out"], &script);
    cluster.site.wait_state(&large[0], "Running");
    let network = cluster.network.clone().expect("a network");
    let filler = cluster.site.state_dir().join("filler");
    let fill = format!("head -c 14000000 /dev/zero > {}", filler.display());
    assert!(network.command("sh").args(["-c", &fill]).status().expect("runs").success());
    cluster.open_gate("ada");
    // Now and then the queue's own trouble is told instead: a try fills the disk for a moment.
    let told = |site: &mut Site| {
        let status = site.ok(&["status"]);
        let words = ["TROUBLE", "results cannot be stored in", "no space is left on its disk"];
        words.iter().all(|part| status.contains(part))
    };
    cluster.site.wait_until("status says what is wrong", told);
    assert!(cluster.site.has_logged(&["cannot store the result", "level=error"]), "{}", cluster.site.log());
    // While the result is being tried again the disk is as full as can be, and no submission is taken.
    let mut waiting = String::new();
    cluster.site.wait_until("there is room for the queue", |site| {
        let submitted = site.run(&["submit", "--", "true"]);
        waiting = String::from_utf8_lossy(&submitted.stdout).trim().to_owned();
        submitted.status.success()
    });
    let explained = |site: &mut Site| site.show(&waiting).to_string().contains("our own storage is in trouble");
    cluster.site.wait_until("it is told why nothing starts", explained);
    assert_eq!((cluster.site.state(&large[0]), cluster.site.state(&waiting)), ("Running".into(), "Queued".into()));
    assert!(network.command("rm").arg(&filler).status().expect("runs").success());
    let waiting = vec![waiting];
    cluster.wait_for_all(&large);
    cluster.wait_for_all(&waiting);
    cluster.assert_undisturbed(&large);
    assert!(!cluster.site.ok(&["status"]).contains("TROUBLE"));
    cluster.end();
}
