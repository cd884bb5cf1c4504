//! A deployment that ends in the middle: whatever it leaves never passes for the program, and the next one succeeds.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command as Process, ExitStatus, Stdio};
use std::time::SystemTime;

use super::*;

struct Ended {
    status: ExitStatus,
    stdout: String,
}

/// The script, or another one in its place, without a dispatcher.
fn run(text: &str, task: &str, directory: &Path, binary: &RunnerBinary, stdin: &[u8]) -> Ended {
    let directory = directory.to_str().expect("plain");
    let mut child = Process::new("sh")
        .args(["-c", text, "sh", task, directory, &name(binary), &binary.sha256, "", "--set", "set"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    // One that is dead reads nothing.
    let _ = child.stdin.take().expect("piped").write_all(stdin);
    let output = child.wait_with_output().expect("ends");
    Ended { status: output.status, stdout: String::from_utf8_lossy(&output.stdout).into_owned() }
}

fn is_valid(text: &str) -> bool {
    Process::new("sh").args(["-nc", text]).stderr(Stdio::null()).status().expect("runs").success()
}

/// Killed after each line, over nothing and over a file that a crash of another kind left.
#[test]
fn killed_at_every_step() {
    let (site, binary, script) = (Site::new(), fake("one", 10_000), script());
    let lines: Vec<&str> = script.lines().collect();
    let program = |directory: &Path| directory.join(name(&binary));
    let (mut killed, mut left_something, mut was_complete) = (0, 0, 0);
    for at in 0..lines.len() {
        let text = [&lines[..=at], &["kill -9 $$"], &lines[at + 1..]].concat().join("\n");
        // Inside of a `case`, say, it cannot be put.
        if !is_valid(&text) {
            continue;
        }
        for damaged in [false, true] {
            let directory = site.path(&format!("{at}-{damaged}"));
            if damaged {
                make_dir(&directory, 0o755);
                std::fs::write(program(&directory), &binary.bytes[..500]).expect("written");
                set_mode(&program(&directory), 0o755);
            }
            let ended = run(&text, "install", &directory, &binary, &binary.bytes);
            killed += usize::from(ended.status.signal() == Some(9));
            left_something += usize::from(names(&directory).iter().any(|name| name.contains(".new.")));
            let is_complete = std::fs::read(program(&directory)).is_ok_and(|bytes| bytes == *binary.bytes);
            was_complete += usize::from(is_complete);
            let check = run(&script, "check", &directory, &binary, b"").stdout;
            assert_eq!(check.starts_with("ok "), is_complete, "line {at}: {}: {check}", lines[at]);
            assert!(is_complete || check == "missing\n", "line {at}: {}: {check}", lines[at]);
            let again = run(&script, "install", &directory, &binary, &binary.bytes);
            assert!(again.status.success() && again.stdout.starts_with("ok "), "line {at}: {}", lines[at]);
            assert_eq!(std::fs::read(program(&directory)).expect("there"), &*binary.bytes);
            assert_eq!(mode(&program(&directory)), 0o755);
        }
    }
    // It did happen before, between and after.
    assert!(killed > 60 && left_something > 8 && was_complete > 8, "{killed} {left_something} {was_complete}");
}

/// The connection ends: less comes than was announced by the checksum.
#[test]
fn cut_in_the_middle_of_the_file() {
    let (site, binary, script) = (Site::new(), fake("one", 300_000), script());
    let directory = site.path("bin");
    for length in [0, 1, 100, 4096, 65_536, 200_000, binary.bytes.len() - 1] {
        let ended = run(&script, "install", &directory, &binary, &binary.bytes[..length]);
        assert_eq!(ended.status.code(), Some(1), "{length}");
        assert!(names(&directory).is_empty(), "{length}: {:?}", names(&directory));
        assert_eq!(run(&script, "check", &directory, &binary, b"").stdout, "missing\n");
    }
    assert!(run(&script, "install", &directory, &binary, &binary.bytes).stdout.starts_with("ok "));
}

/// Half of it, and then the server ends the session's processes.
#[test]
fn hung_up_while_it_waits_for_the_rest() {
    let (site, binary, script) = (Site::new(), fake("one", 100_000), script());
    let directory = site.path("bin");
    let words = ["-c", &script, "sh", "install", &text(&directory), &name(&binary), &binary.sha256, ""];
    let mut child = Process::new("sh").args(words).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(&binary.bytes[..1000]).expect("read");
    let started = Instant::now();
    let has_begun = |name: &String| std::fs::metadata(directory.join(name)).is_ok_and(|new| new.len() == 1000);
    while !names(&directory).iter().any(has_begun) {
        assert!(started.elapsed() < Duration::from_secs(120), "it never began");
        std::thread::yield_now();
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("it lives");
    drop(stdin);
    assert!(!child.wait().expect("ends").success());
    assert!(names(&directory).is_empty(), "{:?}", names(&directory));
}

/// What crashed deployments left goes with a later one, once nobody can be writing it any more; nothing else goes.
#[test]
fn leftovers_are_removed_after_a_day() {
    let (site, binary) = (Site::new(), fake("one", 0));
    let directory = site.path("bin");
    make_dir(&directory, 0o755);
    let hours_ago = |hours: u64| SystemTime::now() - Duration::from_secs(hours * 3600);
    for (name, hours) in [
        ("muster-runner~1.new.7.0", 50),
        ("muster-runner~2.new.7.0", 49),
        ("muster-runner~1.new.8.0", 20),
        ("muster-runner~1", 5000),
        ("muster-runner~1.news", 5000),
        ("notes.new.1", 5000),
    ] {
        let file = std::fs::File::create(directory.join(name)).expect("made");
        file.set_modified(hours_ago(hours)).expect("set");
    }
    make_dir(&directory.join("muster-runner~3.new.1.0"), 0o755);
    deploy(&plain(&text(&directory), &binary)).expect("installs");
    let kept = ["muster-runner~1", "muster-runner~1.new.8.0", "muster-runner~1.news", "muster-runner~3.new.1.0"];
    let mut expected: Vec<String> = kept.map(str::to_owned).to_vec();
    expected.extend([name(&binary), "notes.new.1".to_owned()]);
    expected.sort();
    assert_eq!(names(&directory), expected);
}
