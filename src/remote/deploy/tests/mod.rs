//! Deployment with real shells, files and processes. What needs root (other owners, mounts) passes silently without it.

mod answers;
mod concurrency;
mod crashes;
mod places;
mod shells;
mod trouble;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::remote::local::LocalExecutor;
use crate::remote::runner::RunnerPlaces;
use crate::remote::supply::{RunnerFiles, RunnerSupply};
use crate::remote::{Consume, Executor};

/// Somebody who is neither root nor anybody on this host.
const STRANGER: u32 = 64_123;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("set");
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).expect("there").permissions().mode() & 0o7777
}

fn make_dir(path: &Path, mode: u32) -> String {
    std::fs::create_dir_all(path).expect("made");
    set_mode(path, mode);
    text(path)
}

fn give_to_stranger(path: &Path) {
    std::os::unix::fs::lchown(path, Some(STRANGER), Some(STRANGER)).expect("root may");
}

fn text(path: &Path) -> String {
    path.to_str().expect("plain").to_owned()
}

/// A program to be executed, copied by another process: a file that this one had open for writing may be held open a little longer, by
/// what another test starts at that moment, and the kernel does not execute it then.
fn copy_program(from: &Path, to: &Path) {
    assert!(std::process::Command::new("cp").args([from, to]).status().expect("runs").success());
    set_mode(to, 0o755);
}

/// Names in a directory, sorted.
fn names(directory: &Path) -> Vec<String> {
    let entries: Vec<_> = std::fs::read_dir(directory).map(|entries| entries.flatten().collect()).unwrap_or_default();
    let mut names: Vec<String> = entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A program that answers as ours does; `tag` makes it another version, `bytes` is its least size.
fn fake(tag: &str, bytes: usize) -> RunnerBinary {
    let answers = "case $1 in --version) echo muster-runner 9.9.9 protocol 1 ;; --facts) echo '{\"cpus\": 3}' ;; esac";
    let mut program = format!("#!/bin/sh\n# {tag}\n{answers}\nexit 0\n").into_bytes();
    while program.len() < bytes {
        program.extend(b"# and so on\n");
    }
    RunnerBinary::new(program)
}

fn name(binary: &RunnerBinary) -> String {
    format!("muster-runner~{}", binary.sha256)
}

/// This host as a worker, with each command put behind others (`setpriv`, `env` and the like); counts commands.
#[derive(Debug)]
struct Behind {
    prefix: Vec<String>,
    local: LocalExecutor,
    as_root: bool,
    commands: AtomicUsize,
}

impl Behind {
    fn new(prefix: &[&str], as_root: bool) -> Arc<Self> {
        let local = LocalExecutor::new("/root".to_owned()).expect("a descriptor");
        let prefix = prefix.iter().map(|word| (*word).to_owned()).collect();
        Arc::new(Self { prefix, local, as_root, commands: AtomicUsize::new(0) })
    }

    /// As [`STRANGER`], who logs in and has no sudo.
    fn stranger(home: &str) -> Arc<Self> {
        let home = format!("HOME={home}");
        let [uid, gid] = ["reuid", "regid"].map(|kind| format!("--{kind}={STRANGER}"));
        Self::new(&["setpriv", &uid, &gid, "--clear-groups", "env", &home], false)
    }

    fn count(&self) -> usize {
        self.commands.swap(0, Ordering::SeqCst)
    }

    fn output(&self, words: &[&str]) -> Output {
        let program = Program::Arguments(words.iter().map(|word| (*word).to_owned()).collect());
        let deadline = Instant::now() + DEADLINE;
        self.execute(Lane::Probe, &Command { program, stdin: b"", open_until: None, deadline }).expect("runs")
    }
}

impl Executor for Behind {
    fn execute(&self, lane: Lane, command: &Command<'_>) -> Result<Output, ExecuteError> {
        self.commands.fetch_add(1, Ordering::SeqCst);
        let words = match &command.program {
            Program::Arguments(words) => words.clone(),
            Program::Shell(line) => ["sh", "-c", line].map(str::to_owned).to_vec(),
        };
        let program = Program::Arguments(self.prefix.iter().cloned().chain(words).collect());
        self.local.execute(lane, &Command { program, ..*command })
    }

    fn stream(&self, lane: Lane, command: &Command<'_>, consume: &mut Consume<'_>) -> Result<Output, ExecuteError> {
        self.local.stream(lane, command, consume)
    }

    fn width(&self, lane: Lane) -> usize {
        self.local.width(lane)
    }

    fn set_target(&self, _address: &str, _remote_user: &str) {}

    fn has_connected(&self) -> bool {
        true
    }

    fn runs_as_root(&self) -> bool {
        self.as_root
    }

    fn close(&self) {
        self.local.close();
    }
}

fn runner(executor: Arc<dyn Executor>, supply: RunnerSupply) -> Runner {
    Runner::new(executor, Arc::new(RunnerPlaces::default()), Arc::new(supply), "set".into(), "local".into())
}

/// A worker without anything special, whose runner goes to `directory`.
fn plain(directory: &str, binary: &RunnerBinary) -> Runner {
    let supply = RunnerSupply::of_binary(binary.clone(), Some(directory.to_owned()));
    runner(Behind::new(&[], is_root()), supply)
}

fn refused(result: Result<Deployment, DeployError>) -> String {
    match result {
        Ok(deployment) => panic!("{deployment:?}"),
        Err(error) => error.text(),
    }
}

/// The directory that a worker's files are in; everybody may look into it.
struct Site(tempfile::TempDir);

impl Site {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("muster-deploy-").tempdir().expect("a folder");
        set_mode(folder.path(), 0o755);
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

#[test]
fn installs_once_in_two_round_trips_then_takes_one() {
    let (site, binary) = (Site::new(), fake("one", 0));
    let directory = site.path("a/b");
    let executor = Behind::new(&[], is_root());
    let supply = RunnerSupply::of_binary(binary.clone(), Some(text(&directory)));
    let runner = runner(executor.clone(), supply);
    assert!(runner.program().is_err(), "nothing is run before it was looked at");
    let first = deploy(&runner).expect("installs");
    assert_eq!((first.done, executor.count()), (Deployed::Installed, 2));
    assert_eq!(first.facts.expect("with the rest").cpus, 3);
    let program = directory.join(name(&binary));
    assert_eq!((&*first.program, &*runner.program().expect("known")), (&*text(&program), &*text(&program)));
    assert_eq!(mode(&program), 0o755);
    assert_eq!(mode(&directory), if is_root() { 0o755 } else { 0o700 });
    let second = deploy(&runner).expect("is there");
    assert_eq!((second.done, executor.count()), (Deployed::AlreadyThere, 1));
    assert_eq!(second.facts.expect("with the rest").cpus, 3);
    assert_eq!(names(&directory), [name(&binary)]);
}

/// What was put there by a dispatcher that wrote in place and crashed, or by nobody knows whom.
#[test]
fn whatever_has_the_name_and_is_not_the_program_is_replaced() {
    let (site, binary) = (Site::new(), fake("one", 0));
    let directory = site.path("bin");
    let runner = plain(&text(&directory), &binary);
    let elsewhere = site.path("elsewhere");
    std::fs::write(&elsewhere, "precious").expect("written");
    let folder = site.path("folder");
    make_dir(&folder, 0o755);
    let program = directory.join(name(&binary));
    let spoil: [(&str, &dyn Fn()); 8] = [
        ("cut short", &|| std::fs::write(&program, &binary.bytes[..20]).expect("written")),
        ("empty", &|| std::fs::write(&program, "").expect("written")),
        ("not executable", &|| set_mode(&program, 0o644)),
        ("writable for others", &|| set_mode(&program, 0o757)),
        ("a link to a file", &|| std::os::unix::fs::symlink(&elsewhere, &program).expect("made")),
        ("a link to a directory", &|| std::os::unix::fs::symlink(&folder, &program).expect("made")),
        ("a link to nothing", &|| std::os::unix::fs::symlink("/nonexistent/x", &program).expect("made")),
        ("somebody else's", &|| {
            if is_root() {
                give_to_stranger(&program);
            } else {
                set_mode(&program, 0o000);
            }
        }),
    ];
    assert_eq!(deploy(&runner).expect("installs").done, Deployed::Installed);
    for (what, spoil) in spoil {
        if what.starts_with("a link") {
            std::fs::remove_file(&program).expect("there");
        }
        spoil();
        assert_eq!(deploy(&runner).expect(what).done, Deployed::Installed, "{what}");
        assert_eq!(std::fs::read(&program).expect(what), &*binary.bytes, "{what}");
        assert_eq!((mode(&program), names(&directory)), (0o755, vec![name(&binary)]), "{what}");
        assert_eq!(std::fs::read(&elsewhere).expect("there"), b"precious", "{what}");
        assert!(names(&folder).is_empty(), "{what}");
    }
    std::fs::remove_file(&program).expect("there");
    make_dir(&program, 0o755);
    let error = refused(deploy(&runner));
    assert!(error.contains(&format!("{} is a directory: remove it", program.display())), "{error}");
}

/// Some servers take no long command line.
#[test]
fn the_command_line_is_short_enough_for_dropbear() {
    let script = script();
    let quoted = script.replace('\'', "'\\''").len();
    assert!(quoted < 8000, "{quoted} bytes");
    assert!(!script.contains("# ") && script.lines().all(|line| !line.starts_with(' ')), "{script}");
}
