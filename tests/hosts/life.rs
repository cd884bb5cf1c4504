//! Nothing goes wrong: hosts are taken, used, and given back.

use muster_ssh_hosts::{HostOptions, Login, Server, Shell, caller_is_root};

use crate::fixture::{Cluster, Wishes, gate};

const QUICK: Wishes = Wishes { cloud: "    TimeoutIdle: 2s\n", top: "" };

/// The main job: more than the hosts can do at once, of mixed priorities; every one once; the hosts are given back.
#[test]
fn an_array_on_three_hosts() {
    let mut cluster = Cluster::of(3, QUICK);
    cluster.site.start();
    let (gate, until_gate) = gate(&cluster.site);
    let script = format!("hostname; {until_gate}");
    let mut uuids = cluster.site.submit_counted(&["--array", "1-30"], &script);
    uuids.extend(cluster.site.submit_counted(&["--array", "1-10", "--priority", "900", "--vcpus", "2"], &script));
    cluster.wait_until_all_work();
    std::fs::write(&gate, b"").expect("written");
    assert!(
        cluster
            .site
            .run(&[&["wait"], &*uuids.iter().map(String::as_str).collect::<Vec<_>>()].concat())
            .status
            .success()
    );
    cluster.site.assert_once(&uuids);
    let mut where_they_ran: Vec<String> = uuids.iter().map(|uuid| cluster.site.ok(&["logs", uuid])).collect();
    where_they_ran.sort();
    where_they_ran.dedup();
    assert_eq!(where_they_ran, ["ada\n", "bob\n", "cyd\n"]);
    cluster.wait_until_released();
    cluster.site.stop();
    // Nothing that must stay secret is in the log.
    let log = cluster.site.log();
    assert!(!log.contains("PRIVATE KEY") && !log.contains("InstanceSecret="), "{log}");
}

/// Hosts of all kinds run the same job: deployment, sudo, noisy start files, Dropbear, busybox.
#[test]
fn hosts_of_all_kinds() {
    let mut kinds: Vec<fn(HostOptions) -> HostOptions> =
        vec![|options| options.server(Server::Dropbear), HostOptions::noisy_bashrc];
    if caller_is_root() {
        kinds = vec![
            |options| options.login(Login::Worker).noisy_bashrc(),
            |options| options.server(Server::Dropbear).login(Login::Worker).shell(Shell::Sh),
            |options| options.shell(Shell::Busybox),
        ];
    }
    let mut cluster = Cluster::with(&kinds, QUICK);
    cluster.site.start();
    let count = cluster.hosts.len() * 8;
    let (gate, until_gate) = gate(&cluster.site);
    let script = format!("hostname > out; {until_gate}");
    let uuids = cluster.site.submit_counted(&["--array", &format!("1-{count}"), "--output", "out"], &script);
    cluster.wait_until_all_work();
    std::fs::write(&gate, b"").expect("written");
    assert!(
        cluster
            .site
            .run(&[&["wait"], &*uuids.iter().map(String::as_str).collect::<Vec<_>>()].concat())
            .status
            .success()
    );
    cluster.site.assert_once(&uuids);
    let ran_on =
        |uuid: &String| cluster.site.show(uuid)["attempts"][0]["instance"].as_str().unwrap_or_default().to_owned();
    let used: std::collections::BTreeSet<String> = uuids.iter().map(ran_on).collect();
    assert_eq!(used.len(), cluster.hosts.len(), "{used:?}");
    cluster.wait_until_released();
    cluster.site.stop();
}

/// Without root on the host: everything is the login user's.
#[test]
fn without_root() {
    let kinds: [fn(HostOptions) -> HostOptions; 1] =
        [|options| if caller_is_root() { options.login(Login::Worker) } else { options }];
    let mut cluster = Cluster::with(&kinds, QUICK);
    if caller_is_root() {
        cluster.hosts[0].more.push_str(", UseSudo: false");
    }
    cluster.configure(QUICK);
    cluster.site.start();
    if caller_is_root() {
        // Somebody else has it already, through root: without root that is seen, and not what it says.
        let of_root = cluster.host("ada").path("/var/lib/muster-runner");
        std::fs::create_dir_all(&of_root).expect("made");
        std::fs::write(of_root.join("owner"), "another-set-000000000000000\nada 5e\n").expect("written");
        let uuid = cluster.site.submit(&["--", "true"]);
        cluster.site.wait_until("the host is foreign", |site| site.ok(&["instance", "list"]).contains("foreign"));
        assert!(cluster.site.log().contains("that of /var/lib/muster-runner/owner, as root, has it"));
        std::fs::remove_file(of_root.join("owner")).expect("there");
        cluster.site.ok(&["instance", "run", "ada"]);
        assert!(cluster.site.run(&["wait", &uuid]).status.success());
    }
    let uuids = cluster.site.submit_counted(&["--array", "1-4"], "id -un; pwd");
    assert!(
        cluster
            .site
            .run(&[&["wait"], &*uuids.iter().map(String::as_str).collect::<Vec<_>>()].concat())
            .status
            .success()
    );
    cluster.site.assert_once(&uuids);
    let host = &cluster.hosts[0].host;
    let text = cluster.site.ok(&["logs", &uuids[0]]);
    assert!(text.starts_with(&format!("{}\n", host.user())), "{text}");
    let programs = host.path(&format!("{}/.cache/muster-runner/bin", host.home()));
    assert_eq!(std::fs::read_dir(programs).expect("there").count(), 1);
    cluster.site.wait_until("the host is free", |site| site.ok(&["instance", "list"]).is_empty());
    assert!(host.jobs().expect("readable").is_empty());
    cluster.site.stop();
}

/// A restarted daemon, killed or not, goes on with what it had: hosts stay taken, containers go on.
#[test]
fn restarts_adopt_hosts_and_containers() {
    let mut cluster = Cluster::of(2, QUICK);
    cluster.site.start();
    let (gate, script) = gate(&cluster.site);
    let uuids = cluster.site.submit_counted(&["--array", "1-4"], &script);
    for uuid in &uuids {
        cluster.site.wait_state(uuid, "Running");
    }
    assert_eq!(cluster.in_use(), ["ada", "bob"]);
    cluster.site.kill_9();
    cluster.site.start();
    cluster.wait_until_in_use(&["ada", "bob"]);
    cluster.site.stop();
    cluster.site.start();
    std::fs::write(&gate, b"").expect("written");
    assert!(
        cluster
            .site
            .run(&[&["wait"], &*uuids.iter().map(String::as_str).collect::<Vec<_>>()].concat())
            .status
            .success()
    );
    cluster.site.assert_once(&uuids);
    cluster.wait_until_released();
    cluster.site.stop();
}

/// The key pair is made at the first start, shown by `check`, and used.
#[test]
fn first_start_makes_a_key() {
    let mut cluster = Cluster::of(1, QUICK);
    let text = std::fs::read_to_string(cluster.site.config()).expect("there");
    let without = text.lines().filter(|line| !line.contains("DispatchPrivateKey")).collect::<Vec<_>>().join("\n");
    std::fs::write(cluster.site.config(), without).expect("written");
    cluster.site.start();
    let key = std::fs::read_to_string(cluster.site.state_dir().join("ssh/id_ed25519.pub")).expect("made");
    assert!(cluster.site.ok(&["check"]).contains(key.trim()));
    let uuid = cluster.site.submit(&["--", "true"]);
    cluster.site.wait_until("the refusal is logged", |site| site.log().contains("does not accept our key"));
    let status = cluster.site.ok(&["status"]);
    assert!(status.contains("small") || status.contains("capacity"), "{status}");
    cluster.site.ok(&["cancel", &uuid]);
    cluster.site.stop();
}
