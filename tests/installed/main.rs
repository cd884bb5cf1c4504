//! `make install` to a prefix of its own, and the installed programs used from there.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// `make TARGET` with everything below `root`, from the build that this test belongs to.
fn make(target: &str, root: &Path) -> Output {
    let build = PathBuf::from(env!("CARGO_BIN_EXE_muster"));
    let build = build.parent().expect("a folder");
    let variables = [
        format!("PREFIX={}", root.join("usr").display()),
        format!("SYSCONFDIR={}", root.join("etc").display()),
        format!("BUILD={}", build.display()),
    ];
    Command::new("make").arg("--no-print-directory").arg(target).args(variables).output().expect("make is there")
}

fn make_ok(target: &str, root: &Path) {
    let output = make(target, root);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path.to_string_lossy().into_owned()) }
    }
    found
}

#[test]
fn install_use_uninstall() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).expect("set");
    make_ok("install", folder.path());
    for file in [
        "usr/bin/muster",
        "usr/libexec/muster/muster-runner",
        "usr/share/man/man1/muster.1",
        "usr/share/man/man1/muster-submit.1",
        "usr/share/man/man1/muster-cloudtest.1",
        "usr/share/man/man8/muster-runner.8",
        "usr/share/muster/examples/exec-cloud/README.md",
        "usr/share/muster/examples/exec-cloud/local-processes",
        "usr/share/muster/examples/exec-cloud/virsh",
        "usr/share/bash-completion/completions/muster",
        "usr/lib/systemd/system/muster.service",
        "etc/muster/config.yml",
        "etc/init.d/muster",
        "etc/logrotate.d/muster",
    ] {
        assert!(folder.path().join(file).is_file(), "{file} in {:?}", files(folder.path()));
    }
    let unit = std::fs::read_to_string(folder.path().join("usr/lib/systemd/system/muster.service")).expect("text");
    assert!(unit.contains(&format!("{}/usr/bin/muster daemon", folder.path().display())), "{unit}");

    use_it(folder.path());

    let config = folder.path().join("etc/muster/config.yml");
    std::fs::write(&config, "# mine\n").expect("written");
    make_ok("install", folder.path());
    make_ok("uninstall", folder.path());
    assert_eq!(std::fs::read_to_string(&config).expect("kept"), "# mine\n");
    let left: Vec<_> = files(&folder.path().join("usr"));
    assert!(left.is_empty(), "{left:?}");
    make_ok("uninstall", folder.path());
}

/// The installed daemon finds the installed runner, and the installed configuration is valid.
fn use_it(root: &Path) {
    let muster = |arguments: &[&str]| {
        let mut command = Command::new(root.join("usr/bin/muster"));
        command.args(arguments).env("MUSTER_CONFIG", root.join("config.yml")).stdin(Stdio::null());
        command
    };
    let config = root.join("etc/muster/config.yml");
    let check = muster(&["check", "--config", &config.to_string_lossy()]).output().expect("starts");
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    let text = format!(
        "Muster: {{StateDir: {}}}\nServices: {{DispatchCloud: {{InternalURLs: {{\"http://127.0.0.1:0\": {{}}}}}}}}\n",
        root.join("state").display()
    );
    std::fs::write(root.join("config.yml"), text).expect("written");
    let pid_file = root.join("muster.pid");
    let log = root.join("log");
    let arguments = ["daemon", "--log-file", &log.to_string_lossy(), "--pid-file", &pid_file.to_string_lossy()];
    let mut daemon = muster(&arguments).stdout(Stdio::piped()).spawn().expect("starts");
    let until = Instant::now() + Duration::from_secs(60);
    while !muster(&["status"]).output().expect("starts").status.success() {
        assert!(Instant::now() < until, "{}", std::fs::read_to_string(&log).unwrap_or_default());
        std::thread::park_timeout(Duration::from_millis(20));
    }
    assert_eq!(std::fs::read_to_string(&pid_file).expect("written").trim(), daemon.id().to_string());
    let job = muster(&["submit", "--wait", "--", "sh", "-c", "exit 5"]).output().expect("starts");
    assert_eq!(job.status.code(), Some(5), "{}", std::fs::read_to_string(&log).unwrap_or_default());
    let pid = rustix::process::Pid::from_raw(i32::try_from(daemon.id()).expect("small")).expect("not 0");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it lives");
    let mut output = String::new();
    std::io::Read::read_to_string(&mut daemon.stdout.take().expect("piped"), &mut output).expect("readable");
    assert!(daemon.wait().expect("a child").success());
    assert_eq!(output, "", "nothing on standard output");
    assert!(!pid_file.exists());
}

/// A new user who forgot the build is told.
#[test]
fn install_without_a_build_says_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new("make")
        .args(["--no-print-directory", "install", "BUILD=nowhere"])
        .arg(format!("DESTDIR={}", folder.path().display()))
        .output()
        .expect("make is there");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("run make build first"));
    assert!(files(folder.path()).is_empty());
}
