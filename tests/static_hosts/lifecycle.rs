//! Create, list, destroy; what the state file keeps.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use muster::cloud::{CloudEvent, InstanceSet};
use muster::core::effect::{Ending, Fault, Tags};
use muster::core::ids::TypeName;

use crate::fake::wait_until;
use crate::site::{OTHER_SET, SET, Site, id, log_has};

/// The instance's id is the host's name; list gives the taken ones with their tags.
#[test]
fn a_host_is_an_instance_while_it_is_taken() {
    let mut site = Site::new(&[("life1", "big"), ("life2", "big"), ("life3", "small")]);
    let driver = site.open();
    assert!(driver.list().is_empty() && driver.0.unlisted().is_empty());
    let made = driver.create("big").expect("two are free");
    assert_eq!((made.id.as_str(), made.address.as_str(), made.remote_user.as_str()), ("life1", "life1:22", "root"));
    assert_eq!(made.provider_type, "big-provider");
    assert!(made.tags["ArvadosInstanceSecret"].starts_with("5ec2e7"));
    assert_eq!(driver.list(), std::slice::from_ref(&made));
    assert_eq!(driver.created("big"), "life2");
    assert_eq!(driver.refused("big"), "no free host of the type big: 2 busy");
    assert_eq!(driver.created("small"), "life3");
    assert_eq!(driver.refused("tiny"), "no free host of the type tiny: no host has this type");
    assert_eq!(driver.names(), ["life1", "life2", "life3"]);
    let traits = driver.0.traits();
    assert!(traits.cheap_list && traits.exact_list && traits.instances_max.is_none());

    let mut tags = made.tags.clone();
    tags.insert("ArvadosIdleBehavior".to_owned(), "hold".to_owned());
    driver.0.set_tags(&made.id, &tags).expect("taken");
    assert_eq!(driver.list()[0].tags, tags);
    driver.0.set_tags(&id("nobody"), &tags).expect("nothing to do");
    driver.0.destroy(&id("nobody"), None, Ending::Unwanted).expect("gone is gone");
}

/// A host that becomes free ends the pause and notifies, and comes back only after a list without it.
#[test]
fn a_freed_host_is_told_and_can_be_taken_again() {
    let mut site = Site::new(&[("freed1", "big")]);
    let driver = site.open();
    driver.created("big");
    site.events();
    driver.destroy("freed1", Ending::Unwanted);
    driver.destroy("freed1", Ending::Unwanted);
    site.wait_event(&CloudEvent::ListChanged);
    assert!(driver.refused("big").contains("1 being cleaned up"), "nobody has seen it go");
    assert!(driver.list().is_empty());
    site.wait_event(&CloudEvent::Freed(TypeName::new("big")));
    assert_eq!(driver.created("big"), "freed1");
    assert!(log_has(&["msg=\"host cleaned up\"", "Instance=freed1", "Duration="]));
    let releases = site.host("freed1").commands.lock().iter().filter(|command| command.contains("--release")).count();
    assert_eq!(releases, 1, "repeated destroys are one");
}

/// It holds secrets, so it is readable for its owner only; it survives restarts with the tags.
#[test]
fn the_state_file_keeps_who_is_taken() {
    let mut site = Site::new(&[("kept1", "big"), ("kept2", "big")]);
    let driver = site.open();
    driver.created("big");
    let listed = driver.list();
    let mode = std::fs::metadata(site.state_file()).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let state = site.state();
    assert_eq!(state["set"], SET);
    assert_eq!(state["hosts"]["kept1"]["phase"], "taken");
    assert_eq!(state["hosts"]["kept1"]["tags"]["ArvadosInstanceSecret"], listed[0].tags["ArvadosInstanceSecret"]);
    assert!(state["hosts"].get("kept2").is_none());
    drop(driver);
    let driver = site.open();
    assert_eq!(driver.list(), listed);
    assert_eq!(driver.created("big"), "kept2");
    driver.given_back("kept1", Ending::Unwanted);
    assert!(site.state()["hosts"].get("kept1").is_none());
}

#[test]
fn one_daemon_per_state_file_and_one_set() {
    let mut site = Site::new(&[("lock1", "big")]);
    let driver = site.open();
    driver.created("big");
    let error = site.try_open().map(drop).expect_err("in use").to_string();
    let expected = format!("is used by another daemon (process {})", std::process::id());
    assert!(error.contains(&expected) && error.contains("static-hosts.json"), "{error}");
    drop(driver);
    wait_until("the file is free", || site.try_open().is_ok());
    site.set = OTHER_SET;
    let mut refused = String::new();
    wait_until("the file is free", || {
        refused = site.try_open().map(drop).expect_err("not theirs").to_string();
        !refused.contains("is used by")
    });
    assert!(refused.contains(&format!("belongs to the dispatcher {SET}, we are {OTHER_SET}")), "{refused}");
    std::fs::write(site.state_file(), "{").expect("written");
    let mut damaged = String::new();
    wait_until("the file is free", || {
        damaged = site.try_open().map(drop).expect_err("damaged").to_string();
        !damaged.contains("is used by")
    });
    assert!(damaged.contains("static-hosts.json is damaged"), "{damaged}");
    assert_eq!(std::fs::read(site.state_file()).expect("there"), b"{", "and it is kept");
}

/// Before anything on a host is touched it is written that it is taken; where that fails, nothing has happened.
#[test]
fn nothing_is_touched_that_could_not_be_written() {
    let mut site = Site::new(&[("full1", "big")]);
    let driver = site.open();
    // The temporary file cannot be made where a directory has its name.
    let obstacle = site.folder().join("static-hosts.json.new");
    std::fs::create_dir(&obstacle).expect("made");
    let error = driver.create("big").expect_err("cannot be kept").to_string();
    assert!(error.contains("cannot keep in") && error.contains("which hosts are taken"), "{error}");
    assert!(site.host("full1").commands.lock().is_empty() && driver.list().is_empty());
    std::fs::remove_dir(&obstacle).expect("empty");
    driver.created("big");
    std::fs::create_dir(&obstacle).expect("made");
    let before = driver.list();
    driver.0.destroy(&id("full1"), None, Ending::Unwanted).expect_err("cannot be kept");
    driver.0.set_tags(&id("full1"), &Tags::new()).expect_err("cannot be kept");
    assert_eq!(driver.list(), before, "nothing has happened");
    std::fs::remove_dir(&obstacle).expect("empty");
    driver.given_back("full1", Ending::Unwanted);
}

/// Removed from the configuration while taken: it goes on until it is idle, is drained by the pool, and then is nobody's.
#[test]
fn a_host_that_is_not_configured_any_more_is_drained() {
    let mut site = Site::new(&[("gone1", "big"), ("gone2", "big"), ("gone3", "big")]);
    let driver = site.open();
    for _ in 0..2 {
        driver.created("big");
    }
    let mut tags = driver.list()[1].tags.clone();
    tags.insert("ArvadosIdleBehavior".to_owned(), "hold".to_owned());
    driver.0.set_tags(&id("gone2"), &tags).expect("taken");
    drop(driver);
    let all = std::mem::take(&mut site.specs);
    site.specs = all.iter().filter(|spec| spec.id == id("gone3")).cloned().collect();
    let driver = site.open();
    let listed = driver.list();
    let behaviors: Vec<_> = listed.iter().map(|one| one.tags["ArvadosIdleBehavior"].as_str()).collect();
    assert_eq!(behaviors, ["drain", "hold"], "an operator's hold stays");
    assert_eq!((listed[0].address.as_str(), listed[0].remote_user.as_str()), ("gone1:22", "root"));
    assert!(log_has(&["host is not configured any more", "Instance=gone1"]));
    // It can still be reached, by what is kept of it.
    driver.deployed("gone1").facts().expect("its key is kept too");
    driver.given_back("gone1", Ending::Unwanted);
    assert_eq!(site.host("gone1").owner(), None);
    assert!(site.state()["hosts"].get("gone1").is_none());
    assert_eq!(driver.created("big"), "gone3");
    assert_eq!(driver.refused("big"), "no free host of the type big: 1 busy", "the removed ones do not count");
    driver.0.open(&id("gone1"), None).expect_err("unknown by now");
}

/// After a failed boot, broken or unresponsive: not for a minute, doubling; a pause's end notifies.
#[test]
fn faulty_hosts_have_a_pause() {
    let mut site = Site::new(&[("faulty1", "big")]);
    let driver = site.open();
    for minutes in [1, 2, 4] {
        driver.created("big");
        driver.given_back("faulty1", Ending::Faulty(Fault::NotBooted));
        site.events();
        assert_eq!(driver.refused("big"), "no free host of the type big: 1 failed");
        let unlisted = driver.unlisted("faulty1").expect("it has a pause");
        assert_eq!((unlisted.state, unlisted.address.as_str()), ("failed", "faulty1:22"));
        assert!(unlisted.detail.contains("TimeoutBooting") && unlisted.detail.contains("not used for"), "{unlisted:?}");
        site.clock.advance(Duration::from_secs(minutes * 60 - 30));
        driver.0.look();
        assert_eq!(driver.refused("big"), "no free host of the type big: 1 failed");
        site.clock.advance(Duration::from_secs(30));
        driver.0.look();
        site.wait_event(&CloudEvent::Freed(TypeName::new("big")));
    }
    driver.created("big");
    driver.given_back("faulty1", Ending::Unwanted);
    assert!(driver.unlisted("faulty1").is_none(), "a normal life forgives");
    assert_eq!(driver.created("big"), "faulty1");
}

/// A disk that hangs (a pipe that nobody reads) holds up who changes something, and nobody else: hosts are listed and opened, what is
/// wrong is shown, and the driver stops.
#[test]
fn a_disk_that_hangs_holds_up_changes_only() {
    let mut site = Site::new(&[("hang1", "big"), ("hang2", "big")]);
    let driver = site.open();
    driver.created("big");
    let pipe = site.folder().join("static-hosts.json.new");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("there").success());
    let (ended, creates) = crossbeam_channel::bounded(2);
    let next = |creates: &crossbeam_channel::Receiver<String>| {
        creates.recv_timeout(Duration::from_secs(60)).expect("a create ends")
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (driver, ended) = (&driver, ended.clone());
            scope.spawn(move || ended.send(driver.create("big").expect_err("nothing was taken").to_string()));
        }
        // One waits for the disk, the other finds nothing free.
        assert_eq!(next(&creates), "no free host of the type big: 2 busy");
        let destroy = scope.spawn(|| driver.0.destroy(&id("hang1"), None, Ending::Unwanted));
        assert_eq!(driver.names(), ["hang1"]);
        assert!(driver.0.unlisted().is_empty());
        driver.0.open(&id("hang1"), None).expect("known");
        assert!(site.host("hang2").commands.lock().is_empty(), "it is not written that it is taken");
        driver.0.stop();
        assert_eq!(driver.names(), ["hang1"]);
        // The writer's open goes on, and fails, since a pipe cannot be brought to disk.
        let reader = std::fs::File::open(&pipe).expect("somebody writes");
        next(&creates);
        destroy.join().expect("no panic").expect_err("nothing has changed");
        drop(reader);
    });
    assert!(site.host("hang2").commands.lock().is_empty());
    assert_eq!(site.state()["hosts"].as_object().expect("a map").keys().collect::<Vec<_>>(), ["hang1"]);
}
