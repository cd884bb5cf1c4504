//! The daemon is killed between any two steps: before and after each command on a host, and so on either side of each write of the state
//! file. The next daemon must find every host again, and give none out that is not clean.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use muster::cloud::InstanceSet;
use muster::core::effect::Ending;
use muster::core::settings::COMMAND_DEADLINE;
use muster::core::worker::listing::RunnerState;
use muster::remote::ExecuteError;
use muster::remote::wake::Wake;
use parking_lot::Mutex;

use crate::fake::{When, wait_until};
use crate::site::{Driver, Site, start_job, uuid};

/// Kills the driver at the step of this number, counted from 0; true in the flag when that happened.
fn kill_at(site: &Site, driver: &Driver, step: usize) -> Arc<AtomicBool> {
    let killed = Arc::new(AtomicBool::new(false));
    let victim = Mutex::new(Some(driver.0.clone()));
    let (flag, steps) = (killed.clone(), AtomicUsize::new(0));
    site.network.set_hook(Some(Arc::new(move |_, _: When, _: &str| {
        if flag.load(Ordering::SeqCst) {
            return Err(ExecuteError::Cancelled);
        }
        if steps.fetch_add(1, Ordering::SeqCst) == step {
            flag.store(true, Ordering::SeqCst);
            // After this it writes nothing and sends nothing, as a process that is gone.
            if let Some(driver) = victim.lock().take() {
                driver.stop();
            }
            return Err(ExecuteError::Cancelled);
        }
        Ok(())
    })));
    killed
}

/// Until the host is free, clean and can be taken again.
fn recovers(site: &mut Site, name: &str, what: &str) {
    let driver = site.open();
    if driver.names().contains(&name.to_owned()) {
        // The pool adopts it, and lets it go.
        driver.destroy(name, Ending::Unwanted);
    }
    wait_until(&format!("{what}: the host is clean"), || driver.list().is_empty() && driver.0.unlisted().is_empty());
    let host = site.host(name);
    assert_eq!(host.owner(), None, "{what}");
    assert!(!host.path("secret").exists(), "{what}");
    assert!(site.state()["hosts"].as_object().expect("a map").is_empty(), "{what}");
    assert_eq!(driver.created("big"), name, "{what}");
}

#[test]
fn killed_while_a_host_is_taken() {
    for step in 0.. {
        let name = format!("kill-create-{step}");
        let mut site = Site::new(&[(&name, "big")]);
        site.init_command = "true".to_owned();
        let driver = site.open();
        let killed = kill_at(&site, &driver, step);
        let result = driver.create("big");
        site.network.set_hook(None);
        if !killed.load(Ordering::SeqCst) {
            assert!(result.is_ok() && step == 4, "two commands, before and after each: {step}");
            break;
        }
        assert!(result.is_err());
        // The host was written down before it was touched.
        assert_eq!(site.state()["hosts"][&name]["phase"], "claiming", "step {step}");
        drop(driver);
        recovers(&mut site, &name, &format!("step {step}"));
    }
}

#[test]
fn killed_while_a_host_is_cleaned_up() {
    for step in 0.. {
        let name = format!("kill-destroy-{step}");
        let mut site = Site::new(&[(&name, "big")]);
        let driver = site.open();
        driver.created("big");
        let runner = driver.deployed(&name);
        start_job(&runner, 1, "while :; do sleep 0.1; done");
        std::fs::write(site.host(&name).path("secret"), "x").expect("written");
        let killed = kill_at(&site, &driver, step);
        driver.destroy(&name, Ending::Unwanted);
        wait_until("killed or done", || killed.load(Ordering::SeqCst) || driver.list().is_empty());
        site.network.set_hook(None);
        let state = site.state();
        drop(driver);
        if !killed.load(Ordering::SeqCst) {
            assert!(step >= 10, "looking, listing, killing, forgetting, releasing: {step}");
            assert!(state["hosts"].get(&name).is_none());
            break;
        }
        assert_eq!(state["hosts"][&name]["phase"], "cleaning", "step {step}");
        recovers(&mut site, &name, &format!("step {step}"));
        let wake = Wake::new().expect("a descriptor");
        let left = site.open_again(&name).list(None, Duration::ZERO, COMMAND_DEADLINE, &wake).expect("a list").runners;
        let ended = left.get(&uuid(1)).is_none_or(|one| one.state == RunnerState::Finished);
        assert!(ended, "step {step}: {left:?}");
    }
}

/// Taken and running: the next daemon lists it, and what runs goes on.
#[test]
fn killed_while_jobs_run() {
    let mut site = Site::new(&[("kill-run", "big")]);
    let driver = site.open();
    driver.created("big");
    let runner = driver.deployed("kill-run");
    start_job(&runner, 1, "while :; do sleep 0.1; done");
    let listed = driver.list();
    driver.0.stop();
    drop(driver);
    let driver = site.open();
    assert_eq!(driver.list(), listed);
    let wake = Wake::new().expect("a descriptor");
    let runner = driver.deployed("kill-run");
    assert!(runner.list(None, Duration::ZERO, COMMAND_DEADLINE, &wake).expect("a list").runners.contains_key(&uuid(1)));
    driver.given_back("kill-run", Ending::Unwanted);
    let left = runner.list(None, Duration::ZERO, COMMAND_DEADLINE, &wake).expect("a list").runners;
    assert!(left.values().all(|one| one.state == RunnerState::Finished), "{left:?}");
}

/// A write that was cut off: the temporary file is left, and the old text counts.
#[test]
fn killed_while_the_state_file_is_written() {
    let mut site = Site::new(&[("kill-write", "big")]);
    let driver = site.open();
    driver.created("big");
    let listed = driver.list();
    drop(driver);
    std::fs::write(site.folder().join("static-hosts.json.new"), "{\"version\": 1, \"se").expect("written");
    let driver = site.open();
    assert_eq!(driver.list(), listed);
    driver.given_back("kill-write", Ending::Unwanted);
}
