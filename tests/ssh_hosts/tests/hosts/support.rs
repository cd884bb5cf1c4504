//! Logging in, and waiting.

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use muster_ssh_hosts::{ClientKey, HostOptions, SshHost, caller_is_root, client_key};

/// How long anything may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(100);

pub(crate) fn key() -> ClientKey {
    client_key().expect("ssh-keygen works")
}

pub(crate) fn started(options: &HostOptions) -> SshHost {
    options.start().expect("a host")
}

/// A host that only root can have: to anybody else it is refused in words, and there is none.
pub(crate) fn for_root(options: &HostOptions) -> Option<SshHost> {
    if caller_is_root() {
        return Some(started(options));
    }
    let error = options.start().expect_err("refused");
    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("only when this runs as root"), "{error}");
    None
}

/// What a command in the host printed, and how it ended.
pub(crate) fn output(host: &SshHost, key: &ClientKey, command: &str) -> Output {
    host.ssh(key, command).expect("set up").stdin(Stdio::null()).output().expect("ssh runs")
}

/// The same with other options for `ssh`, which win: it takes what it reads first.
pub(crate) fn output_with(host: &SshHost, key: &ClientKey, options: &[&str], command: &str) -> Output {
    let usual = host.ssh(key, command).expect("set up");
    let words: Vec<_> = std::iter::once(usual.get_program()).chain(usual.get_args()).collect();
    // Behind the words that enter the host's network, if there are any.
    let (entrance, rest) = words.split_at(words.iter().position(|word| *word == "ssh").expect("it is ssh") + 1);
    let mut ssh = Command::new(entrance[0]);
    ssh.args(&entrance[1..]).args(options).args(rest).stdin(Stdio::null()).output().expect("ssh runs")
}

/// The exit code of what ends by itself.
pub(crate) fn code(child: &mut Child) -> Option<i32> {
    let mut status = None;
    wait_until("a process ends", || {
        status = child.try_wait().expect("a child");
        status.is_some()
    });
    status.and_then(|status| status.code())
}

/// What a command printed that must succeed.
pub(crate) fn says(host: &SshHost, key: &ClientKey, command: &str) -> String {
    let output = output(host, key, command);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command}: {} {out} {err}\n{}", output.status, host.log());
    out.trim_end().to_owned()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A command in the host whose streams are ours.
pub(crate) fn session(host: &SshHost, key: &ClientKey, command: &str) -> Child {
    let mut ssh: Command = host.ssh(key, command).expect("set up");
    ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("ssh runs")
}

/// Waits for a condition, looking often.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "waited too long: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Whether a process runs (a zombie does not).
pub(crate) fn runs(pid: i32) -> bool {
    state(pid).is_some_and(|state| state != 'Z')
}

/// The letter for its state in `/proc/PID/stat`.
pub(crate) fn state(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.trim().chars().next()
}
