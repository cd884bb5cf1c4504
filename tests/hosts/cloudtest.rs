//! `muster cloudtest` with hosts that are there already, beside a daemon that has one of them.

use std::process::Stdio;

use crate::fixture::{Cluster, Wishes};
use crate::running::{Running, assert_ordered};

fn start(cluster: &Cluster, arguments: &[&str], stdin: Stdio) -> Running {
    Running::start(&cluster.site.command(&[&["cloudtest"], arguments].concat()), stdin)
}

/// The daemon's host is left alone, the other one is tried, and given back.
#[test]
fn beside_a_daemon() {
    let mut cluster = Cluster::of(2, Wishes { cloud: "    SyncInterval: 500ms\n    TimeoutIdle: 1h\n", top: "" });
    cluster.site.start();
    let gate = cluster.site.folder().join("runs/gate");
    let job = cluster.site.submit_counted(&[], &format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display()));
    cluster.site.wait_state(&job[0], "Running");
    let taken = cluster.in_use();
    let [taken] = &*taken else { panic!("{taken:?}") };
    let other = if taken == "ada" { "bob" } else { "ada" };

    let (status, log) = start(&cluster, &["-command", "hostname"], Stdio::null()).end();
    assert_eq!(status.code(), Some(0), "{log}");
    let created = format!("msg=\"created instance\" Instance={other} ");
    let gone = format!("msg=\"instance is gone\" Instance={other}");
    assert_ordered(&log, &[&created, "msg=\"instance has booted\"", &format!("stdout=\"{other}\\n\""), &gone]);
    assert!(!cluster.runner_dir(other).join("owner").exists(), "{log}");

    std::fs::write(&gate, b"").expect("written");
    cluster.site.wait_state(&job[0], "Complete");
    cluster.site.assert_once(&job);
    // And the daemon can have it: both are in use at once.
    let gate = cluster.site.folder().join("runs/gate-of-both");
    let until_gate = format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display());
    let both = cluster.site.submit_counted(&["--array", "1-2", "--vcpus", "2"], &until_gate);
    for job in &both {
        cluster.site.wait_state(job, "Running");
    }
    std::fs::write(&gate, b"").expect("written");
    cluster.wait_for(&both);
    cluster.site.ok(&["instance", "drain", "ada", "bob"]);
    cluster.wait_until_released();
    cluster.site.stop();
}

/// It cannot be given back while it is out of reach: that is said, and tried until it works.
#[test]
fn a_host_that_is_gone_when_it_is_given_back() {
    let cluster = Cluster::of(1, Wishes { cloud: "    SyncInterval: 500ms\n", top: "" });
    let mut running = start(&cluster, &["-pause-before-destroy"], Stdio::piped());
    running.wait_for("Press Enter to continue: ");
    cluster.host("ada").kill_server().expect("killed");
    running.press_enter();
    running.wait_for("msg=\"instance is not given back yet; waiting\" Instance=ada State=unreachable Reason=");
    assert!(cluster.runner_dir("ada").join("owner").exists());
    cluster.host("ada").restart().expect("starts");
    let (status, log) = running.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("msg=\"instance is gone\"") && !cluster.runner_dir("ada").join("owner").exists(), "{log}");
}
