//! The pair in the state directory: made once, kept, and never replaced.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use muster::config::{Config, Host, LoadOptions, Secret, load};
use muster::core::errors::chain;
use muster::remote::ssh::key::PrivateKey;
use muster::shell::dispatch_key::{DispatchKeyError, find_key, key_file, private_key_fault};
use muster::shell::state_dir::StateDir;

use crate::tools::Workshop;

fn key_of(path: &Path) -> Result<PrivateKey, DispatchKeyError> {
    lock(path).dispatch_key(&Secret::default())
}

/// A process that another test is just starting has the lock of this one, too, until it runs its program.
fn lock(path: &Path) -> StateDir {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match StateDir::open(path) {
            Ok(state) => return state,
            Err(error) => assert!(Instant::now() < until, "{error:?}"),
        }
        std::thread::yield_now();
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("there").permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set");
}

#[test]
fn made_once_and_kept() {
    let workshop = Workshop::new();
    let state = workshop.path("state");
    let first = key_of(&state).expect("made");
    let ssh = state.join("ssh");
    assert_eq!((mode(&ssh), mode(&ssh.join("id_ed25519"))), (0o700, 0o600));
    let names: Vec<_> =
        std::fs::read_dir(&ssh).expect("there").map(|entry| entry.expect("readable").file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(workshop.read("state/ssh/id_ed25519.pub"), format!("{}\n", first.public_openssh()));
    // Files that OpenSSH's own programs take.
    let public = workshop.run("ssh-keygen", &["-y", "-f", "state/ssh/id_ed25519"]);
    assert_eq!(public.trim(), first.public_openssh());
    assert_eq!(key_of(&state).expect("kept").text(), first.text());
}

#[test]
fn the_configured_key_makes_no_pair() {
    let workshop = Workshop::new();
    let state = workshop.path("state");
    workshop.keygen("own", &["-t", "ecdsa"], "");
    let state_dir = StateDir::open(&state).expect("free");
    let key = state_dir.dispatch_key(&Secret::new(&workshop.read("own"))).expect("good");
    assert_eq!(key.public_openssh(), workshop.read("own.pub").trim());
    let error = chain(&state_dir.dispatch_key(&Secret::new("nonsense")).expect_err("bad"));
    assert!(
        error.starts_with("error parsing configured Containers.DispatchPrivateKey: it is no private key"),
        "{error}"
    );
    assert!(!state.join("ssh").exists());
}

/// An own key may be put there, of any type; its public part is written if it is missing.
#[test]
fn a_key_put_there_is_taken() {
    let workshop = Workshop::new();
    let state = workshop.path("state");
    drop(key_of(&state).expect("made"));
    workshop.keygen("own", &["-t", "rsa", "-b", "2048"], "");
    std::fs::remove_file(state.join("ssh/id_ed25519.pub")).expect("there");
    workshop.write("state/ssh/id_ed25519", &workshop.read("own"));
    key_of(&state).expect("taken");
    assert_eq!(workshop.read("state/ssh/id_ed25519.pub"), workshop.read("own.pub"));
    workshop.write("state/ssh/id_ed25519.pub", &workshop.read("own.pub").replace("a comment", "another  one"));
    key_of(&state).expect("a comment is nobody's business");
}

#[test]
fn what_is_wrong_there_is_said_and_left_alone() {
    let workshop = Workshop::new();
    let state = workshop.path("state");
    let (private, public) = (state.join("ssh/id_ed25519"), state.join("ssh/id_ed25519.pub"));
    let good = key_of(&state).expect("made");
    let line = format!("{}\n", good.public_openssh());
    let other = PrivateKey::generate().expect("drawn");
    workshop.keygen("locked", &["-t", "ed25519"], "sesame");
    let locked = workshop.read("locked");
    for (text, private_mode, public_text, parts) in [
        ("", 0o600, line.as_str(), &["id_ed25519 is no key", "no private key", "move it"][..]),
        (&good.text()[..200], 0o600, &line, &["id_ed25519 is no key", "damaged"]),
        (&locked, 0o600, &line, &["id_ed25519 is no key", "ssh-keygen -p"]),
        (good.text(), 0o640, &line, &["id_ed25519 is open to others (mode 640)", "chmod 600"]),
        (good.text(), 0o604, &line, &["mode 604"]),
        (good.text(), 0o600, &other.public_openssh(), &["id_ed25519.pub is not the public part", "remove it"]),
        (good.text(), 0o600, "", &["id_ed25519.pub is not the public part"]),
    ] {
        std::fs::write(&private, text).expect("written");
        set_mode(&private, private_mode);
        std::fs::write(&public, public_text).expect("written");
        let error = chain(&key_of(&state).expect_err(parts[0]));
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
        assert!(error.contains(&*state.to_string_lossy()), "{error}");
        let secret = good.text().lines().nth(3).expect("three lines");
        assert!(!error.contains(secret), "{error}");
        let now = [&private, &public].map(|path| std::fs::read_to_string(path).expect("there"));
        assert_eq!(now, [text, public_text], "left alone");
    }
}

#[test]
fn a_lost_private_key_is_not_replaced() {
    let workshop = Workshop::new();
    let state = workshop.path("state");
    drop(key_of(&state).expect("made"));
    let (private, public) = (state.join("ssh/id_ed25519"), state.join("ssh/id_ed25519.pub"));
    std::fs::rename(&private, state.join("elsewhere")).expect("moved");
    let error = chain(&key_of(&state).expect_err("lost"));
    assert!(error.contains("without its private key") && !private.exists(), "{error}");
    // What a directory or a device is in place of the file.
    std::fs::create_dir(&private).expect("made");
    let error = chain(&key_of(&state).expect_err("no file"));
    assert!(error.contains("id_ed25519 is no key"), "{error}");
    std::fs::remove_dir(&private).expect("empty");
    std::fs::remove_file(&public).expect("there");
    key_of(&state).expect("made anew, as asked for");
}

/// As a crash between the two files leaves it.
#[test]
fn a_half_made_pair_is_completed() {
    let workshop = Workshop::new();
    let state = workshop.path("state");
    let first = key_of(&state).expect("made");
    std::fs::rename(state.join("ssh/id_ed25519.pub"), state.join("ssh/id_ed25519.new")).expect("moved");
    assert_eq!(key_of(&state).expect("kept").text(), first.text());
    assert_eq!(workshop.read("state/ssh/id_ed25519.pub").trim(), first.public_openssh());
}

/// As `muster cloudtest` finds it, beside a daemon or before there was one.
#[test]
fn the_daemons_key_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().join("state");
    let configured = |key: &str| {
        let text = format!("Muster: {{StateDir: {}}}\nContainers: {{DispatchPrivateKey: {key:?}}}\n", state.display());
        let file = folder.path().join("config.yml");
        std::fs::write(&file, text).expect("written");
        let environment = |_: &str| None;
        let options =
            LoadOptions { path: Some(file), cluster: None, env: &environment, host: Host::this(), private_key_fault };
        load(&options).expect("good").config
    };
    // Nobody has started the daemon yet: its pair is made, once.
    let config = configured("");
    let made = find(&config);
    let file = key_file(&config).expect("a pair");
    assert_eq!(std::fs::read_to_string(&file).expect("made").trim_end(), made.text().trim_end());
    assert_eq!(find(&config).text(), made.text());
    // While it runs its directory is locked, and only read.
    let lock = lock(&state);
    assert_eq!(find(&config).text(), made.text());
    // The configured one goes before it, wherever the daemon is.
    let other = PrivateKey::generate().expect("made");
    let config = configured(other.text());
    assert_eq!(find(&config).public_openssh(), other.public_openssh());
    assert_eq!(key_file(&config), None);
    drop(lock);
    // A pair that is damaged is not replaced.
    std::fs::remove_file(&file).expect("removed");
    assert!(matches!(find_key(&configured("")), Err(DispatchKeyError::Lost { .. })));
}

fn find(config: &Config) -> PrivateKey {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match find_key(config) {
            Ok(key) => return key,
            // See `lock`.
            Err(error) => assert!(Instant::now() < until, "{error:?}"),
        }
        std::thread::yield_now();
    }
}
