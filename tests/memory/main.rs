//! What is given up is freed. Alone in its process, since it looks at the memory of it.

#[path = "../ssh/fixture.rs"]
#[expect(dead_code, reason = "shared with the tests of the executor, which use the rest")]
mod fixture;
#[path = "../ssh/uplink.rs"]
#[expect(dead_code, reason = "shared with the tests of the executor, which use the rest")]
mod uplink;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use muster::remote::ssh::SshExecutor;
use muster::remote::{ExecuteError, Executor, Lane};

use fixture::{Remote, SERVERS, client, pin, within};
use muster_ssh_hosts::client_key;
use uplink::Uplink;

const ROUNDS: usize = 20;
const BOOTING_ROUNDS: usize = 60;
/// A session has about 85 KiB: so much for each one would be a leak, a tenth of it is what the allocator makes of it.
const KIB_PER_ROUND_MAX: usize = 20;

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.split_ascii_whitespace().next().expect("a number").parse().expect("a number")
}

/// What many rounds leave behind, in KiB for each. Buffers that stay are there after some rounds.
fn growth(rounds: usize, mut round: impl FnMut()) -> usize {
    (0..rounds / 4).for_each(|_| round());
    let before = resident_kib();
    (0..rounds).for_each(|_| round());
    resident_kib().saturating_sub(before) / rounds
}

/// Uploads that are given up in the middle of a packet, and commands that are given up while they run; sessions that never stand, as those
/// with machines that are still booting. One test: two at once would see each other's memory.
#[test]
fn what_is_given_up_is_freed() {
    let remote = Remote::on(SERVERS[0]);
    let grown = growth(ROUNDS, given_up_at_work(&remote));
    assert!(grown < KIB_PER_ROUND_MAX, "{grown} KiB more in each round");
    let grown = growth(BOOTING_ROUNDS, given_up_at_the_start(&remote));
    assert!(grown < KIB_PER_ROUND_MAX, "{grown} KiB more in each round of sessions that never stand");
}

fn given_up_at_work(remote: &Remote) -> impl FnMut() {
    let uplink = Uplink::to(&remote.host.address());
    let bytes = vec![b'x'; 3_000_000];
    move || {
        uplink.release();
        remote.executor.set_target(&uplink.address(), remote.host.user());
        assert_eq!(remote.output("echo up"), "up\n");
        uplink.hold_after(100_000);
        let command = within(Duration::from_millis(500), "cat > /dev/null", &bytes, None);
        assert!(matches!(remote.executor.execute(Lane::Action, &command), Err(ExecuteError::Deadline)));
        remote.executor.set_target(&remote.host.address(), remote.host.user());
        let command = within(Duration::from_millis(150), "sleep 600", b"", None);
        let result = remote.executor.execute(Lane::Bulk, &command);
        assert!(matches!(result, Err(ExecuteError::Deadline | ExecuteError::Connect { .. })), "{result:?}");
    }
}

/// In the middle of the agreement on keys; after a banner, by the other side; for the host's key; for ours.
fn given_up_at_the_start(remote: &Remote) -> impl FnMut() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    silent.set_nonblocking(true).expect("set");
    let (stranger, other) = (client_key().expect("made"), Remote::on(SERVERS[0]));
    let not_ours = SshExecutor::new(client(&stranger), pin(&remote.host)).expect("a descriptor");
    let not_theirs = remote.another(pin(&other.host));
    let real = (remote.host.address(), remote.host.user().to_owned());
    move || {
        let executor = SshExecutor::new(client(&remote.key), pin(&remote.host)).expect("a descriptor");
        executor.set_target(&silent.local_addr().expect("bound").to_string(), "root");
        for (limit, hangs) in [(Duration::from_millis(50), true), (Duration::from_secs(60), false)] {
            let is_over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let server = scope.spawn(|| {
                    // It may have been given up before there is a connection, and again before there is a banner.
                    let mut stream = loop {
                        match silent.accept() {
                            Ok((stream, _)) => break stream,
                            Err(_) if is_over.load(Ordering::SeqCst) => {
                                // None may be left for the next round.
                                while silent.accept().is_ok() {}
                                return;
                            }
                            Err(_) => std::thread::park_timeout(Duration::from_millis(1)),
                        }
                    };
                    let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n");
                    // Until it is given up; or it goes first.
                    if hangs {
                        drop(stream.read_to_end(&mut Vec::new()))
                    }
                });
                let result = executor.execute(Lane::Probe, &within(limit, "true", b"", None));
                is_over.store(true, Ordering::SeqCst);
                assert_eq!(matches!(result, Err(ExecuteError::Deadline)), hangs, "{result:?}");
                result.expect_err("there is no server");
                server.join().expect("no panic");
            });
        }
        for executor in [&not_ours, &not_theirs] {
            executor.set_target(&real.0, &real.1);
            executor.execute(Lane::Probe, &within(Duration::from_secs(60), "true", b"", None)).expect_err("refused");
        }
    }
}
