//! Cables that are pulled and plugged in again.

use crate::fixture::{Cluster, DROPBEAR, FAULTY, OPENSSH, TWO_AND_ONE, line};

/// Shorter than anybody's patience: what runs goes on, what was to be started starts, in its first attempt.
#[test]
fn a_short_outage() {
    let cloud = "    TimeoutIdle: 1h\n    ProbeInterval: 1s\n    TimeoutProbe: 5m\n";
    let mut cluster = Cluster::linked(&[OPENSSH, DROPBEAR], cloud);
    cluster.site.start();
    // One place is left on each: the second fills the first host, so four and two ended.
    let held = cluster.held(4);
    let (mut all, rest) = (Vec::new(), held);
    for name in FAULTY {
        let one = rest.iter().find(|uuid| cluster.place(uuid) == name).expect("two each");
        cluster.site.ok(&["cancel", one]);
        cluster.site.wait_state(one, "Cancelled");
        all.extend(rest.iter().filter(|uuid| *uuid != one && cluster.place(uuid) == name).cloned());
    }
    let (before, changes) = (cluster.retransmitted(), FAULTY.map(|name| cluster.link(name).carrier_changes()));
    for name in FAULTY {
        cluster.link(name).down().expect("down");
    }
    // Their start commands go into the void.
    let more = cluster.submit(&["--array", "1-2"], &cluster.until_gate());
    for uuid in &more {
        cluster.site.wait_until("a start is under way", |site| !site.show(uuid)["container"]["instance"].is_null());
    }
    cluster.wait_until("something is sent again", |cluster| cluster.retransmitted() >= before + 2);
    for (name, changes) in FAULTY.iter().zip(changes) {
        cluster.link(name).up().expect("up");
        assert_eq!(cluster.link(name).carrier_changes().expect("counted"), changes.expect("counted") + 2);
    }
    for uuid in &more {
        cluster.site.wait_state(uuid, "Running");
    }
    FAULTY.iter().for_each(|name| cluster.open_gate(name));
    all.extend(more);
    cluster.wait_for_all(&all);
    cluster.assert_undisturbed(&all);
    assert!(!cluster.site.log().contains("unresponsive"), "{}", cluster.site.log());
    cluster.end();
}

/// Longer than TimeoutProbe: the hosts are written off with the evidence in the log, what ran there runs elsewhere. What they still run
/// meanwhile is the exception that spec 70 §3 states for static hosts; when they return it is ended before anything else runs there.
#[test]
fn a_long_outage() {
    let cloud = "    TimeoutIdle: 1h\n    ProbeInterval: 1s\n    TimeoutProbe: 15s\n";
    let mut cluster = Cluster::linked(&TWO_AND_ONE, cloud);
    cluster.site.start();
    let held = cluster.held(6);
    let (lost, kept) = cluster.split(held, &FAULTY);
    assert_eq!((lost.len(), kept.len()), (4, 2));
    for name in FAULTY {
        cluster.link(name).down().expect("down");
    }
    for name in FAULTY {
        cluster.wait_until_said(name, "run probe failed");
        cluster.wait_until_said(name, "msg=\"instance unresponsive, shutting down\"");
        let evidence =
            ["level=warn", "instance unresponsive", &format!("Instance={name}"), "Duration=", "State=running"];
        assert!(cluster.site.has_logged(&evidence), "{}", cluster.site.log());
        let unreachable =
            |site: &mut crate::harness::Site| line(site, name).is_some_and(|line| line.contains("unreachable"));
        cluster.site.wait_until("the host is shown as unreachable", unreachable);
    }
    cluster.open_gate("cyd");
    cluster.wait_for_all(&kept);
    cluster.wait_for_all(&lost);
    cluster.assert_undisturbed(&kept);
    for uuid in &lost {
        assert_eq!((cluster.runs(uuid), cluster.place(uuid)), (vec![1, 2], "cyd".to_owned()), "{}", cluster.site.log());
    }
    for name in FAULTY {
        assert!(!cluster.host(name).jobs().expect("readable").is_empty(), "nobody could end them");
        let line = cluster.line(name).expect("it is shown");
        assert!(line.contains("unreachable") && line.contains("clean-up is tried"), "{line}");
        cluster.link(name).up().expect("up");
        // What it is tried at once by, as `muster status` says.
        cluster.site.ok(&["instance", "run", name]);
    }
    for name in FAULTY {
        cluster.wait_until_said(name, "host cleaned up");
        cluster.assert_quiet(name);
        assert!(cluster.link(name).carrier_changes().expect("counted") >= 2);
    }
    // No late attempt has changed anything.
    assert!(lost.iter().all(|uuid| cluster.runs(uuid) == [1, 2]));
    cluster.end();
}
