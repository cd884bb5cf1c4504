//! `muster list`: containers as a table.

use super::client::{Client, encode};
use super::exit::{self, Failure};
use super::output::{Output, is_colourful, say, width};
use super::{Global, table, times, values};
use crate::management::records::{ContainerList, ContainerRecord};

/// Largest page that the API gives.
const PAGE: usize = 10_000;

/// List containers, newest first
///
/// The last column says why a container waits, or why it ended as it did.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  muster list --state Running\n  muster list --name 'align*' --limit 1000 --json")]
pub(super) struct Options {
    /// Only those in this state
    #[arg(long, value_name = "STATE", value_parser = values::STATES)]
    state: Option<String>,
    /// Only those whose name matches this pattern
    #[arg(long, value_name = "GLOB")]
    name: Option<String>,
    /// At most so many; 0 = all
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
}

pub(super) fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let client = Client::new(global)?;
    let list = fetch(&client, options)?;
    let mut output = Output::new();
    if global.json {
        output.json(&list)?;
        output.done()?;
        return Ok(exit::DONE);
    }
    let now = times::now();
    let rows: Vec<Vec<String>> = list.items.iter().map(|record| row(record, now)).collect();
    let heading = ["UUID", "NAME", "STATE", "PRIO", "INSTANCE", "AGE", "STATUS"];
    for (index, line) in table::lines(&heading, &rows, width()).iter().enumerate() {
        let state = index.checked_sub(1).and_then(|index| list.items.get(index)).map(|record| record.state.as_str());
        output.line(&coloured(line, state))?;
    }
    output.done()?;
    if list.next.is_some() {
        say(&format!("the newest {} of more: --limit 0 lists all", list.items.len()));
    }
    Ok(exit::DONE)
}

/// The uuids of all that match, oldest first.
pub(super) fn matching(client: &Client, name: Option<&str>, state: Option<&str>) -> Result<Vec<String>, Failure> {
    let all = Options { state: state.map(str::to_owned), name: name.map(str::to_owned), limit: 0 };
    Ok(fetch(client, &all)?.items.into_iter().rev().map(|record| record.uuid).collect())
}

fn fetch(client: &Client, options: &Options) -> Result<ContainerList, Failure> {
    let wanted = if options.limit == 0 { usize::MAX } else { options.limit };
    let mut all = ContainerList::default();
    let mut filter = String::new();
    for (name, value) in [("state", &options.state), ("name", &options.name)] {
        if let Some(value) = value {
            filter.push_str(&format!("&{name}={}", encode(value)));
        }
    }
    loop {
        let limit = PAGE.min(wanted - all.items.len());
        let before = all.next.as_ref().map(|next| format!("&before={}", encode(next))).unwrap_or_default();
        let page: ContainerList = client.get(&format!("containers?limit={limit}{filter}{before}"))?;
        all.items.extend(page.items);
        all.next = page.next;
        if all.next.is_none() || all.items.len() >= wanted {
            return Ok(all);
        }
    }
}

fn row(record: &ContainerRecord, now: i64) -> Vec<String> {
    let name = match record.array_index {
        Some(index) => format!("{}[{index}]", record.name),
        None => record.name.clone(),
    };
    vec![
        record.uuid.clone(),
        name,
        record.state.clone(),
        record.priority.to_string(),
        record.instance.clone().unwrap_or_else(|| "-".to_owned()),
        times::span(now - record.created_at),
        status_of(record),
    ]
}

/// How it ended, or why it waits.
pub(super) fn status_of(record: &ContainerRecord) -> String {
    match (record.exit_code, record.status.as_str(), record.explanation.as_str()) {
        (Some(code), "", _) => format!("exit code {code}"),
        (Some(code), text, _) => format!("exit code {code}; {text}"),
        (None, text, "") => text.to_owned(),
        (None, text, why) => format!("{text}  ({why})"),
    }
}

fn coloured(line: &str, state: Option<&str>) -> String {
    let code = match state {
        _ if !is_colourful() => return line.to_owned(),
        None => "1",
        Some("Running") => "32",
        Some("Cancelled") => "31",
        Some("Queued" | "Locked") => "33",
        Some(_) => return line.to_owned(),
    };
    format!("\x1b[{code}m{line}\x1b[0m")
}
