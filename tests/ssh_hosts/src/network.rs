//! Networks between hosts and whoever uses them: a network namespace for the user's side, and a link from it to each host.
//!
//! ```text
//! network's namespace                    a host's namespace
//!   lo                                     lo
//!   host1  10.77.1.1/30 ── veth pair ──  eth0  10.77.1.2/30
//!   host2  10.77.2.1/30 ── …
//! ```
//!
//! None of it has a name outside: the namespaces last as long as processes in them, and those end with their maker, however
//! that ends. The machine's own network is neither used nor changed.

use std::io::{self, BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::layout::{program, run};
use crate::options::caller_is_root;

const HOLDER: &str = include_str!("network.sh");
/// The whole search path of an administrator, which a caller's may lack.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
const HINT: &str = "a network of its own needs namespaces: root with CAP_SYS_ADMIN and CAP_NET_ADMIN, or user namespaces \
    for users (kernel.unprivileged_userns_clone=1, user.max_user_namespaces and user.max_net_namespaces above 0)";

/// A network for hosts ([`crate::HostOptions::network`]) and programs that use them ([`Network::command`]). Clones are the
/// same network; it ends with the last of them and of its hosts, and whatever still runs in it is killed then.
#[derive(Clone, Debug)]
pub struct Network {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    holder: Child,
    /// The holder ends when this does.
    leash: Option<ChildStdin>,
    /// Of the hosts that have been connected.
    count: AtomicU8,
    has_disk: bool,
    nsenter: String,
    unshare: String,
}

impl Network {
    /// An empty one.
    ///
    /// # Errors
    /// Namespaces are forbidden here, or a program is missing: with what to do.
    pub fn start() -> io::Result<Self> {
        Self::with(&[])
    }

    /// The same; what runs in it finds a disk of so many MiB in the place of a folder that is there.
    ///
    /// # Errors
    /// As [`Network::start`].
    pub fn with_small_disk(folder: &Path, mebibytes: u32) -> io::Result<Self> {
        Self::with(&[&folder.to_string_lossy(), &format!("{mebibytes}m")])
    }

    fn with(disk: &[&str]) -> io::Result<Self> {
        // Said now, in words, and not by a script.
        for (name, package) in [("ip", "iproute2"), ("iptables", "iptables")] {
            program(name, package)?;
        }
        let unshare = program("unshare", "util-linux")?;
        let mut command = Command::new(&unshare);
        if !caller_is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--net", "--mount", "--propagation", "private", "sh", "-c", HOLDER, "network"]).args(disk);
        command.env("PATH", PATH).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = command.spawn()?;
        let leash = holder.stdin.take();
        let mut line = String::new();
        if let Some(output) = holder.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        // The shell is what `unshare` has become.
        if line.trim() != format!("ready {}", holder.id()) {
            drop(leash);
            let said = holder.wait_with_output()?.stderr;
            let said = String::from_utf8_lossy(&said);
            return Err(io::Error::other(format!("cannot set up a network: {} ({HINT})", said.trim())));
        }
        let (has_disk, nsenter) = (!disk.is_empty(), program("nsenter", "util-linux")?);
        let inner = Inner { holder, leash, count: AtomicU8::new(0), has_disk, nsenter, unshare };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// How programs get into the network: these words, then the program and its arguments. The process keeps its number; it
    /// starts in `/` where the network has a disk.
    #[must_use]
    pub fn entrance(&self) -> Vec<String> {
        let mut words = self.enter(self.inner.holder.id(), &["--net"]);
        if self.inner.has_disk {
            words.insert(1, "--mount".to_owned());
        }
        if !caller_is_root() {
            // Themselves again, and not the root that the network's user namespace has made of them.
            let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
            words.extend([self.inner.unshare.clone(), "--user".to_owned()]);
            words.extend([format!("--map-user={uid}"), format!("--map-group={gid}"), "--".to_owned()]);
        }
        words
    }

    /// A program in the network, as the caller; it has the caller's environment.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let words = self.entrance();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(program);
        command
    }

    /// Segments that TCP has sent again from this side, a sign that something was lost on the way.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn retransmitted(&self) -> io::Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/net/snmp", self.inner.holder.id()))?;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp:"));
        let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let mut pairs = names.split_whitespace().zip(values.split_whitespace());
        let found = pairs.find(|(name, _)| *name == "RetransSegs").and_then(|(_, value)| value.parse().ok());
        found.ok_or_else(|| io::Error::other("no count of retransmissions in /proc/net/snmp"))
    }

    /// Words that enter namespaces of a process; `--user` is added where that is needed for it.
    fn enter(&self, pid: u32, which: &[&str]) -> Vec<String> {
        let mut words = vec![self.inner.nsenter.clone(), "--target".to_owned(), pid.to_string()];
        words.extend(which.iter().map(|word| (*word).to_owned()));
        if !caller_is_root() {
            words.extend(["--user", "--preserve-credentials"].map(str::to_owned));
        }
        words.push("--".to_owned());
        words
    }

    /// Words before the command that makes a host's namespaces: below the network's user namespace, so that both ends of a
    /// link obey whoever rules that.
    pub(crate) fn parentage(&self) -> Vec<String> {
        if caller_is_root() { Vec::new() } else { self.enter(self.inner.holder.id(), &[]) }
    }

    /// An administrator's command on this side, or in a host.
    fn administer(&self, pid: u32, words: &str) -> io::Result<String> {
        let entrance = self.enter(pid, &["--net"]);
        let mut command = Command::new(&entrance[0]);
        // The lock of iptables' older kind, which is to be nobody else's.
        let lock = std::env::temp_dir().join(format!("muster-xtables-{}", self.inner.holder.id()));
        command.args(&entrance[1..]).args(words.split_whitespace()).env("PATH", PATH).env("XTABLES_LOCKFILE", &lock);
        let result = run(&mut command);
        drop(std::fs::remove_file(lock));
        result
    }

    /// Connects the host whose namespaces this process holds.
    pub(crate) fn connect(&self, holder: i32) -> io::Result<Link> {
        let number = self.inner.count.fetch_add(1, Ordering::Relaxed) + 1;
        let host = u32::try_from(holder).map_err(io::Error::other)?;
        let link = Link { network: self.clone(), number, host };
        for words in [
            format!("ip link add host{number} type veth peer name eth0 netns {host}"),
            format!("ip address add 10.77.{number}.1/30 dev host{number}"),
            format!("ip link set host{number} up"),
        ] {
            link.near(&words)?;
        }
        link.far("ip link set lo up")?;
        link.far(&format!("ip address add {}/30 dev eth0", link.address()))?;
        link.up()?;
        Ok(link)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.leash.take());
        drop(self.holder.wait());
    }
}

/// The link to one host. All faults are on the way: neither end is told anything.
#[derive(Debug)]
pub struct Link {
    network: Network,
    number: u8,
    /// The process that holds the host's namespaces.
    host: u32,
}

impl Link {
    /// The host's.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number, 2)
    }

    fn near(&self, words: &str) -> io::Result<String> {
        self.network.administer(self.network.inner.holder.id(), words)
    }

    fn far(&self, words: &str) -> io::Result<String> {
        self.network.administer(self.host, words)
    }

    /// As if the host's cable was pulled: this end has no carrier, and nothing comes through. Connections stay.
    ///
    /// # Errors
    /// What `ip` or `iptables` says; so for all that follow.
    pub fn down(&self) -> io::Result<()> {
        self.far("ip link set eth0 down").map(drop)
    }

    /// The cable is plugged in again.
    pub fn up(&self) -> io::Result<()> {
        self.far("ip link set eth0 up").map(drop)
    }

    /// How often this end has lost its carrier and got it back, both counted.
    pub fn carrier_changes(&self) -> io::Result<u64> {
        let text = self.near(&format!("ip -s -s -o link show dev host{}", self.number))?;
        // Two lines of names and numbers for what is sent; the last of each is the number of transitions.
        let rest = text.split("transns").nth(1).and_then(|rest| rest.split('\\').nth(1));
        let last = rest.and_then(|numbers| numbers.split_whitespace().last()).and_then(|word| word.parse().ok());
        last.ok_or_else(|| io::Error::other(format!("no count of transitions in {text:?}")))
    }

    /// So many percent of all packets get lost at random, in either direction; 100 is a black hole. Until [`Link::heal`].
    pub fn lose(&self, percent: u8) -> io::Result<()> {
        let share = f64::from(percent) / 100.0;
        let chance =
            if percent < 100 { format!("-m statistic --mode random --probability {share}") } else { String::new() };
        self.far(&format!("iptables -w -A INPUT -i eth0 {chance} -j DROP"))?;
        self.near(&format!("iptables -w -A INPUT -i host{} {chance} -j DROP", self.number)).map(drop)
    }

    /// So many more bytes come from the host; then the way back from it is a black hole. Until [`Link::heal`].
    pub fn lose_after(&self, bytes: u64) -> io::Result<()> {
        self.near(&format!("iptables -w -A INPUT -i host{} -m quota --quota {bytes} -j ACCEPT", self.number))?;
        self.near(&format!("iptables -w -A INPUT -i host{} -j DROP", self.number)).map(drop)
    }

    /// Packets lost on the way to the host, and back, since [`Link::lose`] and its kin.
    pub fn lost(&self) -> io::Result<(u64, u64)> {
        let list = "iptables -w -L INPUT -v -x -n";
        Ok((packets(&self.far(list)?, "eth0"), packets(&self.near(list)?, &format!("host{}", self.number))))
    }

    /// Nothing gets lost any more; what was, as [`Link::lost`].
    pub fn heal(&self) -> io::Result<(u64, u64)> {
        let lost = self.lost()?;
        self.far("iptables -w -F INPUT")?;
        // Others' links have rules of their own here. From the last, so that the numbers stay right.
        let (listing, name) =
            (self.near("iptables -w -L INPUT -v -x -n --line-numbers")?, format!("host{}", self.number));
        let rules = listing.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let ours: Vec<&str> = rules.filter(|words| words.contains(&&*name)).map(|words| words[0]).collect();
        for number in ours.iter().rev() {
            self.near(&format!("iptables -w -D INPUT {number}"))?;
        }
        Ok(lost)
    }
}

/// From a listing of rules: packets that those for an interface have dropped.
fn packets(listing: &str, interface: &str) -> u64 {
    let rules = listing.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let ours = rules.filter(|words| words.contains(&"DROP") && words.contains(&interface));
    ours.filter_map(|words| words.first()?.parse::<u64>().ok()).sum()
}
