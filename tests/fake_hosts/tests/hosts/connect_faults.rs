//! What goes wrong before a command can run.

use std::time::Duration;

use muster_fake_hosts::{ClientKey, ConnectFault, Faults, Fleet, Host, HostOptions};

use crate::client::{Client, LIMIT};

fn fault(connect: ConnectFault) -> Faults {
    Faults { connect: Some(connect), ..Faults::default() }
}

fn one() -> (Fleet, Host, ClientKey) {
    let fleet = Fleet::start(1, HostOptions::default());
    let host = fleet.host(0).clone();
    (fleet, host, ClientKey::generate())
}

#[test]
fn a_port_can_refuse_and_listen_again() {
    let (_fleet, host, key) = one();
    let connected = Client::connect(&host, &key).expect("it lets us in");
    for _ in 0..20 {
        host.set_faults(fault(ConnectFault::Refuse));
        let error = Client::connect(&host, &key).err().expect("refused");
        assert_eq!(error.message(), "refused");
        host.set_faults(Faults::default());
        assert!(Client::connect(&host, &key).is_ok());
    }
    assert_eq!(connected.ok("echo still"), "still\n");
    let refusing = HostOptions { faults: fault(ConnectFault::Refuse), ..HostOptions::default() };
    let fleet = Fleet::start(1, refusing);
    assert!(Client::connect(fleet.host(0), &key).is_err());
    assert_eq!(fleet.host(0).counters().connections, 0);
}

/// Each of these ends or hangs the key exchange; the same host works again afterwards.
#[test]
fn handshakes_that_fail() {
    let (_fleet, host, key) = one();
    for (connect, hangs) in [
        (ConnectFault::Close, false),
        (ConnectFault::CloseAfterBanner, false),
        (ConnectFault::NoSsh, false),
        (ConnectFault::Silent, true),
        (ConnectFault::HangInHandshake, true),
        (ConnectFault::SlowBanner(LIMIT), true),
    ] {
        host.set_faults(fault(connect.clone()));
        let stream = std::net::TcpStream::connect(host.address()).expect("it listens");
        let mut session = ssh2::Session::new().expect("memory is left");
        session.set_timeout(if hangs { 300 } else { 120_000 });
        session.set_tcp_stream(stream);
        let error = session.handshake().expect_err("it cannot succeed");
        let timed_out = error.code() == ssh2::ErrorCode::Session(-9);
        assert_eq!(timed_out, hangs, "{connect:?}: {error}");
        assert_eq!(host.counters().handshakes, 0);
    }
    host.set_faults(Faults::default());
    assert!(Client::connect(&host, &key).is_ok());
    assert_eq!(host.counters().connections, 7);
}

#[test]
fn a_slow_banner_is_only_slow() {
    let (_fleet, host, key) = one();
    host.set_faults(fault(ConnectFault::SlowBanner(Duration::from_millis(50))));
    assert_eq!(Client::connect(&host, &key).expect("at last").ok("echo yes"), "yes\n");
}

#[test]
fn authentication_and_channels_can_be_refused() {
    let (_fleet, host, key) = one();
    host.set_faults(Faults { refuse_auth: true, ..Faults::default() });
    assert!(Client::connect(&host, &key).is_err());
    assert_eq!((host.counters().handshakes, host.counters().auths), (1, 0));
    host.set_faults(Faults { refuse_channels: true, ..Faults::default() });
    let client = Client::connect(&host, &key).expect("it lets us in");
    assert!(client.begin("true").is_err());
    host.set_faults(Faults::default());
    assert_eq!(client.run("true").code, 0);
}

#[test]
fn connections_are_limited() {
    let (_fleet, host, key) = one();
    host.set_faults(Faults { connections_max: Some(2), ..Faults::default() });
    let mut clients: Vec<_> = (0..2).map(|_| Client::connect(&host, &key).expect("one of two")).collect();
    assert!(Client::connect(&host, &key).is_err());
    clients.pop();
    assert!(host.wait_until(LIMIT, |counters| counters.connections_now == 1));
    assert!(Client::connect(&host, &key).is_ok());
    assert_eq!(host.counters().connections_most, 2);
}

#[test]
fn a_frozen_host_says_nothing_and_forgets_nothing() {
    let (_fleet, host, key) = one();
    let client = Client::connect(&host, &key).expect("it lets us in");
    host.set_faults(Faults { frozen: true, ..Faults::default() });
    client.session.set_timeout(200);
    let error = client.begin("echo late").err().expect("no answer");
    assert_eq!(error.code(), ssh2::ErrorCode::Session(-9), "{error}");
    let mut session = ssh2::Session::new().expect("memory is left");
    session.set_timeout(200);
    session.set_tcp_stream(std::net::TcpStream::connect(host.address()).expect("the kernel takes it"));
    assert!(session.handshake().is_err());
    assert_eq!(host.counters().connections, 1);
    host.set_faults(Faults::default());
    client.session.set_timeout(120_000);
    assert_eq!(client.ok("echo late"), "late\n");
}
