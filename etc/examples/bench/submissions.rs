//! Large submissions and long histories: time, and the memory of the daemon and of the command.
//!
//! How it is measured: daemons of their own on the loopback driver, the commands as processes of the installed program. Memory is what the
//! kernel says: the most that a process had resident, or what it has then. One core, kept busy, so that containers wait; what has to be
//! final is cancelled, which leaves the same rows and history as an end.

use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::daemon::{Demo, Failure, launch};

const MANY: usize = 100_000;
const WAITING: usize = 10_000;
const ONE_CORE: &str = "InstanceTypes: {localhost: {VCPUs: 1, RAM: 4GiB, IncludedScratch: 10GiB, Price: 1}}\n";

/// `lines`: of the largest file.
pub(crate) fn run(lines: usize) -> Result<(), Failure> {
    by_array()?;
    by_file(MANY)?;
    long_history()?;
    by_file(lines)
}

/// In a folder of its own, with the only core taken.
fn busy_daemon() -> Result<(tempfile::TempDir, Demo), Failure> {
    let folder = tempfile::Builder::new().prefix("muster-bench-").tempdir()?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711))?;
    let demo = Demo::start(folder.path(), ONE_CORE)?;
    let blocker = demo.submit(&["--", "sleep", "100000"])?;
    let until = Instant::now() + Duration::from_secs(60);
    while demo.json(&["show", &blocker])?["container"]["state"] != "Running" {
        if Instant::now() > until {
            return Err(Failure::Wrong("the first container does not run".to_owned()));
        }
        crate::daemon::pause();
    }
    Ok((folder, demo))
}

/// Nothing of it is left running.
fn end(demo: &mut Demo) -> Result<(), Failure> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        // Refused when nothing is left to cancel.
        drop(demo.muster(&["cancel", "--name", "*"]));
        let status = demo.json(&["status"])?;
        let of = |state: &str| status["containers"][state].as_u64().unwrap_or(0);
        if of("Queued") + of("Locked") + of("Running") == 0 {
            return demo.stop();
        }
        if Instant::now() > until {
            return Err(Failure::Wrong(format!("not all could be cancelled: {status}")));
        }
        crate::daemon::pause();
    }
}

fn by_array() -> Result<(), Failure> {
    let (_folder, mut demo) = busy_daemon()?;
    let figures = submit(&demo, &["--array", &format!("1-{MANY}"), "--", "true"])?;
    println!("{MANY} as an array (to be below 5 s and 200 MB)");
    figures.show(&demo, MANY)?;
    end(&mut demo)
}

fn by_file(lines: usize) -> Result<(), Failure> {
    let (folder, mut demo) = busy_daemon()?;
    let path = folder.path().join("jobs.jsonl");
    let mut file = BufWriter::new(std::fs::File::create(&path)?);
    for line in 0..lines {
        writeln!(file, "{{\"command\":[\"true\",\"{line}\"],\"name\":\"job-{line}\"}}")?;
    }
    drop(file);
    let figures = submit(&demo, &["--file", &path.to_string_lossy()])?;
    println!("{lines} lines as a file");
    figures.show(&demo, lines)?;
    end(&mut demo)
}

/// What a daemon has resident that has ended many, and one that was started afterwards.
fn long_history() -> Result<(), Failure> {
    let (folder, mut demo) = busy_daemon()?;
    submit(&demo, &["--name", "old", "--array", &format!("1-{MANY}"), "--", "true"])?;
    let began = Instant::now();
    demo.muster(&["cancel", "--name", "old"])?;
    println!("{MANY} finished, {WAITING} waiting (to be below 150 MB)");
    println!("  ended in                               {:.1} s", began.elapsed().as_secs_f64());
    submit(&demo, &["--name", "new", "--array", &format!("1-{WAITING}"), "--", "true"])?;
    println!("  daemon that did it                     {}", resident(&demo)?);
    demo.stop()?;
    let began = Instant::now();
    demo.child = launch(&demo.program, &demo.config, &folder.path().join("muster.log"))?;
    demo.wait_until_ready()?;
    println!("  started anew, answers after            {:.1} s", began.elapsed().as_secs_f64());
    let status = demo.json(&["status"])?;
    let of = |state: &str| status["containers"][state].as_u64().unwrap_or(0);
    println!("  with finished, waiting                 {}, {}", of("Cancelled"), of("Queued"));
    println!("  daemon                                 {}", resident(&demo)?);
    end(&mut demo)
}

/// Of one `muster submit`.
struct Figures {
    took: Duration,
    /// KiB, most resident.
    command: u64,
    uuids: usize,
}

impl Figures {
    fn show(&self, demo: &Demo, expected: usize) -> Result<(), Failure> {
        if self.uuids != expected {
            return Err(Failure::Wrong(format!("{} uuids were printed, not {expected}", self.uuids)));
        }
        println!("  submitted in                           {:.1} s", self.took.as_secs_f64());
        println!("  command, most resident                 {}", megabytes(self.command));
        println!("  daemon, most resident                  {}", megabytes(memory(demo.child.id(), "VmHWM:")?));
        Ok(())
    }
}

/// The command's memory is looked at again and again: what it prints goes to a file, so that nothing holds it up.
fn submit(demo: &Demo, arguments: &[&str]) -> Result<Figures, Failure> {
    let printed = demo.config.with_file_name("uuids");
    let began = Instant::now();
    let mut child = Command::new(&demo.program)
        .arg("--config")
        .arg(&demo.config)
        .arg("submit")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&printed)?)
        .spawn()?;
    let mut command = 0;
    let status = loop {
        // Gone when it has just ended.
        command = memory(child.id(), "VmHWM:").unwrap_or(0).max(command);
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::park_timeout(Duration::from_millis(2));
    };
    let took = began.elapsed();
    if !status.success() {
        return Err(Failure::Wrong(format!("submit {arguments:?} ended with {status}")));
    }
    Ok(Figures { took, command, uuids: lines_of(&printed)? })
}

fn lines_of(path: &Path) -> Result<usize, Failure> {
    Ok(std::fs::read(path)?.iter().filter(|byte| **byte == b'\n').count())
}

fn resident(demo: &Demo) -> Result<String, Failure> {
    // What is given back is given back within a second or so; there is nothing to wait for.
    std::thread::park_timeout(Duration::from_secs(3));
    let (now, most) = (memory(demo.child.id(), "VmRSS:")?, memory(demo.child.id(), "VmHWM:")?);
    Ok(format!("{} resident, {} at most", megabytes(now), megabytes(most)))
}

/// A line of the kernel's about a process, in KiB.
fn memory(process: u32, field: &str) -> Result<u64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|line| line.split_ascii_whitespace().next()).and_then(|number| number.parse().ok());
    number.ok_or_else(|| Failure::Wrong(format!("process {process} has no {field}")))
}

fn megabytes(kib: u64) -> String {
    format!("{} MB", kib * 1024 / 1_000_000)
}
