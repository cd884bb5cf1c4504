//! The runner's commands: the same answers, and the same rules, as the real one's.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use muster_fake_hosts::{ClientKey, Fleet, HostOptions, JobPlan};
use muster_runner::protocol::{Facts, Reason, ResultRecord};

use crate::client::{Client, LIMIT, U, V, config, end, host, host_with, start};

fn list(client: &Client) -> (String, String) {
    let text = client.ok("'muster-runner' '--list' '--set' 's'");
    let (lines, token) = text.rsplit_once("# ").expect("a token line");
    (lines.to_owned(), token.trim_end().to_owned())
}

fn on(client: &Client, mode: &str, uuid: &str, attempt: u32) -> (i32, String) {
    let done = client.run(&format!("'muster-runner' {mode} '--set' 's' '--attempt' '{attempt}' '{uuid}'"));
    (done.code, done.stderr)
}

#[test]
fn the_life_of_a_container() {
    let job = JobPlan {
        exit_code: 3,
        stdout: b"to the log".to_vec(),
        stderr: b"oh".to_vec(),
        outputs: BTreeMap::from([("a/b".to_owned(), b"kept".to_vec())]),
        ..JobPlan::default()
    };
    let (fleet, host, client) = host_with(HostOptions { job, ..HostOptions::default() });
    assert_eq!(list(&client).0, "");
    let answer: serde_json::Value = serde_json::from_str(&start(&client, U, 2).stdout).expect("one line of JSON");
    assert_eq!(answer["UUID"], U);
    assert_eq!(list(&client).0, format!("{U}\n#attempt {U} 2\n"));
    assert_eq!(client.ok("muster-runner --list --set other").lines().count(), 1, "another set's");
    let tail = format!("muster-runner --tail --set s --attempt 2 --stream stdout --offset 3 --wait 0.1 {U}");
    assert_eq!(client.ok(&tail), "the log");
    assert_eq!(host.container(U, 2).expect("it is there").command, ["true"]);
    assert_eq!(on(&client, "--collect", U, 2).0, 1, "it runs");
    assert_eq!(on(&client, "--forget", U, 2).0, 1, "it runs");

    assert!(host.finish(U));
    assert!(!host.finish(U));
    assert_eq!(list(&client).0, format!("{U} finished\n#attempt {U} 2\n"));
    let mut channel = client.begin(&format!("muster-runner --collect --set s --attempt 2 {U}")).expect("accepted");
    let mut archive = Vec::new();
    channel.read_to_end(&mut archive).expect("read");
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(&archive[..]).entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("complete");
        files.insert(entry.path().expect("a name").to_string_lossy().into_owned(), content);
    }
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(names, ["outputs/a/b", "result.json", "stderr", "stdout"]);
    let result: ResultRecord = serde_json::from_slice(&files["result.json"]).expect("a result");
    assert_eq!((result.reason, result.exit_code, result.attempt), (Reason::Exited, Some(3), 2));
    assert_eq!((&*files["stdout"], &*files["outputs/a/b"]), (&b"to the log"[..], &b"kept"[..]));

    assert_eq!(on(&client, "--forget", U, 2).0, 0);
    assert_eq!(on(&client, "--forget", U, 2).0, 0, "nothing to forget");
    assert_eq!(list(&client).0, "");
    assert_eq!(start(&client, U, 2).code, 1, "an attempt runs once");
    assert_eq!(start(&client, U, 3).code, 0);
    let starts = BTreeMap::from([((U.to_owned(), 2), 1), ((U.to_owned(), 3), 1)]);
    assert_eq!(fleet.starts(), starts);
    assert_eq!(fleet.find(U).map(|found| found.address()), Some(host.address()));
}

#[test]
fn an_attempt_runs_at_most_once() {
    let (_fleet, host, client) = host();
    assert_eq!(start(&client, U, 1).code, 0);
    let twice = start(&client, U, 2);
    assert!(twice.stderr.contains("temporarily unavailable"), "{}", twice.stderr);
    assert!(host.crash(U));
    assert_eq!(list(&client).0, "", "a crash leaves no result");
    assert!(start(&client, U, 1).stderr.contains("has run here"));
    assert_eq!(on(&client, "--kill 15", U, 5), (0, String::new()));
    assert!(start(&client, U, 5).stderr.contains("given up"), "a tombstone forbids it");
    assert_eq!(start(&client, U, 6).code, 0);
    assert_eq!(on(&client, "--kill 15", U, 5).0, 0, "spares a later one");
    assert_eq!(host.running(), [(U.to_owned(), 6)]);
    let wrong = client.run_with(&format!("muster-runner --detach --stdin-config --attempt 9 {V}"), b"{");
    assert!(wrong.stderr.contains("not valid at line 1"), "{}", wrong.stderr);
}

#[test]
fn kill_and_reap() {
    let (_fleet, host, client) = host();
    start(&client, U, 1);
    let (code, stderr) = on(&client, "--reap", U, 1);
    assert!(code == 1 && stderr.contains("lives"), "{stderr}");
    assert_eq!(on(&client, "--kill 15", U, 1).0, 0);
    assert_eq!(host.finished(), [(U.to_owned(), 1)]);
    start(&client, U, 2);
    assert!(host.make_stale(U));
    assert_eq!(list(&client).0, format!("{U} stale\n#attempt {U} 2\n"));
    assert_eq!(on(&client, "--kill 15", U, 2).0, 0, "its process is gone");
    assert_eq!(start(&client, U, 3).code, 1, "its lock is held");
    assert_eq!(on(&client, "--reap", U, 2), (0, String::new()));
    assert_eq!(list(&client).0, format!("{U} finished\n#attempt {U} 1\n"), "the older result is still there");

    host.set_job(JobPlan { ignores_kill: true, ..JobPlan::default() });
    start(&client, U, 4);
    let (code, stderr) = on(&client, "--kill 15", U, 4);
    assert!(code == 1 && stderr.contains("still alive"), "{stderr}");
    host.set_job(JobPlan { kill_time: Duration::from_secs(2), ..JobPlan::default() });
    start(&client, V, 1);
    assert_eq!(on(&client, "--kill 15", V, 1).0, 1);
    let again = (0..60).find(|_| on(&client, "--kill 15", V, 1).0 == 0);
    assert!(again.is_some(), "it ends at last");

    host.set_broken(true);
    assert!(list(&client).0.starts_with("broken\n"));
    host.reboot();
    assert!(host.running().is_empty());
    assert!(client.session.channel_session().is_err(), "its connections are gone");
}

#[test]
fn a_long_poll_ends_by_a_change_by_time_and_by_end_of_input() {
    let (_fleet, host, client) = host();
    let (_, token) = list(&client);
    let poll = |wait: &str, token: &str| {
        let line = format!("printf '%s\\n' MARK; muster-runner --list --set s --wait {wait} --known {token}");
        let mut channel = client.begin(&line).expect("accepted");
        // The mark comes before the wait.
        let mut mark = [0; 5];
        channel.read_exact(&mut mark).expect("read");
        assert_eq!(&mark, b"MARK\n");
        channel
    };
    assert_eq!(end(poll("0.05", &token)).stdout, format!("# {token}\n"), "time");
    assert_eq!(end(poll("600", "other")).stdout, format!("# {token}\n"), "not the known one");

    let waiting = poll("600", &token);
    let started = config(U, 1);
    let line = format!("muster-runner --detach --stdin-config --set s {U}");
    let other = Client::connect(&host, &ClientKey::generate()).expect("a second connection");
    assert_eq!(other.run_with(&line, started.as_bytes()).code, 0);
    let text = end(waiting).stdout;
    assert!(text.starts_with(&format!("{U}\n")), "a change: {text}");

    let (_, token) = list(&client);
    let mut waiting = poll("600", &token);
    waiting.send_eof().expect("sent");
    assert!(end(waiting).stdout.ends_with(&format!("# {token}\n")), "end of input");

    let waiting = poll("600", &token);
    drop(client);
    drop(waiting);
    let gone = |counters: &muster_fake_hosts::Counters| (counters.connections_now, counters.channels_now) == (1, 0);
    assert!(host.wait_until(LIMIT, gone), "the waiter goes with its connection");
}

#[test]
fn a_container_ends_after_its_time() {
    let job = JobPlan { time: Some(Duration::from_millis(20)), ..JobPlan::default() };
    let (_fleet, host, client) = host_with(HostOptions { job, ..HostOptions::default() });
    start(&client, U, 1);
    assert!(host.wait_until_finished(U, LIMIT));
    assert_eq!(host.finished(), [(U.to_owned(), 1)]);
    assert!(host.running().is_empty());
}

#[test]
fn facts_are_those_of_the_options() {
    let options = HostOptions { cpus: 3, architecture: "riscv64".into(), ..HostOptions::default() };
    let (_fleet, _host, client) = host_with(options);
    let facts: Facts = serde_json::from_str(&client.ok("muster-runner --facts --set s")).expect("facts");
    assert_eq!((facts.cpus, facts.architecture.as_str(), facts.protocol), (3, "riscv64", 1));
    assert_eq!(client.ok("uname -m"), "riscv64\n");
}

#[test]
fn a_plain_runner_speaks_the_plain_protocol() {
    let fleet = Fleet::start(1, HostOptions { plain_runner: true, ..HostOptions::default() });
    let host = fleet.host(0);
    let client = Client::connect(host, &ClientKey::generate()).expect("it lets us in");
    assert!(client.ok("crunch-run --version").starts_with("crunch-run "));
    let start = format!("sudo crunch-run --detach --stdin-config '--runtime-engine=docker' '--extra=x y' '{U}'");
    assert_eq!(client.run_with(&start, br#"{"Env":{"A":"b"},"KeepBuffers":0,"Cluster":null}"#).code, 0);
    assert_eq!(client.ok("crunch-run --list"), format!("{U}\n"));
    assert_eq!(client.run("crunch-run --list --wait 1").code, 2);
    assert_eq!(client.run(&format!("crunch-run --kill 15 {U}")).code, 0);
    assert_eq!(client.ok("crunch-run --list"), "");
    assert_eq!(client.run_with(&start, b"{}").code, 0, "a container may come again");
}
