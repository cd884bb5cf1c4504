//! A daemon with hosts over SSH, in a directory of its own.

use std::fmt::Write as _;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use muster_fake_hosts::ClientKey;

use super::hosts::Hosts;
use crate::daemon::{Demo, Failure, launch};

const LIMIT: Duration = Duration::from_secs(900);
const LOOK: Duration = Duration::from_millis(20);
/// Asking costs the daemon something, too.
const ASK: Duration = Duration::from_millis(250);

pub(crate) struct Site {
    folder: tempfile::TempDir,
    /// Lines of `CloudVMs`.
    more: String,
    demo: Option<Demo>,
    /// What of the log was there before the daemon's start.
    log_start: u64,
}

impl Site {
    pub(crate) fn new(more: &str) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("muster-bench-").tempdir()?;
        let key = ClientKey::generate();
        std::fs::write(folder.path().join("key"), &key.private)?;
        std::fs::set_permissions(folder.path().join("key"), std::fs::Permissions::from_mode(0o600))?;
        std::fs::write(folder.path().join("key.pub"), &key.public)?;
        Ok(Self { folder, more: more.to_owned(), demo: None, log_start: 0 })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn public_key(&self) -> PathBuf {
        self.path("key.pub")
    }

    pub(crate) fn configure(&self, hosts: &Hosts) -> Result<(), Failure> {
        let mut text = format!(
            "Muster: {{StateDir: {}}}\nServices: {{DispatchCloud: {{InternalURLs: {{\"http://127.0.0.1:0\": {{}}}}}}}}\n\
             Containers:\n  DispatchPrivateKey: file://{}\n  CloudVMs:\n    Driver: static\n    MaxInstances: 0\n    TimeoutIdle: 1h\n{}    \
             DriverParameters:\n      User: root\n      Hosts:\n",
            self.path("state").display(),
            self.path("key").display(),
            self.more,
        );
        for (number, (address, key)) in hosts.all.iter().enumerate() {
            let line = writeln!(
                text,
                "      - {{Name: host{number}, Address: \"{address}\", InstanceType: small, HostKey: \"{key}\"}}"
            );
            line.map_err(|error| Failure::Wrong(error.to_string()))?;
        }
        text.push_str("InstanceTypes: {small: {VCPUs: 2, RAM: 1GiB, IncludedScratch: 1GiB, Price: 0.1}}\n");
        Ok(std::fs::write(self.path("config.yml"), text)?)
    }

    /// Returns when it answers.
    pub(crate) fn start(&mut self) -> Result<(), Failure> {
        let (program, config, log) = (program()?, self.path("config.yml"), self.path("muster.log"));
        self.log_start = std::fs::metadata(&log).map(|data| data.len()).unwrap_or(0);
        let child = launch(&program, &config, &log)?;
        let demo = self.demo.insert(Demo { program, config, log, child });
        demo.wait_until_ready()
    }

    fn demo(&self) -> Result<&Demo, Failure> {
        self.demo.as_ref().ok_or_else(|| Failure::Wrong("the daemon does not run".to_owned()))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.demo.as_ref().map_or(0, |demo| demo.child.id())
    }

    pub(crate) fn muster(&self, arguments: &[&str]) -> Result<String, Failure> {
        self.demo()?.muster(arguments)
    }

    pub(crate) fn stop(&mut self) -> Result<(), Failure> {
        self.demo.take().map_or(Ok(()), |mut demo| demo.stop())
    }

    /// Until so many instances have come into service since the daemon's start.
    pub(crate) fn wait_in_service(&self, count: usize) -> Result<(), Failure> {
        const MARK: &str = "instance is in service";
        let mut file = std::fs::File::open(self.path("muster.log"))?;
        file.seek(SeekFrom::Start(self.log_start))?;
        let (mut text, mut seen) = (String::new(), 0);
        let until = Instant::now() + LIMIT;
        while seen < count {
            file.read_to_string(&mut text)?;
            // What follows the last line's end is looked at again.
            let end = text.rfind('\n').map_or(0, |at| at + 1);
            seen += text[..end].matches(MARK).count();
            text.drain(..end);
            if Instant::now() > until {
                return Err(Failure::Wrong(format!("only {seen} of {count} hosts are in service")));
            }
            std::thread::park_timeout(LOOK);
        }
        Ok(())
    }

    pub(crate) fn wait_running(&self, count: usize) -> Result<(), Failure> {
        self.wait_containers(count, &["Running"])
    }

    pub(crate) fn wait_finished(&self, count: usize) -> Result<(), Failure> {
        self.wait_containers(count, &["Complete", "Cancelled"])
    }

    fn wait_containers(&self, count: usize, states: &[&str]) -> Result<(), Failure> {
        let until = Instant::now() + LIMIT;
        loop {
            let status = self.demo()?.json(&["status"])?;
            let sum: u64 = states.iter().filter_map(|state| status["containers"][*state].as_u64()).sum();
            if usize::try_from(sum).unwrap_or(0) >= count {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(Failure::Wrong(format!("only {sum} of {count} containers are {}", states.join(" or "))));
            }
            std::thread::park_timeout(ASK);
        }
    }
}

/// `muster` in a directory above this program's, as cargo builds them.
fn program() -> Result<PathBuf, Failure> {
    let this = std::env::current_exe()?;
    let found = this.ancestors().skip(1).take(3).map(|folder| folder.join("muster")).find(|path| path.is_file());
    found.ok_or_else(|| Failure::Wrong("no program `muster` beside this one: build it first".to_owned()))
}
