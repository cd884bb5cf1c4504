//! The installed programs as a user would use them: the daemon as a process, everything else through the `muster` command.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Why the demo ends early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("`muster {command}` failed: {stderr}")]
    Command { command: String, stderr: String },
    #[error("{0}")]
    Wrong(String),
}

/// A daemon with its directory.
pub(crate) struct Demo {
    pub(crate) program: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) child: Child,
}

impl Demo {
    /// `more`: further lines of the configuration.
    pub(crate) fn start(folder: &Path, more: &str) -> Result<Self, Failure> {
        let program = program()?;
        let state_dir = folder.join("state");
        let config = folder.join("config.yml");
        // A directory and a free port of its own: safe beside a daemon that does real work. All else is the default.
        let text = format!(
            "Muster: {{StateDir: {}}}\nServices: {{DispatchCloud: {{InternalURLs: {{\"http://127.0.0.1:0\": {{}}}}}}}}\n{more}",
            state_dir.display()
        );
        std::fs::write(&config, text)?;
        let log = folder.join("muster.log");
        let child = launch(&program, &config, &log)?;
        let mut demo = Self { program, config, log, child };
        demo.wait_until_ready()?;
        Ok(demo)
    }

    /// SIGTERM, and the end it leads to.
    pub(crate) fn stop(&mut self) -> Result<(), Failure> {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).map_err(std::io::Error::from)?;
        }
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(Failure::Wrong(format!("the daemon ended with {status}"))) }
    }

    pub(crate) fn wait_until_ready(&mut self) -> Result<(), Failure> {
        let until = Instant::now() + Duration::from_secs(60);
        while self.muster(&["status"]).is_err() {
            if let Some(status) = self.child.try_wait()? {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                return Err(Failure::Wrong(format!("the daemon ended with {status}; its log:\n{log}")));
            }
            if Instant::now() > until {
                return Err(Failure::Wrong("the daemon does not answer".to_owned()));
            }
            pause();
        }
        Ok(())
    }

    /// Standard output of one command.
    pub(crate) fn muster(&self, arguments: &[&str]) -> Result<String, Failure> {
        let output = Command::new(&self.program).arg("--config").arg(&self.config).args(arguments).output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Failure::Command { command: arguments.join(" "), stderr })
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Result<serde_json::Value, Failure> {
        Ok(serde_json::from_str(&self.muster(&[&["--json"], arguments].concat())?)?)
    }

    pub(crate) fn submit(&self, arguments: &[&str]) -> Result<String, Failure> {
        Ok(self.muster(&[&["submit"], arguments].concat())?.trim().to_owned())
    }

    /// Until so many containers are final.
    pub(crate) fn wait_until_finished(&self, count: usize, until: Instant) -> Result<(), Failure> {
        let _line = Progress;
        loop {
            let status = self.json(&["status"])?;
            let of = |state: &str| status["containers"][state].as_u64().unwrap_or(0);
            if usize::try_from(of("Complete") + of("Cancelled")).unwrap_or(0) >= count {
                return Ok(());
            }
            Progress::show(&format!("{} have ended, {} run, {} wait", of("Complete"), of("Running"), of("Queued")));
            if Instant::now() > until {
                let list = self.muster(&["list", "--limit", "20"]).unwrap_or_default();
                return Err(Failure::Wrong(format!("only {} have ended in time:\n{list}", of("Complete"))));
            }
            pause();
        }
    }

    /// Until a container has ended; `muster wait` then exits with this.
    pub(crate) fn wait_for(&self, uuid: &str, expected: i32) -> Result<(), Failure> {
        let status =
            Command::new(&self.program).arg("--config").arg(&self.config).args(["wait", uuid]).output()?.status;
        if status.code() == Some(expected) {
            return Ok(());
        }
        Err(Failure::Wrong(format!("`muster wait {uuid}` ended with {status}, not {expected}")))
    }
}

impl Drop for Demo {
    /// A failed demo leaves no daemon behind.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last line of a terminal while something is waited for; nothing where output goes elsewhere. Dropped, it is gone.
pub(crate) struct Progress;

impl Progress {
    pub(crate) fn show(text: &str) {
        let mut output = std::io::stdout();
        if output.is_terminal() {
            // Nothing depends on it.
            let _ = write!(output, "\r   {text}\x1b[K").and_then(|()| output.flush());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let mut output = std::io::stdout();
        if output.is_terminal() {
            let _ = write!(output, "\r\x1b[K").and_then(|()| output.flush());
        }
    }
}

/// Between two looks at the daemon's state, so that looking is not most of the work.
pub(crate) fn pause() {
    std::thread::park_timeout(Duration::from_millis(50));
}

pub(crate) fn launch(program: &Path, config: &Path, log: &Path) -> Result<Child, Failure> {
    let mut command = Command::new(program);
    command.arg("--config").arg(config).args(["daemon", "--log-file"]).arg(log);
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn()?)
}

/// Named on the command line behind the part's name, else `muster` in the directory above this program's (as cargo builds them).
fn program() -> Result<PathBuf, Failure> {
    // A number there is the part's own.
    let is_number = |text: &std::ffi::OsString| text.to_str().is_some_and(|text| text.parse::<u64>().is_ok());
    if let Some(path) = std::env::args_os().nth(2).filter(|text| !is_number(text)) {
        return Ok(path.into());
    }
    let this = std::env::current_exe()?;
    let found = this.ancestors().skip(1).take(3).map(|folder| folder.join("muster")).find(|path| path.is_file());
    found.ok_or_else(|| Failure::Wrong("no program `muster` beside this one: build it first, or name it".to_owned()))
}
