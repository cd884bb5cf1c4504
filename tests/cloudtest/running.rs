//! `muster cloudtest` while it runs: it never outlives its test, however that ends.

use std::fs::File;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A hang is a failure; a slow machine is not.
const LIMIT: Duration = Duration::from_secs(120);

/// A process of its own, whose output goes to files.
pub(crate) struct Running {
    child: Child,
    folder: tempfile::TempDir,
}

/// Looks again and again, but not for ever.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

impl Running {
    /// Starts it, with what it has of standard input; it dies with this thread.
    pub(crate) fn start(command: &Command, stdin: Stdio) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str| File::create(folder.path().join(name)).expect("made");
        let (stdout, stderr) = (file("stdout"), file("stderr"));
        // Signals that whoever runs the tests ignores (nohup, a job in the background) count again.
        let mut tied = Command::new("env");
        tied.args(["--default-signal", "setpriv", "--pdeathsig", "KILL"])
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => tied.env(name, value),
                None => tied.env_remove(name),
            };
        }
        // What the developer wants to see of his own programs is of no concern here.
        tied.env_remove("RUST_LOG").stdin(stdin).stdout(stdout).stderr(stderr);
        Self { child: tied.spawn().expect("starts"), folder }
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.folder.path().join("stderr")).expect("there")).into_owned()
    }

    /// Until it has said so, or has ended.
    pub(crate) fn wait_for(&mut self, text: &str) {
        wait_until(text, || {
            let ended = self.child.try_wait().expect("a child");
            let log = self.log();
            assert!(ended.is_none() || log.contains(text), "it has ended: {log}");
            log.contains(text)
        });
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process");
        kill_process(pid, signal).expect("it lives");
    }

    /// What is typed at it.
    pub(crate) fn press_enter(&mut self) {
        use std::io::Write;
        self.child.stdin.as_mut().expect("a pipe").write_all(b"\n").expect("it lives");
    }

    /// How it ended, and its log.
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        let mut status = None;
        wait_until("it ends", || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        let stdout = std::fs::read(self.folder.path().join("stdout")).expect("there");
        assert!(stdout.is_empty(), "all is said on standard error");
        (status.expect("ended"), self.log())
    }
}

impl Drop for Running {
    /// SIGKILL, if it has not ended.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Each comes after the one before.
pub(crate) fn assert_ordered(log: &str, parts: &[&str]) {
    let mut rest = log;
    for part in parts {
        let at = rest.find(part).unwrap_or_else(|| panic!("{part} does not come in turn: {log}"));
        rest = &rest[at + part.len()..];
    }
}
