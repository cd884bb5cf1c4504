//! Starting the server of a host: keys, configuration, a free port, and waiting until it listens.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::time::Timespec;

use crate::files;
use crate::keys::{dropbear_host_key, openssh_host_key};
use crate::layout::{Layout, write_file};
use crate::namespace::Namespace;
use crate::options::{HostOptions, Server};
use crate::processes::wait_for_end;

/// How long a server may take until it listens: only a machine in trouble needs more than a second.
const START_LIMIT: Duration = Duration::from_secs(120);
/// How often another port is tried.
const PORTS_TRIED: usize = 50;
/// In a network of its own. 22 would be root's.
const PORT: u16 = 2222;

/// New host keys; "TYPE BASE64" of each, in the order of the options.
pub(crate) fn make_host_keys(layout: &Layout, options: &HostOptions) -> io::Result<Vec<String>> {
    let folder = layout.folder.join("etc/ssh");
    let mut keys = Vec::new();
    for kind in &options.host_keys {
        let path = folder.join(format!("ssh_host_{}_key", kind.name()));
        for old in [path.clone(), path.with_extension("pub")] {
            if old.exists() {
                std::fs::remove_file(old)?;
            }
        }
        keys.push(match options.server {
            Server::OpenSsh => openssh_host_key(*kind, &path)?,
            Server::Dropbear => dropbear_host_key(*kind, &path)?,
        });
    }
    Ok(keys)
}

pub(crate) fn write_config(layout: &Layout, options: &HostOptions) -> io::Result<()> {
    let folder = layout.folder.join("etc/ssh");
    write_file(&folder.join("sshd_config"), &files::sshd_config(options, &layout.user, layout.address), 0o644)?;
    match &options.banner {
        Some(text) => write_file(&folder.join("banner"), text, 0o644),
        None => Ok(()),
    }
}

pub(crate) fn log_path(layout: &Layout) -> PathBuf {
    layout.folder.join("server.log")
}

/// Starts the server on a port that nobody else has.
pub(crate) fn start_anywhere(
    namespace: &Namespace,
    layout: &Layout,
    options: &HostOptions,
) -> io::Result<(Child, u16)> {
    let mut last = io::Error::other("no port was tried");
    if options.network.is_some() {
        // Nobody else is there.
        return Ok((start_on(namespace, layout, options, PORT)?, PORT));
    }
    if let Some(place) = &options.listen {
        return Ok((start_on(namespace, layout, options, place.port())?, place.port()));
    }
    for _ in 0..PORTS_TRIED {
        // Whoever takes the port between these two lines makes the server fail, and another is tried.
        let port = free_port()?;
        match start_on(namespace, layout, options, port) {
            Ok(child) => return Ok((child, port)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// A port that is free now and outside the range for outgoing connections, so that none of those takes it while the
/// server is down.
fn free_port() -> io::Result<u16> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let outgoing = range.split_whitespace().next().and_then(|first| first.parse::<u16>().ok()).unwrap_or(32768);
    let (low, high) = if outgoing > 14000 { (10_000, outgoing) } else { (40_000, 65_000) };
    for _ in 0..PORTS_TRIED {
        let port = low + random()? % (high - low);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    TcpListener::bind(("127.0.0.1", 0))?.local_addr().map(|address| address.port())
}

fn random() -> io::Result<u16> {
    let mut bytes = [0; 2];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u16::from_ne_bytes(bytes))
}

/// Starts the server on this port; `AddrInUse` if another has it.
pub(crate) fn start_on(namespace: &Namespace, layout: &Layout, options: &HostOptions, port: u16) -> io::Result<Child> {
    let path = log_path(layout);
    let mut log = OpenOptions::new().create(true).read(true).append(true).open(&path)?;
    let before = log.seek(SeekFrom::End(0))?;
    let mut command = namespace.command(layout, &layout.server);
    let listening = match options.server {
        Server::OpenSsh => {
            command.args(["-D", "-e", "-f", "/etc/ssh/sshd_config", "-p", &port.to_string()]);
            "Server listening on"
        }
        Server::Dropbear => {
            command.args([
                "-F",
                "-E",
                "-s",
                "-m",
                "-P",
                "/run/dropbear.pid",
                "-p",
                &format!("{}:{port}", layout.address),
            ]);
            if let Some(folder) = files::runtime_dir(options, &layout.user) {
                command.arg("-e").env("XDG_RUNTIME_DIR", folder);
            }
            if options.banner.is_some() {
                command.args(["-b", "/etc/ssh/banner"]);
            }
            for kind in &options.host_keys {
                command.args(["-r", &format!("/etc/ssh/ssh_host_{}_key", kind.name())]);
            }
            // Said once the sockets listen.
            "Not backgrounding"
        }
    };
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.try_clone()?).spawn()?;
    await_listening(child, &mut log, before, listening)
}

/// Waits until the server says in its log, from `start` on, that it listens.
fn await_listening(mut child: Child, log: &mut File, start: u64, listening: &str) -> io::Result<Child> {
    let deadline = Instant::now() + START_LIMIT;
    let handle = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    loop {
        let ended = wait_for_end(&handle, Timespec { tv_sec: 0, tv_nsec: 2_000_000 })?;
        let mut said = String::new();
        log.seek(SeekFrom::Start(start))?;
        log.read_to_string(&mut said)?;
        if !ended && said.lines().any(|line| line.contains(listening)) {
            return Ok(child);
        }
        if ended || Instant::now() > deadline {
            drop(child.kill());
            child.wait()?;
            let taken = said.contains("Address already in use");
            let kind = if taken { io::ErrorKind::AddrInUse } else { io::ErrorKind::Other };
            return Err(io::Error::new(kind, format!("the SSH server did not start: {}", said.trim())));
        }
    }
}
