//! Hosts that stop answering, that change, or that belong to somebody else.

use crate::fixture::{Cluster, Wishes, attempts_run, gate, mark};

const QUICK: Wishes = Wishes { cloud: "    TimeoutIdle: 2s\n    ProbeInterval: 1s\n", top: "" };

/// A host whose server stands still: written off after its timeout, its containers get a new attempt elsewhere; it is shown as
/// unreachable, and not given out before it was cleaned up.
#[test]
fn a_host_that_stands_still() {
    // Long enough for the other host on a busy machine, short enough to wait for.
    let cloud = "    TimeoutIdle: 2s\n    TimeoutProbe: 20s\n    ProbeInterval: 1s\n";
    let mut cluster = Cluster::of(2, Wishes { cloud, top: "" });
    cluster.site.start();
    let gate = cluster.site.folder().join("runs/gate");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display());
    let held = cluster.site.submit_counted(&["--array", "1-4"], &script);
    for uuid in &held {
        cluster.site.wait_state(uuid, "Running");
    }
    cluster.host("ada").stop_server().expect("stops");
    cluster.site.wait_until("the host is written off", |site| {
        site.ok(&["instance", "list"]).lines().any(|line| line.starts_with("ada\t") && line.contains("unreachable"))
    });
    // Two of four have lost their attempt, as soon as that is committed; the others run on.
    let not_running = |site: &mut crate::harness::Site| {
        let lost = held.iter().filter(|uuid| site.state(uuid) != "Running");
        lost.cloned().collect::<Vec<String>>()
    };
    cluster.site.wait_until("two attempts are lost", |site| not_running(site).len() == 2);
    let lost = not_running(&mut cluster.site);
    std::fs::write(&gate, b"").expect("written");
    assert!(
        cluster.site.run(&[&["wait"], &*held.iter().map(String::as_str).collect::<Vec<_>>()].concat()).status.success()
    );
    for uuid in &lost {
        assert_eq!(cluster.site.show(uuid)["container"]["attempt"], 2, "a second attempt");
    }
    assert!(cluster.line("ada").is_some_and(|line| line.contains("unreachable")));
    cluster.host("ada").continue_server().expect("continues");
    let cleaned = |site: &mut crate::harness::Site| site.has_logged(&["host cleaned up", "Instance=ada"]);
    cluster.site.wait_until("the host is cleaned up", cleaned);
    assert!(cluster.host("ada").jobs().expect("readable").is_empty());
    assert!(!cluster.runner_dir("ada").join("owner").exists());
    // It stopped answering: not given out for a minute.
    assert!(cluster.line("ada").is_some_and(|line| line.contains("failed")), "{:?}", cluster.line("ada"));
    cluster.site.stop();
}

/// Somebody has removed the owner file, or another dispatcher has the host now: starts would be refused there one after the other, and each
/// would cost its container an attempt. The host is given up instead, and the work goes to another.
#[test]
fn a_host_that_is_not_ours_any_more() {
    let mut cluster = Cluster::of(2, Wishes { cloud: "    TimeoutIdle: 1h\n    ProbeInterval: 1s\n", top: "" });
    cluster.site.start();
    let (gate, script) = gate(&cluster.site);
    let first = cluster.site.submit_counted(&["--array", "1-4"], &script);
    cluster.wait_until_all_work();
    std::fs::write(&gate, b"").expect("written");
    cluster.wait_for(&first);
    assert_eq!(cluster.in_use(), ["ada", "bob"]);
    let owner = cluster.runner_dir("ada").join("owner");
    std::fs::write(&owner, "another-set-000000000000000\nada 5e\n").expect("written");
    let given_up = |site: &mut crate::harness::Site| {
        let says = |line: &str| line.contains("host is not ours any more") && line.contains("Instance=ada Address=");
        site.log().lines().any(says)
            && site.ok(&["instance", "list"]).lines().any(|line| line.starts_with("ada\t") && line.contains("foreign"))
    };
    cluster.site.wait_until("the host is given up", given_up);
    let more = cluster.site.submit_counted(&["--array", "1-12"], "true");
    cluster.wait_for(&more);
    for uuid in &more {
        assert_eq!(cluster.site.show(uuid)["container"]["attempt"], 1, "{}", cluster.site.log());
    }
    assert!(std::fs::read_to_string(&owner).expect("there").starts_with("another-set"), "it is theirs");
    std::fs::remove_file(&owner).expect("there");
    cluster.site.stop();
}

/// A host stands still with a probe, a start and a kill under way there: the other starts containers as ever until the first is written
/// off, and then has those of the first, too.
#[test]
fn a_host_that_stands_still_delays_no_other() {
    let mut cluster = Cluster::of(
        2,
        Wishes { cloud: "    TimeoutIdle: 1h\n    TimeoutProbe: 20s\n    ProbeInterval: 1s\n", top: "" },
    );
    let site = &mut cluster.site;
    site.start();
    let gate = |name: &str, site: &crate::harness::Site| site.folder().join("runs/gate-").display().to_string() + name;
    let script = format!("{}; while [ ! -e {}$(hostname) ]; do sleep 0.05; done", mark(site), gate("", site));
    let submit = |count: u32, site: &crate::harness::Site| -> Vec<String> {
        let text = site.ok(&["submit", "--array", &format!("1-{count}"), "--", "sh", "-c", &script]);
        text.lines().map(str::to_owned).collect()
    };
    let instance = |uuid: &str, site: &crate::harness::Site| site.show(uuid)["container"]["instance"].clone();
    let held = submit(4, site);
    for uuid in &held {
        site.wait_state(uuid, "Running");
    }
    let (of_ada, of_bob): (Vec<String>, Vec<String>) = held.into_iter().partition(|uuid| instance(uuid, site) == "ada");
    // A place is free on the one that is going to stand still, and only there.
    site.ok(&["cancel", &of_ada[0]]);
    site.wait_state(&of_ada[0], "Cancelled");
    cluster.host("ada").stop_server().expect("stops");
    let site = &mut cluster.site;
    let hangs = submit(1, site).remove(0);
    // Ordered, and perhaps behind the removal of the result before, which then hangs as well.
    let start = |line: &str| ["starting container", "Instance=ada", &hangs].iter().all(|words| line.contains(words));
    site.wait_until("a start hangs", |site| site.log().lines().any(start));
    site.ok(&["cancel", &of_ada[1]]);
    std::fs::write(gate("bob", site), b"").expect("written");

    let unreachable = |site: &crate::harness::Site| {
        site.ok(&["instance", "list"]).lines().any(|line| line.starts_with("ada\t") && line.contains("unreachable"))
    };
    let mut done = Vec::new();
    while !unreachable(site) {
        let uuid = submit(1, site).remove(0);
        assert!(site.run(&["wait", &uuid]).status.success());
        assert_eq!(instance(&uuid, site), "bob");
        done.push(uuid);
    }
    // With something of the one in the way of the other there would be one at most. Usually it is a hundred.
    assert!(done.len() > 3, "{}\n{}", done.len(), site.log());
    for uuid in done.iter().chain(&of_bob) {
        site.wait_state(uuid, "Complete");
        assert_eq!(attempts_run(site, uuid), [1]);
    }
    // The start that hung was never carried out; what was to be killed counts as ended with its host.
    site.ok(&["wait", &hangs]);
    assert_eq!(attempts_run(site, &hangs).len(), 1, "{:#}", site.show(&hangs));
    assert_eq!(instance(&hangs, site), "bob");
    site.wait_state(&of_ada[1], "Cancelled");
    assert_eq!(attempts_run(site, &of_ada[1]), [1]);
    cluster.host("ada").continue_server().expect("continues");
    cluster.site.wait_until("the host is clean", |site| site.has_logged(&["host cleaned up", "Instance=ada"]));
    assert!(cluster.host("ada").jobs().expect("readable").is_empty());
    cluster.site.stop();
}

/// The server is killed and comes back soon: nobody loses anything.
#[test]
fn a_server_that_restarts() {
    let mut cluster = Cluster::of(1, Wishes { cloud: "    TimeoutIdle: 2s\n", top: "" });
    cluster.site.start();
    let gate = cluster.site.folder().join("runs/gate");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display());
    let uuids = cluster.site.submit_counted(&["--array", "1-2"], &script);
    for uuid in &uuids {
        cluster.site.wait_state(uuid, "Running");
    }
    cluster.host("ada").kill_server().expect("killed");
    cluster.site.wait_until("the daemon has noticed", |site| site.log().contains("run probe failed"));
    cluster.host("ada").restart().expect("starts");
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

/// Another key than the known one: nothing is sent, the log says so loudly, the job goes elsewhere.
#[test]
fn a_host_with_another_key() {
    let mut cluster = Cluster::of(2, QUICK);
    cluster.host("ada").restart_with_new_keys().expect("starts");
    cluster.site.start();
    let uuids = cluster.site.submit_counted(&["--array", "1-3"], "hostname");
    assert!(
        cluster
            .site
            .run(&[&["wait"], &*uuids.iter().map(String::as_str).collect::<Vec<_>>()].concat())
            .status
            .success()
    );
    cluster.site.assert_once(&uuids);
    assert!(uuids.iter().all(|uuid| cluster.site.ok(&["logs", uuid]) == "bob\n"));
    assert!(cluster.site.log().contains("host key of"), "{}", cluster.site.log());
    assert!(!cluster.host("ada").log().contains("Accepted"));
    cluster.site.stop();
}

/// Trust on first use: the key is pinned with a warning, kept across restarts, and another one is refused.
#[test]
fn trust_on_first_use() {
    let mut cluster = Cluster::of(1, QUICK);
    cluster.hosts[0].more.push_str(", TrustOnFirstUse: true");
    cluster.configure(QUICK);
    cluster.site.start();
    let uuid = cluster.site.submit(&["--", "true"]);
    assert!(cluster.site.run(&["wait", &uuid]).status.success());
    assert!(cluster.site.has_logged(&["level=warn", "SHA256:"]));
    cluster.wait_until_released();
    cluster.site.stop();
    cluster.host("ada").restart_with_new_keys().expect("starts");
    cluster.site.start();
    let uuid = cluster.site.submit(&["--", "true"]);
    cluster.site.wait_until("the change is refused", |site| site.log().contains("host key of"));
    assert_ne!(cluster.site.state(&uuid), "Complete");
    cluster.site.ok(&["cancel", &uuid]);
    cluster.site.stop();
}

/// Two dispatchers with the same host: one has it, the other says so and leaves it alone.
#[test]
fn a_host_of_another_dispatcher() {
    let mut first = Cluster::of(1, Wishes { cloud: "    TimeoutIdle: 1h\n", top: "" });
    first.site.start();
    let uuid = first.site.submit(&["--", "true"]);
    assert!(first.site.run(&["wait", &uuid]).status.success());

    let mut second = crate::harness::Site::new();
    let text = std::fs::read_to_string(first.site.config()).expect("there");
    let place = |site: &crate::harness::Site| site.state_dir().display().to_string();
    std::fs::write(second.config(), text.replace(&place(&first.site), &place(&second))).expect("written");
    second.start();
    let uuid = second.submit(&["--", "true"]);
    second.wait_until("the owner is named", |site| site.log().contains("foreign"));
    assert!(["Queued", "Locked"].contains(&second.state(&uuid).as_str()));
    assert!(second.ok(&["instance", "list"]).contains("foreign"));
    second.ok(&["cancel", &uuid]);
    second.stop();

    let uuid = first.site.submit(&["--", "true"]);
    assert!(first.site.run(&["wait", &uuid]).status.success());
    first.site.stop();
}
