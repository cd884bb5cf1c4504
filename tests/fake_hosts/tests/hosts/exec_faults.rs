//! What goes wrong with commands.

use std::io::Read;
use std::time::Duration;

use muster_fake_hosts::{ExecFault, Faults, Host, JobPlan};

use crate::client::{U, end, host, start};

fn set(host: &Host, fault: ExecFault) {
    host.set_faults(Faults { exec: Some(fault), ..Faults::default() });
}

#[test]
fn a_command_that_hangs_holds_only_its_channel() {
    let (_fleet, host, client) = host();
    host.set_faults(Faults { exec: Some(ExecFault::Hang), exec_if: "never".into(), ..Faults::default() });
    let mut hanging = client.begin("echo never").expect("accepted");
    client.session.set_timeout(200);
    let mut byte = [0];
    assert!(hanging.read(&mut byte).is_err(), "no answer");
    client.session.set_timeout(120_000);
    assert_eq!(client.ok("echo others"), "others\n");
    assert_eq!(host.commands(), ["echo never", "echo others"]);
}

#[test]
fn ends_that_are_no_status() {
    let (_fleet, host, client) = host();
    set(&host, ExecFault::Signal("KILL".into()));
    let mut channel = client.begin("echo out").expect("accepted");
    let mut text = String::new();
    channel.read_to_string(&mut text).expect("text");
    channel.wait_close().expect("closed");
    let signal = channel.exit_signal().expect("readable").exit_signal;
    assert_eq!((text.as_str(), signal.as_deref()), ("out\n", Some("KILL")));

    set(&host, ExecFault::NoStatus);
    let done = end(client.begin("false").expect("accepted"));
    assert_eq!(done.code, 0, "libssh2 says so although none came");

    set(&host, ExecFault::NeverClose);
    let mut channel = client.begin("echo out; false").expect("accepted");
    text.clear();
    channel.read_to_string(&mut text).expect("text");
    assert_eq!((text.as_str(), channel.exit_status().ok()), ("out\n", Some(1)));
    client.session.set_timeout(200);
    assert!(channel.wait_close().is_err(), "nobody closes it");
    client.session.set_timeout(120_000);

    set(&host, ExecFault::Refuse);
    assert!(client.begin("true").is_err());
    host.set_faults(Faults::default());
    assert_eq!(client.run("false").code, 1);
}

#[test]
fn standard_error_that_nobody_reads_blocks_standard_output() {
    let (_fleet, host, client) = host();
    set(&host, ExecFault::FloodStderr(3 << 20));
    let mut channel = client.begin("muster-runner --list --set s").expect("accepted");
    client.session.set_timeout(300);
    let error = channel.read(&mut [0]).expect_err("the window is used up");
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{error}");
    client.session.set_timeout(120_000);
    let mut stderr = Vec::new();
    channel.stderr().read_to_end(&mut stderr).expect("read");
    assert_eq!(stderr.len(), 3 << 20);
    assert!(end(channel).stdout.starts_with("# "));
}

#[test]
fn floods_and_noise_come_before_the_answer() {
    let (_fleet, host, client) = host();
    set(&host, ExecFault::FloodStdout(5 << 20));
    let text = client.ok("printf '%s\\n' MARK; muster-runner --list --set s");
    let flood = text.strip_prefix("MARK\n").expect("the mark is before it");
    assert_eq!(flood.bytes().take_while(|byte| *byte == b'x').count(), 5 << 20);
    assert!(flood[5 << 20..].starts_with("# "));

    host.set_faults(Faults { noise: b"Welcome!\n".to_vec(), ..Faults::default() });
    assert_eq!(client.ok("printf '%s\\n' MARK; echo x"), "Welcome!\nMARK\nx\n");
}

#[test]
fn a_connection_is_cut_in_the_middle_of_output() {
    let (_fleet, host, client) = host();
    host.set_job(JobPlan { stdout: vec![b'o'; 1 << 20], ..JobPlan::default() });
    start(&client, U, 1);
    assert!(host.finish(U));
    set(&host, ExecFault::Cut(300_000));
    let mut channel = client.begin(&format!("muster-runner --collect --set s --attempt 1 {U}")).expect("accepted");
    let mut bytes = Vec::new();
    let _ = channel.read_to_end(&mut bytes);
    // libssh2 may throw away what came just before the end.
    assert!(bytes.len() < 300_000, "{}", bytes.len());
    assert!(!channel.eof());
    assert!(client.session.channel_session().is_err(), "the connection is gone");
    assert_eq!(host.finished(), [(U.to_owned(), 1)]);
}

#[test]
fn a_short_answer_is_cut_at_its_end_and_has_had_its_effect() {
    let (_fleet, host, client) = host();
    set(&host, ExecFault::Cut(1 << 20));
    let line = format!("muster-runner --detach --stdin-config --set s {U}");
    let mut channel = client.begin(&line).expect("accepted");
    std::io::Write::write_all(&mut channel, crate::client::config(U, 1).as_bytes()).expect("taken");
    channel.send_eof().expect("sent");
    let mut text = String::new();
    let _ = channel.read_to_string(&mut text);
    assert!(channel.wait_close().is_err(), "no end came");
    assert!(client.session.channel_session().is_err(), "the connection is gone");
    assert_eq!(host.running(), [(U.to_owned(), 1)]);
}

#[test]
fn an_answer_comes_late_and_its_effect_at_once() {
    let (_fleet, host, client) = host();
    host.set_faults(Faults { delay: Duration::from_secs(3600), ..Faults::default() });
    let line = format!("muster-runner --detach --stdin-config --set s {U}");
    let mut channel = client.begin(&line).expect("accepted");
    std::io::Write::write_all(&mut channel, crate::client::config(U, 1).as_bytes()).expect("taken");
    channel.send_eof().expect("sent");
    assert!(host.wait_until_running(U, crate::client::LIMIT));
    client.session.set_timeout(200);
    assert!(channel.read(&mut [0]).is_err(), "no answer yet");
    host.cut_connections();
    assert!(host.wait_until(crate::client::LIMIT, |counters| counters.connections_now == 0));
}

#[test]
fn the_runner_can_refuse_and_be_missing() {
    let (_fleet, host, client) = host();
    host.set_faults(Faults { refuse_starts: true, ..Faults::default() });
    assert_eq!(start(&client, U, 1).code, 1);
    assert!(host.starts().is_empty());
    host.set_faults(Faults { no_runner: true, ..Faults::default() });
    assert_eq!(client.run("muster-runner --list").code, 127);
}
