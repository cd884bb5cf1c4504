//! File systems that are full, not executable or not writable, and programs that do not run.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command as Process, Stdio};

use super::*;

/// A process in a mount namespace of its own; other commands can enter that.
struct Namespace(Child);

impl Namespace {
    /// `None` without root, or where that is not allowed.
    fn with_tmpfs(at: &Path, options: &str) -> Option<Self> {
        let line = "mount -t tmpfs -o \"$1\" none \"$0\" && echo ready && exec cat >/dev/null";
        let mut child = Process::new("unshare")
            .args(["-m", "sh", "-c", line, &text(at), options])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut answer = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut answer).expect("read");
        let namespace = Self(child);
        (answer == "ready\n").then_some(namespace)
    }

    fn executor(&self) -> Arc<Behind> {
        Behind::new(&["nsenter", "-m", "-t", &self.0.id().to_string()], true)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Its standard input ends, and so does it.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[test]
fn a_full_disk_is_named_and_nothing_is_left() {
    let site = Site::new();
    let mount = make_dir(&site.path("mount"), 0o755);
    let Some(namespace) = Namespace::with_tmpfs(&site.path("mount"), "size=128k,mode=755") else { return };
    let executor = namespace.executor();
    let directory = format!("{mount}/bin");
    let runner = runner(executor.clone(), RunnerSupply::of_binary(fake("big", 500_000), Some(directory.clone())));
    let error = refused(deploy(&runner));
    assert!(error.contains(&format!("cannot write {directory}/muster-runner~")), "{error}");
    assert!(error.contains("No space left on device") && error.contains("free some space there"), "{error}");
    assert_eq!(executor.output(&["ls", "-A", &directory]).stdout, b"", "nothing is left");
    assert!(runner.program().is_err());
    let size = executor.output(&["mount", "-o", "remount,size=2m", &mount]);
    assert!(size.succeeded(), "{}", size.stderr_text());
    assert_eq!(deploy(&runner).expect("there is room now").done, Deployed::Installed);
}

/// The same for a limit on files, which needs no root.
#[test]
fn a_limit_on_file_sizes_is_named_and_nothing_is_left() {
    let site = Site::new();
    let directory = site.path("bin");
    let executor = Behind::new(&["sh", "-c", "ulimit -f 64; exec \"$@\"", "sh"], is_root());
    let supply = RunnerSupply::of_binary(fake("big", 500_000), Some(text(&directory)));
    let error = refused(deploy(&runner(executor, supply)));
    assert!(error.contains(&format!("cannot write {}/muster-runner~", directory.display())), "{error}");
    assert!(names(&directory).is_empty(), "{:?}", names(&directory));
}

#[test]
fn a_file_system_without_execution_is_named() {
    let site = Site::new();
    let mount = make_dir(&site.path("mount"), 0o755);
    let Some(namespace) = Namespace::with_tmpfs(&site.path("mount"), "noexec,mode=755") else { return };
    let supply = RunnerSupply::of_binary(fake("one", 0), Some(format!("{mount}/bin")));
    let runner = runner(namespace.executor(), supply);
    for when in ["after the installation", "when it is there"] {
        let error = refused(deploy(&runner));
        let part = format!("is {mount}/bin on a file system that is mounted noexec?");
        assert!(error.contains(&part) && error.contains("DeployRunnerDirectory"), "{when}: {error}");
    }
}

#[test]
fn a_file_system_that_is_read_only_is_named() {
    let site = Site::new();
    let mount = make_dir(&site.path("mount"), 0o755);
    let Some(namespace) = Namespace::with_tmpfs(&site.path("mount"), "ro,mode=755") else { return };
    for (directory, part) in [(format!("{mount}/bin"), "cannot make"), (mount, "cannot make a file in")] {
        let supply = RunnerSupply::of_binary(fake("one", 0), Some(directory.clone()));
        let error = refused(deploy(&runner(namespace.executor(), supply)));
        assert!(error.contains(&format!("{part} {directory}")) && error.contains("Read-only"), "{error}");
    }
}

/// A shell would take the bytes of a program for another machine as commands.
#[test]
fn a_program_for_another_machine_is_not_even_copied() {
    let site = Site::new();
    let directory = site.path("bin");
    let (other, number) = if cfg!(target_arch = "s390x") { ("x86_64", [62, 0]) } else { ("s390x", [0, 22]) };
    let mut bytes = b"\x7fELF\x02".to_vec();
    bytes.push(if other == "s390x" { 2 } else { 1 });
    bytes.resize(18, 0);
    bytes.extend(number);
    bytes.extend(format!("\ntouch {}\n", site.path("executed").display()).bytes());
    let error = refused(deploy(&plain(&text(&directory), &RunnerBinary::new(bytes))));
    let this = std::env::consts::ARCH;
    let part =
        format!("this machine is {this}, the runner is a program for {other}: set Muster.Runner.Binaries.{this}");
    assert!(error.contains(&part), "{error}");
    assert!(names(&directory).is_empty() && !site.path("executed").exists());
}

#[test]
fn programs_that_do_not_run_are_told_apart() {
    let site = Site::new();
    for (what, program, parts) in [
        ("no loader", "#!/nonexistent/interpreter\n", &["it needs a loader or a library"][..]),
        ("fails", "#!/bin/sh\necho too old >&2; exit 3\n", &["--version failed with status 3", "too old"]),
        ("dies", "#!/bin/sh\nkill -ILL $$\n", &["--version failed with status 132"]),
        ("another", "#!/bin/sh\necho crunch-run 3.0\n", &["cannot be used", "crunch-run 3.0", "not a muster-runner"]),
        ("newer", "#!/bin/sh\necho muster-runner 9 protocol 99\n", &["protocol 99, this dispatcher speaks"]),
        ("silent", "#!/bin/sh\n", &["not a muster-runner"]),
    ] {
        let binary = RunnerBinary::new(program.as_bytes().to_vec());
        let directory = text(&site.path(what));
        let runner = plain(&directory.replace(' ', "-"), &binary);
        for _ in 0..2 {
            let error = refused(deploy(&runner));
            for part in parts.iter().chain(&[&*name(&binary)]) {
                assert!(error.contains(part), "{what}: {error}");
            }
        }
        assert!(runner.program().is_err(), "{what}");
    }
}
