//! `muster submit`: new containers, one, an array, or a file of them.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use super::client::Client;
use super::exit::{self, Failure};
use super::output::{Output, say};
use super::{Global, large, values, wait};
use crate::management::records::{Batch, Commit, Submission, Submitted};

/// A job's standard input is kept in the queue.
const STDIN_BYTES_MAX: u64 = 1024 * 1024;
/// Pieces of a job file; the API takes 10 MiB, and each is one transaction.
const PIECE_BYTES: usize = 2 * 1024 * 1024;
const LINE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Submit a container, an array of them, or a file of job records; prints the uuids, one a line
///
/// The command is not interpreted by a shell: use `sh -c '...'` where you need one. The job gets PATH, HOME, TMPDIR,
/// MUSTER_UUID, MUSTER_ATTEMPT, MUSTER_ARRAY_INDEX and what --env says, nothing else; its working directory is a
/// fresh one.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Options {
    /// Name, for lists and selections
    #[arg(long, default_value = "")]
    name: String,
    /// Processors
    #[arg(long, value_name = "N", default_value_t = 1)]
    vcpus: i64,
    /// Memory, such as 512MiB or 4GB
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = values::size)]
    ram: i64,
    /// Disk for the working directory
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = values::size)]
    scratch: i64,
    /// 1 to 1000, higher is earlier; 0 = on hold
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = values::priority)]
    priority: i64,
    /// Container image; the engine that runs it is Muster.Runner.Engine
    #[arg(long, value_name = "REF", default_value = "")]
    image: String,
    /// Environment variable of the job; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::pair)]
    env: Vec<(String, String)>,
    /// Absolute path to start in instead of the fresh directory
    #[arg(long, value_name = "DIR", default_value = "")]
    cwd: String,
    /// Submit once for each index, both ends included; the job finds its own in $MUSTER_ARRAY_INDEX
    #[arg(long, value_name = "A-B", value_parser = values::range, conflicts_with = "file")]
    array: Option<(i64, i64)>,
    /// End the job after this time
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    max_run_time: Option<Duration>,
    /// Tries when the runner or the instance is lost [default: Queue.MaxAttempts]
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
    /// File or directory below the working directory to bring back; may be repeated
    #[arg(long, value_name = "PATH")]
    output: Vec<String>,
    /// Use preemptible instances
    #[arg(long)]
    preemptible: bool,
    /// The job's standard input, at most 1 MiB
    #[arg(long, value_name = "FILE")]
    stdin: Option<PathBuf>,
    /// Start only when this container has succeeded; may be repeated
    #[arg(long, value_name = "UUID")]
    after: Vec<String>,
    /// The same token again gives the same uuids and submits nothing
    #[arg(long, value_name = "T")]
    token: Option<String>,
    /// Wait for the end, and exit with the job's exit code; 125 if it was cancelled
    #[arg(long)]
    wait: bool,
    /// One job record a line as JSON, all or nothing; `-` = standard input
    #[arg(long, value_name = "JOBS.jsonl", conflicts_with_all = JOB_OPTIONS)]
    file: Option<PathBuf>,
    /// Program and arguments
    #[arg(trailing_var_arg = true, value_name = "COMMAND", required_unless_present = "file")]
    command: Vec<String>,
}

/// What the records of a job file say themselves.
const JOB_OPTIONS: [&str; 15] = [
    "command",
    "name",
    "vcpus",
    "ram",
    "scratch",
    "priority",
    "image",
    "env",
    "cwd",
    "max_run_time",
    "max_attempts",
    "output",
    "preemptible",
    "stdin",
    "after",
];

const EXAMPLES: &str = "\
Examples:
  muster submit --name hello -- echo 'hello world'
  muster submit --wait --ram 2GiB --vcpus 2 -- sh -c 'make test > report.txt' --output report.txt
  muster submit --array 1-100 -- sh -c 'process input-$MUSTER_ARRAY_INDEX'
  muster submit --file jobs.jsonl
A record of a job file: {\"name\": \"a\", \"command\": [\"sh\", \"-c\", \"…\"], \"ram\": \"1GiB\", \"priority\": 700}";

pub(super) fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let client = Client::new(global)?;
    let mut output = Output::new();
    let submitted = match &options.file {
        // Written as they are read: there may be a million of them.
        Some(path) if !global.json && !options.wait => {
            large::each_uuid(submit_file(&client, path, options)?, |uuid| output.line(&uuid))?;
            output.done()?;
            return Ok(exit::DONE);
        }
        Some(path) => {
            let mut uuids = Vec::new();
            large::each_uuid(submit_file(&client, path, options)?, |uuid| {
                uuids.push(uuid);
                Ok(())
            })?;
            Submitted { uuids }
        }
        None => {
            let submission =
                Submission { records: vec![record(options)?], array: options.array, token: options.token.clone() };
            client.post("containers", &submission)?
        }
    };
    if global.json {
        output.json(&submitted)?;
    } else {
        for uuid in &submitted.uuids {
            output.line(uuid)?;
        }
    }
    output.done()?;
    if !options.wait {
        return Ok(exit::DONE);
    }
    wait::for_submitted(&client, submitted.uuids)
}

/// In the short form of a record.
fn record(options: &Options) -> Result<Value, Failure> {
    let mut record = Map::new();
    let mut set = |name: &str, value: Value| drop(record.insert(name.to_owned(), value));
    set("name", options.name.as_str().into());
    set("command", options.command.clone().into());
    set("vcpus", options.vcpus.into());
    set("ram", options.ram.into());
    set("scratch", options.scratch.into());
    set("priority", options.priority.into());
    set("cwd", options.cwd.as_str().into());
    set("container_image", options.image.as_str().into());
    set(
        "environment",
        Value::Object(options.env.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect()),
    );
    set("outputs", options.output.clone().into());
    set("after", options.after.clone().into());
    set("scheduling_parameters", json!({"preemptible": options.preemptible}));
    if let Some(limit) = options.max_run_time {
        set("max_run_time", limit.as_secs_f64().into());
    }
    if let Some(attempts) = options.max_attempts {
        set("max_attempts", attempts.into());
    }
    if let Some(path) = &options.stdin {
        set("stdin", read_stdin(path)?.into());
    }
    Ok(Value::Object(record))
}

fn read_stdin(path: &Path) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(STDIN_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| Failure::Failed(format!("--stdin {}: {error}", path.display())))?;
    if bytes.len() as u64 > STDIN_BYTES_MAX {
        let text =
            format!("--stdin {}: more than {STDIN_BYTES_MAX} bytes; have the job read a file instead", path.display());
        return Err(Failure::Failed(text));
    }
    String::from_utf8(bytes).map_err(|_| Failure::Failed(format!("--stdin {}: not UTF-8 text", path.display())))
}

/// In pieces, so that a million lines need no memory; committed as one. The answer: a [`Submitted`] document.
fn submit_file(client: &Client, path: &Path, options: &Options) -> Result<Box<dyn Read>, Failure> {
    let from_stdin = path == Path::new("-");
    let name = if from_stdin { "standard input".to_owned() } else { path.display().to_string() };
    let failed = |error: std::io::Error| Failure::Failed(format!("{name}: {error}"));
    let mut reader: Box<dyn BufRead> = if from_stdin {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(BufReader::new(std::fs::File::open(path).map_err(failed)?))
    };
    let Batch { batch } = client.post("batches", &json!({}))?;
    let (mut piece, mut line, mut number) = (Vec::new(), Vec::new(), 0_usize);
    loop {
        line.clear();
        let read = (&mut reader).take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line).map_err(failed)?;
        if read > LINE_BYTES_MAX {
            return Err(Failure::Failed(format!("{name}: line {}: more than {LINE_BYTES_MAX} bytes", number + 1)));
        }
        if read == 0 || piece.len() + line.len() > PIECE_BYTES {
            send_piece(client, &batch, &mut piece)?;
        }
        if read == 0 {
            break;
        }
        number += 1;
        if let Some(fault) = fault_of(&line) {
            return Err(Failure::Failed(format!("{name}: line {number}: not JSON: {fault}; nothing was submitted")));
        }
        piece.extend_from_slice(line.trim_ascii());
        piece.push(b'\n');
    }
    let commit = Commit { token: options.token.clone() };
    let commit = serde_json::to_vec(&commit).map_err(|error| Failure::Failed(error.to_string()))?;
    let answer = large::call(client, "POST", &format!("batches/{batch}/commit"), &commit);
    let answer = answer.map_err(|failure| match failure {
        Failure::Failed(text) => Failure::Failed(format!("{name}: {text}; nothing was submitted")),
        other => other,
    })?;
    answer.body()
}

/// Blank lines have none.
fn fault_of(line: &[u8]) -> Option<String> {
    if line.trim_ascii().is_empty() {
        return None;
    }
    match std::str::from_utf8(line) {
        Ok(text) => serde_json::from_str::<IgnoredAny>(text).err().map(|error| error.to_string()),
        Err(error) => Some(error.to_string()),
    }
}

fn send_piece(client: &Client, batch: &str, piece: &mut Vec<u8>) -> Result<(), Failure> {
    if piece.is_empty() {
        return Ok(());
    }
    let answer = client.call("POST", &format!("batches/{batch}/records"), piece)?;
    piece.clear();
    let so_far = serde_json::from_slice::<Value>(&answer.body).ok().and_then(|answer| answer["records"].as_u64());
    if let Some(so_far) =
        so_far.filter(|so_far| *so_far > 50_000 && std::io::IsTerminal::is_terminal(&std::io::stderr()))
    {
        say(&format!("{so_far} records sent"));
    }
    Ok(())
}
