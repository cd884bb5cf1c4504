//! Large results whose way is interrupted.

use std::process::Command;

use crate::fixture::{Cluster, DROPBEAR, FAULTY, OPENSSH};

const BYTES: u64 = 10_000_000;
/// In the middle of the archive.
const PASSED: u64 = 4_000_000;

/// The way back breaks in the middle of two results of 10 MB. One link is healed as soon as something got lost: the same transfer goes
/// on. The other stays as it is until the transfer has failed: what was there is thrown away and all of it fetched anew. Each result is
/// there once, and whole.
#[test]
fn a_link_breaks_while_results_come() {
    let cloud = "    TimeoutIdle: 1h\n    ProbeInterval: 2s\n    TimeoutProbe: 10m\n";
    let mut cluster = Cluster::linked(&[OPENSSH, DROPBEAR, OPENSSH], cloud);
    cluster.site.start();
    let script = format!("head -c {BYTES} /dev/urandom > big; sha256sum < big; {}", cluster.until_gate());
    let uuids = cluster.submit(&["--array", "1-3", "--vcpus", "2", "--output", "big"], &script);
    for uuid in &uuids {
        cluster.site.wait_state(uuid, "Running");
    }
    for name in FAULTY {
        cluster.link(name).lose_after(PASSED).expect("set");
    }
    // Both servers are the one that is healed at once, and the one that is not: cyd is another OpenSSH.
    cluster.link("cyd").lose_after(PASSED).expect("set");
    ["ada", "bob", "cyd"].iter().for_each(|name| cluster.open_gate(name));
    for name in ["ada", "bob", "cyd"] {
        cluster
            .wait_until("packets of the result get lost", |cluster| cluster.link(name).lost().expect("counted").1 > 2);
    }
    assert!(uuids.iter().all(|uuid| cluster.site.state(uuid) == "Running"), "no part of a result is one");
    cluster.link("cyd").heal().expect("healed");
    for name in FAULTY {
        cluster.wait_until_said(name, "collecting the result failed");
        assert!(
            uuids.iter().filter(|uuid| cluster.place(uuid) == name).all(|uuid| cluster.site.state(uuid) == "Running")
        );
        cluster.link(name).heal().expect("healed");
    }
    cluster.wait_for_all(&uuids);
    cluster.assert_undisturbed(&uuids);
    assert!(!cluster.has_said("cyd", "collecting the result failed"), "{}", cluster.site.log());
    for uuid in &uuids {
        assert_whole(&cluster, uuid);
    }
    cluster.end();
}

fn assert_whole(cluster: &Cluster, uuid: &str) {
    let folder = cluster.site.state_dir().join("containers").join(uuid);
    let attempts: Vec<_> =
        std::fs::read_dir(&folder).expect("there").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(attempts, ["1"], "once, and nothing of what was thrown away");
    let big = folder.join("1/outputs/big");
    assert_eq!(std::fs::metadata(&big).expect("there").len(), BYTES);
    let sum = Command::new("sha256sum").stdin(std::fs::File::open(&big).expect("there")).output().expect("runs").stdout;
    assert_eq!(cluster.site.ok(&["logs", uuid]), String::from_utf8(sum).expect("text"));
    let ended = format!("msg=\"container finished\" ContainerUUID={uuid}");
    assert_eq!(cluster.site.log().matches(&ended).count(), 1);
}
