//! A daemon in its process, hosts in ours, and what can be seen of both.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use muster_fake_hosts::{ClientKey, ConnectFault, Counters, Faults, Fleet, HostOptions, JobPlan};
use rustix::process::Pid;

use crate::harness::{LIMIT, Site};

pub(crate) struct Cluster {
    /// Before the hosts: the daemon ends first.
    pub(crate) site: Site,
    pub(crate) fleet: Fleet,
}

/// Containers that end at once.
pub(crate) fn quick() -> HostOptions {
    let job = JobPlan { time: Some(Duration::ZERO), ..JobPlan::default() };
    HostOptions { job, ..HostOptions::default() }
}

impl Cluster {
    /// So many hosts `host0`, `host1` …, each with room for one container of two CPUs. `cloud`: further lines of `CloudVMs`,
    /// indented by four. The daemon is not started.
    pub(crate) fn of(count: usize, options: HostOptions, cloud: &str) -> Self {
        let key = ClientKey::generate();
        let options = HostOptions { client_key: Some(key.public.clone()), ..options };
        let cluster = Self { site: Site::new(), fleet: Fleet::start(count, options) };
        let file = cluster.site.folder().join("key");
        std::fs::write(&file, &key.private).expect("written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&file, mode).expect("set");
        let idle = if cloud.contains("TimeoutIdle") { "" } else { "    TimeoutIdle: 1h\n" };
        let mut text = format!(
            "Containers:\n  DispatchPrivateKey: file://{}\n  CloudVMs:\n    Driver: static\n    MaxInstances: 0\n\
             {idle}{cloud}    DriverParameters:\n      User: root\n      Hosts:\n",
            file.display()
        );
        for (number, host) in cluster.fleet.hosts().iter().enumerate() {
            let (address, key) = (host.address(), host.host_key_openssh());
            writeln!(
                text,
                "      - {{Name: host{number}, Address: \"{address}\", InstanceType: small, HostKey: \"{key}\"}}"
            )
            .expect("a string");
        }
        text.push_str("InstanceTypes: {small: {VCPUs: 2, RAM: 1GiB, IncludedScratch: 1GiB, Price: 0.1}}\n");
        cluster.site.configure(&text);
        cluster
    }

    /// So many containers, each of which fills a host.
    pub(crate) fn submit(&self, count: usize) -> Vec<String> {
        let range = format!("1-{count}");
        let arguments = ["submit", "--array", &range, "--vcpus", "2", "--max-attempts", "10", "--", "true"];
        self.site.ok(&arguments).lines().map(str::to_owned).collect()
    }

    /// From `status`: how many containers or instances are in a state.
    pub(crate) fn count(&self, what: &str, state: &str) -> usize {
        count(&self.site, what, state)
    }

    /// As long as there are ever more, a slow machine has all the time it needs.
    pub(crate) fn wait_count(&mut self, what: &str, state: &str, wanted: usize) {
        let (mut most, mut until) = (0, Instant::now() + LIMIT);
        loop {
            let now = self.count(what, state);
            if now >= wanted {
                return;
            }
            if now > most {
                (most, until) = (now, Instant::now() + LIMIT);
            }
            assert!(Instant::now() < until, "{now} {what} are {state}, not {wanted}\n{}", self.site.log());
            // Asking is not free.
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// All of them have run, and none of them more than once whatever went wrong.
    pub(crate) fn assert_once(&self, uuids: &[String]) {
        let mut starts: BTreeMap<String, u32> = BTreeMap::new();
        for ((uuid, _), count) in self.fleet.starts() {
            *starts.entry(uuid).or_default() += count;
        }
        let wrong: Vec<_> =
            uuids.iter().map(|uuid| (uuid, starts.get(uuid))).filter(|(_, starts)| *starts != Some(&1)).collect();
        assert!(wrong.is_empty(), "{wrong:?}\n{}", self.site.log());
    }

    /// Sets what goes wrong on the hosts that `faults` has something for, by their numbers.
    pub(crate) fn set_faults(&self, faults: impl Fn(usize) -> Option<Faults>) {
        for (number, host) in self.fleet.hosts().iter().enumerate() {
            host.set_faults(faults(number).unwrap_or_default());
        }
    }

    pub(crate) fn counters(&self) -> Vec<Counters> {
        self.fleet.hosts().iter().map(muster_fake_hosts::Host::counters).collect()
    }
}

pub(crate) fn count(site: &Site, what: &str, state: &str) -> usize {
    let count = site.json(&["status"])[what][state].as_u64().unwrap_or(0);
    usize::try_from(count).expect("small")
}

pub(crate) fn connect(fault: ConnectFault) -> Faults {
    Faults { connect: Some(fault), ..Faults::default() }
}

/// What `/proc` says of a process.
#[derive(Debug)]
pub(crate) struct Process {
    /// By the first word of the name, without its number.
    pub(crate) threads: BTreeMap<String, usize>,
    pub(crate) descriptors: usize,
    /// KiB that are its own.
    pub(crate) memory: u64,
}

impl Process {
    pub(crate) fn of(pid: Pid) -> Self {
        let place = format!("/proc/{}", pid.as_raw_nonzero());
        let mut threads: BTreeMap<String, usize> = BTreeMap::new();
        for task in std::fs::read_dir(format!("{place}/task")).expect("it runs") {
            // One that has just ended is no more.
            let Ok(name) = std::fs::read_to_string(task.expect("readable").path().join("comm")) else { continue };
            let name = name.trim().split(' ').next().unwrap_or_default();
            let name = name.trim_end_matches(|letter: char| letter.is_ascii_digit()).trim_end_matches('-');
            *threads.entry(name.to_owned()).or_default() += 1;
        }
        let status = std::fs::read_to_string(format!("{place}/status")).expect("it runs");
        let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
        let memory = own.split_ascii_whitespace().next().and_then(|text| text.parse().ok()).expect("a number");
        let descriptors = std::fs::read_dir(format!("{place}/fd")).expect("it runs").count();
        Self { threads, descriptors, memory }
    }

    pub(crate) fn threads_called(&self, name: &str) -> usize {
        self.threads.get(name).copied().unwrap_or(0)
    }

    pub(crate) fn all_threads(&self) -> usize {
        self.threads.values().sum()
    }
}
