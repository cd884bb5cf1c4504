//! Logging in, and the small programs of a host.

use muster_fake_hosts::{Answer, ClientKey, Fleet, HostOptions};

use crate::client::{Client, Done, end, host, host_with};

#[test]
fn only_the_right_key_and_user_log_in() {
    let (ours, other) = (ClientKey::generate(), ClientKey::generate());
    let options = HostOptions { client_key: Some(ours.public.clone()), ..HostOptions::default() };
    let renamed = HostOptions { user: Some("nobody".into()), ..options.clone() };
    let fleet = Fleet::start_each([options, renamed]);
    let host = fleet.host(0);
    assert!(Client::connect(host, &ours).is_ok());
    assert!(Client::connect(host, &other).is_err());
    let counters = host.counters();
    assert_eq!((counters.connections, counters.handshakes, counters.auths, counters.auths_refused), (2, 2, 1, 1));
    assert!(Client::connect(fleet.host(1), &ours).is_err());
    let session = Client::handshake(host).expect("keys are exchanged");
    assert!(session.userauth_password("someone", "secret").is_err());
}

#[test]
fn the_host_key_is_the_announced_one() {
    let key = ClientKey::generate();
    let fleet = Fleet::start(2, HostOptions::default());
    let host = fleet.host(0);
    let presented = || {
        let session = Client::connect(host, &key).expect("it lets us in").session;
        let (blob, _) = session.host_key().expect("a host has a key");
        blob.to_vec()
    };
    let announced = |text: &str| text.split(' ').nth(1).map(str::to_owned).expect("two words");
    let blob = presented();
    assert_eq!(base64(&blob), announced(&host.host_key_openssh()));
    assert_ne!(host.host_key_openssh(), fleet.host(1).host_key_openssh());
    let mut faults = host.faults();
    faults.other_host_key = true;
    host.set_faults(faults);
    assert_eq!(base64(&presented()), announced(&host.other_host_key_openssh()));
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let number = (0..3).fold(0_usize, |n, i| n << 8 | usize::from(group.get(i).copied().unwrap_or(0)));
        for digit in 0..4 {
            let known = digit <= group.len();
            text.push(if known { DIGITS[number >> (18 - 6 * digit) & 63].into() } else { '=' });
        }
    }
    text
}

#[test]
fn lines_of_a_shell() {
    let (_fleet, host, client) = host_with(HostOptions { secret: Some("xyzzy".into()), ..HostOptions::default() });
    let done = |stdout: &str, stderr: &str, code| Done { stdout: stdout.into(), stderr: stderr.into(), code };
    for (line, expected) in [
        ("true", done("", "", 0)),
        ("false", done("", "", 1)),
        (r"printf '%s\n' MARK; sudo 'cat' '/var/run/arvados-instance-secret'", done("MARK\nxyzzy", "", 0)),
        (r"printf '%s\n' A && false && printf B; echo $?", done("A\n1\n", "", 0)),
        ("sudo -n uname -m && printf done >&2", done("x86_64\n", "done", 0)),
        ("false || exit 7; echo no", done("", "", 7)),
        ("exec echo a; echo b", done("a\n", "", 0)),
        ("cat /none", done("", "cat: /none: No such file or directory\n", 1)),
        ("frobnicate -x", done("", "sh: frobnicate: not found\n", 127)),
        ("echo x | cat", done("", "sh: a single | is not supported\n", 2)),
        ("muster-runner --frobnicate", done("", "muster-runner: unknown flag --frobnicate; see --help\n", 2)),
    ] {
        assert_eq!(client.run(line), expected, "{line}");
    }
    assert_eq!(client.run_with("cat", b"what comes in").stdout, "what comes in");
    assert_eq!(host.commands()[0], "true");
    assert_eq!(host.counters().commands, 12);

    let answer = Answer { stdout: b"running\n".to_vec(), stderr: b"!".to_vec(), exit_code: 3 };
    host.set_answer("systemctl is-system", Some(answer));
    assert_eq!(client.run("systemctl is-system-running"), done("running\n", "!", 3));
    host.set_answer("systemctl is-system", None);
    assert_eq!(client.run("systemctl is-system-running").code, 127);
    host.set_secret(None);
    assert_eq!(client.run("cat /var/run/arvados-instance-secret").code, 1);
}

#[test]
fn the_runner_is_there_once_it_was_deployed() {
    let (_fleet, host, client) = host_with(HostOptions { deployed: false, ..HostOptions::default() });
    let script = "sh -c 'anything $1' sh /opt/muster-runner~0123 0123";
    assert_eq!(client.run("/opt/muster-runner~0123 --version").code, 127);
    assert_eq!(client.run("sha256sum /opt/muster-runner~0123").code, 1);
    assert_eq!(client.ok(script), "");
    assert!(!host.deployed());
    let upload = vec![7; 3_000_000];
    assert_eq!(client.run_with(script, &upload).stdout, "ok\n");
    assert!(host.deployed());
    assert_eq!(host.counters().uploaded_bytes, 3_000_000);
    assert_eq!(client.ok(script), "ok\n");
    assert_eq!(client.ok("sha256sum /opt/muster-runner~0123"), "0123  /opt/muster-runner~0123\n");
    let line = client.ok("sudo /opt/muster-runner~0123 --version");
    assert!(muster_runner::protocol::parse_version(&line).is_some(), "{line}");
}

#[test]
fn channels_and_connections_are_counted() {
    let (_fleet, host, client) = host();
    let first = client.begin("cat").expect("accepted");
    let mut second = client.begin("cat").expect("accepted");
    assert_eq!(host.counters().channels_now, 2);
    second.send_eof().expect("sent");
    end(second);
    assert!(host.wait_until(crate::client::LIMIT, |counters| counters.channels_now == 1));
    drop(first);
    drop(client);
    assert!(host.wait_until(crate::client::LIMIT, |counters| counters.connections_now == 0));
    let counters = host.counters();
    assert_eq!((counters.channels_now, counters.channels_most, counters.connections_most), (0, 2, 1));
}
