//! Many creates and destroys at once, with hosts that come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use muster::cloud::InstanceSet;
use muster::core::effect::Ending;
use muster::remote::ExecuteError;
use parking_lot::Mutex;

use crate::fake::{When, wait_until};
use crate::site::{SET, Site, id, new_instance};

/// A host is one instance at most, is never given out before its clean-up, and the state file says what is listed.
#[test]
fn hosts_are_given_to_one_and_only_clean() {
    let names: Vec<String> = (0..12).map(|number| format!("storm{number:02}")).collect();
    let hosts: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "big")).collect();
    let mut site = Site::new(&hosts);
    let driver = site.open();
    // Every seventh command fails, half of those after they ran.
    let commands = AtomicUsize::new(0);
    let faults = Arc::new(AtomicBool::new(true));
    let on = faults.clone();
    site.network.set_hook(Some(Arc::new(move |_, when, _: &str| {
        let number = commands.fetch_add(1, Ordering::SeqCst);
        let wanted = if number % 14 < 7 { When::Before } else { When::After };
        match on.load(Ordering::SeqCst) && number.is_multiple_of(7) && when == wanted {
            true => Err(ExecuteError::Deadline),
            false => Ok(()),
        }
    })));
    let out: Mutex<BTreeSet<String>> = Mutex::default();
    let made = AtomicUsize::new(0);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Time passes, lists are made, the background looks.
        scope.spawn(|| {
            while !ended.load(Ordering::SeqCst) {
                driver.list();
                site.clock.advance(Duration::from_secs(20));
                driver.0.look();
                std::thread::park_timeout(Duration::from_millis(2));
            }
        });
        let workers: Vec<_> = (0..8)
            .map(|worker| {
                let (driver, out, made, site) = (&driver, &out, &made, &site);
                scope.spawn(move || {
                    for round in 0..25 {
                        let Ok(one) = driver.0.create(&new_instance("big", &format!("{worker}-{round}"))) else {
                            std::thread::park_timeout(Duration::from_millis(2));
                            continue;
                        };
                        let name = one.id.to_string();
                        assert!(out.lock().insert(name.clone()), "{name} is given to two");
                        made.fetch_add(1, Ordering::SeqCst);
                        let host = site.host(&name);
                        assert_eq!(host.owner().as_deref(), Some(SET), "{name}");
                        // What the clean-up has to remove; a create that finds it would be given a host that is not clean.
                        assert!(!host.path("secret").exists(), "{name} was not clean");
                        std::fs::write(host.path("secret"), "x").expect("written");
                        out.lock().remove(&name);
                        let ending = if round % 5 == 0 { Ending::Faulty } else { Ending::Unwanted };
                        driver.destroy(&name, ending);
                        driver.destroy(&name, ending);
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().expect("no panic");
        }
        ended.store(true, Ordering::SeqCst);
    });
    assert!(made.load(Ordering::SeqCst) > 20, "{}", made.load(Ordering::SeqCst));
    faults.store(false, Ordering::SeqCst);
    wait_until("all are clean", || {
        site.clock.advance(Duration::from_secs(4000));
        driver.0.look();
        driver.list().is_empty()
            && names.iter().all(|name| driver.state_word(name) != "cleaning")
            && site.state()["hosts"].as_object().is_some_and(serde_json::Map::is_empty)
    });
    assert!(names.iter().all(|name| site.host(name).owner().is_none() && !site.host(name).path("secret").exists()));
}

/// The file is as the memory, whoever wrote last.
#[test]
fn the_state_file_equals_what_is_listed() {
    let names: Vec<String> = (0..8).map(|number| format!("equal{number}")).collect();
    let hosts: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "big")).collect();
    let mut site = Site::new(&hosts);
    let driver = site.open();
    for round in 0..5 {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| driver.create("big").map(drop));
            }
        });
        std::thread::scope(|scope| {
            for (number, one) in driver.list().into_iter().enumerate() {
                let driver = &driver;
                scope.spawn(move || {
                    let mut tags = one.tags.clone();
                    tags.insert("Round".to_owned(), format!("{round} {number}"));
                    driver.0.set_tags(&one.id, &tags).expect("taken");
                    if number % 2 == 0 {
                        driver.given_back(one.id.as_str(), Ending::Unwanted);
                    }
                });
            }
        });
        let listed: BTreeMap<String, BTreeMap<String, String>> =
            driver.list().into_iter().map(|one| (one.id.to_string(), one.tags.into_iter().collect())).collect();
        let state = site.state();
        let kept: BTreeMap<String, BTreeMap<String, String>> = state["hosts"]
            .as_object()
            .expect("a map")
            .iter()
            .map(|(name, host)| (name.clone(), serde_json::from_value(host["tags"].clone()).expect("texts")))
            .collect();
        assert_eq!(listed, kept, "round {round}");
        assert_eq!(listed.len(), 4, "round {round}");
    }
    for name in driver.names() {
        driver.0.destroy(&id(&name), Ending::Unwanted).expect("taken on");
    }
    wait_until("all are free", || driver.list().is_empty());
}

/// Many hosts at once cost few writes of the file, which holds all of them each time: otherwise the work would grow with the square of
/// their number. A change is seen, and acted upon, only when it is written.
#[test]
fn hosts_that_are_taken_at_once_are_written_together() {
    const HOSTS: usize = 64;
    let names: Vec<String> = (0..HOSTS).map(|number| format!("group{number:02}")).collect();
    let hosts: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "big")).collect();
    let mut site = Site::new(&hosts);
    let driver = site.open();
    // When a command comes to a host, the file says already that it is taken.
    let file = site.state_file();
    let unwritten = Arc::new(AtomicUsize::new(0));
    let count = unwritten.clone();
    site.network.set_hook(Some(Arc::new(move |host, when, _: &str| {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let name = host.folder.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        if when == When::Before && !text.contains(&format!("\"{name}\"")) {
            count.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    })));
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Whatever is listed is in the file as taken.
        scope.spawn(|| {
            while !ended.load(Ordering::SeqCst) {
                let listed = driver.list();
                let state = site.state();
                for one in listed {
                    assert_eq!(state["hosts"][one.id.as_str()]["phase"], "taken", "{}", one.id);
                }
                std::thread::park_timeout(Duration::from_millis(1));
            }
        });
        let creates: Vec<_> =
            (0..HOSTS).map(|_| scope.spawn(|| driver.create("big").expect("one is free").id)).collect();
        let taken: BTreeSet<String> =
            creates.into_iter().map(|create| create.join().expect("no panic").to_string()).collect();
        assert_eq!(taken.len(), HOSTS, "each once");
        ended.store(true, Ordering::SeqCst);
    });
    assert_eq!(unwritten.load(Ordering::SeqCst), 0);
    assert_eq!(site.state()["hosts"].as_object().map(serde_json::Map::len), Some(HOSTS));
    let writes = driver.0.writes();
    // Each changes twice.
    assert!(writes < 2 * HOSTS as u64, "{writes} writes for {HOSTS} hosts");
}
