//! A daemon, hosts, and the way between them.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use muster_ssh_hosts::{
    ClientKey, FaultProxy, HostOptions, Link, Network, Server, SshHost, caller_is_root, client_key,
};

use crate::harness::{LIMIT, Site};

pub(crate) type Wish = fn(HostOptions) -> HostOptions;

pub(crate) const OPENSSH: Wish = |options| options;
pub(crate) const DROPBEAR: Wish = |options| options.server(Server::Dropbear);
/// The two that faults are made on, and one where nothing goes wrong.
pub(crate) const TWO_AND_ONE: [Wish; 3] = [OPENSSH, DROPBEAR, OPENSSH];
pub(crate) const FAULTY: [&str; 2] = ["ada", "bob"];
const NAMES: [&str; 3] = ["ada", "bob", "cyd"];

/// Hosts `ada`, `bob`, `cyd`, each with room for two containers of one CPU.
pub(crate) struct Cluster {
    /// Before its hosts and its network: the daemon ends first.
    pub(crate) site: Site,
    pub(crate) hosts: Vec<SshHost>,
    /// In front of the hosts of the same numbers; none in a network.
    pub(crate) proxies: Vec<FaultProxy>,
    pub(crate) network: Option<Network>,
    pub(crate) key: ClientKey,
}

impl Cluster {
    /// In a network, the daemon too. `cloud`: further lines of `CloudVMs`, indented by four. The daemon is not started.
    pub(crate) fn linked(wishes: &[Wish], cloud: &str) -> Self {
        Self::in_network(Network::start().expect("a network"), Site::new(), wishes, cloud)
    }

    /// The same; the daemon's state is on a small disk.
    pub(crate) fn on_small_disk(mebibytes: u32, wishes: &[Wish], cloud: &str) -> Self {
        let site = Site::new();
        std::fs::create_dir(site.state_dir()).expect("made");
        let network = Network::with_small_disk(&site.state_dir(), mebibytes).expect("a network");
        Self::in_network(network, site, wishes, cloud)
    }

    fn in_network(network: Network, mut site: Site, wishes: &[Wish], cloud: &str) -> Self {
        site.entrance = network.entrance();
        let key = client_key().expect("made");
        let hosts = start(&key, wishes, |options| options.network(&network));
        let cluster = Self { site, hosts, proxies: Vec::new(), network: Some(network), key };
        cluster.configure(cloud);
        cluster
    }

    /// Behind proxies, on loopback.
    pub(crate) fn proxied(wishes: &[Wish], cloud: &str) -> Self {
        let key = client_key().expect("made");
        let hosts = start(&key, wishes, |options| options);
        let proxies = hosts.iter().map(|host| FaultProxy::start(&host.address()).expect("starts")).collect();
        let cluster = Self { site: Site::new(), hosts, proxies, network: None, key };
        cluster.configure(cloud);
        cluster
    }

    /// Writes the configuration anew, with the keys that the hosts have now.
    pub(crate) fn configure(&self, cloud: &str) {
        // A host that is missing from a first list is looked for only briefly.
        let mut text = format!(
            "Containers:\n  StaleLockTimeout: 5s\n  DispatchPrivateKey: file://{}\n  CloudVMs:\n    Driver: static\n{cloud}    \
             DriverParameters:\n      Hosts:\n",
            self.key.path().display()
        );
        let addresses =
            |number: usize| self.proxies.get(number).map_or(self.hosts[number].address(), FaultProxy::address);
        for (number, host) in self.hosts.iter().enumerate() {
            let (name, user, key) = (host.name(), host.user(), host.host_key_openssh());
            let address = addresses(number);
            // A server that was started without root has no sudo.
            let sudo = if caller_is_root() { "" } else { ", UseSudo: false" };
            writeln!(
                text,
                "        - {{Name: {name}, Address: {address:?}, InstanceType: small, HostKey: {key:?}, User: {user}{sudo}}}"
            )
            .expect("a string");
        }
        text.push_str("InstanceTypes:\n  small: {VCPUs: 2, RAM: 1GiB, IncludedScratch: 1MiB, Price: 0.1}\n");
        self.site.configure(&text);
    }

    pub(crate) fn host(&self, name: &str) -> &SshHost {
        self.hosts.iter().find(|host| host.name() == name).expect("a host")
    }

    pub(crate) fn link(&self, name: &str) -> &Link {
        self.host(name).link().expect("it is in a network")
    }

    pub(crate) fn retransmitted(&self) -> u64 {
        self.network.as_ref().expect("a network").retransmitted().expect("counted")
    }

    /// One job, of one CPU, for each word; `script` follows a line in the container's file of runs.
    pub(crate) fn submit(&self, options: &[&str], script: &str) -> Vec<String> {
        let script = format!("{}; {script}", mark(&self.site));
        let text = self.site.ok(&[&["submit"], options, &["--", "sh", "-c", &script]].concat());
        text.lines().map(str::to_owned).collect()
    }

    /// So many jobs that run until the gate of their host is opened. They are running.
    pub(crate) fn held(&mut self, count: usize) -> Vec<String> {
        let range = format!("1-{count}");
        let uuids = self.submit(&["--array", &range], &self.until_gate());
        for uuid in &uuids {
            self.site.wait_state(uuid, "Running");
        }
        uuids
    }

    /// Part of a script: waits for the gate of its host.
    pub(crate) fn until_gate(&self) -> String {
        format!("while [ ! -e {}$(uname -n) ]; do sleep 0.05; done", self.gate("").display())
    }

    fn gate(&self, host: &str) -> PathBuf {
        self.site.folder().join(format!("runs/gate-{host}"))
    }

    pub(crate) fn open_gate(&self, host: &str) {
        std::fs::write(self.gate(host), b"").expect("written");
    }

    /// Where a container is, or was last.
    pub(crate) fn place(&self, uuid: &str) -> String {
        self.site.show(uuid)["container"]["instance"].as_str().unwrap_or_default().to_owned()
    }

    /// Those of the containers that are on one of the hosts, and the rest.
    pub(crate) fn split(&self, uuids: Vec<String>, hosts: &[&str]) -> (Vec<String>, Vec<String>) {
        uuids.into_iter().partition(|uuid| hosts.contains(&self.place(uuid).as_str()))
    }

    /// The line of `muster instance list` about a host, if there is one.
    pub(crate) fn line(&self, name: &str) -> Option<String> {
        line(&self.site, name)
    }

    /// A line of the log about a host has these words.
    pub(crate) fn has_said(&self, name: &str, words: &str) -> bool {
        has_said(&self.site, name, words)
    }

    pub(crate) fn wait_until_said(&mut self, name: &str, words: &str) {
        self.site.wait_until(&format!("{words:?} is logged of {name}"), |site| has_said(site, name, words));
    }

    /// Looks again and again, but not for ever.
    pub(crate) fn wait_until(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let until = Instant::now() + LIMIT;
        while !condition(self) {
            assert!(Instant::now() < until, "not in time: {what}\n{}", self.site.log());
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// Until all are Complete with exit code 0.
    pub(crate) fn wait_for_all(&mut self, uuids: &[String]) {
        for uuid in uuids {
            let is_final = |site: &mut Site| ["Complete", "Cancelled"].contains(&site.state(uuid).as_str());
            self.site.wait_until(&format!("{uuid} ends"), is_final);
            let detail = self.site.show(uuid);
            let (state, code) = (&detail["container"]["state"], &detail["container"]["exit_code"]);
            assert!(state == "Complete" && code == 0, "{detail:#}\n{}", self.site.log());
        }
    }

    /// Of each only the last attempt ran, and once.
    pub(crate) fn assert_last_attempt_only(&self, uuids: &[String]) {
        for uuid in uuids {
            assert_eq!(self.runs(uuid), [self.attempt(uuid)], "{:#}\n{}", self.site.show(uuid), self.site.log());
        }
    }

    /// All done, in the first attempt, which ran once.
    pub(crate) fn assert_undisturbed(&self, uuids: &[String]) {
        for uuid in uuids {
            assert_eq!(self.runs(uuid), [1], "{:#}\n{}", self.site.show(uuid), self.site.log());
        }
    }

    /// The attempts that ran, in order.
    pub(crate) fn runs(&self, uuid: &str) -> Vec<u64> {
        let text = std::fs::read_to_string(self.site.folder().join("runs").join(uuid)).unwrap_or_default();
        text.lines().map(|line| line.trim().parse().expect("an attempt's number")).collect()
    }

    pub(crate) fn attempt(&self, uuid: &str) -> u64 {
        self.site.show(uuid)["container"]["attempt"].as_u64().expect("a number")
    }

    /// Nothing of ours runs on a host, and no lock is left.
    pub(crate) fn assert_quiet(&self, name: &str) {
        let host = self.host(name);
        let jobs = host.jobs().expect("readable");
        assert!(jobs.is_empty(), "{name}: {jobs:?}\n{}", self.site.log());
        let mut left = Vec::new();
        locks_below(&host.path("/run"), &mut left);
        assert!(left.is_empty(), "{name}: {left:?}\n{}", self.site.log());
    }

    /// The daemon stops as it should, having missed nothing; the hosts are quiet.
    pub(crate) fn end(mut self) {
        let counts = self.site.json(&["status"])["containers"].clone();
        let open = |state: &str| counts[state].as_u64().unwrap_or(0);
        assert_eq!((open("Queued"), open("Locked"), open("Running")), (0, 0, 0), "{counts}");
        self.site.stop();
        for host in &self.hosts {
            // Commands of connections that were closed or cut end when they see that nobody is there.
            self.site.wait_until("the hosts are quiet", |_| host.jobs().expect("readable").is_empty());
            self.assert_quiet(host.name());
        }
    }
}

fn start(key: &ClientKey, wishes: &[Wish], common: impl Fn(HostOptions) -> HostOptions) -> Vec<SshHost> {
    let of_host = |(name, wish): (&&str, &Wish)| {
        let mut options = HostOptions::new(key.public()).name(name);
        if !caller_is_root() {
            // Runners without root have their locks in it: two hosts must not share them.
            options = options.private_tmp();
        }
        wish(common(options)).start().expect("a host starts")
    };
    NAMES.iter().zip(wishes).map(of_host).collect()
}

/// What a job does first: it writes down which attempt runs.
fn mark(site: &Site) -> String {
    format!("echo $MUSTER_ATTEMPT >> {}/$MUSTER_UUID", site.folder().join("runs").display())
}

pub(crate) fn line(site: &Site, name: &str) -> Option<String> {
    let text = site.ok(&["instance", "list"]);
    text.lines().find(|line| line.split('\t').next() == Some(name)).map(str::to_owned)
}

pub(crate) fn has_said(site: &Site, name: &str, words: &str) -> bool {
    site.has_logged(&[&format!("Instance={name}"), words])
}

/// Lock files of containers; those of a host's own programs have other names.
fn locks_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            locks_below(&path, found);
        } else if entry.file_name().to_string_lossy().contains("-dz642-") {
            found.push(path);
        }
    }
}
