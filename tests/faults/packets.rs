//! Packets that get lost: some of them, and all of them.

use crate::fixture::{Cluster, DROPBEAR, FAULTY, OPENSSH};

/// A host is not written off for being slow.
const PATIENT: &str = "    TimeoutIdle: 1h\n    ProbeInterval: 2s\n    TimeoutProbe: 10m\n";

/// Every seventh packet or so gets lost, both ways: everything takes longer, and happens once.
#[test]
fn some_packets_are_lost() {
    let mut cluster = Cluster::linked(&[OPENSSH, DROPBEAR], PATIENT);
    cluster.site.start();
    // The hosts have the runner, and connections.
    let held = cluster.held(4);
    let before = cluster.retransmitted();
    for name in FAULTY {
        cluster.link(name).lose(15).expect("lost");
    }
    let more =
        cluster.submit(&["--array", "1-4", "--max-attempts", "10", "--output", "out"], "head -c 5000 /dev/zero > out");
    FAULTY.iter().for_each(|name| cluster.open_gate(name));
    // Until enough is lost, and not until all is done: how often the same packet is lost is chance, and its sender waits twice as long each time.
    for name in FAULTY {
        cluster.wait_until(&format!("some packets of {name} are lost and sent again"), |cluster| {
            let (there, back) = cluster.link(name).lost().expect("counted");
            there > 3 && back > 3 && cluster.retransmitted() > before
        });
    }
    for name in FAULTY {
        cluster.link(name).heal().expect("healed");
    }
    cluster.wait_for_all(&held);
    cluster.wait_for_all(&more);
    cluster.assert_undisturbed(&held);
    cluster.assert_last_attempt_only(&more);
    for uuid in &more {
        let out = cluster.site.state_dir().join(format!("containers/{uuid}/{}/outputs/out", cluster.attempt(uuid)));
        assert_eq!(std::fs::read(&out).expect("there"), vec![0; 5000]);
    }
    assert!(!cluster.site.log().contains("unresponsive"), "{}", cluster.site.log());
    cluster.end();
}

/// From one packet to the next nothing comes through, while a list is waited for and a start is being sent: each finds out by itself that
/// the link is dead (TCP_USER_TIMEOUT, 30 s, spec 45 §3) before its deadline of 60 s; nothing is sent twice, and what ran runs on.
#[test]
fn a_black_hole_in_the_middle_of_commands() {
    let mut cluster = Cluster::linked(&[OPENSSH, DROPBEAR], PATIENT);
    cluster.site.start();
    let held = cluster.held(4);
    let mut kept = held.clone();
    for name in FAULTY {
        let one = held.iter().find(|uuid| cluster.place(uuid) == name).expect("two each");
        cluster.site.ok(&["cancel", one]);
        cluster.site.wait_state(one, "Cancelled");
        kept.retain(|uuid| uuid != one);
    }
    let before = cluster.retransmitted();
    for name in FAULTY {
        cluster.link(name).lose(100).expect("lost");
    }
    // On the connections that the kills have just used.
    let more = cluster.submit(&["--array", "1-2", "--max-attempts", "10"], "true");
    for name in FAULTY {
        cluster.wait_until_said(name, "run probe failed");
        assert!(!cluster.has_said(name, "deadline"), "the link is found dead before that\n{}", cluster.site.log());
        // Not long enough for the host to be written off, and nobody waits for what cannot be seen.
        assert!(cluster.line(name).is_some_and(|line| line.contains("running")));
    }
    assert!(cluster.retransmitted() > before, "commands were sent again and again");
    for name in FAULTY {
        let (there, _) = cluster.link(name).heal().expect("healed");
        assert!(there > 0, "{name}");
    }
    cluster.wait_for_all(&more);
    // A start that was lost was none; its attempt was ruled out on the host before there was another.
    cluster.assert_last_attempt_only(&more);
    FAULTY.iter().for_each(|name| cluster.open_gate(name));
    cluster.wait_for_all(&kept);
    cluster.assert_undisturbed(&kept);
    assert!(!cluster.site.log().contains("unresponsive"), "{}", cluster.site.log());
    cluster.end();
}
