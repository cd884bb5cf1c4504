//! Who ends it early: the operator with a signal, or his terminal, which is gone.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::command::command;
use crate::running::{Running, assert_ordered, wait_until};

const SIGNALS: [Signal; 4] = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];
const ENDING: &str = "msg=\"ending early; the instance is destroyed first";

/// Its log is that of a test that was ended, with nothing left.
fn assert_ended(running: Running) {
    let (status, log) = running.end();
    assert_eq!(status.code(), Some(1), "{log}");
    let parts = ["msg=\"created instance\"", ENDING, "msg=\"instance is gone\"", "msg=exiting Result=failed"];
    assert_ordered(&log, &parts);
}

/// The command ends with it, and need not be waited for.
#[test]
fn while_a_command_runs() {
    for signal in SIGNALS {
        let folder = tempfile::tempdir().expect("a folder");
        let started = folder.path().join("started");
        let long = format!("touch {}; exec sleep 600", started.display());
        let running = Running::start(&command(folder.path(), "", &["-command", &long]), Stdio::null());
        wait_until("it runs", || started.exists());
        running.signal(signal);
        assert_ended(running);
    }
}

#[test]
fn while_it_waits_for_the_boot() {
    let folder = tempfile::tempdir().expect("a folder");
    let cloud = "    BootProbeCommand: \"false\"\n    TimeoutBooting: 1h\n";
    let mut running = Running::start(&command(folder.path(), cloud, &[]), Stdio::null());
    running.wait_for("msg=\"remote command failed\"");
    running.signal(Signal::TERM);
    assert_ended(running);
}

#[test]
fn while_it_waits_for_the_operator() {
    let pausing = |folder: &Path| {
        let mut running = Running::start(&command(folder, "", &["-pause-before-destroy"]), Stdio::piped());
        running.wait_for("Press Enter to continue: ");
        running
    };
    for signal in SIGNALS {
        let folder = tempfile::tempdir().expect("a folder");
        let running = pausing(folder.path());
        running.signal(signal);
        assert_ended(running);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut running = pausing(folder.path());
    running.press_enter();
    let (status, log) = running.end();
    assert_eq!(status.code(), Some(0), "{log}");
}

/// `nohup` means it.
#[test]
fn an_ignored_signal_is_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let started = folder.path().join("started");
    let long = format!("touch {}; exec sleep 600", started.display());
    let plain = command(folder.path(), "", &["-command", &long]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(plain.get_program()).args(plain.get_args());
    let running = Running::start(&shell, Stdio::null());
    wait_until("it runs", || started.exists());
    running.signal(Signal::HUP);
    running.signal(Signal::INT);
    assert_ended(running);
}

/// The terminal is gone, or the disk is full: the test goes on to its end.
#[test]
fn nobody_reads_what_it_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let full = File::options().write(true).open("/dev/full").expect("there");
    let mut quiet = command(folder.path(), "", &["-pause-before-destroy"]);
    let status = quiet.stdin(Stdio::null()).stdout(Stdio::null()).stderr(full).status().expect("it runs");
    assert_eq!(status.code(), Some(0));
}

/// A program that the driver waits for ends with it, whatever that program does: the first signal waits for it, the second one does not.
#[test]
fn a_program_for_credentials_does_not_outlive_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (profile, mark) = (folder.path().join("aws"), folder.path().join("mark"));
    let line = format!("sh -c 'echo $$ >{0}.new; mv {0}.new {0}; exec sleep 1000'", mark.display());
    std::fs::write(&profile, format!("[default]\ncredential_process = {line}\n")).expect("written");
    let cloud = "    Driver: ec2\n    ImageID: ami-1\n    DriverParameters: {Region: us-east-1, AdminUsername: admin}\n\
                 InstanceTypes: {small: {ProviderType: t3.micro, VCPUs: 1, RAM: 1GiB, Price: 1}}\n";
    let mut command = command(folder.path(), cloud, &[]);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.env("AWS_CONFIG_FILE", &profile).env("HOME", folder.path());
    let mut running = Running::start(&command, Stdio::null());
    wait_until("it runs", || mark.exists());
    let process = std::fs::read_to_string(&mark).expect("written");
    running.signal(Signal::TERM);
    running.wait_for(ENDING);
    running.signal(Signal::INT);
    let (status, log) = running.end();
    // By the signal, or by itself, since what it waited for has ended.
    assert!(!status.success() && log.contains("msg=\"ended by a second signal;"), "{log}");
    // Dead at least: whether somebody waits for it is of no concern.
    let status = Path::new("/proc").join(process.trim()).join("status");
    wait_until("it is gone", || !std::fs::read_to_string(&status).is_ok_and(|text| !text.contains("State:\tZ")));
}
