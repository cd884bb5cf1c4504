//! `muster status`: one screen.

use super::client::Client;
use super::exit::{self, Failure};
use super::output::Output;
use super::{Global, times};
use crate::management::records::{LimitRecord, Status};

/// Show the state of the daemon on one screen
///
/// Containers and instances by state, price per hour, limits in force, the oldest waiting container with why it waits, and
/// which machines cannot be used and why.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  muster status")]
pub(super) struct Options {}

pub(super) fn run(global: &Global, _options: &Options) -> Result<u8, Failure> {
    let status: Status = Client::new(global)?.get("status")?;
    let mut output = Output::new();
    if global.json {
        output.json(&status)?;
    } else {
        print(&mut output, &status)?;
    }
    output.done()?;
    Ok(exit::DONE)
}

fn counts<'a>(counts: impl Iterator<Item = (&'a String, &'a usize)>) -> String {
    let texts: Vec<String> = counts.map(|(state, count)| format!("{count} {state}")).collect();
    if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
}

pub(super) fn limit(limit: &LimitRecord) -> String {
    let until = limit.until.map(|until| format!(", until {}", times::moment(until))).unwrap_or_default();
    format!("{}: {}{until}", limit.what, limit.detail)
}

fn print(output: &mut Output, status: &Status) -> Result<(), Failure> {
    let up = times::span(status.now - status.started_at);
    output.line(&format!("muster {} of cluster {}, up {up}", status.version, status.cluster_id))?;
    output.line(&format!("containers  {}", counts(status.containers.iter())))?;
    output.line(&format!("instances   {}", counts(status.instances.iter())))?;
    output.line(&format!("price       {:.4} per hour", status.price_per_hour))?;
    for one in &status.limits {
        output.line(&format!("limit       {}", limit(one)))?;
    }
    if let Some(oldest) = &status.oldest_waiting {
        let age = times::span(status.now - oldest.created_at);
        let why = super::list::status_of(oldest);
        output.line(&format!("oldest      {} {} waits for {age}: {why}", oldest.uuid, oldest.name))?;
    }
    for one in &status.unusable {
        let detail = super::instance::one_line(&one.detail);
        output.line(&format!("unusable    {} is {}: {detail}", one.instance, one.worker_state))?;
    }
    if status.unusable_count > status.unusable.len() {
        let more = status.unusable_count - status.unusable.len();
        output.line(&format!("            and {more} more: `muster instance list` shows all"))?;
    }
    if let Some(first) = status.unusable.first() {
        let example = &first.instance;
        output
            .line(&format!("            when that is corrected, `muster instance run {example}` tries it at once"))?;
    }
    for trouble in &status.trouble {
        output.line(&format!("TROUBLE     {trouble}"))?;
    }
    Ok(())
}
