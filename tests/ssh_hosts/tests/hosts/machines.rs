//! Hosts are machines of their own, and nothing of them stays.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use muster_ssh_hosts::{ClientKey, HostOptions, SshHost};

use crate::support::{code, key, output, runs, says, session, started, state, text, wait_until};

/// A process that has left its session, as a runner does; gives its number.
fn detached_job(host: &SshHost, key: &ClientKey) -> i32 {
    let start = "setsid sh -c 'echo $$ > ~/job.pid; while :; do sleep 1000; done' </dev/null >/dev/null 2>&1 &";
    says(host, key, start);
    let file = host.path(&format!("{}/job.pid", host.home()));
    wait_until("the job has started", || std::fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n')));
    std::fs::read_to_string(&file).expect("text").trim().parse().expect("a number")
}

#[test]
fn two_hosts_do_not_see_each_other() {
    let key = key();
    let (one, two) = (started(&HostOptions::new(key.public())), started(&HostOptions::new(key.public())));
    assert_ne!(one.host_key_openssh(), two.host_key_openssh());
    assert_ne!(one.name(), two.name());
    let mark = format!("mark-of-{}", one.name());
    for folder in ["/run/lock", "/var/lock", "/run", "/var/lib", "~"] {
        says(&one, &key, &format!("echo of-one > {folder}/{mark}"));
        let looked = output(&two, &key, &format!("cat {folder}/{mark}"));
        assert!(!looked.status.success(), "{folder}: {}", text(&looked.stdout));
    }
    for inside in ["/run/lock", "/var/lib", "/run", one.home()] {
        let file = one.path(inside).join(&mark);
        assert_eq!(std::fs::read_to_string(&file).expect("there").trim(), "of-one", "{}", file.display());
        assert!(!Path::new(inside).join(&mark).exists(), "{inside} is the caller's");
    }
    // The rest they share.
    let shared = tempfile::NamedTempFile::new_in("/tmp").expect("a file");
    std::fs::write(shared.path(), "shared").expect("written");
    assert_eq!(says(&two, &key, &format!("cat {}", shared.path().display())), "shared");

    let apart = started(&HostOptions::new(key.public()).private_tmp().name("node-7"));
    assert_eq!(says(&apart, &key, "ls -A /tmp; uname -n; touch /tmp/only-in-the-host"), "node-7");
    assert!(apart.path("/tmp/only-in-the-host").exists() && !Path::new("/tmp/only-in-the-host").exists());
    assert_eq!(one.path("/tmp/only-in-the-host"), Path::new("/tmp/only-in-the-host"));
}

#[test]
fn nothing_is_left() {
    let key = key();
    let host = started(&HostOptions::new(key.public()));
    let job = detached_job(&host, &key);
    let mut open = session(&host, &key, "echo ready; cat");
    let mut line = String::new();
    BufReader::new(open.stdout.take().expect("piped")).read_line(&mut line).expect("text");
    assert_eq!(line, "ready\n");

    // Kept open until the end: the number of a namespace that is gone may be given to another test's host.
    let held = std::fs::File::open(format!("/proc/{job}/ns/mnt")).expect("it runs");
    let namespace = held.metadata().expect("readable").ino();
    assert_eq!(std::fs::metadata(format!("/proc/{}/ns/mnt", host.pid())).expect("it runs").ino(), namespace);
    assert_ne!(std::fs::metadata("/proc/self/ns/mnt").expect("ours").ino(), namespace);
    let (all, jobs) = (host.processes().expect("listed"), host.jobs().expect("listed"));
    assert!(all.iter().filter(|process| process.name.starts_with("sshd")).count() >= 2, "{all:?}");
    assert!(jobs.iter().any(|process| process.pid == job), "{jobs:?}");
    assert!(jobs.iter().all(|process| !process.name.starts_with("sshd")), "{jobs:?}");

    let folder = host.root().to_owned();
    for private in [folder.as_path(), key.path().parent().expect("a folder")] {
        assert_eq!(std::fs::metadata(private).expect("there").mode() & 0o777, 0o700, "{}", private.display());
    }
    drop(host);
    for process in all {
        assert!(!runs(process.pid), "{process:?}");
    }
    assert_eq!(in_namespace(namespace), Vec::<String>::new());
    drop(held);
    assert!(!folder.exists(), "{}", folder.display());
    assert_eq!(code(&mut open), Some(255));
}

fn in_namespace(namespace: u64) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("readable").flatten() {
        let same = std::fs::metadata(entry.path().join("ns/mnt")).is_ok_and(|data| data.ino() == namespace);
        if same {
            found.push(entry.path().to_string_lossy().into_owned());
        }
    }
    found
}

/// The process of a host that is killed cannot clean up; the guard does. This test runs itself in a second process.
#[test]
fn nothing_is_left_of_a_killed_harness() {
    const CHILD: &str = "MUSTER_SSH_HOSTS_TO_BE_KILLED";
    let key = key();
    if std::env::var_os(CHILD).is_some() {
        let host = started(&HostOptions::new(key.public()));
        let job = detached_job(&host, &key);
        // On its own line, whatever the test program prints around it.
        let line = format!("\nhost {job} {} {}\n", host.pid(), host.root().display());
        std::io::stdout().write_all(line.as_bytes()).expect("written");
        loop {
            std::thread::park();
        }
    }
    let name = "machines::nothing_is_left_of_a_killed_harness";
    // What the guard is not responsible for, like keys, goes with this.
    let temporary = tempfile::tempdir().expect("a folder");
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args([name, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .env("TMPDIR", temporary.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let line = lines.map_while(Result::ok).find(|line| line.starts_with("host ")).expect("a host");
    let words: Vec<&str> = line.split(' ').collect();
    let (job, server): (i32, i32) = (words[1].parse().expect("a number"), words[2].parse().expect("a number"));
    assert!(runs(job) && runs(server) && Path::new(words[3]).is_dir());
    child.kill().expect("killed");
    child.wait().expect("ended");
    wait_until("all of the host has gone", || !runs(job) && !runs(server) && !Path::new(words[3]).exists());
}

#[test]
fn many_at_once() {
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let key = key();
                let host = started(&HostOptions::new(key.public()));
                assert_eq!(says(&host, &key, "uname -n"), host.name());
            });
        }
    });
}

#[test]
fn a_command_inside() {
    let key = key();
    let host = started(&HostOptions::new(key.public()));
    let output = host.command_inside("sh").args(["-c", "uname -n; echo in > /var/lib/mark"]).output().expect("it runs");
    assert_eq!(text(&output.stdout).trim(), host.name(), "{}", text(&output.stderr));
    assert_eq!(says(&host, &key, "cat /var/lib/mark"), "in");
}

#[test]
fn a_reboot() {
    let key = key();
    let host = started(&HostOptions::new(key.public()));
    let job = detached_job(&host, &key);
    says(&host, &key, "echo lock > /run/lock/mark; echo disk > /var/lib/mark");
    host.reboot().expect("rebooted");
    assert!(!runs(job));
    assert_eq!(host.jobs().expect("listed"), Vec::new());
    assert_eq!(says(&host, &key, "ls /run/lock; cat /var/lib/mark"), "disk");
}

/// A job outlives what happens to the server.
#[test]
fn jobs_are_not_the_server() {
    let key = key();
    let host = started(&HostOptions::new(key.public()));
    let job = detached_job(&host, &key);
    host.stop_server().expect("stopped");
    wait_until("the job waits for its child, not stopped", || state(job) == Some('S'));
    host.kill_server().expect("killed");
    assert!(runs(job));
    host.restart().expect("restarted");
    assert!(runs(job));
    assert_eq!(says(&host, &key, &format!("kill {job} && echo killed")), "killed");
    wait_until("the job has ended", || !runs(job));
}
