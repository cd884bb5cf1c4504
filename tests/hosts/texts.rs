//! What a user is told when a host cannot be used: why, and what to do. Each mistake is made, read about, corrected.

use muster_ssh_hosts::client_key;

use crate::fixture::{Cluster, Wishes};
use crate::harness::Site;

const QUICK: Wishes = Wishes { cloud: "    TimeoutIdle: 2s\n", top: "" };

/// The texts about a waiting container, in all places where a user looks.
fn told(site: &Site, uuid: &str) -> [String; 3] {
    let show = site.show(uuid)["container"]["explanation"].as_str().unwrap_or_default().to_owned();
    [show, site.ok(&["status"]), site.ok(&["instance", "list"])]
}

fn wait_until_told(cluster: &mut Cluster, uuid: &str, words: &[&str]) {
    let is_told = |site: &mut Site| told(site, uuid).iter().all(|text| words.iter().all(|word| text.contains(word)));
    cluster.site.wait_until(&format!("{words:?} are in all three texts"), is_told);
}

/// The most frequent mistake: the public key is not on the host. Corrected, the host is used at once when the operator says so.
#[test]
fn a_key_that_is_not_accepted() {
    let mut cluster = Cluster::of(1, QUICK);
    let host = cluster.host("ada");
    let keys = host.path(&format!("{}/.ssh/authorized_keys", host.home()));
    let other = client_key().expect("made");
    std::fs::write(&keys, format!("{}\n", other.public())).expect("written");
    cluster.site.start();
    let uuid = cluster.site.submit(&["--", "true"]);
    wait_until_told(&mut cluster, &uuid, &["ada", "does not accept our key", "authorized_keys", "`muster check`"]);
    let status = cluster.site.ok(&["status"]);
    assert!(status.contains("`muster instance run ada`"), "{status}");

    std::fs::write(&keys, format!("{}\n", cluster.key.public())).expect("written");
    cluster.site.ok(&["instance", "run", "ada"]);
    assert!(cluster.site.run(&["wait", &uuid]).status.success());
    let (code, text) = cluster.site.fails(&["instance", "run", "nobody"]);
    assert_eq!(code, 1, "{text}");
    let status = cluster.site.ok(&["status"]);
    assert!(!status.contains("unusable"), "{status}");
    cluster.wait_until_released();
    cluster.site.stop();
}

/// A type that promises more than the host has: the numbers are told.
#[test]
fn a_host_that_is_smaller_than_its_type() {
    let mut cluster = Cluster::of(1, QUICK);
    let text = std::fs::read_to_string(cluster.site.config()).expect("there");
    std::fs::write(cluster.site.config(), text.replace("VCPUs: 2", "VCPUs: 4000")).expect("written");
    cluster.site.start();
    let uuid = cluster.site.submit(&["--", "true"]);
    wait_until_told(&mut cluster, &uuid, &["ada", "its type says 4000 CPUs", "InstanceTypes"]);
    cluster.site.ok(&["cancel", &uuid]);
    cluster.site.stop();
}

/// Nobody listens; a name that nobody knows: what the system says is passed on.
#[test]
fn addresses_that_lead_nowhere() {
    let mut cluster = Cluster::of(2, QUICK);
    let text = std::fs::read_to_string(cluster.site.config()).expect("there");
    let (ada, bob) = (cluster.host("ada").address(), cluster.host("bob").address());
    let text = text.replace(&ada, "127.0.0.1:1").replace(&bob, "no-such-host.invalid:22");
    std::fs::write(cluster.site.config(), text).expect("written");
    cluster.site.start();
    let uuid = cluster.site.submit(&["--", "true"]);
    let both = |site: &mut Site| site.ok(&["instance", "list"]).matches("not used for").count() == 2;
    cluster.site.wait_until("both were tried", both);
    let [show, status, list] = told(&cluster.site, &uuid);
    assert!(show.contains("unreachable") && show.contains("1 more"), "{show}");
    for text in [status, list] {
        assert!(text.contains("Connection refused") && text.contains("no-such-host.invalid"), "{text}");
    }
    cluster.site.ok(&["cancel", &uuid]);
    cluster.site.stop();
}
