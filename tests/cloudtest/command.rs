//! The command as users run it.

use std::path::Path;
use std::process::{Command, Output};

/// Runs it with this configuration below a folder of its own.
fn cloudtest(folder: &Path, cloud: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let state = folder.join("state");
    let text = format!(
        "Muster: {{StateDir: {}}}\nContainers:\n  CloudVMs:\n    SyncInterval: 10ms\n    ProbeInterval: 10ms\n{cloud}",
        state.display()
    );
    let config = folder.join("config.yml");
    std::fs::write(&config, text).expect("written");
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_muster"))
        .args(["cloudtest", "-config"])
        .arg(&config)
        .args(arguments)
        .output()
        .expect("it runs");
    assert!(stdout.is_empty(), "all is said on standard error");
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

fn assert_ordered(log: &str, parts: &[&str]) {
    let mut rest = log;
    for part in parts {
        let at = rest.find(part).unwrap_or_else(|| panic!("{part} does not come in turn: {log}"));
        rest = &rest[at + part.len()..];
    }
}

#[test]
fn this_host_is_tried_with_progress() {
    let folder = tempfile::tempdir().expect("a folder");
    let (code, log) =
        cloudtest(folder.path(), "    ResourceTags: {site: lab}\n", &["--command", "echo out; echo err >&2"]);
    assert_eq!(code, Some(0), "{log}");
    assert_ordered(
        &log,
        &[
            "msg=\"checking for existing instances\"",
            "msg=\"creating instance\" InstanceType=localhost",
            "msg=\"created instance\" Instance=localhost Duration=",
            "msg=\"all expected tags are present\"",
            "msg=\"waiting for instance to boot\"",
            "msg=\"remote command succeeded\" Command=true",
            "msg=\"remote command succeeded\" Command=\"echo out; echo err >&2\"",
            "stdout=\"out\\n\" stderr=err",
            "msg=\"destroying instance\"",
            "msg=\"instance is gone\"",
            "msg=exiting Result=\"all is well\"",
        ],
    );
    let secret_is_hidden = log.contains("printf %s \\\"***\\\"") && log.contains("ArvadosInstanceSecret\\\": \\\"***");
    assert!(secret_is_hidden && !log.contains("ssh -p"), "{log}");
}

#[test]
fn failures_are_said_and_are_the_exit_code() {
    let folder = tempfile::tempdir().expect("a folder");
    for (cloud, arguments, code, text) in [
        ("", &["-command", "falsey"][..], 1, "falsey: not found"),
        ("    TimeoutBooting: 50ms\n    BootProbeCommand: falsey\n", &[], 1, "msg=\"timed out\""),
        ("", &["--instance-type=nix"], 1, "msg=fatal error=\"requested instance type \\\"nix\\\" is not configured\""),
        ("    Driver: azure\n", &[], 1, "azure is not built yet"),
        ("    Driver: nix\n", &[], 1, "unacceptable value \"nix\""),
        ("    Driver: azure\nInstanceTypes: {}\n", &[], 1, "azure is not built yet"),
        ("", &["--frobnicate"], 2, "unexpected argument '--frobnicate'"),
        ("", &["--instance-set-id="], 2, "--instance-set-id must be"),
    ] {
        let (found, log) = cloudtest(folder.path(), cloud, arguments);
        assert_eq!(found, Some(code), "{arguments:?} {log}");
        assert!(log.contains(text), "{text}: {log}");
        assert!(code == 2 || log.contains("msg=exiting Result=failed") || log.starts_with("muster: "), "{log}");
    }
}

#[test]
fn help_is_no_failure() {
    let output = Command::new(env!("CARGO_BIN_EXE_muster")).args(["cloudtest", "-help"]).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("muster cloudtest --config"), "{text}");
}

/// Two at once would take each other's host.
#[test]
fn what_another_test_has_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let started = folder.path().join("started");
    let gate = folder.path().join("gate");
    let wait = format!("touch {}; while [ ! -e {} ]; do sleep 0.02; done", started.display(), gate.display());
    std::thread::scope(|scope| {
        let first = scope.spawn(|| cloudtest(folder.path(), "", &["-command", &wait]));
        while !started.exists() {
            std::thread::yield_now();
        }
        let (code, log) = cloudtest(folder.path(), "", &[]);
        assert!(code == Some(1) && log.contains("is in use by another muster"), "{log}");
        std::fs::write(&gate, b"").expect("written");
        let (code, log) = first.join().expect("no panic");
        assert_eq!(code, Some(0), "{log}");
    });
}
