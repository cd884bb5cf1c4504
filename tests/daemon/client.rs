//! The commands as clients: socket and address, tokens, restarts, readers that go away, and what is no daemon.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use crate::harness::Site;

/// A port that is free now.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

/// A daemon on a port that stands in its configuration: another one if somebody else has just taken it.
fn started_on_a_port() -> Site {
    let mut site = Site::new();
    loop {
        let text = format!(
            "Muster: {{StateDir: {}}}\nServices: {{DispatchCloud: {{InternalURLs: {{\"http://127.0.0.1:{}\": {{}}}}}}}}\n",
            site.state_dir().display(),
            free_port()
        );
        std::fs::write(site.config(), text).expect("written");
        site.start_with(&[]);
        if !site.is_dead() {
            return site;
        }
        site.reap();
        assert!(site.log().contains("in use"), "{}", site.log());
    }
}

#[test]
fn without_the_socket_the_address_with_the_token() {
    let mut site = started_on_a_port();
    let socket = site.state_dir().join("muster.sock");
    std::fs::rename(&socket, site.folder().join("moved.sock")).expect("moved");
    assert!(site.ok(&["status"]).contains("Queued"), "over TCP, with the token of StateDir");
    let token = site.state_dir().join("management-token");
    let kept = std::fs::read(&token).expect("made");
    std::fs::write(&token, b"wrong\n").expect("written");
    let (code, text) = site.fails(&["status"]);
    assert!(code == 1 && text.contains("token") && text.contains("management-token"), "{code} {text}");
    std::fs::write(&token, kept).expect("written");
    std::fs::rename(site.folder().join("moved.sock"), &socket).expect("moved back");
    site.stop();
}

#[test]
fn a_configured_token_is_not_shown() {
    let token = "abcdefghijklmnopqrstuvwxyz0123456789";
    let mut site = Site::with(&format!("ManagementToken: {token}\n"));
    site.start();
    site.ok(&["status"]);
    let dump = site.ok(&["check", "--dump"]);
    assert!(dump.contains("MASKED") && !dump.contains(token), "{dump}");
    site.stop();
    assert!(!site.log().contains(token));
}

#[test]
fn wait_and_logs_survive_a_restart_of_the_daemon() {
    let mut site = Site::started();
    let gate = site.folder().join("runs/gate");
    let script = format!("echo early; while [ ! -e {} ]; do sleep 0.05; done; echo late", gate.display());
    let uuid = site.submit(&["--", "sh", "-c", &script]);
    site.wait_state(&uuid, "Running");
    let mut wait = site.command(&["wait", &uuid]).stderr(Stdio::piped()).spawn().expect("starts");
    let mut follow = site.command(&["logs", "-f", &uuid]).stdout(Stdio::piped()).spawn().expect("starts");
    let mut output = follow.stdout.take().expect("piped");
    let mut early = [0; 6];
    output.read_exact(&mut early).expect("readable");
    assert_eq!(&early, b"early\n");
    site.wait_until("the wait has reached the daemon", |site| site.has_logged(&["containers/wait", "Status=200"]));
    site.kill_9();
    site.start();
    std::fs::write(&gate, b"").expect("written");
    assert!(wait.wait().expect("a child").success());
    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("readable");
    assert_eq!(rest, "late\n");
    assert!(follow.wait().expect("a child").success());
    site.stop();
}

#[test]
fn a_reader_that_goes_away_is_a_quiet_end() {
    let mut site = Site::started();
    site.ok(&["submit", "--priority", "0", "--array", "1-3000", "--", "true"]);
    let mut list =
        site.command(&["list", "--limit", "0"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    drop(list.stdout.take());
    let output = list.wait_with_output().expect("a child");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(site.ok(&["list", "--limit", "0"]).lines().count(), 3001);
    assert_eq!(site.ok(&["list", "--limit", "5"]).lines().count(), 6);
    site.stop();
}

#[test]
fn uuids_from_standard_input() {
    let mut site = Site::started();
    let uuids = site.ok(&["submit", "--priority", "0", "--array", "1-3", "--", "true"]);
    let mut cancel =
        site.command(&["cancel", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
    let list = format!("# a comment\n\n{uuids}");
    cancel.stdin.take().expect("piped").write_all(list.as_bytes()).expect("written");
    let output = cancel.wait_with_output().expect("a child");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 3);
    assert_eq!(site.fails(&["cancel"]).0, 2, "nothing selected is wrong usage, not everything");
    site.stop();
}

#[test]
fn wait_by_filter_keeps_those_it_found() {
    let mut site = Site::started();
    let gate = site.folder().join("runs/gate");
    let wait_for_gate = format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display());
    let fails = site.submit(&["--name", "f", "--", "sh", "-c", &format!("{wait_for_gate}; exit 7")]);
    site.wait_state(&fails, "Running");
    let mut wait = site.command(&["wait", "--state", "Running"]).stderr(Stdio::piped()).spawn().expect("starts");
    site.wait_until("the wait has reached the daemon", |site| site.has_logged(&["containers/wait", "Status=200"]));
    std::fs::write(&gate, b"").expect("written");
    assert_eq!(wait.wait().expect("a child").code(), Some(1), "it failed, although it is not Running any more");
    for command in ["wait", "cancel", "priority"] {
        let arguments = if command == "priority" {
            vec![command, "7", "--name", "none*"]
        } else {
            vec![command, "--name", "none*"]
        };
        let (code, text) = site.fails(&arguments);
        assert!(code == 3 && text.contains("nothing matches"), "{command}: {code} {text}");
    }
    site.stop();
}

#[test]
fn wrong_usage_is_one_line() {
    let site = Site::new();
    for (arguments, part) in [
        (&["submti"][..], "'submit'"),
        (&["submit", "--ram", "12gigs", "--", "true"], "--ram"),
        (&["submit"], "COMMAND"),
        (&["submit", "--file", "jobs", "--ram", "1GiB"], "--ram"),
        (&["list", "--state", "running"], "Running"),
        (&["priority", "high", "x"], "1 to 1000"),
        (&["logs"], "muster logs --help"),
    ] {
        let (code, text) = site.fails(arguments);
        assert_eq!(code, 2, "{arguments:?}: {text}");
        assert!(
            text.starts_with("muster: ") && text.lines().count() == 1 && text.contains(part),
            "{arguments:?}: {text}"
        );
    }
}

/// A submission whose answer is lost may have been stored.
#[test]
fn doubt_is_said() {
    let site = Site::new();
    let server = fake(&site, "");
    let (code, text) = site.fails(&["submit", "--", "true"]);
    assert!(code == 4 && text.contains("may have been carried out"), "{code} {text}");
    server.join().expect("it answered");
}

/// Answers every request with this.
fn fake(site: &Site, answer: &'static str) -> std::thread::JoinHandle<()> {
    std::fs::create_dir_all(site.state_dir()).expect("made");
    let listener = UnixListener::bind(site.state_dir().join("muster.sock")).expect("free");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).expect("a request");
        stream.write_all(answer.as_bytes()).expect("sent");
    })
}

#[test]
fn other_versions_and_strangers() {
    for (answer, code, part) in [
        (
            "HTTP/1.1 400 Bad Request\r\nContent-Length: 64\r\n\r\n{\"errors\": [\"Muster-API: this daemon speaks 2, the request says 1\"]}",
            1,
            "do not fit",
        ),
        ("HTTP/1.1 200 OK\r\nMuster-API: 99\r\nContent-Length: 2\r\n\r\n{}", 1, "do not fit"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 4, "no muster daemon"),
        ("", 4, "ended without an answer"),
        ("SSH-2.0-OpenSSH_9.2\r\n", 4, "no muster daemon"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"cut", 4, "no muster daemon"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[7]", 1, "not understood"),
        ("HTTP/1.1 503 Busy\r\nContent-Length: 25\r\n\r\n{\"errors\":[\"disk is full\"]}", 1, "disk is full"),
    ] {
        let site = Site::new();
        let server = fake(&site, answer);
        let (is, text) = site.fails(&["status"]);
        assert!(is == code && text.contains(part), "{answer}: {is} {text}");
        server.join().expect("it answered");
    }
}
