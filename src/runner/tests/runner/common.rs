//! A host of a test: its directories, and the program's commands on it. Whatever still runs at the end is killed.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use muster_runner::protocol::{ContainerSpec, Facts, Limits, ResultRecord, StartConfig};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// For conditions that a busy machine may delay.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) fn uuid(n: usize) -> String {
    format!("local-dz642-{n:015}")
}

pub(crate) struct Host {
    dir: tempfile::TempDir,
    pub(crate) set: &'static str,
    /// Put before the PATH of the runner's commands.
    pub(crate) programs: Option<PathBuf>,
    /// What stands before each command, the program among it.
    program: Vec<String>,
}

/// Whose runner it is where that is to have no root.
const USER: u32 = 64_321;

impl Host {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        // What a careful administrator sets must not keep jobs from their directories.
        let program = ["sh", "-c", "umask 077; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_muster-runner")];
        Self { dir, set: "test-set", programs: None, program: program.map(str::to_owned).to_vec() }
    }

    /// Its runner has no root, whoever tests.
    pub(crate) fn without_root() -> Self {
        let mut host = Self::new();
        if rustix::process::geteuid().is_root() {
            // Where that user may get at it. Copied by another process: the kernel does not execute what a test still has open.
            let program = host.dir.path().join("muster-runner");
            let built = env!("CARGO_BIN_EXE_muster-runner");
            assert!(Command::new("cp").arg(built).arg(&program).status().unwrap().success());
            for dir in [host.lock_dir(), host.state_dir()] {
                fs::create_dir(&dir).unwrap();
                std::os::unix::fs::chown(dir, Some(USER), Some(USER)).unwrap();
            }
            let words = ["setpriv", &format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups"];
            host.program = words.map(str::to_owned).to_vec();
            host.program.push(program.to_str().unwrap().to_owned());
        }
        host
    }

    /// Whatever its commands do, the machine stays on.
    pub(crate) fn without_reboot(&mut self) {
        if rustix::process::geteuid().is_root() {
            let words = ["setpriv", "--bounding-set=-sys_boot", "--inh-caps=-sys_boot"].map(str::to_owned);
            self.program.splice(0..0, words);
        }
    }

    /// For a test's own files.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn lock_dir(&self) -> PathBuf {
        self.dir.path().join("lock")
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn attempt_dir(&self, uuid: &str, attempt: u32) -> PathBuf {
        self.state_dir().join(format!("set-{}", self.set)).join(uuid).join(attempt.to_string())
    }

    /// The program with these arguments (separated by spaces) and this host's flags.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.program[0]);
        command.args(&self.program[1..]);
        command.args(line.split_whitespace());
        command.args(["--set", self.set]);
        if let Some(programs) = &self.programs {
            let path = std::env::var("PATH").unwrap_or_default();
            command.env("PATH", format!("{}:{path}", programs.display()));
        }
        command.arg("--lock-dir").arg(self.lock_dir()).arg("--state-dir").arg(self.state_dir());
        command
    }

    pub(crate) fn run_with(&self, line: &str, input: &[u8]) -> Output {
        let mut command = self.command(line);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A program that refuses its arguments does not read.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }

    pub(crate) fn run(&self, line: &str) -> Output {
        self.run_with(line, b"")
    }

    /// Runs a command that must succeed.
    #[track_caller]
    pub(crate) fn ok(&self, line: &str) -> Vec<u8> {
        let output = self.run(line);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Runs a command that must fail with status 1; its message.
    #[track_caller]
    pub(crate) fn refused(&self, line: &str) -> String {
        message(&self.run(line))
    }

    pub(crate) fn start(&self, spec: &ContainerSpec) -> Output {
        let config = StartConfig { container: Some(spec.clone()), ..StartConfig::default() };
        let line = format!("--detach --stdin-config {} --attempt {}", spec.uuid, spec.attempt);
        self.run_with(&line, &serde_json::to_vec(&config).unwrap())
    }

    #[track_caller]
    pub(crate) fn started(&self, spec: &ContainerSpec) {
        let output = self.start(spec);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Starts one that writes the file `ready` once it has begun.
    #[track_caller]
    pub(crate) fn begun(&self, spec: &ContainerSpec) {
        self.started(spec);
        self.wait_for_file(spec, "ready");
    }

    /// Its runner is gone, and nothing else is done to it.
    #[track_caller]
    pub(crate) fn crash(&self, uuid: &str) {
        let runner = self.runner_pid(uuid);
        kill_process(runner, Signal::KILL).unwrap();
        wait_gone(runner);
    }

    /// Starts, waits for the end and reads the result.
    #[track_caller]
    pub(crate) fn finished(&self, spec: &ContainerSpec) -> ResultRecord {
        self.started(spec);
        self.wait_for(&format!("{} finished", spec.uuid));
        self.result(spec)
    }

    pub(crate) fn facts(&self) -> Facts {
        serde_json::from_slice(&self.ok("--facts")).unwrap()
    }

    pub(crate) fn result(&self, spec: &ContainerSpec) -> ResultRecord {
        let path = self.attempt_dir(&spec.uuid, spec.attempt).join("result.json");
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    pub(crate) fn stream(&self, spec: &ContainerSpec, name: &str) -> String {
        String::from_utf8(fs::read(self.attempt_dir(&spec.uuid, spec.attempt).join(name)).unwrap()).unwrap()
    }

    /// The lines of the list without comments, and the token.
    #[track_caller]
    pub(crate) fn list(&self) -> (Vec<String>, String) {
        parse_list(&self.ok("--list"))
    }

    /// Long polls until the list has exactly this one line (`""`: none).
    #[track_caller]
    pub(crate) fn wait_for(&self, line: &str) {
        let expected: Vec<String> = Some(line).filter(|line| !line.is_empty()).map(str::to_owned).into_iter().collect();
        self.wait_for_all(&expected);
    }

    /// Long polls until the list has exactly these lines.
    #[track_caller]
    pub(crate) fn wait_for_all(&self, expected: &[String]) {
        let deadline = Instant::now() + PATIENCE;
        let (mut lines, mut token) = self.list();
        while lines != expected {
            assert!(Instant::now() < deadline, "list is {lines:?}, not {expected:?}");
            let mut poll = self.command(&format!("--list --wait 5 --known {token}"));
            let mut poll = poll.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let stdin = poll.stdin.take();
            let output = poll.wait_with_output().unwrap();
            drop(stdin);
            (lines, token) = parse_list(&output.stdout);
        }
    }

    /// The process that the lock file names.
    #[track_caller]
    pub(crate) fn runner_pid(&self, uuid: &str) -> Pid {
        self.find_runner(uuid).unwrap()
    }

    /// The content of the lock file, if there is one.
    pub(crate) fn holder(&self, uuid: &str) -> Option<serde_json::Value> {
        let text = fs::read(self.lock_dir().join(format!("crunch-run-{uuid}.lock"))).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// `None` once it has ended.
    fn find_runner(&self, uuid: &str) -> Option<Pid> {
        let holder = self.holder(uuid)?;
        Pid::from_raw(holder["PID"].as_i64()?.try_into().ok()?)
    }

    /// Waits until the job has written this file in its working directory.
    #[track_caller]
    pub(crate) fn wait_for_file(&self, spec: &ContainerSpec, name: &str) -> String {
        let path = self.attempt_dir(&spec.uuid, spec.attempt).join("work").join(name);
        let deadline = Instant::now() + PATIENCE;
        loop {
            match fs::read_to_string(&path) {
                Ok(text) if text.ends_with('\n') => return text,
                _ => assert!(Instant::now() < deadline, "no {}", path.display()),
            }
            pause();
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let output = self.run("--list").stdout;
        for line in String::from_utf8_lossy(&output).lines() {
            let (uuid, state) = line.split_once(' ').unwrap_or((line, ""));
            let Some(runner) = self.find_runner(uuid) else { continue };
            if state.is_empty() {
                let _ = kill_process(runner, Signal::KILL);
                wait_gone(runner);
            }
            let _ = self.run(&format!("--reap {uuid}"));
        }
    }
}

/// Waits for the end of a process that is not our child.
pub(crate) fn wait_gone(pid: Pid) {
    if let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) {
        let timeout = Timespec { tv_sec: 60, tv_nsec: 0 };
        rustix::event::poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&timeout)).unwrap();
    }
}

/// A few milliseconds between two looks at something that nothing announces.
pub(crate) fn pause() {
    rustix::event::poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: 5_000_000 })).unwrap();
}

/// A program for a test to run. Another process writes it: while this one had it open for writing, another test's child might inherit
/// that, and nothing that somebody writes can be executed.
pub(crate) fn install(text: &str, path: &Path) {
    let source = path.with_extension("text");
    fs::write(&source, text).unwrap();
    assert!(Command::new("install").args(["-m", "755"]).arg(&source).arg(path).status().unwrap().success());
}

#[track_caller]
pub(crate) fn message(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[track_caller]
pub(crate) fn parse_list(output: &[u8]) -> (Vec<String>, String) {
    let text = std::str::from_utf8(output).unwrap();
    assert!(text.ends_with('\n'), "{text:?}");
    let token = text.lines().last().and_then(|line| line.strip_prefix("# ")).expect("the token comes last").to_owned();
    (text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect(), token)
}

/// A container that runs a shell script.
pub(crate) fn script(n: usize, script: &str) -> ContainerSpec {
    ContainerSpec {
        uuid: uuid(n),
        attempt: 1,
        command: vec!["sh".into(), "-c".into(), script.into()],
        limits: Limits::default(),
        ..ContainerSpec::default()
    }
}
