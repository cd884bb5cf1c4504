//! The program for measurements from another process.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use muster_fake_hosts::ClientKey;

#[test]
fn it_announces_its_hosts_and_ends_with_its_input() {
    let key = ClientKey::generate();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("key.pub");
    std::fs::write(&file, format!("{} comment\n", key.public)).expect("written");
    let mut program = Command::new(env!("CARGO_BIN_EXE_fake-hosts"))
        .args(["3", "--user", "someone", "--job-ms", "5", "--key"])
        .arg(&file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut output = BufReader::new(program.stdout.take().expect("piped"));
    for _ in 0..3 {
        let mut line = String::new();
        output.read_line(&mut line).expect("text");
        let host: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert!(host["host_key"].as_str().is_some_and(|text| text.starts_with("ssh-ed25519 ")), "{line}");
        let stream = std::net::TcpStream::connect(host["address"].as_str().expect("text")).expect("it listens");
        let mut session = ssh2::Session::new().expect("memory is left");
        session.set_tcp_stream(stream);
        session.handshake().expect("keys are exchanged");
        session.userauth_pubkey_memory("someone", Some(&key.public), &key.private, None).expect("it lets us in");
    }
    drop(program.stdin.take());
    assert!(program.wait().expect("it ends").success());
    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("text");
    assert_eq!(rest, "");
}

#[test]
fn wrong_usage_is_refused() {
    for arguments in [&[][..], &["many"], &["1", "--key"], &["1", "--key", "/none/such"], &["1", "--frobnicate"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_fake-hosts")).args(arguments).output().expect("it starts");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("usage:"), "{arguments:?}");
    }
}
