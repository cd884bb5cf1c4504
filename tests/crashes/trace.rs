//! What `strace -f -xx -y -o FILE` has written, as calls in one order.
//!
//! strace stops a process where a call begins and where it has returned, and writes a line before the process goes on. So a call whose
//! last line comes before another's first line had returned before that one did anything, whichever processes and threads they are of.

use std::collections::BTreeMap;
use std::path::Path;

use crate::harness::Site;

/// The calls that order what is on disk, and those that show what happens between them. A page of the database is 4 KiB.
pub(crate) const STRACE: [&str; 10] = [
    "strace",
    // The traced process is the one that was started, and the tracer its descendant.
    "-D",
    "-f",
    "--seccomp-bpf",
    "-xx",
    "-y",
    "-s",
    "4200",
    "-e",
    "trace=execve,write,pwrite64,ftruncate,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat",
];

#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) process: i32,
    /// `exit` for the end of a process or thread.
    pub(crate) name: String,
    arguments: String,
    pub(crate) result: i64,
    /// Its first line, and its last.
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// The bytes of `\x41\x42`; strace escapes everything.
fn unescape(text: &str) -> Vec<u8> {
    let digits = |part: &str| u8::from_str_radix(part.get(..2).unwrap_or(part), 16).expect("two digits");
    text.split("\\x").skip(1).map(digits).collect()
}

fn text(bytes: &str) -> String {
    String::from_utf8_lossy(&unescape(bytes)).into_owned()
}

impl Call {
    /// Its strings, in order; those of a list too.
    pub(crate) fn strings(&self) -> Vec<String> {
        self.arguments.split('"').skip(1).step_by(2).map(text).collect()
    }

    /// The file that its first argument, a descriptor, stands for.
    pub(crate) fn file(&self) -> String {
        let inside = self.arguments.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
        inside.map(|(path, _)| text(path)).unwrap_or_default()
    }

    /// The bytes that it writes.
    pub(crate) fn data(&self) -> Vec<u8> {
        self.arguments.split('"').nth(1).map(unescape).unwrap_or_default()
    }

    /// Its last argument.
    pub(crate) fn last_number(&self) -> usize {
        self.arguments.rsplit(", ").next().and_then(|number| number.parse().ok()).expect("a number")
    }

    pub(crate) fn is_sync_of(&self, path: &str) -> bool {
        matches!(self.name.as_str(), "fsync" | "fdatasync") && self.result == 0 && self.file() == path
    }

    pub(crate) fn writes(&self) -> bool {
        matches!(self.name.as_str(), "write" | "pwrite64" | "ftruncate") && self.result >= 0
    }

    /// It moves a file: from where to where.
    pub(crate) fn moved(&self) -> Option<(String, String)> {
        let strings = self.name.starts_with("rename").then(|| self.strings()).filter(|_| self.result == 0)?;
        Some((strings.first()?.clone(), strings.get(1)?.clone()))
    }
}

/// All calls of a complete trace that have returned, in the order in which they did.
pub(crate) fn parse(trace: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut open: BTreeMap<i32, (String, usize)> = BTreeMap::new();
    for (number, line) in trace.lines().enumerate() {
        let (process, rest) = line.split_once(' ').expect("a number and a call");
        let (process, rest) = (process.parse().expect("a number"), rest.trim_start());
        if rest.starts_with("+++ ") {
            let (name, arguments) = ("exit".to_owned(), String::new());
            calls.push(Call { process, name, arguments, result: 0, start: number, end: number });
        } else if rest.starts_with("--- ") {
            // A signal.
        } else if let Some(begun) = rest.strip_suffix(" <unfinished ...>") {
            open.insert(process, (begun.to_owned(), number));
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            // A process that has changed its number by an execve of another thread has no beginning; ours do no such thing.
            let (begun, start) = open.remove(&process).expect("a call that began");
            let (_, ending) = resumed.split_once(" resumed>").expect("a call that ends");
            calls.extend(complete(process, &format!("{begun}{ending}"), (start, number)));
        } else {
            calls.extend(complete(process, rest, (number, number)));
        }
    }
    calls
}

/// `name(arguments) = result text`; nothing for a call that never returns.
fn complete(process: i32, line: &str, (start, end): (usize, usize)) -> Option<Call> {
    let (call, result) = line.rsplit_once(" = ")?;
    let (name, arguments) = call.split_once('(')?;
    let arguments = arguments.trim_end().strip_suffix(')')?.to_owned();
    let result = result.split([' ', '<']).next()?.parse().ok()?;
    Some(Call { process, name: name.to_owned(), arguments, result, start, end })
}

/// A command of the runner's that somebody executed.
pub(crate) struct Command<'a> {
    pub(crate) call: &'a Call,
    pub(crate) uuid: String,
    pub(crate) attempt: u32,
}

impl std::fmt::Debug for Command<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "attempt {} of {}, line {} of the trace", self.attempt, self.uuid, self.call.start)
    }
}

/// Those whose first word is `what`.
pub(crate) fn commands<'a>(calls: &'a [Call], what: &str) -> Vec<Command<'a>> {
    let executed = calls.iter().filter(|call| call.name == "execve" && call.result == 0);
    let command = |call: &'a Call| {
        // The program's path comes before the list of its words.
        let words = call.strings();
        let attempt = words.iter().position(|word| word == "--attempt")? + 1;
        let attempt = words.get(attempt)?.parse().ok()?;
        (words.get(2).is_some_and(|word| word == what)).then(|| Command {
            call,
            uuid: words.last().cloned().unwrap_or_default(),
            attempt,
        })
    };
    executed.filter_map(command).collect()
}

/// Bytes of a file if the power fails when line `moment` is written and nothing reaches the disk but what was synced by then.
pub(crate) fn durable(calls: &[Call], path: &Path, moment: usize) -> Vec<u8> {
    let path = path.to_str().expect("text");
    let synced = calls.iter().filter(|call| call.end < moment && call.is_sync_of(path)).map(|call| call.start).max();
    let mut bytes = Vec::new();
    for call in calls.iter().filter(|call| call.writes() && Some(call.end) < synced && call.file() == path) {
        let place = call.last_number();
        if call.name == "ftruncate" {
            bytes.resize(place, 0);
            continue;
        }
        assert_eq!(call.name, "pwrite64", "a write without a place: {call:?}");
        let data = call.data();
        assert_eq!(Ok(data.len()), usize::try_from(call.result), "cut off in the trace");
        bytes.resize(bytes.len().max(place + data.len()), 0);
        bytes[place..place + data.len()].copy_from_slice(&data);
    }
    bytes
}

/// The trace of a daemon, from its first call to its last one and those of all that it has started; `during` is what happens while it
/// runs.
pub(crate) fn of_daemon(site: &mut Site, during: impl FnOnce(&mut Site)) -> Vec<Call> {
    let file = site.folder().join("trace");
    site.entrance = STRACE.iter().map(|word| (*word).to_owned()).collect();
    site.entrance.extend(["-o".to_owned(), file.to_str().expect("text").to_owned()]);
    site.launch(&[]);
    site.entrance.clear();
    site.wait_until("the daemon answers", |site| site.run(&["status"]).status.success());
    let daemon = site.pid().as_raw_nonzero().to_string();
    during(site);
    site.stop();
    let mut trace = String::new();
    // The tracer writes behind a process that has ended.
    site.wait_until("the trace is complete", |_| {
        trace = std::fs::read_to_string(&file).expect("a trace");
        trace
            .lines()
            .map(|line| line.split_whitespace())
            .any(|mut words| words.next() == Some(&*daemon) && words.next() == Some("+++"))
    });
    parse(&trace)
}

#[test]
fn calls_of_several_processes_are_put_together() {
    let trace = "\
17  fsync(5<\\x2f\\x61> <unfinished ...>
18  rename(\"\\x2f\\x61\", \"\\x2f\\x62\") = 0
17  <... fsync resumed>)              = 0
18  --- SIGCHLD {si_signo=SIGCHLD} ---
18  pwrite64(6<\\x2f\\x62>, \"\\x00\\x41\", 2, 4) = 2
17  unlink(\"\\x2f\\x63\")               = -1 ENOENT (No such file or directory)
17  exit_group(0)                     = ?
17  +++ exited with 0 +++
";
    let calls = parse(trace);
    let lines: Vec<_> = calls.iter().map(|call| (call.name.as_str(), call.start, call.end, call.result)).collect();
    let expected =
        [("rename", 1, 1, 0), ("fsync", 0, 2, 0), ("pwrite64", 4, 4, 2), ("unlink", 5, 5, -1), ("exit", 7, 7, 0)];
    assert_eq!(lines, expected);
    assert_eq!(calls[0].moved(), Some(("/a".to_owned(), "/b".to_owned())));
    assert!(calls[1].is_sync_of("/a") && !calls[1].is_sync_of("/b"));
    assert_eq!((calls[2].file().as_str(), calls[2].data(), calls[2].last_number()), ("/b", vec![0, 0x41], 4));
}
