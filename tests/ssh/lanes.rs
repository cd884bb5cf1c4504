//! A worker's connections (spec 45 §2): none waits for another, there are never more than three, and they go when nobody needs
//! them.

use std::sync::Arc;
use std::time::Duration;

use muster::remote::wake::Wake;
use muster::remote::{ExecuteError, Executor, Lane};
use muster_ssh_hosts::{Server, caller_is_root};

use crate::fixture::{LIMIT, Remote, SERVERS, pin, sh, text, wait_until, within};

/// A long poll and a transfer are under way; an action is done all the same.
#[test]
fn lanes_do_not_wait_for_each_other() {
    for server in SERVERS {
        let remote = Remote::on(server);
        let wake = Wake::new().expect("a descriptor");
        std::thread::scope(|scope| {
            let busy: Vec<_> = [Lane::Probe, Lane::Bulk]
                .map(|lane| {
                    let (remote, wake) = (&remote, &wake);
                    scope.spawn(move || {
                        let script = format!("touch /var/lib/{lane:?}; cat");
                        remote.executor.execute(lane, &within(LIMIT, &script, b"", Some(wake)))
                    })
                })
                .into();
            for lane in [Lane::Probe, Lane::Bulk] {
                let mark = remote.host.path(&format!("/var/lib/{lane:?}"));
                wait_until("the lane is busy", || mark.exists());
            }
            for _ in 0..5 {
                assert_eq!(remote.output("echo done"), "done\n");
            }
            assert!(busy.iter().all(|thread| !thread.is_finished()));
            wake.wake();
            for thread in busy {
                assert!(thread.join().expect("no panic").expect("ends").succeeded());
            }
        });
    }
}

/// Of a connection: OpenSSH has one more that watches over a login that is not root's.
fn processes_each(server: Server) -> usize {
    if server == Server::OpenSsh && !caller_is_root() { 2 } else { 1 }
}

#[test]
fn three_connections_however_much_is_asked() {
    for server in SERVERS {
        let remote = Remote::on(server);
        std::thread::scope(|scope| {
            for number in 0..12 {
                let remote = &remote;
                let lane = [Lane::Probe, Lane::Action, Lane::Bulk][number % 3];
                scope.spawn(move || {
                    for turn in 0..5 {
                        let output = remote.sh(lane, &format!("echo {number} {turn}"));
                        assert_eq!(text(output), format!("{number} {turn}\n"));
                    }
                });
            }
        });
        assert_eq!(remote.logins(), 3, "{}", remote.host.log());
        remote.executor.close_idle(LIMIT);
        assert_eq!(remote.sessions(), 3 * processes_each(server));
        remote.executor.close_idle(Duration::ZERO);
        wait_until("only the probe's is left", || remote.sessions() == processes_each(server));
        assert_eq!(remote.output("echo again"), "again\n");
    }
}

/// Connections that broke while nobody used them are replaced without anybody noticing.
#[test]
fn stale_connections_are_replaced() {
    for server in SERVERS {
        let remote = Remote::on(server);
        for lane in [Lane::Probe, Lane::Action, Lane::Bulk] {
            assert!(remote.sh(lane, "true").expect("runs").succeeded());
        }
        assert_eq!(remote.host.cut_connections().expect("cut"), 3 * processes_each(server));
        for lane in [Lane::Probe, Lane::Action, Lane::Bulk] {
            assert!(remote.sh(lane, "true").expect("runs").succeeded());
        }
    }
}

/// A new address or user applies to the next command.
#[test]
fn the_target_changes() {
    let (remote, other) = (Remote::on(SERVERS[0]), Remote::on(SERVERS[0]));
    assert_eq!(remote.output("hostname"), format!("{}\n", remote.host.name()));
    remote.executor.set_target(&other.host.address(), other.host.user());
    // Another host, another key: the connection that was verified is not used for it.
    let result = remote.sh(Lane::Action, "hostname");
    assert!(matches!(result, Err(ExecuteError::HostKey { .. })), "{result:?}");
    remote.executor.set_target(&remote.host.address(), remote.host.user());
    assert_eq!(remote.output("hostname"), format!("{}\n", remote.host.name()));
}

/// `close` ends what is in flight at once, and what waits for a lane; nothing is left behind at the server.
#[test]
fn close_cancels() {
    for server in SERVERS {
        let remote = Remote::on(server);
        assert!(remote.sh(Lane::Bulk, "true").expect("runs").succeeded());
        let executor: Arc<_> = remote.executor.clone();
        std::thread::scope(|scope| {
            let flying = scope.spawn(|| executor.execute(Lane::Action, &sh("touch /var/lib/begun; sleep 600", b"")));
            let begun = remote.host.path("/var/lib/begun");
            wait_until("the command runs", || begun.exists());
            let waiting = scope.spawn(|| executor.execute(Lane::Action, &sh("echo never", b"")));
            executor.close();
            for thread in [flying, waiting] {
                let result = thread.join().expect("no panic");
                assert!(matches!(result, Err(ExecuteError::Cancelled)), "{result:?}");
            }
        });
        assert!(matches!(remote.sh(Lane::Probe, "true"), Err(ExecuteError::Cancelled)));
        wait_until("no connection is left", || remote.sessions() == 0);
        assert_eq!(text(remote.another(pin(&remote.host)).execute(Lane::Action, &sh("echo up", b""))), "up\n");
    }
}

/// Cancelled in the middle of connecting, too.
#[test]
fn close_cancels_connecting() {
    let remote = Remote::on(SERVERS[0]);
    remote.host.stop_server().expect("stops");
    std::thread::scope(|scope| {
        let probe = scope.spawn(|| remote.sh(Lane::Probe, "true"));
        let action = scope.spawn(|| remote.sh(Lane::Action, "true"));
        remote.executor.close();
        for thread in [probe, action] {
            assert!(matches!(thread.join().expect("no panic"), Err(ExecuteError::Cancelled)));
        }
    });
}
