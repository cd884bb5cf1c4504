//! The same on real SSH servers, each with a file system of its own: the default places, sudo, other shells and servers.

use std::sync::Arc;
use std::time::Duration;

use muster::cloud::InstanceSet;
use muster::cloud::static_hosts::{HostSpec, StaticHosts, StaticOptions};
use muster::core::effect::{Ending, Tags};
use muster::core::ids::{InstanceId, TypeName};
use muster::core::worker::listing::RunnerState;
use muster::remote::address::HostAddress;
use muster::remote::identity::{HostKey, HostTrust};
use muster::remote::runner::RunnerPlaces;
use muster::remote::ssh::key::PrivateKey;
use muster::remote::ssh::{SshClient, SshConnector};
use muster_ssh_hosts::{ClientKey, HostOptions, Login, Server, Shell, SshHost, Sudo, caller_is_root, client_key};

use crate::fake::wait_until;
use crate::site::{Driver, SET, log, log_has, new_instance, start_job, supply, uuid};

fn spec(name: &str, host: &SshHost, sudo: bool) -> HostSpec {
    HostSpec {
        id: InstanceId::new(name),
        address: HostAddress::parse(&host.address(), 22).expect("an address"),
        user: host.user().to_owned(),
        // A server that was started without root has no sudo.
        sudo: sudo && caller_is_root(),
        type_name: TypeName::new("big"),
        provider_type: "big".to_owned(),
        trust: HostTrust::Keys(vec![HostKey::parse(&host.host_key_openssh()).expect("a key")]),
    }
}

fn open(folder: &std::path::Path, key: &ClientKey, hosts: Vec<HostSpec>) -> Driver {
    log();
    let (events, _) = crossbeam_channel::bounded(100);
    let client =
        SshClient::new(PrivateKey::parse(key.private()).expect("a key"), 22, Arc::new(muster::shell::threads::spawn));
    let options = StaticOptions {
        hosts,
        state_file: folder.join("static-hosts.json"),
        set: SET.to_owned(),
        supply: supply(None),
        tag_prefix: "Arvados".to_owned(),
        init_command: "id -u > /var/lib/muster-init 2>/dev/null || id -u > \"$HOME/muster-init\"".to_owned(),
        places: Arc::new(|_| RunnerPlaces::default()),
        connector: Arc::new(SshConnector(Arc::new(client))),
        events,
        spawn: Arc::new(muster::shell::threads::spawn),
        clock: crate::fake::TestClock::default().function(),
        began: 0,
        reached: |_| {},
    };
    Driver(Arc::new(StaticHosts::open(options).expect("opens")))
}

/// Taken, used, given back: on every kind of host there is.
#[test]
fn every_kind_of_host() {
    let key = client_key().expect("made");
    let options = || HostOptions::new(key.public());
    let mut kinds = vec![("real-own", options(), true)];
    if caller_is_root() {
        let worker = || options().login(Login::Worker);
        kinds.extend([
            ("real-sudo", worker(), true),
            ("real-plain", worker().sudo(Sudo::Missing), false),
            ("real-sh", options().shell(Shell::Sh), true),
            ("real-noisy", options().noisy_bashrc(), true),
            ("real-busybox", options().shell(Shell::Busybox), true),
            ("real-dropbear", options().server(Server::Dropbear), true),
        ]);
    }
    for (name, options, sudo) in kinds {
        let host = options.start().expect("starts");
        one_life(name, &host, &key, sudo);
    }
}

fn one_life(name: &str, host: &SshHost, key: &ClientKey, sudo: bool) {
    let folder = tempfile::tempdir().expect("a folder");
    let driver = open(folder.path(), key, vec![spec(name, host, sudo)]);
    let made =
        driver.0.create(&new_instance("big", "s")).unwrap_or_else(|error| panic!("{name}: {error}\n{}", host.log()));
    let as_root = caller_is_root() && (sudo || host.user() == "root");
    let home = host.home().to_owned();
    let (state, bin) = match as_root {
        true => ("/var/lib/muster-runner".to_owned(), "/var/lib/muster-runner/bin".to_owned()),
        false => {
            (format!("{home}/.local/state/muster-runner/{}", host.name()), format!("{home}/.cache/muster-runner/bin"))
        }
    };
    let owner = host.path(&format!("{state}/owner"));
    assert!(std::fs::read_to_string(&owner).expect(name).starts_with(&format!("{SET}\n{name} ")));
    if as_root {
        assert_eq!(std::fs::read_to_string(host.path("/var/lib/muster-init")).expect(name), "0\n");
    }
    let runner = driver.deployed_at(name, &made.address, host.user(), Some(&bin));
    start_job(&runner, 1, "while :; do sleep 0.1; done");
    let listed = || {
        runner.list(
            None,
            Duration::ZERO,
            Duration::from_secs(60),
            &muster::remote::wake::Wake::new().expect("a descriptor"),
        )
    };
    assert!(listed().expect(name).runners.contains_key(&uuid(1)), "{name}");
    driver.destroy(name, Ending::Unwanted);
    wait_until(&format!("{name} is cleaned up"), || driver.0.list(&Tags::new()).expect("never fails").is_empty());
    assert!(driver.0.unlisted().is_empty(), "{name}: {:?}", driver.0.unlisted());
    let left = listed().expect(name).runners;
    assert!(left.values().all(|one| one.state == RunnerState::Finished), "{name}: {left:?}");
    assert!(!owner.exists(), "{name}");
    assert!(log_has(&["msg=\"host cleaned up\"", &format!("Instance={name} ")]), "{name}");
}

/// A server that is gone is noticed at once, not after a minute of patience; when it is back, the clean-up ends.
#[test]
fn a_server_that_is_gone() {
    let key = client_key().expect("made");
    let host = HostOptions::new(key.public()).start().expect("starts");
    let folder = tempfile::tempdir().expect("a folder");
    let driver = open(folder.path(), &key, vec![spec("real-gone", &host, true)]);
    driver.0.create(&new_instance("big", "s")).expect("taken");
    host.kill_server().expect("killed");
    driver.destroy("real-gone", Ending::Unwanted);
    wait_until("it is unreachable", || driver.state_word("real-gone") == "unreachable");
    host.restart().expect("starts");
    wait_until("it is cleaned up", || driver.0.unlisted().is_empty() && driver.list().is_empty());
    assert_eq!(driver.created("big"), "real-gone");
}
