//! The proxy's faults: over plain sockets, where each byte is seen, and with a real host behind it.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use muster_ssh_hosts::{FaultProxy, HostOptions};

use crate::support::{key, output_with, says, started, text, wait_until};

const SOON: Duration = Duration::from_millis(200);
const LATE: Duration = Duration::from_secs(100);

/// A proxy and the far end of it.
fn proxy() -> (FaultProxy, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let target = listener.local_addr().expect("bound").to_string();
    (FaultProxy::start(&target).expect("started"), listener)
}

fn connect(proxy: &FaultProxy, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let near = TcpStream::connect(proxy.address()).expect("connected");
    let (far, _) = listener.accept().expect("accepted");
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(LATE)).expect("set");
        stream.set_nodelay(true).expect("set");
    }
    (near, far)
}

fn expect(stream: &mut TcpStream, text: &str) {
    let mut bytes = vec![0; text.len()];
    stream.read_exact(&mut bytes).expect("it arrives");
    assert_eq!(String::from_utf8_lossy(&bytes), text);
}

#[test]
fn it_forwards() {
    let (proxy, listener) = proxy();
    let (mut near, mut far) = connect(&proxy, &listener);
    near.write_all(b"question").expect("written");
    expect(&mut far, "question");
    far.write_all(b"answer").expect("written");
    expect(&mut near, "answer");
    wait_until("it is counted", || proxy.bytes() == (8, 6));
    assert_eq!((proxy.connections(), proxy.open_connections()), (1, 1));
    // One direction's end goes through while the other lives.
    near.shutdown(std::net::Shutdown::Write).expect("shut");
    assert_eq!(far.read(&mut [0; 8]).expect("end"), 0);
    far.write_all(b"last words").expect("written");
    drop(far);
    let mut rest = String::new();
    near.read_to_string(&mut rest).expect("end");
    assert_eq!(rest, "last words");
    wait_until("the connection has ended", || proxy.open_connections() == 0);
}

/// More than all buffers on the way hold, so that both directions must take turns.
#[test]
fn much_data_is_whole() {
    const SIZE: usize = 32 << 20;
    let (proxy, listener) = proxy();
    let (near, far) = connect(&proxy, &listener);
    let piece: Vec<u8> = (0..=250_u8).cycle().take(SIZE).collect();
    std::thread::scope(|scope| {
        for (from, to) in [(&near, &far), (&far, &near)] {
            scope.spawn(|| (&mut &*from).write_all(&piece).expect("written"));
            scope.spawn(|| {
                let mut whole = vec![0; SIZE];
                (&mut &*to).read_exact(&mut whole).expect("it arrives");
                assert!(whole == piece, "other bytes");
            });
        }
    });
}

#[test]
fn delay() {
    let (proxy, listener) = proxy();
    let (mut near, mut far) = connect(&proxy, &listener);
    proxy.delay(SOON);
    let start = Instant::now();
    near.write_all(b"a").expect("written");
    expect(&mut far, "a");
    assert!(start.elapsed() >= SOON, "{:?}", start.elapsed());
    far.write_all(b"b").expect("written");
    expect(&mut near, "b");
    assert!(start.elapsed() >= SOON * 2, "{:?}", start.elapsed());
}

#[test]
fn stall_and_resume() {
    let (proxy, listener) = proxy();
    let (mut near, mut far) = connect(&proxy, &listener);
    near.write_all(b"before ").expect("written");
    expect(&mut far, "before ");
    proxy.stall();
    near.write_all(b"during").expect("written");
    far.set_read_timeout(Some(SOON)).expect("set");
    assert!(far.read(&mut [0; 8]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
    let mut late = TcpStream::connect(proxy.address()).expect("the kernel accepts");
    late.write_all(b"late").expect("written");
    proxy.resume();
    far.set_read_timeout(Some(LATE)).expect("set");
    expect(&mut far, "during");
    let (mut second, _) = listener.accept().expect("accepted");
    expect(&mut second, "late");
}

#[test]
fn cut() {
    let (proxy, listener) = proxy();
    let (mut near, mut far) = connect(&proxy, &listener);
    for stalled in [false, true] {
        if stalled {
            (near, far) = connect(&proxy, &listener);
            proxy.stall();
        }
        proxy.cut();
        for stream in [&mut near, &mut far] {
            assert!(stream.read(&mut [0; 8]).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
        }
    }
    proxy.resume();
    let (mut near, mut far) = connect(&proxy, &listener);
    near.write_all(b"new").expect("written");
    expect(&mut far, "new");
    assert_eq!(proxy.connections(), 3);
    drop(proxy);
    assert!(near.read(&mut [0; 8]).is_err(), "the proxy's end is a cut too");
}

#[test]
fn refuse() {
    let (proxy, listener) = proxy();
    let (mut near, mut far) = connect(&proxy, &listener);
    proxy.refuse();
    let mut refused = TcpStream::connect(proxy.address()).expect("the kernel accepts");
    refused.set_read_timeout(Some(LATE)).expect("set");
    assert!(matches!(refused.read(&mut [0; 8]), Ok(0) | Err(_)));
    assert_eq!(proxy.connections(), 2);
    near.write_all(b"old").expect("written");
    expect(&mut far, "old");
    proxy.resume();
    let (_near, _far) = connect(&proxy, &listener);
}

#[test]
fn slow_banner() {
    let (proxy, listener) = proxy();
    let pause = Duration::from_millis(10);
    proxy.slow_banner(pause);
    let (mut near, mut far) = connect(&proxy, &listener);
    let start = Instant::now();
    far.write_all(b"SSH-2.0-x\r\nand ").expect("written");
    far.write_all(b"more").expect("written");
    expect(&mut near, "S");
    assert!(start.elapsed() >= pause);
    expect(&mut near, "SH-2.0-x\r\n");
    assert!(start.elapsed() >= pause * 11, "{:?}", start.elapsed());
    expect(&mut near, "and more");
    // Afterwards, and from the client, nothing is slow: far less than a pause for each of these bytes.
    let start = Instant::now();
    near.write_all(&[b'a'; 100_000]).expect("written");
    expect(&mut far, &"a".repeat(100_000));
    assert!(start.elapsed() < pause * 50_000);
}

#[test]
fn ssh_through_it() {
    let key = key();
    let host = started(&HostOptions::new(key.public()));
    let proxy = FaultProxy::start(&host.address()).expect("started");
    let (port, alias) = (format!("-p{}", proxy.port()), format!("-oHostKeyAlias=[127.0.0.1]:{}", host.port()));
    let through = |command: &str| output_with(&host, &key, &[&port, &alias], command);
    assert_eq!(text(&through("echo through").stdout), "through\n");
    proxy.slow_banner(Duration::from_millis(5));
    proxy.delay(Duration::from_millis(5));
    assert_eq!(text(&through("echo slowly").stdout), "slowly\n");
    proxy.refuse();
    assert_eq!(through("true").status.code(), Some(255));
    proxy.resume();
    assert_eq!(text(&through("echo again").stdout), "again\n");
    assert_eq!(proxy.connections(), 4);
    assert_eq!(says(&host, &key, "echo direct"), "direct");
    assert!(FaultProxy::start("no address").is_err_and(|error| error.to_string().contains("no address")));
}

/// Whole all the same, in more pieces than were written.
#[test]
fn chop() {
    let (proxy, listener) = proxy();
    let (mut near, mut far) = connect(&proxy, &listener);
    proxy.chop(3);
    let sent: Vec<u8> = (0..=255).cycle().take(3000).collect();
    near.write_all(&sent).expect("written");
    let mut got = vec![0; sent.len()];
    far.read_exact(&mut got).expect("it arrives");
    assert_eq!(got, sent);
    proxy.resume();
    far.write_all(b"back").expect("written");
    expect(&mut near, "back");
}

/// To the byte, and so for each connection until it is over.
#[test]
fn wear_out() {
    let (proxy, listener) = proxy();
    let (mut near, mut far) = connect(&proxy, &listener);
    far.write_all(b"before").expect("written");
    expect(&mut near, "before");
    proxy.wear_out(100, 100);
    near.write_all(&[7; 60]).expect("written");
    far.read_exact(&mut [0; 60]).expect("it arrives");
    far.write_all(&[7; 60]).expect("written");
    let mut got = Vec::new();
    let error = near.read_to_end(&mut got).expect_err("reset");
    assert_eq!((error.kind(), proxy.worn_out()), (ErrorKind::ConnectionReset, 1), "{error}");
    assert!(got.len() <= 40, "{}", got.len());
    wait_until("40 have passed", || proxy.bytes() == (60, 46));
    proxy.resume();
    let (mut near, mut far) = connect(&proxy, &listener);
    near.write_all(&[7; 300]).expect("written");
    far.read_exact(&mut [0; 300]).expect("it arrives");
}
