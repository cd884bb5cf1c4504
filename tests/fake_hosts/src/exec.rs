//! Running one command line on a channel: its streams, the few programs a host has, and how its end is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use russh::server::{Handle, Msg};
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Disconnect, Sig};

use crate::host::Shared;
use crate::options::{ExecFault, Faults};
use crate::runner;
use crate::scripts;
use crate::shell::{self, Target, Word};
use crate::transport::Link;

/// Largest standard input that is kept: the configuration of a start.
const STDIN_BYTES_MAX: usize = 64 << 20;
/// Bytes of a flood at a time.
const CHUNK: usize = 32 << 10;

/// A command's standard input.
#[derive(Debug)]
pub(crate) struct Stdin {
    half: ChannelReadHalf,
    /// Arrived and not read yet.
    left: Vec<u8>,
    ended: bool,
}

impl Stdin {
    /// Waits for more; false at the end, also when the channel or the connection ends. Can be dropped while it waits.
    async fn more(&mut self) -> bool {
        while !self.ended {
            match self.half.wait().await {
                Some(ChannelMsg::Data { data }) => {
                    self.left.extend_from_slice(&data);
                    return true;
                }
                Some(ChannelMsg::Eof | ChannelMsg::Close) | None => self.ended = true,
                Some(_) => {}
            }
        }
        false
    }

    /// Reads to the end; what is too much is thrown away.
    pub(crate) async fn read_to_end(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            all.append(&mut self.left);
            all.truncate(STDIN_BYTES_MAX);
            if !self.more().await {
                return all;
            }
        }
    }

    /// Reads and throws away one line.
    pub(crate) async fn skip_line(&mut self) {
        loop {
            if let Some(end) = self.left.iter().position(|byte| *byte == b'\n') {
                self.left.drain(..=end);
                return;
            }
            if !self.more().await {
                return;
            }
        }
    }

    /// Waits for the end and throws away what comes before it; the number of bytes. Can be dropped while it waits.
    pub(crate) async fn ended(&mut self) -> u64 {
        let mut count = 0;
        loop {
            count += self.left.len() as u64;
            self.left.clear();
            if !self.more().await {
                return count;
            }
        }
    }

    /// Waits until the client has closed the channel or is gone.
    async fn closed(&mut self) {
        while !matches!(self.half.wait().await, Some(ChannelMsg::Close) | None) {}
    }
}

/// A command's output on its way: gathered, so that a short answer takes few packets.
#[derive(Debug)]
pub(crate) struct Output {
    half: ChannelWriteHalf<Msg>,
    /// In the order of writing; true = standard error.
    gathered: Vec<(bool, Vec<u8>)>,
    /// A flood that is still to come.
    flood: Option<(bool, u64)>,
}

impl Output {
    pub(crate) fn put(&mut self, is_stderr: bool, bytes: &[u8]) {
        match self.gathered.last_mut() {
            Some((last, gathered)) if *last == is_stderr => gathered.extend_from_slice(bytes),
            _ => self.gathered.push((is_stderr, bytes.to_vec())),
        }
    }

    /// Sends what is there; waits for the client's window. A client that is gone is found by whoever reads.
    pub(crate) async fn flush(&mut self) {
        for (is_stderr, bytes) in std::mem::take(&mut self.gathered) {
            let _ = match is_stderr {
                true => self.half.extended_data_bytes(1, bytes).await,
                false => self.half.data_bytes(bytes).await,
            };
        }
    }

    /// Called before a command's own output.
    async fn flood(&mut self) {
        let Some((is_stderr, mut left)) = self.flood.take() else { return };
        while left > 0 {
            let count = CHUNK.min(usize::try_from(left).unwrap_or(CHUNK));
            self.put(is_stderr, &[b'x'; CHUNK][..count]);
            self.flush().await;
            left -= count as u64;
        }
    }
}

/// One command line being run.
pub(crate) struct Run {
    pub(crate) shared: Arc<Shared>,
    pub(crate) stdin: Stdin,
    pub(crate) output: Output,
    variables: BTreeMap<String, String>,
    status: u32,
    /// The shell has ended before its line: `exit`, `exec`.
    ended: bool,
}

/// Runs `line` and tells how it ended.
pub(crate) async fn run(
    shared: Arc<Shared>,
    link: Arc<Link>,
    handle: Handle,
    channel: Channel<Msg>,
    line: String,
    faults: Faults,
) {
    let id = channel.id();
    let fault = faults.exec.filter(|_| line.contains(&faults.exec_if));
    if let Some(ExecFault::Cut(bytes)) = fault {
        link.cut_after(bytes);
    }
    let flood = match fault {
        Some(ExecFault::FloodStdout(bytes)) => Some((false, bytes)),
        Some(ExecFault::FloodStderr(bytes)) => Some((true, bytes)),
        _ => None,
    };
    let (read, write) = channel.split();
    let stdin = Stdin { half: read, left: Vec::new(), ended: false };
    if fault == Some(ExecFault::OtherStream) {
        let _ = write.extended_data_bytes(2, b"nobody asked".to_vec()).await;
        let mut stdin = stdin;
        return stdin.closed().await;
    }
    let mut output = Output { half: write, gathered: Vec::new(), flood };
    if !faults.noise.is_empty() {
        output.put(false, &faults.noise);
    }
    let mut run = Run { shared, stdin, output, variables: BTreeMap::new(), status: 0, ended: false };
    run.line(&line).await;
    run.output.flood().await;
    if !faults.delay.is_zero() {
        tokio::time::sleep(faults.delay).await;
    }
    run.output.flush().await;
    let Run { stdin: mut input, output: Output { half, .. }, status, .. } = run;
    // Who is gone does not hear it.
    match &fault {
        Some(ExecFault::Cut(_)) => {
            // In its turn: a cut from aside could come before what was written has left.
            let _ = handle.disconnect(Disconnect::ByApplication, "cut".into(), String::new()).await;
            return;
        }
        Some(ExecFault::NoStatus) => {}
        Some(ExecFault::Signal(name)) => {
            let name = Sig::Custom(name.clone());
            let _ = handle.exit_signal_request(id, name, false, String::new(), String::new()).await;
        }
        _ => drop(half.exit_status(status).await),
    }
    let _ = half.eof().await;
    if fault == Some(ExecFault::NeverClose) {
        return input.closed().await;
    }
    let _ = half.close().await;
}

impl Run {
    async fn line(&mut self, line: &str) {
        let steps = match shell::parse(line) {
            Ok(steps) => steps,
            Err(text) => {
                self.status = 2;
                return self.output.put(true, format!("sh: {text}\n").as_bytes());
            }
        };
        for step in steps {
            let due = match step.when {
                shell::When::Always => true,
                shell::When::Success => self.status == 0,
                shell::When::Failure => self.status != 0,
            };
            if !due || self.ended {
                continue;
            }
            let words = self.expand(&step.words);
            let mut sink = Sink { stdout: step.stdout, stderr: step.stderr };
            self.status = self.command(&words, &mut sink).await;
        }
    }

    fn expand(&mut self, words: &[Word]) -> Vec<String> {
        let status = self.status.to_string();
        let variables = &self.variables;
        let value = |name: &str| match name {
            "?" => status.clone(),
            _ => variables.get(name).cloned().unwrap_or_default(),
        };
        words.iter().map(|word| word.text(value)).collect()
    }

    /// Runs a simple command; its status.
    async fn command(&mut self, words: &[String], sink: &mut Sink) -> u32 {
        let mut words = words;
        let program = loop {
            let Some((first, rest)) = words.split_first() else { return 0 };
            match first.as_str() {
                "exec" => self.ended = true,
                "sudo" => {
                    let options = rest.iter().take_while(|word| word.starts_with('-')).count();
                    words = &rest[options..];
                    continue;
                }
                "command" => {}
                _ => match first.split_once('=') {
                    Some((name, value)) if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') => {
                        self.variables.insert(name.to_owned(), value.to_owned());
                    }
                    _ => break first.as_str(),
                },
            }
            words = rest;
        };
        let arguments = &words[1..];
        match program {
            ":" | "true" => return 0,
            "false" => return 1,
            "exit" => {
                self.ended = true;
                return arguments.first().and_then(|code| code.parse().ok()).unwrap_or(self.status);
            }
            "echo" => {
                sink.stdout(&mut self.output, format!("{}\n", arguments.join(" ")).as_bytes());
                return 0;
            }
            "printf" => {
                sink.stdout(&mut self.output, &printf(arguments));
                return 0;
            }
            _ => {}
        }
        self.output.flood().await;
        if let Some(answer) = self.shared.answer(&words.join(" ")) {
            sink.stdout(&mut self.output, &answer.stdout);
            sink.stderr(&mut self.output, &answer.stderr);
            return answer.exit_code.into();
        }
        self.program(program, arguments, sink).await
    }

    async fn program(&mut self, program: &str, arguments: &[String], sink: &mut Sink) -> u32 {
        let base = program.rsplit('/').next().unwrap_or_default();
        match base {
            "cat" => return self.cat(arguments, sink).await,
            // As `rm -f`.
            "rm" => {
                self.shared.change(|state| state.files.retain(|name, _| !arguments.contains(name)));
                return 0;
            }
            "uname" => {
                let text = format!("{}\n", self.shared.options.architecture);
                sink.stdout(&mut self.output, text.as_bytes());
                return 0;
            }
            "sleep" => {
                self.output.flush().await;
                let seconds = arguments.first().and_then(|word| word.parse().ok()).unwrap_or(0.0);
                tokio::time::sleep(Duration::try_from_secs_f64(seconds).unwrap_or_default()).await;
                return 0;
            }
            "sh" | "bash" => return scripts::execute(self, arguments, sink).await,
            "sha256sum" | "md5sum" => return self.checksum(base, arguments, sink),
            _ => {}
        }
        let name = base.split('~').next().unwrap_or_default();
        let is_runner = matches!(name, "muster-runner" | "crunch-run");
        if !is_runner || !self.shared.state().deployed || self.shared.faults.borrow().no_runner {
            sink.stderr(&mut self.output, format!("sh: {program}: not found\n").as_bytes());
            return 127;
        }
        runner::execute(self, arguments, sink).await
    }

    async fn cat(&mut self, arguments: &[String], sink: &mut Sink) -> u32 {
        let mut status = 0;
        for name in arguments {
            let content = self.shared.state().files.get(name).cloned();
            match content {
                Some(content) => sink.stdout(&mut self.output, &content),
                None => {
                    let text = format!("cat: {name}: No such file or directory\n");
                    sink.stderr(&mut self.output, text.as_bytes());
                    status = 1;
                }
            }
        }
        if arguments.is_empty() {
            loop {
                let bytes = std::mem::take(&mut self.stdin.left);
                sink.stdout(&mut self.output, &bytes);
                self.output.flush().await;
                if !self.stdin.more().await {
                    break;
                }
            }
        }
        status
    }

    /// The runner's file has the checksum that its name says.
    fn checksum(&mut self, program: &str, arguments: &[String], sink: &mut Sink) -> u32 {
        let path = arguments.last().map(String::as_str).unwrap_or_default();
        match path.rsplit_once('~').filter(|_| self.shared.state().deployed) {
            Some((_, sum)) => {
                sink.stdout(&mut self.output, format!("{sum}  {path}\n").as_bytes());
                0
            }
            None => {
                let text = format!("{program}: {path}: No such file or directory\n");
                sink.stderr(&mut self.output, text.as_bytes());
                1
            }
        }
    }
}

/// Where one command's streams go.
#[derive(Debug)]
pub(crate) struct Sink {
    stdout: Target,
    stderr: Target,
}

impl Sink {
    pub(crate) fn stdout(&self, output: &mut Output, bytes: &[u8]) {
        send(self.stdout, output, bytes);
    }

    pub(crate) fn stderr(&self, output: &mut Output, bytes: &[u8]) {
        send(self.stderr, output, bytes);
    }
}

fn send(target: Target, output: &mut Output, bytes: &[u8]) {
    match target {
        Target::Nowhere => {}
        _ if bytes.is_empty() => {}
        target => output.put(target == Target::Stderr, bytes),
    }
}

/// `printf` with `%s`, `%d`, `%%` and the usual escapes; the format is used again for what is left of the arguments.
fn printf(arguments: &[String]) -> Vec<u8> {
    let Some((format, arguments)) = arguments.split_first() else { return Vec::new() };
    let mut arguments = arguments.iter();
    let mut text = String::new();
    loop {
        let left = arguments.len();
        let mut rest = format.chars();
        while let Some(next) = rest.next() {
            match (next, next == '%' || next == '\\') {
                (_, false) => text.push(next),
                (kind, true) => match (kind, rest.next()) {
                    ('%', Some('s' | 'd')) => text.push_str(arguments.next().map_or("", String::as_str)),
                    ('\\', Some('n')) => text.push('\n'),
                    ('\\', Some('t')) => text.push('\t'),
                    ('\\', Some('r')) => text.push('\r'),
                    (_, Some(other)) => text.push(other),
                    (_, None) => text.push(kind),
                },
            }
        }
        if arguments.len() == 0 || arguments.len() == left {
            return text.into_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printf_formats() {
        for (words, expected) in [
            (&[][..], ""),
            (&["a\\nb%%"], "a\nb%"),
            (&["%s\\n", "x"], "x\n"),
            (&["%s-", "x", "y"], "x-y-"),
            (&["%s"], ""),
            (&["x", "unused"], "x"),
        ] {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(String::from_utf8_lossy(&printf(&words)), expected, "{words:?}");
        }
    }
}
