//! What can be done to a server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use muster_ssh_hosts::{HostOptions, Server, SshHost};

use crate::support::{code, key, output, output_with, says, session, started, state, text, wait_until};

/// A session that echoes lines.
struct Echo {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Echo {
    fn start(host: &SshHost, key: &muster_ssh_hosts::ClientKey) -> Self {
        let mut child = session(host, key, "cat");
        let (stdin, stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)));
        });
        let mut echo = Self { child, stdin, lines };
        echo.send("first");
        assert_eq!(echo.next(Duration::from_secs(100)).as_deref(), Some("first"));
        echo
    }

    fn send(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").expect("ssh reads");
    }

    fn next(&self, limit: Duration) -> Option<String> {
        self.lines.recv_timeout(limit).ok()
    }

    fn end(mut self) -> Option<i32> {
        drop(self.stdin);
        code(&mut self.child)
    }
}

const SOON: Duration = Duration::from_millis(300);
const LATE: Duration = Duration::from_secs(100);

fn each(test: impl Fn(&HostOptions, &muster_ssh_hosts::ClientKey)) {
    let key = key();
    for server in [Server::OpenSsh, Server::Dropbear] {
        test(&HostOptions::new(key.public()).server(server), &key);
    }
}

/// The first bytes a new connection gets, if any come soon.
fn banner(host: &SshHost) -> std::io::Result<usize> {
    let mut stream = TcpStream::connect(host.address())?;
    stream.set_read_timeout(Some(SOON))?;
    stream.read(&mut [0; 64])
}

#[test]
fn stopped_and_continued() {
    each(|options, key| {
        let host = started(options);
        let mut echo = Echo::start(&host, key);
        host.stop_server().expect("stopped");
        let servers: Vec<_> = host.processes().expect("listed").into_iter().filter(|p| p.name != "cat").collect();
        for process in servers.iter().filter(|p| p.name.starts_with("sshd") || p.name.starts_with("dropbear")) {
            wait_until("all of the server is stopped", || state(process.pid) == Some('T'));
        }
        assert!(servers.len() >= 2, "{servers:?}");
        echo.send("while stopped");
        assert_eq!(echo.next(SOON), None);
        assert!(banner(&host).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
        host.continue_server().expect("continued");
        assert_eq!(echo.next(LATE).as_deref(), Some("while stopped"));
        assert_eq!(echo.end(), Some(0));
        assert_eq!(says(&host, key, "echo back"), "back");
    });
}

#[test]
fn only_the_listener_stopped() {
    each(|options, key| {
        let host = started(options);
        let mut echo = Echo::start(&host, key);
        host.stop_listener().expect("stopped");
        assert!(banner(&host).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
        echo.send("still here");
        assert_eq!(echo.next(LATE).as_deref(), Some("still here"));
        host.continue_server().expect("continued");
        assert_eq!(says(&host, key, "echo back"), "back");
    });
}

#[test]
fn killed_and_restarted() {
    each(|options, key| {
        let host = started(options);
        let echo = Echo::start(&host, key);
        let (address, keys, pid) = (host.address(), host.host_keys(), host.pid());
        host.kill_server().expect("killed");
        assert_eq!(echo.end(), Some(255), "the connection is broken");
        assert!(banner(&host).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused));
        host.kill_server().expect("once more is nothing");
        host.restart().expect("restarted");
        assert_eq!((host.address(), host.host_keys()), (address, keys));
        assert_ne!(host.pid(), pid);
        assert_eq!(says(&host, key, "echo back"), "back");
    });
}

#[test]
fn killed_while_stopped() {
    each(|options, key| {
        let host = started(options);
        let echo = Echo::start(&host, key);
        host.stop_server().expect("stopped");
        host.kill_server().expect("killed");
        assert_eq!(echo.end(), Some(255));
        host.restart().expect("restarted");
        assert_eq!(says(&host, key, "echo back"), "back");
    });
}

#[test]
fn connections_cut() {
    each(|options, key| {
        let host = started(options);
        let echo = Echo::start(&host, key);
        let pid = host.pid();
        assert!(host.cut_connections().expect("cut") >= 1);
        assert_eq!(echo.end(), Some(255));
        assert_eq!(says(&host, key, "echo back"), "back");
        assert_eq!(host.pid(), pid);
    });
}

#[test]
fn listener_killed() {
    each(|options, key| {
        let host = started(options);
        let mut echo = Echo::start(&host, key);
        host.kill_listener().expect("killed");
        echo.send("still here");
        assert_eq!(echo.next(LATE).as_deref(), Some("still here"));
        assert_eq!(echo.end(), Some(0));
        assert!(banner(&host).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused));
    });
}

#[test]
fn restarted_with_other_keys() {
    each(|options, key| {
        let host = started(options);
        let old = host.host_key_openssh();
        let kept = key.path().with_file_name("old_known_hosts");
        std::fs::write(&kept, format!("{}\n", host.known_hosts_line())).expect("written");
        host.restart_with_new_keys().expect("restarted");
        assert_ne!(host.host_key_openssh(), old);
        assert_eq!(says(&host, key, "echo back"), "back");

        let old_file = format!("-oUserKnownHostsFile={}", kept.display());
        let refused = output_with(&host, key, &[&old_file], "echo in");
        assert_eq!(refused.status.code(), Some(255));
        assert!(text(&refused.stderr).contains("HOST IDENTIFICATION HAS CHANGED"), "{}", text(&refused.stderr));
    });
}

/// The second unauthenticated connection is refused, and served when the first has gone.
#[test]
fn few_startups() {
    let key = key();
    let host = started(&HostOptions::new(key.public()).max_startups(1));
    let mut first = TcpStream::connect(host.address()).expect("connected");
    first.set_read_timeout(Some(LATE)).expect("set");
    assert!(first.read(&mut [0; 8]).is_ok_and(|length| length > 0));
    let refused = output(&host, &key, "true");
    assert_eq!(refused.status.code(), Some(255));
    drop(first);
    wait_until("the first one's place is free", || output(&host, &key, "true").status.success());
}

/// Both servers listen where they are told, and nowhere else; another one has the same port at another address.
#[test]
fn a_host_listens_at_its_place() {
    each(|options, key| {
        // The first one's port is free at other addresses, most likely; whoever has it there makes this try again.
        let place = (2..50).find_map(|last| {
            let first = options.start().expect("starts");
            let address = std::net::Ipv4Addr::new(127, 3, 2, last);
            Some((first.port(), address, options.clone().listen(address, first.port()).start().ok()?, first))
        });
        let (port, address, second, first) = place.expect("a port that two have");
        assert_eq!(second.address(), format!("{address}:{port}"));
        for host in [&first, &second] {
            assert_eq!(says(host, key, "hostname"), host.name());
        }
        second.restart().expect("restarts");
        assert_eq!(says(&second, key, "hostname"), second.name());
        let taken = options.clone().listen(address, port).start().expect_err("taken");
        assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse, "{taken}");
    });
}
