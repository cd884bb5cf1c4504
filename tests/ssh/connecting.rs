//! Why there is no connection: the closed set of spec 45 §1, and which of it is normal while a machine boots (10 §5).

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use muster::remote::{ExecuteError, Executor, Lane};
use muster_ssh_hosts::{FaultProxy, client_key};
use rustix::net;

use crate::fixture::{Remote, SERVERS, client, pin, sh, within};
use muster::remote::ssh::SshExecutor;

/// An address that is taken, so that nobody else can listen there.
fn nobody_listens() -> (OwnedFd, String) {
    let socket = net::socket(net::AddressFamily::INET, net::SocketType::STREAM, None).expect("a socket");
    net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = SocketAddrV4::try_from(net::getsockname(&socket).expect("bound")).expect("IPv4");
    (socket, address.to_string())
}

fn fails(executor: &SshExecutor, expected: &str, normal: bool) {
    let error = executor.execute(Lane::Probe, &sh("true", b"")).expect_err("fails");
    let text = muster::core::errors::chain(&error);
    assert!(text.contains(expected), "{text} lacks {expected}");
    assert_eq!(error.is_normal_while_booting(), normal, "{text}");
    assert!(!executor.has_connected());
}

#[test]
fn no_way_to_the_host() {
    let remote = Remote::on(SERVERS[0]);
    let executor = remote.another(pin(&remote.host));
    let user = remote.host.user();
    executor.set_target("", user);
    fails(&executor, "instance has no address", true);
    let (_held, free) = nobody_listens();
    executor.set_target(&free, user);
    fails(&executor, &format!("cannot connect to {free}: Connection refused"), true);
    executor.set_target("nothing.invalid:22", user);
    // Normal only where there is no name server at all.
    let error = executor.execute(Lane::Probe, &sh("true", b"")).expect_err("fails");
    let text = muster::core::errors::chain(&error);
    assert!(text.contains("cannot connect to nothing.invalid:22"), "{text}");
    assert_eq!(error.is_normal_while_booting(), text.contains("Temporary failure"), "{text}");
    executor.set_target("a:b:c", user);
    fails(&executor, "write [a:b:c]", false);

    // Another server, on a port that was mistaken.
    let web = TcpListener::bind("127.0.0.1:0").expect("a port");
    executor.set_target(&web.local_addr().expect("bound").to_string(), user);
    let mut answers = Vec::new();
    // libssh2 reads right after it has sent our words, and does not tell: an answer that is as fast as that is lost.
    while answers.len() < 50 && !answers.last().is_some_and(|text: &String| text.contains("no SSH server")) {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut client, _) = web.accept().expect("connects");
                let _ = client.read(&mut [0; 100]);
                client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").expect("written");
            });
            let error = executor.execute(Lane::Probe, &sh("true", b"")).expect_err("fails");
            answers.push(muster::core::errors::chain(&error));
        });
    }
    let last = answers.last().expect("one at least");
    assert!(last.contains("it is no SSH server: it says \"HTTP/1.1"), "{answers:?}");

    let proxy = FaultProxy::start(&remote.host.address()).expect("listens");
    proxy.refuse();
    executor.set_target(&proxy.address(), user);
    fails(&executor, "the host has hung up", true);
}

/// The host accepts, and says nothing: `d` runs out.
#[test]
fn a_silent_host() {
    let remote = Remote::on(SERVERS[0]);
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let executor = remote.another(pin(&remote.host));
    executor.set_target(&silent.local_addr().expect("bound").to_string(), "root");
    let result = executor.execute(Lane::Probe, &within(Duration::from_secs(1), "true", b"", None));
    assert!(matches!(result, Err(ExecuteError::Deadline)), "{result:?}");
}

/// A service that never stops talking, and one that says little and waits: neither keeps the thread.
#[test]
fn talkers_that_are_no_server() {
    let remote = Remote::on(SERVERS[0]);
    for (words, times) in [(&b"and so on\r\n"[..], usize::MAX), (&b"220 mail.example ESMTP\r\n"[..], 1)] {
        let service = TcpListener::bind("127.0.0.1:0").expect("a port");
        let executor = remote.another(pin(&remote.host));
        executor.set_target(&service.local_addr().expect("bound").to_string(), remote.host.user());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut client, _) = service.accept().expect("connects");
                let mut left = times;
                while left > 0 && client.write_all(words).is_ok() {
                    left -= 1;
                }
                // Until the other side hangs up.
                let _ = client.read_to_end(&mut Vec::new());
            });
            let words = String::from_utf8_lossy(words).escape_debug().to_string();
            fails(&executor, &format!("it is no SSH server: it says \"{words}"), false);
        });
    }
}

/// Lines in front of the banner are allowed (RFC 4253 §4.2); a server may wait for our words.
#[test]
fn servers_with_a_preface() {
    let remote = Remote::on(SERVERS[0]);
    let front = TcpListener::bind("127.0.0.1:0").expect("a port");
    let executor = remote.another(pin(&remote.host));
    executor.set_target(&front.local_addr().expect("bound").to_string(), remote.host.user());
    for polite in [false, true] {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut client, _) = front.accept().expect("connects");
                let mut server = std::net::TcpStream::connect(remote.host.address()).expect("connects");
                if polite {
                    assert_eq!(client.peek(&mut [0; 4]).expect("introduces itself"), 4);
                }
                client.write_all(b"All use is logged.\r\n").expect("written");
                let (mut from, mut to) = (server.try_clone().expect("cloned"), client.try_clone().expect("cloned"));
                scope.spawn(move || {
                    let _ = io::copy(&mut from, &mut to);
                });
                let _ = io::copy(&mut client, &mut server);
                let _ = server.shutdown(std::net::Shutdown::Both);
            });
            let another = remote.another(pin(&remote.host));
            another.set_target(&front.local_addr().expect("bound").to_string(), remote.host.user());
            let output = another.execute(Lane::Probe, &sh("echo in", b"")).expect("gets through");
            assert_eq!(output.stdout, b"in\n");
            // Ends the connection.
            drop(another);
        });
    }
}

/// The login is fine, and no command is taken: a mistake in the server's configuration.
#[test]
fn no_sessions() {
    let remote = Remote::new(|options| options.config_line("MaxSessions 0"));
    let error = remote.executor.execute(Lane::Probe, &sh("true", b"")).expect_err("refused");
    let text = muster::core::errors::chain(&error);
    assert!(text.contains("libssh2 -21"), "{text}");
    assert!(!error.is_normal_while_booting(), "{text}");
}

/// As images of clouds do for root: what it says is passed on.
#[test]
fn a_command_that_is_forced() {
    let remote = Remote::new(|options| {
        options.config_line("ForceCommand echo 'Please login as the user \"ubuntu\".'; exit 142")
    });
    let output = remote.executor.execute(Lane::Probe, &sh("true", b"")).expect("something ran");
    assert_eq!(output.exit_code, Some(142));
    assert_eq!(output.stdout, b"Please login as the user \"ubuntu\".\n");
}

/// Connecting has a limit of its own (spec 10 §4), 30 s: a command that has more time does not wait for it.
#[test]
fn a_silent_host_is_given_up_on() {
    let remote = Remote::on(SERVERS[0]);
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let executor = remote.another(pin(&remote.host));
    executor.set_target(&silent.local_addr().expect("bound").to_string(), "root");
    let began = Instant::now();
    let result = executor.execute(Lane::Probe, &within(Duration::from_secs(3600), "true", b"", None));
    let error = result.expect_err("nobody answers");
    assert!(began.elapsed() >= Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(muster::core::errors::chain(&error).contains("no SSH session within 30 s"), "{error:?}");
    assert!(error.is_normal_while_booting());
}

#[test]
fn no_common_protocol() {
    // libssh2 knows no post-quantum key exchange.
    let remote = Remote::new(|options| options.config_line("KexAlgorithms sntrup761x25519-sha512@openssh.com"));
    fails(&remote.executor, "SSH handshake with", false);
}

#[test]
fn a_key_that_is_not_accepted() {
    for server in SERVERS {
        let remote = Remote::on(server);
        let stranger = client_key().expect("made");
        let executor = SshExecutor::new(client(&stranger), pin(&remote.host)).expect("a descriptor");
        executor.set_target(&remote.host.address(), remote.host.user());
        fails(&executor, "does not accept our key for user", false);
        executor.set_target(&remote.host.address(), "nobody-knows-me");
        fails(&executor, "for user nobody-knows-me", false);
        // Ours is still fine.
        assert_eq!(remote.output("echo in"), "in\n");
        assert!(remote.executor.has_connected());
    }
}

/// A new address applies to the next attempt of an action that cannot get through, too.
#[test]
fn actions_follow_the_address() {
    let remote = Remote::on(SERVERS[0]);
    let executor = remote.another(pin(&remote.host));
    let (_held, free) = nobody_listens();
    executor.set_target(&free, remote.host.user());
    std::thread::scope(|scope| {
        let action = scope.spawn(|| executor.execute(Lane::Action, &sh("echo found", b"")));
        std::thread::park_timeout(Duration::from_millis(300));
        executor.set_target(&remote.host.address(), remote.host.user());
        assert_eq!(action.join().expect("no panic").expect("gets through").stdout, b"found\n");
    });
}

/// But not for as long as it has time: whoever waits holds a thread that others need.
#[test]
fn actions_give_up() {
    let remote = Remote::on(SERVERS[0]);
    let (_held, free) = nobody_listens();
    for lane in [Lane::Action, Lane::Bulk] {
        let executor = remote.another(pin(&remote.host));
        executor.set_target(&free, remote.host.user());
        let began = Instant::now();
        let result = executor.execute(lane, &within(Duration::from_secs(3600), "true", b"", None));
        assert!(matches!(&result, Err(ExecuteError::Connect { .. })), "{result:?}");
        assert!(began.elapsed() >= Duration::from_secs(5), "{:?}", began.elapsed());
    }
}

/// An action waits for a host that is just coming back; a probe does not.
#[test]
fn actions_are_patient() {
    for server in SERVERS {
        let remote = Remote::on(server);
        assert_eq!(remote.output("echo up"), "up\n");
        remote.host.kill_server().expect("killed");
        let probe = remote.sh(Lane::Probe, "true").expect_err("nobody listens");
        assert!(
            matches!(&probe, ExecuteError::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused)
        );
        std::thread::scope(|scope| {
            let action = scope.spawn(|| remote.executor.execute(Lane::Action, &sh("echo back", b"")));
            remote.host.restart().expect("starts");
            let output = action.join().expect("no panic").expect("gets through");
            assert_eq!(output.stdout, b"back\n");
        });
    }
}
