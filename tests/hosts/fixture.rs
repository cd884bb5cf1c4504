//! A daemon, and hosts for it.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use muster_ssh_hosts::{ClientKey, HostOptions, SshHost, caller_is_root, client_key};

use crate::harness::Site;

/// How a host appears in the configuration.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) host: SshHost,
    /// More keys of the host's entry, such as `UseSudo: false`.
    pub(crate) more: String,
}

pub(crate) struct Cluster {
    pub(crate) site: Site,
    pub(crate) hosts: Vec<Entry>,
    pub(crate) key: ClientKey,
}

/// What a test wants to be different.
#[derive(Clone, Copy, Default)]
pub(crate) struct Wishes {
    /// Further lines of `CloudVMs`, indented by four.
    pub(crate) cloud: &'static str,
    /// Further lines at top level.
    pub(crate) top: &'static str,
}

const NAMES: [&str; 3] = ["ada", "bob", "cyd"];

impl Cluster {
    /// So many OpenSSH hosts, two containers of one CPU at once on each; the daemon is not started.
    pub(crate) fn of(count: usize, wishes: Wishes) -> Self {
        let options: Vec<_> =
            (0..count).map(|_| (|options: HostOptions| options) as fn(HostOptions) -> HostOptions).collect();
        Self::with(&options, wishes)
    }

    pub(crate) fn with(options: &[fn(HostOptions) -> HostOptions], wishes: Wishes) -> Self {
        let key = client_key().expect("made");
        let start = |(name, options): (&&'static str, &fn(HostOptions) -> HostOptions)| {
            let mut plain = HostOptions::new(key.public()).name(name);
            if !caller_is_root() {
                // Runners without root have their locks in it: two hosts must not share them.
                plain = plain.private_tmp();
            }
            let host = options(plain).start().expect("starts");
            let more = match (host.user(), caller_is_root()) {
                ("root", _) => String::new(),
                (user, true) => format!(", User: {user}"),
                // A server that was started without root has no sudo.
                (user, false) => format!(", User: {user}, UseSudo: false"),
            };
            Entry { name, host, more }
        };
        let hosts = NAMES.iter().zip(options).map(start).collect();
        let mut cluster = Self { site: Site::new(), hosts, key };
        cluster.configure(wishes);
        cluster
    }

    /// Writes the configuration anew.
    pub(crate) fn configure(&mut self, wishes: Wishes) {
        let mut text = format!(
            "Containers:\n  DispatchPrivateKey: file://{}\n  CloudVMs:\n    Driver: static\n{}    DriverParameters:\n      Hosts:\n",
            self.key.path().display(),
            wishes.cloud
        );
        for Entry { name, host, more } in &self.hosts {
            let identity = if more.contains("Trust") || more.contains("KnownHosts") {
                String::new()
            } else {
                format!(", HostKey: {:?}", host.host_key_openssh())
            };
            let address = host.address();
            writeln!(text, "        - {{Name: {name}, Address: {address:?}, InstanceType: small{identity}{more}}}")
                .expect("a string");
        }
        text.push_str("InstanceTypes:\n  small: {VCPUs: 2, RAM: 1GiB, IncludedScratch: 1GiB, Price: 0.1}\n");
        text.push_str(wishes.top);
        self.site.configure(&text);
    }

    pub(crate) fn host(&self, name: &str) -> &SshHost {
        &self.hosts.iter().find(|entry| entry.name == name).expect("a host").host
    }

    /// Where a host keeps what outlives a restart of the daemon.
    pub(crate) fn runner_dir(&self, name: &str) -> PathBuf {
        let host = self.host(name);
        match host.user() {
            "root" | "worker" => host.path("/var/lib/muster-runner"),
            _ => host.path(&format!("{}/.local/state/muster-runner/{}", host.home(), host.name())),
        }
    }

    /// The line of `muster instance list` about a host, if there is one.
    pub(crate) fn line(&self, name: &str) -> Option<String> {
        let text = self.site.ok(&["instance", "list"]);
        text.lines().find(|line| line.split('\t').next() == Some(name)).map(str::to_owned)
    }

    /// Names of the hosts that are in use.
    pub(crate) fn in_use(&self) -> Vec<String> {
        in_use(&self.site)
    }

    /// Until exactly these are in use: after a start, what the cloud has is known with the first list only.
    pub(crate) fn wait_until_in_use(&mut self, names: &[&str]) {
        self.site.wait_until(&format!("{names:?} are in use"), |site| in_use(site) == names);
    }

    /// Until every host has something to do. While a gate keeps jobs from ending, one that is slow to be taken still finds some.
    pub(crate) fn wait_until_all_work(&mut self) {
        let count = self.hosts.len();
        self.site.wait_until("every host works", |site| {
            let list = site.ok(&["instance", "list"]);
            list.lines().filter(|line| line.split('\t').nth(2) == Some("running")).count() == count
        });
    }

    /// Every host is free again, and clean.
    pub(crate) fn wait_until_released(&mut self) {
        let Self { site, hosts, .. } = self;
        site.wait_until("all hosts are free", |site| site.ok(&["instance", "list"]).is_empty());
        for entry in hosts.iter() {
            // Commands of a connection that was closed, by a daemon that was stopped, end when they see that nobody is there.
            let quiet = format!("{}: nothing runs", entry.name);
            site.wait_until(&quiet, |_| entry.host.jobs().expect("readable").is_empty());
        }
        for entry in &self.hosts {
            assert!(!self.runner_dir(entry.name).join("owner").exists(), "{}", entry.name);
            assert_eq!(self.results(entry.name), Vec::<String>::new(), "{}", entry.name);
        }
        assert_eq!(self.recorded(), Vec::<String>::new());
    }

    /// A container's end is known before its files are removed on the host.
    pub(crate) fn wait_until_forgotten(&mut self, name: &str) {
        let directory = self.runner_dir(name);
        self.site.wait_until("nothing of containers is left there", |_| results(&directory).is_empty());
    }

    /// Containers with files in a host's runner directory.
    pub(crate) fn results(&self, name: &str) -> Vec<String> {
        results(&self.runner_dir(name))
    }

    /// The hosts that the driver's state file names.
    pub(crate) fn recorded(&self) -> Vec<String> {
        let text = std::fs::read(self.site.state_dir().join("static-hosts.json")).expect("there");
        let state: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        state["hosts"].as_object().expect("a map").keys().cloned().collect()
    }

    /// Until all are final; every one Complete with exit code 0.
    pub(crate) fn wait_for(&mut self, uuids: &[String]) {
        let words: Vec<&str> = uuids.iter().map(String::as_str).collect();
        self.site.ok(&[&["wait"][..], &words].concat());
    }
}

fn in_use(site: &Site) -> Vec<String> {
    let text = site.ok(&["instance", "list"]);
    text.lines().filter_map(|line| line.split('\t').next()).map(str::to_owned).collect()
}

/// The file that opens a gate, and what a job does until it is there.
pub(crate) fn gate(site: &Site) -> (PathBuf, String) {
    let gate = site.folder().join("runs/gate");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display());
    (gate, script)
}

/// What a job does first: it writes down which attempt runs.
pub(crate) fn mark(site: &Site) -> String {
    format!("echo $MUSTER_ATTEMPT >> {}/$MUSTER_UUID", site.folder().join("runs").display())
}

/// The attempts that ran, in order.
pub(crate) fn attempts_run(site: &Site, uuid: &str) -> Vec<u64> {
    let text = std::fs::read_to_string(site.folder().join("runs").join(uuid)).unwrap_or_default();
    text.lines().map(|line| line.trim().parse().expect("an attempt's number")).collect()
}

fn results(directory: &Path) -> Vec<String> {
    let names = |path: PathBuf| {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let sets = names(directory.to_owned()).into_iter();
    let sets = sets.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("set-")));
    sets.flat_map(names).map(|path| path.display().to_string()).collect()
}
