//! What a create does on a host: owner file, init command; hosts that refuse.

use std::sync::atomic::Ordering;
use std::time::Duration;

use muster::cloud::InstanceSet;
use muster::core::effect::Ending;
use muster::core::settings::COMMAND_DEADLINE;
use muster::core::worker::listing::RunnerState;

use crate::fake::wait_until;
use crate::site::{OTHER_SET, SET, Site, log_has, start_job};

#[test]
fn the_owner_file_says_who_has_the_host() {
    let mut site = Site::new(&[("own1", "big")]);
    let driver = site.open();
    driver.created("big");
    let host = site.host("own1");
    let text = std::fs::read_to_string(host.owner_file()).expect("made");
    let lease = text.strip_prefix(&format!("{SET}\nown1 ")).expect("set and name").trim_end();
    assert!(lease.len() == 32 && !text.contains("5ec2e7"), "no secret: {text}");
    assert_eq!(site.state()["hosts"]["own1"]["lease"], lease);
    let beside: Vec<_> = std::fs::read_dir(host.path("state"))
        .expect("made")
        .map(|entry| entry.expect("readable").file_name())
        .collect();
    assert_eq!(beside, ["owner"], "nothing else is left");
    driver.given_back("own1", Ending::Unwanted);
    assert_eq!(host.owner(), None);
}

/// A foreign owner makes it unusable for us, with a log line that names the other; it is tried again later.
#[test]
fn a_foreign_host_is_left_alone() {
    let mut site = Site::new(&[("theirs1", "big"), ("theirs2", "big")]);
    site.host("theirs1").set_owner(OTHER_SET);
    let driver = site.open();
    assert_eq!(driver.created("big"), "theirs2", "the next candidate is tried in the same create");
    assert_eq!(driver.refused("big"), "no free host of the type big: 1 busy, 1 used by another dispatcher");
    assert_eq!(driver.state_word("theirs1"), "foreign");
    let detail = driver.unlisted("theirs1").expect("foreign").detail;
    assert!(detail.contains(OTHER_SET), "{detail}");
    assert!(log_has(&["level=warn", "host cannot be taken", "Instance=theirs1", "Reason=foreign", OTHER_SET]));
    let commands = site.host("theirs1").commands.lock().len();
    site.clock.advance(Duration::from_secs(50));
    driver.refused("big");
    assert_eq!(site.host("theirs1").commands.lock().len(), commands, "not tried in its pause");
    site.clock.advance(Duration::from_secs(20));
    driver.refused("big");
    assert_eq!(site.host("theirs1").commands.lock().len(), commands + 1);
    assert_eq!(site.host("theirs1").owner().as_deref(), Some(OTHER_SET));
    std::fs::remove_file(site.host("theirs1").owner_file()).expect("there");
    site.clock.advance(Duration::from_secs(130));
    assert_eq!(driver.created("big"), "theirs1");
    assert!(driver.unlisted("theirs1").is_none());
}

/// Hosts that cannot be reached or refuse: the next one, a pause, and a message that counts them.
#[test]
fn hosts_that_cannot_be_taken() {
    let mut site = Site::new(&[("off1", "big"), ("off2", "big"), ("off3", "big"), ("off4", "big"), ("off5", "big")]);
    site.host("off1").set_reachable(false);
    site.host("off2").closed.store(true, Ordering::SeqCst);
    site.host("off3").set_owner(OTHER_SET);
    // The runner's directory cannot be made.
    std::fs::write(site.host("off4").path("state"), "a file").expect("written");
    let driver = site.open();
    assert_eq!(driver.created("big"), "off5");
    let message = driver.refused("big");
    assert_eq!(message, "no free host of the type big: 1 busy, 2 failed, 1 unreachable, 1 used by another dispatcher");
    assert!(log_has(&["Instance=off1", "Reason=unreachable", "cannot connect to off1:22"]));
    assert!(log_has(&["Instance=off2", "Reason=failed", "does not accept our key for user root"]));
    assert!(log_has(&["Instance=off4", "Reason=failed", "taking the host ended with exit status"]));
    assert_eq!(site.state()["hosts"].as_object().expect("a map").len(), 1, "only the taken one is kept");
    site.host("off1").set_reachable(true);
    site.clock.advance(Duration::from_secs(61));
    assert_eq!(driver.created("big"), "off1", "failed longest ago");
}

/// The directory of the owner file must be nobody else's.
#[test]
fn a_directory_that_others_may_write_is_refused() {
    let mut site = Site::new(&[("open1", "big")]);
    let state = site.host("open1").path("state");
    std::fs::create_dir(&state).expect("made");
    let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o777);
    std::fs::set_permissions(&state, mode).expect("set");
    let driver = site.open();
    driver.refused("big");
    assert!(log_has(&["Instance=open1", "is writable for others"]));
}

/// It may be somewhere else, as on a larger disk.
#[test]
fn a_directory_that_is_a_link() {
    let mut site = Site::new(&[("link1", "big")]);
    let host = site.host("link1");
    let data = host.path("data");
    std::fs::create_dir(&data).expect("made");
    std::os::unix::fs::symlink(&data, host.path("state")).expect("made");
    let driver = site.open();
    assert_eq!(driver.created("big"), "link1");
    assert!(data.join("owner").exists());
    driver.given_back("link1", Ending::Unwanted);
    assert!(!data.join("owner").exists());
}

#[test]
fn the_init_command_runs_after_the_claim_and_its_failure_gives_the_host_back() {
    let mut site = Site::new(&[("init1", "big"), ("init2", "big")]);
    site.init_command = "test -e state/owner || cd \"$HOME\"; test -e state/owner; ! test -e broken-init || { echo 'no disk' >&2; exit 3; }; echo \"$(cat state/owner)\" > greeted".to_owned();
    let host = site.host("init1");
    std::fs::write(host.path("broken-init"), "").expect("written");
    let driver = site.open();
    assert_eq!(driver.created("big"), "init2");
    assert!(std::fs::read_to_string(site.host("init2").path("greeted")).expect("made").starts_with(SET));
    assert!(log_has(&["Instance=init1", "InstanceInitCommand ended with exit status 3: no disk"]));
    wait_until("the failed one is given back", || host.owner().is_none() && driver.state_word("init1") == "failed");
    std::fs::remove_file(host.path("broken-init")).expect("there");
    site.clock.advance(Duration::from_secs(61));
    assert_eq!(driver.created("big"), "init1");
}

/// The state file was lost: what may still run there is ended before the host is given out.
#[test]
fn a_host_of_ours_that_nobody_remembers_is_cleaned_up_first() {
    let mut site = Site::new(&[("forgot1", "big")]);
    let driver = site.open();
    driver.created("big");
    let runner = driver.deployed("forgot1");
    start_job(&runner, 1, "while :; do sleep 0.1; done");
    driver.0.stop();
    drop(driver);
    std::fs::remove_file(site.state_file()).expect("there");
    let driver = site.open();
    assert!(driver.list().is_empty());
    driver.refused("big");
    wait_until("it is cleaned up", || site.host("forgot1").owner().is_none());
    let wake = muster::remote::wake::Wake::new().expect("a descriptor");
    let left = site.open_again("forgot1").list(None, Duration::ZERO, COMMAND_DEADLINE, &wake).expect("a list").runners;
    assert!(left.values().all(|one| one.state == RunnerState::Finished), "{left:?}");
    site.clock.advance(Duration::from_secs(61));
    wait_until("it can be taken", || driver.create("big").is_ok());
}

/// Two dispatchers that know the same hosts: each host has one owner, whoever is faster.
#[test]
fn several_dispatchers_share_hosts() {
    const NAMES: [&str; 6] = ["both1", "both2", "both3", "both4", "both5", "both6"];
    let mut site = Site::new(&NAMES.map(|name| (name, "big")));
    let mut other = Site::new(&[]);
    (other.network, other.specs, other.set) = (site.network.clone(), site.specs.clone(), OTHER_SET);
    let drivers = [site.open(), other.open()];
    for _ in 0..3 {
        let taken: Vec<Vec<String>> = std::thread::scope(|scope| {
            let creates = drivers.iter().map(|driver| {
                scope.spawn(|| (0..6).filter_map(|_| driver.create("big").ok()).map(|one| one.id.to_string()).collect())
            });
            creates.collect::<Vec<_>>().into_iter().map(|create| create.join().expect("no panic")).collect()
        });
        let mut all = taken.concat();
        all.sort();
        assert_eq!(all, NAMES, "each host has one owner");
        for (names, set) in taken.iter().zip([SET, OTHER_SET]) {
            assert!(names.iter().all(|name| site.host(name).owner().as_deref() == Some(set)));
        }
        for (names, driver) in taken.iter().zip(&drivers) {
            names.iter().for_each(|name| driver.given_back(name, Ending::Unwanted));
        }
        site.clock.advance(Duration::from_secs(3700));
        other.clock.advance(Duration::from_secs(3700));
    }
}
