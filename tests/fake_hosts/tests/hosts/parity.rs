//! The real runner is the judge: the same command lines, one after the other, with the same answers.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use muster_fake_hosts::{ClientKey, Fleet, Host, HostOptions};
use muster_runner::protocol::{ContainerSpec, ResultRecord, StartConfig};

use crate::client::{Client, LIMIT, U, V};

/// Exit status and standard output. Messages are for people and may differ.
type Answer = (i32, Vec<u8>);

/// Runs a line of the runner with standard input on one of the two.
type Ask<'a> = dyn Fn(&str, &[u8]) -> Answer + 'a;

/// The built runner with directories of its own. Its jobs end with it.
struct Real {
    program: PathBuf,
    folder: tempfile::TempDir,
}

impl Real {
    fn new() -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_fake-hosts")).with_file_name("muster-runner");
        assert!(program.exists(), "{} is not built: cargo build --workspace --bins", program.display());
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).expect("ours");
        Self { program, folder }
    }

    fn ask(&self, line: &str, stdin: &[u8]) -> Answer {
        let mut child = Command::new(&self.program)
            .args(line.split_whitespace())
            .arg("--lock-dir")
            .arg(self.folder.path().join("lock"))
            .arg("--state-dir")
            .arg(self.folder.path().join("state"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        // A program that refuses its arguments does not read.
        let _ = child.stdin.take().expect("piped").write_all(stdin);
        let output = child.wait_with_output().expect("it ends");
        let code = output.status.code().expect("no signal");
        if code == 0 && line.starts_with("--detach") {
            await_job(&output.stdout);
        }
        (code, output.stdout)
    }
}

/// A kill that comes before the job has begun has nothing to signal, and the result says so; hosts of the other kind begin at once.
fn await_job(answer: &[u8]) {
    let answer: serde_json::Value = serde_json::from_slice(answer).expect("JSON");
    let runner = answer["PID"].as_u64().expect("a number");
    let until = Instant::now() + LIMIT;
    let begun = || {
        let children = fs::read_to_string(format!("/proc/{runner}/task/{runner}/children")).unwrap_or_default();
        children
            .split_whitespace()
            .any(|child| fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|name| name == "sleep\n"))
    };
    while !begun() {
        assert!(Instant::now() < until, "the job of {runner} does not begin");
        std::thread::yield_now();
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        for uuid in [U, V] {
            self.ask(&format!("--kill 15 --set s --attempt 99 {uuid}"), b"");
        }
    }
}

fn fake(client: &Client, line: &str, stdin: &[u8]) -> Answer {
    let mut channel = client.begin(&format!("muster-runner {line}")).expect("accepted");
    let _ = channel.write_all(stdin).and_then(|()| channel.send_eof().map_err(Into::into));
    let mut stdout = Vec::new();
    std::io::Read::read_to_end(&mut channel, &mut stdout).expect("read");
    channel.wait_close().expect("closed");
    (channel.exit_status().expect("a status"), stdout)
}

/// A job that ends only by a signal.
fn sleeper(uuid: &str, attempt: u32) -> Vec<u8> {
    let command = ["sleep", "100000"].map(str::to_owned).to_vec();
    let container = ContainerSpec { uuid: uuid.into(), attempt, command, ..ContainerSpec::default() };
    serde_json::to_vec(&StartConfig { container: Some(container), ..StartConfig::default() }).expect("plain data")
}

fn start(ask: &Ask<'_>, uuid: &str, attempt: u32) -> i32 {
    let line = format!("--detach --stdin-config --set s --attempt {attempt} {uuid}");
    ask(&line, &sleeper(uuid, attempt)).0
}

/// Asks to end until it has: a busy machine may need more than the second that one call waits.
fn kill(ask: &Ask<'_>, uuid: &str, attempt: u32) {
    let until = Instant::now() + LIMIT;
    while ask(&format!("--kill 15 --set s --attempt {attempt} {uuid}"), b"").0 != 0 {
        assert!(Instant::now() < until, "{uuid} does not end");
    }
}

/// What one of the two says to everything: it must be what the other one says.
fn history(ask: &Ask<'_>) -> Vec<(String, Answer)> {
    let mut said = Vec::new();
    let mut say = |line: &str| said.push((line.to_owned(), ask(line, b"")));
    let mut codes = Vec::new();
    let list = "--list --set s";
    say(list);
    for line in ["", "--frobnicate", "--list --wait", "--list x", "--kill 15", "--collect --set s", "--list --wait -1"]
    {
        say(line);
    }
    for line in [format!("--collect --set s {U}"), format!("--tail --attempt 1 {U}"), format!("--detach {U}")] {
        say(&line);
    }
    codes.push(start(ask, U, 1));
    say(list);
    say("--list --set other");
    codes.extend([1, 2].map(|attempt| start(ask, U, attempt)));
    for mode in ["collect", "forget", "reap", "tail --stream stdout", "tail --stream stderr --offset 7 --wait 0.01"] {
        say(&format!("--{mode} --set s --attempt 1 {U}"));
    }
    say(&format!("--collect --set s --attempt 2 {U}"));
    say(&format!("--forget --set s --attempt 2 {U}"));
    let (_, text) = ask(list, b"");
    let token = String::from_utf8_lossy(&text).lines().last().and_then(|l| l.strip_prefix("# ")).map(str::to_owned);
    say(&format!("--list --set s --wait 0.05 --known {}", token.expect("a token")));
    say("--list --set s --wait 600 --known other");
    // Another set's kill does not concern it.
    say(&format!("--kill 15 --set other --attempt 9 {U}"));
    kill(ask, U, 1);
    // It tells that this one was there.
    say(&format!("--kill 15 --set s --attempt 1 {U}"));
    say(list);
    say(&format!("--reap --set s --attempt 1 {U}"));
    codes.extend([start(ask, U, 1), start(ask, V, 1)]);
    say(list);
    kill(ask, V, 3);
    codes.extend([1, 3, 4].map(|attempt| start(ask, V, attempt)));
    // The runner wins over the older result.
    say(list);
    // Spares a later attempt.
    say(&format!("--kill 15 --set s --attempt 2 {V}"));
    say(list);
    for _ in 0..2 {
        say(&format!("--forget --set s --attempt 1 {V}"));
        say(&format!("--forget --set s --attempt 1 {U}"));
    }
    codes.extend([start(ask, U, 1), start(ask, U, 2)]);
    say(list);
    kill(ask, U, 2);
    kill(ask, V, 4);
    say(list);
    said.push(("starts".into(), (0, codes.iter().flat_map(|code| code.to_be_bytes()).collect())));
    said
}

#[test]
fn the_same_answers_as_the_real_runner() {
    let real = Real::new();
    let key = ClientKey::generate();
    let fleet = Fleet::start(1, HostOptions::default());
    let host: &Host = fleet.host(0);
    let client = Client::connect(host, &key).expect("it lets us in");
    let expected = history(&|line, stdin| real.ask(line, stdin));
    let found = history(&|line, stdin| fake(&client, line, stdin));
    assert_eq!(expected.len(), found.len());
    for ((line, expected), (_, found)) in expected.iter().zip(&found) {
        let text = |answer: &Answer| (answer.0, String::from_utf8_lossy(&answer.1).into_owned());
        assert_eq!(text(found), text(expected), "{line}");
    }
    let collect = format!("--collect --set s --attempt 2 {U}");
    let (real, fake) = (files(&real.ask(&collect, b"").1), files(&fake(&client, &collect, b"").1));
    assert_eq!(fake.0, real.0, "names in the archive");
    let end = |result: &ResultRecord| (result.reason, result.exit_code, result.signal, result.attempt);
    assert_eq!(end(&fake.1), end(&real.1));
    let missed =
        ["finished_at", "cpu_seconds", "stdout_bytes"].map(|field| real.2.contains(field) == fake.2.contains(field));
    assert_eq!(missed, [true; 3]);
    assert!(fake.1.started_at > 0 && fake.1.finished_at >= fake.1.started_at);
}

/// The names in an archive, its result, and that result's text.
fn files(archive: &[u8]) -> (BTreeSet<String>, ResultRecord, String) {
    let (mut names, mut result) = (BTreeSet::new(), None);
    for entry in tar::Archive::new(archive).entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let name = entry.path().expect("a name").to_string_lossy().into_owned();
        if name == "result.json" {
            let mut text = String::new();
            std::io::Read::read_to_string(&mut entry, &mut text).expect("text");
            result = Some((serde_json::from_str(&text).expect("a result"), text));
        }
        names.insert(name);
    }
    let (record, text) = result.expect("a result");
    (names, record, text)
}
