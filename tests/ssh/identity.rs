//! Who the host is (spec 20 §8, 45 §4).

use muster::remote::{ExecuteError, Executor, Lane};
use muster_ssh_hosts::{KeyKind, Login, caller_is_root};

use crate::fixture::{Remote, SERVERS, pin, secret_only, sh, text};

const SECRET: &str = "0123456789abcdef0123456789abcdef01234567";

fn refused(result: Result<muster::remote::Output, ExecuteError>, expected: &str) {
    match result {
        Err(ExecuteError::HostKey { reason, .. }) => assert!(reason.contains(expected), "{reason} lacks {expected}"),
        other => panic!("not refused: {other:?}"),
    }
}

/// A wrong key is refused before anything is sent, even who we are.
#[test]
fn a_wrong_key_gets_nothing() {
    for server in SERVERS {
        let (remote, other) = (Remote::on(server), Remote::on(server));
        let executor = remote.another(pin(&other.host));
        let error = executor.execute(Lane::Probe, &sh("true", b"")).expect_err("refused");
        assert!(!error.is_normal_while_booting());
        refused(Err(error), "expected SHA256:");
        let log = remote.host.log();
        for sent in ["Accepted", "auth succeeded", "authenticating user", "for root", "Bad password", "for user"] {
            assert!(!log.contains(sent), "{log}");
        }
        assert!(!executor.has_connected());
    }
}

/// Whatever keys a host has, it shows the one that is known.
#[test]
fn the_known_key_among_several() {
    let kinds = [KeyKind::Ed25519, KeyKind::Ecdsa, KeyKind::Rsa];
    for first in 0..kinds.len() {
        let mut order = kinds;
        order.rotate_left(first);
        // `pin` takes the first one.
        let remote = Remote::new(|options| options.host_keys(&order));
        assert_eq!(remote.output("echo in"), "in\n", "{order:?}");
    }
}

#[test]
fn the_secret_decides_where_nobody_knows_the_key() {
    if !caller_is_root() {
        // Only root can have a secret file for a login; the rest of the rules is the same for all.
        return;
    }
    for login in [Login::Root, Login::Worker] {
        let remote = Remote::with(|options| options.login(login), |_| secret_only(Some(SECRET)));
        refused(remote.sh(Lane::Action, "true"), "bad instance secret");
        let file = remote.host.path("/run/arvados-instance-secret");
        std::fs::write(&file, "another").expect("written");
        refused(remote.sh(Lane::Action, "true"), "bad instance secret");
        // A prefix, or with a newline, is another one.
        for wrong in [&SECRET[..39], &format!("{SECRET}\n")] {
            std::fs::write(&file, wrong).expect("written");
            refused(remote.sh(Lane::Action, "true"), "bad instance secret");
        }
        std::fs::write(&file, SECRET).expect("written");
        std::os::unix::fs::chown(&file, Some(0), Some(0)).expect("root's");
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("set");
        assert_eq!(remote.output("echo in"), "in\n");
        // Verified once: the key is enough from then on.
        std::fs::remove_file(&file).expect("removed");
        for lane in [Lane::Probe, Lane::Bulk] {
            assert!(remote.sh(lane, "true").expect("runs").succeeded());
        }
        // Another key: verified again.
        remote.host.restart_with_new_keys().expect("starts");
        refused(remote.sh(Lane::Action, "true"), "bad instance secret");
        std::fs::write(&file, SECRET).expect("written");
        assert_eq!(remote.output("echo in again"), "in again\n");
    }
    let remote = Remote::with(|options| options, |_| secret_only(None));
    refused(remote.sh(Lane::Action, "true"), "no secret tag");
}

#[test]
fn a_changed_key_is_refused_where_the_key_is_known() {
    for server in SERVERS {
        let remote = Remote::on(server);
        assert_eq!(remote.output("echo in"), "in\n");
        remote.host.restart_with_new_keys().expect("starts");
        refused(remote.sh(Lane::Action, "true"), "expected SHA256:");
        let executor = remote.another(pin(&remote.host));
        assert_eq!(text(executor.execute(Lane::Action, &sh("echo in", b""))), "in\n");
    }
}
