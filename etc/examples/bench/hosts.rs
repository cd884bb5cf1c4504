//! A daemon with three hosts over SSH (real sshd, loopback), with all default intervals.
//!
//! How it is measured: jobs that sleep 0.3 s, one at a time and then many at once. Their processes' start and end are the runner's,
//! "Running" and "Complete" are the times of the queue's transactions; all by this machine's clock. The same for a login that is root and
//! for one that needs sudo for every command. Then start latencies on two hosts, first while the third works, then while its server is
//! stopped (SIGSTOP) with a probe, a start and a kill under way there.

use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use muster_ssh_hosts::{ClientKey, HostOptions, Login, SshHost, caller_is_root, client_key};

use crate::daemon::{Demo, Failure};
use crate::{latencies, show};

const NAMES: [&str; 3] = ["ada", "bob", "cyd"];
/// The last of them is stopped.
const STOPPED: usize = 2;
const SINGLES: usize = 50;
const MANY: usize = 300;
/// Containers at once on the three hosts: two each.
const ROOM: usize = 6;
const NAP: [&str; 3] = ["--", "sleep", "0.3"];
const LONG: [&str; 3] = ["--", "sleep", "3600"];

struct Cluster {
    demo: Demo,
    // Dropped after the daemon.
    hosts: Vec<SshHost>,
    _key: ClientKey,
    _folder: tempfile::TempDir,
}

pub(crate) fn run() -> Result<(), Failure> {
    let logins: &[_] = match caller_is_root() {
        true => &[(Login::Root, "root"), (Login::Worker, "a user with sudo")],
        false => &[(Login::Caller, "a user without sudo")],
    };
    for (login, name) in logins {
        let mut cluster = Cluster::start(*login)?;
        println!("three hosts over SSH as {name}");
        cluster.lives()?;
        if *login == logins[0].0 {
            cluster.stopped_host()?;
        }
        let status = cluster.demo.json(&["status"])?;
        println!("  missed wake-ups                      {}", status["missed_wakeups"]);
        cluster.demo.stop()?;
    }
    Ok(())
}

impl Cluster {
    fn start(login: Login) -> Result<Self, Failure> {
        let key = client_key()?;
        let host = |name: &&str| HostOptions::new(key.public()).login(login).name(name).start();
        let hosts = NAMES.iter().map(host).collect::<Result<Vec<_>, _>>()?;
        let folder = tempfile::Builder::new().prefix("muster-bench-").tempdir()?;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711))?;
        let demo = Demo::start(folder.path(), &configuration(&hosts, &key, login != Login::Caller))?;
        Ok(Self { demo, hosts, _key: key, _folder: folder })
    }

    fn array(&self, count: usize, command: &[&str]) -> Result<Vec<String>, Failure> {
        let range = format!("1-{count}");
        let text = self.demo.muster(&[&["submit", "--array", &range], command].concat())?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    fn wait_for_all(&self, uuids: &[String]) -> Result<(), Failure> {
        let words: Vec<&str> = uuids.iter().map(String::as_str).collect();
        self.demo.muster(&[&["wait"][..], &words].concat()).map(drop)
    }

    fn one_at_a_time(&self) -> Result<Vec<String>, Failure> {
        let one = |_| {
            let uuid = self.demo.submit(&NAP)?;
            self.demo.wait_for(&uuid, 0)?;
            Ok(uuid)
        };
        (0..SINGLES).map(one).collect()
    }

    /// Start to Running, end to Complete, containers per second.
    fn lives(&self) -> Result<(), Failure> {
        // All hosts taken, the runner on each.
        self.wait_for_all(&self.array(ROOM, &NAP)?)?;
        let found = latencies(&self.demo, &self.one_at_a_time()?)?;
        println!(" one at a time, {SINGLES} containers of 0.3 s");
        show("  submit to process start", &found.submit_to_start);
        show("  process start to Running", &found.start_to_running);
        show("  process end to Complete", &found.end_to_complete);
        for (what, command) in [("of 0.3 s", &NAP[..]), ("`true`", &["--", "true"])] {
            let began = Instant::now();
            let many = self.array(MANY, command)?;
            self.wait_for_all(&many)?;
            let rate = f64::from(u32::try_from(MANY).unwrap_or(0)) / began.elapsed().as_secs_f64();
            let found = latencies(&self.demo, &many)?;
            println!(" {MANY} containers {what} at once, {ROOM} of them at a time");
            println!("  containers per second                {rate:.1}");
            show(&format!("  process start to Running (of {})", found.start_to_running.len()), &found.start_to_running);
            show("  process end to Complete", &found.end_to_complete);
        }
        Ok(())
    }

    /// Start latencies on two hosts while the third works, and while its server stands still.
    fn stopped_host(&self) -> Result<(), Failure> {
        let long = self.array(ROOM, &LONG)?;
        self.wait_until("all run", || Ok(self.on(&long, None)?.len() == ROOM))?;
        let there = self.on(&long, Some(NAMES[STOPPED]))?;
        let elsewhere: Vec<String> = long.iter().filter(|uuid| !there.contains(uuid)).cloned().collect();
        self.end(&elsewhere)?;
        let before = latencies(&self.demo, &self.one_at_a_time()?)?;
        println!(" one at a time on two hosts, {SINGLES} containers");
        show("  submit to start, the third works", &before.submit_to_start);

        // One place free there, and none elsewhere, so that the next container is sent there.
        let blockers = self.array(ROOM - there.len(), &LONG)?;
        self.wait_until("the others are full", || Ok(self.on(&blockers, None)?.len() == blockers.len()))?;
        self.end(&there[..1])?;
        let host = &self.hosts[STOPPED];
        host.stop_server()?;
        let hangs = self.demo.submit(&LONG)?;
        let sent = || Ok(self.demo.json(&["show", &hangs])?["container"]["instance"] == NAMES[STOPPED]);
        self.wait_until("a start hangs", sent)?;
        self.demo.muster(&["cancel", &there[1]])?;
        self.end(&blockers)?;
        let during = latencies(&self.demo, &self.one_at_a_time()?)?;
        show("  submit to start, the third is stopped", &during.submit_to_start);
        host.continue_server()?;
        self.end(&[&there[1..], &[hangs]].concat())
    }

    /// Cancels, and waits for the end.
    fn end(&self, uuids: &[String]) -> Result<(), Failure> {
        for uuid in uuids {
            // One that was cancelled already is refused.
            let _ = self.demo.muster(&["cancel", uuid]);
        }
        let ended = |uuid: &String| Ok(self.demo.json(&["show", uuid])?["container"]["state"] == "Cancelled");
        uuids.iter().try_for_each(|uuid| self.wait_until("a cancelled one ends", || ended(uuid)))
    }

    /// Those that run, or run on this host.
    fn on(&self, uuids: &[String], host: Option<&str>) -> Result<Vec<String>, Failure> {
        let mut found = Vec::new();
        for uuid in uuids {
            let detail = self.demo.json(&["show", uuid])?;
            let container = &detail["container"];
            if container["state"] == "Running" && host.is_none_or(|host| container["instance"] == host) {
                found.push(uuid.clone());
            }
        }
        Ok(found)
    }

    fn wait_until(&self, what: &str, condition: impl Fn() -> Result<bool, Failure>) -> Result<(), Failure> {
        let until = Instant::now() + Duration::from_secs(300);
        while !condition()? {
            if Instant::now() > until {
                let list = self.demo.muster(&["list", "--limit", "20"]).unwrap_or_default();
                return Err(Failure::Wrong(format!("not in time: {what}\n{list}")));
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        Ok(())
    }
}

fn configuration(hosts: &[SshHost], key: &ClientKey, sudo: bool) -> String {
    let mut text = format!(
        "Containers:\n  DispatchPrivateKey: file://{}\n  CloudVMs:\n    Driver: static\n    DriverParameters:\n      UseSudo: {sudo}\n      Hosts:\n",
        key.path().display()
    );
    for host in hosts {
        let (name, address, user, key) = (host.name(), host.address(), host.user(), host.host_key_openssh());
        let place = format!("Name: {name}, Address: {address:?}, User: {user:?}, InstanceType: small");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "        - {{{place}, HostKey: {key:?}}}");
    }
    text + "InstanceTypes:\n  small: {VCPUs: 2, RAM: 1GiB, IncludedScratch: 1GiB}\n"
}
