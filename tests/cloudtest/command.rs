//! The command as users run it.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::running::{Running, assert_ordered, wait_until};

/// It with this configuration below a folder of its own; `cloud` is lines of `CloudVMs`, or others behind them.
pub(crate) fn command(folder: &Path, cloud: &str, arguments: &[&str]) -> Command {
    let state = folder.join("state");
    let text = format!(
        "Muster: {{StateDir: {}}}\nContainers:\n  CloudVMs:\n    SyncInterval: 10ms\n    ProbeInterval: 10ms\n{cloud}",
        state.display()
    );
    let config = folder.join("config.yml");
    std::fs::write(&config, text).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
    command.args(["cloudtest", "-config"]).arg(&config).args(arguments);
    command
}

fn cloudtest(folder: &Path, cloud: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let (status, log) = Running::start(&command(folder, cloud, arguments), Stdio::null()).end();
    (status.code(), log)
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

/// It is what the command was given for; but a log is no place for all that a program can write.
#[test]
fn a_long_output_is_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let (code, log) = cloudtest(folder.path(), "", &["-command", "seq 10000 19999"]);
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("stdout=\"10000\\n10001\\n") && log.contains("\\n19999\\n\""), "{log}");
    let (code, log) = cloudtest(folder.path(), "", &["-command", "seq 10000 29999"]);
    assert_eq!(code, Some(0));
    assert!(!log.contains("\\n29999\\n") && log.contains("… (120000 bytes)"), "{log}");
}

#[test]
fn failures_are_said_and_are_the_exit_code() {
    let folder = tempfile::tempdir().expect("a folder");
    for (cloud, arguments, code, text) in [
        ("", &["-command", "falsey"][..], 1, "falsey: not found"),
        ("", &["-command", "-x"], 1, "Command=-x"),
        ("    TimeoutBooting: 50ms\n    BootProbeCommand: falsey\n", &[], 1, "msg=\"timed out\""),
        ("", &["--instance-type=nix"], 1, "msg=fatal error=\"requested instance type \\\"nix\\\" is not configured\""),
        (EXEC, &[], 1, "msg=fatal error=\"no instance types are configured\""),
        ("    Driver: azure\n", &[], 1, "azure is not built yet"),
        ("    Driver: nix\n", &[], 1, "unsupported cloud driver \\\"nix\\\""),
        ("    Driver: azure\nInstanceTypes: {}\n", &[], 1, "azure is not built yet"),
        ("", &["--frobnicate"], 2, "unexpected argument '--frobnicate'"),
        ("", &["-destroy-existing=perhaps"], 2, "perhaps"),
        ("", &["--instance-set-id="], 2, "--instance-set-id must be"),
    ] {
        let (found, log) = cloudtest(folder.path(), cloud, arguments);
        assert_eq!(found, Some(code), "{arguments:?} {log}");
        assert!(log.contains(text), "{text}: {log}");
        let last = log.lines().last().unwrap_or_default();
        assert!(code == 2 || last.ends_with("msg=exiting Result=failed"), "{arguments:?}: {log}");
    }
}

const EXEC: &str = "    Driver: exec\n    DriverParameters: {Program: /bin/false}\n";

/// What is wrong before anything is created.
#[test]
fn keys_and_drivers_that_cannot_be_had() {
    let folder = tempfile::tempdir().expect("a folder");
    let types = "InstanceTypes: {small: {VCPUs: 1, RAM: 1GiB}}\n";
    let hosts = "    Driver: static\n    DriverParameters: {TrustOnFirstUse: true, Hosts: [{Name: a, Address: \"127.0.0.1:1\", InstanceType: small}]}\n";
    let keys = folder.path().join("state/ssh");
    std::fs::create_dir_all(&keys).expect("made");
    std::fs::write(keys.join("id_ed25519.pub"), "ssh-ed25519 AAAA x").expect("written");
    for cloud in [format!("{EXEC}{types}"), format!("{hosts}{types}")] {
        let (code, log) = cloudtest(folder.path(), &cloud, &[]);
        let expected = "msg=fatal error=\"error loading Containers.DispatchPrivateKey: ";
        assert!(code == Some(1) && log.contains(expected) && log.contains("id_ed25519.pub"), "{log}");
    }
    std::fs::remove_dir_all(&keys).expect("removed");

    let own = folder.path().join("state/cloudtest");
    std::fs::create_dir_all(&own).expect("made");
    std::fs::write(own.join("static-hosts.json"), "no JSON").expect("written");
    let (code, log) = cloudtest(folder.path(), &format!("{hosts}{types}"), &[]);
    assert!(code == Some(1) && log.contains("msg=\"error initializing driver\" error="), "{log}");
    assert!(log.contains("static-hosts.json"), "{log}");
    // The pair that it has made is the daemon's.
    let public = std::fs::read_to_string(keys.join("id_ed25519.pub")).expect("made");
    let line = format!("msg=\"key to log in with\" PublicKey=\"{}\" Source=", public.trim());
    assert!(log.contains(&line) && log.contains("state/ssh/id_ed25519"), "{log}");
}

/// Whatever its dispatcher has would be destroyed, or that would use the instance under test.
#[test]
fn the_dispatchers_own_instances_are_spared() {
    let folder = tempfile::tempdir().expect("a folder");
    let of_token = "900150983cd24fb0d6963f7d28e17f72";
    let kept = "0123456789abcdef0123456789abcdef01234567";
    let state = folder.path().join("state");
    std::fs::create_dir_all(&state).expect("made");
    std::fs::write(state.join("instance-set-id"), format!("{kept}\n")).expect("written");
    for (more, id, is_refused) in [
        ("", kept, true),
        ("", of_token, false),
        ("SystemRootToken: abc\n", of_token, true),
        ("SystemRootToken: abc\n", kept, false),
    ] {
        let set = format!("-instance-set-id={id}");
        for flags in [&[set.as_str()][..], &[&set, "-destroy-existing"]] {
            let (code, log) = cloudtest(folder.path(), more, flags);
            let refused = log.contains("is that of this configuration's dispatcher");
            assert_eq!((refused, code == Some(1)), (is_refused, is_refused), "{more}{flags:?}: {log}");
            assert_eq!(log.contains("checking for existing instances"), !is_refused, "{log}");
        }
    }
}

#[test]
fn help_is_no_failure() {
    let output = Command::new(env!("CARGO_BIN_EXE_muster")).args(["cloudtest", "-help"]).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("muster cloudtest --config"), "{text}");
    assert!(text.contains("an hour at most"), "{text}");
}

/// Two at once would take each other's host.
#[test]
fn what_another_test_has_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (started, gate) = (path("started"), path("gate"));
    // Not for ever, should this test fail.
    let wait = format!("touch {started}; for i in $(seq 3000); do [ -e {gate} ] && exit; sleep 0.02; done; exit 1");
    let first = Running::start(&command(folder.path(), "", &["-command", &wait]), Stdio::null());
    wait_until("the first one runs", || Path::new(&started).exists());
    let (code, log) = cloudtest(folder.path(), "", &[]);
    assert!(code == Some(1) && log.contains("is in use by another muster daemon or cloudtest"), "{log}");
    std::fs::write(&gate, b"").expect("written");
    let (status, log) = first.end();
    assert_eq!(status.code(), Some(0), "{log}");
}
