//! What a user is told when a host cannot be used: why, and what to do. Each mistake is made, read about, corrected.

use muster_ssh_hosts::{caller_is_root, client_key};

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

/// RAM of this machine, which is that of its hosts.
fn ram() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("readable");
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB"));
    kib.and_then(|kib| kib.trim().parse::<u64>().ok()).expect("a number") << 10
}

/// The same for RAM, below four fifths of what the type says: the host is not used, and given back as faulty.
#[test]
fn a_host_with_much_less_ram_than_its_type() {
    let mut cluster = Cluster::of(1, QUICK);
    let text = std::fs::read_to_string(cluster.site.config()).expect("there");
    let claimed = ram() / 75 * 100;
    std::fs::write(cluster.site.config(), text.replace("RAM: 1GiB", &format!("RAM: {claimed}"))).expect("written");
    cluster.site.start();
    let uuid = cluster.site.submit(&["--", "true"]);
    let both = format!("{} MiB RAM, its type says 2 CPUs and {} MiB", ram() >> 20, claimed >> 20);
    wait_until_told(&mut cluster, &uuid, &["ada", &both, "InstanceTypes"]);
    assert!(cluster.site.has_logged(&["instance has much less than its type says", &claimed.to_string()]));
    assert_ne!(cluster.site.state(&uuid), "Running");
    assert_eq!(cluster.site.show(&uuid)["attempts"], serde_json::json!([]), "nothing was started there");
    cluster.site.ok(&["cancel", &uuid]);
    cluster.site.stop();
}

/// Somewhat less RAM, or less room for files: said once for the type, however many such hosts there are; and they are used.
#[test]
fn hosts_with_somewhat_less_than_their_type() {
    let ram = ram() / 85 * 100;
    for (old, new) in
        [("RAM: 1GiB", format!("RAM: {ram}")), ("IncludedScratch: 1GiB", "IncludedScratch: 900TiB".into())]
    {
        let mut cluster = Cluster::of(2, Wishes { cloud: "    TimeoutIdle: 1h\n", top: "" });
        let text = std::fs::read_to_string(cluster.site.config()).expect("there");
        std::fs::write(cluster.site.config(), text.replace(old, &new)).expect("written");
        cluster.site.start();
        // Each takes a host of its own.
        let gate = cluster.site.folder().join("runs/gate");
        let script = format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display());
        let uuids = cluster.site.submit_counted(&["--array", "1-2", "--vcpus", "2"], &script);
        for uuid in &uuids {
            cluster.site.wait_state(uuid, "Running");
        }
        assert_eq!(cluster.in_use(), ["ada", "bob"]);
        std::fs::write(&gate, b"").expect("written");
        cluster.wait_for(&uuids);
        let log = cluster.site.log();
        let said = log.lines().filter(|line| line.contains("instances of this type have less than it says"));
        assert_eq!(said.count(), 1, "{new}: {log}");
        assert!(!log.contains("much less") && !log.contains("drain"), "{new}: {log}");
        cluster.site.stop();
    }
}

/// Commands in a host, as its root.
fn inside(cluster: &Cluster, name: &str, script: &str) {
    let output = cluster.host(name).command_inside("sh").args(["-ec", script]).output().expect("starts");
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Locks that cannot be taken, from the start: the directory is named, nothing is started there; repaired, all goes on.
#[test]
fn a_lock_directory_that_is_read_only() {
    if !caller_is_root() {
        // Without root the runner's locks are elsewhere, and nobody may mount.
        return;
    }
    let cloud = "    TimeoutIdle: 2s\n    ProbeInterval: 1s\n    TimeoutBooting: 10m\n";
    let mut cluster = Cluster::of(1, Wishes { cloud, top: "" });
    inside(&cluster, "ada", "mount -t tmpfs -o ro none /run/lock");
    cluster.site.start();
    let uuid = cluster.site.submit(&["--", "true"]);
    cluster.site.wait_until("the directory is named", |site| {
        site.has_logged(&["run probe failed", "/run/lock/crunch-run-all.lock: Read-only file system", "Instance=ada"])
    });
    assert_eq!(cluster.site.show(&uuid)["attempts"], serde_json::json!([]), "nothing was started there");
    inside(&cluster, "ada", "umount /run/lock");
    cluster.wait_for(&[uuid]);
    cluster.wait_until_released();
    cluster.site.stop();
}

/// It becomes read-only while a container runs: that one ends well, and no other loses an attempt there; they go to another host.
#[test]
fn a_lock_directory_that_becomes_read_only() {
    if !caller_is_root() {
        // As above.
        return;
    }
    let mut cluster = Cluster::of(2, Wishes { cloud: "    TimeoutIdle: 1h\n    ProbeInterval: 1s\n", top: "" });
    // Something to be made read-only.
    inside(&cluster, "ada", "mount -t tmpfs -o mode=1777 none /run/lock");
    cluster.site.start();
    let gate = cluster.site.folder().join("runs/gate");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display());
    let held = cluster.site.submit_counted(&["--array", "1-2", "--vcpus", "2"], &script);
    for uuid in &held {
        cluster.site.wait_state(uuid, "Running");
    }
    inside(&cluster, "ada", "mount -o remount,ro /run/lock");
    cluster.site.wait_until("it is said", |site| {
        let why = "nothing can be written in /run/lock: Read-only file system";
        site.has_logged(&["instance reports itself broken; draining it", "Instance=ada", why])
    });
    let more = cluster.site.submit_counted(&["--array", "1-6"], "true");
    std::fs::write(&gate, b"").expect("written");
    cluster.wait_for(&[held, more.clone()].concat());
    for uuid in &more {
        let attempts = cluster.site.show(uuid)["attempts"].clone();
        assert_eq!(attempts.as_array().map(Vec::len), Some(1), "{attempts}");
        assert_eq!(attempts[0]["instance"], "bob");
    }
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
