//! Links that are slow, hand out bytes in pieces, and break after some thousand of them.

use std::time::Duration;

use crate::fixture::{Cluster, DROPBEAR, FAULTY, OPENSSH, Wish};

const PATIENT: &str = "    TimeoutIdle: 1h\n    ProbeInterval: 1s\n    TimeoutProbe: 10m\n";
const DELAY: Duration = Duration::from_millis(50);

/// 50 ms each way and pieces of any length: everything works, only later.
#[test]
fn late_and_in_pieces() {
    let mut cluster = Cluster::proxied(&[OPENSSH, DROPBEAR], PATIENT);
    cluster.site.start();
    // The runner's program is there: Dropbear takes 24 KB in a round trip, so that alone would be half a minute.
    let held = cluster.held(4);
    for (name, proxy) in FAULTY.iter().zip(&cluster.proxies) {
        // A connection that is cut between two probes is simply made anew: until one is cut in a probe.
        cluster.wait_until(&format!("a probe of {name} is cut"), |cluster| {
            proxy.cut();
            cluster.has_said(name, "run probe failed")
        });
        proxy.delay(DELAY);
        proxy.chop(64);
        // What comes next has to connect anew.
        proxy.cut();
    }
    let before = cluster.proxies[0].bytes();
    FAULTY.iter().for_each(|name| cluster.open_gate(name));
    let more = cluster.submit(&["--array", "1-8", "--output", "out"], "head -c 10000 /dev/zero > out");
    cluster.wait_for_all(&held);
    cluster.wait_for_all(&more);
    cluster.assert_undisturbed(&held);
    cluster.assert_undisturbed(&more);
    for trouble in ["start command failed", "collecting the result failed", "unresponsive"] {
        assert!(!cluster.site.log().contains(trouble), "{}", cluster.site.log());
    }
    assert!(cluster.proxies[0].bytes().1 > before.1 + 10_000, "the results came in pieces");
    cluster.end();
}

/// Each connection breaks after a number of bytes of its own: in the middle of the handshake, a list, a start, an archive, wherever that
/// happens to be. A list that was cut is a failed probe and not a short list: what runs all the time loses no attempt by it. What is started
/// meanwhile may lose attempts, but none runs twice.
#[test]
fn cut_anywhere_with_openssh() {
    cut_anywhere(OPENSSH);
}

#[test]
fn cut_anywhere_with_dropbear() {
    cut_anywhere(DROPBEAR);
}

/// Little enough for many of them on one host.
const TINY: [&str; 4] = ["--vcpus", "0", "--ram", "16MiB"];
const CUTS: u64 = 25;

fn cut_anywhere(server: Wish) {
    let mut cluster = Cluster::proxied(&[server], PATIENT);
    cluster.site.start();
    // Enough of them for lists of several kilobytes.
    let held = cluster.submit(&[&TINY[..], &["--array", "1-20"]].concat(), &cluster.until_gate());
    for uuid in &held {
        cluster.site.wait_state(uuid, "Running");
    }
    cluster.proxies[0].delay(Duration::from_millis(2));
    cluster.proxies[0].wear_out(1_500, 30_000);
    let options = [&TINY[..], &["--array", "1-4", "--max-attempts", "100", "--output", "out"]].concat();
    let mut more = Vec::new();
    let worn_out =
        |cluster: &Cluster| cluster.proxies[0].worn_out() >= CUTS && cluster.has_said("ada", "run probe failed");
    while !worn_out(&cluster) {
        let some = cluster.submit(&options, "head -c 3000 /dev/urandom > out");
        // A result that was cut is fetched again after a while, which grows: others are started meanwhile.
        let next = cluster.proxies[0].worn_out() + 4;
        let done = |cluster: &Cluster| some.iter().all(|uuid| cluster.site.state(uuid) == "Complete");
        let cut = |cluster: &Cluster| cluster.proxies[0].worn_out() >= next;
        cluster.wait_until("connections are used", |cluster| cut(cluster) || done(cluster));
        more.extend(some);
    }
    assert!(held.iter().all(|uuid| cluster.site.state(uuid) == "Running"), "{}", cluster.site.log());
    assert!(!cluster.site.log().contains("does not accept our key"), "{}", cluster.site.log());
    cluster.proxies[0].resume();
    cluster.open_gate("ada");
    cluster.wait_for_all(&held);
    cluster.assert_undisturbed(&held);
    cluster.wait_for_all(&more);
    for uuid in &more {
        let runs = cluster.runs(uuid);
        assert_eq!(runs, [cluster.attempt(uuid)], "{:#}\n{}", cluster.site.show(uuid), cluster.site.log());
        let out = cluster.site.state_dir().join(format!("containers/{uuid}/{}/outputs/out", runs[0]));
        assert_eq!(std::fs::metadata(&out).expect("there").len(), 3000);
    }
    cluster.end();
}
