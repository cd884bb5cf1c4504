//! Three hosts with real SSH servers, and a daemon that is configured for them.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use muster_ssh_hosts::{ClientKey, HostOptions, Login, SshHost, caller_is_root, client_key};

use crate::daemon::{Demo, Failure};
use crate::hosts::STOPPED;

pub(crate) const NAMES: [&str; 3] = ["ada", "bob", "cyd"];
/// What each host has for containers: a host with much less than its type says is given back at once, and small machines have two.
pub(crate) const VCPUS: usize = 2;

/// Short times, so that a minute shows what otherwise takes an hour: defaults are 1m, 10m, 10s.
const TIMES: &str = "    TimeoutIdle: 3s\n    TimeoutProbe: 10s\n    ProbeInterval: 2s\n";
/// The same for people.
pub(crate) const TIMES_SHOWN: &str = "TimeoutIdle 3 s, TimeoutProbe 10 s, ProbeInterval 2 s";

/// Dropped in this order: the hosts' jobs need their servers no more.
pub(crate) struct Cluster {
    pub(crate) hosts: Vec<SshHost>,
    key: ClientKey,
}

impl Cluster {
    /// Whole hosts for root, with a login `worker` that has sudo; else hosts where the caller logs in.
    pub(crate) fn start() -> Result<Self, Failure> {
        let key = client_key()?;
        let start = |name: &&str| {
            let login = if caller_is_root() { Login::Worker } else { Login::Caller };
            HostOptions::new(key.public()).login(login).private_tmp().name(name).start()
        };
        let hosts = NAMES.iter().map(start).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { hosts, key })
    }

    /// How the daemon is to know them.
    pub(crate) fn configuration(&self) -> String {
        let mut text = format!("Containers:\n  DispatchPrivateKey: file://{}\n", self.key.path().display());
        write!(
            text,
            "  CloudVMs:\n    Driver: static\n{TIMES}    DriverParameters:\n      UseSudo: {}\n      Hosts:\n",
            caller_is_root()
        )
        .expect("a string takes everything");
        for host in &self.hosts {
            writeln!(
                text,
                "        - {{Name: {}, Address: {:?}, User: {:?}, InstanceType: host, HostKey: {:?}}}",
                host.name(),
                host.address(),
                host.user(),
                host.host_key_openssh()
            )
            .expect("a string takes everything");
        }
        writeln!(text, "InstanceTypes:\n  host: {{VCPUs: {VCPUS}, RAM: 1GiB, IncludedScratch: 1GiB}}")
            .expect("a string takes everything");
        text
    }

    pub(crate) fn host(&self, name: &str) -> Result<&SshHost, Failure> {
        let found = self.hosts.iter().find(|host| host.name() == name);
        found.ok_or_else(|| Failure::Wrong(format!("there is no host {name}")))
    }

    /// What is left on the hosts that should not be: jobs, results, the mark of who has it, the secret. A host that was written off keeps
    /// the results of `given_up` attempts until it is taken again, when they are collected late: how many of these there are.
    pub(crate) fn leftovers(&self, given_up: &BTreeSet<String>) -> Result<(Vec<String>, usize), Failure> {
        let (mut found, mut kept) = (Vec::new(), 0);
        for host in &self.hosts {
            let name = host.name();
            found.extend(host.jobs()?.iter().map(|job| format!("{name}: process {} {}", job.pid, job.name)));
            let directory = runner_dir(host);
            for mark in [directory.join("owner"), host.path("/run/arvados-instance-secret")] {
                if mark.exists() {
                    found.push(format!("{name}: {}", mark.display()));
                }
            }
            for set in entries(&directory).iter().filter(|path| name_of(path).starts_with("set-")) {
                let results = entries(set);
                let (late, wrong): (Vec<_>, Vec<_>) =
                    results.iter().partition(|path| name == STOPPED && given_up.contains(&name_of(path)));
                kept += late.len();
                found.extend(wrong.iter().map(|path| format!("{name}: {}", path.display())));
            }
        }
        Ok((found, kept))
    }
}

fn runner_dir(host: &SshHost) -> PathBuf {
    match caller_is_root() {
        true => host.path("/var/lib/muster-runner"),
        false => host.path(&format!("{}/.local/state/muster-runner/{}", host.home(), host.name())),
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl Demo {
    /// State and reason of a host in `muster instance list`; `None`: it is free.
    pub(crate) fn host(&self, name: &str) -> Result<Option<(String, String)>, Failure> {
        let list = self.json(&["instance", "list"])?;
        let rows = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let row = rows.iter().find(|row| row["instance"] == name);
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        Ok(row.map(|row| (text(&row["worker_state"]), text(&row["detail"]))))
    }

    /// How many containers run on a host.
    pub(crate) fn running_on(&self, name: &str) -> Result<usize, Failure> {
        let list = self.json(&["instance", "list"])?;
        let rows = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let row = rows.iter().find(|row| row["instance"] == name);
        Ok(row.and_then(|row| row["running_container_uuids"].as_array()).map_or(0, Vec::len))
    }

    pub(crate) fn has_logged(&self, message: &str, host: &str) -> Result<bool, Failure> {
        let log = std::fs::read_to_string(&self.log)?;
        let field = format!("Instance={host}");
        Ok(log.lines().any(|line| line.contains(message) && line.split(' ').any(|word| word == field)))
    }
}
