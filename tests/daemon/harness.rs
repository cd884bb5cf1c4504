//! A daemon in a directory of its own, and the commands against it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A hang is a failure; a slow machine is not.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// Directory, configuration and, between `start` and `stop`, the daemon.
pub(crate) struct Site {
    folder: tempfile::TempDir,
    child: Option<Child>,
    /// Words before every command, which lead into another network; the process keeps its number.
    pub(crate) entrance: Vec<String>,
}

impl Site {
    /// With the default configuration except for the places.
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    /// `more`: further lines of the configuration file, in the plain form.
    pub(crate) fn with(more: &str) -> Self {
        // Seen alike by hosts that have a /tmp of their own.
        let folder = tempfile::Builder::new().prefix("muster-test-").tempdir_in("/var/tmp").expect("a folder");
        let mode =
            |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set");
        // Jobs run as another user if this is root.
        mode(folder.path(), 0o711);
        let runs = folder.path().join("runs");
        std::fs::create_dir(&runs).expect("made");
        mode(&runs, 0o777);
        let site = Self { folder, child: None, entrance: Vec::new() };
        site.configure(more);
        site
    }

    pub(crate) fn configure(&self, more: &str) {
        let state_dir = self.state_dir();
        let text = format!(
            "Muster:\n  StateDir: {}\n  Log: {{Level: debug}}\nServices: {{DispatchCloud: {{InternalURLs: {{\"http://127.0.0.1:0\": {{}}}}}}}}\n{more}",
            state_dir.display()
        );
        std::fs::write(self.config(), text).expect("written");
    }

    pub(crate) fn started() -> Self {
        let mut site = Self::new();
        site.start();
        site
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder.path().join("config.yml")
    }

    pub(crate) fn log_file(&self) -> PathBuf {
        self.folder.path().join("muster.log")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn program(&self) -> Command {
        let program = env!("CARGO_BIN_EXE_muster");
        let mut command = match self.entrance.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        // What the developer wants to see of his own programs would hide what tests look for.
        command.env_remove("RUST_LOG");
        command
    }

    /// The daemon as a command that was not started.
    pub(crate) fn daemon(&self) -> Command {
        let mut command = self.program();
        command.arg("--config").arg(self.config()).arg("daemon").arg("--log-file").arg(self.log_file());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    pub(crate) fn start(&mut self) {
        self.start_with(&[]);
        assert!(!self.is_dead(), "the daemon ended at once: {}", self.log());
    }

    /// Until it answers or has ended, as a fault point in `environment` may want.
    pub(crate) fn start_with(&mut self, environment: &[(&str, &str)]) {
        self.launch(environment);
        self.wait_until("the daemon answers", |site| site.is_dead() || site.run(&["status"]).status.success());
    }

    /// The daemon's process, which has done nothing yet.
    pub(crate) fn launch(&mut self, environment: &[(&str, &str)]) {
        assert!(self.child.is_none(), "one daemon at a time");
        self.child = Some(self.daemon().envs(environment.iter().copied()).spawn().expect("starts"));
    }

    /// The daemon's process has ended by itself.
    pub(crate) fn is_dead(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().expect("a child").is_some())
    }

    pub(crate) fn pid(&self) -> rustix::process::Pid {
        let id = self.child.as_ref().expect("runs").id();
        rustix::process::Pid::from_raw(i32::try_from(id).expect("small")).expect("not 0")
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.pid(), signal).expect("it lives");
    }

    /// The end that a signal or a fault point led to.
    pub(crate) fn reap(&mut self) -> std::process::ExitStatus {
        self.child.take().expect("was started").wait().expect("a child")
    }

    pub(crate) fn kill_9(&mut self) {
        let mut child = self.child.take().expect("runs");
        let _ = child.kill();
        child.wait().expect("a child");
    }

    /// SIGTERM; the daemon must end with status 0, having missed no wake-up and lost no thread.
    pub(crate) fn stop(&mut self) {
        let missed = self.json(&["status"])["missed_wakeups"].clone();
        assert_eq!(missed, 0, "{}", self.log());
        self.signal(rustix::process::Signal::TERM);
        let status = self.reap();
        assert!(status.success(), "{status}; {}", self.log());
    }

    /// A command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("starts")
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.program();
        command.arg("--config").arg(self.config()).args(arguments).stdin(Stdio::null());
        command
    }

    /// Standard output of a command that must succeed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "muster {arguments:?}: {}\n{stderr}\n{}", output.status, self.log());
        String::from_utf8(output.stdout).expect("text")
    }

    /// Exit code and standard error of a command.
    pub(crate) fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        (output.status.code().expect("no signal"), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(&[&["--json"], arguments].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    }

    pub(crate) fn submit(&self, arguments: &[&str]) -> String {
        self.ok(&[&["submit"], arguments].concat()).trim().to_owned()
    }

    /// A job that counts its run, then does `script`.
    pub(crate) fn submit_counted(&self, options: &[&str], script: &str) -> Vec<String> {
        let script = format!("{}; {script}", self.mark());
        let text = self.ok(&[&["submit"], options, &["--", "sh", "-c", &script]].concat());
        text.lines().map(str::to_owned).collect()
    }

    /// The line that counts a run of the container.
    pub(crate) fn mark(&self) -> String {
        format!("echo x >> {}/$MUSTER_UUID", self.folder.path().join("runs").display())
    }

    /// A line of the log has all of these.
    pub(crate) fn has_logged(&self, parts: &[&str]) -> bool {
        self.log().lines().any(|line| parts.iter().all(|part| line.contains(part)))
    }

    pub(crate) fn runs_of(&self, uuid: &str) -> usize {
        std::fs::read_to_string(self.folder.path().join("runs").join(uuid)).unwrap_or_default().lines().count()
    }

    pub(crate) fn show(&self, uuid: &str) -> Value {
        self.json(&["show", uuid])
    }

    pub(crate) fn state(&self, uuid: &str) -> String {
        self.show(uuid)["container"]["state"].as_str().expect("a state").to_owned()
    }

    pub(crate) fn wait_state(&mut self, uuid: &str, state: &str) {
        self.wait_until(&format!("{uuid} is {state}"), |site| site.state(uuid) == state);
    }

    /// Every one Complete with exit code 0, and run exactly once.
    pub(crate) fn assert_once(&self, uuids: &[String]) {
        for uuid in uuids {
            let detail = self.show(uuid);
            assert_eq!(detail["container"]["state"], "Complete", "{detail:#}\n{}", self.log());
            assert_eq!(detail["container"]["exit_code"], 0, "{detail:#}");
            assert_eq!(self.runs_of(uuid), 1, "{detail:#}\n{}", self.log());
        }
    }

    /// Looks again and again, but not for ever.
    pub(crate) fn wait_until(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        let until = Instant::now() + LIMIT;
        while !condition(self) {
            assert!(Instant::now() < until, "not in time: {what}\n{}", self.log());
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
}

impl Drop for Site {
    /// Nothing is left behind, whatever the test did: not even jobs that outlive their daemon.
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let locks = self.state_dir().join("loopback/lock");
        for entry in std::fs::read_dir(locks).into_iter().flatten().flatten() {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let pid = serde_json::from_str::<Value>(&text).ok().and_then(|lock| lock["PID"].as_i64());
            let pid = pid.and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
            let ours = |pid: &rustix::process::Pid| {
                let command = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
                String::from_utf8_lossy(&command).contains("muster-runner")
            };
            if let Some(pid) = pid.filter(ours) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
        }
    }
}
