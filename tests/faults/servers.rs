//! Servers that stand still, die, come back, change their keys, or allow little.

use crate::fixture::{Cluster, DROPBEAR, FAULTY, OPENSSH, TWO_AND_ONE, line};
use crate::harness::Site;

/// Noticed, and not yet the end: a second failure would be.
const NOTICING: &str = "    TimeoutIdle: 1h\n    ProbeInterval: 1s\n    TimeoutProbe: 15s\n";
const PATIENT: &str = "    TimeoutIdle: 1h\n    ProbeInterval: 1s\n    TimeoutProbe: 10m\n";

/// The letter for a process' state.
fn state_of(pid: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    stat.rsplit(')').next().and_then(|rest| rest.trim().chars().next()).expect("a letter")
}

/// SIGSTOP, then SIGCONT once a probe has failed: the next one finds everything as it was.
#[test]
fn stopped_and_continued() {
    let mut cluster = Cluster::linked(&[OPENSSH, DROPBEAR], NOTICING);
    cluster.site.start();
    let held = cluster.held(4);
    for name in FAULTY {
        cluster.host(name).stop_server().expect("stopped");
        cluster.wait_until("it stands still", |cluster| state_of(cluster.host(name).pid()) == 'T');
    }
    // Their results wait until somebody can be asked for them.
    FAULTY.iter().for_each(|name| cluster.open_gate(name));
    for name in FAULTY {
        cluster.wait_until_said(name, "run probe failed");
        cluster.host(name).continue_server().expect("continues");
        assert!(cluster.site.has_logged(&["run probe failed", &format!("Instance={name}"), "deadline"]));
    }
    cluster.wait_for_all(&held);
    cluster.assert_undisturbed(&held);
    let more = cluster.submit(&["--array", "1-4"], "true");
    cluster.wait_for_all(&more);
    cluster.assert_undisturbed(&more);
    assert!(!cluster.site.log().contains("unresponsive"), "{}", cluster.site.log());
    cluster.end();
}

/// Killed with its sessions while jobs run there, some of which end before there is a server again.
#[test]
fn killed_and_started_again() {
    let mut cluster = Cluster::linked(&[OPENSSH, DROPBEAR], PATIENT);
    cluster.site.start();
    let held = cluster.held(4);
    for name in FAULTY {
        cluster.host(name).kill_server().expect("killed");
        cluster.wait_until_said(name, "run probe failed");
        assert!(cluster.host(name).processes().expect("readable").iter().all(|process| !process.name.contains("sshd")));
    }
    cluster.open_gate("ada");
    cluster.wait_until("jobs end without a server", |cluster| cluster.host("ada").jobs().expect("readable").is_empty());
    assert!(!cluster.host("bob").jobs().expect("readable").is_empty());
    assert!(held.iter().all(|uuid| cluster.site.state(uuid) == "Running"), "nobody has told that they ended");
    for name in FAULTY {
        cluster.host(name).restart().expect("starts");
    }
    cluster.open_gate("bob");
    cluster.wait_for_all(&held);
    cluster.assert_undisturbed(&held);
    cluster.end();
}

/// Another key while jobs run: refused, with what was expected, what came and what to do; the host is written off, and those elsewhere
/// notice nothing. Once the new key is configured the host is cleaned up and used.
#[test]
fn a_changed_key_in_service() {
    let cloud = "    TimeoutIdle: 1h\n    ProbeInterval: 1s\n    TimeoutProbe: 15s\n";
    let mut cluster = Cluster::linked(&TWO_AND_ONE, cloud);
    cluster.site.start();
    let held = cluster.held(6);
    let (lost, kept) = cluster.split(held, &FAULTY);
    for name in FAULTY {
        let before = cluster.host(name).host_key_openssh();
        cluster.host(name).restart_with_new_keys().expect("starts");
        assert_ne!(cluster.host(name).host_key_openssh(), before);
    }
    for name in FAULTY {
        cluster.wait_until_said(name, "msg=\"instance unresponsive, shutting down\"");
        let refused =
            ["level=warn", &format!("Instance={name}"), "rejected: it shows", "configured is", "correct HostKey"];
        assert!(cluster.site.has_logged(&refused), "{}", cluster.site.log());
        let shown = |site: &mut Site| line(site, name).is_some_and(|line| line.contains("host key"));
        cluster.site.wait_until("the host is shown with the reason", shown);
    }
    cluster.open_gate("cyd");
    cluster.wait_for_all(&kept);
    cluster.wait_for_all(&lost);
    cluster.assert_undisturbed(&kept);
    assert!(lost.iter().all(|uuid| cluster.runs(uuid) == [1, 2] && cluster.place(uuid) == "cyd"));
    for name in FAULTY {
        assert!(
            !cluster.host(name).jobs().expect("readable").is_empty(),
            "a host that may be another's is not touched"
        );
    }
    cluster.site.stop();
    cluster.configure(cloud);
    cluster.site.start();
    for name in FAULTY {
        cluster.wait_until_said(name, "host cleaned up");
        cluster.assert_quiet(name);
    }
    cluster.end();
}

/// One session at a time in a connection (OpenSSH), and what Dropbear allows by itself: probes, starts, kills, results and logs that are
/// followed have connections of their own, so it is enough.
#[test]
fn one_session_per_connection() {
    let narrow = |options: muster_ssh_hosts::HostOptions| options.max_sessions(1);
    let mut cluster = Cluster::linked(&[narrow, DROPBEAR], PATIENT);
    cluster.site.start();
    let held = cluster.held(4);
    let mut followers: Vec<_> = held
        .iter()
        .map(|uuid| {
            cluster.site.command(&["logs", "-f", uuid]).stdout(std::process::Stdio::null()).spawn().expect("starts")
        })
        .collect();
    let more = cluster.submit(&["--array", "1-20", "--output", "out"], "echo x > out");
    cluster.site.ok(&["cancel", &held[0], &held[3]]);
    for uuid in [&held[0], &held[3]] {
        cluster.site.wait_state(uuid, "Cancelled");
    }
    FAULTY.iter().for_each(|name| cluster.open_gate(name));
    cluster.wait_for_all(&held[1..3]);
    cluster.wait_for_all(&more);
    cluster.assert_undisturbed(&held[1..3]);
    cluster.assert_undisturbed(&more);
    for follower in &mut followers {
        assert!(follower.wait().expect("a child").success());
    }
    let config = std::fs::read_to_string(cluster.host("ada").path("/etc/ssh/sshd_config")).expect("there");
    assert!(config.contains("MaxSessions 1\n"), "{config}");
    // A session that its server has not quite ended is in the way of the next: that one gets another connection, and nobody notices.
    for trouble in ["run probe failed", "start command failed", "collecting the result failed"] {
        assert!(!cluster.site.log().contains(trouble), "{}", cluster.site.log());
    }
    cluster.end();
}
