//! The table of known traps (spec 45 §3), line by line. (TCP_NODELAY, and TCP's own timeouts, are tested beside the code.)

use std::sync::Arc;
use std::time::Duration;

use muster::remote::ssh::SshExecutor;
use muster::remote::{ExecuteError, Executor, HostAccess, Lane};
use muster_fake_hosts::{ExecFault, Faults};
use muster_ssh_hosts::{FaultProxy, Server};

use crate::fixture::{LIMIT, Pinned, Remote, SERVERS, client_of, pin, sh, text, wait_until, within};
use crate::uplink::Uplink;

/// More than 2 MiB of unread standard error would block standard output for ever.
#[test]
fn much_stderr_does_not_block_stdout() {
    for server in SERVERS {
        let remote = Remote::on(server);
        let script = "head -c 1000000 /dev/zero >&2; head -c 1000000 /dev/zero; head -c 40000 /dev/zero >&2";
        let output = remote.sh(Lane::Action, script).expect("within the bounds");
        assert_eq!((output.stdout.len(), output.stderr.len(), output.exit_code), (1_000_000, 1_040_000, Some(0)));
        let script = "head -c 3000000 /dev/zero >&2; echo out";
        assert!(matches!(remote.sh(Lane::Action, script), Err(ExecuteError::TooMuchOutput)));
        let mut nothing = |from: &mut dyn std::io::Read| std::io::copy(from, &mut std::io::sink()).map(drop);
        let result = remote.executor.stream(Lane::Bulk, &sh(script, b""), &mut nothing);
        assert!(matches!(result, Err(ExecuteError::TooMuchOutput)), "{result:?}");
    }
}

/// Output above its bound is a failure, never a shortened result.
#[test]
fn too_much_output_is_no_output() {
    for server in SERVERS {
        let remote = Remote::on(server);
        assert_eq!(remote.sh(Lane::Action, "head -c 1048576 /dev/zero").expect("just fits").stdout.len(), 1 << 20);
        let result = remote.sh(Lane::Action, "head -c 1048577 /dev/zero");
        assert!(matches!(result, Err(ExecuteError::TooMuchOutput)), "{result:?}");
        assert_eq!(remote.output("echo next"), "next\n");
    }
}

/// A stopped server still acknowledges packets: only our own deadline finds it.
#[test]
fn a_stopped_server_runs_into_the_deadline() {
    for server in SERVERS {
        let remote = Remote::on(server);
        assert_eq!(remote.output("echo up"), "up\n");
        remote.host.stop_server().expect("stops");
        // With an open connection, and where a new one is made: the kernel accepts that for the stopped listener.
        for lane in [Lane::Action, Lane::Bulk] {
            let result = remote.executor.execute(lane, &within(Duration::from_secs(2), "true", b"", None));
            assert!(matches!(result, Err(ExecuteError::Deadline)), "{result:?}");
        }
        remote.host.continue_server().expect("continues");
        assert_eq!(remote.output("echo up again"), "up again\n");
    }
}

/// `exit_status()` is 0 when the command died by a signal.
#[test]
fn death_by_a_signal_is_no_success() {
    for server in SERVERS {
        let remote = Remote::on(server);
        // Of the login shell itself, so that the server reports a signal.
        let output = remote.sh(Lane::Action, "echo last words; kill -9 $PPID; sleep 1").expect("ends");
        assert_eq!((output.exit_code, output.signal), (None, Some(9)), "{server:?}");
        assert_eq!(output.ending(), "killed by signal 9");
        assert!(!output.succeeded());
        // Of the command: the shell says so by its status.
        let output = remote.sh(Lane::Action, "kill -9 $$").expect("ends");
        assert_eq!(output.exit_code, Some(137), "{server:?}");
    }
}

/// … and when no status ever came. OpenSSH closes an idle channel without one, if it is told to.
#[test]
fn no_status_is_no_success() {
    let remote = Remote::new(|options| options.config_line("ChannelTimeout *=1s"));
    let output = remote.sh(Lane::Action, "echo begun; sleep 600").expect("is closed");
    assert_eq!((output.exit_code, output.signal), (None, None), "{output:?}");
    assert_eq!(output.ending(), "no exit status");
    assert!(!output.succeeded());
}

/// Neither is a connection that breaks.
#[test]
fn a_connection_that_breaks_is_an_error() {
    for server in SERVERS {
        let remote = Remote::on(server);
        std::thread::scope(|scope| {
            let command = scope.spawn(|| remote.sh(Lane::Action, "touch /var/lib/begun; sleep 600"));
            let begun = remote.host.path("/var/lib/begun");
            wait_until("the command runs", || begun.exists());
            assert!(remote.host.cut_connections().expect("cut") >= 1);
            let result = command.join().expect("no panic");
            assert!(matches!(result, Err(ExecuteError::Channel(_))), "{result:?}");
        });
        assert_eq!(remote.output("echo next"), "next\n");
    }
}

/// Wherever a connection breaks until somebody is logged in: that is never taken for a refusal of our key, which people would look into
/// at the wrong place.
#[test]
fn a_login_that_is_cut_off_is_no_refusal() {
    for server in SERVERS {
        let remote = Remote::on(server);
        let mut cut = 0;
        for bytes in (1_000..6_500).step_by(100) {
            let proxy = FaultProxy::start(&remote.host.address()).expect("starts");
            proxy.wear_out(bytes, bytes);
            let executor = remote.another(pin(&remote.host));
            executor.set_target(&proxy.address(), remote.host.user());
            let Err(error) = executor.execute(Lane::Probe, &sh("true", b"")) else { continue };
            cut += 1;
            assert!(!matches!(error, ExecuteError::Authentication { .. }), "{server:?} after {bytes} bytes: {error}");
        }
        assert!(cut > 10, "{server:?}: {cut}");
    }
}

/// Closing a channel does not end the remote command, which goes on holding one of the server's session slots: the connection is
/// discarded.
#[test]
fn a_command_given_up_holds_no_slot() {
    let remote = Remote::new(|options| options.max_sessions(1));
    for _ in 0..3 {
        let result = remote.executor.execute(Lane::Action, &within(Duration::from_secs(1), "sleep 600", b"", None));
        assert!(matches!(result, Err(ExecuteError::Deadline)), "{result:?}");
        assert_eq!(remote.output("echo next"), "next\n");
    }
}

/// Servers refuse when many connect at once: with back-off all get in, and a probe's failure counts as normal while booting.
#[test]
fn crowds_get_in_one_after_another() {
    let remote = Remote::new(|options| options.max_startups(1));
    {
        // Somebody who does not log in has the only place.
        let mut idle = std::net::TcpStream::connect(remote.host.address()).expect("accepted");
        std::io::Read::read_exact(&mut idle, &mut [0; 8]).expect("its banner");
        let error = remote.sh(Lane::Probe, "true").expect_err("no place");
        assert!(error.is_normal_while_booting(), "{error:?}");
    }
    std::thread::scope(|scope| {
        let crowd: Vec<_> = (0..12)
            .map(|_| {
                let executor = remote.another(pin(&remote.host));
                scope.spawn(move || text(executor.execute(Lane::Action, &sh("echo in", b""))))
            })
            .collect();
        for one in crowd {
            assert_eq!(one.join().expect("no panic"), "in\n");
        }
    });
}

/// Data on a stream that there is not: the deadline ends it, and it is no busy loop.
#[test]
fn data_that_nobody_asked_for() {
    let key = muster_fake_hosts::ClientKey::generate();
    let faults = Faults { exec: Some(ExecFault::OtherStream), ..Faults::default() };
    let options = muster_fake_hosts::HostOptions { client_key: Some(key.public.clone()), faults, ..Default::default() };
    let fleet = muster_fake_hosts::Fleet::start(1, options);
    let host = fleet.host(0);
    let known = muster::remote::identity::HostKey::parse(&host.host_key_openssh()).expect("a key");
    let access = HostAccess { check: Arc::new(Pinned(known)), secret: None, sudo: true };
    let executor = SshExecutor::new(client_of(&key.private), access).expect("a descriptor");
    executor.set_target(&host.address().to_string(), "root");
    let result = executor.execute(Lane::Action, &within(Duration::from_secs(1), "true", b"", None));
    assert!(matches!(result, Err(ExecuteError::Deadline)), "{result:?}");
}

/// libssh2 sends nothing else before a packet that it has begun is out. A command that ends while its input is held up says how it
/// ended all the same.
#[test]
fn the_end_comes_while_input_is_held_up() {
    for server in SERVERS {
        let remote = Remote::on(server);
        let uplink = Uplink::to(&remote.host.address());
        remote.executor.set_target(&uplink.address(), remote.host.user());
        std::thread::scope(|scope| {
            let bytes = vec![b'x'; 5_000_000];
            let remote = &remote;
            let command = scope.spawn(move || {
                let script = "exec <&-; touch /var/lib/begun; while [ ! -e /var/lib/go ]; do sleep 0.05; done; echo full >&2; exit 7";
                remote.executor.execute(Lane::Bulk, &sh(script, &bytes))
            });
            let begun = remote.host.path("/var/lib/begun");
            wait_until("the command runs", || begun.exists());
            uplink.hold_after(0);
            // Nothing moves any more: the rest of a packet waits.
            uplink.wait_until_still();
            std::fs::write(remote.host.path("/var/lib/go"), b"").expect("written");
            let output = command.join().expect("no panic").expect("ends");
            assert_eq!((output.exit_code, output.stderr_text().as_str()), (Some(7), "full"));
        });
        uplink.release();
        assert_eq!(remote.output("echo next"), "next\n");
    }
}

/// New keys are agreed on in the middle of a transfer, both ways.
#[test]
fn rekeying_does_not_disturb() {
    let remote = Remote::new(|options| options.config_line("RekeyLimit 1M"));
    let bytes: Vec<u8> = (0..=255).cycle().take(5_000_000).collect();
    let mut found = Vec::new();
    let mut consume = |from: &mut dyn std::io::Read| from.read_to_end(&mut found).map(drop);
    let output = remote.executor.stream(Lane::Bulk, &sh("cat", &bytes), &mut consume).expect("runs");
    assert!(output.succeeded() && found == bytes);
}

/// A link that stands still, breaks, or hands out bytes one by one.
#[test]
fn links_of_all_kinds() {
    let remote = Remote::on(Server::OpenSsh);
    let proxy = FaultProxy::start(&remote.host.address()).expect("listens");
    remote.executor.set_target(&proxy.address(), remote.host.user());
    assert_eq!(remote.output("echo through"), "through\n");

    proxy.stall();
    let result = remote.executor.execute(Lane::Action, &within(Duration::from_secs(1), "true", b"", None));
    assert!(matches!(result, Err(ExecuteError::Deadline)), "{result:?}");
    proxy.resume();
    assert_eq!(remote.output("echo through"), "through\n");

    std::thread::scope(|scope| {
        let mut read = 0;
        let remote = &remote;
        let transfer = scope.spawn(move || {
            let mut consume = |from: &mut dyn std::io::Read| -> std::io::Result<()> {
                let mut buffer = vec![0; 10_000];
                loop {
                    match from.read(&mut buffer)? {
                        0 => return Ok(()),
                        count => read += count,
                    }
                }
            };
            let script = "touch /var/lib/sending; while :; do head -c 100000 /dev/zero; sleep 0.01; done";
            remote.executor.stream(Lane::Bulk, &within(LIMIT, script, b"", None), &mut consume)
        });
        let sending = remote.host.path("/var/lib/sending");
        wait_until("the command sends", || sending.exists());
        proxy.cut();
        let result = transfer.join().expect("no panic");
        assert!(matches!(result, Err(ExecuteError::Channel(_))), "{result:?}");
    });

    proxy.delay(Duration::from_millis(5));
    let bytes = vec![b'z'; 300_000];
    let output = remote.executor.execute(Lane::Bulk, &sh("cat", &bytes)).expect("slow, but whole");
    assert_eq!(output.stdout, bytes);
}
