//! Is it the right host: configured keys, known_hosts, the first key seen.

use std::time::Duration;

use muster::cloud::InstanceSet;
use muster::core::effect::Ending;
use muster::core::settings::COMMAND_DEADLINE;
use muster::remote::identity::HostTrust;

use crate::fake::{KEYS, key, wait_until};
use crate::site::{Site, id, log, log_has, spec};

fn refusal(driver: &crate::site::Driver, name: &str) -> String {
    driver.refused("big");
    let unlisted = driver.unlisted(name).expect("refused");
    assert_eq!(unlisted.state, "failed");
    unlisted.detail
}

/// A mismatch is refused loudly, with both fingerprints and what to do; nothing was sent.
#[test]
fn a_wrong_key_is_refused() {
    let mut site = Site::new(&[("key1", "big")]);
    *site.host("key1").key.lock() = key(1);
    let driver = site.open();
    let detail = refusal(&driver, "key1");
    for part in [&key(0).fingerprint(), &key(1).fingerprint(), "HostKey in the configuration"] {
        assert!(detail.contains(part), "{part}: {detail}");
    }
    assert!(log_has(&["level=error", "HOST KEY MISMATCH", "Instance=key1", &key(1).fingerprint()]));
    assert!(site.host("key1").commands.lock().is_empty());
    // One of several is enough.
    drop(driver);
    site.specs[0].trust = HostTrust::Keys(vec![key(0), key(1)]);
    let driver = site.open();
    assert_eq!(driver.created("big"), "key1");
}

/// The file counts as it is when the connection is made.
#[test]
fn known_hosts_decide() {
    let mut site = Site::new(&[("known1", "big")]);
    let file = site.folder().join("known_hosts");
    std::fs::write(&file, format!("known1 {}\n", KEYS[1])).expect("written");
    site.specs[0].trust = HostTrust::KnownHosts(file.clone());
    let driver = site.open();
    let detail = refusal(&driver, "known1");
    for part in [&key(0).fingerprint(), &key(1).fingerprint(), "ssh-keygen -f"] {
        assert!(detail.contains(part), "{part}: {detail}");
    }
    site.clock.advance(Duration::from_secs(61));
    std::fs::remove_file(&file).expect("there");
    assert!(refusal(&driver, "known1").contains("cannot read"));
    site.clock.advance(Duration::from_secs(121));
    std::fs::write(&file, format!("other {}\n@revoked * {}\n", KEYS[1], KEYS[0])).expect("written");
    assert!(refusal(&driver, "known1").contains("revoked"));
    site.clock.advance(Duration::from_secs(241));
    std::fs::write(&file, format!("known1 {}\n", KEYS[0])).expect("written");
    assert_eq!(driver.created("big"), "known1");
}

/// Pinned at first use with a warning, kept across restarts, and refused when another comes.
#[test]
fn trust_on_first_use() {
    let mut site = Site::new(&[("pin1", "big")]);
    site.specs[0].trust = HostTrust::FirstUse;
    let driver = site.open();
    driver.created("big");
    assert!(log_has(&["level=warn", "on first use", "Instance=pin1", &key(0).fingerprint()]));
    assert_eq!(site.state()["pins"]["pin1"], KEYS[0]);
    driver.given_back("pin1", Ending::Unwanted);
    drop(driver);
    *site.host("pin1").key.lock() = key(1);
    // Out of the configuration for a while: the pin stays.
    let specs = std::mem::replace(&mut site.specs, vec![spec("pin2", "big")]);
    drop(site.open());
    site.specs = specs;
    let driver = site.open();
    let detail = refusal(&driver, "pin1");
    let file = site.state_file().display().to_string();
    for part in [&key(0).fingerprint(), &key(1).fingerprint(), "remove the entry \"pin1\" below \"pins\"", &file] {
        assert!(detail.contains(part), "{part}: {detail}");
    }
    assert!(log_has(&["level=error", "HOST KEY MISMATCH", "Instance=pin1"]));
    drop(driver);
    // What the message says.
    wait_until("the driver's threads have ended", || site.try_open().is_ok());
    let mut state = site.state();
    state["pins"].as_object_mut().expect("a map").remove("pin1");
    std::fs::write(site.state_file(), state.to_string()).expect("written");
    let driver = site.open();
    driver.created("big");
    assert_eq!(site.state()["pins"]["pin1"], KEYS[1]);
    let warned = log().lines().filter(|line| line.contains("on first use; compare") && line.contains("pin1")).count();
    assert_eq!(warned, 2, "once per pin");
}

/// A key that cannot be kept is not trusted: the next start would take any other.
#[test]
fn a_pin_that_cannot_be_written_is_none() {
    let mut site = Site::new(&[("unpinned1", "big")]);
    site.specs[0].trust = HostTrust::FirstUse;
    let driver = site.open();
    let access = driver.0.open(&id("unpinned1"), None).expect("known");
    access.executor.set_target("unpinned1:22", "root");
    let obstacle = site.folder().join("static-hosts.json.new");
    std::fs::create_dir(&obstacle).expect("made");
    let runner = driver.runner("unpinned1", "none");
    let error = runner.boot_probe("true", COMMAND_DEADLINE).expect_err("no key is kept").0.text();
    assert!(error.contains("cannot be pinned"), "{error}");
    // Nothing is wrong with the host's key.
    assert!(log_has(&["level=warn", "host cannot be verified", "Instance=unpinned1"]));
    assert!(!log().lines().any(|line| line.contains("MISMATCH") && line.contains("unpinned1")));
    std::fs::remove_dir(&obstacle).expect("empty");
    runner.boot_probe("true", COMMAND_DEADLINE).expect("trusted now");
    assert_eq!(site.state()["pins"]["unpinned1"], KEYS[0]);
}

/// A changed key is no reason to give a host away that was not cleaned up.
#[test]
fn a_changed_key_keeps_a_host_from_being_cleaned_up() {
    let mut site = Site::new(&[("swapped1", "big")]);
    let driver = site.open();
    driver.created("big");
    *site.host("swapped1").key.lock() = key(1);
    driver.destroy("swapped1", Ending::Unwanted);
    wait_until("it leaves the list", || driver.list().is_empty());
    assert_eq!(driver.state_word("swapped1"), "failed");
    assert_eq!(driver.refused("big"), "no free host of the type big: 1 failed");
    *site.host("swapped1").key.lock() = key(0);
    site.clock.advance(Duration::from_secs(11));
    driver.0.look();
    wait_until("it is cleaned up", || driver.unlisted("swapped1").is_none());
    assert_eq!(site.host("swapped1").owner(), None);
}
