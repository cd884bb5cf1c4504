//! The runner's deployment and one container's whole life, on hosts as they are met: little on them, no sudo, a strict one, start files
//! that talk (spec 50 §1–6, 52 §1).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use muster::core::ids::ContainerUuid;
use muster::core::worker::listing::{Listing, RunnerState};
use muster::remote::Lane;
use muster::remote::deploy::{Deployed, deploy};
use muster::remote::runner::{Runner, RunnerPlaces};
use muster::remote::supply::{RunnerFiles, RunnerSupply};
use muster::remote::unpack::{UnpackLimits, unpack};
use muster::remote::wake::Wake;
use muster_runner::protocol::{ContainerSpec, StartConfig};
use muster_ssh_hosts::{HostOptions, Login, Server, Shell, Sudo, caller_is_root};

use crate::fixture::{LIMIT, Remote, pin};

/// What the deployment's script says that it needs.
const NEEDED: &[&str] = &["cat", "chmod", "id", "ls", "mkdir", "mv", "rm", "uname", "sha256sum"];
const HOUR: Duration = Duration::from_secs(3600);
/// More than a pipe, a window or a buffer holds.
const BYTES: usize = 3_000_000;

fn uuid() -> ContainerUuid {
    ContainerUuid::parse("local-dz642-00000000000001f").expect("one")
}

/// The runner on a host whose login may use sudo or not. Its program is not there yet.
fn runner_on(remote: &Remote, sudo: bool) -> Runner {
    let program = Path::new(env!("CARGO_BIN_EXE_muster")).with_file_name("muster-runner");
    assert!(
        program.is_file(),
        "muster-runner is not built: run `cargo build --workspace --bins` (`make test` does it first)"
    );
    let mut access = pin(&remote.host);
    access.sudo = sudo;
    let executor = Arc::new(remote.another(access));
    let supply = RunnerSupply::new(RunnerFiles::One(program), None);
    let runner =
        Runner::new(executor, Arc::new(RunnerPlaces::default()), Arc::new(supply), "set".into(), "local".into());
    runner.retarget(&remote.host.address(), remote.host.user());
    runner
}

fn states(listing: &Listing) -> Vec<(String, RunnerState, u32)> {
    assert!(!listing.broken, "{listing:?}");
    listing.runners.iter().map(|(uuid, listed)| (uuid.to_string(), listed.state, listed.attempt)).collect()
}

/// Deployed, listed, started, followed, waited for, collected and forgotten.
fn whole_life(remote: &Remote, runner: &Runner, what: &str) {
    let installed = deploy(runner).unwrap_or_else(|error| panic!("{what}: {}", error.text()));
    assert_eq!(installed.done, Deployed::Installed, "{what}");
    assert!(installed.facts.is_some_and(|facts| facts.ram > 1 << 20), "{what}: with the rest");
    assert_eq!(deploy(runner).expect(what).done, Deployed::AlreadyThere, "{what}");
    assert!(runner.facts().expect(what).ram > 1 << 20);

    let wake = Wake::new().expect("a descriptor");
    let list =
        |known: Option<&str>| runner.list(known, HOUR, LIMIT, &wake).unwrap_or_else(|error| panic!("{what}: {error}"));
    let before = list(None);
    assert_eq!(states(&before), [], "{what}");
    let gate = tempfile::tempdir().expect("a folder");
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("set")
    };
    open(gate.path(), 0o755);
    let fifo = gate.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o666.into(), 0).expect("made");
    open(&fifo, 0o666);
    // Only what a shell has built in.
    let text = format!("echo begun; read line < {}; echo $line; read all; echo $all > out; exit 3", fifo.display());
    let config = StartConfig {
        env: BTreeMap::new(),
        container: Some(ContainerSpec {
            uuid: uuid().to_string(),
            attempt: 4,
            command: vec!["sh".into(), "-c".into(), text],
            stdin: "x".repeat(BYTES) + "\n",
            outputs: vec!["out".into()],
            ..ContainerSpec::default()
        }),
    };
    let running = std::thread::scope(|scope| {
        // A poll that missed the start would take an hour.
        let poll = scope.spawn(|| list(before.token.as_deref()));
        runner.start(&uuid(), 4, &config).unwrap_or_else(|error| panic!("{what}: {}", error.text()));
        poll.join().expect("an answer")
    });
    assert_eq!(states(&running), [(uuid().to_string(), RunnerState::Alive, 4)], "{what}");
    let tail = |offset| runner.tail(&uuid(), 4, "stdout", offset, Duration::from_secs(1)).expect(what);
    let until = Instant::now() + LIMIT;
    while tail(0) != b"begun\n" {
        assert!(Instant::now() < until, "{what}: it does not begin");
    }
    assert_eq!(tail(2), b"gun\n", "{what}");
    assert!(runner.reap(&uuid(), 4).is_err(), "{what}: it lives");

    std::fs::write(&fifo, "go\n").expect("read");
    let mut listing = list(running.token.as_deref());
    while states(&listing) != [(uuid().to_string(), RunnerState::Finished, 4)] {
        assert!(Instant::now() < until, "{what}: {listing:?}");
        listing = list(listing.token.as_deref());
    }
    let folder = tempfile::tempdir().expect("a folder");
    let limits = UnpackLimits { log_bytes: 1000, output_bytes: 10_000_000 };
    let mut outcome = None;
    runner
        .collect(&uuid(), 4, LIMIT, &mut |from| {
            outcome = Some(unpack(from, folder.path(), limits));
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{what}: {}", error.text()));
    assert_eq!(outcome.expect("called").expect(what).left_out, Vec::<String>::new());
    let stored = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect(name);
    assert_eq!((stored("stdout").as_str(), stored("stderr").as_str()), ("begun\ngo\n", ""), "{what}");
    assert_eq!(stored("outputs/out"), "x".repeat(BYTES) + "\n");
    assert!(stored("result.json").contains("\"exit_code\": 3"), "{what}");
    runner.kill(&uuid(), 4).expect("it is over");
    runner.forget(&uuid(), 4, false).expect(what);
    assert_eq!(states(&list(None)), [], "{what}");
    let jobs = || remote.host.jobs().expect("readable");
    while !jobs().is_empty() {
        assert!(Instant::now() < until, "{what}: {:?}", jobs());
    }
}

/// Hosts for everybody who may run tests; where the caller is root, with more logins.
#[test]
fn start_files_that_talk_confuse_nothing() {
    for server in [Server::OpenSsh, Server::Dropbear] {
        let remote = Remote::new(|options| private(options).server(server).noisy_bashrc());
        whole_life(&remote, &runner_on(&remote, false), &format!("noisy, {server:?}"));
        if caller_is_root() {
            let remote = Remote::new(|options| private(options).server(server).noisy_bashrc().login(Login::Worker));
            whole_life(&remote, &runner_on(&remote, true), &format!("noisy with sudo, {server:?}"));
        }
    }
}

/// Without root locks are below /tmp: two hosts must not share them.
fn private(options: HostOptions) -> HostOptions {
    if caller_is_root() { options } else { options.private_tmp() }
}

/// No bash, no coreutils, no sudo: busybox, and of that only what the deployment's script names.
#[test]
fn busybox_and_few_of_its_applets() {
    for server in [Server::OpenSsh, Server::Dropbear] {
        let few = |options: HostOptions| private(options).server(server).shell(Shell::Busybox).only_applets(NEEDED);
        let remote = Remote::new(few);
        let there = remote.output("ls /usr/bin/");
        assert_eq!(there.lines().count(), NEEDED.len() + 2, "and sh and busybox: {there}");
        whole_life(&remote, &runner_on(&remote, false), &format!("{server:?}"));
    }
    // Nothing but a shell and checksums: enough where that shell has the rest built in; else what is missing is named.
    let remote = Remote::new(|options| private(options).shell(Shell::Busybox).only_applets(&["md5sum", "sha256sum"]));
    let runner = runner_on(&remote, false);
    if remote.sh(Lane::Action, "id -u").expect("ends").succeeded() {
        whole_life(&remote, &runner, "sh and checksums");
    } else {
        let error = deploy(&runner).expect_err("there is not enough").text();
        assert!(error.contains("id -u does not work here"), "{error}");
    }
}

/// Root needs no sudo, and there is none; a user needs one, and it is as strict as it may be without a password.
#[test]
fn root_without_sudo_and_users_with_a_strict_one() {
    if !caller_is_root() {
        // Nobody but the caller can log in then, and sudo cannot work.
        return;
    }
    for server in [Server::OpenSsh, Server::Dropbear] {
        let remote = Remote::new(|options| options.server(server).sudo(Sudo::Missing));
        assert_eq!(remote.sh(Lane::Action, "sudo true").expect("ends").exit_code, Some(127));
        // As configured by default: sudo where it is needed.
        whole_life(&remote, &runner_on(&remote, true), &format!("root without sudo, {server:?}"));

        let strict = "Defaults env_reset, secure_path=\"/sbin:/usr/bin:/bin\", env_delete+=\"LANG LC_ALL HOME\", umask=0077, use_pty";
        let remote = Remote::new(|options| options.server(server).login(Login::Worker).sudoers_line(strict));
        whole_life(&remote, &runner_on(&remote, true), &format!("a strict sudo, {server:?}"));
        let programs = remote.host.path("/var/lib/muster-runner/bin");
        assert_eq!(std::fs::read_dir(programs).expect("there").count(), 1, "root's, not the user's");
        let home = remote.host.path("/home/worker");
        assert!(!home.join(".cache").exists() && !home.join(".local").exists());
    }
}
