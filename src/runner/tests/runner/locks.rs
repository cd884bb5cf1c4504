//! Lock files of others (spec 50 §4): of a crunch-run, of other versions of ours, of programs that only lock, and what is none.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use muster_runner::protocol::ContainerSpec;
use rustix::process::{Pid, geteuid};

use crate::common::{Host, PATIENCE, message, parse_list, pause, script, uuid, wait_gone};

pub(crate) fn path(host: &Host, n: usize) -> PathBuf {
    host.lock_dir().join(format!("crunch-run-{}.lock", uuid(n)))
}

/// A process that holds a lock and lives until it is told to end, as another runner would.
pub(crate) struct Holder(Child);

impl Holder {
    /// `content` is written into the file, with `PID` in it replaced by the holder's.
    pub(crate) fn of(path: &std::path::Path, content: &str) -> Self {
        let script = "exec 9<>\"$1\" && flock -x 9 && printf '%s' \"$2\" | sed \"s/PID_OF/$$/\" >\"$1\" && echo held && exec sleep 10000";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(path).arg(content).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        Self(child)
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two fields and no set: it belongs to whoever names none, as a dispatcher of crunch-runs; nobody else sees or ends it, and its container
/// cannot be started a second time by anybody.
#[test]
fn a_crunch_run_is_listed_and_ended_where_no_set_is_named() {
    let mut host = Host::new();
    host.ok("--list");
    let mut holder = Holder::of(&path(&host, 1), &format!("{{\"UUID\":\"{}\",\"PID\":PID_OF}}\n", uuid(1)));
    assert_eq!(host.list().0, Vec::<String>::new(), "it is not of this set");
    host.ok(&format!("--kill 15 {} --attempt 9", uuid(1)));
    host.ok(&format!("--reap {} --attempt 9", uuid(1)));
    assert!(holder.is_alive(), "and not this one's to end");
    let text = message(&host.start(&ContainerSpec { attempt: 10, ..script(1, "true") }));
    assert!(text.contains("temporarily unavailable"), "{text}");

    host.set = "";
    let (lines, token) = host.list();
    assert_eq!(lines, [uuid(1)]);
    assert!(String::from_utf8(host.ok("--list")).unwrap().contains(&format!("#attempt {} 0\n", uuid(1))));
    host.refused(&format!("--reap {}", uuid(1)));
    let mut poll = host.command(&format!("--list --wait 3000 --known {token}"));
    let mut poll = poll.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let stdin = poll.stdin.take();
    // It ends by the signal, and is a child of this process until then.
    let killer = host.command(&format!("--kill 15 {}", uuid(1))).spawn().unwrap();
    wait_gone(holder.pid());
    assert!(!holder.0.wait().unwrap().success());
    let killed = killer.wait_with_output().unwrap();
    assert!(killed.status.success(), "{killed:?}");
    assert_eq!(parse_list(&poll.wait_with_output().unwrap().stdout).0, Vec::<String>::new());
    drop(stdin);
    assert!(!path(&host, 1).exists(), "what it left is removed");
}

/// Its supervisor is dead, and a helper that inherited the lock lives.
#[test]
fn what_a_crunch_run_left_is_stale() {
    let mut host = Host::new();
    host.set = "";
    host.ok("--list");
    let mut holder = Holder::of(&path(&host, 1), &format!("{{\"UUID\":\"{}\",\"PID\":2147483646}}\n", uuid(1)));
    assert_eq!(host.list().0, [format!("{} stale", uuid(1))]);
    host.ok(&format!("--kill 15 {}", uuid(1)));
    assert!(holder.is_alive(), "no later process of that number is meant");
    host.ok(&format!("--reap {}", uuid(1)));
    assert!(!holder.0.wait().unwrap().success());
    assert_eq!(host.list().0, Vec::<String>::new());
}

/// Fewer fields, more fields, other orders: what is known counts. A field that has become something else cannot be understood.
#[test]
fn other_versions_of_this_runner() {
    let host = Host::new();
    host.ok("--list");
    for (n, (fields, attempt)) in [
        ("\"PID\":PID_OF,\"Set\":\"test-set\"", Some(0)),
        ("\"PID\":PID_OF,\"Set\":\"test-set\",\"Attempt\":3", Some(3)),
        (
            "\"Cgroup\":{\"x\":[1]},\"Set\":\"test-set\",\"Attempt\":4,\"PID\":PID_OF,\"Version\":\"9.9\",\"Start\":0",
            Some(4),
        ),
        ("\"PID\":PID_OF,\"Set\":\"test-set\",\"Attempt\":\"5\"", None),
        ("\"PID\":\"PID_OF\",\"Set\":\"test-set\"", None),
        ("\"PID\":99999999999,\"Set\":\"test-set\"", None),
    ]
    .into_iter()
    .enumerate()
    {
        let mut holder = Holder::of(&path(&host, n), &format!("{{\"UUID\":\"{}\",{fields}}}\n", uuid(n)));
        let output = host.run("--list");
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        match attempt {
            Some(attempt) => {
                assert_eq!(parse_list(&output.stdout).0, [uuid(n)], "{fields}");
                assert!(text.contains(&format!("#attempt {} {attempt}\n", uuid(n))), "{fields}: {text}");
                if attempt > 0 {
                    host.ok(&format!("--kill 15 {} --attempt {}", uuid(n), attempt - 1));
                    assert!(holder.is_alive(), "a later attempt is spared: {fields}");
                }
                let killer = host.command(&format!("--kill 15 {} --attempt {attempt}", uuid(n))).spawn().unwrap();
                assert!(!holder.0.wait().unwrap().success(), "{fields}");
                assert!(killer.wait_with_output().unwrap().status.success());
            }
            None => {
                assert!(parse_list(&output.stdout).0.is_empty(), "{fields}: {text}");
                let said = String::from_utf8(output.stderr).unwrap();
                assert!(said.contains("cannot understand") && said.contains(&uuid(n)), "{fields}: {said}");
                assert!(host.refused(&format!("--kill 15 {}", uuid(n))).contains("cannot understand"));
                assert!(message(&host.start(&script(n, "true"))).contains("cannot understand"));
                assert!(holder.is_alive(), "{fields}");
            }
        }
    }
}

/// A file that nobody holds says nothing, whatever is in it: not even that session 0, where the kernel's own processes are, is a
/// container's.
#[test]
fn content_that_nobody_holds() {
    let host = Host::new();
    host.ok("--list");
    let numbers = [("0", "5"), ("-1", "5"), ("-0", "1"), ("2147483647", "1")];
    let mut contents: Vec<Vec<u8>> = numbers
        .iter()
        .map(|(pid, start)| {
            format!("{{\"UUID\":\"{}\",\"PID\":{pid},\"Set\":\"test-set\",\"Start\":{start}}}\n", uuid(1)).into_bytes()
        })
        .collect();
    // Another's name in it.
    contents.push(format!("{{\"UUID\":\"{}\",\"PID\":0,\"Set\":\"test-set\",\"Start\":5}}\n", uuid(2)).into_bytes());
    contents.extend([b"".to_vec(), b"\n\n".to_vec(), b"null".to_vec(), b"[]".to_vec(), vec![0xff; 5000], vec![0; 100]]);
    for content in contents {
        let shown = String::from_utf8_lossy(&content).into_owned();
        fs::write(path(&host, 1), &content).unwrap();
        assert_eq!(host.list().0, Vec::<String>::new(), "{shown}");
        assert!(!path(&host, 1).exists(), "{shown}");
        fs::write(path(&host, 1), &content).unwrap();
        host.ok(&format!("--reap {}", uuid(1)));
        host.ok(&format!("--kill 15 {}", uuid(1)));
        assert!(!path(&host, 1).exists(), "{shown}");
    }
    fs::write(path(&host, 1), [b'x'; 5000]).unwrap();
    host.finished(&script(1, "true"));
}

/// Gigabytes: no more than a line of them is read.
#[test]
fn giants() {
    let host = Host::new();
    host.ok("--list");
    let grow = |n| fs::OpenOptions::new().write(true).open(path(&host, n)).unwrap().set_len(8 << 30).unwrap();
    let line = |n| format!("{{\"UUID\":\"{}\",\"PID\":PID_OF,\"Set\":\"test-set\"}}\n", uuid(n));
    let mut holders = [Holder::of(&path(&host, 1), &line(1)), Holder::of(&path(&host, 2), "")];
    grow(1);
    grow(2);
    let limited = |line: &str| {
        let plain = host.command(line);
        let mut command = Command::new("sh");
        // Kilobytes of address space: less than a hundredth of the file.
        command.args(["-c", "ulimit -v 65536; exec \"$@\"", "sh"]).arg(plain.get_program()).args(plain.get_args());
        command.output().unwrap()
    };
    let output = limited("--list");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(parse_list(&output.stdout).0, [uuid(1)]);
    assert!(String::from_utf8(output.stderr).unwrap().contains(&uuid(2)));
    // Lines behind the first are those of a job that can write there.
    fs::OpenOptions::new().write(true).open(path(&host, 1)).unwrap().write_all_at(b"{\"UUID\":", 4 << 30).unwrap();
    assert_eq!(parse_list(&limited("--list").stdout).0, [uuid(1)]);
    assert!(holders.iter_mut().all(Holder::is_alive));
    drop(holders);
    assert_eq!(parse_list(&limited("--list").stdout).0, Vec::<String>::new());
    assert!(!path(&host, 1).exists() && !path(&host, 2).exists());
}

/// Directories, pipes and links with the name of a lock: named, nothing hangs, nothing is followed or removed, and all other containers
/// are as ever.
#[test]
fn what_is_no_file() {
    let host = Host::new();
    host.ok("--list");
    let precious = host.lock_dir().join("precious");
    fs::write(&precious, "precious").unwrap();
    let spec = script(9, "echo > ready; while :; do sleep 1; done");
    host.begun(&spec);
    fs::create_dir(path(&host, 1)).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, path(&host, 2), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    std::os::unix::fs::symlink(&precious, path(&host, 3)).unwrap();
    std::os::unix::fs::symlink("nowhere", path(&host, 4)).unwrap();
    std::os::unix::fs::symlink(path(&host, 9), path(&host, 5)).unwrap();
    let output = host.run("--list");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(parse_list(&output.stdout).0, [uuid(9)]);
    let said = String::from_utf8(output.stderr).unwrap();
    for n in 1..=5 {
        let name = path(&host, n).display().to_string();
        assert!(said.contains(&name), "{n}: {said}");
        for command in ["--kill 15", "--reap"] {
            let text = host.refused(&format!("{command} {}", uuid(n)));
            assert!(text.contains(&name), "{n}: {text}");
        }
        let text = message(&host.start(&script(n, "true")));
        assert!(text.contains(&name) && !text.contains("temporarily"), "{n}: {text}");
        assert!(path(&host, n).symlink_metadata().is_ok(), "{n}");
    }
    assert_eq!(fs::read(&precious).unwrap(), b"precious");
    host.run(&format!("--kill 15 {} --attempt 1", uuid(9)));
    host.wait_for(&format!("{} finished", uuid(9)));
}

/// Somebody else's file stands in a container's way, and says whose it is.
#[test]
fn what_belongs_to_another_user() {
    if !geteuid().is_root() {
        // Nobody else's files can be made.
        return;
    }
    let host = Host::new();
    host.ok("--list");
    let content = format!("{{\"UUID\":\"{}\",\"PID\":PID_OF,\"Set\":\"test-set\"}}\n", uuid(1));
    let mut holder = Holder::of(&path(&host, 1), &content);
    std::os::unix::fs::chown(path(&host, 1), Some(65_534), None).unwrap();
    assert_eq!(host.list().0, Vec::<String>::new(), "anybody could make it");
    assert!(host.refused(&format!("--kill 15 {}", uuid(1))).contains("belongs to user 65534"));
    assert!(host.refused(&format!("--reap {}", uuid(1))).contains("belongs to user 65534"));
    assert!(message(&host.start(&script(1, "true"))).contains("belongs to user 65534"));
    assert!(holder.is_alive() && path(&host, 1).exists());
    // The lock of all of them: nothing goes without it.
    std::os::unix::fs::chown(host.lock_dir().join("crunch-run-all.lock"), Some(65_534), None).unwrap();
    assert!(
        host.refused("--list").contains("crunch-run-all.lock belongs to user 65534 or is no plain file: remove it")
    );
}

/// The lock of all of them as something else: every command says so.
#[test]
fn a_lock_of_all_that_is_none() {
    let host = Host::new();
    host.ok("--list");
    let all = host.lock_dir().join("crunch-run-all.lock");
    let make: [&dyn Fn(); 3] =
        [&|| fs::create_dir(&all).unwrap(), &|| std::os::unix::fs::symlink("elsewhere", &all).unwrap(), &|| {
            rustix::fs::mknodat(rustix::fs::CWD, &all, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap()
        }];
    for make in make {
        if all.is_dir() {
            fs::remove_dir(&all).unwrap()
        } else {
            fs::remove_file(&all).unwrap()
        }
        make();
        for line in ["--list".to_owned(), format!("--kill 15 {}", uuid(1)), format!("--reap {}", uuid(1))] {
            assert!(host.refused(&line).contains("crunch-run-all.lock"), "{line}");
        }
        assert!(message(&host.start(&script(1, "true"))).contains("crunch-run-all.lock"));
        assert!(!host.lock_dir().join("elsewhere").exists());
    }
}

/// Another program has the lock of all of them, as `flock(1)` in a script: whoever comes waits, and goes on when it is free.
#[test]
fn a_program_that_holds_the_lock_of_all_delays() {
    let host = Host::new();
    host.ok("--list");
    let all = host.lock_dir().join("crunch-run-all.lock");
    let mut command = Command::new("flock");
    command.arg(&all).args(["-c", "echo held; exec cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut flock = command.spawn().unwrap();
    let mut said = BufReader::new(flock.stdout.take().unwrap());
    said.read_line(&mut String::new()).unwrap();
    let lines = ["--list".to_owned(), format!("--kill 15 {} --attempt 4", uuid(2)), format!("--reap {}", uuid(2))];
    let start = |line: &String| {
        let mut command = host.command(line);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<Child> = lines.iter().map(start).collect();
    std::thread::scope(|scope| {
        let started = scope.spawn(|| host.start(&script(1, "true")));
        let until = Instant::now() + PATIENCE;
        for child in &children {
            while !waits_for_a_lock(child.id()) {
                assert!(Instant::now() < until, "it does not wait");
                pause();
            }
        }
        // They end with the standard input of what holds it.
        drop(flock.stdin.take());
        assert!(flock.wait().unwrap().success());
        for (line, child) in lines.iter().zip(children) {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{line}: {output:?}");
        }
        assert!(started.join().unwrap().status.success());
    });
    host.wait_for(&format!("{} finished", uuid(1)));
}

/// The kernel lists who waits for whose lock.
fn waits_for_a_lock(pid: u32) -> bool {
    let locks = fs::read_to_string("/proc/locks").unwrap();
    locks.lines().any(|line| line.contains("->") && line.split_whitespace().any(|word| word == pid.to_string()))
}
