//! The real runner put on the host, or not: files that are missing or change, directories that are not safe, runners that are there.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::harness::Site;

fn real_runner() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_muster")).with_file_name("muster-runner")
}

fn cloud(keys: &str) -> String {
    format!("Containers: {{CloudVMs: {{{keys}}}}}\n")
}

fn deployed(directory: &Path) -> usize {
    std::fs::read_dir(directory).map_or(0, Iterator::count)
}

/// Spec 20 §7: the daemon runs, says it everywhere, and creates nothing until it is repaired and told so.
#[test]
fn a_runner_that_is_missing_and_comes_later() {
    let mut site = Site::new();
    let runner = site.folder().join("runner");
    site.configure(&cloud(&format!("DeployRunnerBinary: {}", runner.display())));
    let fault = format!("error loading runner binary {}", runner.display());
    let (code, text) = site.fails(&["check"]);
    assert!(code == 1 && text.contains(&fault), "{code} {text}");
    site.start();
    let status = site.json(&["status"]);
    assert!(status["trouble"][0].as_str().expect("a trouble").starts_with(&fault), "{status}");
    assert!(site.log().contains("cannot boot worker: error loading runner binary"), "{}", site.log());
    let uuid = site.submit(&["--", "true"]);
    site.signal(Signal::HUP);
    site.wait_until("the reload is done", |site| site.log().contains("configuration read again"));
    assert_eq!(site.json(&["status"])["instances"], serde_json::json!({}), "none is created");

    std::fs::copy(real_runner(), &runner).expect("copied");
    site.signal(Signal::HUP);
    site.ok(&["wait", &uuid]);
    assert_eq!(site.json(&["status"])["trouble"], serde_json::json!([]));
    assert!(site.ok(&["check"]).contains("loopback"));
    site.stop();
}

/// Whoever is in service keeps what it has; after a restart, as for every new worker, the new version is put beside the old.
#[test]
fn a_new_version_never_replaces_one_in_use() {
    let mut site = Site::new();
    let runner = site.folder().join("runner");
    std::fs::copy(real_runner(), &runner).expect("copied");
    site.configure(&cloud(&format!("DeployRunnerBinary: {}", runner.display())));
    site.start();
    let running = site.submit(&["--", "sh", "-c", "while [ ! -e /tmp/never-$MUSTER_UUID ]; do sleep 0.1; done"]);
    site.wait_state(&running, "Running");
    // A program stays one with something behind its end.
    let mut bytes = std::fs::read(&runner).expect("there");
    bytes.extend(b"\nanother version\n");
    std::fs::write(&runner, bytes).expect("written");
    site.signal(Signal::HUP);
    site.wait_until("it is read again", |site| site.log().contains("runner read again"));
    let bin = site.state_dir().join("loopback/bin");
    let other = site.submit(&["--vcpus", "0", "--", "true"]);
    site.ok(&["wait", &other]);
    assert_eq!(deployed(&bin), 1);
    site.kill_9();
    site.start();
    site.wait_until("the new one is there", |_| deployed(&bin) == 2);
    site.wait_state(&running, "Running");
    site.ok(&["cancel", &running]);
    site.wait_state(&running, "Cancelled");
    site.stop();
}

#[test]
fn a_runner_that_is_there_already_is_not_copied() {
    let mut site = Site::new();
    let command = |program: &str| {
        format!(
            "Containers: {{CrunchRunCommand: {program}, CloudVMs: {{DeployRunnerBinary: \"\", ProbeInterval: 1s}}}}\n"
        )
    };
    site.configure(&command("/bin/true"));
    site.start();
    let uuid = site.submit(&["--", "true"]);
    site.wait_until("it is refused", |site| site.log().contains("not a muster-runner"));
    assert!(site.log().contains("CrunchRunCommand") && site.state(&uuid) != "Running", "{}", site.log());
    site.stop();
    site.configure(&command(real_runner().to_str().expect("plain")));
    site.start();
    site.ok(&["wait", &uuid]);
    assert!(site.log().contains("runner is on the instance as the configuration says"), "{}", site.log());
    assert!(!site.state_dir().join("loopback/bin").exists());
    site.stop();
}

/// Nothing is run from there; repaired, the same instance comes into service.
#[test]
fn a_directory_that_is_not_safe_keeps_the_worker_from_booting() {
    let mut site = Site::new();
    let directory = site.folder().join("shared");
    std::fs::create_dir(&directory).expect("made");
    let mode = |mode| std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(mode)).expect("set");
    mode(0o777);
    site.configure(&cloud(&format!("ProbeInterval: 1s, DeployRunnerDirectory: {}", directory.display())));
    site.start();
    let uuid = site.submit(&["--", "true"]);
    let part = format!("{} is writable for others", directory.display());
    site.wait_until("it is refused", |site| site.log().contains(&part));
    assert_eq!(deployed(&directory), 0);
    mode(0o755);
    site.ok(&["wait", &uuid]);
    assert_eq!(deployed(&directory), 1);
    site.stop();
}
