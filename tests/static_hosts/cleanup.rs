//! Destroy cleans up before it frees: real runners with real jobs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::bounded;
use muster::cloud::CloudEvent;
use muster::core::effect::Ending;
use muster::core::ids::TypeName;
use muster::core::settings::COMMAND_DEADLINE;
use muster::core::worker::listing::RunnerState;
use muster::remote::runner::RunnerPlaces;
use muster::remote::wake::Wake;

use crate::fake::{When, wait_until};
use crate::site::{OTHER_SET, SET, Site, log_has, start_job, uuid};

/// TERM to our runners there, what is finished forgotten; the secret, the broken mark and the owner file go. Another dispatcher's
/// runners on the same host are not touched.
#[test]
fn what_is_ours_is_ended_and_removed() {
    let mut site = Site::new(&[("clean1", "big")]);
    let driver = site.open();
    driver.created("big");
    let host = site.host("clean1");
    let runner = driver.deployed("clean1");
    let wake = Wake::new().expect("a descriptor");
    let ours = || runner.list(None, Duration::ZERO, COMMAND_DEADLINE, &wake).expect("a list").runners;
    // One that says when TERM comes, one that is deaf to it, one that has finished.
    let out = host.open_folder("out");
    let deaf_until_told = "while :; do sleep 0.1; done";
    start_job(
        &runner,
        1,
        &format!("cd {}; trap 'echo TERM > said; exit 0' TERM; touch began; {deaf_until_told}", out.display()),
    );
    start_job(&runner, 2, "trap '' TERM; while :; do sleep 0.1; done");
    start_job(&runner, 3, "true");
    wait_until("one has finished", || ours().get(&uuid(3)).is_some_and(|one| one.state == RunnerState::Finished));
    let mut theirs = runner.clone();
    theirs.set = OTHER_SET.into();
    theirs.places = Arc::new(RunnerPlaces { lease: None, ..(*theirs.places).clone() });
    start_job(&theirs, 4, "while :; do sleep 0.1; done");
    std::fs::write(host.path("secret"), "x").expect("written");
    std::fs::write(host.path("lock/crunch-run-broken"), "").expect("written");
    wait_until("the first has begun", || out.join("began").exists());
    driver.given_back("clean1", Ending::Unwanted);
    assert_eq!(std::fs::read_to_string(out.join("said")).expect("it got TERM"), "TERM\n");
    // The driver's own executors are closed by now, this one is the pool's.
    assert!(ours().values().all(|one| one.state == RunnerState::Finished), "{:?}", ours());
    assert_eq!(ours().len(), 3, "results wait for the set's next life here");
    assert!(!host.path("secret").exists() && !host.path("lock/crunch-run-broken").exists());
    assert_eq!(host.owner(), None);
    let left = theirs.list(None, Duration::ZERO, COMMAND_DEADLINE, &wake).expect("a list").runners;
    assert_eq!(left.keys().collect::<Vec<_>>(), [&uuid(4)]);
    wait_until("theirs ends by hand", || theirs.kill(&uuid(4), 1).is_ok());
    assert!(log_has(&["msg=\"host cleaned up\"", "Instance=clean1"]));
}

/// A runner that was killed leaves its job: that is reaped.
#[test]
fn what_a_dead_runner_left_is_reaped() {
    let mut site = Site::new(&[("stale1", "big")]);
    let driver = site.open();
    driver.created("big");
    let host = site.host("stale1");
    let runner = driver.deployed("stale1");
    let out = host.open_folder("out");
    start_job(&runner, 1, &format!("touch {}/began; while :; do sleep 0.1; done", out.display()));
    wait_until("it has begun", || out.join("began").exists());
    let lock = host.path(&format!("lock/crunch-run-{}.lock", uuid(1)));
    let holder: serde_json::Value = serde_json::from_slice(&std::fs::read(lock).expect("it runs")).expect("JSON");
    let pid = rustix::process::Pid::from_raw(i32::try_from(holder["PID"].as_i64().expect("a number")).expect("small"));
    rustix::process::kill_process(pid.expect("not 0"), rustix::process::Signal::KILL).expect("it lives");
    let wake = Wake::new().expect("a descriptor");
    wait_until("it is stale", || {
        let listing = runner.list(None, Duration::ZERO, COMMAND_DEADLINE, &wake).expect("a list");
        listing.runners.get(&uuid(1)).is_some_and(|one| one.state == RunnerState::Stale)
    });
    driver.given_back("stale1", Ending::Unwanted);
    assert!(runner.list(None, Duration::ZERO, COMMAND_DEADLINE, &wake).expect("a list").runners.is_empty());
    assert_eq!(host.owner(), None);
}

/// Leaves the list as `unreachable`, is retried in the background, and is never given out before its clean-up succeeded; that survives
/// a restart.
#[test]
fn a_host_that_cannot_be_reached() {
    let mut site = Site::new(&[("lost1", "big")]);
    let driver = site.open();
    driver.created("big");
    let host = site.host("lost1");
    host.set_reachable(false);
    site.events();
    driver.destroy("lost1", Ending::Unwanted);
    site.wait_event(&CloudEvent::ListChanged);
    assert!(driver.list().is_empty());
    let unlisted = driver.unlisted("lost1").expect("unreachable");
    assert_eq!(
        (unlisted.state, unlisted.type_name.as_str(), unlisted.provider_type.as_str()),
        ("unreachable", "big", "big-provider")
    );
    assert!(
        unlisted.detail.contains("cannot connect to lost1:22") && unlisted.detail.contains("clean-up is tried in"),
        "{unlisted:?}"
    );
    assert!(log_has(&["level=warn", "host cannot be cleaned up", "Instance=lost1", "Reason=unreachable"]));
    assert_eq!(driver.refused("big"), "no free host of the type big: 1 unreachable");
    assert_eq!(site.state()["hosts"]["lost1"]["phase"], "cleaning");
    for _ in 0..3 {
        let tried = host.in_vain.load(Ordering::SeqCst);
        site.clock.advance(Duration::from_secs(301));
        driver.0.look();
        wait_until("it was tried again", || {
            let waits = driver.unlisted("lost1").is_some_and(|one| one.detail.contains("tried in"));
            waits && host.in_vain.load(Ordering::SeqCst) > tried
        });
        assert_eq!(host.in_vain.load(Ordering::SeqCst), tried + 1, "once");
        assert_eq!(driver.state_word("lost1"), "unreachable");
    }
    drop(driver);
    let driver = site.open();
    assert!(driver.list().is_empty(), "nobody would know that it goes");
    wait_until("it is unreachable again", || driver.state_word("lost1") == "unreachable");
    assert_eq!(driver.refused("big"), "no free host of the type big: 1 unreachable");
    assert_eq!(host.owner().as_deref(), Some(SET));
    host.set_reachable(true);
    site.clock.advance(Duration::from_secs(11));
    driver.0.look();
    site.wait_event(&CloudEvent::Freed(TypeName::new("big")));
    assert!(driver.unlisted("lost1").is_none());
    assert_eq!(host.owner(), None);
    assert_eq!(driver.created("big"), "lost1");
}

/// Taken away meanwhile (by hand, as it must have been): what is theirs now is left alone, and the host is not ours.
#[test]
fn marks_of_another_owner_are_left_alone() {
    let mut site = Site::new(&[("taken1", "big")]);
    let driver = site.open();
    driver.created("big");
    let host = site.host("taken1");
    host.set_owner(OTHER_SET);
    std::fs::write(host.path("secret"), "theirs").expect("written");
    driver.given_back("taken1", Ending::Unwanted);
    assert_eq!(host.owner().as_deref(), Some(OTHER_SET));
    assert!(host.path("secret").exists());
    let said = ["level=warn", "host is not ours any more", "Instance=taken1", "Reason=foreign", OTHER_SET];
    wait_until("it is said", || log_has(&said));
    driver.refused("big");
    assert_eq!(driver.state_word("taken1"), "foreign");
}

/// A program that somebody else may have written is not run: the clean-up puts its own there.
#[test]
fn an_unsafe_runner_is_not_run() {
    let mut site = Site::new(&[("unsafe1", "big")]);
    let driver = site.open();
    driver.created("big");
    let host = site.host("unsafe1");
    let runner = driver.deployed("unsafe1");
    let program = runner.program().expect("deployed").to_string();
    std::fs::remove_file(&program).expect("there");
    std::fs::write(&program, format!("#!/bin/sh\ntouch {}\n", host.path("evil").display())).expect("written");
    let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o777);
    std::fs::set_permissions(&program, mode).expect("set");
    driver.given_back("unsafe1", Ending::Unwanted);
    assert!(!host.path("evil").exists() && host.owner().is_none());
}

/// Destroy returns at once; clean-ups run in the background, at most 16 at a time.
#[test]
fn clean_ups_run_side_by_side_within_their_limit() {
    let names: Vec<String> = (0..40).map(|number| format!("side{number:02}")).collect();
    let hosts: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "big")).collect();
    let mut site = Site::new(&hosts);
    let driver = site.open();
    for _ in &names {
        driver.created("big");
    }
    let (gate, opened) = bounded::<()>(0);
    let at_once = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (counted, highest) = (at_once.clone(), most.clone());
    site.network.set_hook(Some(Arc::new(move |_, when, command: &str| {
        if when == When::Before && command.contains("CLAIM") {
            highest.fetch_max(counted.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let _ = opened.recv();
        }
        if when == When::After && command.contains("--release") {
            counted.fetch_sub(1, Ordering::SeqCst);
        }
        Ok(())
    })));
    for name in &names {
        driver.destroy(name, Ending::Unwanted);
    }
    wait_until("as many as may", || at_once.load(Ordering::SeqCst) == 16);
    assert_eq!(driver.list().len(), 40, "listed until they are clean");
    drop(gate);
    wait_until("all are clean", || driver.list().is_empty());
    assert_eq!(most.load(Ordering::SeqCst), 16);
    assert!(names.iter().all(|name| site.host(name).owner().is_none()));
}
