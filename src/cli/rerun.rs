//! `muster rerun`: the same again.

use super::Global;
use super::client::Client;
use super::exit::Failure;
use super::selection::{post, report};
use crate::management::records::Selection;

/// Submit the same containers again, as new ones
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  muster rerun UUID")]
pub(super) struct Options {
    #[arg(value_name = "UUID", required = true)]
    uuids: Vec<String>,
}

pub(super) fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let client = Client::new(global)?;
    let selection = Selection { uuids: options.uuids.clone(), ..Selection::default() };
    report(global, &post(&client, "containers/rerun", &selection)?)
}
