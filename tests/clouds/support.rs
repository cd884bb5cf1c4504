//! What all tests here use: the log, waiting, orders for instances, SSH with a key of its own, programs.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use muster::cloud::NewInstance;
use muster::cloud::boot::Boot;
use muster::cloud::ssh_access::SshAccess;
use muster::core::effect::Tags;
use muster::core::ids::InstanceSecret;
use muster::core::instance_type::InstanceType;
use muster::remote::runner::RunnerPlaces;
use muster::remote::ssh::key::PrivateKey;
use muster::remote::ssh::{SshClient, SshConnector};
use muster_ssh_hosts::ClientKey;

pub(crate) const SET: &str = "zzzzz-zzzzz-000000000000000";
/// A hang is a failure; a slow machine is not.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// One log file for all tests, at level debug: gives what is in it. Lines are told apart by what they are about. It has no name any more, so
/// that it goes with the process.
pub(crate) fn log() -> String {
    static LOG: OnceLock<File> = OnceLock::new();
    let file = LOG.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let options =
            muster::log::Options { file: Some(path.clone()), filter: "debug".to_owned(), ..Default::default() };
        muster::log::init(&options).expect("a log");
        File::open(path).expect("there")
    });
    std::fs::read_to_string(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_or_default()
}

/// A secret that no other instance has.
pub(crate) fn new_secret() -> InstanceSecret {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    InstanceSecret::new(&format!("5ec2e7{:034x}", COUNT.fetch_add(1, Ordering::SeqCst)))
}

pub(crate) fn instance_type(name: &str) -> Arc<InstanceType> {
    Arc::new(InstanceType {
        name: name.to_owned(),
        provider_type: format!("{name}-provider"),
        vcpus: 1,
        ram: 1 << 30,
        price: 0.125,
        ..InstanceType::default()
    })
}

/// As the dispatcher orders it, with the tags that it gives.
pub(crate) fn order(boot: &Boot, of: &Arc<InstanceType>, secret: &InstanceSecret) -> NewInstance {
    let tags = [
        ("ArvadosInstanceSetID", SET),
        ("ArvadosInstanceType", &of.name),
        ("ArvadosIdleBehavior", "run"),
        ("ArvadosInstanceSecret", secret.reveal()),
        // Text that a careless program takes for something else.
        ("note", "a \"b\" 'c' $(d) <e>&amp; \\f\n\u{fc} 100%"),
    ];
    let tags = Tags::from_iter(tags.map(|(name, value)| (name.to_owned(), value.to_owned())));
    boot.order(of.clone(), tags, secret.clone())
}

/// SSH with this key.
pub(crate) fn access(key: &ClientKey) -> SshAccess {
    let key = PrivateKey::parse(key.private()).expect("a key");
    let client = SshClient::new(key, 22, Arc::new(muster::shell::threads::spawn));
    SshAccess { connector: Arc::new(SshConnector(Arc::new(client))), places: RunnerPlaces::default() }
}

/// A program for a test to run. Another process writes it: while this one had it open for writing, another thread's child might inherit
/// that, and nothing that somebody writes can be executed.
pub(crate) fn install(text: &str, path: &Path) {
    let source = path.with_extension("text");
    std::fs::write(&source, text).expect("written");
    let mut command = std::process::Command::new("install");
    let status = command.args(["-m", "755"]).arg(&source).arg(path).status().expect("install runs");
    assert!(status.success());
}

/// A process's state letter; `None`: there is none any more.
pub(crate) fn process_state(pid: &str) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim().chars().next()
}

/// Runs a program of the driver `exec` to its end as if the daemon were gone: nobody reads what it writes.
pub(crate) fn run_unheard(program: &Path, verb: &str, input: &serde_json::Value) {
    let unread = || {
        let (read, write) = std::io::pipe().expect("a pipe");
        drop(read);
        write
    };
    let mut command = std::process::Command::new(program);
    command.arg(verb).stdin(std::process::Stdio::piped()).stdout(unread()).stderr(unread());
    let mut child = command.spawn().expect("starts");
    // The pipe is dropped, and the program sees its input's end.
    child.stdin.take().expect("a pipe").write_all(input.to_string().as_bytes()).expect("read");
    child.wait().expect("ended");
}
