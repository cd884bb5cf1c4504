//! `muster show`: all of one container.

use super::client::{Client, encode};
use super::exit::{self, Failure};
use super::output::Output;
use super::{Global, times};
use crate::core::units::format_size;
use crate::management::records::{AttemptRecord, ContainerDetail};

/// Show all of one container: its record, attempts and history
///
/// Says why it waits, where it runs, how it ended, and where its results are.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  muster show local-dz642-0123456789abcde")]
pub(super) struct Options {
    #[arg(value_name = "UUID")]
    uuid: String,
}

pub(super) fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let client = Client::new(global)?;
    let detail: ContainerDetail = client.get(&format!("containers/{}", encode(&options.uuid)))?;
    let mut output = Output::new();
    if global.json {
        output.json(&detail)?;
    } else {
        print(&mut output, &detail)?;
    }
    output.done()?;
    Ok(exit::DONE)
}

fn print(output: &mut Output, detail: &ContainerDetail) -> Result<(), Failure> {
    let one = &detail.container;
    let command = detail.request["command"].as_array().map(Vec::as_slice).unwrap_or_default();
    let words: Vec<String> = command.iter().map(|word| shown(word.as_str().unwrap_or_default())).collect();
    let time = |at: Option<i64>| at.map_or_else(|| "-".to_owned(), times::moment);
    let mut rows = vec![
        ("uuid", one.uuid.clone()),
        ("name", one.name.clone()),
        ("state", one.state.clone()),
        ("status", one.status.clone()),
        ("why", one.explanation.clone()),
        ("exit code", one.exit_code.map_or_else(|| "-".to_owned(), |code| code.to_string())),
        ("priority", one.priority.to_string()),
        ("command", words.join(" ")),
        ("needs", needs(&detail.request)),
        ("instance", one.instance.clone().unwrap_or_else(|| "-".to_owned())),
        ("attempt", format!("{} of {}", one.attempt, one.max_attempts)),
        ("created", times::moment(one.created_at)),
        ("started", time(one.started_at)),
        ("finished", time(one.finished_at)),
        ("cost", format!("{:.6}", one.cost)),
    ];
    rows.extend(detail.runtime_status.iter().map(|(key, text)| (key.as_str(), text.clone())));
    for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        output.line(&format!("{name:<12} {value}"))?;
    }
    for attempt in &detail.attempts {
        output.line("")?;
        print_attempt(output, attempt)?;
    }
    output.line("\nhistory")?;
    for line in &detail.history {
        output.line(format!("  {}  {:<18} {}", times::exact(line.at), line.event, line.detail).trim_end())?;
    }
    Ok(())
}

fn needs(request: &serde_json::Value) -> String {
    let number = |value: &serde_json::Value| value.as_i64().unwrap_or(0);
    let constraints = &request["runtime_constraints"];
    format!("{} VCPUs, {} RAM", number(&constraints["vcpus"]), format_size(number(&constraints["ram"])))
}

/// A word as a shell would take it.
fn shown(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn print_attempt(output: &mut Output, attempt: &AttemptRecord) -> Result<(), Failure> {
    output.line(&format!("attempt {} on {} ({})", attempt.attempt, attempt.instance, attempt.instance_type))?;
    let mut rows = vec![("assigned", times::exact(attempt.assigned_at))];
    rows.extend(attempt.finished_at.map(|at| ("ended", times::exact(at))));
    if !attempt.ended_because.is_empty() {
        rows.push(("because", attempt.ended_because.clone()));
    }
    rows.extend(attempt.exit_code.map(|code| ("exit code", code.to_string())));
    rows.extend(attempt.signal.map(|signal| ("signal", signal.to_string())));
    rows.extend(
        attempt.peak_memory.map(|bytes| ("peak memory", format_size(i64::try_from(bytes).unwrap_or(i64::MAX)))),
    );
    rows.extend(attempt.cpu_seconds.map(|seconds| ("CPU time", format!("{seconds:.2} s"))));
    rows.extend(attempt.finished_at.map(|_| ("cost", format!("{:.6}", attempt.cost))));
    rows.extend(attempt.late.then(|| ("late", "its result came after it was closed, and changed nothing".to_owned())));
    rows.extend(attempt.result_dir.clone().map(|path| ("results", path)));
    for (name, value) in rows {
        output.line(&format!("  {name:<12} {value}"))?;
    }
    Ok(())
}
