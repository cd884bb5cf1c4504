//! One life of a host and the next: what comes late, other names of the same machine, what changes while a host is taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use muster::cloud::InstanceSet;
use muster::core::effect::{Ending, Fault};
use muster::core::ids::{ContainerUuid, InstanceSecret};
use muster::core::worker::listing::RunnerState;
use muster::remote::ExecuteError;
use muster::remote::address::HostAddress;
use muster::remote::supply::{RunnerFiles, RunnerSupply};

use crate::fake::{When, wait_until};
use crate::site::{SET, Site, id, listed, log_has, spec, start_job, supply, try_start, uuid};

const ENDLESS: &str = "while :; do sleep 0.1; done";

/// A second address of a machine that is in use: its containers run on, and it is one instance.
#[test]
fn one_machine_under_two_addresses() {
    let mut site = Site::new(&[("twin1", "big")]);
    site.network.alias("twin1", "twin2");
    site.specs.push(spec("twin2", "big"));
    let driver = site.open();
    assert_eq!(driver.created("big"), "twin1");
    let runner = driver.deployed("twin1");
    start_job(&runner, 1, ENDLESS);
    assert_eq!(driver.refused("big"), "no free host of the type big: 2 busy");
    assert_eq!((driver.state_word("twin2"), driver.names()), ("busy", vec!["twin1".to_owned()]));
    assert!(
        driver.unlisted("twin2").expect("busy").detail.contains("it is the same machine as twin1, which is in use")
    );
    assert_eq!(listed(&runner), [(uuid(1), RunnerState::Alive)].into());
    driver.given_back("twin1", Ending::Unwanted);
    site.clock.advance(Duration::from_secs(301));
    let names = [driver.create("big"), driver.create("big")].map(|made| made.map(|one| one.id.to_string()).ok());
    assert_eq!(names.iter().flatten().count(), 1, "{names:?}");
}

/// A host gets another name in the configuration while it is in use.
#[test]
fn a_renamed_host() {
    let mut site = Site::new(&[("old1", "big")]);
    let driver = site.open();
    driver.created("big");
    start_job(&driver.deployed("old1"), 1, ENDLESS);
    drop(driver);
    site.network.alias("old1", "new1");
    site.specs = vec![spec("new1", "big")];
    let driver = site.open();
    driver.refused("big");
    assert_eq!((driver.state_word("new1"), driver.names()), ("busy", vec!["old1".to_owned()]));
    let runner = driver.deployed("old1");
    assert_eq!(listed(&runner), [(uuid(1), RunnerState::Alive)].into());
    driver.given_back("old1", Ending::Unwanted);
    site.clock.advance(Duration::from_secs(61));
    assert_eq!(driver.created("big"), "new1");
}

/// Under a lease that nobody here knows, which is another one when it is asked for again: somebody takes it just now.
#[test]
fn an_owner_file_that_changes_while_it_is_read() {
    let mut site = Site::new(&[("moving1", "big")]);
    let driver = site.open();
    driver.created("big");
    start_job(&driver.deployed("moving1"), 1, ENDLESS);
    let host = site.host("moving1");
    let write = |lease: &str, file: &std::path::Path| {
        std::fs::write(file, format!("{SET}\nmoving1 {lease}\n")).expect("written");
    };
    write("11111111111111111111111111111111", &host.owner_file());
    let (asked, file) = (AtomicUsize::new(0), host.owner_file());
    site.network.set_hook(Some(Arc::new(move |_, when, command: &str| {
        if when == When::Before && command.contains("CLAIM") && asked.fetch_add(1, Ordering::SeqCst) == 1 {
            write("22222222222222222222222222222222", &file);
        }
        Ok(())
    })));
    driver.destroy("moving1", Ending::Unwanted);
    wait_until("it is left alone", || {
        log_has(&["host cannot be cleaned up", "Instance=moving1", "its owner file has changed meanwhile"])
    });
    assert_eq!(listed(&driver.deployed("moving1")), [(uuid(1), RunnerState::Alive)].into());
    // It stays as it is: then it is of a life that was forgotten.
    site.clock.advance(Duration::from_secs(11));
    driver.0.look();
    wait_until("it is cleaned up", || driver.list().is_empty() && driver.unlisted("moving1").is_none());
    assert!(host.owner().is_none());
}

/// Given back under one name, in use under another before that was written down: the repeated clean-up touches nothing.
#[test]
fn a_clean_up_that_is_repeated_under_an_old_name() {
    let mut site = Site::new(&[("again1", "big")]);
    let driver = site.open();
    driver.created("big");
    let host = site.host("again1");
    host.set_reachable(false);
    driver.destroy("again1", Ending::Unwanted);
    wait_until("out of reach", || driver.state_word("again1") == "unreachable");
    drop(driver);
    // What the crash took away: the release is done, and not written down.
    std::fs::remove_file(host.owner_file()).expect("there");
    site.network.alias("again1", "again2");
    site.specs.push(spec("again2", "big"));
    let driver = site.open();
    wait_until("tried, and out of reach", || driver.state_word("again1") == "unreachable");
    host.set_reachable(true);
    assert_eq!(driver.created("big"), "again2");
    let runner = driver.deployed("again2");
    start_job(&runner, 1, ENDLESS);
    site.clock.advance(Duration::from_secs(11));
    driver.0.look();
    wait_until("again1 is done with", || driver.unlisted("again1").is_none_or(|one| one.state == "busy"));
    assert!(log_has(&["host is not ours any more", "Instance=again1", "Reason=busy", "same machine as again2"]));
    assert_eq!(listed(&runner), [(uuid(1), RunnerState::Alive)].into());
    driver.given_back("again2", Ending::Unwanted);
}

/// A start that the host's server has taken, and runs only after the host was given back, or has another life already.
#[test]
fn a_start_that_comes_late() {
    let mut site = Site::new(&[("late1", "big")]);
    let driver = site.open();
    driver.created("big");
    let runner = driver.deployed("late1");
    driver.given_back("late1", Ending::Unwanted);
    let refused = |n| try_start(&runner, &uuid(n), ENDLESS).expect_err("not any more").text();
    assert!(refused(1).contains("not held by the set"), "{}", refused(1));
    assert_eq!(driver.created("big"), "late1");
    assert!(refused(1).contains("not held by the set"), "another life");
    assert!(listed(&runner).is_empty());
    start_job(&driver.deployed("late1"), 1, ENDLESS);
    driver.given_back("late1", Ending::Unwanted);
}

/// A destroy or tags for an instance that is gone do not hit the next one of the same name.
#[test]
fn changes_that_come_late() {
    let mut site = Site::new(&[("tags1", "big")]);
    let driver = site.open();
    let first = driver.create("big").expect("free");
    driver.given_back("tags1", Ending::Unwanted);
    let second = driver.create("big").expect("free");
    let secret = |one: &muster::cloud::CloudInstance| InstanceSecret::new(&one.tags["ArvadosInstanceSecret"]);
    driver.0.destroy(&id("tags1"), Some(&secret(&first)), Ending::Faulty(Fault::Broken)).expect("nothing to do");
    driver.0.set_tags(&id("tags1"), &first.tags).expect("nothing to do");
    assert_eq!(driver.list(), std::slice::from_ref(&second));
    let mut tags = second.tags.clone();
    tags.insert("ArvadosIdleBehavior".to_owned(), "hold".to_owned());
    driver.0.set_tags(&id("tags1"), &tags).expect("taken");
    assert_eq!(driver.list()[0].tags, tags);
    driver.0.destroy(&id("tags1"), Some(&secret(&second)), Ending::Unwanted).expect("taken");
    wait_until("it is cleaned up", || driver.list().is_empty());
}

/// The program is gone from the host, and is to be somewhere else; what runs there is found all the same, of whatever cluster it is.
#[test]
fn what_runs_is_found_without_its_program() {
    let mut site = Site::new(&[("blind1", "big")]);
    let driver = site.open();
    driver.created("big");
    let runner = driver.deployed("blind1");
    start_job(&runner, 1, ENDLESS);
    let other = ContainerUuid::parse("zzzzz-dz642-000000000000002").expect("well formed");
    try_start(&runner, &other, ENDLESS).expect("starts");
    let host = site.host("blind1");
    std::fs::remove_dir_all(host.path("bin")).expect("there");
    let elsewhere = host.path("elsewhere").to_string_lossy().into_owned();
    drop(driver);
    site.supply = supply(Some(&elsewhere));
    let driver = site.open();
    driver.given_back("blind1", Ending::Unwanted);
    let runner = driver.deployed_at("blind1", "blind1:22", "root", Some(&elsewhere));
    let ended = [(uuid(1), RunnerState::Finished), (other, RunnerState::Finished)];
    assert_eq!(listed(&runner), ended.into());
    assert!(host.owner().is_none());
}

/// Without a runner nobody can see what runs: the host is given back only if nothing ever did.
#[test]
fn a_host_that_no_runner_can_be_put_on() {
    let mut site = Site::new(&[("unused1", "big"), ("used1", "small")]);
    let driver = site.open();
    driver.created("big");
    driver.created("small");
    start_job(&driver.deployed("used1"), 1, "true");
    drop(driver);
    site.supply = Arc::new(RunnerSupply::new(RunnerFiles::One(site.folder().join("nothing")), None));
    let driver = site.open();
    driver.given_back("unused1", Ending::Faulty(Fault::Broken));
    assert!(site.host("unused1").owner().is_none());
    driver.destroy("used1", Ending::Faulty(Fault::Broken));
    wait_until("it has failed", || log_has(&["host cannot be cleaned up", "Instance=used1", "error loading runner"]));
    assert_eq!((driver.names(), site.host("used1").owner().as_deref()), (vec!["used1".to_owned()], Some(SET)));
    assert_eq!(driver.refused("small"), "no free host of the type small: 1 failed");
}

/// A host that answers is not lost with what runs there, although it cannot be cleaned up; also not by a restart, but it gets no work.
#[test]
fn a_host_that_answers_stays_listed() {
    let mut site = Site::new(&[("stays1", "big")]);
    let driver = site.open();
    driver.created("big");
    let fail = |_: &crate::fake::FakeHost, when: When, command: &str| match (when, command.contains("--list")) {
        (When::After, true) => Err(ExecuteError::TooMuchOutput),
        _ => Ok(()),
    };
    site.network.set_hook(Some(Arc::new(fail)));
    driver.destroy("stays1", Ending::Unwanted);
    wait_until("it has failed", || log_has(&["host cannot be cleaned up", "Instance=stays1", "Reason=failed"]));
    assert_eq!(driver.names(), ["stays1"]);
    drop(driver);
    let driver = site.open();
    let now = driver.list();
    assert_eq!((now.len(), now[0].tags["ArvadosIdleBehavior"].as_str()), (1, "drain"));
    site.network.set_hook(None);
    site.clock.advance(Duration::from_secs(301));
    driver.0.look();
    wait_until("it is cleaned up", || driver.list().is_empty());
    assert!(driver.unlisted("stays1").is_none());
}

/// Each of many jobs that do not end at once is told so before any is waited for.
#[test]
fn many_jobs_are_told_at_once() {
    let mut site = Site::new(&[("many1", "big")]);
    let driver = site.open();
    driver.created("big");
    let runner = driver.deployed("many1");
    let host = site.host("many1");
    let out = host.open_folder("out");
    for n in 0..12 {
        let script = format!("trap 'sleep 2; exit 0' TERM; touch {}/{n}; {ENDLESS}", out.display());
        start_job(&runner, n, &script);
    }
    wait_until("all have begun", || std::fs::read_dir(&out).expect("there").count() == 12);
    host.commands.lock().clear();
    driver.given_back("many1", Ending::Unwanted);
    let commands = host.commands.lock().clone();
    let lists: Vec<usize> = (0..commands.len()).filter(|at| commands[*at].contains("--list")).collect();
    let kills = commands[lists[0]..lists[1]].iter().filter(|command| command.contains("--kill 15 --wait 0")).count();
    assert_eq!(kills, 12, "{commands:?}");
}

/// What a power failure leaves of an owner file: nobody can tell who has the host, and what to do is said.
#[test]
fn a_damaged_owner_file() {
    let mut site = Site::new(&[("damaged1", "big"), ("damaged2", "small")]);
    let host = site.host("damaged1");
    std::fs::create_dir_all(host.path("state")).expect("made");
    std::fs::write(host.owner_file(), "").expect("written");
    let driver = site.open();
    assert_eq!(driver.refused("big"), "no free host of the type big: 1 failed");
    let detail = driver.unlisted("damaged1").expect("failed").detail;
    assert!(detail.contains("remove the file `owner` in") && detail.contains("damaged1/state"), "{detail}");
    std::fs::remove_file(host.owner_file()).expect("there");
    site.clock.advance(Duration::from_secs(61));
    assert_eq!(driver.created("big"), "damaged1");
    // Of a host of ours: it waits for somebody to look.
    driver.created("small");
    std::fs::write(site.host("damaged2").owner_file(), format!("{SET}\n")).expect("written");
    driver.destroy("damaged2", Ending::Unwanted);
    wait_until("it has failed", || log_has(&["cannot be cleaned up", "Instance=damaged2", "remove the file `owner`"]));
    assert_eq!(driver.names(), ["damaged1", "damaged2"]);
    std::fs::remove_file(site.host("damaged2").owner_file()).expect("there");
    site.clock.advance(Duration::from_secs(301));
    driver.0.look();
    wait_until("it is cleaned up", || driver.names() == ["damaged1"]);
}

/// How a host is reached is changed while it is in use: it is used, and cleaned up, as it was taken.
#[test]
fn a_host_that_is_configured_otherwise_while_taken() {
    let mut site = Site::new(&[("moved1", "big"), ("moved2", "big")]);
    let driver = site.open();
    driver.created("big");
    start_job(&driver.deployed("moved1"), 1, ENDLESS);
    drop(driver);
    site.specs.truncate(1);
    site.specs[0].address = HostAddress::parse("moved2", 22).expect("an address");
    site.specs[0].user = "other".to_owned();
    let driver = site.open();
    let now = driver.list();
    assert_eq!((now[0].address.as_str(), now[0].remote_user.as_str()), ("moved1:22", "root"));
    assert!(log_has(&["level=warn", "configured otherwise", "Instance=moved1", "root@moved1:22", "other@moved2:22"]));
    driver.given_back("moved1", Ending::Unwanted);
    assert!(site.host("moved1").owner().is_none());
    let made = driver.create("big").expect("free");
    assert_eq!((made.address.as_str(), made.remote_user.as_str()), ("moved2:22", "other"));
    assert!(site.host("moved2").commands.lock().iter().any(|command| command.contains("CLAIM")));
}

/// A result that nobody has collected waits for the set's next life on the host; what crashed leaves nothing.
#[test]
fn results_wait_and_crashed_attempts_do_not() {
    let mut site = Site::new(&[("kept3", "big")]);
    let driver = site.open();
    driver.created("big");
    let runner = driver.deployed("kept3");
    for n in 1..=2 {
        start_job(&runner, n, "true");
    }
    wait_until("both have finished", || {
        listed(&runner).values().filter(|state| **state == RunnerState::Finished).count() == 2
    });
    let attempt = |n| site.host("kept3").path(&format!("state/set-{SET}/{}/1", uuid(n)));
    std::fs::remove_file(attempt(1).join("result.json")).expect("there");
    driver.given_back("kept3", Ending::Unwanted);
    assert!(!attempt(1).exists());
    driver.created("big");
    assert_eq!(listed(&driver.deployed("kept3")), [(uuid(2), RunnerState::Finished)].into());
}

/// Pauses and what they are for survive a restart; to be let go before it booted is no merit.
#[test]
fn failures_are_remembered() {
    let mut site = Site::new(&[("bad1", "big"), ("bad2", "big")]);
    let driver = site.open();
    assert_eq!(driver.created("big"), "bad1");
    driver.given_back("bad1", Ending::Faulty(Fault::Broken));
    drop(driver);
    let driver = site.open();
    assert_eq!(driver.state_word("bad1"), "failed");
    assert_eq!(driver.created("big"), "bad2");
    assert_eq!(driver.refused("big"), "no free host of the type big: 1 busy, 1 failed");
    driver.given_back("bad2", Ending::Unwanted);
    site.clock.advance(Duration::from_secs(61));
    driver.0.look();
    assert_eq!(driver.created("big"), "bad2", "the other one failed");
    assert_eq!(driver.created("big"), "bad1");
    driver.given_back("bad1", Ending::Unproven);
    driver.created("big");
    driver.given_back("bad1", Ending::Faulty(Fault::Broken));
    site.clock.advance(Duration::from_secs(100));
    driver.0.look();
    assert_eq!(driver.state_word("bad1"), "failed");
    assert_eq!(driver.refused("big"), "no free host of the type big: 1 busy, 1 failed", "two minutes by now");
}
