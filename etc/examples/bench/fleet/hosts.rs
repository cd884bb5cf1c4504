//! Hosts in a process of their own, so that their threads, memory and processor time are not the daemon's.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use crate::daemon::Failure;

/// As the first word this program's command line has it be the hosts.
pub(crate) const ROLE: &str = "fake-hosts";

/// The process of the hosts.
pub(crate) fn serve(words: impl Iterator<Item = String>) -> ExitCode {
    muster_fake_hosts::command::run(words)
}

/// Hosts that are there until this is dropped.
pub(crate) struct Hosts {
    child: Child,
    /// Address and host key of each.
    pub(crate) all: Vec<(String, String)>,
}

impl Hosts {
    /// `job`: how long a container runs there, in milliseconds; none = until it is killed.
    pub(crate) fn start(count: usize, key: &Path, job: Option<u32>) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(ROLE).arg(count.to_string()).arg("--key").arg(key);
        if let Some(milliseconds) = job {
            command.arg("--job-ms").arg(milliseconds.to_string());
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().ok_or_else(|| Failure::Wrong("the hosts have no output".to_owned()))?;
        let mut hosts = Self { child, all: Vec::with_capacity(count) };
        for line in BufReader::new(stdout).lines().take(count) {
            let host: serde_json::Value = serde_json::from_str(&line?)?;
            let text = |name: &str| host[name].as_str().unwrap_or_default().to_owned();
            hosts.all.push((text("address"), text("host_key")));
        }
        if hosts.all.len() < count {
            return Err(Failure::Wrong(format!("only {} hosts have started", hosts.all.len())));
        }
        Ok(hosts)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
