//! A host that has another secret than its instance was given.

use std::sync::Arc;
use std::time::{Duration, Instant};

use muster::core::ids::InstanceSecret;
use muster::remote::identity::SecretOnly;
use muster::remote::ssh::key::PrivateKey;
use muster::remote::ssh::{SshClient, SshExecutor};
use muster::remote::{Command, ExecuteError, Executor, HostAccess, Lane, Program};
use muster_ssh_hosts::{HostOptions, Server, SshHost, caller_is_root, client_key};

use crate::fixture::{Cluster, DROPBEAR, FAULTY, OPENSSH};

const SECRET: &str = "0123456789abcdef0123456789abcdef01234567";
const FILE: &str = "/run/arvados-instance-secret";

fn put(host: &SshHost, text: &str) {
    let file = host.path(FILE);
    drop(std::fs::remove_file(&file));
    std::fs::write(&file, text).expect("written");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("set");
}

/// Where nobody knows the host's key, the secret decides who it is: with another one nothing is run there, that is said as the mistake it
/// is and not as something that passes by itself, and the right one lets us in.
#[test]
fn it_decides_where_the_key_is_unknown() {
    for server in [Server::OpenSsh, Server::Dropbear] {
        let key = client_key().expect("made");
        let host = HostOptions::new(key.public()).server(server).start().expect("starts");
        let private = PrivateKey::parse(key.private()).expect("a key");
        let client = Arc::new(SshClient::new(private, 22, Arc::new(muster::shell::threads::spawn)));
        let access = HostAccess { check: Arc::new(SecretOnly), secret: Some(InstanceSecret::new(SECRET)), sudo: false };
        let executor = SshExecutor::new(client, access).expect("a descriptor");
        executor.set_target(&host.address(), host.user());
        let run = || {
            let program = Program::Shell("touch /run/lock/was-run".to_owned());
            let deadline = Instant::now() + Duration::from_secs(120);
            executor.execute(Lane::Probe, &Command { program, stdin: b"", open_until: None, deadline })
        };
        put(&host, &SECRET.replace('0', "f"));
        let error = run().expect_err("refused");
        assert!(
            matches!(&error, ExecuteError::HostKey { reason, .. } if reason == "bad instance secret"),
            "{server:?}: {error}"
        );
        assert!(!error.is_normal_while_booting(), "people are told at once");
        assert!(!executor.has_connected(), "nobody counts it as booted");
        assert!(!host.path("/run/lock/was-run").exists());
        put(&host, SECRET);
        assert!(run().expect("runs").succeeded(), "{server:?}");
        assert!(host.path("/run/lock/was-run").exists());
    }
}

/// A static host's key decides (spec 46 §1), whatever its secret file says: somebody who can write there has the host anyway.
#[test]
fn it_decides_nothing_where_the_key_is_known() {
    let mut cluster = Cluster::linked(&[OPENSSH, DROPBEAR], "    TimeoutIdle: 1h\n    ProbeInterval: 1s\n");
    cluster.site.start();
    let held = cluster.held(4);
    for name in FAULTY {
        put(cluster.host(name), "somebody else's");
        // A connection that is cut between two probes is simply made anew: until one is cut in a probe.
        cluster.wait_until(&format!("a probe of {name} is cut"), |cluster| {
            cluster.host(name).cut_connections().expect("cut");
            cluster.has_said(name, "run probe failed")
        });
        cluster.open_gate(name);
    }
    let more = cluster.submit(&["--array", "1-4"], "true");
    cluster.wait_for_all(&held);
    cluster.wait_for_all(&more);
    cluster.assert_undisturbed(&held);
    cluster.assert_undisturbed(&more);
    assert!(!cluster.site.log().contains("bad instance secret"));
    assert!(!caller_is_root() || cluster.host("ada").path(FILE).exists());
    cluster.end();
}
