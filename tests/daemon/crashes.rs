//! `kill -9` of the daemon: at each named point, at many moments, and while containers run. Nothing is lost, nothing runs twice.

use std::time::Duration;

use muster::shell::fault_point::{FaultPoint, VARIABLE};

use crate::harness::Site;

fn words(uuids: &[String]) -> Vec<&str> {
    uuids.iter().map(String::as_str).collect()
}

/// Injected stops: after each named step, at its first and at a later occurrence.
#[test]
fn at_each_named_point() {
    for point in FaultPoint::ALL {
        for count in [1, 4] {
            if point == FaultPoint::CreateWritten && count > 1 {
                // This host is created once.
                continue;
            }
            let mut site = Site::new();
            site.start_with(&[(VARIABLE, &format!("{}:{count}", point.as_str()))]);
            // A submission that the stop has cut off is repeated with its token.
            let script = site.mark();
            let submit = ["submit", "--token", "once", "--array", "1-8", "--", "sh", "-c", &script];
            if !site.is_dead() {
                site.run(&submit);
            }
            site.wait_until(&format!("the stop at {}", point.as_str()), Site::is_dead);
            let status = site.reap();
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{}", point.as_str());
            site.start();
            let uuids: Vec<String> = site.ok(&submit).lines().map(str::to_owned).collect();
            site.ok(&[&["wait"][..], &words(&uuids)].concat());
            site.assert_once(&uuids);
            for uuid in &uuids {
                assert_eq!(site.show(uuid)["container"]["attempt"], 1, "{}: {:#}", point.as_str(), site.show(uuid));
            }
            site.stop();
        }
    }
}

/// Fifty moments, spread over the life of the containers by when the previous start was ready.
#[test]
fn at_fifty_moments() {
    let mut site = Site::started();
    let uuids = site.submit_counted(&["--array", "1-200"], "sleep 0.05");
    // A small linear congruential generator: the moments differ and are the same in each run.
    let mut random: u64 = 12345;
    for _ in 0..50 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::park_timeout(Duration::from_millis(random >> 56));
        site.kill_9();
        site.start();
    }
    site.ok(&[&["wait"][..], &words(&uuids)].concat());
    site.assert_once(&uuids);
    site.stop();
}

#[test]
fn what_runs_is_adopted_and_what_ended_meanwhile_is_collected() {
    let mut site = Site::started();
    let gate = site.folder().join("runs/gate");
    let long =
        site.submit_counted(&[], &format!("while [ ! -e {} ]; do sleep 0.05; done; echo adopted", gate.display()));
    site.wait_state(&long[0], "Running");
    let meanwhile = site.folder().join("runs/meanwhile");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done; echo alone", meanwhile.display());
    let short = site.submit_counted(&[], &script);
    site.wait_state(&short[0], "Running");
    site.kill_9();
    std::fs::write(&meanwhile, b"").expect("written");
    let lock = site.state_dir().join(format!("loopback/lock/crunch-run-{}.lock", short[0]));
    site.wait_until("it ends while nobody watches", |_| !runner_lives(&lock));
    site.start();
    site.ok(&["wait", &short[0]]);
    assert_eq!(site.ok(&["logs", &short[0]]), "alone\n");
    assert_eq!(site.state(&long[0]), "Running");
    std::fs::write(&gate, b"").expect("written");
    site.ok(&["wait", &long[0]]);
    assert_eq!(site.ok(&["logs", &long[0]]), "adopted\n");
    site.assert_once(&[long, short].concat());
    site.stop();
}

/// The runner that holds this lock is alive.
fn runner_lives(lock: &std::path::Path) -> bool {
    let text = std::fs::read_to_string(lock).unwrap_or_default();
    let pid = serde_json::from_str::<serde_json::Value>(&text).ok().and_then(|lock| lock["PID"].as_i64());
    pid.is_some_and(|pid| std::path::Path::new(&format!("/proc/{pid}/exe")).exists())
}

/// A runner that dies without a result costs an attempt, and the container gets another one.
#[test]
fn a_runner_that_is_killed_costs_one_attempt() {
    let mut site = Site::started();
    let gate = site.folder().join("runs/gate");
    let uuids = site.submit_counted(&[], &format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display()));
    let uuid = &uuids[0];
    site.wait_state(uuid, "Running");
    // The runner has its lock before it starts the job.
    site.wait_until("the job has begun", |site| site.runs_of(uuid) == 1);
    let lock = site.state_dir().join(format!("loopback/lock/crunch-run-{uuid}.lock"));
    let text = std::fs::read_to_string(&lock).expect("locked");
    let pid = serde_json::from_str::<serde_json::Value>(&text).expect("JSON")["PID"].as_i64().expect("a number");
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("small")).expect("not 0");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it lives");
    site.wait_until("a second attempt runs", |site| {
        let container = site.show(uuid)["container"].clone();
        container["attempt"] == 2 && container["state"] == "Running"
    });
    std::fs::write(&gate, b"").expect("written");
    site.ok(&["wait", uuid]);
    let detail = site.show(uuid);
    assert_eq!(detail["attempts"].as_array().map(Vec::len), Some(2), "{detail:#}");
    assert_ne!(detail["attempts"][0]["ended_because"], "", "{detail:#}");
    assert_eq!(site.runs_of(uuid), 2);
    site.stop();
}

/// SIGTERM leaves containers running; the next start adopts them.
#[test]
fn stopping_leaves_containers_running() {
    let mut site = Site::started();
    let gate = site.folder().join("runs/gate");
    let uuids = site.submit_counted(&[], &format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display()));
    site.wait_state(&uuids[0], "Running");
    site.stop();
    assert!(!site.log().contains("threads are late"), "{}", site.log());
    std::fs::write(&gate, b"").expect("written");
    site.start();
    site.ok(&["wait", &uuids[0]]);
    site.assert_once(&uuids);
    site.stop();
}
