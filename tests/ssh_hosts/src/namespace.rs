//! The namespaces of a host, and the two shell scripts that keep and end them.

use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::layout::{Layout, program};
use crate::network::Network;
use crate::options::caller_is_root;

const GUARD: &str = include_str!("guard.sh");
const HOLDER: &str = include_str!("holder.sh");

/// What tells one mount namespace from all others: the file behind `/proc/PID/ns/mnt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NamespaceId {
    device: u64,
    inode: u64,
}

impl NamespaceId {
    /// That of a process; `None` if it is gone or not ours to look at.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let metadata: Metadata = std::fs::metadata(format!("/proc/{pid}/ns/mnt")).ok()?;
        Some(Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

/// A machine's namespaces, held by a process until this is dropped; then everything in them is killed, and the host's
/// folder removed.
#[derive(Debug)]
pub(crate) struct Namespace {
    guard: Child,
    /// The guard ends when this does.
    leash: Option<ChildStdin>,
    pub(crate) holder: i32,
    pub(crate) id: NamespaceId,
    nsenter: String,
    /// It has a network of its own.
    own_network: bool,
}

impl Namespace {
    /// Mounts what the layout says. With a network the machine has one of its own, which is to be connected to that.
    ///
    /// # Errors
    /// Namespaces are forbidden here, or a mount failed: with the tools' own words.
    pub(crate) fn enter(layout: &Layout, name: &str, network: Option<&Network>) -> io::Result<Self> {
        let log = layout.folder.join("setup.log");
        let mut words = network.map(Network::parentage).unwrap_or_default();
        words.push(program("sh", "dash")?);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command.args(["-c", GUARD, "guard"]).arg(&layout.folder).arg(program("unshare", "util-linux")?);
        if network.is_some() {
            command.arg("--net");
        }
        if !caller_is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--mount", "--propagation", "private", "--uts", "sh", "-c", HOLDER, "holder"]);
        command.arg(&layout.folder).arg(name).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&log)?).process_group(0);
        let mut guard = command.spawn()?;
        let leash = guard.stdin.take();
        let mut line = String::new();
        if let Some(output) = guard.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let holder = line.strip_prefix("ready ").and_then(|pid| pid.trim().parse().ok());
        let found = holder.and_then(|pid| Some((pid, NamespaceId::of(pid)?)));
        let (Some((holder, id)), Some(mut leash)) = (found, leash) else {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            guard.wait()?;
            let hint = "a host needs namespaces: root with CAP_SYS_ADMIN, or user namespaces for users";
            return Err(io::Error::other(format!("cannot set up a host's namespaces: {} ({hint})", said.trim())));
        };
        leash.write_all(b"ready\n")?;
        let (nsenter, own_network) = (program("nsenter", "util-linux")?, network.is_some());
        Ok(Self { guard, leash: Some(leash), holder, id, nsenter, own_network })
    }

    /// A command in the machine, as its root (or, where that is nobody in particular, as the caller). `program` and what it
    /// needs are looked up there.
    pub(crate) fn command(&self, layout: &Layout, program: &str) -> Command {
        let mut command = Command::new(&self.nsenter);
        command.arg("--target").arg(self.holder.to_string()).args(["--mount", "--uts"]);
        if self.own_network {
            command.arg("--net");
        }
        if !caller_is_root() {
            // The holder's user namespace made the caller root, for the mounts. One more makes them themselves again: as a
            // root that cannot change its groups, neither server would let anybody in.
            command.args(["--user", "--preserve-credentials", "--", &layout.unshare, "--user"]);
            command.arg(format!("--map-user={}", layout.user.uid)).arg(format!("--map-group={}", layout.user.gid));
        }
        command.arg("--").arg(program).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.process_group(0);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.leash.take());
        // It ends by itself: it has killed everything by then.
        drop(self.guard.wait());
    }
}
