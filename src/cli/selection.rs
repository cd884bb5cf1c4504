//! Which containers a command is for: uuids, a list on standard input, or filters.

use std::io::BufRead;

use clap::Args;

use super::client::Client;
use super::exit::Failure;
use super::output::{Output, say};
use super::{Global, exit, values};
use crate::management::records::{Outcomes, Selection};

const LINE_BYTES_MAX: usize = 200;
/// uuids in one request: some megabytes are the most that the API takes.
pub(super) const UUIDS_PER_REQUEST: usize = 50_000;
/// More uuids than this on standard input are refused.
const UUIDS_MAX: usize = 1_000_000;

/// Options of commands that take several containers.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Selected {
    /// Containers; `-` reads uuids from standard input, one a line
    #[arg(value_name = "UUID")]
    pub(super) uuids: Vec<String>,
    /// All whose name matches this pattern (`*`, `?`, `[a-z]`)
    #[arg(long, value_name = "GLOB")]
    pub(super) name: Option<String>,
    /// All in this state
    #[arg(long, value_name = "STATE", value_parser = values::STATES)]
    pub(super) state: Option<String>,
}

impl Selected {
    /// As the API takes it; nothing selected is wrong usage rather than everything.
    pub(super) fn selection(&self) -> Result<Selection, Failure> {
        let mut uuids = Vec::new();
        for uuid in &self.uuids {
            if uuid == "-" { read_uuids(&mut uuids)? } else { uuids.push(uuid.clone()) }
        }
        if uuids.is_empty() && self.name.is_none() && self.state.is_none() {
            return Err(Failure::Usage("nothing is selected: give uuids, - for a list, --name or --state".to_owned()));
        }
        Ok(Selection { uuids, name: self.name.clone(), state: self.state.clone(), priority: None })
    }
}

/// Blank lines and lines that begin with `#` are skipped.
fn read_uuids(uuids: &mut Vec<String>) -> Result<(), Failure> {
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| Failure::Failed(format!("cannot read the list: {error}")))?;
        let line = line.trim();
        if line.len() > LINE_BYTES_MAX {
            return Err(Failure::Usage(format!("a line of the list has {} bytes: one uuid a line", line.len())));
        }
        if !line.is_empty() && !line.starts_with('#') {
            uuids.push(line.to_owned());
        }
        if uuids.len() > UUIDS_MAX {
            return Err(Failure::Usage(format!("more than {UUIDS_MAX} uuids")));
        }
    }
    Ok(())
}

/// Posts a selection, in as many requests as it needs.
pub(super) fn post(client: &Client, path: &str, selection: &Selection) -> Result<Outcomes, Failure> {
    if selection.uuids.is_empty() {
        return client.post(path, selection);
    }
    let mut all = Outcomes::default();
    for uuids in selection.uuids.chunks(UUIDS_PER_REQUEST) {
        let part = Selection { uuids: uuids.to_vec(), ..selection.clone() };
        let outcomes: Outcomes = client.post(path, &part)?;
        all.items.extend(outcomes.items);
    }
    Ok(all)
}

/// One line for each container; what failed goes to standard error and into the exit code.
pub(super) fn report(global: &Global, outcomes: &Outcomes) -> Result<u8, Failure> {
    let mut output = Output::new();
    if global.json {
        output.json(outcomes)?;
    }
    let mut code = exit::DONE;
    for outcome in &outcomes.items {
        let line = if outcome.message.contains(&outcome.uuid) {
            outcome.message.clone()
        } else {
            format!("{}: {}", outcome.uuid, outcome.message)
        };
        match outcome.code {
            200 if !global.json => output.line(&line)?,
            200 => {}
            failed => {
                say(&format!("muster: {line}"));
                let this = if failed == 404 { exit::NOT_FOUND } else { exit::FAILED };
                code = code.max(this);
            }
        }
    }
    output.done()?;
    if outcomes.items.is_empty() {
        return Err(Failure::NotFound("nothing matches".to_owned()));
    }
    Ok(code)
}
